//! Running a model over tokens without keeping anything for a backward pass.
//!
//! Tokens go through a layer together: `steps` consecutive ones of each of `batch` texts. What does not depend on
//! the state is one matrix product for all of them, so a weight is read once for many tokens; only the recurrent
//! product takes the steps one by one. A single token, as when a text is generated, is the same with one row.

use super::panels::{Activations, Panels};
use super::{LayerLayout, Weights, router::route};
use rayon::prelude::*;
use shoestring_kernels::quantized::QuantizedRows;
use shoestring_kernels::{Epilogue, Kernels, Line, PANEL_ROWS, padded};
use std::ops::Range;

/// Rows that go through a layer together at most, unless there are more texts than that.
pub const CHUNK: usize = 32;

/// A model and the buffers to run it over `batch` texts side by side. M = steps · batch rows, ordered by step.
#[derive(Clone)]
pub struct Decoder<'m> {
    weights: Weights<'m>,
    kernels: &'static Kernels,
    layers: Vec<LayerPanels<'m>>,
    head: Panels<'m>,
    batch: usize,
    tasks: usize,
    rows: Vec<f32>,             // [M, max(Dp, Hp)] a layer's input, then its output
    scores: Vec<f32>,           // [M, Ep] router scores, then probabilities
    active: Vec<bool>,          // [M, E]
    gate: Vec<f32>,             // [E, M] probability if active, else 0
    update: Vec<f32>,           // [E, M, Hp] update gate z
    candidate: Vec<f32>,        // [E, M, Hp] candidate before gelu
    hidden: Vec<f32>,           // [E, M, Hp] states after each step
    sum: Vec<f32>,              // [M, Hp] mixture plus residual
    inverse_rms: Vec<f32>,      // [M]
    inputs: QuantizedRows,      // [M, D]
    states: Vec<QuantizedRows>, // [tasks][E · B, H]
}

/// The weights of one layer.
#[derive(Clone, Copy)]
struct LayerPanels<'m> {
    router: &'m [Line],
    router_bias: &'m [Line],
    update: Panels<'m>, // [E, H, D]
    update_bias: &'m [Line],
    candidate: Panels<'m>, // [E, H, D]
    candidate_bias: &'m [Line],
    recurrent: Panels<'m>, // [E, H, H]
    residual: Option<(Panels<'m>, &'m [Line])>,
    norm: &'m [Line],
    input_width: usize,
}

impl<'m> Decoder<'m> {
    /// A decoder of `batch` texts, at least one, that run on up to `threads` threads of the current rayon pool. Neither
    /// number changes what any text becomes.
    pub fn new(weights: Weights<'m>, kernels: &'static Kernels, batch: usize, threads: usize) -> Self {
        let (layout, config) = (weights.layout, weights.config);
        let layers = layout.layers.iter().enumerate();
        let tasks = threads.clamp(1, config.experts);
        Decoder {
            kernels,
            layers: layers.map(|(i, l)| LayerPanels::new(weights, l, config.input_width(i))).collect(),
            head: weights.panels(&layout.head),
            weights,
            batch,
            tasks,
            rows: Vec::new(),
            scores: Vec::new(),
            active: Vec::new(),
            gate: Vec::new(),
            update: Vec::new(),
            candidate: Vec::new(),
            hidden: Vec::new(),
            sum: Vec::new(),
            inverse_rms: Vec::new(),
            inputs: QuantizedRows::default(),
            states: vec![QuantizedRows::default(); tasks],
        }
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
        let layer_state = state.len() / self.weights.config.layers;
        let chunk = (CHUNK / self.batch).max(1) * self.batch;
        let mut first = 0;
        for tokens in tokens.chunks(chunk) {
            self.make_room(tokens.len());
            self.embed(tokens);
            for (i, state) in state.chunks_exact_mut(layer_state).enumerate() {
                self.layer(i, state);
            }
            each(self, first..first + tokens.len());
            first += tokens.len();
        }
    }

    /// The outputs of the last layer for the tokens last read together, `[M, Hp]`.
    pub fn outputs(&self) -> &[f32] {
        &self.rows[..self.sum.len()]
    }

    /// The logits after each of the tokens last read together, `[M, Vp]`.
    ///
    /// # Panics
    /// If `logits` has another length.
    pub fn all_logits(&mut self, logits: &mut [f32]) {
        let outputs = &self.rows[..self.sum.len()];
        head(self.weights, self.kernels, self.head, &mut self.inputs, outputs, logits);
    }

    /// The logits `[B, Vp]` of rows `output` `[B, Hp]` of the last layer's outputs.
    ///
    /// # Panics
    /// If a length does not fit the other.
    pub fn logits(&mut self, output: &[f32], logits: &mut [f32]) {
        head(self.weights, self.kernels, self.head, &mut self.inputs, output, logits);
    }

