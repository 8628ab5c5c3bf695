//! Why training fails.

use super::TokensError;
use super::folder::FolderError;
use crate::checkpoint::{CheckpointError, RecipeError};
use crate::model::ConfigError;
use crate::text::TextError;
use std::io;
use std::path::PathBuf;
use thiserror::Error;

/// How often the rate of a run that diverges is halved before it is given up.
pub(super) const MOST_HALVINGS: i32 = 3;

/// Why a run ended early.
#[derive(Debug, Error)]
#[expect(missing_docs, reason = "the fields are what the messages name")]
pub enum TrainError {
    /// The folder for checkpoints can't be used.
    #[error(transparent)]
    Folder(#[from] FolderError),
    /// A checkpoint can't be read or written.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// The text can't be read any more.
    #[error(transparent)]
    Text(#[from] TextError),
    /// The text as tokens can't be written or read.
    #[error(transparent)]
    Tokens(#[from] TokensError),
    /// The text is too short to learn from.
    #[error(
        "the text has {training} tokens to train on and {validation} to validate on, where at least 2 and 1 are \
        needed; name more text, or, if it only repeats itself, a smaller --bpe-vocab-size"
    )]
    TooShort { training: usize, validation: usize },
    /// A resumed run reads another text than before.
    #[error(
        "the training or validation text is not the one this run was started on; \
        restore the files, or start a new run"
    )]
    OtherText,
    /// It was asked to stop before the first step; nothing was saved, as there was nothing to save.
    #[error("stopped before training began")]
    Interrupted,
    /// The model can't be.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The recipe can't be.
    #[error(transparent)]
    Recipe(#[from] RecipeError),
    /// The tokenizer is not the model's.
    #[error(
        "the model has a vocabulary of {model} tokens, and the tokenizer of {tokenizer}; train one for the other"
    )]
    Vocabulary { model: usize, tokenizer: usize },
    /// Threads can't be started.
    #[error("cannot start threads: {0}")]
    Threads(#[from] rayon::ThreadPoolBuildError),
    /// Not one thread can be started.
    #[error("cannot start a thread; end other programs, or raise the limits (ulimit -u, ulimit -v)")]
    Thread(#[source] io::Error),
    /// The checkpoints to roll back to were deleted.
    #[error("training diverged, and its checkpoints are no longer in {path}; start again, with a smaller --lr",
        path = path.display())]
    NothingToGoBackTo { path: PathBuf },
    /// Rolling back did not help.
    #[error("training diverged again, although the learning rate was halved {MOST_HALVINGS} times; \
        try a smaller --lr. The last good checkpoint is {}", checkpoint.display())]
    Diverged { checkpoint: PathBuf },
}
