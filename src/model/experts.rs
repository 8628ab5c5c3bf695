//! The experts of a layer: update gates, candidates, and the states' steps through time.

use super::ModelConfig;
use super::decoder::{Block, LayerPanels, activations};
use super::panels::{Activations, Panels};
use shoestring_kernels::quantized::{QuantizedCell, QuantizedRows};
use shoestring_kernels::{Epilogue, Kernels, Line, PANEL_ROWS, as_floats_mut, padded};
use std::ops::Range;

/// Experts whose steps are taken by turns, so that one works while the other waits for its results. The recurrent
/// matrices of no more than two fit a small first-level cache.
const INTERLEAVED: usize = 2;

/// A layer's experts over the rows of all blocks.
pub(super) struct Experts<'a> {
    pub(super) kernels: &'static Kernels,
    pub(super) layer: &'a LayerPanels<'a>,
    pub(super) config: ModelConfig,
    pub(super) batch: usize,
    pub(super) rows: usize, // M
}

/// Working memory of one thread, on cache lines of its own.
#[derive(Clone, Default)]
#[repr(align(128))]
pub(super) struct Room {
    update: Vec<Line>, // [INTERLEAVED, m, Hp] update gates over a block, or [n, Hp] of a row
    states: [QuantizedRows; INTERLEAVED], // [B, H], or [n, H] of a row
}

