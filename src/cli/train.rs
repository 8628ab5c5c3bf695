//! `shoestring train`

use super::arguments::{below_one, duration, float, minutes, positive, seed, whole};
use super::progress::{Display, Plan, Reading};
use super::{CHECKPOINTS, Globals, INTERRUPTED, UsageError, chat, memory, name_paths, signals, tell};
use crate::bundled;
use crate::checkpoint::{Checkpoint, CheckpointError, Recipe, RunLength};
use crate::cores;
use crate::model::{Layout, ModelConfig};
use crate::text::{Text, TextError};
use crate::tokenizer::{MINIMUM_VOCABULARY, Pieces, Tokenizer, Trainer};
use crate::train::{
    Corpus, Event, Options, Outcome, Run, RunFolder, Size, TrainError, classic_recipe, default_recipe,
};
use anyhow::{Result, anyhow};
use clap::builder::{PossibleValuesParser, TypedValueParser};
use clap::{Args, ValueEnum};
use std::io::{IsTerminal, Read, stdin, stdout};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

/// Minutes that suit the bundled corpus.
const BUNDLED_MINUTES: f64 = 3.0;

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
    config: Option<PathBuf>,

    /// Text to train on: files, or folders of .txt files; by default the bundled corpus
    #[arg(long, value_name = "FILE", num_args = 1.., help_heading = "Text")]
    model_data: Vec<PathBuf>,
    /// Text to train the tokenizer on; by default the training text
    #[arg(long, value_name = "FILE", num_args = 1.., help_heading = "Text")]
    bpe_data: Vec<PathBuf>,
    /// Text to validate on; by default the last 10 % of the training text, which is then not trained on
    #[arg(long, value_name = "FILE", num_args = 1.., help_heading = "Text")]
    validation_data: Vec<PathBuf>,

    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    training: TrainingArgs,

    /// Checkpoint to resume from
    #[arg(long, value_name = "FILE", help_heading = "Checkpoints")]
    checkpoint: Option<PathBuf>,
    /// Folder for checkpoints and metrics.jsonl [default: checkpoints, or the resumed checkpoint's folder]
    #[arg(long, value_name = "DIR", help_heading = "Checkpoints")]
    checkpoint_dir: Option<PathBuf>,
    /// Longest time between checkpoints, such as 30s or 5m
    ///
    /// One is also saved at each validation, and on Ctrl-C.
    #[arg(long, value_name = "TIME", default_value = "2m", value_parser = duration, help_heading = "Checkpoints")]
    save_every: Duration,
    /// Numbered checkpoints to keep, besides the best
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = keep, help_heading = "Checkpoints")]
    keep: usize,

    /// Threads [default: one a physical core]; the result does not depend on it
    #[arg(long, value_name = "N", value_parser = threads)]
    threads: Option<usize>,
    /// Train even if there seems to be too little memory
    ///
    /// The limits of control groups and of `ulimit -v` count. A run that outgrows them is ended by the system.
    #[arg(long)]
    force: bool,
    /// Don't start a chat after training
    #[arg(long)]
    no_chat: bool,
}

/// Sizes of the model.
#[derive(Args)]
#[command(next_help_heading = "Model")]
struct ModelArgs {
    /// Sizes of the model, and the recipe that suits them [default: small]
    ///
    /// About 0.1, 0.5, 2 or 5 million parameters. The flags below, and those for training, win over it.
    #[arg(long, value_name = "SIZE", value_parser = size_names())]
    size: Option<Size>,
    /// Tokens in the vocabulary
    #[arg(long, value_name = "N", value_parser = vocabulary)]
    bpe_vocab_size: Option<usize>,
    /// Width of a token's embedding
    #[arg(long, value_name = "N", value_parser = width)]
    embedding_dim: Option<usize>,
    /// Width of an expert's state
    #[arg(long, value_name = "N", value_parser = width)]
    gru_hidden_size: Option<usize>,
    /// Layers
    #[arg(long, value_name = "N", value_parser = layers)]
    gru_layers: Option<usize>,
    /// Experts a layer
    #[arg(long, value_name = "N", value_parser = experts)]
    num_experts: Option<usize>,
    /// Experts that run for a token [default: all]
    #[arg(long, value_name = "N", value_parser = experts)]
    top_k: Option<usize>,
    /// Share the embedding's matrix with the head (needs equal widths)
    #[arg(long)]
    tied: bool,
    /// Epsilon of RMSNorm
    #[arg(long, value_name = "X", value_parser = positive)]
    eps_rmsnorm: Option<f32>,
}

