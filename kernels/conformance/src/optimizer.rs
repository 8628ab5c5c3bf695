//! AdamW and the sum of squares.

use crate::LENGTHS;
use crate::buffers::{Floats, Lines};
use crate::compare::{Expected, assert_close, reduction_bound};
use crate::failure::case;
use crate::random::Random;
use shoestring_kernels::{AdamwStep, Kernels};

checks! {
    adamw_takes_the_documented_step: adamw;
    adamw_keeps_padding_at_zero: adamw;
    squares_are_summed_in_f64: sum_of_squares;
    the_sum_of_squares_is_the_same_bits_everywhere: sum_of_squares;
}

/// Constants of step t with the usual decays.
fn step(t: i32) -> AdamwStep {
    AdamwStep {
        learning_rate: 3e-3,
        beta1: 0.9,
        beta2: 0.999,
        eps: 1e-8,
        weight_decay: 0.05,
        gradient_scale: 0.5,
        correction1: 1.0 - 0.9_f32.powi(t),
        correction2: 1.0 - 0.999_f32.powi(t),
    }
}

fn adamw_takes_the_documented_step(kernels: &Kernels) {
    let mut random = Random(61);
    for (lines, t) in [(0, 1), (1, 1), (2, 3), (7, 1000)] {
        let width = lines * 16;
        let (w, g, m) = (random.floats(width), random.floats(width), random.floats(width));
        let v: Vec<f32> = random.floats(width).iter().map(|v| v * v).collect();
        let step = step(t);
        let wide = f64::from;
        let (mut expected_w, mut expected_m, mut expected_v) = (vec![], vec![], vec![]);
        for i in 0..width {
            let g = wide(g[i]) * wide(step.gradient_scale);
            let first = wide(step.beta1) * wide(m[i]) + (1.0 - wide(step.beta1)) * g;
            let second = wide(step.beta2) * wide(v[i]) + (1.0 - wide(step.beta2)) * g * g;
            let decayed = wide(w[i]) * (1.0 - wide(step.learning_rate) * wide(step.weight_decay));
            let corrected = (second / wide(step.correction2)).sqrt() + wide(step.eps);
            let moved = wide(step.learning_rate) * (first / wide(step.correction1)) / corrected;
            let magnitude = wide(m[i]).abs() + g.abs();
            let first_bound = reduction_bound(1, magnitude);
            let moved_bound = moved.abs() * first_bound / first.abs() + reduction_bound(8, moved.abs());
            expected_w.push(Expected {
                value: decayed - moved,
                bound: moved_bound + reduction_bound(1, decayed.abs()),
            });
            expected_m.push(Expected { value: first, bound: first_bound });
            expected_v.push(Expected { value: second, bound: reduction_bound(2, second) });
        }
        case(format_args!("adamw {lines} lines, step {t}"));
        let (mut weights, mut first, mut second) = (Lines::row(&w), Lines::row(&m), Lines::row(&v));
        kernels.adamw(&mut weights, &mut first, &mut second, &Lines::row(&g), &step);
        assert_close("weights", weights.floats(), &expected_w);
        assert_close("first_moment", first.floats(), &expected_m);
        assert_close("second_moment", second.floats(), &expected_v);
    }
}

fn adamw_keeps_padding_at_zero(kernels: &Kernels) {
    case("adamw of one weight and padding");
    let (mut weights, mut first, mut second) = (Lines::row(&[1.0]), Lines::row(&[0.0]), Lines::row(&[0.0]));
    kernels.adamw(&mut weights, &mut first, &mut second, &Lines::row(&[0.3]), &step(1));
    assert_close("padding", &weights.floats()[1..], &[Expected::exactly(0.0); 15]);
}

fn squares_are_summed_in_f64(kernels: &Kernels) {
    let mut random = Random(62);
    for length in LENGTHS.into_iter().chain([1000]) {
        let values = random.floats(length);
        let expected: f64 = values.iter().map(|&x| f64::from(x) * f64::from(x)).sum();
        case(format_args!("sum_of_squares {length}"));
        let got = kernels.sum_of_squares(&Floats::new(&values, 1));
        assert!((got - expected).abs() <= 1e-13 * expected, "got {got}, expected {expected}");
    }
    case("sum_of_squares of what would overflow or vanish in f32, or is NaN");
    assert_eq!(kernels.sum_of_squares(&[1e30, 1e-30]), f64::from(1e30_f32).powi(2));
    assert!(kernels.sum_of_squares(&[1e-30]) > 0.9e-60);
    assert!(kernels.sum_of_squares(&[0.0, f32::NAN]).is_nan());
}

fn the_sum_of_squares_is_the_same_bits_everywhere(kernels: &Kernels) {
    let values = Random(16).floats(1003);
    let reference = Kernels::select("scalar").unwrap();
    for length in [0, 1, 15, 16, 17, 1003] {
        case(format_args!("sum_of_squares {length}"));
        let values = Floats::new(&values[..length], 3);
        let (got, expected) = (kernels.sum_of_squares(&values), reference.sum_of_squares(&values));
        assert_eq!(got.to_bits(), expected.to_bits(), "got {got:e}, expected exactly {expected:e}");
    }
}
