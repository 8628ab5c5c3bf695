//! What training computes agrees with the reference, which goes through the text token by token, for any model and shape of
//! chunk, and on any number of threads: with all experts, over chunks of many tiles, and with k < E, where an expert's active
//! steps only are computed. Under dropout, which the reference has not, the gradient is the slope of the loss.

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
use shoestring::train::{Dropout, Trainer};
use std::ops::Range;

/// Of f32, over up to three layers and some dozen steps.
const ACCURACY: f64 = 2e-4;
const ACCURACY_OF_LONG_CHUNKS: f64 = 1e-3;
/// Scores of f32 that are nearer than this might be in another order than those of f64.
const LEAST_MARGIN: f64 = 1e-4;
/// Larger states are penalised in training (`src/train/backward.rs`), but not in the reference.
const LARGEST_STATE: f64 = 9.0;

fn any_sparse_model() -> impl Strategy<Value = ModelConfig> {
    let sizes = (2..40_usize, 1..24_usize, 1..24_usize, 1..4_usize, 2..7_usize, 1..7_usize);
    sizes.prop_map(|(vocabulary, embedding, hidden, layers, experts, fewer)| {
        let top_k = experts - fewer.min(experts - 1);
        ModelConfig { vocabulary, embedding, hidden, layers, experts, top_k, tied: false, eps_rmsnorm: 0.1 }
    })
}

