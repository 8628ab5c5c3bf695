//! A training run: from a text to a model, through validations, checkpoints and bad moments.

mod upkeep;

use super::clock::Clock;
use super::error::TrainError;
use super::folder::RunFolder;
use super::initialise::{initialise, set_head_bias};
use super::metrics::{Metrics, TextLoss};
use super::network::Dropout;
use super::optimizer::Update;
use super::schedule::{self, Progress};
use super::tokenize::{HeldOut, TokenizedCorpus};
use super::tokens::Tokens;
use super::trainer::{StepReport, Trainer};
use super::{Corpus, Streams, TokensError, random};
use crate::checkpoint::{Checkpoint, CheckpointError, Position, Recipe, Record, RunLength, Validation};
use crate::model::{Layout, ModelConfig};
use crate::tokenizer::Tokenizer;
use shoestring_kernels::{Kernels, Line};
use std::io;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use upkeep::UnsavedBest;

/// Decay a step of the smoothed loss.
const SMOOTHING: f64 = 0.98;

/// What a run needs to know besides model and text.
#[derive(Clone, Debug)]
pub struct Options {
    /// What computes.
    pub kernels: &'static Kernels,
    /// Worker threads; no result depends on their number.
    pub threads: usize,
    /// Time between checkpoints within an epoch.
    pub save_every: Duration,
    /// Once this is true the run stops, after the step under way.
    pub interrupt: Arc<AtomicBool>,
}

