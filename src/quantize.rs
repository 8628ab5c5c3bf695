//! Storing a model's weights in fewer bits.
//!
//! Every row, or group of columns of a row, gets the scale with which its rounded numbers are nearest to what they
//! were. See `docs/quantization.md` for the formats and for what they cost.

use crate::model::{Encoding, Kind, Layout, Model, Tensor};
use shoestring_kernels::Line;

/// Candidates for a group's scale: this many parts of the one that maps the largest magnitude to the largest code.
const CANDIDATES: usize = 64;
/// The least of those parts. A smaller scale clips the largest weights to represent the others better.
const LEAST_PART: f32 = 0.6;

/// Weights in another encoding.
pub struct Requantized {
    /// Where the tensors lie in `lines`.
    pub layout: Layout,
    /// The weights.
    pub lines: Vec<Line>,
    /// What happened to each tensor, in the order of the layout.
    pub tensors: Vec<TensorReport>,
}

/// What became of one tensor.
#[derive(Clone, Debug, PartialEq)]
pub struct TensorReport {
    /// Its name.
    pub name: String,
    /// How it is coded now.
    pub encoding: Encoding,
    /// Its size now.
    pub bytes: usize,
    /// The norm of its change, relative to its own norm; 0 if that is 0.
    pub relative_error: f64,
}

/// The weights of `model` as those of a model of kind `kind`.
pub fn requantize(model: &Model, kind: Kind) -> Requantized {
    let config = model.config();
    let layout = Layout::of_kind(&config, kind);
    let from = model.weights();
    let mut lines = vec![Line::default(); layout.lines];
    let tensors = from.layout.tensors.iter().zip(&layout.tensors).map(|(old, new)| {
        let values = old.read(from.lines);
        write(new, &mut lines, &values);
        TensorReport {
            name: new.name.clone(),
            encoding: new.encoding,
            bytes: size_of_val(&lines[new.lines.clone()]),
            relative_error: relative_error(&values, &new.read(&lines)),
        }
    });
    let tensors = tensors.collect();
    Requantized { layout, lines, tensors }
}

/// Writes row-major `values` as `tensor` codes them.
///
/// # Panics
/// If there are not as many of them as the tensor has elements.
pub fn write(tensor: &Tensor, lines: &mut [Line], values: &[f32]) {
    match tensor.encoding {
        Encoding::F32 | Encoding::F16 => tensor.write(lines, values),
        Encoding::Q8 | Encoding::Q4 => {
            let group = tensor.encoding.group(tensor.columns());
            let mut codes = Vec::with_capacity(values.len()); // row-major
            let mut scales = Vec::with_capacity(values.len() / group); // [rows, groups]
            for values in values.chunks_exact(tensor.columns()).flat_map(|row| row.chunks(group)) {
                let scale = best_scale(values, tensor);
                scales.push(scale);
                codes.extend(values.iter().map(|&value| code(value, scale, tensor.encoding)));
            }
            tensor.write_integers(lines, &codes, &scales);
        }
    }
}

/// The scale with the least squared error.
fn best_scale(values: &[f32], tensor: &Tensor) -> f32 {
    let encoding = tensor.encoding;
    let largest = values.iter().fold(0.0_f32, |largest, value| largest.max(value.abs()));
    if largest == 0.0 || !largest.is_finite() {
        return 0.0;
    }
    let (low, high) = encoding.codes();
    // With more negative than positive codes, either sign of the scale may suit the values better.
    let extremes = if -low == high { &[f32::from(high)][..] } else { &[f32::from(low), -f32::from(low)] };
    let parts = (0..CANDIDATES).map(|i| LEAST_PART + (1.0 - LEAST_PART) * (i + 1) as f32 / CANDIDATES as f32);
    let candidates = parts.flat_map(|part| extremes.iter().map(move |extreme| part * largest / extreme));
    let mut best = (f64::INFINITY, 0.0);
    for scale in candidates.map(|scale| tensor.stored_scale(scale)) {
        let error = values.iter().map(|&value| {
            let rounded = f32::from(code(value, scale, encoding)) * scale;
            (f64::from(value) - f64::from(rounded)).powi(2)
        });
        let error = error.sum();
        if error < best.0 {
            best = (error, scale);
        }
    }
    best.1
}

/// The code nearest to a value.
fn code(value: f32, scale: f32, encoding: Encoding) -> i8 {
    let (low, high) = encoding.codes();
    let code = (value / scale).round_ties_even();
    // A scale of zero stands for a group of zeros.
    if code.is_nan() { 0 } else { code.clamp(f32::from(low), f32::from(high)) as i8 }
}

fn relative_error(before: &[f32], after: &[f32]) -> f64 {
    let square = |x: f64| x * x;
    let change: f64 = before.iter().zip(after).map(|(&a, &b)| square(f64::from(a) - f64::from(b))).sum();
    let norm: f64 = before.iter().map(|&a| square(f64::from(a))).sum();
    if norm == 0.0 { 0.0 } else { (change / norm).sqrt() }
}