/// How to train. What no flag names comes from the recipe, or from the checkpoint when resuming.
#[derive(Args)]
#[command(next_help_heading = "Training")]
struct TrainingArgs {
    /// Where the settings come from that no flag names
    ///
    /// When a run is resumed they come from its checkpoint.
    #[arg(long, value_enum)]
    recipe: Option<RecipeName>,
    /// Train for so many passes over the text
    ///
    /// The learning rate falls to the end of the run, so the length is part of the recipe: of --epochs,
    /// --minutes and --steps only one may be given.
    #[arg(long, value_name = "N", value_parser = whole::<u32, 1, { u32::MAX as u64 }>, group = "length")]
    epochs: Option<u32>,
    /// Train for so many minutes of wall-clock time
    ///
    /// The bundled corpus gets 3. No two such runs are the same; those by --epochs and --steps are, to the bit.
    #[arg(long, value_name = "X", value_parser = minutes, group = "length")]
    minutes: Option<f64>,
    /// Train for so many optimizer steps
    #[arg(long, value_name = "N", value_parser = whole::<u64, 1, { u64::MAX }>, group = "length")]
    steps: Option<u64>,
    /// Streams of text read side by side
    #[arg(long, value_name = "N", value_parser = batch)]
    batch_size: Option<usize>,
    /// Tokens one gradient spans
    ///
    /// The state is carried on from one stretch to the next.
    #[arg(long, value_name = "N", value_parser = sequence)]
    seq_length: Option<usize>,
    /// Peak learning rate
    #[arg(long, value_name = "X", value_parser = float::<0, 100>)]
    lr: Option<f32>,
    /// Steps over which the learning rate rises
    #[arg(long, value_name = "N", value_parser = whole::<u64, 0, { u64::MAX }>)]
    warmup_steps: Option<u64>,
    /// Part of the learning rate that is left at the end; 1 keeps it constant
    #[arg(long, value_name = "X", value_parser = float::<0, 1>)]
    final_lr: Option<f32>,
    /// Weight decay of matrices
    #[arg(long, value_name = "X", value_parser = float::<0, 100>)]
    wd: Option<f32>,
    /// Largest norm of a gradient
    #[arg(long, value_name = "X", value_parser = positive)]
    grad_clip: Option<f32>,
    /// Probability of dropping an element of an embedding or a layer's output
    ///
    /// More (0.2 or 0.3) against learning a small text by heart.
    #[arg(long, value_name = "P", value_parser = below_one)]
    dropout: Option<f32>,
    /// AdamW's decay rate of the first moment
    #[arg(long, value_name = "X", value_parser = below_one)]
    beta1: Option<f32>,
    /// AdamW's decay rate of the second moment
    #[arg(long, value_name = "X", value_parser = below_one)]
    beta2: Option<f32>,
    /// Epsilon of AdamW
    #[arg(long, value_name = "X", value_parser = positive)]
    eps_adamw: Option<f32>,
    /// Seed of the weights, the data order and dropout
    #[arg(long, value_name = "N", value_parser = seed)]
    seed: Option<u64>,
}

#[derive(Clone, Copy, PartialEq, ValueEnum)]
enum RecipeName {
    /// What trains best
    Default,
    /// The model's documented settings
    Classic,
}

fn size_names() -> impl TypedValueParser<Value = Size> {
    let names = Size::ALL.map(Size::name);
    PossibleValuesParser::new(names).try_map(|name| Size::named(&name).ok_or("no such size"))
}

pub(super) fn vocabulary(text: &str) -> Result<usize, String> {
    whole::<usize, { MINIMUM_VOCABULARY as u64 }, { 1 << 20 }>(text)
}

fn width(text: &str) -> Result<usize, String> {
    whole::<usize, 1, { 1 << 14 }>(text)
}

fn layers(text: &str) -> Result<usize, String> {
    whole::<usize, 1, 64>(text)
}

fn experts(text: &str) -> Result<usize, String> {
    whole::<usize, 1, 256>(text)
}

fn batch(text: &str) -> Result<usize, String> {
    whole::<usize, 1, 4096>(text)
}

fn sequence(text: &str) -> Result<usize, String> {
    whole::<usize, 1, 65_536>(text)
}

pub(super) fn threads(text: &str) -> Result<usize, String> {
    whole::<usize, 1, 1024>(text)
}

