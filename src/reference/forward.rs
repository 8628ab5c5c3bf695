//! From tokens to logits, states and loss.

use super::operations::{
    add, add_scaled, affine, cross_entropy, gelu, multiply, part, part_mut, rms_norm, sigmoid, softmax, top_k,
};
use super::{Float, Layer, Parameters, ReferenceError, check_size};
use crate::model::ModelConfig;

/// What a forward pass returns, and what [`super::backward`] needs of it.
#[derive(Clone, Debug)]
pub struct Forward<F> {
    /// Unnormalised log-probabilities of the next token. `[T, B, V]`
    pub logits: Vec<F>,
    /// Each layer's states after the last token. L × `[B, E, H]`
    pub states: Vec<Vec<F>>,
    /// Mean cross entropy of all T·B targets, nats; none if no targets were given.
    pub loss: Option<F>,
    /// What each layer computed for each token. L × `[T, B]`
    pub steps: Vec<Vec<Step<F>>>,
    pub(super) config: ModelConfig,
    pub(super) tokens: Vec<u32>,          // [T, B]
    pub(super) targets: Option<Vec<u32>>, // [T, B]
    pub(super) batch: usize,
}

/// What one layer computes for one token of one stream.
#[derive(Clone, Debug)]
pub struct Step<F> {
    /// x. `[D]`
    pub input: Vec<F>,
    /// The router's scores. `[E]`
    pub scores: Vec<F>,
    /// S: which experts run. `[E]`
    pub active: Vec<bool>,
    /// Softmax of the scores: over S if 1 < k < E, else over all experts. `[E]`
    pub probabilities: Vec<F>,
    /// Weight of each expert's state in the output: its probability, zero outside S. `[E]`
    pub gates: Vec<F>,
    /// z, the share of the state that is replaced; zero outside S. `[E, H]`
    pub update: Vec<F>,
    /// The candidate before its gelu; zero outside S. `[E, H]`
    pub candidate_input: Vec<F>,
    /// h before the token. `[E, H]`
    pub state_before: Vec<F>,
    /// h after the token. `[E, H]`
    pub state: Vec<F>,
    /// y, the gated sum of the states plus the residual. `[H]`
    pub sum: Vec<F>,
    /// y normalised: the next layer's input. `[H]`
    pub output: Vec<F>,
}

/// Runs the model over T steps of B streams.
///
/// `tokens` and `targets` are `[T, B]`; `states`, one `[B, E, H]` for each layer, say where the streams
/// stand before the first token and how many there are. With `targets` there is a loss.
///
/// # Errors
/// If the configuration, the tensors, the states or the tokens don't fit together.
pub fn forward<F: Float>(
    config: &ModelConfig,
    tensors: &super::Tensors<F>,
    tokens: &[u32],
    targets: Option<&[u32]>,
    states: &[Vec<F>],
) -> Result<Forward<F>, ReferenceError> {
    let parameters = Parameters::new(config, tensors)?;
    let batch = check_states(config, states)?;
    check_tokens(config, batch, tokens, targets)?;

    let mut states = states.to_vec();
    let mut steps = vec![Vec::with_capacity(tokens.len()); config.layers];
    let mut logits = Vec::with_capacity(tokens.len() * config.vocabulary); // [T, B, V]
    for (position, &token) in tokens.iter().enumerate() {
        let stream = position % batch;
        let mut x = part(parameters.embedding, token as usize, config.embedding).to_vec(); // [D]
        for (layer, parameters) in parameters.layers.iter().enumerate() {
            let state = part_mut(&mut states[layer], stream, config.experts * config.hidden); // [E, H]
            let step = layer_forward(config, parameters, &x, state);
            state.copy_from_slice(&step.state);
            x.clone_from(&step.output);
            steps[layer].push(step);
        }
        logits.extend(affine(parameters.head_weight, parameters.head_bias, &x));
    }

    let loss = targets.map(|targets| mean_cross_entropy(&logits, targets));
    let (config, tokens, targets) = (*config, tokens.to_vec(), targets.map(<[u32]>::to_vec));
    Ok(Forward { logits, states, loss, steps, config, tokens, targets, batch })
}

