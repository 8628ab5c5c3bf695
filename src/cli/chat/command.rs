//! What a user can type besides messages.

use super::super::arguments::{float, positive, seed, tokens};
use crate::chat::Conversation;
use crate::sample::Sampling;
use anyhow::bail;
use std::borrow::Cow;
use std::fmt::Write;
use std::path::PathBuf;

/// What a line, or several, that the user entered is.
#[derive(Debug, PartialEq)]
pub enum Input<'a> {
    Nothing,
    Message(Cow<'a, str>),
    Command(Command<'a>),
}

#[derive(Debug, PartialEq)]
pub enum Command<'a> {
    Help,
    Undo,
    Retry,
    Reset,
    Save(PathBuf),
    Load(PathBuf),
    /// Statistics, now or after each reply.
    Stats(Option<bool>),
    /// A setting, and the value it is to get.
    Setting(&'static Setting, Option<&'a str>),
    Quit,
}

/// A number that can be changed.
pub struct Setting {
    pub name: &'static str,
    argument: &'static str,
    about: &'static str,
    get: fn(&Conversation<'_>) -> String,
    /// An error says what the value must be.
    set: fn(&mut Conversation<'_>, &str) -> Result<(), String>,
}

impl std::fmt::Debug for Setting {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name)
    }
}

impl PartialEq for Setting {
    fn eq(&self, other: &Self) -> bool {
        self.name == other.name
    }
}

/// Commands that are no settings, with what they do.
const COMMANDS: [(&str, &str, &str); 8] = [
    ("help", "", "show this list"),
    ("undo", "", "take back your last message and its reply"),
    ("retry", "", "replace the last reply by another one"),
    ("reset", "", "begin a new conversation"),
    ("save", "FILE", "save the conversation"),
    ("load", "FILE", "go on with a saved conversation"),
    ("stats", "[on|off]", "tokens and speed so far, or after each reply"),
    ("quit", "", "leave, as do `exit`, `quit`, Ctrl-D, and Ctrl-C twice"),
];

static SETTINGS: [Setting; 7] = [
    Setting {
        name: "temperature",
        argument: "X",
        about: "how freely to choose; 0 takes the likeliest token",
        get: |conversation| conversation.sampling().temperature.to_string(),
        set: |conversation, value| {
            let temperature = float::<0, 100>(value)?;
            sample(conversation, |sampling| sampling.temperature = temperature)
        },
    },
    Setting {
        name: "top-k",
        argument: "N",
        about: "choose among the N likeliest tokens; 0 is off",
        get: |conversation| conversation.sampling().top_k.to_string(),
        set: |conversation, value| {
            let top_k = tokens(value)?;
            sample(conversation, |sampling| sampling.top_k = top_k)
        },
    },
    Setting {
        name: "top-p",
        argument: "P",
        about: "choose among the likeliest, together of probability P; 1 is off",
        get: |conversation| conversation.sampling().top_p.to_string(),
        set: |conversation, value| {
            let top_p = float::<0, 1>(value)?;
            sample(conversation, |sampling| sampling.top_p = top_p)
        },
    },
    Setting {
        name: "min-p",
        argument: "P",
        about: "choose among those P times as likely as the likeliest; 0 is off",
        get: |conversation| conversation.sampling().min_p.to_string(),
        set: |conversation, value| {
            let min_p = float::<0, 1>(value)?;
            sample(conversation, |sampling| sampling.min_p = min_p)
        },
    },
    Setting {
        name: "repetition-penalty",
        argument: "X",
        about: "make recent tokens less likely; 1 is off",
        get: |conversation| conversation.sampling().repetition_penalty.to_string(),
        set: |conversation, value| {
            let penalty = positive(value)?;
            sample(conversation, |sampling| sampling.repetition_penalty = penalty)
        },
    },
    Setting {
        name: "seed",
        argument: "N",
        about: "begin the random choices anew",
        get: |conversation| conversation.sampling().seed.to_string(),
        set: |conversation, value| seed(value).map(|seed| conversation.reseed(seed)),
    },
    Setting {
        name: "max-response",
        argument: "N",
        about: "tokens of a reply at most",
        get: |conversation| conversation.max_tokens().to_string(),
        set: |conversation, value| tokens(value).map(|tokens| conversation.set_max_tokens(tokens)),
    },
];

fn sample(conversation: &mut Conversation<'_>, change: impl FnOnce(&mut Sampling)) -> Result<(), String> {
    let mut sampling = conversation.sampling();
    change(&mut sampling);
    conversation.set_sampling(sampling);
    Ok(())
}

impl Setting {
    /// Sets it to `value`, if there is one, and says what it is.
    pub fn apply(&self, conversation: &mut Conversation<'_>, value: Option<&str>) -> anyhow::Result<String> {
        let Setting { name, .. } = self;
        if let Some(value) = value
            && let Err(needed) = (self.set)(conversation, value)
        {
            bail!("/{name} can't be `{value}`: {needed}");
        }
        Ok(format!("{name} is {}", (self.get)(conversation)))
    }
}

/// Tells commands from messages. Only a single line can be a command.
pub fn parse(entered: &str) -> anyhow::Result<Input<'_>> {
    let text = entered.trim();
    if text.is_empty() {
        return Ok(Input::Nothing);
    }
    if matches!(text, "exit" | "quit") {
        return Ok(Input::Command(Command::Quit));
    }
    match text.strip_prefix('/') {
        Some(message) if message.starts_with('/') => Ok(Input::Message(message.into())),
        Some(command) if !text.contains('\n') => parse_command(command).map(Input::Command),
        _ => Ok(Input::Message(text.into())),
    }
}

