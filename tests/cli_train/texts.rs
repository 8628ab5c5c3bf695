//! What is trained on: files and folders, their ends of line, and what is no text.

use super::*;

#[test]
fn several_files_and_folders_are_one_text() {
    let workspace = Workspace::new();
    let text = dialogue(12_000);
    let (first, rest) = text.split_at(text.find("\n\n").unwrap());
    let (second, third) = rest.trim_start().split_at(rest.trim_start().find("\n\n").unwrap());
    workspace.write("one.txt", first);
    workspace.write("folder/a.txt", second);
    workspace.write("folder/b.TXT", third.trim_start());
    workspace.write("folder/notes.md", "not a text to train on");
    workspace.write("whole.txt", &text);
    let train = |data: &[&str], folder: &str| {
        let arguments =
            [&["train", "--no-chat", "--steps", "4", "--checkpoint-dir", folder, "--model-data"], data]
                .concat();
        workspace.run(&[&arguments[..], &TINY].concat()).success();
        workspace.weights(&format!("{folder}/best.shoe"))
    };
    assert!(train(&["one.txt", "folder"], "parts") == train(&["whole.txt"], "whole"));

    let none = workspace.run(&["train", "--model-data", "parts", "--no-chat"]);
    none.failure(1, &["parts", "no .txt file"]);
}

#[test]
fn a_text_without_a_place_to_cut_it_is_refused() {
    let workspace = Workspace::new();
    workspace.train(&["--steps", "1"]).success();
    workspace.write("endless.txt", "a".repeat(40 << 20));
    let model = "checkpoints/best.shoe";
    for arguments in [
        &["train", "--no-chat", "--checkpoint-dir", "other", "--model-data", "endless.txt"][..],
        &[
            "train",
            "--no-chat",
            "--checkpoint-dir",
            "other",
            "--bpe-data",
            "text.txt",
            "--model-data",
            "endless.txt",
        ],
        &["tokenizer", "train", "--data", "endless.txt"],
        &["eval", "--checkpoint", model, "--data", "endless.txt"],
    ] {
        workspace
            .run(&[arguments, &["--quiet"]].concat())
            .failure(1, &["cannot use the text", "32 MB", "put spaces or line ends into it"]);
    }
    assert!(!workspace.exists("tokenizer.json"));
    let encode = ["tokenizer", "encode", "--tokenizer", model];
    workspace.run_with(&encode, &vec![0; 40 << 20]).failure(1, &["cannot read the input", "32 MB"]);
}

#[test]
fn little_text_is_told_to_be_little() {
    let workspace = Workspace::new();
    let told = |words: usize| {
        workspace.write("text.txt", "word ".repeat(words));
        workspace.train(&["--steps", "1"]).success().stderr.contains("little text")
    };
    assert!(told(100) && !told(60_000));
}

#[test]
fn separate_validation_text_leaves_all_of_the_text_to_train_on() {
    let workspace = Workspace::new();
    workspace.write("held-out.txt", dialogue(3_000));
    let tokens = |run: &str| -> Vec<usize> {
        let words = run.split(|c: char| !c.is_ascii_digit()).collect::<Vec<_>>();
        words.iter().filter_map(|word| word.parse().ok()).collect()
    };
    let line = |stderr: &str| stderr.lines().find(|line| line.starts_with("Text: ")).unwrap().to_owned();
    let split = workspace.train(&["--steps", "2"]).success();
    let separate =
        workspace.train(&["--steps", "2", "--validation-data", "held-out.txt", "--bpe-data", "text.txt"]);
    let (split, separate) = (tokens(&line(&split.stderr)), tokens(&line(&separate.success().stderr)));
    assert!(separate[0] > split[0], "{split:?} {separate:?}");

    // What is validated is the model that is saved.
    let evaluated = ["eval", "--checkpoint", "checkpoints/best.shoe", "--data", "held-out.txt", "--json"];
    let loss = workspace.run(&evaluated).success().json()["nats_per_token"].as_f64().unwrap();
    let validations = &workspace.inspect("checkpoints/best.shoe")["validations"];
    let told = validations.as_array().unwrap().last().unwrap()["nats_per_token"].as_f64().unwrap();
    assert!((loss - told).abs() < 1e-9 * loss, "{loss} {told}");

    let missing = workspace.train(&["--validation-data", "absent.txt"]);
    missing.failure(1, &["absent.txt", "cannot read"]);
}

