//! A run's losses, as its metrics tell them.

use super::PlotError;
use crate::files::read_text;
use crate::train::{LONGEST_METRICS, METRICS};
use serde::Deserialize;
use std::fs;
use std::path::Path;

/// Points of a curve that are drawn at most; more would only make a line thick with noise.
const MOST_POINTS: usize = 1500;
/// Characters of a run's name in the legend.
const LONGEST_NAME: usize = 40;

/// Of losses and seconds. A run that diverges can have losses near it; the drawing library takes forever over numbers
/// far beyond.
const LARGEST: f64 = f32::MAX as f64;

/// What the losses are drawn over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Axis {
    /// Training tokens read.
    Tokens,
    /// Optimizer steps.
    Steps,
    /// Seconds of training.
    Time,
}

/// The losses of one run.
#[derive(Clone, Debug)]
pub struct Curve {
    /// What the legend calls it.
    pub name: String,
    /// On the text it is trained on. Where a run went back to a checkpoint a new piece begins.
    pub training: Vec<Vec<Loss>>,
    /// On the held-out text, in pieces too.
    pub validation: Vec<Vec<Loss>>,
}

/// A loss at some point of a run.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Loss {
    /// Where it is on the axis.
    pub x: f64,
    /// Nats a character.
    pub nats_per_char: f64,
    /// Bits a byte.
    pub bits_per_byte: f64,
}

/// What is drawn of a line of `metrics.jsonl`. A loss that was not finite is null.
#[derive(Deserialize)]
struct Line {
    step: u64,
    tokens: u64,
    seconds: f64,
    train_nats_per_char: Option<f64>,
    train_bits_per_byte: Option<f64>,
    val_nats_per_char: Option<f64>,
    val_bits_per_byte: Option<f64>,
}

impl Loss {
    /// Whether it is a loss at a place that can be drawn.
    pub(super) fn is_sound(&self) -> bool {
        [self.x, self.nats_per_char, self.bits_per_byte].iter().all(|number| (0.0..=LARGEST).contains(number))
    }
}

impl Line {
    /// The numbers that could be anything.
    fn numbers(&self) -> impl Iterator<Item = f64> {
        let Line { train_nats_per_char, train_bits_per_byte, val_nats_per_char, val_bits_per_byte, .. } =
            *self;
        let losses = [train_nats_per_char, train_bits_per_byte, val_nats_per_char, val_bits_per_byte];
        losses.into_iter().flatten().chain([self.seconds])
    }
}

impl Curve {
    /// Reads the metrics of a run, a folder or its `metrics.jsonl`.
    ///
    /// # Errors
    /// If there is no such file, it holds something else, or no loss yet.
    pub fn read(run: &Path, axis: Axis) -> Result<Self, PlotError> {
        let path = if run.is_dir() { run.join(METRICS) } else { run.to_owned() };
        let text = read_text(&path, LONGEST_METRICS)
            .map_err(|source| PlotError::Io { path: path.clone(), source })?;
        let (mut training, mut validation) = (Vec::new(), Vec::new());
        for (number, line) in text.split_inclusive('\n').enumerate() {
            let broken = |what: &str| {
                Err(PlotError::Broken { path: path.clone(), line: number + 1, what: what.to_owned() })
            };
            let line: Line = match serde_json::from_str(line) {
                Ok(line) => line,
                // A run that goes on, or was cut off, may be in the middle of a line.
                Err(error) if error.is_eof() && !line.ends_with('\n') => break,
                Err(error) => return broken(error.to_string().split(" at line").next().unwrap_or_default()),
            };
            if let Some(number) = line.numbers().find(|number| !(0.0..=LARGEST).contains(number)) {
                return broken(&format!("{number} is no loss and no time"));
            }
            let x = match axis {
                Axis::Tokens => line.tokens as f64,
                Axis::Steps => line.step as f64,
                Axis::Time => line.seconds,
            };
            push(&mut training, x, line.train_nats_per_char, line.train_bits_per_byte);
            push(&mut validation, x, line.val_nats_per_char, line.val_bits_per_byte);
        }
        if training.is_empty() && validation.is_empty() {
            return Err(PlotError::Empty { path });
        }
        let training = training.into_iter().map(thinned).collect();
        Ok(Curve { name: name(run), training, validation })
    }

    /// All losses, of training and validation.
    pub fn losses(&self) -> impl Iterator<Item = &Loss> {
        self.training.iter().chain(&self.validation).flatten()
    }

    /// The lowest loss on the held-out text, in nats a character.
    pub fn best(&self) -> Option<f64> {
        self.validation.iter().flatten().map(|loss| loss.nats_per_char).min_by(f64::total_cmp)
    }
}

/// Adds a loss, if there is one, to the last piece, or to a new one if it lies before that one's end.
fn push(pieces: &mut Vec<Vec<Loss>>, x: f64, nats_per_char: Option<f64>, bits_per_byte: Option<f64>) {
    let (Some(nats_per_char), Some(bits_per_byte)) = (nats_per_char, bits_per_byte) else { return };
    let loss = Loss { x, nats_per_char, bits_per_byte };
    match pieces.last_mut() {
        Some(piece) if piece.last().is_none_or(|last| last.x <= x) => piece.push(loss),
        _ => pieces.push(vec![loss]),
    }
}

/// As few points as are worth drawing, each the mean of its neighbours.
fn thinned(piece: Vec<Loss>) -> Vec<Loss> {
    let each = piece.len().div_ceil(MOST_POINTS).max(1);
    let mean =
        |losses: &[Loss], of: fn(&Loss) -> f64| losses.iter().map(of).sum::<f64>() / losses.len() as f64;
    let join = |losses: &[Loss]| Loss {
        x: mean(losses, |loss| loss.x),
        nats_per_char: mean(losses, |loss| loss.nats_per_char),
        bits_per_byte: mean(losses, |loss| loss.bits_per_byte),
    };
    piece.chunks(each).map(join).collect()
}

/// A run is called as its folder is, by as much of the path as was given.
fn name(run: &Path) -> String {
    let folder = if run.ends_with(METRICS) { run.parent().unwrap_or(run) } else { run };
    if matches!(folder.to_str(), Some("" | ".")) {
        let here = fs::canonicalize(".").unwrap_or_default();
        return here.file_name().unwrap_or_default().to_string_lossy().into_owned();
    }
    // A picture can't have control characters.
    let show = |character: char| if character.is_control() { char::REPLACEMENT_CHARACTER } else { character };
    let name: Vec<char> = folder.to_string_lossy().chars().map(show).collect();
    // Runs differ at the end of their paths.
    match name.len().checked_sub(LONGEST_NAME) {
        None | Some(0) => name.into_iter().collect(),
        Some(excess) => ['…'].into_iter().chain(name[excess + 1..].iter().copied()).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_name_keeps_its_end() {
        assert_eq!(name(Path::new("runs/a")), "runs/a");
        let path = format!("{}/seed-1", "folder/".repeat(20));
        let long = name(Path::new(&path));
        assert!(long.starts_with('…') && long.ends_with("/seed-1"), "{long}");
        assert_eq!(long.chars().count(), LONGEST_NAME);
        let exact = "x".repeat(LONGEST_NAME);
        assert_eq!(name(Path::new(&exact)), exact);
    }
}
