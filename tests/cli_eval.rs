//! `shoestring eval` and `shoestring inspect`, run as a program.

#[path = "common/dialogue.rs"]
mod dialogue;
#[path = "common/program.rs"]
mod program;
#[path = "common/small_model.rs"]
mod small_model;

use dialogue::dialogue;
use program::Workspace;
use shoestring::Model;
use shoestring::model::ModelConfig;
use shoestring::reference::{Tensors, forward, zero_states};
use shoestring::tokenizer::{EOS, Special};
use small_model::{SMALL, save_model, save_resumable};
use std::collections::BTreeSet;

/// Relative difference between f32 over a whole text and f64.
const ACCURACY: f64 = 1e-5;

/// Nats of a text, by the reference in f64.
fn reference_nats(model: &Model, text: &str) -> (f64, usize) {
    let weights = model.weights();
    let parameters: Tensors<f64> = weights
        .layout
        .tensors
        .iter()
        .map(|tensor| (tensor.name.clone(), tensor.read(weights.lines).into_iter().map(f64::from).collect()))
        .collect();
    let mut tokens = vec![EOS];
    model.tokenizer().encode(text.as_bytes(), Special::Match, &mut tokens);
    let (inputs, targets) = (&tokens[..tokens.len() - 1], &tokens[1..]);
    let config = model.config();
    let states = zero_states(&config, 1);
    let loss = forward(&config, &parameters, inputs, Some(targets), &states).unwrap().loss.unwrap();
    (loss * targets.len() as f64, targets.len())
}

fn close(value: &serde_json::Value, expected: f64) {
    let value = value.as_f64().unwrap();
    assert!((value - expected).abs() <= ACCURACY * expected, "{value} instead of {expected}");
}

#[test]
fn nats_are_those_of_the_reference() {
    let workspace = Workspace::new();
    let text = dialogue(1_500);
    workspace.write("eval.txt", &text);
    let configs = [
        SMALL,
        ModelConfig { top_k: 1, layers: 1, ..SMALL },
        ModelConfig { top_k: 3, embedding: 16, tied: true, ..SMALL },
    ];
    for config in configs {
        save_model(&workspace.path("model.shoe"), config, true);
        let arguments = ["eval", "--checkpoint", "model.shoe", "--data", "eval.txt", "--json"];
        let run = workspace.run(&arguments).success();
        assert_eq!(run.stderr, "");
        let report = run.json();
        let (nats, tokens) = reference_nats(&Model::open(workspace.path("model.shoe")).unwrap(), &text);
        close(&report["nats"], nats);
        assert_eq!(report["tokens"], tokens);
        assert_eq!(report["chars"], text.chars().count());
        assert_eq!(report["bytes"], text.len());
        close(&report["nats_per_token"], nats / tokens as f64);
        close(&report["nats_per_char"], nats / text.chars().count() as f64);
        close(&report["bits_per_byte"], nats / std::f64::consts::LN_2 / text.len() as f64);
        assert!(report["tokens_per_second"].as_f64().unwrap() > 0.0);
        let keys: BTreeSet<&str> = report.as_object().unwrap().keys().map(String::as_str).collect();
        let expected = [
            "nats",
            "tokens",
            "chars",
            "bytes",
            "nats_per_token",
            "nats_per_char",
            "bits_per_byte",
            "tokens_per_second",
        ];
        assert_eq!(keys, BTreeSet::from(expected));
        for threads in ["1", "2", "3"] {
            let again = workspace.run(&[&arguments[..], &["--threads", threads]].concat()).success().json();
            assert_eq!(again["nats"], report["nats"], "{threads} threads");
        }
    }
}

#[test]
fn the_shortest_texts_are_evaluated() {
    let workspace = Workspace::new();
    save_model(&workspace.path("model.shoe"), SMALL, true);
    // Lengths around those of a chunk are cut at every place there is.
    for length in [1, 2, 500, 1_000] {
        let text = &dialogue(2_000)[..length];
        workspace.write("eval.txt", text);
        let run = workspace.run(&["eval", "--checkpoint", "model.shoe", "--data", "eval.txt", "--json"]);
        let (nats, _) = reference_nats(&Model::open(workspace.path("model.shoe")).unwrap(), text);
        close(&run.success().json()["nats"], nats);
    }
    let plain = workspace.run(&["eval", "--checkpoint", "model.shoe", "--data", "eval.txt"]).success().stdout;
    for unit in ["nats/char", "bits/byte", "nats/token", "tokens/s"] {
        assert!(plain.contains(unit), "{plain}");
    }
}

