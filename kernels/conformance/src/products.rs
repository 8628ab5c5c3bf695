//! Matrix products.

use crate::buffers::{Buffer, Floats, Lines};
use crate::compare::{Expected, assert_close, assert_same, reduction_bound};
use crate::failure::case;
use crate::random::{Random, for_any};
use half::{bf16, f16};
use shoestring_kernels::{
    Epilogue, HalfLine, Kernels, Line, PANEL_ROWS, PairLine, pack_bf16, padded, panel_lines,
};

checks! {
    gemm_of_every_tile_and_epilogue: gemm, gemm_bf16, gemm_f16, gemm_unfused;
    gemm_of_the_shapes_of_training: gemm, gemm_bf16, gemm_f16, gemm_unfused;
    gemm_of_any_shape: gemm, gemm_bf16, gemm_f16, gemm_unfused;
    one_row_is_the_rows_of_many_bit_for_bit: gemm, gemm_bf16, gemm_f16, gemm_unfused;
    no_panels_and_no_rows_are_no_work: gemm, gemm_bf16, gemm_f16, gemm_unfused;
    nan_and_infinity_stay_in_their_row: gemm, gemm_bf16, gemm_f16, gemm_unfused;
    denormal_products_are_not_flushed: gemm, gemm_unfused;
    half_precision_weights_are_widened_exactly: gemm_f16;
    unfused_products_are_rounded_twice: gemm_unfused;
    floats_are_narrowed_to_the_nearest_bf16: narrow_bf16;
}

/// Rows of activations: around every tile height, alone and after whole tiles.
pub(crate) const ROWS: [usize; 13] = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 13, 16, 17];
/// Outputs, so panels: 1 to 9, around every number of panels that is read at once.
pub(crate) const OUTPUTS: [usize; 12] = [1, 15, 16, 17, 33, 48, 49, 65, 96, 100, 128, 144];
/// Inputs, around one, two and several lines.
pub(crate) const INPUTS: [usize; 7] = [1, 2, 15, 16, 17, 33, 96];

/// The operations that are products of floats.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Product {
    Gemm,
    GemmBf16,
    GemmF16,
    GemmUnfused,
}

const PRODUCTS: [Product; 4] = [Product::Gemm, Product::GemmBf16, Product::GemmF16, Product::GemmUnfused];

impl Product {
    fn name(self) -> &'static str {
        match self {
            Self::Gemm => "gemm",
            Self::GemmBf16 => "gemm_bf16",
            Self::GemmF16 => "gemm_f16",
            Self::GemmUnfused => "gemm_unfused",
        }
    }
}

/// The operands of a product, and what it should be.
struct Case {
    product: Product,
    rows: usize,
    inputs: usize,
    outputs: usize,
    a: Vec<f32>,       // [M, Kp]
    weights: Vec<f32>, // [N, K]
    bias: Vec<f32>,    // [N]
    out: Vec<f32>,     // [M, Np]: what is in the output before
}

/// The epilogues, without their operands.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Kind {
    Store,
    Accumulate,
    Bias,
    BiasSigmoid,
}

pub(crate) const KINDS: [Kind; 4] = [Kind::Store, Kind::Accumulate, Kind::Bias, Kind::BiasSigmoid];

