//! Softmax and cross-entropy.

use crate::{Case, compare_all, scalar};
use shoestring_kernels::{Kernels, padded};
use shoestring_kernels_conformance::buffers::Floats;
use shoestring_kernels_conformance::compare::{Expected, assert_close, reduction_bound};

/// Largest absolute value of a logit here.
const LARGEST: f32 = 30.0;

/// Both sides' exponentials of 2 units in the last place, sums of `terms`, and the rounding of x - max.
fn probability_bound(terms: usize, probability: f64) -> f64 {
    let spread = 2.0 * f64::from(LARGEST);
    2.0 * (reduction_bound(terms + 6, probability) + reduction_bound(0, spread * probability))
        + f64::from(f32::MIN_POSITIVE)
}

pub fn softmax(mut case: Case) {
    let Case { outputs: length, misalignment, .. } = case;
    let mut logits: Vec<f32> = case.random.floats(length).iter().map(|x| x * LARGEST).collect();
    // Some tokens may be forbidden, but not all.
    logits
        .iter_mut()
        .skip(1)
        .filter(|logit| **logit < -LARGEST / 2.0)
        .for_each(|logit| *logit = f32::NEG_INFINITY);
    let run = |kernels: &Kernels| {
        let mut values = Floats::new(&logits, misalignment);
        kernels.softmax(&mut values);
        values.to_vec()
    };
    let close = |value: f32| Expected { value: value.into(), bound: probability_bound(length, value.into()) };
    let expected: Vec<_> = run(scalar()).into_iter().map(close).collect();
    compare_all(&format!("softmax {length}"), &expected, run);
}

pub fn cross_entropy(mut case: Case) {
    let Case { rows, outputs: vocabulary, misalignment, scale, .. } = case;
    let columns = padded(vocabulary);
    let logits: Vec<f32> = case.random.floats(rows * columns).iter().map(|x| x * LARGEST).collect(); // [M, Np]
    let targets: Vec<u32> = (0..rows).map(|_| (case.random.bits() % vocabulary as u64) as u32).collect(); // [M]
    let run = |kernels: &Kernels| {
        let mut gradient = Floats::new(&logits, misalignment);
        let nats = kernels.cross_entropy(&mut gradient, &targets, vocabulary, scale);
        (nats, gradient.to_vec())
    };
    let (nats, gradient) = run(scalar());
    let close = |(i, &value): (usize, &f32)| {
        let is_target = i % columns == targets[i / columns] as usize;
        let onehot = f64::from(u8::from(is_target));
        let probability = f64::from(value) / f64::from(scale) + onehot;
        let bound = f64::from(scale)
            * (probability_bound(vocabulary, probability.abs()) + reduction_bound(2, onehot));
        Expected { value: value.into(), bound: if i % columns < vocabulary { bound } else { 0.0 } }
    };
    let expected: Vec<_> = gradient.iter().enumerate().map(close).collect();
    let nats_bound = rows as f64 * 2.0 * reduction_bound(vocabulary + 10, 1.0 + f64::from(LARGEST));
    for kernels in Kernels::available() {
        let what = format!("{} cross_entropy {rows}x{vocabulary}", kernels.name());
        let (got, gradient) = run(kernels);
        assert!((got - nats).abs() <= nats_bound, "{what}: {got} nats, expected {nats} ± {nats_bound}");
        assert_close(&what, &gradient, &expected);
    }
}
