//! The program on a bad day: killed, stopped, out of disk, its folder gone. Nothing saved may be lost, and training
//! must go on to the same weights.
#![cfg(target_os = "linux")]

#[path = "common/dialogue.rs"]
mod dialogue;
#[path = "common/program.rs"]
mod program;
#[path = "common/random.rs"]
mod random;

use dialogue::dialogue;
use program::{Finished, Workspace, send, tiny_training, wait_for};
use random::SplitMix64;
use shoestring::checkpoint::{Checkpoint, CheckpointError};
use shoestring::train::newest_checkpoint;
use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant, SystemTime};

/// A rate that does not depend on the length of the run.
const CONSTANT: [&str; 4] = ["--final-lr", "1", "--warmup-steps", "0"];

/// A program under way, and what it said on stderr so far.
struct Running {
    child: Child,
    said: Arc<Mutex<String>>,
    ear: JoinHandle<()>,
}

impl Running {
    fn start(command: &mut Command) -> Self {
        let mut child =
            command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        let said = Arc::new(Mutex::new(String::new()));
        let (lines, heard) = (BufReader::new(child.stderr.take().unwrap()).lines(), Arc::clone(&said));
        let ear = thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                *heard.lock().unwrap() += &(line + "\n");
            }
        });
        Running { child, said, ear }
    }

    fn said(&self) -> String {
        self.said.lock().unwrap().clone()
    }

    fn wait_until_said(&self, text: &str) {
        wait_for(&format!("{text:?}"), || self.said().contains(text));
    }

    /// Sends `signal` and holds the program to end with `code`.
    fn end(mut self, signal: &str, code: i32) -> String {
        send(signal, &self.child);
        let status = self.child.wait().unwrap();
        // Its last words may still be in the pipe.
        self.ear.join().unwrap();
        let said = self.said.lock().unwrap().clone();
        assert_eq!(status.code(), Some(code), "{said}");
        said
    }
}

/// An environment variable's number, or `default`.
fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |value| value.parse().unwrap_or_else(|_| panic!("{name}={value}")))
}

/// Holds every checkpoint in `folder` to open, whole, and the numbered ones to be resumable.
fn all_checkpoints_open(workspace: &Workspace, folder: &str) {
    for name in workspace.list(folder).iter().filter(|name| name.ends_with(".shoe")) {
        let checkpoint = Checkpoint::open(&workspace.path(folder).join(name)).unwrap();
        checkpoint.verify().unwrap();
        assert_eq!(checkpoint.is_resumable(), name.starts_with("step-"), "{name}");
    }
}

/// Holds all lines of a run's metrics to be whole but, if the program was killed, the last.
fn metrics_are_whole(workspace: &Workspace, folder: &str, killed: bool) {
    let path = workspace.path(folder).join("metrics.jsonl");
    // Killed early, it may not have made the file yet.
    let Ok(text) = fs::read_to_string(path) else { return assert!(killed) };
    let whole = if killed { text.rsplit_once('\n').map_or("", |(whole, _)| whole) } else { text.as_str() };
    for line in whole.lines() {
        serde_json::from_str::<serde_json::Value>(line).unwrap_or_else(|error| panic!("{line}: {error}"));
    }
}

