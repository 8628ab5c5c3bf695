//! A matrix in panels, of any encoding, and the product with it.

use super::encoding::{Encoding, Parts};
use super::parameters::Storage;
use shoestring_kernels::quantized::{Quantized, code_lines, groups, units};
use shoestring_kernels::{
    CodeLine, Epilogue, HalfLine, Kernels, Line, PANEL_ROWS, as_code_lines, as_half_lines, padded,
};
use std::ops::Range;

/// The panels of one or several matrices `[N, K]`, as the kernels multiply with them.
#[derive(Clone, Copy)]
pub struct Panels<'a> {
    numbers: Numbers<'a>,
    depth: usize,
}

#[derive(Clone, Copy)]
enum Numbers<'a> {
    F32(&'a [Line]),                                      // [panels, K]
    F16(&'a [HalfLine]),                                  // [panels, K]
    Q8 { codes: &'a [CodeLine], scales: &'a [Line] },     // [panels, code_lines(K)], [panels]
    Q4 { codes: &'a [CodeLine], scales: &'a [HalfLine] }, // [panels, units(K)], [panels, groups(K)]
}

/// Rows of activations in the form that the weights want.
#[derive(Clone, Copy)]
pub enum Activations<'a> {
    /// `[M, padded(K)]`, for weights that are floats.
    Floats(&'a [f32]),
    /// For weights that are integers.
    Integers(Quantized<'a>),
}

impl Activations<'_> {
    /// Only these rows, of `depth` numbers each.
    pub fn rows(self, rows: Range<usize>, depth: usize) -> Self {
        match self {
            Activations::Floats(all) => {
                Activations::Floats(&all[rows.start * padded(depth)..rows.end * padded(depth)])
            }
            Activations::Integers(all) => Activations::Integers(Quantized {
                codes: &all.codes[rows.start * padded(depth)..rows.end * padded(depth)],
                scales: &all.scales[rows.clone()],
                sums: &all.sums[rows.start * groups(depth)..rows.end * groups(depth)],
            }),
        }
    }
}

impl<'a> Panels<'a> {
    /// The panels of a tensor whose lines are `lines`.
    ///
    /// # Panics
    /// If the tensor is not stored in panels.
    pub fn new(storage: Storage, encoding: Encoding, lines: &'a [Line]) -> Self {
        let Storage::Panels { matrices, rows, columns: depth } = storage else {
            panic!("a product needs panels")
        };
        let panels = matrices * rows.div_ceil(PANEL_ROWS);
        let (numbers, scales) = lines.split_at(Parts::new(storage, encoding).numbers);
        let numbers = match encoding {
            Encoding::F32 => Numbers::F32(numbers),
            Encoding::F16 => Numbers::F16(&as_half_lines(numbers)[..panels * depth]),
            Encoding::Q8 => Numbers::Q8 { codes: as_code_lines(numbers), scales },
            Encoding::Q4 => Numbers::Q4 {
                codes: as_code_lines(numbers),
                scales: &as_half_lines(scales)[..panels * groups(depth)],
            },
        };
        Panels { numbers, depth }
    }

    /// Only these panels.
    pub fn slice(self, panels: Range<usize>) -> Self {
        let lines = |each: usize| panels.start * each..panels.end * each;
        let depth = self.depth;
        let numbers = match self.numbers {
            Numbers::F32(all) => Numbers::F32(&all[lines(depth)]),
            Numbers::F16(all) => Numbers::F16(&all[lines(depth)]),
            Numbers::Q8 { codes, scales } => {
                Numbers::Q8 { codes: &codes[lines(code_lines(depth))], scales: &scales[lines(1)] }
            }
            Numbers::Q4 { codes, scales } => {
                Numbers::Q4 { codes: &codes[lines(units(depth))], scales: &scales[lines(groups(depth))] }
            }
        };
        Panels { numbers, depth }
    }

    /// The codes and the scales, if this is q8.
    pub fn as_q8(self) -> Option<(&'a [CodeLine], &'a [Line])> {
        match self.numbers {
            Numbers::Q8 { codes, scales } => Some((codes, scales)),
            _ => None,
        }
    }

    /// `out[M, Np] = x[M, K] · Wᵀ`, then the epilogue.
    ///
    /// # Panics
    /// If x is not in the form that the weights want, or a buffer has another shape.
    pub fn multiply(self, kernels: &Kernels, out: &mut [f32], x: Activations<'_>, epilogue: Epilogue<'_>) {
        match (self.numbers, x) {
            (Numbers::F32(lines), Activations::Floats(x)) => {
                kernels.gemm(out, x, lines, self.depth, epilogue)
            }
            (Numbers::F16(lines), Activations::Floats(x)) => {
                kernels.gemm_f16(out, x, lines, self.depth, epilogue);
            }
            (Numbers::Q8 { codes, scales }, Activations::Integers(x)) => {
                kernels.gemm_q8(out, x, codes, scales, self.depth, epilogue);
            }
            (Numbers::Q4 { codes, scales }, Activations::Integers(x)) => {
                kernels.gemm_q4(out, x, codes, scales, self.depth, epilogue);
            }
            _ => panic!("weights and activations must both be floats or both be integers"),
        }
    }
}
