//! Stopping and resuming `shoestring train`, run as a program.

#[path = "common/dialogue.rs"]
mod dialogue;
#[path = "common/program.rs"]
mod program;

use dialogue::dialogue;
use program::{Workspace, tiny_training};
use serde_json::{Value, json};

/// A rate that does not depend on the length of the run.
const CONSTANT: [&str; 4] = ["--final-lr", "1", "--warmup-steps", "0"];

#[test]
fn twice_ten_steps_are_twenty() {
    let workspace = Workspace::new();
    let train = |more: &[&str]| {
        workspace.train(&[&CONSTANT[..], &["--quiet", "--dropout", "0.1"], more].concat()).success()
    };
    train(&["--steps", "20", "--checkpoint-dir", "whole"]);
    train(&["--steps", "10", "--checkpoint-dir", "halves"]);
    train(&["--steps", "20", "--checkpoint", "halves/step-00000010.shoe"]);
    assert!(workspace.weights("whole/step-00000020.shoe") == workspace.weights("halves/step-00000020.shoe"));
    assert!(workspace.weights("whole/step-00000020.shoe") != workspace.weights("halves/step-00000010.shoe"));

    // From anywhere, without naming the text or any setting again.
    workspace.write("elsewhere/readme", "");
    let checkpoint = workspace.path("halves/step-00000010.shoe");
    let mut command = workspace.command(&["train", "--steps", "20", "--no-chat", "--checkpoint"]);
    command.arg(checkpoint).current_dir(workspace.path("elsewhere"));
    program::Finished::from(command.output().unwrap()).success();
    assert!(workspace.weights("whole/step-00000020.shoe") == workspace.weights("halves/step-00000020.shoe"));
}

#[test]
fn threads_do_not_change_the_weights() {
    let workspace = Workspace::new();
    let weights = |threads: &str| {
        let sizes = [
            "--batch-size",
            "12",
            "--seq-length",
            "16",
            "--gru-hidden-size",
            "16",
            "--bpe-vocab-size",
            "300",
        ];
        let arguments =
            ["train", "--model-data", "text.txt", "--no-chat", "--quiet", "--steps", "6", "--dropout", "0.1"];
        let folder = format!("threads-{threads}");
        let rest = ["--threads", threads, "--checkpoint-dir", &folder];
        workspace.run(&[&arguments[..], &sizes, &rest].concat()).success();
        workspace.weights(&format!("{folder}/best.shoe"))
    };
    let one = weights("1");
    assert!(one == weights("2") && one == weights("3"));
}

#[test]
fn another_folder_is_a_new_one() {
    let workspace = Workspace::new();
    workspace.train(&["--steps", "3", "--checkpoint-dir", "first"]).success();
    // Another run with other sizes is in the way: its files are not this run's.
    workspace.train(&["--steps", "2", "--checkpoint-dir", "second", "--seed", "5"]).success();
    let resume = ["--checkpoint", "first/step-00000003.shoe", "--checkpoint-dir", "second", "--steps", "5"];
    let run = workspace.train(&resume).success();
    assert!(run.stderr.contains("second/earlier-1"), "{}", run.stderr);
    assert!(workspace.exists("second/step-00000003.shoe") && workspace.exists("second/step-00000005.shoe"));
    assert!(workspace.exists("second/earlier-1/step-00000002.shoe"));
    // The same folder by another name is the same folder.
    let resume =
        ["--checkpoint", "first/step-00000003.shoe", "--checkpoint-dir", "./second/../first", "--steps", "5"];
    workspace.train(&resume).success();
    assert!(workspace.exists("first/step-00000005.shoe") && !workspace.exists("first/earlier-1"));
}

