//! The shim: one small process beside every container. All of it is in the library, where it can be tested.

fn main() -> std::process::ExitCode {
    gantry_shim::run()
}
