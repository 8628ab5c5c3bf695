//! The operations on floats that are documented to give the same bits on every set of kernels: those of the
//! reference.

use crate::LENGTHS;
use crate::buffers::{Floats, Lines};
use crate::compare::assert_same;
use crate::failure::case;
use crate::random::{Random, for_any};
use shoestring_kernels::{Kernels, padded};

checks! {
    softmax_is_the_same_bits_everywhere: softmax;
    cell_step_is_the_same_bits_everywhere: cell_step;
    add_scaled_rows_is_the_same_bits_everywhere: add_scaled_rows;
    rms_norm_is_the_same_bits_everywhere: rms_norm;
}

/// Asserts that `run` makes the same of `kernels` as of the reference.
fn assert_reference(kernels: &Kernels, run: impl Fn(&Kernels) -> Vec<f32>) {
    let reference = Kernels::select("scalar").unwrap();
    assert_same("all", &run(kernels), &run(reference));
}

fn softmax_is_the_same_bits_everywhere(kernels: &Kernels) {
    for_any((0_usize..200, 0_i32..9, 0_usize..16, 0_u64..), |(length, exponent, misalignment, seed)| {
        let scale = (exponent as f32).exp2();
        let x: Vec<f32> = Random(seed).floats(length).iter().map(|x| x * scale).collect();
        assert_reference(kernels, |kernels| {
            case(format_args!("softmax {length}, logits up to {scale}"));
            let mut values = Floats::new(&x, misalignment);
            kernels.softmax(&mut values);
            values.into_vec()
        });
    });
}

fn cell_step_is_the_same_bits_everywhere(kernels: &Kernels) {
    let mut random = Random(121);
    for length in LENGTHS.into_iter().chain([1000]) {
        let h = random.floats(length);
        let a: Vec<f32> = random.floats(length).iter().map(|a| 15.0 * a).collect();
        let z: Vec<f32> = random.floats(length).iter().map(|z| z.abs()).collect();
        assert_reference(kernels, |kernels| {
            case(format_args!("cell_step {length}"));
            let mut h = Floats::new(&h, 1);
            kernels.cell_step(&mut h, &Floats::new(&z, 2), &Floats::new(&a, 3));
            h.into_vec()
        });
    }
}

fn add_scaled_rows_is_the_same_bits_everywhere(kernels: &Kernels) {
    let mut random = Random(122);
    for rows in [0, 1, 3, 8] {
        for width in [0, 16, 48, 112] {
            let [y, x] = [(); 2].map(|()| random.floats(rows * width));
            let scale = random.floats(rows);
            let twice_rounded = (0..y.len()).map(|i| y[i] + scale[i / width] * x[i]).collect::<Vec<f32>>();
            case(format_args!("add_scaled_rows {rows}x{width}"));
            let mut sum = Floats::new(&y, 1);
            kernels.add_scaled_rows(&mut sum, &Floats::new(&x, 2), &Floats::new(&scale, 3));
            assert_same("y", &sum, &twice_rounded);
        }
    }
}

fn rms_norm_is_the_same_bits_everywhere(kernels: &Kernels) {
    for_any((0_usize..6, 1_usize..150, 0_usize..16, 0_u64..), |(rows, width, misalignment, seed)| {
        let mut random = Random(seed);
        let (y, gain) = (random.rows(rows, width), random.floats(width));
        assert_reference(kernels, |kernels| {
            case(format_args!("rms_norm {rows}x{width}"));
            let mut out = Floats::unwritten(rows * padded(width), misalignment);
            let (mut inverse, y) = (Floats::unwritten(rows, 2), Floats::new(&y, 3));
            kernels.rms_norm(&mut out, &mut inverse, &y, &Lines::row(&gain), width, 1e-5);
            [out.into_vec(), inverse.into_vec()].concat()
        });
    });
}