    fn make_room(&mut self, rows: usize) {
        let config = self.weights.config;
        let (hidden, experts) = (padded(config.hidden), config.experts);
        self.rows.resize(rows * hidden.max(padded(config.embedding)), 0.0);
        self.scores.resize(rows * padded(experts), 0.0);
        self.active.resize(rows * experts, false);
        self.gate.resize(experts * rows, 0.0);
        for buffer in [&mut self.update, &mut self.candidate, &mut self.hidden] {
            buffer.resize(experts * rows * hidden, 0.0);
        }
        self.sum.resize(rows * hidden, 0.0);
        self.inverse_rms.resize(rows, 0.0);
    }

    fn embed(&mut self, tokens: &[u32]) {
        let width = padded(self.weights.config.embedding);
        for (row, &token) in self.rows.chunks_exact_mut(width).zip(tokens) {
            self.weights.embedding(self.kernels, token, row);
        }
    }

    /// One layer over the rows: they are its input and become its output.
    fn layer(&mut self, index: usize, state: &mut [f32]) {
        let (layer, config, kernels) = (self.layers[index], self.weights.config, self.kernels);
        let (rows, hidden) = (self.inverse_rms.len(), padded(config.hidden));
        let input = &self.rows[..rows * padded(layer.input_width)];
        let integer = self.weights.layout.kind.is_integer();
        let router = Epilogue::Bias(layer.router_bias);
        // Integer models promise the same bits on every kernel, and fused sums are not.
        let product = if integer { Kernels::gemm_unfused } else { Kernels::gemm };
        product(kernels, &mut self.scores, input, layer.router, layer.input_width, router);
        let scores = self.scores.chunks_exact_mut(padded(config.experts));
        for (row, (scores, active)) in scores.zip(self.active.chunks_exact_mut(config.experts)).enumerate() {
            let scores = &mut scores[..config.experts];
            route(kernels, scores, config.top_k, active);
            for expert in 0..config.experts {
                self.gate[expert * rows + row] = if active[expert] { scores[expert] } else { 0.0 };
            }
        }
        let x = activations(integer, &mut self.inputs, kernels, input, layer.input_width);
        match layer.residual {
            None => self.sum.copy_from_slice(input),
            Some((weight, bias)) => weight.multiply(kernels, &mut self.sum, x, Epilogue::Bias(bias)),
        }
        let pass = ExpertPass {
            kernels,
            layer,
            hidden: config.hidden,
            batch: self.batch,
            rows,
            x,
            active: (config.top_k < config.experts).then_some(&self.active),
        };
        // Every task has some of the experts, a slice of each buffer.
        let each = config.experts.div_ceil(self.tasks);
        let buffers = self.update.chunks_mut(each * rows * hidden);
        let buffers = buffers.zip(self.candidate.chunks_mut(each * rows * hidden));
        let buffers = buffers.zip(self.hidden.chunks_mut(each * rows * hidden));
        let buffers = buffers.zip(state.chunks_mut(each * self.batch * hidden)).zip(&mut self.states);
        let run = |(task, ((((update, candidate), states), state), room))| {
            let first = task * each;
            let experts = first..config.experts.min(first + each);
            pass.run(experts, Buffers { update, candidate, states, state }, room);
        };
        if self.tasks == 1 {
            buffers.enumerate().for_each(run);
        } else {
            buffers.enumerate().collect::<Vec<_>>().into_par_iter().for_each(run);
        }
        for (gate, states) in self.gate.chunks_exact(rows).zip(self.hidden.chunks_exact(rows * hidden)) {
            kernels.add_scaled_rows(&mut self.sum, states, gate);
        }
        let outputs = &mut self.rows[..rows * hidden];
        let eps = config.eps_rmsnorm;
        kernels.rms_norm(outputs, &mut self.inverse_rms, &self.sum, layer.norm, config.hidden, eps);
    }
}

