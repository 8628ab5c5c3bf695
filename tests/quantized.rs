//! Models in fewer bits: what they compute, that it is the same on every kernel and however tokens are read, and what
//! is kept of a session.

#[path = "common/dialogue.rs"]
mod dialogue;
#[path = "common/small_model.rs"]
mod small_model;

use dialogue::dialogue;
use shoestring::Model;
use shoestring::checkpoint::Checkpoint;
use shoestring::kernels::{Kernels, Team, padded};
use shoestring::model::{Encoding, Kind, ModelConfig, Role, SessionError, Tensor};
use shoestring::quantize::requantize;
use shoestring::reference::{Tensors, forward, zero_states};
use shoestring::tokenizer::{EOS, Special};
use small_model::{SMALL, convert, save_model};
use std::sync::Arc;

/// Sparse, dense, with one layer's residual projected, tied, and wider than a group of q4.
fn configs() -> [ModelConfig; 4] {
    [
        SMALL,
        ModelConfig { top_k: 1, embedding: 16, ..SMALL },
        ModelConfig { top_k: 3, embedding: 16, tied: true, ..SMALL },
        ModelConfig { top_k: 3, embedding: 33, hidden: 70, ..SMALL },
    ]
}

/// An untrained model of kind `kind`, on `kernels`.
fn model(config: ModelConfig, kind: Kind, kernels: &'static Kernels) -> Model {
    let folder = tempfile::tempdir().unwrap();
    let (original, path) = (folder.path().join("f32.shoe"), folder.path().join("model.shoe"));
    save_model(&original, config, true);
    convert(&original, &path, kind);
    Model::new(Checkpoint::open(&path).unwrap(), kernels)
}

fn tokens(model: &Model, length: usize) -> Vec<u32> {
    let mut tokens = vec![EOS];
    model.tokenizer().encode(dialogue(4 * length).as_bytes(), Special::Match, &mut tokens);
    tokens.truncate(length);
    assert_eq!(tokens.len(), length);
    tokens
}

/// The logits after each token, [T, V], read `chunk` tokens at a time.
fn logits(model: &Model, tokens: &[u32], chunk: usize) -> Vec<f32> {
    let mut session = model.session();
    let mut all = Vec::new();
    for tokens in tokens.chunks(chunk) {
        session.feed_tokens(tokens);
        all.extend_from_slice(session.logits());
    }
    all
}

#[test]
fn weights_of_every_kind_are_as_near_as_their_codes_allow() {
    for config in configs() {
        let original = model(config, Kind::F32, Kernels::best());
        for kind in Kind::ALL {
            let quantized = requantize(&original, kind);
            let tensors = original.weights().layout.tensors.iter().zip(&quantized.layout.tensors);
            for ((old, new), report) in tensors.zip(&quantized.tensors) {
                let before = old.read(original.weights().lines);
                let after = new.read(&quantized.lines);
                let what = format!("{kind} {}", new.name);
                for (row, (before, after)) in
                    before.chunks(new.columns()).zip(after.chunks(new.columns())).enumerate()
                {
                    let largest = before.iter().fold(0.0_f32, |largest, value| largest.max(value.abs()));
                    // Half a step, and what is clipped of the largest values to make the step smaller.
                    let bound = match new.encoding.name() {
                        "f32" => 0.0,
                        "f16" => largest / 2048.0,
                        "q8" => largest / 127.0,
                        _ => largest * 0.45,
                    };
                    for (&before, &after) in before.iter().zip(after) {
                        assert!((before - after).abs() <= bound, "{what} row {row}: {before} became {after}");
                    }
                }
                let bound = match new.encoding.name() {
                    "f32" => 0.0,
                    "f16" => 3e-4,
                    "q8" => 0.008,
                    _ => 0.1,
                };
                assert!(report.relative_error <= bound, "{what}: {}", report.relative_error);
                let norm = squares(&before).max(f64::MIN_POSITIVE); // biases begin as zeros
                let error = (squares(&differences(&before, &after)) / norm).sqrt();
                assert!((report.relative_error - error).abs() <= 1e-6 * error, "{what}: {error}");
                assert_eq!(new.encoding, kind.encoding(role(&new.name, config.tied)), "{what}");
                if matches!(new.encoding, Encoding::Q8 | Encoding::Q4) {
                    let unclipped = unclipped(new, &before);
                    let ratio = squares(&differences(&before, &after)) / squares(&unclipped);
                    // Of the many codes of q8 a random row has little to gain.
                    let most = if new.encoding == Encoding::Q4 { 0.99 } else { 1.0 };
                    assert!(ratio <= most, "{what}: {ratio} times the error of scales that clip nothing");
                }
            }
            let bytes: usize = quantized.tensors.iter().map(|tensor| tensor.bytes).sum();
            assert_eq!(bytes, size_of_val(&quantized.lines[..]));
        }
    }
}

fn differences(a: &[f32], b: &[f32]) -> Vec<f32> {
    a.iter().zip(b).map(|(a, b)| a - b).collect()
}

fn squares(values: &[f32]) -> f64 {
    values.iter().map(|&value| f64::from(value).powi(2)).sum()
}

