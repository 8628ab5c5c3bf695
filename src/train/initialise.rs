//! The weights a run starts from.

use super::random;
use crate::model::{Layout, Tensor};
use rand_distr::{Distribution, StandardNormal};
use shoestring_kernels::Line;

/// Deviation of the embeddings: small, see [`deviation`].
const EMBEDDING_DEVIATION: f32 = 0.02;

/// Weights for a model laid out as `layout`, as a function of `seed` alone: biases zero, gains one,
/// matrices normal.
pub fn initialise(layout: &Layout, seed: u64) -> Vec<Line> {
    let mut weights = vec![Line::default(); layout.lines];
    for (i, tensor) in layout.tensors.iter().enumerate() {
        let values = match deviation(tensor) {
            Some(deviation) => {
                let random = &mut random::stream(seed, random::Purpose::Initialisation, i as u64);
                let normal = |_| -> f32 { StandardNormal.sample(random) };
                (0..tensor.elements()).map(normal).map(|x| x * deviation).collect()
            }
            None if tensor.name.ends_with("norm.weight") => vec![1.0; tensor.elements()],
            None => vec![0.0; tensor.elements()],
        };
        tensor.write(&mut weights, &values);
    }
    weights
}

/// Sets the head's bias to the logarithms of the tokens' frequencies in the text to train on, where token i occurs `counts[i]`
/// times; one more is counted of each, so that none is impossible.
///
/// Otherwise the frequencies are what is learned first, in steps that all point the same way, and the recurrent matrices take
/// part in it: in twenty steps their largest eigenvalue passes 1, the sooner the wider the model. The state is not bounded, since gelu is
/// not, and the norm after it hides its size from the loss, so it explodes. (That a head should begin with what needs no
/// input is advice of Karpathy's "A Recipe for Training Neural Networks", 2019.)
///
/// # Panics
/// If there is not a count for each token of the vocabulary.
pub fn set_head_bias(layout: &Layout, weights: &mut [Line], counts: &[u64]) {
    let total = counts.iter().sum::<u64>() + counts.len() as u64;
    let log_frequency = |&count: &u64| ((count + 1) as f64 / total as f64).ln() as f32;
    let bias: Vec<f32> = counts.iter().map(log_frequency).collect();
    layout.tensor_at(&layout.head_bias).write(weights, &bias);
}

/// Deviation of a matrix's elements; `None` for what does not start at random.
///
/// The state is not bounded, since gelu is not, and the norm after it hides its size from the loss. Where
/// the embeddings start large, the loss falls at first by way of the recurrent matrices, whose largest
/// eigenvalue then passes 1 within thirty steps, and the state explodes (PyTorch's does so just as much).
/// Starting small, the embeddings learn first, because AdamW's steps are large against them, and the state
/// stays below about 10.
fn deviation(tensor: &Tensor) -> Option<f32> {
    let fan_in = tensor.shape.last().map_or(1.0, |&columns| columns as f32);
    let part = tensor.name.rsplit('.').nth(1)?;
    match part {
        _ if !tensor.decayed => None,
        "embedding" => Some(EMBEDDING_DEVIATION),
        "recurrent" | "router" | "head" => Some(0.5 / fan_in.sqrt()),
        _ => Some(1.0 / fan_in.sqrt()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::train::Size;

    #[test]
    fn the_head_begins_with_the_frequencies_and_nothing_else_is_changed() {
        let layout = Layout::new(&Size::Tiny.config());
        let before = initialise(&layout, 1);
        let mut weights = before.clone();
        let counts: Vec<u64> = (0..512).map(|id| id * id % 11).collect();
        set_head_bias(&layout, &mut weights, &counts);
        let bias = layout.tensor("head.bias").unwrap().read(&weights);
        let total = (counts.iter().sum::<u64>() + 512) as f32;
        for (bias, count) in bias.into_iter().zip(counts) {
            let expected = (count + 1) as f32 / total;
            assert!((bias.exp() - expected).abs() < 1e-5 * expected);
        }
        let lines = layout.head_bias.clone();
        weights[lines.clone()].copy_from_slice(&before[lines]);
        assert!(weights == before);
    }
}
