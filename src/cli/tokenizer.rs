//! `shoestring tokenizer`

use super::progress::Reading;
use super::replace::{only_a_tokenizer, refuse_overwriting};
use super::{Globals, open_text, tell};
use crate::checkpoint::{CheckpointError, atomic_write, open_tokenizer};
use crate::files;
use crate::text::TextError;
use crate::tokenizer::{Encoder, Pieces, Special, Tokenizer, TokenizerError, TokenizerView, Trainer};
use crate::train::TrainError;
use crate::transfer::LONGEST_TOKENIZER;
use anyhow::{Context, Result, bail};
use clap::{Args, Subcommand};
use std::fs::{self, File};
use std::io::{self, BufRead, BufWriter, Read, Write};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

/// Longer runs without white space are no token ids; none is kept in memory.
const LONGEST_NUMBER: usize = 20;

#[derive(Args)]
pub struct TokenizerArgs {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Train a tokenizer on text files
    #[command(after_help = "Examples:\n  shoestring tokenizer train --data book.txt --vocab-size 4096\n  \
        shoestring tokenizer train --data a.txt b.txt --out tokenizer.json")]
    Train(TrainArgs),
    /// Turn text from stdin into token ids
    #[command(
        after_help = "Examples:\n  shoestring tokenizer encode --tokenizer tokenizer.json < book.txt\n  \
        shoestring tokenizer encode --tokenizer model.shoe --no-special < book.txt > ids.txt"
    )]
    Encode(EncodeArgs),
    /// Turn token ids from stdin, separated by white space, into text
    #[command(
        after_help = "Examples:\n  echo 41 302 17 | shoestring tokenizer decode --tokenizer tokenizer.json\n  \
            shoestring tokenizer decode --tokenizer model.shoe < ids.txt"
    )]
    Decode(DecodeArgs),
    /// Write a checkpoint's tokenizer as a tokenizer.json
    #[command(after_help = "Examples:\n  shoestring tokenizer export checkpoints/best.shoe\n  \
        shoestring tokenizer export model.shoe --out tokenizer.json")]
    Export(ConvertArgs),
    /// Check another program's tokenizer.json and write it as shoestring does
    #[command(after_help = "Examples:\n  shoestring tokenizer import other.json\n  \
        shoestring tokenizer import other.json --out tokenizer.json")]
    Import(ConvertArgs),
}

#[derive(Args)]
struct TrainArgs {
    /// Text to train on: files, or folders of .txt files
    #[arg(long, required = true, num_args = 1.., value_name = "FILE")]
    data: Vec<PathBuf>,
    /// Number of tokens, with the 5 special tokens and the 256 bytes
    #[arg(long, value_name = "N", default_value_t = 850, value_parser = super::train::vocabulary)]
    vocab_size: usize,
    /// File to write
    #[arg(long, short, value_name = "FILE", default_value = "tokenizer.json")]
    out: PathBuf,
    /// Threads to use; the result does not depend on it [default: one a physical core]
    #[arg(long, value_name = "N", value_parser = super::train::threads)]
    threads: Option<usize>,
}

#[derive(Args)]
struct EncodeArgs {
    /// A tokenizer.json, or a checkpoint
    #[arg(long, value_name = "FILE")]
    tokenizer: PathBuf,
    /// Take [USER], [BOT], [EOS], [PAD] and [UNK] in the text as ordinary text
    #[arg(long)]
    no_special: bool,
}

#[derive(Args)]
struct DecodeArgs {
    /// A tokenizer.json, or a checkpoint
    #[arg(long, value_name = "FILE")]
    tokenizer: PathBuf,
}

#[derive(Args)]
struct ConvertArgs {
    /// File to read: a checkpoint or a tokenizer.json
    input: PathBuf,
    /// File to write
    #[arg(long, short, value_name = "FILE", default_value = "tokenizer.json")]
    out: PathBuf,
}

pub fn run(args: TokenizerArgs, globals: Globals) -> Result<()> {
    match args.command {
        Command::Train(args) => {
            let tokenizer = train(&args, globals.quiet)?;
            save(&tokenizer, &args.out)?;
            if !globals.quiet {
                let (size, out) = (tokenizer.view().vocabulary_size(), args.out.display());
                tell!("Wrote {out}: {size} tokens.");
            }
            Ok(())
        }
        Command::Encode(args) => {
            let special = if args.no_special { Special::AsText } else { Special::Match };
            encode(open(&args.tokenizer)?.view(), special, io::stdin().lock(), io::stdout().lock())
        }
        Command::Decode(args) => {
            decode(open(&args.tokenizer)?.view(), io::stdin().lock(), io::stdout().lock())
        }
        Command::Export(args) | Command::Import(args) => {
            refuse_overwriting(&args.input, &args.out)?;
            only_a_tokenizer(&args.out)?;
            save(&open(&args.input)?, &args.out)?;
            if !globals.quiet {
                tell!("Wrote {}.", args.out.display());
            }
            Ok(())
        }
    }
}

