//! `shoestring quantize`

use super::eval::{measure, refuse_infinite};
use super::printable::Printer;
use super::replace::{only_a_model, refuse_overwriting};
use super::{Globals, open_model, open_text, tell, thread_pool};
use crate::bundled;
use crate::checkpoint::{Contents, save};
use crate::evaluate::Evaluation;
use crate::model::{Kind, Model, Weights};
use crate::quantize::{Requantized, requantize};
use crate::text::Text;
use crate::train::Corpus;
use anyhow::{Context, Result, bail};
use clap::{Args, ValueEnum};
use serde_json::json;
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

#[derive(Args)]
#[command(after_help = "Examples:\n  shoestring quantize checkpoints/best.shoe small.shoe --to q8\n  \
    shoestring quantize best.shoe tiny.shoe --to q4 --eval-data held-out.txt --max-loss 0.02")]
pub struct QuantizeArgs {
    /// Checkpoint to read
    input: PathBuf,
    /// Checkpoint to write
    output: PathBuf,
    /// How to store the weights
    #[arg(long, value_enum)]
    to: KindName,
    /// Text to measure the loss on: files, or folders of .txt files [default: the end of the bundled corpus]
    #[arg(long, value_name = "FILE", num_args = 1..)]
    eval_data: Vec<PathBuf>,
    /// Write nothing if the loss grows by more than this, in nats a character
    /// [default: 0.0005 for f32 and f16, 0.005 for q8, 0.03 for q4]
    #[arg(long, value_name = "X", value_parser = super::arguments::float::<0, 1000>)]
    max_loss: Option<f32>,
    /// Threads [default: one a physical core]
    #[arg(long, value_name = "N", value_parser = super::train::threads)]
    threads: Option<usize>,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, ValueEnum)]
enum KindName {
    /// 32-bit floats
    F32,
    /// 16-bit floats: half the size
    F16,
    /// 8-bit integers: a quarter, and the fastest
    Q8,
    /// 4-bit integers where they do least harm
    Q4,
}

impl KindName {
    fn kind(self) -> Kind {
        match self {
            KindName::F32 => Kind::F32,
            KindName::F16 => Kind::F16,
            KindName::Q8 => Kind::Q8,
            KindName::Q4 => Kind::Q4,
        }
    }

    fn max_loss(self) -> f32 {
        match self {
            KindName::F32 | KindName::F16 => 0.0005,
            KindName::Q8 => 0.005,
            KindName::Q4 => 0.03,
        }
    }
}

pub fn run(args: &QuantizeArgs, globals: Globals) -> Result<ExitCode> {
    let model = open_model(Some(&args.input), globals)?;
    // What is made of it gets a checksum of its own, and must not vouch for what is damaged.
    model.checkpoint().verify()?;
    refuse_overwriting(&args.input, &args.output)?;
    let (text, what) = match &args.eval_data[..] {
        [] => {
            let start = Corpus::new(Text::from_static(bundled::CORPUS), None)?.training_length() as usize;
            (Text::from_static(&bundled::CORPUS[start..]), "the end of the bundled corpus".to_owned())
        }
        paths => (open_text(paths)?, super::name_paths(paths)),
    };
    for input in text.files() {
        refuse_overwriting(input, &args.output)?;
    }
    only_a_model(&args.output)?;
    let pool = thread_pool(args.threads)?;
    let quantized = requantize(&model, args.to.kind());
    let weights = Weights { config: model.config(), layout: &quantized.layout, lines: &quantized.lines };
    let loss_of = |weights| measure(weights, model.tokenizer(), &text, &pool, globals);
    let before = loss_of(model.weights())?;
    refuse_infinite(&before, &args.input)?;
    let after = loss_of(weights)?;
    let max_loss = args.max_loss.unwrap_or(args.to.max_loss());
    let loss = after.nats_per_char() - before.nats_per_char();
    // Not a number is not small.
    let small = loss <= f64::from(max_loss);
    if small {
        // Before the table: whoever reads that may stop reading.
        let contents = Contents {
            config: model.config(),
            tokenizer: model.tokenizer().to_owned(),
            weights: &quantized.lines,
            record: model.checkpoint().record(),
            training: None,
        };
        save(&args.output, args.to.kind(), &contents)?;
    }
    let reported = report(args, &model, &quantized, &what, (&before, &after));
    if !small {
        bail!(
            "{} not written: the loss grows by {loss:.4} nats/char, more than {max_loss}; choose a larger kind, \
             or allow it with --max-loss",
            args.output.display()
        );
    }
    reported.with_context(|| {
        format!("{} is written, its table is not: cannot write to standard output", args.output.display())
    })?;
    if !globals.quiet {
        let bytes = std::fs::metadata(&args.output).map_or(0, |metadata| metadata.len());
        tell!(
            "Wrote {} ({bytes} bytes, {:.2} of the input).",
            args.output.display(),
            bytes as f64 / model.checkpoint().file_length() as f64
        );
    }
    Ok(ExitCode::SUCCESS)
}

fn report(
    args: &QuantizeArgs,
    model: &Model,
    quantized: &Requantized,
    text: &str,
    (before, after): (&Evaluation, &Evaluation),
) -> Result<()> {
    let mut out = Printer::new();
    if args.json {
        let tensors = quantized.tensors.iter().map(|tensor| {
            json!({
                "name": tensor.name,
                "kind": tensor.encoding.name(),
                "bytes": tensor.bytes,
                "relative_error": tensor.relative_error,
            })
        });
        let loss = |evaluation: &Evaluation| {
            json!({
                "nats_per_char": evaluation.nats_per_char(),
                "bits_per_byte": evaluation.bits_per_byte(),
                "nats_per_token": evaluation.nats_per_token(),
            })
        };
        let report = json!({
            "tensors": tensors.collect::<Vec<_>>(),
            "text": text,
            "from": model.checkpoint().kind().name(),
            "to": args.to.kind().name(),
            "before": loss(before),
            "after": loss(after),
        });
        writeln!(out, "{report}")?;
        return Ok(out.flush()?);
    }
    writeln!(out, "{:32} {:4} {:>9} {:>9}", "tensor", "kind", "bytes", "error")?;
    for tensor in &quantized.tensors {
        let encoding = tensor.encoding.name();
        let error = 100.0 * tensor.relative_error;
        writeln!(out, "{:32} {encoding:4} {:>9} {error:>7.3} %", tensor.name, tensor.bytes)?;
    }
    let (from, to) = (model.checkpoint().kind().name(), args.to.kind().name());
    writeln!(out, "loss on {text}, {} tokens", before.tokens)?;
    let line = |name: &str, a: f64, b: f64| format!("  {name:10} {from} {a:.5}  {to} {b:.5}  {:+.5}", b - a);
    writeln!(out, "{}", line("nats/char", before.nats_per_char(), after.nats_per_char()))?;
    writeln!(out, "{}", line("bits/byte", before.bits_per_byte(), after.bits_per_byte()))?;
    Ok(out.flush()?)
}
