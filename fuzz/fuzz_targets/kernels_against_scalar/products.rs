//! Matrix products and their gradients.

use crate::{Case, compare_all, compare_exactly, compare_sums, sums};
use libfuzzer_sys::arbitrary::{self, Arbitrary};
use shoestring_kernels::{Epilogue, Kernels, Line, PANEL_ROWS, padded, panel_lines};
use shoestring_kernels_conformance::buffers::{Floats, Lines};
use shoestring_kernels_conformance::compare::{Expected, reduction_bound};

#[derive(Arbitrary, Clone, Copy, Debug, PartialEq)]
pub enum Kind {
    Store,
    Accumulate,
    Bias,
    BiasSigmoid,
}

pub fn gemm(mut case: Case, kind: Kind) {
    let a = case.padded_rows(case.rows, case.inputs); // [M, Kp]
    let (rows, inputs) = (case.rows, case.inputs);
    product("gemm", case, kind, rows, a, |kernels, out, weights, a, epilogue| {
        kernels.gemm(out, a, weights, inputs, epilogue);
    });
}

/// What both products have in common; `multiply` is the one to check.
fn product(
    operation: &str,
    mut case: Case,
    kind: Kind,
    rows: usize,
    left: Vec<f32>,
    multiply: impl Fn(&Kernels, &mut [f32], &[Line], &[f32], Epilogue<'_>),
) {
    let Case { inputs, outputs, misalignment, .. } = case;
    let weights = case.floats(outputs * inputs); // [N, K]
    let bias = case.floats(outputs); // [N]
    let out = case.padded_rows(rows, outputs); // [M, Np]: what is there before
    let run = |kernels: &Kernels, kind: Kind, [left, weights, bias, out]: &[Vec<f32>; 4]| {
        let (weights, bias) = (Lines::panels(weights, outputs, inputs), Lines::row(bias));
        let left = Floats::new(left, 15 - misalignment);
        let mut out = match kind {
            Kind::Accumulate => Floats::new(out, misalignment),
            _ => Floats::unwritten(out.len(), misalignment),
        };
        let epilogue = match kind {
            Kind::Store => Epilogue::Store,
            Kind::Accumulate => Epilogue::Accumulate,
            Kind::Bias => Epilogue::Bias(&bias),
            Kind::BiasSigmoid => Epilogue::BiasSigmoid(&bias),
        };
        multiply(kernels, &mut out, &weights, &left, epilogue);
        out.to_vec()
    };
    let operands = [left, weights, bias, out];
    let linear = if kind == Kind::BiasSigmoid { Kind::Bias } else { kind };
    let mut expected = sums(inputs, &operands, |kernels, operands| run(kernels, linear, operands));
    if kind == Kind::BiasSigmoid {
        expected = expected.into_iter().map(sigmoid).collect();
    }
    let what = format!("{operation} {kind:?} {rows}x{inputs}x{outputs}");
    compare_all(&what, &expected, |kernels| run(kernels, kind, &operands));
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
