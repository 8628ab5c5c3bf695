//! A run that is stopped and resumed ends with the weights of an undisturbed one, bit for bit; and so does one on
//! another number of threads.

#[path = "common/dialogue.rs"]
mod dialogue;

use dialogue::dialogue;
use shoestring::checkpoint::{Checkpoint, Contents, Position, Recipe, RunLength, TrainingState, save};
use shoestring::kernels::{Kernels, Line};
use shoestring::model::{Kind, ModelConfig};
use shoestring::text::Text;
use shoestring::tokenizer::Tokenizer;
use shoestring::train::{Corpus, Event, Options, Outcome, Run, RunFolder, TrainError, default_recipe};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

const VOCABULARY: usize = 290;

const DENSE: ModelConfig = ModelConfig {
    vocabulary: VOCABULARY,
    embedding: 12,
    hidden: 16,
    layers: 2,
    experts: 3,
    top_k: 3,
    tied: false,
    eps_rmsnorm: 1e-5,
};
const SPARSE: ModelConfig = ModelConfig { top_k: 2, ..DENSE };
const SINGLE: ModelConfig = ModelConfig { top_k: 1, embedding: 16, tied: true, ..DENSE };

/// A run of which everything is set.
#[derive(Clone)]
struct Setting {
    config: ModelConfig,
    recipe: Recipe,
    kernels: &'static Kernels,
    threads: usize,
    /// Stops the run that is under way.
    interrupt: Arc<AtomicBool>,
}

impl Setting {
    /// `epochs` epochs of about a dozen chunks.
    fn new(config: ModelConfig, epochs: u32) -> Self {
        let recipe = Recipe {
            batch_size: 5,
            seq_length: 16,
            length: RunLength::Epochs(epochs),
            dropout: 0.2,
            warmup_steps: 5,
            ..default_recipe()
        };
        Setting { config, recipe, kernels: Kernels::best(), threads: 1, interrupt: Arc::default() }
    }

    fn options(&self) -> Options {
        self.interrupt.store(false, Ordering::Relaxed);
        let &Setting { kernels, threads, .. } = self;
        let interrupt = Arc::clone(&self.interrupt);
        Options { kernels, threads, save_every: Duration::from_secs(3600), interrupt }
    }

    fn start(&self, folder: &Path) -> Run {
        let text = dialogue(2_500);
        let tokenizer = Tokenizer::train(&[&text.as_bytes()[..2_250]], VOCABULARY, 1).unwrap();
        let folder = RunFolder::open(folder, 2, None).unwrap();
        let recipe = self.recipe.clone();
        let (corpus, options) = (corpus(2_500), self.options());
        Run::start(self.config, recipe, tokenizer, corpus, folder, options, &mut |_| ()).unwrap()
    }

    fn resume(&self, folder: &Path, corpus: Corpus) -> Result<Run, TrainError> {
        let checkpoint =
            Checkpoint::open(&shoestring::train::newest_checkpoint(folder).unwrap().unwrap()).unwrap();
        let folder = RunFolder::open(folder, 2, Some(&checkpoint))?;
        let (recipe, options) = (self.recipe.clone(), self.options());
        Run::resume(&checkpoint, recipe, corpus, folder, options, &mut |_| ())
    }

    /// Trains to the end, or until `steps` steps of this run have been taken.
    fn train(&self, run: &mut Run, steps: usize) -> Outcome {
        let mut taken = 0;
        let mut count = |event: Event<'_>| {
            if let Event::Step { .. } = event {
                taken += 1;
                self.interrupt.store(taken == steps, Ordering::Relaxed);
            }
        };
        run.train(&mut count).unwrap()
    }
}

fn corpus(length: usize) -> Corpus {
    Corpus::new(Text::from_bytes(dialogue(length).into()), None).unwrap()
}

/// What the last checkpoint of a finished run holds that must not depend on how it got there.
#[derive(PartialEq)]
struct End {
    step: u64,
    tokens: u64,
    loss: f64,
    weights: Vec<Line>,
    average: Vec<Line>,
    moments: Vec<Line>,
    state: Vec<f32>,
}

