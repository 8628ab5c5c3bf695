//! The program run as its users run it: in a folder of its own, on small texts and models.

#![allow(dead_code, reason = "each test program uses only some of it")]

use super::dialogue::dialogue;
use serde_json::Value;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// Sizes of a model that trains hundreds of steps a second.
pub const TINY: [&str; 16] = [
    "--embedding-dim",
    "16",
    "--gru-hidden-size",
    "16",
    "--num-experts",
    "2",
    "--gru-layers",
    "1",
    "--bpe-vocab-size",
    "300",
    "--batch-size",
    "4",
    "--seq-length",
    "16",
    "--threads",
    "1",
];

/// A folder in which the program is run.
pub struct Workspace {
    folder: TempDir,
}

/// What a finished program left.
#[derive(Debug)]
pub struct Finished {
    pub status: ExitStatus,
    pub stdout: String,
    pub stderr: String,
}

impl Workspace {
    /// A folder with a text to train on, `text.txt`.
    pub fn new() -> Self {
        let workspace = Workspace { folder: tempfile::tempdir().unwrap() };
        workspace.write("text.txt", dialogue(20_000));
        workspace
    }

    pub fn path(&self, name: impl AsRef<Path>) -> PathBuf {
        self.folder.path().join(name)
    }

    pub fn write(&self, name: &str, contents: impl AsRef<[u8]>) {
        let path = self.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, contents).unwrap();
    }

    pub fn read(&self, name: &str) -> Vec<u8> {
        fs::read(self.path(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
    }

    pub fn exists(&self, name: &str) -> bool {
        self.path(name).exists()
    }

    /// Names in the folder `name`, sorted.
    pub fn list(&self, name: &str) -> Vec<String> {
        let entries = fs::read_dir(self.path(name)).unwrap();
        let mut names: Vec<_> =
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    /// The program with these arguments, to be run here.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_shoestring"));
        command.args(arguments).current_dir(self.folder.path());
        command
    }

    /// Runs the program, its stdin empty.
    pub fn run(&self, arguments: &[&str]) -> Finished {
        self.run_with(arguments, b"")
    }

    /// Runs the program with `input` on its stdin.
    pub fn run_with(&self, arguments: &[&str], input: &[u8]) -> Finished {
        finish(self.start(arguments), input)
    }

    /// Starts the program, all its streams piped.
    pub fn start(&self, arguments: &[&str]) -> Child {
        let mut command = self.command(arguments);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    }

    /// Trains a tiny model on `text.txt` with these further arguments.
    pub fn train(&self, arguments: &[&str]) -> Finished {
        self.run(&tiny_training(arguments))
    }

    /// The newest numbered checkpoint in `folder`, if there is one.
    pub fn newest(&self, folder: &str) -> Option<String> {
        let names = if self.exists(folder) { self.list(folder) } else { Vec::new() };
        let newest = names.into_iter().rfind(|name| name.starts_with("step-"))?;
        Some(format!("{folder}/{newest}"))
    }

    /// The weights of a checkpoint as a safetensors file.
    pub fn weights(&self, checkpoint: &str) -> Vec<u8> {
        self.run(&["export", checkpoint, "exported"]).success();
        self.read("exported/model.safetensors")
    }

    /// What `inspect --json` says of a checkpoint.
    pub fn inspect(&self, checkpoint: &str) -> Value {
        serde_json::from_str(&self.run(&["inspect", checkpoint, "--json"]).success().stdout).unwrap()
    }

    /// The lines of a run's metrics.
    pub fn metrics(&self, name: &str) -> Vec<Value> {
        let text = String::from_utf8(self.read(name)).unwrap();
        text.lines()
            .map(|line| serde_json::from_str(line).unwrap_or_else(|e| panic!("{line}: {e}")))
            .collect()
    }
}

/// Waits until `condition`, for at most five minutes, which a slow machine, or an emulated one, may need.
pub fn wait_for(what: &str, mut condition: impl FnMut() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < Duration::from_secs(300), "{what} did not come");
        thread::sleep(Duration::from_millis(2));
    }
}

/// Sends a signal, such as `TERM`, to a started program.
#[cfg(unix)]
pub fn send(signal: &str, program: &Child) {
    let status =
        Command::new("kill").args([format!("-{signal}"), program.id().to_string()]).status().unwrap();
    assert!(status.success());
}

/// Arguments that train a tiny model on `text.txt`.
pub fn tiny_training<'a>(arguments: &[&'a str]) -> Vec<&'a str> {
    [&["train", "--model-data", "text.txt", "--no-chat"], &TINY[..], arguments].concat()
}

/// Gives `input` to a started program and waits for it.
pub fn finish(mut child: Child, input: &[u8]) -> Finished {
    let mut stdin = child.stdin.take().unwrap();
    let input = input.to_vec();
    let writer = thread::spawn(move || {
        // A program that ends without reading its input is none the worse for it.
        let _ = stdin.write_all(&input);
    });
    let finished = Finished::from(child.wait_with_output().unwrap());
    writer.join().unwrap();
    finished
}

impl From<Output> for Finished {
    fn from(output: Output) -> Self {
        let text = |bytes| String::from_utf8(bytes).expect("the program writes UTF-8");
        Finished { status: output.status, stdout: text(output.stdout), stderr: text(output.stderr) }
    }
}

impl Finished {
    /// Holds it to have succeeded.
    pub fn success(self) -> Self {
        self.code(0)
    }

    /// Holds it to have ended with this exit code, and without a panic.
    pub fn code(self, code: i32) -> Self {
        assert_eq!(self.status.code(), Some(code), "{self:#?}");
        assert!(!self.stderr.contains("panicked"), "{self:#?}");
        self
    }

    /// Holds it to have failed with this exit code and one line on stderr, in which all of `parts` stand.
    pub fn failure(self, code: i32, parts: &[&str]) -> Self {
        let finished = self.code(code);
        let lines: Vec<&str> = finished.stderr.lines().filter(|line| !line.is_empty()).collect();
        // clap adds a line of advice.
        let count = lines.iter().filter(|line| !line.starts_with("For more information")).count();
        assert_eq!(count, 1, "{finished:#?}");
        assert!(finished.stderr.matches("(os error").count() < 2, "it says twice why: {finished:#?}");
        for part in parts {
            assert!(finished.stderr.contains(part), "{part:?} is not in {finished:#?}");
        }
        finished
    }

    /// The object on stdout.
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|error| panic!("{error}: {self:#?}"))
    }
}
