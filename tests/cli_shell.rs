//! The program among other programs: completions, manual pages, and streams that end early or are not there.

#![cfg(target_os = "linux")]

#[path = "common/dialogue.rs"]
mod dialogue;
#[path = "common/program.rs"]
mod program;

use program::{Finished, Workspace, tiny_training};
use std::io::Write;
use std::process::{Command, Stdio};

/// Whether a program is installed. Where everything must be tested it has to be.
fn has(program: &str) -> bool {
    let found =
        Command::new("sh").args(["-c", &format!("command -v {program}")]).output().unwrap().status.success();
    assert!(found || std::env::var_os("CI").is_none(), "{program} is not installed");
    if !found {
        let _ = writeln!(std::io::stderr(), "NOT RUN for want of {program}");
    }
    found
}

/// Runs `script` in bash, with the program as `shoestring`.
fn bash(workspace: &Workspace, script: &str) -> Finished {
    let define = format!("shoestring() {{ '{}' \"$@\"; }}\n", env!("CARGO_BIN_EXE_shoestring"));
    let mut command = Command::new("bash");
    command.args(["-c", &(define + script)]).current_dir(workspace.path("")).stdin(Stdio::null());
    command.output().unwrap().into()
}

#[test]
fn completions_are_scripts_their_shells_accept() {
    let workspace = Workspace::new();
    for shell in ["bash", "zsh", "fish", "powershell"] {
        let script = workspace.run(&["completions", shell]).success().stdout;
        for word in ["gru-hidden-size", "tokenizer", "no-chat", "classic"] {
            assert!(script.contains(word), "{word} is not in that of {shell}");
        }
        workspace.write(shell, script);
    }
    bash(&workspace, "bash -n bash").success();
    let complete = "source <(shoestring completions bash); COMP_WORDS=(shoestring tr); COMP_CWORD=1; \
        _shoestring shoestring tr shoestring; echo \"${COMPREPLY[@]}\"";
    assert_eq!(bash(&workspace, complete).success().stdout, "train\n");
    for (shell, check) in [("zsh", "zsh -n zsh"), ("fish", "fish --no-execute fish")] {
        if has(shell) {
            bash(&workspace, check).success();
        }
    }
    workspace.run(&["completions", "csh"]).code(2);
}

#[test]
fn manual_pages_are_there_for_every_subcommand_and_format_without_a_warning() {
    let workspace = Workspace::new();
    assert!(workspace.run(&["man", "pages/man1"]).success().stderr.contains("pages/man1"));
    let names = workspace.list("pages/man1");
    for name in ["shoestring.1", "shoestring-train.1", "shoestring-tokenizer-encode.1", "shoestring-man.1"] {
        assert!(names.iter().any(|it| it == name), "{name} is not among {names:?}");
    }
    assert_eq!(
        workspace.run(&["man"]).success().stdout.as_bytes(),
        workspace.read("pages/man1/shoestring.1")
    );
    let train = String::from_utf8(workspace.read("pages/man1/shoestring-train.1")).unwrap();
    for part in ["\\-\\-gru\\-hidden\\-size", "SYNOPSIS", "EXAMPLES", "book.txt"] {
        assert!(train.contains(part), "{part} is not in {train}");
    }
    if has("groff") {
        for name in &names {
            let page = bash(&workspace, &format!("groff -man -ww -Tutf8 pages/man1/{name}")).success();
            assert!(page.stderr.is_empty() && page.stdout.lines().count() > 20, "{name}: {page:#?}");
        }
    }
    workspace.write("file", "");
    workspace.run(&["man", "file/x"]).failure(1, &["file/x"]);
}

#[test]
fn a_mistyped_word_gets_a_suggestion() {
    let workspace = Workspace::new();
    let cases = [
        (&["trian"][..], "'train'"),
        (&["train", "--epoch", "1"], "'--epochs'"),
        (&["generate", "--promt", "x"], "'--prompt'"),
        (&["tokenizer", "enocde"], "'encode'"),
        (&["quantize", "a", "b", "--to", "q9"], "q8"),
        (&["train", "--quiet", "book.txt"], "'--model-data book.txt'"),
        (&["chat", "my.shoe"], "'--checkpoint my.shoe'"),
        (&["generate", "Once upon"], "'--prompt TEXT'"),
        (&["eval", "my.shoe", "book.txt"], "'--data FILE'"),
    ];
    for (arguments, suggestion) in cases {
        let run = workspace.run(arguments).code(2);
        assert!(run.stderr.contains(suggestion), "{arguments:?}: {}", run.stderr);
    }
    for arguments in [&["tokenizer", "train", "book.txt"][..], &["inspect", "a.shoe", "chat"]] {
        let run = workspace.run(arguments).code(2);
        assert!(!run.stderr.contains("goes with a flag"), "{arguments:?}: {}", run.stderr);
    }
    let missing = workspace.run(&["train", "--data", "book.txt"]).code(1);
    assert!(missing.stderr.contains("cannot read book.txt"), "{}", missing.stderr);
}

