//! AdamW, the sum of squares, and dropout.

use crate::LENGTHS;
use crate::buffers::{Floats, Lines, Random};
use crate::compare::{Expected, assert_close, assert_same, reduction_bound};
use shoestring_kernels::{AdamwStep, Kernels};

/// Constants of step t with the usual decays.
fn step(t: i32) -> AdamwStep {
    AdamwStep {
        learning_rate: 3e-3,
        beta1: 0.9,
        beta2: 0.999,
        eps: 1e-8,
        weight_decay: 0.05,
        gradient_scale: 0.5,
        correction1: 1.0 - 0.9_f32.powi(t),
        correction2: 1.0 - 0.999_f32.powi(t),
    }
}

#[test]
fn adamw_takes_the_documented_step() {
    let mut random = Random(61);
    for (lines, t) in [(0, 1), (1, 1), (2, 3), (7, 1000)] {
        let width = lines * 16;
        let (w, g, m) = (random.floats(width), random.floats(width), random.floats(width));
        let v: Vec<f32> = random.floats(width).iter().map(|v| v * v).collect();
        let step = step(t);
        let wide = f64::from;
        let (mut expected_w, mut expected_m, mut expected_v) = (vec![], vec![], vec![]);
        for i in 0..width {
            let g = wide(g[i]) * wide(step.gradient_scale);
            let first = wide(step.beta1) * wide(m[i]) + (1.0 - wide(step.beta1)) * g;
            let second = wide(step.beta2) * wide(v[i]) + (1.0 - wide(step.beta2)) * g * g;
            let decayed = wide(w[i]) * (1.0 - wide(step.learning_rate) * wide(step.weight_decay));
            let corrected = (second / wide(step.correction2)).sqrt() + wide(step.eps);
            let moved = wide(step.learning_rate) * (first / wide(step.correction1)) / corrected;
            let magnitude = wide(m[i]).abs() + g.abs();
            let first_bound = reduction_bound(1, magnitude);
            let moved_bound = moved.abs() * first_bound / first.abs() + reduction_bound(8, moved.abs());
            expected_w.push(Expected {
                value: decayed - moved,
                bound: moved_bound + reduction_bound(1, decayed.abs()),
            });
            expected_m.push(Expected { value: first, bound: first_bound });
            expected_v.push(Expected { value: second, bound: reduction_bound(2, second) });
        }
        for kernels in Kernels::available() {
            let (mut weights, mut first, mut second) = (Lines::row(&w), Lines::row(&m), Lines::row(&v));
            kernels.adamw(&mut weights, &mut first, &mut second, &Lines::row(&g), &step);
            let what = format!("{} {lines} lines, step {t}", kernels.name());
            assert_close(&format!("{what}: w"), weights.floats(), &expected_w);
            assert_close(&format!("{what}: m"), first.floats(), &expected_m);
            assert_close(&format!("{what}: v"), second.floats(), &expected_v);
        }
    }
}

#[test]
fn adamw_keeps_padding_at_zero() {
    for kernels in Kernels::available() {
        let (mut weights, mut first, mut second) =
            (Lines::row(&[1.0]), Lines::row(&[0.0]), Lines::row(&[0.0]));
        kernels.adamw(&mut weights, &mut first, &mut second, &Lines::row(&[0.3]), &step(1));
        assert!(weights.floats()[1..].iter().all(|&w| w == 0.0), "{}", kernels.name());
    }
}

#[test]
fn squares_are_summed_in_f64() {
    let mut random = Random(62);
    for length in LENGTHS.into_iter().chain([1000]) {
        let values = random.floats(length);
        let expected: f64 = values.iter().map(|&x| f64::from(x) * f64::from(x)).sum();
        for kernels in Kernels::available() {
            let got = kernels.sum_of_squares(&Floats::new(&values, 1));
            assert!(
                (got - expected).abs() <= 1e-13 * expected,
                "{} {length}: {got}, {expected}",
                kernels.name()
            );
        }
    }
    for kernels in Kernels::available() {
        // Squares that neither overflow nor vanish, as they would in f32.
        assert_eq!(kernels.sum_of_squares(&[1e30, 1e-30]), f64::from(1e30_f32).powi(2), "{}", kernels.name());
        assert!(kernels.sum_of_squares(&[1e-30]) > 0.9e-60, "{}", kernels.name());
        assert!(kernels.sum_of_squares(&[0.0, f32::NAN]).is_nan(), "{}", kernels.name());
    }
}