/// What rounding changes where the largest magnitude of a group becomes the largest code, with either sign of the scale.
fn unclipped(tensor: &Tensor, values: &[f32]) -> Vec<f32> {
    let (low, high) = tensor.encoding.codes();
    let group = tensor.encoding.group(tensor.columns());
    let changes = |values: &[f32], extreme: i8| -> Vec<f32> {
        let largest = values.iter().fold(0.0_f32, |largest, value| largest.max(value.abs()));
        let scale = tensor.stored_scale(largest / f32::from(extreme));
        let rounded = |value: f32| (value / scale).round_ties_even().clamp(low.into(), high.into()) * scale;
        values.iter().map(|&value| value - rounded(value)).collect()
    };
    let best = |values: &[f32]| {
        let extremes = if -low == high { [high, -high] } else { [low, -low] };
        let each = extremes.map(|extreme| changes(values, extreme));
        each.into_iter().min_by(|a, b| squares(a).total_cmp(&squares(b))).unwrap()
    };
    values.chunks(tensor.columns()).flat_map(|row| row.chunks(group)).flat_map(best).collect()
}

fn role(name: &str, tied: bool) -> Role {
    match name.rsplit('.').nth(1).unwrap() {
        "embedding" if !tied => Role::Embedding,
        "embedding" | "recurrent" | "head" if name.ends_with("weight") => Role::Sensitive,
        "update" | "candidate" | "residual" if name.ends_with("weight") => Role::Input,
        _ => Role::Small,
    }
}

/// What a model computes is what the reference computes in f64 with the same weights, but for the rounding of
/// activations.
#[test]
fn logits_are_near_those_of_the_reference_with_the_same_weights() {
    for config in configs() {
        for kind in Kind::ALL {
            let model = model(config, kind, Kernels::best());
            let weights = model.weights();
            let read = |tensor: &shoestring::model::Tensor| {
                (tensor.name.clone(), tensor.read(weights.lines).into_iter().map(f64::from).collect())
            };
            let parameters: Tensors<f64> = weights.layout.tensors.iter().map(read).collect();
            let tokens = tokens(&model, 60);
            let states = zero_states(&config, 1);
            let expected = forward(&config, &parameters, &tokens, None, &states).unwrap().logits;
            let got = logits(&model, &tokens, 7);
            let expected: Vec<f64> = (0..tokens.len())
                .filter(|&t| (t + 1) % 7 == 0 || t + 1 == tokens.len())
                .flat_map(|t| expected[t * config.vocabulary..][..config.vocabulary].to_vec())
                .collect();
            assert_eq!(got.len(), expected.len());
            let size = (expected.iter().map(|x| x * x).sum::<f64>() / expected.len() as f64).sqrt();
            let square = |(&a, &b): (&f32, &f64)| (f64::from(a) - b).powi(2);
            let error = (got.iter().zip(&expected).map(square).sum::<f64>() / got.len() as f64).sqrt();
            let bound = if kind.is_integer() { 0.03 } else { 1e-5 };
            assert!(error < bound * size, "{kind} {config:?}: off by {error} of {size}");
        }
    }
}

#[test]
fn integer_models_give_the_same_bits_on_every_kernel() {
    for config in configs() {
        for kind in [Kind::Q8, Kind::Q4] {
            let all: Vec<_> = Kernels::available()
                .iter()
                .map(|kernels| {
                    let model = model(config, kind, kernels);
                    (kernels.name(), logits(&model, &tokens(&model, 300), 1))
                })
                .collect();
            let (reference, expected) = all.last().unwrap();
            for (name, logits) in &all {
                let same = logits.iter().zip(expected).all(|(a, b)| a.to_bits() == b.to_bits());
                assert!(same, "{kind} {config:?}: {name} and {reference} differ");
            }
        }
    }
}

#[test]
fn reading_together_one_by_one_or_in_a_batch_is_the_same() {
    for config in configs() {
        for kind in Kind::ALL {
            let model = model(config, kind, Kernels::best());
            let tokens = tokens(&model, 105);
            let one_by_one = logits(&model, &tokens, 1);
            let (vocabulary, last) =
                (config.vocabulary, |logits: &[f32]| logits[logits.len() - 10..].to_vec());
            for chunk in [2, 5, 32, 33, 105] {
                assert_eq!(
                    last(&logits(&model, &tokens, chunk)),
                    last(&one_by_one),
                    "{kind} {config:?} {chunk}"
                );
            }
            // Three texts: the first third of the tokens, the second and the third.
            let texts: Vec<_> = tokens.chunks(35).collect();
            let mut batch = model.batch(3);
            batch.feed(&[EOS, EOS, EOS]);
            (0..3).for_each(|text| batch.reset(text));
            assert!((0..3).all(|text| batch.logits(text).iter().all(|&logit| logit == 0.0)));
            for ((&a, &b), &c) in texts[0].iter().zip(texts[1]).zip(texts[2]) {
                batch.feed(&[a, b, c]);
            }
            for (text, tokens) in texts.iter().enumerate() {
                let alone = logits(&model, tokens, 35);
                assert_eq!(
                    batch.logits(text),
                    &alone[alone.len() - vocabulary..],
                    "{kind} {config:?} text {text}"
                );
            }
        }
    }
}

