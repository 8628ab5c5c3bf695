//! The flags of `shoestring train`.

use crate::checkpoint::{Recipe, RunLength};
use crate::cli::arguments::{below_one, duration, float, minutes, positive, seed, whole};
use crate::cores;
use crate::model::ModelConfig;
use crate::tokenizer::MINIMUM_VOCABULARY;
use crate::train::{Options, Size};
use clap::builder::{PossibleValuesParser, TypedValueParser};
use clap::{Args, ValueEnum};
use shoestring_kernels::Kernels;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

#[derive(Args)]
#[command(after_help = "Examples:\n  shoestring train --model-data book.txt --minutes 10\n  \
    shoestring train --config run.toml --seed 2\n  \
    shoestring train --checkpoint checkpoints/step-00012000.shoe --minutes 20")]
pub struct TrainArgs {
    /// TOML file with settings: its keys are these flags, without the dashes before them; flags win
    ///
    /// A key it does not know is an error, and so is a value that the flag would not take. A switch is true or
    /// false; what takes several files may be an array. `shoestring inspect FILE --config` writes such a file.
    #[arg(long, value_name = "FILE")]
    pub(super) config: Option<PathBuf>,

    /// Text to train on: files, or folders of .txt files; by default the bundled corpus
    // As `eval` and `tokenizer train` call it.
    #[arg(long, alias = "data", value_name = "FILE", num_args = 1.., help_heading = "Text")]
    pub(super) model_data: Vec<PathBuf>,
    /// Text to train the tokenizer on; by default the training text
    #[arg(long, value_name = "FILE", num_args = 1.., help_heading = "Text")]
    pub(super) bpe_data: Vec<PathBuf>,
    /// Text to validate on; by default the last 10 % of the training text, which is then not trained on
    #[arg(long, value_name = "FILE", num_args = 1.., help_heading = "Text")]
    pub(super) validation_data: Vec<PathBuf>,

    #[command(flatten)]
    pub(super) model: ModelArgs,
    #[command(flatten)]
    pub(super) training: TrainingArgs,

    /// Checkpoint to resume from
    #[arg(long, value_name = "FILE", help_heading = "Checkpoints")]
    pub(super) checkpoint: Option<PathBuf>,
    /// Folder for checkpoints and metrics.jsonl [default: checkpoints, or the resumed checkpoint's folder]
    #[arg(long, value_name = "DIR", help_heading = "Checkpoints")]
    pub(super) checkpoint_dir: Option<PathBuf>,
    /// Longest time between checkpoints, such as 30s or 5m
    ///
    /// One is also saved at each validation, and on Ctrl-C.
    #[arg(long, value_name = "TIME", default_value = "2m", value_parser = duration, help_heading = "Checkpoints")]
    pub(super) save_every: Duration,
    /// Numbered checkpoints to keep, besides the best
    ///
    /// Where these are only a few steps old, one or two older ones are kept too, to go back to if training diverges.
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = whole::<usize, 1, 1_000_000>, help_heading = "Checkpoints")]
    pub(super) keep: usize,

    /// Threads [default: one a physical core]; the result does not depend on it
    #[arg(long, value_name = "N", value_parser = threads)]
    pub(super) threads: Option<usize>,
    /// Train even if there seems to be too little memory
    ///
    /// The limits of control groups and of `ulimit -v` count. A run that outgrows them is ended by the system.
    #[arg(long)]
    pub(super) force: bool,
    /// Don't start a chat after training
    #[arg(long)]
    pub(super) no_chat: bool,
}

/// Sizes of the model.
#[derive(Args)]
#[command(next_help_heading = "Model")]
pub struct ModelArgs {
    /// Sizes of the model, and the recipe that suits them [default: small]
    ///
    /// About 0.1, 0.5, 2 or 5 million parameters. The flags below, and those for training, win over it.
    #[arg(long, value_name = "SIZE", value_parser = size_names())]
    pub(super) size: Option<Size>,
    /// Tokens in the vocabulary
    #[arg(long, value_name = "N", value_parser = vocabulary)]
    pub(super) bpe_vocab_size: Option<usize>,
    /// Width of a token's embedding
    #[arg(long, value_name = "N", value_parser = whole::<usize, 1, { 1 << 14 }>)]
    pub(super) embedding_dim: Option<usize>,
    /// Width of an expert's state
    #[arg(long, value_name = "N", value_parser = whole::<usize, 1, { 1 << 14 }>)]
    pub(super) gru_hidden_size: Option<usize>,
    /// Layers
    #[arg(long, value_name = "N", value_parser = whole::<usize, 1, 64>)]
    pub(super) gru_layers: Option<usize>,
    /// Experts a layer
    #[arg(long, value_name = "N", value_parser = whole::<usize, 1, 256>)]
    pub(super) num_experts: Option<usize>,
    /// Experts that run for a token [default: all]
    #[arg(long, value_name = "N", value_parser = whole::<usize, 1, 256>)]
    pub(super) top_k: Option<usize>,
    /// Share the embedding's matrix with the head (needs equal widths)
    #[arg(long)]
    pub(super) tied: bool,
    /// Epsilon of RMSNorm
    #[arg(long, value_name = "X", value_parser = rmsnorm_epsilon)]
    pub(super) eps_rmsnorm: Option<f32>,
}

