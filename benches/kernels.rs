//! Every kernel operation of every instruction set, in the shapes of the default model.
//!
//! Ids are `kernel/operation/shape`. Throughput of products and of the cell is in floating-point operations
//! of their matrix products (Gelem/s reads as GFLOP/s), of the rest in elements. Before it is timed, each
//! is verified against the scalar reference.
//!
//! ```text
//! cargo bench --bench kernels -- avx2/
//! ```

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use shoestring_kernels::{
    AdamwStep, Epilogue, Kernels, Line, PANEL_ROWS, as_floats, as_floats_mut, padded, panel_lines,
};
use std::hint::black_box;
use std::time::{Duration, Instant};

const WIDTH: usize = 96; // D and H
const GATES: usize = 6 * WIDTH; // one input of six experts
const ROWS: usize = 640; // 80 steps of 8 rows
const STEPS: usize = 80;
const BATCH: usize = 8;
const VOCABULARY: usize = 850;
const HEAD_ROWS: usize = 64; // a tile of the loss
const ELEMENTS: usize = 4096;
const PARAMETERS: usize = 499_488;

criterion_group!(benches, products, gradients, cell, rows, loss, functions, optimizer);
criterion_main!(benches);

/// Buffers an operation changes; reset before each timed call.
type Buffers = [Vec<Line>];

/// Verifies, then times, `call` on every set of kernels.
fn bench(
    criterion: &mut Criterion,
    (operation, shape): (&str, &str),
    work: usize,
    buffers: &Buffers,
    call: impl Fn(&Kernels, &mut Buffers),
) {
    let result = |kernels: &Kernels| {
        let mut buffers = buffers.to_vec();
        call(kernels, &mut buffers);
        buffers.concat()
    };
    let reference = result(Kernels::select("scalar").expect("the reference is always available"));
    for kernels in Kernels::available() {
        let id = format!("{}/{operation}/{shape}", kernels.name());
        verify(&id, as_floats(&result(kernels)), as_floats(&reference));
        let mut group = criterion.benchmark_group(format!("{}/{operation}", kernels.name()));
        group.throughput(Throughput::Elements(work as u64));
        group.bench_function(shape, |bencher| {
            let mut fresh = buffers.to_vec();
            bencher.iter_custom(|calls| {
                let mut time = Duration::ZERO;
                for _ in 0..calls {
                    fresh.clone_from_slice(buffers);
                    let start = Instant::now();
                    call(kernels, black_box(&mut fresh));
                    time += start.elapsed();
                }
                time
            });
        });
        group.finish();
    }
}

/// Panics unless every value is within a ten-thousandth of the reference, relative to 1 where that is small.
fn verify(id: &str, got: &[f32], reference: &[f32]) {
    assert_eq!(got.len(), reference.len(), "{id}");
    for (index, (got, reference)) in got.iter().zip(reference).enumerate() {
        let close = (got - reference).abs() <= 1e-4 * reference.abs().max(1.0); // false for NaN
        assert!(close, "{id}: value {index} is {got}, of the reference {reference}");
    }
}

fn products(criterion: &mut Criterion) {
    let (a, update, head) = (floats(ROWS * WIDTH), weights(GATES), weights(VOCABULARY));
    let square = weights(WIDTH);
    let bias = lines(GATES);
    let flops = |rows: usize, outputs: usize| 2 * rows * WIDTH * outputs;

    bench(criterion, ("gemm", "640x96x96"), flops(ROWS, WIDTH), &[zeros(ROWS * WIDTH)], |k, out| {
        k.gemm(as_floats_mut(&mut out[0]), &a, &square, WIDTH, Epilogue::Store);
    });
    bench(criterion, ("gemm", "640x96x576+bias"), flops(ROWS, GATES), &[zeros(ROWS * GATES)], |k, out| {
        k.gemm(as_floats_mut(&mut out[0]), &a, &update, WIDTH, Epilogue::Bias(&bias));
    });
    bench(criterion, ("gemm", "640x96x576+sigmoid"), flops(ROWS, GATES), &[zeros(ROWS * GATES)], |k, out| {
        k.gemm(as_floats_mut(&mut out[0]), &a, &update, WIDTH, Epilogue::BiasSigmoid(&bias));
    });
    let logits = zeros(HEAD_ROWS * padded(VOCABULARY));
    bench(criterion, ("gemm", "64x96x850"), flops(HEAD_ROWS, VOCABULARY), &[logits], |k, out| {
        k.gemm(as_floats_mut(&mut out[0]), &a[..HEAD_ROWS * WIDTH], &head, WIDTH, Epilogue::Store);
    });
    bench(criterion, ("gemm", "1x96x576"), flops(1, GATES), &[zeros(GATES)], |k, out| {
        k.gemm(as_floats_mut(&mut out[0]), &a[..WIDTH], &update, WIDTH, Epilogue::Store);
    });
    bench(criterion, ("gemm", "1x96x850"), flops(1, VOCABULARY), &[zeros(padded(VOCABULARY))], |k, out| {
        k.gemm(as_floats_mut(&mut out[0]), &a[..WIDTH], &head, WIDTH, Epilogue::Store);
    });
}

