//! What results must not depend on: how work is split between calls.

use crate::accuracy::FUNCTIONS;
use crate::buffers::{Buffer, Floats, Lines};
use crate::compare::assert_same;
use crate::failure::case;
use crate::random::Random;
use shoestring_kernels::quantized::groups;
use shoestring_kernels::{AdamwStep, Epilogue, Kernels, Line, PANEL_ROWS, as_floats, padded};
use std::ops::Range;

checks! {
    rows_of_a_gemm_do_not_depend_on_the_rows_they_share_a_call_with: gemm;
    panels_of_a_gemm_do_not_depend_on_the_panels_they_share_a_call_with: gemm;
    a_weight_gradient_does_not_depend_on_how_panels_are_split: weight_gradient;
    a_function_does_not_depend_on_where_in_a_buffer_its_argument_is: exp, sigmoid, gelu, gelu_derivative;
    a_row_does_not_depend_on_the_rows_it_shares_a_call_with:
        dot_rows, add_scaled_rows, rms_norm, rms_norm_backward, cross_entropy, quantize_rows;
    a_line_does_not_depend_on_the_lines_it_is_updated_with: adamw;
    a_text_does_not_depend_on_the_texts_in_its_batch: cell_forward, cell_backward;
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

/// Has `run` compute all of `rows` rows, then two parts of them cut anywhere, each into a buffer of its own that holds
/// `start` [rows, width] before: the same bits.
fn assert_same_however_cut(
    operation: &str,
    rows: usize,
    start: &[f32],
    run: impl Fn(Range<usize>, &mut [f32]),
) {
    let width = start.len() / rows;
    case(format_args!("{operation} {rows}x{width}"));
    let mut whole = Floats::new(start, 0);
    run(0..rows, &mut whole);
    for split in 0..=rows {
        case(format_args!("{operation} {rows}x{width}, rows ..{split} and {split}.."));
        let mut parts = Floats::new(start, 1);
        let (first, second) = parts.split_at_mut(split * width);
        run(0..split, first);
        run(split..rows, second);
        assert_same("out", &parts, &whole);
    }
}

fn a_row_does_not_depend_on_the_rows_it_shares_a_call_with(kernels: &Kernels) {
    let (rows, width) = (11, 100);
    let stride = padded(width);
    let mut random = Random(16);
    let [x, y] = [(); 2].map(|()| random.rows(rows, width)); // [M, Np]
    let (scale, gain) = (random.floats(rows), Lines::row(&random.floats(width)));
    let of =
        |values: &'_ [f32], range: &Range<usize>| values[range.start * stride..range.end * stride].to_vec();

    assert_same_however_cut("dot_rows", rows, &vec![0.0; rows], |range, out| {
        kernels.dot_rows(out, &of(&x, &range), &of(&y, &range));
    });
    assert_same_however_cut("add_scaled_rows", rows, &y, |range, out| {
        kernels.add_scaled_rows(out, &of(&x, &range), &scale[range]);
    });
    assert_same_however_cut("rms_norm", rows, &y, |range, out| {
        kernels.rms_norm(out, &mut Floats::unwritten(range.len(), 0), &of(&x, &range), &gain, width, 1e-5);
    });
    assert_same_however_cut("rms_norm_backward", rows, &y, |range, out| {
        let mut dgain = Lines::row(&vec![0.0; width]);
        kernels.rms_norm_backward(out, &mut dgain, &of(&x, &range), &scale[range], &gain, width);
    });
    assert_same_however_cut("cross_entropy", rows, &x, |range, out| {
        let targets: Vec<u32> = range.map(|row| (row * 9) as u32).collect();
        let _ = kernels.cross_entropy(out, &targets, width, 0.125);
    });
    assert_same_however_cut("quantize_rows", rows, &vec![0.0; rows * stride], |range, out| {
        let rows = range.len();
        let mut codes = Buffer::<i8>::unwritten(rows * stride, 0);
        let mut scales = Floats::unwritten(rows, 0);
        let mut sums = Buffer::<i32>::unwritten(rows * groups(width), 0);
        kernels.quantize_rows(&mut codes, &mut scales, &mut sums, &of(&x, &range), width);
        for (index, (out, code)) in out.iter_mut().zip(codes.into_vec()).enumerate() {
            let (row, group) = (index / stride, index % stride / 32);
            *out = f32::from(code) + scales[row] + sums[row * groups(width) + group] as f32;
        }
    });
}

fn a_line_does_not_depend_on_the_lines_it_is_updated_with(kernels: &Kernels) {
    let lines = 7;
    let mut random = Random(17);
    let [weights, first, gradient] = [(); 3].map(|()| Lines::row(&random.floats(lines * PANEL_ROWS)));
    let second: Vec<Line> = first.iter().map(|line| Line(line.0.map(f32::abs))).collect();
    let step = AdamwStep {
        learning_rate: 1e-2,
        beta1: 0.9,
        beta2: 0.99,
        eps: 1e-8,
        weight_decay: 0.1,
        gradient_scale: 0.5,
        correction1: 0.3,
        correction2: 0.03,
    };
    let start = vec![0.0; lines * 3 * PANEL_ROWS]; // each line's weights and moments
    assert_same_however_cut("adamw", lines, &start, |range, out| {
        let of = |lines: &[Line]| Lines::new(&lines[range.clone()]);
        let (mut weights, mut first, mut second) = (of(&weights), of(&first), of(&second));
        kernels.adamw(&mut weights, &mut first, &mut second, &gradient[range.clone()], &step);
        for (i, out) in out.chunks_exact_mut(3 * PANEL_ROWS).enumerate() {
            out.copy_from_slice(as_floats(&[weights[i], first[i], second[i]]));
        }
    });
}

fn a_text_does_not_depend_on_the_texts_in_its_batch(kernels: &Kernels) {
    let (steps, batch, hidden) = (4, 11, 37);
    let width = padded(hidden);
    let mut random = Random(18);
    let recurrent = Lines::panels(&random.floats(hidden * hidden), hidden, hidden);
    let [h, a, z, dy] = [steps + 1, steps, steps, steps].map(|slots| random.rows(slots * batch, hidden));
    let gate = random.floats(steps * batch);
    // Of the texts of a range, from [slots, B, width].
    let of = |values: &[f32], width: usize, range: &Range<usize>| -> Vec<f32> {
        let slots = values.chunks_exact(batch * width);
        slots.flat_map(|slot| slot[range.start * width..range.end * width].to_vec()).collect()
    };
    // One row a text: all that comes of it.
    let gather = |out: &mut [f32], buffers: &[&[f32]]| {
        let texts = out.len() / ((4 * steps + 2) * width);
        for (text, out) in out.chunks_exact_mut((4 * steps + 2) * width).enumerate() {
            let rows = buffers.iter().flat_map(|buffer| buffer.chunks_exact(texts * width));
            for (out, slot) in out.chunks_exact_mut(width).zip(rows) {
                out.copy_from_slice(&slot[text * width..][..width]);
            }
        }
    };
    let start = vec![0.0; batch * (4 * steps + 2) * width];
    assert_same_however_cut("cell_forward and cell_backward", batch, &start, |range, out| {
        if range.is_empty() {
            return; // a batch has at least one text
        }
        let [mut h, mut a, mut z] = [&h, &a, &z].map(|values| Floats::new(&of(values, width, &range), 0));
        kernels.cell_forward(&mut h, &mut a, &z, &recurrent, range.len(), hidden);
        let forward = a.to_vec();
        let mut dh = Floats::new(&vec![0.0; range.len() * width], 0);
        let (dy, gate) = (of(&dy, width, &range), of(&gate, 1, &range));
        kernels.cell_backward(&mut dh, &mut a, &mut z, &h, &dy, &gate, &recurrent, range.len(), hidden);
        gather(out, &[&h, &forward, &a, &z, &dh]);
    });
}
