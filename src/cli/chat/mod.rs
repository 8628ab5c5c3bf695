//! `shoestring chat`

mod command;
mod prompt;

use super::arguments::{SamplingArgs, tokens};
use super::printable::Printer;
use super::signals::Asked;
use super::{Globals, INTERRUPTED, counted, describe, is_same_file, open_model, runs_away, signals, tell};
use crate::chat::{Conversation, ConversationError};
use crate::checkpoint::temporary_file;
use crate::generate::{Completion, Limits, MAX_TOKENS};
use crate::model::Model;
use crate::sample::{Sampler, Sampling};
use anyhow::{Result, bail};
use clap::Args;
use command::{Command, Input};
use prompt::{Entered, Mode, Prompt};
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

/// Temperature of a conversation where no flag says otherwise: a little safer than free text.
const CHAT_TEMPERATURE: f32 = 0.5;

#[derive(Args)]
#[command(
    after_help = "Type a message, or /help for the commands. Ctrl-C stops a reply, Ctrl-D leaves.\n\nExamples:\n  \
    shoestring chat --session ada.session\n  \
    shoestring chat --checkpoint model.shoe --temperature 0.3 --seed 1"
)]
pub struct ChatArgs {
    /// Model to talk with [default: the newest in ./checkpoints, or else the bundled one]
    #[arg(long, value_name = "FILE")]
    checkpoint: Option<PathBuf>,
    /// Go on with the conversation in this file, if there is one, and keep it there
    #[arg(long, value_name = "FILE")]
    session: Option<PathBuf>,
    /// Tokens of a reply at most
    #[arg(long, value_name = "N", default_value_t = MAX_TOKENS, value_parser = tokens)]
    max_response: usize,
    /// End a reply where this string comes up; may be given several times
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true)]
    stop: Vec<String>,
    /// After each reply, say how many tokens it has and how fast they came
    #[arg(long)]
    stats: bool,
    /// Threads for long texts and large models [default: one a physical core]
    #[arg(long, value_name = "N", value_parser = crate::cli::train::threads)]
    threads: Option<usize>,
    #[command(flatten)]
    sampling: SamplingArgs,
}

pub fn run(args: &ChatArgs, globals: Globals) -> Result<ExitCode> {
    let model = open_model(args.checkpoint.as_deref(), globals)?.on_threads(args.threads);
    let limits = Limits { max_tokens: args.max_response, stop: args.stop.clone(), ..Limits::default() };
    let mut chat = Chat::new(&model, args.sampling.sampling(CHAT_TEMPERATURE), limits, globals);
    chat.show_stats = args.stats;
    if let Some(path) = &args.session {
        chat.resume(path)?;
    }
    chat.run()
}

/// Chats with the model at `path` under default settings.
pub fn with_model(path: &Path, globals: Globals) -> Result<ExitCode> {
    let model = open_model(Some(path), globals)?;
    let sampling = Sampling { temperature: CHAT_TEMPERATURE, seed: rand::random(), ..Sampling::default() };
    Chat::new(&model, sampling, Limits::default(), globals).run()
}

/// A conversation, and what is around it.
struct Chat<'m> {
    model: &'m Model,
    conversation: Conversation<'m>,
    /// Ends the reply.
    interrupt: Arc<AtomicBool>,
    /// Whether there is a reply to end.
    replying: Arc<AtomicBool>,
    /// Ends the chat, once the reply has ended.
    end: Arc<AtomicBool>,
    kept: Option<Kept>,
    /// Whether the conversation has changed since it was last written there.
    changed: bool,
    show_stats: bool,
    stats: Stats,
    globals: Globals,
}

impl<'m> Chat<'m> {
    fn new(model: &'m Model, sampling: Sampling, limits: Limits, globals: Globals) -> Self {
        let interrupt = Arc::clone(&limits.interrupt);
        let dialogue = model.checkpoint().record().dialogue;
        let conversation = Conversation::new(model.session(), Sampler::new(sampling), dialogue, limits);
        let stats = Stats::default();
        Chat {
            model,
            conversation,
            interrupt,
            replying: Arc::default(),
            end: Arc::default(),
            kept: None,
            changed: false,
            show_stats: false,
            stats,
            globals,
        }
    }

    /// Goes on with the conversation at `path`, if there is one, and keeps it there from now on.
    fn resume(&mut self, path: &Path) -> Result<(), ConversationError> {
        let mut contents = Vec::new();
        // An empty file, as `mktemp` makes it, has no conversation yet.
        let is_there = path.metadata().map_or(path.is_symlink(), |there| !there.is_file() || there.len() > 0);
        if is_there {
            self.conversation.load(path)?;
            contents = self.conversation.session().save();
            self.say(&format!("Going on with {}.", path.display()));
        }
        // What can't be kept is better known before anything is said.
        temporary_file(path).map_err(|source| ConversationError::Save { path: path.to_owned(), source })?;
        self.kept = Some(Kept { path: path.to_owned(), contents });
        Ok(())
    }

