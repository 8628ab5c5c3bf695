//! Buffers of the wrong length are refused, by name, before any kernel sees them.

use crate::buffers::{Buffer, Floats};
use crate::failure::{case, panic_message};
use half::{bf16, f16};
use shoestring_kernels::quantized::{Quantized, QuantizedCell, QuantizedRows};
use shoestring_kernels::{AdamwStep, CodeLine, Epilogue, HalfLine, Kernels, Line, PANEL_ROWS, PairLine};

checks! {
    of_products: gemm, transpose_panels;
    of_products_with_other_weights: gemm_unfused, gemm_f16;
    of_products_of_bf16: gemm_bf16, narrow_bf16;
    of_quantized_products: gemm_q8, gemm_q4;
    of_quantized_cells: cell_forward_q8;
    of_quantization: quantize_rows, dequantize_q8, dequantize_q4, widen_f16;
    of_gradients: weight_gradient, bias_gradient;
    of_the_cell: cell_forward, cell_backward, cell_step;
    of_rows: add_scaled_rows, dot_rows, rms_norm, rms_norm_backward;
    of_functions_loss_and_optimizer: exp, gelu_derivative, cross_entropy, adamw, dropout;
}

const LINE: Line = Line([0.0; PANEL_ROWS]);
const HALF_LINE: HalfLine = HalfLine([f16::ZERO; PANEL_ROWS]);
const CODE_LINE: CodeLine = CodeLine([0; 64]);

/// Runs `call`, which must panic with `message`.
#[track_caller]
fn refused(message: &str, call: impl FnOnce()) {
    match panic_message(call) {
        Ok(()) => panic!("accepted, which should be refused: {message}"),
        Err(got) => assert_eq!(got, message),
    }
}

fn of_products(kernels: &Kernels) {
    let (a, w) = ([0.0; 64], [LINE; 6]);
    refused("gemm: `out` must have length 128, got 64", || {
        kernels.gemm(&mut [0.0; 64], &a, &w, 3, Epilogue::Store);
    });
    refused("gemm: `a` must be a whole number of rows of 16, got 63", || {
        kernels.gemm(&mut [0.0; 128], &a[1..], &w, 3, Epilogue::Store);
    });
    refused("gemm: `weights` must be a whole number of panels of 4 lines, got 6", || {
        kernels.gemm(&mut [0.0; 128], &a, &w, 4, Epilogue::Store);
    });
    refused("gemm: `bias` must have length 2, got 1", || {
        kernels.gemm(&mut [0.0; 128], &a, &w, 3, Epilogue::Bias(&[LINE]));
    });
    refused("gemm: `depth` must be at least 1, got 0", || {
        kernels.gemm(&mut [], &a, &[], 0, Epilogue::Store);
    });
    refused("gemm: `bias` must have length 2, got 3", || {
        kernels.gemm(&mut [0.0; 32], &a[..16], &w, 3, Epilogue::BiasSigmoid(&[LINE; 3]));
    });
    refused("transpose_panels: `out` must have length 51, got 50", || {
        kernels.transpose_panels(&mut [LINE; 50], &[LINE; 2 * 33], 17, 33);
    });
    refused("transpose_panels: `weights` must have length 66, got 65", || {
        kernels.transpose_panels(&mut [LINE; 51], &[LINE; 65], 17, 33);
    });
}

