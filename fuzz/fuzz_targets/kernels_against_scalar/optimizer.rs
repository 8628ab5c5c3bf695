//! AdamW, the sum of squares, and dropout.

use crate::{Case, compare_exactly, scalar};
use shoestring_kernels::{AdamwStep, Kernels};
use shoestring_kernels_conformance::buffers::{Floats, Lines};
use shoestring_kernels_conformance::compare::{Expected, assert_close, reduction_bound};

pub fn adamw(mut case: Case, t: i32) {
    let width = case.inputs / 8 * 16;
    let (weights, gradient, first) = (case.random.floats(width), case.floats(width), case.floats(width));
    let second: Vec<f32> = case.floats(width).iter().map(|v| v * v).collect();
    let step = AdamwStep {
        learning_rate: 3e-3,
        beta1: 0.9,
        beta2: 0.99,
        eps: 1e-8,
        weight_decay: 0.05,
        gradient_scale: 0.5,
        correction1: 1.0 - 0.9_f32.powi(t),
        correction2: 1.0 - 0.99_f32.powi(t),
    };
    let run = |kernels: &Kernels| {
        let [mut weights, mut first, mut second] =
            [&weights, &first, &second].map(|values| Lines::row(values));
        kernels.adamw(&mut weights, &mut first, &mut second, &Lines::row(&gradient), &step);
        [&weights, &first, &second].map(|lines| lines.floats().to_vec())
    };
    let [expected_weights, expected_first, expected_second] = run(scalar());
    let wide = |x: f32| f64::from(x).abs();
    let first_bound = |i: usize| reduction_bound(2, wide(first[i]) + wide(gradient[i]));
    let weight_bound = |i: usize| {
        let root = (wide(expected_second[i]) / wide(step.correction2)).sqrt() + wide(step.eps);
        let rate = wide(step.learning_rate) / wide(step.correction1) / root;
        rate * first_bound(i)
            + reduction_bound(16, rate * wide(expected_first[i]))
            + reduction_bound(2, wide(weights[i]))
    };
    let expected = |values: &[f32], bound: &dyn Fn(usize) -> f64| -> Vec<Expected> {
        values
            .iter()
            .enumerate()
            .map(|(i, &value)| Expected { value: value.into(), bound: bound(i) })
            .collect()
    };
    let expected = [
        ("weights", expected(&expected_weights, &weight_bound)),
        ("first moment", expected(&expected_first, &first_bound)),
        ("second moment", expected(&expected_second, &|i| reduction_bound(4, wide(expected_second[i])))),
    ];
    for kernels in Kernels::available() {
        for ((what, expected), got) in expected.iter().zip(run(kernels)) {
            assert_close(&format!("{} adamw {what} of {width}, step {t}", kernels.name()), &got, expected);
        }
    }
}

pub fn sum_of_squares(mut case: Case) {
    let values = case.floats(case.rows * case.inputs);
    let expected = scalar().sum_of_squares(&values);
    for kernels in Kernels::available() {
        let got = kernels.sum_of_squares(&Floats::new(&values, case.misalignment));
        let name = kernels.name();
        assert_eq!(
            got.to_bits(),
            expected.to_bits(),
            "{name} sum_of_squares {}: {got}, {expected}",
            values.len()
        );
    }
}

pub fn dropout(mut case: Case, key: u64, first: u64, keep: u16) {
    let values = case.floats(case.rows * case.inputs);
    let keep = (f32::from(keep) + 1.0) / 65536.0; // in (0, 1]
    compare_exactly(&format!("dropout {} from {first}, keep {keep}", values.len()), |kernels| {
        let mut values = Floats::new(&values, case.misalignment);
        kernels.dropout(&mut values, key, first, keep);
        values.to_vec()
    });
}
