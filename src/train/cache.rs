//! The file that keeps the tokens of a large text, so that they take no memory and a resumed run finds them.
//!
//! A header of [`WORDS`] little-endian 64-bit numbers, then the tokens to train on, then those to validate on. Nothing
//! in it is believed that a length or a hash does not confirm; a file that is wrong in anything is made anew.

use super::TrainError;
use super::corpus::Corpus;
use super::tokenize::{Counts, TokenizeError};
use super::tokens::{Place, Width};
use crate::checkpoint::temporary_file;
use crate::tokenizer::TokenizerView;
use std::fs::File;
use std::io::{self, BufWriter, Read, Seek, Write};
use std::path::Path;
use xxhash_rust::xxh3::{Xxh3, xxh3_64};

/// First bytes of the file.
const MAGIC: u64 = u64::from_le_bytes(*b"SHOETOKN");
/// The format, and the way text becomes tokens, of this version.
const VERSION: u64 = 1;
/// Numbers of the header.
const WORDS: usize = 11;
/// Bytes of the header.
const HEADER_LENGTH: usize = 8 * WORDS;
/// Bytes hashed at once.
const BLOCK: usize = 1 << 18;

/// What tokens depend on.
#[derive(Clone, Copy)]
struct Origin {
    text: u64,
    tokenizer: u64,
    width: Width,
}

/// The tokens of `corpus` in the file `path`: those it holds, if they are these, or else what `tokenize` writes.
pub fn open_or_make(
    path: &Path,
    corpus: &Corpus,
    tokenizer: TokenizerView<'_>,
    tokenize: impl FnOnce(&mut dyn Write) -> Result<Counts, TokenizeError>,
) -> Result<(Place, Counts), TrainError> {
    let width = Width::of(tokenizer.vocabulary_size());
    let origin = Origin { text: corpus.hash(), tokenizer: hash_of(tokenizer), width };
    let (file, counts) = match open(path, origin) {
        Some(found) => found,
        None => make(path, origin, tokenize).map_err(|error| error.of(path))?,
    };
    Ok((Place::File { file, path: path.to_owned(), start: HEADER_LENGTH as u64 }, counts))
}

/// The file at `path` if it is whole and of this origin.
fn open(path: &Path, origin: Origin) -> Option<(File, Counts)> {
    if !path.metadata().ok()?.is_file() {
        return None;
    }
    let mut file = File::open(path).ok()?;
    let mut header = [0; HEADER_LENGTH];
    file.read_exact(&mut header).ok()?;
    let mut words = [0; WORDS];
    words.iter_mut().zip(header.as_chunks().0).for_each(|(word, bytes)| *word = u64::from_le_bytes(*bytes));
    let [.., training, validation, training_chars, validation_chars, dialogue, checksum, _] = words;
    let counts = Counts { training, validation, training_chars, validation_chars, dialogue: dialogue == 1 };
    if header != encode_header(origin, counts, checksum) {
        return None;
    }
    let tokens = training.checked_add(validation)?;
    let length = tokens.checked_mul(origin.width.bytes() as u64)?.checked_add(HEADER_LENGTH as u64)?;
    if file.metadata().ok()?.len() != length {
        return None;
    }
    let mut hasher = Xxh3::new();
    let mut block = vec![0; BLOCK];
    loop {
        match file.read(&mut block) {
            Ok(0) => break,
            Ok(count) => hasher.update(&block[..count]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => (),
            Err(_) => return None,
        }
    }
    (hasher.digest() == checksum).then_some((file, counts))
}

/// Makes the file at `path`: written under a temporary name, which it loses only when it is whole. It is not synced,
/// for what a power cut does to it is noticed.
fn make(
    path: &Path,
    origin: Origin,
    tokenize: impl FnOnce(&mut dyn Write) -> Result<Counts, TokenizeError>,
) -> Result<(File, Counts), TokenizeError> {
    // The file itself, whose errors don't name the temporary path.
    let (file, temporary) = temporary_file(path).map_err(TokenizeError::Write)?.into_parts();
    let mut out = Hashed { out: BufWriter::with_capacity(BLOCK, file), hasher: Xxh3::new() };
    out.out.write_all(&[0; HEADER_LENGTH]).map_err(TokenizeError::Write)?;
    let counts = tokenize(&mut out)?;
    let finish = || -> io::Result<File> {
        let header = encode_header(origin, counts, out.hasher.digest());
        let mut file = out.out.into_inner().map_err(|error| error.into_error())?;
        file.rewind()?;
        file.write_all(&header)?;
        temporary.persist(path).map_err(|error| error.error)?;
        Ok(file)
    };
    Ok((finish().map_err(TokenizeError::Write)?, counts))
}

fn encode_header(origin: Origin, counts: Counts, checksum: u64) -> [u8; HEADER_LENGTH] {
    let Counts { training, validation, training_chars, validation_chars, dialogue } = counts;
    let words = [
        MAGIC,
        VERSION,
        origin.text,
        origin.tokenizer,
        training,
        validation,
        training_chars,
        validation_chars,
        u64::from(dialogue),
        checksum,
    ];
    let mut header = [0; HEADER_LENGTH];
    let (fields, last) = header.split_at_mut(size_of_val(&words));
    fields.as_chunks_mut().0.iter_mut().zip(words).for_each(|(bytes, word)| *bytes = word.to_le_bytes());
    last.copy_from_slice(&xxh3_64(fields).to_le_bytes());
    header
}

/// A hash of what decides which tokens a text becomes.
fn hash_of(tokenizer: TokenizerView<'_>) -> u64 {
    let mut hasher = Xxh3::new();
    for id in 0..tokenizer.vocabulary_size() as u32 {
        let token = tokenizer.token(id);
        hasher.update(&(token.len() as u64).to_le_bytes());
        hasher.update(token);
    }
    for id in tokenizer.merges().as_flattened() {
        hasher.update(&id.to_le_bytes());
    }
    hasher.digest()
}

/// Hashes what is written.
struct Hashed<W> {
    out: W,
    hasher: Xxh3,
}

impl<W: Write> Write for Hashed<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = self.out.write(bytes)?;
        self.hasher.update(&bytes[..count]);
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}
