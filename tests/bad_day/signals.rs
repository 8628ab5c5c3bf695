//! Signals, pauses and the end of a terminal.

use super::*;

/// The numbers of the validations that a checkpoint tells of.
fn validations(workspace: &Workspace, checkpoint: &str) -> serde_json::Value {
    workspace.inspect(checkpoint)["validations"].clone()
}

#[test]
fn a_validation_is_cut_short_and_made_when_the_run_is_resumed() {
    let workspace = Workspace::new();
    workspace.write("held-out.txt", dialogue(1_500_000));
    let run = ["--epochs", "2", "--dropout", "0.1", "--validation-data", "held-out.txt"];
    workspace.train(&[&run[..], &["--checkpoint-dir", "whole"]].concat()).success();
    let last = workspace.newest("whole").unwrap();
    let steps = workspace.inspect(&last)["step"].as_u64().unwrap();
    for epoch in [1, 2] {
        let folder = format!("stopped-{epoch}");
        let arguments = [&run[..], &["--save-every", "0s", "--checkpoint-dir", &folder]].concat();
        let program = Running::start(&mut workspace.command(&tiny_training(&arguments)));
        // What is saved next is saved after the validation.
        let before = format!("{folder}/step-{:08}.shoe", steps / 2 * epoch - 1);
        wait_for("the end of the epoch", || workspace.exists(&before));
        thread::sleep(Duration::from_millis(20));
        let said = program.end("TERM", 130);
        assert!(said.contains("Stopped and saved"), "{said}");
        let stopped = workspace.newest(&folder).unwrap();
        let shown = workspace.inspect(&stopped);
        assert_eq!(shown["epoch"], epoch);
        let made = shown["validations"].as_array().unwrap().len() as u64;
        assert_eq!(made, epoch - 1, "it was through with the validation before the signal came");

        workspace.run(&["train", "--no-chat", "--quiet", "--checkpoint", &stopped]).success();
        let resumed = workspace.newest(&folder).unwrap();
        assert_eq!(validations(&workspace, &resumed), validations(&workspace, &last));
        assert!(workspace.weights(&resumed) == workspace.weights(&last));
        let best = [&folder, "whole"].map(|folder| workspace.weights(&format!("{folder}/best.shoe")));
        assert!(best[0] == best[1]);
    }
}

#[test]
fn before_the_first_step_a_signal_ends_it_and_changes_nothing() {
    let workspace = Workspace::new();
    workspace.train(&["--steps", "2"]).success();
    let before = workspace.list("checkpoints");
    workspace.write("large.txt", dialogue(20_000_000));
    let flags = ["train", "--no-chat", "--model-data", "large.txt", "--steps", "5"];
    // While words are counted; and, with a tokenizer at hand, while the text is turned into tokens.
    for (flag, value) in [("--threads", "1"), ("--bpe-data", "text.txt")] {
        let program = Running::start(&mut workspace.command(&[&flags[..], &[flag, value]].concat()));
        match flag {
            "--bpe-data" => wait_for("tokens in the making", || workspace.list("checkpoints") != before),
            _ => program.wait_until_said("Training the tokenizer"),
        }
        let said = program.end("TERM", 130);
        assert!(said.contains("Stopped before training began"), "{said}");
        assert_eq!(workspace.list("checkpoints"), before);
    }
    let elsewhere = [&flags[..], &["--threads", "1", "--checkpoint-dir", "new/run"]].concat();
    let program = Running::start(&mut workspace.command(&elsewhere));
    program.wait_until_said("Training the tokenizer");
    program.end("TERM", 130);
    assert!(!workspace.exists("new"));
}

