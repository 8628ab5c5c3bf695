//! Models to and from safetensors: `model.safetensors` and `tokenizer.json` in one folder.
//!
//! Tensors are row-major [out, in] f32 under the names of [`crate::model::Layout`]; the configuration
//! is in the file's metadata, as strings. `docs/export.py` runs such a model in PyTorch.

use crate::checkpoint::{CheckpointError, Contents, Record, Staged, save};
use crate::files::{in_folder, read_text, require_file};
use crate::model::{Kind, Layout, Model, ModelConfig, Tensor};
use crate::tokenizer::{Tokenizer, TokenizerError};
use half::{bf16, f16};
use safetensors::{Dtype, SafeTensors, tensor::TensorView};
use serde_json::{Map, Value, json};
use shoestring_kernels::Line;
use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use thiserror::Error;

/// The files of an exported model.
pub const WEIGHTS: &str = "model.safetensors";
/// Beside [`WEIGHTS`].
pub const TOKENIZER: &str = "tokenizer.json";
/// Bytes of a `tokenizer.json` at most.
pub const LONGEST_TOKENIZER: u64 = 1_000_000_000;

/// Bytes of a safetensors header at most, as the crate has it.
const LONGEST_HEADER: u64 = 100_000_000;
/// What a file's metadata calls the model in it.
const MODEL: &str = "shoestring MoE-GRU";

/// Why a model could not be exported or imported.
#[derive(Debug, Error)]
#[expect(missing_docs, reason = "the fields are what the messages name")]
pub enum TransferError {
    /// A file can't be read.
    #[error("cannot read {path}: {source}", path = path.display())]
    Read { path: PathBuf, source: io::Error },
    /// A file can't be written.
    #[error("cannot write {path}: {source}", path = path.display())]
    Write { path: PathBuf, source: io::Error },
    /// The file is not safetensors.
    #[error("{path} is not a safetensors file; export the model again: {source}", path = path.display())]
    Format { path: PathBuf, source: safetensors::SafeTensorError },
    /// The tokenizer's file is wrong.
    #[error("{path}: {source}", path = path.display())]
    Tokenizer { path: PathBuf, source: TokenizerError },
    /// Everything that is wrong with the tensors and metadata.
    #[error("{path} can't be imported: {}", problems.join("; "), path = path.display())]
    Contents { path: PathBuf, problems: Vec<String> },
    /// The checkpoint can't be saved.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
}

/// Writes `model` to the folder `folder`, making it if needed.
///
/// # Errors
/// If a file can't be written.
pub fn export(model: &Model, folder: &Path) -> Result<(), TransferError> {
    in_folder(folder, write_error(folder), || write_into(model, folder))
}

fn write_error(path: &Path) -> impl FnOnce(io::Error) -> TransferError {
    let path = path.to_owned();
    move |source| TransferError::Write { path, source }
}

fn write_into(model: &Model, folder: &Path) -> Result<(), TransferError> {
    let (weights, tokenizer) = (folder.join(WEIGHTS), folder.join(TOKENIZER));
    let (header, data) = to_safetensors(model);
    let length = (header.len() as u64).to_le_bytes();
    let json = model.tokenizer().to_owned().to_json();
    // Neither file without the other: both are on the disk before either takes the place of an earlier one.
    let staged_weights =
        Staged::write(&weights, &[&length, &header, &data]).map_err(write_error(&weights))?;
    let staged_tokenizer = Staged::write(&tokenizer, &[json.as_bytes()]).map_err(write_error(&tokenizer))?;
    staged_weights.commit().map_err(write_error(&weights))?;
    staged_tokenizer.commit().map_err(write_error(&tokenizer))
}

/// Makes the checkpoint `out` of the model in `folder`, and returns its configuration.
///
/// # Errors
/// If a file can't be read or written, or does not hold a sound model; all problems of the tensors are
/// listed at once.
pub fn import(folder: &Path, out: &Path) -> Result<ModelConfig, TransferError> {
    let path = folder.join(WEIGHTS);
    let read_error = |path: &Path, source| TransferError::Read { path: path.to_owned(), source };
    let bytes =
        require_file(&path).and_then(|()| fs::read(&path)).map_err(|error| read_error(&path, error))?;
    let tokenizer_path = folder.join(TOKENIZER);
    let json =
        read_text(&tokenizer_path, LONGEST_TOKENIZER).map_err(|error| read_error(&tokenizer_path, error))?;
    let tokenizer = Tokenizer::from_json(&json)
        .map_err(|source| TransferError::Tokenizer { path: tokenizer_path, source })?;

    let Imported { config, weights, dialogue } = read_model(&bytes, &tokenizer, &path)?;
    let version = env!("CARGO_PKG_VERSION").to_owned();
    let record = Record { version, dialogue, ..Record::default() };
    save(out, Kind::F32, &Contents { config, tokenizer, weights: &weights, record, training: None })?;
    Ok(config)
}

