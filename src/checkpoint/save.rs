//! Saving: either the whole new file is there, durably, or the old one still is.

use super::CheckpointError;
use super::header::{HEADER_LENGTH, Header};
use super::schema::{Contents, TrainingState};
use crate::model::Kind;
use rkyv::rancor;
use rkyv::util::AlignedVec;
use std::fs;
#[cfg(unix)]
use std::fs::File;
use std::io::{self, Write};
use std::path::Path;
use tempfile::NamedTempFile;

/// Length of the largest archive: its relative pointers are signed 32-bit numbers, and rkyv panics where one
/// does not suffice. What [`size`] leaves out has 16 MiB.
const LARGEST: usize = i32::MAX as usize - (16 << 20);

/// Bytes that usually suffice for what [`size`] leaves out.
const OTHERS: usize = 64 << 10;

/// How the names of files being written begin.
pub const TEMPORARY_PREFIX: &str = ".shoestring-";
/// How they end.
pub const TEMPORARY_SUFFIX: &str = ".tmp";

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
    // All it takes at once: growing by doubling takes up to three times as much for a moment.
    let buffer = AlignedVec::<HEADER_LENGTH>::with_capacity(size + OTHERS);
    let archive = rkyv::api::high::to_bytes_in::<_, rancor::Error>(contents, buffer)
        .map_err(|e| error(io::Error::other(e.to_string())))?;
    atomic_write(path, &[&Header::encode(kind, &archive), &archive]).map_err(error)
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
    if path.is_dir() {
        return Err(io::ErrorKind::IsADirectory.into());
    }
    // A rename would put a file in the place of a device or a pipe.
    if fs::metadata(path).is_ok_and(|metadata| !metadata.is_file()) {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is a device or a pipe; name a file"));
    }
    let mut file = temporary_file(path)?;
    for part in parts {
        file.write_all(part)?;
    }
    file.as_file().sync_all()?;
    file.persist(path).map_err(|e| e.error)?;
    sync_folder(folder_of(path))
}

/// A file in the folder of `path`, to be given that name once it is whole; dropped, it is deleted.
///
/// # Errors
/// If it can't be made.
pub fn temporary_file(path: &Path) -> io::Result<NamedTempFile> {
    let mut builder = tempfile::Builder::new();
    // Readable for everyone the umask allows, like any file a program writes.
    #[cfg(unix)]
    builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
    builder.prefix(TEMPORARY_PREFIX).suffix(TEMPORARY_SUFFIX).tempfile_in(folder_of(path))
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
