//! Conversations: the turns a dialogue model was trained on, built around what a user types.

use crate::generate::{Completion, Limits, generate};
use crate::model::{Session, Weights};
use crate::sample::{Sampler, Sampling};
use crate::tokenizer::{BOT, EOS, Special, TokenizerView, USER};
use shoestring_kernels::Kernels;
use std::io;

/// A conversation with a model, its state carried from turn to turn.
#[derive(Clone)]
pub struct Conversation<'m> {
    session: Session<'m>,
    sampler: Sampler,
    limits: Limits,
    dialogue: bool,
}

impl<'m> Conversation<'m> {
    /// A conversation that has not begun. `dialogue` says whether the model was trained on
    /// `[USER]/[BOT]` turns; if not, it continues what the user writes. `limits` bound a reply.
    pub fn new(session: Session<'m>, sampler: Sampler, dialogue: bool, limits: Limits) -> Self {
        let mut limits = limits;
        if dialogue {
            limits.stop_tokens.extend([EOS, USER, BOT]);
        } else {
            limits.stop_tokens.push(EOS);
            limits.stop.push("\n\n".to_owned());
        }
        let mut conversation = Conversation { session, sampler, limits, dialogue };
        conversation.session.feed_tokens(&[EOS]);
        conversation.session.feed("\n\n");
        conversation
    }

    /// Reads what the user wrote and writes the reply, without white space around it.
    ///
    /// # Errors
    /// Whatever `write` returns.
    pub fn reply(
        &mut self,
        text: &str,
        write: &mut dyn FnMut(&str) -> io::Result<()>,
    ) -> io::Result<Completion> {
        self.open_turn(text);
        let mut trimmed = Trimmed { write, begun: false, held: String::new() };
        let completion =
            generate(&mut self.session, &mut self.sampler, &self.limits, &mut |text| trimmed.push(text));
        self.close_turn();
        completion
    }

    /// Feeds the user's turn up to where the reply begins, in the tokens the training text has there.
    fn open_turn(&mut self, text: &str) {
        if self.dialogue {
            self.session.feed_tokens(&[USER]);
            self.session.feed(&format!(" {} ", text.trim()));
            self.session.feed_tokens(&[EOS]);
            self.session.feed("\n");
            self.session.feed_tokens(&[BOT]);
        } else {
            self.session.feed(&format!("{text}\n"));
        }
    }

    /// Ends the reply the way the training text does, however it ended.
    fn close_turn(&mut self) {
        if self.dialogue {
            self.session.feed_tokens(&[EOS]);
            self.session.feed("\n");
        } else {
            self.session.feed("\n\n");
        }
    }
}

/// Passes text on without white space at its beginning and end.
struct Trimmed<'a> {
    write: &'a mut dyn FnMut(&str) -> io::Result<()>,
    begun: bool,
    held: String,
}

impl Trimmed<'_> {
    fn push(&mut self, text: &str) -> io::Result<()> {
        self.held.push_str(text);
        if !self.begun {
            let blank = self.held.len() - self.held.trim_start().len();
            self.held.drain(..blank);
        }
        let end = self.held.trim_end().len();
        if end > 0 {
            self.begun = true;
            (self.write)(&self.held[..end])?;
            self.held.drain(..end);
        }
        Ok(())
    }
}

/// A short text by a model in training: a reply to a greeting, or a passage.
pub fn sample_text(
    weights: Weights<'_>,
    tokenizer: TokenizerView<'_>,
    kernels: &'static Kernels,
    dialogue: bool,
) -> String {
    const GREETING: &str = "Hello! How are you?";
    let session = Session::new(weights, tokenizer, kernels);
    let sampler = Sampler::new(Sampling::default());
    let limits = Limits { max_tokens: 80, ..Limits::default() };
    let mut text = String::new();
    let mut push = |piece: &str| {
        text.push_str(piece);
        Ok(())
    };
    let written = if dialogue {
        Conversation::new(session, sampler, dialogue, limits).reply(GREETING, &mut push)
    } else {
        let (mut session, mut sampler) = (session, sampler);
        session.feed_tokens(&[EOS]);
        session.feed("\n\n");
        generate(&mut session, &mut sampler, &limits, &mut push)
    };
    debug_assert!(written.is_ok(), "appending to a string does not fail");
    if dialogue { format!("{GREETING} -> {text}") } else { text.trim().to_owned() }
}

/// Encodes `text` the way a prompt of `generate` is read: special tokens in it are matched.
pub fn encode_prompt(tokenizer: TokenizerView<'_>, text: &str) -> Vec<u32> {
    let mut tokens = Vec::new();
    tokenizer.encode(text.as_bytes(), Special::Match, &mut tokens);
    tokens
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn white_space_around_a_reply_is_dropped_and_inside_is_kept() {
        let mut out = String::new();
        let mut write = |text: &str| {
            out.push_str(text);
            Ok(())
        };
        let mut trimmed = Trimmed { write: &mut write, begun: false, held: String::new() };
        for piece in [" ", "\n Hi", " ", "there ", "\n", "you ", " "] {
            trimmed.push(piece).unwrap();
        }
        assert_eq!(out, "Hi there \nyou");
    }
}