fn keep(text: &str) -> Result<usize, String> {
    whole::<usize, 1, 1_000_000>(text)
}

pub fn run(args: TrainArgs, globals: Globals) -> Result<ExitCode> {
    // Before anything is read or computed: a Ctrl-C must never lose what there is.
    let stop = signals::stop_flag(globals.quiet)?;
    let mut run = match &args.checkpoint {
        Some(path) => resume(&args, path, globals)?,
        None => start(&args, globals)?,
    };
    let plan = Plan { length: run.length(), tokens: run.tokens().0 };
    let mut display = Display::new(globals.quiet, plan);
    let outcome = run.train(&stop, &mut |event| display.show(&event));
    display.finish();
    let folder = run.folder();
    let outcome = outcome.map_err(|error| with_way_on(error, folder))?;
    let newest = folder.newest().unwrap_or(folder.path()).to_owned();
    match outcome {
        Outcome::Interrupted => {
            if !globals.quiet {
                tell!("Stopped and saved. Go on with: shoestring train --checkpoint {}", newest.display());
            }
            Ok(ExitCode::from(INTERRUPTED))
        }
        Outcome::Finished => {
            let model = folder.best().unwrap_or(newest);
            if !globals.quiet {
                display.summary(run.record(), &model);
            }
            drop(run);
            if !args.no_chat && stdin().is_terminal() && stdout().is_terminal() {
                chat::with_model(&model, globals)?;
            }
            Ok(ExitCode::SUCCESS)
        }
    }
}

/// An error that a run ended with; where its last save failed, with where to go on from.
fn with_way_on(error: TrainError, folder: &RunFolder) -> anyhow::Error {
    let newest = folder.newest().filter(|newest| newest.exists());
    match (&error, newest) {
        (TrainError::Checkpoint(CheckpointError::Save { .. }), Some(newest)) => {
            anyhow!(
                "{error}. Go on from the last save with: shoestring train --checkpoint {}",
                newest.display()
            )
        }
        _ => error.into(),
    }
}

fn start(args: &TrainArgs, globals: Globals) -> Result<Run> {
    let corpus = read_corpus(&args.model_data, &args.validation_data, globals)?;
    let tokenizer = train_tokenizer(args, &corpus, globals)?;
    let config = new_config(&args.model, tokenizer.view().vocabulary_size())?;
    let mut recipe = match args.training.recipe {
        None | Some(RecipeName::Default) => args.model.size().recipe(config.top_k < config.experts),
        Some(RecipeName::Classic) => classic_recipe(),
    };
    if args.model_data.is_empty() && args.training.recipe.is_none() {
        recipe.length = RunLength::Minutes(BUNDLED_MINUTES);
    }
    args.training.apply(&mut recipe);
    let memory = memory::check(&config, &recipe, args.force)?;
    let path = args.checkpoint_dir.as_deref().unwrap_or(Path::new(CHECKPOINTS));
    let folder = RunFolder::open(path, args.keep, None)?;
    let options = args.options();
    let (kernels, mut observe) = (globals.kernels, show_tokenizing(globals));
    let run = Run::start(config, recipe, tokenizer, corpus, kernels, folder, options.clone(), &mut observe)?;
    drop(observe);
    announce(&run, config, &args.model_data, memory, &options, globals);
    Ok(run)
}

fn resume(args: &TrainArgs, path: &Path, globals: Globals) -> Result<Run> {
    let checkpoint = Checkpoint::open(path)?;
    let training = checkpoint.training()?;
    let record = checkpoint.record();
    let mut recipe = record.recipe.clone().unwrap_or_else(default_recipe);
    refuse_contradictions(args, &checkpoint, &recipe)?;
    args.training.apply(&mut recipe);
    let memory = memory::check(&checkpoint.config(), &recipe, args.force)?;
    let given = |flag: &[PathBuf], stored: Vec<PathBuf>| if flag.is_empty() { stored } else { flag.to_vec() };
    let model_data = given(&args.model_data, training.model_data());
    let validation_data = given(&args.validation_data, training.validation_data());
    let corpus = read_corpus(&model_data, &validation_data, globals).map_err(|error| {
        let (model, validation) = (args.model_data.is_empty(), args.validation_data.is_empty());
        match error.downcast_ref() {
            Some(TextError::Io { path, .. }) if model && model_data.contains(path) => {
                anyhow!("{error}; if the text is elsewhere now, name it with --model-data")
            }
            Some(TextError::Io { path, .. }) if validation && validation_data.contains(path) => {
                anyhow!("{error}; if the text is elsewhere now, name it with --validation-data")
            }
            _ => error,
        }
    })?;
    let folder = resumed_folder(args, path, record.step)?;
    let options = args.options();
    let (kernels, mut observe) = (globals.kernels, show_tokenizing(globals));
    let run = Run::resume(&checkpoint, recipe, corpus, kernels, folder, options.clone(), &mut observe)?;
    drop(observe);
    if !globals.quiet {
        tell!("Resuming {} at step {}, epoch {}.", path.display(), record.step, record.epoch);
        if record.kernel != globals.kernels.name() {
            let (before, now) = (&record.kernel, globals.kernels.name());
            tell!(
                "Its kernels were {before}, now {now}: weights may differ from an undisturbed run's in the last bits."
            );
        }
    }
    announce(&run, checkpoint.config(), &model_data, memory, &options, globals);
    Ok(run)
}