fn of_products_with_other_weights(kernels: &Kernels) {
    let (a, lines, halves) = ([0.0; 64], [LINE; 6], [HALF_LINE; 6]);
    let (mut out, mut short) = ([0.0; 128], [0.0; 127]);
    let unfused = |message: &str, out: &mut [f32], a: &[f32], weights, depth, epilogue: Epilogue<'_>| {
        refused(message, || kernels.gemm_unfused(out, a, &lines[..weights], depth, epilogue));
    };
    let store = Epilogue::Store;
    unfused("gemm_unfused: `out` must have length 128, got 127", &mut short, &a, 6, 3, store);
    unfused("gemm_unfused: `a` must be a whole number of rows of 16, got 63", &mut out, &a[1..], 6, 3, store);
    let panels = "gemm_unfused: `weights` must be a whole number of panels of 3 lines, got 5";
    unfused(panels, &mut out, &a, 5, 3, store);
    let bias = Epilogue::BiasSigmoid(&[LINE]);
    unfused("gemm_unfused: `bias` must have length 2, got 1", &mut out, &a, 6, 3, bias);
    unfused("gemm_unfused: `depth` must be at least 1, got 0", &mut out, &a, 6, 0, store);

    let half = |message: &str, out: &mut [f32], a: &[f32], weights, depth, epilogue: Epilogue<'_>| {
        refused(message, || kernels.gemm_f16(out, a, &halves[..weights], depth, epilogue));
    };
    half("gemm_f16: `out` must have length 128, got 127", &mut short, &a, 6, 3, store);
    half("gemm_f16: `a` must be a whole number of rows of 16, got 63", &mut out, &a[1..], 6, 3, store);
    let panels = "gemm_f16: `weights` must be a whole number of panels of 3 lines, got 5";
    half(panels, &mut out, &a, 5, 3, store);
    half("gemm_f16: `bias` must have length 2, got 1", &mut out, &a, 6, 3, bias);
    half("gemm_f16: `depth` must be at least 1, got 0", &mut out, &a, 6, 0, store);
}

/// Lengths of the buffers of a product with quantized weights.
#[derive(Clone, Copy)]
struct Lengths {
    out: usize,
    codes: usize,
    a_scales: usize,
    sums: usize,
    weights: usize,
    scales: usize,
    bias: usize,
    depth: usize,
}

