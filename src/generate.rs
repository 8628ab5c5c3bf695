//! Writing text token by token, as a stream.

use crate::model::Session;
use crate::sample::Sampler;
use crate::tokenizer::{EOS, StreamingDecoder};
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Tokens of a text at most, where nothing else is said.
pub const MAX_TOKENS: usize = 260;

/// When a text ends: by default at [`EOS`], or after [`MAX_TOKENS`].
#[derive(Clone, Debug)]
pub struct Limits {
    /// Tokens to write at most.
    pub max_tokens: usize,
    /// Tokens that end the text; they are neither written nor read by the model.
    pub stop_tokens: Vec<u32>,
    /// Strings that end the text; they are not written. Empty ones are ignored.
    pub stop: Vec<String>,
    /// Ends the text once it is true. It stays so, for the next text too, until whoever set it resets it.
    pub interrupt: Arc<AtomicBool>,
}

impl Default for Limits {
    fn default() -> Self {
        Limits { max_tokens: MAX_TOKENS, stop_tokens: vec![EOS], stop: Vec::new(), interrupt: Arc::default() }
    }
}

/// Why a text ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FinishReason {
    /// A stop token or a stop string came up.
    Stop,
    /// It reached its greatest length.
    Length,
    /// [`Limits::interrupt`] became true.
    Interrupted,
}

/// What was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Completion {
    /// Tokens written, or hidden by a stop string.
    pub tokens: usize,
    /// Why it ended.
    pub finish_reason: FinishReason,
}

/// Writes text as the model samples it, never splitting a character, until `limits` end it.
///
/// # Errors
/// Whatever `write` returns; the text ends there.
pub fn generate(
    session: &mut Session<'_>,
    sampler: &mut Sampler,
    limits: &Limits,
    write: &mut dyn FnMut(&str) -> io::Result<()>,
) -> io::Result<Completion> {
    let mut decoder = StreamingDecoder::new();
    let mut filter = StopFilter::new(&limits.stop);
    let mut text = String::new();
    let mut tokens = 0;
    let finish_reason = loop {
        if tokens == limits.max_tokens {
            break FinishReason::Length;
        }
        if limits.interrupt.load(Ordering::Relaxed) {
            break FinishReason::Interrupted;
        }
        let token = session.sample(sampler);
        if limits.stop_tokens.contains(&token) {
            break FinishReason::Stop;
        }
        session.feed_tokens(&[token]);
        tokens += 1;
        decoder.push(session.tokenizer().token(token), &mut text);
        let stopped = filter.push(&text, write)?;
        text.clear();
        if stopped {
            return Ok(Completion { tokens, finish_reason: FinishReason::Stop });
        }
    };
    decoder.finish(&mut text);
    if filter.push(&text, write)? {
        return Ok(Completion { tokens, finish_reason: FinishReason::Stop });
    }
    filter.finish(write)?;
    Ok(Completion { tokens, finish_reason })
}

/// Passes text on, holding back what could be the beginning of a stop string.
struct StopFilter<'a> {
    stop: &'a [String],
    held: String,
}

impl<'a> StopFilter<'a> {
    fn new(stop: &'a [String]) -> Self {
        StopFilter { stop, held: String::new() }
    }

    /// Takes more text. Returns whether a stop string was found; the text before it has been written.
    fn push(&mut self, text: &str, write: &mut dyn FnMut(&str) -> io::Result<()>) -> io::Result<bool> {
        self.held.push_str(text);
        let stops = || self.stop.iter().filter(|stop| !stop.is_empty());
        if let Some(end) = stops().filter_map(|stop| self.held.find(stop.as_str())).min() {
            write_some(&self.held[..end], write)?;
            self.held.clear();
            return Ok(true);
        }
        let keep = stops().map(|stop| overlap(&self.held, stop)).max().unwrap_or(0);
        let pass = self.held.len() - keep;
        write_some(&self.held[..pass], write)?;
        self.held.drain(..pass);
        Ok(false)
    }

    fn finish(self, write: &mut dyn FnMut(&str) -> io::Result<()>) -> io::Result<()> {
        write_some(&self.held, write)
    }
}

fn write_some(text: &str, write: &mut dyn FnMut(&str) -> io::Result<()>) -> io::Result<()> {
    if text.is_empty() { Ok(()) } else { write(text) }
}

/// Length of the longest end of `text` that is a beginning of `stop`.
fn overlap(text: &str, stop: &str) -> usize {
    let lengths = stop.char_indices().map(|(at, _)| at).rev();
    lengths.into_iter().find(|&length| text.ends_with(&stop[..length])).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn filtered(pieces: &[&str], stop: &[&str]) -> (String, bool) {
        let stop: Vec<String> = stop.iter().map(|&s| s.to_owned()).collect();
        let mut filter = StopFilter::new(&stop);
        let mut out = String::new();
        let mut write = |text: &str| {
            out.push_str(text);
            Ok(())
        };
        for piece in pieces {
            if filter.push(piece, &mut write).unwrap() {
                return (out, true);
            }
        }
        filter.finish(&mut write).unwrap();
        (out, false)
    }

    #[test]
    fn a_stop_string_ends_the_text_wherever_it_is_cut() {
        assert_eq!(filtered(&["one E", "N", "D two"], &["END"]), ("one ".to_owned(), true));
        assert_eq!(filtered(&["one E", "N", "d two"], &["END"]), ("one ENd two".to_owned(), false));
        assert_eq!(filtered(&["aab"], &["ab", ""]), ("a".to_owned(), true));
        assert_eq!(filtered(&["x\u{e9}", "\u{e9}y"], &["\u{e9}\u{e9}"]), ("x".to_owned(), true));
    }

    proptest! {
        #[test]
        fn filtering_pieces_equals_cutting_the_whole(
            pieces in prop::collection::vec("[ab\u{e9}]{0,3}", 0..12), stop in "[ab\u{e9}]{1,4}",
        ) {
            let whole = pieces.concat();
            let expected = match whole.find(&stop) {
                Some(at) => (whole[..at].to_owned(), true),
                None => (whole.clone(), false),
            };
            let pieces: Vec<&str> = pieces.iter().map(String::as_str).collect();
            prop_assert_eq!(filtered(&pieces, &[&stop]), expected);
        }
    }
}
