//! Operations of any shape, and those of the default model.
//!
//! Shapes are `MxKxN` for a product of `[M, K]` and `[K, N]` and its gradients, `TxBxH` for the cell over T steps
//! of B streams. `-in-24` is that work cut into 24 calls, as the model cuts it; `4x1x96x576` is done for four
//! matrices of 576 rows and 96 columns.

use super::{Operation, Work};
use crate::bench::DEFAULT_MODEL;
use crate::model::{Activations, Encoding, Layout, Panels, Parts, Storage, Tensor};
use crate::quantize;
use shoestring_kernels::quantized::QuantizedRows;
use shoestring_kernels::{
    AdamwStep, Epilogue, Kernels, Line, PANEL_ROWS, as_floats, as_floats_mut, padded, panel_lines,
};

/// Steps and streams of a chunk.
const STEPS: usize = 80;
const BATCH: usize = 16;
/// Streams whose recurrence is one task, and rows of a task of the row-wise work, as in `train::geometry`.
const STREAMS: usize = 8;
const TILE_ROWS: usize = 64;
/// Elements of a function of one variable.
const ELEMENTS: usize = 4096;

/// The default model's work in training and decoding.
pub fn of_default_model() -> Vec<Operation> {
    let (width, experts, layers) = (DEFAULT_MODEL.hidden, DEFAULT_MODEL.experts, DEFAULT_MODEL.layers);
    let (rows, gates) = (STEPS * BATCH, 2 * experts);
    vec![
        products_by_expert(rows, width, gates),
        input_gradient_by_tile(rows, width, gates),
        weight_gradient_by_expert(rows, width, gates),
        cell_forward(STEPS, STREAMS, width),
        cell_backward(STEPS, STREAMS, width),
        matvec(Encoding::F32, 2 * layers, experts * width, width),
        matvec(Encoding::F32, experts * layers, width, width),
        matvec(Encoding::F32, 1, DEFAULT_MODEL.vocabulary, width),
        matvec(Encoding::F16, 2 * layers, experts * width, width),
        matvec(Encoding::Q8, 2 * layers, experts * width, width),
        matvec(Encoding::Q8, experts * layers, width, width),
        matvec(Encoding::Q8, 1, DEFAULT_MODEL.vocabulary, width),
        matvec(Encoding::Q4, 2 * layers, experts * width, width),
        function("exp", Kernels::exp),
        function("sigmoid", Kernels::sigmoid),
        function("gelu", Kernels::gelu),
        adamw(Layout::new(&DEFAULT_MODEL).lines),
    ]
}

/// A layer's update gates and candidates: for each expert and half of the rows two products, one of them with the
/// sigmoid.
fn products_by_expert(rows: usize, width: usize, gates: usize) -> Operation {
    let (x, weights) = (floats(rows * width), weights(gates * width, width));
    let (bias, part) = (lines(gates * width), STREAMS * STEPS * width);
    let calls = gates * rows * width / part;
    let gate_lines = panel_lines(width, width);
    Operation {
        name: "gemm",
        shape: format!("{rows}x{width}x{}-in-{calls}", gates * width),
        work: Work::MultiplyAdds(rows * width * gates * width),
        buffers: vec![zeros(gates * rows * width)],
        call: Box::new(move |kernels, out| {
            let gates = as_floats_mut(&mut out[0]).chunks_exact_mut(rows * width);
            let operands = weights.chunks_exact(gate_lines).zip(bias.chunks_exact(width / PANEL_ROWS));
            for (gate, (out, (weights, bias))) in gates.zip(operands).enumerate() {
                let epilogue = if gate % 2 == 0 { Epilogue::BiasSigmoid(bias) } else { Epilogue::Bias(bias) };
                for (out, x) in out.chunks_exact_mut(part).zip(x.chunks_exact(part)) {
                    kernels.gemm(out, x, weights, width, epilogue);
                }
            }
        }),
    }
}

/// The gradient of that layer's input: each tile of rows is the sum of a product for every gate and candidate.
fn input_gradient_by_tile(rows: usize, width: usize, gates: usize) -> Operation {
    let (dy, transposed) = (floats(gates * rows * width), weights(gates * width, width));
    let (tile, gate_lines) = (TILE_ROWS * width, panel_lines(width, width));
    Operation {
        name: "gemm",
        shape: format!("{rows}x{}x{width}-in-{}", gates * width, gates * rows / TILE_ROWS),
        work: Work::MultiplyAdds(rows * gates * width * width),
        buffers: vec![zeros(rows * width)],
        call: Box::new(move |kernels, out| {
            for (first, dx) in as_floats_mut(&mut out[0]).chunks_exact_mut(tile).enumerate() {
                let operands = dy.chunks_exact(rows * width).zip(transposed.chunks_exact(gate_lines));
                for (dy, transposed) in operands {
                    kernels.gemm(dx, &dy[first * tile..][..tile], transposed, width, Epilogue::Accumulate);
                }
            }
        }),
    }
}

