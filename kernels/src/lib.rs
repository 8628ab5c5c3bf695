//! The numerical kernels of shoestring: everything that touches vectors of floats, for every
//! instruction set, behind one safe type.
//!
//! [`Kernels`] is a table of function pointers. [`Kernels::available`] lists those this CPU can run, best
//! first; [`Kernels::select`] finds one by name. Their methods are the operations: matrix products over
//! [panels](crate::Line), the recurrent cell forward and backward, normalisation, softmax and loss, the
//! optimizer. Each checks the shapes of its buffers, in release builds too, and makes one call.
//!
//! Conventions: activations are row-major `f32` rows of [`padded`] width whose padding is zero; weights
//! are [`Line`]s in panels of [`PANEL_ROWS`] output rows. Shapes in comments are [outermost, ..,
//! innermost]; M counts rows of activations, K inputs, N outputs, and Kp, Np, Hp are padded widths.
//!
//! Results do not depend on how work is split between calls, and the instruction sets with a fused
//! multiply-add (`avx512`, `avx2`, `neon` and their variants) give the same bits but in `gemm_bf16`: a model trains alike
//! on all of them; `wide` and `scalar` round differently. The operations that quantized models are run with give the same
//! bits everywhere, because they are exact or unfused: `gemm_q8`, `gemm_q4`, `cell_forward_q8`, `gemm_unfused`, `quantize_rows`,
//! `dequantize_q8`, `dequantize_q4`, `widen_f16`, `softmax`, `cell_step`, `add_scaled_rows` and `rms_norm`.
//!
//! ```
//! use shoestring_kernels::{Epilogue, Kernels, Line, pack_panels, padded, panel_lines};
//!
//! let (outputs, inputs) = (2, 3);
//! let mut weights = vec![Line::default(); panel_lines(outputs, inputs)];
//! pack_panels(&mut weights, &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0], outputs, inputs);
//! let mut y = vec![0.0; padded(outputs)];
//! let mut x = vec![0.0; padded(inputs)];
//! x[..inputs].copy_from_slice(&[1.0, 10.0, 100.0]);
//! Kernels::best().gemm(&mut y, &x, &weights, inputs, Epilogue::Store);
//! assert_eq!(y[..2], [321.0, 654.0]);
//! ```

mod body;
mod dropout;
mod isa;
mod kernels;
mod line;
mod operations;
mod probe;
pub mod quantized;
mod simd;
mod table;
mod team;

pub use kernels::{Kernels, UnknownKernel};
pub use line::{
    CodeLine, HalfLine, Line, PANEL_ROWS, PairLine, as_code_lines, as_code_lines_mut, as_codes, as_codes_mut,
    as_floats, as_floats_mut, as_half_lines, as_half_lines_mut, as_halves, as_halves_mut, pack_bf16,
    pack_panels, padded, panel_lines, unpack_panels,
};
pub use table::{AdamwStep, Epilogue, Table};
pub use team::Team;
