//! Checkpoints (`.shoe`): a 64-byte header and one rkyv archive, mapped and used as it lies.
//!
//! Opening validates the file and unpacks the tokenizer, nothing else; weights go from the mapping straight into the
//! kernels. The format is described in `docs/checkpoint-format.md`.

mod header;
mod line;
mod save;
mod schema;

pub use header::reseal;
pub(crate) use save::{Staged, remove_leftovers, temporary_file};
pub use save::{atomic_write, save};
pub use schema::{Contents, Position, Recipe, RecipeError, Record, RunLength, TrainingState, Validation};

use crate::model::{ConfigError, Kind, Layout, ModelConfig};
use crate::tokenizer::{Tokenizer, TokenizerView};
use header::{HEADER_LENGTH, Header};
use memmap2::Mmap;
use rkyv::rancor;
use rkyv::util::AlignedVec;
use schema::{ArchivedContents, ArchivedTrainingState};
use shoestring_kernels::Line;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use thiserror::Error;

/// Files up to this length have their checksum verified when they are opened: it takes under a
/// millisecond. Larger ones are verified by [`Checkpoint::verify`].
const VERIFY_AT_OPEN: usize = 8 << 20;

/// Why a file could not be opened as a checkpoint.
#[derive(Debug, Error)]
#[expect(missing_docs, reason = "the fields are what the messages name")]
pub enum CheckpointError {
    /// The file can't be read.
    #[error("cannot open {path}: {source}", path = path.display())]
    Io { path: PathBuf, source: io::Error },
    /// The file is no checkpoint.
    #[error("{path} is not a shoestring checkpoint; name one of the .shoe files that `train` writes",
        path = path.display())]
    Foreign { path: PathBuf },
    /// The file ends too early.
    #[error("{path} is truncated: it has {length} bytes{}; use an earlier checkpoint",
        expected.map(|e| format!(" of {e}")).unwrap_or_default(), path = path.display())]
    Truncated { path: PathBuf, length: usize, expected: Option<u64> },
    /// The file's contents contradict themselves or their checksum.
    #[error("{path} is damaged: {what}; use an earlier checkpoint", path = path.display())]
    Damaged { path: PathBuf, what: String },
    /// The file was written by a newer version.
    #[error("{path} has format version {version}, newer than the {known} this shoestring reads; update shoestring",
        path = path.display())]
    Newer { path: PathBuf, version: u32, known: u32 },
    /// The file was written by a version whose files this one does not read.
    #[error("{path} has format version {version}, written by an older shoestring, and this one reads {known}; \
        export it with that one and import it here, or train again", path = path.display())]
    Older { path: PathBuf, version: u32, known: u32 },
    /// The file holds a model without the state of its training.
    #[error("{path} holds a model only, not the state of its training, so training can't go on from it; \
        use a numbered checkpoint of the run", path = path.display())]
    NoTrainingState { path: PathBuf },
    /// The file can't be written.
    #[error("cannot save {path}: {source}", path = path.display())]
    Save { path: PathBuf, source: io::Error },
    /// The model and its training state don't fit into one checkpoint.
    #[error("cannot save {path}: it would have {size} bytes, and a checkpoint has {largest} at most; \
        choose a smaller model", path = path.display())]
    TooLarge { path: PathBuf, size: usize, largest: usize },
}

/// An opened checkpoint. Everything but the tokenizer is read in place.
pub struct Checkpoint {
    bytes: Bytes,
    path: PathBuf,
    header: Header,
    tokenizer: Tokenizer,
}

