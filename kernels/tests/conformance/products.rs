//! Matrix products, their gradients, and the transpose.

use crate::buffers::{Floats, Lines, Random};
use crate::compare::{Expected, assert_close, assert_same, reduction_bound};
use proptest::prelude::*;
use shoestring_kernels::{Epilogue, Kernels, Line, PANEL_ROWS, padded, panel_lines, unpack_panels};

/// Rows of activations: around every tile height, alone and after whole tiles.
const ROWS: [usize; 13] = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 13, 16, 17];
/// Outputs, so panels: 1 to 9, around every number of panels that is read at once.
const OUTPUTS: [usize; 12] = [1, 15, 16, 17, 33, 48, 49, 65, 96, 100, 128, 144];
const INPUTS: [usize; 7] = [1, 2, 15, 16, 17, 33, 96];

/// The operands of a product, and what it should be.
struct Case {
    rows: usize,
    inputs: usize,
    outputs: usize,
    a: Vec<f32>,       // [M, Kp]
    weights: Vec<f32>, // [N, K]
    bias: Vec<f32>,    // [N]
    out: Vec<f32>,     // [M, Np]: what is in the output before
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Kind {
    Store,
    Accumulate,
    Bias,
    BiasSigmoid,
}

const KINDS: [Kind; 4] = [Kind::Store, Kind::Accumulate, Kind::Bias, Kind::BiasSigmoid];

impl Case {
    fn random(random: &mut Random, rows: usize, inputs: usize, outputs: usize) -> Self {
        Self {
            rows,
            inputs,
            outputs,
            a: random.rows(rows, inputs),
            weights: random.floats(outputs * inputs),
            bias: random.floats(outputs),
            out: random.rows(rows, outputs),
        }
    }

    /// [M, Np]
    fn expected(&self, kind: Kind) -> Vec<Expected> {
        let (kp, np) = (padded(self.inputs), padded(self.outputs));
        let element = |index: usize| {
            let (m, n) = (index / np, index % np);
            if n >= self.outputs {
                let value = if kind == Kind::BiasSigmoid { 0.5 } else { 0.0 };
                return Expected { value, bound: 0.0 };
            }
            let start = f64::from(match kind {
                Kind::Store => 0.0,
                Kind::Accumulate => self.out[index],
                Kind::Bias | Kind::BiasSigmoid => self.bias[n],
            });
            let term =
                |k: usize| f64::from(self.a[m * kp + k]) * f64::from(self.weights[n * self.inputs + k]);
            let sum = start + (0..self.inputs).map(term).sum::<f64>();
            let magnitude = start.abs() + (0..self.inputs).map(|k| term(k).abs()).sum::<f64>();
            let bound = reduction_bound(self.inputs, magnitude);
            if kind == Kind::BiasSigmoid {
                // The sigmoid's slope is at most a quarter, and its value at most 1.
                Expected { value: 1.0 / (1.0 + (-sum).exp()), bound: bound / 4.0 + reduction_bound(1, 1.0) }
            } else {
                Expected { value: sum, bound }
            }
        };
        (0..self.rows * np).map(element).collect()
    }

    fn gemm(&self, kernels: &Kernels, kind: Kind, misalignment: usize) -> Vec<f32> {
        let (weights, bias) = (self.panels(), Lines::row(&self.bias));
        let a = Floats::new(&self.a, misalignment);
        let mut out = self.out_buffer(kind, misalignment);
        kernels.gemm(&mut out, &a, &weights, self.inputs, epilogue(kind, &bias));
        out.to_vec()
    }

    fn matvec(&self, kernels: &Kernels, kind: Kind, misalignment: usize) -> Vec<f32> {
        assert_eq!(self.rows, 1);
        let (weights, bias) = (self.panels(), Lines::row(&self.bias));
        let x = Floats::new(&self.a[..self.inputs], misalignment); // no padding: it need not be there
        let mut out = self.out_buffer(kind, misalignment);
        kernels.matvec(&mut out, &weights, &x, self.inputs, epilogue(kind, &bias));
        out.to_vec()
    }

    fn panels(&self) -> Lines {
        Lines::panels(&self.weights, self.outputs, self.inputs)
    }

    fn out_buffer(&self, kind: Kind, misalignment: usize) -> Floats {
        match kind {
            Kind::Accumulate => Floats::new(&self.out, misalignment),
            _ => Floats::unwritten(self.out.len(), misalignment),
        }
    }
}

fn epilogue(kind: Kind, bias: &[Line]) -> Epilogue<'_> {
    match kind {
        Kind::Store => Epilogue::Store,
        Kind::Accumulate => Epilogue::Accumulate,
        Kind::Bias => Epilogue::Bias(bias),
        Kind::BiasSigmoid => Epilogue::BiasSigmoid(bias),
    }
}

