//! AdamW with clipping of the gradients' global norm.

use super::{Float, ReferenceError, Tensors, check_size};

/// Settings of an [`adamw_step`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AdamW {
    /// Step size.
    pub learning_rate: f64,
    /// Decay of the running mean of the gradients.
    pub beta1: f64,
    /// Decay of the running mean of their squares.
    pub beta2: f64,
    /// Added to the square root of the second moment.
    pub eps: f64,
    /// Share of a matrix, per unit of learning rate, that each step takes away.
    pub weight_decay: f64,
    /// Highest global norm of the gradients; larger ones are scaled down to it.
    pub clip: f64,
}

/// The running moments of [`adamw_step`], empty before the first.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct AdamWState<F> {
    /// Steps taken.
    pub steps: i32,
    /// Running mean of each gradient.
    pub first: Tensors<F>,
    /// Running mean of each gradient's square.
    pub second: Tensors<F>,
}

/// One step of AdamW (Loshchilov and Hutter, arXiv:1711.05101) after clipping (Pascanu et al.,
/// arXiv:1211.5063); returns the gradients' global norm before clipping.
///
/// # Errors
/// If the gradients don't have the parameters' names and sizes; then nothing has changed.
pub fn adamw_step<F: Float>(
    settings: &AdamW,
    state: &mut AdamWState<F>,
    parameters: &mut Tensors<F>,
    gradients: &Tensors<F>,
) -> Result<F, ReferenceError> {
    check_gradients(parameters, gradients)?;
    let norm = global_norm(gradients);
    let scale = clip_scale(norm, settings.clip);
    state.steps += 1;
    for (name, parameter) in parameters {
        let moments =
            |tensors: &mut Tensors<F>| tensors.remove(name).unwrap_or_else(|| vec![F::ZERO; parameter.len()]);
        let (mut first, mut second) = (moments(&mut state.first), moments(&mut state.second));
        let decay = if decays(name) { settings.weight_decay } else { 0.0 };
        for (i, &gradient) in gradients[name].iter().enumerate() {
            let moments = (&mut first[i], &mut second[i]);
            update(settings, decay, state.steps, &mut parameter[i], gradient * scale, moments);
        }
        state.first.insert(name.clone(), first);
        state.second.insert(name.clone(), second);
    }
    Ok(norm)
}

/// One parameter's step, the `step`th from 1 on, with its first and second moment.
fn update<F: Float>(
    settings: &AdamW,
    decay: f64,
    step: i32,
    parameter: &mut F,
    gradient: F,
    (first, second): (&mut F, &mut F),
) {
    let AdamW { learning_rate, beta1, beta2, eps, .. } = *settings;
    let constant = F::from_f64;
    *first = constant(beta1) * *first + constant(1.0 - beta1) * gradient;
    *second = constant(beta2) * *second + constant(1.0 - beta2) * gradient * gradient;
    // The moments start at zero: dividing by 1 - beta^step makes them unbiased.
    let mean = *first / constant(1.0 - beta1.powi(step));
    let mean_square = *second / constant(1.0 - beta2.powi(step));
    let decayed = *parameter * constant(1.0 - learning_rate * decay);
    *parameter = decayed - constant(learning_rate) * mean / (mean_square.sqrt() + constant(eps));
}

/// Whether weight decay applies to a tensor: to matrices, not to biases and normalisation gains.
pub fn decays(name: &str) -> bool {
    name.ends_with(".weight") && !name.ends_with("norm.weight")
}

/// Euclidean norm of all tensors' values together.
pub fn global_norm<F: Float>(tensors: &Tensors<F>) -> F {
    tensors.values().flatten().map(|&value| value * value).sum::<F>().sqrt()
}

/// The factor that takes a gradient of global norm `norm` to at most `clip`: min(1, clip / (norm + 1e-6)),
/// as in `torch.nn.utils.clip_grad_norm_`.
fn clip_scale<F: Float>(norm: F, clip: f64) -> F {
    let scale = F::from_f64(clip) / (norm + F::from_f64(1e-6));
    if scale > F::ONE { F::ONE } else { scale }
}

fn check_gradients<F>(parameters: &Tensors<F>, gradients: &Tensors<F>) -> Result<(), ReferenceError> {
    for (name, parameter) in parameters {
        let gradient = gradients.get(name).ok_or_else(|| ReferenceError::MissingTensor(name.clone()))?;
        check_size(name, parameter.len(), gradient.len())?;
    }
    match gradients.keys().find(|name| !parameters.contains_key(*name)) {
        Some(name) => Err(ReferenceError::UnknownTensor(name.clone())),
        None => Ok(()),
    }
}
