//! The curves of training runs, drawn as SVG or PNG.

mod chart;
mod curves;

pub use chart::{Format, draw};
pub use curves::{Axis, Curve, Loss};

use std::io;
use std::path::PathBuf;
use thiserror::Error;

/// Why curves can't be drawn.
#[derive(Debug, Error)]
#[expect(missing_docs, reason = "the fields are what the messages name")]
pub enum PlotError {
    /// A run's metrics can't be read.
    #[error("cannot read {path}: {source}", path = path.display())]
    Io { path: PathBuf, source: io::Error },
    /// There is nothing to draw yet.
    #[error("{path} has no losses to draw; name the folder of a run that has trained for some seconds", path = path.display())]
    Empty { path: PathBuf },
    /// It is something else, or damaged.
    #[error("{path}, line {line}: not a line of metrics ({what}); name the folder of a run, or its metrics.jsonl", path = path.display())]
    Broken { path: PathBuf, line: usize, what: String },
    /// The drawing library gave up.
    #[error("cannot draw: {0}")]
    Drawing(String),
}
