//! The command line: one file a subcommand, its flags and its flow.

mod arguments;
mod bench;
mod chat;
mod completions;
mod config;
mod error;
mod eval;
mod generate;
mod inspect;
mod man;
mod memory;
mod plot;
mod printable;
mod progress;
mod quantize;
mod replace;
mod signals;
mod sparkline;
#[cfg(test)]
mod tests;
mod tokenizer;
mod train;
mod transfer;

use crate::bundled;
use crate::checkpoint::Checkpoint;
use crate::model::Model;
use crate::text::{Text, TextError};
use crate::train::{BEST, newest_checkpoint};
use anyhow::{Context, Result, anyhow};
use clap::parser::ValueSource;
use clap::{ArgMatches, CommandFactory, FromArgMatches, Parser, Subcommand};
use error::{UsageError, describe, is_broken_pipe, naming_the_flag};
use shoestring_kernels::Kernels;
use std::ffi::OsString;
use std::fmt::Display;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// Folder of checkpoints where no flag names one.
const CHECKPOINTS: &str = "checkpoints";
/// Exit code of a run that was interrupted and saved, as a shell reports SIGINT.
const INTERRUPTED: u8 = 130;

#[derive(Parser)]
#[command(name = "shoestring", version = version(), about, long_about = None, max_term_width = 100)]
#[command(after_help = "Without a model of your own, `shoestring chat` talks with the bundled one.")]
#[command(
    after_long_help = "Examples:\n  shoestring chat\n  shoestring train --model-data book.txt --minutes 10\n\n\
    Exit codes: 0 done, 1 failed, 2 wrong usage, 130 interrupted."
)]
/// Train a compact language model on your own text, on a CPU, and chat with it.
struct Arguments {
    #[command(subcommand)]
    command: Command,

    /// Compute kernels to use; by default the best this machine has
    ///
    /// An unknown name is an error that lists those there are.
    #[arg(long, global = true, value_name = "NAME", env = "SHOESTRING_KERNEL")]
    kernel: Option<String>,

    /// Say nothing but results and errors
    #[arg(long, short, global = true)]
    quiet: bool,
}

#[derive(Subcommand)]
enum Command {
    /// Train a model on text files
    ///
    /// Without any flag it trains for three minutes on the conversations that come with the program, then chats.
    /// The model of the best validation is checkpoints/best.shoe; the numbered files beside it hold all it takes to
    /// go on. Ctrl-C finishes the step, saves and leaves.
    Train(Box<train::TrainArgs>),
    /// Chat with a model
    ///
    /// A model of dialogues answers; one of plain text goes on after the lines that are typed. Input that does not come from a
    /// terminal is read line by line, and only the replies are written.
    Chat(chat::ChatArgs),
    /// Write text that continues a prompt
    ///
    /// The markers [USER], [BOT] and [EOS] in the prompt are single tokens, as in a training text.
    Generate(generate::GenerateArgs),
    /// Measure a model's loss on a text
    ///
    /// The state is carried through the whole text, and every token is predicted once. Compare models by nats a
    /// character: nats a token depend on the tokenizer.
    Eval(eval::EvalArgs),
    /// Store a model in fewer bits, and measure what that costs
    ///
    /// Nothing is written if the loss on a text grows by more than --max-loss.
    Quantize(quantize::QuantizeArgs),
    /// Show what a checkpoint holds
    ///
    /// Sizes, tensors, how it was trained and how it did in validation.
    Inspect(inspect::InspectArgs),
    /// Draw the losses of training runs
    ///
    /// Training losses are thin lines, validations thick ones with dots; several runs share the picture.
    Plot(plot::PlotArgs),
    /// Train and use tokenizers
    ///
    /// Byte-level BPE, as in the tokenizer.json of other programs. `train` makes a model's tokenizer itself; this
    /// is for using one elsewhere.
    Tokenizer(tokenizer::TokenizerArgs),
    /// Write a model as safetensors and tokenizer.json
    ///
    /// Other programs read these; `import` makes a checkpoint of them again.
    Export(transfer::ExportArgs),
    /// Make a checkpoint from safetensors and tokenizer.json
    ///
    /// The names and shapes of the tensors are those that `export` writes.
    Import(transfer::ImportArgs),
    /// Measure what this machine can do and what the kernels make of it
    ///
    /// Rates of one core in arithmetic and memory, of each operation of the model, of training and of decoding.
    Bench(bench::BenchArgs),
    /// Print a script that completes commands and flags in a shell
    ///
    /// Most shells read it from a folder of their own; bash also by `source <(...)`.
    Completions(completions::CompletionsArgs),
    /// Print or write manual pages
    ///
    /// They are made from what `--help` says.
    Man(man::ManArgs),
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

fn version() -> &'static str {
    concat!(env!("CARGO_PKG_VERSION"), " (", env!("SHOESTRING_BUILD"), ")")
}

