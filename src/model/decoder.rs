//! Running a model over tokens without keeping anything for a backward pass.
//!
//! Several tokens of one text go through a layer together: what does not depend on the state is one matrix
//! product for all of them, so a weight is read once for many tokens. Only the recurrent product takes them one
//! by one. A single token, as when text is generated, is the same with one row.

use super::panels::{Activations, Panels};
use super::{LayerLayout, Weights, router::route};
use shoestring_kernels::quantized::{Quantized, QuantizedRows};
use shoestring_kernels::{Epilogue, Kernels, Line, PANEL_ROWS, padded};
use std::ops::Range;

/// Tokens that go through a layer together.
pub const CHUNK: usize = 32;

/// A model and the buffers to run it.
#[derive(Clone)]
pub struct Decoder<'m> {
    weights: Weights<'m>,
    kernels: &'static Kernels,
    layers: Vec<LayerPanels<'m>>,
    head: Panels<'m>,
    integer: bool,
    rows: Vec<f32>,        // [T, max(Dp, Hp)] a layer's input, then its output
    scores: Vec<f32>,      // [T, Ep] router scores, then probabilities
    active: Vec<bool>,     // [E]
    update: Vec<f32>,      // [T, E, Hp] update gate z
    candidate: Vec<f32>,   // [T, E, Hp] candidate before gelu
    sum: Vec<f32>,         // [T, Hp] mixture plus residual
    inverse_rms: Vec<f32>, // [T]
    inputs: QuantizedRows, // [T, D]
    states: QuantizedRows, // [E, H]
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

impl<'m> LayerPanels<'m> {
    fn new(weights: Weights<'m>, layer: &LayerLayout, input_width: usize) -> Self {
        LayerPanels {
            router: weights.get(&layer.router),
            router_bias: weights.get(&layer.router_bias),
            update: weights.panels(&layer.update),
            update_bias: weights.get(&layer.update_bias),
            candidate: weights.panels(&layer.candidate),
            candidate_bias: weights.get(&layer.candidate_bias),
            recurrent: weights.panels(&layer.recurrent),
            residual: layer
                .residual
                .as_ref()
                .map(|(weight, bias)| (weights.panels(weight), weights.get(bias))),
            norm: weights.get(&layer.norm),
            input_width,
        }
    }
}

impl<'m> Decoder<'m> {
    /// A decoder of the model with these weights.
    pub fn new(weights: Weights<'m>, kernels: &'static Kernels) -> Self {
        let layout = weights.layout;
        let layers = layout.layers.iter().enumerate();
        Decoder {
            kernels,
            layers: layers
                .map(|(i, l)| LayerPanels::new(weights, l, weights.config.input_width(i)))
                .collect(),
            head: weights.panels(&layout.head),
            integer: layout.kind.is_integer(),
            weights,
            rows: Vec::new(),
            scores: Vec::new(),
            active: vec![false; weights.config.experts],
            update: Vec::new(),
            candidate: Vec::new(),
            sum: Vec::new(),
            inverse_rms: Vec::new(),
            inputs: QuantizedRows::default(),
            states: QuantizedRows::default(),
        }
    }

    /// Floats in the state of one text, `[L, E, Hp]`.
    pub fn state_length(&self) -> usize {
        let config = self.weights.config;
        config.layers * config.experts * padded(config.hidden)
    }

