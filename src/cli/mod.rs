//! The command line: one file a subcommand, its flags and its flow.

mod arguments;
mod bench;
mod chat;
mod eval;
mod generate;
mod inspect;
mod memory;
mod plot;
mod printable;
mod progress;
mod quantize;
mod signals;
mod sparkline;
mod tokenizer;
mod train;
mod transfer;

use crate::checkpoint::Checkpoint;
use crate::model::Model;
use crate::{bundled, train::newest_checkpoint};
use anyhow::{Context, Result};
use clap::parser::ValueSource;
use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};
use shoestring_kernels::Kernels;
use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use thiserror::Error;

/// Folder of checkpoints where no flag names one.
const CHECKPOINTS: &str = "checkpoints";
/// Exit code of a run that was interrupted and saved, as a shell reports SIGINT.
const INTERRUPTED: u8 = 130;

#[derive(Parser)]
#[command(name = "shoestring", version = version(), about, long_about = None, max_term_width = 100)]
#[command(after_help = "Without a model of your own, `shoestring chat` talks with the bundled one.")]
/// Train a compact language model on your own text, on a CPU, and chat with it.
struct Arguments {
    #[command(subcommand)]
    command: Command,

    /// Compute kernels to use; by default the best this machine has
    #[arg(long, global = true, value_name = "NAME", env = "SHOESTRING_KERNEL")]
    kernel: Option<String>,

    /// Say nothing but results and errors
    #[arg(long, short, global = true)]
    quiet: bool,
}

#[derive(Subcommand)]
enum Command {
    /// Train a model on text files
    Train(Box<train::TrainArgs>),
    /// Chat with a model
    Chat(chat::ChatArgs),
    /// Write text that continues a prompt
    Generate(generate::GenerateArgs),
    /// Measure a model's loss on a text
    Eval(eval::EvalArgs),
    /// Store a model in fewer bits, and measure what that costs
    Quantize(quantize::QuantizeArgs),
    /// Show what a checkpoint holds
    Inspect(inspect::InspectArgs),
    /// Draw the losses of training runs
    Plot(plot::PlotArgs),
    /// Train and use tokenizers
    Tokenizer(tokenizer::TokenizerArgs),
    /// Write a model as safetensors and tokenizer.json
    Export(transfer::ExportArgs),
    /// Make a checkpoint from safetensors and tokenizer.json
    Import(transfer::ImportArgs),
    /// Measure what this machine can do and what the kernels make of it
    Bench(bench::BenchArgs),
}

/// What every subcommand may need.
#[derive(Clone, Copy)]
struct Globals {
    kernels: &'static Kernels,
    kernel_source: KernelSource,
    quiet: bool,
}

/// Who chose the kernels.
#[derive(Clone, Copy, PartialEq, Eq)]
enum KernelSource {
    Best,
    Flag,
    Variable,
}

impl KernelSource {
    fn name(self) -> &'static str {
        match self {
            KernelSource::Best => "best",
            KernelSource::Flag => "--kernel",
            KernelSource::Variable => "SHOESTRING_KERNEL",
        }
    }
}

/// A wrong use of flags that only shows once files have been read; exits with code 2.
#[derive(Debug, Error)]
#[error("{0}")]
struct UsageError(String);

fn version() -> &'static str {
    concat!(env!("CARGO_PKG_VERSION"), " (", env!("SHOESTRING_BUILD"), ")")
}

/// Runs the program with the process's arguments.
pub fn main() -> ExitCode {
    let matches = command().get_matches();
    let arguments = Arguments::from_arg_matches(&matches).unwrap_or_else(|error| error.exit());
    match run(arguments, matches.value_source("kernel")) {
        Ok(code) => code,
        // Whoever read our output has read enough.
        Err(error) if is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            tell!("shoestring: {}", describe(&error));
            ExitCode::from(if error.is::<UsageError>() { 2 } else { 1 })
        }
    }
}