impl Case {
    fn random(random: &mut Random, product: Product, rows: usize, inputs: usize, outputs: usize) -> Self {
        let (mut weights, mut a) = (random.floats(outputs * inputs), random.rows(rows, inputs));
        match product {
            Product::Gemm | Product::GemmUnfused => {}
            Product::GemmF16 => {
                weights.iter_mut().for_each(|weight| *weight = f16::from_f32(*weight).to_f32());
            }
            Product::GemmBf16 => {
                weights.iter_mut().chain(&mut a).for_each(|x| *x = bf16::from_f32(*x).to_f32());
            }
        }
        Self {
            product,
            rows,
            inputs,
            outputs,
            a,
            weights,
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

    /// [M, Np]: plain sums, of which every product and every addition is rounded.
    fn rounded_twice(&self, kind: Kind) -> Vec<f32> {
        let (kp, np) = (padded(self.inputs), padded(self.outputs));
        let element = |index: usize| {
            let (m, n) = (index / np, index % np);
            if n >= self.outputs {
                return 0.0;
            }
            let start = match kind {
                Kind::Store => 0.0,
                Kind::Accumulate => self.out[index],
                Kind::Bias | Kind::BiasSigmoid => self.bias[n],
            };
            (0..self.inputs)
                .fold(start, |sum, k| sum + self.a[m * kp + k] * self.weights[n * self.inputs + k])
        };
        (0..self.rows * np).map(element).collect()
    }

    fn run(&self, kernels: &Kernels, kind: Kind, misalignment: usize) -> Vec<f32> {
        let Self { product, rows, inputs, outputs, .. } = *self;
        case(format_args!("{} {kind:?} {rows}x{inputs}x{outputs}", product.name()));
        let (bias, a) = (Lines::row(&self.bias), Floats::new(&self.a, misalignment));
        let epilogue = epilogue(kind, &bias);
        let mut out = match kind {
            Kind::Accumulate => Floats::new(&self.out, misalignment),
            _ => Floats::unwritten(self.out.len(), misalignment),
        };
        let panels = || Lines::panels(&self.weights, outputs, inputs);
        match product {
            Product::Gemm => kernels.gemm(&mut out, &a, &panels(), inputs, epilogue),
            Product::GemmUnfused => kernels.gemm_unfused(&mut out, &a, &panels(), inputs, epilogue),
            Product::GemmBf16 => {
                let narrow: Vec<bf16> = self.a.iter().map(|&a| bf16::from_f32(a)).collect();
                let mut weights = vec![PairLine::default(); panel_lines(outputs, inputs.div_ceil(2))];
                pack_bf16(&mut weights, &self.weights, outputs, inputs);
                let narrow = Buffer::new(&narrow, misalignment);
                kernels.gemm_bf16(&mut out, &narrow, &weights, inputs, epilogue);
            }
            Product::GemmF16 => {
                let weights = Lines::half_panels(&self.weights, outputs, inputs);
                kernels.gemm_f16(&mut out, &a, &weights, inputs, epilogue);
            }
        }
        out.into_vec()
    }

    /// The same product of row `row` alone.
    fn row(&self, row: usize) -> Self {
        let of = |values: &[f32], width: usize| values[row * padded(width)..][..padded(width)].to_vec();
        Self {
            product: self.product,
            rows: 1,
            inputs: self.inputs,
            outputs: self.outputs,
            a: of(&self.a, self.inputs),
            weights: self.weights.clone(),
            bias: self.bias.clone(),
            out: of(&self.out, self.outputs),
        }
    }
}

pub(crate) fn epilogue(kind: Kind, bias: &[Line]) -> Epilogue<'_> {
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
                for product in PRODUCTS {
                    let case = Case::random(&mut random, product, rows, inputs, outputs);
                    assert_close("out", &case.run(kernels, kind, (i + j) % 2), &case.expected(kind));
                }
            }
        }
    }
}

fn gemm_of_the_shapes_of_training(kernels: &Kernels) {
    for product in PRODUCTS {
        // The last is of the largest dimensions there are, of the input's gradient and the input's product.
        for (rows, inputs, outputs) in [(80, 96, 96), (7, 1152, 1152)] {
            let case = Case::random(&mut Random(2), product, rows, inputs, outputs);
            assert_close("out", &case.run(kernels, Kind::Bias, 0), &case.expected(Kind::Bias));
        }
    }
}

fn gemm_of_any_shape(kernels: &Kernels) {
    let shapes = (0_usize..40, 1_usize..70, 1_usize..150, 0_usize..4, 0_usize..16, 0_u64..);
    for_any(shapes, |(rows, inputs, outputs, kind, misalignment, seed)| {
        let kind = KINDS[kind];
        for product in PRODUCTS {
            let case = Case::random(&mut Random(seed), product, rows, inputs, outputs);
            assert_close("out", &case.run(kernels, kind, misalignment), &case.expected(kind));
        }
    });
}

