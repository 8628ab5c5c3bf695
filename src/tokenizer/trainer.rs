//! Learning merges from text.
//!
//! Words are counted once each; then, as long as the vocabulary has room, the pair of neighbouring tokens
//! with the highest count is merged in every word that has it (Sennrich et al. 2016), ties going to the
//! lowest ids. Counts are kept up to date word by word, and a heap of pairs, whose counts are brought up to
//! date only when they reach the top, finds the next one.
//!
//! No two pairs make the same string, so every merge adds a token, and a pair that was merged does not arise
//! again. For where a token spans a string, no merge has crossed the string's ends, and so what was merged
//! inside is what would have been merged in the string alone. (No word has a special token's text in it
//! either: its brackets and its letters are different words.)

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::hash::{BuildHasherDefault, Hasher};
use std::ops::ControlFlow;
use std::sync::atomic::{AtomicBool, Ordering};

use super::alphabet::{FIRST_BYTE, ID_OF_BYTE};
use super::layout::fixed_tokens;
use super::parallel::in_parallel;
use super::pretokenizer::split_evenly;
use super::word_counts::WordCounts;
use super::{MINIMUM_VOCABULARY, Tokenizer, TokenizerError};

/// A thread is not started for less text than this, in bytes.
const SMALLEST_SHARE: usize = 1 << 16;

/// Distinct words that are remembered while a long text is counted: 79 MB of prose have a fifth of them.
const MOST_WORDS: usize = 1 << 19;
/// Bytes of text after which the words are looked over.
const LOOK_OVER_EVERY: usize = 8 << 20;

/// Trains a tokenizer on texts that are given one after the other, keeping only their distinct words; of more than half a
/// million, as a text full of random identifiers has, the rarest are forgotten, so that memory does not grow with the text.
/// Which these are depends on the pieces that the text is [counted](Self::count) in, too, but not on the threads.
#[derive(Clone, Debug)]
pub struct Trainer {
    vocabulary_size: usize,
    /// One for each thread. // [threads]
    counts: Vec<WordCounts>,
    /// Bytes counted since the words were last looked over.
    counted: usize,
    too_many_words: bool,
}

impl Trainer {
    /// A trainer for at most `vocabulary_size` tokens that counts words with `threads` threads (0 is 1).
    ///
    /// # Errors
    /// [`TokenizerError::VocabularyTooSmall`] below [`MINIMUM_VOCABULARY`].
    pub fn new(vocabulary_size: usize, threads: usize) -> Result<Self, TokenizerError> {
        if vocabulary_size < MINIMUM_VOCABULARY {
            return Err(TokenizerError::VocabularyTooSmall { size: vocabulary_size });
        }
        let counts = vec![WordCounts::default(); threads.max(1)];
        Ok(Self { vocabulary_size, counts, counted: 0, too_many_words: false })
    }

    /// Counts the words of `text`: a sequence of its own, or a piece of one that was cut at a
    /// [`split_point`](super::split_point).
    pub fn count(&mut self, text: &[u8]) {
        let parts = split_evenly(text, self.counts.len(), SMALLEST_SHARE);
        let too_many = AtomicBool::new(false);
        let parts: Vec<_> = parts.collect();
        in_parallel(self.counts.iter_mut().zip(parts), |(counts, part)| {
            if counts.count(part).is_none() {
                too_many.store(true, Ordering::Relaxed);
            }
        });
        self.too_many_words |= too_many.into_inner();
        self.counted += text.len();
        if self.counted >= LOOK_OVER_EVERY {
            self.gather(MOST_WORDS);
        }
    }

    /// Gathers the threads' words in the first one's, and forgets all but `most / 2` if there are more than `most`, the rarest. That
    /// depends on the words and their counts only, not on which thread found them.
    fn gather(&mut self, most: usize) {
        self.counted = 0;
        let (all, others) = self.counts.split_first_mut().expect("there is a thread at least");
        for other in others {
            self.too_many_words |= all.absorb(&std::mem::take(other)).is_none();
        }
        if all.len() > most {
            all.keep_most_frequent(most / 2);
        }
    }

