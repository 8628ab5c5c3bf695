//! Running a model over tokens without keeping anything for a backward pass.
//!
//! Tokens go through a layer together: `steps` consecutive ones of each of `batch` texts. What does not depend on
//! the state is one matrix product for all of them, so a weight is read once for many tokens; only the recurrent
//! product takes the steps one by one. A single token, as when a text is generated, is the same with one row.
//!
//! Long texts and tokens of large models are run on several threads: rows are independent but for the experts' states,
//! and the states of one expert are independent of those of another. How the work is split changes no result.

use super::experts::{Experts, Room, floats};
use super::panels::{Activations, Panels};
use super::{LayerLayout, ModelConfig, Storage, Weights, router::route};
use shoestring_kernels::quantized::QuantizedRows;
use shoestring_kernels::{Epilogue, Kernels, Line, PANEL_ROWS, Team, pack_panels, padded, panel_lines};
use std::borrow::Cow;
use std::ops::Range;
use std::sync::Arc;

/// Rows of a block at most, unless there are more texts than that: their buffers stay in the first-level cache.
pub const CHUNK: usize = 32;

/// Blocks that go through the layers together where several threads read: threads wait for each other twice a layer.
const BLOCKS: usize = 8;

/// Tokens that are worth starting threads for.
const LONG: usize = 512;

/// Multiply-adds of a token that are worth sharing: some 15 µs of int8 products, of which threads that wait for each other
/// three times cost one.
const LARGE: usize = 1 << 20;

/// A model and the buffers to run it over `batch` texts side by side.
#[derive(Clone)]
pub struct Decoder<'m> {
    weights: Weights<'m>,
    kernels: &'static Kernels,
    layers: Vec<LayerPanels<'m>>,
    head: Panels<'m>,
    batch: usize,
    team: Arc<Team>,
    is_large: bool, // whether a single token is worth several threads
    buffers: Buffers,
}

/// What is only used while tokens are read. It holds nothing between two reads, so that a clone needs none of it.
#[derive(Default)]
struct Buffers {
    blocks: Vec<Block>,    // of the tokens last read together
    current: usize,        // the block that `each` is called for
    hidden: Vec<Line>,     // [E, M, Hp] states after each step, M the rows of all blocks
    rooms: Vec<Room>,      // [threads], no more than experts
    logits: QuantizedRows, // [M, H] what the head multiplies with
}

impl Clone for Buffers {
    fn clone(&self) -> Self {
        Buffers::default()
    }
}

/// Rows of a layer, m of them, steps · batch, ordered by step.
#[derive(Clone, Default)]
pub(super) struct Block {
    pub(super) start: usize,      // rows before it in the other blocks
    pub(super) length: usize,     // m
    rows: Vec<f32>,               // [m, max(Dp, Hp)] a layer's input, then its output
    scores: Vec<f32>,             // [m, Ep] router scores, then probabilities
    pub(super) active: Vec<bool>, // [m, E]
    gate: Vec<f32>,               // [E, m] probability if active, else 0
    sum: Vec<f32>,                // [m, Hp] mixture plus residual
    inverse_rms: Vec<f32>,        // [m]
    inputs: QuantizedRows,        // [m, D]
}

/// The weights of one layer.
#[derive(Clone)]
pub(super) struct LayerPanels<'m> {
    router: Cow<'m, [Line]>, // [E, D]
    router_bias: &'m [Line],
    pub(super) update: Panels<'m>, // [E, H, D]
    pub(super) update_bias: &'m [Line],
    pub(super) candidate: Panels<'m>, // [E, H, D]
    pub(super) candidate_bias: &'m [Line],
    pub(super) recurrent: Panels<'m>, // [E, H, H]
    residual: Option<(Panels<'m>, &'m [Line])>,
    norm: &'m [Line],
    pub(super) input_width: usize,
}

impl<'m> Decoder<'m> {
    /// A decoder of `batch` texts that runs on the thread that calls it.
    ///
    /// # Panics
    /// If there is no text.
    pub fn new(weights: Weights<'m>, kernels: &'static Kernels, batch: usize) -> Self {
        assert!(batch > 0, "there must be a text to decode");
        let (layout, config) = (weights.layout, weights.config);
        let layers = layout.layers.iter().enumerate();
        Decoder {
            kernels,
            layers: layers.map(|(i, l)| LayerPanels::new(weights, l, config.input_width(i))).collect(),
            head: weights.panels(&layout.head),
            weights,
            batch,
            team: Arc::new(Team::new(|| 1)),
            is_large: layout.multiply_adds(&config) >= LARGE,
            buffers: Buffers::default(),
        }
    }

