//! `shoestring quantize`, run as a program, and what can be done with what it writes.

#[path = "common/dialogue.rs"]
mod dialogue;
#[path = "common/program.rs"]
mod program;
#[path = "common/small_model.rs"]
mod small_model;

use dialogue::dialogue;
use program::Workspace;
use shoestring::model::ModelConfig;
use small_model::{SMALL, save_model, save_resumable};

const DENSE: ModelConfig = ModelConfig { top_k: 3, ..SMALL };

fn workspace() -> Workspace {
    let workspace = Workspace::new();
    save_model(&workspace.path("model.shoe"), DENSE, true);
    workspace.write("eval.txt", dialogue(1_500));
    workspace
}

fn quantize(workspace: &Workspace, arguments: &[&str]) -> program::Finished {
    workspace.run(&[&["quantize", "model.shoe", "small.shoe", "--eval-data", "eval.txt"], arguments].concat())
}

#[test]
fn every_kind_is_written_measured_and_usable() {
    let workspace = workspace();
    let mut sizes = Vec::new();
    for kind in ["f32", "f16", "q8", "q4"] {
        let report = quantize(&workspace, &["--to", kind, "--json"]).success().json();
        assert_eq!((report["from"].as_str(), report["to"].as_str()), (Some("f32"), Some(kind)));
        let loss = |when: &str| report[when]["nats_per_char"].as_f64().unwrap();
        let tensors = report["tensors"].as_array().unwrap();
        assert!(tensors.iter().any(|tensor| tensor["kind"] == kind));
        assert!(tensors.iter().all(|tensor| tensor["relative_error"].as_f64().unwrap() < 0.2));

        let eval = ["eval", "--checkpoint", "small.shoe", "--data", "eval.txt", "--json"];
        let measured = workspace.run(&eval).success().json()["nats_per_char"].as_f64().unwrap();
        assert!((measured - loss("after")).abs() < 1e-9, "{kind}: {measured}");
        assert!((loss("before") - loss("after")).abs() < 0.03, "{kind}");

        let inspected = workspace.run(&["inspect", "small.shoe", "--json", "--verify"]).success().json();
        assert_eq!(inspected["kind"], kind);
        sizes.push(inspected["bytes"].as_u64().unwrap());
        let generate = ["generate", "--checkpoint", "small.shoe", "--max-tokens", "20", "--seed", "1"];
        assert_eq!(workspace.run(&generate).success().stdout, workspace.run(&generate).success().stdout);
        workspace.run_with(&["chat", "--checkpoint", "small.shoe"], b"hello\n").success();
        workspace.run(&["export", "small.shoe", "exported"]).success();
        workspace.run(&["import", "exported", "-o", "imported.shoe"]).success();
    }
    assert!(sizes.is_sorted_by(|a, b| a > b), "{sizes:?}");
}

#[test]
fn the_table_names_every_tensor_and_the_loss() {
    let workspace = workspace();
    let run = quantize(&workspace, &["--to", "q4"]).success();
    for name in ["embedding.weight", "layers.1.recurrent.weight", "head.bias", "nats/char", "bits/byte"] {
        assert!(run.stdout.contains(name), "{name} is not in\n{}", run.stdout);
    }
    assert!(run.stderr.starts_with("Wrote small.shoe ("), "{}", run.stderr);
}

#[test]
fn a_loss_that_is_too_large_is_an_error_and_nothing_is_written() {
    let workspace = workspace();
    // No loss is below zero by as much as this model's changes, and it changes either way.
    let mut refused = 0;
    for text in ["eval.txt", "text.txt", "other.txt"] {
        workspace.write("other.txt", "abc ".repeat(500));
        let arguments =
            ["quantize", "model.shoe", "small.shoe", "--to", "q4", "--max-loss", "0", "--eval-data", text];
        let run = workspace.run(&arguments);
        if run.status.code() == Some(1) {
            refused += 1;
            assert!(
                run.stderr.starts_with("shoestring: small.shoe not written: the loss grows by 0."),
                "{}",
                run.stderr
            );
            assert_eq!(run.stderr.lines().count(), 1);
            assert!(!workspace.exists("small.shoe"));
        } else {
            run.success();
            std::fs::remove_file(workspace.path("small.shoe")).unwrap();
        }
    }
    assert!(refused > 0, "q4 lost nothing on three texts");
}

#[test]
fn a_quantized_model_can_be_converted_again_but_not_trained_on() {
    let workspace = workspace();
    quantize(&workspace, &["--to", "q8"]).success();
    let again = ["quantize", "small.shoe", "again.shoe", "--to", "f32", "--eval-data", "eval.txt", "--json"];
    let report = workspace.run(&again).success().json();
    assert_eq!((report["from"].as_str(), report["to"].as_str()), (Some("q8"), Some("f32")));
    let run = workspace.run(&["train", "--checkpoint", "small.shoe", "--no-chat"]);
    assert_eq!(run.status.code(), Some(1));
    assert!(run.stderr.contains("small.shoe holds a model only"), "{}", run.stderr);
}

