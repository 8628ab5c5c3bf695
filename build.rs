//! Facts of the build that `shoestring --version` shows.

use std::env;
use std::process::Command;

fn main() {
    let commit = output("git", &["rev-parse", "--short=12", "HEAD"]).unwrap_or_else(|| "unknown".to_owned());
    let rustc = env::var("RUSTC").unwrap_or_else(|_| "rustc".to_owned());
    let rustc = output(&rustc, &["--version"]).unwrap_or_else(|| "rustc unknown".to_owned());
    let target = env::var("TARGET").unwrap_or_default();
    println!("cargo::rustc-env=SHOESTRING_BUILD={commit}, {target}, {rustc}");
    println!("cargo::rerun-if-changed=build.rs");
    // The commit changes when HEAD moves or the branch it names does.
    for path in ["HEAD", "logs/HEAD"] {
        if let Some(path) = output("git", &["rev-parse", "--git-path", path]) {
            println!("cargo::rerun-if-changed={path}");
        }
    }
}

fn output(program: &str, arguments: &[&str]) -> Option<String> {
    let output = Command::new(program).args(arguments).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    output.status.success().then(|| text.trim().to_owned())
}
