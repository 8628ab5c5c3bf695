//! The sizes and options that define a model.

use rkyv::{Archive, Deserialize, Serialize};
use shoestring_kernels::padded;
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
    // Those of an epsilon are f32, and read as such.
    #[error("{name} is {value}; it must lie between {} and {}", *low as f32, *high as f32)]
    OutOfRange {
        /// The size, as flags and exported models call it.
        name: &'static str,
        /// What it is.
        value: f64,
        /// The least it can be.
        low: f64,
        /// The most it can be.
        high: f64,
    },
    /// Tying needs D = H.
    #[error("a tied head needs embedding-dim = gru-hidden-size, but they are {embedding} and {hidden}")]
    TiedWidths {
        /// D.
        embedding: usize,
        /// H.
        hidden: usize,
    },
    /// All weights together have more bytes than a pointer reaches, which takes a 32-bit system.
    #[error("the weights take {:.1} GB of memory, more than this system can address", *.bytes as f64 / 1e9)]
    TooLarge {
        /// Of the weights in f32.
        bytes: u64,
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
            ("embedding-dim", self.embedding, 1, 1 << 14),
            ("gru-hidden-size", self.hidden, 1, 1 << 14),
            ("gru-layers", self.layers, 1, 64),
            ("num-experts", self.experts, 1, 256),
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
        self.fits(isize::MAX as u64)
    }

    /// Whether the weights can lie in memory of which one object has at most `most` bytes, so that no size computed from
    /// valid sizes overflows.
    fn fits(&self, most: u64) -> Result<(), ConfigError> {
        let bytes = self.weight_bytes();
        if bytes > most { Err(ConfigError::TooLarge { bytes }) } else { Ok(()) }
    }

    /// Bytes of the weights in f32, rows and columns padded: no kind or layout of them has more.
    fn weight_bytes(&self) -> u64 {
        let wide = |size: usize| padded(size) as u64;
        let (vocabulary, hidden) = (wide(self.vocabulary), wide(self.hidden));
        let layer = |layer: usize| {
            let input = wide(self.input_width(layer));
            let router = wide(self.experts) * (input + 1);
            let expert = 2 * hidden * (input + 1) + hidden * hidden;
            let (residual, norm) = (hidden * (input + 1), hidden);
            router + self.experts as u64 * expert + residual + norm
        };
        let tables = vocabulary * (wide(self.embedding) + hidden + 1);
        size_of::<f32>() as u64 * (tables + (0..self.layers).map(layer).sum::<u64>())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Kind, Layout};
    use crate::train::Size;
    use proptest::prelude::*;
    use shoestring_kernels::Line;

    proptest! {
        #[test]
        fn no_layout_has_more_bytes_than_a_configuration_counts(
            (vocabulary, embedding, hidden) in (1..600_usize, 1..100_usize, 1..100_usize),
            (layers, experts, tied) in (1..4_usize, 1..20_usize, any::<bool>()),
        ) {
            let embedding = if tied { hidden } else { embedding };
            let (top_k, eps_rmsnorm) = (experts, 1e-5);
            let config = ModelConfig { vocabulary, embedding, hidden, layers, experts, top_k, tied, eps_rmsnorm };
            for kind in Kind::ALL {
                let bytes = (Layout::of_kind(&config, kind).lines * size_of::<Line>()) as u64;
                prop_assert!(bytes <= config.weight_bytes(), "{config:?} as {}", kind.name());
            }
        }
    }

    #[test]
    fn what_32_bits_cannot_address_is_too_large_and_the_largest_of_all_does_not_overflow() {
        let most = i32::MAX as u64;
        for size in Size::ALL {
            assert_eq!(size.config().fits(most), Ok(()));
        }
        let wide = ModelConfig { hidden: 1 << 14, ..Size::Small.config() };
        assert_eq!(wide.fits(most), Err(ConfigError::TooLarge { bytes: wide.weight_bytes() }));
        let largest =
            ModelConfig { vocabulary: 1 << 20, embedding: 1 << 14, layers: 64, experts: 256, ..wide };
        // Nearly all are three matrices of each expert.
        let matrices: u64 = (4 * 3 * 256 * 64) << 28;
        assert!((matrices..matrices + matrices / 99).contains(&largest.weight_bytes()));
        let error = ConfigError::TooLarge { bytes: 25_930_000_000 }.to_string();
        assert_eq!(error, "the weights take 25.9 GB of memory, more than this system can address");
    }
}
