//! Products of quantized weights and activations: exact sums of integers, and from there on one order of
//! roundings, so every result but those behind a sigmoid is compared bit for bit with a plain computation.

use crate::accuracy::FUNCTIONS;
use crate::buffers::{Buffer, Floats, Lines};
use crate::compare::assert_same;
use crate::failure::case;
use crate::products::{KINDS, Kind, epilogue};
use crate::random::{Random, for_any};
use half::f16;
use shoestring_kernels::quantized::{GROUP, Quantized, pack_q4, pack_q8, q4_lines, q8_lines};
use shoestring_kernels::{CodeLine, HalfLine, Kernels, Line, PANEL_ROWS, padded};

checks! {
    products_of_every_shape_are_exact: gemm_q8, gemm_q4;
    products_of_any_shape_are_exact: gemm_q8, gemm_q4;
    the_largest_codes_at_the_largest_depth_do_not_overflow: gemm_q8, gemm_q4;
    rows_do_not_depend_on_the_rows_they_share_a_call_with: gemm_q8, gemm_q4;
    a_scale_that_is_nan_spoils_its_row_or_output_only: gemm_q8, gemm_q4;
    nothing_past_the_operands_is_needed: gemm_q8, gemm_q4;
}

/// Rows of activations: around every number of rows that is taken at once.
const ROWS: [usize; 8] = [0, 1, 2, 3, 7, 8, 9, 17];
/// Inputs: around quarters and halves of a unit, units, lines and groups.
const DEPTHS: [usize; 17] = [1, 2, 3, 4, 5, 7, 8, 9, 31, 32, 33, 63, 64, 65, 96, 100, 256];
/// Panels: around every number of panels that is taken at once.
const PANELS: [usize; 11] = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 17];

/// The formats of weights.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Format {
    Q8,
    Q4,
}

const FORMATS: [Format; 2] = [Format::Q8, Format::Q4];

impl Format {
    fn operation(self) -> &'static str {
        match self {
            Self::Q8 => "gemm_q8",
            Self::Q4 => "gemm_q4",
        }
    }

    /// The smallest and the largest weight.
    fn range(self) -> (i8, i8) {
        match self {
            Self::Q8 => (-127, 127),
            Self::Q4 => (-8, 7),
        }
    }

    /// Inputs that share a scale, at most.
    fn group(self) -> usize {
        match self {
            Self::Q8 => usize::MAX,
            Self::Q4 => GROUP,
        }
    }
}

/// The operands of a product.
#[derive(Clone)]
struct Case {
    format: Format,
    rows: usize,
    inputs: usize,
    outputs: usize,
    a: Vec<i8>,         // [M, Kp], padding 0
    a_scales: Vec<f32>, // [M]
    weights: Vec<i8>,   // [N, K]
    scales: Vec<f32>,   // [N, G], one group in q8; halves in q4
    bias: Vec<f32>,     // [N]
    out: Vec<f32>,      // [M, Np]: what is in the output before
}

impl Case {
    fn random(random: &mut Random, format: Format, rows: usize, inputs: usize, outputs: usize) -> Self {
        Self::of_codes(random, format, rows, inputs, outputs, |random, (least, most)| {
            let codes = i64::from(most) - i64::from(least) + 1;
            (i64::from(least) + (random.bits() >> 1) as i64 % codes) as i8
        })
    }

    /// Random but for the codes, which `code` chooses between the least and the most.
    fn of_codes(
        random: &mut Random,
        format: Format,
        rows: usize,
        inputs: usize,
        outputs: usize,
        mut code: impl FnMut(&mut Random, (i8, i8)) -> i8,
    ) -> Self {
        let mut a = vec![0; rows * padded(inputs)];
        for row in a.chunks_exact_mut(padded(inputs)) {
            row[..inputs].fill_with(|| code(random, (-127, 127)));
        }
        let weights = (0..outputs * inputs).map(|_| code(random, format.range())).collect();
        let scale_groups = inputs.div_ceil(format.group());
        let scale = |x: f32| if format == Format::Q4 { f16::from_f32(x).to_f32() } else { x };
        Self {
            format,
            rows,
            inputs,
            outputs,
            a,
            a_scales: random.floats(rows).iter().map(|x| 0.01 * (x + 1.1)).collect(),
            weights,
            scales: random.floats(outputs * scale_groups).iter().map(|&x| scale(0.01 * (x + 1.1))).collect(),
            bias: random.floats(outputs),
            out: random.rows(rows, outputs),
        }
    }

