//! `train --config` and `inspect --config`, run as a program.

#[path = "common/dialogue.rs"]
mod dialogue;
#[path = "common/program.rs"]
mod program;

use program::{TINY, Workspace};

/// The tiny model's sizes as a file.
fn tiny_file() -> String {
    let pairs = TINY.chunks(2).map(|pair| format!("{} = {}\n", pair[0].trim_start_matches('-'), pair[1]));
    pairs.chain(["model-data = \"text.txt\"\nno-chat = true\n".to_owned()]).collect()
}

#[test]
fn a_file_says_what_flags_would() {
    let workspace = Workspace::new();
    workspace
        .train(&["--steps", "6", "--lr", "0.002", "--save-every", "1s", "--checkpoint-dir", "flags"])
        .success();
    let file = tiny_file() + "steps = 6\nlr = 2e-3\nsave-every = \"1s\"\ncheckpoint-dir = \"file\"\n";
    workspace.write("run.toml", file);
    workspace.run(&["train", "--config", "run.toml"]).success();
    assert!(workspace.weights("flags/best.shoe") == workspace.weights("file/best.shoe"));

    workspace.run(&["train", "--config", "run.toml", "--lr", "0.003", "--epochs", "1"]).success();
    let recipe = &workspace.inspect("file/best.shoe")["recipe"];
    assert_eq!((recipe["lr"].as_f64(), recipe["length_unit"].as_str()), (Some(0.003), Some("epochs")));
}

#[test]
fn mistakes_name_file_line_and_key_and_nothing_is_made() {
    let workspace = Workspace::new();
    let train = |file: &str| {
        workspace.write("run.toml", file);
        workspace.run(&["train", "--config", "run.toml"])
    };
    train(&(tiny_file() + "stepz = 1\n"))
        .failure(2, &["run.toml:11: ", "no key stepz", "did you mean steps?"]);
    let no_key = train("dat = 1").failure(2, &["run.toml:1: there is no key dat"]).stderr;
    assert!(!no_key.contains("did you mean data?"), "{no_key}");
    train("model-data = \"text.txt\"\nlr = 'x'\n").failure(2, &["run.toml:2: lr must be a number"]);
    train("lr = -1").failure(2, &["run.toml:1: lr = -1: it must be a number between 0 and 100"]);
    train("steps = 1\nmodel-data = []").failure(2, &["run.toml:2: model-data must not be an empty array"]);
    train("lr = ").failure(2, &["run.toml:1: "]);
    train("kernel = \"nosuch\"").failure(2, &["nosuch", "scalar"]);
    workspace.write("run.toml", b"lr = \"\xff\"");
    workspace.run(&["train", "--config", "run.toml"]).failure(1, &["cannot read run.toml", "UTF-8"]);
    workspace
        .run(&["train", "--config", "absent.toml"])
        .failure(1, &["cannot read absent.toml", "No such file"]);
    workspace.run(&["train", "--config", "."]).failure(1, &["cannot read .", "directory"]);
    assert!(!workspace.exists("checkpoints"));
}

#[test]
fn a_size_that_a_file_leaves_nothing_to_is_refused() {
    let workspace = Workspace::new();
    workspace.write("run.toml", tiny_file());
    let train = ["train", "--config", "run.toml", "--steps", "1", "--checkpoint-dir"];
    let named = workspace.run(&[&train[..], &["a", "--size", "large"]].concat());
    named.failure(2, &["run.toml:1: ", "bpe-vocab-size", "--size would change nothing"]);
    // One width fewer, and it has a say.
    let fewer: String =
        tiny_file().lines().filter(|line| !line.contains("bpe-vocab-size")).collect::<Vec<_>>().join("\n");
    workspace.write("run.toml", fewer);
    workspace.run(&[&train[..], &["b", "--size", "large", "--force"]].concat()).success();
    assert_eq!(workspace.inspect("b/best.shoe")["recipe"]["name"], "large");
}

