//! Names of the specification as the kernel's numbers.

use gantry_runtime::plan::SeccompPlan;
use serde_json::Value;

use crate::OciError;

/// The bit of a capability such as `CAP_CHOWN`.
pub use gantry_runtime::capability_bit as capability;
/// The number of a signal such as `SIGTERM`, `TERM` or `15`.
pub use gantry_runtime::signal_number as signal;

/// Name, number in `asm-generic/resource.h`.
const RLIMITS: [(&str, u32); 16] = [
    ("RLIMIT_CPU", 0),
    ("RLIMIT_FSIZE", 1),
    ("RLIMIT_DATA", 2),
    ("RLIMIT_STACK", 3),
    ("RLIMIT_CORE", 4),
    ("RLIMIT_RSS", 5),
    ("RLIMIT_NPROC", 6),
    ("RLIMIT_NOFILE", 7),
    ("RLIMIT_MEMLOCK", 8),
    ("RLIMIT_AS", 9),
    ("RLIMIT_LOCKS", 10),
    ("RLIMIT_SIGPENDING", 11),
    ("RLIMIT_MSGQUEUE", 12),
    ("RLIMIT_NICE", 13),
    ("RLIMIT_RTPRIO", 14),
    ("RLIMIT_RTTIME", 15),
];

/// The number of a resource limit.
#[must_use]
pub fn rlimit(name: &str) -> Option<u32> {
    RLIMITS
        .iter()
        .find(|(known, _)| *known == name)
        .map(|(_, number)| *number)
}

/// A filter of the specification, compiled.
///
/// # Errors
/// When it does not read, or asks for what cannot be done.
pub fn seccomp(profile: &Value) -> Result<SeccompPlan, OciError> {
    let mut profile = profile.clone();
    without_nulls(&mut profile);
    // Only Docker's own format has rules by capability.
    gantry_runtime::seccomp_plan(&profile.to_string(), 0)
        .map_err(|problem| OciError::invalid("linux.seccomp", problem.reason))
}

/// Go writes an empty list as `null`.
fn without_nulls(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            fields.retain(|_, field| !field.is_null());
            fields.values_mut().for_each(without_nulls);
        }
        Value::Array(entries) => entries.iter_mut().for_each(without_nulls),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}