    /// Learns the merges. `progress` is called after each with the number of tokens and their limit, and may break it off.
    ///
    /// # Errors
    /// [`TokenizerError::TooLarge`] if the words or the tokens do not fit 32-bit offsets;
    /// [`TokenizerError::Interrupted`] if `progress` broke off.
    pub fn train(
        mut self,
        progress: impl FnMut(usize, usize) -> ControlFlow<()>,
    ) -> Result<Tokenizer, TokenizerError> {
        let too_many_words = TokenizerError::TooLarge { what: "the distinct words" };
        self.gather(MOST_WORDS);
        if self.too_many_words {
            return Err(too_many_words);
        }
        let corpus = Corpus::new(&self.counts[0]);
        drop(self.counts);
        let mut learner = Learner::new(corpus);
        if learner.learn(self.vocabulary_size, progress).is_break() {
            return Err(TokenizerError::Interrupted);
        }
        Tokenizer::from_parts(&learner.tokens, &learner.merges)
    }
}

/// The distinct words of two or more bytes, as tokens.
struct Corpus {
    /// The words' tokens. A word takes up less of its room as it is merged.
    symbols: Vec<u32>,
    /// Where each word's room starts in `symbols`. // [W]
    starts: Vec<usize>,
    /// Each word's number of tokens. // [W]
    lengths: Vec<usize>,
    /// How often each word occurs. // [W]
    counts: Vec<u64>,
}

impl Corpus {
    fn new(words: &WordCounts) -> Self {
        let mut corpus =
            Self { symbols: Vec::new(), starts: Vec::new(), lengths: Vec::new(), counts: Vec::new() };
        for (word, count) in words.iter().filter(|(word, _)| word.len() > 1) {
            corpus.starts.push(corpus.symbols.len());
            corpus.lengths.push(word.len());
            corpus.counts.push(count);
            corpus.symbols.extend(word.iter().map(|&byte| ID_OF_BYTE[byte as usize]));
        }
        corpus
    }

    fn word(&mut self, index: u32) -> (&mut [u32], &mut usize, i64) {
        let index = index as usize;
        let (start, length) = (self.starts[index], &mut self.lengths[index]);
        // Counts of words of a text that fits the address space fit 63 bits.
        (&mut self.symbols[start..start + *length], length, self.counts[index] as i64)
    }
}

/// A pair of tokens that waits to be merged. The greatest has the highest count, then the lowest ids. Its
/// place in `words_of` goes with it.
type Candidate = (i64, Reverse<PairKey>, usize);

/// Two token ids, the left one in the upper half: ordered as the pair is.
type PairKey = u64;

fn key(left: u32, right: u32) -> PairKey {
    u64::from(left) << 32 | u64::from(right)
}

struct Learner {
    corpus: Corpus,
    tokens: Vec<Vec<u8>>, // [V]
    merges: Vec<(u32, u32, u32)>,
    /// How often each pair occurs, unless never.
    pair_counts: HashMap<PairKey, i64, BuildHasherDefault<PairHasher>>,
    queue: BinaryHeap<Candidate>,
    /// For each candidate ever queued, the words that had the pair when it arose, ascending.
    words_of: Vec<Vec<u32>>,
}

impl Learner {
    fn new(corpus: Corpus) -> Self {
        let mut learner = Self {
            corpus,
            tokens: fixed_tokens(),
            merges: Vec::new(),
            pair_counts: HashMap::default(),
            queue: BinaryHeap::new(),
            words_of: Vec::new(),
        };
        learner.count_byte_pairs();
        learner
    }

