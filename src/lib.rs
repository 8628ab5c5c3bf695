//! shoestring: train a compact recurrent language model (MoE-GRU) on your own text, on a CPU, and chat
//! with it.
//!
//! The parts, in the order a reader may want them: [`model`] (configuration, parameters, decoding),
//! [`mod@reference`] (the same model in plain loops, which everything is tested against), [`train`],
//! [`tokenizer`], [`checkpoint`], [`sample`], [`generate`], [`chat`]. All arithmetic is done by the
//! kernels of the crate `shoestring-kernels`.

pub mod bench;
pub mod bundled;
pub mod chat;
pub mod checkpoint;
#[cfg(feature = "cli")]
#[doc(hidden)]
pub mod cli;
pub mod evaluate;
mod files;
pub mod generate;
pub mod model;
#[cfg(feature = "plot")]
pub mod plot;
pub mod quantize;
pub mod reference;
pub mod sample;
pub mod text;
pub mod tokenizer;
pub mod train;
pub mod transfer;

pub use model::{Model, ModelConfig, Session};
pub use shoestring_kernels as kernels;

/// Physical cores this process may use, as its affinity and its control group allow.
fn cores() -> usize {
    num_cpus::get_physical().min(num_cpus::get())
}

// The examples of these pages are tests.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;

#[cfg(doctest)]
#[doc = include_str!("../docs/embedding.md")]
struct Embedding;
