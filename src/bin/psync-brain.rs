use std::process::ExitCode;

fn main() -> ExitCode {
    psync::cli::main(psync::brain::run, psync::cli::agent::serve)
}
