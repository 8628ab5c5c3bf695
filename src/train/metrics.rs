//! `metrics.jsonl`: one JSON object a line.

use super::folder::RunFolder;
use super::trainer::StepReport;
use crate::checkpoint::{Record, Validation};
use serde::Serialize;

/// Seconds between lines; validations always get one.
const INTERVAL: f64 = 1.0;

/// Collects steps and writes a line about once a second.
pub struct Metrics {
    sum: f64,
    steps: u64,
    seconds: f64,
    tokens: u64,
}

#[derive(Serialize)]
struct Entry {
    step: u64,
    epoch: u32,
    tokens: u64,
    seconds: f64,
    tokens_per_second: f64,
    loss: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    gradient_norm: Option<f64>,
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    validation: Option<ValidationEntry>,
}

#[derive(Serialize)]
struct ValidationEntry {
    val_nats_per_token: f64,
    val_nats_per_char: f64,
    val_bits_per_byte: f64,
}

impl Metrics {
    /// Starts counting at `record`.
    pub fn new(record: &Record) -> Self {
        Metrics { sum: 0.0, steps: 0, seconds: record.seconds, tokens: record.tokens }
    }

    /// Takes a step into account, and writes a line if it is time to.
    pub fn step(&mut self, folder: &mut RunFolder, record: &Record, report: &StepReport) {
        self.sum += report.loss;
        self.steps += 1;
        if record.seconds - self.seconds >= INTERVAL {
            let gradient_norm = Some(report.gradient_norm);
            self.write(folder, record, gradient_norm, None);
        }
    }

    /// Writes a line with a validation.
    pub fn validation(&mut self, folder: &mut RunFolder, record: &Record, validation: &Validation) {
        let entry = ValidationEntry {
            val_nats_per_token: validation.nats_per_token,
            val_nats_per_char: validation.nats_per_char,
            val_bits_per_byte: validation.bits_per_byte,
        };
        self.write(folder, record, None, Some(entry));
    }

    fn write(
        &mut self,
        folder: &mut RunFolder,
        record: &Record,
        gradient_norm: Option<f64>,
        validation: Option<ValidationEntry>,
    ) {
        let loss = if self.steps == 0 { record.loss } else { self.sum / self.steps as f64 };
        // After a rollback the record's counters are behind those of the last line.
        let tokens = record.tokens.saturating_sub(self.tokens);
        let seconds = (record.seconds - self.seconds).max(1e-9);
        let entry = Entry {
            step: record.step,
            epoch: record.epoch,
            tokens: record.tokens,
            seconds: record.seconds,
            tokens_per_second: tokens as f64 / seconds,
            loss,
            gradient_norm,
            validation,
        };
        if let Ok(line) = serde_json::to_string(&entry) {
            // The metrics are an extra: a full disk must not end the training that fills it.
            let _ = folder.log(&line);
        }
        *self = Metrics::new(record);
    }
}
