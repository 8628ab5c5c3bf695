//! The learning rate over a run, and dropout over passes.

use crate::checkpoint::{Recipe, RunLength};
use std::f64::consts::PI;

/// Part of a run that warming up takes at most.
const LONGEST_WARMUP: f64 = 0.1;

/// Validations of a run whose length is counted, at most.
const MOST_VALIDATIONS: f64 = 100.0;
/// The part of the time that they may take, except after each of a run's up to 100 epochs.
const MOST_VALIDATING: f64 = 0.1;
/// A run of fewer epochs than this is validated within them too, though not after fewer than `FEWEST_STEPS` steps.
const FEWEST_VALIDATIONS: f64 = 10.0;
const FEWEST_STEPS: f64 = 500.0;

/// Dropout at the start, as a part of what it becomes, if the model has a parameter for each token of the text; of a larger
/// text a model can't know much by heart even later, and it has proportionally less.
const FIRST_DROPOUT: f64 = 0.15;
/// Passes over which dropout would rise from nothing to all of it, if the model has a parameter for each token of the
/// text. Found on tinyshakespeare with the default sizes, where these are 50 passes.
const DROPOUT_PASSES: f64 = 57.5;

/// How far a run is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Progress {
    /// Optimizer steps taken.
    pub step: u64,
    /// Part of the run that is done, 0 to 1.
    pub done: f64,
}

impl Progress {
    /// The progress of a run of length `length` after `step` steps and `seconds` seconds, at
    /// `steps_per_epoch` steps an epoch.
    pub fn new(length: RunLength, step: u64, seconds: f64, steps_per_epoch: u64) -> Self {
        let done = match length {
            RunLength::Epochs(epochs) => step as f64 / (u64::from(epochs) * steps_per_epoch) as f64,
            RunLength::Steps(steps) => step as f64 / steps as f64,
            RunLength::Minutes(minutes) => seconds / (60.0 * minutes),
        };
        Progress { step, done: if done.is_nan() { 1.0 } else { done.min(1.0) } }
    }

    /// The learning rate of the next step: a linear warm-up, then half a cosine down to the final rate
    /// (Loshchilov and Hutter 2017, without restarts).
    pub fn learning_rate(&self, recipe: &Recipe) -> f32 {
        let steps = self.step as f64 + 1.0;
        let by_steps = steps / recipe.warmup_steps.max(1) as f64;
        // A run too short for its warm-up warms up over its first part instead.
        let by_part = if self.step == 0 { 0.0 } else { self.done / LONGEST_WARMUP };
        let warmup = by_steps.max(by_part).min(1.0);
        let final_lr = f64::from(recipe.final_lr);
        let decay = final_lr + (1.0 - final_lr) * 0.5 * (1.0 + (PI * self.done).cos());
        (f64::from(recipe.lr) * warmup * decay) as f32
    }
}

/// Steps between the validations of a run whose length is counted in steps or epochs, so that no clock decides which model
/// is the best: an epoch, or as many as make about [`MOST_VALIDATIONS`] in the run; in a run of few and long epochs a part of
/// one. `cost` is the time of a validation in that of an epoch. `None` if the run's length is a time.
pub fn validation_interval(length: RunLength, steps_per_epoch: u64, cost: f64) -> Option<u64> {
    let epochs = match length {
        RunLength::Epochs(epochs) => f64::from(epochs),
        RunLength::Steps(steps) => steps as f64 / steps_per_epoch as f64,
        RunLength::Minutes(_) => return None,
    };
    let most_costly = cost / MOST_VALIDATING;
    let every = match length {
        RunLength::Epochs(epochs) if f64::from(epochs) <= MOST_VALIDATIONS => 1.0,
        _ => (epochs / MOST_VALIDATIONS).max(most_costly).ceil(),
    };
    let longest = steps_per_epoch as f64 / FEWEST_STEPS;
    let parts = (FEWEST_VALIDATIONS / epochs).min(1.0 / most_costly).min(longest).floor();
    Some(if parts >= 2.0 { steps_per_epoch.div_ceil(parts as u64) } else { every as u64 * steps_per_epoch })
}