#[test]
fn metrics_go_on_where_the_checkpoint_was() {
    let workspace = Workspace::new();
    workspace.train(&["--epochs", "3", "--keep", "100"]).success();
    let steps = workspace.metrics("checkpoints/metrics.jsonl").last().unwrap()["step"].as_u64().unwrap();
    // All but the times, and the lines that are written once a second, or, with validations, once a minute.
    let validations = || -> Vec<Value> {
        let lines = workspace.metrics("checkpoints/metrics.jsonl");
        let ends_epoch = |line: &&Value| line["step"].as_u64().unwrap().is_multiple_of(steps / 3);
        let validations = lines.iter().filter(|line| line.get("val_nats_per_token").is_some());
        validations
            .filter(ends_epoch)
            .map(|line| json!([line["step"], line["epoch"], line["val_nats_per_token"]]))
            .collect()
    };
    let before = validations();
    assert_eq!(before.len(), 3);
    let checkpoint = format!("checkpoints/step-{:08}.shoe", before[0][0].as_u64().unwrap());
    workspace.train(&["--checkpoint", &checkpoint, "--epochs", "3"]).success();
    assert_eq!(before, validations());
    let last = workspace.newest("checkpoints").unwrap();
    let again = workspace.train(&["--checkpoint", &last]).success();
    assert!(again.stderr.contains("Nothing was left to train"), "{}", again.stderr);
    assert_eq!(before, validations());
}

#[test]
fn flags_that_contradict_the_checkpoint_are_named_with_what_it_has() {
    let workspace = Workspace::new();
    workspace.train(&["--steps", "2"]).success();
    let resume = |flags: &[&str]| {
        let arguments = ["train", "--no-chat", "--quiet", "--checkpoint", "checkpoints/step-00000002.shoe"];
        workspace.run(&[&arguments[..], flags].concat())
    };
    let cases = [
        ("--bpe-vocab-size", "301", "300"),
        ("--embedding-dim", "17", "16"),
        ("--gru-hidden-size", "32", "16"),
        ("--gru-layers", "2", "1"),
        ("--num-experts", "3", "2"),
        ("--top-k", "1", "2"),
        ("--batch-size", "5", "4"),
        ("--seq-length", "17", "16"),
        ("--seed", "2", "1"),
        ("--eps-rmsnorm", "1e-4", "0.00001"),
    ];
    for (flag, given, stored) in cases {
        resume(&[flag, given]).failure(2, &[flag, &format!("the checkpoint has {stored}")]);
    }
    resume(&["--tied"]).failure(2, &["--tied"]);
    resume(&["--recipe", "classic"]).failure(2, &["--recipe"]);
    resume(&["--bpe-data", "text.txt"]).failure(2, &["--bpe-data"]);
    resume(&["--top-k", "1", "--gru-layers", "3"]).failure(2, &["--top-k 1", "--gru-layers 3"]);
    // The same sizes once more are no contradiction, and settings of the training may change.
    resume(&[&program::TINY[..], &["--steps", "3", "--lr", "0.001"]].concat()).success();
}

#[test]
fn from_an_earlier_step_it_goes_another_way_and_what_came_after_is_set_aside() {
    let workspace = Workspace::new();
    let run = workspace.train(&["--epochs", "3", "--keep", "100"]).success();
    assert!(run.stderr.contains("Chat with it: shoestring chat --checkpoint checkpoints/best.shoe"));
    let numbered = |folder: &str| -> Vec<String> {
        workspace.list(folder).into_iter().filter(|name| name.starts_with("step-")).collect()
    };
    let [start, first, second, third] = &numbered("checkpoints")[..] else { panic!("{run:#?}") };
    let best = workspace.read("checkpoints/best.shoe");
    let lines = workspace.read("checkpoints/metrics.jsonl");
    let from = format!("checkpoints/{first}");
    let resume =
        ["train", "--no-chat", "--checkpoint", &from, "--epochs", "2", "--lr", "0.00001", "--keep", "100"];
    let resumed = workspace.run(&resume).success();
    assert!(resumed.stderr.contains("checkpoints/earlier-1"), "{resumed:#?}");
    assert_eq!(workspace.list("checkpoints/earlier-1"), ["best.shoe", "metrics.jsonl", second, third]);
    assert!(workspace.read("checkpoints/earlier-1/best.shoe") == best);
    assert!(workspace.read("checkpoints/earlier-1/metrics.jsonl") == lines);
    assert_eq!(numbered("checkpoints"), [start, first, second].map(String::clone));
    // There is a best model of this way, worse than the other, and it is told of as what it is.
    let validation = |file: &str| {
        let shown = workspace.inspect(file);
        shown["validations"].as_array().unwrap().last().unwrap()["nats_per_char"].as_f64().unwrap()
    };
    let [other, this] = ["checkpoints/earlier-1/best.shoe", "checkpoints/best.shoe"].map(validation);
    assert!(this > other);
    assert!(resumed.stderr.contains(&format!("Best validation: {this:.4} nats/char")), "{resumed:#?}");

    // A name that says another step does not put the checkpoint itself aside.
    workspace.write("checkpoints/step-00009999.shoe", workspace.read(&from));
    let renamed = ["train", "--no-chat", "--checkpoint", "checkpoints/step-00009999.shoe", "--epochs", "2"];
    workspace.run(&renamed).success();
    assert!(workspace.exists("checkpoints/step-00009999.shoe"));

    // In another folder there is one too, even if it is worse than what was known before.
    let from = format!("checkpoints/earlier-1/{third}");
    let worse = ["--epochs", "4", "--lr", "0.5", "--final-lr", "1", "--checkpoint-dir", "new"];
    let arguments = [&["train", "--no-chat", "--checkpoint", &from], &worse[..]].concat();
    let run = workspace.run(&arguments).success();
    let (known, made) = (validation(&from), validation("new/best.shoe"));
    assert!(made > known, "{made} {known}");
    assert!(run.stderr.contains(&format!("Best validation: {made:.4} nats/char")), "{run:#?}");
}

