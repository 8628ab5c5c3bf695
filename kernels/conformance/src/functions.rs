//! Functions of one variable: samples of all floats here; the kernels' `tests/exhaustive.rs` tries every float.

use crate::LENGTHS;
use crate::accuracy::FUNCTIONS;
use crate::buffers::Floats;
use crate::compare::assert_same;
use crate::failure::case;
use crate::random::Random;
use shoestring_kernels::Kernels;

checks! {
    accurate_on_samples_of_all_floats: exp, sigmoid, gelu, gelu_derivative;
    any_length_and_nothing_else_is_touched: exp, sigmoid, gelu, gelu_derivative;
    limits_are_exact: exp, sigmoid, gelu, gelu_derivative;
}

/// A prime: the samples share no pattern with the bits of a float. About 107,000 of them.
const STRIDE: usize = 40_009;

fn accurate_on_samples_of_all_floats(kernels: &Kernels) {
    let mut x: Vec<f32> = (0..=u32::MAX).step_by(STRIDE).map(f32::from_bits).collect();
    x.extend((-2000..2000).map(|i| i as f32 / 100.0));
    x.extend([0.0, -0.0, f32::MIN_POSITIVE, f32::MAX, f32::MIN, f32::INFINITY, f32::NEG_INFINITY, f32::NAN]);
    for function in FUNCTIONS {
        case(format_args!("{} of samples of all floats", function.name));
        let mut got = Floats::unwritten(x.len(), 0);
        (function.run)(kernels, &mut got, &x);
        for (&x, &got) in x.iter().zip(got.iter()) {
            function.check(x, got, (function.exact)(f64::from(x))).unwrap_or_else(|error| panic!("{error}"));
        }
    }
}

fn any_length_and_nothing_else_is_touched(kernels: &Kernels) {
    let mut random = Random(41);
    for length in LENGTHS {
        let x = random.floats(length);
        for function in FUNCTIONS {
            case(format_args!("{} {length}", function.name));
            let mut out = Floats::unwritten(length, 1);
            (function.run)(kernels, &mut out, &Floats::new(&x, 2));
            for (&x, &got) in x.iter().zip(out.iter()) {
                function
                    .check(x, got, (function.exact)(f64::from(x)))
                    .unwrap_or_else(|error| panic!("{error}"));
            }
        }
    }
}

fn limits_are_exact(kernels: &Kernels) {
    type Function = fn(&Kernels, &mut [f32], &[f32]);
    let call = |name: &str, function: Function, x: [f32; 5]| {
        case(format_args!("{name} of {x:?}"));
        let mut out = Floats::unwritten(x.len(), 0);
        function(kernels, &mut out, &x);
        out.into_vec().into_iter().map(|y| y + 0.0).collect::<Vec<f32>>() // either zero
    };
    let (inf, nan) = (f32::INFINITY, f32::NAN);
    let x = [0.0, inf, -inf, nan, -1e30];
    assert_same("out", &call("exp", Kernels::exp, x), &[1.0, inf, 0.0, nan, 0.0]);
    assert_same("out", &call("sigmoid", Kernels::sigmoid, x), &[0.5, 1.0, 0.0, nan, 0.0]);
    assert_same("out", &call("gelu", Kernels::gelu, x), &[0.0, inf, 0.0, nan, 0.0]);
    let derivative = call("gelu_derivative", Kernels::gelu_derivative, x);
    assert_same("out", &derivative, &[0.5, 1.0, 0.0, nan, 0.0]);
    let large = [f32::MAX, 1e30, 100.0, 14.0, 20.0];
    assert_same("out", &call("gelu", Kernels::gelu, large), &large);
}
