//! The small operations that the model is made of, and their derivatives.

use super::Float;
use std::f64::consts::{FRAC_1_SQRT_2, PI};

/// Sum of the products of two vectors' elements.
pub fn dot<F: Float>(a: &[F], b: &[F]) -> F {
    a.iter().zip(b).map(|(&a, &b)| a * b).sum()
}

/// `target += source`, element by element.
pub fn add<F: Float>(target: &mut [F], source: &[F]) {
    add_scaled(target, F::ONE, source);
}

/// `target += factor * source`, element by element.
pub fn add_scaled<F: Float>(target: &mut [F], factor: F, source: &[F]) {
    for (target, &source) in target.iter_mut().zip(source) {
        *target += factor * source;
    }
}

/// Part `index` of a tensor that is cut into parts of `size` values: a row, or an expert's matrix.
pub fn part<F>(tensor: &[F], index: usize, size: usize) -> &[F] {
    &tensor[index * size..(index + 1) * size]
}

/// [`part`], to write to.
pub fn part_mut<F>(tensor: &mut [F], index: usize, size: usize) -> &mut [F] {
    &mut tensor[index * size..(index + 1) * size]
}

/// W x: `[out]` from `weight` `[out, in]` and `input` `[in]`.
pub fn multiply<F: Float>(weight: &[F], input: &[F]) -> Vec<F> {
    weight.chunks_exact(input.len()).map(|row| dot(row, input)).collect()
}

/// W x + b: `[out]` from `weight` `[out, in]`, `bias` `[out]` and `input` `[in]`.
pub fn affine<F: Float>(weight: &[F], bias: &[F], input: &[F]) -> Vec<F> {
    let mut output = multiply(weight, input);
    add(&mut output, bias);
    output
}

/// Backward of [`multiply`]: given the gradient of its output, `d_weight` += d_output input^T and
/// `d_input` += W^T d_output.
pub fn multiply_backward<F: Float>(
    weight: &[F],       // [out, in]
    input: &[F],        // [in]
    d_output: &[F],     // [out]
    d_weight: &mut [F], // [out, in]
    d_input: &mut [F],  // [in]
) {
    for (row, &d) in d_output.iter().enumerate() {
        add_scaled(part_mut(d_weight, row, input.len()), d, input);
        add_scaled(d_input, d, part(weight, row, input.len()));
    }
}

/// The logistic function, 1 / (1 + exp(-x)).
pub fn sigmoid<F: Float>(x: F) -> F {
    F::ONE / (F::ONE + (-x).exp())
}

/// GELU in its exact form, x Phi(x) (Hendrycks and Gimpel, arXiv:1606.08415).
pub fn gelu<F: Float>(x: F) -> F {
    x * normal_cdf(x)
}

/// Derivative of [`gelu`]: Phi(x) + x phi(x).
pub fn gelu_derivative<F: Float>(x: F) -> F {
    let density = (-x * x / F::from_f64(2.0)).exp() / F::from_f64((2.0 * PI).sqrt());
    normal_cdf(x) + x * density
}

/// Phi: the standard normal distribution function, (1 + erf(x / sqrt 2)) / 2.
fn normal_cdf<F: Float>(x: F) -> F {
    F::from_f64(0.5) * (F::ONE + (x * F::from_f64(FRAC_1_SQRT_2)).erf())
}

/// Softmax over the elements that `included` names; zero for the others.
pub fn softmax<F: Float>(scores: &[F], included: &[bool]) -> Vec<F> {
    // Subtracting the highest score changes nothing but keeps exp from overflowing.
    let highest = highest(scores, included).map_or(F::ZERO, |id| scores[id]);
    let exponential =
        |(&score, &included): (&F, &bool)| if included { (score - highest).exp() } else { F::ZERO };
    let exponentials: Vec<F> = scores.iter().zip(included).map(exponential).collect();
    let sum: F = exponentials.iter().copied().sum();
    exponentials.into_iter().map(|exponential| exponential / sum).collect()
}

/// Backward of [`softmax`]: the gradient of the scores, from the probabilities and their gradient.
pub fn softmax_backward<F: Float>(probabilities: &[F], d_probabilities: &[F]) -> Vec<F> {
    let mean = dot(probabilities, d_probabilities);
    probabilities.iter().zip(d_probabilities).map(|(&p, &d)| p * (d - mean)).collect()
}

/// The `count` highest scores' places, the lowest ids among equals.
pub fn top_k<F: Float>(scores: &[F], count: usize) -> Vec<bool> {
    let mut chosen = vec![false; scores.len()];
    for _ in 0..count {
        let remaining: Vec<bool> = chosen.iter().map(|&chosen| !chosen).collect();
        if let Some(id) = highest(scores, &remaining) {
            chosen[id] = true;
        }
    }
    chosen
}

/// The id of the highest score among those `included`, the lowest id among equals.
fn highest<F: Float>(scores: &[F], included: &[bool]) -> Option<usize> {
    let mut best: Option<usize> = None;
    for id in (0..scores.len()).filter(|&id| included[id]) {
        if best.is_none_or(|best| scores[id] > scores[best]) {
            best = Some(id);
        }
    }
    best
}

/// RMSNorm (Zhang and Sennrich, arXiv:1910.07467): x / sqrt(mean(x^2) + eps) * gain. All are `[H]`.
pub fn rms_norm<F: Float>(x: &[F], gain: &[F], eps: F) -> Vec<F> {
    let scale = rms_norm_scale(x, eps);
    x.iter().zip(gain).map(|(&x, &gain)| x * scale * gain).collect()
}

/// Backward of [`rms_norm`]: adds to `d_gain` and returns the gradient of x. All are `[H]`.
///
/// With n = x * scale and dn = d_output * gain, dx = scale * (dn - n * mean(dn * n)).
pub fn rms_norm_backward<F: Float>(x: &[F], gain: &[F], eps: F, d_output: &[F], d_gain: &mut [F]) -> Vec<F> {
    let scale = rms_norm_scale(x, eps);
    let normalized: Vec<F> = x.iter().map(|&x| x * scale).collect();
    let d_normalized: Vec<F> = d_output.iter().zip(gain).map(|(&d, &gain)| d * gain).collect();
    for i in 0..x.len() {
        d_gain[i] += d_output[i] * normalized[i];
    }
    let mean = dot(&d_normalized, &normalized) / F::from_f64(x.len() as f64);
    d_normalized.iter().zip(&normalized).map(|(&d, &n)| scale * (d - n * mean)).collect()
}

/// 1 / sqrt(mean(x^2) + eps).
fn rms_norm_scale<F: Float>(x: &[F], eps: F) -> F {
    F::ONE / (dot(x, x) / F::from_f64(x.len() as f64) + eps).sqrt()
}

/// Cross entropy, in nats, of the distribution softmax(`logits`) on `target`: -ln p(target).
pub fn cross_entropy<F: Float>(logits: &[F], target: usize) -> F {
    let highest = highest(logits, &vec![true; logits.len()]).map_or(F::ZERO, |id| logits[id]);
    let sum: F = logits.iter().map(|&logit| (logit - highest).exp()).sum();
    sum.ln() + highest - logits[target]
}

/// Gradient of [`cross_entropy`]: softmax(logits) - onehot(target). `[V]`
pub fn cross_entropy_backward<F: Float>(logits: &[F], target: usize) -> Vec<F> {
    let mut d_logits = softmax(logits, &vec![true; logits.len()]);
    d_logits[target] = d_logits[target] - F::ONE;
    d_logits
}