/// What is refused of both formats: 2 rows, 40 inputs and 2 panels, of which the product with `weights` lines and
/// `scales` lines of scales is right.
fn of_a_quantized_product(
    operation: &str,
    (weights, scales): (usize, usize),
    run: impl Fn(&mut [f32], Quantized<'_>, Lengths),
) {
    let right = Lengths { out: 64, codes: 96, a_scales: 2, sums: 4, weights, scales, bias: 2, depth: 40 };
    let call = |lengths: Lengths| {
        let Lengths { out, codes, a_scales, sums, .. } = lengths;
        let (codes, a_scales, sums) = (vec![0; codes], vec![0.0; a_scales], vec![0; sums]);
        let a = Quantized { codes: &codes, scales: &a_scales, sums: &sums };
        run(&mut Floats::unwritten(out, 0), a, lengths);
    };
    case(format_args!("{operation} 2x40x32"));
    call(right);
    let refused = |message: &str, lengths| refused(&format!("{operation}: {message}"), || call(lengths));
    refused("`out` must have length 64, got 65", Lengths { out: 65, ..right });
    refused("`a.codes` must have length 96, got 95", Lengths { codes: 95, ..right });
    refused("`a.codes` must have length 144, got 96", Lengths { a_scales: 3, ..right });
    refused("`a.sums` must have length 4, got 2", Lengths { sums: 2, ..right });
    let rows = format!("`weights` must be a whole number of rows of {}, got {}", weights / 2, weights - 1);
    refused(&rows, Lengths { weights: weights - 1, ..right });
    let length = format!("`scales` must have length {scales}, got {}", scales + 1);
    refused(&length, Lengths { scales: scales + 1, ..right });
    refused("`bias` must have length 2, got 3", Lengths { bias: 3, ..right });
    refused("`depth` must be at least 1, got 0", Lengths { depth: 0, ..right });
    refused("`depth` must be at most 65536, got 65537", Lengths { depth: 65_537, ..right });
}

fn of_quantized_products(kernels: &Kernels) {
    of_a_quantized_product("gemm_q8", (20, 2), |out, a, lengths| {
        let (weights, scales) = (vec![CODE_LINE; lengths.weights], vec![LINE; lengths.scales]);
        let bias = vec![LINE; lengths.bias];
        kernels.gemm_q8(out, a, &weights, &scales, lengths.depth, Epilogue::Bias(&bias));
    });
    of_a_quantized_product("gemm_q4", (10, 4), |out, a, lengths| {
        let (weights, scales) = (vec![CODE_LINE; lengths.weights], vec![HALF_LINE; lengths.scales]);
        let bias = vec![LINE; lengths.bias];
        kernels.gemm_q4(out, a, &weights, &scales, lengths.depth, Epilogue::Bias(&bias));
    });
}

fn of_quantized_cells(kernels: &Kernels) {
    // Lengths of state, steps, update, recurrent and scales; one more cell follows, of the right ones.
    let run = |[state, steps, update, recurrent, scales]: [usize; 5], batch: usize, hidden: usize| {
        move || {
            let [mut states, mut all_steps, mut other_state, mut other_steps] =
                [state, steps, 64, 192].map(|length| Floats::new(&vec![0.0; length], 0));
            let update = vec![0.0; update];
            let (recurrent, scales) = (vec![CODE_LINE; recurrent], vec![LINE; scales]);
            let mut rooms = [QuantizedRows::default(), QuantizedRows::default()];
            let [first, second] = &mut rooms;
            let cells =
                [(&mut states[..], &mut all_steps[..], first), (&mut other_state, &mut other_steps, second)];
            let mut cells = cells.map(|(state, steps, room)| QuantizedCell {
                state,
                steps,
                update: &update,
                recurrent: &recurrent,
                scales: &scales,
                room,
            });
            kernels.cell_forward_q8(&mut cells, batch, hidden);
        }
    };
    case("cell_forward_q8 of two cells, 3 steps of 2x20");
    run([64, 192, 192, 12, 2], 2, 20)();
    case("");
    let refused_of = |expected: &str, lengths: [usize; 5], batch: usize, hidden: usize| {
        refused(&format!("cell_forward_q8: {expected}"), run(lengths, batch, hidden));
    };
    refused_of("`state` must have length 64, got 32", [32, 192, 192, 12, 2], 2, 20);
    refused_of("`steps` must be a whole number of rows of 64, got 191", [64, 191, 192, 12, 2], 2, 20);
    refused_of("`steps` must have length 128, got 192", [64, 128, 128, 12, 2], 2, 20);
    refused_of("`update` must have length 192, got 128", [64, 192, 128, 12, 2], 2, 20);
    refused_of("`recurrent` must have length 12, got 11", [64, 192, 192, 11, 2], 2, 20);
    refused_of("`scales` must have length 2, got 3", [64, 192, 192, 12, 3], 2, 20);
    refused_of("`batch` must be at least 1, got 0", [64, 192, 192, 12, 2], 0, 20);
    refused_of("`hidden` must be at least 1, got 0", [64, 192, 192, 12, 2], 2, 0);
    refused_of("`hidden` must be at most 65536, got 65537", [64, 192, 192, 12, 2], 2, 65_537);
}

fn of_quantization(kernels: &Kernels) {
    let quantize = |codes: usize, scales: usize, sums: usize, x: usize, depth: usize| {
        move || {
            let mut codes = Buffer::<i8>::unwritten(codes, 0);
            let mut scales = Floats::unwritten(scales, 0);
            let mut sums = Buffer::<i32>::unwritten(sums, 0);
            kernels.quantize_rows(&mut codes, &mut scales, &mut sums, &vec![0.0; x], depth);
        }
    };
    case("quantize_rows 2x40");
    quantize(96, 2, 4, 96, 40)();
    case("");
    refused("quantize_rows: `depth` must be at least 1, got 0", quantize(96, 2, 4, 96, 0));
    refused("quantize_rows: `x` must be a whole number of rows of 48, got 95", quantize(96, 2, 4, 95, 40));
    refused("quantize_rows: `codes` must have length 96, got 97", quantize(97, 2, 4, 96, 40));
    refused("quantize_rows: `scales` must have length 2, got 1", quantize(96, 1, 4, 96, 40));
    refused("quantize_rows: `sums` must have length 4, got 3", quantize(96, 2, 3, 96, 40));
    refused("dequantize_q8: `codes` must have length 5, got 4", || {
        kernels.dequantize_q8(&mut [0.0; 5], &[0; 4], 1.0);
    });
    refused("dequantize_q4: `scales` must have length 2, got 1", || {
        kernels.dequantize_q4(&mut [0.0; 33], &[0; 32], &[f16::ZERO]);
    });
    refused("dequantize_q4: `codes` must have length 32, got 17", || {
        kernels.dequantize_q4(&mut [0.0; 33], &[0; 17], &[f16::ZERO; 2]);
    });
    refused("widen_f16: `x` must have length 5, got 6", || {
        kernels.widen_f16(&mut [0.0; 5], &[f16::ZERO; 6]);
    });
}

fn of_products_of_bf16(kernels: &Kernels) {
    let (a, w) = ([bf16::ZERO; 64], [PairLine::default(); 4]);
    let gemm = |message: &str, out: usize, a: &[bf16], depth: usize, epilogue: Epilogue<'_>| {
        let mut out = Floats::unwritten(out, 0);
        refused(message, || kernels.gemm_bf16(&mut out, a, &w, depth, epilogue));
    };
    gemm("gemm_bf16: `out` must have length 128, got 127", 127, &a, 3, Epilogue::Store);
    gemm("gemm_bf16: `a` must be a whole number of rows of 16, got 63", 128, &a[1..], 3, Epilogue::Store);
    gemm(
        "gemm_bf16: `weights` must be a whole number of panels of 3 lines, got 4",
        128,
        &a,
        5,
        Epilogue::Store,
    );
    gemm("gemm_bf16: `bias` must have length 2, got 1", 128, &a, 3, Epilogue::Bias(&[LINE]));
    gemm("gemm_bf16: `depth` must be at least 1, got 0", 128, &a, 0, Epilogue::Store);
    refused("narrow_bf16: `out` must have length 4, got 3", || {
        kernels.narrow_bf16(&mut Buffer::unwritten(3, 0), &[0.0; 4]);
    });
}

