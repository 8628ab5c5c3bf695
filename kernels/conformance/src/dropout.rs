//! Dropout.

use crate::LENGTHS;
use crate::buffers::Floats;
use crate::compare::assert_same;
use crate::failure::case;
use shoestring_kernels::Kernels;

checks! {
    the_mask_is_the_documented_hash: dropout;
    the_mask_does_not_depend_on_how_a_buffer_is_split: dropout;
    a_mask_keeps_its_share_and_those_of_different_keys_are_unrelated: dropout;
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

fn the_mask_is_the_documented_hash(kernels: &Kernels) {
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
                case(format_args!("dropout {length} from {first}, keeping {keep}"));
                let mut got = Floats::new(&values, 1);
                kernels.dropout(&mut got, key, first, keep);
                assert_same("values", &got, &expected);
            }
        }
    }
}

fn the_mask_does_not_depend_on_how_a_buffer_is_split(kernels: &Kernels) {
    let first = u64::from(u32::MAX) - 40;
    case("dropout 100");
    let mut whole = Floats::new(&[1.0; 100], 0);
    kernels.dropout(&mut whole, 3, first, 0.5);
    for split in 0..=100 {
        case(format_args!("dropout 100 in parts of {split} and the rest"));
        let mut parts = Floats::new(&[1.0; 100], 0);
        let (head, tail) = parts.split_at_mut(split);
        kernels.dropout(head, 3, first, 0.5);
        kernels.dropout(tail, 3, first + split as u64, 0.5);
        assert_same("values", &parts, &whole);
    }
}

fn a_mask_keeps_its_share_and_those_of_different_keys_are_unrelated(kernels: &Kernels) {
    let length = 1 << 16;
    let mask = |key: u64, first: u64, keep: f32| {
        case(format_args!("dropout {length}, key {key}, from {first}, keeping {keep}"));
        let mut values = Floats::new(&vec![1.0; length], 0);
        kernels.dropout(&mut values, key, first, keep);
        values.into_vec().into_iter().map(|value| value != 0.0).collect::<Vec<bool>>()
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
