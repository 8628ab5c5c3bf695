//! Softmax and cross-entropy.

use crate::LENGTHS;
use crate::buffers::Floats;
use crate::compare::{Expected, assert_close, assert_same, reduction_bound};
use crate::failure::case;
use crate::random::Random;
use shoestring_kernels::{Kernels, padded};

checks! {
    softmax_of_any_length: softmax;
    softmax_at_the_edges: softmax;
    cross_entropy_of_any_vocabulary: cross_entropy;
    a_nan_among_the_logits_shows_in_the_loss: cross_entropy;
    improbable_targets_have_a_finite_loss: cross_entropy;
}

fn softmax(logits: &[f32]) -> Vec<f64> {
    let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let powers: Vec<f64> = logits.iter().map(|&x| (f64::from(x) - f64::from(max)).exp()).collect();
    let sum: f64 = powers.iter().sum();
    powers.iter().map(|power| power / sum).collect()
}

/// An exponential of 2 ulps, a sum of `terms`, and the rounding of x - max, which is at most `spread`.
fn probability_bound(terms: usize, spread: f64, probability: f64) -> f64 {
    reduction_bound(terms + 6, probability)
        + reduction_bound(0, spread * probability)
        + f64::from(f32::MIN_POSITIVE)
}

fn softmax_of_any_length(kernels: &Kernels) {
    let mut random = Random(51);
    for length in LENGTHS.into_iter().chain([850]) {
        for scale in [1.0, 30.0] {
            let x: Vec<f32> = random.floats(length).iter().map(|x| x * scale).collect();
            let spread = 2.0 * f64::from(scale);
            let expected: Vec<_> = softmax(&x)
                .into_iter()
                .map(|value| Expected { value, bound: probability_bound(length, spread, value) })
                .collect();
            case(format_args!("softmax {length}, logits up to {scale}"));
            let mut values = Floats::new(&x, 1);
            kernels.softmax(&mut values);
            assert_close("values", &values, &expected);
        }
    }
}

fn softmax_at_the_edges(kernels: &Kernels) {
    let (inf, nan) = (f32::INFINITY, f32::NAN);
    let softmax = |values: &[f32]| {
        case(format_args!("softmax of {values:?}"));
        let mut values = Floats::new(values, 0);
        kernels.softmax(&mut values);
        values.into_vec()
    };
    assert_same("values", &softmax(&[3e38; 4]), &[0.25; 4]);
    assert_same("values", &softmax(&[0.0, -inf, 0.0, -inf]), &[0.5, 0.0, 0.5, 0.0]);
    assert_same("values", &softmax(&[-1e30]), &[1.0]);
    for poison in [nan, inf] {
        for length in [1, 16, 20] {
            for place in [0, length / 2, length - 1] {
                let mut values = vec![0.0; length];
                values[place] = poison;
                let got = softmax(&values);
                assert!(got[place].is_nan(), "{poison} at {place} gives {got:?}");
            }
        }
    }
    assert_same("values", &softmax(&[-inf; 3]), &[nan; 3]);
}

fn cross_entropy_of_any_vocabulary(kernels: &Kernels) {
    let mut random = Random(52);
    for vocabulary in [1, 2, 15, 16, 17, 33, 100, 850] {
        for rows in [0, 1, 5] {
            let columns = padded(vocabulary) + 16 * (rows / 2); // up to whole lines of padding
            let logits: Vec<f32> = random.floats(rows * columns).iter().map(|x| x * 8.0).collect();
            let targets: Vec<u32> = (0..rows).map(|_| (random.bits() % vocabulary as u64) as u32).collect();
            let scale = 0.37;
            let mut nats = 0.0;
            let mut expected = Vec::new();
            for (row, &target) in logits.chunks_exact(columns).zip(&targets) {
                let probabilities = softmax(&row[..vocabulary]);
                nats -= probabilities[target as usize].ln();
                expected.extend(probabilities.iter().enumerate().map(|(n, p)| {
                    let onehot = if n == target as usize { 1.0 } else { 0.0 };
                    let bound = f64::from(scale)
                        * (probability_bound(vocabulary, 16.0, *p) + reduction_bound(0, onehot));
                    Expected { value: (p - onehot) * f64::from(scale), bound }
                }));
                expected.extend(vec![Expected::exactly(0.0); columns - vocabulary]);
            }
            case(format_args!("cross_entropy {rows}x{vocabulary} of {columns} columns"));
            let mut gradient = Floats::new(&logits, 1);
            let got = kernels.cross_entropy(&mut gradient, &targets, vocabulary, scale);
            let bound = rows as f64 * reduction_bound(vocabulary + 10, 1.0);
            assert!((got - nats).abs() <= bound, "{got} nats, expected {nats} ± {bound}");
            assert_close("gradient", &gradient, &expected);
        }
    }
}

fn a_nan_among_the_logits_shows_in_the_loss(kernels: &Kernels) {
    for place in 0..20 {
        let mut logits = Floats::new(&[0.5; 32], 0);
        logits[place] = f32::NAN;
        case(format_args!("cross_entropy 1x20, NaN at {place}"));
        let nats = kernels.cross_entropy(&mut logits, &[3], 20, 1.0);
        assert!(nats.is_nan(), "{nats} nats");
        assert_same("padding", &logits[20..], &[0.0; 12]);
    }
}

fn improbable_targets_have_a_finite_loss(kernels: &Kernels) {
    case("cross_entropy 1x16 of a target 1000 below the largest logit");
    let mut logits = Floats::new(&[0.0; 16], 0);
    logits[0] = 1000.0;
    let nats = kernels.cross_entropy(&mut logits, &[1], 16, 1.0);
    assert_eq!(nats, 1000.0, "nats");
}