/// The second ends it in the middle of the save that the first asked for, or of the one before.
#[test]
fn two_signals_in_the_middle_of_a_save_lose_nothing() {
    let workspace = Workspace::new();
    let run = ["--epochs", "2", "--dropout", "0.1", "--save-every", "0s"];
    workspace.train(&[&run[..], &["--checkpoint-dir", "whole"]].concat()).success();
    let last = workspace.newest("whole").unwrap();
    let mut random = SplitMix64(setting("SHOESTRING_SEED", 1));
    for i in 0..8 {
        let folder = format!("stopped-{i}");
        let arguments = tiny_training(&[&run[..], &["--checkpoint-dir", &folder]].concat());
        let program = Running::start(&mut workspace.command(&arguments));
        wait_for("a checkpoint", || workspace.newest(&folder).is_some());
        thread::sleep(Duration::from_secs_f64(0.05 * random.unit()));
        send("TERM", &program.child);
        program.end("INT", 130);
        all_checkpoints_open(&workspace, &folder);
        let newest = workspace.newest(&folder).unwrap();
        workspace.run(&["train", "--no-chat", "--quiet", "--checkpoint", &newest]).success();
        assert!(workspace.weights(&workspace.newest(&folder).unwrap()) == workspace.weights(&last));
    }
}

/// `script` gives it a terminal; when `script` is killed, the terminal is gone. The shell between them must not have
/// inherited from `nohup` that it ignores that: the system tells the program of it when the shell ends.
#[test]
fn when_the_terminal_goes_away_it_saves() {
    let workspace = Workspace::new();
    let mut arguments = tiny_training(&["--minutes", "5", "--save-every", "1h"]);
    arguments.insert(0, env!("CARGO_BIN_EXE_shoestring"));
    let command = format!("{} 2>/dev/tty; echo $? > code", arguments.join(" "));
    let mut terminal = Command::new("env")
        .args(["--default-signal=HUP", "setsid", "script", "--quiet", "--command", &command, "/dev/null"])
        .current_dir(workspace.path(""))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    wait_for("a line of the metrics", || {
        fs::metadata(workspace.path("checkpoints/metrics.jsonl")).is_ok_and(|metadata| metadata.len() > 0)
    });
    assert_eq!(workspace.newest("checkpoints").unwrap(), "checkpoints/step-00000000.shoe");
    terminal.kill().unwrap();
    terminal.wait().unwrap();
    wait_for("the save", || {
        workspace.newest("checkpoints").is_some_and(|newest| newest != "checkpoints/step-00000000.shoe")
    });
    all_checkpoints_open(&workspace, "checkpoints");
    // Gone, it leaves the folder to others.
    wait_for("its end", || workspace.train(&["--steps", "1", "--quiet"]).status.success());
}

#[test]
fn under_nohup_it_goes_on() {
    let workspace = Workspace::new();
    let arguments = tiny_training(&["--minutes", "5", "--save-every", "0s"]);
    let mut command = Command::new("bash");
    command.args(["-c", "trap '' HUP; exec \"$0\" \"$@\"", env!("CARGO_BIN_EXE_shoestring")]);
    let program = Running::start(command.args(arguments).current_dir(workspace.path("")));
    program.wait_until_said("Checkpoints go to");
    send("HUP", &program.child);
    let before = workspace.newest("checkpoints");
    wait_for("a tenth of a second", {
        let start = Instant::now();
        move || start.elapsed() > Duration::from_millis(100)
    });
    wait_for("another checkpoint", || workspace.newest("checkpoints") > before);
    assert!(!program.said().contains("Stopping"), "{}", program.said());
    program.end("TERM", 130);
}

/// Six seconds of which are no training: at 3.6 s of `--minutes` it would be over before it goes on.
#[test]
fn a_pause_is_not_training_time() {
    let workspace = Workspace::new();
    let start = Instant::now();
    let mut program = Running::start(&mut workspace.command(&tiny_training(&["--minutes", "0.06"])));
    program.wait_until_said("Checkpoints go to");
    thread::sleep(Duration::from_millis(500));
    send("STOP", &program.child);
    thread::sleep(Duration::from_secs(6));
    let before = workspace.metrics("checkpoints/metrics.jsonl").len();
    send("CONT", &program.child);
    assert!(program.child.wait().unwrap().success(), "{}", program.said());
    let took = start.elapsed().as_secs_f64();
    let last = workspace.newest("checkpoints").unwrap();
    let seconds = workspace.inspect(&last)["seconds"].as_f64().unwrap();
    assert!(seconds < 5.0 && took > 6.0 + 1.5, "{seconds} s of training in {took} s");
    assert!(workspace.metrics("checkpoints/metrics.jsonl").len() > before + 1);
}