    fn run(&mut self) -> Result<ExitCode> {
        let talked = self.talk();
        self.keep()?;
        talked?;
        Ok(if self.end.load(Ordering::Relaxed) { ExitCode::from(INTERRUPTED) } else { ExitCode::SUCCESS })
    }

    fn talk(&mut self) -> Result<()> {
        let mut prompt = Prompt::new(self.globals.quiet)?;
        if !prompt.is_interactive() {
            return self.answer_lines(&mut prompt);
        }
        self.stop_on_signals()?;
        if !self.model.checkpoint().record().dialogue {
            self.say(
                "This model was trained on plain text, not on conversations: it goes on after the lines you write.",
            );
        }
        self.say("Chat with the model; /help lists commands, Ctrl-D leaves.");
        let mut interrupted = false;
        loop {
            let entered = prompt.read()?;
            let again = std::mem::replace(&mut interrupted, matches!(entered, Entered::Interrupt));
            // A signal that came before the line was entered has cleared it, where a terminal does so by itself.
            self.interrupt.store(false, Ordering::Relaxed);
            match entered {
                Entered::End => return Ok(()),
                Entered::Interrupt if again => return Ok(()),
                Entered::Interrupt => self.say("Ctrl-C once more leaves, as do Ctrl-D and /quit."),
                Entered::Garbled => self.say("That was not UTF-8, and is not said."),
                Entered::Text(text) => match self.take(&text) {
                    Ok(Next::Leave) => return Ok(()),
                    Ok(Next::Prompt) => {}
                    // With the terminal gone there is no one to go on with.
                    Err(error) if error.is::<io::Error>() => return Err(error),
                    Err(error) => tell!("{}", describe(&error)),
                },
            }
            if self.end.load(Ordering::Relaxed) {
                return Ok(());
            }
            if let Err(error) = self.keep() {
                tell!("{}", describe(&error));
            }
        }
    }

    /// Takes lines that no one waits for: the first that is wrong ends it.
    fn answer_lines(&mut self, prompt: &mut Prompt) -> Result<()> {
        for number in 1.. {
            let Entered::Text(line) = prompt.read()? else { break };
            match self.take(&line) {
                Ok(Next::Leave) => break,
                Ok(Next::Prompt) => {}
                Err(error) if error.is::<io::Error>() => return Err(error),
                Err(error) => return Err(error.context(format!("line {number}"))),
            }
            self.keep()?;
        }
        Ok(())
    }

    /// Does what the user entered: an [`io::Error`] if the reply can't be written, others if it makes no sense.
    fn take(&mut self, entered: &str) -> Result<Next> {
        let command = match command::parse(entered)? {
            Input::Nothing => return Ok(Next::Prompt),
            Input::Message(text) => {
                self.speak(|conversation, write| conversation.reply(&text, write).map(Some))?;
                return Ok(Next::Prompt);
            }
            Input::Command(command) => command,
        };
        match command {
            Command::Quit => return Ok(Next::Leave),
            Command::Help => tell!("{}", command::help(&self.conversation)),
            Command::Retry => self.speak(|conversation, write| conversation.retry(write))?,
            Command::Undo => {
                let Some(text) = self.conversation.undo() else { bail!("there is nothing to undo") };
                self.changed = true;
                self.say(&format!("Took back: {text}"));
            }
            // What is kept stays until there is something else to keep.
            Command::Reset => {
                self.conversation.reset();
                self.changed = false;
                self.say("A new conversation.");
            }
            Command::Save(path) => {
                if let Some(kept) = self.kept.as_ref().filter(|kept| is_same_file(&kept.path, &path)) {
                    kept.check()?;
                }
                self.conversation.save(&path)?;
                self.settle(&path);
                self.say(&format!("Saved in {}.", path.display()));
            }
            Command::Load(path) => {
                self.conversation.load(&path)?;
                self.changed = false;
                self.settle(&path);
                self.say(&format!("Going on with {}.", path.display()));
            }
            Command::Stats(None) => tell!("{}", self.statistics()),
            Command::Stats(Some(show)) => self.show_stats = show,
            Command::Setting(setting, value) => {
                let message = setting.apply(&mut self.conversation, value)?;
                if value.is_none() {
                    tell!("{message}");
                } else {
                    self.say(&message);
                }
            }
        }
        Ok(Next::Prompt)
    }

