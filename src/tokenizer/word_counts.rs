//! How often each distinct word occurs.

use super::pretokenizer::Words;
use std::cmp::Reverse;

/// Distinct words and their counts: a hash table with open addressing over an arena of bytes.
#[derive(Clone, Debug, Default)]
pub(super) struct WordCounts {
    /// The words' bytes, one after the other.
    arena: Vec<u8>,
    words: Vec<CountedWord>, // [W]
    /// Indices into `words`, plus one; 0 is empty. At most half are used. // [power of two]
    slots: Vec<u32>,
}

#[derive(Clone, Copy, Debug)]
struct CountedWord {
    start: usize,
    length: usize,
    count: u64,
    hash: u32,
}

impl WordCounts {
    /// Counts the words of `text`. `None` if there are more distinct words than 32 bits count.
    pub fn count(&mut self, text: &[u8]) -> Option<()> {
        Words::new(text).try_for_each(|word| self.add(word, hash(word), 1))
    }

    /// Adds the counts of `other`.
    pub fn absorb(&mut self, other: &Self) -> Option<()> {
        other.words.iter().try_for_each(|word| self.add(other.bytes(word), word.hash, word.count))
    }

    /// The number of distinct words.
    pub fn len(&self) -> usize {
        self.words.len()
    }

    /// Forgets all but the `most` most frequent words. Which of equally frequent ones stay depends on the words alone, not
    /// on their order.
    pub fn keep_most_frequent(&mut self, most: usize) {
        if self.len() <= most {
            return;
        }
        let rank = |word: u32| {
            let word = &self.words[word as usize];
            (Reverse(word.count), word.hash, self.bytes(word))
        };
        let mut order: Vec<u32> = (0..).take(self.len()).collect();
        order.select_nth_unstable_by(most, |&a, &b| rank(a).cmp(&rank(b)));
        order.truncate(most);
        order.sort_unstable();
        let mut kept = Self::default();
        for word in order.iter().map(|&word| &self.words[word as usize]) {
            // Fewer than there were, so 32 bits still count them.
            let _ = kept.add(self.bytes(word), word.hash, word.count);
        }
        *self = kept;
    }

    /// The distinct words and their counts, in the order they were first added.
    pub fn iter(&self) -> impl Iterator<Item = (&[u8], u64)> {
        self.words.iter().map(|word| (self.bytes(word), word.count))
    }

    fn bytes(&self, word: &CountedWord) -> &[u8] {
        &self.arena[word.start..word.start + word.length]
    }

    fn add(&mut self, word: &[u8], hash: u32, count: u64) -> Option<()> {
        if self.words.len() * 2 >= self.slots.len() {
            self.grow();
        }
        let mask = self.slots.len() - 1;
        let mut place = hash as usize & mask;
        while let Some(index) = self.slots[place].checked_sub(1) {
            let known = self.words[index as usize];
            if known.hash == hash && self.bytes(&known) == word {
                self.words[index as usize].count += count;
                return Some(());
            }
            place = (place + 1) & mask;
        }
        let start = self.arena.len();
        self.arena.extend_from_slice(word);
        self.words.push(CountedWord { start, length: word.len(), count, hash });
        self.slots[place] = u32::try_from(self.words.len()).ok()?;
        Some(())
    }

    fn grow(&mut self) {
        let size = (self.slots.len() * 2).max(1 << 12);
        self.slots.clear();
        self.slots.resize(size, 0);
        for (index, word) in (1..).zip(&self.words) {
            let mut place = word.hash as usize & (size - 1);
            while self.slots[place] != 0 {
                place = (place + 1) & (size - 1);
            }
            self.slots[place] = index;
        }
    }
}

/// Multiplies and folds the word 8 bytes at a time; the length is part of the start.
fn hash(word: &[u8]) -> u32 {
    const MULTIPLIER: u64 = 0x9E37_79B9_7F4A_7C15;
    let fold = |state: u64, bytes: u64| {
        let product = u128::from(state ^ bytes) * u128::from(MULTIPLIER);
        product as u64 ^ (product >> 64) as u64
    };
    let (chunks, rest) = word.as_chunks::<8>();
    let state = chunks.iter().fold(word.len() as u64, |state, &chunk| fold(state, u64::from_le_bytes(chunk)));
    let rest = rest.iter().rfold(0, |bytes, &byte| bytes << 8 | u64::from(byte));
    fold(state, rest) as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_most_frequent_are_kept() {
        let mut counts = WordCounts::default();
        for (word, times) in [("a", 3), ("b", 1), ("c", 2), ("d", 2), ("e", 5)] {
            (0..times).for_each(|_| counts.count(word.as_bytes()).unwrap());
        }
        let kept = |most| {
            let mut counts = counts.clone();
            counts.keep_most_frequent(most);
            counts.iter().map(|(word, count)| (word[0] as char, count)).collect::<Vec<_>>()
        };
        assert_eq!(kept(5).len(), 5);
        assert_eq!(kept(4), [('a', 3), ('c', 2), ('d', 2), ('e', 5)]);
        assert_eq!(kept(3).len(), 3);
        assert!([('a', 3), ('e', 5)].iter().all(|word| kept(3).contains(word)));
        assert_eq!(kept(0), []);
    }

    #[test]
    fn which_of_equally_frequent_words_are_kept_does_not_depend_on_their_order() {
        let kept = |words: &mut dyn Iterator<Item = usize>| {
            let mut counts = WordCounts::default();
            words.for_each(|word| counts.count(format!("{word:03}").as_bytes()).unwrap());
            counts.keep_most_frequent(100);
            let mut kept: Vec<_> = counts.iter().map(|(word, _)| word.to_vec()).collect();
            kept.sort_unstable();
            kept
        };
        let forward = kept(&mut (0..900));
        assert_eq!((forward.len(), &forward), (100, &kept(&mut (0..900).rev())));
    }

    #[test]
    fn words_of_equal_hashes_are_counted_apart() {
        // Among so many there are words whose 32-bit hashes are the same.
        let words: Vec<_> = (0..300_000).map(|number| format!("{number:06}")).collect();
        let mut hashes: Vec<_> = words.iter().map(|word| hash(word.as_bytes())).collect();
        hashes.sort_unstable();
        hashes.dedup();
        assert!(hashes.len() < words.len());
        let mut counts = WordCounts::default();
        words.iter().chain(&words).for_each(|word| counts.count(word.as_bytes()).unwrap());
        let expected = words.iter().map(|word| (word.as_bytes(), 2));
        assert!(counts.iter().eq(expected));
    }
}
