//! Laying out tokens and merges as flat arrays.

use super::alphabet::BYTES_BY_ID;
use super::{SPECIAL_TOKENS, Tokenizer, TokenizerError, merge_table};

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
        Ok(Self {
            token_offsets,
            token_bytes: tokens.concat(),
            merge_slots: merge_table::build(merges),
            merges: merges.iter().flat_map(|&(left, right, merged)| [left, right, merged]).collect(),
        })
    }
}

/// The tokens that every vocabulary starts with, by id.
pub(super) fn fixed_tokens() -> Vec<Vec<u8>> {
    let special = SPECIAL_TOKENS.iter().map(|token| token.as_bytes().to_vec());
    special.chain(BYTES_BY_ID.iter().map(|&byte| vec![byte])).collect()
}
