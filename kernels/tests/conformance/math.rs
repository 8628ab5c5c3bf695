//! Functions of one variable: samples of all floats here; `tests/exhaustive.rs` tries every float.

use crate::LENGTHS;
use crate::buffers::{Floats, Random};
use crate::compare::assert_same;
use shoestring_kernels::Kernels;

#[path = "../accuracy/mod.rs"]
mod accuracy;

/// A prime: the samples share no pattern with the bits of a float. About 107,000 of them.
const STRIDE: usize = 40_009;

#[test]
fn functions_are_accurate_on_samples_of_all_floats() {
    let mut x: Vec<f32> = (0..=u32::MAX).step_by(STRIDE).map(f32::from_bits).collect();
    x.extend((-2000..2000).map(|i| i as f32 / 100.0));
    x.extend([0.0, -0.0, f32::MIN_POSITIVE, f32::MAX, f32::MIN, f32::INFINITY, f32::NEG_INFINITY, f32::NAN]);
    for function in accuracy::FUNCTIONS {
        let exact: Vec<f64> = x.iter().map(|&x| (function.exact)(f64::from(x))).collect();
        for kernels in Kernels::available() {
            let mut got = vec![0.0; x.len()];
            (function.run)(kernels, &mut got, &x);
            for ((&x, &got), &exact) in x.iter().zip(&got).zip(&exact) {
                function.check(kernels.name(), x, got, exact);
            }
        }
    }
}

#[test]
fn functions_take_any_length_and_touch_nothing_else() {
    let mut random = Random(41);
    for length in LENGTHS {
        let x = random.floats(length);
        for function in accuracy::FUNCTIONS {
            for kernels in Kernels::available() {
                let mut out = Floats::unwritten(length, 1);
                (function.run)(kernels, &mut out, &Floats::new(&x, 2));
                for (&x, &got) in x.iter().zip(out.iter()) {
                    function.check(kernels.name(), x, got, (function.exact)(f64::from(x)));
                }
            }
        }
    }
}

#[test]
fn limits_are_exact() {
    let (inf, nan) = (f32::INFINITY, f32::NAN);
    for kernels in Kernels::available() {
        let call = |function: fn(&Kernels, &mut [f32], &[f32]), x: [f32; 5]| {
            let mut out = [0.5; 5];
            function(kernels, &mut out, &x);
            out
        };
        let x = [0.0, inf, -inf, nan, -1e30];
        assert_same("exp", &call(Kernels::exp, x), &[1.0, inf, 0.0, nan, 0.0]);
        assert_same("sigmoid", &call(Kernels::sigmoid, x), &[0.5, 1.0, 0.0, nan, 0.0]);
        let gelu = call(Kernels::gelu, x);
        assert_same("gelu", &gelu.map(|y| y + 0.0), &[0.0, inf, 0.0, nan, 0.0]); // either zero
        assert_same("gelu'", &call(Kernels::gelu_derivative, x).map(|y| y + 0.0), &[0.5, 1.0, 0.0, nan, 0.0]);
        let large = [f32::MAX, 1e30, 100.0, 14.0, 20.0];
        assert_same("gelu", &call(Kernels::gelu, large), &large);
    }
}
