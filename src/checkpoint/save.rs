//! Saving: either the whole new file is there, durably, or the old one still is.

use super::CheckpointError;
use super::header::Checksum;
use super::schema::{Contents, TrainingState};
use crate::model::Kind;
use rkyv::rancor;
use rkyv::ser::writer::IoWriter;
use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use tempfile::NamedTempFile;

/// Length of the largest archive: its relative pointers are signed 32-bit numbers, and rkyv panics where one
/// does not suffice. What [`size`] leaves out has 16 MiB.
const LARGEST: usize = i32::MAX as usize - (16 << 20);

/// How the names of files being written begin.
const TEMPORARY_PREFIX: &str = ".shoestring-";
/// How they end.
const TEMPORARY_SUFFIX: &str = ".tmp";

/// Saves `contents`, whose weights are of kind `kind`, at `path`, atomically and durably.
///
/// # Errors
/// [`CheckpointError::Save`], or [`CheckpointError::TooLarge`]; whatever was at `path` is then untouched.
pub fn save(path: &Path, kind: Kind, contents: &Contents<'_>) -> Result<(), CheckpointError> {
    let error = |source| CheckpointError::Save { path: path.to_owned(), source };
    let size = size(contents);
    if size > LARGEST {
        return Err(CheckpointError::TooLarge { path: path.to_owned(), size, largest: LARGEST });
    }
    let save = || {
        // Three times over rather than once into memory, of which there may be as little again as the file has.
        let mut length = Length(0);
        archive(contents, &mut length)?;
        let mut checksum = Checksum::new(kind, length.0);
        archive(contents, &mut checksum)?;
        let header = checksum.header();
        let write = |file: &mut File| {
            let mut file = BufWriter::with_capacity(64 << 10, file);
            file.write_all(&header)?;
            archive(contents, &mut file)?;
            file.flush()
        };
        Staged::write_by(path, write)?.commit()
    };
    save().map_err(error)
}

/// Writes the archive of `contents`, which is the same bytes each time.
fn archive(contents: &Contents<'_>, out: &mut dyn Write) -> io::Result<()> {
    let mut out = Remembering { out, error: None };
    match rkyv::api::high::to_bytes_in::<_, rancor::Error>(contents, IoWriter::new(&mut out)) {
        Ok(_) => Ok(()),
        Err(error) => Err(out.error.unwrap_or_else(|| io::Error::other(error.to_string()))),
    }
}

/// Keeps the error of a writer, which rkyv turns into a text.
struct Remembering<'a> {
    out: &'a mut dyn Write,
    error: Option<io::Error>,
}

impl Write for Remembering<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.out.write(bytes).map_err(|error| {
            let kind = error.kind();
            self.error = Some(error);
            kind.into()
        })
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

/// Counts what is written.
struct Length(u64);

impl Write for Length {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0 += bytes.len() as u64;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Bytes of the long arrays in `contents`.
fn size(contents: &Contents<'_>) -> usize {
    let Contents { tokenizer, weights, training, .. } = contents;
    let training = training.as_ref().map_or(0, |training| {
        let TrainingState { weights, moments, position, .. } = training;
        size_of_val(*weights) + size_of_val(*moments) + size_of_val(&position.carried_state[..])
    });
    let tokenizer = size_of_val(&tokenizer.token_offsets[..])
        + size_of_val(&tokenizer.merges[..])
        + tokenizer.token_bytes.len();
    size_of_val(*weights) + training + tokenizer
}

/// Writes `parts` to `path`: to a temporary file in the same folder, synced, renamed over `path`, and
/// the folder synced.
///
/// # Errors
/// If any of it fails; whatever was at `path` is then untouched.
pub fn atomic_write(path: &Path, parts: &[&[u8]]) -> io::Result<()> {
    Staged::write(path, parts)?.commit()
}

/// A whole file, on the disk under a temporary name; dropped, it is deleted.
pub struct Staged {
    file: NamedTempFile,
    path: PathBuf,
}

impl Staged {
    /// Writes and syncs what [`Staged::commit`] is to put at `path`, or where a link there leads, into the same folder.
    ///
    /// # Errors
    /// If it can't be written, or `path` is a folder, a device or a pipe.
    pub fn write(path: &Path, parts: &[&[u8]]) -> io::Result<Self> {
        Staged::write_by(path, |file| parts.iter().try_for_each(|part| file.write_all(part)))
    }

    /// The same of what `write` writes.
    fn write_by(path: &Path, write: impl FnOnce(&mut File) -> io::Result<()>) -> io::Result<Self> {
        if path.is_dir() {
            return Err(io::ErrorKind::IsADirectory.into());
        }
        // A rename would put a file in the place of a device or a pipe.
        if fs::metadata(path).is_ok_and(|metadata| !metadata.is_file()) {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is a device or a pipe; name a file"));
        }
        // Nor in the place of a link.
        let path = if path.is_symlink() { fs::canonicalize(path)? } else { path.to_owned() };
        let mut file = temporary_file(&path)?;
        keep_permissions(file.as_file(), &path)?;
        write(file.as_file_mut())?;
        file.as_file().sync_all()?;
        Ok(Staged { file, path })
    }

    /// Gives the file its name, replacing what has it, and syncs the folder.
    ///
    /// # Errors
    /// If the file can't be renamed; whatever was there is then untouched.
    pub fn commit(self) -> io::Result<()> {
        let Staged { file, path } = self;
        file.persist(&path).map_err(|e| e.error)?;
        sync_folder(folder_of(&path))
    }
}

/// Lets those read and write `file`, and no others, who may with what it is to replace at `path`.
fn keep_permissions(file: &File, path: &Path) -> io::Result<()> {
    let Ok(replaced) = fs::metadata(path) else { return Ok(()) };
    let permissions = replaced.permissions();
    // Some file systems know no permissions but one for all files, and refuse to set any.
    if file.metadata()?.permissions() == permissions { Ok(()) } else { file.set_permissions(permissions) }
}

/// A file in the folder of `path`, to be given that name once it is whole; dropped, it is deleted.
///
/// # Errors
/// If it can't be made.
pub fn temporary_file(path: &Path) -> io::Result<NamedTempFile> {
    let mut builder = tempfile::Builder::new();
    builder.prefix(TEMPORARY_PREFIX).suffix(TEMPORARY_SUFFIX);
    // Made by ourselves, it is readable for everyone the umask allows, like any file a program writes, and an
    // error is the system's own.
    let make = |path: &Path| File::options().read(true).write(true).create_new(true).open(path);
    let file = builder.make_in(folder_of(path), make)?;
    // Tells a file being written from what a killed program left. Where files can't be locked no training
    // runs, so none cleans up.
    let _ = file.as_file().try_lock();
    Ok(file)
}

/// Deletes the temporary files in `folder` that programs left which were killed while they wrote them.
///
/// # Errors
/// If the folder can't be read.
pub fn remove_leftovers(folder: &Path) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if !(name.starts_with(TEMPORARY_PREFIX) && name.ends_with(TEMPORARY_SUFFIX)) {
            continue;
        }
        let path = entry.path();
        if File::options().append(true).open(&path).is_ok_and(|file| file.try_lock().is_ok()) {
            // What can't be deleted does no harm.
            let _ = fs::remove_file(path);
        }
    }
    Ok(())
}

fn folder_of(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

#[cfg(unix)]
fn sync_folder(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}

/// Windows can't open a folder to sync it; NTFS journals the rename itself.
#[cfg(not(unix))]
fn sync_folder(folder: &Path) -> io::Result<()> {
    fs::metadata(folder).map(drop)
}
