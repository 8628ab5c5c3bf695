//! Which elements dropout keeps: a pure function of key and position.
//!
//! The mask is a counter-based hash, so it depends neither on the kernel nor on how a buffer is split,
//! and the backward pass recomputes it instead of storing it. Plain integer code: compiled inside a
//! `#[target_feature]` function it is vectorised for that instruction set, to the same bits.

/// The parts of the hash that are constant over a run of positions with the same upper 32 bits.
#[derive(Clone, Copy)]
pub(crate) struct Mask {
    whitening: u32,
    increment: u32,
    threshold: u32,
}

impl Mask {
    /// The mask of `key` for positions whose upper half is `upper`, keeping a share `keep` in (0, 1).
    #[inline(always)]
    pub(crate) fn new(key: u64, upper: u32, keep: f32) -> Self {
        // 2^32 over the golden ratio: without it an upper half of 0 would be a fixed point.
        let whitening = mix(key as u32 ^ mix(upper ^ 0x9e37_79b9));
        let increment = mix((key >> 32) as u32 ^ whitening);
        // The product is exact, and below 2^32 as keep < 1; integers are below it iff they are below its ceiling.
        let threshold = (f64::from(keep) * 4_294_967_296.0).ceil() as u32;
        Self { whitening, increment, threshold }
    }

    /// Whether the position with lower half `lower` is kept.
    #[inline(always)]
    pub(crate) fn keeps(self, lower: u32) -> bool {
        mix(mix(lower ^ self.whitening).wrapping_add(self.increment)) < self.threshold
    }
}

/// A bijection of 32 bits in which every input bit flips every output bit with a probability near a
/// half: `lowbias32` of Chris Wellons' hash prospector (public domain).
#[inline(always)]
const fn mix(mut x: u32) -> u32 {
    x ^= x >> 16;
    x = x.wrapping_mul(0x7feb_352d);
    x ^= x >> 15;
    x = x.wrapping_mul(0x846c_a68b);
    x ^ (x >> 16)
}

/// Inverted dropout in place: position `first + i` is kept, divided by `keep`, or set to zero.
#[inline(always)]
pub(crate) fn apply(values: &mut [f32], key: u64, first: u64, keep: f32) {
    if keep >= 1.0 {
        return;
    }
    let mut position = first;
    let mut rest = values;
    while !rest.is_empty() {
        let lower = position as u32;
        let until_carry = (1_u64 << 32) - u64::from(lower);
        let length = usize::try_from(until_carry).map_or(rest.len(), |n| n.min(rest.len()));
        let (run, remaining) = rest.split_at_mut(length);
        let mask = Mask::new(key, (position >> 32) as u32, keep);
        for (i, value) in run.iter_mut().enumerate() {
            *value = if mask.keeps(lower.wrapping_add(i as u32)) { *value / keep } else { 0.0 };
        }
        position = position.wrapping_add(length as u64);
        rest = remaining;
    }
}