    /// The same decoder, to run on `team` where the model or the text is large enough. No number of threads changes what
    /// any text becomes.
    pub fn on_team(mut self, team: Arc<Team>) -> Self {
        self.team = team;
        self
    }

    /// Floats in the state of the texts, `[L, E, B, Hp]`.
    pub fn state_length(&self) -> usize {
        let config = self.weights.config;
        config.layers * config.experts * self.batch * padded(config.hidden)
    }

    /// The weights that the decoder runs.
    pub fn weights(&self) -> Weights<'m> {
        self.weights
    }

    /// The kernels that the decoder runs on.
    pub fn kernels(&self) -> &'static Kernels {
        self.kernels
    }

    /// Texts side by side.
    pub fn batch(&self) -> usize {
        self.batch
    }

    /// Reads `tokens` `[T, B]`, moving `state` `[L, E, B, Hp]` on. `each` is called after every few tokens with their
    /// range, in order, and finds their outputs in the decoder.
    ///
    /// # Panics
    /// If a token is not below the vocabulary's size, the tokens are not whole steps, or the state has another length.
    pub fn read(&mut self, tokens: &[u32], state: &mut [f32], mut each: impl FnMut(&mut Self, Range<usize>)) {
        assert!(tokens.len().is_multiple_of(self.batch), "tokens must be whole steps of {}", self.batch);
        assert_eq!(state.len(), self.state_length(), "the state does not fit the model");
        let threads = if self.is_large || tokens.len() >= LONG { self.team.threads() } else { 1 };
        let block = (CHUNK / self.batch).max(1) * self.batch;
        let together = if threads == 1 { 1 } else { BLOCKS };
        let mut first = 0;
        for tokens in tokens.chunks(together * block) {
            self.make_room(tokens.len(), block, threads);
            self.run(tokens, state);
            for index in 0..self.buffers.blocks.len() {
                self.buffers.current = index;
                let length = self.buffers.blocks[index].length;
                each(self, first..first + length);
                first += length;
            }
        }
        if tokens.len() >= LONG {
            // A text that is written needs a small part of them.
            self.buffers = Buffers::default();
        }
    }

    /// The outputs of the last layer for the tokens of the range that `each` was called with, `[m, Hp]`.
    pub fn outputs(&self) -> &[f32] {
        self.buffers.outputs()
    }

    /// The logits after each of those tokens, `[m, Vp]`.
    ///
    /// # Panics
    /// If `logits` has another length.
    pub fn all_logits(&mut self, logits: &mut [f32]) {
        let team = self.is_large.then_some(&*self.team);
        let mut room = std::mem::take(&mut self.buffers.logits);
        head(self.weights, self.kernels, self.head, &mut room, self.buffers.outputs(), logits, team);
        self.buffers.logits = room;
    }

    /// The logits `[B, Vp]` of rows `output` `[B, Hp]` of the last layer's outputs.
    ///
    /// # Panics
    /// If a length does not fit the other.
    pub fn logits(&mut self, output: &[f32], logits: &mut [f32]) {
        let team = self.is_large.then_some(&*self.team);
        head(self.weights, self.kernels, self.head, &mut self.buffers.logits, output, logits, team);
    }

    fn make_room(&mut self, rows: usize, block: usize, threads: usize) {
        let config = self.weights.config;
        let Buffers { blocks, rooms, .. } = &mut self.buffers;
        blocks.resize_with(rows.div_ceil(block), Block::default);
        for (index, of) in blocks.iter_mut().enumerate() {
            of.start = index * block;
            of.make_room(&config, block.min(rows - of.start));
        }
        rooms.resize_with(threads.min(config.experts), Room::default);
    }

    /// Runs the tokens of all blocks through all layers.
    fn run(&mut self, tokens: &[u32], state: &mut [f32]) {
        let Decoder { weights, kernels, layers, batch, team, buffers, .. } = self;
        let Buffers { blocks, hidden, rooms, .. } = buffers;
        let (weights, kernels, config) = (*weights, *kernels, weights.config);
        let (rows, width) = (tokens.len(), padded(config.hidden));
        let hidden = floats(hidden, config.experts * rows * width);
        team.for_each(blocks, |block| {
            block.embed(weights, kernels, &tokens[block.start..][..block.length]);
            block.enter(weights, kernels, &layers[0]);
        });
        let layer_state = state.len() / config.layers;
        for (index, state) in state.chunks_exact_mut(layer_state).enumerate() {
            let layer = &layers[index];
            let experts = Experts { kernels, layer, config, batch: *batch, rows };
            if let [room] = &mut rooms[..] {
                experts.run(0..config.experts, blocks, hidden, state, room);
            } else {
                // Every task has some of the experts, a slice of each buffer.
                let each = config.experts.div_ceil(rooms.len());
                let parts =
                    hidden.chunks_mut(each * rows * width).zip(state.chunks_mut(each * *batch * width));
                let mut tasks: Vec<_> = parts.zip(rooms.iter_mut()).enumerate().collect();
                team.for_each(&mut tasks, |(task, ((hidden, state), room))| {
                    let first = *task * each;
                    experts.run(first..config.experts.min(first + each), blocks, hidden, state, room);
                });
            }
            team.for_each(blocks, |block| {
                block.leave(weights, kernels, layer, hidden, rows);
                if let Some(next) = layers.get(index + 1) {
                    block.enter(weights, kernels, next);
                }
            });
        }
    }
}

