//! `shoestring export` and `shoestring import`

use super::replace::{only_a_model, only_an_exported_model, refuse_overwriting};
use super::{Globals, open_model, tell};
use crate::model::Layout;
use crate::transfer;
use anyhow::{Result, bail};
use clap::Args;
use std::path::PathBuf;
use std::process::ExitCode;

#[derive(Args)]
#[command(after_help = "Examples:\n  shoestring export checkpoints/best.shoe exported\n  \
    shoestring export checkpoints/best.shoe exported --quiet")]
pub struct ExportArgs {
    /// Checkpoint to export
    checkpoint: PathBuf,
    /// Folder to write model.safetensors and tokenizer.json to
    folder: PathBuf,
}

#[derive(Args)]
#[command(after_help = "Examples:\n  shoestring import exported -o model.shoe\n  \
    shoestring import exported --output model.shoe --quiet")]
pub struct ImportArgs {
    /// Folder with model.safetensors and tokenizer.json
    folder: PathBuf,
    /// Checkpoint to write
    #[arg(long, short, value_name = "FILE")]
    output: PathBuf,
}

pub fn export(args: &ExportArgs, globals: Globals) -> Result<ExitCode> {
    let model = open_model(Some(&args.checkpoint), globals)?;
    model.checkpoint().verify()?;
    only_an_exported_model(&args.folder)?;
    transfer::export(&model, &args.folder)?;
    if !globals.quiet {
        tell!("Wrote model.safetensors and tokenizer.json to {}.", args.folder.display());
    }
    Ok(ExitCode::SUCCESS)
}

pub fn import(args: &ImportArgs, globals: Globals) -> Result<ExitCode> {
    if args.folder.is_file() {
        let folder = args.folder.display();
        bail!(
            "{folder} is a file; name the folder that holds {} and {}",
            transfer::WEIGHTS,
            transfer::TOKENIZER
        );
    }
    for input in [transfer::WEIGHTS, transfer::TOKENIZER] {
        refuse_overwriting(&args.folder.join(input), &args.output)?;
    }
    only_a_model(&args.output)?;
    let config = transfer::import(&args.folder, &args.output)?;
    if !globals.quiet {
        let parameters = Layout::new(&config).parameters();
        tell!("Wrote {} ({parameters} parameters).", args.output.display());
    }
    Ok(ExitCode::SUCCESS)
}
