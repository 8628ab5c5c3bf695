//! Softmax and cross-entropy.

use crate::LENGTHS;
use crate::buffers::{Floats, Random};
use crate::compare::{Expected, assert_close, assert_same, reduction_bound};
use shoestring_kernels::{Kernels, padded};

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

#[test]
fn softmax_of_any_length() {
    let mut random = Random(51);
    for length in LENGTHS.into_iter().chain([850]) {
        for scale in [1.0, 30.0] {
            let x: Vec<f32> = random.floats(length).iter().map(|x| x * scale).collect();
            let spread = 2.0 * f64::from(scale);
            let expected: Vec<_> = softmax(&x)
                .into_iter()
                .map(|value| Expected { value, bound: probability_bound(length, spread, value) })
                .collect();
            for kernels in Kernels::available() {
                let mut values = Floats::new(&x, 1);
                kernels.softmax(&mut values);
                assert_close(&format!("{} {length}", kernels.name()), &values, &expected);
            }
        }
    }
}

#[test]
fn softmax_at_the_edges() {
    let (inf, nan) = (f32::INFINITY, f32::NAN);
    for kernels in Kernels::available() {
        let softmax = |mut values: Vec<f32>| {
            kernels.softmax(&mut values);
            values
        };
        let name = kernels.name();
        assert_same(name, &softmax(vec![3e38; 4]), &[0.25; 4]);
        assert_same(name, &softmax(vec![0.0, -inf, 0.0, -inf]), &[0.5, 0.0, 0.5, 0.0]);
        assert_same(name, &softmax(vec![-1e30]), &[1.0]);
        for poison in [nan, inf] {
            for length in [1, 16, 20] {
                for place in [0, length / 2, length - 1] {
                    let mut values = vec![0.0; length];
                    values[place] = poison;
                    assert!(softmax(values)[place].is_nan(), "{name}: {poison} at {place} of {length}");
                }
            }
        }
        assert!(softmax(vec![-inf; 3]).iter().all(|value| value.is_nan()), "{name}");
    }
}

#[test]
fn cross_entropy_of_any_vocabulary() {
    let mut random = Random(52);
    for vocabulary in [1, 2, 15, 16, 17, 33, 100, 850] {
        for rows in [0, 1, 5] {
            let columns = padded(vocabulary) + 16 * (rows / 2); // up to whole lines of padding
            let logits: Vec<f32> = random.floats(rows * columns).iter().map(|x| x * 8.0).collect();
            let targets: Vec<u32> = (0..rows).map(|_| (random.next() % vocabulary as u64) as u32).collect();
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
                expected.extend(vec![Expected { value: 0.0, bound: 0.0 }; columns - vocabulary]);
            }
            for kernels in Kernels::available() {
                let what = format!("{} {rows}x{vocabulary}", kernels.name());
                let mut gradient = Floats::new(&logits, 1);
                let got = kernels.cross_entropy(&mut gradient, &targets, vocabulary, scale);
                let bound = rows as f64 * reduction_bound(vocabulary + 10, 1.0);
                assert!((got - nats).abs() <= bound, "{what}: {got} nats, expected {nats} ± {bound}");
                assert_close(&what, &gradient, &expected);
            }
        }
    }
}

#[test]
fn a_nan_among_the_logits_shows_in_the_loss() {
    for kernels in Kernels::available() {
        for place in 0..20 {
            let mut logits = vec![0.5; 32];
            logits[place] = f32::NAN;
            let name = kernels.name();
            assert!(kernels.cross_entropy(&mut logits, &[3], 20, 1.0).is_nan(), "{name} at {place}");
            assert_same(name, &logits[20..], &[0.0; 12]);
        }
    }
}

#[test]
fn improbable_targets_have_a_finite_loss() {
    for kernels in Kernels::available() {
        let mut logits = vec![0.0; 16];
        logits[0] = 1000.0;
        let nats = kernels.cross_entropy(&mut logits, &[1], 16, 1.0);
        assert_eq!(nats, 1000.0, "{}", kernels.name());
    }
}
