//! Reading a text of any length in pieces.

use std::io::{self, ErrorKind, Read};

use super::pretokenizer::split_point;

/// Room for a piece at first; a text without a place to cut it needs more.
const ROOM: usize = 1 << 20;

/// Bytes without a place to cut at most: encoding them takes some twenty times their memory.
const LONGEST_RUN: usize = 32 << 20;

/// Bytes of the longest two characters: a place to cut at is known by the one on either side.
const TWO_CHARACTERS: usize = 8;

const RUN_TOO_LONG: &str = "it goes on for more than 32 MB without a space, line end or change between letters, digits and \
    other characters; put spaces or line ends into it";

/// A text read in pieces that are cut at [`split_point`]s, so that they can be counted or encoded one by one
/// with the result of the whole.
#[derive(Debug)]
pub struct Pieces<R> {
    reader: R,
    buffer: Vec<u8>,
    /// How much of `buffer` has been read into.
    filled: usize,
    /// How much of that was the last piece.
    given: usize,
}

impl<R: Read> Pieces<R> {
    /// The pieces of what `reader` yields.
    pub fn new(reader: R) -> Self {
        Self { reader, buffer: vec![0; ROOM], filled: 0, given: 0 }
    }

    /// The next piece, which is not empty; `None` at the end.
    ///
    /// # Errors
    /// What the reader's `read` gives, but for interruptions; and [`ErrorKind::InvalidData`] if there is no place to cut within
    /// 32 MiB.
    pub fn next_piece(&mut self) -> io::Result<Option<&[u8]>> {
        self.buffer.copy_within(self.given..self.filled, 0);
        self.filled -= self.given;
        self.given = 0;
        // What is left of the last piece has no place to cut it, so only what is new is searched.
        while self.given == 0 {
            let known = self.filled.saturating_sub(TWO_CHARACTERS);
            if self.read_more()? == 0 {
                self.given = self.filled;
                break;
            }
            self.given = split_point(&self.buffer[known..self.filled]).map_or(0, |at| known + at);
            if self.given == 0 && self.filled > LONGEST_RUN {
                return Err(io::Error::new(ErrorKind::InvalidData, RUN_TOO_LONG));
            }
        }
        Ok((self.given > 0).then(|| &self.buffer[..self.given]))
    }

    fn read_more(&mut self) -> io::Result<usize> {
        if self.filled == self.buffer.len() {
            self.buffer.resize(2 * self.filled, 0);
        }
        loop {
            match self.reader.read(&mut self.buffer[self.filled..]) {
                Ok(count) => {
                    self.filled += count;
                    return Ok(count);
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => (),
                Err(error) => return Err(error),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_of_any_length_is_one_piece_up_to_a_bound() {
        let long = LONGEST_RUN as u64 / 2;
        let mut pieces = Pieces::new(io::repeat(b'a').take(long).chain(&b" b"[..]));
        assert_eq!(pieces.next_piece().unwrap().unwrap().len() as u64, long);
        assert_eq!(pieces.next_piece().unwrap(), Some(&b" b"[..]));
        for byte in [b'a', b' ', 0] {
            let error = Pieces::new(io::repeat(byte)).next_piece().unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidData);
        }
    }
}
