//! The reference: plain loops that read like the formulas, in f64, rounded to f32 once at the end.
//!
//! Slow and exact: the other kernels are tested against it. The operations that give the same bits on every set
//! of kernels are the exception: here they are the common bodies, on plain arrays.

use super::plain::Plain;
use crate::kernels::Kernels;
use crate::line::{
    CodeLine, HalfLine, Line, PANEL_ROWS, PairLine, as_floats, as_floats_mut, as_halves, padded,
};
use crate::quantized::{Quantized, QuantizedCell};
use crate::table::{AdamwStep, Epilogue, Table};
use crate::{body, dropout};
use half::{bf16, f16};
use std::f64::consts::{FRAC_1_SQRT_2, TAU};
use std::hint::black_box;

// SAFETY: no function needs target features; those that are not safe need the shapes that `Kernels` checks.
pub(super) static KERNELS: Kernels =
    unsafe { Kernels::plug("scalar", "plain loops in f64: the reference, on every CPU", TABLE) };

pub(super) fn detect() -> Option<&'static Kernels> {
    Some(&KERNELS)
}

pub(super) const TABLE: Table = Table {
    gemm,
    gemm_unfused,
    gemm_f16,
    gemm_bf16,
    narrow_bf16,
    gemm_q8,
    gemm_q4,
    cell_forward_q8,
    quantize_rows,
    dequantize_q8,
    dequantize_q4,
    widen_f16,
    weight_gradient,
    bias_gradient,
    transpose_panels,
    cell_forward,
    cell_backward,
    cell_step,
    add_scaled_rows,
    dot_rows,
    rms_norm,
    rms_norm_backward,
    exp,
    sigmoid,
    gelu,
    gelu_derivative,
    softmax,
    cross_entropy,
    adamw,
    sum_of_squares,
    dropout,
    probe_multiply_adds,
    probe_reads,
};

fn gemm(out: &mut [f32], a: &[f32], weights: &[Line], depth: usize, epilogue: Epilogue<'_>) {
    product(out, a, as_floats(weights), depth, epilogue);
}

fn gemm_f16(out: &mut [f32], a: &[f32], weights: &[HalfLine], depth: usize, epilogue: Epilogue<'_>) {
    product(out, a, as_halves(weights), depth, epilogue);
}

fn gemm_bf16(out: &mut [f32], a: &[bf16], weights: &[PairLine], depth: usize, epilogue: Epilogue<'_>) {
    let columns =
        |pairs: &[[bf16; 2]; PANEL_ROWS]| [0, 1].map(|of| Line(pairs.map(|pair| pair[of].to_f32())));
    let panels = weights.chunks_exact(depth.div_ceil(2));
    let lines: Vec<Line> = panels
        .flat_map(|panel| panel.iter().flat_map(|line| columns(&line.0)).take(depth).collect::<Vec<_>>())
        .collect();
    let a: Vec<f32> = a.iter().map(|a| a.to_f32()).collect();
    gemm(out, &a, &lines, depth, epilogue);
}

fn narrow_bf16(out: &mut [bf16], x: &[f32]) {
    for (out, &x) in out.iter_mut().zip(x) {
        *out = bf16::from_f32(x);
    }
}

/// `weights`: panels of depth lines of 16.
fn product<E: Copy + Into<f64>>(
    out: &mut [f32],
    a: &[f32],
    weights: &[E],
    depth: usize,
    epilogue: Epilogue<'_>,
) {
    let columns = weights.len() / depth;
    for (index, out) in out.iter_mut().enumerate() {
        let (m, n) = (index / columns, index % columns);
        let (panel, lane) = (n / PANEL_ROWS, n % PANEL_ROWS);
        let start = match epilogue {
            Epilogue::Store => 0.0,
            Epilogue::Accumulate => f64::from(*out),
            Epilogue::Bias(bias) | Epilogue::BiasSigmoid(bias) => f64::from(bias[panel].0[lane]),
        };
        let x = &a[m * padded(depth)..][..depth];
        let weight = |k: usize| weights[(panel * depth + k) * PANEL_ROWS + lane].into();
        let sum = x.iter().enumerate().fold(start, |sum, (k, &x)| sum + weight(k) * f64::from(x));
        *out = match epilogue {
            Epilogue::BiasSigmoid(_) => sigmoid_f64(sum) as f32,
            _ => sum as f32,
        };
    }
}

