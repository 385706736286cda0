//! One module per family of commands.

mod create;
mod delete;
mod events;
mod exec;
mod features;
mod kill;
mod show;
mod start;
mod template;
mod update;

use std::path::{Path, PathBuf};

use crate::OciError;
use crate::args::Command;
use crate::store::Store;

/// Folder of the shim's program when [`SHIM_FOLDER_VARIABLE`] does not say: on a disk, since `/run` is often mounted noexec.
const SHIM_FOLDER: &str = "/var/lib/gantry/oci";
/// The variable that names another.
const SHIM_FOLDER_VARIABLE: &str = "GANTRY_OCI_SHIM_DIR";

/// Runs a command; its exit status.
pub(crate) fn run(root: &Path, command: Command) -> Result<u8, OciError> {
    if command.is_offline() {
        return offline(&command).map(|()| 0);
    }
    let store = Store::open(root)?;
    match command {
        Command::Create(args) => create::create(&store, &args).map(|_| 0),
        Command::Run(args) => create::run(&store, &args),
        Command::Exec(args) => exec::exec(&store, &args),
        Command::Start(args) => start::start(&store.load(&args.id)?).map(|()| 0),
        Command::State(args) => show::state(&store.load(&args.id)?).map(|()| 0),
        Command::Kill(args) => kill::kill(&store.load(&args.id)?, &args).map(|()| 0),
        Command::Delete(args) => delete::delete(&store, &args).map(|()| 0),
        Command::List(args) => show::list(&store, &args).map(|()| 0),
        Command::Ps(args) => show::ps(&store.load(&args.id)?, &args).map(|()| 0),
        Command::Pause(args) => kill::pause(&store.load(&args.id)?).map(|()| 0),
        Command::Resume(args) => kill::resume(&store.load(&args.id)?).map(|()| 0),
        Command::Update(args) => update::update(&store.load(&args.id)?, &args).map(|()| 0),
        Command::Events(args) => events::events(&store.load(&args.id)?, &args).map(|()| 0),
        Command::Spec(_) | Command::Features | Command::Checkpoint(_) | Command::Restore(_) => {
            offline(&command).map(|()| 0)
        }
    }
}

fn offline(command: &Command) -> Result<(), OciError> {
    match command {
        Command::Spec(args) => template::write(args),
        Command::Features => features::show(),
        _ => Err(OciError::Usage("checkpoint and restore are not supported".to_string())),
    }
}

/// The shim's program, installed when this is the first use of this version.
fn shim() -> Result<PathBuf, OciError> {
    let folder = std::env::var_os(SHIM_FOLDER_VARIABLE).map_or_else(|| PathBuf::from(SHIM_FOLDER), PathBuf::from);
    Ok(gantry_runtime::install_shim(&folder)?)
}

/// Whole or not at all: callers wait for the file to appear.
fn write_pid_file(path: &Path, pid: u32) -> Result<(), OciError> {
    let mut name = std::ffi::OsString::from(".");
    name.push(path.file_name().unwrap_or_default());
    let fresh = path.with_file_name(name);
    std::fs::write(&fresh, pid.to_string())
        .and_then(|()| std::fs::rename(&fresh, path))
        .map_err(|source| OciError::io("write", path, source))
}
