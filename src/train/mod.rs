//! Training: data streams, the forward and backward pass over a chunk, the optimizer and the run.

mod assignment;
mod average;
mod backward;
mod cache;
mod clock;
mod corpus;
mod data;
mod folder;
mod geometry;
mod initialise;
mod memory;
mod metrics;
mod network;
mod optimizer;
mod random;
mod recipe;
mod run;
mod schedule;
mod tokenize;
mod tokens;
mod trainer;
mod transpose;

pub use corpus::Corpus;
pub use data::Streams;
pub use folder::{BEST, FolderError, LONGEST_METRICS, METRICS, RunFolder, newest_checkpoint};
pub use initialise::initialise;
pub use memory::training_bytes;
pub use network::{Dropout, Network};
pub use optimizer::Update;
pub use recipe::{Size, classic_recipe, default_recipe};
pub use run::{Event, Options, Outcome, Run, TrainError};
pub use schedule::Progress;
pub use tokenize::{HeldOut, TokenizedCorpus};
pub use tokens::{Tokens, TokensError};
pub use trainer::{StepReport, Trainer};
