//! `train` and `chat` where there is little memory: limits are counted, and what fits in them works.

#![cfg(target_os = "linux")]

#[path = "common/dialogue.rs"]
mod dialogue;
#[path = "common/program.rs"]
mod program;

use program::{Finished, TINY, Workspace};
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Bytes of a 64 MB machine.
const LITTLE: u64 = 64_000_000;
/// Address space, in KiB, that training the default sizes is content with. The heap has 45 MB of it, two threads
/// and the main one have stacks of 2 and 8 MB, and the rest is the program, which tests build without leaving
/// anything out.
const ADDRESSES: u64 = 88_000;

/// A control group with a limit on memory, removed when dropped.
struct Group(PathBuf);

impl Group {
    /// None where the system lets no such group be made; where everything must be tested, it has to.
    fn new(limit: u64) -> Option<Self> {
        static COUNT: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
        let count = COUNT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let name = format!("shoestring-test-{}-{count}", std::process::id());
        let made = [("/sys/fs/cgroup/memory", "memory.limit_in_bytes"), ("/sys/fs/cgroup", "memory.max")]
            .into_iter()
            .find_map(|(root, file)| {
                let group = Group(Path::new(root).join(&name));
                fs::create_dir(&group.0).ok()?;
                // A folder that is no control group, or has no such limit, has no such file.
                let mut file = fs::File::options().write(true).open(group.0.join(file)).ok()?;
                file.write_all(limit.to_string().as_bytes()).ok()?;
                Some(group)
            });
        assert!(made.is_some() || std::env::var_os("CI").is_none(), "no control group can be made");
        if made.is_none() {
            let _ = writeln!(std::io::stderr(), "NOT RUN: no control group can be made; be root");
        }
        made
    }

    fn run(&self, workspace: &Workspace, arguments: &[&str]) -> Finished {
        let enter = format!("echo $$ > '{}/cgroup.procs' && exec \"$0\" \"$@\"", self.0.display());
        in_shell(workspace, &enter, arguments)
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        let _ = fs::remove_dir(&self.0);
    }
}

fn in_shell(workspace: &Workspace, script: &str, arguments: &[&str]) -> Finished {
    let mut command = Command::new("bash");
    command.args(["-c", script, env!("CARGO_BIN_EXE_shoestring")]).args(arguments);
    command.current_dir(workspace.path("")).stdin(Stdio::null()).output().unwrap().into()
}

fn with_addresses(workspace: &Workspace, kibibytes: u64, arguments: &[&str]) -> Finished {
    in_shell(workspace, &format!("ulimit -v {kibibytes}; exec \"$0\" \"$@\""), arguments)
}

/// The default sizes on the bundled corpus, with several saves and validations.
const TRAIN: [&str; 7] = ["train", "--steps", "40", "--save-every", "1s", "--threads", "2"];

#[test]
fn the_default_model_trains_on_a_machine_of_64_mb() {
    let Some(group) = Group::new(LITTLE) else { return };
    let workspace = Workspace::new();
    group.run(&workspace, &TRAIN).success();
    assert!(workspace.exists("checkpoints/best.shoe"));
    let model = ["chat", "--checkpoint", "checkpoints/best.shoe"];
    group.run(&workspace, &model).success();
}

#[test]
fn a_run_that_seems_too_large_is_refused_unless_forced() {
    let Some(group) = Group::new(LITTLE) else { return };
    let workspace = Workspace::new();
    // Room for long chunks, of which a short text needs little.
    let sizes: Vec<&str> =
        TINY.chunks(2).filter(|pair| pair[0] != "--seq-length").flatten().copied().collect();
    let train = ["train", "--model-data", "text.txt", "--steps", "2", "--seq-length", "60000", "--quiet"];
    let long = [&train[..], &sizes].concat();
    let refused = group.run(&workspace, &long);
    refused.failure(2, &["MB of memory", " MB are free", "--seq-length", "--force"]);
    assert!(!workspace.exists("checkpoints"));
    let forced = group.run(&workspace, &[&long[..], &["--force"]].concat());
    forced.failure(0, &["Warning: training needs about", " MB are free"]);
}

#[test]
fn a_limit_on_the_address_space_counts_and_is_made_the_most_of() {
    let workspace = Workspace::new();
    with_addresses(&workspace, ADDRESSES, &TRAIN).success();
    let generate = ["generate", "--prompt", "Hello", "--max-tokens", "9"];
    with_addresses(&workspace, ADDRESSES / 2, &generate).success();
    // More room must not be worse: heaps of threads would take all of it.
    for addresses in [100_000, 130_000, 160_000, 200_000] {
        let flags = ["--checkpoint-dir", "more", "--quiet"];
        with_addresses(&workspace, addresses, &[&TRAIN[..], &flags].concat()).success();
    }
    let small = with_addresses(&workspace, ADDRESSES / 2, &TRAIN);
    let last = small.code(2).stderr.lines().last().unwrap_or_default().to_owned();
    assert!(last.contains("training needs about") && last.contains("--force"), "{last}");
}

/// A run that the check lets pass has room enough: none ends as the system ends those that find no memory.
#[test]
fn under_a_limit_on_the_address_space_a_run_is_refused_or_succeeds() {
    let workspace = Workspace::new();
    for (size, addresses) in [("tiny", 30_000..50_000), ("small", 54_000..90_000)] {
        let train = ["train", "--size", size, "--steps", "3", "--threads", "2", "--quiet"];
        let codes = addresses.step_by(4_000).map(|addresses| {
            let run = with_addresses(&workspace, addresses, &train);
            let code = run.status.code();
            assert!(matches!(code, Some(0 | 2)), "{addresses} KiB: {run:#?}");
            code == Some(0)
        });
        let succeeded: Vec<bool> = codes.collect();
        assert!(!succeeded[0] && succeeded[succeeded.len() - 1], "{size}: {succeeded:?}");
    }
}
