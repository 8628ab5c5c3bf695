//! AdamW, the gradient norm, and dropout.

use crate::dropout as mask;
use crate::line::{Line, PANEL_ROWS};
use crate::simd::Simd;
use crate::table::AdamwStep;

#[inline(always)]
pub(crate) fn adamw<S: Simd>(
    s: S,
    weights: &mut [Line],
    first_moment: &mut [Line],
    second_moment: &mut [Line],
    gradient: &[Line],
    step: &AdamwStep,
) {
    let gradient_scale = s.splat(step.gradient_scale);
    let kept_weight = s.splat(1.0 - step.learning_rate * step.weight_decay);
    let (new_first, old_second) = (s.splat(1.0 - step.beta1), s.splat(step.beta2));
    let new_second = s.splat(1.0 - step.beta2);
    let step_size = s.splat(step.learning_rate / step.correction1);
    let (root_scale, eps) = (s.splat(1.0 / step.correction2.sqrt()), s.splat(step.eps));
    let moments = first_moment.iter_mut().zip(second_moment);
    for ((weights, (first, second)), gradient) in weights.iter_mut().zip(moments).zip(gradient) {
        let g = s.mul(s.load(&gradient.0), gradient_scale);
        let m = s.load(&first.0);
        let m = s.mul_add(s.sub(g, m), new_first, m);
        let v = s.mul_add(s.mul(g, g), new_second, s.mul(s.load(&second.0), old_second));
        let denominator = s.mul_add(s.sqrt(v), root_scale, eps);
        let w = s.mul(s.load(&weights.0), kept_weight);
        s.store(&mut weights.0, s.neg_mul_add(step_size, s.div(m, denominator), w));
        s.store(&mut first.0, m);
        s.store(&mut second.0, v);
    }
}

/// In f64 a square of f32 is exact, and Rust never contracts a product and a sum, so 16 plain sums that the
/// compiler vectorises come out the same everywhere.
#[inline(always)]
pub(crate) fn sum_of_squares<S: Simd>(_: S, values: &[f32]) -> f64 {
    let mut sums = [0.0_f64; PANEL_ROWS];
    let (lines, rest) = values.as_chunks::<PANEL_ROWS>();
    for lanes in lines {
        for (sum, &value) in sums.iter_mut().zip(lanes) {
            *sum += f64::from(value) * f64::from(value);
        }
    }
    for (sum, &value) in sums.iter_mut().zip(rest) {
        *sum += f64::from(value) * f64::from(value);
    }
    for distance in [8, 4, 2, 1] {
        for lane in 0..distance {
            sums[lane] += sums[lane + distance];
        }
    }
    sums[0]
}

#[inline(always)]
pub(crate) fn dropout<S: Simd>(_: S, values: &mut [f32], key: u64, first: u64, keep: f32) {
    mask::apply(values, key, first, keep);
}
