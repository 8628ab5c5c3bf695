//! What a checkpoint holds.

use super::line::AsLines;
use crate::model::ModelConfig;
use crate::tokenizer::Tokenizer;
use rkyv::{Archive, Deserialize, Serialize};
use shoestring_kernels::{Line, padded};
use thiserror::Error;

/// Everything in a checkpoint, borrowed from a run to be saved.
#[derive(Archive, Serialize)]
pub struct Contents<'a> {
    /// Sizes and options of the model.
    pub config: ModelConfig,
    /// The tokenizer whose ids the model was trained on.
    pub tokenizer: Tokenizer,
    /// The weights, as [`crate::model::Layout`] lays them out; of a training, their average over its last steps.
    #[rkyv(with = AsLines)]
    pub weights: &'a [Line],
    /// How the model came to be.
    pub record: Record,
    /// What it takes to go on training; absent in a model that is only to be used.
    pub training: Option<TrainingState<'a>>,
}

/// How a model came to be.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq, Default)]
pub struct Record {
    /// Version of shoestring that wrote the file.
    pub version: String,
    /// Name of the kernels that trained it; another set may differ in the last bits.
    pub kernel: String,
    /// The training text had `[USER]`/`[BOT]` turns, so the model can hold a conversation.
    pub dialogue: bool,
    /// The settings it was trained with; absent if the model was imported.
    pub recipe: Option<Recipe>,
    /// Optimizer steps taken.
    pub step: u64,
    /// Passes over the training text finished.
    pub epoch: u32,
    /// Training tokens read.
    pub tokens: u64,
    /// Seconds spent.
    pub seconds: f64,
    /// Training loss, nats a token, smoothed over the last steps.
    pub loss: f64,
    /// Validations so far, oldest first.
    pub validations: Vec<Validation>,
    /// The share of tokens for which each expert was active, smoothed over the last steps, `[L, E]`; empty if
    /// k = E.
    pub expert_load: Vec<f32>,
}

/// One validation over the whole held-out text.
#[derive(Archive, Serialize, Deserialize, Clone, Copy, Debug, PartialEq)]
pub struct Validation {
    /// Optimizer step it was made at.
    pub step: u64,
    /// Mean loss, nats a token.
    pub nats_per_token: f64,
    /// Total nats by characters of the text.
    pub nats_per_char: f64,
    /// Total bits by bytes of the text.
    pub bits_per_byte: f64,
}

/// The settings of a training run.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq)]
pub struct Recipe {
    /// `classic`, or the name of a size: where the settings come from that no flag named.
    pub name: String,
    /// Streams of text read side by side.
    pub batch_size: usize,
    /// Tokens of a stream that one gradient spans.
    pub seq_length: usize,
    /// Peak learning rate.
    pub lr: f32,
    /// Steps over which the learning rate rises from zero.
    pub warmup_steps: u64,
    /// The learning rate decays along a half cosine to this part of its peak; 1 keeps it constant.
    pub final_lr: f32,
    /// AdamW's decay rate of the first moment.
    pub beta1: f32,
    /// AdamW's decay rate of the second moment.
    pub beta2: f32,
    /// AdamW's epsilon.
    pub eps_adamw: f32,
    /// Decoupled weight decay, on matrices only.
    pub wd: f32,
    /// Bound of the gradient's global norm.
    pub grad_clip: f32,
    /// Probability that an element of the embedding or of a layer's output is dropped in training, once the text
    /// has been read often; before that it is smaller.
    pub dropout: f32,
    /// How long the run is.
    pub length: RunLength,
    /// Seed of initialisation, data order and dropout.
    pub seed: u64,
}

/// Why there can be no run with a recipe.
#[derive(Clone, Copy, Debug, PartialEq, Error)]
#[expect(missing_docs, reason = "the fields are what the messages name")]
pub enum RecipeError {
    /// No streams of text.
    #[error("a recipe needs a batch of at least 1")]
    NoBatch,
    /// No tokens in a stream.
    #[error("a recipe needs sequences of at least 1 token")]
    NoSequence,
    /// Nothing would be left, or less than nothing dropped.
    #[error("a recipe's dropout must be from 0 to below 1, and is {dropout}")]
    Dropout { dropout: f32 },
}

impl Recipe {
    /// Checks that these are settings of a run there could be; a file may say anything.
    ///
    /// # Errors
    /// The first setting that is not.
    pub fn validate(&self) -> Result<(), RecipeError> {
        match self {
            Recipe { batch_size: 0, .. } => Err(RecipeError::NoBatch),
            Recipe { seq_length: 0, .. } => Err(RecipeError::NoSequence),
            Recipe { dropout, .. } if !(0.0..1.0).contains(dropout) => {
                Err(RecipeError::Dropout { dropout: *dropout })
            }
            _ => Ok(()),
        }
    }

    /// Floats of the state that a run carries from chunk to chunk, `[L, E, B, padded(H)]`; `None` if more than
    /// can be counted.
    pub(super) fn state_length(&self, config: &ModelConfig) -> Option<usize> {
        // A valid configuration's sizes are too small for their product to overflow.
        (config.layers * config.experts * padded(config.hidden)).checked_mul(self.batch_size)
    }
}

/// How long a run is.
#[derive(Archive, Serialize, Deserialize, Clone, Copy, Debug, PartialEq)]
pub enum RunLength {
    /// Passes over the training text.
    Epochs(u32),
    /// Minutes of wall-clock time.
    Minutes(f64),
    /// Optimizer steps.
    Steps(u64),
}

/// What it takes to go on training as if nothing had happened, besides the model.
#[derive(Archive, Serialize)]
pub struct TrainingState<'a> {
    /// The weights that training goes on from, where the model's own are their average.
    #[rkyv(with = AsLines)]
    pub weights: &'a [Line],
    /// AdamW's first and second moments, each laid out as the weights: `[2, lines]`.
    #[rkyv(with = AsLines)]
    pub moments: &'a [Line],
    /// The position in the text and the rest of the small numbers.
    pub position: Position,
    /// Files the training text came from.
    pub model_data: Vec<String>,
    /// Files the validation text came from; empty if it is the end of the training text.
    pub validation_data: Vec<String>,
}

/// Where a training run stands. All randomness is a function of the seed and of these counters.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq)]
pub struct Position {
    /// Chunks of the current epoch already trained on.
    pub chunk: u64,
    /// The state carried from the last chunk to the next, `[L, E, B, padded(H)]`.
    pub carried_state: Vec<f32>,
    /// What the learning rate was scaled by after divergences.
    pub lr_scale: f32,
    /// Divergences so far.
    pub divergences: u32,
    /// The lowest smoothed loss so far, against which an explosion is noticed.
    pub lowest_loss: f64,
    /// Hash of the training and validation text, so that a resumed run is known to read the same.
    pub text_hash: u64,
}
