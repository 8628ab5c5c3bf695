//! The model over a chunk of `[T, B]` tokens: buffers, and the forward pass.
//!
//! What does not depend on the state is one matrix product a layer and expert over all steps; only the
//! recurrent product is sequential, and it runs expert by expert, so that an expert's recurrent matrix
//! stays in the L1 cache for all of its steps.

use super::assignment::Assignment;
use super::geometry::{Geometry, Tile, split_mut};
use crate::model::router::route;
use crate::model::{LayerLayout, ModelConfig, Weights};
use rayon::prelude::*;
use shoestring_kernels::{Epilogue, Kernels, PANEL_ROWS, padded};

/// Rows of logits held at once: [HEAD_ROWS, Vp] instead of [T * B, Vp].
pub(super) const HEAD_ROWS: usize = 256;
/// Of those, the rows of one task.
pub(super) const HEAD_TASK_ROWS: usize = HEAD_ROWS / 8;

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

/// What one layer's forward pass leaves for its backward pass. M = T * B rows, of which the experts, each for
/// itself, compute N = k * M.
pub(super) struct LayerBuffers {
    pub probabilities: Vec<f32>, // [M, Ep] the router's softmax
    pub active: Vec<bool>,       // [M, E]
    pub assignment: Assignment,
    pub gathered: Vec<f32>, // [N, Dp] the layer's input in the experts' rows; empty if k = E
    pub gate: Vec<f32>,     // [N] probability
    pub update: Vec<f32>,   // [N, Hp] update gate z
    pub candidate: Vec<f32>, // [N, Hp] candidate before gelu
    pub state: Vec<f32>,    // [E * B + N, Hp] each block: the states before it, then after each row
    pub sum: Vec<f32>,      // [M, Hp] mixture plus residual, before the norm
    pub inverse_rms: Vec<f32>, // [M]
}

