//! `shoestring chat` without a terminal: lines in, replies out; commands, and conversations kept in files.

#[path = "common/dialogue.rs"]
mod dialogue;
#[path = "common/program.rs"]
mod program;
#[path = "common/small_model.rs"]
mod small_model;

use program::{Finished, Workspace, finish, wait_for};
use shoestring::model::ModelConfig;
use small_model::{SMALL, save_endless_model, save_model};
use std::io::{Read, Write};

fn workspace() -> Workspace {
    let workspace = Workspace::new();
    save_model(&workspace.path("model.shoe"), SMALL, true);
    save_model(&workspace.path("other.shoe"), ModelConfig { layers: 1, ..SMALL }, true);
    workspace
}

fn chat(workspace: &Workspace, arguments: &[&str], input: &str) -> Finished {
    let fixed = ["chat", "--checkpoint", "model.shoe", "--seed", "1", "--max-response", "20"];
    workspace.run_with(&[&fixed[..], arguments].concat(), input.as_bytes())
}

#[test]
fn commands_work_line_by_line_and_say_nothing_on_stdout() {
    let workspace = workspace();
    let silent = [
        "/help",
        "/stats",
        "/stats on",
        "/stats off",
        "/temperature 0.7",
        "/seed",
        "/reset",
        "/max-response 0",
    ];
    let run = chat(&workspace, &[], &silent.join("\n")).success();
    assert_eq!(run.stdout, "");
    assert!(run.stderr.contains("/retry") && run.stderr.contains("tokens/s"), "{}", run.stderr);
    assert!(!run.stderr.contains('\x1b'));
    let first = chat(&workspace, &[], "Hello\n").success().stdout;
    let again = chat(&workspace, &[], "something\n/undo\nHello\n").success().stdout;
    assert!(again.ends_with(&first), "{again:?} {first:?}");
    let reseeded = chat(&workspace, &[], "Hello\n/seed 1\r\n/retry\n/reset\n/seed 1\nHello\n/quit\nHello\n");
    assert_eq!(reseeded.success().stdout, first.repeat(3));
    let quiet = chat(&workspace, &["--quiet"], "Hello\n/undo\n/reset\n/seed 5\n").success();
    assert_eq!(quiet.stderr, "");
}

#[test]
fn a_state_that_runs_away_is_told_and_not_kept() {
    let workspace = workspace();
    small_model::save_runaway_model(&workspace.path("model.shoe"), SMALL);
    let run = chat(&workspace, &["--session", "talk"], "Hello\nAgain\n");
    run.failure(1, &["line 1", "model.shoe", "not finite"]);
    assert!(!workspace.exists("talk"));
}

#[test]
fn a_message_may_begin_with_a_slash() {
    let workspace = workspace();
    let said = |line: &str| chat(&workspace, &[], line).success().stdout;
    assert_eq!(said("//stats\n"), said("  //stats  \r\n"));
    assert_ne!(said("//stats\n"), said("stats\n"));
    assert_eq!(said("\u{feff}stats\n"), said("stats\n"));
}

#[test]
fn a_wrong_command_ends_a_script_and_names_its_line() {
    let workspace = workspace();
    for (line, parts) in [
        ("/temprature 1", &["line 2", "/temprature", "/temperature"][..]),
        ("/temperature 1e9", &["line 2", "/temperature", "between 0 and 100", "1e9"]),
        ("/top-k many", &["line 2", "/top-k", "many"]),
        ("/shrug", &["line 2", "/shrug", "//"]),
        ("/save absent/kept", &["line 2", "absent/kept"]),
        ("/save model.shoe", &["line 2", "model.shoe", "not a saved session"]),
        ("/load absent", &["line 2", "absent"]),
        ("/retry", &["line 2", "no reply"]),
        ("/undo", &["line 2", "nothing to undo"]),
    ] {
        let input = format!("/max-response 0\n{line}\nHello\n");
        let run = chat(&workspace, &["--quiet"], &input).failure(1, parts);
        assert_eq!(run.stdout, "", "{line}");
    }
}

