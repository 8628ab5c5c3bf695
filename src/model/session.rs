//! A running text: the model's state after the tokens so far, and the next token's logits.

use super::{LayerLayout, Weights, router::route};
use crate::sample::Sampler;
use crate::tokenizer::{Special, TokenizerView};
use shoestring_kernels::{Epilogue, Kernels, padded};

/// The state of one text or conversation, and the buffers to go on with it.
///
/// Cloning forks the conversation: the state is a few kilobytes, the weights are shared.
#[derive(Clone)]
pub struct Session<'m> {
    weights: Weights<'m>,
    tokenizer: TokenizerView<'m>,
    kernels: &'static Kernels,
    state: Vec<f32>,  // [L, E, Hp]
    output: Vec<f32>, // [max(Dp, Hp)] the last layer's output for the last token
    logits: Vec<f32>, // [Vp]
    logits_are_current: bool,
    scratch: Scratch,
}

#[derive(Clone)]
struct Scratch {
    scores: Vec<f32>,    // [Ep] router scores, then probabilities
    active: Vec<bool>,   // [E]
    update: Vec<f32>,    // [E, Hp] update gate z
    candidate: Vec<f32>, // [E, Hp] candidate before gelu
    sum: Vec<f32>,       // [Hp] mixture plus residual
}

impl<'m> Session<'m> {
    /// A session at the start of a text: state zero.
    pub fn new(weights: Weights<'m>, tokenizer: TokenizerView<'m>, kernels: &'static Kernels) -> Self {
        let config = weights.config;
        let (hidden, experts) = (padded(config.hidden), config.experts);
        Session {
            weights,
            tokenizer,
            kernels,
            state: vec![0.0; config.layers * experts * hidden],
            output: vec![0.0; hidden.max(padded(config.embedding))],
            logits: vec![0.0; padded(config.vocabulary)],
            logits_are_current: false,
            scratch: Scratch {
                scores: vec![0.0; padded(experts)],
                active: vec![false; experts],
                update: vec![0.0; experts * hidden],
                candidate: vec![0.0; experts * hidden],
                sum: vec![0.0; hidden],
            },
        }
    }

    /// Back to the start of a text.
    pub fn reset(&mut self) {
        self.state.fill(0.0);
        self.output.fill(0.0);
        self.logits_are_current = false;
    }

    /// Reads `text`. What looks like a special token in it is ordinary text.
    pub fn feed(&mut self, text: &str) {
        let mut tokens = Vec::new();
        self.tokenizer.encode(text.as_bytes(), Special::AsText, &mut tokens);
        self.feed_tokens(&tokens);
    }

    /// Reads `tokens`.
    ///
    /// # Panics
    /// If a token is not below the vocabulary's size.
    pub fn feed_tokens(&mut self, tokens: &[u32]) {
        for &token in tokens {
            self.advance(token);
        }
    }

    /// Samples the next token and reads it. At the start of a text the model has seen nothing: feed
    /// something first, [`crate::tokenizer::EOS`] if there is nothing else.
    pub fn next_token(&mut self, sampler: &mut Sampler) -> u32 {
        let token = self.sample(sampler);
        self.advance(token);
        token
    }

    /// Samples the next token without reading it.
    pub fn sample(&mut self, sampler: &mut Sampler) -> u32 {
        let kernels = self.kernels;
        sampler.sample(kernels, self.logits())
    }

