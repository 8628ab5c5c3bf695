//! How much memory training takes, known before it is taken.
//!
//! The sums follow the buffers' own lengths; `tests/memory.rs` holds them against what is allocated.

use super::network::HEAD_ROWS;
use crate::evaluate::STEPS;
use crate::model::{Layout, ModelConfig, Storage};
use shoestring_kernels::{Line, padded, panel_lines};

/// Buffers laid out as the weights: weights, average, gradient and two moments.
const COPIES: u64 = 5;
const FLOAT: u64 = size_of::<f32>() as u64;
const INDEX: u64 = size_of::<usize>() as u64;

/// Bytes that a [`Trainer`](super::Trainer) on chunks of `batch` streams of `steps` steps allocates, and a validation
/// beside it: without the text's tokens and the tokenizer. The configuration must be valid.
pub fn training_bytes(config: &ModelConfig, batch: usize, steps: usize) -> u64 {
    weights(config)
        + network(config, batch, steps)
        + backward(config, batch, steps)
        + network(config, 1, STEPS)
}

/// Everything that is laid out as the weights, or as their transposes.
fn weights(config: &ModelConfig) -> u64 {
    let layout = Layout::new(config);
    let transposed = layout.tensors.iter().map(|tensor| match tensor.storage {
        Storage::Rows { .. } => 0,
        Storage::Panels { matrices, rows, columns } => matrices as u64 * panel_lines(columns, rows) as u64,
    });
    (COPIES * layout.lines as u64 + transposed.sum::<u64>()) * size_of::<Line>() as u64
}

/// The buffers of a [`Network`](super::Network).
fn network(config: &ModelConfig, batch: usize, steps: usize) -> u64 {
    let Sizes { rows, hidden, embedding, experts, active, gathers } = Sizes::new(config, batch, steps);
    let (layers, computed) = (config.layers as u64, rows * active);
    let inputs = embedding + (layers - 1) * hidden;
    // Update gate, candidate, state and gate of the active experts; the states before them.
    let of_experts = layers * (computed * (3 * hidden + 1) + experts * batch as u64 * hidden);
    let of_rows = layers * rows * (padded(config.experts) as u64 + hidden + 1);
    let carried = layers * experts * batch as u64 * hidden;
    let logits = rows.min(HEAD_ROWS as u64) * padded(config.vocabulary) as u64;
    let floats =
        computed * gathers * inputs + of_experts + of_rows + rows * (inputs + hidden) + carried + logits;
    // Of the assignment: every expert's list of its rows, sources and places of what they compute; and of every
    // expert and stream three numbers, and the five of a run.
    let indices = layers * (rows * experts + 3 * computed + 8 * experts * batch as u64);
    FLOAT * floats + INDEX * indices + layers * rows * experts
}

/// The buffers of the backward pass.
fn backward(config: &ModelConfig, batch: usize, steps: usize) -> u64 {
    let Sizes { rows, hidden, embedding, experts, active, gathers } = Sizes::new(config, batch, steps);
    let widest = hidden.max(embedding);
    let gradients = rows * (2 * widest + padded(config.experts) as u64 + active);
    let gathered = gathers * rows * active * (hidden + widest);
    FLOAT * (gradients + gathered + experts * batch as u64 * hidden)
}

/// Sizes that several sums need; widths are padded.
struct Sizes {
    rows: u64,
    hidden: u64,
    embedding: u64,
    experts: u64,
    active: u64,
    /// 1 if the experts' rows are gathered, else 0.
    gathers: u64,
}

impl Sizes {
    fn new(config: &ModelConfig, batch: usize, steps: usize) -> Self {
        Sizes {
            rows: batch as u64 * steps as u64,
            hidden: padded(config.hidden) as u64,
            embedding: padded(config.embedding) as u64,
            experts: config.experts as u64,
            active: config.top_k as u64,
            gathers: u64::from(config.top_k < config.experts),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[cfg(target_pointer_width = "64")]
    fn the_largest_sizes_are_counted_without_overflow() {
        let largest = ModelConfig {
            vocabulary: 1 << 20,
            embedding: 1 << 14,
            hidden: 1 << 14,
            layers: 64,
            experts: 256,
            top_k: 256,
            tied: false,
            eps_rmsnorm: 1e-5,
        };
        assert_eq!(largest.validate(), Ok(()));
        assert!(training_bytes(&largest, 4096, 65_536) > 1 << 59);
    }
}
