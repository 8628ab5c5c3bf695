//! Laying out tokens and merges as flat arrays.

use super::alphabet::BYTES_BY_ID;
use super::{ArchivedTokenizer, SPECIAL_TOKENS, Tokenizer, TokenizerError, TokenizerView, merge_table};

impl Tokenizer {
    /// Lays out `tokens`, by id, and `merges` (left, right, merged id), by rank: no pair twice.
    pub(super) fn from_parts(tokens: &[Vec<u8>], merges: &[(u32, u32, u32)]) -> Result<Self, TokenizerError> {
        let mut token_offsets = vec![0];
        let mut end = 0u32;
        for token in tokens {
            let sum = u32::try_from(token.len()).ok().and_then(|length| end.checked_add(length));
            end = sum.ok_or(TokenizerError::TooLarge { what: "the tokens" })?;
            token_offsets.push(end);
        }
        let merges = merges.iter().flat_map(|&(left, right, merged)| [left, right, merged]).collect();
        Ok(Self::from_arrays(token_offsets, tokens.concat(), merges))
    }

    fn from_arrays(token_offsets: Vec<u32>, token_bytes: Vec<u8>, merges: Vec<u32>) -> Self {
        let merge_slots = merge_table::build(merges.as_chunks().0);
        Self { token_offsets, token_bytes, merges, merge_slots }
    }
}

impl ArchivedTokenizer {
    /// The tokenizer of a file, which may lie, with the hash table that is not stored: O(V), unless its pairs are chosen to collide.
    ///
    /// # Errors
    /// As [`TokenizerView::new`].
    pub fn unpack(&self) -> Result<Tokenizer, TokenizerError> {
        let (offsets, merges) = (self.token_offsets.to_vec(), self.merges.to_vec());
        let tokenizer = Tokenizer::from_arrays(offsets, self.token_bytes.to_vec(), merges);
        let Tokenizer { token_offsets, token_bytes, merges, merge_slots } = &tokenizer;
        TokenizerView::new(token_offsets, token_bytes, merges, merge_slots)?;
        Ok(tokenizer)
    }
}

/// The tokens that every vocabulary starts with, by id.
pub(super) fn fixed_tokens() -> Vec<Vec<u8>> {
    let special = SPECIAL_TOKENS.iter().map(|token| token.as_bytes().to_vec());
    special.chain(BYTES_BY_ID.iter().map(|&byte| vec![byte])).collect()
}
