//! The gradients of weights and biases, and the transpose that the backward pass multiplies with.

use crate::buffers::{Floats, Lines};
use crate::compare::{Expected, assert_close, assert_same, reduction_bound};
use crate::failure::case;
use crate::products::INPUTS;
use crate::random::{Random, for_any};
use shoestring_kernels::{Kernels, Line, PANEL_ROWS, padded, panel_lines};

checks! {
    weight_gradient_of_every_tile: weight_gradient;
    weight_gradient_of_many_inputs_and_panels: weight_gradient;
    weight_gradient_of_any_shape: weight_gradient;
    bias_gradient_sums_columns: bias_gradient;
    transpose_swaps_rows_and_columns_and_pads_with_zeros: transpose_panels;
    no_panels_and_no_rows_are_no_work: weight_gradient, bias_gradient, transpose_panels;
}

/// The operands of a weight gradient, and what it should be.
struct Case {
    panels: usize,
    first_panel: usize,
    stride: usize,
    inputs: usize,
    gradient: Vec<f32>, // [16 · panels, K]
    dy: Vec<f32>,       // [M, stride]
    x: Vec<f32>,        // [M, Kp]
}

impl Case {
    fn random(
        random: &mut Random,
        rows: usize,
        inputs: usize,
        (first_panel, panels): (usize, usize),
        extra_columns: usize,
    ) -> Self {
        let stride = (first_panel + panels) * PANEL_ROWS + extra_columns;
        Self {
            panels,
            first_panel,
            stride,
            inputs,
            gradient: random.floats(panels * PANEL_ROWS * inputs),
            dy: random.floats(rows * stride),
            x: random.rows(rows, inputs),
        }
    }

    /// gradient[N, K] + dyᵀ · x for columns `16 · first_panel..` of dy.
    fn expected(&self) -> Vec<Expected> {
        let rows = self.dy.len() / self.stride;
        let element = |index: usize| {
            let (n, k) = (index / self.inputs, index % self.inputs);
            let column = self.first_panel * PANEL_ROWS + n;
            let start = f64::from(self.gradient[index]);
            let term = |m: usize| {
                f64::from(self.dy[m * self.stride + column]) * f64::from(self.x[m * padded(self.inputs) + k])
            };
            let value = start + (0..rows).map(term).sum::<f64>();
            let magnitude = start.abs() + (0..rows).map(|m| term(m).abs()).sum::<f64>();
            Expected { value, bound: reduction_bound(rows, magnitude) }
        };
        (0..self.gradient.len()).map(element).collect()
    }

    /// As `weight_gradient` computes it, unpacked to [16 · panels, K].
    fn gradient(&self, kernels: &Kernels, misalignment: usize) -> Vec<f32> {
        let Self { panels, first_panel, stride, inputs, .. } = *self;
        let rows = self.dy.len() / stride;
        case(format_args!(
            "weight_gradient {rows}x{inputs}, panels {first_panel}..{}, stride {stride}",
            first_panel + panels
        ));
        let outputs = panels * PANEL_ROWS;
        let mut gradient = Lines::panels(&self.gradient, outputs, inputs);
        let (dy, x) = (Floats::new(&self.dy, misalignment), Floats::new(&self.x, 15 - misalignment));
        kernels.weight_gradient(&mut gradient, first_panel, &dy, stride, &x, inputs);
        gradient.into_row_major(outputs, inputs)
    }
}

fn weight_gradient_of_every_tile(kernels: &Kernels) {
    let mut random = Random(5);
    for rows in [0, 1, 2, 7, 127, 128, 129, 260] {
        for (i, panels) in [1, 2, 3, 4, 7].into_iter().enumerate() {
            for first_panel in [0, 2] {
                let inputs = INPUTS[(rows + i + first_panel) % INPUTS.len()];
                let case = Case::random(&mut random, rows, inputs, (first_panel, panels), PANEL_ROWS);
                assert_close("gradient", &case.gradient(kernels, i % 2), &case.expected());
            }
        }
    }
}

fn weight_gradient_of_many_inputs_and_panels(kernels: &Kernels) {
    let case = Case::random(&mut Random(8), 140, 700, (0, 20), 0);
    assert_close("gradient", &case.gradient(kernels, 0), &case.expected());
}

fn weight_gradient_of_any_shape(kernels: &Kernels) {
    let panels = (0_usize..4, 1_usize..6);
    let shapes = (0_usize..200, 1_usize..50, panels, 0_usize..20, 0_usize..16, 0_u64..);
    for_any(shapes, |(rows, inputs, panels, extra_columns, misalignment, seed)| {
        let case = Case::random(&mut Random(seed), rows, inputs, panels, extra_columns);
        assert_close("gradient", &case.gradient(kernels, misalignment), &case.expected());
    });
}

fn bias_gradient_sums_columns(kernels: &Kernels) {
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
            case(format_args!("bias_gradient {rows}x{width}"));
            let mut gradient = Lines::row(&start);
            kernels.bias_gradient(&mut gradient, &Floats::new(&dy, 1));
            assert_close("gradient", gradient.floats(), &expected);
        }
    }
}

fn transpose_swaps_rows_and_columns_and_pads_with_zeros(kernels: &Kernels) {
    let mut random = Random(7);
    for rows in [1, 15, 16, 17, 33, 96] {
        for columns in [1, 3, 16, 17, 47, 96] {
            let matrix = random.floats(rows * columns);
            let transposed: Vec<f32> =
                (0..rows * columns).map(|i| matrix[i % rows * columns + i / rows]).collect();
            let (weights, expected) =
                (Lines::panels(&matrix, rows, columns), Lines::panels(&transposed, columns, rows));
            case(format_args!("transpose_panels {rows}x{columns}"));
            let mut out = Lines::new(&vec![Line([f32::NAN; PANEL_ROWS]); panel_lines(columns, rows)]);
            kernels.transpose_panels(&mut out, &weights, rows, columns);
            assert_same("out", out.floats(), expected.floats());
        }
    }
}

fn no_panels_and_no_rows_are_no_work(kernels: &Kernels) {
    case("weight_gradient of no panels");
    kernels.weight_gradient(&mut Lines::new(&[]), 0, &[0.0; 48], 16, &[0.0; 48], 5);
    case("bias_gradient of no panels");
    kernels.bias_gradient(&mut Lines::new(&[]), &[]);
    case("transpose_panels 0x5");
    kernels.transpose_panels(&mut Lines::new(&[]), &[], 0, 5);
    case("transpose_panels 5x0");
    kernels.transpose_panels(&mut Lines::new(&[]), &[], 5, 0);

    let before = Lines::new(&[Line([3.0; PANEL_ROWS]); 5]);
    let mut gradient = Lines::new(&before);
    case("weight_gradient of no rows");
    kernels.weight_gradient(&mut gradient, 0, &[], 16, &[], 5);
    assert_same("gradient", gradient.floats(), before.floats());
    case("bias_gradient of no rows");
    kernels.bias_gradient(&mut gradient, &[]);
    assert_same("gradient", gradient.floats(), before.floats());
}
