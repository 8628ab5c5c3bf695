//! The loss of a model on a text.

use crate::checkpoint::Validation;
use crate::model::{CHUNK, Decoder, Kind, Weights};
use crate::tokenizer::{EOS, Special, TokenizerView};
use crate::train::Network;
use shoestring_kernels::{Kernels, padded};
use std::f64::consts::LN_2;
use std::time::Instant;

/// Tokens of one chunk; the state is carried from chunk to chunk, so the length only sets how much is
/// multiplied at once.
const STEPS: usize = 128;

/// A text as tokens, with what its losses are divided by.
pub struct EvaluationText {
    tokens: Vec<u32>, // [N]
    bytes: usize,
    chars: usize,
}

/// The loss of a model over a whole text.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Evaluation {
    /// Total loss.
    pub nats: f64,
    /// Tokens of the text, each predicted once.
    pub tokens: usize,
    /// Unicode characters of the text; a byte sequence that is not UTF-8 counts as one.
    pub chars: usize,
    /// Bytes of the text.
    pub bytes: usize,
    /// Wall-clock time.
    pub seconds: f64,
}

impl EvaluationText {
    /// Encodes `text`; special tokens in it are matched.
    pub fn new(tokenizer: TokenizerView<'_>, text: &[u8]) -> Self {
        let mut tokens = Vec::new();
        tokenizer.encode(text, Special::Match, &mut tokens);
        EvaluationText { tokens, bytes: text.len(), chars: characters(text) }
    }

    /// Tokens of the text.
    pub fn tokens(&self) -> usize {
        self.tokens.len()
    }
}

/// Unicode characters of a text; a byte sequence that is not UTF-8 counts as one.
pub(crate) fn characters(text: &[u8]) -> usize {
    text.utf8_chunks()
        .map(|chunk| chunk.valid().chars().count() + usize::from(!chunk.invalid().is_empty()))
        .sum()
}

impl Evaluation {
    /// Mean loss a token, in nats.
    pub fn nats_per_token(&self) -> f64 {
        self.nats / self.tokens as f64
    }

    /// Total nats by characters.
    pub fn nats_per_char(&self) -> f64 {
        self.nats / self.chars as f64
    }

    /// Total bits by bytes.
    pub fn bits_per_byte(&self) -> f64 {
        self.nats / LN_2 / self.bytes as f64
    }

    /// Tokens evaluated a second.
    pub fn tokens_per_second(&self) -> f64 {
        self.tokens as f64 / self.seconds
    }

    /// The same as a record of a validation at step `step`.
    pub fn at_step(&self, step: u64) -> Validation {
        Validation {
            step,
            nats_per_token: self.nats_per_token(),
            nats_per_char: self.nats_per_char(),
            bits_per_byte: self.bits_per_byte(),
        }
    }
}

/// The loss of the model over the whole text, its state carried from the start to the end.
///
/// The model first reads `[EOS]`, so that the text's first token is predicted too. A model of f32 weights runs on
/// the rayon threads it is called on, whose number does not change the result; others are run as they are when
/// they generate text.
pub fn evaluate(weights: Weights<'_>, kernels: &'static Kernels, text: &EvaluationText) -> Evaluation {
    let start = Instant::now();
    let mut tokens = Vec::with_capacity(text.tokens.len()); // [N]
    tokens.push(EOS);
    tokens.extend_from_slice(&text.tokens[..text.tokens.len().saturating_sub(1)]);
    let nats = match weights.layout.kind {
        Kind::F32 => loss_of_network(weights, kernels, &tokens, &text.tokens),
        Kind::F16 | Kind::Q8 | Kind::Q4 => loss_of_decoder(weights, kernels, &tokens, &text.tokens),
    };
    let seconds = start.elapsed().as_secs_f64();
    Evaluation { nats, tokens: text.tokens.len(), chars: text.chars, bytes: text.bytes, seconds }
}

fn loss_of_network(weights: Weights<'_>, kernels: &'static Kernels, tokens: &[u32], targets: &[u32]) -> f64 {
    let mut network = Network::new(weights.config, kernels, 1, STEPS);
    let mut nats = 0.0;
    for (tokens, targets) in tokens.chunks(STEPS).zip(targets.chunks(STEPS)) {
        network.forward(weights, tokens, None);
        nats += network.loss(weights, targets);
    }
    nats
}

fn loss_of_decoder(weights: Weights<'_>, kernels: &'static Kernels, tokens: &[u32], targets: &[u32]) -> f64 {
    let mut decoder = Decoder::new(weights, kernels, 1);
    let vocabulary = weights.config.vocabulary;
    let mut state = vec![0.0; decoder.state_length()]; // [L, E, Hp]
    let mut logits = vec![0.0; CHUNK * padded(vocabulary)]; // [T, Vp]
    let mut nats = 0.0;
    decoder.read(tokens, &mut state, |decoder, range| {
        let logits = &mut logits[..range.len() * padded(vocabulary)];
        decoder.all_logits(logits);
        nats += kernels.cross_entropy(logits, &targets[range], vocabulary, 0.0);
    });
    nats
}
