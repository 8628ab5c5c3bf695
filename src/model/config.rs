//! The sizes and options that define a model.

use rkyv::{Archive, Deserialize, Serialize};
use thiserror::Error;

/// Sizes and options of a MoE-GRU language model; everything a forward pass needs to know
/// besides the weights.
#[derive(Archive, Serialize, Deserialize, Clone, Copy, Debug, PartialEq)]
pub struct ModelConfig {
    /// V: number of tokens the model knows.
    pub vocabulary: usize,
    /// D: width of a token's embedding.
    pub embedding: usize,
    /// H: width of an expert's state and of a layer's output.
    pub hidden: usize,
    /// L: number of MoE-GRU layers.
    pub layers: usize,
    /// E: experts in a layer.
    pub experts: usize,
    /// k: experts that run for a token; `experts` means all of them (dense).
    pub top_k: usize,
    /// The head shares the embedding's matrix (needs D = H).
    pub tied: bool,
    /// Epsilon inside the RMSNorm's square root.
    pub eps_rmsnorm: f32,
}

/// What is wrong with a [`ModelConfig`].
#[derive(Debug, Error, PartialEq)]
pub enum ConfigError {
    /// A size lies outside what is supported.
    #[error("{name} is {value}; it must lie between {low} and {high}")]
    OutOfRange {
        /// The size, as its flag is called.
        name: &'static str,
        /// What it is.
        value: f64,
        /// The least it can be.
        low: f64,
        /// The most it can be.
        high: f64,
    },
    /// Tying needs D = H.
    #[error("a tied head needs embedding = hidden, but they are {embedding} and {hidden}")]
    TiedWidths {
        /// D.
        embedding: usize,
        /// H.
        hidden: usize,
    },
}

impl ModelConfig {
    /// The least and the largest epsilon of RMSNorm.
    pub const EPS_RMSNORM: [f32; 2] = [1e-12, 1.0];

    /// D_i: width of layer `layer`'s input: the embedding for the first, the hidden width after.
    pub fn input_width(&self, layer: usize) -> usize {
        if layer == 0 { self.embedding } else { self.hidden }
    }

    /// Whether layer `layer` projects its residual (its input and output widths differ).
    pub fn projects_residual(&self, layer: usize) -> bool {
        self.input_width(layer) != self.hidden
    }

    /// Checks every size against what the kernels and the file format support.
    pub fn validate(&self) -> Result<(), ConfigError> {
        let ranges = [
            ("vocabulary", self.vocabulary, 1, 1 << 20),
            ("embedding", self.embedding, 1, 1 << 14),
            ("hidden", self.hidden, 1, 1 << 14),
            ("layers", self.layers, 1, 64),
            ("experts", self.experts, 1, 256),
            ("top-k", self.top_k, 1, self.experts),
        ];
        for (name, value, low, high) in ranges {
            if value < low || value > high {
                let [value, low, high] = [value as f64, low as f64, high as f64];
                return Err(ConfigError::OutOfRange { name, value, low, high });
            }
        }
        let [low, high] = Self::EPS_RMSNORM;
        if !(low..=high).contains(&self.eps_rmsnorm) {
            let [value, low, high] = [self.eps_rmsnorm, low, high].map(f64::from);
            return Err(ConfigError::OutOfRange { name: "eps-rmsnorm", value, low, high });
        }
        if self.tied && self.embedding != self.hidden {
            return Err(ConfigError::TiedWidths { embedding: self.embedding, hidden: self.hidden });
        }
        Ok(())
    }
}
