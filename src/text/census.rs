//! Whether bytes are text.

/// Above this part of bytes that are not UTF-8 text, a file is not text.
const MOST_INVALID: f64 = 0.1;
/// A file with more NUL bytes than one in so many is not text.
const BYTES_A_NUL: u64 = 1000;

/// Counts of a text that comes in blocks.
#[derive(Debug, Default)]
pub struct Census {
    bytes: u64,
    nul: u64,
    invalid: u64,
    visible: bool,
    /// The start of a character that the next block may complete.
    pending: Vec<u8>,
}

impl Census {
    /// Counts the next block.
    pub fn count(&mut self, block: &[u8]) {
        self.bytes += block.len() as u64;
        self.nul += block.iter().filter(|&&byte| byte == 0).count() as u64;
        self.visible = self.visible || !block.iter().all(u8::is_ascii_whitespace);
        let rest = self.complete_pending(block);
        // Far the quickest way through what is valid.
        match std::str::from_utf8(rest) {
            Ok(_) => (),
            Err(error) => self.count_invalid(&rest[error.valid_up_to()..]),
        }
    }

    /// Bytes so far.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Whether nothing but ASCII white space has come.
    pub fn is_blank(&self) -> bool {
        !self.visible
    }

    /// How many of them are not UTF-8, if nothing more comes.
    pub fn invalid_bytes(&self) -> u64 {
        self.invalid + self.pending.len() as u64
    }

    /// Whether what has come is text.
    pub fn is_text(&self) -> bool {
        let most_invalid = MOST_INVALID * self.bytes as f64;
        self.nul * BYTES_A_NUL <= self.bytes && self.invalid_bytes() as f64 <= most_invalid
    }

    /// Settles the pending bytes with the start of `block`; returns the rest of it.
    fn complete_pending<'a>(&mut self, mut block: &'a [u8]) -> &'a [u8] {
        while let [first, rest @ ..] = block
            && !self.pending.is_empty()
        {
            let before = self.pending.len();
            self.pending.push(*first);
            match std::str::from_utf8(&self.pending) {
                Ok(_) => self.pending.clear(),
                Err(error) if error.error_len().is_none() => (),
                // They were none, and the byte after them may start a character.
                Err(_) => {
                    self.invalid += before as u64;
                    self.pending.clear();
                    return block;
                }
            }
            block = rest;
        }
        block
    }

    fn count_invalid(&mut self, bytes: &[u8]) {
        let mut chunks = bytes.utf8_chunks().peekable();
        while let Some(chunk) = chunks.next() {
            let invalid = chunk.invalid();
            let incomplete = || std::str::from_utf8(invalid).is_err_and(|error| error.error_len().is_none());
            if chunks.peek().is_none() && incomplete() {
                self.pending.extend_from_slice(invalid);
            } else {
                self.invalid += invalid.len() as u64;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn blocks_do_not_change_the_counts(
            parts in prop::collection::vec(prop_oneof![
                "\\PC{0,3}".prop_map(String::into_bytes),
                prop::collection::vec(any::<u8>(), 0..4),
                prop::sample::select(vec![b"\xF0\x9F".to_vec(), b"\xE2\x82".to_vec(), b" \0\n".to_vec()]),
            ], 0..30),
            length in 1usize..7,
        ) {
            let bytes = parts.concat();
            let mut census = Census::default();
            bytes.chunks(length).for_each(|block| census.count(block));
            let invalid: usize = bytes.utf8_chunks().map(|chunk| chunk.invalid().len()).sum();
            let nul = bytes.iter().filter(|&&byte| byte == 0).count();
            prop_assert_eq!(census.invalid_bytes(), invalid as u64);
            prop_assert_eq!((census.nul, census.bytes()), (nul as u64, bytes.len() as u64));
            prop_assert_eq!(census.is_blank(), bytes.iter().all(u8::is_ascii_whitespace));
        }
    }
}
