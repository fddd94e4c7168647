//! `psync-generator` by itself, for tests; the package links it to `psync`.

use std::process::ExitCode;

fn main() -> ExitCode {
    psync::cli::programs::psync_generator()
}
