//! What a training run shows: a progress bar on a terminal, plain lines elsewhere; all on stderr.

use super::sparkline::Course;
use super::{counted, tell};
use crate::checkpoint::{Record, RunLength, Validation};
use crate::train::Event;
use console::Term;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::io::{IsTerminal, stderr};
use std::path::Path;
use std::time::{Duration, Instant};

/// Resolution of the bar.
const TICKS: u64 = 10_000;
/// Time between redraws.
const REDRAW: Duration = Duration::from_millis(250);
/// A pass over a text is worth showing when it takes longer than this.
const NOTICEABLE: Duration = Duration::from_secs(1);
/// Time between lines about it where there is no terminal.
const BETWEEN_LINES: Duration = Duration::from_secs(10);
/// Time after which a run says how fast it is.
const MEASURE: Duration = Duration::from_millis(900);
/// Columns of the bar and the percentage before a line's message.
const BAR_COLUMNS: usize = 19;
/// The most columns of the loss's course, which gets what the message leaves.
const WIDEST_COURSE: usize = 40;

pub struct Display {
    quiet: bool,
    bar: Option<ProgressBar>,
    plan: Plan,
    since: Option<(Instant, u64)>,
    forecast_told: bool,
    drawn: Instant,
    course: Course,
}

/// What a run is going to do, to tell what that will take.
#[derive(Clone, Copy)]
pub struct Plan {
    pub length: RunLength,
    /// Tokens of the training text.
    pub tokens: usize,
}

impl Display {
    pub fn new(quiet: bool, plan: Plan) -> Self {
        let bar = (!quiet && stderr().is_terminal()).then(new_bar);
        let (drawn, course) = (Instant::now(), Course::new());
        Display { quiet, bar, plan, since: None, forecast_told: false, drawn, course }
    }

    pub fn show(&mut self, event: &Event<'_>) {
        match event {
            // Over before there is a run to display.
            Event::Tokenizing { .. } => {}
            Event::Step { record, report, done } => self.step(record, report.loss, *done),
            Event::Validated { record, validation, best, sample } => {
                self.say(&validated(record, validation, *best));
                self.say(&format!("  {}", sample.replace('\n', "\n  ")));
            }
            Event::NotValidated { step } => {
                self.warn(&format!("At step {step} the model's state ran away on the validation text."))
            }
            Event::Saved { .. } => {}
            Event::SaveFailed { error } => {
                self.warn(&format!("{error}. The next save will be tried all the same."))
            }
            Event::LogFailed { error } => {
                self.warn(&format!("cannot write to metrics.jsonl: {error}. Training goes on without."))
            }
            Event::Diverged { step, loss, checkpoint, lr } => {
                self.since = None;
                self.warn(&format!(
                    "Training diverged at step {step} (loss {loss:.3}). Back to {} with learning rate {lr:.2e}.",
                    checkpoint.display()
                ));
            }
        }
    }

    /// Clears the bar.
    pub fn finish(&mut self) {
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
    }

    /// What came out of the run.
    pub fn summary(&self, record: &Record, best: Option<Validation>, model: &Path) {
        let rate = record.tokens as f64 / record.seconds.max(1e-9);
        let (steps, time) = (counted(record.step, "step"), clock(record.seconds));
        tell!("Trained {steps}, {} tokens in {time} ({rate:.0} tokens/s).", record.tokens);
        let model = model.display();
        match best {
            Some(best) => tell!("Best validation: {:.4} nats/char. The model: {model}", best.nats_per_char),
            None => tell!("No validation had a finite loss: try a smaller --lr. The model: {model}"),
        }
    }