fn of_gradients(kernels: &Kernels) {
    let dy = [0.0; 96];
    refused("weight_gradient: `dy_stride` must be at least 48, got 32", || {
        kernels.weight_gradient(&mut [LINE; 6], 1, &dy, 32, &[0.0; 48], 3);
    });
    refused("weight_gradient: `x` must have length 48, got 47", || {
        kernels.weight_gradient(&mut [LINE; 6], 0, &dy, 32, &[0.0; 47], 3);
    });
    refused("weight_gradient: `dy` must be a whole number of rows of 40, got 96", || {
        kernels.weight_gradient(&mut [LINE; 6], 0, &dy, 40, &[0.0; 48], 3);
    });
    refused("weight_gradient: `gradient` must be a whole number of panels of 4 lines, got 6", || {
        kernels.weight_gradient(&mut [LINE; 6], 0, &dy, 32, &[0.0; 48], 4);
    });
    refused(&format!("weight_gradient: `dy_stride` must be at least {}, got 32", usize::MAX), || {
        kernels.weight_gradient(&mut [LINE; 6], usize::MAX, &dy, 32, &[0.0; 48], 3);
    });
    refused("bias_gradient: `dy` must be a whole number of rows of 32, got 95", || {
        kernels.bias_gradient(&mut [LINE; 2], &dy[1..]);
    });
    refused("bias_gradient: `dy` must have length 0, got 96", || kernels.bias_gradient(&mut [], &dy));
}

