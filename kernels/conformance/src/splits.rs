//! What results must not depend on: how work is split between calls.

use crate::accuracy::FUNCTIONS;
use crate::buffers::{Floats, Lines};
use crate::compare::assert_same;
use crate::failure::case;
use crate::random::Random;
use shoestring_kernels::{Epilogue, Kernels, Line, PANEL_ROWS, padded};

checks! {
    rows_of_a_gemm_do_not_depend_on_the_rows_they_share_a_call_with: gemm;
    panels_of_a_gemm_do_not_depend_on_the_panels_they_share_a_call_with: gemm;
    a_weight_gradient_does_not_depend_on_how_panels_are_split: weight_gradient;
    a_function_does_not_depend_on_where_in_a_buffer_its_argument_is: exp, sigmoid, gelu, gelu_derivative;
}

fn rows_of_a_gemm_do_not_depend_on_the_rows_they_share_a_call_with(kernels: &Kernels) {
    let (rows, inputs, outputs) = (29, 37, 100);
    let (kp, np) = (padded(inputs), padded(outputs));
    let mut random = Random(11);
    let a = random.rows(rows, inputs);
    let weights = Lines::panels(&random.floats(outputs * inputs), outputs, inputs);
    let start = random.rows(rows, outputs);
    case(format_args!("gemm {rows}x{inputs}x{outputs}"));
    let mut whole = Floats::new(&start, 0);
    kernels.gemm(&mut whole, &a, &weights, inputs, Epilogue::Accumulate);
    for split in 0..=rows {
        case(format_args!("gemm {rows}x{inputs}x{outputs}, rows ..{split} and {split}.."));
        let mut parts = Floats::new(&start, 1);
        let (first, second) = parts.split_at_mut(split * np);
        kernels.gemm(first, &a[..split * kp], &weights, inputs, Epilogue::Accumulate);
        kernels.gemm(second, &a[split * kp..], &weights, inputs, Epilogue::Accumulate);
        assert_same("out", &parts, &whole);
    }
}

fn panels_of_a_gemm_do_not_depend_on_the_panels_they_share_a_call_with(kernels: &Kernels) {
    let (rows, inputs, panels) = (9, 21, 8);
    let mut random = Random(12);
    let a = random.rows(rows, inputs);
    let weights = Lines::panels(&random.floats(panels * PANEL_ROWS * inputs), panels * PANEL_ROWS, inputs);
    case(format_args!("gemm {rows}x{inputs}, {panels} panels"));
    let mut whole = Floats::unwritten(rows * panels * PANEL_ROWS, 0);
    kernels.gemm(&mut whole, &a, &weights, inputs, Epilogue::Store);
    for panel in 0..panels {
        case(format_args!("gemm {rows}x{inputs}, panel {panel} of {panels} alone"));
        let mut one = Floats::unwritten(rows * PANEL_ROWS, 0);
        kernels.gemm(&mut one, &a, &weights[panel * inputs..][..inputs], inputs, Epilogue::Store);
        for (m, one) in one.chunks_exact(PANEL_ROWS).enumerate() {
            let expected = &whole[(m * panels + panel) * PANEL_ROWS..][..PANEL_ROWS];
            assert_same(&format!("row {m}"), one, expected);
        }
    }
}

fn a_weight_gradient_does_not_depend_on_how_panels_are_split(kernels: &Kernels) {
    let (rows, inputs, panels) = (150, 21, 7);
    let stride = panels * PANEL_ROWS;
    let mut random = Random(13);
    let (dy, x) = (random.floats(rows * stride), random.rows(rows, inputs));
    let start = vec![Line([0.25; PANEL_ROWS]); panels * inputs];
    case(format_args!("weight_gradient {rows}x{inputs}, {panels} panels"));
    let mut whole = Lines::new(&start);
    kernels.weight_gradient(&mut whole, 0, &dy, stride, &x, inputs);
    for split in 0..=panels {
        case(format_args!("weight_gradient {rows}x{inputs}, panels ..{split} and {split}..{panels}"));
        let mut parts = Lines::new(&start);
        let (first, second) = parts.split_at_mut(split * inputs);
        kernels.weight_gradient(first, 0, &dy, stride, &x, inputs);
        kernels.weight_gradient(second, split, &dy, stride, &x, inputs);
        assert_same("gradient", parts.floats(), whole.floats());
    }
}

fn a_function_does_not_depend_on_where_in_a_buffer_its_argument_is(kernels: &Kernels) {
    let mut random = Random(14);
    let x: Vec<f32> = random.floats(70).iter().map(|x| x * 10.0).collect();
    for function in FUNCTIONS {
        case(format_args!("{} of {} numbers", function.name, x.len()));
        let mut whole = Floats::unwritten(x.len(), 0);
        (function.run)(kernels, &mut whole, &x);
        for (i, whole) in whole.iter().enumerate() {
            case(format_args!("{} of number {i} of {}", function.name, x.len()));
            let mut one = Floats::unwritten(1, 0);
            (function.run)(kernels, &mut one, &x[i..=i]);
            assert_same("out", &one, &[*whole]);
        }
    }
}
