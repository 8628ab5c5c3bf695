//! Every file that the program is given, as something else than it expects: one line that names it, and nothing made.
#![cfg(unix)]

#[path = "common/dialogue.rs"]
mod dialogue;
#[path = "common/program.rs"]
mod program;

use program::{Finished, TINY, Workspace};
use std::ffi::{OsStr, OsString};
use std::fs;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::symlink;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// What there is in the folder `odd`, and what is not.
const ODD: [&str; 13] = [
    "empty",
    "blank",
    "folder",
    "binary",
    "nul",
    "text",
    "json",
    "pipe",
    "dangling",
    "loop",
    "missing",
    "text/below",
    LONG,
];

/// Longer than a file system lets a name be.
const LONG: &str = "0123456789012345678901234567890123456789012345678901234567890123456789012345678901234567890123456789\
    0123456789012345678901234567890123456789012345678901234567890123456789012345678901234567890123456789\
    0123456789012345678901234567890123456789012345678901234567890123456789012345678901234567890123456789";

fn workspace() -> Workspace {
    let workspace = Workspace::new();
    workspace.train(&["--steps", "2", "--quiet"]).success();
    workspace.run(&["export", "checkpoints/best.shoe", "exported"]).success();
    fs::create_dir_all(workspace.path("odd/folder")).unwrap();
    let noise: Vec<u8> = (0..4000_u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    let files: [(&str, &[u8]); 6] = [
        ("empty", b""),
        ("blank", b"\r\n \t\n"),
        ("binary", &noise),
        ("nul", b"a line\0and\0another\n"),
        ("text", b"Once upon a time there was a file.\r\n"),
        ("json", b"{\"model\": null}"),
    ];
    for (name, contents) in files {
        workspace.write(&format!("odd/{name}"), contents);
    }
    assert!(Command::new("mkfifo").arg(workspace.path("odd/pipe")).status().unwrap().success());
    symlink("nowhere", workspace.path("odd/dangling")).unwrap();
    symlink("loop", workspace.path("odd/loop")).unwrap();
    workspace
}

/// Runs the program, its stdin empty; that it ends by itself is part of what is tested.
fn run(workspace: &Workspace, arguments: &[&OsStr]) -> Finished {
    let mut command = workspace.command(&[]);
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let start = Instant::now();
    while child.try_wait().unwrap().is_none() {
        if start.elapsed() > Duration::from_secs(30) {
            child.kill().unwrap();
            panic!("{arguments:?} does not end: {:#?}", Finished::from(child.wait_with_output().unwrap()));
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    Finished::from(child.wait_with_output().unwrap())
}

/// Runs `arguments` with `odd` in the place of `?`.
fn run_with(workspace: &Workspace, arguments: &[&str], odd: &OsStr) -> Finished {
    let arguments: Vec<_> =
        arguments.iter().map(|&it| if it == "?" { odd } else { OsStr::new(it) }).collect();
    run(workspace, &arguments)
}

/// Holds `arguments` to be refused, `?` being each of `odd`, by one line that names it; and to make nothing.
fn all_are_refused(workspace: &Workspace, arguments: &[&str], odd: &[&str]) {
    for odd in odd {
        let path = format!("odd/{odd}");
        println!("{arguments:?} {path}");
        run_with(workspace, arguments, path.as_ref()).failure(1, &[&path]);
        assert!(!workspace.exists("made"), "{arguments:?} {path}");
        let left = [".", "odd", "checkpoints"].map(|folder| workspace.list(folder)).concat();
        assert!(!left.iter().any(|name| name.ends_with(".tmp")), "{arguments:?} {path}: {left:?}");
    }
    let name = OsString::from_vec(b"odd/\xff\xfe.shoe".to_vec());
    run_with(workspace, arguments, &name).failure(1, &["odd/\u{fffd}\u{fffd}.shoe"]);
}

#[test]
fn where_a_checkpoint_is_expected() {
    let workspace = workspace();
    let commands: [&[&str]; 9] = [
        &["inspect", "?"],
        &["chat", "--checkpoint", "?"],
        &["generate", "--checkpoint", "?"],
        &["eval", "--checkpoint", "?", "--data", "text.txt"],
        &["quantize", "?", "made", "--to", "q8"],
        &["export", "?", "made"],
        &["train", "--no-chat", "--checkpoint", "?"],
        &["tokenizer", "encode", "--tokenizer", "?"],
        &["tokenizer", "export", "?", "--out", "made"],
    ];
    for command in commands {
        // A pipe may be a tokenizer.json that another program writes.
        let waits = command[0] == "tokenizer";
        let odd: Vec<_> = ODD.into_iter().filter(|&odd| !(waits && odd == "pipe")).collect();
        all_are_refused(&workspace, command, &odd);
    }
}

#[test]
fn where_a_text_is_expected() {
    let workspace = workspace();
    let train =
        [&["train", "--no-chat", "--quiet", "--checkpoint-dir", "made", "--steps", "2"], &TINY[..]].concat();
    let commands = [
        [&train[..], &["--model-data", "?"]].concat(),
        [&train[..], &["--model-data", "text.txt", "?"]].concat(),
        [&train[..], &["--model-data", "text.txt", "--validation-data", "?"]].concat(),
        [&train[..], &["--model-data", "text.txt", "--bpe-data", "?"]].concat(),
        vec!["tokenizer", "train", "--out", "made", "--data", "?"],
        vec!["tokenizer", "train", "--out", "made", "--data", "text.txt", "?"],
        vec!["eval", "--checkpoint", "checkpoints/best.shoe", "--data", "?"],
        vec!["quantize", "checkpoints/best.shoe", "made", "--to", "q8", "--eval-data", "?"],
    ];
    // A pipe is read to its end; JSON and line ends of another system are text.
    let odd: Vec<_> = ODD.into_iter().filter(|odd| !["pipe", "text", "json"].contains(odd)).collect();
    for command in commands {
        all_are_refused(&workspace, &command, &odd);
    }
    // A text, but too little of one; whose last tenth is what makes it too little is told.
    workspace.write("letter.txt", "a\n");
    let short = workspace.run(&[&train[..], &["--model-data", "letter.txt"]].concat());
    short.failure(1, &["tokens to train on", "to validate on", "name more text"]);
    assert!(!workspace.exists("made/metrics.jsonl"));
}

#[test]
fn where_a_folder_of_a_model_is_expected() {
    let workspace = workspace();
    let odd: Vec<_> = ODD.into_iter().filter(|&odd| odd != "pipe").collect();
    all_are_refused(&workspace, &["import", "?", "-o", "made"], &odd);
    for file in ["model.safetensors", "tokenizer.json"] {
        for odd in ["empty", "blank", "binary", "nul", "text", "json"] {
            println!("{odd} as {file}");
            for other in ["model.safetensors", "tokenizer.json"] {
                workspace.write(&format!("wrong/{other}"), workspace.read(&format!("exported/{other}")));
            }
            workspace.write(&format!("wrong/{file}"), workspace.read(&format!("odd/{odd}")));
            let run = workspace.run(&["import", "wrong", "-o", "made"]);
            run.failure(1, &[&format!("wrong/{file}")]);
            assert!(!workspace.exists("made"));
        }
    }
}

#[test]
fn where_something_is_to_be_written() {
    let workspace = workspace();
    let model = "checkpoints/best.shoe";
    let quantize = ["quantize", model, "?", "--to", "f32", "--eval-data", "text.txt", "--quiet"];
    let unwritable = ["folder", "text/below", "missing/below", LONG];
    all_are_refused_but_last(&workspace, &quantize, &[&unwritable[..], &["pipe"]].concat());
    all_are_refused_but_last(
        &workspace,
        &["import", "exported", "-o", "?"],
        &[&unwritable[..], &["pipe"]].concat(),
    );
    all_are_refused_but_last(&workspace, &["tokenizer", "export", model, "-o", "?"], &unwritable);
    let train = ["tokenizer", "train", "--data", "text.txt", "--vocab-size", "300", "--out", "?"];
    all_are_refused_but_last(&workspace, &train, &unwritable);
    let files = ["text", "loop", "text/below", "pipe", LONG];
    all_are_refused_but_last(&workspace, &["export", model, "?"], &files);
    let train =
        [&["train", "--no-chat", "--quiet", "--model-data", "text.txt", "--checkpoint-dir", "?"], &TINY[..]];
    all_are_refused_but_last(&workspace, &train.concat(), &files);
}

/// As [`all_are_refused`], but for a name that is no UTF-8, under which files can be made.
fn all_are_refused_but_last(workspace: &Workspace, arguments: &[&str], odd: &[&str]) {
    for odd in odd {
        let path = format!("odd/{odd}");
        println!("{arguments:?} {path}");
        run_with(workspace, arguments, path.as_ref()).failure(1, &[&path]);
        assert!(!workspace.list("odd").iter().any(|name| name.ends_with(".tmp")), "{arguments:?} {path}");
    }
}
