//! Matrix products and their gradients.

use crate::{Case, compare_all, compare_exactly, compare_sums, sums};
use half::bf16;
use libfuzzer_sys::arbitrary::{self, Arbitrary};
use shoestring_kernels::{Epilogue, Kernels, Line, PANEL_ROWS, PairLine, pack_bf16, padded, panel_lines};
use shoestring_kernels_conformance::buffers::{Floats, Lines};
use shoestring_kernels_conformance::compare::{Expected, reduction_bound};

#[derive(Arbitrary, Clone, Copy, Debug, PartialEq)]
pub enum Kind {
    Store,
    Accumulate,
    Bias,
    BiasSigmoid,
}

impl Kind {
    /// What the output of a product is before: `start`, or not to be read.
    pub fn out(self, start: &[f32], misalignment: usize) -> Floats {
        match self {
            Self::Accumulate => Floats::new(start, misalignment),
            _ => Floats::unwritten(start.len(), misalignment),
        }
    }

    pub fn epilogue(self, bias: &[Line]) -> Epilogue<'_> {
        match self {
            Self::Store => Epilogue::Store,
            Self::Accumulate => Epilogue::Accumulate,
            Self::Bias => Epilogue::Bias(bias),
            Self::BiasSigmoid => Epilogue::BiasSigmoid(bias),
        }
    }
}

pub fn gemm(case: Case, kind: Kind) {
    let Case { inputs, outputs, .. } = case;
    let operands = operands(case);
    compare_product(operands, ("gemm", kind), |kernels, out, a, weights, epilogue| {
        kernels.gemm(out, a, &Lines::panels(weights, outputs, inputs), inputs, epilogue);
    });
}

pub fn gemm_f16(mut case: Case, kind: Kind) {
    case.scale = case.scale.min(256.0); // a half-precision float is at most 65504
    let Case { inputs, outputs, .. } = case;
    compare_product(operands(case), ("gemm_f16", kind), |kernels, out, a, weights, epilogue| {
        kernels.gemm_f16(out, a, &Lines::half_panels(weights, outputs, inputs), inputs, epilogue);
    });
}

/// Activations are narrowed by the kernels under test, too.
pub fn gemm_bf16(case: Case, kind: Kind) {
    let Case { inputs, outputs, .. } = case;
    compare_product(operands(case), ("gemm_bf16", kind), |kernels, out, a, weights, epilogue| {
        let mut narrow = vec![bf16::ZERO; a.len()];
        kernels.narrow_bf16(&mut narrow, a);
        let mut pairs = vec![PairLine::default(); panel_lines(outputs, inputs.div_ceil(2))];
        pack_bf16(&mut pairs, weights, outputs, inputs);
        kernels.gemm_bf16(out, &narrow, &pairs, inputs, epilogue);
    });
}

pub fn gemm_unfused(case: Case, kind: Kind) {
    let Case { rows, inputs, outputs, misalignment, .. } = case;
    let Operands { values: [a, weights, bias, start], .. } = operands(case);
    compare_exactly(&format!("gemm_unfused {kind:?} {rows}x{inputs}x{outputs}"), |kernels| {
        let (weights, bias) = (Lines::panels(&weights, outputs, inputs), Lines::row(&bias));
        let mut out = kind.out(&start, misalignment);
        let a = Floats::new(&a, 15 - misalignment);
        kernels.gemm_unfused(&mut out, &a, &weights, inputs, kind.epilogue(&bias));
        out.to_vec()
    });
}

/// The operands of a product.
struct Operands {
    rows: usize,
    inputs: usize,
    outputs: usize,
    misalignment: usize,
    /// a [M, Kp], weights [N, K], bias `[N]`, and what is in the output before [M, Np].
    values: [Vec<f32>; 4],
}

