//! That the instruction sets with a fused multiply-add compute the same bits: a model trains alike on them.

use shoestring_kernels::{AdamwStep, Kernels, Line, PANEL_ROWS, as_floats, padded};
use shoestring_kernels_conformance::available;
use shoestring_kernels_conformance::buffers::Lines;
use shoestring_kernels_conformance::compare::assert_same;
use shoestring_kernels_conformance::random::Random;

#[test]
fn the_fused_instruction_sets_agree_bit_for_bit() {
    let fused = ["avx512-vnni", "avx512", "avx2-vnni", "avx2", "neon-dotprod", "neon"];
    let mut fused = available().iter().filter(|kernels| fused.contains(&kernels.name()));
    let Some(first) = fused.next() else { return };
    let expected = everything(first);
    assert!(expected.iter().all(|value| value.is_finite()));
    for kernels in fused {
        assert_same(&format!("{} as {}", kernels.name(), first.name()), &everything(kernels), &expected);
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
