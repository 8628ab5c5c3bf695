//! Every command in the README and in `docs/` is run, page by page, by the program that was built.
//!
//! A block of shell is one fenced as `sh`, or an indented one that begins a line with a command. Long work is made
//! short by [`shortened`], which says what it changed; a block that can't be run here has a comment
//! `<!-- not run by tests: why -->` above it, which is printed.

#![cfg(target_os = "linux")]

#[path = "common/dialogue.rs"]
mod dialogue;
#[path = "common/program.rs"]
mod program;

use dialogue::dialogue;
use program::Workspace;
use rayon::prelude::*;
use regex::{Captures, Regex};
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// What a line of shell begins with in an indented block.
const COMMANDS: [&str; 13] = [
    "SHOESTRING_",
    "RUSTFLAGS=",
    "shoestring ",
    "cargo ",
    "rustup ",
    "sudo ",
    "bash ",
    "python3 ",
    "echo ",
    "printf ",
    "perf ",
    ".ci/",
    "source ",
];
const MARKER: &str = "<!-- not run by tests:";
/// Seconds that a block may take, on an emulated machine too.
const LIMIT: &str = "900";

struct Block {
    line: usize,
    script: String,
    not_run: Option<String>,
}

/// What came of the blocks of a page, or of all pages.
#[derive(Default)]
struct Outcome {
    run: usize,
    not_run: usize,
    failures: Vec<String>,
}

#[test]
fn every_command_in_the_documentation_works() {
    let template = prepared();
    let outcomes = pages().into_par_iter().map(|page| run_page(&page, &template));
    let Outcome { run, not_run, failures } = outcomes.reduce(Outcome::default, |mut all, page| {
        all.run += page.run;
        all.not_run += page.not_run;
        all.failures.extend(page.failures);
        all
    });
    say(&format!("{run} blocks run, {not_run} not"));
    assert!(run >= 25 && not_run >= 15, "only {run} and {not_run} blocks were found");
    assert!(failures.is_empty(), "{}", failures.join("\n---\n"));
}

/// Runs the blocks of a page, one after the other in one folder, in which each finds the files of `template`.
fn run_page(page: &Path, template: &Workspace) -> Outcome {
    let text = fs::read_to_string(page).unwrap();
    let name = page.strip_prefix(env!("CARGO_MANIFEST_DIR")).unwrap().display().to_string();
    let workspace = Workspace::new();
    let mut outcome = Outcome::default();
    for block in blocks(&text) {
        let place = format!("{name}:{}", block.line);
        if let Some(reason) = block.not_run {
            outcome.not_run += 1;
            say(&format!("{place} NOT RUN: {reason}"));
            continue;
        }
        outcome.run += 1;
        copy_folder(&template.path(""), &workspace.path(""));
        let script = shortened(&block.script, &mut |line| say(&format!("{place} as: {line}")));
        let output = bash(&workspace, &script);
        if !output.status.success() {
            let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
            let (out, err) = (text(&output.stdout), text(&output.stderr));
            outcome.failures.push(format!("{place}: {}\n{script}\n{out}{err}", output.status));
        }
    }
    outcome
}

/// A line that is seen even if the test passes.
fn say(line: &str) {
    let _ = writeln!(std::io::stderr(), "{line}");
}

fn pages() -> Vec<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let files = fs::read_dir(root.join("docs")).unwrap().map(|entry| entry.unwrap().path());
    let mut pages: Vec<PathBuf> =
        files.filter(|path| path.extension().is_some_and(|it| it == "md")).collect();
    pages.sort();
    pages.insert(0, root.join("README.md"));
    pages
}

/// The files that the pages speak of: small texts, and a model of a short training.
fn prepared() -> Workspace {
    let workspace = Workspace::new();
    for name in ["my-text.txt", "book.txt", "dialogues.txt", "texts/one.txt", "texts/two.txt"] {
        workspace.write(name, dialogue(60_000));
    }
    for name in ["held-out.txt", "other.txt"] {
        workspace.write(name, dialogue(5_000));
    }
    let train = ["train", "--model-data", "my-text.txt", "--steps", "20", "--no-chat", "--quiet"];
    workspace.run(&train).success();
    let copy = |from: &str, to: &str| fs::copy(workspace.path(from), workspace.path(to)).unwrap();
    copy("checkpoints/step-00000020.shoe", "checkpoints/step-00012000.shoe");
    copy("checkpoints/best.shoe", "model.shoe");
    for run in ["dense", "sparse"] {
        copy_folder(&workspace.path("checkpoints"), &workspace.path(run));
    }
    workspace.run(&["tokenizer", "export", "model.shoe"]).success();
    workspace
}

