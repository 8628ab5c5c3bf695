//! Random models and batches, the same for the same seed.

#![allow(dead_code, reason = "each test program uses only some of it")]

use shoestring::model::ModelConfig;
use shoestring::reference::{Forward, ReferenceError, Tensors, forward, shapes};

/// A model, a batch, and the states before it.
#[derive(Clone, Debug)]
pub struct Case {
    pub config: ModelConfig,
    pub parameters: Tensors<f64>,
    /// `[T, B]`
    pub tokens: Vec<u32>,
    /// `[T, B]`
    pub targets: Vec<u32>,
    /// L × `[B, E, H]`
    pub states: Vec<Vec<f64>>,
}

impl Case {
    /// Weights and states of a size at which every part of the model bends.
    pub fn random(config: ModelConfig, steps: usize, batch: usize, seed: u64) -> Self {
        let mut random = SplitMix64(seed);
        let mut values = |name: &str, count: usize| {
            let offset = if name.ends_with("norm.weight") { 1.0 } else { 0.0 };
            (0..count).map(|_| offset + 0.8 * (2.0 * random.unit() - 1.0)).collect::<Vec<f64>>()
        };
        let parameters = shapes(&config)
            .into_iter()
            .map(|(name, shape)| (name.clone(), values(&name, shape.iter().product())))
            .collect();
        let state_size = batch * config.experts * config.hidden;
        let states = (0..config.layers).map(|_| values("state", state_size)).collect();
        let mut ids = || (0..steps * batch).map(|_| random.below(config.vocabulary)).collect();
        Self { config, parameters, tokens: ids(), targets: ids(), states }
    }

    /// The first random case, counting seeds up from `seed`, in which no choice of experts is close.
    pub fn decided(config: ModelConfig, steps: usize, batch: usize, seed: u64) -> Self {
        let cases = (seed..).map(|seed| Self::random(config, steps, batch, seed));
        cases.take(1000).find(Self::is_decided).expect("a thousand seeds, and some choice is always close")
    }

    /// Whether every active expert's score is at least 4e-3 above every inactive one's, so that neither
    /// rounding nor a small change of a parameter changes the choice.
    pub fn is_decided(&self) -> bool {
        margin(&self.forward().unwrap()) >= 4e-3
    }

    /// The reference's forward pass, with loss.
    pub fn forward(&self) -> Result<Forward<f64>, ReferenceError> {
        forward(&self.config, &self.parameters, &self.tokens, Some(&self.targets), &self.states)
    }
}

/// How far every active expert's score is above every inactive one's, at least.
pub fn margin(forward: &Forward<f64>) -> f64 {
    let each = forward.steps.iter().flatten().map(|step| {
        let scores = |active| {
            let chosen = step.scores.iter().zip(&step.active).filter(move |(_, is)| **is == active);
            chosen.map(|(&score, _)| score)
        };
        scores(true).fold(f64::INFINITY, f64::min) - scores(false).fold(f64::NEG_INFINITY, f64::max)
    });
    each.fold(f64::INFINITY, f64::min)
}

/// SplitMix64 (Steele, Lea and Flood, "Fast splittable pseudorandom number generators", OOPSLA 2014).
pub struct SplitMix64(pub u64);

impl SplitMix64 {
    /// 64 random bits.
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// Uniform over [0, 1).
    pub fn unit(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1u64 << 53) as f64
    }

    /// An id below `end`.
    pub fn below(&mut self, end: usize) -> u32 {
        (self.unit() * end as f64) as u32
    }
}
