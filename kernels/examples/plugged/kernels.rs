//! Kernels that are not part of the crate: products in a loop order of their own and an exponential of their own;
//! the rest is the portable reference.

use shoestring_kernels::{Epilogue, Kernels, Line, PANEL_ROWS, Table, as_floats, padded};
use std::f64::consts::{LN_2, LOG2_E};

// SAFETY: the functions below are safe Rust without target features, and those of `SCALAR` run on every CPU.
pub static KERNELS: Kernels = unsafe {
    Kernels::plug(
        "columns",
        "an example: products column by column, e^x by Taylor's series in f64",
        Table { gemm, exp, ..Table::SCALAR },
    )
};

/// `out[M, Np] = a[M, Kp] · Wᵀ`, then the epilogue: row by row.
fn gemm(out: &mut [f32], a: &[f32], weights: &[Line], depth: usize, epilogue: Epilogue<'_>) {
    let columns = weights.len() / depth * PANEL_ROWS;
    if columns == 0 {
        return;
    }
    for (out, a) in out.chunks_exact_mut(columns).zip(a.chunks_exact(padded(depth))) {
        row(out, a, weights, depth, epilogue);
    }
}

/// One row, `out[Np] = W · x`, then the epilogue: all outputs take up one input before the next.
///
/// The crate's own kernels go through all inputs for a few outputs, so that the sums stay in registers. Either way
/// an output is one sum in the order of k, which is what makes it independent of how the work is split.
fn row(out: &mut [f32], x: &[f32], weights: &[Line], depth: usize, epilogue: Epilogue<'_>) {
    match epilogue {
        Epilogue::Store => out.fill(0.0),
        Epilogue::Accumulate => {}
        Epilogue::Bias(bias) | Epilogue::BiasSigmoid(bias) => out.copy_from_slice(as_floats(bias)),
    }
    for (k, &x) in x[..depth].iter().enumerate() {
        for (sums, panel) in out.chunks_exact_mut(PANEL_ROWS).zip(weights.chunks_exact(depth)) {
            for (sum, weight) in sums.iter_mut().zip(panel[k].0) {
                *sum += weight * x;
            }
        }
    }
    if matches!(epilogue, Epilogue::BiasSigmoid(_)) {
        for value in out {
            *value = (1.0 / (1.0 + power(-f64::from(*value)))) as f32;
        }
    }
}

/// `out[i] = e^x[i]`
fn exp(out: &mut [f32], x: &[f32]) {
    for (out, &x) in out.iter_mut().zip(x) {
        *out = power(f64::from(x)) as f32;
    }
}

/// e^x = 2^n e^r, n an integer and |r| ≤ ln 2 / 2, where the first ten terms of the series leave a relative
/// error of 1e-11.
fn power(x: f64) -> f64 {
    let x = x.clamp(-700.0, 700.0); // far beyond what f32 can hold; NaN stays NaN
    let n = (x * LOG2_E).round();
    let r = x - n * LN_2;
    let series = (1..10).rev().fold(1.0, |sum, i| 1.0 + sum * r / f64::from(i));
    f64::from_bits(((n as i64 + 1023) as u64) << 52) * series
}
