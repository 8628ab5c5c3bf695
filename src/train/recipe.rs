//! Sizes of a model by name, and settings to train each of them: those of `small` were found by measurement, decay and
//! dropout of `medium` and the rates of `medium` and `large` with all experts too; the others follow their trend (lower rates,
//! more decay and dropout for wider models) and have not been measured. `docs/training.md` has the figures.

use crate::checkpoint::{Recipe, RunLength};
use crate::model::ModelConfig;

/// What `--size` names: sizes of a model, and a recipe for each.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Size {
    /// About 0.1 million parameters.
    Tiny,
    /// About 0.5 million.
    #[default]
    Small,
    /// About 2 million.
    Medium,
    /// About 5 million.
    Large,
}

/// One row of the table.
struct Preset {
    size: Size,
    name: &'static str,
    vocabulary: usize,
    embedding: usize,
    hidden: usize,
    layers: usize,
    experts: usize,
    batch_size: usize,
    seq_length: usize,
    lr: f32,
    /// The rate with k < E. An expert learns from a part of the tokens only; a higher rate makes up for some of
    /// that, in short runs and long ones (`docs/training.md`).
    sparse_lr: f32,
    wd: f32,
    dropout: f32,
}

#[rustfmt::skip]
const PRESETS: [Preset; 4] = [
    Preset {
        size: Size::Tiny, name: "tiny", vocabulary: 512, embedding: 48, hidden: 48, layers: 2, experts: 4,
        batch_size: 16, seq_length: 80, lr: 8e-3, sparse_lr: 1e-2, wd: 0.1, dropout: 0.15,
    },
    Preset {
        size: Size::Small, name: "small", vocabulary: 850, embedding: 96, hidden: 96, layers: 2, experts: 6,
        batch_size: 16, seq_length: 80, lr: 5e-3, sparse_lr: 7e-3, wd: 0.1, dropout: 0.3,
    },
    Preset {
        size: Size::Medium, name: "medium", vocabulary: 1700, embedding: 192, hidden: 192, layers: 2, experts: 6,
        batch_size: 16, seq_length: 80, lr: 4.5e-3, sparse_lr: 6e-3, wd: 0.15, dropout: 0.35,
    },
    Preset {
        size: Size::Large, name: "large", vocabulary: 2000, embedding: 320, hidden: 320, layers: 2, experts: 6,
        batch_size: 16, seq_length: 80, lr: 3e-3, sparse_lr: 4e-3, wd: 0.15, dropout: 0.4,
    },
];

impl Size {
    /// All of them, smallest first.
    pub const ALL: [Size; 4] = [Size::Tiny, Size::Small, Size::Medium, Size::Large];

    fn preset(self) -> &'static Preset {
        &PRESETS[self as usize]
    }

    /// Its name, as `--size` takes it.
    pub fn name(self) -> &'static str {
        self.preset().name
    }

    /// The size of this name.
    pub fn named(name: &str) -> Option<Self> {
        PRESETS.iter().find(|preset| preset.name == name).map(|preset| preset.size)
    }

    /// The size whose widths, layers and experts a model has; its vocabulary depends on the text, too.
    pub fn of(config: &ModelConfig) -> Option<Self> {
        let ModelConfig { embedding, hidden, layers, experts, .. } = *config;
        Self::ALL.into_iter().find(|size| {
            let own = size.config();
            (own.embedding, own.hidden, own.layers, own.experts) == (embedding, hidden, layers, experts)
        })
    }

    /// A dense model of this size, with all the vocabulary it may have.
    pub fn config(self) -> ModelConfig {
        let &Preset { vocabulary, embedding, hidden, layers, experts, .. } = self.preset();
        ModelConfig {
            vocabulary,
            embedding,
            hidden,
            layers,
            experts,
            top_k: experts,
            tied: false,
            eps_rmsnorm: 1e-5,
        }
    }

    /// The settings to train this size with; `sparse` if k < E.
    pub fn recipe(self, sparse: bool) -> Recipe {
        let preset = self.preset();
        Recipe {
            name: preset.name.to_owned(),
            batch_size: preset.batch_size,
            seq_length: preset.seq_length,
            lr: if sparse { preset.sparse_lr } else { preset.lr },
            warmup_steps: 100,
            final_lr: 0.05,
            beta1: 0.9,
            beta2: 0.99,
            eps_adamw: 1e-8,
            wd: preset.wd,
            grad_clip: 1.0,
            dropout: preset.dropout,
            length: RunLength::Minutes(5.0),
            seed: 1,
        }
    }
}

/// The settings where nothing else is named: the default size's, dense.
pub fn default_recipe() -> Recipe {
    Size::default().recipe(false)
}

/// How the model's first implementation trained it.
pub fn classic_recipe() -> Recipe {
    Recipe {
        name: "classic".to_owned(),
        batch_size: 16,
        seq_length: 80,
        lr: 1e-3,
        warmup_steps: 0,
        final_lr: 1.0,
        beta1: 0.9,
        beta2: 0.999,
        eps_adamw: 1e-8,
        wd: 0.01,
        grad_clip: 5.0,
        dropout: 0.0,
        length: RunLength::Epochs(5),
        seed: 1,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Layout;

    #[test]
    fn each_size_has_about_the_parameters_it_says() {
        let parameters = Size::ALL.map(|size| Layout::new(&size.config()).parameters());
        assert_eq!(parameters[1], 499_486);
        for (parameters, expected) in parameters.into_iter().zip([1e5, 5e5, 2e6, 5e6]) {
            assert!((parameters as f64 / expected - 1.0).abs() < 0.1, "{parameters}");
        }
    }

    #[test]
    fn a_size_is_found_by_its_name_and_by_its_config() {
        for (size, preset) in Size::ALL.into_iter().zip(&PRESETS) {
            assert_eq!(size, preset.size);
            assert_eq!(Size::named(size.name()), Some(size));
            assert_eq!(Size::of(&ModelConfig { vocabulary: 300, top_k: 1, ..size.config() }), Some(size));
            assert!(size.config().validate().is_ok());
        }
        assert_eq!(Size::of(&ModelConfig { layers: 3, ..Size::Small.config() }), None);
        assert_eq!(Size::named("huge"), None);
    }
}
