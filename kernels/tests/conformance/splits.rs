//! What results must not depend on: how work is split between calls, and which fused instruction set runs it.

use crate::buffers::{Floats, Lines, Random};
use crate::compare::assert_same;
use shoestring_kernels::{AdamwStep, Epilogue, Kernels, Line, PANEL_ROWS, as_floats, padded};

#[test]
fn rows_of_a_gemm_do_not_depend_on_the_rows_they_share_a_call_with() {
    let (rows, inputs, outputs) = (29, 37, 100);
    let (kp, np) = (padded(inputs), padded(outputs));
    let mut random = Random(11);
    let a = random.rows(rows, inputs);
    let weights = Lines::panels(&random.floats(outputs * inputs), outputs, inputs);
    let start = random.rows(rows, outputs);
    for kernels in Kernels::available() {
        let mut whole = Floats::new(&start, 0);
        kernels.gemm(&mut whole, &a, &weights, inputs, Epilogue::Accumulate);
        for split in 0..=rows {
            let mut parts = Floats::new(&start, 1);
            let (first, second) = parts.split_at_mut(split * np);
            kernels.gemm(first, &a[..split * kp], &weights, inputs, Epilogue::Accumulate);
            kernels.gemm(second, &a[split * kp..], &weights, inputs, Epilogue::Accumulate);
            assert_same(&format!("{} rows ..{split}, {split}..", kernels.name()), &parts, &whole);
        }
    }
}

#[test]
fn panels_of_a_gemm_do_not_depend_on_the_panels_they_share_a_call_with() {
    let (rows, inputs, panels) = (9, 21, 8);
    let mut random = Random(12);
    let a = random.rows(rows, inputs);
    let weights = Lines::panels(&random.floats(panels * PANEL_ROWS * inputs), panels * PANEL_ROWS, inputs);
    for kernels in Kernels::available() {
        let mut whole = vec![0.0; rows * panels * PANEL_ROWS];
        kernels.gemm(&mut whole, &a, &weights, inputs, Epilogue::Store);
        for panel in 0..panels {
            let mut one = vec![0.0; rows * PANEL_ROWS];
            kernels.gemm(&mut one, &a, &weights[panel * inputs..][..inputs], inputs, Epilogue::Store);
            for (m, one) in one.chunks_exact(PANEL_ROWS).enumerate() {
                let expected = &whole[(m * panels + panel) * PANEL_ROWS..][..PANEL_ROWS];
                assert_same(&format!("{} panel {panel} of row {m}", kernels.name()), one, expected);
            }
        }
    }
}

#[test]
fn a_weight_gradient_does_not_depend_on_how_panels_are_split() {
    let (rows, inputs, panels) = (150, 21, 7);
    let stride = panels * PANEL_ROWS;
    let mut random = Random(13);
    let (dy, x) = (random.floats(rows * stride), random.rows(rows, inputs));
    for kernels in Kernels::available() {
        let mut whole = vec![Line([0.25; PANEL_ROWS]); panels * inputs];
        kernels.weight_gradient(&mut whole, 0, &dy, stride, &x, inputs);
        for split in 0..=panels {
            let mut parts = vec![Line([0.25; PANEL_ROWS]); panels * inputs];
            let (first, second) = parts.split_at_mut(split * inputs);
            kernels.weight_gradient(first, 0, &dy, stride, &x, inputs);
            kernels.weight_gradient(second, split, &dy, stride, &x, inputs);
            assert_same(
                &format!("{} panels ..{split}", kernels.name()),
                as_floats(&parts),
                as_floats(&whole),
            );
        }
    }
}

#[test]
fn a_function_does_not_depend_on_where_in_a_buffer_its_argument_is() {
    let mut random = Random(14);
    let x: Vec<f32> = random.floats(70).iter().map(|x| x * 10.0).collect();
    for kernels in Kernels::available() {
        type Function = fn(&Kernels, &mut [f32], &[f32]);
        let functions: [Function; 4] =
            [Kernels::exp, Kernels::sigmoid, Kernels::gelu, Kernels::gelu_derivative];
        for function in functions {
            let mut whole = vec![0.0; x.len()];
            function(kernels, &mut whole, &x);
            for (i, whole) in whole.iter().enumerate() {
                let mut one = [0.0];
                function(kernels, &mut one, &x[i..=i]);
                assert_same(kernels.name(), &one, &[*whole]);
            }
        }
    }
}