/// Shows what a run does with its text before it starts; dropped, nothing of it is left on a terminal.
fn show_tokenizing(globals: Globals) -> impl FnMut(Event<'_>) {
    let mut reading = Reading::new("Text turned into tokens", globals.quiet);
    move |event| {
        if let Event::Tokenizing { done, total } = event {
            reading.show(done, total);
        }
    }
}

/// The folder to go on in: the checkpoint's, or a new one, where another run's files are not this one's.
fn resumed_folder(args: &TrainArgs, checkpoint: &Path, step: u64) -> Result<RunFolder> {
    let parent =
        checkpoint.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let same =
        |folder: &Path| matches!((folder.canonicalize(), parent.canonicalize()), (Ok(a), Ok(b)) if a == b);
    match args.checkpoint_dir.as_deref() {
        Some(folder) if !same(folder) => Ok(RunFolder::open(folder, args.keep, None)?),
        _ => Ok(RunFolder::open(parent, args.keep, Some(step))?),
    }
}

/// An error for every flag that says something else than the checkpoint about what can't be changed.
fn refuse_contradictions(args: &TrainArgs, checkpoint: &Checkpoint, recipe: &Recipe) -> Result<()> {
    let config = checkpoint.config();
    let (model, training) = (&args.model, &args.training);
    let fixed = [
        ("--bpe-vocab-size", model.bpe_vocab_size, config.vocabulary),
        ("--embedding-dim", model.embedding_dim, config.embedding),
        ("--gru-hidden-size", model.gru_hidden_size, config.hidden),
        ("--gru-layers", model.gru_layers, config.layers),
        ("--num-experts", model.num_experts, config.experts),
        ("--top-k", model.top_k, config.top_k),
        ("--batch-size", training.batch_size, recipe.batch_size),
        ("--seq-length", training.seq_length, recipe.seq_length),
    ];
    let mut contradictions: Vec<String> = fixed
        .into_iter()
        .filter_map(|(flag, given, stored)| Some((flag, given?, stored)))
        .filter(|(_, given, stored)| given != stored)
        .map(|(flag, given, stored)| format!("{flag} {given} (the checkpoint has {stored})"))
        .collect();
    let is_other = |size: &Size| Size::of(&config) != Some(*size) && recipe.name != size.name();
    if let Some(size) = model.size.filter(is_other) {
        contradictions.push(format!("--size {} (the checkpoint has other sizes)", size.name()));
    }
    if training.seed.is_some_and(|seed| seed != recipe.seed) {
        contradictions.push(format!("--seed (the checkpoint has {})", recipe.seed));
    }
    if model.eps_rmsnorm.is_some_and(|eps| eps != config.eps_rmsnorm) {
        contradictions.push(format!("--eps-rmsnorm (the checkpoint has {})", config.eps_rmsnorm));
    }
    if model.tied && !config.tied {
        contradictions.push("--tied (the checkpoint's head is its own)".to_owned());
    }
    if !args.bpe_data.is_empty() {
        contradictions.push("--bpe-data (the tokenizer comes from the checkpoint)".to_owned());
    }
    let name = training.recipe.as_ref().and_then(ValueEnum::to_possible_value);
    if name.is_some_and(|name| name.get_name() != recipe.name) {
        contradictions.push(
            "--recipe (the settings come from the checkpoint; single flags may change them)".to_owned(),
        );
    }
    if contradictions.is_empty() {
        return Ok(());
    }
    let what = contradictions.join(", ");
    Err(UsageError(format!("{} can't be resumed with {what}; leave it out", checkpoint.path().display()))
        .into())
}

