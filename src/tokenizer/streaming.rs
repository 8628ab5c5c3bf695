//! Text from a stream of token bytes.

/// Turns bytes that arrive in any pieces into text, yielding only whole characters.
///
/// The pieces' texts and the end's, put together, are `String::from_utf8_lossy` of all the bytes: what can
/// never become valid UTF-8 comes out as U+FFFD, what still can is held back (at most 3 bytes).
#[derive(Clone, Debug, Default)]
pub struct StreamingDecoder {
    /// The start of a character that is not complete.
    pending: Vec<u8>,
}

impl StreamingDecoder {
    /// A decoder with nothing pending.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes `bytes` and appends to `out` the text that is now complete.
    pub fn push(&mut self, bytes: &[u8], out: &mut String) {
        self.pending.extend_from_slice(bytes);
        let mut kept = 0;
        let mut chunks = self.pending.utf8_chunks().peekable();
        while let Some(chunk) = chunks.next() {
            out.push_str(chunk.valid());
            let invalid = chunk.invalid();
            if chunks.peek().is_none() && may_continue(invalid) {
                kept = invalid.len();
            } else if !invalid.is_empty() {
                out.push(char::REPLACEMENT_CHARACTER);
            }
        }
        self.pending.drain(..self.pending.len() - kept);
    }

    /// Ends the stream: appends a U+FFFD to `out` if a character was left incomplete.
    pub fn finish(&mut self, out: &mut String) {
        if !self.pending.is_empty() {
            out.push(char::REPLACEMENT_CHARACTER);
            self.pending.clear();
        }
    }
}

/// Whether more bytes could make `invalid`, which ends the input, a character.
fn may_continue(invalid: &[u8]) -> bool {
    std::str::from_utf8(invalid).is_err_and(|error| error.error_len().is_none())
}
