//! The text of a run, split into what is trained on and what is held out.

use crate::text::Text;
use std::path::PathBuf;
use xxhash_rust::xxh3::Xxh3;

/// Training and validation text.
pub struct Corpus {
    text: Vec<u8>,
    validation_start: usize,
    separate_validation: Option<Text>,
    files: Vec<PathBuf>,
}

impl Corpus {
    /// Trains on the first 90 % of `text`'s bytes and validates on the rest; or trains on all of it and
    /// validates on `validation`.
    pub fn new(text: Text, validation: Option<Text>) -> Self {
        let mut validation_start = text.bytes.len();
        if validation.is_none() {
            validation_start = text.bytes.len() / 10 * 9 + text.bytes.len() % 10 * 9 / 10;
            // A character is not cut in two.
            let is_continuation = |byte: Option<&u8>| byte.is_some_and(|byte| byte & 0xc0 == 0x80);
            while is_continuation(text.bytes.get(validation_start)) {
                validation_start += 1;
            }
        }
        Corpus { text: text.bytes, validation_start, separate_validation: validation, files: text.files }
    }

    /// The text to train on.
    pub fn training(&self) -> &[u8] {
        &self.text[..self.validation_start]
    }

    /// The text to validate on.
    pub fn validation(&self) -> &[u8] {
        match &self.separate_validation {
            Some(text) => &text.bytes,
            None => &self.text[self.validation_start..],
        }
    }

    /// A hash of both texts and of where they part.
    pub fn hash(&self) -> u64 {
        let mut hasher = Xxh3::new();
        for text in [self.training(), self.validation()] {
            hasher.update(&(text.len() as u64).to_le_bytes());
            hasher.update(text);
        }
        hasher.digest()
    }

    /// Files the training text came from; empty if it is the bundled one.
    pub fn model_data(&self) -> Vec<String> {
        absolute(&self.files)
    }

    /// Files the validation text came from; empty if it is the end of the training text.
    pub fn validation_data(&self) -> Vec<String> {
        self.separate_validation.as_ref().map(|text| absolute(&text.files)).unwrap_or_default()
    }
}

/// Absolute paths, so that a run can be resumed from another folder.
fn absolute(files: &[PathBuf]) -> Vec<String> {
    let absolute = |file: &PathBuf| std::path::absolute(file).unwrap_or_else(|_| file.clone());
    files.iter().map(|file| absolute(file).to_string_lossy().into_owned()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn corpus(text: &str) -> Corpus {
        let text = Text { bytes: text.into(), files: Vec::new(), converted_line_ends: false };
        Corpus::new(text, None)
    }

    #[test]
    fn the_first_nine_tenths_train() {
        let text: String = (0..107).map(|i| char::from(b'a' + i % 26)).collect();
        let corpus = corpus(&text);
        assert_eq!(corpus.training().len(), 96);
        assert_eq!([corpus.training(), corpus.validation()].concat(), text.as_bytes());
    }

    #[test]
    fn characters_are_not_cut() {
        let corpus = corpus("aaaaaaa\u{1F600}b");
        assert_eq!(corpus.validation(), b"b");
    }
}