    fn learn(
        &mut self,
        vocabulary_size: usize,
        mut progress: impl FnMut(usize, usize) -> ControlFlow<()>,
    ) -> ControlFlow<()> {
        let mut changes = Changes::default();
        while self.tokens.len() < vocabulary_size {
            let Some((left, right, words)) = self.next_pair() else { break };
            let merged = self.tokens.len() as u32;
            self.tokens.push([self.tokens[left as usize].as_slice(), &self.tokens[right as usize]].concat());
            self.merges.push((left, right, merged));
            changes.reset(self.tokens.len());
            for word in words {
                changes.merge_in_word(&mut self.corpus, word, (left, right), merged);
            }
            self.apply(&mut changes, (left, right), merged);
            progress(self.tokens.len(), vocabulary_size)?;
        }
        ControlFlow::Continue(())
    }

    fn count_byte_pairs(&mut self) {
        let mut pairs: Vec<(i64, Vec<u32>)> = vec![(0, Vec::new()); 256 * 256];
        for index in 0..self.corpus.starts.len() as u32 {
            let (word, _, count) = self.corpus.word(index);
            for pair in word.windows(2) {
                let (total, words) =
                    &mut pairs[((pair[0] - FIRST_BYTE) << 8 | (pair[1] - FIRST_BYTE)) as usize];
                *total += count;
                push_if_new(words, index);
            }
        }
        for (place, (count, words)) in (0..).zip(pairs).filter(|(_, (count, _))| *count > 0) {
            let pair = key(FIRST_BYTE + (place >> 8), FIRST_BYTE + (place & 0xFF));
            self.pair_counts.insert(pair, count);
            self.enqueue(pair, words);
        }
    }

    /// Queues `pair` for `words`, unless it does not occur.
    fn enqueue(&mut self, pair: PairKey, mut words: Vec<u32>) {
        if let Some(&count) = self.pair_counts.get(&pair).filter(|&&count| count > 0) {
            words.shrink_to_fit();
            self.queue.push((count, Reverse(pair), self.words_of.len()));
            self.words_of.push(words);
        }
    }

    /// Takes the most frequent pair from the queue, with its words.
    fn next_pair(&mut self) -> Option<(u32, u32, Vec<u32>)> {
        loop {
            let (queued, Reverse(pair), index) = self.queue.pop()?;
            match self.pair_counts.get(&pair) {
                Some(&count) if count == queued => {
                    let words = std::mem::take(&mut self.words_of[index]);
                    return Some(((pair >> 32) as u32, pair as u32, words));
                }
                Some(&count) => self.queue.push((count, Reverse(pair), index)),
                None => (),
            }
        }
    }

    /// Brings the counts up to date after `merged` replaced the pair, and queues the pairs that arose.
    fn apply(&mut self, changes: &mut Changes, (left, right): (u32, u32), merged: u32) {
        for (neighbour, Change { count, words }) in changes.before.drain() {
            self.adjust(key(neighbour, left), -count);
            self.adjust(key(neighbour, merged), count);
            changes.arisen.push((key(neighbour, merged), words));
        }
        for (neighbour, Change { count, words }) in changes.after.drain() {
            self.adjust(key(right, neighbour), -count);
            self.adjust(key(merged, neighbour), count);
            changes.arisen.push((key(merged, neighbour), words));
        }
        self.pair_counts.remove(&key(left, right));
        for (pair, words) in changes.arisen.drain(..) {
            self.enqueue(pair, words);
        }
    }

    fn adjust(&mut self, pair: PairKey, change: i64) {
        let count = self.pair_counts.entry(pair).or_insert(0);
        *count += change;
        if *count == 0 {
            self.pair_counts.remove(&pair);
        }
    }
}

/// What one merge changes, by the neighbour of the merged token.
#[derive(Default)]
struct Changes {
    before: Neighbours,
    after: Neighbours,
    /// Pairs with the merged token, and the words where they arose.
    arisen: Vec<(PairKey, Vec<u32>)>,
}

impl Changes {
    fn reset(&mut self, vocabulary: usize) {
        self.before.changes.resize_with(vocabulary, Change::default);
        self.after.changes.resize_with(vocabulary, Change::default);
    }