/// With more panels in the head, and in a matrix, than a task takes.
fn any_dense_model() -> impl Strategy<Value = ModelConfig> {
    let sizes = (2..200_usize, 1..50_usize, 1..50_usize, 1..4_usize, 1..4_usize, any::<bool>());
    sizes.prop_map(|(vocabulary, embedding, hidden, layers, experts, tied)| {
        let embedding = if tied { hidden } else { embedding };
        ModelConfig { vocabulary, embedding, hidden, layers, experts, top_k: experts, tied, eps_rmsnorm: 0.1 }
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 150, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn with_some_experts_training_agrees_with_the_reference(
        config in any_sparse_model(),
        (first, second) in (1..13_usize, 1..13_usize),
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
        agrees(&case, (first, second), &[1, 2, 3, 7], ACCURACY)?;
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 25, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn with_all_experts_training_agrees_with_the_reference(
        config in any_dense_model(),
        (first, second) in (1..40_usize, 1..40_usize),
        batch in 1..20_usize,
        seed: u64,
    ) {
        let case = Case::random(config, first + second, batch, seed);
        agrees(&case, (first, second), &[1, 3], ACCURACY_OF_LONG_CHUNKS)?;
    }
}

/// Over two chunks, the second, shorter or longer, starting at the first's states.
fn agrees(
    case: &Case,
    (first, second): (usize, usize),
    threads: &[usize],
    accuracy: f64,
) -> Result<(), TestCaseError> {
    let before = chunk(case, 0..first, &case.states);
    let after = chunk(case, first..first + second, &before.states);
    prop_assume!(margin(&before).min(margin(&after)) >= LEAST_MARGIN);
    prop_assume!(before.states.iter().chain(&after.states).flatten().all(|h| h.abs() < LARGEST_STATE));

    let batch = batch(case);
    let mut runs = threads.iter().map(|&threads| {
        let mut trainer = trainer(case, first.max(second), threads);
        [(0..first, &before), (first..first + second, &after)].map(|(steps, expected)| {
            let tokens = by_stream(&case.tokens, batch, &steps);
            let targets = by_stream(&case.targets, batch, &steps);
            let loss = trainer.gradient(&tokens, &targets, steps.len(), None);
            check(case, &mut trainer, loss, expected, accuracy);
            (loss, trainer.last_gradient().to_vec(), trainer.network().carried_state().to_vec())
        })
    });
    let one = runs.next();
    prop_assert!(runs.all(|run| Some(run) == one), "the number of threads changes the result");
    Ok(())
}

#[test]
fn under_dropout_the_gradient_is_the_slope_of_the_loss() {
    /// As a part of the gradient's norm: of f32, and a difference of finite length.
    const SLOPE_ACCURACY: f64 = 0.02;
    const LENGTH: f64 = 2e-3;
    let dropout = Some(Dropout { probability: 0.3, key: 77 });
    let config = ModelConfig {
        vocabulary: 30,
        embedding: 19,
        hidden: 23,
        layers: 2,
        experts: 3,
        top_k: 3,
        tied: false,
        eps_rmsnorm: 0.1,
    };
    let tied = ModelConfig { embedding: 23, tied: true, ..config };
    for (config, batch, steps) in [(config, 9, 11), (tied, 3, 7)] {
        let mut case = Case::random(config, steps, batch, 3);
        // Of a size at which no state is penalised.
        let matrices = case.parameters.iter_mut().filter(|(name, _)| !name.ends_with("norm.weight"));
        matrices.flat_map(|(_, values)| values).for_each(|x| *x *= 0.3);
        case.states.iter_mut().flatten().for_each(|h| *h = 0.0);
        let (tokens, targets) =
            (by_stream(&case.tokens, batch, &(0..steps)), by_stream(&case.targets, batch, &(0..steps)));
        let evaluate = |case: &Case| {
            let mut trainer = trainer(case, steps, 2);
            let loss = trainer.gradient(&tokens, &targets, steps, dropout);
            (loss, trainer)
        };
        let (_, at_start) = evaluate(&case);
        for tensor in &Layout::new(&config).tensors {
            let gradient = tensor.read(at_start.last_gradient());
            let norm = gradient.iter().map(|&x| f64::from(x).powi(2)).sum::<f64>().sqrt();
            assert!(norm > 1e-3, "{}: {norm}", tensor.name);
            let moved = |length: f64| {
                let mut case = case.clone();
                let values = case.parameters.get_mut(&tensor.name).unwrap();
                values.iter_mut().zip(&gradient).for_each(|(x, &g)| *x += length * f64::from(g) / norm);
                evaluate(&case).0
            };
            let slope = (moved(LENGTH) - moved(-LENGTH)) / (2.0 * LENGTH);
            assert!(
                (slope - norm).abs() <= SLOPE_ACCURACY * norm,
                "{}: {slope} instead of {norm}",
                tensor.name
            );
        }
    }
}

/// Streams side by side.
fn batch(case: &Case) -> usize {
    case.states[0].len() / (case.config.experts * case.config.hidden)
}

/// The reference's forward pass over some steps of the case.
fn chunk(case: &Case, steps: Range<usize>, states: &[Vec<f64>]) -> Forward<f64> {
    let batch = batch(case);
    let positions = steps.start * batch..steps.end * batch;
    let targets = Some(&case.targets[positions.clone()]);
    forward(&case.config, &case.parameters, &case.tokens[positions], targets, states).unwrap()
}

/// A trainer of the case's parameters, at its states.
fn trainer(case: &Case, steps: usize, threads: usize) -> Trainer {
    let batch = batch(case);
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
fn check(case: &Case, trainer: &mut Trainer, loss: f64, expected: &Forward<f64>, accuracy: f64) {
    let batch = batch(case);
    compare("loss", &[loss], &[expected.loss.unwrap()], accuracy).unwrap();
    let gradients: Tensors<f64> = backward(&case.parameters, expected).unwrap();
    for tensor in &Layout::new(&case.config).tensors {
        let (actual, expected) = (tensor.read(trainer.last_gradient()), &gradients[&tensor.name]);
        compare_gradient(&tensor.name, &actual, expected, accuracy);
    }
    let ModelConfig { hidden, experts, .. } = case.config;
    let carried = trainer.network().carried_state();
    for (layer, states) in expected.states.iter().enumerate() {
        let rows = (0..batch).flat_map(|b| (0..experts).map(move |e| (layer * experts + e) * batch + b));
        let actual: Vec<f32> =
            rows.flat_map(|row| carried[row * padded(hidden)..][..hidden].to_vec()).collect();
        compare(&format!("states {layer}"), &actual, states, accuracy).unwrap();
    }
}

/// A gradient that is zero in theory may be a crumb of rounding in f32: the softmax's over one expert.
fn compare_gradient(name: &str, actual: &[f32], expected: &[f64], accuracy: f64) {
    let rms = (expected.iter().map(|x| x * x).sum::<f64>() / expected.len() as f64).sqrt();
    for (i, (&actual, &expected)) in actual.iter().zip(expected).enumerate() {
        let difference = (f64::from(actual) - expected).abs();
        // Where terms cancel, an element is far smaller than the numbers of order 1 whose rounding it is made of: with a
        // width of 1 the norm's gradient is such a difference.
        let scale = rms.max(expected.abs()).max(1e-2);
        assert!(difference <= accuracy * scale, "{name}[{i}]: {actual:e} instead of {expected:e}");
    }
}
