//! Reading a text that lies in several places.

use super::lines::UnixLines;
use super::{Place, Source, TextError};
use std::env;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use xxhash_rust::xxh3::Xxh3;

/// What stands between the files of a text.
pub const SEPARATOR: &[u8] = b"\n\n";

/// Reads a text, and makes sure that it is the one that was opened: at the end of a file that has changed
/// there is an error, which [`TextError::from_read`] makes out.
pub struct TextReader<'a> {
    sources: std::iter::Peekable<std::slice::Iter<'a, Source>>,
    current: Option<SourceReader<'a>>,
    /// What is left of the separator before the current source.
    separator: &'static [u8],
}

struct SourceReader<'a> {
    source: &'a Source,
    bytes: Box<dyn Read + Send + 'a>,
    left: u64,
    hasher: Xxh3,
}

impl<'a> TextReader<'a> {
    pub(super) fn new(sources: &'a [Source]) -> Self {
        TextReader { sources: sources.iter().peekable(), current: None, separator: b"" }
    }

    /// Opens the next source, if there is one.
    fn advance(&mut self, source: &'a Source) -> io::Result<()> {
        self.sources.next();
        if self.current.is_some() {
            self.separator = SEPARATOR;
        }
        self.current = Some(SourceReader::open(source)?);
        Ok(())
    }
}

impl Read for TextReader<'_> {
    /// Fills `out`, unless the text ends.
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let mut filled = 0;
        while filled < out.len() {
            let free = &mut out[filled..];
            if !self.separator.is_empty() {
                filled += self.separator.read(free)?;
                continue;
            }
            match (self.current.as_mut().filter(|current| current.left > 0), self.sources.peek()) {
                (Some(current), _) => filled += current.read(free)?,
                (None, Some(&source)) => self.advance(source)?,
                (None, None) => break,
            }
        }
        Ok(filled)
    }
}

impl<'a> SourceReader<'a> {
    fn open(source: &'a Source) -> io::Result<Self> {
        let bytes = source.place.bytes(&source.path).map_err(|error| source.io_error(error))?;
        let bytes: Box<dyn Read + Send + 'a> =
            if source.hash.is_some() { Box::new(UnixLines::new(bytes)) } else { bytes };
        Ok(SourceReader { source, bytes, left: source.length, hasher: Xxh3::new() })
    }

    /// Reads at least one of the bytes that are left into `out`, which is not empty.
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let room = usize::try_from(self.left).map_or(out.len(), |left| left.min(out.len()));
        let count = self.bytes.read(&mut out[..room]).map_err(|error| self.source.io_error(error))?;
        self.left -= count as u64;
        let Some(hash) = self.source.hash else { return Ok(count) };
        self.hasher.update(&out[..count]);
        if count == 0 || self.left == 0 && self.hasher.digest() != hash {
            return Err(io::Error::other(TextError::Changed { path: self.source.path.clone() }));
        }
        Ok(count)
    }
}

impl Place {
    /// Its bytes, as they lie there; `path` is its file's.
    pub(super) fn bytes(&self, path: &Path) -> io::Result<Box<dyn Read + Send + '_>> {
        Ok(match self {
            Place::File => Box::new(File::open(path)?),
            Place::Copy(file) => Box::new(Shared { file, position: 0 }),
            Place::Memory(bytes) => Box::new(&bytes[..]),
            Place::Program(bytes) => Box::new(*bytes),
        })
    }
}

impl Source {
    fn io_error(&self, source: io::Error) -> io::Error {
        io::Error::other(TextError::Io { path: self.path.clone(), source })
    }
}

/// Reads a file from its start, whoever else reads it.
struct Shared<'a> {
    file: &'a Mutex<File>,
    position: u64,
}

impl Read for Shared<'_> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        file.seek(SeekFrom::Start(self.position))?;
        let count = file.read(out)?;
        self.position += count as u64;
        Ok(count)
    }
}

/// Reads what can only be read once, and keeps it in a temporary file without a name.
pub struct Keeping<'a> {
    path: &'a Path,
    from: File,
    folder: PathBuf,
    to: File,
}

impl<'a> Keeping<'a> {
    pub fn open(path: &'a Path) -> Result<Self, TextError> {
        let from = File::open(path).map_err(|source| TextError::Io { path: path.to_owned(), source })?;
        let folder = env::temp_dir();
        match tempfile::tempfile_in(&folder) {
            Ok(to) => Ok(Keeping { path, from, folder, to }),
            Err(source) => Err(TextError::Copy { path: path.to_owned(), folder, source }),
        }
    }

    /// What has been read.
    pub fn into_copy(self) -> File {
        self.to
    }
}

impl Read for Keeping<'_> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let count = self.from.read(out)?;
        self.to.write_all(&out[..count]).map_err(|source| {
            let (path, folder) = (self.path.to_owned(), self.folder.clone());
            io::Error::other(TextError::Copy { path, folder, source })
        })?;
        Ok(count)
    }
}