fn read_corpus(model_data: &[PathBuf], validation_data: &[PathBuf], globals: Globals) -> Result<Corpus> {
    let text =
        if model_data.is_empty() { Text::from_static(bundled::CORPUS) } else { Text::open(model_data)? };
    let validation = if validation_data.is_empty() { None } else { Some(Text::open(validation_data)?) };
    let converted = text.converted_line_ends() || validation.as_ref().is_some_and(Text::converted_line_ends);
    if converted && !globals.quiet {
        tell!("Windows line ends in the text are read as plain ones.");
    }
    Ok(Corpus::new(text, validation)?)
}

fn train_tokenizer(args: &TrainArgs, corpus: &Corpus, globals: Globals) -> Result<Tokenizer> {
    let text = if args.bpe_data.is_empty() { None } else { Some(Text::open(&args.bpe_data)?) };
    let (reader, length): (Box<dyn Read + '_>, u64) = match &text {
        Some(text) => (Box::new(text.reader()), text.length()),
        None => (Box::new(corpus.training()), corpus.training_length()),
    };
    if !globals.quiet {
        tell!("Training the tokenizer on {}.", size(length));
    }
    let vocabulary = args.model.bpe_vocab_size.unwrap_or(args.model.size().config().vocabulary);
    let mut trainer = Trainer::new(vocabulary, args.options().threads)?;
    let mut pieces = Pieces::new(reader);
    let (mut done, mut reading) = (0, Reading::new("Words counted", globals.quiet));
    while let Some(piece) = pieces.next_piece().map_err(TextError::from_read)? {
        trainer.count(piece);
        done += piece.len() as u64;
        reading.show(done, length);
    }
    Ok(trainer.train(|_, _| ())?)
}

fn new_config(args: &ModelArgs, vocabulary: usize) -> Result<ModelConfig> {
    let size = args.size().config();
    let experts = args.num_experts.unwrap_or(size.experts);
    let config = ModelConfig {
        vocabulary,
        embedding: args.embedding_dim.unwrap_or(size.embedding),
        hidden: args.gru_hidden_size.unwrap_or(size.hidden),
        layers: args.gru_layers.unwrap_or(size.layers),
        experts,
        top_k: args.top_k.unwrap_or(experts),
        tied: args.tied,
        eps_rmsnorm: args.eps_rmsnorm.unwrap_or(size.eps_rmsnorm),
    };
    config.validate().map_err(|error| UsageError(error.to_string()))?;
    Ok(config)
}

fn announce(
    run: &Run,
    config: ModelConfig,
    model_data: &[PathBuf],
    memory: u64,
    options: &Options,
    globals: Globals,
) {
    if globals.quiet {
        return;
    }
    let (training, validation) = run.tokens();
    let ModelConfig { vocabulary, embedding, hidden, layers, experts, top_k, .. } = config;
    let parameters = Layout::new(&config).parameters();
    tell!(
        "Text: {}: {training} tokens to train on, {validation} to validate, vocabulary {vocabulary}.",
        name_paths(model_data)
    );
    tell!(
        "Model: {parameters} parameters: embedding {embedding}, {layers} layers of {experts} experts \
         ({top_k} active) of width {hidden}."
    );
    if let Some(moved) = run.folder().set_aside() {
        tell!("Moved an earlier run's files to {}.", moved.display());
    }
    let (threads, kernel) = (options.threads, globals.kernels.name());
    let folder = run.folder().path().display();
    let memory = memory::size(memory);
    tell!("Kernels {kernel}, {threads} threads, about {memory} of memory.");
    tell!("Checkpoints go to {folder}; Ctrl-C stops and saves.");
}

fn size(bytes: u64) -> String {
    if bytes < 10_000 { format!("{bytes} bytes") } else { format!("{:.2} MB", bytes as f64 / 1e6) }
}

impl TrainArgs {
    fn options(&self) -> Options {
        let threads = self.threads.unwrap_or_else(cores);
        Options { threads, keep: self.keep, save_every: self.save_every }
    }
}

impl ModelArgs {
    fn size(&self) -> Size {
        self.size.unwrap_or_default()
    }
}

impl TrainingArgs {
    /// Lets every flag that was given win over the recipe.
    fn apply(&self, recipe: &mut Recipe) {
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