    /// The sum of one group, in 64 bits.
    fn group_sum(&self, row: usize, output: usize, group: usize) -> i64 {
        let first = group.saturating_mul(self.format.group());
        let end = first.saturating_add(self.format.group()).min(self.inputs);
        let a = &self.a[row * padded(self.inputs)..][first..end];
        let weights = &self.weights[output * self.inputs..][first..end];
        a.iter().zip(weights).map(|(&a, &w)| i64::from(a) * i64::from(w)).sum()
    }

    /// [M, Np], before the sigmoid if there is one: the roundings in their documented order.
    fn expected(&self, kind: Kind) -> Vec<f32> {
        let (np, groups) = (padded(self.outputs), self.inputs.div_ceil(self.format.group()));
        let element = |index: usize| {
            let (m, n) = (index / np, index % np);
            let is_padding = n >= self.outputs;
            let mut total = 0.0;
            for group in 0..if is_padding { 0 } else { groups } {
                let sum = self.group_sum(m, n, group);
                assert!(i32::try_from(sum).is_ok(), "{sum} is no sum that a kernel must hold");
                total += sum as f32 * self.scales[n * groups + group];
            }
            let product = total * self.a_scales[m];
            match kind {
                Kind::Store => product,
                Kind::Accumulate => self.out[index] + product,
                Kind::Bias | Kind::BiasSigmoid => product + if is_padding { 0.0 } else { self.bias[n] },
            }
        };
        (0..self.rows * np).map(element).collect()
    }

    /// The sums of each group of activations: [M, ceil(K / 32)].
    fn a_sums(&self) -> Vec<i32> {
        let row_sums = |row: &[i8]| -> Vec<i32> {
            row.chunks(GROUP).map(|group| group.iter().map(|&code| i32::from(code)).sum()).collect()
        };
        self.a.chunks_exact(padded(self.inputs)).flat_map(row_sums).collect()
    }

    /// The lines of codes. Padding has a scale of 1, so only its codes make it nothing.
    fn weight_lines(&self) -> Vec<CodeLine> {
        let (rows, depth) = (self.outputs, self.inputs);
        match self.format {
            Format::Q8 => {
                let mut lines = vec![CodeLine([1; 64]); q8_lines(rows, depth)];
                pack_q8(&mut lines, &self.weights, rows, depth);
                lines
            }
            Format::Q4 => {
                let mut lines = vec![CodeLine([1; 64]); q4_lines(rows, depth)];
                pack_q4(&mut lines, &self.weights, rows, depth);
                lines
            }
        }
    }

    /// [panels, G]: lane r of a line is the scale of row r of its panel.
    fn scale_lines(&self) -> Vec<Line> {
        let groups = self.inputs.div_ceil(self.format.group());
        let mut lines = vec![Line([1.0; PANEL_ROWS]); self.outputs.div_ceil(PANEL_ROWS) * groups];
        for (i, &scale) in self.scales.iter().enumerate() {
            let (n, group) = (i / groups, i % groups);
            lines[n / PANEL_ROWS * groups + group].0[n % PANEL_ROWS] = scale;
        }
        lines
    }

    fn half_scale_lines(&self) -> Vec<HalfLine> {
        self.scale_lines().iter().map(|line| HalfLine(line.0.map(f16::from_f32))).collect()
    }

    fn announce(&self, kind: Kind) {
        let Self { format, rows, inputs, outputs, .. } = self;
        case(format_args!("{} {kind:?} {rows}x{inputs}x{outputs}", format.operation()));
    }

    /// The result, from buffers between guards.
    fn run(&self, kernels: &Kernels, kind: Kind, misalignment: usize) -> Vec<f32> {
        self.announce(kind);
        let codes = Buffer::new(&self.a, misalignment);
        let (a_scales, sums) = (Floats::new(&self.a_scales, 3), Buffer::new(&self.a_sums(), 1));
        let a = Quantized { codes: &codes, scales: &a_scales, sums: &sums };
        let (weights, bias) = (Lines::new(&self.weight_lines()), Lines::row(&self.bias));
        let mut out = match kind {
            Kind::Accumulate => Floats::new(&self.out, misalignment % 16),
            _ => Floats::unwritten(self.out.len(), misalignment % 16),
        };
        let epilogue = epilogue(kind, &bias);
        match self.format {
            Format::Q8 => {
                let scales = Lines::new(&self.scale_lines());
                kernels.gemm_q8(&mut out, a, &weights, &scales, self.inputs, epilogue);
            }
            Format::Q4 => {
                let scales = Lines::new(&self.half_scale_lines());
                kernels.gemm_q4(&mut out, a, &weights, &scales, self.inputs, epilogue);
            }
        }
        out.into_vec()
    }

