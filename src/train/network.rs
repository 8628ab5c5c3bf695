//! The model over a chunk of `[T, B]` tokens: buffers, and the forward pass.
//!
//! What does not depend on the state is one matrix product a layer and expert over all steps; only the
//! recurrent product is sequential, and it runs expert by expert, so that an expert's recurrent matrix
//! stays in the L1 cache for all of its steps.

use super::geometry::{Geometry, split_mut};
use crate::model::router::route;
use crate::model::{LayerLayout, ModelConfig, Weights};
use rayon::prelude::*;
use shoestring_kernels::{Epilogue, Kernels, padded};

/// Rows of logits held at once: [HEAD_ROWS, Vp] instead of [T * B, Vp].
pub(super) const HEAD_ROWS: usize = 256;

/// Buffers for a forward and backward pass over chunks of at most [steps, batch] tokens, and the state
/// carried from chunk to chunk.
pub struct Network {
    pub(super) kernels: &'static Kernels,
    pub(super) config: ModelConfig,
    pub(super) geometry: Geometry,
    max_steps: usize,
    pub(super) layers: Vec<LayerBuffers>,
    pub(super) inputs: Vec<Vec<f32>>, // [L + 1][T * B, width]: layer i's input; the last is the head's
    pub(super) carried: Vec<f32>,     // [L, E, B, Hp]
    pub(super) logits: Vec<f32>,      // [HEAD_ROWS, Vp]
}

/// What one layer's forward pass leaves for its backward pass. M = T * B rows.
pub(super) struct LayerBuffers {
    pub probabilities: Vec<f32>, // [M, Ep] the router's softmax
    pub active: Vec<bool>,       // [M, E]
    pub gate: Vec<f32>,          // [E, M] probability if active, else 0
    pub update: Vec<f32>,        // [E, M, Hp] update gate z, 0 where the expert is inactive
    pub candidate: Vec<f32>,     // [E, M, Hp] candidate before gelu
    pub state: Vec<f32>,         // [E, B * (T + 1), Hp] each part: the state before it, then after each step
    pub sum: Vec<f32>,           // [M, Hp] mixture plus residual, before the norm
    pub inverse_rms: Vec<f32>,   // [M]
}

/// Dropout of one training step: the probability to drop, and the key its masks derive from.
#[derive(Clone, Copy)]
pub struct Dropout {
    /// Probability that an element is dropped.
    pub probability: f32,
    /// Key of this step's masks.
    pub key: u64,
}

impl Dropout {
    /// Drops elements of `values`, which start at element `first` of the layer input `site`.
    pub(super) fn apply(
        this: Option<Self>,
        kernels: &Kernels,
        values: &mut [f32],
        site: usize,
        first: usize,
    ) {
        if let Some(Dropout { probability, key }) = this {
            kernels.dropout(values, key.wrapping_add(site as u64), first as u64, 1.0 - probability);
        }
    }
}

impl Network {
    /// Buffers for chunks of at most `steps` steps of `batch` streams.
    pub fn new(config: ModelConfig, kernels: &'static Kernels, batch: usize, steps: usize) -> Self {
        let (rows, hidden, experts) = (batch * steps, padded(config.hidden), config.experts);
        let layer = || LayerBuffers {
            probabilities: vec![0.0; rows * padded(experts)],
            active: vec![false; rows * experts],
            gate: vec![0.0; experts * rows],
            update: vec![0.0; experts * rows * hidden],
            candidate: vec![0.0; experts * rows * hidden],
            state: vec![0.0; experts * batch * (steps + 1) * hidden],
            sum: vec![0.0; rows * hidden],
            inverse_rms: vec![0.0; rows],
        };
        Network {
            kernels,
            config,
            geometry: Geometry::new(batch, steps),
            max_steps: steps,
            layers: (0..config.layers).map(|_| layer()).collect(),
            inputs: (0..=config.layers).map(|i| vec![0.0; rows * padded(config.input_width(i))]).collect(),
            carried: vec![0.0; config.layers * experts * batch * hidden],
            logits: vec![0.0; HEAD_ROWS.min(rows) * padded(config.vocabulary)],
        }
    }

    /// Streams read side by side.
    pub fn batch(&self) -> usize {
        self.geometry.batch
    }

    /// The state carried to the next chunk, `[L, E, B, padded(H)]`.
    pub fn carried_state(&mut self) -> &mut [f32] {
        &mut self.carried
    }

    /// The largest magnitude in the carried state.
    pub fn largest_state(&self) -> f32 {
        self.carried.iter().fold(0.0, |max, h| if h.abs() > max || h.is_nan() { h.abs() } else { max })
    }

