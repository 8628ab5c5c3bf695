//! Untrained models of any size, saved without training them: weights at random, so that they write anything.

#![allow(dead_code, reason = "each test program uses only some of it")]

use super::dialogue::dialogue;
use shoestring::checkpoint::{CheckpointError, Contents, Position, Record, TrainingState, Validation, save};
use shoestring::kernels::{Line, padded};
use shoestring::model::{Kind, Layout, Model, ModelConfig};
use shoestring::quantize::requantize;
use shoestring::tokenizer::{MINIMUM_VOCABULARY, Special, Tokenizer};
use shoestring::train::{default_recipe, initialise};
use std::path::Path;

/// A small model with two layers and a choice of experts.
pub const SMALL: ModelConfig = ModelConfig {
    vocabulary: 300,
    embedding: 12,
    hidden: 16,
    layers: 2,
    experts: 3,
    top_k: 2,
    tied: false,
    eps_rmsnorm: 1e-5,
};

/// The smallest model there is.
pub const SMALLEST: ModelConfig = ModelConfig {
    vocabulary: MINIMUM_VOCABULARY + 2,
    embedding: 1,
    hidden: 1,
    layers: 1,
    experts: 1,
    top_k: 1,
    tied: true,
    eps_rmsnorm: 1e-5,
};

/// A tokenizer of exactly `vocabulary` tokens.
pub fn tokenizer(vocabulary: usize) -> Tokenizer {
    let text = dialogue(20_000);
    let tokenizer = Tokenizer::train(&[text.as_bytes()], vocabulary, 1).unwrap();
    assert_eq!(tokenizer.view().vocabulary_size(), vocabulary);
    tokenizer
}

/// A record with something in every field.
pub fn record(dialogue: bool) -> Record {
    let validation = Validation { step: 3, nats_per_token: 2.5, nats_per_char: 1.25, bits_per_byte: 1.75 };
    Record {
        version: "0.0.0".to_owned(),
        kernel: "scalar".to_owned(),
        dialogue,
        recipe: Some(default_recipe()),
        step: 7,
        epoch: 2,
        tokens: 1000,
        seconds: 1.5,
        loss: 3.25,
        validations: vec![validation],
        expert_load: vec![0.75, 0.25],
    }
}

/// Saves an untrained model.
pub fn save_model(path: &Path, config: ModelConfig, dialogue: bool) {
    save_weights(path, config, &initialise(&Layout::new(&config), 1), dialogue);
}

/// Saves an untrained model of dialogues whose replies do not end.
pub fn save_endless_model(path: &Path, config: ModelConfig) {
    let layout = Layout::new(&config);
    let mut weights = initialise(&layout, 1); // [lines]
    // Never a special token: ids 0 to 4.
    weights[layout.head_bias.start].0[..5].fill(-1e6);
    save_weights(path, config, &weights, true);
}

/// Saves an untrained model of plain text that begins a new line with every other token or so.
pub fn save_model_of_short_lines(path: &Path, config: ModelConfig) {
    let layout = Layout::new(&config);
    let mut weights = initialise(&layout, 1); // [lines]
    let mut line_end = Vec::new();
    tokenizer(config.vocabulary).view().encode(b"\n", Special::AsText, &mut line_end);
    let line_end = line_end[0] as usize;
    weights[layout.head_bias.start + line_end / 16].0[line_end % 16] = 5.0;
    save_weights(path, config, &weights, false);
}

/// Saves a model whose state runs away over any text.
pub fn save_runaway_model(path: &Path, config: ModelConfig) {
    save_weights(path, config, &vec![Line([1e30; 16]); Layout::new(&config).lines], true);
}

/// Saves an untrained model with this record.
pub fn save_with_record(path: &Path, config: ModelConfig, record: Record) {
    save_contents(path, config, &initialise(&Layout::new(&config), 1), record);
}

fn save_weights(path: &Path, config: ModelConfig, weights: &[Line], dialogue: bool) {
    save_contents(path, config, weights, record(dialogue));
}

fn save_contents(path: &Path, config: ModelConfig, weights: &[Line], record: Record) {
    let tokenizer = tokenizer(config.vocabulary);
    save(path, Kind::F32, &Contents { config, tokenizer, weights, record, training: None }).unwrap();
}

/// Saves the model at `from` with weights of kind `kind`.
pub fn convert(from: &Path, to: &Path, kind: Kind) {
    let original = Model::open(from).unwrap();
    let quantized = requantize(&original, kind);
    let contents = Contents {
        config: original.config(),
        tokenizer: original.tokenizer().to_owned(),
        weights: &quantized.lines,
        record: original.checkpoint().record(),
        training: None,
    };
    save(to, kind, &contents).unwrap();
}

/// Saves an untrained model with the state of a training.
pub fn save_resumable(path: &Path, config: ModelConfig) {
    save_training_of_kind(path, config, Kind::F32);
}

/// The same with weights of any kind, of which only floats can be trained on.
pub fn save_training_of_kind(path: &Path, config: ModelConfig, kind: Kind) {
    let carried = config.layers * config.experts * default_recipe().batch_size * padded(config.hidden);
    save_training(path, config, kind, vec![0.5; carried]).unwrap();
}

/// The same with any state carried between chunks, [L, E, B, padded(H)] if it is to fit the model.
pub fn save_training(
    path: &Path,
    config: ModelConfig,
    kind: Kind,
    carried_state: Vec<f32>,
) -> Result<(), CheckpointError> {
    let lines = Layout::of_kind(&config, kind).lines;
    let weights = vec![Line([0.125; 16]); lines]; // [lines]
    let mut average = initialise(&Layout::new(&config), 1); // [lines]
    average.resize(lines, Line::default());
    let moments = [0.5, 0.25].map(|value| vec![Line([value; 16]); lines]).concat(); // [2, lines]
    let position =
        Position { chunk: 5, carried_state, lr_scale: 0.5, divergences: 1, lowest_loss: 2.5, text_hash: 12 };
    let training = TrainingState {
        weights: &weights,
        moments: &moments,
        position,
        model_data: vec!["a.txt".to_owned(), "b.txt".to_owned()],
        validation_data: vec!["c.txt".to_owned()],
    };
    let (tokenizer, record) = (tokenizer(config.vocabulary), record(true));
    save(path, kind, &Contents { config, tokenizer, weights: &average, record, training: Some(training) })
}
