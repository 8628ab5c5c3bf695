//! Weighted sums and dot products of rows, and RMS normalisation.

use crate::buffers::{Floats, Lines};
use crate::compare::{Expected, assert_close, assert_same, reduction_bound};
use crate::failure::case;
use crate::random::Random;
use shoestring_kernels::{Kernels, padded};

checks! {
    scaled_rows_are_added: add_scaled_rows;
    rows_are_multiplied_and_summed: dot_rows;
    rows_are_normalised: rms_norm;
    padding_is_not_part_of_the_mean: rms_norm;
    gradients_of_the_norm_are_the_slopes_of_its_output: rms_norm_backward;
}

const EPS: f32 = 1e-5;

fn scaled_rows_are_added(kernels: &Kernels) {
    let mut random = Random(31);
    for rows in [0, 1, 3, 8] {
        for width in [0, 16, 48, 112] {
            let (y, x, scale) =
                (random.floats(rows * width), random.floats(rows * width), random.floats(rows));
            let element = |i: usize| {
                let (y, product) = (f64::from(y[i]), f64::from(scale[i / width]) * f64::from(x[i]));
                Expected { value: y + product, bound: reduction_bound(1, y.abs() + product.abs()) }
            };
            let expected: Vec<_> = (0..rows * width).map(element).collect();
            case(format_args!("add_scaled_rows {rows}x{width}"));
            let mut sum = Floats::new(&y, 1);
            kernels.add_scaled_rows(&mut sum, &Floats::new(&x, 2), &Floats::new(&scale, 3));
            assert_close("y", &sum, &expected);
        }
    }
}

fn rows_are_multiplied_and_summed(kernels: &Kernels) {
    let mut random = Random(32);
    for rows in [0, 1, 3, 8] {
        for width in [0, 16, 48, 112] {
            let (x, y) = (random.floats(rows * width), random.floats(rows * width));
            let element = |m: usize| {
                let term = |n: usize| f64::from(x[m * width + n]) * f64::from(y[m * width + n]);
                let magnitude = (0..width).map(|n| term(n).abs()).sum();
                Expected { value: (0..width).map(term).sum(), bound: reduction_bound(width, magnitude) }
            };
            let expected: Vec<_> = (0..rows).map(element).collect();
            case(format_args!("dot_rows {rows}x{width}"));
            let mut out = Floats::unwritten(rows, 1);
            kernels.dot_rows(&mut out, &Floats::new(&x, 2), &Floats::new(&y, 3));
            assert_close("out", &out, &expected);
        }
    }
}

/// y / sqrt(mean(y²) + eps), and the inverse root.
fn normal(y: &[f64]) -> (Vec<f64>, f64) {
    let mean_square = y.iter().map(|y| y * y).sum::<f64>() / y.len() as f64;
    let inverse_rms = 1.0 / (mean_square + f64::from(EPS)).sqrt();
    (y.iter().map(|y| y * inverse_rms).collect(), inverse_rms)
}

fn wide(values: &[f32]) -> Vec<f64> {
    values.iter().map(|&value| f64::from(value)).collect()
}

/// Widths around one and several lines; rows of several scales, the last all zero.
fn norm_cases() -> Vec<(usize, Vec<f32>, Vec<f32>)> {
    let mut random = Random(33);
    let mut cases = Vec::new();
    for width in [1, 2, 15, 16, 17, 33, 96, 100] {
        let mut y = random.rows(5, width);
        for (row, scale) in y.chunks_exact_mut(padded(width)).zip([1.0, 1e-4, 1e3, 1.0, 0.0]) {
            row.iter_mut().for_each(|y| *y *= scale);
        }
        cases.push((width, y, random.floats(width)));
    }
    cases
}

fn rows_are_normalised(kernels: &Kernels) {
    for (width, y, gain) in norm_cases() {
        let stride = padded(width);
        let (mut expected, mut expected_inverse) = (Vec::new(), Vec::new());
        for row in y.chunks_exact(stride) {
            let (normal, inverse) = normal(&wide(&row[..width]));
            let close = |value: f64| Expected { value, bound: reduction_bound(width + 3, value.abs()) };
            expected_inverse.push(close(inverse));
            expected.extend(normal.iter().zip(&gain).map(|(n, &gain)| close(n * f64::from(gain))));
            expected.extend(vec![Expected::exactly(0.0); stride - width]);
        }
        case(format_args!("rms_norm 5x{width}"));
        let (mut out, mut inverse) = (Floats::unwritten(y.len(), 1), Floats::unwritten(5, 2));
        kernels.rms_norm(&mut out, &mut inverse, &Floats::new(&y, 3), &Lines::row(&gain), width, EPS);
        assert_close("out", &out, &expected);
        assert_close("inverse_rms", &inverse, &expected_inverse);
    }
}

fn padding_is_not_part_of_the_mean(kernels: &Kernels) {
    let mut y = [1.0; 16];
    y[3..].fill(100.0);
    case("rms_norm 1x3");
    let (mut out, mut inverse) = (Floats::unwritten(16, 0), Floats::unwritten(1, 0));
    kernels.rms_norm(&mut out, &mut inverse, &y, &Lines::row(&[1.0; 3]), 3, 0.0);
    assert_same("inverse_rms", &inverse, &[1.0]);
}

fn gradients_of_the_norm_are_the_slopes_of_its_output(kernels: &Kernels) {
    let mut random = Random(34);
    for width in [1, 5, 16, 37] {
        let stride = padded(width);
        let (y, gain, dout) = (random.rows(3, width), random.floats(width), random.rows(3, width));
        let value = |row: usize, y: &[f64]| -> f64 {
            let term =
                |n: usize, normal: f64| normal * f64::from(gain[n]) * f64::from(dout[row * stride + n]);
            normal(y).0.iter().enumerate().map(|(n, &normal)| term(n, normal)).sum()
        };
        let slope = |index: usize| {
            let (row, n) = (index / stride, index % stride);
            if n >= width {
                return Expected::exactly(0.0);
            }
            let at = |offset: f64| {
                let mut moved = wide(&y[row * stride..][..width]);
                moved[n] += offset;
                value(row, &moved)
            };
            let slope = (at(1e-5) - at(-1e-5)) / 2e-5;
            Expected { value: slope, bound: 1e-5 * (1.0 + slope.abs()) }
        };
        let gain_slope = |n: usize| {
            let term = |row: usize| {
                let normal = normal(&wide(&y[row * stride..][..width])).0[n];
                normal * f64::from(dout[row * stride + n])
            };
            Expected { value: 1.0 + (0..3).map(term).sum::<f64>(), bound: 1e-5 }
        };
        let expected: Vec<_> = (0..y.len()).map(slope).collect();
        let padding = std::iter::repeat_n(Expected::exactly(0.0), stride - width);
        let expected_gain: Vec<_> = (0..width).map(gain_slope).chain(padding).collect();
        case(format_args!("rms_norm 3x{width}"));
        let (mut out, mut inverse) = (Floats::unwritten(y.len(), 0), Floats::unwritten(3, 0));
        kernels.rms_norm(&mut out, &mut inverse, &y, &Lines::row(&gain), width, EPS);
        case(format_args!("rms_norm_backward 3x{width}"));
        let (mut gradient, mut dgain) = (Floats::new(&dout, 1), Lines::row(&vec![1.0; width]));
        let (y, gain) = (Floats::new(&y, 2), Lines::row(&gain));
        kernels.rms_norm_backward(&mut gradient, &mut dgain, &y, &inverse, &gain, width);
        assert_close("dout", &gradient, &expected);
        assert_close("dgain", dgain.floats(), &expected_gain);
    }
}