/// The gradients of that layer's matrices, one call each.
fn weight_gradient_by_expert(rows: usize, width: usize, gates: usize) -> Operation {
    let (x, dy) = (floats(rows * width), floats(gates * rows * width));
    Operation {
        name: "weight_gradient",
        shape: format!("{rows}x{width}x{}-in-{gates}", gates * width),
        work: Work::MultiplyAdds(rows * width * gates * width),
        buffers: vec![zeros(gates * width * width)],
        call: Box::new(move |kernels, out| {
            let gradients = out[0].chunks_exact_mut(panel_lines(width, width));
            for (gradient, dy) in gradients.zip(dy.chunks_exact(rows * width)) {
                kernels.weight_gradient(gradient, 0, dy, width, &x, width);
            }
        }),
    }
}

/// One product of `[rows, depth]` and panels of `[outputs, depth]`.
pub fn gemm(rows: usize, depth: usize, outputs: usize) -> Operation {
    let (a, weights) = (floats(rows * padded(depth)), weights(outputs, depth));
    Operation {
        name: "gemm",
        shape: format!("{rows}x{depth}x{outputs}"),
        work: Work::MultiplyAdds(rows * depth * outputs),
        buffers: vec![zeros(rows * padded(outputs))],
        call: Box::new(move |kernels, out| {
            kernels.gemm(as_floats_mut(&mut out[0]), &a, &weights, depth, Epilogue::Store);
        }),
    }
}

/// The gradient of panels of `[outputs, depth]` over `rows` rows, in one call.
pub fn weight_gradient(rows: usize, depth: usize, outputs: usize) -> Operation {
    let (x, dy) = (floats(rows * padded(depth)), floats(rows * padded(outputs)));
    Operation {
        name: "weight_gradient",
        shape: format!("{rows}x{depth}x{outputs}"),
        work: Work::MultiplyAdds(rows * depth * outputs),
        buffers: vec![weights_of_zero(outputs, depth)],
        call: Box::new(move |kernels, out| {
            kernels.weight_gradient(&mut out[0], 0, &dy, padded(outputs), &x, depth);
        }),
    }
}

/// The recurrence of one expert over `steps` steps of `batch` streams.
pub fn cell_forward(steps: usize, batch: usize, hidden: usize) -> Operation {
    let slot = batch * padded(hidden);
    let (recurrent, z) = (weights(hidden, hidden), gates(steps * slot));
    Operation {
        name: "cell_forward",
        shape: format!("{steps}x{batch}x{hidden}"),
        work: Work::MultiplyAdds(steps * batch * hidden * hidden),
        buffers: vec![lines((steps + 1) * slot), lines(steps * slot)],
        call: Box::new(move |kernels, buffers| {
            let [h, a] = buffers else { unreachable!("two buffers") };
            kernels.cell_forward(
                as_floats_mut(h),
                as_floats_mut(a),
                as_floats(&z),
                &recurrent,
                batch,
                hidden,
            );
        }),
    }
}

/// Backward through [`cell_forward`].
pub fn cell_backward(steps: usize, batch: usize, hidden: usize) -> Operation {
    let slot = batch * padded(hidden);
    let (recurrent, z, h) = (weights(hidden, hidden), gates(steps * slot), floats((steps + 1) * slot));
    let (dy, gate) = (floats(steps * slot), floats(steps * batch));
    Operation {
        name: "cell_backward",
        shape: format!("{steps}x{batch}x{hidden}"),
        work: Work::MultiplyAdds(steps * batch * hidden * hidden),
        buffers: vec![zeros(slot), lines(steps * slot), z],
        call: Box::new(move |kernels, buffers| {
            let [dh, a, z] = buffers else { unreachable!("three buffers") };
            let [dh, a, z] = [dh, a, z].map(|buffer| as_floats_mut(buffer));
            kernels.cell_backward(dh, a, z, &h, &dy, &gate, &recurrent, batch, hidden);
        }),
    }
}

