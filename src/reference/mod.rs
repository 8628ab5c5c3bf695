//! The model in plain loops: what the fast kernels compute, written to be read.
//!
//! Per layer, with input x and one state h_e for each expert e:
//!
//! ```text
//! score = W_router x + b_router                                          [E]
//! S     = every expert, or the k with the highest score (ties: lowest id)
//! gate  = softmax(score)                 if k = E
//!       = softmax(score over S)          if 1 < k < E, zero outside S
//!       = softmax(score) * [e in S]      if k = 1
//! z_e   = sigmoid(W_update,e x + b_update,e)                             [H]
//! c_e   = gelu(W_candidate,e x + b_candidate,e + W_recurrent,e h_e)      [H]
//! h_e  <- (1 - z_e) h_e + z_e c_e        for e in S; the others hold their state
//! y     = sum_e gate_e h_e + residual(x)                                 [H]
//! out   = y / sqrt(mean(y^2) + eps) * gain                               [H]
//! ```
//!
//! The first layer's x is the token's embedding, every other layer's the output of the one below; the
//! logits are `W_head out + b_head`. A single chosen expert keeps its softmax over all experts as its
//! gate: renormalised it would always be 1, and the router would get no gradient.
//!
//! [`forward`] runs the model, [`backward`] returns the gradient of its loss, [`adamw_step`] trains.
//! All are generic over [`Float`]: `f64` to check the model against autograd and finite differences,
//! `f32` to see what that precision costs. Tensors are row-major, `[out, in]`, found by name.

mod backward;
mod float;
mod forward;
mod operations;
mod optimizer;

pub use backward::backward;
pub use float::Float;
pub use forward::{Forward, Step, forward};
pub use optimizer::{AdamW, AdamWState, adamw_step, decays, global_norm};

use crate::model::{ConfigError, ModelConfig};
use std::collections::BTreeMap;
use thiserror::Error;

/// A model's parameters, or their gradients: row-major values by name. [`shapes`] lists names and shapes.
pub type Tensors<F> = BTreeMap<String, Vec<F>>;

/// Name and shape of every tensor of a model, from the input to the output.
pub fn shapes(config: &ModelConfig) -> Vec<(String, Vec<usize>)> {
    let ModelConfig { vocabulary: v, embedding: d, hidden: h, experts: e, .. } = *config;
    let mut shapes = vec![("embedding.weight".to_string(), vec![v, d])];
    for layer in 0..config.layers {
        let d = config.input_width(layer);
        let mut push = |part: &str, shape: &[usize]| shapes.push((tensor_name(layer, part), shape.to_vec()));
        push("router.weight", &[e, d]);
        push("router.bias", &[e]);
        push("update.weight", &[e, h, d]);
        push("update.bias", &[e, h]);
        push("candidate.weight", &[e, h, d]);
        push("candidate.bias", &[e, h]);
        push("recurrent.weight", &[e, h, h]);
        if config.projects_residual(layer) {
            push("residual.weight", &[h, d]);
            push("residual.bias", &[h]);
        }
        push("norm.weight", &[h]);
    }
    if !config.tied {
        shapes.push(("head.weight".to_string(), vec![v, h]));
    }
    shapes.push(("head.bias".to_string(), vec![v]));
    shapes
}

/// Every tensor of a model, filled with zeros.
pub fn zeros<F: Float>(config: &ModelConfig) -> Tensors<F> {
    shapes(config).into_iter().map(|(name, shape)| (name, vec![F::ZERO; shape.iter().product()])).collect()
}

/// The states before the first token of `batch` streams: zeros, `[B, E, H]` for each layer.
pub fn zero_states<F: Float>(config: &ModelConfig, batch: usize) -> Vec<Vec<F>> {
    vec![vec![F::ZERO; batch * config.experts * config.hidden]; config.layers]
}

