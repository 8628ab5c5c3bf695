//! Reading text files for training and evaluation.

use std::borrow::Cow;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use thiserror::Error;

/// Above this part of bytes that are not UTF-8 text, a file is not text.
const MOST_INVALID: f64 = 0.1;
/// What some programs put before UTF-8 text.
const BYTE_ORDER_MARK: &[u8] = "\u{feff}".as_bytes();

/// Why a text can't be used.
#[derive(Debug, Error)]
#[expect(missing_docs, reason = "the fields are what the messages name")]
pub enum TextError {
    /// A file can't be read.
    #[error("cannot read {path}: {source}", path = path.display())]
    Io { path: PathBuf, source: io::Error },
    /// A folder without text files.
    #[error("{path} holds no .txt file; name a text file or a folder of .txt files", path = path.display())]
    NoText { path: PathBuf },
    /// Nothing in it.
    #[error("{path} is empty; name a text file with something in it", path = path.display())]
    Empty { path: PathBuf },
    /// Something else than text.
    #[error("{path} is not a text file (NUL bytes, or more than a tenth of it is not UTF-8); convert it to UTF-8 text", path = path.display())]
    Binary { path: PathBuf },
}

/// One or several files as one text.
#[derive(Clone, Debug, PartialEq)]
pub struct Text {
    /// The text: line ends are LF, no byte-order mark, files separated by a blank line.
    pub bytes: Vec<u8>,
    /// The files it came from.
    pub files: Vec<PathBuf>,
    /// Whether Windows line ends were converted.
    pub converted_line_ends: bool,
}

impl Text {
    /// Reads `paths`: each a text file, or a folder whose .txt files are read in order of their names.
    ///
    /// # Errors
    /// If one can't be read, is empty, or is not text.
    pub fn read(paths: &[PathBuf]) -> Result<Self, TextError> {
        let mut text = Text { bytes: Vec::new(), files: Vec::new(), converted_line_ends: false };
        for path in paths {
            for file in files_at(path)? {
                let bytes = fs::read(&file).map_err(|source| TextError::Io { path: file.clone(), source })?;
                text.push(&file, bytes)?;
            }
        }
        Ok(text)
    }

    fn push(&mut self, file: &Path, bytes: Vec<u8>) -> Result<(), TextError> {
        let path = || file.to_owned();
        let content = bytes.strip_prefix(BYTE_ORDER_MARK).unwrap_or(&bytes);
        if content.iter().all(u8::is_ascii_whitespace) {
            return Err(TextError::Empty { path: path() });
        }
        if !is_text(&bytes) {
            return Err(TextError::Binary { path: path() });
        }
        let (content, converted) = unix_line_ends(content);
        self.converted_line_ends |= converted;
        if !self.bytes.is_empty() {
            self.bytes.extend_from_slice(b"\n\n");
        }
        self.bytes.extend_from_slice(&content);
        self.files.push(path());
        Ok(())
    }
}

fn files_at(path: &Path) -> Result<Vec<PathBuf>, TextError> {
    let io_error = |source| TextError::Io { path: path.to_owned(), source };
    if !fs::metadata(path).map_err(io_error)?.is_dir() {
        return Ok(vec![path.to_owned()]);
    }
    let mut files = Vec::new();
    for entry in fs::read_dir(path).map_err(io_error)? {
        let file = entry.map_err(io_error)?.path();
        if file.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("txt")) && file.is_file() {
            files.push(file);
        }
    }
    if files.is_empty() {
        return Err(TextError::NoText { path: path.to_owned() });
    }
    files.sort();
    Ok(files)
}

fn is_text(bytes: &[u8]) -> bool {
    let invalid: usize = bytes.utf8_chunks().map(|chunk| chunk.invalid().len()).sum();
    let nul = bytes.iter().filter(|&&byte| byte == 0).count();
    nul * 1000 <= bytes.len() && invalid as f64 <= MOST_INVALID * bytes.len() as f64
}

fn unix_line_ends(bytes: &[u8]) -> (Cow<'_, [u8]>, bool) {
    if !bytes.windows(2).any(|pair| pair == b"\r\n") {
        return (bytes.into(), false);
    }
    let mut unix = Vec::with_capacity(bytes.len());
    for (i, &byte) in bytes.iter().enumerate() {
        if byte != b'\r' || bytes.get(i + 1) != Some(&b'\n') {
            unix.push(byte);
        }
    }
    (unix.into(), true)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder_with(files: &[(&str, &[u8])]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        for (name, bytes) in files {
            fs::write(folder.path().join(name), bytes).unwrap();
        }
        folder
    }

    #[test]
    fn a_folder_is_its_text_files_in_order() {
        let folder = folder_with(&[("b.txt", b"two"), ("a.TXT", b"one"), ("c.md", b"no")]);
        let text = Text::read(&[folder.path().to_owned()]).unwrap();
        assert_eq!(text.bytes, b"one\n\ntwo");
        assert_eq!(text.files.len(), 2);
    }

    #[test]
    fn windows_line_ends_and_byte_order_marks_go() {
        let folder = folder_with(&[("a.txt", b"\xef\xbb\xbfone\r\ntwo\rthree\r\n")]);
        let text = Text::read(&[folder.path().join("a.txt")]).unwrap();
        assert_eq!(text.bytes, b"one\ntwo\rthree\n");
        assert!(text.converted_line_ends);
    }

    #[test]
    fn what_is_not_text_is_refused() {
        let folder = folder_with(&[
            ("empty", b""),
            ("blank", b" \n\n"),
            ("mark", BYTE_ORDER_MARK),
            ("zeros", &[0; 100]),
            ("noise", &[0xff; 50]),
        ]);
        let read = |name: &str| Text::read(&[folder.path().join(name)]).unwrap_err();
        assert!(matches!(read("empty"), TextError::Empty { .. }));
        assert!(matches!(read("blank"), TextError::Empty { .. }));
        assert!(matches!(read("mark"), TextError::Empty { .. }));
        assert!(matches!(read("zeros"), TextError::Binary { .. }));
        assert!(matches!(read("noise"), TextError::Binary { .. }));
        assert!(matches!(read("missing"), TextError::Io { .. }));
        assert!(matches!(Text::read(&[folder.path().to_owned()]), Err(TextError::NoText { .. })));
    }
}
