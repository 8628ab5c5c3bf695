//! The folder of a run: checkpoints, the best model, `metrics.jsonl`, and a lock.

use super::error::TrainError;
use crate::checkpoint::{
    Checkpoint, CheckpointError, Contents, Recipe, Record, Validation, atomic_write, remove_leftovers, save,
};
use crate::files::{make_folder, read_at_most, remove_folders};
use crate::model::{Kind, ModelConfig};
use std::fs::{self, File, TryLockError};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use thiserror::Error;

/// Name of the best model so far, without training state.
pub const BEST: &str = "best.shoe";
/// Name of the course of a run in its folder.
pub const METRICS: &str = "metrics.jsonl";
/// Bytes of it, some months' worth, that are read.
pub const LONGEST_METRICS: u64 = 1_000_000_000;
/// Name of the file that keeps the tokens of a large text.
const TOKENS: &str = "text.tokens";
const LOCK: &str = ".lock";
/// A checkpoint saved fewer steps than this before a divergence is not trusted: it may have been on its way there.
const SUSPECT_STEPS: u64 = 25;

/// Why a folder can't hold a run.
#[derive(Debug, Error)]
#[expect(missing_docs, reason = "the fields are what the messages name")]
pub enum FolderError {
    /// It can't be made, read or written.
    #[error("cannot use {path} for checkpoints (--checkpoint-dir): {source}", path = path.display())]
    Io { path: PathBuf, source: io::Error },
    /// Another run is writing to it.
    #[error("another training is writing to {path}; wait for it, or give this one its own --checkpoint-dir",
        path = path.display())]
    Locked { path: PathBuf },
}

/// The checkpoint that a run goes on from, as far as it tells the run's files from those of others.
struct Resumed {
    config: ModelConfig,
    record: Record,
    text_hash: u64,
    /// Whether the run has been at later steps, which it went back from.
    went_back: bool,
}

/// Whose a checkpoint is.
#[derive(PartialEq)]
enum Origin {
    /// The run's, on its way to where it goes on from.
    Own,
    /// The run's, of a later step.
    Later,
    /// Another run's.
    Foreign,
}

impl Resumed {
    fn new(checkpoint: &Checkpoint) -> Result<Self, CheckpointError> {
        let position = checkpoint.training()?.position();
        Ok(Resumed {
            config: checkpoint.config(),
            record: checkpoint.record(),
            text_hash: position.text_hash,
            went_back: position.divergences > 0,
        })
    }

    fn origin_of(&self, checkpoint: &Checkpoint) -> Origin {
        let record = checkpoint.record();
        let same_text = checkpoint.training().map_or(true, |it| it.position().text_hash == self.text_hash);
        if checkpoint.config() != self.config || !same_text || !self.same_course(&record) {
            return Origin::Foreign;
        }
        let is_earlier = record.step <= self.record.step;
        // The best model may be from before the run went back.
        if is_earlier || self.went_back && !checkpoint.is_resumable() { Origin::Own } else { Origin::Later }
    }

    /// Whether one of both records is of a later moment of the same run: its validations begin with those of the other, or,
    /// if the run went back, with the first; losses of two runs differ. Before there are any, all settings must be the same.
    fn same_course(&self, record: &Record) -> bool {
        let (Some(mine), Some(its)) = (&self.record.recipe, &record.recipe) else { return false };
        let order = |recipe: &Recipe| (recipe.seed, recipe.batch_size, recipe.seq_length);
        let compared = if self.went_back { 1 } else { usize::MAX };
        let mut pairs = self.record.validations.iter().zip(&record.validations).take(compared).peekable();
        let same_course = match pairs.peek() {
            Some(_) => pairs.all(|(a, b)| a == b),
            None => *its == Recipe { length: its.length, ..mine.clone() },
        };
        order(mine) == order(its) && same_course
    }
}

/// A folder that this process alone writes checkpoints to.
pub struct RunFolder {
    path: PathBuf,
    resumed: Option<Resumed>,
    numbered: Vec<PathBuf>,
    keep: usize,
    metrics: Option<File>,
    set_aside: Option<PathBuf>,
    lock: File,
    /// Folders made for it, as long as there is nothing of a run in them.
    made: Vec<PathBuf>,
}

