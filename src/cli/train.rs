//! `shoestring train`

mod flags;
mod turns;

pub use flags::{TrainArgs, threads, vocabulary};

use super::progress::{Display, Plan, Reading};
use super::tokenizer::learn;
use super::{
    CHECKPOINTS, Globals, INTERRUPTED, UsageError, chat, counted, describe, for_shell, is_same_file, memory,
    name_paths, open_text, signals, tell,
};
use crate::bundled;
use crate::checkpoint::{Checkpoint, CheckpointError, Recipe, RunLength};
use crate::cores;
use crate::model::{ConfigError, Layout, ModelConfig};
use crate::text::{Text, TextError};
use crate::tokenizer::{Tokenizer, Trainer};
use crate::train::{
    BEST, Corpus, Event, Options, Outcome, Run, RunFolder, Size, TrainError, classic_recipe, default_recipe,
};
use anyhow::{Result, anyhow};
use clap::ValueEnum;
use flags::{ModelArgs, RecipeName};
use std::io::{IsTerminal, Read, stdin, stdout};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

/// Minutes and dropout that suit the bundled corpus, whose conversations repeat each other's turns: with the 0.3 of other
/// texts it ends at 0.245 nats/char instead of 0.214 (`docs/training.md`).
const BUNDLED_MINUTES: f64 = 3.0;
const BUNDLED_DROPOUT: f32 = 0.1;
/// Tokens of a text, of about 100 KB, of which a model does not learn much (`docs/training.md`, How much).
const LITTLE_TEXT: usize = 30_000;
const STOPPED_EARLY: &str = "Stopped before training began: there is nothing to save yet.";

pub fn run(args: TrainArgs, globals: Globals) -> Result<ExitCode> {
    // Reading a text can take as long as whoever writes it wants, and until it is read there is nothing to lose.
    signals::end_at_once(globals.quiet, STOPPED_EARLY)?;
    let options = args.options(globals.kernels, Arc::default());
    let run = match &args.checkpoint {
        Some(path) => resume(&args, path, options, globals),
        None => start(&args, options, globals),
    };
    let mut run = match run {
        Err(error) if matches!(error.downcast_ref(), Some(TrainError::Interrupted)) => {
            if !globals.quiet {
                tell!("{STOPPED_EARLY}");
            }
            return Ok(ExitCode::from(INTERRUPTED));
        }
        run => run?,
    };
    let first_step = run.record().step;
    let plan = Plan { length: run.length(), tokens: run.tokens().0 };
    let mut display = Display::new(globals.quiet, plan);
    let outcome = run.train(&mut |event| display.show(&event));
    display.finish();
    let folder = run.folder();
    let outcome = outcome.map_err(|error| with_way_on(error, &run))?;
    let newest = folder.newest().unwrap_or(folder.path()).to_owned();
    match outcome {
        Outcome::Interrupted => {
            if !globals.quiet {
                tell!("Stopped and saved. Go on with: shoestring train --checkpoint {}", for_shell(&newest));
                if folder.best().is_none() {
                    tell!("There is no {BEST} yet: the first validation makes it.");
                }
            }
            Ok(ExitCode::from(INTERRUPTED))
        }
        Outcome::Finished => {
            let model = folder.best().unwrap_or(newest);
            let best = run.best();
            if !globals.quiet {
                if run.record().step == first_step {
                    tell!(
                        "Nothing was left to train; a longer --minutes, --epochs or --steps, counted from the run's start, \
                         goes on."
                    );
                }
                display.summary(run.record(), best, &model);
            }
            drop(run);
            if best.is_none() {
                return Ok(ExitCode::SUCCESS);
            }
            if !args.no_chat && stdin().is_terminal() && stdout().is_terminal() {
                chat::with_model(&model, globals)?;
            } else if !globals.quiet {
                tell!("Chat with it: shoestring chat --checkpoint {}", for_shell(&model));
            }
            Ok(ExitCode::SUCCESS)
        }
    }
}

/// An error that a run ended with; where its last save failed, or its text can't be read any more, with what there is all the same.
fn with_way_on(error: TrainError, run: &Run) -> anyhow::Error {
    let is_resumable =
        matches!(error, TrainError::Checkpoint(CheckpointError::Save { .. }) | TrainError::Tokens(_));
    let (error, folder) = (anyhow::Error::from(error), run.folder());
    if !is_resumable {
        return error;
    }
    let mut message = describe(&error);
    if let (Some(model), Some(best)) = (folder.best(), run.best()) {
        message += &format!(". The model of step {} is saved, in {}", best.step, model.display());
    }
    if let Some(newest) = folder.newest().filter(|newest| newest.exists()) {
        let newest = for_shell(newest);
        message += &format!(". Go on from the last save with: shoestring train --checkpoint {newest}");
    }
    anyhow!(message)
}