fn one_row_is_the_rows_of_many_bit_for_bit(kernels: &Kernels) {
    let mut random = Random(3);
    for (i, outputs) in OUTPUTS.into_iter().enumerate() {
        for (j, inputs) in INPUTS.into_iter().enumerate() {
            let rows = if (i + j) % 4 == 0 { 17 } else { 3 };
            for kind in KINDS {
                for product in PRODUCTS {
                    let case = Case::random(&mut random, product, rows, inputs, outputs);
                    let together = case.run(kernels, kind, 0);
                    for (m, together) in together.chunks_exact(padded(outputs)).enumerate() {
                        let row = case.row(m);
                        let alone = row.run(kernels, kind, 1);
                        assert_close("out", &alone, &row.expected(kind));
                        assert_same(&format!("out, as row {m} of {rows}"), &alone, together);
                    }
                }
            }
        }
    }
}

fn no_panels_and_no_rows_are_no_work(kernels: &Kernels) {
    let (lines, halves) = ([Line::default(); 5], [HalfLine::default(); 5]);
    for (rows, panels) in [(2, 0), (1, 0), (0, 1), (0, 0)] {
        let (a, lines, halves) = (vec![0.0; 16 * rows], &lines[..5 * panels], &halves[..5 * panels]);
        let nothing = || Floats::unwritten(0, 0);
        case(format_args!("gemm {rows}x5x{}", 16 * panels));
        kernels.gemm(&mut nothing(), &a, lines, 5, Epilogue::Store);
        case(format_args!("gemm_f16 {rows}x5x{}", 16 * panels));
        kernels.gemm_f16(&mut nothing(), &a, halves, 5, Epilogue::Store);
        case(format_args!("gemm_bf16 {rows}x5x{}", 16 * panels));
        let narrow = vec![bf16::ZERO; 16 * rows];
        kernels.gemm_bf16(
            &mut nothing(),
            &narrow,
            &[PairLine::default(); 3][..3 * panels],
            5,
            Epilogue::Store,
        );
        case(format_args!("gemm_unfused {rows}x5x{}", 16 * panels));
        kernels.gemm_unfused(&mut nothing(), &a, lines, 5, Epilogue::Store);
    }
}

