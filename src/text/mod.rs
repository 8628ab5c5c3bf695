//! Texts for training and evaluation: files that are read anew, piece by piece, each time they are needed.

mod census;
mod lines;
mod reader;

pub use reader::TextReader;

use census::Census;
pub(crate) use lines::UnixLines;
use reader::Keeping;
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use thiserror::Error;
use xxhash_rust::xxh3::Xxh3;

/// Bytes read at once.
const BLOCK: usize = 1 << 16;
/// Bytes after which what is not text so far is read no further: a device can go on for ever.
const ENOUGH: u64 = 1 << 20;

/// Why a text can't be used.
#[derive(Debug, Error)]
#[expect(missing_docs, reason = "the fields are what the messages name")]
pub enum TextError {
    /// A file can't be read.
    #[error("cannot read {path}: {source}", path = path.display())]
    Io { path: PathBuf, source: io::Error },
    /// What a pipe yields can't be kept.
    #[error("cannot keep what {path} yields in {folder} (save it to a file and name that): {source}",
        path = path.display(), folder = folder.display())]
    Copy { path: PathBuf, folder: PathBuf, source: io::Error },
    /// A folder without text files.
    #[error("{path} holds no .txt file (folders in it are not read); name a text file or a folder of .txt files", path = path.display())]
    NoText { path: PathBuf },
    /// Nothing in it.
    #[error("{path} is empty, or blank; name a text file with something in it", path = path.display())]
    Empty { path: PathBuf },
    /// Something else than text.
    #[error("{path} is not a text file (NUL bytes, or more than a tenth of it is not UTF-8); convert it to UTF-8 text", path = path.display())]
    Binary { path: PathBuf },
    /// Not what it was when it was first read.
    #[error("{path} changed while it was being read; start again when nothing writes to it", path = path.display())]
    Changed { path: PathBuf },
    /// Not to be read in [pieces](crate::tokenizer::Pieces).
    #[error("cannot use the text: {0}")]
    Uncut(io::Error),
}

impl TextError {
    /// What went wrong when [`TextReader`], or [`Pieces`](crate::tokenizer::Pieces) of one, gave `error`.
    pub fn from_read(error: io::Error) -> Self {
        error.downcast().unwrap_or_else(TextError::Uncut)
    }
}

/// One or several files as one text: line ends are LF, no byte-order mark, files separated by a blank line.
///
/// The text is what the files held when it was opened; reading it fails if that has changed.
#[derive(Debug)]
pub struct Text {
    sources: Vec<Source>,
    converted_line_ends: bool,
    invalid_bytes: u64,
}

/// A part of a text, in a file or in memory.
#[derive(Debug)]
struct Source {
    path: PathBuf,
    place: Place,
    /// Bytes of the text in it.
    length: u64,
    /// Hash of them; memory does not change.
    hash: Option<u64>,
}

#[derive(Debug)]
enum Place {
    /// In the file that has the source's path.
    File,
    /// In an unnamed file, because what has the path can only be read once. A file has but one position.
    Copy(Mutex<File>),
    /// In memory, with the line ends it should have.
    Memory(Vec<u8>),
    /// In the program.
    Program(&'static [u8]),
}

impl Text {
    /// Opens `paths`: each a text file, or a folder whose .txt files, but for blank ones, are read in order of their names.
    /// What a pipe yields is kept in a temporary file.
    ///
    /// # Errors
    /// If one can't be read, is blank, or is not text.
    pub fn open(paths: &[PathBuf]) -> Result<Self, TextError> {
        let mut text = Text { sources: Vec::new(), converted_line_ends: false, invalid_bytes: 0 };
        for path in paths {
            let files_before = text.sources.len();
            for file in files_at(path)? {
                match text.add(file) {
                    // There is nothing in it that a folder's text would lack.
                    Err(TextError::Empty { path: blank }) if blank != *path => {}
                    added => added?,
                }
            }
            if text.sources.len() == files_before {
                return Err(TextError::Empty { path: path.clone() });
            }
        }
        Ok(text)
    }

    /// Bytes in memory as a text, as they are.
    pub fn from_bytes(bytes: Vec<u8>) -> Self {
        Text::in_memory(bytes.len(), Place::Memory(bytes))
    }

