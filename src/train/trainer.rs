//! One optimizer step after another: weights, moments and buffers.

use super::average::Average;
use super::backward::Backward;
use super::network::{Dropout, Network};
use super::optimizer::{Optimizer, Update};
use super::transpose::Transposed;
use crate::model::{Layout, ModelConfig, Weights};
use shoestring_kernels::{Kernels, Line};

/// Training carries states from chunk to chunk up to this magnitude, far above that of a healthy state.
const CARRIED_BOUND: f32 = 40.0;

/// Weights in training, and all it takes to move them.
pub struct Trainer {
    kernels: &'static Kernels,
    config: ModelConfig,
    layout: Layout,
    weights: Vec<Line>, // [lines]
    average: Average,
    gradient: Vec<Line>, // [lines]
    optimizer: Optimizer,
    transposed: Transposed,
    network: Network,
    backward: Backward,
    threads: rayon::ThreadPool,
    // In the order of the network's rows.
    tokens: Vec<u32>,  // [T * B]
    targets: Vec<u32>, // [T * B]
}

/// What one step showed.
#[derive(Clone, Copy, Debug)]
pub struct StepReport {
    /// Mean loss over the chunk before the update, nats a token.
    pub loss: f64,
    /// Norm of the gradient before clipping.
    pub gradient_norm: f64,
    /// How far the update moved a weight at most, about.
    pub learning_rate: f32,
    /// The largest magnitude of a state at the chunk's end.
    pub largest_state: f32,
    /// Whether the weights were updated: not if the loss or the gradient was not finite.
    pub updated: bool,
}

impl Trainer {
    /// A trainer of `weights`, for chunks of at most `steps` steps of `batch` streams, on `threads`
    /// threads. The number of threads does not change any result.
    ///
    /// # Errors
    /// If the threads can't be started.
    pub fn new(
        config: ModelConfig,
        kernels: &'static Kernels,
        weights: Vec<Line>,
        (batch, steps): (usize, usize),
        threads: usize,
    ) -> Result<Self, rayon::ThreadPoolBuildError> {
        let layout = Layout::new(&config);
        assert_eq!(weights.len(), layout.lines, "weights don't fit the configuration");
        Ok(Trainer {
            kernels,
            config,
            gradient: vec![Line::default(); layout.lines],
            optimizer: Optimizer::new(&layout),
            transposed: Transposed::new(&layout),
            network: Network::new(config, kernels, batch, steps),
            backward: Backward::new(&config, batch, steps),
            threads: rayon::ThreadPoolBuilder::new().num_threads(threads).build()?,
            tokens: Vec::new(),
            targets: Vec::new(),
            average: Average::new(&weights),
            layout,
            weights,
        })
    }

    /// One step on a chunk: `tokens` and `targets` are `[B, T]`, `steps` is T; the state is carried on.
    ///
    /// If the loss or the gradient is not finite, the weights stay as they are.
    pub fn step(
        &mut self,
        (tokens, targets): (&[u32], &[u32]),
        steps: usize,
        update: Update,
        dropout: Option<Dropout>,
    ) -> StepReport {
        let loss = self.gradient(tokens, targets, steps, dropout);
        let Trainer { kernels, weights, average, gradient, optimizer, threads, .. } = self;
        let gradient_norm = threads.install(|| optimizer.norm(kernels, gradient));
        let updated = loss.is_finite() && gradient_norm.is_finite();
        if updated {
            threads.install(|| {
                optimizer.update(kernels, weights, gradient, gradient_norm, update);
                average.update(weights, update.step);
            });
        }
        let largest_state = self.network.largest_state();
        // A state that runs away within a chunk starts the next one from here, and the penalty on it
        // (see `backward`) has time to work.
        self.network.carried_state().iter_mut().for_each(|h| *h = h.clamp(-CARRIED_BOUND, CARRIED_BOUND));
        StepReport { loss, gradient_norm, learning_rate: update.learning_rate, largest_state, updated }
    }

