//! The tokens of a text, in memory or in a file.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;
use thiserror::Error;

/// Tokens read at once to count them.
const COUNTED_AT_ONCE: usize = 1 << 16;

/// Why the tokens of a text can't be had.
#[derive(Debug, Error)]
#[expect(missing_docs, reason = "the fields are what the messages name")]
pub enum TokensError {
    /// Their file can't be written.
    #[error("cannot write {path}, the text as tokens; make room, or name another --checkpoint-dir: {source}",
        path = path.display())]
    Write { path: PathBuf, source: io::Error },
    /// Their file can't be read any more.
    #[error("cannot read {path}, the text as tokens (resuming the run makes it anew): {source}",
        path = path.display())]
    Read { path: PathBuf, source: io::Error },
    /// Their file is not what it was.
    #[error("{path}, the text as tokens, was changed while training read it; resuming the run makes it anew",
        path = path.display())]
    Changed { path: PathBuf },
}

/// A sequence of tokens. Those in a file are read from it each time, so that they take no memory.
#[derive(Clone, Debug)]
pub struct Tokens {
    store: Arc<Store>,
    /// Which of the store's tokens they are.
    range: Range<usize>,
    /// The bytes last read from a file.
    bytes: Vec<u8>,
}

#[derive(Debug)]
struct Store {
    place: Place,
    width: Width,
    vocabulary: usize,
}

#[derive(Debug)]
pub(super) enum Place {
    Memory(Vec<u8>),
    /// From byte `start` of the file.
    File {
        file: File,
        path: PathBuf,
        start: u64,
    },
}

impl Tokens {
    /// The two parts, of `first` and `second` tokens, that lie one after the other in `place`, each an id below
    /// `vocabulary` in the narrowest width for it.
    pub(super) fn parts(place: Place, vocabulary: usize, first: usize, second: usize) -> [Self; 2] {
        let store = Arc::new(Store { place, width: Width::of(vocabulary), vocabulary });
        [0..first, first..first + second].map(|range| Tokens {
            store: Arc::clone(&store),
            range,
            bytes: Vec::new(),
        })
    }

    /// Tokens in memory.
    ///
    /// # Panics
    /// If one is not below `vocabulary`.
    pub fn from_ids(ids: &[u32], vocabulary: usize) -> Self {
        assert!(ids.iter().all(|&id| (id as usize) < vocabulary), "an id is not below {vocabulary}");
        let mut bytes = Vec::new();
        Width::of(vocabulary).encode(ids, &mut bytes);
        let [tokens, _] = Tokens::parts(Place::Memory(bytes), vocabulary, ids.len(), 0);
        tokens
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.range.len()
    }

    /// How often each token of the vocabulary occurs.
    ///
    /// # Errors
    /// As [`Tokens::read`].
    pub fn counts(&mut self) -> Result<Vec<u64>, TokensError> {
        let mut counts = vec![0; self.store.vocabulary]; // [V]
        let mut window = Vec::new();
        for start in (0..self.count()).step_by(COUNTED_AT_ONCE) {
            window.clear();
            self.read(start..self.count().min(start + COUNTED_AT_ONCE), &mut window)?;
            window.iter().for_each(|&id| counts[id as usize] += 1);
        }
        Ok(counts)
    }

    /// Appends the tokens `range` to `out`.
    ///
    /// # Errors
    /// If they lie in a file that can't be read any more, or that holds what is no token.
    ///
    /// # Panics
    /// If there are not so many.
    pub fn read(&mut self, range: Range<usize>, out: &mut Vec<u32>) -> Result<(), TokensError> {
        assert!(range.end <= self.count(), "tokens {range:?} of {}", self.count());
        let Store { place, width, vocabulary } = &*self.store;
        let (from, count) = (self.range.start + range.start, range.len());
        match place {
            Place::Memory(bytes) => {
                width.decode(&bytes[from * width.bytes()..][..count * width.bytes()], out);
            }
            Place::File { file, path, start } => {
                self.bytes.resize(count * width.bytes(), 0);
                let offset = start + from as u64 * width.bytes() as u64;
                read_exact_at(file, &mut self.bytes, offset)
                    .map_err(|source| TokensError::Read { path: path.clone(), source })?;
                let before = out.len();
                width.decode(&self.bytes, out);
                if !out[before..].iter().all(|&id| (id as usize) < *vocabulary) {
                    return Err(TokensError::Changed { path: path.clone() });
                }
            }
        }
        Ok(())
    }
}

/// How a token is stored: as a little-endian number of 16 or of 32 bits.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Width {
    Two,
    Four,
}

impl Width {
    /// The narrowest for ids below `vocabulary`.
    pub fn of(vocabulary: usize) -> Self {
        if vocabulary <= 1 << 16 { Width::Two } else { Width::Four }
    }

    /// Bytes of a token.
    pub fn bytes(self) -> usize {
        match self {
            Width::Two => 2,
            Width::Four => 4,
        }
    }

    /// Appends the bytes of `ids` to `out`.
    pub fn encode(self, ids: &[u32], out: &mut Vec<u8>) {
        match self {
            Width::Two => out.extend(ids.iter().flat_map(|&id| (id as u16).to_le_bytes())),
            Width::Four => out.extend(ids.iter().flat_map(|&id| id.to_le_bytes())),
        }
    }

    fn decode(self, bytes: &[u8], out: &mut Vec<u32>) {
        match self {
            Width::Two => out.extend(bytes.as_chunks().0.iter().map(|&id| u32::from(u16::from_le_bytes(id)))),
            Width::Four => out.extend(bytes.as_chunks().0.iter().map(|&id| u32::from_le_bytes(id))),
        }
    }
}

#[cfg(unix)]
pub(super) fn read_exact_at(file: &File, buffer: &mut [u8], offset: u64) -> io::Result<()> {
    std::os::unix::fs::FileExt::read_exact_at(file, buffer, offset)
}

#[cfg(windows)]
pub(super) fn read_exact_at(file: &File, mut buffer: &mut [u8], mut offset: u64) -> io::Result<()> {
    while !buffer.is_empty() {
        match std::os::windows::fs::FileExt::seek_read(file, buffer, offset) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(count) => {
                buffer = &mut buffer[count..];
                offset += count as u64;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => (),
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_are_counted_also_those_that_do_not_occur() {
        let ids: Vec<u32> = (0..2 * COUNTED_AT_ONCE as u32 + 5).map(|i| i % 7).collect();
        let counts = Tokens::from_ids(&ids, 9).counts().unwrap();
        let naive: Vec<u64> =
            (0..9).map(|id| ids.iter().filter(|&&other| other == id).count() as u64).collect();
        assert_eq!(counts, naive);
        assert_eq!(Tokens::from_ids(&[], 3).counts().unwrap(), [0; 3]);
    }
}
