//! The fast f32 path (training and decoding) against PyTorch's float64 answers, on every kernel.

mod common;
#[path = "common/compare.rs"]
mod compare;
#[path = "common/fixture.rs"]
mod fixture;

use compare::compare;
use fixture::Fixture;
use shoestring::kernels::{Kernels, Line, padded};
use shoestring::model::{Decoder, Layout, Weights};
use shoestring::train::{Trainer, Update};

/// Relative accuracy of f32 over these models, with c·ε for sums of a few dozen terms, several deep.
const ACCURACY: f64 = 3e-5;

fn weights(fixture: &Fixture, layout: &Layout) -> Vec<Line> {
    let mut weights = vec![Line::default(); layout.lines]; // [lines]
    for tensor in &layout.tensors {
        let values: Vec<f32> = fixture.parameters[&tensor.name].iter().map(|&x| x as f32).collect();
        tensor.write(&mut weights, &values);
    }
    weights
}

/// [T, B] as [B, T].
fn by_stream(fixture: &Fixture, tokens: &[u32]) -> Vec<u32> {
    (0..fixture.batch).flat_map(|b| (0..fixture.steps).map(move |t| tokens[t * fixture.batch + b])).collect()
}

/// A trainer at the fixture's start, and its chunk.
fn trainer(fixture: &Fixture, kernels: &'static Kernels, threads: usize) -> (Trainer, Vec<u32>, Vec<u32>) {
    let layout = Layout::new(&fixture.config);
    let shape = (fixture.batch, fixture.steps);
    let mut trainer =
        Trainer::new(fixture.config, kernels, weights(fixture, &layout), shape, threads).unwrap();
    reset_state(fixture, &mut trainer);
    (trainer, by_stream(fixture, &fixture.tokens), by_stream(fixture, &fixture.targets))
}

/// Carried state [L, E, B, Hp] from the fixture's [B, E, H] a layer.
fn reset_state(fixture: &Fixture, trainer: &mut Trainer) {
    let (hidden, width, experts) =
        (fixture.config.hidden, padded(fixture.config.hidden), fixture.config.experts);
    let carried = trainer.network().carried_state();
    carried.fill(0.0);
    for (i, row) in carried.chunks_exact_mut(width).enumerate() {
        let (layer, rest) = (i / (experts * fixture.batch), i % (experts * fixture.batch));
        let (expert, stream) = (rest / fixture.batch, rest % fixture.batch);
        let from = &fixture.states_before[layer][(stream * experts + expert) * hidden..][..hidden];
        row.iter_mut().zip(from).for_each(|(to, from)| *to = *from as f32);
    }
}

fn check_all(
    fixture: &Fixture,
    what: &str,
    layout: &Layout,
    buffer: &[Line],
    expected: &std::collections::BTreeMap<String, Vec<f64>>,
    accuracy: f64,
) {
    for tensor in &layout.tensors {
        let name = format!("{} {what} {}", fixture.name, tensor.name);
        // With one expert the softmax's gradient is exactly zero in theory; rounding may leave a crumb.
        if expected[&tensor.name].iter().all(|&x| x == 0.0) {
            let largest = tensor.read(buffer).iter().fold(0f32, |max, x| max.max(x.abs()));
            assert!(f64::from(largest) < 1e-7, "{name}: {largest:e} instead of 0");
            continue;
        }
        compare(&name, &tensor.read(buffer), &expected[&tensor.name], accuracy).unwrap();
    }
}

#[test]
fn loss_and_gradients_agree_with_pytorch() {
    for fixture in Fixture::all() {
        let layout = Layout::new(&fixture.config);
        for kernels in Kernels::available() {
            let (mut trainer, tokens, targets) = trainer(&fixture, kernels, 2);
            let loss = trainer.gradient(&tokens, &targets, fixture.steps, None);
            compare("loss", &[loss], &[fixture.loss], 1e-6).unwrap();
            let what = format!("{} gradient", kernels.name());
            check_all(&fixture, &what, &layout, trainer.last_gradient(), &fixture.gradients, ACCURACY);
        }
    }
}