    /// Writes a reply as it comes.
    fn speak(
        &mut self,
        reply: impl FnOnce(&mut Conversation<'m>, &mut Write<'_>) -> io::Result<Option<Completion>>,
    ) -> Result<()> {
        self.interrupt.store(false, Ordering::Relaxed);
        self.replying.store(true, Ordering::Relaxed);
        let mut printer = Printer::new();
        let start = Instant::now();
        let completion = reply(&mut self.conversation, &mut |piece| printer.print(piece));
        self.replying.store(false, Ordering::Relaxed);
        let seconds = start.elapsed().as_secs_f64();
        if let Ok(None) = completion {
            bail!("there is no reply to replace");
        }
        self.changed = true;
        let tokens = completion?.map_or(0, |completion| completion.tokens);
        printer.end_line()?;
        if !self.conversation.session().is_finite() {
            // Nothing could be said after it, and it is not kept.
            self.conversation.undo();
            self.changed = self.conversation.session().is_finite();
            return Err(runs_away(self.model.checkpoint().path()));
        }
        self.stats.last = Speed { tokens, seconds };
        self.stats.replies += 1;
        self.stats.total.tokens += tokens;
        self.stats.total.seconds += seconds;
        if self.show_stats {
            tell!("[{}]", self.stats.last);
        }
        Ok(())
    }

    /// Writes the conversation to where it is kept, if it has changed: after each line, as a signal may end the program
    /// at any time.
    fn keep(&mut self) -> Result<()> {
        if let Some(kept) = &mut self.kept
            && self.changed
        {
            kept.check()?;
            self.conversation.save(&kept.path)?;
            kept.contents = self.conversation.session().save();
            self.changed = false;
        }
        Ok(())
    }

    /// Remembers that the file at `path` now holds the conversation as it is, if it is the one where it is kept.
    fn settle(&mut self, path: &Path) {
        if let Some(kept) = self.kept.as_mut().filter(|kept| is_same_file(&kept.path, path)) {
            kept.contents = self.conversation.session().save();
            self.changed = false;
        }
    }

    /// A signal stops the reply, and unless it is Ctrl-C ends the chat, after the reply if there is one. While a line is
    /// being edited the keyboard sends none: it comes from elsewhere, and ends the program, as does a second one before
    /// the next line.
    fn stop_on_signals(&self) -> Result<()> {
        let [interrupt, replying, end] = [&self.interrupt, &self.replying, &self.end].map(Arc::clone);
        let mode = Mode::now();
        signals::handle(move |asked| {
            let ends = asked == Asked::End;
            end.fetch_or(ends, Ordering::Relaxed);
            let nothing_to_end = mode.is_editing() || (ends && !replying.load(Ordering::Relaxed));
            if interrupt.swap(true, Ordering::Relaxed) || nothing_to_end {
                mode.restore();
                std::process::exit(i32::from(INTERRUPTED));
            }
        })
    }

    fn statistics(&self) -> String {
        let Stats { replies, total, last } = &self.stats;
        let checkpoint = self.model.checkpoint();
        format!(
            "replies       {replies}: {total}\n\
             last reply    {last}\n\
             undo          {}\n\
             conversation  {} bytes\n\
             model         {}, {}, kernel {}",
            counted(self.conversation.turns(), "turn"),
            self.conversation.session().save().len(),
            checkpoint.path().display(),
            checkpoint.kind(),
            self.model.kernels().name(),
        )
    }

    fn say(&self, line: &str) {
        if !self.globals.quiet {
            tell!("{line}");
        }
    }
}

type Write<'a> = dyn FnMut(&str) -> io::Result<()> + 'a;

/// Where the conversation is kept, and what was read or written there last: nothing, as long as there is no file.
struct Kept {
    path: PathBuf,
    contents: Vec<u8>,
}

impl Kept {
    /// An error if the file is not as it was left: what another program wrote there would be lost.
    fn check(&self) -> Result<()> {
        if std::fs::read(&self.path).is_ok_and(|there| there != self.contents) {
            let path = self.path.display();
            bail!("another program has changed {path} meanwhile; /save this conversation in another file");
        }
        Ok(())
    }
}

/// What follows what the user entered.
enum Next {
    Prompt,
    Leave,
}

#[derive(Default)]
struct Stats {
    replies: usize,
    total: Speed,
    last: Speed,
}

#[derive(Default)]
struct Speed {
    tokens: usize,
    /// From the message to the end of the reply.
    seconds: f64,
}

impl fmt::Display for Speed {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let rate = self.tokens as f64 / self.seconds.max(1e-9);
        write!(formatter, "{} tokens, {rate:.0} tokens/s", self.tokens)
    }
}