fn gradients(criterion: &mut Criterion) {
    let (x, dy) = (floats(ROWS * WIDTH), floats(ROWS * GATES));
    let flops = 2 * ROWS * WIDTH * WIDTH;
    bench(criterion, ("weight_gradient", "640x96x96"), flops, &[zeros(WIDTH * WIDTH)], |k, out| {
        k.weight_gradient(&mut out[0], 0, &dy[..ROWS * WIDTH], WIDTH, &x, WIDTH);
    });
    bench(criterion, ("weight_gradient", "640x96x96-of-576"), flops, &[zeros(WIDTH * WIDTH)], |k, out| {
        k.weight_gradient(&mut out[0], 2 * WIDTH / PANEL_ROWS, &dy, GATES, &x, WIDTH);
    });
    bench(criterion, ("bias_gradient", "640x576"), ROWS * GATES, &[zeros(GATES)], |k, out| {
        k.bias_gradient(&mut out[0], &dy);
    });
    let matrix = weights(WIDTH);
    bench(criterion, ("transpose_panels", "96x96"), WIDTH * WIDTH, &[zeros(WIDTH * WIDTH)], |k, out| {
        k.transpose_panels(&mut out[0], &matrix, WIDTH, WIDTH);
    });
}

fn cell(criterion: &mut Criterion) {
    let slot = BATCH * WIDTH;
    let recurrent = weights(WIDTH);
    let z: Vec<Line> = lines(STEPS * slot).iter().map(|line| Line(line.0.map(|z| z + 0.5))).collect();
    let (h, a) = (lines((STEPS + 1) * slot), lines(STEPS * slot));
    let (dy, gate) = (floats(STEPS * slot), floats(STEPS * BATCH));
    let flops = 2 * STEPS * slot * WIDTH;
    bench(criterion, ("cell_forward", "80x8x96"), flops, &[h.clone(), a.clone()], |k, buffers| {
        let [h, a] = buffers else { unreachable!("two buffers") };
        k.cell_forward(as_floats_mut(h), as_floats_mut(a), as_floats(&z), &recurrent, BATCH, WIDTH);
    });
    bench(criterion, ("cell_backward", "80x8x96"), flops, &[zeros(slot), a, z.clone()], |k, buffers| {
        let [dh, a, z] = buffers else { unreachable!("three buffers") };
        let [dh, a, z] = [dh, a, z].map(|buffer| as_floats_mut(buffer));
        k.cell_backward(dh, a, z, as_floats(&h), &dy, &gate, &recurrent, BATCH, WIDTH);
    });
    let step = GATES;
    bench(criterion, ("cell_step", "576"), step, &[lines(step)], |k, h| {
        k.cell_step(as_floats_mut(&mut h[0]), &as_floats(&z)[..step], &dy[..step]);
    });
}

fn rows(criterion: &mut Criterion) {
    let (x, y) = (floats(ROWS * WIDTH), floats(ROWS * WIDTH));
    let (scale, gain) = (floats(ROWS), lines(WIDTH));
    let elements = ROWS * WIDTH;
    bench(criterion, ("add_scaled_rows", "640x96"), elements, &[zeros(elements)], |k, out| {
        k.add_scaled_rows(as_floats_mut(&mut out[0]), &x, &scale);
    });
    bench(criterion, ("dot_rows", "640x96"), elements, &[zeros(ROWS)], |k, out| {
        k.dot_rows(as_floats_mut(&mut out[0]), &x, &y);
    });
    bench(criterion, ("rms_norm", "640x96"), elements, &[zeros(elements), zeros(ROWS)], |k, buffers| {
        let [out, inverse_rms] = buffers else { unreachable!("two buffers") };
        k.rms_norm(as_floats_mut(out), as_floats_mut(inverse_rms), &y, &gain, WIDTH, 1e-5);
    });
    let inverse_rms = vec![3.0; ROWS];
    bench(
        criterion,
        ("rms_norm_backward", "640x96"),
        elements,
        &[lines(elements), zeros(WIDTH)],
        |k, buffers| {
            let [dout, dgain] = buffers else { unreachable!("two buffers") };
            k.rms_norm_backward(as_floats_mut(dout), dgain, &y, &inverse_rms, &gain, WIDTH);
        },
    );
}

