//! Training on a text too large to hold in memory, and what happens when its files change.

#[path = "common/dialogue.rs"]
mod dialogue;
#[path = "common/program.rs"]
mod program;

use dialogue::dialogue;
use program::{Workspace, tiny_training};
use std::fs;

/// A workspace whose text is large enough to have its tokens in a file, and is validated on little.
fn large() -> Workspace {
    let workspace = Workspace::new();
    workspace.write("text.txt", dialogue(5 << 20));
    workspace.write("held-out.txt", dialogue(2_000));
    workspace.write("bpe.txt", dialogue(20_000));
    workspace
}

const TEXTS: [&str; 4] = ["--validation-data", "held-out.txt", "--bpe-data", "bpe.txt"];

#[test]
fn a_resumed_run_ends_as_an_undisturbed_one_whatever_became_of_its_tokens() {
    let workspace = large();
    workspace.train(&[&TEXTS[..], &["--steps", "8", "--checkpoint-dir", "whole"]].concat()).success();
    let whole = workspace.weights("whole/step-00000008.shoe");
    let tokens = workspace.read("whole/text.tokens");
    let damages: [&dyn Fn() -> Option<Vec<u8>>; 4] = [
        &|| Some(tokens.clone()),
        &|| Some(tokens[..tokens.len() / 2].to_vec()),
        &|| Some(tokens.iter().enumerate().map(|(at, byte)| byte ^ u8::from(at == 100_000)).collect()),
        &|| None,
    ];
    // The rate depends on the length, so the run is stopped, not shortened.
    for (number, damage) in damages.iter().enumerate() {
        let folder = format!("stopped-{number}");
        fs::create_dir(workspace.path(&folder)).unwrap();
        let flags = ["--steps", "8", "--save-every", "0s", "--keep", "9", "--checkpoint-dir", &folder];
        workspace.train(&[&TEXTS[..], &flags].concat()).success();
        let file = format!("{folder}/text.tokens");
        match damage() {
            Some(bytes) => workspace.write(&file, bytes),
            None => fs::remove_file(workspace.path(&file)).unwrap(),
        }
        let middle = format!("{folder}/step-00000004.shoe");
        workspace.run(&["train", "--no-chat", "--checkpoint", &middle]).success();
        assert!(workspace.weights(&format!("{folder}/step-00000008.shoe")) == whole, "{folder}");
        assert!(workspace.read(&file) == tokens, "{folder}");
    }
}

#[test]
fn a_text_that_changes_or_goes_does_not_disturb_a_run_and_is_refused_when_it_is_resumed() {
    let workspace = large();
    workspace.train(&[&TEXTS[..], &["--steps", "2"]].concat()).success();
    let resume = ["train", "--no-chat", "--quiet", "--checkpoint", "checkpoints/step-00000002.shoe"];
    let resume = [&resume[..], &["--steps", "3"]].concat();
    let text = workspace.read("text.txt");
    workspace.write("text.txt", &text[..text.len() - 1]);
    workspace.run(&resume).failure(1, &["text.txt", "is not the one this run was started on", "restore"]);
    fs::remove_file(workspace.path("text.txt")).unwrap();
    workspace.run(&resume).failure(1, &["text.txt", "cannot read"]);
    workspace.write("text.txt", &text);
    workspace.run(&resume).success();
}

#[cfg(unix)]
#[test]
fn no_room_for_the_tokens_is_an_error_that_leaves_nothing() {
    let workspace = large();
    // No file may grow beyond 64 KiB; the signal that says so is ignored, so that writing fails.
    let mut command = std::process::Command::new("bash");
    command.args(["-c", "trap '' XFSZ; ulimit -f 64; exec \"$0\" \"$@\"", env!("CARGO_BIN_EXE_shoestring")]);
    command.args(tiny_training(&[&TEXTS[..], &["--steps", "2", "--quiet"]].concat()));
    let run = program::Finished::from(command.current_dir(workspace.path("")).output().unwrap());
    run.failure(1, &["cannot write checkpoints/text.tokens", "--checkpoint-dir"]);
    assert!(!workspace.exists("checkpoints"));
}

#[cfg(unix)]
#[test]
fn a_pipe_is_a_text_too() {
    let workspace = Workspace::new();
    let training = dialogue(12_000);
    workspace.write("same.txt", &training);
    let flags = |text: &'static str, folder: &'static str| {
        let mut flags = tiny_training(&["--steps", "3", "--checkpoint-dir", folder]);
        flags[2] = text;
        flags
    };
    workspace.run(&flags("same.txt", "file")).success();
    let piped = workspace.start(&flags("/dev/stdin", "pipe"));
    program::finish(piped, training.as_bytes()).success();
    assert!(workspace.weights("pipe/best.shoe") == workspace.weights("file/best.shoe"));
}
