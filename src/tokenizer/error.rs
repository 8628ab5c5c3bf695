//! What can be wrong with a tokenizer or its file.

/// Why a tokenizer could not be trained, read or used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TokenizerError {
    /// The requested vocabulary cannot hold the special tokens and the bytes.
    #[error("a vocabulary of {size} is too small: it must be at least {}", super::MINIMUM_VOCABULARY)]
    VocabularyTooSmall {
        /// The requested number of tokens.
        size: usize,
    },
    /// Something outgrew the 32-bit numbers it is stored in.
    #[error("{what} outgrow 32-bit numbers; train on less text or with a smaller vocabulary")]
    TooLarge {
        /// What outgrew them.
        what: &'static str,
    },
    /// Training was broken off.
    #[error("training the tokenizer was broken off")]
    Interrupted,
    /// The arrays of a stored tokenizer contradict each other.
    #[error("the tokenizer is damaged: {0}")]
    Damaged(String),
    /// An id to decode is not in the vocabulary.
    #[error("token id {id} is not in the vocabulary of {vocabulary_size} (its ids are below that)")]
    UnknownId {
        /// The id.
        id: u32,
        /// The number of tokens there are.
        vocabulary_size: usize,
    },
    /// The text is not JSON.
    #[error("not JSON: {0}")]
    Json(#[from] serde_json::Error),
    /// A field is missing or has the wrong type.
    #[error("`{field}` should be {expected}")]
    Field {
        /// The field's path in the file.
        field: String,
        /// What should stand there.
        expected: &'static str,
    },
    /// A setting that would make this tokenizer encode or decode otherwise than the file says.
    #[error("`{field}` is {found}; supported: {supported}")]
    Unsupported {
        /// The field's path in the file.
        field: String,
        /// Its value, shortened.
        found: String,
        /// The values that are supported.
        supported: &'static str,
    },
    /// A vocabulary entry that cannot be: a gap, a missing byte, a misplaced special token.
    #[error("the vocabulary has {0}")]
    Vocabulary(String),
    /// A merge that is malformed or names a token that is not there.
    #[error("merge {rank} ({merge}): {problem}")]
    Merge {
        /// Its place in the list, from 0.
        rank: usize,
        /// The merge as the file spells it.
        merge: String,
        /// What is wrong with it.
        problem: &'static str,
    },
}
