//! The flat hash table from a pair of tokens to their merge.
//!
//! Open addressing with linear probing in a power of two of slots, at least two and at most two thirds of them
//! used. A slot is the rank of a merge; an empty one is `u32::MAX`. The first slot tried for a pair is the top bits of
//! `(left << 32 | right) * MULTIPLIER` (Fibonacci hashing, Knuth, TAOCP 6.4).

/// 2^64 divided by the golden ratio, made odd.
const MULTIPLIER: u64 = 0x9E37_79B9_7F4A_7C15;

/// What marks an empty slot.
pub(super) const EMPTY: u32 = u32::MAX;

/// What two tokens become.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Merge {
    /// Lower ranks are merged first.
    pub rank: u32,
    /// The merged token.
    pub id: u32,
}

/// A borrowed table.
#[derive(Clone, Copy, Debug)]
pub(super) struct MergeTable<'a> {
    slots: &'a [u32],       // [slots]
    merges: &'a [[u32; 3]], // [M]: left, right, merged
    /// How far a hash is shifted to make a slot number.
    shift: u32,
}

impl<'a> MergeTable<'a> {
    /// The table of `merges` (left, right, merged) in `slots`. `None` if the number of slots is not a power of two, at
    /// least two, if none is empty, or if one is neither empty nor the rank of a merge.
    pub fn new(slots: &'a [u32], merges: &'a [[u32; 3]]) -> Option<Self> {
        let shape = slots.len() >= 2 && slots.len().is_power_of_two();
        let ranks = slots.iter().all(|&slot| slot == EMPTY || (slot as usize) < merges.len());
        (shape && ranks && slots.contains(&EMPTY)).then(|| Self::trusted(slots, merges))
    }

    /// The same for arrays that are known to be right.
    pub fn trusted(slots: &'a [u32], merges: &'a [[u32; 3]]) -> Self {
        Self { slots, merges, shift: 64 - slots.len().trailing_zeros() }
    }

    /// The number of slots that are used.
    pub fn used(&self) -> usize {
        self.slots.iter().filter(|&&slot| slot != EMPTY).count()
    }

    /// What `left` and `right` merge to, if they do.
    #[inline]
    pub fn get(&self, left: u32, right: u32) -> Option<Merge> {
        let mut place = first_slot(left, right, self.shift);
        loop {
            let rank = self.slots[place];
            if rank == EMPTY {
                return None;
            }
            let [slot_left, slot_right, id] = self.merges[rank as usize];
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

/// The slots of the table of `merges` (left, right, merged), whose ranks are their places. Of a pair that is there twice
/// the first is in it.
pub(super) fn build(merges: &[[u32; 3]]) -> Vec<u32> {
    let count = (merges.len() + merges.len() / 2).max(2).next_power_of_two();
    let mut slots = vec![EMPTY; count];
    let shift = 64 - count.trailing_zeros();
    for (rank, &[left, right, _]) in (0..).zip(merges) {
        let mut place = first_slot(left, right, shift);
        // A pair's copies would fill one place after the other, each found more slowly: a file could make this last hours.
        let is_copy = |slot: u32| merges[slot as usize][..2] == [left, right];
        while slots[place] != EMPTY && !is_copy(slots[place]) {
            place = (place + 1) & (count - 1);
        }
        if slots[place] == EMPTY {
            slots[place] = rank;
        }
    }
    slots
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn copies_of_a_pair_take_no_place() {
        let mut merges = vec![[300, 301, 302]; 200_000];
        merges.push([7, 8, 9]);
        let slots = build(&merges);
        let table = MergeTable::new(&slots, &merges).unwrap();
        assert_eq!(table.used(), 2);
        assert_eq!(table.get(300, 301), Some(Merge { rank: 0, id: 302 }));
        assert_eq!(table.get(7, 8), Some(Merge { rank: 200_000, id: 9 }));
    }
}