impl LayerBuffers {
    fn new(config: &ModelConfig, layer: usize, batch: usize, steps: usize) -> Self {
        let (rows, hidden, experts) = (batch * steps, padded(config.hidden), config.experts);
        let assignment = Assignment::new(experts, config.top_k);
        let computed = rows * config.top_k;
        let gathered = if assignment.gathers() { computed * padded(config.input_width(layer)) } else { 0 };
        LayerBuffers {
            probabilities: vec![0.0; rows * padded(experts)],
            active: vec![false; rows * experts],
            assignment,
            gathered: vec![0.0; gathered],
            gate: vec![0.0; computed],
            update: vec![0.0; computed * hidden],
            candidate: vec![0.0; computed * hidden],
            state: vec![0.0; (experts * batch + computed) * hidden],
            sum: vec![0.0; rows * hidden],
            inverse_rms: vec![0.0; rows],
        }
    }
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
        let (rows, hidden) = (batch * steps, padded(config.hidden));
        Network {
            kernels,
            config,
            geometry: Geometry::new(batch, steps),
            max_steps: steps,
            layers: (0..config.layers).map(|i| LayerBuffers::new(&config, i, batch, steps)).collect(),
            inputs: (0..=config.layers).map(|i| vec![0.0; rows * padded(config.input_width(i))]).collect(),
            carried: vec![0.0; config.layers * config.experts * batch * hidden],
            logits: vec![0.0; HEAD_ROWS.min(rows) * padded(config.vocabulary)],
        }
    }

    /// Streams read side by side.
    pub fn batch(&self) -> usize {
        self.geometry.batch
    }

    /// Rows of the last chunk.
    pub fn rows(&self) -> usize {
        self.geometry.rows()
    }

    /// The state carried to the next chunk, `[L, E, B, padded(H)]`.
    pub fn carried_state(&mut self) -> &mut [f32] {
        &mut self.carried
    }

    /// The largest magnitude in the carried state.
    pub fn largest_state(&self) -> f32 {
        self.carried.iter().fold(0.0, |max, h| if h.abs() > max || h.is_nan() { h.abs() } else { max })
    }

    /// Adds to `rows` `[L, E]` the rows of the last chunk that each expert computed.
    pub fn count_expert_rows(&self, rows: &mut [u64]) {
        for (layer, rows) in self.layers.iter().zip(rows.chunks_exact_mut(self.config.experts)) {
            for (expert, rows) in rows.iter_mut().enumerate() {
                *rows += layer.assignment.rows_of(expert).len() as u64;
            }
        }
    }

    /// The share of the last chunk's rows that each expert computed, `[L, E]`.
    pub fn expert_load(&self) -> Vec<f32> {
        let mut rows = vec![0; self.config.layers * self.config.experts];
        self.count_expert_rows(&mut rows);
        rows.into_iter().map(|rows| rows as f32 / self.rows() as f32).collect()
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
        let rows = HEAD_TASK_ROWS.min(self.geometry.rows());
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
        buffers.assignment.assign(&self.geometry, &buffers.active);
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

    /// Gates, candidates and states: one task a block.
    fn recur(&self, buffers: &mut LayerBuffers, carried: &mut [f32]) {
        let (experts, batch) = (self.config.experts, self.geometry.batch);
        let (hidden, width) = (padded(self.config.hidden), padded(self.input_width));
        let LayerBuffers { probabilities, assignment, gathered, gate, update, candidate, state, .. } =
            buffers;
        let gathered_width = if assignment.gathers() { width } else { 0 };
        let rooms = split_mut(gathered, assignment.row_lengths(gathered_width));
        let gates = split_mut(gate, assignment.row_lengths(1));
        let updates = split_mut(update, assignment.row_lengths(hidden));
        let candidates = split_mut(candidate, assignment.row_lengths(hidden));
        let states = split_mut(state, assignment.state_lengths(hidden));
        let before: &[f32] = carried;

        let tasks = assignment.blocks.par_iter().zip(rooms).zip(gates).zip(updates).zip(candidates);
        tasks.zip(states).for_each(|(((((block, room), gate), update), candidate), state)| {
            let x = assignment.gather(block, self.input, width, room);
            self.input_products(block.expert, x, update, candidate);
            for (gate, row) in gate.iter_mut().zip(assignment.sources(block)) {
                *gate = probabilities[row * padded(experts) + block.expert];
            }
            for (state, stream) in state.chunks_exact_mut(hidden).zip(assignment.streams(block)) {
                state.copy_from_slice(&before[(block.expert * batch + stream) * hidden..][..hidden]);
            }
            let lines = hidden / PANEL_ROWS * self.config.hidden;
            let recurrent = &self.weights.get(&self.layer.recurrent)[block.expert * lines..][..lines];
            for run in assignment.runs(block) {
                let rows = run.rows.start * hidden..run.rows.end * hidden;
                let state = &mut state[run.state_rows.start * hidden..run.state_rows.end * hidden];
                let (candidate, update) = (&mut candidate[rows.clone()], &update[rows]);
                self.kernels.cell_forward(state, candidate, update, recurrent, run.batch, self.config.hidden);
            }
        });
        for block in &assignment.blocks {
            for (stream, &last) in assignment.streams(block).iter().zip(assignment.last_states(block)) {
                let after = &state[last * hidden..][..hidden];
                carried[(block.expert * batch + stream) * hidden..][..hidden].copy_from_slice(after);
            }
        }
    }

    /// z = sigmoid(W_update x + b) and W_candidate x + b of one expert.
    fn input_products(&self, expert: usize, x: &[f32], update: &mut [f32], candidate: &mut [f32]) {
        let hidden = padded(self.config.hidden);
        let lines = hidden / PANEL_ROWS * self.input_width;
        let panels = |range| &self.weights.get(range)[expert * lines..][..lines];
        let bias = |range| &self.weights.get(range)[expert * hidden / PANEL_ROWS..][..hidden / PANEL_ROWS];
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
        let (assignment, states, gates) = (&buffers.assignment, &buffers.state[..], &buffers.gate[..]);
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
            self.add_states(sum, tile, assignment, states, gates);
            let gain = self.weights.get(&self.layer.norm);
            let eps = self.config.eps_rmsnorm;
            self.kernels.rms_norm(output, inverse_rms, sum, gain, self.config.hidden, eps);
            Dropout::apply(dropout, self.kernels, output, site, tile.rows.start * hidden);
        });
    }

    /// sum += Σ_e gate_e h_e for the rows of a tile, in the order of the experts.
    fn add_states(
        &self,
        sum: &mut [f32],
        tile: &Tile,
        assignment: &Assignment,
        states: &[f32],
        gates: &[f32],
    ) {
        let hidden = padded(self.config.hidden);
        if assignment.gathers() {
            for (sum, row) in sum.chunks_exact_mut(hidden).zip(tile.rows.clone()) {
                for place in assignment.places(row) {
                    let h = &states[place.state_row * hidden..][..hidden];
                    self.kernels.add_scaled_rows(sum, h, &gates[place.row..=place.row]);
                }
            }
        } else {
            for first in assignment.places(tile.rows.start) {
                let h = &states[first.state_row * hidden..][..sum.len()];
                self.kernels.add_scaled_rows(sum, h, &gates[first.row..][..tile.rows.len()]);
            }
        }
    }
}