fn loss(criterion: &mut Criterion) {
    let logits = lines(HEAD_ROWS * padded(VOCABULARY));
    let targets: Vec<u32> = (0..HEAD_ROWS as u32).map(|m| m * 13).collect();
    let elements = HEAD_ROWS * VOCABULARY;
    bench(criterion, ("cross_entropy", "64x850"), elements, &[logits, zeros(1)], |k, buffers| {
        let [logits, nats] = buffers else { unreachable!("two buffers") };
        nats[0].0[0] = k.cross_entropy(as_floats_mut(logits), &targets, VOCABULARY, 0.01) as f32;
    });
    bench(criterion, ("softmax", "850"), VOCABULARY, &[lines(VOCABULARY)], |k, values| {
        k.softmax(&mut as_floats_mut(&mut values[0])[..VOCABULARY]);
    });
}

fn functions(criterion: &mut Criterion) {
    let x: Vec<f32> = floats(ELEMENTS).iter().map(|x| x * 10.0).collect();
    let out = [zeros(ELEMENTS)];
    bench(criterion, ("exp", "4096"), ELEMENTS, &out, |k, out| k.exp(as_floats_mut(&mut out[0]), &x));
    bench(criterion, ("sigmoid", "4096"), ELEMENTS, &out, |k, out| k.sigmoid(as_floats_mut(&mut out[0]), &x));
    bench(criterion, ("gelu", "4096"), ELEMENTS, &out, |k, out| k.gelu(as_floats_mut(&mut out[0]), &x));
    bench(criterion, ("gelu_derivative", "4096"), ELEMENTS, &out, |k, out| {
        k.gelu_derivative(as_floats_mut(&mut out[0]), &x);
    });
}

fn optimizer(criterion: &mut Criterion) {
    let gradient = lines(PARAMETERS);
    let step = AdamwStep {
        learning_rate: 1e-3,
        beta1: 0.9,
        beta2: 0.999,
        eps: 1e-8,
        weight_decay: 0.01,
        gradient_scale: 0.5,
        correction1: 0.1,
        correction2: 0.001,
    };
    let parameters = [lines(PARAMETERS), zeros(PARAMETERS), zeros(PARAMETERS)];
    bench(criterion, ("adamw", "499488"), PARAMETERS, &parameters, |k, buffers| {
        let [weights, first_moment, second_moment] = buffers else { unreachable!("three buffers") };
        k.adamw(weights, first_moment, second_moment, &gradient, &step);
    });
    bench(criterion, ("sum_of_squares", "499488"), PARAMETERS, &[zeros(1)], |k, out| {
        out[0][0].0[0] = k.sum_of_squares(as_floats(&gradient)) as f32;
    });
    bench(criterion, ("dropout", "4096"), ELEMENTS, &[lines(ELEMENTS)], |k, values| {
        k.dropout(as_floats_mut(&mut values[0]), 1, 2, 0.9);
    });
}

/// Numbers in [-0.2, 0.2), different in every place: a linear congruential generator (Numerical Recipes).
fn floats(length: usize) -> Vec<f32> {
    let mut state = 1_u32;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        ((state >> 8) as f32 / (1 << 24) as f32 - 0.5) * 0.4
    };
    (0..length).map(|_| next()).collect()
}

/// At least `length` such numbers, in whole lines.
fn lines(length: usize) -> Vec<Line> {
    floats(padded(length)).as_chunks().0.iter().map(|&lanes| Line(lanes)).collect()
}

/// Panels of a [rows, 96] matrix; padding rows are not zero, which no operation minds.
fn weights(rows: usize) -> Vec<Line> {
    lines(panel_lines(rows, WIDTH) * PANEL_ROWS)
}

fn zeros(length: usize) -> Vec<Line> {
    vec![Line::default(); length.div_ceil(PANEL_ROWS)]
}
