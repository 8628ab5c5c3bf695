//! A tokenizer borrowed from flat arrays.

use super::alphabet::{BYTES_BY_ID, FIRST_BYTE};
use super::merge_table::MergeTable;
use super::{Encoder, MINIMUM_VOCABULARY, SPECIAL_TOKENS, Special, Tokenizer, TokenizerError};

/// A tokenizer borrowed from the flat arrays of a [`Tokenizer`]. It is small and `Copy`.
#[derive(Clone, Copy, Debug)]
pub struct TokenizerView<'a> {
    token_offsets: &'a [u32], // [V + 1]
    token_bytes: &'a [u8],
    merges: &'a [u32],      // [M, 3]
    merge_slots: &'a [u32], // [slots]
}

impl<'a> TokenizerView<'a> {
    /// The tokenizer in these arrays (see [`Tokenizer`] for what they are), checked in O(V) time and without
    /// allocating, because a file may lie.
    ///
    /// # Errors
    /// [`TokenizerError::Damaged`] if they are not what training or reading a `tokenizer.json` makes: offsets
    /// out of order, a special token or a byte elsewhere than it must be, a merge whose token is not its two
    /// parts, a table that does not hold exactly the merges.
    pub fn new(
        token_offsets: &'a [u32],
        token_bytes: &'a [u8],
        merges: &'a [u32],
        merge_slots: &'a [u32],
    ) -> Result<Self, TokenizerError> {
        check_offsets(token_offsets, token_bytes.len())?;
        let view = Self::trusted(token_offsets, token_bytes, merges, merge_slots);
        view.check_fixed_tokens()?;
        view.check_merges()?;
        Ok(view)
    }

    /// The same for arrays that this module made.
    pub(crate) fn trusted(
        token_offsets: &'a [u32],
        token_bytes: &'a [u8],
        merges: &'a [u32],
        merge_slots: &'a [u32],
    ) -> Self {
        Self { token_offsets, token_bytes, merges, merge_slots }
    }

    /// The number of tokens, V.
    pub fn vocabulary_size(&self) -> usize {
        self.token_offsets.len().saturating_sub(1)
    }

    /// The bytes of token `id`; a special token's are its text.
    ///
    /// # Panics
    /// If `id` is not below [`vocabulary_size`](Self::vocabulary_size).
    pub fn token(&self, id: u32) -> &'a [u8] {
        let id = id as usize;
        &self.token_bytes[self.token_offsets[id] as usize..self.token_offsets[id + 1] as usize]
    }

    /// Appends the ids of `text`, any bytes, to `out`. An [`Encoder`] is better for many texts.
    pub fn encode(&self, text: &[u8], special: Special, out: &mut Vec<u32>) {
        Encoder::new(*self).encode(text, special, out);
    }

    /// Appends the bytes of `ids` to `out`. Pieces of a sequence may be decoded one after the other.
    ///
    /// # Errors
    /// [`TokenizerError::UnknownId`] at the first id that is not in the vocabulary; `out` then has the bytes
    /// of those before it.
    pub fn decode(&self, ids: &[u32], out: &mut Vec<u8>) -> Result<(), TokenizerError> {
        for &id in ids {
            if id as usize >= self.vocabulary_size() {
                return Err(TokenizerError::UnknownId { id, vocabulary_size: self.vocabulary_size() });
            }
            out.extend_from_slice(self.token(id));
        }
        Ok(())
    }

    /// An owned copy of the arrays.
    pub fn to_owned(&self) -> Tokenizer {
        Tokenizer {
            token_offsets: self.token_offsets.to_vec(),
            token_bytes: self.token_bytes.to_vec(),
            merges: self.merges.to_vec(),
            merge_slots: self.merge_slots.to_vec(),
        }
    }

    /// The ids of the tokens that merge and of what they become, by rank.
    pub fn merges(&self) -> &'a [[u32; 3]] {
        self.merges.as_chunks().0
    }

    pub(super) fn merge_table(&self) -> MergeTable<'a> {
        MergeTable::trusted(self.merge_slots, self.merges())
    }

    fn check_fixed_tokens(&self) -> Result<(), TokenizerError> {
        for (id, text) in (0..).zip(SPECIAL_TOKENS) {
            if self.token(id) != text.as_bytes() {
                return Err(damaged(format!("token {id} is not {text}")));
            }
        }
        for (id, byte) in (FIRST_BYTE..).zip(BYTES_BY_ID) {
            if self.token(id) != [byte] {
                return Err(damaged(format!("token {id} is not the byte 0x{byte:02X}")));
            }
        }
        Ok(())
    }

    fn check_merges(&self) -> Result<(), TokenizerError> {
        let (merges, rest) = self.merges.as_chunks::<3>();
        let table = MergeTable::new(self.merge_slots, merges)
            .ok_or_else(|| damaged("the merge table is not one of these merges"))?;
        if !rest.is_empty() || table.used() != merges.len() {
            return Err(damaged("the merge table does not hold as many merges as there are"));
        }
        for (rank, &[left, right, merged]) in merges.iter().enumerate() {
            if table.get(left, right).is_none_or(|found| found.rank as usize != rank) {
                return Err(damaged(format!("merge {rank} is not in the merge table")));
            }
            if !self.is_concatenation(left, right, merged) {
                return Err(damaged(format!("merge {rank} does not make token {merged}")));
            }
        }
        Ok(())
    }

    /// Whether `id` is a token made of the ordinary tokens `left` and `right`.
    fn is_concatenation(&self, left: u32, right: u32, id: u32) -> bool {
        let ordinary = |id: u32| id >= FIRST_BYTE && (id as usize) < self.vocabulary_size();
        ordinary(left)
            && ordinary(right)
            && ordinary(id)
            && self.token(id).strip_prefix(self.token(left)) == Some(self.token(right))
    }
}

fn check_offsets(offsets: &[u32], bytes: usize) -> Result<(), TokenizerError> {
    if offsets.len() <= MINIMUM_VOCABULARY {
        return Err(damaged(format!("it has fewer than {MINIMUM_VOCABULARY} tokens")));
    }
    if offsets[0] != 0 || !offsets.is_sorted_by(|a, b| a < b) || offsets[offsets.len() - 1] as usize != bytes
    {
        return Err(damaged("the tokens' offsets are out of order"));
    }
    Ok(())
}

fn damaged(what: impl Into<String>) -> TokenizerError {
    TokenizerError::Damaged(what.into())
}