/// Runs the program with the process's arguments.
pub fn main() -> ExitCode {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    memory::spare_address_space();
    signals::prepare();
    match parse(std::env::args_os().collect()).and_then(|matches| run(&matches)) {
        Ok(code) => code,
        // Whoever read our output has read enough.
        Err(error) if is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => match error.downcast::<clap::Error>() {
            Ok(error) => print_help_or_mistake(&error),
            Err(error) => {
                tell!("shoestring: {}", describe(&error));
                ExitCode::from(if error.is::<UsageError>() { 2 } else { 1 })
            }
        },
    }
}

/// The command line, and what the file that `train --config` names adds to it.
fn parse(mut arguments: Vec<OsString>) -> Result<ArgMatches> {
    let mut definition = command();
    let matches = definition
        .try_get_matches_from_mut(&arguments)
        .map_err(|error| naming_the_flag(error, &definition, &arguments))?;
    let Some(("train", given)) = matches.subcommand() else { return Ok(matches) };
    let Some(path) = given.get_one::<PathBuf>("config") else { return Ok(matches) };
    definition.build();
    let train = definition.find_subcommand("train").context("`train` is not defined")?;
    arguments.extend(config::arguments(train, given, path)?);
    let together = |error| UsageError(format!("{} and the flags: {error}", path.display()));
    Ok(command().try_get_matches_from(arguments).map_err(together)?)
}

/// As clap does it, but that a help nobody could be shown is a failure.
fn print_help_or_mistake(error: &clap::Error) -> ExitCode {
    let printed = error.print().and_then(|()| io::stdout().flush());
    match printed {
        Err(cause) if !error.use_stderr() && cause.kind() != io::ErrorKind::BrokenPipe => {
            tell!("shoestring: cannot write to standard output: {cause}");
            ExitCode::FAILURE
        }
        _ => ExitCode::from(if error.use_stderr() { 2 } else { 0 }),
    }
}

/// The command line. A number below zero reaches its flag, whose error names both.
fn command() -> clap::Command {
    let negative_numbers = |arg: clap::Arg| {
        let takes_values = arg.get_action().takes_values();
        if takes_values { arg.allow_negative_numbers(true) } else { arg }
    };
    // A short help says that there is a long one.
    let pointing_on = |command: clap::Command| match command.get_after_help().cloned() {
        Some(examples) => command.after_long_help(examples).after_help("`--help` says more, with examples."),
        None => command,
    };
    Arguments::command().mut_subcommand("train", config::with_defaults).mut_subcommands(|command| {
        let command = pointing_on(command.mut_args(negative_numbers));
        command.mut_subcommands(|command| pointing_on(command.mut_args(negative_numbers)))
    })
}

/// Says a line on stderr. That nobody may be reading it any more is no reason to stop, or to panic as `eprintln!`
/// does.
macro_rules! tell {
    ($($message:tt)*) => {{
        use std::io::Write as _;
        let message = format!($($message)*);
        // A name, or what a model writes, must not control a terminal.
        let _ = writeln!(std::io::stderr(), "{}", $crate::cli::printable::printable(&message));
    }};
}
use tell;