    fn step(&mut self, record: &Record, loss: f64, done: f64) {
        self.course.push(loss);
        // From the end of the first step on, in which memory is touched for the first time.
        let (start, tokens) = *self.since.get_or_insert_with(|| (Instant::now(), record.tokens));
        let (elapsed, read) = (start.elapsed(), record.tokens.saturating_sub(tokens));
        let rate = read as f64 / elapsed.as_secs_f64().max(1e-9);
        if elapsed >= MEASURE && read > 0 && !self.forecast_told {
            self.forecast_told = true;
            self.say(&forecast(self.plan, record, done, rate));
        }
        let Some(bar) = &self.bar else { return };
        if self.drawn.elapsed() < REDRAW {
            return;
        }
        self.drawn = Instant::now();
        let left = if done > 0.0 { clock(record.seconds * (1.0 - done) / done) } else { "?".to_owned() };
        let columns = usize::from(Term::stderr().size().1);
        let (loss, epoch) = (record.loss, record.epoch + 1);
        let loss = format!("loss {loss:.3}");
        let rest = format!("  {rate:.0} tokens/s  {left} left  epoch {epoch}");
        let taken = BAR_COLUMNS + loss.len() + " ".len() + rest.len();
        let course = self.course.sparkline(columns.saturating_sub(taken + 1).min(WIDEST_COURSE));
        let gap = if course.is_empty() { "" } else { " " };
        bar.set_style(style(columns >= taken));
        bar.set_position((done * TICKS as f64) as u64);
        bar.set_message(format!("{loss}{gap}{course}{rest}"));
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

/// How far a pass over a text is, shown once it takes noticeable time.
pub struct Reading {
    what: &'static str,
    quiet: bool,
    started: Instant,
    /// When it was last told where there is no terminal.
    told: Option<Instant>,
    bar: Option<ProgressBar>,
}

impl Reading {
    /// A pass that starts now and does `what` with the text.
    pub fn new(what: &'static str, quiet: bool) -> Self {
        Reading { what, quiet, started: Instant::now(), told: None, bar: None }
    }

    /// `done` bytes of `total` have been read. Dropped, it clears its bar.
    pub fn show(&mut self, done: u64, total: u64) {
        if self.quiet || self.started.elapsed() < NOTICEABLE {
            return;
        }
        let (what, percent) = (self.what, (100 * done).checked_div(total).unwrap_or(0));
        if stderr().is_terminal() {
            let bar = self.bar.get_or_insert_with(new_bar);
            bar.set_message(what);
            bar.set_position(percent * TICKS / 100);
        } else if done == total || self.told.is_none_or(|told| told.elapsed() >= BETWEEN_LINES) {
            self.told = Some(Instant::now());
            tell!("{what}: {percent} %.");
        }
    }
}

impl Drop for Reading {
    fn drop(&mut self) {
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
    }
}

fn new_bar() -> ProgressBar {
    ProgressBar::with_draw_target(Some(TICKS), ProgressDrawTarget::stderr()).with_style(style(true))
}

/// A line too long for the terminal loses its end.
fn style(with_bar: bool) -> ProgressStyle {
    let template = if with_bar { "{percent:>3}% {bar:12}  {wide_msg}" } else { "{percent:>3}%  {wide_msg}" };
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar())
}

fn validated(record: &Record, validation: &Validation, best: bool) -> String {
    let Validation { nats_per_token, nats_per_char, bits_per_byte, .. } = validation;
    let (step, epoch, loss, time) = (record.step, record.epoch, record.loss, clock(record.seconds));
    let best = if best { ", the best so far" } else { "" };
    format!(
        "{time}  step {step}, {}: training {loss:.3}; validation {nats_per_token:.3} nats/token, \
         {nats_per_char:.4} nats/char, {bits_per_byte:.4} bits/byte{best}",
        counted(epoch, "epoch")
    )
}

/// What a run will do at `rate` tokens a second, of which `done` is behind it.
fn forecast(plan: Plan, record: &Record, done: f64, rate: f64) -> String {
    let passes = |tokens: f64| match tokens / plan.tokens as f64 {
        passes if passes < 9.95 => format!("{passes:.1} passes"),
        passes => format!("{passes:.0} passes"),
    };
    match plan.length {
        RunLength::Minutes(minutes) => {
            let seconds = (60.0 * minutes - record.seconds).max(0.0);
            let (tokens, left) = (rate * seconds, clock(seconds));
            format!(
                "At {rate:.0} tokens/s the {left} left are enough for {}, {} over the text.",
                amount(tokens),
                passes(tokens)
            )
        }
        RunLength::Epochs(_) | RunLength::Steps(_) => {
            let tokens = record.tokens as f64 * (1.0 - done) / done.max(f64::MIN_POSITIVE);
            format!(
                "At {rate:.0} tokens/s the {} left, {} over the text, will take {}.",
                amount(tokens),
                passes(tokens),
                clock(tokens / rate.max(f64::MIN_POSITIVE))
            )
        }
    }
}

/// A number of tokens in words.
fn amount(tokens: f64) -> String {
    match tokens {
        _ if tokens >= 999.5e6 => format!("{:.1} billion tokens", tokens / 1e9),
        _ if tokens >= 999.5e3 => format!("{:.1} million tokens", tokens / 1e6),
        _ => format!("{tokens:.0} tokens"),
    }
}

/// Seconds as h:mm:ss or m:ss.
fn clock(seconds: f64) -> String {
    let seconds = seconds.round() as u64;
    let (hours, minutes, seconds) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    if hours > 0 { format!("{hours}:{minutes:02}:{seconds:02}") } else { format!("{minutes}:{seconds:02}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_forecast_tells_passes_of_a_time_and_the_time_of_passes() {
        let record = Record { step: 10, tokens: 12_800, seconds: 2.0, ..Record::default() };
        let of = |length, done| forecast(Plan { length, tokens: 128_000 }, &record, done, 6400.0);
        assert_eq!(
            of(RunLength::Minutes(1.0), 1.0 / 30.0),
            "At 6400 tokens/s the 0:58 left are enough for 371200 tokens, 2.9 passes over the text."
        );
        assert_eq!(
            of(RunLength::Epochs(20), 0.005),
            "At 6400 tokens/s the 2.5 million tokens left, 20 passes over the text, will take 6:38."
        );
        let day = of(RunLength::Minutes(1440.0), 0.0);
        assert!(day.contains("23:59:58") && day.contains("552.9 million tokens, 4320 passes"), "{day}");
        assert_eq!(of(RunLength::Steps(10), 1.0).split(" the ").nth(1).unwrap().split(' ').next(), Some("0"));
    }
}
