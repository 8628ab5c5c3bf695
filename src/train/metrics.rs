//! `metrics.jsonl`: one JSON object a line.

use super::folder::RunFolder;
use super::network::Network;
use super::trainer::StepReport;
use crate::checkpoint::{Record, Validation};
use crate::model::ModelConfig;
use serde::Serialize;
use std::f64::consts::LN_2;
use std::io;

/// Seconds between lines; validations always get one.
const INTERVAL: f64 = 1.0;

/// Collects steps and writes a line about once a second.
pub struct Metrics {
    // Since the last line: losses summed, steps, rows of the text (tokens).
    sum: f64,
    steps: u64,
    rows: u64,
    // At the last line, of the whole run.
    seconds: f64,
    tokens: u64,
    last_step: Option<StepEntry>, // of this session
    text: TextLoss,
    experts: usize,
    expert_rows: Vec<u64>, // [L, E] rows that each expert computed; empty if all compute every row
}

/// What turns nats a token of the training text into nats a character and bits a byte.
#[derive(Clone, Copy)]
pub struct TextLoss {
    pub chars_per_token: f64,
    pub bytes_per_token: f64,
}

#[derive(Serialize)]
struct Entry {
    step: u64,
    epoch: u32,
    tokens: u64,
    seconds: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    tokens_per_second: Option<f64>,
    loss: f64,
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    text_loss: Option<TextLossEntry>,
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    last_step: Option<StepEntry>,
    #[serde(skip_serializing_if = "Option::is_none")]
    expert_load: Option<Vec<Vec<f64>>>,
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    validation: Option<ValidationEntry>,
}

#[derive(Serialize)]
struct TextLossEntry {
    train_nats_per_char: f64,
    train_bits_per_byte: f64,
}

#[derive(Clone, Copy, Serialize)]
struct StepEntry {
    learning_rate: f32,
    gradient_norm: f64,
    largest_state: f32,
}

#[derive(Serialize)]
struct ValidationEntry {
    val_nats_per_token: f64,
    val_nats_per_char: f64,
    val_bits_per_byte: f64,
}

impl Metrics {
    /// Starts counting at `record`, for a model of configuration `config` that is trained on `text`.
    pub fn new(record: &Record, config: &ModelConfig, text: TextLoss) -> Self {
        let sparse = config.top_k < config.experts;
        Metrics {
            sum: 0.0,
            steps: 0,
            seconds: record.seconds,
            tokens: record.tokens,
            rows: 0,
            last_step: None,
            text,
            experts: config.experts,
            expert_rows: vec![0; if sparse { config.layers * config.experts } else { 0 }],
        }
    }

    /// Starts counting again from so many tokens and seconds: where the run has gone back to.
    pub fn restart(&mut self, tokens: u64, seconds: f64) {
        (self.sum, self.steps, self.rows) = (0.0, 0, 0);
        (self.tokens, self.seconds) = (tokens, seconds);
        self.expert_rows.fill(0);
    }

    /// Takes a step, just made by `network`, into account; writes a line if it is time to, and says whether it was.
    ///
    /// # Errors
    /// If the line can't be written; it is left out then.
    pub fn step(
        &mut self,
        folder: &mut RunFolder,
        record: &Record,
        report: &StepReport,
        network: &Network,
    ) -> io::Result<bool> {
        self.sum += report.loss;
        self.steps += 1;
        let StepReport { learning_rate, gradient_norm, largest_state, .. } = *report;
        self.last_step = Some(StepEntry { learning_rate, gradient_norm, largest_state });
        self.rows += network.rows() as u64;
        network.count_expert_rows(&mut self.expert_rows);
        if record.seconds - self.seconds >= INTERVAL {
            return self.write(folder, record, None);
        }
        Ok(false)
    }

    /// Writes a line with a validation.
    ///
    /// # Errors
    /// If it can't be written; it is left out then.
    pub fn validation(
        &mut self,
        folder: &mut RunFolder,
        record: &Record,
        validation: &Validation,
    ) -> io::Result<bool> {
        let entry = ValidationEntry {
            val_nats_per_token: validation.nats_per_token,
            val_nats_per_char: validation.nats_per_char,
            val_bits_per_byte: validation.bits_per_byte,
        };
        self.write(folder, record, Some(entry))
    }

    fn write(
        &mut self,
        folder: &mut RunFolder,
        record: &Record,
        validation: Option<ValidationEntry>,
    ) -> io::Result<bool> {
        let loss = if self.steps == 0 { record.loss } else { self.sum / self.steps as f64 };
        let tokens = record.tokens - self.tokens;
        let seconds = (record.seconds - self.seconds).max(1e-9);
        let entry = Entry {
            step: record.step,
            epoch: record.epoch,
            tokens: record.tokens,
            seconds: record.seconds,
            tokens_per_second: (self.steps > 0).then(|| tokens as f64 / seconds),
            loss,
            text_loss: (self.steps > 0).then(|| TextLossEntry {
                train_nats_per_char: loss / self.text.chars_per_token,
                train_bits_per_byte: loss / LN_2 / self.text.bytes_per_token,
            }),
            last_step: self.last_step,
            expert_load: self.expert_load(),
            validation,
        };
        let line = serde_json::to_string(&entry);
        self.restart(record.tokens, record.seconds);
        folder.log(&line?)?;
        Ok(true)
    }

    /// For each layer, the share of tokens for which each expert was active.
    fn expert_load(&self) -> Option<Vec<Vec<f64>>> {
        let known = !self.expert_rows.is_empty() && self.rows > 0;
        let share = |&rows: &u64| (rows as f64 / self.rows as f64 * 1e4).round() / 1e4;
        let layers = self.expert_rows.chunks_exact(self.experts);
        known.then(|| layers.map(|layer| layer.iter().map(share).collect()).collect())
    }
}