    /// Mean loss of a chunk, nats a token; leaves its gradient in [`Trainer::last_gradient`].
    pub fn gradient(
        &mut self,
        tokens: &[u32],
        targets: &[u32],
        steps: usize,
        dropout: Option<Dropout>,
    ) -> f64 {
        self.network.order_rows(steps, tokens, &mut self.tokens);
        self.network.order_rows(steps, targets, &mut self.targets);
        let Trainer { kernels, config, layout, weights, gradient, transposed, network, backward, .. } = self;
        let weights = Weights { config: *config, layout, lines: weights };
        let (tokens, targets) = (&self.tokens[..], &self.targets[..]);
        let nats = self.threads.install(|| {
            transposed.update(kernels, weights.lines);
            network.forward(weights, tokens, dropout);
            backward.run(network, weights, transposed, (tokens, targets), dropout, gradient)
        });
        nats / targets.len() as f64
    }

    /// The gradient of the last chunk, laid out as the weights.
    pub fn last_gradient(&self) -> &[Line] {
        &self.gradient
    }

    /// The weights as they are now.
    pub fn weights(&self) -> Weights<'_> {
        Weights { config: self.config, layout: &self.layout, lines: &self.weights }
    }

    /// The average of the weights over the last steps: the model to use.
    pub fn average(&self) -> Weights<'_> {
        Weights { config: self.config, layout: &self.layout, lines: self.average.lines() }
    }

    /// The buffers behind the forward pass, and the state carried between chunks.
    pub fn network(&mut self) -> &mut Network {
        &mut self.network
    }

    /// AdamW's first and second moments, each laid out as the weights: `[2, lines]`.
    pub fn moments(&self) -> &[Line] {
        &self.optimizer.moments
    }

    /// Puts weights, their average, moments and carried state back to what they were at some point.
    ///
    /// # Panics
    /// If any length differs from this trainer's.
    pub fn restore(&mut self, weights: &[Line], average: &[Line], moments: &[Line], carried: &[f32]) {
        self.weights.copy_from_slice(weights);
        self.average.restore(average);
        self.optimizer.moments.copy_from_slice(moments);
        self.network.carried_state().copy_from_slice(carried);
    }

    /// Runs `work` on the trainer's threads.
    pub fn on_threads<R: Send>(&self, work: impl FnOnce() -> R + Send) -> R {
        self.threads.install(work)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::train::initialise;

    const CONFIG: ModelConfig = ModelConfig {
        vocabulary: 20,
        embedding: 5,
        hidden: 7,
        layers: 2,
        experts: 2,
        top_k: 2,
        tied: false,
        eps_rmsnorm: 1e-5,
    };
    const UPDATE: Update = Update {
        step: 1,
        learning_rate: 1e-3,
        beta1: 0.9,
        beta2: 0.99,
        eps: 1e-8,
        weight_decay: 0.1,
        clip: 1.0,
    };

    fn trainer(weights: Vec<Line>) -> Trainer {
        Trainer::new(CONFIG, Kernels::best(), weights, (2, 3), 1).unwrap()
    }

    #[test]
    fn a_state_that_ran_away_starts_the_next_chunk_within_bounds() {
        let mut trainer = trainer(initialise(&Layout::new(&CONFIG), 1));
        trainer.network().carried_state().fill(-1e6);
        let report = trainer.step((&[1; 6], &[2; 6]), 3, UPDATE, None);
        assert!(report.largest_state > CARRIED_BOUND);
        assert!(trainer.network().carried_state().iter().any(|&h| h == -CARRIED_BOUND));
        assert!(trainer.network().carried_state().iter().all(|h| h.abs() <= CARRIED_BOUND));
    }

    #[test]
    fn weights_are_moved_by_what_is_finite_only() {
        let layout = Layout::new(&CONFIG);
        let sound = initialise(&layout, 1);
        let mut broken = sound.clone();
        broken[layout.embedding.start].0[0] = f32::INFINITY;
        for (weights, moves) in [(sound, true), (broken, false)] {
            let mut trainer = trainer(weights.clone());
            let report = trainer.step((&[0; 6], &[2; 6]), 3, UPDATE, None);
            assert_eq!(report.updated, moves);
            assert_eq!(trainer.weights().lines != &weights[..], moves);
            assert_eq!(trainer.average().lines != &weights[..], moves);
            assert_eq!(trainer.moments().iter().any(|line| line.0 != [0.0; 16]), moves);
        }
    }
}
