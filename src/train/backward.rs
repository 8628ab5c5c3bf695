//! The gradient of a chunk's mean loss with respect to every weight.
//!
//! Only dA · W_recurrent is sequential; all weight gradients are one matrix product each after it.

use super::geometry::{Geometry, Tile, split_mut};
use super::network::{Dropout, HEAD_ROWS, HEAD_TASK_ROWS, LayerBuffers, Network};
use super::transpose::Transposed;
use crate::model::router::route_backward;
use crate::model::{LayerLayout, Layout, ModelConfig, Weights};
use rayon::prelude::*;
use shoestring_kernels::{Epilogue, Kernels, Line, PANEL_ROWS, as_floats_mut, padded};
use std::ops::Range;

/// Panels of the head's gradient that one task sums.
const HEAD_PANELS: usize = 4;

/// A chunk's last states are free up to this magnitude. A healthy state's largest element is 5 to 10.
const STATE_BOUND: f32 = 10.0;
/// Beyond it, half this times the squared excess is added to the loss, so that the state, which nothing
/// else bounds and whose size the norm hides from the loss, doesn't run away.
const STATE_PENALTY: f32 = 1.0;

/// Buffers of the backward pass.
pub struct Backward {
    output_gradient: Vec<f32>, // [M, max width] gradient of a layer's output, then of its mixture
    input_gradient: Vec<f32>,  // [M, max width] gradient of a layer's input
    score_gradient: Vec<f32>,  // [M, Ep]
    gate_gradient: Vec<f32>,   // [M, k], each tile [k, rows] if k = E
    gathered: Vec<f32>,        // [N, Hp] the mixture's gradient in the experts' rows; empty if k = E
    expert_inputs: Vec<f32>,   // [N, Dp] the gradient of those rows' inputs; empty if k = E
    norm_gradient: Vec<Line>,  // [tiles, Hp / 16]
    state_gradient: Vec<f32>,  // [E, B, Hp]
}

impl Backward {
    /// Buffers for chunks of at most `steps` steps of `batch` streams.
    pub fn new(config: &ModelConfig, batch: usize, steps: usize) -> Self {
        let geometry = Geometry::new(batch, steps);
        let (rows, hidden) = (geometry.rows(), padded(config.hidden));
        let width = hidden.max(padded(config.embedding));
        let gathered = if config.top_k < config.experts { rows * config.top_k } else { 0 };
        Backward {
            output_gradient: vec![0.0; rows * width],
            input_gradient: vec![0.0; rows * width],
            score_gradient: vec![0.0; rows * padded(config.experts)],
            gate_gradient: vec![0.0; rows * config.top_k],
            gathered: vec![0.0; gathered * hidden],
            expert_inputs: vec![0.0; gathered * width],
            norm_gradient: vec![Line::default(); geometry.tiles.len() * hidden / PANEL_ROWS],
            state_gradient: vec![0.0; config.experts * batch * hidden],
        }
    }

    /// Backward through the chunk last run forward. Overwrites `gradient` with the gradient of the mean
    /// loss over `targets` and returns that loss's total, in nats.
    pub fn run(
        &mut self,
        network: &mut Network,
        weights: Weights<'_>,
        transposed: &Transposed,
        (tokens, targets): (&[u32], &[u32]),
        dropout: Option<Dropout>,
        gradient: &mut [Line],
    ) -> f64 {
        gradient.fill(Line::default());
        let nats = self.head(network, weights, transposed, targets, gradient);
        for i in (0..network.config.layers).rev() {
            let layer = Layer {
                kernels: network.kernels,
                config: network.config,
                layout: &weights.layout.layers[i],
                weights,
                transposed,
                geometry: &network.geometry,
                input: &network.inputs[i],
                index: i,
            };
            let buffers = &mut network.layers[i];
            self.norm_and_router(&layer, buffers, dropout, gradient);
            self.recurrence(&layer, buffers);
            self.input_and_weights(&layer, buffers, gradient);
            std::mem::swap(&mut self.output_gradient, &mut self.input_gradient);
        }
        self.embedding(network, weights.layout, tokens, dropout, gradient);
        nats
    }

