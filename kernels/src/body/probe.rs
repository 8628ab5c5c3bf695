//! Probes: nothing a model needs, only what the CPU can do at best, to compare the operations with.

#![allow(clippy::needless_range_loop, reason = "bounds that are constants, so that the sums are registers")]

use crate::line::{Line, PANEL_ROWS};
use crate::simd::{Lanes, Simd};
use std::hint::black_box;

/// The largest tile there can be.
const MAX_ROWS: usize = 8;
const MAX_PANELS: usize = 3;

/// Lines that the multiply-adds take in turn, a tile's at a time: few enough to stay in the first-level cache.
static ONES: [[Lanes; MAX_PANELS]; 32] = [[[1.0; PANEL_ROWS]; MAX_PANELS]; 32];

/// The register tile of the matrix product, without its broadcasts and its stores: every sum counts what was
/// added to it.
#[inline(always)]
pub(crate) fn probe_multiply_adds<S: Simd>(s: S, steps: usize) -> f64 {
    const { assert!(S::TILE_ROWS <= MAX_ROWS && S::TILE_PANELS <= MAX_PANELS) };
    // If the compiler knew these were ones it would count without multiplying. And where a multiply-add is two
    // instructions, it would move products out of the loop if all of a tile's were the same ones.
    let ones: &[[Lanes; MAX_PANELS]] = black_box(&ONES);
    let factors = [s.splat(black_box(1.0)), s.splat(black_box(1.0))];

    let mut sums = [[s.splat(0.0); MAX_PANELS]; MAX_ROWS];
    let mut left = steps;
    while left > 0 {
        let turn = left.min(ones.len());
        for lines in &ones[..turn] {
            for panel in 0..S::TILE_PANELS {
                let line = s.load(&lines[panel]);
                for row in 0..S::TILE_ROWS {
                    sums[row][panel] = s.mul_add(factors[row % 2], line, sums[row][panel]);
                }
            }
        }
        left -= turn;
    }
    // Exact up to `MAX_STEPS`: no lane exceeds 2²⁴ before it is doubled by an equal one.
    let mut sum = s.splat(0.0);
    for row in 0..S::TILE_ROWS {
        for panel in 0..S::TILE_PANELS {
            sum = s.add(sum, sums[row][panel]);
        }
    }
    f64::from(s.reduce_add(sum))
}

/// As many sums as a matrix-vector product has, for the same reason: they hide an addition's latency.
#[inline(always)]
pub(crate) fn probe_reads<S: Simd>(s: S, lines: &[Line]) -> f64 {
    let mut sums = [s.splat(0.0); 8];
    let mut groups = lines.chunks_exact(S::MATVEC_PANELS);
    for group in &mut groups {
        for (sum, line) in sums[..S::MATVEC_PANELS].iter_mut().zip(group) {
            *sum = s.add(*sum, s.load(&line.0));
        }
    }
    for line in groups.remainder() {
        sums[0] = s.add(sums[0], s.load(&line.0));
    }
    sums.iter().map(|&sum| f64::from(s.reduce_add(sum))).sum()
}