    /// Puts tokens of a chunk, given stream by stream (`[B, T]`), into the order of the rows.
    pub fn order_rows(&self, steps: usize, streams: &[u32], rows: &mut Vec<u32>) {
        let geometry = Geometry::new(self.batch(), steps);
        rows.resize(geometry.rows(), 0);
        for (stream, tokens) in streams.chunks_exact(steps).enumerate() {
            for (step, &token) in tokens.iter().enumerate() {
                rows[geometry.row(step, stream)] = token;
            }
        }
    }

    /// Runs the layers over `tokens` (rows of up to `[T, B]`, see [`Network::order_rows`]), from the carried
    /// state on, and leaves the head's input and the new carried state.
    pub fn forward(&mut self, weights: Weights<'_>, tokens: &[u32], dropout: Option<Dropout>) {
        let steps = tokens.len() / self.batch();
        assert!(steps > 0 && steps <= self.max_steps && tokens.len() == steps * self.batch());
        if steps != self.geometry.steps {
            self.geometry = Geometry::new(self.batch(), steps);
        }
        self.embed(weights, tokens, dropout);
        for i in 0..self.config.layers {
            self.layer_forward(weights, i, dropout);
        }
    }

    /// Total loss in nats over `targets`, in the order of the tokens last run forward.
    pub fn loss(&mut self, weights: Weights<'_>, targets: &[u32]) -> f64 {
        let (vocabulary, width) = (padded(self.config.vocabulary), padded(self.config.hidden));
        let top = &self.inputs[self.config.layers][..targets.len() * width];
        let rows = (HEAD_ROWS / 8).min(self.geometry.rows());
        let mut nats = 0.0;
        for (targets, x) in targets.chunks(HEAD_ROWS).zip(top.chunks(HEAD_ROWS * width)) {
            let logits = &mut self.logits[..targets.len() * vocabulary];
            let tasks = logits.par_chunks_mut(rows * vocabulary).zip(x.par_chunks(rows * width));
            let (kernels, config) = (self.kernels, self.config);
            let losses: Vec<f64> = tasks
                .zip(targets.par_chunks(rows))
                .map(|((logits, x), targets)| {
                    let bias = Epilogue::Bias(weights.get(&weights.layout.head_bias));
                    kernels.gemm(logits, x, weights.get(&weights.layout.head), config.hidden, bias);
                    kernels.cross_entropy(logits, targets, config.vocabulary, 0.0)
                })
                .collect();
            nats += losses.iter().sum::<f64>();
        }
        nats
    }

    fn embed(&mut self, weights: Weights<'_>, tokens: &[u32], dropout: Option<Dropout>) {
        let (kernels, width) = (self.kernels, padded(self.config.embedding));
        for (row, (x, &token)) in self.inputs[0].chunks_exact_mut(width).zip(tokens).enumerate() {
            weights.embedding(kernels, token, x);
            Dropout::apply(dropout, kernels, x, 0, row * width);
        }
    }

    fn layer_forward(&mut self, weights: Weights<'_>, i: usize, dropout: Option<Dropout>) {
        let layer = &weights.layout.layers[i];
        let (before, after) = self.inputs.split_at_mut(i + 1);
        let pass = LayerPass {
            kernels: self.kernels,
            config: self.config,
            weights,
            layer,
            geometry: &self.geometry,
            input: &before[i],
            input_width: self.config.input_width(i),
        };
        let buffers = &mut self.layers[i];
        let layer_state = self.config.experts * self.geometry.batch * padded(self.config.hidden);
        pass.route(buffers);
        pass.recur(buffers, &mut self.carried[i * layer_state..][..layer_state]);
        pass.mix(buffers, &mut after[0], dropout, i + 1);
    }
}

/// One layer's forward pass over a chunk.
struct LayerPass<'a> {
    kernels: &'static Kernels,
    config: ModelConfig,
    weights: Weights<'a>,
    layer: &'a LayerLayout,
    geometry: &'a Geometry,
    input: &'a [f32], // [M, Dp]
    input_width: usize,
}

