//! The `shoestring` program: parses the command line and calls.

use std::process::ExitCode;

fn main() -> ExitCode {
    shoestring::cli::main()
}