#[test]
fn speed_is_said_after_each_reply_if_asked_for() {
    let workspace = workspace();
    let plain = chat(&workspace, &[], "Hello\nHow are you?\n").success();
    let run = chat(&workspace, &["--stats"], "Hello\nHow are you?\n").success();
    assert_eq!(run.stdout, plain.stdout);
    assert_eq!((run.stderr.matches("tokens/s]").count(), plain.stderr.as_str()), (2, ""));
}

#[test]
fn a_session_goes_on_where_it_was_left() {
    let workspace = workspace();
    let session = ["--session", "kept", "--temperature", "0"];
    let whole = chat(&workspace, &["--temperature", "0"], "Hello\nHow are you?\nGood\n").success().stdout;
    let parts = ["Hello\n", "How are you?\n", "", "Good\n/quit\n"]
        .map(|input| chat(&workspace, &session, input).success().stdout);
    assert_eq!(parts.concat(), whole);
    // What is undone is not kept.
    let before = workspace.read("kept");
    chat(&workspace, &session, "never mind\n/undo\n").success();
    assert_eq!(workspace.read("kept"), before);
    chat(&workspace, &session, "/load kept\n/save copy\n").success();
    assert_eq!(workspace.read("copy"), before);
}

#[test]
fn an_empty_file_is_a_session_to_begin() {
    let workspace = workspace();
    workspace.write("empty", "");
    let run = chat(&workspace, &["--session", "empty"], "Hello\n").success();
    assert_eq!(run.stderr, "");
    let again = chat(&workspace, &["--session", "empty"], "").success();
    assert!(again.stderr.contains("Going on"), "{}", again.stderr);
    assert!(workspace.read("empty").len() > 100);
}

#[test]
fn a_session_with_nothing_in_it_is_not_begun() {
    let workspace = workspace();
    chat(&workspace, &["--session", "kept"], "").success();
    assert!(!workspace.exists("kept"));
}

#[test]
fn sessions_that_are_wrong_are_refused_and_stay() {
    let workspace = workspace();
    chat(&workspace, &["--session", "kept"], "Hello\n").success();
    let sound = workspace.read("kept");
    workspace.write("cut", &sound[..sound.len() - 1]);
    workspace.write("folder/file", "");
    let mut damaged = sound.clone();
    damaged[100] ^= 1;
    workspace.write("damaged", damaged);
    for (file, why) in [
        ("cut", "truncated or damaged"),
        ("damaged", "truncated or damaged"),
        ("text.txt", "not a saved session"),
        ("model.shoe", "not a saved session"),
        ("folder", "not a file"),
    ] {
        let before = if file == "folder" { Vec::new() } else { workspace.read(file) };
        let run = chat(&workspace, &["--session", file], "Hello\n").failure(1, &[file, why]);
        assert_eq!(run.stdout, "");
        assert!(file == "folder" || workspace.read(file) == before, "{file}");
    }
    let other = ["chat", "--checkpoint", "other.shoe", "--session", "kept"];
    workspace.run_with(&other, b"Hello\n").failure(1, &["kept", "another model"]);
    let other = ["chat", "--checkpoint", "other.shoe"];
    workspace.run_with(&other, b"/save kept\n").failure(1, &["cannot save kept", "another model"]);
    assert_eq!(workspace.read("kept"), sound);
}

#[test]
fn a_session_that_another_program_has_changed_is_not_written_over() {
    let workspace = workspace();
    chat(&workspace, &["--session", "other"], "Something else\n").success();
    let mut run = workspace.start(&["chat", "--checkpoint", "model.shoe", "--session", "kept", "--quiet"]);
    // Its own `/save` is no other program. Once there is the last file, the reply before it has been kept.
    run.stdin.as_mut().unwrap().write_all(b"Hello\n/save kept\nHi\n/save last\n").unwrap();
    wait_for("the last file", || workspace.exists("last"));
    assert_eq!(workspace.read("kept"), workspace.read("last"));
    let others = workspace.read("other");
    workspace.write("kept", &others);
    finish(run, b"How are you?\n").failure(1, &["another program has changed kept"]);
    assert_eq!(workspace.read("kept"), others);
}