/// The probability of dropout after so many passes over the text. What is read for the first time can't be known by heart,
/// and dropout only slows learning. The more often a text has been read, and the more parameters a model has for each
/// of its tokens, the more is needed (`docs/training.md` has what that is worth).
pub fn dropout(recipe: &Recipe, passes: f64, parameters_per_token: f64) -> f32 {
    let first = FIRST_DROPOUT * parameters_per_token.min(1.0);
    let part = (first + passes * parameters_per_token / DROPOUT_PASSES).min(1.0);
    (f64::from(recipe.dropout) * part) as f32
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::train::{classic_recipe, default_recipe};

    #[test]
    fn the_rate_rises_then_falls_to_its_final_part() {
        let recipe = default_recipe();
        let rate = |step| Progress::new(RunLength::Steps(2000), step, 0.0, 1).learning_rate(&recipe);
        assert!((rate(0) - recipe.lr / 100.0).abs() < 1e-6);
        assert!(rate(0) < rate(50) && rate(50) < rate(100));
        assert!(rate(100) > rate(1000) && rate(1000) > rate(2000));
        assert!((rate(2000) - recipe.lr * recipe.final_lr).abs() < 1e-8);
    }

    #[test]
    fn a_short_run_warms_up_over_its_first_part() {
        let recipe = default_recipe();
        let rate = |step| Progress::new(RunLength::Steps(50), step, 0.0, 1).learning_rate(&recipe);
        assert!(rate(5) > 0.9 * recipe.lr);
    }

    #[test]
    fn validations_come_with_epochs_and_in_between_only_where_those_are_long() {
        let every = |length, chunks| validation_interval(length, chunks, 0.037);
        assert_eq!(every(RunLength::Minutes(3.0), 300), None);
        assert_eq!(every(RunLength::Epochs(3), 300), Some(300));
        assert_eq!(every(RunLength::Epochs(100), 300), Some(300));
        assert_eq!(every(RunLength::Epochs(101), 300), Some(600));
        assert_eq!(every(RunLength::Steps(30_000), 300), Some(300));
        assert_eq!(every(RunLength::Steps(60_000), 300), Some(600));
        assert_eq!(every(RunLength::Steps(10), 300), Some(300));
        assert_eq!(every(RunLength::Epochs(1), 24_000), Some(12_000));
        assert_eq!(validation_interval(RunLength::Epochs(1), 24_000, 0.001), Some(2400));
        assert_eq!(validation_interval(RunLength::Epochs(2), 100, 5.0), Some(100));
        assert_eq!(validation_interval(RunLength::Steps(10_000), 100, 0.25), Some(300));
    }

    #[test]
    fn dropout_rises_with_the_passes_to_all_of_it() {
        let recipe = Recipe { dropout: 0.2, ..default_recipe() };
        let close = |passes, parameters, expected: f32| {
            (dropout(&recipe, passes, parameters) - expected).abs() < 1e-6
        };
        assert!(close(0.0, 0.1, 0.003) && close(0.0, 0.0, 0.0) && close(0.0, 2.0, 0.03));
        assert!(close(0.0, 1.0, 0.03) && close(11.5, 1.0, 0.07) && close(5.75, 2.0, 0.07));
        assert!(close(48.875, 1.0, 0.2) && close(1e6, 1.0, 0.2));
        assert_eq!(dropout(&classic_recipe(), 20.0, 1.0), 0.0);
    }

    #[test]
    fn classic_is_constant() {
        let recipe = classic_recipe();
        for step in [0, 10, 99] {
            assert_eq!(Progress::new(RunLength::Steps(100), step, 0.0, 1).learning_rate(&recipe), 1e-3);
        }
    }
}