/// How to train. What no flag names comes from the recipe, or from the checkpoint when resuming.
#[derive(Args)]
#[command(next_help_heading = "Training")]
pub struct TrainingArgs {
    /// Where the settings come from that no flag names
    ///
    /// When a run is resumed they come from its checkpoint.
    #[arg(long, value_enum)]
    pub(super) recipe: Option<RecipeName>,
    /// Train for so many passes over the text
    ///
    /// The learning rate falls to the end of the run, so the length is part of the recipe: of --epochs,
    /// --minutes and --steps only one may be given.
    #[arg(long, value_name = "N", value_parser = whole::<u32, 1, { u32::MAX as u64 }>, group = "length")]
    pub(super) epochs: Option<u32>,
    /// Train for so many minutes of wall-clock time
    ///
    /// The bundled corpus gets 3. No two such runs are the same; those by --epochs and --steps are, to the bit.
    #[arg(long, value_name = "X", value_parser = minutes, group = "length")]
    pub(super) minutes: Option<f64>,
    /// Train for so many optimizer steps
    #[arg(long, value_name = "N", value_parser = whole::<u64, 1, { u64::MAX }>, group = "length")]
    pub(super) steps: Option<u64>,
    /// Streams of text read side by side
    #[arg(long, value_name = "N", value_parser = whole::<usize, 1, 4096>)]
    pub(super) batch_size: Option<usize>,
    /// Tokens one gradient spans
    ///
    /// The state is carried on from one stretch to the next.
    #[arg(long, value_name = "N", value_parser = whole::<usize, 1, 65_536>)]
    pub(super) seq_length: Option<usize>,
    /// Peak learning rate
    #[arg(long, value_name = "X", value_parser = float::<0, 100>)]
    pub(super) lr: Option<f32>,
    /// Steps over which the learning rate rises, a tenth of the run at most
    #[arg(long, value_name = "N", value_parser = whole::<u64, 0, { u64::MAX }>)]
    pub(super) warmup_steps: Option<u64>,
    /// Part of the learning rate that is left at the end; 1 keeps it constant
    #[arg(long, value_name = "X", value_parser = float::<0, 1>)]
    pub(super) final_lr: Option<f32>,
    /// Weight decay of matrices
    #[arg(long, value_name = "X", value_parser = float::<0, 100>)]
    pub(super) wd: Option<f32>,
    /// Largest norm of a gradient
    #[arg(long, value_name = "X", value_parser = positive)]
    pub(super) grad_clip: Option<f32>,
    /// Probability of dropping an element of an embedding or a layer's output, after many passes
    ///
    /// A text that is read for the first time needs little: it begins with 0.15 of this, or less
    /// if the text has more tokens than the model parameters, and rises evenly, to all of it
    /// after 49 passes if there is a parameter for each token, after half as many if there are
    /// two. More against learning a small text by heart; 0 for none.
    #[arg(long, value_name = "P", value_parser = below_one)]
    pub(super) dropout: Option<f32>,
    /// AdamW's decay rate of the first moment
    #[arg(long, value_name = "X", value_parser = below_one)]
    pub(super) beta1: Option<f32>,
    /// AdamW's decay rate of the second moment
    #[arg(long, value_name = "X", value_parser = below_one)]
    pub(super) beta2: Option<f32>,
    /// Epsilon of AdamW
    #[arg(long, value_name = "X", value_parser = positive)]
    pub(super) eps_adamw: Option<f32>,
    /// Seed of the weights, the data order and dropout
    #[arg(long, value_name = "N", value_parser = seed)]
    pub(super) seed: Option<u64>,
}

#[derive(Clone, Copy, PartialEq, ValueEnum)]
pub enum RecipeName {
    /// What trains best
    Default,
    /// How the model's first implementation trained it
    Classic,
}

impl TrainArgs {
    /// The options for a run on `kernels` that ends once `interrupt` is true.
    pub fn options(&self, kernels: &'static Kernels, interrupt: Arc<AtomicBool>) -> Options {
        let threads = self.threads.unwrap_or_else(cores);
        Options { kernels, threads, save_every: self.save_every, interrupt }
    }
}

impl ModelArgs {
    pub fn size(&self) -> Size {
        self.size.unwrap_or_default()
    }
}

impl TrainingArgs {
    /// Lets every flag that was given win over the recipe.
    pub fn apply(&self, recipe: &mut Recipe) {
        fn set<T: Copy>(setting: &mut T, flag: Option<T>) {
            if let Some(value) = flag {
                *setting = value;
            }
        }
        set(&mut recipe.batch_size, self.batch_size);
        set(&mut recipe.seq_length, self.seq_length);
        set(&mut recipe.lr, self.lr);
        set(&mut recipe.warmup_steps, self.warmup_steps);
        set(&mut recipe.final_lr, self.final_lr);
        set(&mut recipe.wd, self.wd);
        set(&mut recipe.grad_clip, self.grad_clip);
        set(&mut recipe.dropout, self.dropout);
        set(&mut recipe.beta1, self.beta1);
        set(&mut recipe.beta2, self.beta2);
        set(&mut recipe.eps_adamw, self.eps_adamw);
        set(&mut recipe.seed, self.seed);
        let epochs = self.epochs.map(RunLength::Epochs);
        let minutes = self.minutes.map(RunLength::Minutes);
        set(&mut recipe.length, epochs.or(minutes).or(self.steps.map(RunLength::Steps)));
    }
}

fn size_names() -> impl TypedValueParser<Value = Size> {
    let names = Size::ALL.map(Size::name);
    PossibleValuesParser::new(names).try_map(|name| Size::named(&name).ok_or("no such size"))
}

pub fn vocabulary(text: &str) -> Result<usize, String> {
    whole::<usize, { MINIMUM_VOCABULARY as u64 }, { 1 << 20 }>(text)
}

fn rmsnorm_epsilon(text: &str) -> Result<f32, String> {
    let [low, high] = ModelConfig::EPS_RMSNORM;
    let value = text.parse().ok().filter(|value| (low..=high).contains(value));
    value.ok_or_else(|| format!("it must be a number between {low:e} and {high}"))
}

pub fn threads(text: &str) -> Result<usize, String> {
    whole::<usize, 1, 1024>(text)
}
