//! The loss of a model on a text.

use crate::checkpoint::Validation;
use crate::model::{CHUNK, Decoder, Kind, Weights};
use crate::text::{Text, TextError, TextReader};
use crate::tokenizer::{EOS, Encoder, Pieces, Special, TokenizerView};
use crate::train::Network;
use shoestring_kernels::{Kernels, Team, padded};
use std::f64::consts::LN_2;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

/// Tokens of one chunk; the state is carried from chunk to chunk, so the length only sets how much is
/// multiplied at once.
pub(crate) const STEPS: usize = 128;
/// Tokens that a decoder reads at once: enough for it to use all threads, whole blocks of its own.
const READ: usize = 256 * CHUNK;

/// A text as tokens, read from its start to its end.
pub trait TokenStream {
    /// Why it may break off.
    type Error;

    /// Appends the next tokens to `out`; none at the end.
    ///
    /// # Errors
    /// If there is more that can't be had.
    fn read(&mut self, out: &mut Vec<u32>) -> Result<(), Self::Error>;

    /// The size of the text, once it has been read to its end.
    fn size(&self) -> TextSize;
}

/// What the loss on a text is divided by.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct TextSize {
    /// Bytes of the text.
    pub bytes: u64,
    /// Unicode characters of the text; a byte sequence that is not UTF-8 counts as one.
    pub chars: u64,
}

/// A text that is encoded as it is read, special tokens in it matched.
pub struct EncodedText<'a> {
    pieces: Pieces<TextReader<'a>>,
    encoder: Encoder<'a>,
    size: TextSize,
}

/// The loss of a model over a whole text.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Evaluation {
    /// Total loss.
    pub nats: f64,
    /// Tokens of the text, each predicted once.
    pub tokens: u64,
    /// Unicode characters of the text; a byte sequence that is not UTF-8 counts as one.
    pub chars: u64,
    /// Bytes of the text.
    pub bytes: u64,
    /// Wall-clock time.
    pub seconds: f64,
}

impl<'a> EncodedText<'a> {
    /// `text` in the tokens of `tokenizer`.
    pub fn new(tokenizer: TokenizerView<'a>, text: &'a Text) -> Self {
        let (pieces, encoder) = (Pieces::new(text.reader()), Encoder::new(tokenizer));
        EncodedText { pieces, encoder, size: TextSize::default() }
    }
}

impl TokenStream for EncodedText<'_> {
    type Error = TextError;

    fn read(&mut self, out: &mut Vec<u32>) -> Result<(), TextError> {
        if let Some(piece) = self.pieces.next_piece().map_err(TextError::from_read)? {
            self.encoder.encode(piece, Special::Match, out);
            self.size.bytes += piece.len() as u64;
            self.size.chars += characters(piece);
        }
        Ok(())
    }

    fn size(&self) -> TextSize {
        self.size
    }
}

/// Characters of `text`; a byte sequence that is not UTF-8 counts as one.
pub(crate) fn characters(text: &[u8]) -> u64 {
    let count = |text: &str| text.chars().count() as u64;
    match std::str::from_utf8(text) {
        Ok(text) => count(text),
        Err(_) => text.utf8_chunks().map(|it| count(it.valid()) + u64::from(!it.invalid().is_empty())).sum(),
    }
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
/// The model first reads `[EOS]`, so that the text's first token is predicted too. It runs on as
/// many threads as the rayon pool has that it is called on, and their number does not change the result; a model of other
/// than f32 weights is run as when it generates text. However long the text, only a window of it is in memory.
///
/// # Errors
/// If the text can't be read to its end.
pub fn evaluate<S: TokenStream>(
    weights: Weights<'_>,
    kernels: &'static Kernels,
    text: S,
) -> Result<Evaluation, S::Error> {
    match evaluate_unless(&AtomicBool::new(false), weights, kernels, text)? {
        Some(evaluation) => Ok(evaluation),
        None => unreachable!("nothing stops it"),
    }
}

/// The same, unless `stop` becomes true before it is through.
///
/// # Errors
/// As [`evaluate`].
pub fn evaluate_unless<S: TokenStream>(
    stop: &AtomicBool,
    weights: Weights<'_>,
    kernels: &'static Kernels,
    mut text: S,
) -> Result<Option<Evaluation>, S::Error> {
    let start = Instant::now();
    let (chunk, mut loss_of): (usize, ChunkLoss<'_>) = match weights.layout.kind {
        Kind::F32 => (STEPS, Box::new(loss_of_network(weights, kernels))),
        Kind::F16 | Kind::Q8 | Kind::Q4 => (READ, Box::new(loss_of_decoder(weights, kernels))),
    };
    // The last token that was a target, then those that are to be: never less than a chunk, but at the end.
    let mut tokens = vec![EOS];
    let (mut nats, mut count) = (0.0, 0);
    loop {
        let waiting = tokens.len();
        text.read(&mut tokens)?;
        let ended = tokens.len() == waiting;
        let targets = tokens.len() - 1;
        let ready = if ended { targets } else { targets / chunk * chunk };
        for first in (0..ready).step_by(chunk) {
            if stop.load(Ordering::Relaxed) {
                return Ok(None);
            }
            let end = ready.min(first + chunk);
            nats += loss_of(&tokens[first..end], &tokens[first + 1..=end]);
        }
        tokens.drain(..ready);
        count += ready as u64;
        if ended {
            break;
        }
    }
    let TextSize { bytes, chars } = text.size();
    Ok(Some(Evaluation { nats, tokens: count, chars, bytes, seconds: start.elapsed().as_secs_f64() }))
}

/// The loss of one chunk after the other, of `[T]` tokens and targets.
type ChunkLoss<'a> = Box<dyn FnMut(&[u32], &[u32]) -> f64 + 'a>;

/// The loss of each chunk, by the network that trains.
fn loss_of_network(weights: Weights<'_>, kernels: &'static Kernels) -> impl FnMut(&[u32], &[u32]) -> f64 {
    let mut network = Network::new(weights.config, kernels, 1, STEPS);
    move |tokens, targets| {
        network.forward(weights, tokens, None);
        network.loss(weights, targets)
    }
}

/// The same, in the way text is generated.
fn loss_of_decoder(weights: Weights<'_>, kernels: &'static Kernels) -> impl FnMut(&[u32], &[u32]) -> f64 {
    let threads = rayon::current_num_threads();
    let mut decoder = Decoder::new(weights, kernels, 1).on_team(Arc::new(Team::new(move || threads)));
    let vocabulary = weights.config.vocabulary;
    let mut state = vec![0.0; decoder.state_length()]; // [L, E, Hp]
    let mut logits = vec![0.0; CHUNK * padded(vocabulary)]; // [T, Vp]
    move |tokens, targets| {
        let mut nats = 0.0;
        decoder.read(tokens, &mut state, |decoder, range| {
            let logits = &mut logits[..range.len() * padded(vocabulary)];
            decoder.all_logits(logits);
            nats += kernels.cross_entropy(logits, &targets[range], vocabulary, 0.0);
        });
        nats
    }
}