    /// The tokenizer of the model.
    pub fn tokenizer(&self) -> TokenizerView<'m> {
        self.tokenizer
    }

    /// The next token's logits, `[V]`.
    pub fn logits(&mut self) -> &[f32] {
        let config = self.weights.config;
        if !self.logits_are_current {
            let layout = self.weights.layout;
            let bias = Epilogue::Bias(self.weights.get(&layout.head_bias));
            let head = self.weights.get(&layout.head);
            self.kernels.matvec(&mut self.logits, head, &self.output[..config.hidden], config.hidden, bias);
            self.logits_are_current = true;
        }
        &self.logits[..config.vocabulary]
    }

    /// The state of every layer and expert, `[L, E, padded(H)]`.
    pub fn state(&self) -> &[f32] {
        &self.state
    }

    /// The state, to be replaced by one that was saved.
    pub fn state_mut(&mut self) -> &mut [f32] {
        &mut self.state
    }

    /// Reads one token: every layer's state and the last layer's output move on by one step.
    fn advance(&mut self, token: u32) {
        let config = self.weights.config;
        assert!((token as usize) < config.vocabulary, "token {token} is not in the vocabulary");
        self.output.fill(0.0);
        self.weights.embedding(token, &mut self.output);
        let layer_state = config.experts * padded(config.hidden);
        for (i, layer) in self.weights.layout.layers.iter().enumerate() {
            let state = &mut self.state[i * layer_state..][..layer_state];
            let input_width = config.input_width(i);
            self.scratch.step(self.weights, self.kernels, layer, input_width, state, &mut self.output);
        }
        self.logits_are_current = false;
    }
}

impl Scratch {
    /// One layer, one token: `x` [>= max(Dp, Hp)] is the layer's input and becomes its output.
    fn step(
        &mut self,
        weights: Weights<'_>,
        kernels: &Kernels,
        layer: &LayerLayout,
        input_width: usize,
        state: &mut [f32], // [E, Hp]
        x: &mut [f32],
    ) {
        let config = weights.config;
        let (hidden, width) = (padded(config.hidden), config.hidden);
        let matvec = |out: &mut [f32], panels: &[_], x: &[f32], epilogue: Epilogue<'_>| {
            kernels.matvec(out, panels, x, x.len(), epilogue);
        };
        let input = &x[..input_width];
        let bias = Epilogue::Bias(weights.get(&layer.router_bias));
        matvec(&mut self.scores, weights.get(&layer.router), input, bias);
        let scores = &mut self.scores[..config.experts];
        route(kernels, scores, config.top_k, &mut self.active);

        match &layer.residual {
            None => self.sum.copy_from_slice(&x[..hidden]),
            Some((weight, bias)) => {
                let bias = Epilogue::Bias(weights.get(bias));
                matvec(&mut self.sum, weights.get(weight), input, bias);
            }
        }
        let (update, candidate) = (weights.get(&layer.update), weights.get(&layer.candidate));
        let (update_bias, candidate_bias) =
            (weights.get(&layer.update_bias), weights.get(&layer.candidate_bias));
        let recurrent = weights.get(&layer.recurrent);
        let (input_lines, state_lines, bias_lines) =
            (hidden / 16 * input_width, hidden / 16 * width, hidden / 16);
        let dense = config.top_k == config.experts;
        if dense {
            matvec(&mut self.update, update, input, Epilogue::BiasSigmoid(update_bias));
            matvec(&mut self.candidate, candidate, input, Epilogue::Bias(candidate_bias));
        }
        for (e, h) in state.chunks_exact_mut(hidden).enumerate().filter(|(e, _)| self.active[*e]) {
            let z = &mut self.update[e * hidden..][..hidden];
            let a = &mut self.candidate[e * hidden..][..hidden];
            if !dense {
                let panels = e * input_lines..(e + 1) * input_lines;
                let bias = e * bias_lines..(e + 1) * bias_lines;
                let update_epilogue = Epilogue::BiasSigmoid(&update_bias[bias.clone()]);
                matvec(z, &update[panels.clone()], input, update_epilogue);
                matvec(a, &candidate[panels], input, Epilogue::Bias(&candidate_bias[bias]));
            }
            matvec(a, &recurrent[e * state_lines..][..state_lines], &h[..width], Epilogue::Accumulate);
            kernels.cell_step(h, z, a);
            kernels.add_scaled_rows(&mut self.sum, h, &scores[e..=e]);
        }
        let mut inverse_rms = [0.0];
        let gain = weights.get(&layer.norm);
        kernels.rms_norm(&mut x[..hidden], &mut inverse_rms, &self.sum, gain, width, config.eps_rmsnorm);
        x[hidden..].fill(0.0);
    }
}