#[test]
fn where_nothing_is_left_to_train_nothing_is_touched() {
    let workspace = Workspace::new();
    workspace.train(&["--steps", "4"]).success();
    let steps = |from: &str, steps: &str| {
        workspace
            .run(&["train", "--no-chat", "--checkpoint", from, "--steps", steps, "--keep", "9"])
            .success()
    };
    let from = "checkpoints/step-00000004.shoe";
    steps(from, "300");
    let files = || {
        let numbered = workspace.list("checkpoints").into_iter().filter(|name| name.starts_with("step-"));
        let files = numbered.chain(["best.shoe", "metrics.jsonl"].map(str::to_owned));
        files.map(|file| (workspace.read(&format!("checkpoints/{file}")), file)).collect::<Vec<_>>()
    };
    let before = files();
    // The second is one from which the run, as it is recorded, goes on.
    let in_the_middle =
        before.iter().map(|(_, file)| file).find(|file| file.as_str() > "step-00000004.shoe").unwrap();
    for from in [from, &format!("checkpoints/{in_the_middle}")] {
        assert!(steps(from, "4").stderr.contains("Nothing was left to train"));
        assert!(files() == before);
    }
    assert!(!workspace.exists("checkpoints/earlier-1"));
}

/// Copied beside another run's files, say, to go on where there is room: of another model, or on the same text with the same
/// seed, or one that is over already.
#[test]
fn another_runs_checkpoints_are_moved_away_and_not_taken_for_its_own() {
    let workspace = Workspace::new();
    workspace.train(&["--steps", "40", "--checkpoint-dir", "a"]).success();
    let checkpoint = workspace.read("a/step-00000040.shoe");
    for (other, name, steps) in [
        (["--tied"].as_slice(), "step-00000040.shoe", "50"),
        (&["--lr", "0.02"], "step-00000040.shoe", "50"),
        (&["--lr", "0.02"], "renamed.shoe", "40"),
    ] {
        workspace.train(&[&["--steps", "30", "--checkpoint-dir", "b"], other].concat()).success();
        let others: Vec<(String, Vec<u8>)> = workspace
            .list("b")
            .into_iter()
            .filter(|name| name.ends_with(".shoe") || name.ends_with(".jsonl"))
            .map(|name| (name.clone(), workspace.read(&format!("b/{name}"))))
            .collect();
        assert!(others.len() >= 4);
        let from = format!("b/{name}");
        workspace.write(&from, &checkpoint);
        workspace.run(&["train", "--no-chat", "--checkpoint", &from, "--steps", steps]).success();
        for (name, bytes) in others {
            assert!(workspace.read(&format!("b/earlier-1/{name}")) == bytes, "{other:?} {name}");
        }
        let [ours, original] =
            ["b/best.shoe", "a/best.shoe"].map(|best| workspace.inspect(best)["validations"].clone());
        assert_eq!(ours[0], original[0], "{other:?}");
        std::fs::remove_dir_all(workspace.path("b")).unwrap();
    }
}

