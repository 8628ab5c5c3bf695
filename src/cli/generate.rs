//! `shoestring generate`

use super::arguments::{SamplingArgs, tokens};
use super::printable::Printer;
use super::{Globals, open_model, runs_away};
use crate::files;
use crate::generate::{FinishReason, Limits, generate};
use crate::sample::{Sampler, Sampling};
use crate::text::UnixLines;
use anyhow::{Context, Result};
use clap::Args;
use serde::Serialize;
use std::io::{IsTerminal, Write, stdin};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

/// Bytes of a prompt from stdin at most.
const LONGEST_PROMPT: u64 = 256_000_000;

#[derive(Args)]
#[command(after_help = "Examples:\n  shoestring generate --prompt \"Once upon a time\" --max-tokens 100\n  \
    echo \"[USER] Hello! [EOS]\" | shoestring generate --json --seed 1")]
pub struct GenerateArgs {
    /// Model to write [default: the newest in ./checkpoints, or else the bundled one]
    #[arg(long, value_name = "FILE")]
    checkpoint: Option<PathBuf>,
    /// Text to continue [default: what comes from stdin]
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true)]
    prompt: Option<String>,
    /// Tokens to write at most
    #[arg(long, value_name = "N", default_value_t = 200, value_parser = tokens)]
    max_tokens: usize,
    /// End the text where this string comes up; may be given several times
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true)]
    stop: Vec<String>,
    /// Go on past [EOS], up to --max-tokens
    #[arg(long)]
    ignore_eos: bool,
    /// Print one JSON object with the text, token counts and timings
    #[arg(long)]
    json: bool,
    /// Threads for long texts and large models [default: one a physical core]
    #[arg(long, value_name = "N", value_parser = super::train::threads)]
    threads: Option<usize>,
    #[command(flatten)]
    sampling: SamplingArgs,
}

#[derive(Serialize)]
struct Report<'a> {
    text: &'a str,
    prompt_tokens: usize,
    completion_tokens: usize,
    finish_reason: &'static str,
    seconds: f64,
    tokens_per_second: f64,
}

pub fn run(args: &GenerateArgs, globals: Globals) -> Result<ExitCode> {
    let model = open_model(args.checkpoint.as_deref(), globals)?.on_threads(args.threads);
    let prompt = match &args.prompt {
        Some(prompt) => prompt.clone(),
        None if stdin().is_terminal() => String::new(),
        None => read_stdin()?,
    };
    let mut limits = Limits { max_tokens: args.max_tokens, stop: args.stop.clone(), ..Limits::default() };
    if args.ignore_eos {
        limits.stop_tokens.clear();
    }
    let start = Instant::now();
    let mut session = model.session();
    let prompt_tokens = session.begin(&prompt);
    let mut sampler = Sampler::new(args.sampling.sampling(Sampling::default().temperature));
    let mut printer = Printer::new();
    let mut text = String::new();
    let completion = generate(&mut session, &mut sampler, &limits, &mut |piece| {
        if args.json {
            text.push_str(piece);
            return Ok(());
        }
        printer.print(piece)
    })?;
    let seconds = start.elapsed().as_secs_f64();
    if !session.is_finite() {
        printer.flush()?;
        return Err(runs_away(model.checkpoint().path()));
    }
    if args.json {
        let report = Report {
            text: &text,
            prompt_tokens,
            completion_tokens: completion.tokens,
            finish_reason: match completion.finish_reason {
                FinishReason::Stop => "stop",
                FinishReason::Length => "length",
                FinishReason::Interrupted => "interrupted",
            },
            seconds,
            tokens_per_second: completion.tokens as f64 / seconds,
        };
        printer.print(&serde_json::to_string(&report)?)?;
        printer.end_line()?;
    } else if printer.is_terminal() {
        printer.end_line()?;
    }
    printer.flush()?;
    Ok(ExitCode::SUCCESS)
}

fn read_stdin() -> Result<String> {
    // As a training text is read.
    let bytes = files::all_of(UnixLines::new(stdin().lock()), LONGEST_PROMPT)
        .context("cannot read the prompt from stdin")?;
    let mut prompt = String::from_utf8_lossy(&bytes).into_owned();
    // The line end that `echo` adds is not part of the prompt.
    if prompt.ends_with('\n') {
        prompt.pop();
    }
    Ok(prompt)
}
