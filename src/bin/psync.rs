//! `psync`, and whatever program it is called as: what the package installs.

use std::process::ExitCode;

fn main() -> ExitCode {
    psync::cli::programs::main()
}
