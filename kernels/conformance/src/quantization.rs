//! From floats to codes and back: rows of activations, rows of weights, and half precision.

use crate::LENGTHS;
use crate::buffers::{Buffer, Floats};
use crate::compare::assert_same;
use crate::failure::case;
use crate::products::widened;
use crate::random::{Random, for_any};
use half::f16;
use shoestring_kernels::quantized::{GROUP, groups};
use shoestring_kernels::{Kernels, padded};

checks! {
    rows_are_quantized_as_documented: quantize_rows;
    any_rows_are_quantized_as_documented: quantize_rows;
    a_code_is_the_nearest_and_the_even_one_of_two: quantize_rows;
    rows_that_are_zero_tiny_or_not_finite_have_zero_codes: quantize_rows;
    codes_of_8_bits_become_their_products_with_the_scale: dequantize_q8;
    codes_of_4_bits_become_their_products_with_the_scale: dequantize_q4;
    half_precision_is_widened_exactly: widen_f16;
}

/// Inputs, around lines and groups.
const DEPTHS: [usize; 13] = [1, 2, 15, 16, 17, 31, 32, 33, 63, 64, 65, 96, 100];

/// What `quantize_rows` makes of rows.
#[derive(Debug, PartialEq)]
struct Rows {
    codes: Vec<i8>,   // [M, Kp]
    scales: Vec<f32>, // [M]
    sums: Vec<i32>,   // [M, ceil(K / 32)]
}

impl Rows {
    /// From the kernel.
    fn quantized(kernels: &Kernels, x: &[f32], depth: usize, misalignment: usize) -> Self {
        let rows = x.len() / padded(depth);
        case(format_args!("quantize_rows {rows}x{depth}"));
        let mut codes = Buffer::<i8>::unwritten(x.len(), misalignment);
        let mut scales = Floats::unwritten(rows, misalignment % 16);
        let mut sums = Buffer::<i32>::unwritten(rows * groups(depth), misalignment % 16);
        let x = Floats::new(x, misalignment % 16);
        kernels.quantize_rows(&mut codes, &mut scales, &mut sums, &x, depth);
        Self { codes: codes.into_vec(), scales: scales.into_vec(), sums: sums.into_vec() }
    }

    /// By the documented formula.
    fn expected(x: &[f32], depth: usize) -> Self {
        let mut all = Self { codes: Vec::new(), scales: Vec::new(), sums: Vec::new() };
        for x in x.chunks_exact(padded(depth)) {
            let largest = x.iter().fold(0.0, |largest: f32, x| largest.max(x.abs()));
            let is_finite = x.iter().all(|x| x.is_finite());
            let is_zero = !is_finite || largest < 1e-30;
            let inverse = 127.0 / largest;
            let code = |x: &f32| if is_zero { 0 } else { (x * inverse).round_ties_even() as i8 };
            let codes: Vec<i8> = x.iter().map(code).collect();
            all.scales.push(match (is_finite, is_zero) {
                (false, _) => f32::NAN,
                (_, true) => 0.0,
                _ => largest / 127.0,
            });
            let group_sum = |group: &[i8]| group.iter().map(|&code| i32::from(code)).sum::<i32>();
            all.sums.extend(codes[..depth].chunks(GROUP).map(group_sum));
            all.codes.extend(codes);
        }
        all
    }

    fn assert_same(&self, expected: &Self) {
        assert_same("scales", &self.scales, &expected.scales);
        assert_eq!(self.codes, expected.codes, "codes");
        assert_eq!(self.sums, expected.sums, "sums");
    }
}

fn rows_are_quantized_as_documented(kernels: &Kernels) {
    let mut random = Random(111);
    for depth in DEPTHS {
        for rows in [0, 1, 2, 5] {
            let mut x = random.rows(rows, depth);
            for (row, scale) in x.chunks_exact_mut(padded(depth)).zip([1.0, 3e38, 1e-29, 1e-4, 0.0]) {
                row.iter_mut().for_each(|x| *x *= scale);
            }
            let got = Rows::quantized(kernels, &x, depth, depth % 64);
            got.assert_same(&Rows::expected(&x, depth));
            // Independent of how the codes were computed: none is further off than half a step.
            for (m, x) in x.chunks_exact(padded(depth)).enumerate() {
                let scale = f64::from(got.scales[m]);
                for (x, code) in x.iter().zip(&got.codes[m * padded(depth)..]) {
                    let error = (f64::from(*x) - f64::from(*code) * scale).abs();
                    // 127 steps times the roundings of the scale, its inverse and their product.
                    let bound = scale * (0.5 + 127.0 * 3.0 / f64::from(1 << 24));
                    assert!(error <= bound.max(1e-30), "row {m}: {x:e} is {code} times {scale:e}");
                }
            }
        }
    }
}

fn any_rows_are_quantized_as_documented(kernels: &Kernels) {
    let shapes = (0_usize..6, 1_usize..200, 0_usize..64, -32_i32..127, 0_u64..);
    for_any(shapes, |(rows, depth, misalignment, exponent, seed)| {
        let mut x = Random(seed).rows(rows, depth);
        x.iter_mut().for_each(|x| *x *= (exponent as f32).exp2());
        let got = Rows::quantized(kernels, &x, depth, misalignment);
        got.assert_same(&Rows::expected(&x, depth));
    });
}

