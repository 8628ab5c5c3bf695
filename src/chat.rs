//! Conversations: the turns a dialogue model was trained on, built around what a user types.

use crate::checkpoint::atomic_write;
use crate::files;
use crate::generate::{Completion, Limits, generate};
use crate::model::{Session, SessionError, Snapshot};
use crate::sample::{Sampler, Sampling, Stream};
use crate::tokenizer::{BOT, EOS, USER};
use std::collections::VecDeque;
use std::io;
use std::path::{Path, PathBuf};
use thiserror::Error;

/// How many turns back [`Conversation::undo`] goes; each is a copy of the state, a few kilobytes.
pub const UNDO_LIMIT: usize = 100;
/// What ends a reply in plain text.
const PARAGRAPH: &str = "\n\n";
/// Bytes of a file that may hold a saved conversation: more than any has.
const LONGEST_FILE: u64 = 1 << 28;

/// A conversation with a model, its state carried from turn to turn. A clone shares nothing with it but the weights and
/// [`Limits::interrupt`].
#[derive(Clone)]
pub struct Conversation<'m> {
    session: Session<'m>,
    sampler: Sampler,
    limits: Limits,
    dialogue: bool,
    turns: VecDeque<Turn>, // the latest, at most UNDO_LIMIT
}

/// What the user wrote, and what the conversation was before that.
#[derive(Clone)]
struct Turn {
    text: String,
    session: Snapshot,
    stream: Stream,
}

/// Why a conversation can't be saved, or a saved one not be gone on with.
#[derive(Debug, Error)]
#[expect(missing_docs, reason = "the fields are what the messages name")]
pub enum ConversationError {
    /// The file can't be read.
    #[error("cannot read {path}: {source}", path = path.display())]
    Read { path: PathBuf, source: io::Error },
    /// The file does not hold a sound conversation with this model.
    #[error("cannot go on with {path}: {source}", path = path.display())]
    Session { path: PathBuf, source: SessionError },
    /// The file can't be written.
    #[error("cannot save {path}: {source}", path = path.display())]
    Save { path: PathBuf, source: io::Error },
    /// Another file would be lost.
    #[error("cannot save {path}: {what}; name another file", path = path.display(), what = occupied_by(found))]
    Occupied { path: PathBuf, found: SessionError },
}

impl<'m> Conversation<'m> {
    /// A conversation that has not begun. `dialogue` says whether the model was trained on
    /// `[USER]/[BOT]` turns; if not, it goes on after the lines the user writes. `limits` bound a reply.
    pub fn new(session: Session<'m>, sampler: Sampler, dialogue: bool, limits: Limits) -> Self {
        let mut limits = limits;
        if dialogue {
            limits.stop_tokens.extend([EOS, USER, BOT]);
        } else {
            limits.stop_tokens.push(EOS);
            limits.stop.push(PARAGRAPH.to_owned());
        }
        let mut conversation = Conversation { session, sampler, limits, dialogue, turns: VecDeque::new() };
        conversation.reset();
        conversation
    }

    /// Reads what the user wrote and writes the reply, without white space around it. While [`Limits::interrupt`] is true
    /// replies are empty.
    ///
    /// # Errors
    /// Whatever `write` returns.
    pub fn reply(
        &mut self,
        text: &str,
        write: &mut dyn FnMut(&str) -> io::Result<()>,
    ) -> io::Result<Completion> {
        if self.turns.len() == UNDO_LIMIT {
            self.turns.pop_front();
        }
        let (session, stream) = (self.session.snapshot(), self.sampler.stream());
        self.turns.push_back(Turn { text: text.to_owned(), session, stream });
        self.answer(text, write)
    }

    /// Replaces the last reply by another one; none if there is no turn to retry. The random numbers go on, so the
    /// reply differs unless they are [begun anew](Self::reseed) or the temperature is 0.
    ///
    /// # Errors
    /// Whatever `write` returns.
    pub fn retry(&mut self, write: &mut dyn FnMut(&str) -> io::Result<()>) -> io::Result<Option<Completion>> {
        let Some(Turn { text, session, stream }) = self.turns.back() else { return Ok(None) };
        self.session.return_to(session);
        self.sampler.rewind_to_redraw(stream);
        let text = text.clone();
        self.answer(&text, write).map(Some)
    }

    /// Takes back the last turn, as if it had never been, and returns what the user had written; none if there is no
    /// turn left to undo.
    pub fn undo(&mut self) -> Option<String> {
        let Turn { text, session, stream } = self.turns.pop_back()?;
        self.session.return_to(&session);
        self.sampler.rewind(&stream);
        Some(text)
    }

    /// Begins a new conversation. The settings stay, and the random numbers go on.
    pub fn reset(&mut self) {
        self.turns.clear();
        self.sampler.forget();
        self.session.begin("\n\n");
    }