    /// Loss, head gradients, and the gradient of the last layer's output, a tile of rows at a time.
    fn head(
        &mut self,
        network: &mut Network,
        weights: Weights<'_>,
        transposed: &Transposed,
        targets: &[u32],
        gradient: &mut [Line],
    ) -> f64 {
        let (kernels, config, layout) = (network.kernels, network.config, weights.layout);
        let (vocabulary, width) = (padded(config.vocabulary), padded(config.hidden));
        let top = &network.inputs[config.layers][..targets.len() * width];
        let scale = 1.0 / targets.len() as f32;
        let rows = HEAD_TASK_ROWS.min(targets.len());
        let mut nats = 0.0;
        let gradients = self.output_gradient.chunks_mut(HEAD_ROWS * width);
        for ((targets, x), dx) in targets.chunks(HEAD_ROWS).zip(top.chunks(HEAD_ROWS * width)).zip(gradients)
        {
            let logits = &mut network.logits[..targets.len() * vocabulary];
            let tasks = logits.par_chunks_mut(rows * vocabulary).zip(x.par_chunks(rows * width));
            let losses: Vec<f64> = tasks
                .zip(dx[..x.len()].par_chunks_mut(rows * width))
                .zip(targets.par_chunks(rows))
                .map(|(((logits, x), dx), targets)| {
                    let bias = Epilogue::Bias(weights.get(&layout.head_bias));
                    kernels.gemm(logits, x, weights.get(&layout.head), config.hidden, bias);
                    let nats = kernels.cross_entropy(logits, targets, config.vocabulary, scale);
                    kernels.gemm(dx, logits, transposed.head(), config.vocabulary, Epilogue::Store);
                    nats
                })
                .collect();
            nats += losses.iter().sum::<f64>();
            let dlogits: &[f32] = logits;
            let (before_bias, from_bias) = gradient.split_at_mut(layout.head_bias.start);
            let bias = &mut from_bias[..layout.head_bias.len()];
            let head = &mut before_bias[layout.head.clone()];
            let panels = head.par_chunks_mut(HEAD_PANELS * config.hidden).enumerate();
            let sum_panels = |(task, gradient): (usize, &mut [Line])| {
                let first = task * HEAD_PANELS;
                kernels.weight_gradient(gradient, first, dlogits, vocabulary, x, config.hidden);
            };
            rayon::join(|| kernels.bias_gradient(bias, dlogits), || panels.for_each(sum_panels));
        }
        nats
    }

    /// Gradients of a layer's mixture (in place of its output's), of its gain and of its router's scores.
    fn norm_and_router(
        &mut self,
        layer: &Layer<'_>,
        buffers: &LayerBuffers,
        dropout: Option<Dropout>,
        gradient: &mut [Line],
    ) {
        let Layer { kernels, config, geometry, .. } = *layer;
        let (hidden, experts) = (padded(config.hidden), config.experts);
        let dys = split_mut(&mut self.output_gradient, geometry.tile_lengths(hidden));
        let dgates = split_mut(&mut self.gate_gradient, geometry.tile_lengths(config.top_k));
        let dscores = split_mut(&mut self.score_gradient, geometry.tile_lengths(padded(experts)));
        let dgains = &mut self.norm_gradient[..geometry.tiles.len() * hidden / PANEL_ROWS];
        let tasks = geometry.tiles.par_iter().zip(dys).zip(dgates).zip(dscores);
        tasks.zip(dgains.par_chunks_exact_mut(hidden / PANEL_ROWS)).for_each(
            |((((tile, dy), dgate), dscore), dgain)| {
                let rows = tile.rows.clone();
                Dropout::apply(dropout, kernels, dy, layer.index + 1, rows.start * hidden);
                let sum = &buffers.sum[rows.start * hidden..rows.end * hidden];
                let inverse_rms = &buffers.inverse_rms[rows.clone()];
                let gain = layer.weights.get(&layer.layout.norm);
                dgain.fill(Line::default());
                kernels.rms_norm_backward(dy, dgain, sum, inverse_rms, gain, config.hidden);

                layer.score_gradient(dscore, dgate, dy, tile, buffers);
            },
        );
        for tile in dgains.chunks_exact(hidden / PANEL_ROWS) {
            add(&mut gradient[layer.layout.norm.clone()], tile);
        }
    }

