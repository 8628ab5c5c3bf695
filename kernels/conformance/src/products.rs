//! Matrix products.

use crate::buffers::{Floats, Lines};
use crate::compare::{Expected, assert_close, assert_same, reduction_bound};
use crate::failure::case;
use crate::random::{Random, for_any};
use shoestring_kernels::{Epilogue, Kernels, Line, PANEL_ROWS, padded};

checks! {
    gemm_of_every_tile_and_epilogue: gemm;
    gemm_of_the_shapes_of_training: gemm;
    gemm_of_any_shape: gemm;
    one_row_is_the_rows_of_many_bit_for_bit: gemm;
    no_panels_and_no_rows_are_no_work: gemm;
    nan_and_infinity_stay_in_their_row: gemm;
    denormal_products_are_not_flushed: gemm;
}

/// Rows of activations: around every tile height, alone and after whole tiles.
pub(crate) const ROWS: [usize; 13] = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 13, 16, 17];
/// Outputs, so panels: 1 to 9, around every number of panels that is read at once.
pub(crate) const OUTPUTS: [usize; 12] = [1, 15, 16, 17, 33, 48, 49, 65, 96, 100, 128, 144];
/// Inputs, around one, two and several lines.
pub(crate) const INPUTS: [usize; 7] = [1, 2, 15, 16, 17, 33, 96];

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
                return Expected::exactly(if kind == Kind::BiasSigmoid { 0.5 } else { 0.0 });
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
        case(format_args!("gemm {kind:?} {}x{}x{}", self.rows, self.inputs, self.outputs));
        let (weights, bias) = (self.panels(), Lines::row(&self.bias));
        let a = Floats::new(&self.a, misalignment);
        let mut out = self.out_buffer(kind, misalignment);
        kernels.gemm(&mut out, &a, &weights, self.inputs, epilogue(kind, &bias));
        out.into_vec()
    }

    /// The same product of row `row` alone.
    fn row(&self, row: usize) -> Self {
        let of = |values: &[f32], width: usize| values[row * padded(width)..][..padded(width)].to_vec();
        Self {
            rows: 1,
            inputs: self.inputs,
            outputs: self.outputs,
            a: of(&self.a, self.inputs),
            weights: self.weights.clone(),
            bias: self.bias.clone(),
            out: of(&self.out, self.outputs),
        }
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

fn gemm_of_every_tile_and_epilogue(kernels: &Kernels) {
    let mut random = Random(1);
    for rows in ROWS {
        for (i, outputs) in OUTPUTS.into_iter().enumerate() {
            for (j, kind) in KINDS.into_iter().enumerate() {
                let inputs = INPUTS[(rows + i + j) % INPUTS.len()];
                let case = Case::random(&mut random, rows, inputs, outputs);
                assert_close("out", &case.gemm(kernels, kind, (i + j) % 2), &case.expected(kind));
            }
        }
    }
}

fn gemm_of_the_shapes_of_training(kernels: &Kernels) {
    let case = Case::random(&mut Random(2), 80, 96, 96);
    assert_close("out", &case.gemm(kernels, Kind::Bias, 0), &case.expected(Kind::Bias));
}

fn gemm_of_any_shape(kernels: &Kernels) {
    let shapes = (0_usize..40, 1_usize..70, 1_usize..150, 0_usize..4, 0_usize..16, 0_u64..);
    for_any(shapes, |(rows, inputs, outputs, kind, misalignment, seed)| {
        let case = Case::random(&mut Random(seed), rows, inputs, outputs);
        assert_close("out", &case.gemm(kernels, KINDS[kind], misalignment), &case.expected(KINDS[kind]));
    });
}

fn one_row_is_the_rows_of_many_bit_for_bit(kernels: &Kernels) {
    let mut random = Random(3);
    for outputs in OUTPUTS {
        for inputs in INPUTS {
            for kind in KINDS {
                let case = Case::random(&mut random, 3, inputs, outputs);
                let together = case.gemm(kernels, kind, 0);
                for (m, together) in together.chunks_exact(padded(outputs)).enumerate() {
                    let row = case.row(m);
                    let alone = row.gemm(kernels, kind, 1);
                    assert_close("out", &alone, &row.expected(kind));
                    assert_same(&format!("out, as row {m} of 3"), &alone, together);
                }
            }
        }
    }
}

fn no_panels_and_no_rows_are_no_work(kernels: &Kernels) {
    case("gemm 2x5x0");
    kernels.gemm(&mut Floats::unwritten(0, 0), &[0.0; 32], &[], 5, Epilogue::Store);
    case("gemm 0x5x16");
    kernels.gemm(&mut Floats::unwritten(0, 0), &[], &[Line::default(); 5], 5, Epilogue::Store);
    case("gemm 1x5x0");
    kernels.gemm(&mut Floats::unwritten(0, 0), &[0.0; 16], &[], 5, Epilogue::Store);
}

fn nan_and_infinity_stay_in_their_row(kernels: &Kernels) {
    let mut case = Case::random(&mut Random(4), 9, 17, 33);
    let np = padded(case.outputs);
    let clean = case.gemm(kernels, Kind::Store, 0);
    for poison in [f32::NAN, f32::INFINITY] {
        case.a[4 * padded(case.inputs) + 16] = poison;
        let got = case.gemm(kernels, Kind::Store, 0);
        for (m, (got, clean)) in got.chunks_exact(np).zip(clean.chunks_exact(np)).enumerate() {
            if m == 4 {
                let spoiled = &got[..case.outputs];
                assert!(spoiled.iter().all(|x| !x.is_finite()), "{poison} in row 4 gives {spoiled:?}");
            } else {
                assert_same(&format!("row {m}, {poison} being in row 4"), got, clean);
            }
        }
    }
}

fn denormal_products_are_not_flushed(kernels: &Kernels) {
    let weights = [Line([1e-20; PANEL_ROWS])];
    for rows in [1, 2] {
        let mut a = vec![0.0; rows * PANEL_ROWS];
        a.iter_mut().step_by(PANEL_ROWS).for_each(|a| *a = 1e-20);
        case(format_args!("gemm {rows}x1x16 of denormal results"));
        let mut out = Floats::unwritten(rows * PANEL_ROWS, 0);
        kernels.gemm(&mut out, &a, &weights, 1, Epilogue::Store);
        assert!(out.iter().all(|value| (0.9e-40..1.1e-40).contains(value)), "{:?}", &out[..]);
    }
}