/// Everything a set of kernels computes from fixed numbers, in one list.
fn everything(kernels: &Kernels) -> Vec<f32> {
    let (steps, batch, hidden, vocabulary) = (3, 5, 37, 50);
    let (width, slot) = (padded(hidden), batch * padded(hidden));
    let mut random = Random(15);
    let mut all = Vec::new();

    let recurrent = Lines::panels(&random.floats(hidden * hidden), hidden, hidden);
    let gain = Lines::row(&random.floats(hidden));
    let mut h = random.rows((steps + 1) * batch, hidden);
    let mut a = random.rows(steps * batch, hidden);
    let mut z: Vec<f32> = random.rows(steps * batch, hidden).iter().map(|z| z.abs()).collect();
    kernels.cell_forward(&mut h, &mut a, &z, &recurrent, batch, hidden);
    all.extend([&h[..], &a[..]].concat());
    let (dy, gate) = (random.rows(steps * batch, hidden), random.floats(steps * batch));
    let mut dh = vec![0.0; slot];
    kernels.cell_backward(&mut dh, &mut a, &mut z, &h, &dy, &gate, &recurrent, batch, hidden);
    all.extend([&dh[..], &a[..], &z[..]].concat());

    let mut gradient = vec![Line::default(); recurrent.len()];
    kernels.weight_gradient(&mut gradient, 0, &a, width, &dy, hidden);
    all.extend(as_floats(&gradient));
    let mut bias_gradient = vec![Line::default(); width / PANEL_ROWS];
    kernels.bias_gradient(&mut bias_gradient, &dy);
    let (mut out, mut inverse_rms) = (vec![0.0; dy.len()], vec![0.0; steps * batch]);
    kernels.rms_norm(&mut out, &mut inverse_rms, &dy, &gain, hidden, 1e-5);
    all.extend([&out[..], &inverse_rms[..]].concat());
    kernels.rms_norm_backward(&mut out, &mut bias_gradient, &dy, &inverse_rms, &gain, hidden);
    kernels.add_scaled_rows(&mut out, &dy, &gate);
    all.extend([&out[..], as_floats(&bias_gradient)].concat());
    kernels.dot_rows(&mut inverse_rms, &out, &dy);
    all.extend(&inverse_rms);

    let mut logits: Vec<f32> = random.rows(7, vocabulary).iter().map(|x| x * 9.0).collect();
    let nats = kernels.cross_entropy(&mut logits, &[0, 49, 3, 17, 16, 15, 30], vocabulary, 0.125);
    all.extend([&logits[..], &[nats as f32]].concat());
    kernels.softmax(&mut logits[1..60]);
    kernels.dropout(&mut logits, 99, 12345, 0.8);
    all.extend(&logits);

    let step = AdamwStep {
        learning_rate: 1e-3,
        beta1: 0.9,
        beta2: 0.99,
        eps: 1e-8,
        weight_decay: 0.05,
        gradient_scale: 0.7,
        correction1: 0.1,
        correction2: 0.01,
    };
    let (mut weights, mut first) = (recurrent.to_vec(), vec![Line::default(); recurrent.len()]);
    let mut second = first.clone();
    kernels.adamw(&mut weights, &mut first, &mut second, &gradient, &step);
    all.extend([as_floats(&weights), as_floats(&first), as_floats(&second)].concat());

    let x: Vec<f32> = random.floats(1000).iter().map(|x| x * 20.0).collect();
    let mut y = vec![0.0; x.len()];
    kernels.exp(&mut y, &x);
    all.extend(&y);
    kernels.sigmoid(&mut y, &x);
    all.extend(&y);
    all
}

#[test]
fn the_fused_instruction_sets_agree_bit_for_bit() {
    let fused = ["avx512", "avx2", "neon"];
    let mut fused = Kernels::available().iter().filter(|kernels| fused.contains(&kernels.name()));
    let Some(first) = fused.next() else { return };
    let expected = everything(first);
    assert!(expected.iter().all(|value| value.is_finite()));
    for kernels in fused {
        assert_same(&format!("{} as {}", kernels.name(), first.name()), &everything(kernels), &expected);
    }
}

#[test]
fn the_sum_of_squares_is_the_same_bits_everywhere() {
    let values = Random(16).floats(1003);
    let reference = Kernels::select("scalar").unwrap();
    for length in [0, 1, 15, 16, 17, 1003] {
        let expected = reference.sum_of_squares(&values[..length]);
        for kernels in Kernels::available() {
            let got = kernels.sum_of_squares(&values[..length]);
            assert_eq!(got.to_bits(), expected.to_bits(), "{} of {length}", kernels.name());
        }
    }
}
