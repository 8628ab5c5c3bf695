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
