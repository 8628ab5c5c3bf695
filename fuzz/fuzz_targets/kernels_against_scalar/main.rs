//! Every operation of every set of kernels this CPU has, on operands of any shape and alignment, against the
//! scalar kernels: bit for bit where that is promised, else within the rounding errors the operation may have.
//!
//! Buffers lie between guards (see `buffers`), and cargo-fuzz adds AddressSanitizer.

#![no_main]

mod cell;
mod loss;
mod optimizer;
mod products;
mod quantized;
mod rows;

use half::f16;
use libfuzzer_sys::arbitrary::{self, Arbitrary};
use libfuzzer_sys::fuzz_target;
use shoestring_kernels::Kernels;
use shoestring_kernels_conformance::accuracy;
use shoestring_kernels_conformance::buffers::Floats;
use shoestring_kernels_conformance::compare::{Expected, assert_close, assert_same, reduction_bound};
use shoestring_kernels_conformance::random::Random;

#[derive(Arbitrary, Clone, Copy, Debug)]
enum Operation {
    Gemm(products::Kind),
    GemmF16(products::Kind),
    GemmUnfused(products::Kind),
    GemmQuantized(quantized::Format, products::Kind),
    QuantizedCells,
    QuantizeRows,
    Dequantize { format: quantized::Format, scale: u32 },
    WeightGradient { first_panel: u8, extra_columns: u8 },
    BiasGradient,
    TransposePanels,
    CellForward,
    CellBackward,
    CellStep,
    AddScaledRows,
    DotRows,
    RmsNorm,
    RmsNormBackward,
    Softmax,
    CrossEntropy,
    Adamw { step: u16 },
    SumOfSquares,
    Dropout { key: u64, first: u64, keep: u16 },
    GemmBf16(products::Kind),
}

#[derive(Arbitrary, Debug)]
enum Input {
    /// The functions of one variable, and one row to quantize, at any floats; the floats' halves, to widen.
    Functions { misalignment: u8, bits: Vec<u32> },
    /// The rest, on random numbers.
    Operation {
        operation: Operation,
        rows: u8,
        inputs: u8,
        outputs: u8,
        misalignment: u8,
        scale: u8,
        seed: u64,
    },
}

/// Shapes small enough to try many, large enough for several tiles and a remainder of every kind.
struct Case {
    rows: usize,
    inputs: usize,
    outputs: usize,
    /// Floats between a 64-byte boundary and the start of a buffer.
    misalignment: usize,
    /// A power of two that operands are multiplied by where results scale with them.
    scale: f32,
    random: Random,
}

fuzz_target!(|input: Input| match input {
    Input::Functions { misalignment, bits } => functions(usize::from(misalignment % 16), &bits),
    Input::Operation { operation, rows, inputs, outputs, misalignment, scale, seed } => {
        let case = Case {
            rows: usize::from(rows % 35),
            inputs: usize::from(inputs % 70) + 1,
            outputs: usize::from(outputs % 150) + 1,
            misalignment: usize::from(misalignment % 16),
            scale: f32::from(scale % 33).exp2() / 65536.0,
            random: Random(seed),
        };
        run(operation, case);
    }
});

fn run(operation: Operation, case: Case) {
    match operation {
        Operation::Gemm(kind) => products::gemm(case, kind),
        Operation::GemmF16(kind) => products::gemm_f16(case, kind),
        Operation::GemmBf16(kind) => products::gemm_bf16(case, kind),
        Operation::GemmUnfused(kind) => products::gemm_unfused(case, kind),
        Operation::GemmQuantized(format, kind) => quantized::gemm(case, format, kind),
        Operation::QuantizedCells => quantized::cells(case),
        Operation::QuantizeRows => quantized::quantize_rows(case),
        Operation::Dequantize { format, scale } => quantized::dequantize(case, format, scale),
        Operation::WeightGradient { first_panel, extra_columns } => {
            products::weight_gradient(case, usize::from(first_panel % 4), usize::from(extra_columns % 20))
        }
        Operation::BiasGradient => products::bias_gradient(case),
        Operation::TransposePanels => products::transpose_panels(case),
        Operation::CellForward => cell::forward(case),
        Operation::CellBackward => cell::backward(case),
        Operation::CellStep => cell::step(case),
        Operation::AddScaledRows => rows::add_scaled_rows(case),
        Operation::DotRows => rows::dot_rows(case),
        Operation::RmsNorm => rows::rms_norm(case),
        Operation::RmsNormBackward => rows::rms_norm_backward(case),
        Operation::Softmax => loss::softmax(case),
        Operation::CrossEntropy => loss::cross_entropy(case),
        Operation::Adamw { step } => optimizer::adamw(case, i32::from(step) + 1),
        Operation::SumOfSquares => optimizer::sum_of_squares(case),
        Operation::Dropout { key, first, keep } => optimizer::dropout(case, key, first, keep),
    }
}