enum Bytes {
    Mapped(Mmap),
    Static(&'static [u8]),
    Owned(AlignedVec<HEADER_LENGTH>),
}

/// Bytes placed on a 64-byte boundary, as a checkpoint's must be; for `include_bytes!`.
#[repr(C, align(64))]
pub struct Aligned<T: ?Sized>(pub T);

impl Checkpoint {
    /// Maps and validates the checkpoint at `path`.
    ///
    /// # Errors
    /// If it can't be read, or is foreign, truncated, damaged, or of another format version.
    pub fn open(path: &Path) -> Result<Self, CheckpointError> {
        let io_error = |source| CheckpointError::Io { path: path.to_owned(), source };
        // Before it is opened: opening a pipe waits for whoever writes to it.
        let metadata = fs::metadata(path).map_err(io_error)?;
        if metadata.is_dir() {
            return Err(io_error(io::ErrorKind::IsADirectory.into()));
        }
        if !metadata.is_file() {
            let what = "it is a device or a pipe; a checkpoint must be a file, to be mapped";
            return Err(io_error(io::Error::new(io::ErrorKind::InvalidInput, what)));
        }
        let file = File::open(path).map_err(io_error)?;
        if metadata.len() == 0 {
            return Err(CheckpointError::Truncated { path: path.to_owned(), length: 0, expected: None });
        }
        // SAFETY: the mapping is private and read-only. Another process that rewrites the file in place
        // could still change what is seen here; shoestring itself only ever replaces checkpoints by
        // renaming, which leaves a mapped file as it was.
        let map = unsafe { Mmap::map(&file) }.map_err(io_error)?;
        Checkpoint::validate(Bytes::Mapped(map), path.to_owned())
    }

    /// Validates a checkpoint that is part of the program; `name` stands for its path in errors.
    ///
    /// # Errors
    /// As [`Checkpoint::open`], and if `bytes` don't lie on a 64-byte boundary.
    pub fn from_static(bytes: &'static [u8], name: &str) -> Result<Self, CheckpointError> {
        Checkpoint::validate(Bytes::Static(bytes), name.into())
    }

    /// Validates a copy of a checkpoint that lies in memory; `name` stands for its path in errors.
    ///
    /// # Errors
    /// As [`Checkpoint::open`].
    pub fn from_bytes(bytes: &[u8], name: &str) -> Result<Self, CheckpointError> {
        let mut aligned = AlignedVec::with_capacity(bytes.len());
        aligned.extend_from_slice(bytes);
        Checkpoint::validate(Bytes::Owned(aligned), name.into())
    }

    fn validate(bytes: Bytes, path: PathBuf) -> Result<Self, CheckpointError> {
        let header = Header::parse(bytes.get(), &path)?;
        let mut checkpoint = Checkpoint { bytes, path, header, tokenizer: Tokenizer::default() };
        let file = checkpoint.bytes.get();
        if file.len() <= VERIFY_AT_OPEN {
            checkpoint.verify()?;
        }
        // What rkyv finds wrong is of use to nobody who can't read its source.
        rkyv::access::<ArchivedContents<'static>, rancor::Failure>(&file[HEADER_LENGTH..])
            .map_err(|_| checkpoint.damaged("its contents are inconsistent"))?;
        let archive = checkpoint.archive();
        let config = checkpoint.config();
        config.validate().map_err(|error: ConfigError| checkpoint.damaged(&error.to_string()))?;
        let lines = Layout::of_kind(&config, checkpoint.kind()).lines;
        if archive.weights.len() != lines {
            return Err(checkpoint.damaged("its weights don't fit its configuration"));
        }
        let tokenizer = archive.tokenizer.unpack().map_err(|e| checkpoint.damaged(&e.to_string()))?;
        if tokenizer.view().vocabulary_size() != config.vocabulary {
            return Err(checkpoint.damaged("its tokenizer doesn't fit its configuration"));
        }
        if let Some(training) = archive.training.as_ref() {
            let weights_fit = training.weights.len() == lines && training.moments.len() == 2 * lines;
            let recipe = checkpoint.record().recipe;
            let recipe_fits = recipe.is_some_and(|recipe| {
                recipe.validate().is_ok()
                    && recipe.state_length(&config) == Some(training.position.carried_state.len())
            });
            // Only floats can be trained on.
            if !weights_fit || !recipe_fits || checkpoint.kind() != Kind::F32 {
                return Err(checkpoint.damaged("its training state doesn't fit its configuration"));
            }
        }
        checkpoint.tokenizer = tokenizer;
        Ok(checkpoint)
    }

    /// Compares the whole file with its checksum.
    ///
    /// # Errors
    /// [`CheckpointError::Damaged`] if they differ.
    pub fn verify(&self) -> Result<(), CheckpointError> {
        if self.header.checksum_matches(self.bytes.get()) {
            Ok(())
        } else {
            Err(self.damaged("its checksum does not match"))
        }
    }