#[test]
fn only_what_was_read_is_saved_over() {
    let workspace = workspace();
    chat(&workspace, &["--session", "other"], "Something else\n").success();
    let others = workspace.read("other");
    for (commands, code) in [("/save kept\n", 1), ("/load kept\nHi\n", 0)] {
        chat(&workspace, &["--session", "kept"], "Hello\n").success();
        let mut run =
            workspace.start(&["chat", "--checkpoint", "model.shoe", "--session", "kept", "--quiet"]);
        run.stdin.as_mut().unwrap().write_all(b"/save begun\n").unwrap();
        wait_for("the first file", || workspace.exists("begun"));
        workspace.write("kept", &others);
        finish(run, commands.as_bytes()).code(code);
        assert_eq!(workspace.read("kept") == others, code == 1, "{commands}");
        for name in ["kept", "begun"] {
            std::fs::remove_file(workspace.path(name)).unwrap();
        }
    }
}

#[test]
fn what_is_kept_stays_until_there_is_a_reply() {
    let workspace = workspace();
    chat(&workspace, &["--session", "kept"], "Hello\n").success();
    let kept = workspace.read("kept");
    for commands in ["/reset\n", "/save other\n/reset\n/load other\n"] {
        chat(&workspace, &["--session", "kept"], commands).success();
        assert_eq!(workspace.read("kept"), kept, "{commands}");
    }
    chat(&workspace, &["--session", "kept"], "/reset\nGood day\n").success();
    assert_ne!(workspace.read("kept"), kept);
}

#[cfg(unix)]
#[test]
fn a_link_to_a_session_stays_one() {
    let workspace = workspace();
    workspace.write("there/empty", "");
    chat(&workspace, &[], "Hello\n/save there/kept\n").success();
    let first = workspace.read("there/kept");
    std::os::unix::fs::symlink("there/kept", workspace.path("link")).unwrap();
    chat(&workspace, &["--session", "link"], "Hello\n").success();
    assert!(workspace.path("link").is_symlink());
    assert_ne!(workspace.read("there/kept"), first);
}

#[test]
fn a_line_without_end_is_refused() {
    let workspace = workspace();
    let line = "a".repeat(16_000_001);
    chat(&workspace, &[], &line).failure(1, &["more than 16 MB"]);
}

#[test]
fn a_session_that_cannot_be_kept_is_a_failure() {
    let workspace = workspace();
    let run =
        chat(&workspace, &["--session", "absent/kept"], "Hello\n").failure(1, &["cannot save absent/kept"]);
    assert_eq!(run.stdout, "", "it is known before anything is said");
    assert!(!workspace.exists("absent"));
}

#[test]
fn what_was_said_is_kept_before_the_input_ends() {
    let workspace = workspace();
    let mut run = workspace.start(&["chat", "--checkpoint", "model.shoe", "--session", "kept"]);
    run.stdin.as_mut().unwrap().write_all(b"Hello\n").unwrap();
    wait_for("the session", || workspace.exists("kept"));
    run.kill().unwrap();
    run.wait().unwrap();
    let sound = workspace.read("kept");
    let run = chat(&workspace, &["--session", "kept"], "").success();
    assert!(run.stderr.contains("Going on with kept"), "{}", run.stderr);
    assert_eq!(workspace.read("kept"), sound);
}

#[test]
fn a_reader_that_has_read_enough_is_no_error_and_the_session_is_kept() {
    let workspace = workspace();
    save_endless_model(&workspace.path("endless.shoe"), SMALL);
    let mut run = workspace.start(&[
        "chat",
        "--checkpoint",
        "endless.shoe",
        "--max-response",
        "100000000",
        "--session",
        "kept",
    ]);
    run.stdin.as_mut().unwrap().write_all(b"Hello\n").unwrap();
    let mut stdout = run.stdout.take().unwrap();
    stdout.read_exact(&mut [0; 10]).unwrap();
    drop(stdout);
    let finished = finish(run, b"").success();
    assert_eq!(finished.stderr, "");
    assert!(workspace.exists("kept"));
}
