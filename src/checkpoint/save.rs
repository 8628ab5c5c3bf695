//! Saving: either the whole new file is there, durably, or the old one still is.

use super::header::{HEADER_LENGTH, Header, Kind};
use super::schema::Contents;
use super::CheckpointError;
use rkyv::rancor;
use rkyv::util::AlignedVec;
#[cfg(not(unix))]
use std::fs;
#[cfg(unix)]
use std::fs::File;
use std::io::{self, Write};
use std::path::Path;

/// Saves `contents` as an f32 checkpoint at `path`, atomically and durably.
///
/// # Errors
/// [`CheckpointError::Save`]; whatever was at `path` is then untouched.
pub fn save(path: &Path, contents: &Contents<'_>) -> Result<(), CheckpointError> {
    let error = |source| CheckpointError::Save { path: path.to_owned(), source };
    let archive = rkyv::api::high::to_bytes_in::<_, rancor::Error>(contents, AlignedVec::<HEADER_LENGTH>::new())
        .map_err(|e| error(io::Error::other(e.to_string())))?;
    atomic_write(path, &[&Header::encode(Kind::F32, &archive), &archive]).map_err(error)
}

/// Writes `parts` to `path`: to a temporary file in the same folder, synced, renamed over `path`, and
/// the folder synced.
///
/// # Errors
/// If any of it fails; whatever was at `path` is then untouched.
pub fn atomic_write(path: &Path, parts: &[&[u8]]) -> io::Result<()> {
    let folder = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    if path.is_dir() {
        return Err(io::ErrorKind::IsADirectory.into());
    }
    let mut builder = tempfile::Builder::new();
    // Readable for everyone the umask allows, like any file a program writes.
    #[cfg(unix)]
    builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
    let mut file = builder.prefix(".shoestring-").suffix(".tmp").tempfile_in(folder)?;
    for part in parts {
        file.write_all(part)?;
    }
    file.as_file().sync_all()?;
    file.persist(path).map_err(|e| e.error)?;
    sync_folder(folder)
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