impl Experts<'_> {
    /// Runs some of the experts, n of them. `hidden` `[n, M, Hp]` becomes their states after each step, `state`
    /// `[n, B, Hp]` those after the last.
    pub(super) fn run(
        &self,
        experts: Range<usize>,
        blocks: &[Block],
        hidden: &mut [f32],
        state: &mut [f32],
        room: &mut Room,
    ) {
        let width = padded(self.config.hidden);
        let (rows, slot) = (self.rows * width, self.batch * width);
        let is_sparse = self.config.top_k < self.config.experts;
        if self.rows == 1 && !is_sparse {
            return self.one_row(experts, &blocks[0], hidden, state, room);
        }
        let groups = hidden.chunks_mut(INTERLEAVED * rows).zip(state.chunks_mut(INTERLEAVED * slot));
        for (first, (hidden, state)) in experts.step_by(INTERLEAVED).zip(groups) {
            for block in blocks {
                let place = block.start * width..(block.start + block.length) * width;
                let hidden = hidden.chunks_exact_mut(rows).map(|hidden| &mut hidden[place.clone()]);
                let buffers = hidden.zip(state.chunks_exact_mut(slot));
                if is_sparse {
                    for (expert, (hidden, state)) in (first..).zip(buffers) {
                        self.chosen_rows(expert, block, hidden, state, room);
                    }
                } else {
                    self.all_rows(first, block, buffers, room);
                }
            }
        }
    }

    /// A single row: the weights of all experts lie one after the other, and so do their results.
    fn one_row(
        &self,
        experts: Range<usize>,
        block: &Block,
        hidden: &mut [f32], // [n, Hp]
        state: &mut [f32],  // [n, Hp]
        room: &mut Room,
    ) {
        let Room { update, states } = room;
        let update = floats(update, hidden.len());
        self.input_products(experts.clone(), self.input(block), update, hidden);
        self.step(experts, state, update, hidden, &mut states[0]);
    }

    /// Every row of a block, for the experts from `first` on that `buffers` are of: `[m, Hp]` states after each step and
    /// `[B, Hp]` the state before.
    fn all_rows<'b>(
        &self,
        first: usize,
        block: &Block,
        buffers: impl Iterator<Item = (&'b mut [f32], &'b mut [f32])>,
        room: &mut Room,
    ) {
        let (x, width) = (self.input(block), padded(self.config.hidden));
        let update = floats(&mut room.update, INTERLEAVED * block.length * width);
        let rooms = update.chunks_exact_mut(block.length * width).zip(&mut room.states);
        let mut cells = Vec::with_capacity(INTERLEAVED);
        for (expert, ((steps, state), (update, room))) in (first..).zip(buffers.zip(rooms)) {
            self.input_products(expert..expert + 1, x, update, steps);
            match self.recurrent(expert).as_q8() {
                Some((recurrent, scales)) => {
                    cells.push(QuantizedCell { state, steps, update, recurrent, scales, room });
                }
                None => {
                    let slot = self.batch * width;
                    for (update, step) in update.chunks_exact(slot).zip(steps.chunks_exact_mut(slot)) {
                        self.step(expert..expert + 1, state, update, step, room);
                    }
                }
            }
        }
        self.kernels.cell_forward_q8(&mut cells, self.batch, self.config.hidden);
    }

    /// The rows of a block that chose an expert, one at a time; for the others its state stays as it is.
    fn chosen_rows(
        &self,
        expert: usize,
        block: &Block,
        hidden: &mut [f32], // [m, Hp]
        state: &mut [f32],  // [B, Hp]
        room: &mut Room,
    ) {
        let (x, width) = (self.input(block), padded(self.config.hidden));
        let Room { update, states } = room;
        let update = floats(update, width);
        for (row, hidden) in hidden.chunks_exact_mut(width).enumerate() {
            let state = &mut state[(block.start + row) % self.batch * width..][..width];
            if block.active[row * self.config.experts + expert] {
                let x = x.rows(row..row + 1, self.layer.input_width);
                self.input_products(expert..expert + 1, x, update, hidden);
                self.step(expert..expert + 1, state, update, hidden, &mut states[0]);
            } else {
                hidden.copy_from_slice(state);
            }
        }
    }

    /// Gates and candidates of some experts without the state's part: `[M, n, Hp]`.
    fn input_products(
        &self,
        experts: Range<usize>,
        x: Activations<'_>,
        update: &mut [f32],
        candidate: &mut [f32],
    ) {
        let panels = padded(self.config.hidden) / PANEL_ROWS;
        let panels = experts.start * panels..experts.end * panels;
        let bias = Epilogue::BiasSigmoid(&self.layer.update_bias[panels.clone()]);
        self.layer.update.slice(panels.clone()).multiply(self.kernels, update, x, bias);
        let bias = Epilogue::Bias(&self.layer.candidate_bias[panels.clone()]);
        self.layer.candidate.slice(panels).multiply(self.kernels, candidate, x, bias);
    }

    /// Moves the states of some experts on by one step: all buffers are `[n, rows, Hp]`. `candidate` becomes the states.
    fn step(
        &self,
        experts: Range<usize>,
        state: &mut [f32],
        update: &[f32],
        candidate: &mut [f32],
        room: &mut QuantizedRows,
    ) {
        let rows = state.len() / experts.len() / padded(self.config.hidden);
        let all = activations(self.is_integer(), room, self.kernels, state, self.config.hidden);
        let candidates = candidate.chunks_exact_mut(rows * padded(self.config.hidden));
        for (i, (expert, candidate)) in experts.zip(candidates).enumerate() {
            let x = all.rows(i * rows..(i + 1) * rows, self.config.hidden);
            self.recurrent(expert).multiply(self.kernels, candidate, x, Epilogue::Accumulate);
        }
        self.kernels.cell_step(state, update, candidate);
        candidate.copy_from_slice(state);
    }

    fn recurrent(&self, expert: usize) -> Panels<'_> {
        let panels = padded(self.config.hidden) / PANEL_ROWS;
        self.layer.recurrent.slice(expert * panels..(expert + 1) * panels)
    }

    fn input<'b>(&self, block: &'b Block) -> Activations<'b> {
        block.input(self.is_integer(), self.layer.input_width)
    }

    fn is_integer(&self) -> bool {
        self.layer.recurrent.as_q8().is_some()
    }
}

/// `length` floats, whole lines.
pub(super) fn floats(lines: &mut Vec<Line>, length: usize) -> &mut [f32] {
    lines.resize(length / PANEL_ROWS, Line::default());
    as_floats_mut(lines)
}
