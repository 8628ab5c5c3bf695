//! The weights' transposes, which the input gradients multiply by.

use crate::model::{Layout, Storage};
use rayon::prelude::*;
use shoestring_kernels::{Kernels, Line, panel_lines};
use std::ops::Range;

/// Panels of the transpose of every matrix of a model: of `[N, K]` panels, the panels of `[K, N]`.
pub struct Transposed {
    lines: Vec<Line>, // [lines], the matrices one after the other
    matrices: Vec<Matrix>,
    /// The head's place among them.
    head: usize,
    layers: Vec<LayerMatrices>,
}

/// Where one matrix lies in the weights, and its transpose in the transposed buffer.
struct Matrix {
    weights: Range<usize>,
    transposed: Range<usize>,
    rows: usize,
    columns: usize,
}

/// The places among them of a layer's matrices; where each expert has one, of the first.
#[derive(Clone, Copy)]
pub struct LayerMatrices {
    router: usize,
    update: usize,
    candidate: usize,
    recurrent: usize,
    residual: Option<usize>,
}

impl Transposed {
    /// Room for the transposes of a model laid out as `layout`.
    pub fn new(layout: &Layout) -> Self {
        let mut matrices = Vec::new();
        let mut end = 0;
        for tensor in &layout.tensors {
            let Storage::Panels { matrices: count, rows, columns } = tensor.storage else { continue };
            let (length, transposed_length) = (panel_lines(rows, columns), panel_lines(columns, rows));
            for i in 0..count {
                let start = tensor.lines.start + i * length;
                let (weights, transposed) = (start..start + length, end..end + transposed_length);
                end = transposed.end;
                matrices.push(Matrix { weights, transposed, rows, columns });
            }
        }
        let find =
            |range: &Range<usize>| matrices.iter().position(|m: &Matrix| m.weights.start == range.start);
        let index = |range: &Range<usize>| find(range).expect("every panel tensor was listed above");
        let layers = layout
            .layers
            .iter()
            .map(|layer| LayerMatrices {
                router: index(&layer.router),
                update: index(&layer.update),
                candidate: index(&layer.candidate),
                recurrent: index(&layer.recurrent),
                residual: layer.residual.as_ref().map(|(weight, _)| index(weight)),
            })
            .collect();
        let head = index(&layout.head);
        Transposed { lines: vec![Line::default(); end], head, layers, matrices }
    }

    /// Transposes the weights as they are now.
    pub fn update(&mut self, kernels: &Kernels, weights: &[Line]) {
        let lengths = self.matrices.iter().map(|matrix| matrix.transposed.len());
        let slices = super::geometry::split_mut(&mut self.lines, lengths);
        self.matrices.par_iter().zip(slices).for_each(|(matrix, out)| {
            let weights = &weights[matrix.weights.clone()];
            kernels.transpose_panels(out, weights, matrix.rows, matrix.columns);
        });
    }

    /// Panels `[H, V]` of the head's transpose.
    pub fn head(&self) -> &[Line] {
        self.matrix(self.head)
    }

    /// Panels `[D, E]` of a layer's router's transpose.
    pub fn router(&self, layer: usize) -> &[Line] {
        self.matrix(self.layers[layer].router)
    }

    /// Panels `[D, H]` of an expert's update matrix's transpose.
    pub fn update_gate(&self, layer: usize, expert: usize) -> &[Line] {
        self.matrix(self.layers[layer].update + expert)
    }

    /// Panels `[D, H]` of an expert's candidate matrix's transpose.
    pub fn candidate(&self, layer: usize, expert: usize) -> &[Line] {
        self.matrix(self.layers[layer].candidate + expert)
    }

    /// Panels `[H, H]` of an expert's recurrent matrix's transpose.
    pub fn recurrent(&self, layer: usize, expert: usize) -> &[Line] {
        self.matrix(self.layers[layer].recurrent + expert)
    }

    /// Panels `[D, H]` of a layer's residual projection's transpose, if it has one.
    pub fn residual(&self, layer: usize) -> Option<&[Line]> {
        self.layers[layer].residual.map(|index| self.matrix(index))
    }

    fn matrix(&self, index: usize) -> &[Line] {
        &self.lines[self.matrices[index].transposed.clone()]
    }
}