    /// Where the checkpoint was opened.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// How the weights are stored.
    pub fn kind(&self) -> Kind {
        self.header.kind
    }

    /// XXH3 of the file, which tells it from any other.
    pub fn checksum(&self) -> u64 {
        self.header.checksum
    }

    /// Size of the file in bytes.
    pub fn file_length(&self) -> usize {
        HEADER_LENGTH + self.header.archive_length
    }

    /// Sizes and options of the model.
    pub fn config(&self) -> ModelConfig {
        deserialize(&self.archive().config)
    }

    /// The weights, laid out as [`Layout::of_kind`] says for the checkpoint's kind.
    pub fn weights(&self) -> &[Line] {
        line::lines(&self.archive().weights)
    }

    /// The tokenizer whose ids the model was trained on.
    pub fn tokenizer(&self) -> TokenizerView<'_> {
        self.tokenizer.view()
    }

    /// How the model came to be.
    pub fn record(&self) -> Record {
        deserialize(&self.archive().record)
    }

    /// What it takes to go on training.
    ///
    /// # Errors
    /// [`CheckpointError::NoTrainingState`] if the file holds only a model, and
    /// [`CheckpointError::Damaged`] if the file doesn't match its checksum.
    pub fn training(&self) -> Result<TrainingView<'_>, CheckpointError> {
        self.verify()?;
        match self.archive().training.as_ref() {
            Some(archive) => Ok(TrainingView { archive }),
            None => Err(CheckpointError::NoTrainingState { path: self.path.clone() }),
        }
    }

    /// Whether training can go on from this file.
    pub fn is_resumable(&self) -> bool {
        self.archive().training.is_some()
    }

    fn archive(&self) -> &ArchivedContents<'_> {
        let archive = &self.bytes.get()[HEADER_LENGTH..];
        // SAFETY: `validate` ran rkyv's checked access on these bytes before any other use, and they have
        // not changed since.
        unsafe { rkyv::access_unchecked(archive) }
    }

    fn damaged(&self, what: &str) -> CheckpointError {
        CheckpointError::Damaged { path: self.path.clone(), what: what.to_owned() }
    }
}

/// The training state of an opened checkpoint.
pub struct TrainingView<'a> {
    archive: &'a ArchivedTrainingState<'a>,
}

impl<'a> TrainingView<'a> {
    /// The weights that training goes on from.
    pub fn weights(&self) -> &'a [Line] {
        line::lines(&self.archive.weights)
    }

    /// AdamW's first and second moments, each laid out as the weights: `[2, lines]`.
    pub fn moments(&self) -> &'a [Line] {
        line::lines(&self.archive.moments)
    }

    /// Where the run stands.
    pub fn position(&self) -> Position {
        deserialize(&self.archive.position)
    }

    /// Files the training text came from.
    pub fn model_data(&self) -> Vec<PathBuf> {
        self.archive.model_data.iter().map(|path| path.as_str().into()).collect()
    }

    /// Files the validation text came from; empty if it is the end of the training text.
    pub fn validation_data(&self) -> Vec<PathBuf> {
        self.archive.validation_data.iter().map(|path| path.as_str().into()).collect()
    }
}

impl Bytes {
    fn get(&self) -> &[u8] {
        match self {
            Bytes::Mapped(map) => map,
            Bytes::Static(bytes) => bytes,
            Bytes::Owned(bytes) => bytes,
        }
    }
}

/// The tokenizer of the checkpoint at `path`.
///
/// # Errors
/// As [`Checkpoint::open`].
pub fn open_tokenizer(path: &Path) -> Result<Tokenizer, CheckpointError> {
    Ok(Checkpoint::open(path)?.tokenizer)
}

/// Copies one of the small plain structs out of a validated archive.
fn deserialize<T>(archived: &T::Archived) -> T
where
    T: rkyv::Archive,
    T::Archived: rkyv::Deserialize<T, rancor::Strategy<rkyv::de::Pool, rancor::Panic>>,
{
    match rkyv::api::high::deserialize(archived) {
        Ok(value) => value,
        Err(never) => panic!("plain data without shared pointers always deserializes: {never:?}"),
    }
}