fn start(args: &TrainArgs, options: Options, globals: Globals) -> Result<Run> {
    let config = new_config(&args.model)?;
    let recipe = new_recipe(args, &config);
    let memory = memory::check(&config, &recipe, options.threads, args.force)?;
    let corpus = read_corpus(&args.model_data, &args.validation_data, globals)?;
    if let Some(warning) = turns::warning(&corpus)? {
        tell!("{warning}");
    }
    let bpe_text = if args.bpe_data.is_empty() { None } else { Some(open_text(&args.bpe_data)?) };
    signals::stop(Arc::clone(&options.interrupt), globals.quiet)?;
    let path = args.checkpoint_dir.as_deref().unwrap_or(Path::new(CHECKPOINTS));
    let folder = RunFolder::open(path, args.keep, None)?;
    let tokenizer = train_tokenizer(bpe_text, config.vocabulary, &corpus, &options, globals)?;
    // A short text may have fewer tokens than asked for.
    let config = ModelConfig { vocabulary: tokenizer.view().vocabulary_size(), ..config };
    let mut observe = show_tokenizing(globals);
    let run = Run::start(config, recipe, tokenizer, corpus, folder, options.clone(), &mut observe)?;
    drop(observe);
    announce(&run, config, &args.model_data, memory, &options, globals);
    Ok(run)
}

fn new_recipe(args: &TrainArgs, config: &ModelConfig) -> Recipe {
    let mut recipe = match args.training.recipe {
        None | Some(RecipeName::Default) => args.model.size().recipe(config.top_k < config.experts),
        Some(RecipeName::Classic) => classic_recipe(),
    };
    if args.model_data.is_empty() && args.training.recipe != Some(RecipeName::Classic) {
        recipe.length = RunLength::Minutes(BUNDLED_MINUTES);
        recipe.dropout = BUNDLED_DROPOUT;
    }
    args.training.apply(&mut recipe);
    recipe
}