impl RunFolder {
    /// Takes hold of `path`, making it if needed, for a new run or to go on with the run that `resumed` is of and that is in it.
    /// Nothing in it is touched until the run begins. The newest `keep` numbered checkpoints, at least one, will be kept, and
    /// where these are too new to go back to if training diverges, one that is not, and the next to take its place.
    ///
    /// # Errors
    /// If the folder can't be used, or another run holds it; or if `resumed` has no training state.
    pub fn open(path: &Path, keep: usize, resumed: Option<&Checkpoint>) -> Result<Self, TrainError> {
        let resumed = resumed.map(Resumed::new).transpose()?;
        let made = make_folder(path).map_err(|source| FolderError::Io { path: path.to_owned(), source })?;
        let lock = lock(path).inspect_err(|_| remove_folders(&made))?;
        let (path, numbered, keep) = (path.to_owned(), Vec::new(), keep.max(1));
        Ok(RunFolder { path, resumed, numbered, keep, metrics: None, set_aside: None, lock, made })
    }

    /// Makes way for the run: what another one left is moved into a subfolder, and what this one made after the step from which
    /// it goes on; the latter not if the run is over already.
    pub(super) fn begin(&mut self, is_over: bool) -> Result<(), FolderError> {
        self.try_begin(is_over).map_err(|source| FolderError::Io { path: self.path.clone(), source })
    }

    fn try_begin(&mut self, is_over: bool) -> io::Result<()> {
        remove_leftovers(&self.path)?;
        self.made.clear();
        let metrics = self.path.join(METRICS);
        let Some(resumed) = &self.resumed else {
            self.set_aside = set_aside_run(&self.path)?;
            self.metrics = Some(append_to(&metrics)?);
            return Ok(());
        };
        let step = resumed.record.step;
        let (mut in_the_way, mut is_foreign, mut is_shared) = (Vec::new(), false, false);
        for file in run_files(&self.path)? {
            // One that can't be read is left alone. Whatever a file's name is: it may have been given another.
            let Ok(checkpoint) = Checkpoint::open(&file) else { continue };
            let origin = resumed.origin_of(&checkpoint);
            is_foreign |= origin == Origin::Foreign;
            match origin {
                Origin::Own if step_of(&file).is_some_and(|its_step| its_step <= step) => {
                    self.numbered.push(file);
                }
                Origin::Own => is_shared = true,
                Origin::Later if is_over => is_shared = true,
                Origin::Later | Origin::Foreign => in_the_way.push(file),
            }
        }
        self.numbered.sort_by_key(|file| step_of(file));
        self.set_aside = set_aside(&self.path, in_the_way)?;
        if let Some(folder) = self.set_aside.as_ref().filter(|_| metrics.exists()) {
            // Of another run are those beside nothing of this one but the checkpoint.
            if is_foreign && !is_shared && self.numbered.len() <= 1 {
                fs::rename(&metrics, folder.join(METRICS))?;
            } else {
                fs::copy(&metrics, folder.join(METRICS))?;
            }
        }
        self.metrics = Some(if is_over { append_to(&metrics)? } else { cut_metrics(&metrics, step)? });
        Ok(())
    }

