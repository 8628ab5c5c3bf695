//! How a chunk of `[T, B]` tokens is cut into tasks.
//!
//! The cut depends on the chunk's shape alone, never on the number of threads, and every task writes
//! its own slice: so a result does not depend on which thread does what.

use std::ops::Range;

/// Streams whose states one recurrence task carries: rows of one register tile.
const PART_STREAMS: usize = 8;
/// Rows of one task of the row-wise work: small enough that its rows stay in the L1 cache.
const TILE_ROWS: usize = 64;

/// A chunk of `steps` steps of `batch` streams, cut into parts of some streams each.
///
/// Rows of all activations are ordered [part, step, stream in part], so that a part is contiguous.
#[derive(Clone, Debug)]
pub struct Geometry {
    pub batch: usize,
    pub steps: usize,
    pub parts: Vec<Part>,
    pub tiles: Vec<Tile>,
}

/// Some neighbouring streams, all steps.
#[derive(Clone, Debug)]
pub struct Part {
    pub streams: Range<usize>,
    pub rows: Range<usize>,
}

/// Some neighbouring rows of one part.
#[derive(Clone, Debug)]
pub struct Tile {
    pub rows: Range<usize>,
}

impl Geometry {
    pub fn new(batch: usize, steps: usize) -> Self {
        let mut parts = Vec::with_capacity(batch.div_ceil(PART_STREAMS));
        let mut tiles = Vec::new();
        for first in (0..batch).step_by(PART_STREAMS) {
            let streams = first..batch.min(first + PART_STREAMS);
            let rows = first * steps..streams.end * steps;
            for start in rows.clone().step_by(TILE_ROWS) {
                let end = rows.end.min(start + TILE_ROWS);
                tiles.push(Tile { rows: start..end });
            }
            parts.push(Part { streams, rows });
        }
        Geometry { batch, steps, parts, tiles }
    }

    /// Rows of every activation buffer.
    pub fn rows(&self) -> usize {
        self.batch * self.steps
    }

    /// Lengths of each tile's slice in a buffer of `width` columns.
    pub fn tile_lengths(&self, width: usize) -> impl Iterator<Item = usize> {
        self.tiles.iter().map(move |tile| tile.rows.len() * width)
    }

    /// The row of step `step` of stream `stream`.
    pub fn row(&self, step: usize, stream: usize) -> usize {
        let part = &self.parts[stream / PART_STREAMS];
        part.rows.start + step * part.streams.len() + (stream - part.streams.start)
    }
}

/// Cuts the beginning of `buffer` into consecutive slices of these lengths.
pub fn split_mut<T>(mut buffer: &mut [T], lengths: impl Iterator<Item = usize>) -> Vec<&mut [T]> {
    lengths
        .map(|length| {
            let (slice, rest) = std::mem::take(&mut buffer).split_at_mut(length);
            buffer = rest;
            slice
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_and_states_are_each_covered_once() {
        for (batch, steps) in [(1, 1), (1, 130), (3, 7), (8, 80), (16, 80), (21, 5)] {
            let geometry = Geometry::new(batch, steps);
            let mut seen = vec![0; geometry.rows()];
            (0..steps).for_each(|t| (0..batch).for_each(|b| seen[geometry.row(t, b)] += 1));
            assert!(seen.iter().all(|&count| count == 1));
            let tiled: Vec<usize> = geometry.tiles.iter().flat_map(|tile| tile.rows.clone()).collect();
            assert_eq!(tiled, (0..geometry.rows()).collect::<Vec<_>>());
        }
    }
}
