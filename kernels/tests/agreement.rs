//! That the instruction sets with a fused multiply-add compute the same bits, so that a model trains alike on
//! them; and that all kernels do in the operations that a quantized model is run with.

use half::f16;
use shoestring_kernels::quantized::{Quantized, QuantizedCell, QuantizedRows, groups, q4_lines, q8_lines};
use shoestring_kernels::{
    AdamwStep, CodeLine, Epilogue, HalfLine, Kernels, Line, PANEL_ROWS, as_codes, as_codes_mut, as_floats,
    as_halves, padded,
};
use shoestring_kernels_conformance::available;
use shoestring_kernels_conformance::buffers::Lines;
use shoestring_kernels_conformance::compare::assert_same;
use shoestring_kernels_conformance::random::Random;

/// A hash of [`everything`], so that those of one CPU can be compared with those of another.
const EVERYTHING: u64 = 15_586_033_750_939_106_982;

#[test]
fn the_fused_instruction_sets_agree_bit_for_bit() {
    let mut fused = available().iter().filter(|kernels| !["wide", "scalar"].contains(&kernels.name()));
    let Some(first) = fused.next() else { return };
    let expected = everything(first);
    assert!(expected.iter().all(|value| value.is_finite()));
    for kernels in fused {
        assert_same(&format!("{} as {}", kernels.name(), first.name()), &everything(kernels), &expected);
    }
    // FNV-1a, over words.
    let hash = expected.iter().fold(0xcbf2_9ce4_8422_2325, |hash: u64, value| {
        (hash ^ u64::from(value.to_bits())).wrapping_mul(0x0100_0000_01b3)
    });
    assert_eq!(hash, EVERYTHING, "{} differs from the sets of other CPUs", first.name());
}

#[test]
fn all_kernels_agree_bit_for_bit_in_what_is_exact_or_unfused() {
    let reference = Kernels::select("scalar").unwrap();
    for seed in 0..60 {
        let expected = everything_exact(reference, seed);
        assert!(expected.iter().all(|value| value.is_finite()));
        for kernels in available() {
            assert_same(
                &format!("{}, seed {seed}", kernels.name()),
                &everything_exact(kernels, seed),
                &expected,
            );
        }
    }
}

