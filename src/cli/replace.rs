//! What the files that commands write may take the place of: an earlier one of their kind, and nothing else.

use super::{UsageError, is_same_file};
use crate::checkpoint::{Checkpoint, CheckpointError};
use crate::files::read_text;
use crate::tokenizer::Tokenizer;
use crate::transfer::{self, LONGEST_TOKENIZER};
use std::path::Path;

/// An error if writing `output` would replace `input`.
pub fn refuse_overwriting(input: &Path, output: &Path) -> Result<(), UsageError> {
    if is_same_file(input, output) {
        return Err(UsageError(format!("{} is both input and output; name another output", input.display())));
    }
    Ok(())
}

/// An error if the file at `path`, where a model is to be written, holds something else than one: a text, or a run to
/// go on with.
pub fn only_a_model(path: &Path) -> Result<(), UsageError> {
    only_if(path, |path| {
        let output = path.display();
        match Checkpoint::open(path) {
            Ok(checkpoint) if checkpoint.is_resumable() => Err(format!("{output} holds a run to go on with")),
            Ok(_) => Ok(()),
            Err(CheckpointError::Foreign { .. }) => Err(format!("{output} is there, and is no model")),
            Err(error) => Err(format!("{output} would be replaced, and may be of use: {error}")),
        }
    })
}

/// An error if the file at `path`, where a tokenizer.json is to be written, holds something else than one.
pub fn only_a_tokenizer(path: &Path) -> Result<(), UsageError> {
    only_if(path, |path| {
        let is_one = read_text(path, LONGEST_TOKENIZER).is_ok_and(|json| Tokenizer::from_json(&json).is_ok());
        is_one.then_some(()).ok_or_else(|| format!("{} is there, and is no tokenizer.json", path.display()))
    })
}

/// An error if `folder`, where a model is to be exported to, holds another program's.
pub fn only_an_exported_model(folder: &Path) -> Result<(), UsageError> {
    only_if(&folder.join(transfer::WEIGHTS), |path| {
        let is_one = transfer::is_exported(path);
        is_one
            .then_some(())
            .ok_or_else(|| format!("{} is there, and not of a shoestring model", path.display()))
    })?;
    only_a_tokenizer(&folder.join(transfer::TOKENIZER))
}

/// An error unless there is nothing to lose at `path`, or `judge` finds nothing against losing it.
fn only_if(path: &Path, judge: impl FnOnce(&Path) -> Result<(), String>) -> Result<(), UsageError> {
    if !path.metadata().is_ok_and(|file| file.is_file() && file.len() > 0) {
        return Ok(());
    }
    judge(path).map_err(|what| UsageError(format!("{what}; name another output, or delete it")))
}
