//! The whole model: training and decoding.

use super::DEFAULT_MODEL;
use super::peaks::Peaks;
use super::timing::{Effort, timed};
use crate::model::{Kind, Layout, Model, ModelConfig, Session, Tensor, Weights};
use crate::quantize::requantize;
use crate::sample::{Sampler, Sampling};
use crate::tokenizer;
use crate::train::{Dropout, Trainer, Update, default_recipe, initialise};
use rayon::ThreadPoolBuildError;
use serde::Serialize;
use shoestring_kernels::{Kernels, Line, Team};
use std::hint::black_box;
use std::sync::Arc;

/// Time for a measurement of training, whose steps take long, as a multiple of that for others.
const TRAINING_EFFORT: u32 = 8;
/// Tokens decoded in one run.
const RUN_TOKENS: usize = 64;
/// Tokens of a prompt that is long enough to be read on all threads.
const PROMPT_TOKENS: usize = 2048;

/// How fast a model trains.
#[derive(Clone, Debug, Serialize)]
pub struct Training {
    /// Threads.
    pub threads: usize,
    /// Tokens trained on a second.
    pub tokens_per_second: f64,
    /// Billions of floating-point operations of matrix products a second.
    pub gflops: f64,
    /// Part of the threads' peaks of multiply-adds.
    pub share: f64,
}

/// How fast a model of one kind of weights writes and reads.
#[derive(Clone, Debug, Serialize)]
pub struct Decoding {
    /// How its weights are stored.
    pub weights: &'static str,
    /// Threads that write.
    pub threads: usize,
    /// Tokens written a second, sampling included.
    pub tokens_per_second: f64,
    /// Microseconds a token takes in the layers.
    pub layers_us: f64,
    /// Microseconds of the head.
    pub head_us: f64,
    /// Microseconds of sampling.
    pub sampling_us: f64,
    /// Tokens of a prompt read a second on one thread.
    pub prompt_tokens_per_second: f64,
    /// The same of a long prompt on all threads.
    pub long_prompt_tokens_per_second: f64,
    /// Bytes of weights that writing a token reads.
    pub bytes: usize,
    /// Billions of bytes of weights read a second.
    pub gb_per_s: f64,
    /// The level of memory that holds the weights.
    pub peak: Option<&'static str>,
    /// Part of that level's peak.
    pub share: Option<f64>,
}

/// Steps of the default recipe at the default sizes, on random tokens.
///
/// # Errors
/// If the threads can't be started.
pub fn training(
    kernels: &'static Kernels,
    threads: usize,
    peaks: &Peaks,
    effort: Effort,
) -> Result<Training, ThreadPoolBuildError> {
    let recipe = default_recipe();
    let (batch, steps) = (recipe.batch_size, recipe.seq_length);
    let layout = Layout::new(&DEFAULT_MODEL);
    let weights = initialise(&layout, recipe.seed);
    let mut trainer = Trainer::new(DEFAULT_MODEL, kernels, weights, (batch, steps), threads)?;
    let token = |i: usize| (i * i % 839 % DEFAULT_MODEL.vocabulary) as u32;
    let tokens: Vec<u32> = (0..batch * steps).map(token).collect();
    let targets: Vec<u32> = (1..=batch * steps).map(token).collect();
    let mut step = 0;
    let effort = Effort { each: TRAINING_EFFORT * effort.each };
    let seconds = effort.median_seconds(|| {
        step += 1;
        let update = Update {
            step,
            learning_rate: recipe.lr / recipe.warmup_steps as f32,
            beta1: recipe.beta1,
            beta2: recipe.beta2,
            eps: recipe.eps_adamw,
            weight_decay: recipe.wd,
            clip: recipe.grad_clip,
        };
        let dropout = Dropout { probability: recipe.dropout, key: step };
        timed(|| trainer.step((&tokens, &targets), steps, update, Some(dropout)))
    });
    let tokens_per_second = tokens.len() as f64 / seconds;
    // Forward, and backward to inputs and to weights.
    let flops = 3 * 2 * layout.multiply_adds(&DEFAULT_MODEL);
    let gflops = flops as f64 * tokens_per_second / 1e9;
    Ok(Training { threads, tokens_per_second, gflops, share: gflops / (threads as f64 * peaks.gflops) })
}

