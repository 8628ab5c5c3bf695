//! The flat hash table from a pair of tokens to their merge.
//!
//! Open addressing with linear probing in a power of two of slots, at least two and at most two thirds of them used. A slot is
//! four numbers: left, right, rank, merged id; an empty one is `[0, 0, u32::MAX, 0]`. The first slot tried for
//! a pair is the top bits of `(left << 32 | right) * MULTIPLIER` (Fibonacci hashing, Knuth, TAOCP 6.4), so
//! a stored table can be searched as it is.

/// 2^64 divided by the golden ratio, made odd.
const MULTIPLIER: u64 = 0x9E37_79B9_7F4A_7C15;

/// The rank that marks an empty slot.
pub(super) const EMPTY: u32 = u32::MAX;

const EMPTY_SLOT: [u32; 4] = [0, 0, EMPTY, 0];

/// What two tokens become.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Merge {
    /// Lower ranks are merged first.
    pub rank: u32,
    /// The merged token.
    pub id: u32,
}

/// A borrowed table. // [slots, 4]
#[derive(Clone, Copy, Debug)]
pub(super) struct MergeTable<'a> {
    slots: &'a [[u32; 4]],
    /// How far a hash is shifted to make a slot number.
    shift: u32,
}

impl<'a> MergeTable<'a> {
    /// The table in `flat`; `None` if the number of its slots is not a power of two, at least two.
    pub fn new(flat: &'a [u32]) -> Option<Self> {
        let (slots, rest) = flat.as_chunks::<4>();
        (rest.is_empty() && slots.len() >= 2 && slots.len().is_power_of_two()).then(|| Self::trusted(flat))
    }

    /// The same for an array whose length is known to be right.
    pub fn trusted(flat: &'a [u32]) -> Self {
        let slots = flat.as_chunks::<4>().0;
        Self { slots, shift: 64 - slots.len().trailing_zeros() }
    }

    /// The slots that are used, or that are empty but not written as such.
    pub fn used(&self) -> impl Iterator<Item = &'a [u32; 4]> + use<'a> {
        self.slots.iter().filter(|&slot| *slot != EMPTY_SLOT)
    }

    /// The number of slots.
    pub fn len(&self) -> usize {
        self.slots.len()
    }

    /// What `left` and `right` merge to, if they do. The table has an empty slot.
    #[inline]
    pub fn get(&self, left: u32, right: u32) -> Option<Merge> {
        let mut place = first_slot(left, right, self.shift);
        loop {
            let [slot_left, slot_right, rank, id] = self.slots[place];
            if rank == EMPTY {
                return None;
            }
            if slot_left == left && slot_right == right {
                return Some(Merge { rank, id });
            }
            place = (place + 1) & (self.slots.len() - 1);
        }
    }
}

#[inline]
fn first_slot(left: u32, right: u32, shift: u32) -> usize {
    let hash = (u64::from(left) << 32 | u64::from(right)).wrapping_mul(MULTIPLIER);
    (hash >> shift) as usize
}

/// The table of `merges`, whose ranks are their places: distinct pairs (left, right), and merged ids.
pub(super) fn build(merges: &[(u32, u32, u32)]) -> Vec<u32> {
    let count = (merges.len() + merges.len() / 2).max(2).next_power_of_two();
    let mut slots = vec![EMPTY_SLOT; count];
    let shift = 64 - count.trailing_zeros();
    for (rank, &(left, right, id)) in (0..).zip(merges) {
        let mut place = first_slot(left, right, shift);
        while slots[place][2] != EMPTY {
            place = (place + 1) & (count - 1);
        }
        slots[place] = [left, right, rank, id];
    }
    slots.into_flattened()
}
