//! Wrong flags and values: exit code 2 and a line that names them; never a panic.

#[path = "common/dialogue.rs"]
mod dialogue;
#[path = "common/program.rs"]
mod program;
#[path = "common/small_model.rs"]
mod small_model;

use program::{TINY, Workspace};
use shoestring::checkpoint::Record;
use shoestring::kernels::Kernels;
use small_model::{SMALL, record, save_model, save_with_record};
use std::fs;

/// Values that are wrong for some numbers or for all.
const VALUES: [&str; 13] = [
    "0",
    "-1",
    "-0.5",
    "1e400",
    "NaN",
    "inf",
    "99999999999999999999999999",
    "18446744073709551615",
    "1e-300",
    "abc",
    "",
    "1.5",
    "0x10",
];

/// Numbers that every training accepts, so that one flag at a time can be wrong.
const TRAINING_NUMBERS: [&str; 25] = [
    "--bpe-vocab-size",
    "--embedding-dim",
    "--gru-hidden-size",
    "--gru-layers",
    "--num-experts",
    "--top-k",
    "--eps-rmsnorm",
    "--epochs",
    "--minutes",
    "--steps",
    "--batch-size",
    "--seq-length",
    "--lr",
    "--warmup-steps",
    "--final-lr",
    "--wd",
    "--grad-clip",
    "--dropout",
    "--beta1",
    "--beta2",
    "--eps-adamw",
    "--seed",
    "--save-every",
    "--keep",
    "--threads",
];

/// Sampling and length of a text or reply.
const WRITING_NUMBERS: [&str; 6] =
    ["--temperature", "--top-k", "--top-p", "--min-p", "--repetition-penalty", "--seed"];

/// What every flag takes: a value that is refused is named with its flag, before anything is done.
fn refused_or_accepted(workspace: &Workspace, arguments: &[&str], flag: &str, value: &str) -> bool {
    let run = workspace.run(&[arguments, &[flag, value]].concat());
    match run.status.code() {
        Some(2) => {
            run.failure(2, &[&format!("invalid value '{value}' for '{flag} <")]);
            false
        }
        // A text that isn't there is only looked for once all flags are right.
        _ => {
            run.failure(1, &["absent"]);
            true
        }
    }
}

#[test]
fn every_number_is_checked_and_named() {
    let workspace = Workspace::new();
    let count = |arguments: &[&str], flags: &[&str]| {
        let mut refused = 0;
        for flag in flags {
            for value in VALUES {
                refused += usize::from(!refused_or_accepted(&workspace, arguments, flag, value));
            }
        }
        refused
    };
    let training = ["train", "--model-data", "absent.txt"];
    assert!(count(&training, &TRAINING_NUMBERS) > TRAINING_NUMBERS.len() * 6);
    let generate = ["generate", "--checkpoint", "absent.shoe"];
    let numbers = [&WRITING_NUMBERS[..], &["--max-tokens"]].concat();
    assert!(count(&generate, &numbers) > numbers.len() * 5);
    assert!(count(&["chat", "--checkpoint", "absent.shoe"], &["--max-response", "--seed"]) > 10);
    assert!(count(&["eval", "--checkpoint", "absent.shoe", "--data", "absent"], &["--threads"]) > 10);
    assert!(count(&["tokenizer", "train", "--data", "absent"], &["--vocab-size", "--threads"]) > 20);
}

#[test]
fn extreme_numbers_that_are_accepted_train() {
    let workspace = Workspace::new();
    let extremes = [
        ["--lr", "0"],
        ["--lr", "1e-300"],
        ["--wd", "100"],
        ["--warmup-steps", "18446744073709551615"],
        ["--final-lr", "0"],
        ["--grad-clip", "1e-30"],
        ["--grad-clip", "1e38"],
        ["--dropout", "0.999999"],
        ["--beta1", "0"],
        ["--beta2", "0"],
        ["--eps-adamw", "1e-30"],
        ["--eps-adamw", "1e30"],
        ["--eps-rmsnorm", "1"],
        ["--eps-rmsnorm", "1e-12"],
        ["--seed", "18446744073709551615"],
        ["--save-every", "0s"],
        ["--keep", "1000000"],
        ["--batch-size", "1"],
        ["--seq-length", "1"],
        ["--batch-size", "4096"],
        ["--embedding-dim", "1"],
        ["--gru-hidden-size", "1"],
        ["--gru-layers", "9"],
        ["--num-experts", "1"],
        ["--num-experts", "256"],
        ["--threads", "64"],
        ["--bpe-vocab-size", "1048576"],
        ["--bpe-vocab-size", "261"],
    ];
    for extreme in extremes {
        let flags = ["train", "--model-data", "text.txt", "--no-chat", "--quiet", "--steps", "2"];
        // The last of a flag given twice would be an error: the one under test replaces its default.
        let rest: Vec<&str> =
            TINY.chunks(2).filter(|pair| pair[0] != extreme[0]).flatten().copied().collect();
        let run = workspace.run(&[&flags[..], &rest, &extreme].concat());
        assert_eq!(run.success().stderr, "", "{extreme:?}");
    }
    let shortest = ["train", "--model-data", "text.txt", "--no-chat", "--quiet", "--minutes", "1e-9"];
    workspace.run(&[&shortest[..], &TINY].concat()).success();
}

