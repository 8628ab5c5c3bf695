//! Reading files that could be anything, and making folders.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

/// All of the file or pipe at `path`, which must have at most `most` bytes: a device can go on for ever.
///
/// # Errors
/// If it can't be read, or has more.
pub fn read_at_most(path: &Path, most: u64) -> io::Result<Vec<u8>> {
    all_of(File::open(path)?, most)
}

/// All of what a reader yields, which must be at most `most` bytes.
///
/// # Errors
/// If it can't be read, or is more.
pub fn all_of(reader: impl Read, most: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    reader.take(most + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > most {
        let what = format!("it has more than {} MB", most / 1_000_000);
        return Err(io::Error::new(io::ErrorKind::InvalidData, what));
    }
    Ok(bytes)
}

/// An error unless `path` is a file: a folder can't be read, and a device or a pipe can go on for ever.
///
/// # Errors
/// If it is none, or not there.
pub fn require_file(path: &Path) -> io::Result<()> {
    if path.metadata()?.is_file() {
        Ok(())
    } else {
        Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "it is not a file, but a folder or a device; name a file",
        ))
    }
}

/// The same as [`read_at_most`] as text.
///
/// # Errors
/// As [`read_at_most`], and if it is not UTF-8.
pub fn read_text(path: &Path, most: u64) -> io::Result<String> {
    String::from_utf8(read_at_most(path, most)?)
        .map_err(|_| io::Error::new(io::ErrorKind::InvalidData, "it is not UTF-8 text"))
}

/// Makes the folder at `path`, if it is not there, and does `work` in it. Folders made for work that failed go again, unless
/// there is something in them.
///
/// # Errors
/// The work's, or what `error` makes of the folder's.
pub fn in_folder<T, E>(
    path: &Path,
    error: impl FnOnce(io::Error) -> E,
    work: impl FnOnce() -> Result<T, E>,
) -> Result<T, E> {
    let made = make_folder(path).map_err(error)?;
    work().inspect_err(|_| remove_folders(&made))
}

/// Makes the folder at `path` and those it is in; which were made, innermost first.
///
/// # Errors
/// If one can't be made.
pub fn make_folder(path: &Path) -> io::Result<Vec<PathBuf>> {
    let is_missing = |folder: &&Path| !folder.as_os_str().is_empty() && !folder.exists();
    let missing = path.ancestors().take_while(is_missing).map(Path::to_owned).collect();
    fs::create_dir_all(path)?;
    Ok(missing)
}

/// Removes `folders`, innermost first, up to the first that has something in it.
pub fn remove_folders(folders: &[PathBuf]) {
    let _ = folders.iter().try_for_each(fs::remove_dir);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folders_made_for_work_that_failed_go_again() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a/b/c");
        let work = |result: Result<u8, String>| in_folder(&path, |error| error.to_string(), || result);
        assert_eq!(work(Err("failed".to_owned())), Err("failed".to_owned()));
        assert_eq!(folder.path().read_dir().unwrap().count(), 0);
        fs::create_dir(folder.path().join("a")).unwrap();
        assert!(work(Err(String::new())).is_err());
        assert_eq!(folder.path().join("a").read_dir().unwrap().count(), 0);
        assert_eq!(work(Ok(5)), Ok(5));
        assert!(path.is_dir());
    }

    #[test]
    fn more_than_most_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        std::fs::write(&path, b"12345").unwrap();
        assert_eq!(read_text(&path, 5).unwrap(), "12345");
        assert_eq!(read_at_most(&path, 4).unwrap_err().kind(), io::ErrorKind::InvalidData);
        std::fs::write(&path, b"\xff").unwrap();
        assert!(read_text(&path, 5).unwrap_err().to_string().contains("UTF-8"));
        assert_eq!(read_at_most(&path, 1).unwrap(), b"\xff");
    }
}
