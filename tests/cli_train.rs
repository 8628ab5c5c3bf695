//! `shoestring train`, run as a program.

#[path = "common/dialogue.rs"]
mod dialogue;
#[path = "cli_train/divergence.rs"]
mod divergence;
#[path = "common/program.rs"]
mod program;
#[path = "cli_train/texts.rs"]
mod texts;

use dialogue::dialogue;
use program::{TINY, Workspace, finish, tiny_training};
use serde_json::Value;
use std::io::{BufRead, BufReader};
use std::process::Stdio;

/// Names of a run's numbered checkpoints.
fn numbered(workspace: &Workspace, folder: &str) -> Vec<String> {
    workspace.list(folder).into_iter().filter(|name| name.starts_with("step-")).collect()
}

#[test]
fn a_run_leaves_checkpoints_and_metrics_and_nothing_on_stdout() {
    let workspace = Workspace::new();
    let run = workspace.train(&["--epochs", "2"]).success();
    assert_eq!(run.stdout, "");
    assert!(run.stderr.contains("Model: ") && run.stderr.contains("checkpoints/best.shoe"), "{}", run.stderr);

    let metrics = workspace.metrics("checkpoints/metrics.jsonl");
    let number = |line: &Value, key: &str| line[key].as_f64().unwrap_or_else(|| panic!("{key} in {line}"));
    for line in &metrics {
        for key in
            ["step", "epoch", "tokens", "seconds", "loss", "learning_rate", "gradient_norm", "largest_state"]
        {
            assert!(number(line, key) >= 0.0);
        }
    }
    // Not where nothing was trained since the line before.
    let speeds: Vec<f64> =
        metrics.iter().filter_map(|line| line.get("tokens_per_second")?.as_f64()).collect();
    assert!(!speeds.is_empty() && speeds.iter().all(|&speed| speed > 0.0), "{speeds:?}");
    let validated: Vec<&Value> =
        metrics.iter().filter(|line| line.get("val_nats_per_token").is_some()).collect();
    assert_eq!(validated.len(), 2, "one at the end of each epoch: {metrics:?}");
    for line in &validated {
        // A text's nats by tokens, by characters and in bits by bytes, of which it has ever more.
        let per =
            ["val_nats_per_token", "val_nats_per_char", "val_bits_per_byte"].map(|key| number(line, key));
        assert!(0.0 < per[1] && per[1] < per[0] && per[2] < per[1] / std::f64::consts::LN_2, "{line}");
    }
    assert_eq!(validated[1]["epoch"], 2);

    let best = workspace.inspect("checkpoints/best.shoe");
    assert_eq!((best["resumable"].as_bool(), best["dialogue"].as_bool()), (Some(false), Some(true)));
    let last = numbered(&workspace, "checkpoints").pop().unwrap();
    let last = workspace.inspect(&format!("checkpoints/{last}"));
    assert_eq!((last["resumable"].as_bool(), last["epoch"].as_u64()), (Some(true), Some(2)));
    assert_eq!(last["validations"].as_array().unwrap().len(), 2);
    assert_eq!(last["step"], validated[1]["step"]);
    assert!(last["loss"].as_f64().unwrap() < (300f64).ln(), "it learned nothing: {last}");
}

#[test]
fn a_tokenizer_is_trained_on_a_folder_as_a_model_is() {
    let workspace = Workspace::new();
    for name in ["texts/a.txt", "texts/b.txt"] {
        workspace.write(name, dialogue(2000).replace('\n', "\r\n"));
    }
    workspace.write("joined.txt", [dialogue(2000), dialogue(2000)].join("\n\n"));
    for (data, out) in [("texts", "a.json"), ("joined.txt", "b.json")] {
        let train = ["tokenizer", "train", "--data", data, "--vocab-size", "300", "--out", out];
        workspace.run(&train).success();
    }
    assert!(workspace.read("a.json") == workspace.read("b.json"));
}

#[test]
fn more_threads_than_cores_are_remarked_on() {
    let workspace = Workspace::new();
    let said = |threads: &str| {
        let mut train = tiny_training(&["--steps", "1"]);
        let at = train.iter().position(|flag| *flag == "--threads").unwrap();
        train[at + 1] = threads;
        workspace.run(&train).success().stderr
    };
    assert!(said("500").contains("more threads than that are slower"));
    assert!(!said("1").contains("slower"));
}