    /// Where an earlier run's files were moved to, if there were any.
    pub fn set_aside(&self) -> Option<&Path> {
        self.set_aside.as_deref()
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The file for the tokens of a large text. It stays when a new run begins, which may be on the same text.
    pub(super) fn tokens(&self) -> PathBuf {
        self.path.join(TOKENS)
    }

    /// The newest numbered checkpoint.
    pub fn newest(&self) -> Option<&Path> {
        self.numbered.last().map(PathBuf::as_path)
    }

    /// Saves a numbered checkpoint, then deletes those that are not to be kept.
    ///
    /// # Errors
    /// If it can't be saved; nothing but what was to make room for it is deleted then.
    pub fn save_numbered(&mut self, contents: &Contents<'_>) -> Result<PathBuf, CheckpointError> {
        let file = self.path.join(format!("step-{:08}.shoe", contents.record.step));
        self.hold(&file)?;
        self.save_in_room(|| save(&file, Kind::F32, contents))?;
        self.numbered.retain(|earlier| *earlier != file);
        self.numbered.push(file.clone());
        let is_trusted = |earlier: &PathBuf| is_trusted(earlier, contents.record.step);
        let trusted = self.numbered.iter().rposition(is_trusted).unwrap_or(0);
        let newest = self.numbered.len().saturating_sub(self.keep);
        let is_kept = |at: usize| at >= newest || at == trusted || at == trusted + 1;
        for at in (0..newest).rev().filter(|&at| !is_kept(at)) {
            // A file that is gone already, or can't be deleted, is no reason to stop training.
            let _ = fs::remove_file(self.numbered.remove(at));
        }
        Ok(file)
    }

    /// Saves by `save`. On a full disk the oldest numbered checkpoint makes room, if there is a newer one, or nothing is learned in it.
    fn save_in_room(
        &mut self,
        mut save: impl FnMut() -> Result<(), CheckpointError>,
    ) -> Result<(), CheckpointError> {
        loop {
            match save() {
                Err(CheckpointError::Save { source, .. }) if is_full(&source) && self.give_up_oldest() => {}
                saved => return saved,
            }
        }
    }

    /// Deletes the oldest numbered checkpoint if it can be spared; returns whether it did.
    fn give_up_oldest(&mut self) -> bool {
        let is_spare = self.numbered.len() > 1 || self.newest().and_then(step_of) == Some(0);
        let is_gone = is_spare && fs::remove_file(&self.numbered[0]).is_ok();
        if is_gone {
            self.numbered.remove(0);
        }
        is_gone
    }

    /// The newest numbered checkpoint that is to be trusted when the run diverges at `step`, or else the oldest.
    pub(super) fn trusted(&self, step: u64) -> Option<&Path> {
        let trusted = self.numbered.iter().rfind(|file| is_trusted(file, step));
        trusted.or(self.numbered.first()).map(PathBuf::as_path)
    }

    /// Goes back to the checkpoint that is [to be trusted](Self::trusted): what this session has saved since is deleted, and what
    /// it found is no longer the run's.
    pub(super) fn go_back(&mut self, step: u64) -> Option<PathBuf> {
        let trusted = self.trusted(step)?.to_owned();
        let began_at = self.resumed.as_ref().map(|resumed| resumed.record.step);
        while let Some(newest) = self.numbered.pop_if(|newest| *newest != trusted) {
            if step_of(&newest) > began_at {
                // One that can't be deleted is overwritten when the run reaches its step again.
                let _ = fs::remove_file(newest);
            }
        }
        Some(trusted)
    }

    /// Saves the best model.
    ///
    /// # Errors
    /// If it can't be saved; the earlier one is then still there.
    pub fn save_best(&mut self, contents: &Contents<'_>) -> Result<PathBuf, CheckpointError> {
        let file = self.path.join(BEST);
        self.hold(&file)?;
        self.save_in_room(|| save(&file, Kind::F32, contents))?;
        Ok(file)
    }

    /// The best model, if one was saved.
    pub fn best(&self) -> Option<PathBuf> {
        Some(self.path.join(BEST)).filter(|file| file.is_file())
    }

    /// The validation of the best model, if one was saved.
    pub(super) fn best_validation(&self) -> Option<Validation> {
        let record = Checkpoint::open(&self.best()?).ok()?.record();
        record.validations.last().filter(|validation| validation.step == record.step).copied()
    }

    /// Appends one line to the metrics.
    ///
    /// # Errors
    /// If it can't be written; nothing of it is in the file then.
    pub fn log(&mut self, line: &str) -> io::Result<()> {
        let path = self.path.join(METRICS);
        let Some(metrics) = &mut self.metrics else { return Ok(()) };
        if !is_file_at(metrics, &path) && is_file_at(&self.lock, &self.path.join(LOCK)) {
            // It was deleted by itself; a folder that is gone is made again when something is saved.
            *metrics = append_to(&path)?;
        }
        let length = metrics.metadata()?.len();
        metrics.write_all(format!("{line}\n").as_bytes()).inspect_err(|_| {
            // On a full disk the line's beginning may have had room.
            let _ = metrics.set_len(length);
        })
    }

    /// Makes the folder again and takes hold of it if it was deleted or moved away since, so that what comes next is
    /// not lost with it. `file` is what is about to be saved.
    fn hold(&mut self, file: &Path) -> Result<(), CheckpointError> {
        if is_file_at(&self.lock, &self.path.join(LOCK)) {
            return Ok(());
        }
        self.hold_again().map_err(|source| CheckpointError::Save { path: file.to_owned(), source })
    }

    fn hold_again(&mut self) -> io::Result<()> {
        self.lock = lock(&self.path).map_err(|error| match error {
            FolderError::Io { source, .. } => source,
            locked @ FolderError::Locked { .. } => io::Error::other(locked.to_string()),
        })?;
        if self.metrics.as_ref().is_some_and(|metrics| is_file_at(metrics, &self.path.join(METRICS))) {
            // Only the lock was deleted.
            return Ok(());
        }
        // What is in it now may be another run's.
        self.numbered.clear();
        remove_leftovers(&self.path)?;
        set_aside_run(&self.path)?;
        self.metrics = Some(append_to(&self.path.join(METRICS))?);
        Ok(())
    }
}

/// A folder made for a run that did not begin goes again.
impl Drop for RunFolder {
    fn drop(&mut self) {
        if !self.made.is_empty() {
            let _ = fs::remove_file(self.path.join(LOCK));
            remove_folders(&self.made);
        }
    }
}

/// The newest checkpoint in the folder `path`, by the time it was written; none if there is no such folder.
///
/// # Errors
/// If the folder can't be read.
pub fn newest_checkpoint(path: &Path) -> io::Result<Option<PathBuf>> {
    let files = match checkpoints(path) {
        Ok(files) => files,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let time = |file: &PathBuf| fs::metadata(file).and_then(|metadata| metadata.modified()).ok();
    // Of equally old files the last by name: `step-...` after `best`, and the higher step.
    let newest = files.iter().max_by_key(|file| (time(file), *file));
    // Of the numbered ones the last, even if the date was set back meanwhile.
    let last = newest
        .filter(|file| step_of(file).is_some())
        .and_then(|_| files.iter().filter(|file| step_of(file).is_some()).max_by_key(|file| step_of(file)));
    Ok(last.or(newest).cloned())
}

fn lock(path: &Path) -> Result<File, FolderError> {
    let error = |source| FolderError::Io { path: path.to_owned(), source };
    fs::create_dir_all(path).map_err(error)?;
    let file = File::create(path.join(LOCK)).map_err(error)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(FolderError::Locked { path: path.to_owned() }),
        Err(TryLockError::Error(source)) => Err(error(source)),
    }
}

/// Whether the open `file` is the one at `path`, which may have been deleted or moved away since.
#[cfg(unix)]
fn is_file_at(file: &File, path: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    let identity = |metadata: fs::Metadata| (metadata.dev(), metadata.ino());
    match (file.metadata(), fs::metadata(path)) {
        (Ok(held), Ok(there)) => identity(held) == identity(there),
        _ => false,
    }
}

/// Windows lets nobody delete or move a folder with an open file in it.
#[cfg(not(unix))]
fn is_file_at(_: &File, _: &Path) -> bool {
    true
}

/// The checkpoints that a run made in the folder `path`.
fn run_files(path: &Path) -> io::Result<Vec<PathBuf>> {
    let best = path.join(BEST);
    let mut files = checkpoints(path)?;
    files.retain(|file| *file == best || step_of(file).is_some());
    Ok(files)
}

fn checkpoints(path: &Path) -> io::Result<Vec<PathBuf>> {
    let entries = fs::read_dir(path)?.collect::<Result<Vec<_>, _>>()?;
    let is_checkpoint =
        |file: &PathBuf| file.extension().is_some_and(|extension| extension == "shoe") && !file.is_dir();
    Ok(entries.into_iter().map(|entry| entry.path()).filter(is_checkpoint).collect())
}

fn step_of(file: &Path) -> Option<u64> {
    file.file_stem()?.to_str()?.strip_prefix("step-")?.parse().ok()
}

fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

/// Whether a checkpoint is old enough to go back to if training diverges at `step`.
fn is_trusted(file: &Path, step: u64) -> bool {
    step_of(file).is_some_and(|its_step| its_step + SUSPECT_STEPS <= step)
}

/// Moves the checkpoints and metrics of a run in `path` into a new subfolder.
fn set_aside_run(path: &Path) -> io::Result<Option<PathBuf>> {
    let mut files = run_files(path)?;
    files.extend(Some(path.join(METRICS)).filter(|metrics| metrics.exists()));
    set_aside(path, files)
}

/// Moves `files` in `path` into a new subfolder.
fn set_aside(path: &Path, files: Vec<PathBuf>) -> io::Result<Option<PathBuf>> {
    if files.is_empty() {
        return Ok(None);
    }
    let mut number = 1;
    let folder = loop {
        let folder = path.join(format!("earlier-{number}"));
        match fs::create_dir(&folder) {
            Ok(()) => break folder,
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => number += 1,
            Err(e) => return Err(e),
        }
    };
    for file in files {
        let name = file.file_name().unwrap_or_default();
        fs::rename(&file, folder.join(name))?;
    }
    Ok(Some(folder))
}

/// Drops the lines of `path` that tell of steps after `step`, and opens it to append.
fn cut_metrics(path: &Path, step: u64) -> io::Result<File> {
    let old = match read_at_most(path, LONGEST_METRICS) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
        Err(error) => return Err(error),
    };
    let kept = |line: &&str| {
        let value: Option<serde_json::Value> = serde_json::from_str(line).ok();
        value.and_then(|value| value["step"].as_u64()).is_some_and(|its_step| its_step <= step)
    };
    let text = String::from_utf8_lossy(&old);
    let lines: String = text.lines().filter(kept).flat_map(|line| [line, "\n"]).collect();
    if lines.as_bytes() != old {
        atomic_write(path, &[lines.as_bytes()])?;
    }
    append_to(path)
}