/// `common!`: operations as their bodies compute them on plain arrays.
macro_rules! common {
    ($($name:ident($($argument:ident: $type:ty),*);)*) => {
        $(
            /// # Safety
            ///
            /// Shapes are as the method of `Kernels` with this name checks them.
            #[allow(unused_unsafe)]
            unsafe fn $name($($argument: $type),*) {
                // SAFETY: the caller vouches for the shapes.
                unsafe { body::$name(Plain, $($argument),*) }
            }
        )*
    };
}
common! {
    gemm_unfused(out: &mut [f32], a: &[f32], weights: &[Line], depth: usize, epilogue: Epilogue<'_>);
    gemm_q8(
        out: &mut [f32], a: Quantized<'_>, weights: &[CodeLine], scales: &[Line], depth: usize,
        epilogue: Epilogue<'_>
    );
    gemm_q4(
        out: &mut [f32], a: Quantized<'_>, weights: &[CodeLine], scales: &[HalfLine], depth: usize,
        epilogue: Epilogue<'_>
    );
    cell_forward_q8(cells: &mut [QuantizedCell<'_>], batch: usize, hidden: usize);
    quantize_rows(codes: &mut [i8], scales: &mut [f32], sums: &mut [i32], x: &[f32], depth: usize);
    dequantize_q8(out: &mut [f32], codes: &[i8], scale: f32);
    dequantize_q4(out: &mut [f32], codes: &[i8], scales: &[f16]);
    widen_f16(out: &mut [f32], x: &[f16]);
    cell_step(h: &mut [f32], z: &[f32], a: &[f32]);
    add_scaled_rows(y: &mut [f32], x: &[f32], scale: &[f32]);
    rms_norm(out: &mut [f32], inverse_rms: &mut [f32], y: &[f32], gain: &[Line], width: usize, eps: f32);
    softmax(values: &mut [f32]);
}

fn weight_gradient(
    gradient: &mut [Line],
    first_panel: usize,
    dy: &[f32],
    dy_stride: usize,
    x: &[f32],
    depth: usize,
) {
    for (index, line) in gradient.iter_mut().enumerate() {
        let (panel, k) = (first_panel + index / depth, index % depth);
        for (lane, gradient) in line.0.iter_mut().enumerate() {
            let rows = dy.chunks_exact(dy_stride).zip(x.chunks_exact(padded(depth)));
            let sum: f64 =
                rows.map(|(dy, x)| f64::from(dy[panel * PANEL_ROWS + lane]) * f64::from(x[k])).sum();
            *gradient = (f64::from(*gradient) + sum) as f32;
        }
    }
}

fn bias_gradient(gradient: &mut [Line], dy: &[f32]) {
    let gradient = as_floats_mut(gradient); // [Np]
    let columns = gradient.len();
    for (n, gradient) in gradient.iter_mut().enumerate() {
        let sum: f64 = dy.chunks_exact(columns).map(|row| f64::from(row[n])).sum();
        *gradient = (f64::from(*gradient) + sum) as f32;
    }
}

fn transpose_panels(out: &mut [Line], weights: &[Line], rows: usize, columns: usize) {
    out.fill(Line::default());
    for row in 0..rows {
        for column in 0..columns {
            out[column / PANEL_ROWS * rows + row].0[column % PANEL_ROWS] =
                weights[row / PANEL_ROWS * columns + column].0[row % PANEL_ROWS];
        }
    }
}

fn cell_forward(h: &mut [f32], a: &mut [f32], z: &[f32], recurrent: &[Line], batch: usize, hidden: usize) {
    let slot = batch * padded(hidden);
    for (t, (a, z)) in a.chunks_exact_mut(slot).zip(z.chunks_exact(slot)).enumerate() {
        let (old, new) = h[t * slot..][..2 * slot].split_at_mut(slot); // both [B, Hp]
        gemm(a, old, recurrent, hidden, Epilogue::Accumulate);
        for (((new, &old), &z), &a) in new.iter_mut().zip(&*old).zip(z).zip(&*a) {
            let old = f64::from(old);
            *new = (old + f64::from(z) * (gelu_f64(f64::from(a)) - old)) as f32;
        }
    }
}

#[expect(clippy::too_many_arguments, reason = "the signature of the table")]
fn cell_backward(
    dh: &mut [f32],
    a: &mut [f32],
    z: &mut [f32],
    h: &[f32],
    dy: &[f32],
    gate: &[f32],
    recurrent_transposed: &[Line],
    batch: usize,
    hidden: usize,
) {
    let width = padded(hidden);
    for row in (0..gate.len()).rev() {
        let (t, b) = (row / batch, row % batch);
        for i in 0..width {
            let (here, state) = (row * width + i, b * width + i);
            let (pre, update) = (f64::from(a[here]), f64::from(z[here]));
            let gradient = f64::from(dh[state]) + f64::from(gate[row]) * f64::from(dy[here]);
            let toward = gelu_f64(pre) - f64::from(h[here]);
            a[here] = (gradient * update * gelu_derivative_f64(pre)) as f32;
            z[here] = (gradient * toward * update * (1.0 - update)) as f32;
            dh[state] = (gradient * (1.0 - update)) as f32;
        }
        if b == 0 {
            let da = &a[t * batch * width..][..batch * width]; // [B, Hp]
            gemm(dh, da, recurrent_transposed, hidden, Epilogue::Accumulate);
        }
    }
}

fn dot_rows(out: &mut [f32], x: &[f32], y: &[f32]) {
    let width = x.len().checked_div(out.len()).unwrap_or(0);
    for (m, out) in out.iter_mut().enumerate() {
        *out = dot(&x[m * width..][..width], &y[m * width..][..width]) as f32;
    }
}

fn rms_norm_backward(
    dout: &mut [f32],
    dgain: &mut [Line],
    y: &[f32],
    inverse_rms: &[f32],
    gain: &[Line],
    width: usize,
) {
    let (stride, gain, dgain) = (padded(width), as_floats(gain), as_floats_mut(dgain));
    for (n, dgain) in dgain.iter_mut().enumerate() {
        let term = |m: usize| {
            f64::from(dout[m * stride + n]) * f64::from(y[m * stride + n]) * f64::from(inverse_rms[m])
        };
        *dgain = (f64::from(*dgain) + (0..inverse_rms.len()).map(term).sum::<f64>()) as f32;
    }
    for (m, &inverse) in inverse_rms.iter().enumerate() {
        let (y, dout) = (&y[m * stride..][..stride], &mut dout[m * stride..][..stride]);
        let inverse = f64::from(inverse);
        let dnormal = |dout: f32, gain: f32| f64::from(dout) * f64::from(gain);
        let product = |n: usize| dnormal(dout[n], gain[n]) * f64::from(y[n]) * inverse;
        let mean = (0..width).map(product).sum::<f64>() / width as f64;
        for ((dout, &y), &gain) in dout.iter_mut().zip(y).zip(gain) {
            *dout = (inverse * (dnormal(*dout, gain) - f64::from(y) * inverse * mean)) as f32;
        }
    }
}

fn exp(out: &mut [f32], x: &[f32]) {
    apply(out, x, libm::exp);
}

fn sigmoid(out: &mut [f32], x: &[f32]) {
    apply(out, x, sigmoid_f64);
}

fn gelu(out: &mut [f32], x: &[f32]) {
    apply(out, x, gelu_f64);
}

fn gelu_derivative(out: &mut [f32], x: &[f32]) {
    apply(out, x, gelu_derivative_f64);
}

fn cross_entropy(logits: &mut [f32], targets: &[u32], vocabulary: usize, scale: f32) -> f64 {
    let columns = logits.len() / targets.len();
    let mut nats = 0.0;
    for (row, &target) in logits.chunks_exact_mut(columns).zip(targets) {
        let (row, padding) = row.split_at_mut(vocabulary);
        padding.fill(0.0);
        let target = target as usize;
        let max = f64::from(row.iter().copied().fold(f32::NEG_INFINITY, f32::max));
        let sum: f64 = row.iter().map(|&x| libm::exp(f64::from(x) - max)).sum();
        nats += libm::log(sum) + max - f64::from(row[target]);
        for (n, value) in row.iter_mut().enumerate() {
            let onehot = f64::from(u8::from(n == target));
            *value = ((libm::exp(f64::from(*value) - max) / sum - onehot) * f64::from(scale)) as f32;
        }
    }
    nats
}

fn adamw(
    weights: &mut [Line],
    first_moment: &mut [Line],
    second_moment: &mut [Line],
    gradient: &[Line],
    step: &AdamwStep,
) {
    let learning_rate = f64::from(step.learning_rate);
    let (beta1, beta2) = (f64::from(step.beta1), f64::from(step.beta2));
    let (correction1, correction2) = (f64::from(step.correction1), f64::from(step.correction2));
    let moments = as_floats_mut(first_moment).iter_mut().zip(as_floats_mut(second_moment));
    for ((w, (m, v)), &g) in as_floats_mut(weights).iter_mut().zip(moments).zip(as_floats(gradient)) {
        let g = f64::from(g) * f64::from(step.gradient_scale);
        let first = f64::from(*m) + (g - f64::from(*m)) * (1.0 - beta1);
        let second = f64::from(*v) * beta2 + g * g * (1.0 - beta2);
        let decayed = f64::from(*w) * (1.0 - learning_rate * f64::from(step.weight_decay));
        let denominator = second.sqrt() / correction2.sqrt() + f64::from(step.eps);
        *w = (decayed - learning_rate / correction1 * first / denominator) as f32;
        *m = first as f32;
        *v = second as f32;
    }
}

fn sum_of_squares(values: &[f32]) -> f64 {
    let mut sums = [0.0_f64; PANEL_ROWS];
    for (i, &value) in values.iter().enumerate() {
        sums[i % PANEL_ROWS] += f64::from(value) * f64::from(value);
    }
    for distance in [8, 4, 2, 1] {
        for lane in 0..distance {
            sums[lane] += sums[lane + distance];
        }
    }
    sums[0]
}

fn dropout(values: &mut [f32], key: u64, first: u64, keep: f32) {
    dropout::apply(values, key, first, keep);
}

fn probe_multiply_adds(steps: usize) -> f64 {
    let (ones, mut sums) = ([1.0; PANEL_ROWS], [0.0; PANEL_ROWS]);
    for _ in 0..steps {
        // Opaque in every step, or nothing would be left to multiply.
        let ones: &[f64; PANEL_ROWS] = black_box(&ones);
        for (sum, one) in sums.iter_mut().zip(ones) {
            *sum += ones[0] * one;
        }
    }
    sums.iter().sum()
}

fn probe_reads(lines: &[Line]) -> f64 {
    let mut sums = [0.0; PANEL_ROWS];
    for line in lines {
        for (sum, &value) in sums.iter_mut().zip(&line.0) {
            *sum += f64::from(value);
        }
    }
    sums.iter().sum()
}

fn apply(out: &mut [f32], x: &[f32], function: fn(f64) -> f64) {
    for (out, &x) in out.iter_mut().zip(x) {
        *out = function(f64::from(x)) as f32;
    }
}

fn sigmoid_f64(x: f64) -> f64 {
    1.0 / (1.0 + libm::exp(-x))
}

/// Φ(x) = erfc(-x / √2) / 2, which keeps its relative accuracy where it is small.
fn normal_distribution(x: f64) -> f64 {
    0.5 * libm::erfc(-x * FRAC_1_SQRT_2)
}

fn gelu_f64(x: f64) -> f64 {
    // The limit, where the product would be ∞ · 0.
    if x == f64::NEG_INFINITY { -0.0 } else { x * normal_distribution(x) }
}

fn gelu_derivative_f64(x: f64) -> f64 {
    let density = libm::exp(-0.5 * x * x) / TAU.sqrt();
    // The limit, where the product would be ∞ · 0.
    normal_distribution(x) + if x.is_infinite() { 0.0 } else { x * density }
}

fn dot(x: &[f32], y: &[f32]) -> f64 {
    x.iter().zip(y).map(|(&x, &y)| f64::from(x) * f64::from(y)).sum()
}
