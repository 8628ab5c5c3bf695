//! Training with k < E computes an expert's active steps only. It agrees with the reference, which goes
//! through the text token by token, for any model and shape of chunk, and on any number of threads.

#[path = "common/compare.rs"]
mod compare;
#[path = "common/random.rs"]
mod random;

use compare::compare;
use proptest::prelude::*;
use random::{Case, margin};
use shoestring::kernels::{Kernels, Line, padded};
use shoestring::model::{Layout, ModelConfig};
use shoestring::reference::{Forward, Tensors, backward, forward};
use shoestring::train::Trainer;
use std::ops::Range;

/// Of f32, over up to three layers and a dozen steps.
const ACCURACY: f64 = 2e-4;
/// Scores of f32 that are nearer than this might be in another order than those of f64.
const LEAST_MARGIN: f64 = 1e-4;
/// Larger states are penalised in training (`src/train/backward.rs`), but not in the reference.
const LARGEST_STATE: f64 = 9.0;

/// Any sparse model.
fn any_config() -> impl Strategy<Value = ModelConfig> {
    let sizes = (2..40_usize, 1..24_usize, 1..24_usize, 1..4_usize, 2..7_usize, 1..7_usize);
    sizes.prop_map(|(vocabulary, embedding, hidden, layers, experts, fewer)| {
        let top_k = experts - fewer.min(experts - 1);
        ModelConfig { vocabulary, embedding, hidden, layers, experts, top_k, tied: false, eps_rmsnorm: 0.1 }
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 150, failure_persistence: None, ..ProptestConfig::default() })]

    /// Over two chunks, the second, shorter or longer, starting at the first's states.
    #[test]
    fn training_agrees_with_the_reference(
        config in any_config(),
        first in 1..13_usize,
        second in 1..13_usize,
        batch in 1..20_usize,
        unused in any::<bool>(),
        seed: u64,
    ) {
        let mut case = Case::random(config, first + second, batch, seed);
        if unused {
            // No stream ever chooses the last expert, unless it must.
            let bias = case.parameters.get_mut("layers.0.router.bias").unwrap();
            *bias.last_mut().unwrap() = -100.0;
        }
        let before = chunk(&case, 0..first, &case.states);
        let after = chunk(&case, first..first + second, &before.states);
        prop_assume!(margin(&before).min(margin(&after)) >= LEAST_MARGIN);
        prop_assume!(before.states.iter().chain(&after.states).flatten().all(|h| h.abs() < LARGEST_STATE));

        let runs = [1, 2, 3, 7].map(|threads| {
            let mut trainer = trainer(&case, batch, first.max(second), threads);
            [(0..first, &before), (first..first + second, &after)].map(|(steps, expected)| {
                let tokens = by_stream(&case.tokens, batch, &steps);
                let targets = by_stream(&case.targets, batch, &steps);
                let loss = trainer.gradient(&tokens, &targets, steps.len(), None);
                check(&case, batch, &mut trainer, loss, expected);
                (loss, trainer.last_gradient().to_vec(), trainer.network().carried_state().to_vec())
            })
        });
        prop_assert!(runs.iter().all(|run| *run == runs[0]), "the number of threads changes the result");
    }
}

/// The reference's forward pass over some steps of the case.
fn chunk(case: &Case, steps: Range<usize>, states: &[Vec<f64>]) -> Forward<f64> {
    let batch = case.states[0].len() / (case.config.experts * case.config.hidden);
    let positions = steps.start * batch..steps.end * batch;
    let targets = Some(&case.targets[positions.clone()]);
    forward(&case.config, &case.parameters, &case.tokens[positions], targets, states).unwrap()
}

/// A trainer of the case's parameters, at its states.
fn trainer(case: &Case, batch: usize, steps: usize, threads: usize) -> Trainer {
    let layout = Layout::new(&case.config);
    let mut weights = vec![Line::default(); layout.lines]; // [lines]
    for tensor in &layout.tensors {
        let values: Vec<f32> = case.parameters[&tensor.name].iter().map(|&x| x as f32).collect();
        tensor.write(&mut weights, &values);
    }
    let mut trainer = Trainer::new(case.config, Kernels::best(), weights, (batch, steps), threads).unwrap();
    let ModelConfig { hidden, experts, .. } = case.config;
    let carried = trainer.network().carried_state().chunks_exact_mut(padded(hidden));
    for (i, row) in carried.enumerate() {
        let (layer, expert, stream) = (i / (experts * batch), i / batch % experts, i % batch);
        let from = &case.states[layer][(stream * experts + expert) * hidden..][..hidden];
        row.iter_mut().zip(from).for_each(|(to, from)| *to = *from as f32);
    }
    trainer
}

/// Some steps of `[T, B]` tokens as `[B, T]`.
fn by_stream(tokens: &[u32], batch: usize, steps: &Range<usize>) -> Vec<u32> {
    (0..batch).flat_map(|b| steps.clone().map(move |t| tokens[t * batch + b])).collect()
}

/// Holds the loss, the gradient and the states after a chunk to the reference's.
fn check(case: &Case, batch: usize, trainer: &mut Trainer, loss: f64, expected: &Forward<f64>) {
    compare("loss", &[loss], &[expected.loss.unwrap()], ACCURACY).unwrap();
    let gradients: Tensors<f64> = backward(&case.parameters, expected).unwrap();
    for tensor in &Layout::new(&case.config).tensors {
        let (actual, expected) = (tensor.read(trainer.last_gradient()), &gradients[&tensor.name]);
        compare_gradient(&tensor.name, &actual, expected);
    }
    let ModelConfig { hidden, experts, .. } = case.config;
    let carried = trainer.network().carried_state();
    for (layer, states) in expected.states.iter().enumerate() {
        let rows = (0..batch).flat_map(|b| (0..experts).map(move |e| (layer * experts + e) * batch + b));
        let actual: Vec<f32> =
            rows.flat_map(|row| carried[row * padded(hidden)..][..hidden].to_vec()).collect();
        compare(&format!("states {layer}"), &actual, states, ACCURACY).unwrap();
    }
}

/// A gradient that is zero in theory may be a crumb of rounding in f32: the softmax's over one expert.
fn compare_gradient(name: &str, actual: &[f32], expected: &[f64]) {
    let rms = (expected.iter().map(|x| x * x).sum::<f64>() / expected.len() as f64).sqrt();
    for (i, (&actual, &expected)) in actual.iter().zip(expected).enumerate() {
        let difference = (f64::from(actual) - expected).abs();
        // Where terms cancel, an element is far smaller than the numbers of order 1 whose rounding it is made of: with a
        // width of 1 the norm's gradient is such a difference.
        let scale = rms.max(expected.abs()).max(1e-2);
        assert!(difference <= ACCURACY * scale, "{name}[{i}]: {actual:e} instead of {expected:e}");
    }
}
