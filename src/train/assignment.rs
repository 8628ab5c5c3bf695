//! Which rows of a chunk each expert computes, and in what order.
//!
//! An inactive expert holds its state, so between two tokens at which it is active nothing happens to it:
//! its recurrence over a stream is the same over the active steps alone. An expert's rows are therefore
//! the active ones only, `[step, stream]` in *its* steps, the j-th of a stream being the j-th at which it
//! is active. Streams have different numbers of active steps; they are sorted by it, shortest first, so
//! that the streams still running at any step are the last of a block, and their states the last rows
//! of the states before: no row is computed in vain, none copied between steps.

use super::geometry::Geometry;
use std::ops::Range;

/// The rows of every expert of a layer: of M = T * B rows each is computed by k experts.
pub struct Assignment {
    experts: usize,
    top_k: usize,
    shape: (usize, usize), // of the chunk last assigned: [B, T]
    /// Tasks of the recurrence, expert by expert; each one's rows follow those of the one before.
    pub blocks: Vec<Block>,
    runs: Vec<Run>,
    /// Streams of each block: an expert's, fewest active steps first. [E, B]
    streams: Vec<usize>,
    /// Row of the states after each of those streams' last active step. [E, B]
    last_states: Vec<usize>,
    /// The chunk's row that each of the experts' rows is. [k * M]
    sources: Vec<usize>,
    /// Where each of the chunk's rows went: one place for each active expert, lowest first. [M, k]
    places: Vec<Place>,
    active_rows: Vec<usize>,  // [E, B, T] the chunk's rows of each expert and stream
    active_steps: Vec<usize>, // [E, B] how many there are
}

/// Some streams of one expert, all of its steps.
#[derive(Clone, Debug)]
pub struct Block {
    pub expert: usize,
    /// In the experts' rows, `[k * M, ...]`.
    pub rows: Range<usize>,
    /// In the rows of states, `[E * B + k * M, ...]`: the streams' states before the chunk, then the state
    /// after each row.
    pub state_rows: Range<usize>,
    streams: Range<usize>,
    runs: Range<usize>,
}

impl Block {
    /// Number of streams.
    pub fn batch(&self) -> usize {
        self.streams.len()
    }
}

/// Some steps of a block during which the same streams run, the last `batch` of the block's.
#[derive(Clone, Debug)]
pub struct Run {
    pub batch: usize,
    /// Within the block's rows.
    pub rows: Range<usize>,
    /// Within the block's states: those before the run, then the one after each of its rows.
    pub state_rows: Range<usize>,
}

/// Where an expert computes a row.
#[derive(Clone, Copy, Debug, Default)]
pub struct Place {
    /// In the experts' rows.
    pub row: usize,
    /// In the rows of states: the state after it.
    pub state_row: usize,
}

impl Assignment {
    /// An assignment for `experts` experts, of which `top_k` are active in each row; no rows yet.
    pub fn new(experts: usize, top_k: usize) -> Self {
        Assignment {
            experts,
            top_k,
            shape: (0, 0),
            blocks: Vec::new(),
            runs: Vec::new(),
            streams: Vec::new(),
            last_states: Vec::new(),
            sources: Vec::new(),
            places: Vec::new(),
            active_rows: Vec::new(),
            active_steps: Vec::new(),
        }
    }

    /// Whether experts compute some rows only, so that their inputs must be gathered. If not, every expert's
    /// rows are the chunk's, in their order.
    pub fn gathers(&self) -> bool {
        self.top_k < self.experts
    }

    /// Assigns the rows of a chunk of shape `geometry` by `active`, `[M, E]` with `top_k` true in each row.
    pub fn assign(&mut self, geometry: &Geometry, active: &[bool]) {
        let earlier = std::mem::replace(&mut self.shape, (geometry.batch, geometry.steps));
        if !self.gathers() && self.shape == earlier {
            return; // Everything is active, as it was then.
        }
        self.list_active_rows(geometry, active);
        self.blocks.clear();
        self.runs.clear();
        self.streams.clear();
        self.last_states.clear();
        self.sources.clear();
        self.sources.reserve_exact(geometry.rows() * self.top_k);
        for expert in 0..self.experts {
            let steps = &self.active_steps[expert * geometry.batch..][..geometry.batch];
            let first = self.streams.len();
            self.streams.extend(0..geometry.batch);
            // Stable: streams of equally many steps stay in their order.
            self.streams[first..].sort_by_key(|&stream| steps[stream]);
            for part in &geometry.parts {
                let streams = first + part.streams.start..first + part.streams.end;
                self.push_block(expert, streams, geometry);
            }
        }
        assert_eq!(self.sources.len(), geometry.rows() * self.top_k, "every row has {} experts", self.top_k);
        self.find_places(geometry.rows());
    }