fn parse_command(text: &str) -> anyhow::Result<Command<'_>> {
    let (name, argument) = match text.split_once(char::is_whitespace) {
        Some((name, argument)) => (name, Some(argument.trim())),
        None => (text, None),
    };
    if let Some(setting) = SETTINGS.iter().find(|setting| setting.name == name) {
        return Ok(Command::Setting(setting, argument));
    }
    let command = match (name, argument) {
        ("save" | "load", file) => match path(file.unwrap_or_default()) {
            path if path.as_os_str().is_empty() => bail!("/{name} needs the name of a file"),
            path if name == "save" => Command::Save(path),
            path => Command::Load(path),
        },
        ("stats", None) => Command::Stats(None),
        ("stats", Some("on")) => Command::Stats(Some(true)),
        ("stats", Some("off")) => Command::Stats(Some(false)),
        ("stats", Some(other)) => bail!("/stats takes `on` or `off`, not `{other}`"),
        ("help", None) => Command::Help,
        ("undo", None) => Command::Undo,
        ("retry", None) => Command::Retry,
        ("reset", None) => Command::Reset,
        ("quit" | "exit", None) => Command::Quit,
        ("help" | "undo" | "retry" | "reset" | "quit" | "exit", Some(_)) => {
            bail!("/{name} takes nothing after it")
        }
        _ => bail!("there is no command /{name}; {}", advice(name)),
    };
    Ok(command)
}

/// The file that a name means to those who write it as for a shell: in quotes, or below their home.
fn path(name: &str) -> PathBuf {
    let unquoted = ['"', '\''].iter().find_map(|&quote| name.strip_prefix(quote)?.strip_suffix(quote));
    match (unquoted, name.strip_prefix("~/"), std::env::home_dir()) {
        (Some(name), ..) => name.into(),
        (None, Some(name), Some(home)) => home.join(name),
        _ => name.into(),
    }
}

/// What to do instead of a command there is none of.
fn advice(name: &str) -> String {
    /// Below this likeness two words have little to do with each other; clap draws the line there too.
    const ALIKE: f64 = 0.7;
    let likeness = |other: &str| strsim::jaro(name, other);
    let closest = names().max_by(|a, b| likeness(a).total_cmp(&likeness(b)));
    match closest.filter(|closest| likeness(closest) > ALIKE) {
        Some(closest) => format!("did you mean /{closest}?"),
        None => "/help lists them, and a message that begins with / is written with //".to_owned(),
    }
}

/// The names of all commands.
pub fn names() -> impl Iterator<Item = &'static str> {
    COMMANDS.iter().map(|command| command.0).chain(SETTINGS.iter().map(|setting| setting.name))
}

/// The list of commands, with the settings' values.
pub fn help(conversation: &Conversation<'_>) -> String {
    let mut text = String::new();
    let mut line = |name: &str, argument: &str, about: &str| {
        let usage = format!("/{name} {argument}");
        // Writing to a string does not fail.
        let _ = writeln!(text, "{usage:24}{about}");
    };
    for (name, argument, about) in COMMANDS {
        line(name, argument, about);
    }
    for setting in &SETTINGS {
        let about = format!("{}; now {}", setting.about, (setting.get)(conversation));
        line(setting.name, setting.argument, &about);
    }
    text + "A message that begins with / is written with //.\n\
        Alt-Enter, or \\ at the end of a line, goes on in the next line of a message."
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_are_told_from_messages() {
        let message = |text: &'static str| Input::Message(text.into());
        for (entered, expected) in [
            ("  ", Input::Nothing),
            (" hello ", message("hello")),
            ("a /help", message("a /help")),
            ("//help", message("/help")),
            ("/etc\n/passwd", message("/etc\n/passwd")),
            (" /help\r\n", Input::Command(Command::Help)),
            ("exit", Input::Command(Command::Quit)),
            ("/save  my file ", Input::Command(Command::Save("my file".into()))),
            ("/load \"my file\"", Input::Command(Command::Load("my file".into()))),
            ("/save ~/f", Input::Command(Command::Save(std::env::home_dir().unwrap().join("f")))),
            ("/save '~/f'", Input::Command(Command::Save("~/f".into()))),
            ("/stats off", Input::Command(Command::Stats(Some(false)))),
            ("/top-k 3", Input::Command(Command::Setting(&SETTINGS[1], Some("3")))),
            ("/seed", Input::Command(Command::Setting(&SETTINGS[5], None))),
        ] {
            assert_eq!(parse(entered).unwrap(), expected, "{entered:?}");
        }
    }

    #[test]
    fn mistakes_are_explained() {
        for (entered, part) in [
            ("/temprature 1", "did you mean /temperature?"),
            ("/quti", "did you mean /quit?"),
            ("/shrug", "with //"),
            ("/", "with //"),
            ("/save", "the name of a file"),
            ("/load ''", "the name of a file"),
            ("/undo 2", "nothing after it"),
            ("/stats of", "`on` or `off`"),
        ] {
            let error = parse(entered).unwrap_err().to_string();
            assert!(error.contains(part), "{entered}: {error}");
        }
    }
}