    /// The result, from operands in allocations of just their sizes.
    fn run_from_bare_operands(&self, kernels: &Kernels, kind: Kind) -> Vec<f32> {
        self.announce(kind);
        let boxed = (self.a.clone().into_boxed_slice(), self.a_scales.clone().into_boxed_slice());
        let sums = self.a_sums().into_boxed_slice();
        let a = Quantized { codes: &boxed.0, scales: &boxed.1, sums: &sums };
        let weights = self.weight_lines().into_boxed_slice();
        let bias = Lines::row(&self.bias).to_vec().into_boxed_slice();
        let mut out = Floats::new(&self.out, 0);
        let epilogue = epilogue(kind, &bias);
        match self.format {
            Format::Q8 => {
                let scales = self.scale_lines().into_boxed_slice();
                kernels.gemm_q8(&mut out, a, &weights, &scales, self.inputs, epilogue);
            }
            Format::Q4 => {
                let scales = self.half_scale_lines().into_boxed_slice();
                kernels.gemm_q4(&mut out, a, &weights, &scales, self.inputs, epilogue);
            }
        }
        out.into_vec()
    }

    fn assert_exact(&self, kernels: &Kernels, kind: Kind, misalignment: usize) {
        assert_results(kind, &self.run(kernels, kind, misalignment), &self.expected(kind));
    }
}

/// `expected` is what comes before the sigmoid.
fn assert_results(kind: Kind, got: &[f32], expected: &[f32]) {
    if kind != Kind::BiasSigmoid {
        return assert_same("out", got, expected);
    }
    assert_eq!(got.len(), expected.len(), "out: length");
    let sigmoid = FUNCTIONS.iter().find(|function| function.name == "sigmoid").unwrap();
    for (index, (&got, &x)) in got.iter().zip(expected).enumerate() {
        let checked = sigmoid.check(x, got, (sigmoid.exact)(f64::from(x)));
        checked.unwrap_or_else(|error| panic!("out[{index}]: {error}"));
    }
}

fn products_of_every_shape_are_exact(kernels: &Kernels) {
    let mut random = Random(101);
    for (i, rows) in ROWS.into_iter().enumerate() {
        for (j, inputs) in DEPTHS.into_iter().enumerate() {
            for (k, panels) in PANELS.into_iter().enumerate() {
                // The last panel is whole, or lacks some rows.
                let outputs = (panels * PANEL_ROWS).saturating_sub((i + j + k) % 3 * 7);
                let kind = KINDS[(i + j + k) % KINDS.len()];
                for format in FORMATS {
                    let case = Case::random(&mut random, format, rows, inputs, outputs);
                    case.assert_exact(kernels, kind, (i + 5 * j + k) % 64);
                }
            }
        }
    }
}

fn products_of_any_shape_are_exact(kernels: &Kernels) {
    let shapes = (0_usize..40, 1_usize..300, 0_usize..300, 0_usize..4, 0_usize..64, 0_u64..);
    for_any(shapes, |(rows, inputs, outputs, kind, misalignment, seed)| {
        for format in FORMATS {
            let case = Case::random(&mut Random(seed), format, rows, inputs, outputs);
            case.assert_exact(kernels, KINDS[kind], misalignment);
        }
    });
}

/// Every product of the same sign, or every second of the other, so that partial sums are largest; and random
/// ones, of which the sum is not a float.
fn the_largest_codes_at_the_largest_depth_do_not_overflow(kernels: &Kernels) {
    let (mut random, depth) = (Random(102), 65_536);
    // The signs of activations and weights.
    for (a_sign, weight_sign) in [(1, 1), (1, -1), (-1, 1), (-1, -1)] {
        for format in FORMATS {
            let mut case = Case::of_codes(&mut random, format, 3, depth, 2, |_, (_, most)| most);
            case.a.iter_mut().for_each(|code| *code *= a_sign);
            if weight_sign < 0 {
                case.weights.fill(format.range().0);
            }
            // The last row's activations change their sign from one to the next.
            case.a[2 * depth..].iter_mut().step_by(2).for_each(|code| *code = -*code);
            case.assert_exact(kernels, Kind::Accumulate, 1);
        }
    }
    for format in FORMATS {
        for depth in [depth, depth - 1] {
            let case = Case::random(&mut random, format, 1, depth, 17);
            case.assert_exact(kernels, Kind::Bias, 2);
        }
    }
}