#[test]
fn metrics_tell_the_learning_rate_and_the_loss_by_characters() {
    let workspace = Workspace::new();
    let flags = ["--steps", "40", "--warmup-steps", "0", "--final-lr", "0.5", "--lr", "0.004"];
    workspace.train(&flags).success();
    let metrics = workspace.metrics("checkpoints/metrics.jsonl");
    let last = metrics.last().unwrap();
    // On a slow machine the last line, of the validation, comes right after another and has no steps of its own.
    let trained = metrics.iter().rfind(|line| !line["train_nats_per_char"].is_null()).unwrap();
    let number =
        |line: &serde_json::Value, key: &str| line[key].as_f64().unwrap_or_else(|| panic!("{key} in {line}"));
    // The last of 40 steps: half a cosine from 0.004 to 0.002, at 39/40 of its way.
    let done = std::f64::consts::PI * 39.0 / 40.0;
    let expected = 0.004 * (0.5 + 0.25 * (1.0 + done.cos()));
    assert!((number(last, "learning_rate") / expected - 1.0).abs() < 1e-5, "{last} {expected}");

    // What is trained on is nine tenths of the text, which the last validation's ratios are near to.
    let ratio = |line, above: &str, below: &str| number(line, above) / number(line, below);
    let bytes_per_char = ratio(trained, "train_nats_per_char", "train_bits_per_byte");
    let held_out = ratio(last, "val_nats_per_char", "val_bits_per_byte");
    assert!((bytes_per_char / held_out - 1.0).abs() < 0.02, "{trained} {last}");
    // Bytes a character, of which few have more than one here.
    assert!((1.0..1.1).contains(&(held_out / std::f64::consts::LN_2)), "{last}");
    let chars_per_token = ratio(trained, "loss", "train_nats_per_char");
    let held_out = ratio(last, "val_nats_per_token", "val_nats_per_char");
    assert!((chars_per_token / held_out - 1.0).abs() < 0.05, "{trained} {last}");
}

#[test]
fn a_run_says_what_it_needs_and_once_it_is_measured_how_far_it_gets() {
    let workspace = Workspace::new();
    let run = workspace.train(&["--minutes", "0.04"]).success();
    assert!(run.stderr.contains(" MB of memory"), "{}", run.stderr);
    let said: Vec<&str> = run.stderr.lines().filter(|line| line.contains("tokens/s the")).collect();
    let [forecast] = said[..] else { panic!("it says so once: {}", run.stderr) };
    let number = |text: &str, before: &str| -> f64 {
        let rest = text.split(before).next().unwrap();
        let digits = |part: &&str| part.starts_with(|c: char| c.is_ascii_digit());
        rest.split_whitespace().rfind(digits).unwrap().parse().unwrap()
    };
    // How fast a run is while it is measured may be far from how fast it is on the whole; what follows from it may not.
    let rate = number(forecast, " tokens/s the");
    let left = number(forecast, " tokens, ") * if forecast.contains(" million tokens, ") { 1e6 } else { 1.0 };
    assert!(left > 0.0 && left <= 1.1 * rate * 60.0 * 0.04, "{forecast}");
    let (minutes, seconds) =
        forecast.split(" the ").nth(1).unwrap().split_once(" left").unwrap().0.split_once(':').unwrap();
    let shown = 60.0 * minutes.parse::<f64>().unwrap() + seconds.parse::<f64>().unwrap();
    assert!((left / rate - shown).abs() <= 1.1, "{forecast}");
    let text = number(&run.stderr, " tokens to train on");
    let (shown, passes) = (number(forecast, " passes over the text"), left / text);
    let rounding = if shown < 10.0 { 0.06 } else { 0.6 };
    assert!((shown - passes).abs() < 0.05 * passes + rounding, "{forecast} {text}");
    assert!(workspace.inspect("checkpoints/best.shoe")["tokens"].as_f64() > Some(0.0));
    assert!(!run.stderr.contains(['▁', '█']), "no sparkline where there is no terminal");
}

