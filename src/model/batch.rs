//! Several texts through one model, each weight read once for all of them.

use super::{Decoder, Weights};
use shoestring_kernels::{Kernels, Team, padded};
use std::sync::Arc;

/// The states of several texts that are written or read in step.
///
/// Each becomes what it would in a [`Session`](super::Session) of its own, bit for bit.
#[derive(Clone)]
pub struct Batch<'m> {
    decoder: Decoder<'m>,
    state: Vec<f32>,  // [L, E, B, Hp]
    logits: Vec<f32>, // [B, Vp]
}

impl<'m> Batch<'m> {
    /// `texts` texts at their start: state zero.
    ///
    /// # Panics
    /// If there is none.
    pub fn new(weights: Weights<'m>, kernels: &'static Kernels, texts: usize) -> Self {
        let decoder = Decoder::new(weights, kernels, texts);
        Batch {
            state: vec![0.0; decoder.state_length()],
            logits: vec![0.0; texts * padded(weights.config.vocabulary)],
            decoder,
        }
    }

    /// The same texts, to be run on `team` where the model is large enough, or there are many.
    pub fn on_team(mut self, team: Arc<Team>) -> Self {
        self.decoder = self.decoder.on_team(team);
        self
    }

    /// Reads the next token of every text.
    ///
    /// # Panics
    /// If there is not one token a text, or one is not below the vocabulary's size.
    pub fn feed(&mut self, tokens: &[u32]) {
        assert_eq!(tokens.len(), self.decoder.batch(), "a batch takes one token of each text");
        let Batch { decoder, state, logits } = self;
        decoder.read(tokens, state, |decoder, _| decoder.all_logits(logits));
    }

    /// The next token's logits in text `text`, `[V]`; zero before the first token.
    ///
    /// # Panics
    /// If there is no such text.
    pub fn logits(&self, text: usize) -> &[f32] {
        let vocabulary = self.decoder.weights().config.vocabulary;
        &self.logits[text * padded(vocabulary)..][..vocabulary]
    }

    /// Puts text `text` back to its start, for another to take its place.
    ///
    /// # Panics
    /// If there is no such text.
    pub fn reset(&mut self, text: usize) {
        let config = self.decoder.weights().config;
        let (width, vocabulary) = (padded(config.hidden), padded(config.vocabulary));
        self.logits[text * vocabulary..][..vocabulary].fill(0.0);
        for state in self.state.chunks_exact_mut(self.decoder.batch() * width) {
            state[text * width..][..width].fill(0.0);
        }
    }
}
