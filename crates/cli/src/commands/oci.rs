//! `gantry oci`: hands everything behind it to the OCI front, which has a command line of its own.

use std::ffi::OsString;
use std::path::Path;

use clap::Args;

use crate::failure::{Failure, Outcome};

/// The program's name under which it is the OCI front at once: engines name a runtime by one path, without arguments.
const NAME: &str = "gantry-oci";

#[derive(Debug, Args)]
#[command(disable_help_flag = true, disable_version_flag = true)]
pub struct OciArgs {
    /// See `gantry oci --help`
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "ARGUMENTS")]
    arguments: Vec<OsString>,
}

impl OciArgs {
    /// Runs the command, for a call with options in front of `oci`.
    pub fn run(self) -> Outcome {
        match gantry_oci::main(self.arguments) {
            0 => Ok(()),
            code => Err(Failure::Exit(code)),
        }
    }
}

/// Runs the OCI front when this program was called for it: before anything else, since its options are not ours.
pub fn called_for(mut args: impl Iterator<Item = OsString>) -> Option<u8> {
    let program = args.next()?;
    let is_named_so = Path::new(&program).file_name().is_some_and(|name| name == NAME);
    let is_called_for = is_named_so || args.next().is_some_and(|command| command == "oci");
    is_called_for.then(|| gantry_oci::main(args))
}
