//! `shoestring eval`

use super::progress::Reading;
use super::{Globals, open_model, open_text, runs_away, thread_pool};
use crate::evaluate::{EncodedText, Evaluation, TextSize, TokenStream, evaluate};
use crate::model::Weights;
use crate::text::{Text, TextError};
use crate::tokenizer::TokenizerView;
use anyhow::Result;
use clap::Args;
use serde::Serialize;
use std::io::{IsTerminal, Write, stderr, stdout};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

#[derive(Args)]
#[command(after_help = "Examples:\n  shoestring eval --checkpoint model.shoe --data held-out.txt\n  \
    shoestring eval --checkpoint model.shoe --data texts/ --json")]
pub struct EvalArgs {
    /// Model to measure
    #[arg(long, value_name = "FILE")]
    checkpoint: PathBuf,
    /// Text to measure on: files, or folders of .txt files
    #[arg(long, value_name = "FILE", num_args = 1.., required = true)]
    data: Vec<PathBuf>,
    /// Threads [default: one a physical core]
    #[arg(long, value_name = "N", value_parser = super::train::threads)]
    threads: Option<usize>,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Report {
    nats: f64,
    tokens: u64,
    chars: u64,
    bytes: u64,
    nats_per_token: f64,
    nats_per_char: f64,
    bits_per_byte: f64,
    tokens_per_second: f64,
}

/// The loss of `weights`, whose tokens are those of `tokenizer`, on `text`; on a terminal it is shown how far that is.
pub fn measure(
    weights: Weights<'_>,
    tokenizer: TokenizerView<'_>,
    text: &Text,
    pool: &rayon::ThreadPool,
    globals: Globals,
) -> Result<Evaluation, TextError> {
    let encoded = Watched {
        text: EncodedText::new(tokenizer, text),
        length: text.length(),
        reading: Reading::new("Text measured", globals.quiet || !stderr().is_terminal()),
    };
    pool.install(|| evaluate(weights, globals.kernels, encoded))
}

/// A text that shows how far it is read.
struct Watched<'a> {
    text: EncodedText<'a>,
    length: u64,
    reading: Reading,
}

impl TokenStream for Watched<'_> {
    type Error = TextError;

    fn read(&mut self, out: &mut Vec<u32>) -> Result<(), TextError> {
        // What was read before has been measured by now.
        self.reading.show(self.text.size().bytes, self.length);
        self.text.read(out)
    }

    fn size(&self) -> TextSize {
        self.text.size()
    }
}

/// An error if a model's loss is not a number.
pub fn refuse_infinite(evaluation: &Evaluation, model: &Path) -> Result<()> {
    if evaluation.nats.is_finite() { Ok(()) } else { Err(runs_away(model)) }
}

pub fn run(args: &EvalArgs, globals: Globals) -> Result<ExitCode> {
    let model = open_model(Some(&args.checkpoint), globals)?;
    let text = open_text(&args.data)?;
    let pool = thread_pool(args.threads)?;
    let evaluation = measure(model.weights(), model.tokenizer(), &text, &pool, globals)?;
    refuse_infinite(&evaluation, &args.checkpoint)?;
    let Evaluation { nats, tokens, chars, bytes, .. } = evaluation;
    let report = Report {
        nats,
        tokens,
        chars,
        bytes,
        nats_per_token: evaluation.nats_per_token(),
        nats_per_char: evaluation.nats_per_char(),
        bits_per_byte: evaluation.bits_per_byte(),
        tokens_per_second: evaluation.tokens_per_second(),
    };
    let mut out = stdout().lock();
    if args.json {
        writeln!(out, "{}", serde_json::to_string(&report)?)?;
    } else {
        writeln!(out, "{:.4} nats/char", report.nats_per_char)?;
        writeln!(out, "{:.4} bits/byte", report.bits_per_byte)?;
        writeln!(out, "{:.4} nats/token", report.nats_per_token)?;
        writeln!(out, "{nats:.1} nats over {tokens} tokens, {chars} characters, {bytes} bytes")?;
        writeln!(out, "{:.0} tokens/s", report.tokens_per_second)?;
    }
    Ok(ExitCode::SUCCESS)
}