impl Buffers {
    /// The rows of the current block.
    fn outputs(&self) -> &[f32] {
        self.blocks.get(self.current).map_or(&[], |block| &block.rows[..block.sum.len()])
    }
}

impl Block {
    fn make_room(&mut self, config: &ModelConfig, length: usize) {
        let (hidden, experts) = (padded(config.hidden), config.experts);
        self.length = length;
        self.rows.resize(length * hidden.max(padded(config.embedding)), 0.0);
        self.scores.resize(length * padded(experts), 0.0);
        self.active.resize(length * experts, false);
        self.gate.resize(experts * length, 0.0);
        self.sum.resize(length * hidden, 0.0);
        self.inverse_rms.resize(length, 0.0);
    }

    fn embed(&mut self, weights: Weights<'_>, kernels: &Kernels, tokens: &[u32]) {
        let width = padded(weights.config.embedding);
        for (row, &token) in self.rows.chunks_exact_mut(width).zip(tokens) {
            weights.embedding(kernels, token, row);
        }
    }

    /// What comes before a layer's experts: the router, and the residual as the start of the sum.
    fn enter(&mut self, weights: Weights<'_>, kernels: &Kernels, layer: &LayerPanels<'_>) {
        self.route(weights, kernels, layer);
        let input = &self.rows[..self.length * padded(layer.input_width)];
        let integer = weights.layout.kind.is_integer();
        let x = activations(integer, &mut self.inputs, kernels, input, layer.input_width);
        match layer.residual {
            None => self.sum.copy_from_slice(input),
            Some((weight, bias)) => weight.multiply(kernels, &mut self.sum, x, Epilogue::Bias(bias)),
        }
    }

    /// Chooses each row's experts, and weighs them.
    fn route(&mut self, weights: Weights<'_>, kernels: &Kernels, layer: &LayerPanels<'_>) {
        let config = weights.config;
        let input = &self.rows[..self.length * padded(layer.input_width)];
        let bias = Epilogue::Bias(layer.router_bias);
        // Integer models promise the same bits on every kernel, and fused sums are not.
        let product = if weights.layout.kind.is_integer() { Kernels::gemm_unfused } else { Kernels::gemm };
        product(kernels, &mut self.scores, input, &layer.router, layer.input_width, bias);
        let scores = self.scores.chunks_exact_mut(padded(config.experts));
        for (row, (scores, active)) in scores.zip(self.active.chunks_exact_mut(config.experts)).enumerate() {
            let scores = &mut scores[..config.experts];
            route(kernels, scores, config.top_k, active);
            for expert in 0..config.experts {
                self.gate[expert * self.length + row] = if active[expert] { scores[expert] } else { 0.0 };
            }
        }
    }

