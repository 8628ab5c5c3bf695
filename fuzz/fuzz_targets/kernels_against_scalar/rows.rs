//! Weighted sums and dot products of rows, and RMS normalisation.

use crate::{Case, compare_all, compare_sums, scalar, sums};
use shoestring_kernels::{Kernels, padded};
use shoestring_kernels_conformance::buffers::{Floats, Lines};
use shoestring_kernels_conformance::compare::{Expected, reduction_bound};

const EPS: f32 = 1e-5;

pub fn add_scaled_rows(mut case: Case) {
    let Case { rows, misalignment, .. } = case;
    let width = padded(case.inputs);
    let [y, x] = [(); 2].map(|()| case.floats(rows * width)); // [M, Np]
    let scale = case.floats(rows); // [M]
    compare_sums(&format!("add_scaled_rows {rows}x{width}"), 1, [y, x, scale], |kernels, [y, x, scale]| {
        let mut y = Floats::new(y, misalignment);
        kernels.add_scaled_rows(&mut y, &Floats::new(x, 15 - misalignment), &Floats::new(scale, 3));
        y.to_vec()
    });
}

pub fn dot_rows(mut case: Case) {
    let Case { rows, misalignment, .. } = case;
    let width = padded(case.inputs);
    let [x, y] = [(); 2].map(|()| case.floats(rows * width)); // [M, Np]
    compare_sums(&format!("dot_rows {rows}x{width}"), width, [x, y], |kernels, [x, y]| {
        let mut out = Floats::unwritten(rows, 3);
        kernels.dot_rows(&mut out, &Floats::new(x, misalignment), &Floats::new(y, 15 - misalignment));
        out.to_vec()
    });
}

pub fn rms_norm(mut case: Case) {
    let Case { rows, inputs: width, misalignment, .. } = case;
    let (y, gain) = (case.padded_rows(rows, width), case.random.floats(width));
    let run = |kernels: &Kernels| {
        let (mut out, mut inverse) = (Floats::unwritten(y.len(), misalignment), Floats::unwritten(rows, 2));
        let y = Floats::new(&y, 15 - misalignment);
        kernels.rms_norm(&mut out, &mut inverse, &y, &Lines::row(&gain), width, EPS);
        [&out[..], &inverse[..]].concat()
    };
    let relative = |value: f32| {
        let value = f64::from(value);
        Expected { value, bound: reduction_bound(width + 6, value.abs()) }
    };
    let expected: Vec<_> = run(scalar()).into_iter().map(relative).collect();
    compare_all(&format!("rms_norm {rows}x{width}"), &expected, run);
}

pub fn rms_norm_backward(mut case: Case) {
    let Case { rows, inputs: width, misalignment, .. } = case;
    let stride = padded(width);
    let y = case.padded_rows(rows, width); // [M, Np]
    let [gain, dgain] = [(); 2].map(|()| case.random.floats(width)); // [N]
    let dout = case.random.rows(rows, width); // [M, Np]
    let mut inverse = vec![0.0; rows]; // [M]
    scalar().rms_norm(&mut vec![0.0; y.len()], &mut inverse, &y, &Lines::row(&gain), width, EPS);
    // The gradient of y, or of the gain.
    let run = |kernels: &Kernels, [dout, dgain, y]: &[Vec<f32>; 3], of_gain: bool| {
        let (mut dout, mut dgain) = (Floats::new(dout, misalignment), Lines::row(dgain));
        let (y, inverse) = (Floats::new(y, 15 - misalignment), Floats::new(&inverse, 2));
        kernels.rms_norm_backward(&mut dout, &mut dgain, &y, &inverse, &Lines::row(&gain), width);
        if of_gain { dgain.floats().to_vec() } else { dout.to_vec() }
    };
    let operands = [dout, dgain, y];
    let what = format!("rms_norm_backward {rows}x{width}");
    let expected = sums(rows + 2, &operands, |kernels, operands| run(kernels, operands, true));
    compare_all(&format!("{what}, gain"), &expected, |kernels| run(kernels, &operands, true));

    let values = run(scalar(), &operands, false);
    let expected: Vec<_> = values
        .iter()
        .enumerate()
        .map(|(i, &value)| {
            // inverse (dout gain - normal mean(dout gain normal)), where |dout gain| is at most 1 and the
            // normal's mean square is: so that mean is at most 1, and the normal at most sqrt(width).
            let magnitude = f64::from(inverse[i / stride]) * (1.0 + (width as f64).sqrt());
            let bound = if i % stride < width { reduction_bound(width + 8, magnitude) } else { 0.0 };
            Expected { value: f64::from(value), bound }
        })
        .collect();
    compare_all(&what, &expected, |kernels| run(kernels, &operands, false));
}