#[test]
fn a_resumable_checkpoint_loses_its_training_state() {
    let workspace = workspace();
    save_resumable(&workspace.path("model.shoe"), DENSE);
    quantize(&workspace, &["--to", "f32"]).success();
    assert_eq!(workspace.run(&["inspect", "small.shoe", "--json"]).success().json()["resumable"], false);
}

#[test]
fn wrong_input_is_one_line_and_writes_nothing() {
    let workspace = workspace();
    workspace.write("texts/a.txt", "a text to measure with");
    save_resumable(&workspace.path("resumable.shoe"), DENSE);
    let cases: [(&[&str], i32, &str); 10] = [
        (&["model.shoe", "texts/a.txt", "--to", "q8"], 2, "texts/a.txt is there, and is no model"),
        (&["model.shoe", "resumable.shoe", "--to", "q8"], 2, "resumable.shoe holds a run to go on with"),
        (
            &["model.shoe", "eval.txt", "--to", "q8", "--eval-data", "eval.txt"],
            2,
            "eval.txt is both input and",
        ),
        (&["model.shoe", "texts/a.txt", "--to", "q8", "--eval-data", "texts"], 2, "a.txt is both input and"),
        (&["model.shoe", "model.shoe", "--to", "q8"], 2, "model.shoe is both input and output"),
        (&["missing.shoe", "small.shoe", "--to", "q8"], 1, "cannot open missing.shoe"),
        (&["text.txt", "small.shoe", "--to", "q8"], 1, "text.txt is not a shoestring checkpoint"),
        (&["model.shoe", "no/such/small.shoe", "--to", "q8"], 1, "cannot save no/such/small.shoe"),
        (&["model.shoe", "small.shoe", "--to", "q8", "--eval-data", "gone.txt"], 1, "cannot read gone.txt"),
        (&["model.shoe", "small.shoe", "--to", "q7"], 2, "invalid value 'q7'"),
    ];
    for (arguments, code, message) in cases {
        let run = workspace.run(&[&["quantize"], arguments].concat());
        assert_eq!(run.status.code(), Some(code), "{arguments:?}: {}", run.stderr);
        assert!(run.stderr.contains(message), "{arguments:?}: {}", run.stderr);
        assert!(!workspace.exists("small.shoe"), "{arguments:?}");
    }
}

#[cfg(unix)]
/// So large a file is not read whole when it is opened.
#[test]
fn what_is_damaged_gets_no_checksum_of_its_own() {
    let workspace = workspace();
    let config = ModelConfig { embedding: 1024, hidden: 512, ..SMALL };
    save_model(&workspace.path("large.shoe"), config, true);
    let mut bytes = workspace.read("large.shoe");
    assert!(bytes.len() > 8 << 20);
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    workspace.write("large.shoe", bytes);
    let damaged = ["large.shoe", "damaged", "checksum"];
    workspace.run(&["quantize", "large.shoe", "out.shoe", "--to", "f16"]).failure(1, &damaged);
    workspace.run(&["export", "large.shoe", "exported"]).failure(1, &damaged);
    assert!(!workspace.exists("out.shoe") && !workspace.exists("exported"));
}

#[test]
fn a_device_is_not_replaced_by_a_file() {
    let workspace = workspace();
    let run =
        workspace.run(&["quantize", "model.shoe", "/dev/null", "--to", "q8", "--eval-data", "eval.txt"]);
    assert_eq!(run.status.code(), Some(1));
    assert_eq!(run.stderr, "shoestring: cannot save /dev/null: it is a device or a pipe; name a file\n");
    assert!(!std::fs::metadata("/dev/null").unwrap().is_file());
}

#[test]
fn nothing_depends_on_someone_reading_the_table() {
    let workspace = workspace();
    let unread = |arguments: &[&str]| {
        let mut child = workspace.start(arguments);
        drop(child.stdout.take());
        program::Finished::from(child.wait_with_output().unwrap())
    };
    unread(&["quantize", "model.shoe", "small.shoe", "--to", "q8", "--eval-data", "eval.txt"]).success();
    assert!(workspace.exists("small.shoe"));
    let mut refused = 0;
    for text in ["eval.txt", "text.txt"] {
        let arguments =
            ["quantize", "model.shoe", "none.shoe", "--to", "q4", "--max-loss", "0", "--eval-data", text];
        let run = unread(&arguments);
        refused += usize::from(run.status.code() == Some(1));
        assert_eq!(run.status.success(), workspace.exists("none.shoe"), "{run:?}");
        let _ = std::fs::remove_file(workspace.path("none.shoe"));
    }
    assert!(refused > 0, "q4 lost nothing on two texts");
}
