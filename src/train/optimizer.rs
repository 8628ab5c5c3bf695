//! AdamW with global-norm clipping, over the flat buffers.

use crate::model::Layout;
use rayon::prelude::*;
use shoestring_kernels::{AdamwStep, Kernels, Line, as_floats};
use std::ops::Range;

/// Lines of one task of a pass over the flat buffers.
const TASK_LINES: usize = 512;

/// AdamW (Loshchilov and Hutter 2019) as torch.optim.AdamW computes it; decay applies to matrices only.
pub struct Optimizer {
    /// First and second moments, each laid out as the weights: [2, lines].
    pub moments: Vec<Line>,
    tasks: Vec<(Range<usize>, bool)>,
    partial: Vec<f64>, // [tasks] sums of squares
}

/// The numbers of one update.
#[derive(Clone, Copy, Debug)]
pub struct Update {
    /// Which step this is, from 1 on: moments start at zero and are corrected for it.
    pub step: u64,
    /// How far a weight moves at most, about.
    pub learning_rate: f32,
    /// Decay rate of the first moment.
    pub beta1: f32,
    /// Decay rate of the second moment.
    pub beta2: f32,
    /// Added to the root of the second moment.
    pub eps: f32,
    /// Decoupled decay of matrices, times the learning rate.
    pub weight_decay: f32,
    /// Bound of the gradient's norm.
    pub clip: f32,
}

impl Optimizer {
    /// Moments zero, for a model laid out as `layout`.
    pub fn new(layout: &Layout) -> Self {
        let tasks: Vec<_> = layout
            .tensors
            .iter()
            .flat_map(|tensor| {
                let (lines, decayed) = (tensor.lines.clone(), tensor.decayed);
                let end = lines.end;
                lines.step_by(TASK_LINES).map(move |start| (start..end.min(start + TASK_LINES), decayed))
            })
            .collect();
        let partial = vec![0.0; tasks.len()];
        Optimizer { moments: vec![Line::default(); 2 * layout.lines], tasks, partial }
    }

    /// The gradient's norm over all parameters.
    pub fn norm(&mut self, kernels: &Kernels, gradient: &[Line]) -> f64 {
        self.partial.par_iter_mut().zip(&self.tasks).for_each(|(sum, (lines, _))| {
            *sum = kernels.sum_of_squares(as_floats(&gradient[lines.clone()]));
        });
        self.partial.iter().sum::<f64>().sqrt()
    }

    /// Updates `weights` by `gradient`, whose norm is `norm`, clipped as torch's clip_grad_norm_ does.
    pub fn update(
        &mut self,
        kernels: &Kernels,
        weights: &mut [Line],
        gradient: &[Line],
        norm: f64,
        update: Update,
    ) {
        let scale = (f64::from(update.clip) / (norm + 1e-6)).min(1.0);
        let correction = |beta: f32| (1.0 - f64::from(beta).powf(update.step as f64)) as f32;
        let step = AdamwStep {
            learning_rate: update.learning_rate,
            beta1: update.beta1,
            beta2: update.beta2,
            eps: update.eps,
            weight_decay: update.weight_decay,
            gradient_scale: scale as f32,
            correction1: correction(update.beta1),
            correction2: correction(update.beta2),
        };
        let undecayed = AdamwStep { weight_decay: 0.0, ..step };
        let lengths = || self.tasks.iter().map(|(lines, _)| lines.len());
        let (first, second) = self.moments.split_at_mut(weights.len());
        let weights = super::geometry::split_mut(weights, lengths());
        let first = super::geometry::split_mut(first, lengths());
        let second = super::geometry::split_mut(second, lengths());
        let tasks = self.tasks.par_iter().zip(weights).zip(first).zip(second);
        tasks.for_each(|((((lines, decayed), weights), first), second)| {
            let step = if *decayed { &step } else { &undecayed };
            kernels.adamw(weights, first, second, &gradient[lines.clone()], step);
        });
    }
}