/// The documented hash, written a second time.
fn is_kept(key: u64, position: u64, keep: f32) -> bool {
    let lowbias32 = |mut x: u32| {
        x = (x ^ (x >> 16)).wrapping_mul(0x7feb_352d);
        x = (x ^ (x >> 15)).wrapping_mul(0x846c_a68b);
        x ^ (x >> 16)
    };
    let whitening = lowbias32(key as u32 ^ lowbias32((position >> 32) as u32 ^ 0x9e37_79b9));
    let increment = lowbias32((key >> 32) as u32 ^ whitening);
    let hash = lowbias32(lowbias32(position as u32 ^ whitening).wrapping_add(increment));
    f64::from(hash) < f64::from(keep) * 4_294_967_296.0
}

#[test]
fn the_mask_of_dropout_is_the_documented_hash() {
    let key = 0x0123_4567_89ab_cdef;
    for length in LENGTHS.into_iter().chain([1000]) {
        for first in [0, 7, u64::from(u32::MAX) - 20, 5 << 32, u64::MAX - 30] {
            for keep in [0.1, 0.75, 1.0] {
                let values: Vec<f32> = (0..length).map(|i| i as f32 + 1.0).collect();
                let expected: Vec<f32> = (0..length as u64)
                    .map(|i| {
                        if is_kept(key, first.wrapping_add(i), keep) {
                            values[i as usize] / keep
                        } else {
                            0.0
                        }
                    })
                    .collect();
                for kernels in Kernels::available() {
                    let mut got = Floats::new(&values, 1);
                    kernels.dropout(&mut got, key, first, keep);
                    assert_same(&format!("{} {length} from {first}", kernels.name()), &got, &expected);
                }
            }
        }
    }
}

#[test]
fn dropout_does_not_depend_on_how_a_buffer_is_split() {
    let first = u64::from(u32::MAX) - 40;
    for kernels in Kernels::available() {
        let mut whole = vec![1.0; 100];
        kernels.dropout(&mut whole, 3, first, 0.5);
        for split in 0..=100 {
            let mut parts = vec![1.0; 100];
            let (head, tail) = parts.split_at_mut(split);
            kernels.dropout(head, 3, first, 0.5);
            kernels.dropout(tail, 3, first + split as u64, 0.5);
            assert_same(kernels.name(), &parts, &whole);
        }
    }
}

#[test]
fn dropout_keeps_its_share_and_masks_of_different_keys_are_unrelated() {
    let kernels = Kernels::best();
    let length = 1 << 16;
    let mask = |key: u64, first: u64, keep: f32| {
        let mut values = vec![1.0; length];
        kernels.dropout(&mut values, key, first, keep);
        values.into_iter().map(|value| value != 0.0).collect::<Vec<bool>>()
    };
    // Five standard deviations of a binomial distribution.
    let near = |count: usize, share: f64| {
        let n = length as f64;
        (count as f64 - n * share).abs() < 5.0 * (n * share * (1.0 - share)).sqrt()
    };
    for keep in [0.1, 0.5, 0.9] {
        let kept = mask(1, 0, keep).into_iter().filter(|&kept| kept).count();
        assert!(near(kept, f64::from(keep)), "kept {kept} of {length} at {keep}");
    }
    let base = mask(1, 0, 0.5);
    // Other keys, a single bit apart, and other positions.
    for (key, first) in [(2, 0), (0, 0), (1 | 1 << 32, 0), (1 | 1 << 63, 0), (1, 1), (1, 64), (1, 1 << 32)] {
        let agreeing = base.iter().zip(mask(key, first, 0.5)).filter(|(a, b)| *a == b).count();
        assert!(near(agreeing, 0.5), "key {key}, first {first}: {agreeing} of {length} agree");
    }
}