fn train(args: &TrainArgs, quiet: bool) -> Result<Tokenizer> {
    let text = open_text(&args.data)?;
    for input in text.files() {
        refuse_overwriting(input, &args.out)?;
    }
    only_a_tokenizer(&args.out)?;
    let trainer = Trainer::new(args.vocab_size, args.threads.unwrap_or_else(crate::cores))?;
    let tokenizer = learn(trainer, text.reader(), text.length(), quiet, &AtomicBool::new(false))?;
    let size = tokenizer.view().vocabulary_size();
    if size < args.vocab_size {
        tell!("The text has nothing more to merge after {size} tokens; {} were asked for.", args.vocab_size);
    }
    Ok(tokenizer)
}

/// The tokenizer that `trainer` learns from the `length` bytes of `text`, unless `interrupt` is set meanwhile.
pub fn learn(
    mut trainer: Trainer,
    text: impl Read,
    length: u64,
    quiet: bool,
    interrupt: &AtomicBool,
) -> Result<Tokenizer> {
    let is_interrupted = || interrupt.load(Ordering::Relaxed);
    let mut pieces = Pieces::new(text);
    let (mut done, mut counting) = (0, Reading::new("Words counted", quiet));
    while let Some(piece) = pieces.next_piece().map_err(TextError::from_read)? {
        if is_interrupted() {
            return Err(TrainError::Interrupted.into());
        }
        trainer.count(piece);
        done += piece.len() as u64;
        counting.show(done, length);
    }
    drop(counting);
    let mut merging = Reading::new("Tokens made", quiet);
    let tokenizer = trainer.train(|tokens, limit| {
        merging.show(tokens as u64, limit as u64);
        if is_interrupted() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    });
    match tokenizer {
        Err(TokenizerError::Interrupted) => Err(TrainError::Interrupted.into()),
        tokenizer => Ok(tokenizer?),
    }
}

fn save(tokenizer: &Tokenizer, path: &Path) -> Result<()> {
    let mut json = tokenizer.to_json();
    json.push('\n');
    // A device or a pipe, such as /dev/stdout, has nothing to lose.
    let is_file = fs::metadata(path).map_or(true, |metadata| metadata.is_file() || metadata.is_dir());
    let written = if is_file { atomic_write(path, &[json.as_bytes()]) } else { fs::write(path, json) };
    written.with_context(|| format!("cannot write {}", path.display()))
}

/// Opens a `tokenizer.json`, which starts with a brace, or the tokenizer of a checkpoint.
fn open(path: &Path) -> Result<Tokenizer> {
    let error = || format!("cannot read {}; name a tokenizer.json or a .shoe checkpoint", path.display());
    let mut file = File::open(path).with_context(error)?;
    let mut start = Vec::new();
    Read::take(&mut file, 64).read_to_end(&mut start).with_context(error)?;
    if start.trim_ascii_start().first() != Some(&b'{') {
        return match open_tokenizer(path) {
            Err(error) if start.is_empty() || matches!(error, CheckpointError::Foreign { .. }) => {
                bail!(
                    "{} is neither a tokenizer.json nor a .shoe checkpoint; is it the right file?",
                    path.display()
                )
            }
            tokenizer => Ok(tokenizer?),
        };
    }
    let json = files::all_of(start.chain(file), LONGEST_TOKENIZER).with_context(error)?;
    let json = String::from_utf8(json).with_context(|| format!("{} is not UTF-8 text", path.display()))?;
    Tokenizer::from_json(&json).with_context(|| format!("{} cannot be used", path.display()))
}

/// Writes the ids of the text in `input`, on one line.
fn encode(view: TokenizerView<'_>, special: Special, input: impl Read, output: impl Write) -> Result<()> {
    let mut pieces = Pieces::new(input);
    let mut output = BufWriter::new(output);
    let mut encoder = Encoder::new(view);
    let (mut ids, mut separator) = (Vec::new(), "");
    while let Some(piece) = pieces.next_piece().context("cannot read the input")? {
        ids.clear();
        encoder.encode(piece, special, &mut ids);
        for id in &ids {
            write!(output, "{separator}{id}")?;
            separator = " ";
        }
    }
    writeln!(output)?;
    output.flush()?;
    Ok(())
}

/// Writes the bytes of the ids in `input`.
fn decode(view: TokenizerView<'_>, mut input: impl BufRead, output: impl Write) -> Result<()> {
    let mut decoder = IdDecoder { view, output: BufWriter::new(output), digits: Vec::new(), count: 0 };
    loop {
        let block = input.fill_buf().context("cannot read the input")?;
        let length = block.len();
        if length == 0 {
            break;
        }
        block.iter().try_for_each(|&byte| decoder.push(byte))?;
        input.consume(length);
        // What is complete is worth showing while the input is still coming.
        decoder.output.flush()?;
    }
    decoder.end_number()?;
    decoder.output.flush()?;
    Ok(())
}

/// Decimal numbers, byte by byte, to tokens' bytes.
struct IdDecoder<'a, W: Write> {
    view: TokenizerView<'a>,
    output: BufWriter<W>,
    /// The number so far.
    digits: Vec<u8>,
    /// How many numbers there were before it.
    count: u64,
}

