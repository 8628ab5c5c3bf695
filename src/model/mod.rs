//! The MoE-GRU language model: its configuration, where its weights lie, and how it reads and writes tokens. See
//! `docs/model.md` for the equations.

mod batch;
mod config;
mod decoder;
mod embedding;
mod encoding;
mod experts;
mod panels;
mod parameters;
pub mod router;
mod saved_session;
mod session;

pub use batch::Batch;
pub use config::{ConfigError, ModelConfig};
pub use decoder::{CHUNK, Decoder};
pub use encoding::{Encoding, Kind, Parts, Role};
pub use panels::{Activations, Panels};
pub use parameters::{LayerLayout, Layout, Storage, Tensor};
pub use saved_session::SessionError;
pub use session::{Session, Snapshot};

use crate::checkpoint::{Checkpoint, CheckpointError};
use crate::cores;
use crate::tokenizer::TokenizerView;
use shoestring_kernels::{Kernels, Line, Team};
use std::fmt;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

/// A model ready to run: a mapped checkpoint and the kernels that will read it.
///
/// ```no_run
/// use shoestring::{Model, sample::{Sampler, Sampling}};
///
/// let model = Model::open("model.shoe")?;
/// let mut session = model.session();
/// let mut sampler = Sampler::new(Sampling::default());
/// session.begin("Once upon a time");
/// let token = session.next_token(&mut sampler);
/// println!("{}", String::from_utf8_lossy(model.tokenizer().token(token)));
/// # Ok::<(), shoestring::checkpoint::CheckpointError>(())
/// ```
pub struct Model {
    checkpoint: Checkpoint,
    layout: Layout,
    kernels: &'static Kernels,
    team: Arc<Team>,
}

impl fmt::Debug for Model {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut fields = formatter.debug_struct("Model");
        fields.field("path", &self.checkpoint.path()).field("config", &self.config());
        fields.field("kernels", &self.kernels.name()).finish_non_exhaustive()
    }
}

impl Model {
    /// Maps the checkpoint at `path`, for the best kernels of this machine.
    ///
    /// # Errors
    /// If the file can't be read, or is not a whole and sound checkpoint of a known version.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, CheckpointError> {
        Ok(Model::new(Checkpoint::open(path.as_ref())?, Kernels::best()))
    }

    /// A model from an opened checkpoint, run by `kernels`, on one thread a physical core where it is worth it.
    pub fn new(checkpoint: Checkpoint, kernels: &'static Kernels) -> Self {
        let layout = Layout::of_kind(&checkpoint.config(), checkpoint.kind());
        Model { checkpoint, layout, kernels, team: Arc::new(Team::new(cores)) }
    }

    /// The same model, run on up to `threads` threads, or one a physical core. Their number does not change any result.
    pub fn on_threads(mut self, threads: Option<usize>) -> Self {
        self.team = Arc::new(Team::new(move || threads.unwrap_or_else(cores)));
        self
    }

    /// The sizes and options of the model.
    pub fn config(&self) -> ModelConfig {
        self.checkpoint.config()
    }

    /// The tokenizer stored with the model.
    pub fn tokenizer(&self) -> TokenizerView<'_> {
        self.checkpoint.tokenizer()
    }

    /// The checkpoint behind the model: how it was trained, what it lost.
    pub fn checkpoint(&self) -> &Checkpoint {
        &self.checkpoint
    }

    /// The weights, as the kernels read them.
    pub fn weights(&self) -> Weights<'_> {
        Weights { config: self.config(), layout: &self.layout, lines: self.checkpoint.weights() }
    }

    /// The kernels that run the model.
    pub fn kernels(&self) -> &'static Kernels {
        self.kernels
    }

    /// The threads that its sessions share, started when a large model or a long text first needs them.
    pub fn team(&self) -> &Arc<Team> {
        &self.team
    }

    /// A new conversation or text: state zero, nothing read.
    pub fn session(&self) -> Session<'_> {
        let decoder = Decoder::new(self.weights(), self.kernels, 1).on_team(Arc::clone(&self.team));
        Session::with_decoder(decoder, self.tokenizer(), self.checkpoint.checksum())
    }

    /// Several new texts side by side.
    ///
    /// # Panics
    /// If there is none.
    pub fn batch(&self, texts: usize) -> Batch<'_> {
        Batch::new(self.weights(), self.kernels, texts).on_team(Arc::clone(&self.team))
    }
}

/// Borrowed weights of a model: from a mapped file, or from a training run.
#[derive(Clone, Copy)]
pub struct Weights<'a> {
    /// Sizes and options.
    pub config: ModelConfig,
    /// The place of every tensor in `lines`.
    pub layout: &'a Layout,
    /// The flat buffer of all tensors.
    pub lines: &'a [Line],
}

impl<'a> Weights<'a> {
    /// The lines of one tensor.
    pub fn get(&self, range: &Range<usize>) -> &'a [Line] {
        &self.lines[range.clone()]
    }
}
