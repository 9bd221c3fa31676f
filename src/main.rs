//! The `ebb` binary.

use std::process::ExitCode;

fn main() -> ExitCode {
    ebb::cli::run()
}