#[test]
fn sizes_that_contradict_each_other_are_named() {
    let workspace = Workspace::new();
    let train =
        |flags: &[&str]| workspace.run(&[&["train", "--model-data", "text.txt", "--quiet"], flags].concat());
    train(&["--top-k", "7"]).failure(2, &["top-k is 7", "between 1 and 6"]);
    train(&["--tied", "--gru-hidden-size", "32"]).failure(2, &["tied", "96", "32"]);
    train(&["--eps-rmsnorm", "2"]).failure(2, &["--eps-rmsnorm", "between 1e-12 and 1"]);
    let both = train(&["--epochs", "1", "--minutes", "1"]).code(2);
    assert!(both.stderr.contains("--epochs") && both.stderr.contains("--minutes"), "{}", both.stderr);
    assert!(!workspace.exists("checkpoints"));
}

#[test]
fn unknown_kernels_are_refused_with_a_list_of_those_there_are() {
    let workspace = Workspace::new();
    save_model(&workspace.path("model.shoe"), SMALL, true);
    let names: Vec<&str> = Kernels::available().iter().map(|kernels| kernels.name()).collect();
    let parts = [&["nosuch"], &names[..]].concat();
    let arguments = ["generate", "--checkpoint", "model.shoe", "--prompt", "x", "--max-tokens", "2"];
    workspace.run(&[&arguments[..], &["--kernel", "nosuch"]].concat()).failure(2, &parts);
    let with_variable = |value: &str| {
        program::Finished::from(
            workspace.command(&arguments).env("SHOESTRING_KERNEL", value).output().unwrap(),
        )
    };
    with_variable("nosuch").failure(2, &parts);
    with_variable("").success();
    for name in names {
        with_variable(name).success();
        workspace.run(&[&arguments[..], &["--kernel", name]].concat()).success();
        // The flag wins over the variable.
        let mut command = workspace.command(&[&arguments[..], &["--kernel", name]].concat());
        program::Finished::from(command.env("SHOESTRING_KERNEL", "nosuch").output().unwrap()).success();
    }
}

#[test]
fn help_and_version_are_on_stdout_and_mistakes_are_not() {
    let workspace = Workspace::new();
    let version = workspace.run(&["--version"]).success().stdout;
    assert!(version.starts_with(&format!("shoestring {}", env!("CARGO_PKG_VERSION"))), "{version}");
    let subcommands =
        ["train", "chat", "generate", "eval", "inspect", "export", "import", "bench"].map(|name| vec![name]);
    for subcommand in subcommands.into_iter().chain([vec!["tokenizer", "train"], vec!["tokenizer", "encode"]])
    {
        let help = workspace.run(&[&subcommand[..], &["--help"]].concat()).success();
        assert!(help.stdout.contains("Example") && help.stderr.is_empty(), "{subcommand:?}: {help:?}");
    }
    for wrong in [
        &[][..],
        &["no-such-command"],
        &["train", "--no-such-flag"],
        &["eval"],
        &["inspect"],
        &["import", "x"],
    ] {
        let run = workspace.run(wrong).code(2);
        assert!(run.stdout.is_empty() && !run.stderr.is_empty(), "{wrong:?}: {run:?}");
    }
}

