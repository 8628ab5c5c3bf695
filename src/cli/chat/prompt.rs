//! What the user enters: edited on a terminal, line by line from anywhere else.

use super::super::tell;
use super::command;
use anyhow::{Context, Result, bail};
use etcetera::base_strategy::{BaseStrategy, choose_native_strategy};
use rustyline::completion::Completer;
use rustyline::error::ReadlineError;
use rustyline::highlight::Highlighter;
use rustyline::hint::Hinter;
use rustyline::history::FileHistory;
use rustyline::validate::Validator;
use rustyline::{
    Cmd, CompletionType, ConditionalEventHandler, Config, Context as LineContext, Event, EventContext,
    EventHandler, Helper, KeyCode, KeyEvent, Modifiers, Movement, RepeatCount,
};
use std::fs;
use std::io::{self, BufRead, IsTerminal, Read, Write, stdin, stdout};
use std::path::{Path, PathBuf};

const PROMPT: &str = "> ";
/// Messages and commands that are remembered from one chat to the next.
const HISTORY_LENGTH: usize = 1000;
/// Bytes of a line from anything but an editor.
const LONGEST_LINE: u64 = 16_000_000;
/// Terminals that can't move the cursor.
const DUMB_TERMINALS: [&str; 3] = ["dumb", "cons25", "emacs"];

/// What came from the user.
pub enum Entered {
    Text(String),
    /// Ctrl-C where there was nothing to clear.
    Interrupt,
    /// Bytes that are not UTF-8, and the line they were in.
    Garbled,
    End,
}

/// Where it comes from.
pub enum Prompt {
    Edited(Box<Editor>),
    /// Lines, after a prompt or without.
    Plain {
        prompt: bool,
    },
}

impl Prompt {
    /// On a terminal lines are edited, unless it is a dumb one.
    pub fn new(quiet: bool) -> Result<Self> {
        let terminal = stdin().is_terminal() && stdout().is_terminal();
        let dumb = std::env::var("TERM")
            .is_ok_and(|term| DUMB_TERMINALS.iter().any(|dumb| term.eq_ignore_ascii_case(dumb)));
        if !terminal || dumb {
            return Ok(Prompt::Plain { prompt: terminal });
        }
        Ok(Prompt::Edited(Box::new(Editor::new(quiet)?)))
    }

    /// Whether someone sits at a terminal.
    pub fn is_interactive(&self) -> bool {
        !matches!(self, Prompt::Plain { prompt: false })
    }

    pub fn read(&mut self) -> Result<Entered> {
        match self {
            Prompt::Edited(editor) => editor.read(),
            Prompt::Plain { prompt } => read_line(*prompt),
        }
        .context("cannot read what you typed")
    }
}

fn read_line(prompt: bool) -> Result<Entered> {
    if prompt {
        print_prompt(PROMPT)?;
    }
    let mut line = Vec::new();
    if stdin().lock().take(LONGEST_LINE + 1).read_until(b'\n', &mut line)? as u64 > LONGEST_LINE {
        bail!("a line has more than {} MB", LONGEST_LINE / 1_000_000);
    }
    if line.is_empty() {
        if prompt {
            print_prompt("\n")?;
        }
        return Ok(Entered::End);
    }
    // A file may begin with a byte-order mark.
    Ok(Entered::Text(String::from_utf8_lossy(&line).trim_start_matches('\u{feff}').to_owned()))
}

fn print_prompt(text: &str) -> io::Result<()> {
    stdout().write_all(text.as_bytes())?;
    stdout().flush()
}

type LineEditor = rustyline::Editor<Commands, FileHistory>;

pub struct Editor {
    editor: LineEditor,
    /// None where it can't be kept.
    history: Option<PathBuf>,
    quiet: bool,
}

impl Editor {
    fn new(quiet: bool) -> Result<Self> {
        let config = Config::builder()
            .max_history_size(HISTORY_LENGTH)?
            .auto_add_history(true)
            .completion_type(CompletionType::List)
            .build();
        let history = FileHistory::with_config(&config);
        let mut editor = LineEditor::with_history(config, history)?;
        editor.set_helper(Some(Commands));
        // Enter is Ctrl-M on most terminals, and Ctrl-J where it was typed before the prompt came.
        for key in [KeyEvent(KeyCode::Enter, Modifiers::NONE), KeyEvent::ctrl('M'), KeyEvent::ctrl('J')] {
            editor.bind_sequence(key, EventHandler::Conditional(Box::new(Backslash)));
            let KeyEvent(code, modifiers) = key;
            editor.bind_sequence(KeyEvent(code, modifiers | Modifiers::ALT), Cmd::Newline);
        }
        editor.bind_sequence(KeyEvent::ctrl('C'), EventHandler::Conditional(Box::new(ClearLine)));
        let mut editor = Editor { editor, history: history_file(), quiet };
        editor.with_history(|editor, path| match editor.load_history(path) {
            Err(ReadlineError::Io(error)) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            loaded => loaded,
        });
        Ok(editor)
    }

