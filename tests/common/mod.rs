//! What the test programs share.

use std::io::Write;
use std::path::{Path, PathBuf};

/// The path of a large file that is kept beside the repository, in `../shared`.
///
/// Where it is missing, says on stderr that the check was not run; with `CI` set in the environment that is a
/// failure.
pub fn shared(path: &str) -> Option<PathBuf> {
    let full = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared").join(path);
    if full.exists() {
        return Some(full);
    }
    assert!(std::env::var_os("CI").is_none_or(|it| it.is_empty()), "../shared/{path} is missing");
    // Not eprintln!, which the test harness hides when the test passes.
    let _ = writeln!(std::io::stderr(), "NOT RUN: a check that needs ../shared/{path}, which is missing");
    None
}
