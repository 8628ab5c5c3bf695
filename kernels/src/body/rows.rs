//! Rows: weighted sums, dot products, and RMS normalisation.

use crate::line::{Line, PANEL_ROWS, padded};
use crate::simd::{Simd, Unfused};

#[inline(always)]
pub(crate) fn add_scaled_rows<S: Simd>(s: S, y: &mut [f32], x: &[f32], scale: &[f32]) {
    let s = Unfused(s);
    let Some(width) = y.len().checked_div(scale.len()).filter(|&width| width > 0) else { return };
    for ((y, x), &scale) in y.chunks_exact_mut(width).zip(x.chunks_exact(width)).zip(scale) {
        let scale = s.splat(scale);
        for (y, x) in y.as_chunks_mut().0.iter_mut().zip(x.as_chunks().0) {
            s.store(y, s.mul_add(scale, s.load(x), s.load(y)));
        }
    }
}

#[inline(always)]
pub(crate) fn dot_rows<S: Simd>(s: S, out: &mut [f32], x: &[f32], y: &[f32]) {
    let width = x.len().checked_div(out.len()).unwrap_or(0);
    for (m, out) in out.iter_mut().enumerate() {
        let (x, y) = (&x[m * width..][..width], &y[m * width..][..width]);
        let mut sum = s.splat(0.0);
        for (x, y) in x.as_chunks().0.iter().zip(y.as_chunks().0) {
            sum = s.mul_add(s.load(x), s.load(y), sum);
        }
        *out = s.reduce_add(sum);
    }
}

#[inline(always)]
pub(crate) fn rms_norm<S: Simd>(
    s: S,
    out: &mut [f32],
    inverse_rms: &mut [f32],
    y: &[f32],
    gain: &[Line],
    width: usize,
    eps: f32,
) {
    let s = Unfused(s);
    let stride = padded(width);
    let rows = out.chunks_exact_mut(stride).zip(y.chunks_exact(stride));
    for ((out, y), inverse_rms) in rows.zip(inverse_rms) {
        let (lines, rest) = y[..width].as_chunks();
        let mut sum = s.splat(0.0);
        for lanes in lines {
            sum = s.mul_add(s.load(lanes), s.load(lanes), sum);
        }
        let rest = s.load_partial(rest, 0.0);
        sum = s.mul_add(rest, rest, sum);
        *inverse_rms = 1.0 / (s.reduce_add(sum) / width as f32 + eps).sqrt();
        let inverse = s.splat(*inverse_rms);
        let inputs = y.as_chunks().0.iter().zip(gain);
        for (out, (y, gain)) in out.as_chunks_mut().0.iter_mut().zip(inputs) {
            s.store(out, s.mul(s.mul(s.load(y), inverse), s.load(&gain.0)));
        }
    }
}

#[inline(always)]
pub(crate) fn rms_norm_backward<S: Simd>(
    s: S,
    dout: &mut [f32],
    dgain: &mut [Line],
    y: &[f32],
    inverse_rms: &[f32],
    gain: &[Line],
    width: usize,
) {
    let stride = padded(width);
    let rows = dout.chunks_exact_mut(stride).zip(y.chunks_exact(stride));
    for ((dout, y), &inverse_rms) in rows.zip(inverse_rms) {
        let inverse = s.splat(inverse_rms);
        let (dout, y) = (dout.as_chunks_mut::<PANEL_ROWS>().0, y.as_chunks::<PANEL_ROWS>().0);
        // Padding adds nothing: the gain is zero there.
        let mut sum = s.splat(0.0);
        for (((dout, y), gain), dgain) in dout.iter().zip(y).zip(gain).zip(&mut *dgain) {
            let product = s.mul(s.load(dout), s.mul(s.load(y), inverse));
            let dgain_sum = s.add(s.load(&dgain.0), product);
            s.store(&mut dgain.0, dgain_sum);
            sum = s.mul_add(product, s.load(&gain.0), sum);
        }
        let mean = s.splat(s.reduce_add(sum) / width as f32);
        for ((dout, y), gain) in dout.iter_mut().zip(y).zip(gain) {
            let normal = s.mul(s.load(y), inverse);
            let toward = s.mul(s.load(dout), s.load(&gain.0));
            s.store(dout, s.mul(inverse, s.neg_mul_add(normal, mean, toward)));
        }
    }
}
