//! The smallest whole model there is, which the fuzz targets and their seeds start from.

use shoestring::checkpoint::{
    Checkpoint, Contents, Position, Recipe, Record, RunLength, TrainingState, Validation, save,
};
use shoestring::kernels::{Kernels, Line, padded};
use shoestring::model::{Kind, Layout, Model, ModelConfig};
use shoestring::quantize::requantize;
use shoestring::tokenizer::Tokenizer;
use shoestring::train::initialise;

/// Tokens of [`tokenizer`]: four more than the smallest vocabulary, so that there are merges.
const VOCABULARY: usize = 265;

/// Sizes that keep files small, with every kind of tensor but a residual projection, which tying excludes.
pub const CONFIG: ModelConfig = ModelConfig {
    vocabulary: VOCABULARY,
    embedding: 2,
    hidden: 2,
    layers: 2,
    experts: 2,
    top_k: 1,
    tied: true,
    eps_rmsnorm: 1e-5,
};

/// A tokenizer with a few merges, one of them of merged tokens.
pub fn tokenizer() -> Tokenizer {
    let text = b"the then the there that this the then them theatre of the thin";
    let tokenizer = Tokenizer::train(&[text], VOCABULARY, 1).expect("the text has pairs to merge");
    assert_eq!(tokenizer.view().vocabulary_size(), VOCABULARY, "the text has too few pairs to merge");
    tokenizer
}

/// The bytes of a checkpoint of a model, with or without the state of its training.
pub fn checkpoint(resumable: bool) -> Vec<u8> {
    let layout = Layout::new(&CONFIG);
    let weights = initialise(&layout, 1);
    let moments = vec![Line([0.25; 16]); 2 * layout.lines];
    let recipe = recipe();
    let state = CONFIG.layers * CONFIG.experts * recipe.batch_size * padded(CONFIG.hidden);
    let position = Position {
        chunk: 3,
        carried_state: vec![0.5; state],
        lr_scale: 0.5,
        divergences: 1,
        lowest_loss: 2.5,
        text_hash: 0x0123_4567_89ab_cdef,
    };
    let training = TrainingState {
        weights: &weights,
        moments: &moments,
        position,
        model_data: vec!["text.txt".to_owned(), "more text.txt".to_owned()],
        validation_data: vec!["held-out.txt".to_owned()],
    };
    let validation = Validation { step: 6, nats_per_token: 3.0, nats_per_char: 2.0, bits_per_byte: 2.9 };
    let record = Record {
        version: "0.1.0".to_owned(),
        kernel: "scalar".to_owned(),
        dialogue: true,
        recipe: Some(recipe),
        step: 7,
        epoch: 1,
        tokens: 84,
        seconds: 1.5,
        loss: 3.1,
        validations: vec![validation; 2],
        expert_load: vec![0.75, 0.25],
    };
    let training = resumable.then_some(training);
    let contents = Contents { config: CONFIG, tokenizer: tokenizer(), weights: &weights, record, training };
    saved(Kind::F32, &contents)
}

fn saved(kind: Kind, contents: &Contents<'_>) -> Vec<u8> {
    let folder = tempfile::tempdir().expect("there is room for a temporary folder");
    let path = folder.path().join("model.shoe");
    save(&path, kind, contents).expect("there is room for a checkpoint");
    std::fs::read(&path).expect("the checkpoint is there")
}

fn recipe() -> Recipe {
    Recipe {
        name: "default".to_owned(),
        batch_size: 2,
        seq_length: 6,
        lr: 3e-3,
        warmup_steps: 2,
        final_lr: 0.05,
        beta1: 0.9,
        beta2: 0.99,
        eps_adamw: 1e-8,
        wd: 0.05,
        grad_clip: 1.0,
        dropout: 0.1,
        length: RunLength::Minutes(2.0),
        seed: 1,
    }
}

/// The bytes of a checkpoint of that model with weights of kind `kind`.
pub fn quantized(kind: Kind) -> Vec<u8> {
    let checkpoint =
        Checkpoint::from_bytes(&checkpoint(false), "the model").expect("the checkpoint is sound");
    let model = Model::new(checkpoint, Kernels::best());
    let weights = requantize(&model, kind).lines;
    let record = model.checkpoint().record();
    saved(
        kind,
        &Contents { config: CONFIG, tokenizer: tokenizer(), weights: &weights, record, training: None },
    )
}

/// A saved session of that model without training state.
pub fn session() -> Vec<u8> {
    let checkpoint =
        Checkpoint::from_bytes(&checkpoint(false), "the model").expect("the checkpoint is sound");
    let model = Model::new(checkpoint, Kernels::best());
    let mut session = model.session();
    session.feed("the thin theatre");
    session.save()
}

/// The model's `model.safetensors` without the length it starts with: header, a zero byte, data.
pub fn safetensors_input() -> Vec<u8> {
    let checkpoint =
        Checkpoint::from_bytes(&checkpoint(false), "the model").expect("the checkpoint is sound");
    let folder = tempfile::tempdir().expect("there is room for a temporary folder");
    shoestring::transfer::export(&Model::new(checkpoint, Kernels::best()), folder.path())
        .expect("there is room for the model");
    let file = std::fs::read(folder.path().join("model.safetensors")).expect("the model is there");
    let (length, rest) = file.split_first_chunk().expect("a file starts with its header's length");
    let (header, data) = rest.split_at(u64::from_le_bytes(*length) as usize);
    [header, &[0], data].concat()
}