#[test]
fn gemm_of_every_tile_and_epilogue() {
    let mut random = Random(1);
    for rows in ROWS {
        for (i, outputs) in OUTPUTS.into_iter().enumerate() {
            for (j, kind) in KINDS.into_iter().enumerate() {
                let inputs = INPUTS[(rows + i + j) % INPUTS.len()];
                let case = Case::random(&mut random, rows, inputs, outputs);
                let expected = case.expected(kind);
                for kernels in Kernels::available() {
                    let what = format!("{} gemm {kind:?} {rows}x{inputs}x{outputs}", kernels.name());
                    assert_close(&what, &case.gemm(kernels, kind, (i + j) % 2), &expected);
                }
            }
        }
    }
}

#[test]
fn gemm_of_the_shapes_of_training() {
    let mut random = Random(2);
    let case = Case::random(&mut random, 80, 96, 96);
    let expected = case.expected(Kind::Bias);
    for kernels in Kernels::available() {
        assert_close(kernels.name(), &case.gemm(kernels, Kind::Bias, 0), &expected);
    }
}

#[test]
fn matvec_is_gemm_of_one_row_bit_for_bit() {
    let mut random = Random(3);
    for outputs in OUTPUTS {
        for inputs in INPUTS {
            for kind in KINDS {
                let case = Case::random(&mut random, 1, inputs, outputs);
                let expected = case.expected(kind);
                for kernels in Kernels::available() {
                    let what = format!("{} matvec {kind:?} {outputs}x{inputs}", kernels.name());
                    let got = case.matvec(kernels, kind, 1);
                    assert_close(&what, &got, &expected);
                    assert_same(&what, &got, &case.gemm(kernels, kind, 0));
                }
            }
        }
    }
}

#[test]
fn no_panels_and_no_rows_are_no_work() {
    for kernels in Kernels::available() {
        kernels.gemm(&mut [], &[0.0; 32], &[], 5, Epilogue::Store);
        kernels.gemm(&mut [], &[], &[Line::default(); 5], 5, Epilogue::Store);
        kernels.matvec(&mut [], &[], &[0.0; 5], 5, Epilogue::Store);
        kernels.weight_gradient(&mut [], 0, &[0.0; 48], 16, &[0.0; 48], 5);
        kernels.bias_gradient(&mut [], &[]);
        kernels.transpose_panels(&mut [], &[], 0, 5);
        kernels.transpose_panels(&mut [], &[], 5, 0);
        let mut gradient = [Line([3.0; PANEL_ROWS]); 5];
        kernels.weight_gradient(&mut gradient, 0, &[], 16, &[], 5);
        kernels.bias_gradient(&mut gradient, &[]);
        assert_eq!(gradient, [Line([3.0; PANEL_ROWS]); 5], "{}", kernels.name());
    }
}

#[test]
fn nan_and_infinity_stay_in_their_row() {
    let mut random = Random(4);
    let case = Case::random(&mut random, 9, 17, 33);
    let np = padded(case.outputs);
    for kernels in Kernels::available() {
        let clean = case.gemm(kernels, Kind::Store, 0);
        for poison in [f32::NAN, f32::INFINITY] {
            let mut a = case.a.clone();
            a[4 * padded(case.inputs) + 16] = poison;
            let spoiled =
                Case { a, weights: case.weights.clone(), bias: vec![], out: case.out.clone(), ..case };
            let got = spoiled.gemm(kernels, Kind::Store, 0);
            for (m, (got, clean)) in got.chunks_exact(np).zip(clean.chunks_exact(np)).enumerate() {
                if m == 4 {
                    assert!(
                        got[..case.outputs].iter().all(|x| !x.is_finite()),
                        "{}: {poison}",
                        kernels.name()
                    );
                } else {
                    assert_same(kernels.name(), got, clean);
                }
            }
        }
    }
}

#[test]
fn denormal_products_are_not_flushed() {
    for kernels in Kernels::available() {
        let mut out = [0.0; PANEL_ROWS];
        kernels.matvec(&mut out, &[Line([1e-20; PANEL_ROWS])], &[1e-20], 1, Epilogue::Store);
        for value in out {
            assert!(value > 0.9e-40 && value < 1.1e-40, "{}: {value:e}", kernels.name());
        }
    }
}

/// gradient[N, K] + dyᵀ · x for columns `first_column..` of dy.
fn expected_gradient(
    gradient: &[f32], // [N, K]
    dy: &[f32],       // [M, stride]
    stride: usize,
    first_column: usize,
    x: &[f32], // [M, Kp]
    inputs: usize,
) -> Vec<Expected> {
    let rows = dy.len() / stride;
    let element = |index: usize| {
        let (n, k) = (index / inputs, index % inputs);
        let start = f64::from(gradient[index]);
        let term =
            |m: usize| f64::from(dy[m * stride + first_column + n]) * f64::from(x[m * padded(inputs) + k]);
        let value = start + (0..rows).map(term).sum::<f64>();
        let magnitude = start.abs() + (0..rows).map(|m| term(m).abs()).sum::<f64>();
        Expected { value, bound: reduction_bound(rows, magnitude) }
    };
    (0..gradient.len()).map(element).collect()
}