/// `SHOESTRING_KILLS` says how many; `SHOESTRING_SEED` which moments.
#[test]
fn killed_at_any_moment_it_loses_one_save_interval_at_most_and_ends_in_the_same_weights() {
    const INTERVAL: Duration = Duration::from_millis(50);
    /// A step and a save, on a machine that does other things besides.
    const SLACK: Duration = Duration::from_secs(3);
    const SAVES: [&str; 3] = ["--save-every", "0.05s", "--quiet"];
    let (kills, seed) = (setting("SHOESTRING_KILLS", 25), setting("SHOESTRING_SEED", 1));
    println!("{kills} kills, seed {seed}");
    let workspace = Workspace::new();
    let run = [&["--steps", "1500", "--dropout", "0.1"], &SAVES[..]].concat();
    let start = Instant::now();
    workspace.train(&[&run[..], &["--checkpoint-dir", "whole"]].concat()).success();
    // Several kills to a run, however fast the machine is.
    let latest = start.elapsed().as_secs_f64() / 3.0;
    let whole = workspace.weights("whole/step-00001500.shoe");

    let mut random = SplitMix64(seed);
    let (mut killed, mut chains, mut in_a_save, mut ages) = (0, 0, 0, Vec::new());
    while killed < kills {
        chains += 1;
        let folder = format!("killed-{chains}");
        let mut killed_here = 0;
        loop {
            let newest = workspace.newest(&folder);
            let arguments = match &newest {
                None => tiny_training(&[&run[..], &["--checkpoint-dir", &folder]].concat()),
                Some(newest) => [&["train", "--no-chat", "--checkpoint", newest], &SAVES[..]].concat(),
            };
            let started = SystemTime::now();
            let mut program = Running::start(&mut workspace.command(&arguments));
            if killed < kills {
                thread::sleep(Duration::from_secs_f64(latest * random.unit()));
                program.child.kill().unwrap();
            }
            let (status, ended) = (program.child.wait().unwrap(), SystemTime::now());
            if status.code().is_some() {
                assert!(status.success(), "{}", program.said());
                break;
            }
            (killed, killed_here) = (killed + 1, killed_here + 1);
            if !workspace.exists(&folder) {
                continue;
            }
            all_checkpoints_open(&workspace, &folder);
            metrics_are_whole(&workspace, &folder, true);
            in_a_save += usize::from(workspace.list(&folder).iter().any(|name| name.ends_with(".tmp")));
            let saved = workspace.newest(&folder);
            assert!(newest <= saved, "{saved:?} is older than {newest:?}, which was there before");
            if let Some(saved) = saved {
                let saved = fs::metadata(workspace.path(saved)).unwrap().modified().unwrap();
                let age = ended.duration_since(saved.max(started)).unwrap_or_default();
                assert!(age < INTERVAL + SLACK, "the newest checkpoint is {age:?} old");
                ages.push(age);
            }
        }
        let last = workspace.newest(&folder).unwrap();
        assert!(workspace.weights(&last) == whole, "after {killed_here} kills");
        metrics_are_whole(&workspace, &folder, false);
        assert!(!workspace.list(&folder).iter().any(|name| name.ends_with(".tmp")));
    }
    assert!(!ages.is_empty(), "every kill came before the first checkpoint");
    ages.sort();
    println!(
        "{killed} kills of {chains} runs, {in_a_save} in the middle of a save; the newest checkpoint was then \
         {:?} old in the median and {:?} at most",
        ages[ages.len() / 2],
        ages[ages.len() - 1]
    );
}

#[test]
fn a_folder_that_is_gone_is_made_again() {
    let workspace = Workspace::new();
    let program =
        Running::start(&mut workspace.command(&tiny_training(&["--minutes", "5", "--save-every", "0s"])));
    for fate in ["moved away", "deleted"] {
        let enough = || {
            workspace
                .newest("checkpoints")
                .is_some_and(|newest| newest.as_str() > "checkpoints/step-00000003")
        };
        wait_for("a third checkpoint", enough);
        fs::rename(workspace.path("checkpoints"), workspace.path(fate)).unwrap();
        all_checkpoints_open(&workspace, fate);
        if fate == "deleted" {
            fs::remove_dir_all(workspace.path(fate)).unwrap();
        }
        wait_for("the folder", || workspace.newest("checkpoints").is_some());
        // It is this run's as the first was.
        let second = workspace.train(&["--steps", "2", "--quiet"]);
        second.failure(1, &["another training is writing to checkpoints"]);
    }
    program.end("TERM", 130);
    all_checkpoints_open(&workspace, "checkpoints");
    metrics_are_whole(&workspace, "checkpoints", false);
}