fn of_the_cell(kernels: &Kernels) {
    let recurrent = [LINE; 5];
    let forward = |h: usize, a: usize, z: usize, lines: usize| {
        move || {
            kernels.cell_forward(
                &mut vec![0.0; h],
                &mut vec![0.0; a],
                &vec![0.0; z],
                &recurrent[..lines],
                2,
                5,
            );
        }
    };
    refused("cell_forward: `h` must have length 96, got 64", forward(64, 64, 64, 5));
    refused("cell_forward: `a` must be a whole number of rows of 32, got 65", forward(96, 65, 65, 5));
    refused("cell_forward: `z` must have length 64, got 32", forward(96, 64, 32, 5));
    refused("cell_forward: `recurrent` must have length 5, got 4", forward(96, 64, 64, 4));
    refused("cell_forward: `batch` must be at least 1, got 0", || {
        kernels.cell_forward(&mut [], &mut [], &[], &recurrent, 0, 5);
    });
    let backward = |message: &str, lengths: [usize; 6], lines: usize, batch: usize| {
        let [mut dh, mut a, mut z, h, dy, gate] = lengths.map(|length| vec![0.0; length]);
        let recurrent = &recurrent[..lines];
        refused(&format!("cell_backward: {message}"), move || {
            kernels.cell_backward(&mut dh, &mut a, &mut z, &h, &dy, &gate, recurrent, batch, 5);
        });
    };
    backward("`dh` must have length 32, got 31", [31, 64, 64, 96, 64, 4], 5, 2);
    backward("`a` must be a whole number of rows of 32, got 63", [32, 63, 64, 96, 64, 4], 5, 2);
    backward("`z` must have length 64, got 65", [32, 64, 65, 96, 64, 4], 5, 2);
    backward("`h` must have length 96, got 64", [32, 64, 64, 64, 64, 4], 5, 2);
    backward("`dy` must have length 64, got 63", [32, 64, 64, 96, 63, 4], 5, 2);
    backward("`gate` must have length 4, got 5", [32, 64, 64, 96, 64, 5], 5, 2);
    backward("`recurrent_transposed` must have length 5, got 4", [32, 64, 64, 96, 64, 4], 4, 2);
    backward("`batch` must be at least 1, got 0", [32, 64, 64, 96, 64, 4], 5, 0);
    refused("cell_step: `z` must have length 3, got 2", || {
        kernels.cell_step(&mut [0.0; 3], &[0.0; 2], &[0.0; 3])
    });
    refused("cell_step: `a` must have length 3, got 4", || {
        kernels.cell_step(&mut [0.0; 3], &[0.0; 3], &[0.0; 4])
    });
}