/// What is wrong with the input of the reference.
#[derive(Debug, Error, PartialEq)]
pub enum ReferenceError {
    /// The configuration is no model.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// A tensor of the model isn't there.
    #[error("there is no tensor {0}")]
    MissingTensor(String),
    /// A tensor that the model doesn't have.
    #[error("the model has no tensor {0}")]
    UnknownTensor(String),
    /// A tensor or state has another number of values than its shape asks for.
    #[error("{name} holds {actual} values instead of {expected}")]
    Size {
        /// Which tensor or state.
        name: String,
        /// Number of values its shape asks for.
        expected: usize,
        /// Number of values it has.
        actual: usize,
    },
    /// The tokens don't fill whole steps of the batch, or there are none.
    #[error("{tokens} tokens are not a whole number of steps, one or more, of {batch} streams")]
    Steps {
        /// Number of token ids given.
        tokens: usize,
        /// B: number of streams.
        batch: usize,
    },
    /// A token id outside the vocabulary.
    #[error("token {token} is outside the vocabulary of {vocabulary}")]
    Token {
        /// The id.
        token: u32,
        /// V: number of tokens the model knows.
        vocabulary: usize,
    },
    /// A gradient was asked of a forward pass without targets.
    #[error("a forward pass without targets has no loss, so no gradient")]
    NoTargets,
}

/// Checks that `tensors` holds exactly the model's tensors, each with as many values as its shape asks for.
fn check_tensors<F>(config: &ModelConfig, tensors: &Tensors<F>) -> Result<(), ReferenceError> {
    config.validate()?;
    let shapes: BTreeMap<_, _> = shapes(config).into_iter().collect();
    for (name, shape) in &shapes {
        let tensor = tensors.get(name).ok_or_else(|| ReferenceError::MissingTensor(name.clone()))?;
        check_size(name, shape.iter().product(), tensor.len())?;
    }
    match tensors.keys().find(|name| !shapes.contains_key(*name)) {
        Some(name) => Err(ReferenceError::UnknownTensor(name.clone())),
        None => Ok(()),
    }
}

fn check_size(name: &str, expected: usize, actual: usize) -> Result<(), ReferenceError> {
    if actual == expected {
        return Ok(());
    }
    Err(ReferenceError::Size { name: name.to_string(), expected, actual })
}

fn tensor_name(layer: usize, part: &str) -> String {
    format!("layers.{layer}.{part}")
}

/// One layer's tensors: `&[F]` for parameters, `&mut [F]` for gradients.
struct Layer<T> {
    router_weight: T,         // [E, D]
    router_bias: T,           // [E]
    update_weight: T,         // [E, H, D]
    update_bias: T,           // [E, H]
    candidate_weight: T,      // [E, H, D]
    candidate_bias: T,        // [E, H]
    recurrent_weight: T,      // [E, H, H]
    residual: Option<(T, T)>, // [H, D] and [H]; none: the input itself
    norm_weight: T,           // [H]
}

impl<T> Layer<T> {
    /// Layer `layer`, each tensor from `take` by its full name.
    fn new(config: &ModelConfig, layer: usize, mut take: impl FnMut(&str) -> T) -> Self {
        let mut take = |part| take(&tensor_name(layer, part));
        Self {
            router_weight: take("router.weight"),
            router_bias: take("router.bias"),
            update_weight: take("update.weight"),
            update_bias: take("update.bias"),
            candidate_weight: take("candidate.weight"),
            candidate_bias: take("candidate.bias"),
            recurrent_weight: take("recurrent.weight"),
            residual: config
                .projects_residual(layer)
                .then(|| (take("residual.weight"), take("residual.bias"))),
            norm_weight: take("norm.weight"),
        }
    }
}

/// A model's parameters, borrowed from checked [`Tensors`].
struct Parameters<'a, F> {
    embedding: &'a [F],          // [V, D]
    layers: Vec<Layer<&'a [F]>>, // L
    head_weight: &'a [F],        // [V, H]
    head_bias: &'a [F],          // [V]
}

impl<'a, F> Parameters<'a, F> {
    /// Finds every parameter. Fails if `tensors` aren't those of the model.
    fn new(config: &ModelConfig, tensors: &'a Tensors<F>) -> Result<Self, ReferenceError> {
        check_tensors(config, tensors)?;
        let layer = |layer| Layer::new(config, layer, |name| tensors[name].as_slice());
        let head = if config.tied { "embedding.weight" } else { "head.weight" };
        Ok(Self {
            embedding: &tensors["embedding.weight"],
            layers: (0..config.layers).map(layer).collect(),
            head_weight: &tensors[head],
            head_bias: &tensors["head.bias"],
        })
    }
}