#[test]
fn metrics_of_a_sparse_model_tell_the_load_of_its_experts() {
    let workspace = Workspace::new();
    workspace.train(&["--steps", "20", "--top-k", "1"]).success();
    let metrics = workspace.metrics("checkpoints/metrics.jsonl");
    let line = metrics.last().unwrap();
    let layers: Vec<[f64; 2]> = serde_json::from_value(line["expert_load"].clone()).unwrap();
    assert_eq!(layers.len(), 1);
    assert!(layers[0].iter().all(|share| (0.0..=1.0).contains(share)), "{line}");
    assert!((layers[0][0] + layers[0][1] - 1.0).abs() < 1e-3, "{line}");
    // All 20 steps are in that line; the record has them smoothed.
    let shown = workspace.inspect("checkpoints/best.shoe");
    let recorded: Vec<[f64; 2]> = serde_json::from_value(shown["expert_load"].clone()).unwrap();
    assert_eq!(recorded[0][0] > recorded[0][1], layers[0][0] > layers[0][1], "{recorded:?} {line}");
    assert!((recorded[0][0] + recorded[0][1] - 1.0).abs() < 1e-3, "{recorded:?}");
    let text = workspace.run(&["inspect", "checkpoints/best.shoe"]).success().stdout;
    assert!(text.contains(&format!("layer 0: {:.3} {:.3}", recorded[0][0], recorded[0][1])), "{text}");

    workspace.train(&["--steps", "5", "--checkpoint-dir", "dense"]).success();
    assert!(workspace.metrics("dense/metrics.jsonl").iter().all(|line| line.get("expert_load").is_none()));
    assert!(workspace.inspect("dense/best.shoe")["expert_load"].is_null());
}

#[test]
fn quiet_runs_are_silent() {
    let workspace = Workspace::new();
    for quiet in ["--quiet", "-q"] {
        let run = workspace.train(&["--steps", "5", quiet]).success();
        assert_eq!((run.stdout.as_str(), run.stderr.as_str()), ("", ""));
    }
}

#[test]
fn sizes_and_settings_are_what_the_flags_say() {
    let workspace = Workspace::new();
    let flags = [
        "--steps",
        "3",
        "--gru-layers",
        "2",
        "--num-experts",
        "3",
        "--top-k",
        "2",
        "--embedding-dim",
        "24",
        "--eps-rmsnorm",
        "1e-4",
        "--lr",
        "0.004",
        "--wd",
        "0.25",
        "--grad-clip",
        "0.75",
        "--dropout",
        "0.125",
        "--eps-adamw",
        "1e-7",
        "--beta1",
        "0.8",
        "--beta2",
        "0.95",
        "--warmup-steps",
        "7",
        "--final-lr",
        "0.5",
        "--seed",
        "11",
    ];
    let mut arguments =
        vec!["train", "--model-data", "text.txt", "--gru-hidden-size", "16", "--bpe-vocab-size", "290"];
    arguments.extend(["--batch-size", "3", "--seq-length", "9", "--no-chat"]);
    arguments.extend(flags);
    workspace.run(&arguments).success();
    let shown = workspace.inspect("checkpoints/best.shoe");
    let expected = [
        ("vocabulary", 290.0),
        ("embedding_dim", 24.0),
        ("gru_hidden_size", 16.0),
        ("gru_layers", 2.0),
        ("num_experts", 3.0),
        ("top_k", 2.0),
        ("eps_rmsnorm", 1e-4),
    ];
    for (key, value) in expected {
        assert_eq!(shown["config"][key].as_f64(), Some(value), "{key}");
    }
    let expected = [
        ("length", 3.0),
        ("batch_size", 3.0),
        ("seq_length", 9.0),
        ("lr", 0.004),
        ("wd", 0.25),
        ("grad_clip", 0.75),
        ("dropout", 0.125),
        ("eps_adamw", 1e-7),
        ("beta1", 0.8),
        ("beta2", 0.95),
        ("warmup_steps", 7.0),
        ("final_lr", 0.5),
        ("seed", 11.0),
    ];
    for (key, value) in expected {
        assert_eq!(shown["recipe"][key].as_f64(), Some(value), "{key}");
    }
    assert_eq!(shown["recipe"]["length_unit"], "steps");
}

#[test]
fn the_classic_recipe_is_the_documented_one_and_flags_win_over_it() {
    let workspace = Workspace::new();
    workspace.train(&["--recipe", "classic", "--steps", "3", "--lr", "0.002"]).success();
    let recipe = &workspace.inspect("checkpoints/best.shoe")["recipe"];
    let expected = [
        ("wd", 0.01),
        ("grad_clip", 5.0),
        ("dropout", 0.0),
        ("final_lr", 1.0),
        ("warmup_steps", 0.0),
        ("lr", 0.002),
        ("beta1", 0.9),
        ("beta2", 0.999),
        ("eps_adamw", 1e-8),
    ];
    for (key, value) in expected {
        assert_eq!(recipe[key].as_f64(), Some(value), "{key}");
    }
    assert_eq!(recipe["name"], "classic");
}

