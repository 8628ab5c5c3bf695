//! `shoestring man`

use super::{Globals, tell};
use crate::checkpoint::atomic_write;
use crate::files::in_folder;
use anyhow::{Context, Result, anyhow};
use clap::Args;
use clap_mangen::Man;
use std::io::{self, Write, stdout};
use std::path::PathBuf;
use std::process::ExitCode;

#[derive(Args)]
#[command(after_help = "Examples:\n  shoestring man | man -l -\n  shoestring man ~/.local/share/man/man1")]
pub struct ManArgs {
    /// Folder to write a page of every subcommand to [default: print the page of the program]
    folder: Option<PathBuf>,
}

/// A manual page, in roff.
struct Page {
    file: String,
    text: Vec<u8>,
}

pub fn run(args: &ManArgs, command: clap::Command, globals: Globals) -> Result<ExitCode> {
    let mut command = command.disable_help_subcommand(true).version(env!("CARGO_PKG_VERSION"));
    command.build();
    let Some(folder) = &args.folder else {
        let mut out = stdout().lock();
        out.write_all(&page(command)?.text)?;
        out.flush()?;
        return Ok(ExitCode::SUCCESS);
    };
    let mut pages = Vec::new();
    pages_of(command, &mut pages)?;
    let no_folder =
        |error: io::Error| anyhow!(error).context(format!("cannot make the folder {}", folder.display()));
    in_folder(folder, no_folder, || {
        pages.iter().try_for_each(|Page { file, text }| {
            let path = folder.join(file);
            atomic_write(&path, &[text]).with_context(|| format!("cannot write {}", path.display()))
        })
    })?;
    if !globals.quiet {
        tell!("Wrote {} pages to {}.", pages.len(), folder.display());
    }
    Ok(ExitCode::SUCCESS)
}

fn pages_of(command: clap::Command, pages: &mut Vec<Page>) -> io::Result<()> {
    for subcommand in command.get_subcommands().filter(|it| !it.is_hide_set()) {
        pages_of(subcommand.clone(), pages)?;
    }
    pages.push(page(command)?);
    Ok(())
}

fn page(command: clap::Command) -> io::Result<Page> {
    let man = Man::new(command);
    let mut text = Vec::new();
    man.render(&mut text)?;
    // What ends a help text are its examples.
    let text = String::from_utf8_lossy(&text).replace(".SH EXTRA\nExamples:\n", ".SH EXAMPLES\n");
    Ok(Page { file: man.get_filename(), text: text.into_bytes() })
}
