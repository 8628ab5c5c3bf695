//! What a training run shows: a progress bar on a terminal, plain lines elsewhere; all on stderr.

use super::tell;
use crate::checkpoint::{Record, Validation};
use crate::train::Event;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::io::{IsTerminal, stderr};
use std::path::Path;
use std::time::{Duration, Instant};

/// Resolution of the bar.
const TICKS: u64 = 10_000;
/// Time between redraws.
const REDRAW: Duration = Duration::from_millis(250);

pub struct Display {
    quiet: bool,
    bar: Option<ProgressBar>,
    since: Option<(Instant, u64)>,
    drawn: Instant,
}

impl Display {
    pub fn new(quiet: bool) -> Self {
        let bar = (!quiet && stderr().is_terminal()).then(|| {
            let bar = ProgressBar::with_draw_target(Some(TICKS), ProgressDrawTarget::stderr());
            let style = ProgressStyle::with_template("{bar:24} {percent:>3}%  {msg}");
            bar.with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
        });
        Display { quiet, bar, since: None, drawn: Instant::now() }
    }

    pub fn show(&mut self, event: &Event<'_>) {
        match event {
            Event::Step { record, done, .. } => self.step(record, *done),
            Event::Validated { record, validation, best, sample } => {
                self.say(&validated(record, validation, *best));
                self.say(&format!("  {}", sample.replace('\n', "\n  ")));
            }
            Event::NotValidated { step } => self.warn(&format!(
                "At step {step} the model's state ran away on the validation text. Training goes on."
            )),
            Event::Saved { .. } => {}
            Event::SaveFailed { error } => {
                self.warn(&format!("{error}. Training goes on and will try again."))
            }
            Event::Diverged { step, loss, checkpoint, lr } => self.warn(&format!(
                "Training diverged at step {step} (loss {loss:.3}). Back to {} with learning rate {lr:.2e}.",
                checkpoint.display()
            )),
        }
    }

    /// Clears the bar.
    pub fn finish(&mut self) {
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
    }

    /// What came out of the run.
    pub fn summary(&self, record: &Record, model: &Path) {
        let rate = record.tokens as f64 / record.seconds.max(1e-9);
        let (steps, time) = (record.step, clock(record.seconds));
        tell!("Trained {steps} steps, {} tokens in {time} ({rate:.0} tokens/s).", record.tokens);
        let best = record.validations.iter().map(|v| v.nats_per_char).fold(f64::INFINITY, f64::min);
        tell!("Best validation: {best:.4} nats/char. The model: {}", model.display());
    }

    fn step(&mut self, record: &Record, done: f64) {
        let (start, tokens) = *self.since.get_or_insert_with(|| (Instant::now(), record.tokens));
        let Some(bar) = &self.bar else { return };
        if self.drawn.elapsed() < REDRAW {
            return;
        }
        self.drawn = Instant::now();
        let seconds = start.elapsed().as_secs_f64().max(1e-9);
        let rate = (record.tokens - tokens.min(record.tokens)) as f64 / seconds;
        let left = if done > 0.0 { clock(record.seconds * (1.0 - done) / done) } else { "?".to_owned() };
        bar.set_position((done * TICKS as f64) as u64);
        let loss = record.loss;
        bar.set_message(format!(
            "loss {loss:.3}  {rate:.0} tokens/s  {left} left  epoch {}",
            record.epoch + 1
        ));
    }

    fn say(&self, line: &str) {
        if !self.quiet {
            self.warn(line);
        }
    }

    fn warn(&self, line: &str) {
        match &self.bar {
            Some(bar) => bar.suspend(|| tell!("{line}")),
            None => tell!("{line}"),
        }
    }
}

fn validated(record: &Record, validation: &Validation, best: bool) -> String {
    let Validation { nats_per_token, nats_per_char, bits_per_byte, .. } = validation;
    let (step, epoch, loss, time) = (record.step, record.epoch, record.loss, clock(record.seconds));
    let best = if best { ", the best so far" } else { "" };
    format!(
        "{time}  step {step}, {epoch} epochs: training {loss:.3}; validation {nats_per_token:.3} nats/token, \
         {nats_per_char:.4} nats/char, {bits_per_byte:.4} bits/byte{best}"
    )
}

/// Seconds as h:mm:ss or m:ss.
fn clock(seconds: f64) -> String {
    let seconds = seconds.round() as u64;
    let (hours, minutes, seconds) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    if hours > 0 { format!("{hours}:{minutes:02}:{seconds:02}") } else { format!("{minutes}:{seconds:02}") }
}