    /// The layer's input as its experts multiply with it, `[m, D]`.
    pub(super) fn input(&self, integer: bool, width: usize) -> Activations<'_> {
        if integer {
            Activations::Integers(self.inputs.last())
        } else {
            Activations::Floats(&self.rows[..self.length * padded(width)])
        }
    }

    /// What comes after a layer's experts, whose states `hidden` are `[E, rows, Hp]`: the sum and its norm.
    fn leave(
        &mut self,
        weights: Weights<'_>,
        kernels: &Kernels,
        layer: &LayerPanels<'_>,
        hidden: &[f32],
        rows: usize,
    ) {
        let (config, width) = (weights.config, padded(weights.config.hidden));
        for (gate, states) in self.gate.chunks_exact(self.length).zip(hidden.chunks_exact(rows * width)) {
            let states = &states[self.start * width..][..self.length * width];
            kernels.add_scaled_rows(&mut self.sum, states, gate);
        }
        let outputs = &mut self.rows[..self.length * width];
        let eps = config.eps_rmsnorm;
        kernels.rms_norm(outputs, &mut self.inverse_rms, &self.sum, layer.norm, config.hidden, eps);
    }
}

impl<'m> LayerPanels<'m> {
    fn new(weights: Weights<'m>, layer: &LayerLayout, input_width: usize) -> Self {
        let residual = layer.residual.as_ref();
        LayerPanels {
            router: weights.router(&layer.router),
            router_bias: weights.get(&layer.router_bias),
            update: weights.panels(&layer.update),
            update_bias: weights.get(&layer.update_bias),
            candidate: weights.panels(&layer.candidate),
            candidate_bias: weights.get(&layer.candidate_bias),
            recurrent: weights.panels(&layer.recurrent),
            residual: residual.map(|(weight, bias)| (weights.panels(weight), weights.get(bias))),
            norm: weights.get(&layer.norm),
            input_width,
        }
    }
}

fn head(
    weights: Weights<'_>,
    kernels: &Kernels,
    head: Panels<'_>,
    room: &mut QuantizedRows,
    outputs: &[f32],    // [M, Hp]
    logits: &mut [f32], // [M, Vp]
    team: Option<&Team>,
) {
    let bias = weights.get(&weights.layout.head_bias); // [panels]
    let x = activations(weights.layout.kind.is_integer(), room, kernels, outputs, weights.config.hidden);
    // Only the outputs of a single row lie side by side, so that threads can have some each.
    let team = team.filter(|team| team.threads() > 1 && logits.len() == bias.len() * PANEL_ROWS);
    let Some(team) = team else {
        return head.multiply(kernels, logits, x, Epilogue::Bias(bias));
    };
    let each = bias.len().div_ceil(team.threads());
    let parts = logits.chunks_mut(each * PANEL_ROWS).zip(bias.chunks(each)).enumerate();
    team.for_each(&mut parts.collect::<Vec<_>>(), |(part, (logits, bias))| {
        let panels = head.slice(*part * each..*part * each + bias.len());
        panels.multiply(kernels, logits, x, Epilogue::Bias(bias));
    });
}

/// Rows `x` `[M, padded(depth)]` in the form that integer or floating-point weights want.
pub(super) fn activations<'a>(
    integer: bool,
    room: &'a mut QuantizedRows,
    kernels: &Kernels,
    x: &'a [f32],
    depth: usize,
) -> Activations<'a> {
    if integer { Activations::Integers(room.quantize(kernels, x, depth)) } else { Activations::Floats(x) }
}

impl<'a> Weights<'a> {
    /// The panels of the tensor at `range` of the layout.
    fn panels(&self, range: &Range<usize>) -> Panels<'a> {
        let tensor = self.layout.tensor_at(range);
        Panels::new(tensor.storage, tensor.encoding, self.get(&tensor.lines))
    }

    /// The panels of a router, which are made here if it is stored in rows.
    fn router(&self, range: &Range<usize>) -> Cow<'a, [Line]> {
        let tensor = self.layout.tensor_at(range);
        match tensor.storage {
            Storage::Panels { .. } => Cow::Borrowed(self.get(range)),
            Storage::Rows { rows, columns } => {
                let mut panels = vec![Line::default(); panel_lines(rows, columns)];
                pack_panels(&mut panels, &tensor.read(self.lines), rows, columns);
                Cow::Owned(panels)
            }
        }
    }
}
