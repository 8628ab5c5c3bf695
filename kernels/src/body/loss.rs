//! Softmax and cross-entropy.

use super::math::exp_not_positive;
use crate::line::PANEL_ROWS;
use crate::simd::{Lanes, Simd, Unfused};

#[inline(always)]
pub(crate) fn softmax<S: Simd>(s: S, values: &mut [f32]) {
    let s = Unfused(s);
    let (lines, rest) = values.as_chunks_mut::<PANEL_ROWS>();
    // The rest is handled as one more line, of which the lanes past the end are e^-∞ = 0.
    let mut last = [f32::NEG_INFINITY; PANEL_ROWS];
    last[..rest.len()].copy_from_slice(rest);
    let max = max(s, lines).max(s.reduce_max(s.load(&last)));
    let sum = exponentials(s, lines, max) + exponentials(s, std::slice::from_mut(&mut last), max);
    let scale = s.splat(1.0 / sum);
    for lanes in lines {
        s.store(lanes, s.mul(s.load(lanes), scale));
    }
    s.store_partial(rest, s.mul(s.load(&last), scale));
}

#[inline(always)]
pub(crate) fn cross_entropy<S: Simd>(
    s: S,
    logits: &mut [f32],
    targets: &[u32],
    vocabulary: usize,
    scale: f32,
) -> f64 {
    let columns = logits.len() / targets.len();
    let mut nats = 0.0;
    for (row, &target) in logits.chunks_exact_mut(columns).zip(targets) {
        let target = target as usize;
        let target_logit = row[target];
        row[vocabulary..].fill(f32::NEG_INFINITY);
        let lines = &mut row.as_chunks_mut().0[..vocabulary.div_ceil(PANEL_ROWS)];
        let max = max(s, lines);
        let sum = exponentials(s, lines, max);
        nats += libm::log(f64::from(sum)) + (f64::from(max) - f64::from(target_logit));
        let factor = s.splat(scale / sum);
        for lanes in lines {
            s.store(lanes, s.mul(s.load(lanes), factor));
        }
        row[target] -= scale;
        row[vocabulary..].fill(0.0);
    }
    nats
}

/// The largest value; any value if one is NaN.
#[inline(always)]
fn max<S: Simd>(s: S, lines: &[Lanes]) -> f32 {
    let mut max = s.splat(f32::NEG_INFINITY);
    for lanes in lines {
        max = s.max(s.load(lanes), max);
    }
    s.reduce_max(max)
}

/// Replaces every value by e^(value - max) and returns their sum.
#[inline(always)]
fn exponentials<S: Simd>(s: S, lines: &mut [Lanes], max: f32) -> f32 {
    let max = s.splat(max);
    let mut sum = s.splat(0.0);
    for lanes in lines {
        let power = exp_not_positive(s, s.sub(s.load(lanes), max));
        s.store(lanes, power);
        sum = s.add(sum, power);
    }
    s.reduce_add(sum)
}