#[test]
fn a_recipe_that_a_file_leaves_nothing_to_is_refused_and_the_number_of_experts_can_be_changed() {
    let workspace = Workspace::new();
    workspace.train(&["--steps", "2"]).success();
    let config = workspace.run(&["inspect", "checkpoints/best.shoe", "--config"]).success().stdout;
    workspace.write("run.toml", config);
    let train =
        ["train", "--config", "run.toml", "--model-data", "text.txt", "--no-chat", "--checkpoint-dir"];
    workspace
        .run(&[&train[..], &["a", "--recipe", "classic"]].concat())
        .failure(2, &["run.toml:", "warmup-steps", "--recipe would change nothing"]);
    workspace.run(&[&train[..], &["b", "--num-experts", "1"]].concat()).success();
    assert_eq!(workspace.inspect("b/best.shoe")["config"]["top_k"], 1);
}

#[test]
fn the_configuration_of_a_checkpoint_trains_the_same_model_again() {
    let workspace = Workspace::new();
    workspace.write("other text, \u{e9} \"quoted\".txt", dialogue::dialogue(3000));
    let flags = [
        &[
            "--steps",
            "7",
            "--top-k",
            "1",
            "--dropout",
            "0.25",
            "--eps-rmsnorm",
            "3e-5",
            "--tied",
            "--wd",
            "1e-7",
        ][..],
        &["--validation-data", "other text, \u{e9} \"quoted\".txt", "--seed", "18446744073709551615"],
        &["--warmup-steps", "3", "--beta2", "0.987654", "--recipe", "classic"],
    ];
    workspace.train(&flags.concat()).success();
    let config = |checkpoint: &str| workspace.run(&["inspect", checkpoint, "--config"]).success().stdout;
    let (file, best) = (config("checkpoints/step-00000007.shoe"), config("checkpoints/best.shoe"));
    assert!(best.contains("dropout = 0.25\n") && !best.contains("model-data ="), "{best}");
    workspace.write("run.toml", &file);
    workspace.run(&["train", "--config", "run.toml", "--checkpoint-dir", "again", "--no-chat"]).success();
    assert!(workspace.weights("checkpoints/best.shoe") == workspace.weights("again/best.shoe"));
    let again = config("again/step-00000007.shoe");
    // The first line names the checkpoint.
    assert_eq!(file.lines().skip(1).collect::<Vec<_>>(), again.lines().skip(1).collect::<Vec<_>>());
    workspace.run(&["inspect", "again/best.shoe", "--config", "--json"]).code(2);
}

#[cfg(unix)]
#[test]
fn what_goes_on_for_ever_is_no_configuration() {
    let workspace = Workspace::new();
    workspace.run(&["train", "--config", "/dev/zero"]).failure(1, &["/dev/zero", "more than 1 MB"]);
}

#[cfg(unix)]
#[test]
fn a_name_with_a_line_end_says_nothing() {
    let workspace = Workspace::new();
    let folder = "a\nlr = 99 #";
    workspace.train(&["--steps", "2", "--checkpoint-dir", folder]).success();
    let best = format!("{folder}/best.shoe");
    workspace.write("run.toml", workspace.run(&["inspect", &best, "--config"]).success().stdout);
    workspace.run(&["train", "--config", "run.toml", "--model-data", "text.txt", "--no-chat"]).success();
    assert!(workspace.inspect("checkpoints/best.shoe")["recipe"]["lr"].as_f64().unwrap() < 0.1);
}

#[test]
fn a_run_is_resumed_with_its_own_configuration() {
    let workspace = Workspace::new();
    workspace.train(&["--steps", "4"]).success();
    let file = workspace.run(&["inspect", "checkpoints/step-00000004.shoe", "--config"]).success().stdout;
    workspace.write("run.toml", file);
    let resume =
        ["train", "--config", "run.toml", "--checkpoint", "checkpoints/step-00000004.shoe", "--no-chat"];
    workspace.run(&[&resume[..], &["--steps", "6"]].concat()).success();
    assert_eq!(workspace.inspect("checkpoints/best.shoe")["recipe"]["length"], 6.0);
}