/// Decoding's products: each of `matrices` matrices of `[outputs, depth]` with one vector.
pub fn matvec(encoding: Encoding, matrices: usize, outputs: usize, depth: usize) -> Operation {
    let storage = Storage::Panels { matrices, rows: outputs, columns: depth };
    let tensor = Tensor {
        name: String::new(),
        shape: vec![matrices, outputs, depth],
        storage,
        encoding,
        lines: 0..Parts::new(storage, encoding).lines(),
        decayed: false,
    };
    let mut stored = vec![Line::default(); tensor.lines.len()];
    quantize::write(&tensor, &mut stored, &floats(matrices * outputs * depth));
    let (mut x, bias) = (floats(padded(depth)), lines(outputs));
    x[depth..].fill(0.0);
    let mut integers = QuantizedRows::default();
    // The same numbers whichever kernels quantize.
    integers.quantize(Kernels::best(), &x, depth);
    let copies = if matrices == 1 { String::new() } else { format!("{matrices}x") };
    let panels = outputs.div_ceil(PANEL_ROWS);
    Operation {
        name: match encoding {
            Encoding::F32 => "gemm",
            Encoding::F16 => "gemm_f16",
            Encoding::Q8 => "gemm_q8",
            Encoding::Q4 => "gemm_q4",
        },
        shape: format!("{copies}1x{depth}x{outputs}"),
        work: Work::Bytes(size_of_val(&stored[..])),
        buffers: vec![zeros(matrices * padded(outputs))],
        call: Box::new(move |kernels, out| {
            let all = Panels::new(storage, encoding, &stored);
            let outs = as_floats_mut(&mut out[0]).chunks_exact_mut(padded(outputs));
            for (matrix, out) in outs.enumerate() {
                let x = match encoding {
                    Encoding::F32 | Encoding::F16 => Activations::Floats(&x),
                    Encoding::Q8 | Encoding::Q4 => Activations::Integers(integers.last()),
                };
                let weights = all.slice(matrix * panels..(matrix + 1) * panels);
                weights.multiply(kernels, out, x, Epilogue::Bias(&bias));
            }
        }),
    }
}

/// A function of one variable, at arguments in [-2, 2).
pub fn function(name: &'static str, function: fn(&Kernels, &mut [f32], &[f32])) -> Operation {
    let x: Vec<f32> = floats(ELEMENTS).iter().map(|x| x * 10.0).collect();
    Operation {
        name,
        shape: ELEMENTS.to_string(),
        work: Work::Elements(ELEMENTS),
        buffers: vec![zeros(ELEMENTS)],
        call: Box::new(move |kernels, out| function(kernels, as_floats_mut(&mut out[0]), &x)),
    }
}

/// One step over `lines` lines of weights: reads weights, gradient and two moments, and writes all but the gradient
/// back.
pub fn adamw(lines: usize) -> Operation {
    let parameters = lines * PANEL_ROWS;
    let gradient = self::lines(parameters);
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
    Operation {
        name: "adamw",
        shape: parameters.to_string(),
        work: Work::Bytes(4 * lines * size_of::<Line>()),
        buffers: vec![self::lines(parameters), zeros(parameters), zeros(parameters)],
        call: Box::new(move |kernels, buffers| {
            let [weights, first_moment, second_moment] = buffers else { unreachable!("three buffers") };
            kernels.adamw(weights, first_moment, second_moment, &gradient, &step);
        }),
    }
}

/// Numbers in [-0.2, 0.2), different in every place: a linear congruential generator (Numerical Recipes).
pub fn floats(length: usize) -> Vec<f32> {
    let mut state = 1_u32;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        ((state >> 8) as f32 / (1 << 24) as f32 - 0.5) * 0.4
    };
    (0..length).map(|_| next()).collect()
}

/// At least `length` such numbers, in whole lines.
pub fn lines(length: usize) -> Vec<Line> {
    floats(padded(length)).as_chunks().0.iter().map(|&lanes| Line(lanes)).collect()
}

/// Such numbers as panels of a matrix; padding rows are not zero, which no operation minds.
pub fn weights(rows: usize, columns: usize) -> Vec<Line> {
    lines(panel_lines(rows, columns) * PANEL_ROWS)
}

/// Zeros for at least `length` floats.
pub fn zeros(length: usize) -> Vec<Line> {
    vec![Line::default(); length.div_ceil(PANEL_ROWS)]
}

fn weights_of_zero(rows: usize, columns: usize) -> Vec<Line> {
    vec![Line::default(); panel_lines(rows, columns)]
}

/// Numbers in [0.3, 0.7), as of a sigmoid.
fn gates(length: usize) -> Vec<Line> {
    lines(length).iter().map(|line| Line(line.0.map(|z| z + 0.5))).collect()
}