/// A model read from safetensors.
#[derive(Debug)]
pub struct Imported {
    /// Its sizes and options.
    pub config: ModelConfig,
    /// Its weights, laid out as [`Layout`] says.
    pub weights: Vec<Line>,
    /// It was trained on `[USER]`/`[BOT]` turns.
    pub dialogue: bool,
}

/// Whether the file at `path` is one that [`export`] wrote; its data is not read.
#[must_use]
pub fn is_exported(path: &Path) -> bool {
    let header = |mut file: File| {
        let mut length = [0; 8];
        file.read_exact(&mut length)?;
        let mut bytes = Vec::new();
        file.take(u64::from_le_bytes(length).min(LONGEST_HEADER)).read_to_end(&mut bytes)?;
        io::Result::Ok(bytes)
    };
    let bytes = require_file(path).and_then(|()| File::open(path)).and_then(header);
    let header: Option<Value> = bytes.ok().and_then(|bytes| serde_json::from_slice(&bytes).ok());
    header.is_some_and(|header| header["__metadata__"]["model"] == MODEL)
}

/// Reads the bytes of a `model.safetensors` whose token ids are `tokenizer`'s; `path` names it in errors.
///
/// # Errors
/// If they do not hold a sound model; all problems of the tensors are listed at once.
pub fn read_model(bytes: &[u8], tokenizer: &Tokenizer, path: &Path) -> Result<Imported, TransferError> {
    let path = || path.to_owned();
    let format_error = |source| TransferError::Format { path: path(), source };
    let file = SafeTensors::deserialize(bytes).map_err(format_error)?;
    let (_, header) = SafeTensors::read_metadata(bytes).map_err(format_error)?;
    let metadata = header.metadata().clone().unwrap_or_default();

    let mut problems = Vec::new();
    let Some(config) = read_config(&file, &metadata, &mut problems) else {
        return Err(TransferError::Contents { path: path(), problems });
    };
    let tokens = tokenizer.view().vocabulary_size();
    if tokens != config.vocabulary {
        problems.push(format!("{TOKENIZER} has {tokens} tokens, the model {}", config.vocabulary));
    }
    let dialogue = read_metadata(&metadata, "dialogue", false, &mut problems);
    let layout = Layout::new(&config);
    let tensors = read_tensors(&file, &layout, &mut problems);
    if !problems.is_empty() {
        return Err(TransferError::Contents { path: path(), problems });
    }
    // Only now is the model known to be no larger than its file, so that there may be memory for it.
    let mut weights = vec![Line::default(); layout.lines]; // [lines]
    for (tensor, values) in layout.tensors.iter().zip(&tensors) {
        tensor.write(&mut weights, values);
    }
    Ok(Imported { config, weights, dialogue })
}

/// The JSON header, padded, and the data of a safetensors file. (The crate's own writer puts metadata
/// in random order; here the same model gives the same bytes.)
fn to_safetensors(model: &Model) -> (Vec<u8>, Vec<u8>) {
    let weights = model.weights();
    let mut data = Vec::new();
    let mut header = Map::new();
    header.insert("__metadata__".to_owned(), metadata(model));
    for tensor in &weights.layout.tensors {
        let start = data.len();
        data.extend(tensor.read(weights.lines).into_iter().flat_map(f32::to_le_bytes));
        let entry = json!({ "dtype": "F32", "shape": tensor.shape, "data_offsets": [start, data.len()] });
        header.insert(tensor.name.clone(), entry);
    }
    let mut header = Value::Object(header).to_string().into_bytes();
    header.resize(header.len().next_multiple_of(8), b' ');
    (header, data)
}

fn metadata(model: &Model) -> Value {
    let ModelConfig { vocabulary, embedding, hidden, layers, experts, top_k, tied, eps_rmsnorm } =
        model.config();
    json!({
        "format": "pt",
        "model": MODEL,
        "vocabulary": vocabulary.to_string(),
        "embedding_dim": embedding.to_string(),
        "gru_hidden_size": hidden.to_string(),
        "gru_layers": layers.to_string(),
        "num_experts": experts.to_string(),
        "top_k": top_k.to_string(),
        "tied": tied.to_string(),
        "eps_rmsnorm": eps_rmsnorm.to_string(),
        "dialogue": model.checkpoint().record().dialogue.to_string(),
    })
}

