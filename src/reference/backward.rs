//! The gradient of the loss, by hand: the forward pass step by step in reverse.
//!
//! `d_name` is the gradient of the loss with respect to `name`, and has its shape.

use super::operations::{
    add, add_scaled, cross_entropy_backward, dot, gelu, gelu_derivative, multiply_backward, part, part_mut,
    rms_norm_backward, softmax_backward,
};
use super::{Float, Forward, Layer, Parameters, ReferenceError, Step, Tensors, zero_states, zeros};
use crate::model::ModelConfig;
use std::collections::BTreeMap;

/// Gradient of the loss of `forward` with respect to every parameter, by the same names.
///
/// `tensors` are those that `forward` was made with. The initial states count as constants, and so does
/// the choice of the active experts, which has no derivative.
///
/// # Errors
/// If `forward` has no loss, or `tensors` aren't those of its model.
pub fn backward<F: Float>(tensors: &Tensors<F>, forward: &Forward<F>) -> Result<Tensors<F>, ReferenceError> {
    let Forward { config, tokens, batch, .. } = forward;
    let parameters = Parameters::new(config, tensors)?;
    let targets = forward.targets.as_ref().ok_or(ReferenceError::NoTargets)?;

    let mut gradients = zeros(config);
    let mut buffers: BTreeMap<&str, &mut [F]> =
        gradients.iter_mut().map(|(name, values)| (name.as_str(), values.as_mut_slice())).collect();
    let mut take = |name: &str| buffers.remove(name).unwrap_or_default();
    let mut d_layers: Vec<_> = (0..config.layers).map(|layer| Layer::new(config, layer, &mut take)).collect();
    let d_embedding = take("embedding.weight"); // [V, D]
    let d_head_weight = take("head.weight"); // [V, H], or empty if tied
    let d_head_bias = take("head.bias"); // [V]

    let mut d_states = zero_states(config, *batch); // L x [B, E, H]
    let last_layer = &forward.steps[config.layers - 1];
    let share = F::ONE / F::from_f64(tokens.len() as f64); // of each target in the mean
    for position in (0..tokens.len()).rev() {
        let (stream, token) = (position % batch, tokens[position] as usize);

        let logits = part(&forward.logits, position, config.vocabulary);
        let mut d_logits = cross_entropy_backward(logits, targets[position] as usize); // [V]
        d_logits.iter_mut().for_each(|d| *d = *d * share);

        let mut d_x = vec![F::ZERO; config.hidden]; // [H]
        let d_head = if config.tied { &mut *d_embedding } else { &mut *d_head_weight };
        multiply_backward(parameters.head_weight, &last_layer[position].output, &d_logits, d_head, &mut d_x);
        add(d_head_bias, &d_logits);

        for layer in (0..config.layers).rev() {
            let step = &forward.steps[layer][position];
            let d_state = part_mut(&mut d_states[layer], stream, config.experts * config.hidden);
            d_x =
                layer_backward(config, &parameters.layers[layer], step, &d_x, d_state, &mut d_layers[layer]);
        }
        add(part_mut(d_embedding, token, config.embedding), &d_x);
    }
    Ok(gradients)
}

/// One layer, one token: returns the gradient of the step's input `[D]` and adds to those of the parameters.
///
/// `d_output` is `[H]`. `d_state` `[E, H]` enters as the gradient that later steps send to the state after
/// this step, and leaves as that of the state before it.
fn layer_backward<F: Float>(
    config: &ModelConfig,
    parameters: &Layer<&[F]>,
    step: &Step<F>,
    d_output: &[F],
    d_state: &mut [F],
    gradients: &mut Layer<&mut [F]>,
) -> Vec<F> {
    let eps = F::from_f64(config.eps_rmsnorm.into());
    let (gain, d_gain) = (parameters.norm_weight, &mut *gradients.norm_weight);
    let d_sum = rms_norm_backward(&step.sum, gain, eps, d_output, d_gain); // [H]
    let mut d_input = residual_backward(parameters, step, &d_sum, gradients); // [D]

    let mut d_probabilities = vec![F::ZERO; config.experts]; // [E]
    for expert in (0..config.experts).filter(|&expert| step.active[expert]) {
        d_probabilities[expert] = dot(&d_sum, part(&step.state, expert, config.hidden));
        let d_state = part_mut(d_state, expert, config.hidden);
        add_scaled(d_state, step.gates[expert], &d_sum);
        expert_backward(expert, parameters, step, d_state, &mut d_input, gradients);
    }

    let d_scores = softmax_backward(&step.probabilities, &d_probabilities); // [E]
    let (router, d_router) = (parameters.router_weight, &mut *gradients.router_weight);
    multiply_backward(router, &step.input, &d_scores, d_router, &mut d_input);
    add(gradients.router_bias, &d_scores);
    d_input
}

/// The residual's part in the gradient of a step's input. `[D]`
fn residual_backward<F: Float>(
    parameters: &Layer<&[F]>,
    step: &Step<F>,
    d_sum: &[F],
    gradients: &mut Layer<&mut [F]>,
) -> Vec<F> {
    let (Some((weight, _)), Some((d_weight, d_bias))) = (parameters.residual, &mut gradients.residual) else {
        return d_sum.to_vec();
    };
    let mut d_input = vec![F::ZERO; step.input.len()]; // [D]
    multiply_backward(weight, &step.input, d_sum, d_weight, &mut d_input);
    add(d_bias, d_sum);
    d_input
}

/// One active expert: turns `d_state` `[H]` from the gradient of its state after the step into that of its
/// state before, and adds to those of the input `[D]` and the parameters.
fn expert_backward<F: Float>(
    expert: usize,
    parameters: &Layer<&[F]>,
    step: &Step<F>,
    d_state: &mut [F],
    d_input: &mut [F],
    gradients: &mut Layer<&mut [F]>,
) {
    let (hidden, matrix) = (d_state.len(), d_state.len() * step.input.len());
    let before = part(&step.state_before, expert, hidden);
    let z = part(&step.update, expert, hidden);
    let a = part(&step.candidate_input, expert, hidden);

    let mut d_update_input = vec![F::ZERO; hidden]; // [H]
    let mut d_candidate_input = vec![F::ZERO; hidden]; // [H]
    for i in 0..hidden {
        let d = d_state[i];
        d_update_input[i] = d * (gelu(a[i]) - before[i]) * z[i] * (F::ONE - z[i]);
        d_candidate_input[i] = d * z[i] * gelu_derivative(a[i]);
        d_state[i] = d * (F::ONE - z[i]);
    }

    let weight = part(parameters.update_weight, expert, matrix);
    let d_weight = part_mut(gradients.update_weight, expert, matrix);
    multiply_backward(weight, &step.input, &d_update_input, d_weight, d_input);
    add(part_mut(gradients.update_bias, expert, hidden), &d_update_input);

    let weight = part(parameters.candidate_weight, expert, matrix);
    let d_weight = part_mut(gradients.candidate_weight, expert, matrix);
    multiply_backward(weight, &step.input, &d_candidate_input, d_weight, d_input);
    add(part_mut(gradients.candidate_bias, expert, hidden), &d_candidate_input);

    let weight = part(parameters.recurrent_weight, expert, hidden * hidden);
    let d_weight = part_mut(gradients.recurrent_weight, expert, hidden * hidden);
    multiply_backward(weight, before, &d_candidate_input, d_weight, d_state);
}
