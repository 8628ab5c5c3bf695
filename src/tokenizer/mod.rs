//! Byte-level byte pair encoding (BPE): training, encoding, decoding, `tokenizer.json`.
//!
//! Lossless for every byte string: what [`TokenizerView::encode`] makes of a text,
//! [`TokenizerView::decode`] turns back into the same bytes, valid UTF-8 or not.
//!
//! Vocabulary, merges, ids and encodings equal those of HuggingFace `tokenizers` with its `ByteLevel`
//! pre-tokenizer (no prefix space, GPT-2's pattern) and its `BpeTrainer` (these special tokens, the full
//! byte alphabet, no minimum frequency), each text given as *one* sequence. As one sequence, because words
//! are then a property of the text and not of how it was read: the same library fed line by line cuts runs
//! of newlines, which span lines, into other words than it finds when it later encodes that text. (Merges differ where a text
//! has more than half a million distinct words, as [`Trainer`] then forgets rare ones.)

mod alphabet;
mod encoder;
mod error;
mod json;
mod layout;
mod merge_table;
mod packed;
mod parallel;
mod pieces;
mod pretokenizer;
mod special;
mod streaming;
mod trainer;
mod view;
mod word_counts;

pub use encoder::Encoder;
pub use error::TokenizerError;
pub use parallel::ParallelEncoder;
pub use pieces::Pieces;
pub use pretokenizer::{Words, split_point};
pub use special::Special;
pub use streaming::StreamingDecoder;
pub use trainer::Trainer;
pub use view::TokenizerView;

use packed::AsPacked;
use rkyv::with::Skip;
use std::ops::ControlFlow;

/// Id of `[USER]`, which opens a user's turn.
pub const USER: u32 = 0;
/// Id of `[BOT]`, which opens the model's turn.
pub const BOT: u32 = 1;
/// Id of `[EOS]`, which ends a text or a turn.
pub const EOS: u32 = 2;
/// Id of `[PAD]`. The encoder makes it only from its own text.
pub const PAD: u32 = 3;
/// Id of `[UNK]`. The encoder makes it only from its own text: every byte has a token.
pub const UNK: u32 = 4;

/// The text of the special tokens, by id.
pub const SPECIAL_TOKENS: [&str; 5] = ["[USER]", "[BOT]", "[EOS]", "[PAD]", "[UNK]"];

/// The smallest vocabulary: the special tokens and one token for each byte.
pub const MINIMUM_VOCABULARY: usize = SPECIAL_TOKENS.len() + 256;

/// A trained tokenizer as flat arrays. A checkpoint stores all but the hash table.
///
/// V is the vocabulary size, M the number of merges. Ids `0..5` are [`SPECIAL_TOKENS`], then come the 256
/// single bytes in the order of their `ByteLevel` characters (printable ones first), then merged tokens.
/// The default value is empty and no tokenizer; make one with [`Tokenizer::train`], [`Trainer`] or
/// [`Tokenizer::from_json`].
#[derive(rkyv::Archive, rkyv::Serialize, Clone, Debug, Default, PartialEq, Eq)]
pub struct Tokenizer {
    /// Where each token's bytes start in `token_bytes`; the last is its length. // [V + 1]
    #[rkyv(with = AsPacked)]
    pub token_offsets: Vec<u32>,
    /// The tokens' bytes, one after the other.
    pub token_bytes: Vec<u8>,
    /// The ids of left, right and merged token of each merge, by rank. // [M, 3]
    #[rkyv(with = AsPacked)]
    pub merges: Vec<u32>,
    /// A hash table from (left, right) to the merge: the rank in each slot, or `u32::MAX` if it is empty.
    /// The number of slots is a power of two greater than M. // `[slots]`
    #[rkyv(with = Skip)]
    pub merge_slots: Vec<u32>,
}

impl Tokenizer {
    /// Trains on `texts`, each a sequence of its own, with `threads` threads.
    ///
    /// The result does not depend on `threads`. It has fewer than `vocabulary_size` tokens if the texts have
    /// no pairs left to merge. Special tokens' text in `texts` counts as ordinary words. [`Trainer`] does the
    /// same piece by piece, with progress.
    ///
    /// # Errors
    /// [`TokenizerError::VocabularyTooSmall`] below [`MINIMUM_VOCABULARY`]; [`TokenizerError::TooLarge`] if
    /// the tokens or the words do not fit 32-bit offsets.
    pub fn train(texts: &[&[u8]], vocabulary_size: usize, threads: usize) -> Result<Self, TokenizerError> {
        let mut trainer = Trainer::new(vocabulary_size, threads)?;
        for text in texts {
            trainer.count(text);
        }
        trainer.train(|_, _| ControlFlow::Continue(()))
    }

    /// The borrowed form, which encodes and decodes.
    pub fn view(&self) -> TokenizerView<'_> {
        TokenizerView::trusted(&self.token_offsets, &self.token_bytes, &self.merges, &self.merge_slots)
    }
}