/// The configuration, from the metadata or, for what that does not say, from the tensors' shapes.
fn read_config(
    file: &SafeTensors<'_>,
    metadata: &HashMap<String, String>,
    problems: &mut Vec<String>,
) -> Option<ModelConfig> {
    let earlier = problems.len();
    let mut size = |key: &str, tensor: &str, dimension: usize| {
        if metadata.contains_key(key) {
            return read_metadata(metadata, key, 0, problems);
        }
        let shape = file.tensor(tensor).ok().and_then(|tensor| tensor.shape().get(dimension).copied());
        shape.unwrap_or_else(|| {
            problems.push(format!("neither metadata {key} nor the shape of {tensor} is there"));
            0
        })
    };
    let vocabulary = size("vocabulary", "embedding.weight", 0);
    let embedding = size("embedding_dim", "embedding.weight", 1);
    let experts = size("num_experts", "layers.0.recurrent.weight", 0);
    let hidden = size("gru_hidden_size", "layers.0.recurrent.weight", 1);
    let names = file.names();
    let layer_of = |name: &&str| name.strip_prefix("layers.")?.split_once('.')?.0.parse::<usize>().ok();
    let layers = names.iter().filter_map(layer_of).max().map_or(0, |last| last.saturating_add(1));
    let config = ModelConfig {
        vocabulary,
        embedding,
        hidden,
        layers: read_metadata(metadata, "gru_layers", layers, problems),
        experts,
        top_k: read_metadata(metadata, "top_k", experts, problems),
        tied: read_metadata(metadata, "tied", !names.contains(&"head.weight"), problems),
        eps_rmsnorm: read_metadata(metadata, "eps_rmsnorm", 1e-5, problems),
    };
    if problems.len() > earlier {
        return None;
    }
    config.validate().map_err(|error| problems.push(error.to_string())).ok()?;
    Some(config)
}

/// A value of the metadata, or `default` where it has none.
fn read_metadata<T: FromStr>(
    metadata: &HashMap<String, String>,
    key: &str,
    default: T,
    problems: &mut Vec<String>,
) -> T {
    let Some(text) = metadata.get(key) else { return default };
    text.parse().unwrap_or_else(|_| {
        problems.push(format!("metadata {key} can't be {text:?}"));
        default
    })
}

/// The values of every tensor that is as it should be; the others are problems, and so are unknown ones.
fn read_tensors(file: &SafeTensors<'_>, layout: &Layout, problems: &mut Vec<String>) -> Vec<Vec<f32>> {
    let mut tensors = Vec::new();
    for tensor in &layout.tensors {
        match read_tensor(file, tensor) {
            Ok(values) => tensors.push(values),
            Err(problem) => problems.push(problem),
        }
    }
    let mut unknown: Vec<&str> =
        file.names().into_iter().filter(|name| layout.tensor(name).is_none()).collect();
    unknown.sort_unstable();
    problems.extend(unknown.iter().map(|name| format!("{name} is no tensor of this model")));
    tensors
}

fn read_tensor(file: &SafeTensors<'_>, expected: &Tensor) -> Result<Vec<f32>, String> {
    let name = &expected.name;
    let tensor = file.tensor(name).map_err(|_| format!("{name} is missing"))?;
    if tensor.shape() != expected.shape {
        return Err(format!("{name} has shape {:?}, not {:?}", tensor.shape(), expected.shape));
    }
    let values = to_f32(&tensor).ok_or_else(|| {
        let dtype = tensor.dtype();
        format!("{name} is {dtype:?}; F32, F16, BF16 and F64 can be read")
    })?;
    match values.iter().filter(|value| !value.is_finite()).count() {
        0 => Ok(values),
        count => Err(format!("{name} has {count} values that are infinite or not a number")),
    }
}

fn to_f32(tensor: &TensorView<'_>) -> Option<Vec<f32>> {
    fn convert<const N: usize>(bytes: &[u8], number: impl Fn([u8; N]) -> f32) -> Vec<f32> {
        bytes.as_chunks::<N>().0.iter().map(|&chunk| number(chunk)).collect()
    }
    let bytes = tensor.data();
    Some(match tensor.dtype() {
        Dtype::F32 => convert(bytes, f32::from_le_bytes),
        Dtype::F16 => convert(bytes, |b| f16::from_le_bytes(b).to_f32()),
        Dtype::BF16 => convert(bytes, |b| bf16::from_le_bytes(b).to_f32()),
        Dtype::F64 => convert(bytes, |b| f64::from_le_bytes(b) as f32),
        _ => return None,
    })
}