    /// The weights that the decoder runs.
    pub fn weights(&self) -> Weights<'m> {
        self.weights
    }

    /// The kernels that the decoder runs on.
    pub fn kernels(&self) -> &'static Kernels {
        self.kernels
    }

    /// Reads `tokens`, moving `state` `[L, E, Hp]` on. `each` is called after every few tokens with their range, in
    /// order, and finds their outputs in the decoder.
    ///
    /// # Panics
    /// If a token is not below the vocabulary's size, or the state has another length.
    pub fn read(&mut self, tokens: &[u32], state: &mut [f32], mut each: impl FnMut(&mut Self, Range<usize>)) {
        assert_eq!(state.len(), self.state_length(), "the state does not fit the model");
        let config = self.weights.config;
        let layer_state = config.experts * padded(config.hidden);
        let mut first = 0;
        for tokens in tokens.chunks(CHUNK) {
            self.prepare(tokens.len());
            self.embed(tokens);
            for i in 0..config.layers {
                self.layer(i, &mut state[i * layer_state..][..layer_state]);
            }
            each(self, first..first + tokens.len());
            first += tokens.len();
        }
    }

    /// The logits after each of the tokens last read together, `[T, Vp]`.
    pub fn all_logits(&mut self, logits: &mut [f32]) {
        let outputs = &self.rows[..self.sum.len()];
        let bias = Epilogue::Bias(self.weights.get(&self.weights.layout.head_bias));
        let hidden = self.weights.config.hidden;
        let x = activations(self.integer, &mut self.inputs, self.kernels, outputs, hidden);
        self.head.multiply(self.kernels, logits, x, bias);
    }

    /// The outputs of the last layer for the tokens last read together, `[T, Hp]`.
    pub fn outputs(&self) -> &[f32] {
        &self.rows[..self.sum.len()]
    }

    /// `logits` `[M, Vp]` of rows `output` `[M, Hp]` of the last layer's output.
    pub fn logits(&mut self, output: &[f32], logits: &mut [f32]) {
        let bias = Epilogue::Bias(self.weights.get(&self.weights.layout.head_bias));
        let hidden = self.weights.config.hidden;
        let x = activations(self.integer, &mut self.inputs, self.kernels, output, hidden);
        self.head.multiply(self.kernels, logits, x, bias);
    }

    /// Makes room for `tokens` rows.
    fn prepare(&mut self, tokens: usize) {
        let config = self.weights.config;
        let hidden = padded(config.hidden);
        self.scores.resize(tokens * padded(config.experts), 0.0);
        self.update.resize(tokens * config.experts * hidden, 0.0);
        self.candidate.resize(tokens * config.experts * hidden, 0.0);
        self.sum.resize(tokens * hidden, 0.0);
        self.inverse_rms.resize(tokens, 0.0);
        self.rows.resize(tokens * hidden.max(padded(config.embedding)), 0.0);
    }

    fn embed(&mut self, tokens: &[u32]) {
        let config = self.weights.config;
        let width = padded(config.embedding);
        for (row, &token) in self.rows.chunks_exact_mut(width).zip(tokens) {
            assert!((token as usize) < config.vocabulary, "token {token} is not in the vocabulary");
            self.weights.embedding(self.kernels, token, row);
        }
    }

    /// One layer over the rows: they are its input and become its output.
    fn layer(&mut self, index: usize, state: &mut [f32]) {
        let layer = self.layers[index];
        let config = self.weights.config;
        let (kernels, tokens, width) = (self.kernels, self.inverse_rms.len(), padded(layer.input_width));
        let rows = &self.rows[..tokens * width];
        let router = Epilogue::Bias(layer.router_bias);
        // Integer models promise the same bits on every kernel, and fused sums are not.
        let route_product = if self.integer { Kernels::gemm_unfused } else { Kernels::gemm };
        route_product(kernels, &mut self.scores, rows, layer.router, layer.input_width, router);
        let x = activations(self.integer, &mut self.inputs, kernels, rows, layer.input_width);
        match layer.residual {
            None => self.sum.copy_from_slice(rows),
            Some((weight, bias)) => weight.multiply(kernels, &mut self.sum, x, Epilogue::Bias(bias)),
        }
        let dense = config.top_k == config.experts;
        if dense {
            layer.update.multiply(kernels, &mut self.update, x, Epilogue::BiasSigmoid(layer.update_bias));
            layer.candidate.multiply(kernels, &mut self.candidate, x, Epilogue::Bias(layer.candidate_bias));
        }
        for token in 0..tokens {
            let scores = &mut self.scores[token * padded(config.experts)..][..config.experts];
            route(kernels, scores, config.top_k, &mut self.active);
            if dense {
                self.recur(&layer, token, 0..config.experts, state);
            } else {
                for expert in 0..config.experts {
                    if self.active[expert] {
                        self.input_products(&layer, token, expert);
                        self.recur(&layer, token, expert..expert + 1, state);
                    }
                }
            }
        }
        let outputs = &mut self.rows[..tokens * padded(config.hidden)];
        let eps = config.eps_rmsnorm;
        kernels.rms_norm(outputs, &mut self.inverse_rms, &self.sum, layer.norm, config.hidden, eps);
    }

    /// Gate and candidate of one expert for one token, without the state's part.
    fn input_products(&mut self, layer: &LayerPanels<'_>, token: usize, expert: usize) {
        let (experts, hidden) = (self.weights.config.experts, padded(self.weights.config.hidden));
        let width = padded(layer.input_width);
        let row = &self.rows[token * width..][..width];
        let x = activations(self.integer, &mut self.inputs, self.kernels, row, layer.input_width);
        let panels = expert * hidden / PANEL_ROWS..(expert + 1) * hidden / PANEL_ROWS;
        let slot = (token * experts + expert) * hidden..(token * experts + expert + 1) * hidden;
        let bias = Epilogue::BiasSigmoid(&layer.update_bias[panels.clone()]);
        layer.update.slice(panels.clone()).multiply(self.kernels, &mut self.update[slot.clone()], x, bias);
        let bias = Epilogue::Bias(&layer.candidate_bias[panels.clone()]);
        layer.candidate.slice(panels).multiply(self.kernels, &mut self.candidate[slot], x, bias);
    }

    /// Moves the states of some experts on by one token, and adds them to the layer's sum.
    fn recur(&mut self, layer: &LayerPanels<'_>, token: usize, experts: Range<usize>, state: &mut [f32]) {
        let config = self.weights.config;
        let (kernels, hidden) = (self.kernels, padded(config.hidden));
        let first = token * config.experts * hidden;
        let slot = first + experts.start * hidden..first + experts.end * hidden;
        let h = &mut state[experts.start * hidden..experts.end * hidden];
        let z = &self.update[slot.clone()];
        let a = &mut self.candidate[slot];
        let integers = self.integer.then(|| self.states.quantize(kernels, h, config.hidden));
        let panels = hidden / PANEL_ROWS;
        for (i, expert) in experts.clone().enumerate() {
            let x = match integers {
                Some(rows) => Activations::Integers(row(rows, i, config.hidden)),
                None => Activations::Floats(&h[i * hidden..][..hidden]),
            };
            let weights = layer.recurrent.slice(expert * panels..(expert + 1) * panels);
            weights.multiply(kernels, &mut a[i * hidden..][..hidden], x, Epilogue::Accumulate);
        }
        kernels.cell_step(h, z, a);
        let sum = &mut self.sum[token * hidden..][..hidden];
        for (h, expert) in h.chunks_exact(hidden).zip(experts) {
            let gate = self.scores[token * padded(config.experts) + expert];
            kernels.add_scaled_rows(sum, h, &[gate]);
        }
    }
}

/// One of several rows.
fn row(rows: Quantized<'_>, index: usize, depth: usize) -> Quantized<'_> {
    let (width, groups) = (padded(depth), shoestring_kernels::quantized::groups(depth));
    Quantized {
        codes: &rows.codes[index * width..][..width],
        scales: &rows.scales[index..=index],
        sums: &rows.sums[index * groups..][..groups],
    }
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
