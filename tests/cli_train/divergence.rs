//! Runs whose rate is too high.

use super::*;

#[test]
fn divergence_is_told_rolled_back_and_given_up_after_three_times() {
    let workspace = Workspace::new();
    let run = workspace.train(&["--steps", "400", "--lr", "50", "--warmup-steps", "0"]).code(1);
    let told: Vec<&str> = run.stderr.lines().filter(|line| line.starts_with("Training diverged")).collect();
    assert_eq!(told.len(), 3, "{}", run.stderr);
    for (line, rate) in told.iter().zip(["2.50e1", "1.25e1", "6.25e0"]) {
        assert!(line.contains(rate), "{line}");
    }
    let last = run.stderr.lines().last().unwrap();
    assert!(last.contains("smaller --lr") && last.contains("checkpoints/step-00000000.shoe"), "{last}");
    for name in workspace.list("checkpoints").iter().filter(|name| name.ends_with(".shoe")) {
        finite_weights(&workspace, &format!("checkpoints/{name}"));
    }
}

/// The rate rises until training diverges, which it does for some time before it shows.
#[test]
fn after_a_divergence_it_goes_on_from_before_it_began() {
    let workspace = Workspace::new();
    let flags = ["--epochs", "10", "--lr", "6", "--warmup-steps", "10000", "--save-every", "0s"];
    let run = workspace.train(&flags).success();
    let number = |text: &str, before: &str| -> f64 {
        let text = text.split(before).nth(1).unwrap_or_else(|| panic!("no {before:?} in {text}"));
        text.split(|c: char| !c.is_ascii_digit() && c != '.').next().unwrap().parse().unwrap()
    };
    let diverged: Vec<&str> =
        run.stderr.lines().filter(|line| line.starts_with("Training diverged")).collect();
    assert!(!diverged.is_empty(), "{}", run.stderr);
    for line in diverged {
        let (from, to) = (number(line, "at step "), number(line, "checkpoints/step-"));
        assert!(from - to >= 25.0 || to == 0.0, "{line}");
    }
    let best = run.stderr.lines().filter(|line| line.ends_with("the best so far"));
    let losses: Vec<f64> = best.map(|line| number(line, "validation ")).collect();
    assert!(losses.is_sorted_by(|earlier, later| earlier >= later), "{losses:?}");
    let saved = workspace.inspect("checkpoints/best.shoe");
    let saved = saved["validations"].as_array().unwrap().last().unwrap()["nats_per_token"].as_f64().unwrap();
    assert!((saved - losses.last().unwrap()).abs() < 6e-4, "{saved} {losses:?}");
    let rates = workspace.metrics("checkpoints/metrics.jsonl");
    assert!(rates.iter().filter_map(|line| line["tokens_per_second"].as_f64()).all(|rate| rate > 0.0));
}

fn finite_weights(workspace: &Workspace, checkpoint: &str) {
    let bytes = workspace.weights(checkpoint);
    let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    for (name, tensor) in file.tensors() {
        let values = tensor.data().as_chunks().0.iter().map(|&value| f32::from_le_bytes(value));
        assert!(values.clone().count() > 0 && values.into_iter().all(f32::is_finite), "{checkpoint}: {name}");
    }
}
