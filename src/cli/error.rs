//! What a user reads of an error.

use clap::error::{ContextKind, ContextValue};
use std::ffi::OsString;
use std::io::{self, ErrorKind};
use thiserror::Error;

/// A wrong use of flags that only shows once files have been read; exits with code 2.
#[derive(Debug, Error)]
#[error("{0}")]
pub struct UsageError(pub String);

/// The error and its causes, but for those that its own message ends with, and what to do about it.
pub fn describe(error: &anyhow::Error) -> String {
    let mut message = String::new();
    // What is read or written is a file whose name goes with the error, but for what a command prints.
    if error.chain().next().is_some_and(|outermost| outermost.is::<io::Error>()) {
        message.push_str("cannot write to standard output");
    }
    for cause in error.chain().map(ToString::to_string) {
        if message.is_empty() {
            message = cause;
        } else if !message.ends_with(&cause) {
            message = format!("{message}: {cause}");
        }
    }
    // A message that says it itself has it after a semicolon.
    match io_errors(error).find_map(|cause| advice(cause.kind())) {
        Some(advice) if !message.contains("; ") => format!("{message}; {advice}"),
        _ => message,
    }
}

/// For a word where only flags stand, as in `train book.txt`: the flag that it was meant for, by subcommand of `program`.
pub fn naming_the_flag(
    mut error: clap::Error,
    program: &clap::Command,
    arguments: &[OsString],
) -> clap::Error {
    let word = match error.get(ContextKind::InvalidArg) {
        Some(ContextValue::String(word)) if !word.starts_with('-') => word,
        _ => return error,
    };
    let subcommand = arguments.iter().find_map(|argument| program.find_subcommand(argument));
    let tip = subcommand.and_then(|subcommand| match subcommand.get_name() {
        "train" => Some(format!("the text to train on goes with a flag: '--model-data {word}'")),
        "chat" => Some(format!("the model to chat with goes with a flag: '--checkpoint {word}'")),
        "generate" => {
            Some("a prompt and a model go with flags: '--prompt TEXT', '--checkpoint FILE'".to_owned())
        }
        "eval" => Some("a model and a text go with flags: '--checkpoint FILE', '--data FILE'".to_owned()),
        _ => None,
    });
    if let (clap::error::ErrorKind::UnknownArgument, Some(tip)) = (error.kind(), tip) {
        error.insert(ContextKind::Suggested, ContextValue::StyledStrs(vec![tip.into()]));
    }
    error
}

/// Whether whoever read the program's output has gone.
pub fn is_broken_pipe(error: &anyhow::Error) -> bool {
    io_errors(error).any(|cause| cause.kind() == ErrorKind::BrokenPipe)
}

fn io_errors(error: &anyhow::Error) -> impl Iterator<Item = &io::Error> {
    error.chain().filter_map(|cause| cause.downcast_ref())
}

fn advice(kind: ErrorKind) -> Option<&'static str> {
    match kind {
        ErrorKind::NotFound => Some("is the path right?"),
        ErrorKind::PermissionDenied => Some("ask for the permission, or choose another place"),
        ErrorKind::ReadOnlyFilesystem => Some("choose another place"),
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => Some("make room there, or choose another place"),
        ErrorKind::FileTooLarge => {
            Some("raise the limit on a file's size (ulimit -f), or choose another place")
        }
        ErrorKind::IsADirectory => Some("name a file, not a folder"),
        ErrorKind::NotADirectory => Some("a part of the path is a file, not a folder"),
        // Files are replaced; only a folder can't be made where there is something else.
        ErrorKind::AlreadyExists => Some("name a folder, not a file"),
        ErrorKind::InvalidData => Some("is it the right file?"),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::Context;

    fn error(kind: ErrorKind) -> io::Error {
        io::Error::new(kind, "the cause")
    }

    #[test]
    fn an_error_says_what_to_do() {
        let read = Err::<(), _>(error(ErrorKind::NotFound)).context("cannot read a.txt").unwrap_err();
        assert_eq!(describe(&read), "cannot read a.txt: the cause; is the path right?");
        let advised = Err::<(), _>(error(ErrorKind::NotFound)).context("cannot read a.txt; name another");
        assert_eq!(describe(&advised.unwrap_err()), "cannot read a.txt; name another: the cause");
        let printed = error(ErrorKind::StorageFull).into();
        assert_eq!(
            describe(&printed),
            "cannot write to standard output: the cause; make room there, or choose another place"
        );
        assert_eq!(describe(&UsageError("k is 0".to_owned()).into()), "k is 0");
    }
}