    fn read(&mut self) -> Result<Entered> {
        match self.editor.readline(PROMPT) {
            Ok(text) => {
                self.with_history(|editor, path| {
                    if let Some(folder) = path.parent() {
                        fs::create_dir_all(folder)?;
                    }
                    editor.append_history(path)
                });
                // The backslashes that made lines go on.
                Ok(Entered::Text(text.replace("\\\n", "\n")))
            }
            Err(ReadlineError::Interrupted) => Ok(Entered::Interrupt),
            Err(ReadlineError::Eof) => Ok(Entered::End),
            Err(ReadlineError::Io(error)) if error.kind() == io::ErrorKind::InvalidData => {
                Ok(Entered::Garbled)
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Reads or writes the history's file. Where that fails once, there will be no history to go back to another day.
    fn with_history(&mut self, action: impl FnOnce(&mut LineEditor, &Path) -> rustyline::Result<()>) {
        let Some(path) = &self.history else { return };
        if let Err(error) = action(&mut self.editor, path) {
            if !self.quiet {
                tell!("What you type is not kept for another day: {}: {error}.", path.display());
            }
            self.history = None;
        }
    }
}

/// The file of what was typed earlier, where the platform keeps such things; none for a user without a home.
fn history_file() -> Option<PathBuf> {
    let folders = choose_native_strategy().ok()?;
    let folder = folders.state_dir().unwrap_or_else(|| folders.data_dir());
    Some(folder.join("shoestring").join("chat-history"))
}

/// Enter after a backslash begins another line.
struct Backslash;

impl ConditionalEventHandler for Backslash {
    fn handle(&self, _: &Event, _: RepeatCount, _: bool, context: &EventContext<'_>) -> Option<Cmd> {
        let before = &context.line()[..context.pos()];
        before.ends_with('\\').then_some(Cmd::Newline)
    }
}

/// Ctrl-C clears what was typed, if there is anything.
struct ClearLine;

impl ConditionalEventHandler for ClearLine {
    fn handle(&self, _: &Event, _: RepeatCount, _: bool, context: &EventContext<'_>) -> Option<Cmd> {
        (!context.line().is_empty()).then_some(Cmd::Kill(Movement::WholeBuffer))
    }
}

/// Completes the names of commands by Tab.
struct Commands;

impl Completer for Commands {
    type Candidate = String;

    fn complete(
        &self,
        line: &str,
        position: usize,
        _: &LineContext<'_>,
    ) -> rustyline::Result<(usize, Vec<String>)> {
        let typed = &line[..position];
        let names = command::names().map(|name| format!("/{name}"));
        Ok((0, names.filter(|name| typed.starts_with('/') && name.starts_with(typed)).collect()))
    }
}

impl Hinter for Commands {
    type Hint = String;
}

impl Highlighter for Commands {}
impl Validator for Commands {}
impl Helper for Commands {}

pub use mode::Mode;

/// How the terminal treats its keyboard when no line is edited.
#[cfg(unix)]
mod mode {
    use nix::sys::termios::{LocalFlags, SetArg, Termios, tcgetattr, tcsetattr};
    use std::io::stdin;

    pub struct Mode(Option<Termios>);

    impl Mode {
        pub fn now() -> Self {
            Mode(tcgetattr(stdin()).ok())
        }

        /// Whether a line is being edited. Then the keyboard sends no signals.
        pub fn is_editing(&self) -> bool {
            tcgetattr(stdin()).is_ok_and(|mode| !mode.local_flags.contains(LocalFlags::ISIG))
        }

        /// Ends the editing from outside.
        pub fn restore(&self) {
            if let Some(mode) = &self.0
                && self.is_editing()
            {
                // The terminal may have gone away, which needs no restoring.
                let _ = tcsetattr(stdin(), SetArg::TCSANOW, mode);
                // Pastes are no longer bracketed.
                let _ = super::print_prompt("\x1b[?2004l\n");
            }
        }
    }
}

/// Windows resets its console when a program ends.
#[cfg(not(unix))]
mod mode {
    pub struct Mode;

    impl Mode {
        pub fn now() -> Self {
            Mode
        }

        pub fn is_editing(&self) -> bool {
            false
        }

        pub fn restore(&self) {}
    }
}
