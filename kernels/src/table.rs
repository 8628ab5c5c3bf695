//! The operations: one list, from which the table of function pointers and every instruction set's
//! functions are made.

use crate::line::{CodeLine, HalfLine, Line, PairLine};
use crate::quantized::{Quantized, QuantizedCell};
use half::{bf16, f16};

/// What a matrix product does with `out`, beside storing the sums in it.
#[derive(Clone, Copy, Debug)]
pub enum Epilogue<'a> {
    /// out = product
    Store,
    /// out = out + product
    Accumulate,
    /// out = product + bias; bias: [ceil(N/16)] lines
    Bias(&'a [Line]),
    /// out = sigmoid(product + bias); bias: [ceil(N/16)] lines
    BiasSigmoid(&'a [Line]),
}

/// The constants of one AdamW step.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AdamwStep {
    /// Step size.
    pub learning_rate: f32,
    /// Decay of the first moment.
    pub beta1: f32,
    /// Decay of the second moment.
    pub beta2: f32,
    /// Added to the root of the second moment.
    pub eps: f32,
    /// Decoupled decay: weights shrink by `learning_rate * weight_decay`.
    pub weight_decay: f32,
    /// Factor on every gradient (clipping).
    pub gradient_scale: f32,
    /// 1 - beta1^t, t = 1 in the first step.
    pub correction1: f32,
    /// 1 - beta2^t.
    pub correction2: f32,
}

/// Calls `$expand! { { $context } operations }`: the single list of names and signatures.
macro_rules! operations {
    ($($expand:ident)::+! { $($context:tt)* }) => {
        $($expand)::+! { { $($context)* }
            gemm(out: &mut [f32], a: &[f32], weights: &[Line], depth: usize, epilogue: Epilogue<'_>) -> ();
            gemm_unfused(
                out: &mut [f32], a: &[f32], weights: &[Line], depth: usize, epilogue: Epilogue<'_>
            ) -> ();
            gemm_f16(
                out: &mut [f32], a: &[f32], weights: &[HalfLine], depth: usize, epilogue: Epilogue<'_>
            ) -> ();
            gemm_bf16(
                out: &mut [f32], a: &[bf16], weights: &[PairLine], depth: usize, epilogue: Epilogue<'_>
            ) -> ();
            narrow_bf16(out: &mut [bf16], x: &[f32]) -> ();
            gemm_q8(
                out: &mut [f32], a: Quantized<'_>, weights: &[CodeLine], scales: &[Line], depth: usize,
                epilogue: Epilogue<'_>
            ) -> ();
            gemm_q4(
                out: &mut [f32], a: Quantized<'_>, weights: &[CodeLine], scales: &[HalfLine], depth: usize,
                epilogue: Epilogue<'_>
            ) -> ();
            cell_forward_q8(cells: &mut [QuantizedCell<'_>], batch: usize, hidden: usize) -> ();
            quantize_rows(
                codes: &mut [i8], scales: &mut [f32], sums: &mut [i32], x: &[f32], depth: usize
            ) -> ();
            dequantize_q8(out: &mut [f32], codes: &[i8], scale: f32) -> ();
            dequantize_q4(out: &mut [f32], codes: &[i8], scales: &[f16]) -> ();
            widen_f16(out: &mut [f32], x: &[f16]) -> ();
            weight_gradient(
                gradient: &mut [Line], first_panel: usize, dy: &[f32], dy_stride: usize, x: &[f32],
                depth: usize
            ) -> ();
            bias_gradient(gradient: &mut [Line], dy: &[f32]) -> ();
            transpose_panels(out: &mut [Line], weights: &[Line], rows: usize, columns: usize) -> ();
            cell_forward(
                h: &mut [f32], a: &mut [f32], z: &[f32], recurrent: &[Line], batch: usize, hidden: usize
            ) -> ();
            cell_backward(
                dh: &mut [f32], a: &mut [f32], z: &mut [f32], h: &[f32], dy: &[f32], gate: &[f32],
                recurrent_transposed: &[Line], batch: usize, hidden: usize
            ) -> ();
            cell_step(h: &mut [f32], z: &[f32], a: &[f32]) -> ();
            add_scaled_rows(y: &mut [f32], x: &[f32], scale: &[f32]) -> ();
            dot_rows(out: &mut [f32], x: &[f32], y: &[f32]) -> ();
            rms_norm(
                out: &mut [f32], inverse_rms: &mut [f32], y: &[f32], gain: &[Line], width: usize, eps: f32
            ) -> ();
            rms_norm_backward(
                dout: &mut [f32], dgain: &mut [Line], y: &[f32], inverse_rms: &[f32], gain: &[Line],
                width: usize
            ) -> ();
            exp(out: &mut [f32], x: &[f32]) -> ();
            sigmoid(out: &mut [f32], x: &[f32]) -> ();
            gelu(out: &mut [f32], x: &[f32]) -> ();
            gelu_derivative(out: &mut [f32], x: &[f32]) -> ();
            softmax(values: &mut [f32]) -> ();
            cross_entropy(logits: &mut [f32], targets: &[u32], vocabulary: usize, scale: f32) -> f64;
            adamw(
                weights: &mut [Line], first_moment: &mut [Line], second_moment: &mut [Line],
                gradient: &[Line], step: &AdamwStep
            ) -> ();
            sum_of_squares(values: &[f32]) -> f64;
            dropout(values: &mut [f32], key: u64, first: u64, keep: f32) -> ();
            probe_multiply_adds(steps: usize) -> f64;
            probe_reads(lines: &[Line]) -> f64;
        }
    };
}
pub(crate) use operations;

macro_rules! define_table {
    ({} $($name:ident($($argument:ident: $type:ty),*) -> $result:ty;)*) => {
        /// One function pointer for each operation.
        ///
        /// Every function computes what the method of [`Kernels`](crate::Kernels) with its name documents.
        /// Calling one requires a CPU with the function's target features and arguments of the shapes
        /// that method checks; only those methods call them.
        #[derive(Clone, Copy, Debug)]
        pub struct Table {
            $(
                #[doc = concat!("See [`", stringify!($name), "`](crate::Kernels::", stringify!($name), ").")]
                pub $name: unsafe fn($($argument: $type),*) -> $result,
            )*
        }
    };
}
operations! { define_table! {} }
