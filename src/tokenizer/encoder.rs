//! Bytes to token ids.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use super::alphabet::ID_OF_BYTE;
use super::merge_table::{EMPTY, MergeTable};
use super::pretokenizer::Words;
use super::special::find_special;
use super::{SPECIAL_TOKENS, Special, TokenizerView};

/// Words up to this many bytes are merged by scanning, which is quadratic but quick when short; longer ones
/// with a heap.
const LONGEST_SCANNED: usize = 64;

/// A longer word is encoded in pieces of this many bytes, so that places in it fit 32 bits.
const LONGEST_WORD: usize = u32::MAX as usize;

/// Bytes encoded before the cache of words is worth its memory.
const CACHE_AFTER: usize = 16 << 10;

/// An encoder that keeps its working memory, and a cache of words once it has seen some text, from one call
/// to the next.
#[derive(Clone, Debug)]
pub struct Encoder<'a> {
    table: MergeTable<'a>,
    short: Vec<Symbol>,
    long: LongWord,
    cache: WordCache,
    encoded: usize,
}

impl<'a> Encoder<'a> {
    /// An encoder for `view`.
    pub fn new(view: TokenizerView<'a>) -> Self {
        Self {
            table: view.merge_table(),
            short: Vec::new(),
            long: LongWord::default(),
            cache: WordCache::default(),
            encoded: 0,
        }
    }

    /// Appends the ids of `text`, any bytes, to `out`.
    ///
    /// With [`Special::Match`] the text is cut at special tokens, and each part between them is a text of its
    /// own. Pieces of a long text, cut at [`split_point`](super::split_point)s, may be encoded one by one.
    pub fn encode(&mut self, mut text: &[u8], special: Special, out: &mut Vec<u32>) {
        if special == Special::Match {
            while let Some((at, id)) = find_special(text) {
                self.encode_ordinary(&text[..at], out);
                out.push(id);
                text = &text[at + SPECIAL_TOKENS[id as usize].len()..];
            }
        }
        self.encode_ordinary(text, out);
    }

    fn encode_ordinary(&mut self, text: &[u8], out: &mut Vec<u32>) {
        self.encoded = self.encoded.saturating_add(text.len());
        if self.encoded > CACHE_AFTER {
            self.cache.enable();
        }
        let mut at = 0;
        for word in Words::new(text) {
            match WordKey::new(text, at, word.len()) {
                _ if word.len() == 1 => out.push(ID_OF_BYTE[word[0] as usize]),
                Some(key) if self.cache.is_enabled() => self.encode_cached(key, word, out),
                _ => self.encode_word(word, out),
            }
            at += word.len();
        }
    }

    fn encode_cached(&mut self, key: WordKey, word: &[u8], out: &mut Vec<u32>) {
        if let Some(ids) = self.cache.get(key) {
            out.extend_from_slice(ids);
            return;
        }
        let start = out.len();
        self.encode_word(word, out);
        self.cache.insert(key, &out[start..]);
    }

    fn encode_word(&mut self, word: &[u8], out: &mut Vec<u32>) {
        if word.len() <= LONGEST_SCANNED {
            merge_by_scanning(word, &self.table, &mut self.short);
            out.extend(self.short.iter().map(|symbol| symbol.id));
            return;
        }
        for piece in word.chunks(LONGEST_WORD) {
            self.long.merge(piece, &self.table);
            out.extend(self.long.ids());
        }
    }
}

/// A token in a word, and what it and the next one merge to.
#[derive(Clone, Copy, Debug)]
struct Symbol {
    id: u32,
    rank: u32,
    merged: u32,
}

impl Symbol {
    /// Looks up what this symbol and `next` merge to.
    fn pair_with(&mut self, next: Option<u32>, table: &MergeTable<'_>) {
        let merge = next.and_then(|next| table.get(self.id, next));
        (self.rank, self.merged) = merge.map_or((EMPTY, 0), |merge| (merge.rank, merge.id));
    }
}

/// Turns `word` into `symbols`: while any pair merges, merges the leftmost of the lowest rank.
fn merge_by_scanning(word: &[u8], table: &MergeTable<'_>, symbols: &mut Vec<Symbol>) {
    symbols.clear();
    symbols.extend(word.iter().map(|&byte| Symbol { id: ID_OF_BYTE[byte as usize], rank: EMPTY, merged: 0 }));
    for at in 1..symbols.len() {
        let next = symbols[at].id;
        symbols[at - 1].pair_with(Some(next), table);
    }
    while let Some(at) = lowest_rank(symbols) {
        symbols[at].id = symbols[at].merged;
        symbols.remove(at + 1);
        let next = symbols.get(at + 1).map(|symbol| symbol.id);
        symbols[at].pair_with(next, table);
        if at > 0 {
            let id = symbols[at].id;
            symbols[at - 1].pair_with(Some(id), table);
        }
    }
}

fn lowest_rank(symbols: &[Symbol]) -> Option<usize> {
    let mut lowest = (EMPTY, None);
    for (at, symbol) in symbols.iter().enumerate() {
        if symbol.rank < lowest.0 {
            lowest = (symbol.rank, Some(at));
        }
    }
    lowest.1
}

/// A token of a long word, linked to its neighbours by their places.
#[derive(Clone, Copy, Debug)]
struct Link {
    id: u32,
    previous: u32,
    next: u32,
}

/// The id of a link that was merged into the one before it; no token has it, since tokens' offsets fit 32 bits.
const MERGED_AWAY: u32 = u32::MAX;

/// The place before the first link and after the last.
const NOWHERE: u32 = u32::MAX;