fn of_rows(kernels: &Kernels) {
    refused("add_scaled_rows: `x` must have length 32, got 16", || {
        kernels.add_scaled_rows(&mut [0.0; 32], &[0.0; 16], &[0.0; 2]);
    });
    refused("add_scaled_rows: `y` must be 2 rows of a multiple of 16, got 40", || {
        kernels.add_scaled_rows(&mut [0.0; 40], &[0.0; 40], &[0.0; 2]);
    });
    refused("add_scaled_rows: `y` must be 0 rows of a multiple of 16, got 16", || {
        kernels.add_scaled_rows(&mut [0.0; 16], &[0.0; 16], &[]);
    });
    refused("dot_rows: `x` must be 3 rows of a multiple of 16, got 32", || {
        kernels.dot_rows(&mut [0.0; 3], &[0.0; 32], &[0.0; 32]);
    });
    refused("dot_rows: `y` must have length 32, got 31", || {
        kernels.dot_rows(&mut [0.0; 2], &[0.0; 32], &[0.0; 31])
    });
    refused("rms_norm: `out` must have length 64, got 32", || {
        kernels.rms_norm(&mut [0.0; 32], &mut [0.0; 2], &[0.0; 64], &[LINE; 2], 20, 0.0);
    });
    refused("rms_norm: `inverse_rms` must have length 2, got 1", || {
        kernels.rms_norm(&mut [0.0; 64], &mut [0.0; 1], &[0.0; 64], &[LINE; 2], 20, 0.0);
    });
    refused("rms_norm: `gain` must have length 2, got 3", || {
        kernels.rms_norm(&mut [0.0; 64], &mut [0.0; 2], &[0.0; 64], &[LINE; 3], 20, 0.0);
    });
    refused("rms_norm: `y` must be a whole number of rows of 32, got 65", || {
        kernels.rms_norm(&mut [0.0; 64], &mut [0.0; 2], &[0.0; 65], &[LINE; 2], 20, 0.0);
    });
    refused("rms_norm: `width` must be at least 1, got 0", || {
        kernels.rms_norm(&mut [0.0; 64], &mut [0.0; 2], &[0.0; 64], &[LINE; 2], 0, 0.0);
    });
    let backward = |message: &str, lengths: [usize; 3], dgain: usize, gain: usize, width: usize| {
        let [mut dout, y, inverse_rms] = lengths.map(|length| vec![0.0; length]);
        let (mut dgain, gain) = (vec![LINE; dgain], vec![LINE; gain]);
        refused(&format!("rms_norm_backward: {message}"), move || {
            kernels.rms_norm_backward(&mut dout, &mut dgain, &y, &inverse_rms, &gain, width);
        });
    };
    backward("`dout` must have length 64, got 63", [63, 64, 2], 2, 2, 20);
    backward("`y` must be a whole number of rows of 32, got 63", [64, 63, 2], 2, 2, 20);
    backward("`inverse_rms` must have length 2, got 3", [64, 64, 3], 2, 2, 20);
    backward("`dgain` must have length 2, got 1", [64, 64, 2], 1, 2, 20);
    backward("`gain` must have length 2, got 3", [64, 64, 2], 2, 3, 20);
    backward("`width` must be at least 1, got 0", [64, 64, 2], 2, 2, 0);
}

fn of_functions_loss_and_optimizer(kernels: &Kernels) {
    refused("exp: `out` must have length 4, got 3", || kernels.exp(&mut [0.0; 3], &[0.0; 4]));
    refused("gelu_derivative: `out` must have length 4, got 5", || {
        kernels.gelu_derivative(&mut [0.0; 5], &[0.0; 4])
    });
    refused("cross_entropy: `targets` must be below 10, got 10", || {
        kernels.cross_entropy(&mut [0.0; 32], &[3, 10], 10, 1.0);
    });
    refused("cross_entropy: `columns of logits` must be at least 17, got 16", || {
        kernels.cross_entropy(&mut [0.0; 32], &[3, 10], 17, 1.0);
    });
    refused("cross_entropy: `logits` must be 2 rows of a multiple of 16, got 33", || {
        kernels.cross_entropy(&mut [0.0; 33], &[3, 10], 16, 1.0);
    });
    let step = AdamwStep {
        learning_rate: 0.0,
        beta1: 0.0,
        beta2: 0.0,
        eps: 1.0,
        weight_decay: 0.0,
        gradient_scale: 1.0,
        correction1: 1.0,
        correction2: 1.0,
    };
    refused("adamw: `first_moment` must have length 2, got 3", move || {
        kernels.adamw(&mut [LINE; 2], &mut [LINE; 3], &mut [LINE; 2], &[LINE; 2], &step);
    });
    refused("adamw: `second_moment` must have length 2, got 1", move || {
        kernels.adamw(&mut [LINE; 2], &mut [LINE; 2], &mut [LINE; 1], &[LINE; 2], &step);
    });
    refused("adamw: `gradient` must have length 2, got 3", move || {
        kernels.adamw(&mut [LINE; 2], &mut [LINE; 2], &mut [LINE; 2], &[LINE; 3], &step);
    });
    refused("probe_multiply_adds: `steps` must be at most 524288, got 524289", || {
        let _ = kernels.probe_multiply_adds((1 << 19) + 1);
    });
    for keep in [0.0, -0.5, 1.5, f32::NAN] {
        refused(&format!("dropout: `keep` must be above 0 and at most 1, got {keep}"), || {
            kernels.dropout(&mut [0.0], 0, 0, keep);
        });
    }
}