    /// Replaces the pair by `merged` in a word, from left to right, and notes which pairs went and came.
    fn merge_in_word(&mut self, corpus: &mut Corpus, index: u32, (left, right): (u32, u32), merged: u32) {
        let (word, length, count) = corpus.word(index);
        let (mut read, mut written) = (0, 0);
        while read < word.len() {
            if word[read] == left && word.get(read + 1) == Some(&right) {
                if written > 0 {
                    self.before.note(word[written - 1], count, index);
                }
                if let Some(&next) = word.get(read + 2) {
                    self.after.note(next, count, index);
                }
                word[written] = merged;
                read += 2;
            } else {
                word[written] = word[read];
                read += 1;
            }
            written += 1;
        }
        *length = written;
    }
}

/// The changes at one side of the merged token.
#[derive(Default)]
struct Neighbours {
    changes: Vec<Change>, // [V]
    /// The neighbours that have a change.
    touched: Vec<u32>,
}

#[derive(Default)]
struct Change {
    /// How often the neighbour has the merged token at its side instead of the unmerged one.
    count: i64,
    /// The words where it does, ascending.
    words: Vec<u32>,
}

impl Neighbours {
    fn note(&mut self, neighbour: u32, count: i64, word: u32) {
        let change = &mut self.changes[neighbour as usize];
        if change.words.is_empty() {
            self.touched.push(neighbour);
        }
        change.count += count;
        push_if_new(&mut change.words, word);
    }

    /// Takes all changes out, each with its neighbour.
    fn drain(&mut self) -> impl Iterator<Item = (u32, Change)> {
        let changes = &mut self.changes;
        self.touched.drain(..).map(|neighbour| (neighbour, std::mem::take(&mut changes[neighbour as usize])))
    }
}

/// Appends `word` to an ascending list unless it ends with it.
fn push_if_new(words: &mut Vec<u32>, word: u32) {
    if words.last() != Some(&word) {
        words.push(word);
    }
}

/// Hashes one 64-bit key by multiplication; the standard table uses the upper and the lower bits.
#[derive(Default)]
struct PairHasher(u64);

impl Hasher for PairHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|&byte| self.write_u64(self.0 << 8 | u64::from(byte)));
    }

    fn write_u64(&mut self, key: u64) {
        let product = u128::from(key) * 0x9E37_79B9_7F4A_7C15;
        self.0 = product as u64 ^ (product >> 64) as u64;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_forgotten_does_not_depend_on_threads() {
        // Long enough for every thread to get a share.
        let text: String = (0..60_000_u64).map(|i| format!(" word{} and{}", i * i % 30_011, i % 7)).collect();
        let train = |threads: usize, most: usize| {
            let mut trainer = Trainer::new(400, threads).unwrap();
            for _ in 0..2 {
                trainer.count(text.as_bytes());
                trainer.gather(most);
            }
            (trainer.counts[0].len(), trainer.train(|_, _| ControlFlow::Continue(())).unwrap())
        };
        let (all, _) = train(1, usize::MAX);
        let (some, expected) = train(1, 1000);
        assert!(all > 10_000 && some == 500, "{all} {some}");
        for threads in [2, 3] {
            assert!(train(threads, 1000) == (some, expected.clone()));
        }
    }

    #[test]
    fn of_words_that_all_come_up_once_some_are_learned_from_and_not_all_are_remembered() {
        let mut trainer = Trainer::new(300, 2).unwrap();
        let mut words = 0..;
        for _ in 0..5 {
            let piece: String = words.by_ref().take(400_000).map(|word| format!(" {word:07}")).collect();
            trainer.count(piece.as_bytes());
            let remembered: usize = trainer.counts.iter().map(WordCounts::len).sum();
            assert!(remembered < 2 * LOOK_OVER_EVERY / 8, "{remembered} words");
        }
        let tokenizer = trainer.train(|_, _| ControlFlow::Continue(())).unwrap();
        assert_eq!(tokenizer.view().vocabulary_size(), 300);
    }
}