#[test]
fn a_folder_that_another_run_took_meanwhile_is_left_to_it() {
    let workspace = Workspace::new();
    let arguments = tiny_training(&["--minutes", "5", "--save-every", "0.1s"]);
    let first = Running::start(&mut workspace.command(&arguments));
    wait_for("a checkpoint", || workspace.newest("checkpoints").is_some());
    send("STOP", &first.child);
    fs::rename(workspace.path("checkpoints"), workspace.path("moved")).unwrap();
    let second = Running::start(&mut workspace.command(&arguments));
    second.wait_until_said("Checkpoints go to");
    send("CONT", &first.child);
    first.wait_until_said("another training is writing to checkpoints");
    second.end("TERM", 130);
    // And then it is free; what the other left stays, as before any new run.
    wait_for("the first run's checkpoint", || {
        workspace.exists("checkpoints/earlier-1") && workspace.newest("checkpoints").is_some()
    });
    first.end("TERM", 130);
    for folder in ["checkpoints", "checkpoints/earlier-1", "moved"] {
        all_checkpoints_open(&workspace, folder);
    }
}

/// The program as a user who is not root, to whom permissions mean something, in a folder where it may write.
fn unprivileged(workspace: &Workspace, arguments: &[&str]) -> Command {
    let program = workspace.path("shoestring");
    if !program.exists() {
        fs::copy(env!("CARGO_BIN_EXE_shoestring"), &program).unwrap();
        fs::set_permissions(workspace.path(""), fs::Permissions::from_mode(0o777)).unwrap();
    }
    let id = Command::new("id").arg("-u").output().unwrap();
    let mut command = if id.stdout == b"0\n" {
        let mut command = Command::new("setpriv");
        command.args(["--reuid=65534", "--regid=65534", "--clear-groups", "--"]).arg(program);
        command
    } else {
        Command::new(program)
    };
    command.args(arguments).current_dir(workspace.path(""));
    command
}

fn set_mode(workspace: &Workspace, name: &str, mode: u32) {
    fs::set_permissions(workspace.path(name), fs::Permissions::from_mode(mode)).unwrap();
}

#[test]
fn a_best_model_that_cannot_be_saved_is_a_failure_and_its_run_can_go_on() {
    let workspace = Workspace::new();
    workspace.write("checkpoints/best.shoe/in-the-way", "");
    let run = workspace.train(&["--steps", "3"]).code(1);
    let hint = "shoestring train --checkpoint checkpoints/step-00000003.shoe";
    assert!(run.stderr.lines().last().unwrap().contains("cannot save checkpoints/best.shoe"), "{run:#?}");
    assert!(run.stderr.lines().last().unwrap().contains(hint), "{run:#?}");
    fs::remove_dir_all(workspace.path("checkpoints/best.shoe")).unwrap();
    let resume = ["train", "--no-chat", "--checkpoint", "checkpoints/step-00000003.shoe", "--steps", "5"];
    workspace.run(&resume).success();
    assert_eq!(workspace.inspect("checkpoints/best.shoe")["step"], 5);
}

#[test]
fn a_folder_that_cannot_be_written_for_a_while_costs_no_more_than_the_saves_in_between() {
    let workspace = Workspace::new();
    let arguments = tiny_training(&["--minutes", "5", "--save-every", "0.1s"]);
    let program = Running::start(&mut unprivileged(&workspace, &arguments));
    wait_for("a checkpoint", || workspace.newest("checkpoints").is_some());
    set_mode(&workspace, "checkpoints", 0o555);
    program.wait_until_said("Permission denied (os error 13). The next save will be tried all the same.");
    let before = workspace.newest("checkpoints").unwrap();
    all_checkpoints_open(&workspace, "checkpoints");
    set_mode(&workspace, "checkpoints", 0o755);
    wait_for("another checkpoint", || workspace.newest("checkpoints").unwrap() > before);
    program.end("TERM", 130);

    // And if it stays so: the error names where to go on.
    set_mode(&workspace, "checkpoints", 0o755);
    let newest = workspace.newest("checkpoints").unwrap();
    let resume = ["train", "--no-chat", "--quiet", "--checkpoint", &newest];
    let program = Running::start(&mut unprivileged(&workspace, &resume));
    wait_for("another checkpoint", || workspace.newest("checkpoints").unwrap() > newest);
    set_mode(&workspace, "checkpoints", 0o555);
    let said = program.end("TERM", 1);
    let hint = format!("shoestring train --checkpoint {}", workspace.newest("checkpoints").unwrap());
    assert!(said.lines().last().unwrap().contains(&hint), "{said}");

    // Nor does a new run begin there.
    let new = unprivileged(&workspace, &tiny_training(&["--steps", "3", "--quiet"])).output().unwrap();
    Finished::from(new)
        .failure(1, &["cannot use checkpoints for checkpoints (--checkpoint-dir)", "Permission denied"]);
    set_mode(&workspace, "checkpoints", 0o755);
}