#[test]
fn a_long_text_is_read_on_all_threads_to_the_same_state() {
    for config in configs() {
        for kind in Kind::ALL {
            let model = model(config, kind, Kernels::best()).on_threads(Some(3));
            let tokens = tokens(&model, 700);
            let mut together = model.session();
            together.feed_tokens(&tokens);
            let mut apart = model.session();
            tokens.chunks(50).for_each(|tokens| apart.feed_tokens(tokens));
            assert_eq!(together.state(), apart.state(), "{kind} {config:?}");
            assert_eq!(together.logits(), apart.logits(), "{kind} {config:?}");
        }
    }
}

#[test]
fn a_token_of_a_large_model_is_run_on_all_threads_to_the_same_logits() {
    for top_k in [5, 2] {
        let config =
            ModelConfig { embedding: 160, hidden: 250, layers: 2, experts: 5, top_k, tied: false, ..SMALL };
        for kind in Kind::ALL {
            let alone = model(config, kind, Kernels::best()).on_threads(Some(1));
            let tokens = tokens(&alone, 20);
            let expected = logits(&alone, &tokens, 1);
            for threads in [2, 3, 7] {
                let team = Arc::new(Team::new(move || threads));
                let mut session = alone.session().on_team(team);
                let mut got = Vec::new();
                for &token in &tokens {
                    session.feed_tokens(&[token]);
                    got.extend_from_slice(session.logits());
                }
                assert_eq!(got, expected, "{kind}, top-{top_k}, {threads} threads");
            }
        }
    }
}

/// The error of quantized activations does not build up in the state.
#[test]
fn the_state_does_not_drift() {
    let config = ModelConfig { top_k: 3, embedding: 33, hidden: 70, ..SMALL };
    let [exact, quantized] = [Kind::F32, Kind::Q8].map(|kind| model(config, kind, Kernels::best()));
    let tokens = tokens(&exact, 12_000);
    let (mut a, mut b) = (exact.session(), quantized.session());
    let mut errors = Vec::new(); // mean absolute difference over each thousand tokens
    for tokens in tokens.chunks(1000) {
        let mut error = 0.0;
        for tokens in tokens.chunks(20) {
            a.feed_tokens(tokens);
            b.feed_tokens(tokens);
            let difference = a.state().iter().zip(b.state()).map(|(a, b)| f64::from((a - b).abs()));
            error += difference.sum::<f64>() / a.state().len() as f64;
        }
        errors.push(error / 50.0);
    }
    let size = a.state().iter().map(|h| f64::from(h.abs())).sum::<f64>() / a.state().len() as f64;
    assert!(
        size > 0.0 && errors.iter().all(|&error| error > 0.0 && error < 0.2 * size),
        "{errors:?}, {size}"
    );
    assert!(errors[9..].iter().sum::<f64>() < 1.5 * errors[1..4].iter().sum::<f64>(), "{errors:?}");
}

#[test]
fn a_restored_session_goes_on_as_the_saved_one() {
    for kind in [Kind::F32, Kind::Q8] {
        let model = model(SMALL, kind, Kernels::best());
        let tokens = tokens(&model, 40);
        let mut session = model.session();
        session.feed_tokens(&tokens[..20]);
        let saved = session.save();
        let floats = SMALL.layers * SMALL.experts * padded(SMALL.hidden) + padded(SMALL.hidden);
        assert_eq!(saved.len(), 32 + 4 * floats);
        let mut restored = model.session();
        restored.restore(&saved).unwrap();
        assert_eq!(session.logits(), restored.logits());
        session.feed_tokens(&tokens[20..]);
        restored.feed_tokens(&tokens[20..]);
        assert_eq!(session.logits(), restored.logits());
        assert_eq!(session.save(), restored.save());
    }
}

#[test]
fn what_is_not_a_session_of_this_model_is_refused_and_changes_nothing() {
    let [model, other] = [Kind::F32, Kind::F16].map(|kind| model(SMALL, kind, Kernels::best()));
    let mut session = model.session();
    session.feed_tokens(&[EOS, 7, 9]);
    let saved = session.save();
    session.feed_tokens(&[11]);
    let before = session.save();
    assert_eq!(other.session().restore(&saved), Err(SessionError::OtherModel));
    for at in 0..saved.len() {
        assert!(session.restore(&saved[..at]).is_err(), "cut at {at}");
        let mut flipped = saved.clone();
        flipped[at] ^= 0x10;
        assert!(session.restore(&flipped).is_err(), "flipped at {at}");
    }
    assert_eq!(session.restore(b""), Err(SessionError::Foreign));
    assert_eq!(session.restore(&[saved.clone(), vec![0]].concat()), Err(SessionError::Damaged));
    let mut newer = saved.clone();
    newer[8] = 2;
    assert_eq!(session.restore(&newer), Err(SessionError::Newer(2)));
    assert_eq!(session.save(), before);
    session.restore(&saved).unwrap();
    assert_eq!(session.save(), saved);
}