#[test]
fn texts_that_mislead_are_warned_of() {
    let workspace = Workspace::new();
    let told = |arguments: &[&str]| {
        workspace.train(&[&["--steps", "1", "--quiet"], arguments].concat()).success().stderr
    };
    assert_eq!(told(&[]), "");
    let validated = told(&["--validation-data", "text.txt"]);
    assert!(validated.contains("Warning: text.txt is both trained on and validated on"), "{validated}");
    workspace.write("text.txt", "[user] Hello! [eos]\n[bot] Hi there! [eos]\n\n".repeat(40));
    let lower_case = told(&[]);
    let warning = "not as a chat has them: line 1 is `[user] Hello! [eos]`. Write each on a line of its own";
    assert!(lower_case.contains(warning), "{lower_case}");
}

#[test]
fn text_that_cannot_be_used_is_named() {
    let workspace = Workspace::new();
    workspace.write("empty.txt", "");
    workspace.write("mark.txt", "\u{feff}\r\n");
    workspace.write("binary.txt", [0, 159, 146, 150].repeat(100));
    workspace.write("short.txt", "a");
    let train = |file: &str| {
        workspace.run(&[&["train", "--no-chat", "--quiet", "--model-data", file], &TINY[..]].concat())
    };
    train("empty.txt").failure(1, &["empty.txt is empty"]);
    train("mark.txt").failure(1, &["mark.txt is empty"]);
    train("binary.txt").failure(1, &["binary.txt is not a text file"]);
    train("absent.txt").failure(1, &["cannot read absent.txt"]);
    train("short.txt").failure(1, &["tokens"]);
}

#[test]
fn bytes_that_are_no_text_are_trained_on_and_told() {
    let workspace = Workspace::new();
    assert!(!workspace.train(&["--steps", "2"]).success().stderr.contains("UTF-8"));
    workspace.write("text.txt", [&workspace.read("text.txt")[..], b" a \xff\xfe b\n"].concat());
    let told = "bytes of text.txt are not UTF-8 and taken as they are";
    let trained = workspace.train(&["--steps", "2", "--quiet"]).success().stderr;
    assert!(trained.contains("Warning: 2 of ") && trained.contains(told), "{trained}");
    let evaluated = workspace.run(&["eval", "--checkpoint", "checkpoints/best.shoe", "--data", "text.txt"]);
    assert!(evaluated.success().stderr.contains(told));
    let learned = ["tokenizer", "train", "--data", "text.txt", "--vocab-size", "300", "--out", "t.json"];
    assert!(workspace.run(&learned).success().stderr.contains(told));
}

#[test]
fn the_shortest_texts_train() {
    let workspace = Workspace::new();
    // With no merges a text has a token for each byte.
    let bytes =
        ["train", "--model-data", "text.txt", "--bpe-vocab-size", "261", "--epochs", "3", "--no-chat"];
    for text in ["abc", "ab cd ef gh", "one line\n", "\u{1F600}a\u{1F601}b", "a\n\n\n\nb\n\n\n\nc"] {
        workspace.write("text.txt", text);
        workspace.run(&bytes).success();
        assert!(workspace.exists("checkpoints/best.shoe"));
    }
}

#[test]
fn line_ends_do_not_matter() {
    let workspace = Workspace::new();
    let unix = workspace.train(&["--steps", "4", "--checkpoint-dir", "unix"]).success();
    assert!(!unix.stderr.contains("line ends"));
    workspace.write("text.txt", String::from_utf8(workspace.read("text.txt")).unwrap().replace('\n', "\r\n"));
    let windows = workspace.train(&["--steps", "4", "--checkpoint-dir", "windows"]).success();
    assert!(windows.stderr.contains("line ends"));
    assert!(workspace.weights("unix/best.shoe") == workspace.weights("windows/best.shoe"));
}