fn copy_folder(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap().map(Result::unwrap) {
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy_folder(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}

fn bash(workspace: &Workspace, script: &str) -> std::process::Output {
    let (programs, home) = (workspace.path("programs"), workspace.path("home"));
    fs::create_dir_all(&programs).unwrap();
    fs::create_dir_all(&home).unwrap();
    let _ = std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_shoestring"), programs.join("shoestring"));
    let path = format!("{}:{}", programs.display(), std::env::var("PATH").unwrap());
    let mut command = Command::new("timeout");
    command.args([LIMIT, "bash", "-euo", "pipefail", "-c", script]).current_dir(workspace.path(""));
    command.env("PATH", path).env("HOME", home).stdin(Stdio::null()).output().unwrap()
}

fn blocks(text: &str) -> Vec<Block> {
    let lines: Vec<&str> = text.lines().collect();
    let mut blocks = Vec::new();
    let mut at = 0;
    while at < lines.len() {
        let start = at;
        let (body, is_shell) = if let Some(info) = lines[at].trim_start().strip_prefix("```") {
            let indent = lines[at].len() - lines[at].trim_start().len();
            let length = lines[at + 1..].iter().take_while(|line| line.trim() != "```").count();
            let body: Vec<&str> =
                lines[at + 1..at + 1 + length].iter().map(|line| line.get(indent..).unwrap_or("")).collect();
            at += length + 2;
            (body, info == "sh")
        } else if lines[at].starts_with("    ") && (at == 0 || lines[at - 1].is_empty()) {
            let is_part = |line: &&&str| line.starts_with("    ") || line.is_empty();
            let length = lines[at..].iter().take_while(is_part).count();
            let body: Vec<&str> =
                lines[at..at + length].iter().map(|line| line.get(4..).unwrap_or("")).collect();
            at += length;
            let is_shell = body.iter().any(|line| COMMANDS.iter().any(|command| line.starts_with(command)));
            (body, is_shell)
        } else {
            at += 1;
            continue;
        };
        if is_shell {
            let above = lines[..start].iter().rev().find(|line| !line.is_empty());
            let not_run = above
                .and_then(|line| line.strip_prefix(MARKER))
                .map(|reason| reason.trim_end_matches("-->").trim().to_owned());
            blocks.push(Block { line: start + 1, script: body.join("\n"), not_run });
        }
    }
    blocks
}

/// The script, to be run in seconds and by the program under test; each line that is changed goes to `tell`.
fn shortened(script: &str, tell: &mut dyn FnMut(&str)) -> String {
    let whole = script.replace("\\\n", " ");
    let change = |line: &str| -> String {
        let install = Regex::new(r"^cargo (install --path|build --release).*$").unwrap();
        let line = install.replace(line, ": $0");
        let line =
            Regex::new(r"cargo run --release --").unwrap().replace_all(&line, "shoestring").into_owned();
        let line = Regex::new(r"shoestring bench\b").unwrap().replace_all(&line, "shoestring bench --quick");
        let line = line.replace("--quick --quick", "--quick");
        if !Regex::new(r"shoestring train\b").unwrap().is_match(&line) {
            return line;
        }
        let length = Regex::new(r"--(minutes|epochs|steps) [0-9.]+").unwrap();
        let resumes = line.contains("--checkpoint ");
        if length.is_match(&line) {
            let short = |found: &Captures<'_>| match &found[1] {
                "minutes" => "--minutes 0.02".to_owned(),
                _ => "--steps 20".to_owned(),
            };
            length.replace(&line, short).into_owned()
        } else if resumes {
            line
        } else {
            line.replace("shoestring train", "shoestring train --minutes 0.02")
        }
    };
    let changed = whole.lines().map(|line| {
        let changed = change(line);
        if changed != line {
            tell(&changed);
        }
        changed
    });
    changed.collect::<Vec<_>>().join("\n")
}

#[test]
fn blocks_are_found_and_shortened() {
    let text = "# A\n\n```sh\nshoestring train \\\n    --minutes 9\n```\n\n    no command\n\n<!-- not run by tests: too \
        long -->\n\n    cargo bench\n\n1. x\n   ```sh\n   echo a\n   ```\n\n```text\nshoestring x\n```\n";
    let found = blocks(text);
    let scripts: Vec<&str> = found.iter().map(|block| block.script.as_str()).collect();
    assert_eq!(scripts, ["shoestring train \\\n    --minutes 9", "cargo bench\n", "echo a"]);
    assert_eq!(found.iter().map(|block| block.line).collect::<Vec<_>>(), [3, 12, 15]);
    assert_eq!(found[1].not_run.as_deref(), Some("too long"));
    let short = |script: &str| shortened(script, &mut |_| ());
    assert_eq!(short(scripts[0]), "shoestring train      --minutes 0.02");
    assert_eq!(short("cargo run --release -- train # x"), "shoestring train --minutes 0.02 # x");
    assert_eq!(short("shoestring bench --quick --json > x"), "shoestring bench --quick --json > x");
    assert_eq!(
        short("cargo install --path . --locked\nshoestring chat"),
        ": cargo install --path . --locked\nshoestring chat"
    );
}
