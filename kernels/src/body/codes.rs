//! From floats to the codes of quantized numbers, and back.

use crate::line::{PANEL_ROWS, padded};
use crate::quantized::{GROUP, groups};
use crate::simd::{Simd, Unfused};
use half::f16;

/// Adding this to a float of magnitude below 2²² rounds it to the nearest integer, ties to even, and leaves
/// that integer in the lowest bits of the sum: 1.5 · 2²³.
const ROUND: f32 = 12_582_912.0;

/// The least largest magnitude of a row that is not taken for zero: its inverse is far from overflow.
const LEAST_MAGNITUDE: f32 = 1e-30;

#[inline(always)]
pub(crate) fn quantize_rows<S: Simd>(
    s: S,
    codes: &mut [i8],
    scales: &mut [f32],
    sums: &mut [i32],
    x: &[f32],
    depth: usize,
) {
    let stride = padded(depth);
    let rows = x.chunks_exact(stride).zip(codes.chunks_exact_mut(stride));
    let results = scales.iter_mut().zip(sums.chunks_exact_mut(groups(depth)));
    for ((x, codes), (scale, sums)) in rows.zip(results) {
        (*scale, _) = quantize_row(s, codes, x);
        let (whole, rest) = codes.as_chunks::<GROUP>();
        for (sum, codes) in sums.iter_mut().zip(whole) {
            *sum = sum_of_codes(codes);
        }
        if let (Some(sum), false) = (sums.get_mut(whole.len()), rest.is_empty()) {
            *sum = sum_of_codes(rest);
        }
    }
}

/// Quantizes one row. Returns its scale, and lanes whose sum is that of the codes.
#[inline(always)]
pub(super) fn quantize_row<S: Simd>(s: S, codes: &mut [i8], x: &[f32]) -> (f32, S::Vector) {
    let s = Unfused(s);
    let lines = x.as_chunks::<PANEL_ROWS>().0;
    let (mut largest, mut poison) = (s.splat(0.0), s.splat(0.0));
    for lanes in lines {
        let lanes = s.load(lanes);
        largest = s.max(s.abs(lanes), largest);
        poison = s.add(poison, s.mul(lanes, s.splat(0.0)));
    }
    // The poison is zero, or NaN where a value is not finite.
    let largest = s.select_less(poison, s.splat(1.0), largest, s.splat(f32::INFINITY));
    let largest = s.reduce_max(largest);
    let is_zero = largest < LEAST_MAGNITUDE || largest == f32::INFINITY;
    let inverse = s.splat(if is_zero { 0.0 } else { 127.0 / largest });
    let mut sum = s.splat(0.0);
    for (lanes, codes) in lines.iter().zip(codes.as_chunks_mut::<PANEL_ROWS>().0) {
        if is_zero {
            *codes = [0; PANEL_ROWS];
        } else {
            let rounded = s.add(s.mul(s.load(lanes), inverse), s.splat(ROUND));
            s.store_low_bytes(codes, rounded);
            sum = s.add(sum, s.sub(rounded, s.splat(ROUND)));
        }
    }
    let scale = match largest {
        f32::INFINITY => f32::NAN,
        _ if is_zero => 0.0,
        _ => largest / 127.0,
    };
    (scale, sum)
}

#[inline(always)]
fn sum_of_codes(codes: &[i8]) -> i32 {
    codes.iter().map(|&code| i32::from(code)).sum()
}

#[inline(always)]
pub(crate) fn dequantize_q8<S: Simd>(_: S, out: &mut [f32], codes: &[i8], scale: f32) {
    for (out, &code) in out.iter_mut().zip(codes) {
        *out = f32::from(code) * scale;
    }
}

#[inline(always)]
pub(crate) fn dequantize_q4<S: Simd>(_: S, out: &mut [f32], codes: &[i8], scales: &[f16]) {
    for ((out, codes), scale) in out.chunks_mut(GROUP).zip(codes.chunks(GROUP / 2)).zip(scales) {
        let scale = scale.to_f32();
        let (low, high) = out.split_at_mut(out.len().min(GROUP / 2));
        for (out, &code) in low.iter_mut().zip(codes) {
            *out = f32::from((code & 15) - 8) * scale;
        }
        for (out, &code) in high.iter_mut().zip(codes) {
            *out = f32::from(((code >> 4) & 15) - 8) * scale;
        }
    }
}

#[inline(always)]
pub(crate) fn widen_f16<S: Simd>(s: S, out: &mut [f32], x: &[f16]) {
    let (out, out_rest) = out.as_chunks_mut::<PANEL_ROWS>();
    let (x, x_rest) = x.as_chunks::<PANEL_ROWS>();
    for (out, x) in out.iter_mut().zip(x) {
        s.store(out, s.load_half(x));
    }
    if !out_rest.is_empty() {
        let mut lanes = [f16::ZERO; PANEL_ROWS];
        lanes[..x_rest.len()].copy_from_slice(x_rest);
        s.store_partial(out_rest, s.load_half(&lanes));
    }
}