fn rows_do_not_depend_on_the_rows_they_share_a_call_with(kernels: &Kernels) {
    let mut random = Random(103);
    for format in FORMATS {
        let case = Case::random(&mut random, format, 19, 100, 150);
        let whole = case.run(kernels, Kind::BiasSigmoid, 0);
        let (kp, np) = (padded(case.inputs), padded(case.outputs));
        for split in 0..=case.rows {
            let part = |rows: std::ops::Range<usize>| Case {
                rows: rows.len(),
                a: case.a[rows.start * kp..rows.end * kp].to_vec(),
                a_scales: case.a_scales[rows.clone()].to_vec(),
                out: case.out[rows.start * np..rows.end * np].to_vec(),
                ..case.clone()
            };
            let parts = [part(0..split), part(split..case.rows)];
            let parts = parts.map(|part| part.run(kernels, Kind::BiasSigmoid, 1)).concat();
            assert_same(&format!("out, rows ..{split} and {split}.."), &parts, &whole);
        }
    }
}

fn a_scale_that_is_nan_spoils_its_row_or_output_only(kernels: &Kernels) {
    let mut random = Random(104);
    for format in FORMATS {
        let clean = Case::random(&mut random, format, 5, 70, 40);
        for kind in [Kind::Store, Kind::Accumulate, Kind::Bias] {
            let mut case = clean.clone();
            case.a_scales[3] = f32::NAN;
            case.assert_exact(kernels, kind, 1); // the plain computation is NaN there, and only there
            let mut case = clean.clone();
            let last = case.scales.len() - 1;
            case.scales[last] = f32::NAN;
            case.assert_exact(kernels, kind, 1);
            case.scales[last] = f32::INFINITY;
            case.assert_exact(kernels, kind, 1);
        }
        let mut case = clean.clone();
        case.a_scales[3] = f32::NAN;
        let np = padded(case.outputs);
        let got = case.run(kernels, Kind::BiasSigmoid, 1);
        assert!(got.iter().enumerate().all(|(i, value)| value.is_nan() == (i / np == 3)), "{got:?}");
    }
}

/// Under AddressSanitizer, also: nothing past them is read.
fn nothing_past_the_operands_is_needed(kernels: &Kernels) {
    let mut random = Random(105);
    for format in FORMATS {
        for rows in [1, 2, 9] {
            for inputs in [1, 4, 8, 9, 16, 17, 33, 96] {
                for outputs in [1, 16, 33, 130] {
                    let case = Case::random(&mut random, format, rows, inputs, outputs);
                    let got = case.run_from_bare_operands(kernels, Kind::Accumulate);
                    assert_results(Kind::Accumulate, &got, &case.expected(Kind::Accumulate));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use shoestring_kernels::quantized::groups;

    #[test]
    fn the_plain_computation_of_one_output_is_that_done_by_hand() {
        let case = Case {
            format: Format::Q4,
            rows: 1,
            inputs: 33,
            outputs: 1,
            a: [&[2; 33][..], &[0; 15]].concat(),
            a_scales: vec![0.5],
            weights: [[-3; 32].as_slice(), &[7]].concat(),
            scales: vec![0.25, 2.0],
            bias: vec![1.5],
            out: vec![100.0; 16],
        };
        assert_eq!(case.a_sums(), [64, 2]);
        assert_eq!(case.a_sums().len(), groups(33));
        let product = (-192.0 * 0.25 + 14.0 * 2.0) * 0.5;
        assert_eq!(case.expected(Kind::Store)[0], product);
        assert_eq!(case.expected(Kind::Accumulate)[0], 100.0 + product);
        assert_eq!(case.expected(Kind::Bias)[0], 1.5 + product);
        assert_eq!(case.expected(Kind::Store)[1..], [0.0; 15]);
    }
}
