//! What PyTorch says of small models: parameters, inputs, and the right answers in float64.
//!
//! `tests/vectors/make_vectors.py` says what a file holds.

#![allow(dead_code, reason = "each test program uses only some of it")]

use safetensors::{Dtype, SafeTensors};
use shoestring::model::ModelConfig;
use shoestring::reference::{AdamW, Tensors};
use std::collections::{BTreeMap, HashMap};
use std::fmt::Debug;
use std::path::{Path, PathBuf};
use std::str::FromStr;

/// One small model, a batch, and what must come out.
#[derive(Clone, Debug)]
pub struct Fixture {
    /// The file's name without its extension.
    pub name: String,
    pub config: ModelConfig,
    /// T
    pub steps: usize,
    /// B
    pub batch: usize,
    /// Settings of the three AdamW steps.
    pub adamw: AdamW,
    /// `[T, B]`
    pub tokens: Vec<u32>,
    /// `[T, B]`
    pub targets: Vec<u32>,
    /// Shape of every parameter.
    pub shapes: BTreeMap<String, Vec<usize>>,
    pub parameters: Tensors<f64>,
    /// L × `[B, E, H]`, before the first token.
    pub states_before: Vec<Vec<f64>>,
    /// L × `[B, E, H]`, after the last token.
    pub states_after: Vec<Vec<f64>>,
    /// `[T, B, V]`
    pub logits: Vec<f64>,
    /// Mean cross entropy, nats.
    pub loss: f64,
    pub gradients: Tensors<f64>,
    /// Global norm of the gradients, before clipping.
    pub gradient_norm: f64,
    /// The parameters after three AdamW steps on this batch, each from `states_before`.
    pub stepped: Tensors<f64>,
}

impl Fixture {
    /// The project's own, and those of `../shared/parity` if it is there.
    pub fn all() -> Vec<Self> {
        Self::own().into_iter().chain(Self::shared().unwrap_or_default()).collect()
    }

    /// The project's own, in `tests/vectors`.
    pub fn own() -> Vec<Self> {
        Self::load_folder(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/vectors"))
    }

    /// Those of `../shared/parity`, if it is there (see [`crate::common::shared`]).
    pub fn shared() -> Option<Vec<Self>> {
        crate::common::shared("parity").map(|folder| Self::load_folder(&folder))
    }

    /// Every fixture of a folder, by name.
    pub fn load_folder(folder: &Path) -> Vec<Self> {
        let entries = folder.read_dir().unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
        let mut paths: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
        paths.retain(|path| path.extension().is_some_and(|extension| extension == "safetensors"));
        paths.sort();
        assert!(!paths.is_empty(), "{}: there are no fixtures", folder.display());
        paths.iter().map(|path| Self::load(path)).collect()
    }

    /// Reads one file; panics, naming the file, if it isn't a fixture.
    pub fn load(path: &Path) -> Self {
        let bytes = std::fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let file = File::new(path, &bytes);
        let config = ModelConfig {
            vocabulary: file.setting("vocab"),
            embedding: file.setting("dim"),
            hidden: file.setting("hidden"),
            layers: file.setting("layers"),
            experts: file.setting("experts"),
            top_k: file.setting("top_k"),
            tied: file.setting("tied"),
            eps_rmsnorm: file.setting("eps_rmsnorm"),
        };
        let adamw = AdamW {
            learning_rate: file.setting("lr"),
            beta1: file.setting("beta1"),
            beta2: file.setting("beta2"),
            eps: file.setting("eps_adamw"),
            weight_decay: file.setting("weight_decay"),
            clip: file.setting("clip"),
        };
        let layers =
            |prefix| (0..config.layers).map(|layer| file.floats(&format!("{prefix}.{layer}"))).collect();
        Self {
            name: path.file_stem().unwrap().to_string_lossy().into_owned(),
            config,
            steps: file.setting("steps"),
            batch: file.setting("batch"),
            adamw,
            tokens: file.ids("in.tokens"),
            targets: file.ids("in.targets"),
            shapes: file.named("param.", |name| file.shape(name)),
            parameters: file.named("param.", |name| file.floats(name)),
            states_before: layers("in.h0"),
            states_after: layers("out.h"),
            logits: file.floats("out.logits"),
            loss: file.floats("out.loss")[0],
            gradients: file.named("grad.", |name| file.floats(name)),
            gradient_norm: file.setting("grad_norm"),
            stepped: file.named("step3.", |name| file.floats(name)),
        }
    }
}

/// An open safetensors file.
struct File<'a> {
    path: &'a Path,
    tensors: SafeTensors<'a>,
    settings: HashMap<String, String>,
}

impl<'a> File<'a> {
    fn new(path: &'a Path, bytes: &'a [u8]) -> Self {
        let fail = |error| panic!("{}: {error}", path.display());
        let (_, header) = SafeTensors::read_metadata(bytes).unwrap_or_else(fail);
        let tensors =
            SafeTensors::deserialize(bytes).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        Self { path, tensors, settings: header.metadata().clone().unwrap_or_default() }
    }

    fn setting<T: FromStr<Err: Debug>>(&self, name: &str) -> T {
        let text = self.settings.get(name).map_or("", String::as_str);
        text.parse().unwrap_or_else(|error| panic!("{}: {name} is {text:?}: {error:?}", self.path.display()))
    }

    fn floats(&self, name: &str) -> Vec<f64> {
        self.values(name, Dtype::F64).map(f64::from_le_bytes).collect()
    }

    fn ids(&self, name: &str) -> Vec<u32> {
        self.values(name, Dtype::I64).map(|bytes| i64::from_le_bytes(bytes).try_into().unwrap()).collect()
    }

    fn shape(&self, name: &str) -> Vec<usize> {
        self.tensor(name).shape().to_vec()
    }

    fn values(&self, name: &str, dtype: Dtype) -> impl Iterator<Item = [u8; 8]> {
        let tensor = self.tensor(name);
        assert_eq!(tensor.dtype(), dtype, "{}: {name}", self.path.display());
        tensor.data().as_chunks().0.iter().copied()
    }

    fn tensor(&self, name: &str) -> safetensors::tensor::TensorView<'a> {
        self.tensors.tensor(name).unwrap_or_else(|error| panic!("{}: {name}: {error}", self.path.display()))
    }

    /// What `read` makes of each tensor whose name starts with `prefix`, by the rest of its name.
    fn named<T>(&self, prefix: &str, read: impl Fn(&str) -> T) -> BTreeMap<String, T> {
        let names = self.tensors.names();
        let named = names.iter().filter_map(|name| Some((name.strip_prefix(prefix)?, name)));
        named.map(|(rest, name)| (rest.to_string(), read(name))).collect()
    }
}
