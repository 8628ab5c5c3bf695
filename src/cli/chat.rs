//! `shoestring chat`

use super::arguments::{SamplingArgs, tokens};
use super::{Globals, open_model, tell};
use crate::chat::Conversation;
use crate::generate::Limits;
use crate::model::Model;
use crate::sample::{Sampler, Sampling};
use anyhow::{Context, Result};
use clap::Args;
use std::io::{self, BufRead, IsTerminal, Write, stdin, stdout};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// Tokens of a reply where no flag says otherwise.
const MAX_RESPONSE: usize = 260;
/// Temperature of a conversation where no flag says otherwise: a little safer than free text.
const CHAT_TEMPERATURE: f32 = 0.5;

#[derive(Args)]
#[command(after_help = "Type `exit`, `quit` or Ctrl-D to leave.\n\nExamples:\n  shoestring chat\n  \
    shoestring chat --checkpoint model.shoe --temperature 0.3 --seed 1")]
pub struct ChatArgs {
    /// Model to talk with [default: the newest in ./checkpoints, or else the bundled one]
    #[arg(long, value_name = "FILE")]
    checkpoint: Option<PathBuf>,
    /// Tokens of a reply at most
    #[arg(long, value_name = "N", default_value_t = MAX_RESPONSE, value_parser = tokens)]
    max_response: usize,
    /// End a reply where this string comes up; may be given several times
    #[arg(long, value_name = "TEXT")]
    stop: Vec<String>,
    #[command(flatten)]
    sampling: SamplingArgs,
}

pub fn run(args: &ChatArgs, globals: Globals) -> Result<ExitCode> {
    let model = open_model(args.checkpoint.as_deref(), globals)?;
    let limits = Limits { max_tokens: args.max_response, stop: args.stop.clone(), ..Limits::default() };
    converse(&model, args.sampling.sampling(CHAT_TEMPERATURE), limits, globals)?;
    Ok(ExitCode::SUCCESS)
}

/// Chats with the model at `path` under default settings.
pub fn with_model(path: &Path, globals: Globals) -> Result<()> {
    let model = open_model(Some(path), globals)?;
    let sampling = Sampling { temperature: CHAT_TEMPERATURE, seed: rand::random(), ..Sampling::default() };
    let limits = Limits { max_tokens: MAX_RESPONSE, ..Limits::default() };
    converse(&model, sampling, limits, globals)
}

fn converse(model: &Model, sampling: Sampling, limits: Limits, globals: Globals) -> Result<()> {
    let dialogue = model.checkpoint().record().dialogue;
    let interactive = stdin().is_terminal() && stdout().is_terminal();
    if interactive && !globals.quiet {
        if dialogue {
            tell!("Chat with the model; `exit` or Ctrl-D leaves.");
        } else {
            tell!("This model was trained on plain text, not on conversations: it continues what you write.");
            tell!("`exit` or Ctrl-D leaves.");
        }
    }
    let mut conversation = Conversation::new(model.session(), Sampler::new(sampling), dialogue, limits);
    let mut input = stdin().lock();
    let mut line = Vec::new();
    loop {
        if interactive {
            print!("> ");
            stdout().flush()?;
        }
        line.clear();
        if input.read_until(b'\n', &mut line).context("cannot read what you typed")? == 0 {
            if interactive {
                println!();
            }
            return Ok(());
        }
        let text = String::from_utf8_lossy(&line);
        match text.trim() {
            "" => continue,
            "exit" | "quit" => return Ok(()),
            text => reply(&mut conversation, text, interactive)?,
        }
    }
}

/// Writes one reply and a line end; on a terminal as it comes.
fn reply(conversation: &mut Conversation<'_>, text: &str, interactive: bool) -> io::Result<()> {
    let mut out = io::BufWriter::new(stdout().lock());
    conversation.reply(text, &mut |piece| {
        out.write_all(piece.as_bytes())?;
        if interactive { out.flush() } else { Ok(()) }
    })?;
    out.write_all(b"\n")?;
    out.flush()
}