    /// Bytes of the program as a text, as they are.
    pub fn from_static(bytes: &'static [u8]) -> Self {
        Text::in_memory(bytes.len(), Place::Program(bytes))
    }

    fn in_memory(length: usize, place: Place) -> Self {
        let source = Source { path: PathBuf::new(), place, length: length as u64, hash: None };
        Text { sources: vec![source], converted_line_ends: false, invalid_bytes: 0 }
    }

    /// Bytes of the text.
    pub fn length(&self) -> u64 {
        let separators = self.sources.len().saturating_sub(1) * reader::SEPARATOR.len();
        self.sources.iter().map(|source| source.length).sum::<u64>() + separators as u64
    }

    /// The files it comes from; none if it is not in files.
    pub fn files(&self) -> impl Iterator<Item = &Path> {
        self.sources.iter().map(|source| source.path.as_path()).filter(|path| !path.as_os_str().is_empty())
    }

    /// Whether Windows line ends were converted.
    pub fn converted_line_ends(&self) -> bool {
        self.converted_line_ends
    }

    /// Bytes in files that are not UTF-8.
    pub fn invalid_bytes(&self) -> u64 {
        self.invalid_bytes
    }

    /// Reads the text from its start.
    pub fn reader(&self) -> TextReader<'_> {
        TextReader::new(&self.sources)
    }

    fn add(&mut self, path: PathBuf) -> Result<(), TextError> {
        let io_error = |source| TextError::Io { path: path.clone(), source };
        let read_error = |error: io::Error| error.downcast().unwrap_or_else(io_error);
        let (place, Survey { census, hash, converted }) = if fs::metadata(&path).map_err(io_error)?.is_file()
        {
            let file = File::open(&path).map_err(io_error)?;
            (Place::File, Survey::of(file).map_err(read_error)?)
        } else {
            let mut kept = Keeping::open(&path)?;
            let survey = Survey::of(&mut kept).map_err(read_error)?;
            (Place::Copy(Mutex::new(kept.into_copy())), survey)
        };
        if census.is_blank() {
            return Err(TextError::Empty { path });
        }
        if !census.is_text() {
            return Err(TextError::Binary { path });
        }
        self.converted_line_ends |= converted;
        self.invalid_bytes += census.invalid_bytes();
        self.sources.push(Source { path, place, length: census.bytes(), hash: Some(hash) });
        Ok(())
    }
}

/// What there is in a file with its line ends made plain, and whether they had to be.
struct Survey {
    census: Census,
    hash: u64,
    converted: bool,
}