impl<'m> LayerPanels<'m> {
    fn new(weights: Weights<'m>, layer: &LayerLayout, input_width: usize) -> Self {
        let residual = layer.residual.as_ref();
        LayerPanels {
            router: weights.get(&layer.router),
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

/// A layer's experts over some rows.
struct ExpertPass<'a> {
    kernels: &'static Kernels,
    layer: LayerPanels<'a>,
    hidden: usize,
    batch: usize,
    rows: usize,
    x: Activations<'a>,         // [M, D]
    active: Option<&'a [bool]>, // [M, E]; absent if every expert runs for every row
}

/// The parts of a layer's buffers that belong to some of its experts, n of them.
struct Buffers<'a> {
    update: &'a mut [f32],    // [n, M, Hp]
    candidate: &'a mut [f32], // [n, M, Hp]
    states: &'a mut [f32],    // [n, M, Hp] out: the state after every step
    state: &'a mut [f32],     // [n, B, Hp] the state before the first step, then after the last
}

impl ExpertPass<'_> {
    fn run(&self, experts: Range<usize>, buffers: Buffers<'_>, room: &mut QuantizedRows) {
        let Buffers { update, candidate, states, state } = buffers;
        let (width, steps) = (padded(self.hidden), self.rows / self.batch);
        if self.active.is_none() && steps == 1 {
            // What all experts do at once: their rows lie side by side.
            if self.rows == 1 {
                self.input_products(experts.clone(), self.x, update, candidate);
            } else {
                let outputs = update.chunks_exact_mut(self.rows * width);
                for (expert, (z, a)) in
                    experts.clone().zip(outputs.zip(candidate.chunks_exact_mut(self.rows * width)))
                {
                    self.input_products(expert..expert + 1, self.x, z, a);
                }
            }
            self.step(experts, self.batch, state, update, candidate, room);
            states.copy_from_slice(state);
            return;
        }
        let of_experts =
            update.chunks_exact_mut(self.rows * width).zip(candidate.chunks_exact_mut(self.rows * width));
        let of_experts = of_experts.zip(states.chunks_exact_mut(self.rows * width));
        let of_experts = of_experts.zip(state.chunks_exact_mut(self.batch * width));
        for (expert, (((z, a), states), state)) in experts.zip(of_experts) {
            match self.active {
                None => {
                    self.input_products(expert..expert + 1, self.x, z, a);
                    let slots =
                        z.chunks_exact(self.batch * width).zip(a.chunks_exact_mut(self.batch * width));
                    for ((z, a), after) in slots.zip(states.chunks_exact_mut(self.batch * width)) {
                        self.step(expert..expert + 1, self.batch, state, z, a, room);
                        after.copy_from_slice(state);
                    }
                }
                Some(active) => self.active_rows(expert, active, (z, a), states, state, room),
            }
        }
    }

    /// Runs an expert for the rows that chose it, one at a time; for the others its state stays as it is.
    fn active_rows(
        &self,
        expert: usize,
        active: &[bool],
        (z, a): (&mut [f32], &mut [f32]), // [M, Hp] each
        states: &mut [f32],               // [M, Hp]
        state: &mut [f32],                // [B, Hp]
        room: &mut QuantizedRows,
    ) {
        let (width, experts) = (padded(self.hidden), active.len() / self.rows);
        let slots =
            z.chunks_exact_mut(width).zip(a.chunks_exact_mut(width)).zip(states.chunks_exact_mut(width));
        for (row, ((z, a), after)) in slots.enumerate() {
            let state = &mut state[row % self.batch * width..][..width];
            if active[row * experts + expert] {
                let x = self.x.rows(row..row + 1, self.layer.input_width);
                self.input_products(expert..expert + 1, x, z, a);
                self.step(expert..expert + 1, 1, state, z, a, room);
            }
            after.copy_from_slice(state);
        }
    }

    /// Gates and candidates of some experts without the state's part: `[M, n, Hp]`.
    fn input_products(
        &self,
        experts: Range<usize>,
        x: Activations<'_>,
        update: &mut [f32],
        candidate: &mut [f32],
    ) {
        let panels = padded(self.hidden) / PANEL_ROWS;
        let panels = experts.start * panels..experts.end * panels;
        let bias = Epilogue::BiasSigmoid(&self.layer.update_bias[panels.clone()]);
        self.layer.update.slice(panels.clone()).multiply(self.kernels, update, x, bias);
        let bias = Epilogue::Bias(&self.layer.candidate_bias[panels.clone()]);
        self.layer.candidate.slice(panels).multiply(self.kernels, candidate, x, bias);
    }

    /// Moves the states of some experts, `texts` rows each, on by one step: all buffers are `[n, texts, Hp]`.
    fn step(
        &self,
        experts: Range<usize>,
        texts: usize,
        state: &mut [f32],
        z: &[f32],
        a: &mut [f32],
        room: &mut QuantizedRows,
    ) {
        let (slot, panels) = (texts * padded(self.hidden), padded(self.hidden) / PANEL_ROWS);
        let integer = matches!(self.x, Activations::Integers(_));
        let all = activations(integer, room, self.kernels, state, self.hidden);
        for (i, expert) in experts.enumerate() {
            let x = all.rows(i * texts..(i + 1) * texts, self.hidden);
            let weights = self.layer.recurrent.slice(expert * panels..(expert + 1) * panels);
            weights.multiply(self.kernels, &mut a[i * slot..][..slot], x, Epilogue::Accumulate);
        }
        self.kernels.cell_step(state, z, a);
    }
}

fn head(
    weights: Weights<'_>,
    kernels: &Kernels,
    head: Panels<'_>,
    room: &mut QuantizedRows,
    outputs: &[f32],    // [M, Hp]
    logits: &mut [f32], // [M, Vp]
) {
    let bias = Epilogue::Bias(weights.get(&weights.layout.head_bias));
    let x = activations(weights.layout.kind.is_integer(), room, kernels, outputs, weights.config.hidden);
    head.multiply(kernels, logits, x, bias);
}

/// Rows `x` `[M, padded(depth)]` in the form that integer or floating-point weights want.
fn activations<'a>(
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
}
