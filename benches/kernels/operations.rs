//! The operations that `shoestring bench` leaves out.

use shoestring::bench::shapes::{floats, function, lines, weights, zeros};
use shoestring::bench::{Buffers, Operation, Work};
use shoestring_kernels::{Epilogue, Kernels, Line, PANEL_ROWS, as_floats, as_floats_mut, padded};

const WIDTH: usize = 96; // D and H
const GATES: usize = 6 * WIDTH; // one input of six experts
const ROWS: usize = 640; // 80 steps of 8 rows
const VOCABULARY: usize = 850;
const HEAD_ROWS: usize = 64; // a tile of the loss
const ELEMENTS: usize = 4096;
const PARAMETERS: usize = 499_488;

pub fn all() -> Vec<Operation> {
    [products(), gradients(), rows(), loss(), others()].into_iter().flatten().collect()
}

fn operation(
    (name, shape): (&'static str, &str),
    work: Work,
    buffers: Vec<Vec<Line>>,
    call: impl Fn(&Kernels, &mut Buffers) + 'static,
) -> Operation {
    Operation { name, shape: shape.to_owned(), work, buffers, call: Box::new(call) }
}

fn products() -> Vec<Operation> {
    let product = |shape, rows: usize, outputs, epilogue: fn(&[Line]) -> Epilogue<'_>| {
        let (a, weights, bias) = (floats(rows * WIDTH), weights(outputs, WIDTH), lines(outputs));
        let work = Work::MultiplyAdds(rows * WIDTH * outputs);
        operation(("gemm", shape), work, vec![zeros(rows * padded(outputs))], move |k, out| {
            k.gemm(as_floats_mut(&mut out[0]), &a, &weights, WIDTH, epilogue(&bias));
        })
    };
    vec![
        product("640x96x576+bias", ROWS, GATES, |bias| Epilogue::Bias(bias)),
        product("640x96x576+sigmoid", ROWS, GATES, |bias| Epilogue::BiasSigmoid(bias)),
        product("64x96x850+bias", HEAD_ROWS, VOCABULARY, |bias| Epilogue::Bias(bias)),
    ]
}

fn gradients() -> Vec<Operation> {
    let (x, dy) = (floats(ROWS * WIDTH), floats(ROWS * GATES));
    let matrix = weights(WIDTH, WIDTH);
    let square = || vec![zeros(WIDTH * WIDTH)];
    let work = Work::MultiplyAdds(ROWS * WIDTH * WIDTH);
    let columns = dy.clone();
    vec![
        operation(("weight_gradient", "640x96x96-of-576"), work, square(), move |k, out| {
            k.weight_gradient(&mut out[0], 2 * WIDTH / PANEL_ROWS, &columns, GATES, &x, WIDTH);
        }),
        operation(
            ("bias_gradient", "640x576"),
            Work::Elements(ROWS * GATES),
            vec![zeros(GATES)],
            move |k, out| k.bias_gradient(&mut out[0], &dy),
        ),
        operation(("transpose_panels", "96x96"), Work::Elements(WIDTH * WIDTH), square(), move |k, out| {
            k.transpose_panels(&mut out[0], &matrix, WIDTH, WIDTH)
        }),
    ]
}

fn rows() -> Vec<Operation> {
    let elements = ROWS * WIDTH;
    let (scale, inverse_rms, work) = (floats(ROWS), vec![3.0; ROWS], Work::Elements(elements));
    let rows = || floats(elements);
    let (scaled, x, y, normed, normal) = (rows(), rows(), rows(), rows(), rows());
    let (gain, gain_backward) = (lines(WIDTH), lines(WIDTH));
    let (z, a) = (floats(GATES), floats(GATES));
    vec![
        operation(("add_scaled_rows", "640x96"), work, vec![zeros(elements)], move |k, out| {
            k.add_scaled_rows(as_floats_mut(&mut out[0]), &scaled, &scale);
        }),
        operation(("dot_rows", "640x96"), work, vec![zeros(ROWS)], move |k, out| {
            k.dot_rows(as_floats_mut(&mut out[0]), &x, &y);
        }),
        operation(("rms_norm", "640x96"), work, vec![zeros(elements), zeros(ROWS)], move |k, buffers| {
            let [out, inverse_rms] = buffers else { unreachable!("two buffers") };
            k.rms_norm(as_floats_mut(out), as_floats_mut(inverse_rms), &normed, &gain, WIDTH, 1e-5);
        }),
        operation(
            ("rms_norm_backward", "640x96"),
            work,
            vec![lines(elements), zeros(WIDTH)],
            move |k, buffers| {
                let [dout, dgain] = buffers else { unreachable!("two buffers") };
                k.rms_norm_backward(as_floats_mut(dout), dgain, &normal, &inverse_rms, &gain_backward, WIDTH);
            },
        ),
        operation(("cell_step", "576"), Work::Elements(GATES), vec![lines(GATES)], move |k, h| {
            k.cell_step(as_floats_mut(&mut h[0]), &z, &a);
        }),
    ]
}

fn loss() -> Vec<Operation> {
    let logits = lines(HEAD_ROWS * padded(VOCABULARY));
    let targets: Vec<u32> = (0..HEAD_ROWS as u32).map(|m| m * 13).collect();
    let work = Work::Elements(HEAD_ROWS * VOCABULARY);
    vec![
        operation(("cross_entropy", "64x850"), work, vec![logits, zeros(1)], move |k, buffers| {
            let [logits, nats] = buffers else { unreachable!("two buffers") };
            nats[0].0[0] = k.cross_entropy(as_floats_mut(logits), &targets, VOCABULARY, 0.01) as f32;
        }),
        operation(("softmax", "850"), Work::Elements(VOCABULARY), vec![lines(VOCABULARY)], |k, values| {
            k.softmax(&mut as_floats_mut(&mut values[0])[..VOCABULARY]);
        }),
    ]
}

fn others() -> Vec<Operation> {
    let gradient = lines(PARAMETERS);
    let work = Work::Bytes(gradient.len() * size_of::<Line>());
    vec![
        function("gelu_derivative", Kernels::gelu_derivative),
        operation(("sum_of_squares", "499488"), work, vec![zeros(1)], move |k, out| {
            out[0][0].0[0] = k.sum_of_squares(as_floats(&gradient)) as f32;
        }),
        operation(("dropout", "4096"), Work::Elements(ELEMENTS), vec![lines(ELEMENTS)], |k, values| {
            k.dropout(as_floats_mut(&mut values[0]), 1, 2, 0.9);
        }),
    ]
}