    /// Saves what the model remembers of the conversation at `path`, atomically.
    ///
    /// # Errors
    /// If it can't be written, or the file there is neither empty nor a sound conversation with this model; it is then
    /// untouched.
    pub fn save(&self, path: &Path) -> Result<(), ConversationError> {
        let error = |source| ConversationError::Save { path: path.to_owned(), source };
        match read_file(path) {
            Ok(there) if there.is_empty() => {}
            Ok(there) => self
                .session
                .accepts(&there)
                .map_err(|found| ConversationError::Occupied { path: path.to_owned(), found })?,
            Err(absent) if absent.kind() == io::ErrorKind::NotFound => {}
            Err(source) => return Err(error(source)),
        }
        atomic_write(path, &[&self.session.save()]).map_err(error)
    }

    /// Goes on with the conversation [saved](Self::save) at `path`. What was said here before can't be undone any more.
    ///
    /// # Errors
    /// If it can't be read, or is not a sound conversation with this model; this one then stays as it is.
    pub fn load(&mut self, path: &Path) -> Result<(), ConversationError> {
        let bytes =
            read_file(path).map_err(|source| ConversationError::Read { path: path.to_owned(), source })?;
        self.restore(&bytes).map_err(|source| ConversationError::Session { path: path.to_owned(), source })
    }

    /// Goes on with the conversation whose [session](Self::session) was [saved](Session::save) in `bytes`. What was said here
    /// before can't be undone any more.
    ///
    /// # Errors
    /// If that is not a sound conversation with this model; this one then stays as it is.
    pub fn restore(&mut self, bytes: &[u8]) -> Result<(), SessionError> {
        self.session.restore(bytes)?;
        self.turns.clear();
        self.sampler.forget();
        Ok(())
    }

    /// How the replies' tokens are drawn.
    pub fn sampling(&self) -> Sampling {
        self.sampler.sampling()
    }

    /// Draws tokens as `sampling` says from here on; the random numbers go on.
    pub fn set_sampling(&mut self, sampling: Sampling) {
        self.sampler.set_sampling(sampling);
    }

    /// Begins the random numbers of `seed`: now, and where turns are undone.
    pub fn reseed(&mut self, seed: u64) {
        self.sampler.reseed(seed);
        for turn in &mut self.turns {
            turn.stream.reseed(seed);
        }
    }

    /// Tokens of a reply at most.
    pub fn max_tokens(&self) -> usize {
        self.limits.max_tokens
    }

    /// Bounds the tokens of a reply.
    pub fn set_max_tokens(&mut self, max_tokens: usize) {
        self.limits.max_tokens = max_tokens;
    }

    /// Turns that can be [undone](Self::undo).
    pub fn turns(&self) -> usize {
        self.turns.len()
    }

    /// The session behind it.
    pub fn session(&self) -> &Session<'m> {
        &self.session
    }

    fn answer(
        &mut self,
        text: &str,
        write: &mut dyn FnMut(&str) -> io::Result<()>,
    ) -> io::Result<Completion> {
        self.open_turn(text);
        let mut trimmed = Trimmed { write, begun: false, held: String::new() };
        let completion =
            generate(&mut self.session, &mut self.sampler, &self.limits, &mut |text| trimmed.push(text));
        self.close_turn(completion.as_ref().map_or(0, |completion| completion.tokens));
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

    /// Ends the reply, of so many tokens, the way the training text does, however it ended.
    fn close_turn(&mut self, tokens: usize) {
        if self.dialogue {
            self.session.feed_tokens(&[EOS]);
            self.session.feed("\n");
        } else {
            let written = self.line_ends_written(tokens).min(PARAGRAPH.len());
            self.session.feed(&PARAGRAPH[written..]);
        }
    }

    /// Line ends that the reply ended with, of which the last `tokens` tokens drawn, but for a stop token, are the end.
    fn line_ends_written(&self, tokens: usize) -> usize {
        let drawn = self.sampler.recent().rev().skip_while(|token| self.limits.stop_tokens.contains(token));
        let mut count = 0;
        for token in drawn.take(tokens) {
            let text = self.session.tokenizer().token(token);
            let line_ends = text.iter().rev().take_while(|&&byte| byte == b'\n').count();
            count += line_ends;
            if line_ends < text.len() {
                break;
            }
        }
        count
    }
}

/// Reads a file that may hold a conversation; a folder, a device or a pipe does not.
fn read_file(path: &Path) -> io::Result<Vec<u8>> {
    files::require_file(path)?;
    files::read_at_most(path, LONGEST_FILE)
}

/// What a file is that is not written over, as it can't be gone on with.
fn occupied_by(error: &SessionError) -> &'static str {
    match error {
        SessionError::Foreign => "it exists and is not a saved session",
        SessionError::Newer(_) => "it is a session of a newer shoestring",
        SessionError::Damaged => "it is a damaged session",
        SessionError::OtherModel => "it is a session with another model",
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