/// Tokens of `model`, its weights stored as `kind`, one after another on `threads` threads.
pub fn decoding(model: &Model, kind: Kind, threads: usize, peaks: &Peaks, effort: Effort) -> Decoding {
    let stored = requantize(model, kind);
    let weights = Weights { config: model.config(), layout: &stored.layout, lines: &stored.lines };
    let team = Arc::new(Team::new(move || threads));
    let mut session = Session::new(weights, model.tokenizer(), model.kernels()).on_team(team);
    let mut sampler = Sampler::new(Sampling::default());
    let mut token = tokenizer::EOS;
    let mut write = |parts: [bool; 3]| {
        for _ in 0..RUN_TOKENS {
            let [layers, head, sampling] = parts;
            if layers {
                session.feed_tokens(&[token]);
            }
            if head {
                black_box(session.logits());
            }
            if sampling {
                token = session.sample(&mut sampler);
            }
        }
    };
    // With each part the ones before it, so that a difference is the time of a part.
    let parts = [[true, false, false], [true, true, false], [true, true, true]];
    let [layers, with_head, all] = effort
        .medians_by_turns(|which| timed(|| write(parts[which])))
        .map(|seconds| seconds / RUN_TOKENS as f64);
    let prompt: Vec<u32> = (0..PROMPT_TOKENS as u32).map(|i| i % weights.config.vocabulary as u32).collect();
    let reading = |prompt: &[u32], team: &Arc<Team>| {
        let mut session = session.clone().on_team(Arc::clone(team));
        prompt.len() as f64 / effort.median_seconds(|| timed(|| session.feed_tokens(prompt)))
    };
    let short = reading(&prompt[..RUN_TOKENS], &Arc::new(Team::new(|| 1)));
    let long = reading(&prompt, model.team());
    let bytes = bytes_read(&stored.layout, &weights.config);
    let (gb_per_s, level) = (bytes as f64 / all / 1e9, peaks.level_of(bytes));
    Decoding {
        weights: kind.name(),
        threads,
        tokens_per_second: 1.0 / all,
        layers_us: 1e6 * layers,
        head_us: 1e6 * (with_head - layers).max(0.0),
        sampling_us: 1e6 * (all - with_head).max(0.0),
        prompt_tokens_per_second: short,
        long_prompt_tokens_per_second: long,
        bytes,
        gb_per_s,
        peak: level.map(|level| level.level),
        share: level.map(|level| gb_per_s / level.gb_per_s),
    }
}

/// Bytes of the matrices that multiply with a token, but for those of experts that don't run.
fn bytes_read(layout: &Layout, config: &ModelConfig) -> usize {
    let used = |tensor: &Tensor| {
        let (matrices, _, _) = tensor.storage.shape();
        tensor.lines.len() * size_of::<Line>() * tensor.running_matrices(config) / matrices
    };
    layout.tensors.iter().map(used).sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bundled;

    #[test]
    fn a_token_of_the_default_model_takes_414_528_multiply_adds() {
        let multiply_adds = |config| Layout::new(&config).multiply_adds(&config);
        assert_eq!(multiply_adds(DEFAULT_MODEL), 414_528);
        // Four of six experts' three matrices of two layers less.
        let sparse = ModelConfig { top_k: 2, ..DEFAULT_MODEL };
        assert_eq!(multiply_adds(sparse), 414_528 - 4 * 3 * 2 * 96 * 96);
    }

    #[test]
    fn the_bundled_model_has_the_default_sizes() {
        assert_eq!(bundled::model().unwrap().config(), DEFAULT_MODEL);
    }
}