/// As `weight_gradient` computes it, unpacked to [16 · panels, K].
fn gradient_of(
    kernels: &Kernels,
    gradient: &[f32], // [16 · panels, K]
    first_panel: usize,
    dy: &Floats,
    stride: usize,
    x: &Floats,
    inputs: usize,
) -> Vec<f32> {
    let outputs = gradient.len() / inputs;
    let mut panels = Lines::panels(gradient, outputs, inputs);
    kernels.weight_gradient(&mut panels, first_panel, dy, stride, x, inputs);
    let mut got = vec![f32::NAN; gradient.len()];
    unpack_panels(&mut got, &panels, outputs, inputs);
    got
}

#[test]
fn weight_gradient_of_every_tile() {
    let mut random = Random(5);
    for rows in [0, 1, 2, 7, 127, 128, 129, 260] {
        for (i, panels) in [1, 2, 3, 4, 7].into_iter().enumerate() {
            for first_panel in [0, 2] {
                let inputs = INPUTS[(rows + i + first_panel) % INPUTS.len()];
                let stride = PANEL_ROWS * (first_panel + panels + 1);
                let gradient = random.floats(panels * PANEL_ROWS * inputs);
                let (dy, x) = (random.floats(rows * stride), random.rows(rows, inputs));
                let expected =
                    expected_gradient(&gradient, &dy, stride, first_panel * PANEL_ROWS, &x, inputs);
                let (dy, x) = (Floats::new(&dy, i % 2), Floats::new(&x, 1 - i % 2));
                for kernels in Kernels::available() {
                    let what = format!("{} gradient {rows}x{panels}x{inputs}", kernels.name());
                    let got = gradient_of(kernels, &gradient, first_panel, &dy, stride, &x, inputs);
                    assert_close(&what, &got, &expected);
                }
            }
        }
    }
}

#[test]
fn bias_gradient_sums_columns() {
    let mut random = Random(6);
    for rows in [0, 1, 2, 17, 100] {
        for panels in [1, 2, 5] {
            let width = panels * PANEL_ROWS;
            let (start, dy) = (random.floats(width), random.floats(rows * width));
            let element = |n: usize| {
                let column = || (0..rows).map(|m| f64::from(dy[m * width + n]));
                let magnitude = f64::from(start[n]).abs() + column().map(f64::abs).sum::<f64>();
                let value = f64::from(start[n]) + column().sum::<f64>();
                Expected { value, bound: reduction_bound(rows, magnitude) }
            };
            let expected: Vec<_> = (0..width).map(element).collect();
            let dy = Floats::new(&dy, 1);
            for kernels in Kernels::available() {
                let mut gradient = Lines::row(&start);
                kernels.bias_gradient(&mut gradient, &dy);
                assert_close(kernels.name(), gradient.floats(), &expected);
            }
        }
    }
}

#[test]
fn transpose_swaps_rows_and_columns_and_pads_with_zeros() {
    let mut random = Random(7);
    for rows in [1, 15, 16, 17, 33, 96] {
        for columns in [1, 3, 16, 17, 47, 96] {
            let matrix = random.floats(rows * columns);
            let transposed: Vec<f32> =
                (0..rows * columns).map(|i| matrix[i % rows * columns + i / rows]).collect();
            let (weights, expected) =
                (Lines::panels(&matrix, rows, columns), Lines::panels(&transposed, columns, rows));
            for kernels in Kernels::available() {
                let mut out = Lines::new(&vec![Line([f32::NAN; PANEL_ROWS]); panel_lines(columns, rows)]);
                kernels.transpose_panels(&mut out, &weights, rows, columns);
                let what = format!("{} transpose {rows}x{columns}", kernels.name());
                assert_same(&what, out.floats(), expected.floats());
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn gemm_of_any_shape(
        rows in 0_usize..40, inputs in 1_usize..70, outputs in 1_usize..150, kind in 0_usize..4,
        misalignment in 0_usize..16, seed: u64,
    ) {
        let case = Case::random(&mut Random(seed), rows, inputs, outputs);
        let expected = case.expected(KINDS[kind]);
        for kernels in Kernels::available() {
            assert_close(kernels.name(), &case.gemm(kernels, KINDS[kind], misalignment), &expected);
        }
    }

    #[test]
    fn weight_gradient_of_any_shape(
        rows in 0_usize..200, inputs in 1_usize..50, panels in 1_usize..6, first_panel in 0_usize..4,
        extra in 0_usize..20, misalignment in 0_usize..16, seed: u64,
    ) {
        let mut random = Random(seed);
        let stride = (first_panel + panels) * PANEL_ROWS + extra;
        let gradient = random.floats(panels * PANEL_ROWS * inputs);
        let (dy, x) = (random.floats(rows * stride), random.rows(rows, inputs));
        let expected = expected_gradient(&gradient, &dy, stride, first_panel * PANEL_ROWS, &x, inputs);
        let (dy, x) = (Floats::new(&dy, misalignment), Floats::new(&x, misalignment));
        for kernels in Kernels::available() {
            let got = gradient_of(kernels, &gradient, first_panel, &dy, stride, &x, inputs);
            assert_close(kernels.name(), &got, &expected);
        }
    }
}