    /// Gradients before the gate's sigmoid and the candidate's gelu, in place of `update` and `candidate`; and
    /// those of the experts' inputs, where these were gathered.
    fn recurrence(&mut self, layer: &Layer<'_>, buffers: &mut LayerBuffers) {
        let Layer { kernels, config, geometry, .. } = *layer;
        let (hidden, width) = (padded(config.hidden), padded(config.input_width(layer.index)));
        let LayerBuffers { assignment, gate, update, candidate, state, .. } = buffers;
        let gathered = |width| if assignment.gathers() { width } else { 0 };
        let updates = split_mut(update, assignment.row_lengths(hidden));
        let candidates = split_mut(candidate, assignment.row_lengths(hidden));
        let rooms = split_mut(&mut self.gathered, assignment.row_lengths(gathered(hidden)));
        let dxs = split_mut(&mut self.expert_inputs, assignment.row_lengths(gathered(width)));
        let dhs = split_mut(&mut self.state_gradient, assignment.stream_lengths(hidden));
        let dy = &self.output_gradient;
        let restoring = STATE_PENALTY / geometry.rows() as f32;
        let tasks = assignment.blocks.par_iter().zip(updates).zip(candidates).zip(rooms).zip(dxs).zip(dhs);
        tasks.for_each(|(((((block, update), candidate), room), dx), dh)| {
            let dy = assignment.gather(block, dy, hidden, room);
            let h = &state[block.state_rows.start * hidden..block.state_rows.end * hidden];
            let gate = &gate[block.rows.clone()];
            // Backpropagation through time is truncated at the chunk's end: no gradient comes from after it.
            for (dh, &last) in dh.chunks_exact_mut(hidden).zip(assignment.last_states(block)) {
                let last = &state[last * hidden..][..hidden];
                for (dh, h) in dh.iter_mut().zip(last) {
                    *dh = restoring * (h - h.clamp(-STATE_BOUND, STATE_BOUND));
                }
            }
            let recurrent = layer.transposed.recurrent(layer.index, block.expert);
            for run in assignment.runs(block).iter().rev() {
                let rows = run.rows.start * hidden..run.rows.end * hidden;
                let idle = (block.batch() - run.batch) * hidden;
                kernels.cell_backward(
                    &mut dh[idle..],
                    &mut candidate[rows.clone()],
                    &mut update[rows.clone()],
                    &h[run.state_rows.start * hidden..run.state_rows.end * hidden],
                    &dy[rows],
                    &gate[run.rows.clone()],
                    recurrent,
                    run.batch,
                    config.hidden,
                );
            }
            if assignment.gathers() {
                let weights = layer.transposed.update_gate(layer.index, block.expert);
                kernels.gemm(dx, update, weights, config.hidden, Epilogue::Store);
                let weights = layer.transposed.candidate(layer.index, block.expert);
                kernels.gemm(dx, candidate, weights, config.hidden, Epilogue::Accumulate);
            }
        });
    }

    /// The gradient of a layer's input, and those of its matrices and biases.
    fn input_and_weights(&mut self, layer: &Layer<'_>, buffers: &LayerBuffers, gradient: &mut [Line]) {
        let width = padded(layer.config.input_width(layer.index));
        let (dy, dscore) = (&self.output_gradient[..], &self.score_gradient[..]);
        let expert_inputs = &self.expert_inputs[..];
        let dxs = split_mut(&mut self.input_gradient, layer.geometry.tile_lengths(width));
        let layout = layer.layout;
        let first = layout.router.start;
        let gradient = &mut gradient[first..layout.norm.start];
        let mut take = gradient_slices(gradient, first);
        let router = take(&layout.router);
        let update = take(&layout.update);
        let candidate = take(&layout.candidate);
        let recurrent = take(&layout.recurrent);
        let residual = layout.residual.as_ref().map(|(weight, _)| take(weight));
        let router_bias = take(&layout.router_bias);
        let update_bias = take(&layout.update_bias);
        let candidate_bias = take(&layout.candidate_bias);
        let residual_bias = layout.residual.as_ref().map(|(_, bias)| take(bias));

        rayon::scope(|scope| {
            let experts = layer.config.experts;
            let each = |lines: usize| lines / experts;
            let matrices =
                [(update, update_bias, &buffers.update), (candidate, candidate_bias, &buffers.candidate)];
            for (weight, bias, dy) in matrices {
                let (weight_lines, bias_lines) = (each(weight.len()), each(bias.len()));
                let slices = weight.chunks_exact_mut(weight_lines).zip(bias.chunks_exact_mut(bias_lines));
                for (expert, (weight, bias)) in slices.enumerate() {
                    scope.spawn(move |_| layer.expert_gradient(weight, bias, dy, buffers, expert));
                }
            }
            let recurrent_lines = each(recurrent.len());
            for (expert, weight) in recurrent.chunks_exact_mut(recurrent_lines).enumerate() {
                scope.spawn(move |_| layer.recurrent_gradient(weight, buffers, expert));
            }
            let rows = layer.geometry.rows();
            scope.spawn(move |_| {
                let stride = padded(layer.config.experts);
                layer.linear_gradient(router, router_bias, &dscore[..rows * stride], layer.input);
            });
            if let (Some(weight), Some(bias)) = (residual, residual_bias) {
                let dy = &dy[..rows * padded(layer.config.hidden)];
                scope.spawn(move |_| layer.linear_gradient(weight, bias, dy, layer.input));
            }
            layer.geometry.tiles.par_iter().zip(dxs).for_each(|(tile, dx)| {
                layer.input_gradient(dx, &tile.rows, dy, dscore);
                layer.experts_input_gradient(dx, &tile.rows, expert_inputs, buffers);
            });
        });
    }