fn end(run: &Run) -> End {
    let checkpoint = Checkpoint::open(run.folder().newest().unwrap()).unwrap();
    let record = checkpoint.record();
    let training = checkpoint.training().unwrap();
    End {
        step: record.step,
        tokens: record.tokens,
        loss: record.loss,
        weights: training.weights().to_vec(),
        average: checkpoint.weights().to_vec(),
        moments: training.moments().to_vec(),
        state: training.position().carried_state,
    }
}

fn undisturbed(setting: &Setting) -> End {
    let folder = tempfile::tempdir().unwrap();
    let mut run = setting.start(folder.path());
    assert_eq!(setting.train(&mut run, usize::MAX), Outcome::Finished);
    end(&run)
}

/// The same run, stopped after each of `stops` further steps and resumed from its file.
fn interrupted(setting: &Setting, stops: &[usize]) -> End {
    let folder = tempfile::tempdir().unwrap();
    let mut run = setting.start(folder.path());
    for &steps in stops {
        assert_eq!(setting.train(&mut run, steps), Outcome::Interrupted);
        drop(run);
        run = setting.resume(folder.path(), corpus(2_500)).unwrap();
    }
    assert_eq!(setting.train(&mut run, usize::MAX), Outcome::Finished);
    end(&run)
}

#[test]
fn resuming_changes_nothing() {
    for config in [DENSE, SPARSE, SINGLE] {
        let setting = Setting::new(config, 2);
        let whole = undisturbed(&setting);
        let chunks = whole.step as usize / 2;
        assert!(chunks > 6 && whole.step.is_multiple_of(2), "{} steps", whole.step);
        // In an epoch, at its end (where the state starts anew), just after it, and several times.
        for stops in [&[3][..], &[chunks], &[chunks + 1], &[1, 1, chunks - 1, 2], &[2 * chunks - 1]] {
            assert!(interrupted(&setting, stops) == whole, "{config:?}, stopped after {stops:?}");
        }
    }
}

#[test]
fn resuming_changes_nothing_on_any_kernels() {
    for kernels in Kernels::available() {
        let setting = Setting { kernels, ..Setting::new(SPARSE, 1) };
        assert!(interrupted(&setting, &[4]) == undisturbed(&setting), "{}", kernels.name());
    }
}

#[test]
fn a_longer_length_goes_on_from_the_end() {
    // A constant rate, as the schedule's is a function of the length.
    let mut setting = Setting::new(SPARSE, 1);
    setting.recipe =
        Recipe { final_lr: 1.0, warmup_steps: 0, length: RunLength::Steps(20), ..setting.recipe };
    let whole = undisturbed(&setting);
    let folder = tempfile::tempdir().unwrap();
    let mut short = setting.clone();
    short.recipe.length = RunLength::Steps(10);
    assert_eq!(short.train(&mut short.start(folder.path()), usize::MAX), Outcome::Finished);
    let mut run = setting.resume(folder.path(), corpus(2_500)).unwrap();
    assert_eq!(setting.train(&mut run, usize::MAX), Outcome::Finished);
    assert!(end(&run) == whole);
}

#[test]
fn a_seed_and_nothing_else_decides() {
    let mut setting = Setting::new(SPARSE, 1);
    // Two blocks of streams for each expert, of different lengths.
    (setting.recipe.batch_size, setting.recipe.seq_length) = (11, 7);
    let whole = undisturbed(&setting);
    for threads in [1, 2, 3, 7] {
        assert!(undisturbed(&Setting { threads, ..setting.clone() }) == whole, "{threads} threads");
    }
    let mut other = setting;
    other.recipe.seed += 1;
    assert!(undisturbed(&other) != whole, "the seed changes nothing");
}

#[test]
fn threads_may_change_between_stopping_and_resuming() {
    let setting = Setting::new(DENSE, 1);
    let whole = undisturbed(&setting);
    let folder = tempfile::tempdir().unwrap();
    let mut run = setting.start(folder.path());
    setting.train(&mut run, 4);
    drop(run);
    let mut run = Setting { threads: 3, ..setting.clone() }.resume(folder.path(), corpus(2_500)).unwrap();
    setting.train(&mut run, usize::MAX);
    assert!(end(&run) == whole);
}