/// The command line. A number below zero reaches its flag, whose error names both.
fn command() -> clap::Command {
    let negative_numbers = |arg: clap::Arg| {
        let takes_values = arg.get_action().takes_values();
        if takes_values { arg.allow_negative_numbers(true) } else { arg }
    };
    Arguments::command().mut_subcommands(|command| {
        command.mut_args(negative_numbers).mut_subcommands(|command| command.mut_args(negative_numbers))
    })
}

/// Says a line on stderr. That nobody may be reading it any more is no reason to stop, or to panic as `eprintln!`
/// does.
macro_rules! tell {
    ($($message:tt)*) => {{
        use std::io::Write as _;
        let _ = writeln!(std::io::stderr(), $($message)*);
    }};
}
use tell;

fn run(arguments: Arguments, kernel_value: Option<ValueSource>) -> Result<ExitCode> {
    let (kernels, kernel_source) = match arguments.kernel.as_deref() {
        None | Some("") => (Kernels::best(), KernelSource::Best),
        Some(name) => {
            let kernels = Kernels::select(name).map_err(|error| UsageError(error.to_string()))?;
            let by_variable = kernel_value == Some(ValueSource::EnvVariable);
            (kernels, if by_variable { KernelSource::Variable } else { KernelSource::Flag })
        }
    };
    let globals = Globals { kernels, kernel_source, quiet: arguments.quiet };
    match arguments.command {
        Command::Train(args) => train::run(*args, globals),
        Command::Chat(args) => chat::run(&args, globals),
        Command::Generate(args) => generate::run(&args, globals),
        Command::Eval(args) => eval::run(&args, globals),
        Command::Quantize(args) => quantize::run(&args, globals),
        Command::Inspect(args) => inspect::run(&args),
        Command::Plot(args) => plot::run(&args, globals),
        Command::Tokenizer(args) => tokenizer::run(args).map(|()| ExitCode::SUCCESS),
        Command::Export(args) => transfer::export(&args, globals),
        Command::Import(args) => transfer::import(&args, globals),
        Command::Bench(args) => bench::run(&args, globals),
    }
}

/// The error and its causes, but for those that its own message ends with.
fn describe(error: &anyhow::Error) -> String {
    error.chain().map(ToString::to_string).fold(String::new(), |message, cause| match message.as_str() {
        "" => cause,
        _ if message.ends_with(&cause) => message,
        _ => format!("{message}: {cause}"),
    })
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error
        .chain()
        .filter_map(|cause| cause.downcast_ref::<io::Error>())
        .any(|e| e.kind() == io::ErrorKind::BrokenPipe)
}

/// The model to run: of `path`, or the newest checkpoint in ./checkpoints, or the bundled one.
fn open_model(path: Option<&Path>, globals: Globals) -> Result<Model> {
    let checkpoint = match path {
        Some(path) => Checkpoint::open(path)?,
        None => match newest_checkpoint(Path::new(CHECKPOINTS)) {
            Some(path) => {
                if !globals.quiet {
                    tell!("Using {} (choose another with --checkpoint).", path.display());
                }
                Checkpoint::open(&path)?
            }
            None => bundled::model()?,
        },
    };
    Ok(Model::new(checkpoint, globals.kernels))
}

/// Physical cores this process may use, as its affinity and its control group allow.
fn cores() -> usize {
    num_cpus::get_physical().min(num_cpus::get())
}

/// A pool of `threads` threads, by default one a core.
fn thread_pool(threads: Option<usize>) -> Result<rayon::ThreadPool> {
    let threads = threads.unwrap_or_else(cores);
    rayon::ThreadPoolBuilder::new().num_threads(threads).build().context("cannot start threads")
}

/// `paths` for a message: the first, and how many more.
fn name_paths(paths: &[PathBuf]) -> String {
    match paths {
        [] => "the bundled corpus".to_owned(),
        [one] => one.display().to_string(),
        [first, more @ ..] => format!("{} and {} more", first.display(), more.len()),
    }
}
