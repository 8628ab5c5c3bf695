//! What this machine can do, and how much of that the kernels make of it.
//!
//! [`Peaks`] are measured with probes: multiply-adds on registers, reads from each cache and from memory.
//! [`Operation`]s are the kernels' work in the shapes of the default model, each compared with the peak that
//! limits it. [`training`] and [`decoding`] are the whole model. Every number is a median; see
//! `docs/benchmarks.md` for how to read them.

mod machine;
mod model;
mod operations;
mod peaks;
mod timing;

pub use machine::{Cache, Machine};
pub use model::{Decoding, Training, decoding, training};
pub use operations::{Buffers, Call, Measured, Operation, Work, shapes};
pub use peaks::{Memory, Peaks, Read};
pub use timing::Effort;

use crate::model::ModelConfig;

/// The sizes that `train` has without flags.
pub const DEFAULT_MODEL: ModelConfig = ModelConfig {
    vocabulary: 850,
    embedding: 96,
    hidden: 96,
    layers: 2,
    experts: 6,
    top_k: 6,
    tied: false,
    eps_rmsnorm: 1e-5,
};
