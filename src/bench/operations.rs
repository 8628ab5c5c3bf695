//! The kernels' operations on operands of some shape, and what their speed is compared with.

use super::peaks::Peaks;
use super::timing::{Effort, timed};
use serde::Serialize;
use shoestring_kernels::{Kernels, Line};
use std::hint::black_box;

pub mod shapes;

/// The buffers that an operation changes.
pub type Buffers = [Vec<Line>];

/// Does an operation by these kernels.
pub type Call = dyn Fn(&Kernels, &mut Buffers);

/// An operation on operands of one shape.
pub struct Operation {
    /// What the kernels call it.
    pub name: &'static str,
    /// Its sizes; see `docs/benchmarks.md`.
    pub shape: String,
    /// What it is measured by.
    pub work: Work,
    /// The buffers it changes, as they are before a call.
    pub buffers: Vec<Vec<Line>>,
    /// Does it on such buffers.
    pub call: Box<Call>,
}

/// The work of one call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Work {
    /// Multiply-adds of its matrix products, to be compared with the multipliers' peak.
    MultiplyAdds(usize),
    /// Bytes that must be read, to be compared with the nearest cache that holds as much.
    Bytes(usize),
    /// Elements; compared with nothing.
    Elements(usize),
}

/// How fast an operation is. Of the three rates it has the one that its [`Work`] calls for.
#[derive(Clone, Debug, Serialize)]
pub struct Measured {
    /// What the kernels call it.
    pub operation: &'static str,
    /// Its sizes.
    pub shape: String,
    /// Seconds a call.
    pub seconds: f64,
    /// Billions of floating-point operations a second.
    pub gflops: Option<f64>,
    /// Billions of bytes a second.
    pub gb_per_s: Option<f64>,
    /// Elements a nanosecond.
    pub elements_per_ns: Option<f64>,
    /// What it is compared with: `multiply-add`, or the level of memory.
    pub peak: Option<&'static str>,
    /// Its part of that peak.
    pub share: Option<f64>,
}

impl Operation {
    /// Times calls by `kernels`, each on fresh buffers.
    pub fn measure(&self, kernels: &Kernels, peaks: &Peaks, effort: Effort) -> Measured {
        let mut fresh = self.buffers.clone();
        let seconds = effort.median_seconds(|| {
            fresh.clone_from_slice(&self.buffers);
            timed(|| (self.call)(kernels, black_box(&mut fresh)))
        });
        let mut measured = Measured {
            operation: self.name,
            shape: self.shape.clone(),
            seconds,
            gflops: None,
            gb_per_s: None,
            elements_per_ns: None,
            peak: None,
            share: None,
        };
        let per_ns = |work: usize| work as f64 / seconds / 1e9;
        match self.work {
            Work::MultiplyAdds(count) => {
                let gflops = per_ns(2 * count);
                measured.gflops = Some(gflops);
                measured.peak = Some("multiply-add");
                measured.share = Some(gflops / peaks.gflops);
            }
            Work::Bytes(bytes) => {
                let level = peaks.level_of(bytes);
                measured.gb_per_s = Some(per_ns(bytes));
                measured.peak = level.map(|level| level.level);
                measured.share = level.map(|level| per_ns(bytes) / level.gb_per_s);
            }
            Work::Elements(elements) => measured.elements_per_ns = Some(per_ns(elements)),
        }
        measured
    }
}
