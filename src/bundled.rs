//! What comes with the program: a corpus of simple conversation and a model trained on it.

use crate::checkpoint::{Aligned, Checkpoint, CheckpointError};

/// The bundled corpus: `[USER]/[BOT]/[EOS]` turns, public domain (CC0).
pub const CORPUS: &[u8] = include_bytes!("../data/conversations.txt");

static MODEL: &Aligned<[u8]> = &Aligned(*include_bytes!("../models/conversation.shoe"));

/// The bundled model.
///
/// # Errors
/// None, unless the program itself is damaged.
pub fn model() -> Result<Checkpoint, CheckpointError> {
    Checkpoint::from_static(&MODEL.0, "the bundled model")
}
