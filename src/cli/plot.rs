//! `shoestring plot`

use super::replace::refuse_overwriting;
use super::{CHECKPOINTS, Globals, UsageError, tell};
use crate::checkpoint::atomic_write;
use crate::plot::{Axis, Curve, Format, draw};
use anyhow::{Context, Result};
use clap::{Args, ValueEnum};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

#[derive(Args)]
#[command(after_help = "Examples:\n  shoestring plot checkpoints\n  \
    shoestring plot dense sparse -o both.png --over steps")]
pub struct PlotArgs {
    /// Runs: folders of checkpoints, or their metrics.jsonl
    #[arg(value_name = "RUN", default_value = CHECKPOINTS)]
    runs: Vec<PathBuf>,
    /// Picture to write, .svg or .png
    #[arg(long, short, value_name = "FILE", default_value = "curves.svg")]
    output: PathBuf,
    /// What to draw the losses over
    #[arg(long, value_enum, value_name = "WHAT", default_value = "tokens")]
    over: Over,
}

#[derive(Clone, Copy, ValueEnum)]
enum Over {
    /// Training tokens read
    Tokens,
    /// Optimizer steps
    Steps,
    /// Time of training
    Time,
}

pub fn run(args: &PlotArgs, globals: Globals) -> Result<ExitCode> {
    let format = format_of(&args.output)?;
    let axis = match args.over {
        Over::Tokens => Axis::Tokens,
        Over::Steps => Axis::Steps,
        Over::Time => Axis::Time,
    };
    args.runs.iter().try_for_each(|run| refuse_overwriting(run, &args.output))?;
    let curves = args.runs.iter().map(|run| Curve::read(run, axis)).collect::<Result<Vec<_>, _>>()?;
    let picture = draw(&curves, axis, format)?;
    atomic_write(&args.output, &[&picture])
        .with_context(|| format!("cannot write {}", args.output.display()))?;
    if !globals.quiet {
        tell!("Drew {}.", args.output.display());
    }
    Ok(ExitCode::SUCCESS)
}

fn format_of(path: &Path) -> Result<Format, UsageError> {
    let extension = path.extension().unwrap_or_default().to_ascii_lowercase();
    match extension.to_str() {
        Some("svg") => Ok(Format::Svg),
        Some("png") => Ok(Format::Png),
        _ => Err(UsageError(format!("--output {}: name a file that ends in .svg or .png", path.display()))),
    }
}