/// What happens during a run, for a progress display.
#[expect(missing_docs, reason = "the fields' types say what they are")]
pub enum Event<'a> {
    /// The text is being turned into tokens: so many bytes of it are.
    Tokenizing { done: u64, total: u64 },
    /// A step was taken.
    Step { record: &'a Record, report: &'a StepReport, done: f64 },
    /// The model was validated; `sample` is a text it wrote.
    Validated { record: &'a Record, validation: &'a Validation, best: bool, sample: &'a str },
    /// The loss on the validation text was not finite; training goes on.
    NotValidated { step: u64 },
    /// A checkpoint was saved.
    Saved { path: &'a Path },
    /// A checkpoint could not be saved; the run goes on to its next save.
    SaveFailed { error: &'a CheckpointError },
    /// `metrics.jsonl` can't be written; training goes on and the lines until it can are left out.
    LogFailed { error: &'a io::Error },
    /// The loss became infinite or exploded; training goes on from `checkpoint` at half the rate.
    Diverged { step: u64, loss: f64, checkpoint: &'a Path, lr: f32 },
}

/// How a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It is complete.
    Finished,
    /// It was asked to stop, and saved.
    Interrupted,
}

/// A training run under way.
pub struct Run {
    config: ModelConfig,
    trainer: Trainer,
    tokenizer: Tokenizer,
    corpus: Corpus,
    streams: Streams,
    parameters_per_token: f64,
    validation: HeldOut,
    /// Steps between validations, if they are counted.
    validation_interval: Option<u64>,
    record: Record,
    recipe: Recipe,
    position: Position,
    folder: RunFolder,
    options: Options,
    metrics: Metrics,
    clock: Clock,
    seconds_before: f64,
    times: Times,
    log_failed: bool,
    /// The step of the last validation, whatever came of it.
    validated_at: Option<u64>,
    /// The best model, while it can't be saved.
    unsaved_best: Option<UnsavedBest>,
}

/// Where a run begins: anew, or where another session of it ended.
struct Beginning<W> {
    config: ModelConfig,
    tokenizer: Tokenizer,
    /// Makes the weights, [lines], of the training text's tokens.
    weights: W,
    record: Record,
    position: Position,
}

/// When things last happened, by the run's clock.
struct Times {
    saved: Duration,
    validated: Duration,
    validation_took: Duration,
    /// What was trained in earlier sessions since the last validation.
    unvalidated: Duration,
}

impl Run {
    /// A new run in `folder`.
    ///
    /// # Errors
    /// If the text is too short, the folder can't be written, or threads can't be started; and if the run was asked
    /// to stop while the text was turned into tokens.
    pub fn start(
        config: ModelConfig,
        recipe: Recipe,
        tokenizer: Tokenizer,
        corpus: Corpus,
        folder: RunFolder,
        options: Options,
        observe: &mut dyn FnMut(Event<'_>),
    ) -> Result<Self, TrainError> {
        let seed = recipe.seed;
        let weights = |text: &mut Tokens| {
            let layout = Layout::new(&config);
            let mut weights = initialise(&layout, seed);
            set_head_bias(&layout, &mut weights, &text.counts()?);
            Ok(weights)
        };
        let record = made_now(options.kernels, Record { recipe: Some(recipe.clone()), ..Record::default() });
        let position = Position {
            chunk: 0,
            carried_state: Vec::new(),
            lr_scale: 1.0,
            divergences: 0,
            lowest_loss: f64::INFINITY,
            text_hash: corpus.hash(),
        };
        let beginning = Beginning { config, tokenizer, weights, record, position };
        Run::new(beginning, recipe, corpus, folder, options, observe)
    }

    /// Goes on with the run that `checkpoint` was saved by, under `recipe` (the checkpoint's, possibly with
    /// another length or rate).
    ///
    /// # Errors
    /// As [`Run::start`], and if the checkpoint has no training state or the text is another.
    pub fn resume(
        checkpoint: &Checkpoint,
        recipe: Recipe,
        corpus: Corpus,
        folder: RunFolder,
        options: Options,
        observe: &mut dyn FnMut(Event<'_>),
    ) -> Result<Self, TrainError> {
        let training = checkpoint.training()?;
        let position = training.position();
        if position.text_hash != corpus.hash() {
            return Err(TrainError::OtherText);
        }
        let carried = position.carried_state.clone();
        let beginning = Beginning {
            config: checkpoint.config(),
            tokenizer: checkpoint.tokenizer().to_owned(),
            weights: |_: &mut Tokens| Ok(checkpoint.weights().to_vec()),
            record: made_now(options.kernels, checkpoint.record()),
            position,
        };
        let mut run = Run::new(beginning, recipe, corpus, folder, options, observe)?;
        if carried.len() != run.trainer.network().carried_state().len() {
            let what = "its carried state doesn't fit its batch size".to_owned();
            return Err(CheckpointError::Damaged { path: checkpoint.path().to_owned(), what }.into());
        }
        if run.position.chunk >= run.streams.chunks() {
            let what = "it stands beyond the end of its text".to_owned();
            return Err(CheckpointError::Damaged { path: checkpoint.path().to_owned(), what }.into());
        }
        run.trainer.restore(training.weights(), checkpoint.weights(), training.moments(), &carried);
        Ok(run)
    }

    fn new(
        beginning: Beginning<impl FnOnce(&mut Tokens) -> Result<Vec<Line>, TokensError>>,
        recipe: Recipe,
        corpus: Corpus,
        mut folder: RunFolder,
        options: Options,
        observe: &mut dyn FnMut(Event<'_>),
    ) -> Result<Self, TrainError> {
        let Beginning { config, tokenizer, weights, mut record, position } = beginning;
        config.validate()?;
        recipe.validate()?;
        let known = tokenizer.view().vocabulary_size();
        if known != config.vocabulary {
            return Err(TrainError::Vocabulary { model: config.vocabulary, tokenizer: known });
        }
        let mut progress = |done, total| {
            observe(Event::Tokenizing { done, total });
            match options.interrupt.load(Ordering::Relaxed) {
                true => ControlFlow::Break(()),
                false => ControlFlow::Continue(()),
            }
        };
        let TokenizedCorpus { mut training, validation, training_chars, dialogue } = TokenizedCorpus::new(
            &corpus,
            tokenizer.view(),
            &folder.tokens(),
            options.threads,
            &mut progress,
        )?;
        let (to_train_on, to_validate_on) = (training.count(), validation.count());
        if to_train_on < 2 || to_validate_on == 0 {
            return Err(TrainError::TooShort { training: to_train_on, validation: to_validate_on });
        }
        record.dialogue = dialogue;
        let shape = (recipe.batch_size, recipe.seq_length);
        let trainer = Trainer::new(config, options.kernels, weights(&mut training)?, shape, options.threads)?;
        let streams = Streams::new(training, recipe.batch_size, recipe.seq_length, recipe.seed);
        let text = TextLoss {
            chars_per_token: training_chars as f64 / streams.tokens() as f64,
            bytes_per_token: corpus.training_length() as f64 / streams.tokens() as f64,
        };
        // Going forward is a third of what a step does.
        let cost = to_validate_on as f64 / to_train_on as f64 / 3.0;
        let validation_interval = schedule::validation_interval(recipe.length, streams.chunks(), cost);
        let parameters_per_token = Layout::new(&config).parameters() as f64 / streams.tokens() as f64;
        let metrics = Metrics::new(&record, &config, text);
        let seconds_before = record.seconds;
        let clock = Clock::start().map_err(TrainError::Thread)?;
        let progress = Progress::new(recipe.length, record.step, record.seconds, streams.chunks());
        folder.begin(record.step > 0 && progress.done >= 1.0)?;
        let last = record.validations.last().map(|last| last.step);
        let validated_at = last.filter(|&last| last == record.step);
        // As large a part of the time as of the steps.
        let steps = record.step.saturating_sub(last.unwrap_or(0));
        let unvalidated = record.seconds * steps as f64 / record.step.max(1) as f64;
        let times = Times {
            saved: Duration::ZERO,
            validated: Duration::ZERO,
            validation_took: Duration::ZERO,
            unvalidated: Duration::try_from_secs_f64(unvalidated).unwrap_or_default(),
        };
        Ok(Run {
            config,
            trainer,
            tokenizer,
            corpus,
            streams,
            parameters_per_token,
            validation,
            validation_interval,
            record,
            recipe,
            position,
            folder,
            options,
            metrics,
            clock,
            seconds_before,
            times,
            log_failed: false,
            validated_at,
            unsaved_best: None,
        })
    }

    /// Tokens of the training text, and of the validation text.
    pub fn tokens(&self) -> (usize, usize) {
        (self.streams.tokens(), self.validation.count())
    }

    /// The validation of the model that is saved as the best, if there is one.
    pub fn best(&self) -> Option<Validation> {
        self.folder.best_validation()
    }

    /// How long the run is.
    pub fn length(&self) -> RunLength {
        self.recipe.length
    }

    /// The record of the run so far.
    pub fn record(&self) -> &Record {
        &self.record
    }

    /// The folder of the run.
    pub fn folder(&self) -> &RunFolder {
        &self.folder
    }

    /// Trains until the run is complete or asked to stop; in both cases the state is saved.
    ///
    /// # Errors
    /// If the run diverges for good, the first or the last checkpoint can't be saved, or the text's tokens can't be
    /// read; in the last case the state is saved too.
    pub fn train(&mut self, observe: &mut dyn FnMut(Event<'_>)) -> Result<Outcome, TrainError> {
        let outcome = self.train_or_fail(observe);
        if let Err(TrainError::Tokens(_)) = outcome {
            // Nothing is wrong with what has been learned.
            self.save(observe)?;
        }
        outcome
    }

    fn train_or_fail(&mut self, observe: &mut dyn FnMut(Event<'_>)) -> Result<Outcome, TrainError> {
        if self.folder.newest().is_none() {
            self.save(observe)?;
        }
        let validated_before = self.validated_at;
        // The run was stopped in it.
        if self.is_validation_due() && !self.is_validated() {
            self.validate(observe)?;
        }
        let chunks = self.streams.chunks();
        let mut trained = false;
        let (mut tokens, mut targets) = (Vec::new(), Vec::new()); // [B, T]
        loop {
            if self.is_complete() {
                break;
            }
            if self.is_interrupted() {
                self.save(observe)?;
                return Ok(Outcome::Interrupted);
            }
            let steps =
                self.streams.read(self.record.epoch, self.position.chunk, &mut tokens, &mut targets)?;
            if !trained {
                self.adopt_recipe();
            }
            let report = self.step(&tokens, &targets, steps);
            if self.has_diverged(&report, tokens.len()) {
                self.roll_back(report.loss, observe)?;
                continue;
            }
            self.account(&report, tokens.len());
            trained = true;
            let epoch_ended = self.position.chunk == chunks;
            if epoch_ended {
                self.position.chunk = 0;
                self.record.epoch += 1;
                self.trainer.network().carried_state().fill(0.0);
            }
            let done = self.progress().done;
            let network = self.trainer.network();
            let logged = self.metrics.step(&mut self.folder, &self.record, &report, network);
            self.tell_of_log(logged, observe);
            observe(Event::Step { record: &self.record, report: &report, done });
            self.look_after(epoch_ended, observe)?;
        }
        if !self.is_validated() {
            self.validate(observe)?;
        }
        // Where nothing was left to do, nothing is to be saved.
        if trained || self.validated_at != validated_before {
            self.save(observe)?;
        }
        // It may have failed when it was validated, before a run that is resumed was stopped.
        if self.is_best() {
            self.save_best()?;
        }
        // The validation that a stop cut short is made when the run is resumed.
        let is_stopped = self.is_interrupted() && !self.is_validated();
        Ok(if is_stopped { Outcome::Interrupted } else { Outcome::Finished })
    }

    /// Makes this session's recipe the run's, once it takes a step: if it takes none the run can go on by the recipe it has. What
    /// divergences halved was another rate, if this is one.
    fn adopt_recipe(&mut self) {
        if self.record.recipe.as_ref().is_some_and(|before| before.lr != self.recipe.lr) {
            self.position.lr_scale = 1.0;
        }
        self.record.recipe = Some(self.recipe.clone());
    }

    fn step(&mut self, tokens: &[u32], targets: &[u32], steps: usize) -> StepReport {
        let recipe = &self.recipe;
        let update = Update {
            step: self.record.step + 1,
            learning_rate: self.progress().learning_rate(recipe) * self.position.lr_scale,
            beta1: recipe.beta1,
            beta2: recipe.beta2,
            eps: recipe.eps_adamw,
            weight_decay: recipe.wd,
            clip: recipe.grad_clip,
        };
        let key = random::key(recipe.seed, random::Purpose::Dropout, self.record.step);
        let probability = schedule::dropout(recipe, self.passes(), self.parameters_per_token);
        let dropout = (probability > 0.0).then_some(Dropout { probability, key });
        self.trainer.step((tokens, targets), steps, update, dropout)
    }

    /// Passes over the text so far, a part of one included.
    fn passes(&self) -> f64 {
        f64::from(self.record.epoch) + self.position.chunk as f64 / self.streams.chunks() as f64
    }

    fn is_interrupted(&self) -> bool {
        self.options.interrupt.load(Ordering::Relaxed)
    }

    /// Seconds of training, over all sessions.
    fn seconds(&self) -> f64 {
        self.seconds_before + self.clock.now().as_secs_f64()
    }

    fn account(&mut self, report: &StepReport, tokens: usize) {
        let seconds = self.seconds();
        let record = &mut self.record;
        let smoothed = |before, now| SMOOTHING * before + (1.0 - SMOOTHING) * now;
        record.loss = if record.step == 0 { report.loss } else { smoothed(record.loss, report.loss) };
        if self.config.top_k < self.config.experts {
            let now = self.trainer.network().expert_load();
            match record.step {
                0 => record.expert_load = now,
                _ => record.expert_load.iter_mut().zip(now).for_each(|(load, now)| {
                    *load = smoothed(f64::from(*load), f64::from(now)) as f32;
                }),
            }
        }
        record.step += 1;
        record.tokens += tokens as u64;
        record.seconds = seconds;
        self.position.chunk += 1;
        self.position.lowest_loss = self.position.lowest_loss.min(record.loss);
    }

    fn progress(&self) -> Progress {
        let seconds = self.seconds();
        Progress::new(self.recipe.length, self.record.step, seconds, self.streams.chunks())
    }

    fn is_validated(&self) -> bool {
        self.validated_at == Some(self.record.step)
    }

    fn is_complete(&self) -> bool {
        match self.recipe.length {
            RunLength::Epochs(epochs) => self.record.epoch >= epochs,
            RunLength::Steps(steps) => self.record.step >= steps,
            // The validation at the end is part of the time the user gave.
            RunLength::Minutes(minutes) => {
                self.seconds() + self.times.validation_took.as_secs_f64() >= 60.0 * minutes
            }
        }
    }
}

/// The record of a run that goes on, or begins, from `record` with these kernels.
fn made_now(kernels: &Kernels, record: Record) -> Record {
    let (version, kernel) = (env!("CARGO_PKG_VERSION").to_owned(), kernels.name().to_owned());
    Record { version, kernel, ..record }
}