fn nan_and_infinity_stay_in_their_row(kernels: &Kernels) {
    for product in PRODUCTS {
        let mut case = Case::random(&mut Random(4), product, 9, 17, 33);
        let np = padded(case.outputs);
        let clean = case.run(kernels, Kind::Store, 0);
        for poison in [f32::NAN, f32::INFINITY] {
            case.a[4 * padded(case.inputs) + 16] = poison;
            let got = case.run(kernels, Kind::Store, 0);
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
}

fn denormal_products_are_not_flushed(kernels: &Kernels) {
    let weights = [Line([1e-20; PANEL_ROWS])];
    for rows in [1, 2] {
        let mut a = vec![0.0; rows * PANEL_ROWS];
        a.iter_mut().step_by(PANEL_ROWS).for_each(|a| *a = 1e-20);
        let assert_denormal = |values: &[f32]| {
            assert!(values.iter().all(|value| (0.9e-40..1.1e-40).contains(value)), "{values:?}");
        };
        let [mut fused, mut unfused] = [(); 2].map(|()| Floats::unwritten(rows * PANEL_ROWS, 0));
        case(format_args!("gemm {rows}x1x16 of denormal results"));
        kernels.gemm(&mut fused, &a, &weights, 1, Epilogue::Store);
        assert_denormal(&fused);
        case(format_args!("gemm_unfused {rows}x1x16 of denormal results"));
        kernels.gemm_unfused(&mut unfused, &a, &weights, 1, Epilogue::Store);
        assert_denormal(&unfused);
    }
}

/// Among them denormals, infinities and NaN, each of which stays in its output.
fn half_precision_weights_are_widened_exactly(kernels: &Kernels) {
    let all: Vec<f16> = (0..=u16::MAX).map(f16::from_bits).collect();
    let lines: Vec<HalfLine> = all.as_chunks().0.iter().map(|&halves| HalfLine(halves)).collect();
    let expected: Vec<f32> = all.iter().map(|&half| widened(half)).collect();
    let weights = Lines::new(&lines);
    for rows in [1, 2] {
        let mut a = vec![0.0; rows * PANEL_ROWS];
        a.iter_mut().step_by(PANEL_ROWS).for_each(|a| *a = 1.0);
        case(format_args!("gemm_f16 {rows}x1x65536 of every half"));
        let mut out = Floats::new(&vec![-0.0; rows * all.len()], 0); // so that -0 stays
        kernels.gemm_f16(&mut out, &a, &weights, 1, Epilogue::Accumulate);
        for out in out.chunks_exact(all.len()) {
            assert_same("out", out, &expected);
        }
    }
}

/// Both neighbours of a float are multiples of 2¹⁶ of its bits; the nearer is right, of two the even one.
fn floats_are_narrowed_to_the_nearest_bf16(kernels: &Kernels) {
    let upper = (0..=u16::MAX).step_by(7).chain([0x7f7f, 0x7f80, 0xff80, 0x7fff, 0xffff]);
    let lower = [0, 1, 0x7fff, 0x8000, 0x8001, 0xffff];
    let bits: Vec<u32> = upper.flat_map(|upper| lower.map(|lower| u32::from(upper) << 16 | lower)).collect();
    for length in crate::LENGTHS.into_iter().chain([bits.len()]) {
        case(format_args!("narrow_bf16 {length}"));
        let x: Vec<f32> = bits[bits.len() - length..].iter().map(|&bits| f32::from_bits(bits)).collect();
        let mut out = Buffer::<bf16>::unwritten(length, 3);
        kernels.narrow_bf16(&mut out, &Floats::new(&x, 1));
        for (x, got) in x.iter().zip(out.into_vec()) {
            let (below, rest) = (x.to_bits() >> 16, x.to_bits() & 0xffff);
            let up = rest > 0x8000 || rest == 0x8000 && below & 1 == 1;
            let right = u32::from(got.to_bits()) == below + u32::from(up);
            assert!(if x.is_nan() { got.is_nan() } else { right }, "{x:e} became {got:e}");
        }
    }
}

/// The value of a half-precision float, from its fields.
pub(crate) fn widened(half: f16) -> f32 {
    let bits = half.to_bits();
    let (sign, exponent, fraction) =
        (if bits >> 15 == 0 { 1.0 } else { -1.0 }, i32::from(bits >> 10 & 31), f32::from(bits & 1023));
    sign * match (exponent, fraction) {
        (31, 0.0) => f32::INFINITY,
        (31, _) => f32::NAN,
        (0, _) => fraction * 2.0_f32.powi(-24),
        _ => (1024.0 + fraction) * 2.0_f32.powi(exponent - 25),
    }
}

fn unfused_products_are_rounded_twice(kernels: &Kernels) {
    let reference = Kernels::select("scalar").unwrap();
    let mut random = Random(5);
    for rows in ROWS {
        for (i, outputs) in OUTPUTS.into_iter().enumerate() {
            let inputs = INPUTS[(rows + i) % INPUTS.len()];
            let case = Case::random(&mut random, Product::GemmUnfused, rows, inputs, outputs);
            for kind in [Kind::Store, Kind::Accumulate, Kind::Bias] {
                assert_same("out", &case.run(kernels, kind, i % 16), &case.rounded_twice(kind));
            }
            let kind = Kind::BiasSigmoid;
            assert_same("out", &case.run(kernels, kind, i % 16), &case.run(reference, kind, 0));
        }
    }
}