#[test]
fn a_sparse_model_has_a_rate_of_its_own() {
    let workspace = Workspace::new();
    let rate = |flags: &[&str]| {
        workspace.train(&[&["--steps", "1"], flags].concat()).success();
        workspace.inspect("checkpoints/best.shoe")["recipe"]["lr"].as_f64().unwrap()
    };
    assert_eq!(rate(&[]), 0.005);
    assert_eq!(rate(&["--top-k", "1"]), 0.007);
    assert_eq!(rate(&["--top-k", "1", "--lr", "0.002"]), 0.002);
    assert_eq!(rate(&["--top-k", "1", "--recipe", "classic"]), 0.001);
}

#[test]
fn a_size_names_sizes_and_a_recipe_and_flags_win_over_it() {
    let workspace = Workspace::new();
    let inspect = |flags: &[&str]| {
        let train = ["train", "--model-data", "text.txt", "--no-chat", "--steps", "1", "--threads", "1"];
        workspace.run(&[&train[..], flags].concat()).success();
        workspace.inspect("checkpoints/best.shoe")
    };
    let sizes = |shown: &Value| {
        ["vocabulary", "embedding_dim", "gru_hidden_size", "gru_layers", "num_experts"]
            .map(|key| shown["config"][key].as_u64().unwrap())
    };
    let tiny = inspect(&["--size", "tiny", "--bpe-vocab-size", "300"]);
    assert_eq!(sizes(&tiny), [300, 48, 48, 2, 4]);
    assert_eq!((tiny["size"].as_str(), tiny["recipe"]["name"].as_str()), (Some("tiny"), Some("tiny")));

    let default = inspect(&["--bpe-vocab-size", "300"]);
    assert_eq!(sizes(&default), [300, 96, 96, 2, 6]);
    assert_eq!(
        (default["size"].as_str(), default["recipe"]["name"].as_str()),
        (Some("small"), Some("small"))
    );
    assert_ne!(default["recipe"]["lr"], tiny["recipe"]["lr"], "each has its own recipe");

    let changed =
        inspect(&["--size", "tiny", "--bpe-vocab-size", "290", "--num-experts", "3", "--lr", "0.001"]);
    assert_eq!(sizes(&changed), [290, 48, 48, 2, 3]);
    assert_eq!((changed["size"].as_str(), changed["recipe"]["name"].as_str()), (None, Some("tiny")));
    assert_eq!(changed["recipe"]["lr"].as_f64(), Some(0.001));

    let text = workspace.run(&["inspect", "checkpoints/best.shoe"]).success().stdout;
    assert!(text.contains("recipe      tiny: "), "{text}");
    let unknown = workspace.run(&["train", "--size", "huge"]);
    let unknown = unknown.code(2).stderr;
    assert!(unknown.contains("huge") && unknown.contains("tiny, small, medium, large"), "{unknown}");
    let other = ["train", "--checkpoint", "checkpoints/step-00000001.shoe", "--size", "large"];
    workspace.run(&other).failure(2, &["--size large", "can't be resumed"]);
}

#[test]
fn runs_of_a_number_of_steps_are_validated_at_the_same_steps_whatever_the_time() {
    let workspace = Workspace::new();
    workspace.train(&["--steps", "300"]).success();
    let last = workspace.inspect("checkpoints/step-00000300.shoe");
    let steps: Vec<u64> =
        last["validations"].as_array().unwrap().iter().map(|it| it["step"].as_u64().unwrap()).collect();
    let epoch = steps[0];
    assert_eq!(steps, [epoch, 2 * epoch, 300], "{last}");
}

#[test]
fn only_the_newest_checkpoints_are_kept() {
    let workspace = Workspace::new();
    workspace.train(&["--steps", "90", "--save-every", "0s", "--keep", "3"]).success();
    // And one that is old enough to go back to, and the next to be.
    let kept = numbered(&workspace, "checkpoints");
    let steps: Vec<u64> = kept.iter().map(|name| name[5..13].parse().unwrap()).collect();
    assert_eq!(steps[2..], [88, 89, 90]);
    assert!(steps[0] <= 65 && (65..88).contains(&steps[1]), "{kept:?}");
    assert!(workspace.exists("checkpoints/best.shoe"));
    let far_apart = ["--steps", "60", "--save-every", "1h", "--keep", "1", "--checkpoint-dir", "far-apart"];
    workspace.train(&far_apart).success();
    assert_eq!(numbered(&workspace, "far-apart"), ["step-00000000.shoe", "step-00000060.shoe"]);
}