#[cfg(unix)]
#[test]
fn what_it_says_to_run_can_be_run_whatever_the_folder_is_called() {
    let workspace = Workspace::new();
    let folder = "it's my run";
    let run = workspace.train(&["--steps", "2", "--checkpoint-dir", folder]).success();
    let hint = run.stderr.lines().find_map(|line| line.strip_prefix("Chat with it: shoestring ")).unwrap();
    let program = env!("CARGO_BIN_EXE_shoestring");
    let mut shell = std::process::Command::new("sh");
    shell.args(["-c", &format!("{program} {hint} </dev/null")]).current_dir(workspace.path(""));
    assert!(shell.status().unwrap().success(), "{hint}");
}

#[test]
fn the_kernels_are_those_of_the_last_part() {
    let workspace = Workspace::new();
    workspace.train(&["--steps", "2", "--kernel", "scalar"]).success();
    let resume = |from: &str, steps: &str| {
        let flags = ["--steps", steps, "--recipe", "default", "--kernel", "wide", "--checkpoint", from];
        workspace.run(&[&["train", "--no-chat"], &flags[..]].concat()).success().stderr
    };
    let told = "Its kernels were scalar, now wide";
    assert!(resume("checkpoints/step-00000002.shoe", "4").contains(told));
    assert!(!resume("checkpoints/step-00000004.shoe", "6").contains(told));
    assert_eq!(workspace.inspect("checkpoints/step-00000006.shoe")["kernel"], "wide");
}

#[test]
fn what_cannot_be_resumed_says_why() {
    let workspace = Workspace::new();
    workspace.write("held-out.txt", dialogue(2_000));
    workspace.train(&["--steps", "2", "--validation-data", "held-out.txt"]).success();
    let resume = |checkpoint: &str| {
        workspace.run(&["train", "--no-chat", "--quiet", "--steps", "4", "--checkpoint", checkpoint])
    };
    resume("checkpoints/best.shoe")
        .failure(1, &["checkpoints/best.shoe holds a model only", "numbered checkpoint"]);
    resume("checkpoints/absent.shoe").failure(1, &["cannot open checkpoints/absent.shoe"]);

    let validation = workspace.read("held-out.txt");
    std::fs::remove_file(workspace.path("held-out.txt")).unwrap();
    resume("checkpoints/step-00000002.shoe").failure(1, &["cannot read", "held-out.txt"]);
    workspace.write("held-out.txt", &validation[1..]);
    resume("checkpoints/step-00000002.shoe").failure(1, &["not the one this run was started on"]);
    workspace.write("held-out.txt", &validation);
    let text = workspace.read("text.txt");
    workspace.write("text.txt", [&text[..], b"more"].concat());
    resume("checkpoints/step-00000002.shoe").failure(1, &["not the one this run was started on"]);
    std::fs::remove_file(workspace.path("text.txt")).unwrap();
    resume("checkpoints/step-00000002.shoe").failure(1, &["cannot read", "text.txt"]);

    // The same text in other files will do.
    workspace.write("moved.txt", &text);
    let arguments = ["train", "--no-chat", "--steps", "4", "--model-data", "moved.txt", "--checkpoint"];
    workspace.run(&[&arguments[..], &["checkpoints/step-00000002.shoe"]].concat()).success();
}

#[cfg(unix)]
mod signals {
    use super::*;
    use program::{send, wait_for};
    use std::fs::{self, File};
    use std::io::{BufRead, BufReader, Read, Write};
    use std::path::PathBuf;
    use std::process::Command;
    use std::thread;
    use std::time::Duration;

