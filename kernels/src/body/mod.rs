//! The operations, written once over [`Simd`](crate::simd::Simd).
//!
//! Every function is `#[inline(always)]` and is compiled as part of an instruction set's
//! `#[target_feature]` function of the same name, which `isa::instantiate!` makes. What each computes,
//! and the shapes it may rely on, is documented at the method of [`Kernels`](crate::Kernels) with its name.

mod bf16;
mod cell;
mod codes;
mod gemm;
mod loss;
mod math;
mod optimizer;
mod probe;
mod product;
mod quantized;
mod rows;

pub(crate) use bf16::{gemm_bf16, narrow_bf16};
pub(crate) use cell::{cell_backward, cell_forward, cell_step};
pub(crate) use codes::{dequantize_q4, dequantize_q8, quantize_rows, widen_f16};
pub(crate) use gemm::{bias_gradient, gemm, gemm_f16, gemm_unfused, transpose_panels, weight_gradient};
pub(crate) use loss::{cross_entropy, softmax};
pub(crate) use math::{exp, gelu, gelu_derivative, sigmoid};
pub(crate) use optimizer::{adamw, dropout, sum_of_squares};
pub(crate) use probe::{probe_multiply_adds, probe_reads};
pub(crate) use quantized::{cell_forward_q8, gemm_q4, gemm_q8};
pub(crate) use rows::{add_scaled_rows, dot_rows, rms_norm, rms_norm_backward};
