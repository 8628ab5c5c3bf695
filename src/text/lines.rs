//! One form of line ends.

use super::BLOCK;
use std::io::{self, Read};

/// What some programs put before UTF-8 text.
const BYTE_ORDER_MARK: &[u8] = "\u{feff}".as_bytes();

/// What a reader yields, without a byte-order mark at its start, and with CR LF as LF.
pub struct UnixLines<R> {
    reader: R,
    block: Vec<u8>,
    /// How much of `block` has been given out.
    given: usize,
    /// The last block ended in a CR, which may be half a line end.
    held_return: bool,
    at_start: bool,
    converted: bool,
}

impl<R: Read> UnixLines<R> {
    /// What `reader` yields, from its start.
    pub fn new(reader: R) -> Self {
        let block = Vec::with_capacity(BLOCK);
        UnixLines { reader, block, given: 0, held_return: false, at_start: true, converted: false }
    }

    /// Whether there has been a CR LF.
    pub fn converted(&self) -> bool {
        self.converted
    }

    /// Reads the next block, which is empty only at the end.
    fn fill(&mut self) -> io::Result<()> {
        self.given = 0;
        self.block.clear();
        while self.block.is_empty() {
            if std::mem::take(&mut self.held_return) {
                self.block.push(b'\r');
            }
            let room = BLOCK - self.block.len();
            if self.reader.by_ref().take(room as u64).read_to_end(&mut self.block)? == 0 {
                return Ok(());
            }
            if std::mem::take(&mut self.at_start) && self.block.starts_with(BYTE_ORDER_MARK) {
                self.block.drain(..BYTE_ORDER_MARK.len());
            }
            if self.block.contains(&b'\r') {
                self.convert();
            }
        }
        Ok(())
    }

    fn convert(&mut self) {
        self.held_return = self.block.pop_if(|last| *last == b'\r').is_some();
        let length = self.block.len();
        let mut written = 0;
        for at in 0..length {
            if self.block[at] != b'\r' || self.block.get(at + 1) != Some(&b'\n') {
                self.block[written] = self.block[at];
                written += 1;
            }
        }
        self.converted |= written < length;
        self.block.truncate(written);
    }
}

impl<R: Read> Read for UnixLines<R> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        if self.given == self.block.len() {
            self.fill()?;
        }
        let rest = &self.block[self.given..];
        let count = rest.len().min(out.len());
        out[..count].copy_from_slice(&rest[..count]);
        self.given += count;
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn blocks_do_not_change_the_text(
            before in BLOCK - 4..BLOCK + 4, text in "(\\r|\\n|\\r\\n|a|\u{feff}){0,12}",
        ) {
            // Line ends on both sides of a block's end.
            let text = "x".repeat(before) + &text;
            let mut lines = UnixLines::new(text.as_bytes());
            let mut read = String::new();
            lines.read_to_string(&mut read)?;
            prop_assert_eq!(read, text.replace("\r\n", "\n"));
            prop_assert_eq!(lines.converted(), text.contains("\r\n"));
        }
    }
}