fn operands(mut case: Case) -> Operands {
    let Case { rows, inputs, outputs, misalignment, .. } = case;
    let values = [
        case.padded_rows(rows, inputs),
        case.floats(outputs * inputs),
        case.floats(outputs),
        case.padded_rows(rows, outputs),
    ];
    Operands { rows, inputs, outputs, misalignment, values }
}

/// Compares products up to their rounding errors; `multiply` takes out, a and the row-major weights.
fn compare_product(
    operands: Operands,
    (operation, kind): (&str, Kind),
    multiply: impl Fn(&Kernels, &mut [f32], &[f32], &[f32], Epilogue<'_>),
) {
    let Operands { rows, inputs, outputs, misalignment, values } = operands;
    let run = |kernels: &Kernels, kind: Kind, [a, weights, bias, start]: &[Vec<f32>; 4]| {
        let (a, bias) = (Floats::new(a, 15 - misalignment), Lines::row(bias));
        let mut out = kind.out(start, misalignment);
        multiply(kernels, &mut out, &a, weights, kind.epilogue(&bias));
        out.to_vec()
    };
    let linear = if kind == Kind::BiasSigmoid { Kind::Bias } else { kind };
    let mut expected = sums(inputs, &values, |kernels, values| run(kernels, linear, values));
    if kind == Kind::BiasSigmoid {
        expected = expected.into_iter().map(sigmoid).collect();
    }
    let what = format!("{operation} {kind:?} {rows}x{inputs}x{outputs}");
    compare_all(&what, &expected, |kernels| run(kernels, kind, &values));
}

/// The sigmoid's slope is at most a quarter, and its relative error 4 units in the last place.
fn sigmoid(Expected { value, bound }: Expected) -> Expected {
    let value = 1.0 / (1.0 + (-value).exp());
    Expected { value, bound: bound / 4.0 + reduction_bound(5, value) }
}

pub fn weight_gradient(mut case: Case, first_panel: usize, extra_columns: usize) {
    let Case { rows, inputs, outputs, misalignment, .. } = case;
    let panels = outputs.div_ceil(PANEL_ROWS);
    let stride = (first_panel + panels) * PANEL_ROWS + extra_columns;
    let gradient = case.floats(panels * PANEL_ROWS * inputs); // [N, K]
    let (dy, x) = (case.floats(rows * stride), case.padded_rows(rows, inputs)); // [M, stride], [M, Kp]
    let what =
        format!("weight_gradient {rows}x{inputs}, panels {first_panel}..+{panels} of {stride} columns");
    compare_sums(&what, rows, [gradient, dy, x], |kernels, [gradient, dy, x]| {
        let mut gradient = Lines::panels(gradient, panels * PANEL_ROWS, inputs);
        let (dy, x) = (Floats::new(dy, misalignment), Floats::new(x, 15 - misalignment));
        kernels.weight_gradient(&mut gradient, first_panel, &dy, stride, &x, inputs);
        gradient.floats().to_vec()
    });
}

pub fn bias_gradient(mut case: Case) {
    let Case { rows, outputs, misalignment, .. } = case;
    let width = padded(outputs);
    let (start, dy) = (case.floats(width), case.floats(rows * width)); // [Np], [M, Np]
    compare_sums(&format!("bias_gradient {rows}x{width}"), rows, [start, dy], |kernels, [start, dy]| {
        let mut gradient = Lines::row(start);
        kernels.bias_gradient(&mut gradient, &Floats::new(dy, misalignment));
        gradient.floats().to_vec()
    });
}

pub fn transpose_panels(mut case: Case) {
    let (rows, columns) = (case.outputs, case.inputs);
    let weights = case.floats(rows * columns);
    compare_exactly(&format!("transpose_panels {rows}x{columns}"), |kernels| {
        let mut out = Lines::new(&vec![Line([f32::NAN; PANEL_ROWS]); panel_lines(columns, rows)]);
        kernels.transpose_panels(&mut out, &Lines::panels(&weights, rows, columns), rows, columns);
        out.floats().to_vec()
    });
}