impl<W: Write> IdDecoder<'_, W> {
    fn push(&mut self, byte: u8) -> Result<()> {
        if byte.is_ascii_whitespace() {
            return self.end_number();
        }
        self.digits.push(byte);
        if self.digits.len() > LONGEST_NUMBER {
            return self.refuse("");
        }
        Ok(())
    }

    fn end_number(&mut self) -> Result<()> {
        if self.digits.is_empty() {
            return Ok(());
        }
        let number =
            str::from_utf8(&self.digits).ok().filter(|text| text.bytes().all(|it| it.is_ascii_digit()));
        let Some(number) = number else { return self.refuse("") };
        let Some(id) = number.parse().ok().filter(|&id: &u32| (id as usize) < self.view.vocabulary_size())
        else {
            let last = self.view.vocabulary_size() - 1;
            return self.refuse(&format!(
                " of this tokenizer, which has 0 to {last}; was the text encoded with another?"
            ));
        };
        self.output.write_all(self.view.token(id))?;
        self.digits.clear();
        self.count += 1;
        Ok(())
    }

    fn refuse(&mut self, why: &str) -> Result<()> {
        // What came before is right.
        self.output.flush()?;
        let why = if why.is_empty() { "; write decimal numbers separated by white space" } else { why };
        let number = String::from_utf8_lossy(&self.digits);
        bail!("item {} of the input, {number:?}, is no token id{why}", self.count + 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tokenizer() -> Tokenizer {
        Tokenizer::train(&["a cat and a hat and a bat\n".repeat(9).as_bytes()], 270, 1).unwrap()
    }

    fn decoded(ids: &str) -> Result<Vec<u8>> {
        let mut bytes = Vec::new();
        decode(tokenizer().view(), ids.as_bytes(), &mut bytes)?;
        Ok(bytes)
    }

    #[test]
    fn text_goes_to_numbers_and_back() {
        let text = b"a cat [EOS] and\0 a\xFFhat\n\n";
        for special in [Special::Match, Special::AsText] {
            let mut numbers = Vec::new();
            encode(tokenizer().view(), special, &text[..], &mut numbers).unwrap();
            let numbers = String::from_utf8(numbers).unwrap();
            assert_eq!(numbers.split_whitespace().any(|id| id == "2"), special == Special::Match);
            assert_eq!(decoded(&numbers).unwrap(), text);
            assert_eq!(decoded(&format!("\n\t{}\r\n", numbers.replace(' ', "\n"))).unwrap(), text);
        }
        assert_eq!(decoded("").unwrap(), b"");
    }

    #[test]
    fn wrong_numbers_are_named() {
        let message = |ids: &str| decoded(ids).unwrap_err().to_string();
        let hint = "is no token id; write decimal numbers separated by white space";
        assert_eq!(message("70 x7 71"), format!("item 2 of the input, \"x7\", {hint}"));
        assert_eq!(message("-1"), format!("item 1 of the input, \"-1\", {hint}"));
        assert_eq!(message("+1"), format!("item 1 of the input, \"+1\", {hint}"));
        assert_eq!(
            message("1 2 270"),
            "item 3 of the input, \"270\", is no token id of this tokenizer, which has 0 to 269; \
             was the text encoded with another?"
        );
        assert!(
            message(&"9".repeat(1000)).starts_with("item 1 of the input, \"999999999999999999999\", is no")
        );
        assert!(message("99999999999").contains("which has 0 to 269"));
    }

    #[test]
    fn missing_and_foreign_files_are_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("absent.json");
        assert!(
            format!("{:#}", open(&path).unwrap_err())
                .starts_with(&format!("cannot read {}; name", path.display()))
        );
        fs::write(&path, "{\"model\": 1}").unwrap();
        let error = format!("{:#}", open(&path).unwrap_err());
        assert_eq!(error, format!("{} cannot be used: `model` should be an object", path.display()));
    }

    #[test]
    fn nothing_to_train_on_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        let (data, out) = (folder.path().join("text"), folder.path().join("tokenizer.json"));
        fs::write(&data, "").unwrap();
        let args = TrainArgs { data: vec![data.clone()], vocab_size: 270, out, threads: Some(1) };
        let error = train(&args, true).unwrap_err().to_string();
        assert_eq!(
            error,
            format!("{} is empty, or blank; name a text file with something in it", data.display())
        );
    }

    #[test]
    fn a_trained_file_opens() {
        let folder = tempfile::tempdir().unwrap();
        let (data, out) = (folder.path().join("text"), folder.path().join("tokenizer.json"));
        fs::write(&data, "a cat and a hat and a bat\n".repeat(9)).unwrap();
        let args = TrainArgs { data: vec![data], vocab_size: 270, out: out.clone(), threads: Some(2) };
        save(&train(&args, true).unwrap(), &out).unwrap();
        assert_eq!(open(&out).unwrap(), tokenizer());
    }
}