impl Case {
    /// Random numbers in [-scale, scale).
    fn floats(&mut self, length: usize) -> Vec<f32> {
        let scale = self.scale;
        self.random.floats(length).iter().map(|x| x * scale).collect()
    }

    /// Rows of random numbers in [-scale, scale), padded with zeros: [rows, padded(width)].
    fn padded_rows(&mut self, rows: usize, width: usize) -> Vec<f32> {
        let scale = self.scale;
        self.random.rows(rows, width).iter().map(|x| x * scale).collect()
    }
}

fn functions(misalignment: usize, bits: &[u32]) {
    let x: Vec<f32> = bits.iter().map(|&bits| f32::from_bits(bits)).collect();
    quantized::quantize_row(&x, misalignment);
    let halves: Vec<f16> =
        bits.iter().flat_map(|&bits| [bits, bits >> 16]).map(|half| f16::from_bits(half as u16)).collect();
    quantized::widen(&halves, misalignment);
    for function in &accuracy::FUNCTIONS {
        for kernels in Kernels::available() {
            let mut out = Floats::unwritten(x.len(), misalignment);
            (function.run)(kernels, &mut out, &Floats::new(&x, 15 - misalignment));
            for (&x, &got) in x.iter().zip(out.iter()) {
                let checked = function.check(x, got, (function.exact)(f64::from(x)));
                checked.unwrap_or_else(|error| panic!("{}: {error}", kernels.name()));
            }
        }
    }
}

fn scalar() -> &'static Kernels {
    Kernels::select("scalar").expect("scalar kernels run everywhere")
}

/// Compares what `run` makes of all kernels with `expected`.
fn compare_all(what: &str, expected: &[Expected], run: impl Fn(&Kernels) -> Vec<f32>) {
    for kernels in Kernels::available() {
        assert_close(&format!("{} {what}", kernels.name()), &run(kernels), expected);
    }
}

/// Compares what `run` makes of all kernels with what it makes of the scalar ones, bit for bit.
fn compare_exactly(what: &str, run: impl Fn(&Kernels) -> Vec<f32>) {
    let expected = run(scalar());
    for kernels in Kernels::available() {
        assert_same(&format!("{} {what}", kernels.name()), &run(kernels), &expected);
    }
}

/// For operations that sum at most `terms` products of operands: with every operand positive, the scalar
/// kernels sum the products' absolute values, which is what the rounding error is measured by.
fn compare_sums<const N: usize>(
    what: &str,
    terms: usize,
    operands: [Vec<f32>; N],
    run: impl Fn(&Kernels, &[Vec<f32>; N]) -> Vec<f32>,
) {
    let expected = sums(terms, &operands, &run);
    compare_all(what, &expected, |kernels| run(kernels, &operands));
}

/// What [`compare_sums`] expects.
fn sums<const N: usize>(
    terms: usize,
    operands: &[Vec<f32>; N],
    run: impl Fn(&Kernels, &[Vec<f32>; N]) -> Vec<f32>,
) -> Vec<Expected> {
    let positive = operands.each_ref().map(|operand| operand.iter().map(|x| x.abs()).collect());
    let magnitudes = run(scalar(), &positive);
    let values = run(scalar(), operands);
    let expected = |(&value, &magnitude): (&f32, &f32)| Expected {
        value: f64::from(value),
        // One for the result's rounding in either set of kernels.
        bound: reduction_bound(terms + 1, f64::from(magnitude)),
    };
    values.iter().zip(&magnitudes).map(expected).collect()
}