    /// Adds the gradient of the embeddings to that of the matrix they come from.
    fn embedding(
        &mut self,
        network: &Network,
        layout: &Layout,
        tokens: &[u32],
        dropout: Option<Dropout>,
        gradient: &mut [Line],
    ) {
        let (width, stride) = (network.config.embedding, padded(network.config.embedding));
        let gradient = &mut gradient[layout.embedding.clone()];
        let rows = self.output_gradient.chunks_exact_mut(stride).zip(tokens);
        for (row, (dx, &token)) in rows.enumerate() {
            Dropout::apply(dropout, network.kernels, dx, 0, row * stride);
            let token = token as usize;
            if network.config.tied {
                let panel = &mut gradient[token / PANEL_ROWS * width..][..width];
                for (line, dx) in panel.iter_mut().zip(dx) {
                    line.0[token % PANEL_ROWS] += *dx;
                }
            } else {
                let lines = stride / PANEL_ROWS;
                let sums = as_floats_mut(&mut gradient[token * lines..][..lines]);
                sums.iter_mut().zip(dx).for_each(|(sum, dx)| *sum += *dx);
            }
        }
    }
}

/// One layer's backward pass over a chunk.
struct Layer<'a> {
    kernels: &'static Kernels,
    config: ModelConfig,
    layout: &'a LayerLayout,
    weights: Weights<'a>,
    transposed: &'a Transposed,
    geometry: &'a Geometry,
    input: &'a [f32], // [M, Dp]
    index: usize,
}