/// What writes much, little, and through every kind of output.
const WRITERS: [&str; 9] = [
    "generate --prompt x --max-tokens 3000 --ignore-eos --seed 1",
    "generate --prompt x --max-tokens 300 --ignore-eos --seed 1 --json",
    "tokenizer encode --tokenizer best.shoe < text.txt",
    "inspect best.shoe",
    "inspect best.shoe --json",
    "inspect best.shoe --config",
    "eval --checkpoint best.shoe --data text.txt",
    "completions bash",
    "man",
];

fn trained() -> Workspace {
    let workspace = Workspace::new();
    workspace.train(&["--steps", "3", "--quiet"]).success();
    std::fs::copy(workspace.path("checkpoints/best.shoe"), workspace.path("best.shoe")).unwrap();
    workspace
}

#[test]
fn a_reader_that_has_read_enough_is_no_failure() {
    let workspace = trained();
    for writer in WRITERS.iter().chain(&["help train", "train --help", "chat < text.txt"]) {
        let run = bash(
            &workspace,
            &format!("shoestring {writer} | head -c 1 > /dev/null; exit ${{PIPESTATUS[0]}}"),
        )
        .success();
        assert!(run.stderr.lines().count() <= 1, "{writer}: {run:#?}");
        bash(&workspace, &format!("shoestring {writer} | true; exit ${{PIPESTATUS[0]}}")).success();
    }
}

#[test]
fn a_full_device_is_a_failure_that_is_told() {
    let workspace = trained();
    for writer in WRITERS.iter().chain(&["help train", "train --help", "--version", "chat < text.txt"]) {
        let run = bash(&workspace, &format!("shoestring {writer} > /dev/full")).code(1);
        assert!(run.stderr.contains("No space left on device"), "{writer}: {run:#?}");
    }
    // Messages nobody can be given are no reason to fail.
    let arguments = tiny_training(&["--steps", "3"]).join(" ");
    bash(&workspace, &format!("shoestring {arguments} 2> /dev/full")).success();
    bash(&workspace, "shoestring train --lr x 2> /dev/full").code(2);
    bash(&workspace, "shoestring inspect absent.shoe 2> /dev/full").code(1);
}

#[test]
fn streams_that_are_closed_are_none_to_stumble_over() {
    let workspace = trained();
    for writer in WRITERS {
        for closed in ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"] {
            let writer =
                if closed.contains('<') { writer.replace(" < text.txt", "") } else { writer.to_owned() };
            bash(&workspace, &format!("shoestring {writer} {closed}")).success();
        }
    }
    let arguments = tiny_training(&["--steps", "3"]).join(" ").replace(" --no-chat", "");
    bash(&workspace, &format!("shoestring {arguments} <&- >&- 2>&-")).success();
    bash(&workspace, "shoestring chat <&-").success();
    bash(&workspace, "shoestring generate --max-tokens 3 <&-").success();
}

#[test]
fn no_home_and_no_environment_are_needed() {
    let workspace = trained();
    let commands: [&[&str]; 4] = [
        &tiny_training(&["--steps", "3"]),
        &["chat", "--checkpoint", "best.shoe"],
        &["generate", "--prompt", "x"],
        &["train", "--help"],
    ];
    for arguments in commands {
        let mut command = workspace.command(arguments);
        Finished::from(command.env_clear().stdin(Stdio::null()).output().unwrap()).success();
    }
}

#[test]
fn a_terminal_of_20_columns_or_none_is_enough() {
    if !has("script") {
        return;
    }
    let workspace = trained();
    let training = tiny_training(&["--minutes", "0.03"]).join(" ");
    for (columns, terminal) in [(20, "xterm"), (1, "xterm"), (0, "dumb")] {
        for arguments in ["train --help", "--help", "bench --help", &training] {
            let program = env!("CARGO_BIN_EXE_shoestring");
            let inner = format!("stty cols {columns} rows 5; TERM={terminal} {program} {arguments}");
            let run =
                bash(&workspace, &format!("script --quiet --return --command '{inner}' /dev/null")).success();
            assert!(!run.stdout.contains("panicked") && run.stdout.len() > 50, "{arguments}: {}", run.stdout);
            if columns == 20 && arguments == training {
                // The bar is cut to the width of the terminal instead of wrapping.
                assert!(run.stdout.contains('%'), "{}", run.stdout);
            }
        }
    }
}