#[test]
fn an_earlier_runs_files_are_set_aside() {
    let workspace = Workspace::new();
    workspace.train(&["--steps", "3"]).success();
    let first = workspace.read("checkpoints/best.shoe");
    workspace.write("checkpoints/my-own.shoe", &first);
    let again = workspace.train(&["--steps", "4", "--seed", "2"]).success();
    assert!(again.stderr.contains("checkpoints/earlier-1"), "{}", again.stderr);
    let expected = ["best.shoe", "metrics.jsonl", "step-00000000.shoe", "step-00000003.shoe"];
    assert_eq!(workspace.list("checkpoints/earlier-1"), expected);
    assert!(workspace.read("checkpoints/earlier-1/best.shoe") == first);
    assert_eq!(numbered(&workspace, "checkpoints"), ["step-00000000.shoe", "step-00000004.shoe"]);
    workspace.train(&["--steps", "3"]).success();
    assert!(workspace.exists("checkpoints/earlier-2/best.shoe"));
    assert!(workspace.exists("checkpoints/my-own.shoe"));
}

#[test]
fn a_folder_has_room_for_one_run_at_a_time() {
    let workspace = Workspace::new();
    let mut first = workspace
        .command(&tiny_training(&["--minutes", "5"]))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // It holds the folder by the time it says where checkpoints go.
    let mut lines = BufReader::new(first.stderr.take().unwrap()).lines();
    assert!(lines.any(|line| line.unwrap().contains("Checkpoints go to checkpoints")));
    let second = workspace.train(&["--steps", "2", "--quiet"]);
    let elsewhere = workspace.train(&["--steps", "2", "--checkpoint-dir", "elsewhere"]);
    first.kill().unwrap();
    finish(first, b"");
    second.failure(1, &["another training is writing to checkpoints", "--checkpoint-dir"]);
    elsewhere.success();
    // A run that was killed leaves the folder free.
    workspace.train(&["--steps", "2"]).success();
}

#[test]
fn a_run_goes_on_when_nobody_reads_what_it_says() {
    let workspace = Workspace::new();
    let mut run = workspace.start(&tiny_training(&["--epochs", "3"]));
    drop(run.stderr.take());
    drop(run.stdout.take());
    assert!(run.wait().unwrap().success());
    assert!(workspace.exists("checkpoints/best.shoe"));
}

#[cfg(unix)]
#[test]
fn a_full_disk_ends_a_run_with_an_error_and_earlier_checkpoints_intact() {
    let workspace = Workspace::new();
    workspace.train(&["--steps", "3"]).success();
    let size = workspace.read("checkpoints/step-00000003.shoe").len();
    let before = workspace.weights("checkpoints/step-00000003.shoe");
    // No file may grow beyond half of a checkpoint; the signal that says so is ignored, so that writing fails.
    let limited = |arguments: &[&str]| {
        let limit = format!("trap '' XFSZ; ulimit -f {}; exec \"$0\" \"$@\"", size / 2 / 1024);
        let mut command = std::process::Command::new("bash");
        command.args(["-c", &limit, env!("CARGO_BIN_EXE_shoestring")]).args(arguments);
        program::Finished::from(command.current_dir(workspace.path("")).output().unwrap())
    };
    let resume =
        tiny_training(&["--checkpoint", "checkpoints/step-00000003.shoe", "--steps", "6", "--quiet"]);
    let run = limited(&resume).code(1);
    let last = run.stderr.lines().last().unwrap();
    assert!(last.contains("cannot save checkpoints/step-00000006.shoe"), "{last}");
    assert!(workspace.weights("checkpoints/step-00000003.shoe") == before);
    assert!(!workspace.list("checkpoints").iter().any(|name| name.ends_with(".tmp")));

    let new = limited(&tiny_training(&["--steps", "3", "--checkpoint-dir", "new", "--quiet"]));
    new.failure(1, &["cannot save new/step-00000000.shoe"]);
}

/// The largest sizes that flags take need terabytes.
#[cfg(target_os = "linux")]
#[test]
fn a_model_too_large_for_the_machine_is_refused_before_it_is_made() {
    let workspace = Workspace::new();
    let sizes =
        ["--gru-hidden-size", "16384", "--num-experts", "256", "--bpe-vocab-size", "300", "--no-chat"];
    let run = workspace.run(&[&["train", "--model-data", "text.txt", "--quiet"], &sizes[..]].concat());
    run.failure(2, &["of memory", "GB", "--gru-hidden-size"]);
    let chunk = ["--batch-size", "4096", "--seq-length", "65536", "--bpe-vocab-size", "300", "--no-chat"];
    let run = workspace.run(&[&["train", "--model-data", "text.txt", "--quiet"], &chunk[..]].concat());
    run.failure(2, &["of memory", "GB", "--batch-size"]);
    assert!(!workspace.exists("checkpoints"), "nothing is made for a run that can't be");
}