#[test]
fn states_agree_with_pytorch() {
    for fixture in Fixture::all() {
        let (width, experts) = (padded(fixture.config.hidden), fixture.config.experts);
        for kernels in Kernels::available() {
            let (mut trainer, tokens, targets) = trainer(&fixture, kernels, 2);
            trainer.gradient(&tokens, &targets, fixture.steps, None);
            let carried = trainer.network().carried_state().to_vec();
            for (layer, expected) in fixture.states_after.iter().enumerate() {
                let state: Vec<f32> = (0..fixture.batch)
                    .flat_map(|b| (0..experts).map(move |e| (layer * experts + e) * fixture.batch + b))
                    .flat_map(|row| carried[row * width..][..fixture.config.hidden].to_vec())
                    .collect();
                compare(&format!("{} state {layer}", fixture.name), &state, expected, ACCURACY).unwrap();
            }
        }
    }
}

#[test]
fn three_adamw_steps_agree_with_pytorch() {
    for fixture in Fixture::all() {
        let layout = Layout::new(&fixture.config);
        for kernels in Kernels::available() {
            let (mut trainer, tokens, targets) = trainer(&fixture, kernels, 2);
            for step in 1..=3 {
                reset_state(&fixture, &mut trainer);
                let adamw = &fixture.adamw;
                let update = Update {
                    step,
                    learning_rate: adamw.learning_rate as f32,
                    beta1: adamw.beta1 as f32,
                    beta2: adamw.beta2 as f32,
                    eps: adamw.eps as f32,
                    weight_decay: adamw.weight_decay as f32,
                    clip: adamw.clip as f32,
                };
                let report = trainer.step((&tokens, &targets), fixture.steps, update, None);
                if step == 1 {
                    compare("norm", &[report.gradient_norm], &[fixture.gradient_norm], 1e-5).unwrap();
                }
            }
            let what = format!("{} after three steps", kernels.name());
            // AdamW divides by the gradient's size, so what is noise in a tiny gradient becomes a step.
            let weights = trainer.weights();
            check_all(&fixture, &what, &layout, weights.lines, &fixture.stepped, 2e-3);
        }
    }
}

#[test]
fn decoding_agrees_with_pytorch() {
    for fixture in Fixture::all() {
        let layout = Layout::new(&fixture.config);
        let lines = weights(&fixture, &layout);
        let weights = Weights { config: fixture.config, layout: &layout, lines: &lines };
        let (hidden, experts, batch) = (fixture.config.hidden, fixture.config.experts, fixture.batch);
        for kernels in Kernels::available() {
            for stream in 0..batch {
                let mut decoder = Decoder::new(weights, kernels, 1);
                let mut state = vec![0.0; decoder.state_length()];
                for (i, row) in state.chunks_exact_mut(padded(hidden)).enumerate() {
                    let from =
                        &fixture.states_before[i / experts][(stream * experts + i % experts) * hidden..];
                    row.iter_mut().zip(&from[..hidden]).for_each(|(to, from)| *to = *from as f32);
                }
                let vocabulary = fixture.config.vocabulary;
                let mut logits = vec![0.0; padded(vocabulary)];
                for step in 0..fixture.steps {
                    let token = fixture.tokens[step * batch + stream];
                    decoder.read(&[token], &mut state, |decoder, _| decoder.all_logits(&mut logits));
                    let expected = &fixture.logits[(step * batch + stream) * vocabulary..][..vocabulary];
                    let what = format!("{} {} logits, step {step}", fixture.name, kernels.name());
                    compare(&what, &logits[..vocabulary], expected, ACCURACY).unwrap();
                }
            }
        }
    }
}

#[test]
fn the_number_of_threads_changes_nothing() {
    for fixture in Fixture::own() {
        for kernels in Kernels::available() {
            let gradients = [1, 2, 5].map(|threads| {
                let (mut trainer, tokens, targets) = trainer(&fixture, kernels, threads);
                trainer.gradient(&tokens, &targets, fixture.steps, None);
                trainer.last_gradient().to_vec()
            });
            assert!(gradients[0] == gradients[1] && gradients[0] == gradients[2], "{}", fixture.name);
        }
    }
}