fn a_code_is_the_nearest_and_the_even_one_of_two(kernels: &Kernels) {
    // The largest being 127, the scale is 1 and codes are the numbers, rounded.
    let x = [
        127.0,
        0.5,
        1.5,
        2.5,
        -0.5,
        -1.5,
        -2.5,
        0.499_999_97,
        0.500_000_06,
        125.5,
        126.5,
        -126.5,
        -127.0,
        -0.0,
        1e-45,
        63.5,
    ];
    let codes = [127, 0, 2, 2, 0, -2, -2, 0, 1, 126, 126, -126, -127, 0, 0, 64];
    let got = Rows::quantized(kernels, &x, 16, 1);
    assert_eq!(got.codes, codes, "codes of {x:?}");
    assert_same("scales", &got.scales, &[1.0]);
    assert_eq!(got.sums, [codes.iter().map(|&code| i32::from(code)).sum::<i32>()], "sums");

    // The largest becomes ±127 wherever it is and whatever its fraction.
    let mut random = Random(112);
    for place in 0..40 {
        for sign in [1.0, -1.0] {
            let mut x = random.rows(1, 40);
            x.iter_mut().for_each(|x| *x *= 0.9);
            x[place] = sign * (1.0 + random.float().abs());
            let got = Rows::quantized(kernels, &x, 40, place);
            assert_eq!(f32::from(got.codes[place]), sign * 127.0, "the code of the largest, {}", x[place]);
            assert!(got.codes.iter().all(|code| *code >= -127), "{:?}", got.codes);
        }
    }
}

fn rows_that_are_zero_tiny_or_not_finite_have_zero_codes(kernels: &Kernels) {
    let depth = 37;
    let one_row = |x: &[f32], scale: f32| {
        let got = Rows::quantized(kernels, x, depth, 5);
        let expected = Rows { codes: vec![0; padded(depth)], scales: vec![scale], sums: vec![0; 2] };
        got.assert_same(&expected);
    };
    one_row(&[0.0; 48], 0.0);
    one_row(&[-0.0; 48], 0.0);
    let below = f32::from_bits(1e-30_f32.to_bits() - 1);
    for (place, tiny) in [(0, below), (36, -below), (17, 1e-45), (5, -1e-45)] {
        let mut x = [0.0; 48];
        x[place] = tiny;
        one_row(&x, 0.0);
    }
    for place in 0..depth {
        for poison in [f32::NAN, -f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            for filling in [1.0, 0.0, f32::MAX] {
                let mut x = [filling; 48];
                x[depth..].fill(0.0);
                x[place] = poison;
                one_row(&x, f32::NAN);
            }
        }
    }
    // Their neighbours don't notice, and the least magnitude that counts does.
    let mut x = Random(113).rows(3, depth);
    x[48 + 20] = f32::NAN;
    x[2 * 48..].fill(0.0);
    x[2 * 48 + 36] = 1e-30;
    let got = Rows::quantized(kernels, &x, depth, 0);
    got.assert_same(&Rows::expected(&x, depth));
    assert_eq!((got.codes[2 * 48 + 36], got.codes[0] == 0), (127, false));
}

fn codes_of_8_bits_become_their_products_with_the_scale(kernels: &Kernels) {
    let every_code: Vec<i8> = (i8::MIN..=i8::MAX).collect();
    for length in LENGTHS.into_iter().chain([256]) {
        for scale in [1.0, 0.007_874_016, -3e-7, 0.0, 1e-44, 1e38, f32::INFINITY, f32::NAN] {
            case(format_args!("dequantize_q8 {length}, scale {scale:e}"));
            let codes = &every_code[256 - length..];
            let expected: Vec<f32> = codes.iter().map(|&code| f32::from(code) * scale).collect();
            let mut out = Floats::unwritten(length, 1);
            kernels.dequantize_q8(&mut out, &Buffer::new(codes, length % 64), scale);
            assert_same("out", &out, &expected);
        }
    }
}

fn codes_of_4_bits_become_their_products_with_the_scale(kernels: &Kernels) {
    let mut random = Random(114);
    for length in LENGTHS.into_iter().chain([64, 256, 1000]) {
        case(format_args!("dequantize_q4 {length}"));
        let codes: Vec<i8> = (0..groups(length) * GROUP / 2).map(|_| random.bits() as i8).collect();
        let scales: Vec<f16> = (0..groups(length)).map(|_| f16::from_bits(random.bits() as u16)).collect();
        let element = |i: usize| {
            let (group, place) = (i / GROUP, i % GROUP);
            let byte = codes[group * GROUP / 2 + place % 16] as u8;
            let code = if place < 16 { byte % 16 } else { byte / 16 };
            (f32::from(code) - 8.0) * widened(scales[group])
        };
        let expected: Vec<f32> = (0..length).map(element).collect();
        let mut out = Floats::unwritten(length, 1);
        kernels.dequantize_q4(&mut out, &Buffer::new(&codes, 3), &Buffer::new(&scales, 1));
        assert_same("out", &out, &expected);
    }
}

fn half_precision_is_widened_exactly(kernels: &Kernels) {
    let every_half: Vec<f16> = (0..=u16::MAX).map(f16::from_bits).collect();
    let expected: Vec<f32> = every_half.iter().map(|&half| widened(half)).collect();
    let assert_widened = |first: usize, length: usize| {
        case(format_args!("widen_f16 {length}, from {first:#06x}"));
        let mut out = Floats::unwritten(length, 1);
        kernels.widen_f16(&mut out, &Buffer::new(&every_half[first..][..length], length % 32));
        assert_same("out", &out, &expected[first..][..length]);
    };
    assert_widened(0, every_half.len());
    for length in LENGTHS {
        // Denormals and small numbers; -1, or nearly; infinity and NaN.
        for first in [0x03d0, 0xbbf0, 0x7bf0] {
            assert_widened(first, length);
        }
    }
}