    /// The runs of a block, in the order of time.
    pub fn runs(&self, block: &Block) -> &[Run] {
        &self.runs[block.runs.clone()]
    }

    /// The streams of a block, in the order of its states.
    pub fn streams(&self, block: &Block) -> &[usize] {
        &self.streams[block.streams.clone()]
    }

    /// For each stream of a block, the row of the states after its last step.
    pub fn last_states(&self, block: &Block) -> &[usize] {
        &self.last_states[block.streams.clone()]
    }

    /// The chunk's rows that a block's rows are.
    pub fn sources(&self, block: &Block) -> &[usize] {
        &self.sources[block.rows.clone()]
    }

    /// Where the chunk's row `row` is computed, one place for each active expert, lowest first.
    pub fn places(&self, row: usize) -> &[Place] {
        &self.places[row * self.top_k..][..self.top_k]
    }

    /// The blocks of one expert.
    pub fn blocks_of(&self, expert: usize) -> &[Block] {
        let parts = self.blocks.len() / self.experts;
        &self.blocks[expert * parts..][..parts]
    }

    /// The rows of one expert.
    pub fn rows_of(&self, expert: usize) -> Range<usize> {
        let blocks = self.blocks_of(expert);
        blocks[0].rows.start..blocks[blocks.len() - 1].rows.end
    }

    /// Lengths of each block's slice in a buffer of the experts' rows, `width` columns wide.
    pub fn row_lengths(&self, width: usize) -> impl Iterator<Item = usize> {
        self.blocks.iter().map(move |block| block.rows.len() * width)
    }

    /// Lengths of each block's slice in a buffer of states, `width` columns wide.
    pub fn state_lengths(&self, width: usize) -> impl Iterator<Item = usize> {
        self.blocks.iter().map(move |block| block.state_rows.len() * width)
    }

    /// Lengths of each block's slice in a buffer of one row a stream, `width` columns wide.
    pub fn stream_lengths(&self, width: usize) -> impl Iterator<Item = usize> {
        self.blocks.iter().map(move |block| block.batch() * width)
    }