#[test]
fn no_command_replaces_what_it_reads() {
    let workspace = Workspace::new();
    workspace.train(&["--steps", "2"]).success();
    workspace.run(&["export", "checkpoints/best.shoe", "exported"]).success();
    workspace.write("texts/a.txt", "a text to learn from");
    for (input, arguments) in [
        ("checkpoints/best.shoe", &["tokenizer", "export", "checkpoints/best.shoe", "--out"][..]),
        ("text.txt", &["tokenizer", "train", "--data", "text.txt", "--out"]),
        ("texts/a.txt", &["tokenizer", "train", "--data", "texts", "--out"]),
        ("exported/model.safetensors", &["import", "exported", "-o"]),
        ("exported/tokenizer.json", &["import", "exported", "-o"]),
        ("exported/tokenizer.json", &["tokenizer", "import", "exported/tokenizer.json", "--out"]),
        ("checkpoints/best.shoe", &["quantize", "checkpoints/best.shoe", "--to", "q8"]),
    ] {
        let before = workspace.read(input);
        workspace.run(&[arguments, &[input]].concat()).failure(2, &[input, "both input and output"]);
        assert!(workspace.read(input) == before, "{arguments:?}");
    }
}

#[test]
fn a_tokenizer_replaces_nothing_but_a_tokenizer() {
    let workspace = Workspace::new();
    workspace.train(&["--steps", "2"]).success();
    let model = "checkpoints/best.shoe";
    workspace.run(&["tokenizer", "export", model, "-o", "tokenizer.json"]).success();
    workspace.write("notes.json", "{}");
    fs::copy(workspace.path(model), workspace.path("other.shoe")).unwrap();
    for arguments in [
        &["tokenizer", "train", "--data", "text.txt", "--vocab-size", "300", "--out"][..],
        &["tokenizer", "export", model, "--out"],
        &["tokenizer", "import", "tokenizer.json", "--out"],
    ] {
        for kept in ["notes.json", "other.shoe"] {
            let before = workspace.read(kept);
            workspace.run(&[arguments, &[kept]].concat()).failure(2, &[kept, "is no tokenizer.json"]);
            assert!(workspace.read(kept) == before, "{arguments:?}");
        }
        workspace.run(&["tokenizer", "export", model, "-o", "earlier.json"]).success();
        workspace.run(&[arguments, &["earlier.json"]].concat()).success();
    }
}

#[test]
fn what_a_strangers_checkpoint_says_of_itself_acts_on_no_terminal() {
    let workspace = Workspace::new();
    let path = workspace.path("odd.shoe");
    let strange = Record { version: "1\x1b[31m".to_owned(), kernel: "\x07".to_owned(), ..record(true) };
    save_with_record(&path, SMALL, strange);
    let shown = workspace.run(&["inspect", "odd.shoe"]).success().stdout;
    assert!(shown.contains("1^[[31m") && shown.contains("kernels ^G"), "{shown}");
    assert!(!shown.contains(['\x1b', '\x07']));
}

#[test]
fn a_damaged_checkpoint_has_no_configuration() {
    let workspace = Workspace::new();
    workspace.train(&["--steps", "2"]).success();
    workspace.run(&["inspect", "--config", "checkpoints/step-00000002.shoe"]).success();
    let mut bytes = workspace.read("checkpoints/step-00000002.shoe");
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    workspace.write("damaged.shoe", bytes);
    let run = workspace.run(&["inspect", "--config", "damaged.shoe"]);
    run.failure(1, &["damaged.shoe", "damaged"]);
}

#[test]
fn files_that_are_no_models_are_named() {
    let workspace = Workspace::new();
    workspace.write("empty.shoe", "");
    workspace.write("folder.shoe/x", "");
    let subcommands = [
        &["chat", "--checkpoint"][..],
        &["generate", "--prompt", "x", "--checkpoint"],
        &["inspect"],
        &["eval", "--data", "text.txt", "--checkpoint"],
        &["export"],
        &["train", "--quiet", "--checkpoint"],
    ];
    for subcommand in subcommands {
        for (file, why) in [
            ("absent.shoe", "No such file"),
            ("empty.shoe", "is truncated: it has 0 bytes"),
            ("text.txt", "not a shoestring checkpoint"),
            ("folder.shoe", "directory"),
        ] {
            let mut arguments = [subcommand, &[file]].concat();
            if subcommand == ["export"] {
                arguments.push("exported");
            }
            workspace.run(&arguments).failure(1, &[file, why]);
        }
    }
}
