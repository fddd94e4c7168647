use std::process::ExitCode;

fn main() -> ExitCode {
    psync::cli::link::main()
}