#[test]
fn what_may_not_be_read_or_written_is_named() {
    let workspace = Workspace::new();
    workspace.train(&["--steps", "3"]).success();
    workspace.run(&["export", "checkpoints/best.shoe", "exported"]).success();
    fs::copy(workspace.path("checkpoints/best.shoe"), workspace.path("model.shoe")).unwrap();
    for name in ["text.txt", "model.shoe", "checkpoints", "exported/tokenizer.json"] {
        set_mode(&workspace, name, 0);
    }
    workspace.write("closed/file", "");
    set_mode(&workspace, "closed", 0o555);
    let bundled = ["quantize", "open.shoe", "closed/small.shoe", "--to", "q8", "--eval-data", "open.txt"];
    workspace.write("open.txt", dialogue(3000));
    let quantized = unprivileged(&workspace, &["generate", "--prompt", "a", "--max-tokens", "1"]).output();
    Finished::from(quantized.unwrap()).failure(1, &["checkpoints", "--checkpoint", "Permission denied"]);
    set_mode(&workspace, "model.shoe", 0o644);
    fs::rename(workspace.path("model.shoe"), workspace.path("open.shoe")).unwrap();
    workspace.write("model.shoe", "");
    set_mode(&workspace, "model.shoe", 0);
    let commands: [(&[&str], &str); 11] = [
        (&["train", "--no-chat", "--quiet", "--model-data", "text.txt"], "text.txt"),
        (&["train", "--no-chat", "--quiet", "--checkpoint", "model.shoe"], "model.shoe"),
        (
            &["train", "--no-chat", "--quiet", "--model-data", "open.txt", "--checkpoint-dir", "closed"],
            "closed",
        ),
        (&["chat", "--checkpoint", "model.shoe"], "model.shoe"),
        (&["eval", "--checkpoint", "open.shoe", "--data", "text.txt"], "text.txt"),
        (&["inspect", "model.shoe"], "model.shoe"),
        (&["tokenizer", "encode", "--tokenizer", "exported/tokenizer.json"], "exported/tokenizer.json"),
        (
            &["tokenizer", "train", "--vocab-size", "270", "--data", "open.txt", "--out", "closed/tokenizer"],
            "closed/tokenizer",
        ),
        (&["export", "open.shoe", "closed"], "closed"),
        (&["import", "exported", "-o", "imported.shoe"], "exported/tokenizer.json"),
        (&bundled, "closed/small.shoe"),
    ];
    for (arguments, name) in commands {
        let run = Finished::from(unprivileged(&workspace, arguments).output().unwrap());
        run.failure(1, &[name, "Permission denied"]);
    }
    assert_eq!(workspace.list("closed"), ["file"]);
    set_mode(&workspace, "checkpoints", 0o755);
}

#[test]
fn what_a_killed_save_left_is_cleaned_up_and_what_is_being_written_is_not() {
    let workspace = Workspace::new();
    workspace.write("checkpoints/.shoestring-dead.tmp", "half");
    workspace.write("checkpoints/.shoestring-live.tmp", "half");
    workspace.write("checkpoints/notes.tmp", "not ours");
    // As `quantize` holds what it writes into the same folder.
    let live = File::options().append(true).open(workspace.path("checkpoints/.shoestring-live.tmp")).unwrap();
    live.try_lock().unwrap();
    workspace.train(&["--steps", "2"]).success();
    let left: Vec<_> =
        workspace.list("checkpoints").into_iter().filter(|name| name.ends_with(".tmp")).collect();
    assert_eq!(left, [".shoestring-live.tmp", "notes.tmp"]);
}