/// Everything that is promised to be the same on all kernels, in one list, each from the results before it. The
/// seed chooses shapes and numbers.
fn everything_exact(kernels: &Kernels, seed: u64) -> Vec<f32> {
    let mut random = Random(seed);
    let mut below = |limit: u64| (random.bits() % limit) as usize;
    let (rows, depth, panels) = (below(20), 1 + below(150), 1 + below(10));
    let np = panels * PANEL_ROWS;
    let gain = Lines::row(&random.floats(np));
    let codes = |lines: usize, random: &mut Random| {
        let mut codes = vec![CodeLine::default(); lines];
        as_codes_mut(&mut codes).fill_with(|| (random.bits() % 255) as u8 as i8);
        as_codes_mut(&mut codes).iter_mut().filter(|code| **code == -128).for_each(|code| *code = 127);
        codes
    };
    let q8 = codes(q8_lines(np, depth), &mut random);
    let q4 = codes(q4_lines(np, depth), &mut random);
    let mut small = |length: usize| -> Vec<f32> { random.floats(length).iter().map(|x| 0.02 * x).collect() };
    let q8_scales = Lines::row(&small(np));
    let q4_scales = Lines::half_panels(&small(np * groups(depth)), np, groups(depth));
    let weights = Lines::panels(&random.floats(np * depth), np, depth);
    let half_weights = Lines::half_panels(&random.floats(16 * 3), 16, 3);
    let x = random.rows(rows, depth); // [M, Kp]
    let mut all = Vec::new();

    let (mut a, mut scales, mut sums) = (vec![0; x.len()], vec![0.0; rows], vec![0; rows * groups(depth)]);
    kernels.quantize_rows(&mut a, &mut scales, &mut sums, &x, depth);
    all.extend(a.iter().map(|&code| f32::from(code)));
    all.extend(scales.iter().copied().chain(sums.iter().map(|&sum| sum as f32)));
    let a = Quantized { codes: &a, scales: &scales, sums: &sums };
    let mut out = vec![0.0; rows * np]; // [M, Np]
    kernels.gemm_q8(&mut out, a, &q8, &q8_scales, depth, Epilogue::Bias(&gain));
    all.extend(&out);
    kernels.gemm_q4(&mut out, a, &q4, &q4_scales, depth, Epilogue::Accumulate);
    all.extend(&out);
    kernels.gemm_unfused(&mut out, &x, &weights, depth, Epilogue::Accumulate);
    all.extend(&out);
    let mut z = vec![0.0; rows * np]; // [M, Np]
    kernels.gemm_q8(&mut z, a, &q8, &q8_scales, depth, Epilogue::BiasSigmoid(&gain));
    kernels.gemm_q4(&mut z, a, &q4, &q4_scales, depth, Epilogue::BiasSigmoid(&gain));
    let mut h = random.floats(rows * np); // [M, Np]
    kernels.cell_step(&mut h, &z, &out);
    kernels.gemm_unfused(&mut z, &x, &weights, depth, Epilogue::BiasSigmoid(&gain));
    kernels.cell_step(&mut h, &z, &out);
    let recurrent = codes(q8_lines(np, np), &mut random);
    let (mut state, mut steps) = (random.floats(np), h.clone()); // [Np], [M, Np]
    let mut room = QuantizedRows::default();
    let mut cell = [QuantizedCell {
        state: &mut state,
        steps: &mut steps,
        update: &z,
        recurrent: &recurrent,
        scales: &q8_scales,
        room: &mut room,
    }];
    kernels.cell_forward_q8(&mut cell, 1, np);
    all.extend(state.iter().chain(&steps));
    kernels.add_scaled_rows(&mut h, &out, &scales);
    all.extend(z.iter().chain(&h));
    let mut inverse_rms = vec![0.0; rows];
    kernels.rms_norm(&mut out, &mut inverse_rms, &h, &gain, np, 1e-5);
    all.extend(out.iter().chain(&inverse_rms));
    kernels.softmax(&mut out);
    all.extend(&out);

    let mut row = vec![0.0; depth];
    kernels.dequantize_q8(&mut row, &as_codes(&q8)[..depth], 0.3);
    all.extend(&row);
    let (bytes, halves) = (vec![-77; groups(depth) * 16], vec![f16::from_f32(0.1); groups(depth)]);
    kernels.dequantize_q4(&mut row, &bytes, &halves);
    all.extend(&row);
    let half_weights: &[HalfLine] = &half_weights;
    let mut row = vec![0.0; 48];
    kernels.widen_f16(&mut row[..47], &as_halves(half_weights)[..47]);
    all.extend(&row);
    all
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

    let mut products = vec![0.0; steps * batch * width];
    kernels.gemm(&mut products, &dy, &weights, hidden, Epilogue::BiasSigmoid(&gain));
    all.extend(&products);
    let halves = Lines::half_panels(&random.floats(hidden * hidden), hidden, hidden);
    kernels.gemm_f16(&mut products, &dy, &halves, hidden, Epilogue::Bias(&gain));
    all.extend(&products);
    all.push(kernels.sum_of_squares(&products) as f32);
    let mut transposed = vec![Line::default(); recurrent.len()];
    kernels.transpose_panels(&mut transposed, &weights, hidden, hidden);
    all.extend(as_floats(&transposed));

    let mut x: Vec<f32> = random.floats(1000).iter().map(|x| x * 20.0).collect();
    x.extend([0.0, -0.0, 1e-40, -1e-40, f32::MIN_POSITIVE, 88.0, -88.0, -103.0, -110.0, 5.5, -5.5, -14.0]);
    let mut y = vec![0.0; x.len()];
    kernels.exp(&mut y, &x);
    all.extend(&y);
    kernels.sigmoid(&mut y, &x);
    all.extend(&y);
    kernels.gelu(&mut y, &x);
    all.extend(&y);
    kernels.gelu_derivative(&mut y, &x);
    all.extend(&y);
    all
}
