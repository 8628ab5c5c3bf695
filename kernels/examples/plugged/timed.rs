//! Kernels that are not part of the crate: those of this CPU, every call timed. For what a training step calls.

use shoestring_kernels::{AdamwStep, Epilogue, Kernels, Line, PANEL_ROWS, Table};
use std::collections::BTreeMap;
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

/// All calls of an operation on operands of one width.
#[derive(Clone, Copy, Debug, Default)]
pub struct Calls {
    pub count: u64,
    /// Over all threads.
    pub time: Duration,
    /// Multiply-adds of matrix products, each counted as two.
    pub flops: u64,
    /// Of all operands, each counted once.
    pub bytes: u64,
}

/// Operation, and what tells its uses apart.
pub type Key = (&'static str, String);

static TIMED: OnceLock<&'static Kernels> = OnceLock::new();
static CALLS: Mutex<BTreeMap<Key, Calls>> = Mutex::new(BTreeMap::new());

/// Kernels that pass every call on to `kernels`; the first call decides whose.
pub fn timing(kernels: &'static Kernels) -> &'static Kernels {
    TIMED.get_or_init(|| kernels);
    &KERNELS
}

/// The calls since the last time this was asked for.
pub fn take() -> BTreeMap<Key, Calls> {
    std::mem::take(&mut *CALLS.lock().unwrap_or_else(PoisonError::into_inner))
}

fn record<R>(
    operation: &'static str,
    shape: impl FnOnce() -> String,
    flops: usize,
    bytes: usize,
    call: impl FnOnce(&Kernels) -> R,
) -> R {
    let kernels = TIMED.get().expect("only `timing` hands out these kernels");
    let start = Instant::now();
    let result = call(kernels);
    let time = start.elapsed();
    let key = (operation, shape());
    let mut calls = CALLS.lock().unwrap_or_else(PoisonError::into_inner);
    let calls = calls.entry(key).or_default();
    calls.count += 1;
    calls.time += time;
    calls.flops += flops as u64;
    calls.bytes += bytes as u64;
    result
}

/// One function for each operation: its shape, its multiply-adds, and its operands.
macro_rules! timed {
    ($($name:ident($($argument:ident: $type:ty),*) -> $result:ty {
        $shape:expr, $multiply_adds:expr, [$($operand:ident),*]
    })*) => {
        $(
            #[allow(clippy::too_many_arguments, reason = "the signature of the table")]
            fn $name($($argument: $type),*) -> $result {
                let bytes = [$(size_of_val($operand)),*].iter().sum();
                let (flops, shape) = (2 * $multiply_adds, $shape);
                record(stringify!($name), || shape, flops, bytes, |kernels| kernels.$name($($argument),*))
            }
        )*

        // SAFETY: the functions above are safe Rust without target features, and those of `SCALAR` run on every
        // CPU.
        static KERNELS: Kernels = unsafe {
            Kernels::plug("timed", "those of this CPU, timed", Table { $($name,)* ..Table::SCALAR })
        };
    };
}

timed! {
    gemm(out: &mut [f32], a: &[f32], weights: &[Line], depth: usize, epilogue: Epilogue<'_>) -> () {
        format!("{depth} to {}{}", weights.len() / depth * PANEL_ROWS, name(epilogue)),
        a.len() * weights.len() / depth * PANEL_ROWS, [out, a, weights]
    }
    weight_gradient(
        gradient: &mut [Line], first_panel: usize, dy: &[f32], dy_stride: usize, x: &[f32], depth: usize
    ) -> () {
        format!("{dy_stride} by {depth}"),
        dy.len() / dy_stride * gradient.len() * PANEL_ROWS, [gradient, x]
    }
    bias_gradient(gradient: &mut [Line], dy: &[f32]) -> () {
        format!("{}", gradient.len() * PANEL_ROWS), 0, [gradient, dy]
    }
    transpose_panels(out: &mut [Line], weights: &[Line], rows: usize, columns: usize) -> () {
        format!("{rows} by {columns}"), 0, [out, weights]
    }
    cell_forward(
        h: &mut [f32], a: &mut [f32], z: &[f32], recurrent: &[Line], batch: usize, hidden: usize
    ) -> () {
        format!("{batch} streams of {hidden}"), a.len() * hidden, [h, a, z]
    }
    cell_backward(
        dh: &mut [f32], a: &mut [f32], z: &mut [f32], h: &[f32], dy: &[f32], gate: &[f32],
        recurrent_transposed: &[Line], batch: usize, hidden: usize
    ) -> () {
        format!("{batch} streams of {hidden}"), a.len() * hidden, [a, z, h, dy]
    }
    add_scaled_rows(y: &mut [f32], x: &[f32], scale: &[f32]) -> () { String::new(), 0, [y, x, scale] }
    dot_rows(out: &mut [f32], x: &[f32], y: &[f32]) -> () { String::new(), 0, [out, x, y] }
    rms_norm(
        out: &mut [f32], inverse_rms: &mut [f32], y: &[f32], gain: &[Line], width: usize, eps: f32
    ) -> () {
        format!("{width}"), 0, [out, y]
    }
    rms_norm_backward(
        dout: &mut [f32], dgain: &mut [Line], y: &[f32], inverse_rms: &[f32], gain: &[Line], width: usize
    ) -> () {
        format!("{width}"), 0, [dout, y]
    }
    softmax(values: &mut [f32]) -> () { format!("{}", values.len()), 0, [values] }
    cross_entropy(logits: &mut [f32], targets: &[u32], vocabulary: usize, scale: f32) -> f64 {
        format!("{vocabulary}"), 0, [logits]
    }
    adamw(
        weights: &mut [Line], first_moment: &mut [Line], second_moment: &mut [Line], gradient: &[Line],
        step: &AdamwStep
    ) -> () {
        String::new(), 0, [weights, first_moment, second_moment, gradient]
    }
    sum_of_squares(values: &[f32]) -> f64 { String::new(), 0, [values] }
    dropout(values: &mut [f32], key: u64, first: u64, keep: f32) -> () { String::new(), 0, [values] }
}

fn name(epilogue: Epilogue<'_>) -> &'static str {
    match epilogue {
        Epilogue::Store => "",
        Epilogue::Accumulate => ", added",
        Epilogue::Bias(_) => ", bias",
        Epilogue::BiasSigmoid(_) => ", sigmoid",
    }
}
