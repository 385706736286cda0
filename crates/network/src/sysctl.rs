//! Kernel settings of the network namespace of the calling thread.
//!
//! **Invariant:** a setting is written only when it differs, so that a read-only `/proc/sys` with the right values is enough.

use std::fs;
use std::path::Path;

use crate::NetworkError;

/// Sets one below `/proc/sys/net`; true when it was another before.
pub(crate) fn set(name: &str, value: &str) -> Result<bool, NetworkError> {
    let path = Path::new("/proc/sys/net").join(name);
    let file_error = |act| {
        let path = path.clone();
        move |source| NetworkError::File { act, path, source }
    };
    let current = fs::read_to_string(&path).map_err(file_error("reading"))?;
    if current.trim() == value {
        return Ok(false);
    }
    fs::write(&path, value).map_err(file_error("writing"))?;
    Ok(true)
}

/// Sets one that a kernel may lack, such as those of IPv6.
pub(crate) fn set_if_present(name: &str, value: &str) -> Result<(), NetworkError> {
    if Path::new("/proc/sys/net").join(name).exists() {
        set(name, value)?;
    }
    Ok(())
}