    #[test]
    fn a_signal_saves_and_the_resumed_run_ends_like_an_undisturbed_one() {
        let workspace = Workspace::new();
        let run = ["--epochs", "2", "--dropout", "0.1", "--save-every", "0s"];
        workspace.train(&[&run[..], &["--checkpoint-dir", "whole"]].concat()).success();
        let last = workspace.list("whole").pop().unwrap();
        for signal in ["INT", "TERM"] {
            let folder = format!("stopped-by-{signal}");
            let program =
                workspace.start(&tiny_training(&[&run[..], &["--checkpoint-dir", &folder]].concat()));
            wait_for("the fifth step", || {
                workspace.exists(&folder)
                    && workspace.list(&folder).iter().any(|name| name.as_str() > "step-00000005.shoe")
            });
            send(signal, &program);
            let stopped = program::finish(program, b"").code(130);
            let newest = workspace.list(&folder).pop().unwrap();
            assert!(newest < last, "it was through before the signal came");
            let hint = format!("shoestring train --checkpoint {folder}/{newest}");
            assert!(stopped.stderr.contains(&hint), "{hint:?} is not in {stopped:#?}");
            let checkpoint = format!("{folder}/{newest}");
            workspace.run(&["train", "--no-chat", "--quiet", "--checkpoint", &checkpoint]).success();
            assert_eq!(workspace.list(&folder).pop().unwrap(), last);
            let [stopped, whole] =
                [&folder, "whole"].map(|folder| workspace.weights(&format!("{folder}/{last}")));
            assert!(stopped == whole, "{signal}");
        }
    }

    fn make_pipe(workspace: &Workspace, name: &str) -> PathBuf {
        let pipe = workspace.path(name);
        assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
        pipe
    }

    #[test]
    fn a_signal_while_the_text_comes_ends_the_program_at_once() {
        let workspace = Workspace::new();
        let pipe = make_pipe(&workspace, "pipe.txt");
        for signal in ["INT", "TERM"] {
            let program = workspace.start(&["train", "--no-chat", "--model-data", "pipe.txt"]);
            // Opening it takes until the program opens it too, by which time it handles signals.
            let mut writer = File::options().write(true).open(&pipe).unwrap();
            writer.write_all(&workspace.read("text.txt")).unwrap();
            send(signal, &program);
            let stopped = program::finish(program, b"").code(130);
            drop(writer);
            assert!(stopped.stderr.contains("Stopped before training began"), "{stopped:#?}");
            assert!(!workspace.exists("checkpoints"));
        }
    }

    #[test]
    fn a_run_on_a_pipe_is_resumed_on_a_file_that_is_named() {
        let workspace = Workspace::new();
        let pipe = make_pipe(&workspace, "pipe.txt");
        let text = workspace.read("text.txt");
        let writer = std::thread::spawn({
            let (pipe, text) = (pipe, text.clone());
            move || fs::write(pipe, text)
        });
        let flags = [&program::TINY[..], &["--model-data", "pipe.txt", "--steps", "2"]].concat();
        workspace.run(&[&["train", "--no-chat"], &flags[..]].concat()).success();
        writer.join().unwrap().unwrap();
        let resume = ["train", "--no-chat", "--steps", "4", "--checkpoint", "checkpoints/step-00000002.shoe"];
        workspace.run(&resume).failure(1, &["pipe.txt", "--model-data"]);
        workspace.run(&[&resume[..], &["--model-data", "text.txt"]].concat()).success();
    }

    #[test]
    fn a_second_signal_ends_the_program_at_once() {
        let workspace = Workspace::new();
        workspace.train(&["--steps", "2"]).success();
        let before = workspace.newest("checkpoints").unwrap();
        fs::remove_file(workspace.path("checkpoints/metrics.jsonl")).unwrap();
        // Keeps the program waiting, once it has read its text, until someone writes to it.
        let pipe = make_pipe(&workspace, "checkpoints/metrics.jsonl");
        let mut program = workspace.start(&[
            "train",
            "--no-chat",
            "--checkpoint",
            &before,
            "--steps",
            "4",
            "--threads",
            "1",
        ]);
        let writer = File::options().write(true).open(&pipe).unwrap();
        send("INT", &program);
        let mut said = String::new();
        let mut stderr = BufReader::new(program.stderr.take().unwrap());
        while !said.contains("Stopping; once more to stop at once.") {
            assert_ne!(stderr.read_line(&mut said).unwrap(), 0, "{said}");
        }
        assert_eq!(program.try_wait().unwrap(), None, "one signal does not end it at once");
        // One that came in the same moment would be the same.
        while program.try_wait().unwrap().is_none() {
            send("TERM", &program);
            thread::sleep(Duration::from_millis(100));
        }
        assert_eq!(program.wait().unwrap().code(), Some(130));
        stderr.read_to_string(&mut said).unwrap();
        assert!(!said.contains("saved"), "{said}");
        drop(writer);
        assert_eq!(workspace.newest("checkpoints").unwrap(), before);
    }
}