#[test]
fn a_folder_that_is_a_file_is_named() {
    let workspace = Workspace::new();
    for (folder, advice) in [
        ("text.txt", "name a folder, not a file"),
        ("text.txt/below", "a part of the path is a file, not a folder"),
    ] {
        let run = workspace.train(&["--steps", "2", "--checkpoint-dir", folder]);
        let run = run.failure(1, &["cannot use", folder, advice]);
        assert!(!run.stderr.contains("Training"), "it is told before anything is computed: {}", run.stderr);
    }
    workspace.write("checkpoints", "");
    workspace.run(&["generate", "--prompt", "a"]).failure(1, &["checkpoints", "--checkpoint"]);
}

#[test]
fn the_newest_checkpoint_is_the_last_even_if_the_date_was_set_back() {
    let workspace = Workspace::new();
    let newest = || newest_checkpoint(&workspace.path("checkpoints")).unwrap();
    assert_eq!(newest(), None);
    let hour = |name: &str, hours: u64| {
        workspace.write(&format!("checkpoints/{name}"), "");
        let file = File::options().write(true).open(workspace.path("checkpoints").join(name)).unwrap();
        file.set_modified(SystemTime::UNIX_EPOCH + Duration::from_secs(3600 * hours)).unwrap();
    };
    hour("best.shoe", 1);
    hour("step-00000010.shoe", 5);
    hour("step-00000020.shoe", 2);
    assert_eq!(newest().unwrap(), workspace.path("checkpoints/step-00000020.shoe"));
    hour("imported.shoe", 6);
    assert_eq!(newest().unwrap(), workspace.path("checkpoints/imported.shoe"));
}

#[path = "bad_day/full_disk.rs"]
mod full_disk;
#[path = "bad_day/signals.rs"]
mod signals;

#[test]
fn a_model_that_is_replaced_while_it_chats_stays_the_one_it_was() {
    use std::io::{Read, Write};
    let workspace = Workspace::new();
    workspace.train(&["--steps", "3", "--seed", "1", "--checkpoint-dir", "one"]).success();
    workspace.train(&["--steps", "3", "--seed", "2", "--checkpoint-dir", "two"]).success();
    let arguments = ["chat", "--checkpoint", "model.shoe", "--seed", "1", "--max-response", "20"];
    let replies = |replace: bool| {
        fs::copy(workspace.path("one/best.shoe"), workspace.path("model.shoe")).unwrap();
        let mut chat = workspace.start(&arguments);
        let (mut input, mut output) = (chat.stdin.take().unwrap(), chat.stdout.take().unwrap());
        input.write_all(b"Hello\n").unwrap();
        let mut first = Vec::new();
        while !first.ends_with(b"\n") {
            let mut byte = [0];
            output.read_exact(&mut byte).unwrap();
            first.push(byte[0]);
        }
        if replace {
            fs::copy(workspace.path("two/best.shoe"), workspace.path("other.shoe")).unwrap();
            fs::rename(workspace.path("other.shoe"), workspace.path("model.shoe")).unwrap();
        }
        input.write_all(b"And you?\n").unwrap();
        drop(input);
        output.read_to_end(&mut first).unwrap();
        assert!(chat.wait().unwrap().success());
        first
    };
    assert!(replies(false) == replies(true));
    let one = replies(false);
    fs::copy(workspace.path("two/best.shoe"), workspace.path("one/best.shoe")).unwrap();
    assert!(one != replies(false), "the two models write the same");
}

#[test]
fn what_opening_would_wait_for_is_refused_at_once() {
    let workspace = Workspace::new();
    assert!(Command::new("mkfifo").arg(workspace.path("pipe")).status().unwrap().success());
    for path in ["pipe", "/dev/null", "/dev/zero"] {
        let open = |path: &Path| Checkpoint::open(path).err().unwrap();
        let error = open(&workspace.path(path));
        assert!(matches!(error, CheckpointError::Io { .. }), "{error}");
        for command in [&["inspect", path][..], &["generate", "--prompt", "a", "--checkpoint", path]] {
            workspace.run(command).failure(1, &[path, "pipe"]);
        }
    }
}