/// One layer, one token: from the input `[D]` and the experts' states `[E, H]`.
fn layer_forward<F: Float>(
    config: &ModelConfig,
    parameters: &Layer<&[F]>,
    input: &[F],
    state_before: &[F],
) -> Step<F> {
    let (experts, hidden) = (config.experts, config.hidden);
    let matrix = hidden * input.len();

    let scores = affine(parameters.router_weight, parameters.router_bias, input); // [E]
    let active = top_k(&scores, config.top_k); // [E]
    let probabilities = match config.top_k {
        1 => softmax(&scores, &vec![true; experts]),
        _ => softmax(&scores, &active),
    }; // [E]

    let mut gates = vec![F::ZERO; experts]; // [E]
    let mut update = vec![F::ZERO; experts * hidden]; // [E, H]
    let mut candidate_input = vec![F::ZERO; experts * hidden]; // [E, H]
    let mut state = state_before.to_vec(); // [E, H]
    let mut sum = match parameters.residual {
        Some((weight, bias)) => affine(weight, bias, input),
        None => input.to_vec(),
    }; // [H]
    for expert in (0..experts).filter(|&expert| active[expert]) {
        let before = part(state_before, expert, hidden);
        let z = affine(
            part(parameters.update_weight, expert, matrix),
            part(parameters.update_bias, expert, hidden),
            input,
        );
        let z: Vec<F> = z.into_iter().map(sigmoid).collect(); // [H]
        let mut a = affine(
            part(parameters.candidate_weight, expert, matrix),
            part(parameters.candidate_bias, expert, hidden),
            input,
        );
        add(&mut a, &multiply(part(parameters.recurrent_weight, expert, hidden * hidden), before)); // [H]

        let after = part_mut(&mut state, expert, hidden);
        for i in 0..hidden {
            after[i] = (F::ONE - z[i]) * before[i] + z[i] * gelu(a[i]);
        }
        gates[expert] = probabilities[expert];
        add_scaled(&mut sum, gates[expert], after);
        part_mut(&mut update, expert, hidden).copy_from_slice(&z);
        part_mut(&mut candidate_input, expert, hidden).copy_from_slice(&a);
    }
    let output = rms_norm(&sum, parameters.norm_weight, F::from_f64(config.eps_rmsnorm.into())); // [H]

    let (input, state_before) = (input.to_vec(), state_before.to_vec());
    Step {
        input,
        scores,
        active,
        probabilities,
        gates,
        update,
        candidate_input,
        state_before,
        state,
        sum,
        output,
    }
}

/// Mean over all targets `[T, B]` of the cross entropy of the logits `[T, B, V]`, nats.
fn mean_cross_entropy<F: Float>(logits: &[F], targets: &[u32]) -> F {
    let vocabulary = logits.len() / targets.len();
    let each = logits.chunks_exact(vocabulary).zip(targets);
    each.map(|(logits, &target)| cross_entropy(logits, target as usize)).sum::<F>()
        / F::from_f64(targets.len() as f64)
}

/// Checks that there is one state `[B, E, H]` for each layer and returns B.
fn check_states<F>(config: &ModelConfig, states: &[Vec<F>]) -> Result<usize, ReferenceError> {
    check_size("the list of states", config.layers, states.len())?;
    let size = config.experts * config.hidden;
    let batch = (states[0].len() / size).max(1);
    for (layer, state) in states.iter().enumerate() {
        check_size(&format!("the state of layer {layer}"), batch * size, state.len())?;
    }
    Ok(batch)
}

/// Checks that tokens and targets are whole steps of the batch, of ids that the model knows.
fn check_tokens(
    config: &ModelConfig,
    batch: usize,
    tokens: &[u32],
    targets: Option<&[u32]>,
) -> Result<(), ReferenceError> {
    if tokens.is_empty() || !tokens.len().is_multiple_of(batch) {
        return Err(ReferenceError::Steps { tokens: tokens.len(), batch });
    }
    check_size("the list of targets", tokens.len(), targets.map_or(tokens.len(), <[u32]>::len))?;
    let unknown = |token: &&u32| **token as usize >= config.vocabulary;
    match tokens.iter().chain(targets.unwrap_or_default()).find(unknown) {
        Some(&token) => Err(ReferenceError::Token { token, vocabulary: config.vocabulary }),
        None => Ok(()),
    }
}