    /// A block's rows `[rows, width]` of a buffer of the chunk's rows, `[M, width]`. They are brought together in
    /// `room` unless they are already.
    pub fn gather<'a>(
        &self,
        block: &Block,
        chunk: &'a [f32],
        width: usize,
        room: &'a mut [f32],
    ) -> &'a [f32] {
        let sources = self.sources(block);
        if !self.gathers() {
            let first = sources.first().map_or(0, |row| row * width);
            return &chunk[first..][..sources.len() * width];
        }
        for (to, &row) in room.chunks_exact_mut(width).zip(sources) {
            to.copy_from_slice(&chunk[row * width..][..width]);
        }
        room
    }

    fn list_active_rows(&mut self, geometry: &Geometry, active: &[bool]) {
        let Geometry { batch, steps, .. } = *geometry;
        self.active_rows.resize(self.experts * batch * steps, 0);
        self.active_steps.clear();
        self.active_steps.resize(self.experts * batch, 0);
        for stream in 0..batch {
            for step in 0..steps {
                let row = geometry.row(step, stream);
                for expert in (0..self.experts).filter(|expert| active[row * self.experts + expert]) {
                    let list = expert * batch + stream;
                    self.active_rows[list * steps + self.active_steps[list]] = row;
                    self.active_steps[list] += 1;
                }
            }
        }
    }

    /// Appends a block: `streams` are those places of `self.streams`.
    fn push_block(&mut self, expert: usize, streams: Range<usize>, geometry: &Geometry) {
        let (first_row, first_run) = (self.sources.len(), self.runs.len());
        let first_state = self.blocks.last().map_or(0, |block| block.state_rows.end);
        let mut done = 0;
        for (rank, place) in streams.clone().enumerate() {
            let running = &self.streams[place..streams.end];
            let list = |stream: usize| expert * geometry.batch + stream;
            let end = self.active_steps[list(running[0])];
            let start = self.sources.len() - first_row;
            for step in done..end {
                let rows = running.iter().map(|&s| self.active_rows[list(s) * geometry.steps + step]);
                self.sources.extend(rows);
            }
            let rows = start..self.sources.len() - first_row;
            // Streams that ended earlier left one row each before those that still run.
            let state_rows = rank + start..streams.len() + rows.end;
            self.last_states.push(first_state + rank + rows.end);
            if !rows.is_empty() {
                self.runs.push(Run { batch: running.len(), rows, state_rows });
            }
            done = end;
        }
        let rows = first_row..self.sources.len();
        let state_rows = first_state..first_state + streams.len() + rows.len();
        let runs = first_run..self.runs.len();
        self.blocks.push(Block { expert, rows, state_rows, streams, runs });
    }

    fn find_places(&mut self, rows: usize) {
        self.places.clear();
        self.places.resize(rows * self.top_k, Place::default());
        let mut filled = vec![0; rows];
        for block in &self.blocks {
            for (i, &source) in self.sources[block.rows.clone()].iter().enumerate() {
                let place = Place {
                    row: block.rows.start + i,
                    state_row: block.state_rows.start + block.batch() + i,
                };
                self.places[source * self.top_k + filled[source]] = place;
                filled[source] += 1;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    /// Any experts, `top_k` in each row, the last expert in none if it can be left out.
    fn some_active(rows: usize, experts: usize, top_k: usize) -> Vec<bool> {
        let used = if top_k < experts { experts - 1 } else { experts };
        let mut active = vec![false; rows * experts];
        for row in 0..rows {
            let first = (row * row / 3 + row / 7) % used;
            (0..top_k).for_each(|i| active[row * experts + (first + i) % used] = true);
        }
        active
    }

    /// Each stream's active rows follow one another, from its state before the chunk to its last.
    #[test]
    fn every_active_row_is_computed_once_after_the_stream_s_one_before() {
        for (batch, steps, experts, top_k) in
            [(1, 1, 3, 1), (1, 130, 6, 2), (3, 7, 2, 1), (8, 80, 3, 3), (16, 80, 6, 2), (21, 5, 4, 3)]
        {
            let geometry = Geometry::new(batch, steps);
            let active = some_active(geometry.rows(), experts, top_k);
            let mut assignment = Assignment::new(experts, top_k);
            assignment.assign(&geometry, &active);
            let mut placed = HashSet::new();
            for block in &assignment.blocks {
                let streams = assignment.streams(block);
                let mut states: Vec<usize> = (0..streams.len()).map(|i| block.state_rows.start + i).collect();
                let mut next_step = vec![0; streams.len()];
                for run in assignment.runs(block) {
                    for (i, row) in run.rows.clone().enumerate() {
                        let rank = streams.len() - run.batch + i % run.batch;
                        let is_active = |step: &usize| {
                            active[geometry.row(*step, streams[rank]) * experts + block.expert]
                        };
                        let step = (next_step[rank]..steps).find(is_active).expect("an active step");
                        next_step[rank] = step + 1;
                        let source = geometry.row(step, streams[rank]);
                        assert_eq!(assignment.sources(block)[row], source);
                        let before = block.state_rows.start + run.state_rows.start + i;
                        assert_eq!(states[rank], before, "row {row} starts from another state");
                        states[rank] = before + run.batch;
                        let places = assignment.places(source);
                        let place = places.iter().find(|place| place.row == block.rows.start + row);
                        assert_eq!(place.map(|place| place.state_row), Some(states[rank]));
                        assert!(placed.insert((block.expert, source)));
                    }
                }
                assert_eq!(assignment.last_states(block), states);
            }
            assert_eq!(placed.len(), geometry.rows() * top_k);
        }
    }
}
