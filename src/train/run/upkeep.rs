//! What a run does besides its steps: validations, checkpoints, and going back when it has diverged.

use super::{Event, Run, StepReport, TokensError, TrainError, made_now};
use crate::chat::Conversation;
use crate::checkpoint::{Checkpoint, CheckpointError, Contents, Position, Record, TrainingState};
use crate::evaluate::evaluate_unless;
use crate::generate::{Limits, generate};
use crate::model::{ModelConfig, Session};
use crate::sample::{Sampler, Sampling};
use crate::tokenizer::Tokenizer;
use crate::train::RunFolder;
use crate::train::error::MOST_HALVINGS;
use shoestring_kernels::Line;
use std::io;
use std::path::Path;
use std::time::Duration;

/// In a run whose length is a time, long epochs are validated this often too, as long as validations take under a tenth of it.
const VALIDATE_EVERY: Duration = Duration::from_secs(60);
/// Short epochs are not validated more often than this.
const VALIDATE_AT_MOST_EVERY: Duration = Duration::from_secs(5);
/// Tokens whose mean loss says something about the model; that of a single one may be a rare letter's.
const TELLING_TOKENS: usize = 64;
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
                let since = self.clock.now() - self.times.validated + self.times.unvalidated;
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
        let (stop, kernels) = (&*self.options.interrupt, self.options.kernels);
        let evaluation = self.trainer.on_threads(|| evaluate_unless(stop, weights, kernels, text))?;
        let Some(evaluation) = evaluation else { return Ok(()) };
        self.times.validated = self.clock.now();
        self.times.unvalidated = Duration::ZERO;
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
        let mut session = Session::new(self.trainer.average(), self.tokenizer.view(), self.options.kernels);
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

    /// Whether the loss over `tokens` tokens is not finite, or far above that of a model that has learned nothing, or the smoothed
    /// loss is above that and has risen far from its lowest. What is merely hard to predict after something easy is below it.
    pub(super) fn has_diverged(&self, report: &StepReport, tokens: usize) -> bool {
        let untrained = (self.config.vocabulary as f64).ln();
        let exploded = tokens >= TELLING_TOKENS && report.loss > 2.0 * untrained + 2.0;
        let risen = self.record.loss > untrained.max(self.position.lowest_loss + 0.5 * untrained);
        !report.updated || exploded || risen
    }

    pub(super) fn roll_back(
        &mut self,
        loss: f64,
        observe: &mut dyn FnMut(Event<'_>),
    ) -> Result<(), TrainError> {
        let step = self.record.step + 1;
        let lr_scale = self.position.lr_scale * 0.5;
        if lr_scale < 0.5_f32.powi(MOST_HALVINGS)
            && let Some(checkpoint) = self.folder.trusted(step).map(Path::to_owned)
        {
            return Err(TrainError::Diverged { checkpoint });
        }
        let Some(path) = self.folder.go_back(step) else {
            return Err(TrainError::NothingToGoBackTo { path: self.folder.path().to_owned() });
        };
        let divergences = self.position.divergences + 1;
        let checkpoint = Checkpoint::open(&path)?;
        let training = checkpoint.training()?;
        let position = training.position();
        let (weights, average) = (training.weights(), checkpoint.weights());
        self.trainer.restore(weights, average, training.moments(), &position.carried_state);
        let recipe = self.record.recipe.take();
        self.record = made_now(self.options.kernels, Record { recipe, ..checkpoint.record() });
        self.position = Position { lr_scale, divergences, ..position };
        self.validated_at = None;
        self.metrics.restart(self.record.tokens, self.seconds());
        let lr = self.recipe.lr * lr_scale;
        observe(Event::Diverged { step, loss, checkpoint: &path, lr });
        // Windows replaces no file that is mapped.
        drop(checkpoint);
        // Resumed, it goes on from here at this rate, and knows that it was further.
        self.try_save(observe);
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
    use crate::train::{BEST, Corpus, Options, Outcome, default_recipe, newest_checkpoint};
    use shoestring_kernels::Kernels;
    use std::sync::Arc;
    use std::sync::atomic::Ordering;

    const TEXT: &[u8] = b"So much the same, and so much of it. ";

    fn corpus() -> Corpus {
        Corpus::new(Text::from_bytes(TEXT.repeat(60)), None).unwrap()
    }

    fn options() -> Options {
        let (kernels, save_every) = (Kernels::best(), Duration::from_secs(3600));
        Options { kernels, threads: 1, save_every, interrupt: Arc::default() }
    }

    /// The run that left its newest checkpoint in `folder`, to go on at another rate or for another length.
    fn resumed(folder: &Path, change: impl FnOnce(&mut Recipe)) -> Run {
        let newest = newest_checkpoint(folder).unwrap().unwrap();
        let checkpoint = Checkpoint::open(&newest).unwrap();
        let mut recipe = checkpoint.record().recipe.unwrap();
        change(&mut recipe);
        let folder = RunFolder::open(folder, 2, Some(&checkpoint)).unwrap();
        Run::resume(&checkpoint, recipe, corpus(), folder, options(), &mut |_| ()).unwrap()
    }

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
        let tokenizer = Tokenizer::train(&[TEXT], MINIMUM_VOCABULARY, 1).unwrap();
        let folder = RunFolder::open(folder, 2, None).unwrap();
        let recipe =
            Recipe { batch_size: 4, seq_length: 16, length: RunLength::Epochs(3), ..default_recipe() };
        Run::start(config, recipe, tokenizer, corpus(), folder, options(), &mut |_| ()).unwrap()
    }

    #[test]
    fn a_run_begins_with_the_frequencies_of_its_tokens() {
        let folder = tempfile::tempdir().unwrap();
        let mut run = run(folder.path());
        let mut first = None;
        run.train(&mut |event| {
            if let Event::Step { report, .. } = event {
                first.get_or_insert(report.loss);
            }
        })
        .unwrap();
        let length = TEXT.len() as f64;
        let frequency = |&byte| TEXT.iter().filter(|&&other| other == byte).count() as f64 / length;
        let entropy = -TEXT.iter().map(|byte| frequency(byte).ln()).sum::<f64>() / length;
        // Where it was to find them out it began with the logarithm of the vocabulary, and more.
        assert!(first.unwrap() < entropy + 0.5 && entropy + 1.0 < (MINIMUM_VOCABULARY as f64).ln());
    }

    #[test]
    fn a_run_that_went_back_keeps_the_best_model_it_had() {
        let folder = tempfile::tempdir().unwrap();
        let mut run = run(folder.path());
        run.train(&mut |_| ()).unwrap();
        let (best, step) = (run.best().unwrap(), run.record.step);
        run.roll_back(9.0, &mut |_| ()).unwrap();
        assert!(run.record.step < step);
        run.recipe.lr = 0.0;
        run.train(&mut |_| ()).unwrap();
        assert!(run.record.validations.last().unwrap().nats_per_token > best.nats_per_token);
        assert_eq!(run.best(), Some(best));
        assert_eq!(run.folder.best_validation(), Some(best));
    }

    #[test]
    fn it_keeps_the_best_model_where_it_is_resumed_too_and_a_rate_that_is_not_halved_if_it_is_another() {
        let folder = tempfile::tempdir().unwrap();
        let mut run = run(folder.path());
        run.train(&mut |_| ()).unwrap();
        let best = run.best().unwrap();
        run.roll_back(9.0, &mut |_| ()).unwrap();
        assert!(run.record.step < best.step);
        drop(run);
        let same = resumed(folder.path(), |_| ());
        assert_eq!(same.folder.best_validation(), Some(best));
        assert_eq!((same.position.lr_scale, same.position.divergences), (0.5, 1));
        drop(same);
        // At a rate of its own, which it takes up with its first step.
        let mut further = resumed(folder.path(), |recipe| recipe.lr = 0.0);
        assert_eq!((further.position.lr_scale, further.position.divergences), (0.5, 1));
        further.train(&mut |_| ()).unwrap();
        assert_eq!((further.position.lr_scale, further.position.divergences), (1.0, 1));
        assert_eq!(further.record.recipe.as_ref().unwrap().lr, 0.0);
        drop(further);
        // Where other validations have been made than before it went back.
        let later = resumed(folder.path(), |_| ());
        assert_eq!((later.folder.best_validation(), later.folder.set_aside()), (Some(best), None));
    }

    #[test]
    fn a_loss_is_a_divergence_only_if_a_model_that_knows_nothing_has_less() {
        let folder = tempfile::tempdir().unwrap();
        let mut run = run(folder.path());
        let untrained = (MINIMUM_VOCABULARY as f64).ln();
        let mut diverged = |lowest, smoothed, loss, tokens, updated| {
            (run.position.lowest_loss, run.record.loss) = (lowest, smoothed);
            let report =
                StepReport { loss, gradient_norm: 1.0, learning_rate: 1e-3, largest_state: 1.0, updated };
            run.has_diverged(&report, tokens)
        };
        assert!(!diverged(0.1, 0.1, untrained, 64, true));
        assert!(diverged(0.1, 0.1, untrained, 64, false));
        assert!(diverged(0.1, 0.1, 2.0 * untrained + 2.1, 64, true));
        assert!(!diverged(0.1, 0.1, 9.0 * untrained, 1, true));
        assert!(!diverged(0.1, 0.9 * untrained, untrained, 64, true));
        assert!(diverged(0.1, 1.1 * untrained, untrained, 64, true));
        assert!(!diverged(untrained, 1.4 * untrained, untrained, 64, true));
    }

    #[test]
    fn at_the_end_of_an_epoch_the_state_is_zero_and_passes_count_its_parts() {
        let folder = tempfile::tempdir().unwrap();
        let mut run = run(folder.path());
        let mut passes = Vec::new();
        run.train(&mut |_| ()).unwrap();
        for step in 0..2 * run.streams.chunks() {
            (run.record.epoch, run.position.chunk) =
                ((step / run.streams.chunks()) as u32, step % run.streams.chunks());
            passes.push(run.passes());
        }
        assert!(passes.is_sorted() && passes[0] == 0.0 && passes[1] > 0.0, "{passes:?}");
        let newest = Checkpoint::open(run.folder.newest().unwrap()).unwrap();
        let position = newest.training().unwrap().position();
        assert!(position.chunk == 0 && position.carried_state.iter().all(|&h| h == 0.0));
    }

    #[test]
    fn a_run_stopped_in_its_last_validation_makes_it_when_it_is_resumed_and_keeps_its_recipe_until_it_goes_on()
     {
        let folder = tempfile::tempdir().unwrap();
        let mut run = run(folder.path());
        run.recipe.length = RunLength::Steps(5);
        let stop = Arc::clone(&run.options.interrupt);
        let outcome = run.train(&mut |event| {
            if let Event::Step { record, .. } = event {
                stop.store(record.step == 5, Ordering::Relaxed);
            }
        });
        assert_eq!((outcome.unwrap(), run.best(), run.record.step), (Outcome::Interrupted, None, 5));
        drop(run);
        for (at_once, best) in [(true, None), (false, Some(5))] {
            let mut run = resumed(folder.path(), |recipe| recipe.length = RunLength::Steps(4));
            run.options.interrupt.store(at_once, Ordering::Relaxed);
            let outcome = if at_once { Outcome::Interrupted } else { Outcome::Finished };
            assert_eq!(run.train(&mut |_| ()).unwrap(), outcome);
            assert_eq!(run.best().map(|best| best.step), best);
        }
        let mut run = resumed(folder.path(), |recipe| recipe.length = RunLength::Steps(6));
        assert_eq!(run.record.recipe.as_ref().unwrap().length, RunLength::Steps(5));
        run.train(&mut |_| ()).unwrap();
        assert_eq!(run.record.recipe.as_ref().unwrap().length, RunLength::Steps(6));
    }

    #[test]
    fn going_back_deletes_what_this_session_made_only() {
        let folder = tempfile::tempdir().unwrap();
        let mut run = run(folder.path());
        run.recipe.length = RunLength::Steps(20);
        run.train(&mut |_| ()).unwrap();
        drop(run);
        let mut run = resumed(folder.path(), |recipe| recipe.length = RunLength::Steps(23));
        run.train(&mut |_| ()).unwrap();
        let names = || [0, 20, 23].map(|step| folder.path().join(format!("step-{step:08}.shoe")).exists());
        assert_eq!(names(), [true; 3]);
        for _ in 0..MOST_HALVINGS {
            run.roll_back(9.0, &mut |_| ()).unwrap();
            assert_eq!((names(), run.record.step), ([true, true, false], 0));
        }
        let given_up = run.roll_back(9.0, &mut |_| ()).unwrap_err();
        assert!(
            matches!(given_up, TrainError::Diverged { checkpoint } if checkpoint.ends_with("step-00000000.shoe"))
        );
    }

    #[test]
    fn minutes_of_earlier_sessions_count() {
        let folder = tempfile::tempdir().unwrap();
        let mut run = run(folder.path());
        run.train(&mut |_| ()).unwrap();
        let validated = run.record.step;
        for (unvalidated_steps, is_due) in [(validated, true), (0, false)] {
            // Two hours; one of them, if any, since the last validation.
            (run.record.seconds, run.record.step) = (7200.0, validated + unvalidated_steps);
            run.save(&mut |_| ()).unwrap();
            let kept = std::fs::read(run.folder.newest().unwrap()).unwrap();
            let folder = tempfile::tempdir().unwrap();
            std::fs::write(folder.path().join("step-00000001.shoe"), kept).unwrap();
            let mut resumed = resumed(folder.path(), |recipe| recipe.length = RunLength::Minutes(160.0));
            assert!((resumed.progress().done - 0.75).abs() < 0.01);
            resumed.validated_at = None;
            resumed.look_after(false, &mut |_| ()).unwrap();
            assert_eq!(resumed.is_validated(), is_due);
            resumed.validated_at = None;
            resumed.look_after(false, &mut |_| ()).unwrap();
            assert!(!resumed.is_validated(), "it was just validated");
        }
    }

    #[test]
    fn without_its_lock_the_folder_is_the_runs_all_the_same() {
        let folder = tempfile::tempdir().unwrap();
        let mut run = run(folder.path());
        run.train(&mut |_| ()).unwrap();
        let files = || {
            let entries = std::fs::read_dir(folder.path()).unwrap();
            let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name()).collect();
            names.sort();
            names
        };
        let before = files();
        std::fs::remove_file(folder.path().join(".lock")).unwrap();
        run.save(&mut |_| ()).unwrap();
        assert_eq!(files(), before);
        // As is the file of metrics, which is begun again.
        std::fs::remove_file(folder.path().join("metrics.jsonl")).unwrap();
        run.validate(&mut |_| ()).unwrap();
        assert_eq!(files(), before);
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