impl Layer<'_> {
    /// The gradient of a tile's router scores: that of the gates, dY · h_e, through the softmax.
    fn score_gradient(
        &self,
        dscore: &mut [f32],
        dgate: &mut [f32],
        dy: &[f32],
        tile: &Tile,
        buffers: &LayerBuffers,
    ) {
        let (hidden, experts) = (padded(self.config.hidden), self.config.experts);
        let LayerBuffers { assignment, active, probabilities, state, .. } = buffers;
        let rows = tile.rows.len();
        // Where the rows were gathered, each one's gates lie together, else each expert's.
        let (row_stride, expert_stride) = if assignment.gathers() {
            let each = dgate.chunks_exact_mut(self.config.top_k).zip(dy.chunks_exact(hidden));
            for ((dgate, dy), row) in each.zip(tile.rows.clone()) {
                for (dgate, place) in dgate.iter_mut().zip(assignment.places(row)) {
                    let h = &state[place.state_row * hidden..][..hidden];
                    self.kernels.dot_rows(std::slice::from_mut(dgate), dy, h);
                }
            }
            (self.config.top_k, 1)
        } else {
            let places = assignment.places(tile.rows.start);
            for (dgate, first) in dgate.chunks_exact_mut(rows).zip(places) {
                self.kernels.dot_rows(dgate, dy, &state[first.state_row * hidden..][..dy.len()]);
            }
            (1, rows)
        };
        for (i, (row, dscore)) in tile.rows.clone().zip(dscore.chunks_exact_mut(padded(experts))).enumerate()
        {
            let active = &active[row * experts..][..experts];
            let mut dgates = dgate[i * row_stride..].iter().step_by(expert_stride);
            for (dscore, active) in dscore.iter_mut().zip(active) {
                *dscore = if *active { *dgates.next().expect("a gate each active expert") } else { 0.0 };
            }
            let probabilities = &probabilities[row * padded(experts)..][..experts];
            route_backward(probabilities, active, &mut dscore[..experts]);
        }
    }

    /// dX = dY (· W_residual) + dscore · W_router
    fn input_gradient(&self, dx: &mut [f32], rows: &Range<usize>, dy: &[f32], dscore: &[f32]) {
        let (config, kernels, hidden) = (self.config, self.kernels, padded(self.config.hidden));
        let dy = &dy[rows.start * hidden..rows.end * hidden];
        match self.transposed.residual(self.index) {
            None => dx.copy_from_slice(dy),
            Some(residual) => kernels.gemm(dx, dy, residual, config.hidden, Epilogue::Store),
        }
        let stride = padded(config.experts);
        let dscore = &dscore[rows.start * stride..rows.end * stride];
        let router = self.transposed.router(self.index);
        kernels.gemm(dx, dscore, router, config.experts, Epilogue::Accumulate);
    }

    /// dX += Σ_e dz_e · W_update,e + da_e · W_candidate,e, in the order of the experts.
    fn experts_input_gradient(
        &self,
        dx: &mut [f32],
        rows: &Range<usize>,
        expert_inputs: &[f32],
        buffers: &LayerBuffers,
    ) {
        let (config, kernels, hidden) = (self.config, self.kernels, padded(self.config.hidden));
        let LayerBuffers { assignment, update, candidate, .. } = buffers;
        if assignment.gathers() {
            let width = padded(config.input_width(self.index));
            for (dx, row) in dx.chunks_exact_mut(width).zip(rows.clone()) {
                for place in assignment.places(row) {
                    let expert_input = &expert_inputs[place.row * width..][..width];
                    kernels.add_scaled_rows(dx, expert_input, &[1.0]);
                }
            }
        } else {
            for (expert, first) in assignment.places(rows.start).iter().enumerate() {
                let tile = first.row * hidden..(first.row + rows.len()) * hidden;
                let weights = self.transposed.update_gate(self.index, expert);
                kernels.gemm(dx, &update[tile.clone()], weights, config.hidden, Epilogue::Accumulate);
                let weights = self.transposed.candidate(self.index, expert);
                kernels.gemm(dx, &candidate[tile], weights, config.hidden, Epilogue::Accumulate);
            }
        }
    }

    /// Gradient of an expert's matrix and bias; `dy` is `[N, Hp]`.
    fn expert_gradient(
        &self,
        weight: &mut [Line],
        bias: &mut [Line],
        dy: &[f32],
        buffers: &LayerBuffers,
        expert: usize,
    ) {
        let (hidden, width) = (padded(self.config.hidden), padded(self.config.input_width(self.index)));
        let rows = buffers.assignment.rows_of(expert);
        let x = if buffers.assignment.gathers() {
            &buffers.gathered[rows.start * width..rows.end * width]
        } else {
            self.input
        };
        self.linear_gradient(weight, bias, &dy[rows.start * hidden..rows.end * hidden], x);
    }

    /// Gradient of a matrix and a bias that turned `x` into something of gradient `dy`.
    fn linear_gradient(&self, weight: &mut [Line], bias: &mut [Line], dy: &[f32], x: &[f32]) {
        let (stride, depth) = (bias.len() * PANEL_ROWS, self.config.input_width(self.index));
        let x = &x[..dy.len() / stride * padded(depth)];
        self.kernels.weight_gradient(weight, 0, dy, stride, x, depth);
        self.kernels.bias_gradient(bias, dy);
    }

    /// dW_recurrent = Σ_t da_tᵀ h_{t-1}
    fn recurrent_gradient(&self, weight: &mut [Line], buffers: &LayerBuffers, expert: usize) {
        let hidden = padded(self.config.hidden);
        let LayerBuffers { assignment, candidate, state, .. } = buffers;
        for block in assignment.blocks_of(expert) {
            let da = &candidate[block.rows.start * hidden..block.rows.end * hidden];
            let states = &state[block.state_rows.start * hidden..block.state_rows.end * hidden];
            for run in assignment.runs(block) {
                let da = &da[run.rows.start * hidden..run.rows.end * hidden];
                let before = &states[run.state_rows.start * hidden..][..da.len()];
                self.kernels.weight_gradient(weight, 0, da, hidden, before, self.config.hidden);
            }
        }
    }
}

/// Hands out slices of a buffer that starts at line `start` of the layout, in the order they lie.
fn gradient_slices<'a>(
    mut rest: &'a mut [Line],
    mut start: usize,
) -> impl FnMut(&Range<usize>) -> &'a mut [Line] {
    move |range| {
        let (_, from) = std::mem::take(&mut rest).split_at_mut(range.start - start);
        let (slice, after) = from.split_at_mut(range.len());
        (rest, start) = (after, range.end);
        slice
    }
}

fn add(sum: &mut [Line], terms: &[Line]) {
    for (sum, term) in sum.iter_mut().zip(terms) {
        sum.0.iter_mut().zip(term.0).for_each(|(sum, term)| *sum += term);
    }
}