fn resume(args: &TrainArgs, path: &Path, options: Options, globals: Globals) -> Result<Run> {
    let checkpoint = Checkpoint::open(path)?;
    let training = checkpoint.training()?;
    let record = checkpoint.record();
    let mut recipe = record.recipe.clone().unwrap_or_else(default_recipe);
    refuse_contradictions(args, &checkpoint, &recipe)?;
    args.training.apply(&mut recipe);
    let memory = memory::check(&checkpoint.config(), &recipe, options.threads, args.force)?;
    let given = |flag: &[PathBuf], stored: Vec<PathBuf>| if flag.is_empty() { stored } else { flag.to_vec() };
    refuse_pipes("--model-data", &args.model_data, &training.model_data())?;
    refuse_pipes("--validation-data", &args.validation_data, &training.validation_data())?;
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
    signals::stop(Arc::clone(&options.interrupt), globals.quiet)?;
    let folder = resumed_folder(args, &checkpoint)?;
    let mut observe = show_tokenizing(globals);
    let (rate, stored) = (recipe.lr, record.recipe.as_ref().map(|recipe| recipe.lr));
    let run = Run::resume(&checkpoint, recipe, corpus, folder, options.clone(), &mut observe);
    let run = run.map_err(|error| match error {
        TrainError::OtherText => {
            anyhow!("{}: {error}", name_paths(&[&model_data[..], &validation_data].concat()))
        }
        _ => error.into(),
    })?;
    drop(observe);
    if !globals.quiet {
        tell!("Resuming {} at step {}, epoch {}.", path.display(), record.step, record.epoch);
        let scale = training.position().lr_scale;
        if scale != 1.0 && stored == Some(rate) {
            let rate = rate * scale;
            tell!(
                "Its learning rate, halved when it diverged, is {rate:.2e}; another --lr would be taken as it is."
            );
        }
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

/// An error if the texts that a checkpoint tells of, in place of those in `flag`, came from a pipe: they are gone.
fn refuse_pipes(flag: &str, given: &[PathBuf], stored: &[PathBuf]) -> Result<()> {
    let is_pipe = |path: &&PathBuf| path.metadata().is_ok_and(|file| !file.is_file() && !file.is_dir());
    match stored.iter().find(is_pipe).filter(|_| given.is_empty()) {
        Some(pipe) => {
            Err(anyhow!("the run's text came from {}; name a file of it with {flag}", pipe.display()))
        }
        None => Ok(()),
    }
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
fn resumed_folder(args: &TrainArgs, checkpoint: &Checkpoint) -> Result<RunFolder> {
    let parent =
        checkpoint.path().parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    match args.checkpoint_dir.as_deref() {
        Some(folder) if !is_same_file(folder, parent) => Ok(RunFolder::open(folder, args.keep, None)?),
        _ => Ok(RunFolder::open(parent, args.keep, Some(checkpoint))?),
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
    let is_same =
        |name: &str| name == recipe.name || name == "default" && Size::named(&recipe.name).is_some();
    if name.is_some_and(|name| !is_same(name.get_name())) {
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
        if model_data.is_empty() { Text::from_static(bundled::CORPUS) } else { open_text(model_data)? };
    let validation = if validation_data.is_empty() { None } else { Some(open_text(validation_data)?) };
    let texts = [Some(&text), validation.as_ref()];
    if texts.into_iter().flatten().any(Text::converted_line_ends) && !globals.quiet {
        tell!("Windows line ends in the text are read as plain ones.");
    }
    if let Some(validation) = &validation
        && let Some(both) =
            validation.files().find(|&file| text.files().any(|other| is_same_file(file, other)))
    {
        tell!(
            "Warning: {} is both trained on and validated on, so its loss tells what is known by heart only.",
            both.display()
        );
    }
    Ok(Corpus::new(text, validation)?)
}

fn train_tokenizer(
    text: Option<Text>,
    vocabulary: usize,
    corpus: &Corpus,
    options: &Options,
    globals: Globals,
) -> Result<Tokenizer> {
    let (reader, length): (Box<dyn Read + '_>, u64) = match &text {
        Some(text) => (Box::new(text.reader()), text.length()),
        None => (Box::new(corpus.training()), corpus.training_length()),
    };
    if !globals.quiet {
        tell!("Training the tokenizer on {}.", size(length));
    }
    learn(Trainer::new(vocabulary, options.threads)?, reader, length, globals.quiet, &options.interrupt)
}

fn new_config(args: &ModelArgs) -> Result<ModelConfig> {
    let size = args.size().config();
    let experts = args.num_experts.unwrap_or(size.experts);
    let config = ModelConfig {
        vocabulary: args.bpe_vocab_size.unwrap_or(size.vocabulary),
        embedding: args.embedding_dim.unwrap_or(size.embedding),
        hidden: args.gru_hidden_size.unwrap_or(size.hidden),
        layers: args.gru_layers.unwrap_or(size.layers),
        experts,
        top_k: args.top_k.unwrap_or(experts),
        tied: args.tied,
        eps_rmsnorm: args.eps_rmsnorm.unwrap_or(size.eps_rmsnorm),
    };
    config.validate().map_err(|error| match error {
        ConfigError::TooLarge { .. } => UsageError(format!("{error}; {}", memory::SMALLER_MODEL)),
        _ => UsageError(error.to_string()),
    })?;
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
    if training < LITTLE_TEXT {
        tell!(
            "So little text is learned by heart, and little besides: some hundred kilobytes make a better model."
        );
    }
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
    tell!("Kernels {kernel}, {}, about {memory} of memory.", counted(threads, "thread"));
    if options.threads > cores() {
        tell!("This machine has {} for them: more threads than that are slower.", counted(cores(), "core"));
    }
    tell!("Checkpoints go to {folder}; Ctrl-C stops and saves.");
}

fn size(bytes: u64) -> String {
    if bytes < 10_000 { format!("{bytes} bytes") } else { format!("{:.2} MB", bytes as f64 / 1e6) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Program {
        #[command(flatten)]
        args: TrainArgs,
    }

    #[test]
    fn the_bundled_corpus_gets_its_own_length_and_dropout_from_the_default_recipe_named_or_not() {
        let recipe = |arguments: &[&str]| {
            let program = Program::parse_from([&["train"], arguments].concat());
            let recipe = new_recipe(&program.args, &Size::default().config());
            (recipe.length, recipe.dropout)
        };
        let (classic, default) = (classic_recipe(), default_recipe());
        let bundled = RunLength::Minutes(BUNDLED_MINUTES);
        assert_eq!(recipe(&[]), (bundled, BUNDLED_DROPOUT));
        assert_eq!(recipe(&["--recipe", "default"]), (bundled, BUNDLED_DROPOUT));
        assert_eq!(recipe(&["--recipe", "classic"]), (classic.length, classic.dropout));
        assert_eq!(recipe(&["--model-data", "text.txt"]), (default.length, default.dropout));
        assert_eq!(recipe(&["--steps", "7", "--dropout", "0.2"]), (RunLength::Steps(7), 0.2));
    }
}
