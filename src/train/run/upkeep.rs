//! What a run does besides its steps: validations, checkpoints, and going back when it has diverged.

use super::{Event, MOST_DIVERGENCES, Run, RunFolder, StepReport, TokensError, TrainError};
use crate::chat::sample_text;
use crate::checkpoint::{Checkpoint, CheckpointError, Contents, Position, Record, TrainingState};
use crate::evaluate::evaluate_unless;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

/// A checkpoint saved fewer steps than this before a divergence is not trusted.
const SUSPECT_STEPS: u64 = 25;
/// Long epochs are validated this often too, as long as validations take under a tenth of the time.
const VALIDATE_EVERY: Duration = Duration::from_secs(60);
/// Short epochs are not validated more often than this.
const VALIDATE_AT_MOST_EVERY: Duration = Duration::from_secs(5);

impl Run {
    /// Validates and saves when it is time to.
    pub(super) fn look_after(
        &mut self,
        epoch_ended: bool,
        observe: &mut dyn FnMut(Event<'_>),
    ) -> Result<(), TokensError> {
        let since = self.clock.now() - self.times.validated;
        let counted = self.validates_every_epoch();
        let due =
            if epoch_ended { counted || since >= VALIDATE_AT_MOST_EVERY } else { since >= VALIDATE_EVERY };
        if due && (counted && epoch_ended || since >= 10 * self.times.validation_took) {
            self.validate(observe)?;
            self.try_save(observe);
        } else if self.clock.now() - self.times.saved >= self.options.save_every {
            self.try_save(observe);
        }
        Ok(())
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
        if !evaluation.nats.is_finite() {
            // Over a long text the state can run away, early in training, where shorter streams are fine.
            observe(Event::NotValidated { step: self.record.step });
            return Ok(());
        }
        let validation = evaluation.at_step(self.record.step);
        let earlier = self.record.validations.iter().map(|v| v.nats_per_token);
        let best = earlier.fold(f64::INFINITY, f64::min) > validation.nats_per_token;
        self.record.validations.push(validation);
        self.record.seconds = self.seconds();
        self.owes_best = best && !self.try_save_best(observe);
        let weights = self.trainer.average();
        let sample = sample_text(weights, self.tokenizer.view(), self.kernels, self.record.dialogue);
        let logged = self.metrics.validation(&mut self.folder, &self.record, &validation);
        self.tell_of_log(logged, observe);
        observe(Event::Validated { record: &self.record, validation: &validation, best, sample: &sample });
        Ok(())
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

    /// Whether the model could be saved; if not, that is told.
    fn try_save_best(&mut self, observe: &mut dyn FnMut(Event<'_>)) -> bool {
        self.save_best().inspect_err(|error| observe(Event::SaveFailed { error })).is_ok()
    }

    pub(super) fn save_best(&mut self) -> Result<(), CheckpointError> {
        let contents = Contents {
            config: self.config,
            tokenizer: self.tokenizer.clone(),
            weights: self.trainer.average().lines,
            record: self.record.clone(),
            training: None,
        };
        self.folder.save_best(&contents).map(drop)
    }

    /// Saves a checkpoint within a run, where a failure is told and tried again later.
    fn try_save(&mut self, observe: &mut dyn FnMut(Event<'_>)) {
        if let Err(TrainError::Checkpoint(error)) = self.save(observe) {
            observe(Event::SaveFailed { error: &error });
            self.times.saved = self.clock.now();
        }
    }

    pub(super) fn save(&mut self, observe: &mut dyn FnMut(Event<'_>)) -> Result<(), TrainError> {
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
        Ok(())
    }

    /// Whether the loss is not finite, or rose from its lowest by more than a model that has learned
    /// nothing could explain.
    pub(super) fn has_diverged(&self, report: &StepReport) -> bool {
        let untrained = (self.config.vocabulary as f64).ln();
        let exploded = report.loss > 2.0 * untrained + 2.0
            || self.record.loss > self.position.lowest_loss + 0.5 * untrained;
        !report.updated || exploded
    }

    /// The newest checkpoint; but the one before it, if the run had just been saved when it diverged: it was
    /// on its way there already.
    fn last_good_checkpoint(&mut self) -> Result<PathBuf, TrainError> {
        let newest = |folder: &RunFolder| match folder.newest() {
            Some(path) => Ok(path.to_owned()),
            None => Err(TrainError::NothingToGoBackTo { path: folder.path().to_owned() }),
        };
        let path = newest(&self.folder)?;
        let saved_at = Checkpoint::open(&path)?.record().step;
        if self.record.step.saturating_sub(saved_at) >= SUSPECT_STEPS {
            return Ok(path);
        }
        self.folder.discard_newest();
        newest(&self.folder)
    }

    pub(super) fn roll_back(
        &mut self,
        loss: f64,
        observe: &mut dyn FnMut(Event<'_>),
    ) -> Result<(), TrainError> {
        let path = self.last_good_checkpoint()?;
        let (step, divergences) = (self.record.step, self.position.divergences + 1);
        if divergences > MOST_DIVERGENCES {
            return Err(TrainError::Diverged { checkpoint: path });
        }
        let lr_scale = self.position.lr_scale * 0.5;
        let checkpoint = Checkpoint::open(&path)?;
        let training = checkpoint.training()?;
        let position = training.position();
        let (weights, average) = (training.weights(), checkpoint.weights());
        self.trainer.restore(weights, average, training.moments(), &position.carried_state);
        self.record = Record { recipe: self.record.recipe.take(), ..checkpoint.record() };
        self.position = Position { lr_scale, divergences, ..position };
        let lr = self.recipe.lr * lr_scale;
        observe(Event::Diverged { step, loss, checkpoint: &path, lr });
        Ok(())
    }
}