#[test]
fn what_is_no_text_is_named() {
    let workspace = Workspace::new();
    save_model(&workspace.path("model.shoe"), SMALL, true);
    workspace.write("empty.txt", "");
    workspace.write("binary.txt", [0, 255, 1, 128].repeat(50));
    workspace.write("folder/notes.md", "text");
    let eval = |data: &str| workspace.run(&["eval", "--checkpoint", "model.shoe", "--data", data]);
    eval("empty.txt").failure(1, &["empty.txt is empty"]);
    eval("binary.txt").failure(1, &["binary.txt is not a text file"]);
    eval("folder").failure(1, &["folder holds no .txt file"]);
    eval("absent").failure(1, &["cannot read absent"]);
    let run = workspace.run(&["eval", "--checkpoint", "text.txt", "--data", "text.txt"]);
    run.failure(1, &["text.txt is not a shoestring checkpoint"]);
    workspace
        .run(&["eval", "--checkpoint", "absent.shoe", "--data", "text.txt"])
        .failure(1, &["absent.shoe"]);
}

#[test]
fn inspect_shows_what_a_checkpoint_holds() {
    let workspace = Workspace::new();
    workspace.run(&["train", "--steps", "1", "--no-chat", "--quiet"]).success();
    let shown = workspace.inspect("checkpoints/best.shoe");
    assert_eq!(shown["parameters"], 499_486);
    for (key, value) in [("vocabulary", 850), ("gru_layers", 2), ("num_experts", 6), ("top_k", 6)] {
        assert_eq!(shown["config"][key], value, "{key}");
    }
    let elements = |tensor: &serde_json::Value| -> u64 {
        tensor["shape"].as_array().unwrap().iter().map(|size| size.as_u64().unwrap()).product()
    };
    let tensors = shown["tensors"].as_array().unwrap();
    assert_eq!(tensors.iter().map(elements).sum::<u64>(), 499_486);
    assert_eq!(shown["kind"], "f32");
    assert_eq!(shown["bytes"], workspace.read("checkpoints/best.shoe").len());
    assert_eq!((shown["step"].as_u64(), shown["resumable"].as_bool()), (Some(1), Some(false)));

    let plain = workspace.run(&["inspect", "checkpoints/best.shoe"]).success().stdout;
    for part in ["499486 parameters", "model only", "vocabulary 850", "layers.1.recurrent.weight", "1 step,"]
    {
        assert!(plain.contains(part), "{part:?} is not in {plain}");
    }
}

#[test]
fn verifying_notices_a_flipped_byte() {
    let workspace = Workspace::new();
    save_resumable(&workspace.path("run.shoe"), SMALL);
    let verify = |more: &[&str]| workspace.run(&[&["inspect", "run.shoe", "--verify"], more].concat());
    assert!(verify(&[]).success().stdout.contains("checksum verified"));
    assert_eq!(verify(&["--json"]).success().json()["checksum_verified"], true);
    let mut bytes = workspace.read("run.shoe");
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    workspace.write("run.shoe", bytes);
    verify(&[]).failure(1, &["run.shoe is damaged", "checksum"]);
}

/// Checkpoints above 8 MB are not compared with their checksum when they are merely opened.
#[test]
fn verifying_notices_a_flipped_byte_in_a_large_file() {
    let workspace = Workspace::new();
    let large = ModelConfig { hidden: 256, embedding: 256, experts: 8, top_k: 8, layers: 2, ..SMALL };
    save_model(&workspace.path("large.shoe"), large, true);
    let mut bytes = workspace.read("large.shoe");
    assert!(bytes.len() > 8 << 20);
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    workspace.write("large.shoe", bytes);
    workspace.run(&["inspect", "large.shoe"]).success();
    workspace.run(&["inspect", "large.shoe", "--verify"]).failure(1, &["large.shoe is damaged", "checksum"]);
}

#[test]
fn a_loss_that_is_not_finite_is_a_failure() {
    let workspace = Workspace::new();
    small_model::save_runaway_model(&workspace.path("model.shoe"), SMALL);
    let eval = ["eval", "--checkpoint", "model.shoe", "--data", "text.txt"];
    for run in [workspace.run(&eval), workspace.run(&[&eval[..], &["--json"]].concat())] {
        assert_eq!(run.failure(1, &["model.shoe", "not finite"]).stdout, "");
    }
    let quantize = ["quantize", "model.shoe", "small.shoe", "--to", "q8", "--eval-data", "text.txt"];
    workspace.run(&quantize).failure(1, &["model.shoe", "not finite"]);
    assert!(!workspace.exists("small.shoe"));
    let generate = ["generate", "--checkpoint", "model.shoe", "--prompt", "x"];
    workspace.run(&generate).failure(1, &["model.shoe", "not finite"]);
    let json = workspace.run(&[&generate[..], &["--json"]].concat());
    assert_eq!(json.failure(1, &["model.shoe", "not finite"]).stdout, "");
}
