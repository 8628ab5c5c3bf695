//! What a run does besides its steps: validations, checkpoints, and going back when it has diverged.

use super::{Event, MOST_DIVERGENCES, Run, StepReport, TokensError, TrainError, made_now};
use crate::chat::Conversation;
use crate::checkpoint::{Checkpoint, CheckpointError, Contents, Position, Record, TrainingState};
use crate::evaluate::evaluate_unless;
use crate::generate::{Limits, generate};
use crate::model::{ModelConfig, Session};
use crate::sample::{Sampler, Sampling};
use crate::tokenizer::Tokenizer;
use crate::train::RunFolder;
use shoestring_kernels::Line;
use std::io;
use std::path::Path;
use std::time::Duration;

/// In a run whose length is a time, long epochs are validated this often too, as long as validations take under a tenth of it.
const VALIDATE_EVERY: Duration = Duration::from_secs(60);
/// Short epochs are not validated more often than this.
const VALIDATE_AT_MOST_EVERY: Duration = Duration::from_secs(5);
/// Tokens of a sample at most, and what one of a dialogue model replies to.
const SAMPLE_TOKENS: usize = 80;
const GREETING: &str = "Hello! How are you?";

impl Run {
    /// Validates and saves when it is time to.
    pub(super) fn look_after(
        &mut self,
        epoch_ended: bool,
        observe: &mut dyn FnMut(Event<'_>),
    ) -> Result<(), TokensError> {
        let is_due = match self.validation_interval {
            Some(_) => self.is_validation_due(),
            None => {
                let since = self.clock.now() - self.times.validated;
                since >= 10 * self.times.validation_took
                    && since >= if epoch_ended { VALIDATE_AT_MOST_EVERY } else { VALIDATE_EVERY }
            }
        };
        if is_due {
            self.validate(observe)?;
            self.try_save(observe);
        } else if self.clock.now() - self.times.saved >= self.options.save_every {
            self.try_save(observe);
        }
        Ok(())
    }

    /// Whether a run whose length is counted stands where a validation is to be made.
    pub(super) fn is_validation_due(&self) -> bool {
        let (chunks, chunk) = (self.streams.chunks(), self.position.chunk);
        let steps = u64::from(self.record.epoch) * chunks + chunk;
        self.validation_interval.is_some_and(|interval| {
            // Parts of an epoch are counted from its start on.
            let since = if interval < chunks { chunk } else { steps };
            steps > 0 && since % interval == 0
        })
    }

    /// Validates the model, and saves it if it is the best so far; unless the run is asked to stop meanwhile.
    pub(super) fn validate(&mut self, observe: &mut dyn FnMut(Event<'_>)) -> Result<(), TokensError> {
        let start = self.clock.now();
        let (weights, text) = (self.trainer.average(), self.validation.stream());
        let (stop, kernels) = (&*self.options.interrupt, self.kernels);
        let evaluation = self.trainer.on_threads(|| evaluate_unless(stop, weights, kernels, text))?;
        let Some(evaluation) = evaluation else { return Ok(()) };
        self.times.validated = self.clock.now();
        self.times.validation_took = self.times.validated - start;
        self.validated_at = Some(self.record.step);
        if !evaluation.nats.is_finite() {
            // Over a long text the state can run away, early in training, where shorter streams are fine.
            observe(Event::NotValidated { step: self.record.step });
            return Ok(());
        }
        let validation = evaluation.at_step(self.record.step);
        self.record.validations.push(validation);
        self.record.seconds = self.seconds();
        let best = self.is_best();
        if best && let Err(error) = self.save_best() {
            observe(Event::SaveFailed { error: &error });
        }
        let sample = self.sample();
        let logged = self.metrics.validation(&mut self.folder, &self.record, &validation);
        self.tell_of_log(logged, observe);
        observe(Event::Validated { record: &self.record, validation: &validation, best, sample: &sample });
        Ok(())
    }

    /// A short text by the model: a reply to a greeting, or a passage.
    fn sample(&self) -> String {
        let mut session = Session::new(self.trainer.average(), self.tokenizer.view(), self.kernels);
        let mut sampler = Sampler::new(Sampling::default());
        let limits = Limits { max_tokens: SAMPLE_TOKENS, ..Limits::default() };
        let mut text = String::new();
        let mut push = |piece: &str| {
            text.push_str(piece);
            Ok(())
        };
        let written = if self.record.dialogue {
            Conversation::new(session, sampler, true, limits).reply(GREETING, &mut push)
        } else {
            session.begin("\n\n");
            generate(&mut session, &mut sampler, &limits, &mut push)
        };
        debug_assert!(written.is_ok(), "appending to a string does not fail");
        if self.record.dialogue { format!("{GREETING} -> {text}") } else { text.trim().to_owned() }
    }

    /// The metrics are an extra: a full disk must not end the training that fills it. It is told of once, though,
    /// each time it begins.
    pub(super) fn tell_of_log(&mut self, logged: io::Result<bool>, observe: &mut dyn FnMut(Event<'_>)) {
        match logged {
            Ok(true) => self.log_failed = false,
            Err(error) if !self.log_failed => {
                self.log_failed = true;
                observe(Event::LogFailed { error: &error });
            }
            Ok(false) | Err(_) => {}
        }
    }

    /// Saves the model that was just validated as the best; where that fails it is held until it can be saved.
    pub(super) fn save_best(&mut self) -> Result<(), CheckpointError> {
        let (weights, record) = (self.trainer.average().lines, self.record.clone());
        let saved = write_best(&mut self.folder, self.config, &self.tokenizer, weights, &record);
        self.unsaved_best = saved.is_err().then(|| UnsavedBest { weights: weights.to_vec(), record });
        saved
    }

    /// Saves the best model if that has failed so far.
    fn save_unsaved_best(&mut self) -> Result<(), CheckpointError> {
        if let Some(UnsavedBest { weights, record }) = &self.unsaved_best {
            write_best(&mut self.folder, self.config, &self.tokenizer, weights, record)?;
            self.unsaved_best = None;
        }
        Ok(())
    }

    /// Whether the model was just validated, and is better than the best so far.
    pub(super) fn is_best(&self) -> bool {
        let last = self.record.validations.last().filter(|last| last.step == self.record.step);
        let unsaved = self.unsaved_best.as_ref().and_then(|best| best.record.validations.last().copied());
        let best = unsaved.or_else(|| self.folder.best_validation());
        last.is_some_and(|last| best.is_none_or(|best| best.nats_per_token > last.nats_per_token))
    }

    /// Saves a checkpoint within a run, where a failure is told and tried again later.
    fn try_save(&mut self, observe: &mut dyn FnMut(Event<'_>)) {
        if let Err(TrainError::Checkpoint(error)) = self.save(observe) {
            observe(Event::SaveFailed { error: &error });
            self.times.saved = self.clock.now();
        }
    }

    /// Saves a checkpoint, and the best model where that has failed so far.
    pub(super) fn save(&mut self, observe: &mut dyn FnMut(Event<'_>)) -> Result<(), TrainError> {
        // Before the checkpoint, which is to be the newest file; but its failure is no reason not to save that.
        let best = self.save_unsaved_best();
        self.position.carried_state = self.trainer.network().carried_state().to_vec();
        let contents = Contents {
            config: self.config,
            tokenizer: self.tokenizer.clone(),
            weights: self.trainer.average().lines,
            record: self.record.clone(),
            training: Some(TrainingState {
                weights: self.trainer.weights().lines,
                moments: self.trainer.moments(),
                position: self.position.clone(),
                model_data: self.corpus.model_data(),
                validation_data: self.corpus.validation_data(),
            }),
        };
        let path = self.folder.save_numbered(&contents)?;
        self.times.saved = self.clock.now();
        observe(Event::Saved { path: &path });
        Ok(best?)
    }

    /// Whether the loss is not finite, or rose from its lowest by more than a model that has learned
    /// nothing could explain.
    pub(super) fn has_diverged(&self, report: &StepReport) -> bool {
        let untrained = (self.config.vocabulary as f64).ln();
        let exploded = report.loss > 2.0 * untrained + 2.0
            || self.record.loss > self.position.lowest_loss + 0.5 * untrained;
        !report.updated || exploded
    }

    pub(super) fn roll_back(
        &mut self,
        loss: f64,
        observe: &mut dyn FnMut(Event<'_>),
    ) -> Result<(), TrainError> {
        let step = self.record.step + 1;
        let Some(path) = self.folder.go_back(step).map(Path::to_owned) else {
            return Err(TrainError::NothingToGoBackTo { path: self.folder.path().to_owned() });
        };
        let divergences = self.position.divergences + 1;
        if divergences > MOST_DIVERGENCES {
            return Err(TrainError::Diverged { checkpoint: path });
        }
        let lr_scale = self.position.lr_scale * 0.5;
        let checkpoint = Checkpoint::open(&path)?;
        let training = checkpoint.training()?;
        let position = training.position();
        let (weights, average) = (training.weights(), checkpoint.weights());
        self.trainer.restore(weights, average, training.moments(), &position.carried_state);
        self.record = made_now(self.record.recipe.take(), self.kernels, checkpoint.record());
        self.position = Position { lr_scale, divergences, ..position };
        self.validated_at = None;
        self.metrics.restart(self.record.tokens, self.seconds());
        let lr = self.recipe.lr * lr_scale;
        observe(Event::Diverged { step, loss, checkpoint: &path, lr });
        Ok(())
    }
}

/// The best model, where it could not be saved yet.
pub(super) struct UnsavedBest {
    weights: Vec<Line>, // [lines]
    record: Record,
}

fn write_best(
    folder: &mut RunFolder,
    config: ModelConfig,
    tokenizer: &Tokenizer,
    weights: &[Line],
    record: &Record,
) -> Result<(), CheckpointError> {
    let (tokenizer, record) = (tokenizer.clone(), record.clone());
    folder.save_best(&Contents { config, tokenizer, weights, record, training: None }).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkpoint::{Recipe, RunLength};
    use crate::text::Text;
    use crate::tokenizer::MINIMUM_VOCABULARY;
    use crate::train::{BEST, Corpus, Options, default_recipe};
    use shoestring_kernels::Kernels;
    use std::sync::Arc;

    fn run(folder: &Path) -> Run {
        let config = ModelConfig {
            vocabulary: MINIMUM_VOCABULARY,
            embedding: 8,
            hidden: 16,
            layers: 1,
            experts: 2,
            top_k: 2,
            tied: false,
            eps_rmsnorm: 1e-5,
        };
        let text = b"So much the same, and so much of it. ".repeat(60);
        let tokenizer = Tokenizer::train(&[&text], MINIMUM_VOCABULARY, 1).unwrap();
        let corpus = Corpus::new(Text::from_bytes(text), None).unwrap();
        let folder = RunFolder::open(folder, 2, None).unwrap();
        let recipe =
            Recipe { batch_size: 4, seq_length: 16, length: RunLength::Epochs(3), ..default_recipe() };
        let options =
            Options { threads: 1, save_every: Duration::from_secs(3600), interrupt: Arc::default() };
        Run::start(config, recipe, tokenizer, corpus, Kernels::best(), folder, options, &mut |_| ()).unwrap()
    }

    #[test]
    fn a_run_that_went_back_keeps_the_best_model_it_had() {
        let folder = tempfile::tempdir().unwrap();
        let mut run = run(folder.path());
        run.train(&mut |_| ()).unwrap();
        let (best, step) = (run.best().unwrap(), run.record.step);
        run.roll_back(9.0, &mut |_| ()).unwrap();
        assert!(run.record.step < step && run.record.validations.len() < 3);
        run.recipe.lr = 0.0;
        run.train(&mut |_| ()).unwrap();
        assert!(run.record.validations.last().unwrap().nats_per_token > best.nats_per_token);
        assert_eq!(run.best(), Some(best));
        assert_eq!(run.folder.best_validation(), Some(best));
    }

    #[test]
    fn a_best_model_that_could_not_be_saved_is_saved_later_and_not_a_worse_one() {
        let folder = tempfile::tempdir().unwrap();
        let mut run = run(folder.path());
        std::fs::create_dir(folder.path().join(BEST)).unwrap();
        let mut failures = 0;
        let failed =
            run.train(&mut |event| failures += usize::from(matches!(event, Event::SaveFailed { .. })));
        assert!(failed.is_err() && failures > 0);
        let best = run.record.validations.last().copied();
        std::fs::remove_dir(folder.path().join(BEST)).unwrap();

        let lines = run.trainer.weights().lines.len();
        let (nothing, moments) = (vec![Line::default(); lines], vec![Line::default(); 2 * lines]);
        let carried = run.trainer.network().carried_state().to_vec();
        run.trainer.restore(&nothing, &nothing, &moments, &carried);
        run.record.step += 1;
        run.validate(&mut |_| ()).unwrap();
        assert!(!run.is_best());
        run.try_save(&mut |_| ());
        assert_eq!(run.best(), best);
    }
}
