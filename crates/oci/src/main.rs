//! The OCI front as a program of its own, for engines that name their runtime by a path: what `gantry oci` does, without the
//! rest of Gantry around it.

fn main() -> std::process::ExitCode {
    std::process::ExitCode::from(gantry_oci::main(std::env::args_os().skip(1)))
}