#[test]
fn a_finished_run_can_be_resumed_and_is_finished() {
    let setting = Setting::new(DENSE, 1);
    let folder = tempfile::tempdir().unwrap();
    let mut run = setting.start(folder.path());
    setting.train(&mut run, usize::MAX);
    let (whole, validations) = (end(&run), run.record().validations.clone());
    drop(run);
    let mut run = setting.resume(folder.path(), corpus(2_500)).unwrap();
    assert_eq!(setting.train(&mut run, usize::MAX), Outcome::Finished);
    assert!(end(&run) == whole);
    assert_eq!(run.record().validations, validations);
}

#[test]
fn another_text_is_refused() {
    let setting = Setting::new(DENSE, 1);
    let folder = tempfile::tempdir().unwrap();
    setting.train(&mut setting.start(folder.path()), 2);
    for length in [2_400, 2_600] {
        let other = setting.resume(folder.path(), corpus(length)).err().unwrap();
        assert!(matches!(other, TrainError::OtherText), "{other}");
    }
    assert!(setting.resume(folder.path(), corpus(2_500)).is_ok());
}

#[test]
fn what_no_run_can_be_is_refused() {
    let sound = Setting::new(DENSE, 1);
    let try_to = |config: ModelConfig, recipe: Recipe| {
        let folder = tempfile::tempdir().unwrap();
        let tokenizer = Tokenizer::train(&[dialogue(2_250).as_bytes()], VOCABULARY, 1).unwrap();
        let run_folder = RunFolder::open(folder.path(), 2, None).unwrap();
        let (corpus, options) = (corpus(2_500), sound.options());
        let run = Run::start(config, recipe, tokenizer, corpus, run_folder, options, &mut |_| ());
        run.map(drop).map_err(|error| error.to_string())
    };
    let recipe = || sound.recipe.clone();
    let refused = [
        (DENSE, Recipe { batch_size: 0, ..recipe() }, "batch"),
        (DENSE, Recipe { seq_length: 0, ..recipe() }, "sequences"),
        (DENSE, Recipe { dropout: 1.0, ..recipe() }, "dropout"),
        (ModelConfig { top_k: 4, ..DENSE }, recipe(), "between 1 and 3"),
        (ModelConfig { vocabulary: VOCABULARY + 1, ..DENSE }, recipe(), "vocabulary of 291"),
    ];
    for (config, recipe, part) in refused {
        let error = try_to(config, recipe).unwrap_err();
        assert!(error.contains(part), "{error}");
    }
    try_to(DENSE, recipe()).unwrap();
}

#[test]
fn a_position_beyond_the_text_is_damage() {
    let setting = Setting::new(DENSE, 3);
    let folder = tempfile::tempdir().unwrap();
    let mut run = setting.start(folder.path());
    assert_eq!(setting.train(&mut run, 5), Outcome::Interrupted);
    let path = run.folder().newest().unwrap().to_owned();
    drop(run);
    let checkpoint = Checkpoint::open(&path).unwrap();
    let training = checkpoint.training().unwrap();
    let contents = |chunk| Contents {
        config: checkpoint.config(),
        tokenizer: checkpoint.tokenizer().to_owned(),
        weights: checkpoint.weights(),
        record: checkpoint.record(),
        training: Some(TrainingState {
            weights: training.weights(),
            moments: training.moments(),
            position: Position { chunk, ..training.position() },
            model_data: Vec::new(),
            validation_data: Vec::new(),
        }),
    };
    for (chunk, is_sound) in [(5, true), (1000, false), (1 << 40, false), (u64::MAX, false)] {
        save(&path, Kind::F32, &contents(chunk)).unwrap();
        match setting.resume(folder.path(), corpus(2_500)) {
            Ok(_) => assert!(is_sound, "{chunk}"),
            Err(error) => {
                assert!(!is_sound && error.to_string().contains("beyond the end"), "{chunk}: {error}")
            }
        }
    }
}
