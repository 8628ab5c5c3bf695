//! The text of a run, split into what is trained on and what is held out.

use crate::text::{Text, TextError, TextReader};
use std::io::{self, Read, Take};
use std::path::Path;
use xxhash_rust::xxh3::Xxh3;

/// Bytes hashed at once.
const BLOCK: usize = 1 << 18;

/// Training and validation text.
pub struct Corpus {
    text: Text,
    validation_start: u64,
    separate_validation: Option<Text>,
    hash: u64,
}

impl Corpus {
    /// Trains on the first 90 % of `text`'s bytes and validates on the rest; or trains on all of it and
    /// validates on `validation`.
    ///
    /// # Errors
    /// If a text can't be read any more, or has changed.
    pub fn new(text: Text, validation: Option<Text>) -> Result<Self, TextError> {
        let length = text.length();
        let validation_start = match validation {
            None => character_at(&text, length / 10 * 9 + length % 10 * 9 / 10)?,
            Some(_) => length,
        };
        let mut corpus = Corpus { text, validation_start, separate_validation: validation, hash: 0 };
        corpus.hash = corpus.read_hash().map_err(TextError::from_read)?;
        Ok(corpus)
    }

    /// Reads the text to train on.
    pub fn training(&self) -> Take<TextReader<'_>> {
        self.text.reader().take(self.validation_start)
    }

    /// Reads the text to validate on, which may be what follows in the reader of the text to train on.
    pub fn validation<'a>(&'a self, training: Take<TextReader<'a>>) -> TextReader<'a> {
        match &self.separate_validation {
            Some(text) => text.reader(),
            None => training.into_inner(),
        }
    }

    /// Bytes of the text to train on.
    pub fn training_length(&self) -> u64 {
        self.validation_start
    }

    /// Bytes of the text to validate on.
    pub fn validation_length(&self) -> u64 {
        match &self.separate_validation {
            Some(text) => text.length(),
            None => self.text.length() - self.validation_start,
        }
    }

    /// A hash of both texts and of where they part.
    pub fn hash(&self) -> u64 {
        self.hash
    }

    /// Files the training text came from; empty if it is the bundled one.
    pub fn model_data(&self) -> Vec<String> {
        absolute(&self.text)
    }

    /// Files the validation text came from; empty if it is the end of the training text.
    pub fn validation_data(&self) -> Vec<String> {
        self.separate_validation.as_ref().map(absolute).unwrap_or_default()
    }

    fn read_hash(&self) -> io::Result<u64> {
        let mut hasher = Xxh3::new();
        let mut block = vec![0; BLOCK];
        let mut add = |reader: &mut dyn Read, length: u64| -> io::Result<()> {
            hasher.update(&length.to_le_bytes());
            loop {
                match reader.read(&mut block)? {
                    0 => return Ok(()),
                    count => hasher.update(&block[..count]),
                }
            }
        };
        let mut training = self.training();
        add(&mut training, self.training_length())?;
        add(&mut self.validation(training), self.validation_length())?;
        Ok(hasher.digest())
    }
}

/// Where the first character at or after byte `at` of `text` starts: one is not cut in two.
fn character_at(text: &Text, at: u64) -> Result<u64, TextError> {
    let find = || -> io::Result<u64> {
        let mut reader = text.reader();
        io::copy(&mut reader.by_ref().take(at), &mut io::sink())?;
        let mut start = at;
        let mut byte = [0];
        while reader.read(&mut byte)? == 1 && byte[0] & 0xc0 == 0x80 {
            start += 1;
        }
        Ok(start)
    };
    find().map_err(TextError::from_read)
}

/// Absolute paths, so that a run can be resumed from another folder.
fn absolute(text: &Text) -> Vec<String> {
    let absolute = |file: &Path| std::path::absolute(file).unwrap_or_else(|_| file.to_owned());
    text.files().map(|file| absolute(file).to_string_lossy().into_owned()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is trained on and what is held out of `text`.
    fn parts(text: &str) -> [Vec<u8>; 2] {
        let corpus = Corpus::new(Text::from_bytes(text.into()), None).unwrap();
        let (mut first, mut rest) = (Vec::new(), Vec::new());
        let mut training = corpus.training();
        training.read_to_end(&mut first).unwrap();
        corpus.validation(training).read_to_end(&mut rest).unwrap();
        assert_eq!(
            [&first, &rest].map(|part| part.len() as u64),
            [corpus.training_length(), corpus.validation_length()]
        );
        [first, rest]
    }

    #[test]
    fn the_first_nine_tenths_train() {
        let text: String = (0..107).map(|i| char::from(b'a' + i % 26)).collect();
        let [first, rest] = parts(&text);
        assert_eq!(first.len(), 96);
        assert_eq!([first, rest].concat(), text.as_bytes());
    }

    #[test]
    fn characters_are_not_cut() {
        assert_eq!(parts("aaaaaaa\u{1F600}b")[1], b"b");
    }
}