/// Working memory to merge a long word of n bytes in O(n log n).
#[derive(Clone, Debug, Default)]
struct LongWord {
    links: Vec<Link>, // [n]
    /// Pairs that merged when they were entered: rank, and place of the left link.
    queue: BinaryHeap<Reverse<(u32, u32)>>,
}

impl LongWord {
    /// Does what [`merge_by_scanning`] does. `word` has at most [`LONGEST_WORD`] bytes.
    fn merge(&mut self, word: &[u8], table: &MergeTable<'_>) {
        self.links.clear();
        self.links.extend((0..).zip(word).map(|(at, &byte): (u32, _)| Link {
            id: ID_OF_BYTE[byte as usize],
            previous: at.wrapping_sub(1),
            next: at + 1,
        }));
        if let Some(last) = self.links.last_mut() {
            last.next = NOWHERE;
        }
        self.fill_queue(table);
        while let Some(Reverse((rank, at))) = self.queue.pop() {
            self.merge_at(at, rank, table);
        }
    }

    /// The tokens that are left.
    fn ids(&self) -> impl Iterator<Item = u32> {
        self.links.iter().map(|link| link.id).filter(|&id| id != MERGED_AWAY)
    }

    fn fill_queue(&mut self, table: &MergeTable<'_>) {
        let mut pairs = std::mem::take(&mut self.queue).into_vec();
        pairs.clear();
        pairs.extend((0..).zip(self.links.windows(2)).filter_map(|(at, pair)| {
            table.get(pair[0].id, pair[1].id).map(|merge| Reverse((merge.rank, at)))
        }));
        self.queue = BinaryHeap::from(pairs);
    }

    /// Merges the link at `at` with its next, if they still are the pair of `rank`.
    fn merge_at(&mut self, at: u32, rank: u32, table: &MergeTable<'_>) {
        let Link { id, previous, next } = self.links[at as usize];
        if id == MERGED_AWAY || next == NOWHERE {
            return;
        }
        let right = self.links[next as usize];
        let Some(merge) = table.get(id, right.id).filter(|merge| merge.rank == rank) else { return };
        self.links[at as usize] = Link { id: merge.id, previous, next: right.next };
        self.links[next as usize].id = MERGED_AWAY;
        if right.next != NOWHERE {
            self.links[right.next as usize].previous = at;
            self.enqueue(at, right.next, table);
        }
        if previous != NOWHERE {
            self.enqueue(previous, at, table);
        }
    }

    fn enqueue(&mut self, left: u32, right: u32, table: &MergeTable<'_>) {
        if let Some(merge) = table.get(self.links[left as usize].id, self.links[right as usize].id) {
            self.queue.push(Reverse((merge.rank, left)));
        }
    }
}

/// A word of up to 15 bytes as a number: its bytes, little-endian, and its length in the top byte. Never 0.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct WordKey(u128);

impl WordKey {
    const LONGEST: usize = 15;

    /// The key of the word at `text[at..at + length]`, which is not empty; `None` if it is too long.
    #[inline]
    fn new(text: &[u8], at: usize, length: usize) -> Option<Self> {
        if length > Self::LONGEST {
            return None;
        }
        let bytes = match text[at..].first_chunk() {
            Some(bytes) => u128::from_le_bytes(*bytes) & ((1 << (8 * length)) - 1),
            None => text[at..at + length].iter().rfold(0, |bytes, &byte| bytes << 8 | u128::from(byte)),
        };
        Some(Self(bytes | (length as u128) << 120))
    }

    /// The slot of the cache for this word: the top bits of a multiplicative hash of its two halves.
    #[inline]
    fn slot(self) -> usize {
        let folded = (self.0 as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ (self.0 >> 64) as u64;
        (folded.wrapping_mul(0xD6E8_FEB8_6659_FD93) >> (64 - WordCache::SLOTS.trailing_zeros())) as usize
    }
}

#[derive(Clone, Copy, Debug, Default)]
struct CachedWord {
    key: WordKey,
    length: u32,
    ids: [u32; CachedWord::LONGEST],
}

impl CachedWord {
    const LONGEST: usize = 7;
}

/// The ids of short words seen lately: one word a slot, the newest wins.
#[derive(Clone, Debug, Default)]
struct WordCache {
    words: Vec<CachedWord>, // [0 or SLOTS]
}

impl WordCache {
    /// With 48 bytes each they fill most of a common L2 cache.
    const SLOTS: usize = 8192;

    fn enable(&mut self) {
        self.words.resize(Self::SLOTS, CachedWord::default());
    }

    fn is_enabled(&self) -> bool {
        !self.words.is_empty()
    }

    #[inline]
    fn get(&self, key: WordKey) -> Option<&[u32]> {
        let word = &self.words[key.slot()];
        (word.key == key).then(|| &word.ids[..word.length as usize])
    }

    /// Keeps `ids` for `key` if there are few enough.
    fn insert(&mut self, key: WordKey, ids: &[u32]) {
        let word = &mut self.words[key.slot()];
        if let Some(kept) = word.ids.get_mut(..ids.len()) {
            kept.copy_from_slice(ids);
            word.key = key;
            word.length = ids.len() as u32;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tokenizer::Tokenizer;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn both_ways_of_merging_agree(text in "[ab]{1,200}", word in "[abc]{1,150}") {
            let tokenizer = Tokenizer::train(&[text.as_bytes()], 300, 1)?;
            let table = tokenizer.view().merge_table();
            let (mut short, mut long) = (Vec::new(), LongWord::default());
            merge_by_scanning(word.as_bytes(), &table, &mut short);
            long.merge(word.as_bytes(), &table);
            prop_assert!(short.iter().map(|symbol| symbol.id).eq(long.ids()));
        }
    }
}