impl LayerPass<'_> {
    /// Router scores, probabilities and active experts of every row.
    fn route(&self, buffers: &mut LayerBuffers) {
        let (experts, stride, width) =
            (self.config.experts, padded(self.config.experts), padded(self.input_width));
        let probabilities = split_mut(&mut buffers.probabilities, self.geometry.tile_lengths(stride));
        let active = split_mut(&mut buffers.active, self.geometry.tile_lengths(experts));
        let tasks = self.geometry.tiles.par_iter().zip(probabilities).zip(active);
        tasks.for_each(|((tile, probabilities), active)| {
            let x = &self.input[tile.rows.start * width..tile.rows.end * width];
            let bias = Epilogue::Bias(self.weights.get(&self.layer.router_bias));
            self.kernels.gemm(probabilities, x, self.weights.get(&self.layer.router), self.input_width, bias);
            let rows = probabilities.chunks_exact_mut(stride).zip(active.chunks_exact_mut(experts));
            for (scores, active) in rows {
                route(self.kernels, &mut scores[..experts], self.config.top_k, active);
            }
        });
    }

    /// Gates, candidates and states: one task an expert and part.
    fn recur(&self, buffers: &mut LayerBuffers, carried: &mut [f32]) {
        let (experts, hidden, geometry) = (self.config.experts, padded(self.config.hidden), self.geometry);
        let parts = geometry.parts.len();
        let part_lengths = |width| geometry.part_lengths(experts, width);
        let repeated = || (0..experts).flat_map(|_| &geometry.parts);
        let state_lengths = repeated().map(|part| part.state_rows.len() * hidden);
        let carried_lengths = repeated().map(|part| part.streams.len() * hidden);
        let updates = split_mut(&mut buffers.update, part_lengths(hidden));
        let candidates = split_mut(&mut buffers.candidate, part_lengths(hidden));
        let gates = split_mut(&mut buffers.gate, part_lengths(1));
        let states = split_mut(&mut buffers.state, state_lengths);
        let carried = split_mut(carried, carried_lengths);
        let (probabilities, active) = (&buffers.probabilities, &buffers.active);

        let tasks = updates.into_par_iter().zip(candidates).zip(gates).zip(states).zip(carried).enumerate();
        tasks.for_each(|(task, ((((update, candidate), gate), state), carried))| {
            let (expert, part) = (task / parts, &geometry.parts[task % parts]);
            state[..carried.len()].copy_from_slice(carried);
            self.input_products(expert, part.rows.start, update, candidate);
            for (i, row) in part.rows.clone().enumerate() {
                if active[row * experts + expert] {
                    gate[i] = probabilities[row * padded(experts) + expert];
                } else {
                    gate[i] = 0.0;
                    // A closed update gate holds the state: exactly what an inactive expert does.
                    update[i * hidden..][..hidden].fill(0.0);
                }
            }
            let lines = hidden / 16 * self.config.hidden;
            let recurrent = &self.weights.get(&self.layer.recurrent)[expert * lines..][..lines];
            let streams = part.streams.len();
            self.kernels.cell_forward(state, candidate, update, recurrent, streams, self.config.hidden);
            carried.copy_from_slice(&state[state.len() - carried.len()..]);
        });
    }

    /// z = sigmoid(W_update x + b) and W_candidate x + b for the rows from `first` on.
    fn input_products(&self, expert: usize, first: usize, update: &mut [f32], candidate: &mut [f32]) {
        let (hidden, width) = (padded(self.config.hidden), padded(self.input_width));
        let rows = update.len() / hidden;
        let x = &self.input[first * width..][..rows * width];
        let lines = hidden / 16 * self.input_width;
        let panels = |range| &self.weights.get(range)[expert * lines..][..lines];
        let bias = |range| &self.weights.get(range)[expert * hidden / 16..][..hidden / 16];
        let epilogue = Epilogue::BiasSigmoid(bias(&self.layer.update_bias));
        self.kernels.gemm(update, x, panels(&self.layer.update), self.input_width, epilogue);
        let epilogue = Epilogue::Bias(bias(&self.layer.candidate_bias));
        self.kernels.gemm(candidate, x, panels(&self.layer.candidate), self.input_width, epilogue);
    }

    /// The layer's output: residual plus gated states, normalised.
    fn mix(&self, buffers: &mut LayerBuffers, output: &mut [f32], dropout: Option<Dropout>, site: usize) {
        let (hidden, width, geometry) = (padded(self.config.hidden), padded(self.input_width), self.geometry);
        let sums = split_mut(&mut buffers.sum, geometry.tile_lengths(hidden));
        let inverse_rms = split_mut(&mut buffers.inverse_rms, geometry.tile_lengths(1));
        let outputs = split_mut(output, geometry.tile_lengths(hidden));
        let (states, gates) = (&buffers.state, &buffers.gate);
        let tasks = geometry.tiles.par_iter().zip(sums).zip(inverse_rms).zip(outputs);
        tasks.for_each(|(((tile, sum), inverse_rms), output)| {
            let x = &self.input[tile.rows.start * width..tile.rows.end * width];
            match &self.layer.residual {
                None => sum.copy_from_slice(x),
                Some((weight, bias)) => {
                    let bias = Epilogue::Bias(self.weights.get(bias));
                    self.kernels.gemm(sum, x, self.weights.get(weight), self.input_width, bias);
                }
            }
            for expert in 0..self.config.experts {
                let first = expert * geometry.state_rows() + tile.state_rows.start;
                let h = &states[first * hidden..][..sum.len()];
                let gate = &gates[expert * geometry.rows()..][tile.rows.clone()];
                self.kernels.add_scaled_rows(sum, h, gate);
            }
            let gain = self.weights.get(&self.layer.norm);
            let eps = self.config.eps_rmsnorm;
            self.kernels.rms_norm(output, inverse_rms, sum, gain, self.config.hidden, eps);
            Dropout::apply(dropout, self.kernels, output, site, tile.rows.start * hidden);
        });
    }
}
