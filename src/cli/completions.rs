//! `shoestring completions`

use anyhow::Result;
use clap::Args;
use clap_complete::Shell;
use std::io::{Write, stdout};
use std::process::ExitCode;

#[derive(Args)]
#[command(after_help = "Examples:\n  source <(shoestring completions bash)\n  \
    shoestring completions fish > ~/.config/fish/completions/shoestring.fish")]
pub struct CompletionsArgs {
    /// Shell that is to run the script
    #[arg(value_enum)]
    shell: Shell,
}

pub fn run(args: &CompletionsArgs, command: &mut clap::Command) -> Result<ExitCode> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, command, "shoestring", &mut script);
    let mut out = stdout().lock();
    out.write_all(&script)?;
    out.flush()?;
    Ok(ExitCode::SUCCESS)
}