/// Opens `path`, making it if needed, so that every write goes to where it ends.
fn append_to(path: &Path) -> io::Result<File> {
    File::options().append(true).create(true).open(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn on_a_full_disk_the_oldest_checkpoint_makes_room_but_never_all_that_was_learned() {
        for (kind, steps, most_kept, is_saved, kept) in [
            (io::ErrorKind::StorageFull, &[0, 30, 60][..], 3, true, &[0, 30, 60][..]),
            (io::ErrorKind::StorageFull, &[0, 30, 60], 1, true, &[60]),
            (io::ErrorKind::QuotaExceeded, &[30, 60], 1, true, &[60]),
            (io::ErrorKind::StorageFull, &[30, 60], 0, false, &[60]),
            (io::ErrorKind::StorageFull, &[0], 0, true, &[]),
            (io::ErrorKind::StorageFull, &[], 0, true, &[]),
            (io::ErrorKind::PermissionDenied, &[0, 30, 60], 1, false, &[0, 30, 60]),
        ] {
            let temporary = tempfile::tempdir().unwrap();
            let path = temporary.path();
            let files = |steps: &[u64]| -> Vec<PathBuf> {
                steps.iter().map(|step| path.join(format!("step-{step:08}.shoe"))).collect()
            };
            let mut folder = RunFolder::open(path, 2, None).unwrap();
            folder.numbered = files(steps);
            folder.numbered.iter().for_each(|file| drop(File::create(file).unwrap()));
            // There is room beside so many of them.
            let saved = folder.save_in_room(|| match checkpoints(path).unwrap().len() {
                others if others <= most_kept => Ok(()),
                _ => Err(CheckpointError::Save { path: path.to_owned(), source: kind.into() }),
            });
            assert_eq!(saved.is_ok(), is_saved, "{steps:?}");
            assert_eq!(folder.numbered, files(kept), "{steps:?}");
            assert_eq!(checkpoints(path).unwrap().len(), kept.len(), "{steps:?}");
        }
    }
}
