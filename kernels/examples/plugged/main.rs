//! Runs kernels that are plugged in from outside the crate through every check, and prints the report.
//!
//! ```text
//! cargo run -p shoestring-kernels --example plugged
//! ```

mod kernels;

use std::process::ExitCode;

fn main() -> ExitCode {
    match shoestring_kernels_conformance::check(&kernels::KERNELS) {
        Ok(report) => {
            println!("{report}");
            ExitCode::SUCCESS
        }
        Err(failure) => {
            eprintln!("{failure}");
            ExitCode::FAILURE
        }
    }
}
