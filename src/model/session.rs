//! A running text: the model's state after the tokens so far, and the next token's logits.

use super::saved_session::{self, SessionError};
use super::{Decoder, Weights};
use crate::sample::Sampler;
use crate::tokenizer::{EOS, Special, TokenizerView};
use shoestring_kernels::{Kernels, Team, padded};
use std::sync::Arc;

/// The state of one text or conversation, and the buffers to go on with it.
///
/// Cloning forks the conversation: the state is a few kilobytes, the weights are shared.
#[derive(Clone)]
pub struct Session<'m> {
    decoder: Decoder<'m>,
    tokenizer: TokenizerView<'m>,
    model: u64,       // checksum of the model's file; 0 if it has none
    state: Vec<f32>,  // [L, E, Hp]
    output: Vec<f32>, // [Hp] the last layer's output for the last token
    logits: Vec<f32>, // [Vp]
    logits_are_current: bool,
}

/// A copy of a session's state, a few kilobytes, to [return to](Session::return_to).
#[derive(Clone, Debug, PartialEq)]
pub struct Snapshot {
    state: Vec<f32>,  // [L, E, Hp]
    output: Vec<f32>, // [Hp]
}

impl<'m> Session<'m> {
    /// A session at the start of a text, state zero, of weights that may be of no file: its [saved](Self::save) sessions
    /// fit any such weights of the same sizes.
    pub fn new(weights: Weights<'m>, tokenizer: TokenizerView<'m>, kernels: &'static Kernels) -> Self {
        Session::with_decoder(Decoder::new(weights, kernels, 1), tokenizer, 0)
    }

    /// The same session, to run on `team` where the model or a text that it reads is large enough. The number of threads
    /// does not change any result.
    pub fn on_team(mut self, team: Arc<Team>) -> Self {
        self.decoder = self.decoder.on_team(team);
        self
    }

    /// A session at the start of a text, of a decoder of one text and the model whose file has the checksum `model`.
    pub(super) fn with_decoder(decoder: Decoder<'m>, tokenizer: TokenizerView<'m>, model: u64) -> Self {
        let config = decoder.weights().config;
        Session {
            tokenizer,
            model,
            state: vec![0.0; decoder.state_length()],
            output: vec![0.0; padded(config.hidden)],
            logits: vec![0.0; padded(config.vocabulary)],
            logits_are_current: false,
            decoder,
        }
    }

    /// Back to the start of a text.
    pub fn reset(&mut self) {
        self.state.fill(0.0);
        self.output.fill(0.0);
        self.logits_are_current = false;
    }

    /// Begins a text with `prompt`, in which special tokens are matched as in a training text. Returns how many tokens it
    /// has, without the [`EOS`] that stands before every text.
    pub fn begin(&mut self, prompt: &str) -> usize {
        let mut tokens = vec![EOS];
        self.tokenizer.encode(prompt.as_bytes(), Special::Match, &mut tokens);
        self.reset();
        self.feed_tokens(&tokens);
        tokens.len() - 1
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
        let Session { decoder, state, output, .. } = self;
        decoder.read(tokens, state, |decoder, _| {
            let last = decoder.outputs().len() - output.len();
            output.copy_from_slice(&decoder.outputs()[last..]);
        });
        self.logits_are_current = false;
    }

    /// Samples the next token and reads it. Before that a text must have [begun](Self::begin).
    pub fn next_token(&mut self, sampler: &mut Sampler) -> u32 {
        let token = self.sample(sampler);
        self.feed_tokens(&[token]);
        token
    }

    /// Samples the next token without reading it.
    pub fn sample(&mut self, sampler: &mut Sampler) -> u32 {
        let kernels = self.decoder.kernels();
        sampler.sample(kernels, self.logits())
    }

    /// The tokenizer of the model.
    pub fn tokenizer(&self) -> TokenizerView<'m> {
        self.tokenizer
    }

    /// The next token's logits, `[V]`.
    pub fn logits(&mut self) -> &[f32] {
        if !self.logits_are_current {
            self.decoder.logits(&self.output, &mut self.logits);
            self.logits_are_current = true;
        }
        &self.logits[..self.decoder.weights().config.vocabulary]
    }

    /// A copy of the state.
    pub fn snapshot(&self) -> Snapshot {
        Snapshot { state: self.state.clone(), output: self.output.clone() }
    }

    /// Back to where the session was when it made `snapshot`.
    ///
    /// # Panics
    /// If the snapshot is one of a model of other sizes.
    pub fn return_to(&mut self, snapshot: &Snapshot) {
        self.state.copy_from_slice(&snapshot.state);
        self.output.copy_from_slice(&snapshot.output);
        self.logits_are_current = false;
    }

    /// The session as a few kilobytes, from which [`restore`](Self::restore) goes on.
    pub fn save(&self) -> Vec<u8> {
        saved_session::encode(self.model, &self.state, &self.output)
    }

    /// Goes on from where a session of the same model was [saved](Self::save).
    ///
    /// # Errors
    /// As [`accepts`](Self::accepts); the session then stays as it is.
    pub fn restore(&mut self, bytes: &[u8]) -> Result<(), SessionError> {
        saved_session::decode(bytes, self.model, &mut self.state, &mut self.output)?;
        self.logits_are_current = false;
        Ok(())
    }

    /// Whether bytes can be [restored](Self::restore).
    ///
    /// # Errors
    /// If they are not a sound session, or one of another model: of another file, where the model is of a file, or else
    /// of other sizes.
    pub fn accepts(&self, bytes: &[u8]) -> Result<(), SessionError> {
        saved_session::floats(bytes, self.model, self.state.len() + self.output.len()).map(drop)
    }

    /// Whether the state is finite. Where weights have let it run away, what is sampled means nothing.
    pub fn is_finite(&self) -> bool {
        self.state.iter().chain(&self.output).all(|element| element.is_finite())
    }

    /// The state of every layer and expert, `[L, E, padded(H)]`.
    pub fn state(&self) -> &[f32] {
        &self.state
    }
}