fn run(matches: &ArgMatches) -> Result<ExitCode> {
    let arguments = Arguments::from_arg_matches(matches)?;
    let (kernels, kernel_source) = match arguments.kernel.as_deref() {
        None | Some("") => (Kernels::best(), KernelSource::Best),
        Some(name) => {
            let kernels = Kernels::select(name).map_err(|error| UsageError(error.to_string()))?;
            let by_variable = matches.value_source("kernel") == Some(ValueSource::EnvVariable);
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
        Command::Tokenizer(args) => tokenizer::run(args, globals).map(|()| ExitCode::SUCCESS),
        Command::Export(args) => transfer::export(&args, globals),
        Command::Import(args) => transfer::import(&args, globals),
        Command::Bench(args) => bench::run(&args, globals),
        Command::Completions(args) => completions::run(&args, &mut command()),
        Command::Man(args) => man::run(&args, command(), globals),
    }
}

/// The error of a model whose state did not stay finite.
fn runs_away(model: &Path) -> anyhow::Error {
    anyhow!(
        "{}: its state is not finite any more, but runs away; train it with a smaller --lr",
        model.display()
    )
}

/// As many of a thing.
fn counted(number: impl Display, thing: &str) -> String {
    let number = number.to_string();
    let plural = if number == "1" { "" } else { "s" };
    format!("{number} {thing}{plural}")
}

/// Whether both are there, and the same.
fn is_same_file(a: &Path, b: &Path) -> bool {
    matches!((a.canonicalize(), b.canonicalize()), (Ok(a), Ok(b)) if a == b)
}

/// A path as a shell takes it.
fn for_shell(path: &Path) -> String {
    let path = path.to_string_lossy();
    if path.chars().all(|character| character.is_alphanumeric() || "/\\:._-".contains(character)) {
        return path.into_owned();
    }
    if cfg!(windows) { format!("\"{path}\"") } else { format!("'{}'", path.replace('\'', r"'\''")) }
}

/// The model to run: of `path`, or the newest checkpoint in ./checkpoints, or the bundled one.
fn open_model(path: Option<&Path>, globals: Globals) -> Result<Model> {
    let checkpoint = match path {
        Some(path) => Checkpoint::open(path)?,
        None => match newest_checkpoint(Path::new(CHECKPOINTS)).with_context(|| {
            format!("cannot look for a model in {CHECKPOINTS}; name one with --checkpoint")
        })? {
            Some(path) => {
                if !globals.quiet {
                    let best = Path::new(CHECKPOINTS).join(BEST);
                    let other = if path != best && best.exists() { BEST } else { "another" };
                    tell!("Using {} (choose {other} with --checkpoint).", path.display());
                }
                Checkpoint::open(&path)?
            }
            None => bundled::model()?,
        },
    };
    Ok(Model::new(checkpoint, globals.kernels))
}

/// A pool of `threads` threads, by default one a core.
fn thread_pool(threads: Option<usize>) -> Result<rayon::ThreadPool> {
    let threads = threads.unwrap_or_else(crate::cores);
    rayon::ThreadPoolBuilder::new().num_threads(threads).build().context("cannot start threads")
}

/// Opens the text in `paths`, and warns if not all of it is UTF-8: the rest is learned, and written, byte by byte.
fn open_text(paths: &[PathBuf]) -> Result<Text, TextError> {
    let text = Text::open(paths)?;
    let invalid = text.invalid_bytes();
    if invalid > 0 {
        tell!(
            "Warning: {invalid} of {} bytes of {} are not UTF-8 and taken as they are; if the text is in another encoding, \
             convert it (iconv -f latin1 -t utf8 OLD > NEW).",
            text.length(),
            name_paths(paths)
        );
    }
    Ok(text)
}

/// `paths` for a message: the first, and how many more.
fn name_paths(paths: &[PathBuf]) -> String {
    match paths {
        [] => "the bundled corpus".to_owned(),
        [one] => one.display().to_string(),
        [first, more @ ..] => format!("{} and {} more", first.display(), more.len()),
    }
}