impl Survey {
    /// Of all of `bytes`, or as much as it takes to see that they are no text.
    fn of(bytes: impl Read) -> io::Result<Self> {
        let mut lines = UnixLines::new(bytes);
        let (mut census, mut hasher) = (Census::default(), Xxh3::new());
        let mut block = vec![0; BLOCK];
        while census.bytes() < ENOUGH || census.is_text() {
            let count = lines.read(&mut block)?;
            if count == 0 {
                break;
            }
            hasher.update(&block[..count]);
            census.count(&block[..count]);
        }
        Ok(Survey { census, hash: hasher.digest(), converted: lines.converted() })
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

#[cfg(test)]
mod tests {
    use super::*;

    const BYTE_ORDER_MARK: &[u8] = "\u{feff}".as_bytes();

    fn folder_with(files: &[(&str, &[u8])]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        for (name, bytes) in files {
            fs::write(folder.path().join(name), bytes).unwrap();
        }
        folder
    }

    fn read(text: &Text) -> Result<Vec<u8>, TextError> {
        let mut bytes = Vec::new();
        text.reader().read_to_end(&mut bytes).map_err(TextError::from_read)?;
        Ok(bytes)
    }

    #[test]
    fn a_folder_is_its_text_files_in_order() {
        let folder = folder_with(&[("b.txt", b"two"), ("a.TXT", b"one"), ("c.md", b"no")]);
        let text = Text::open(&[folder.path().to_owned()]).unwrap();
        assert_eq!(read(&text).unwrap(), b"one\n\ntwo");
        assert_eq!((text.length(), text.files().count()), (8, 2));
        fs::write(folder.path().join("aa.txt"), b" \n").unwrap();
        let with_a_blank_one = Text::open(&[folder.path().to_owned()]).unwrap();
        assert_eq!(read(&with_a_blank_one).unwrap(), b"one\n\ntwo");
    }

    #[test]
    fn windows_line_ends_and_byte_order_marks_go() {
        let folder = folder_with(&[("a.txt", b"\xef\xbb\xbfone\r\ntwo\rthree\r\n")]);
        let text = Text::open(&[folder.path().join("a.txt")]).unwrap();
        assert_eq!(read(&text).unwrap(), b"one\ntwo\rthree\n");
        assert!(text.converted_line_ends());
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
        let open = |name: &str| Text::open(&[folder.path().join(name)]).unwrap_err();
        assert!(matches!(open("empty"), TextError::Empty { .. }));
        assert!(matches!(open("blank"), TextError::Empty { .. }));
        assert!(matches!(open("mark"), TextError::Empty { .. }));
        assert!(matches!(open("zeros"), TextError::Binary { .. }));
        assert!(matches!(open("noise"), TextError::Binary { .. }));
        assert!(matches!(open("missing"), TextError::Io { .. }));
        let folder = folder.path().to_owned();
        assert!(matches!(Text::open(std::slice::from_ref(&folder)), Err(TextError::NoText { .. })));
        fs::write(folder.join("blank.txt"), b" \n").unwrap();
        assert!(matches!(Text::open(&[folder]), Err(TextError::Empty { .. })));
    }

    #[test]
    fn a_text_that_changes_is_not_read_as_another() {
        let first = b"some words\r\n".repeat(20_000);
        let folder = folder_with(&[("a.txt", &first), ("b.txt", b"end")]);
        let file = folder.path().join("a.txt");
        let text = Text::open(&[folder.path().to_owned()]).unwrap();
        let whole = read(&text).unwrap();
        let changed = |error| matches!(error, TextError::Changed { path } if path == file);
        fs::write(&file, &first[..first.len() - 1]).unwrap();
        assert!(changed(read(&text).unwrap_err()), "it was cut");
        fs::write(&file, first.to_ascii_uppercase()).unwrap();
        assert!(changed(read(&text).unwrap_err()), "it was rewritten");
        fs::write(&file, [&first[..], b"more"].concat()).unwrap();
        assert_eq!(read(&text).unwrap(), whole, "what it held is still there");
        fs::remove_file(&file).unwrap();
        assert!(matches!(read(&text).unwrap_err(), TextError::Io { path, .. } if path == file));
    }

    #[test]
    fn what_goes_on_for_ever_is_seen_to_be_no_text() {
        let Survey { census, .. } = Survey::of(io::repeat(0)).unwrap();
        assert!(!census.is_text() && census.bytes() <= ENOUGH + BLOCK as u64);
        // A NUL here and there is no reason to stop.
        let text = b"a\0".iter().chain(&[b'b'; 3000]).copied().collect::<Vec<u8>>().repeat(1000);
        assert_eq!(Survey::of(&text[..]).unwrap().census.bytes(), text.len() as u64);
    }

    #[cfg(unix)]
    #[test]
    fn a_pipe_can_be_read_more_than_once() {
        let folder = tempfile::tempdir().unwrap();
        let pipe = folder.path().join("pipe");
        assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
        let writer = std::thread::spawn({
            let pipe = pipe.clone();
            move || fs::write(pipe, "\u{feff}one\r\n".repeat(30_000))
        });
        let text = Text::open(&[pipe]).unwrap();
        writer.join().unwrap().unwrap();
        let expected = format!("one\n{}", "\u{feff}one\n".repeat(29_999));
        let (mut one, mut other) = (text.reader(), text.reader());
        let mut parts = [Vec::new(), Vec::new()];
        for part in 0..100 {
            for (reader, bytes) in [&mut one, &mut other].into_iter().zip(&mut parts) {
                let length = if part < 99 { 997 } else { u64::MAX };
                reader.by_ref().take(length).read_to_end(bytes).unwrap();
            }
        }
        assert!(parts.iter().all(|bytes| bytes == expected.as_bytes()));
    }
}
