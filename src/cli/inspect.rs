//! `shoestring inspect`

use super::printable::{Printer, printable};
use super::{config, counted};
use crate::checkpoint::{Checkpoint, Recipe, Record, RunLength, Validation};
use crate::model::{Layout, ModelConfig};
use crate::train::Size;
use anyhow::Result;
use clap::Args;
use serde_json::{Value, json};
use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;

#[derive(Args)]
#[command(after_help = "Examples:\n  shoestring inspect checkpoints/best.shoe\n  \
    shoestring inspect checkpoints/best.shoe --config > run.toml")]
pub struct InspectArgs {
    /// Checkpoint to look into
    checkpoint: PathBuf,
    /// Compare the whole file with its checksum
    #[arg(long)]
    verify: bool,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
    /// Print what the model was trained with, as a file for `train --config`
    #[arg(long, conflicts_with = "json")]
    config: bool,
}

pub fn run(args: &InspectArgs) -> Result<ExitCode> {
    let checkpoint = Checkpoint::open(&args.checkpoint)?;
    if args.verify {
        checkpoint.verify()?;
    }
    let mut out = Printer::new();
    if args.config {
        config::write(&mut out, &checkpoint)?;
    } else if args.json {
        writeln!(out, "{}", serde_json::to_string_pretty(&as_json(&checkpoint, args.verify))?)?;
    } else {
        let mut text = Vec::new();
        write_text(&mut text, &checkpoint, args.verify)?;
        // For people, wherever it goes first; and a file from elsewhere can have anything for names.
        out.write_all(printable(&String::from_utf8_lossy(&text)).as_bytes())?;
    }
    out.flush()?;
    Ok(ExitCode::SUCCESS)
}

fn write_text(out: &mut dyn Write, checkpoint: &Checkpoint, verified: bool) -> io::Result<()> {
    let config = checkpoint.config();
    let layout = Layout::of_kind(&config, checkpoint.kind());
    let record = checkpoint.record();
    let ModelConfig { vocabulary, embedding, hidden, layers, experts, top_k, tied, eps_rmsnorm } = config;
    let resumable = if checkpoint.is_resumable() { ", resumable" } else { ", model only" };
    let verified = if verified { ", checksum verified" } else { "" };
    writeln!(out, "{}", checkpoint.path().display())?;
    writeln!(
        out,
        "  file        {} bytes, {}{resumable}{verified}",
        checkpoint.file_length(),
        checkpoint.kind().name()
    )?;
    writeln!(
        out,
        "  model       {}{} parameters: vocabulary {vocabulary}, embedding {embedding}, {layers} layers,",
        Size::of(&config).map(|size| format!("{}, ", size.name())).unwrap_or_default(),
        layout.parameters()
    )?;
    writeln!(
        out,
        "              {experts} experts ({top_k} active) of width {hidden}, head {}, eps {eps_rmsnorm:e}",
        if tied { "tied" } else { "its own" }
    )?;
    let view = checkpoint.tokenizer();
    writeln!(out, "  tokenizer   {} tokens, {} merges", view.vocabulary_size(), view.merges().len())?;
    write_record(out, &record)?;
    for (layer, load) in record.expert_load.chunks(experts).enumerate() {
        let load: Vec<String> = load.iter().map(|share| format!("{share:.3}")).collect();
        writeln!(out, "  load        layer {layer}: {} of the tokens by expert", load.join(" "))?;
    }
    writeln!(out, "  tensors")?;
    for tensor in &layout.tensors {
        let shape = format!("{:?}", tensor.shape);
        let encoding = tensor.encoding.name();
        writeln!(out, "    {:32} {shape:16} {:>8}  {encoding}", tensor.name, tensor.elements())?;
    }
    Ok(())
}

fn write_record(out: &mut dyn Write, record: &Record) -> io::Result<()> {
    let Record { version, kernel, dialogue, step, epoch, tokens, seconds, loss, .. } = record;
    let text = if *dialogue { "dialogue" } else { "plain text" };
    writeln!(out, "  written by  shoestring {version}; trained on {text}")?;
    let Some(recipe) = &record.recipe else {
        return writeln!(out, "  training    none: the model was imported");
    };
    writeln!(
        out,
        "  training    {}, {}, {tokens} tokens in {seconds:.0} s, kernels {kernel}, loss {loss:.4} nats/token",
        counted(step, "step"),
        counted(epoch, "epoch"),
    )?;
    write_recipe(out, recipe)?;
    for validation in &record.validations {
        let Validation { step, nats_per_token, nats_per_char, bits_per_byte } = validation;
        writeln!(
            out,
            "  validation  step {step}: {nats_per_token:.4} nats/token, {nats_per_char:.4} nats/char, {bits_per_byte:.4} bits/byte"
        )?;
    }
    Ok(())
}

fn write_recipe(out: &mut dyn Write, recipe: &Recipe) -> io::Result<()> {
    let Recipe { name, batch_size, seq_length, lr, warmup_steps, final_lr, beta1, beta2, .. } = recipe;
    let Recipe { eps_adamw, wd, grad_clip, dropout, seed, .. } = recipe;
    let length = match recipe.length {
        RunLength::Epochs(epochs) => counted(epochs, "epoch"),
        RunLength::Minutes(minutes) => format!("{minutes} minutes"),
        RunLength::Steps(steps) => counted(steps, "step"),
    };
    writeln!(
        out,
        "  recipe      {name}: {length}, batch {batch_size} x {seq_length}, lr {lr} ({warmup_steps} steps of warm-up, down to {final_lr} of it),"
    )?;
    writeln!(
        out,
        "              betas {beta1} {beta2}, eps {eps_adamw:e}, wd {wd}, clip {grad_clip}, dropout {dropout}, seed {seed}"
    )
}

fn as_json(checkpoint: &Checkpoint, verified: bool) -> Value {
    let config = checkpoint.config();
    let layout = Layout::of_kind(&config, checkpoint.kind());
    let record = checkpoint.record();
    let view = checkpoint.tokenizer();
    json!({
        "file": checkpoint.path().display().to_string(),
        "bytes": checkpoint.file_length(),
        "kind": checkpoint.kind().name(),
        "resumable": checkpoint.is_resumable(),
        "checksum_verified": verified,
        "parameters": layout.parameters(),
        "size": Size::of(&config).map(Size::name),
        "config": {
            "vocabulary": config.vocabulary,
            "embedding_dim": config.embedding,
            "gru_hidden_size": config.hidden,
            "gru_layers": config.layers,
            "num_experts": config.experts,
            "top_k": config.top_k,
            "tied": config.tied,
            "eps_rmsnorm": shortest(config.eps_rmsnorm),
        },
        "tokenizer": { "tokens": view.vocabulary_size(), "merges": view.merges().len() },
        "version": record.version,
        "kernel": record.kernel,
        "dialogue": record.dialogue,
        "step": record.step,
        "epoch": record.epoch,
        "tokens": record.tokens,
        "seconds": record.seconds,
        "loss": record.loss,
        "expert_load": (!record.expert_load.is_empty()).then(|| {
            let layers = record.expert_load.chunks(config.experts);
            layers.map(|layer| layer.iter().copied().map(shortest).collect()).collect::<Vec<Vec<f64>>>()
        }),
        "validations": record.validations.iter().map(|v| json!({
            "step": v.step,
            "nats_per_token": v.nats_per_token,
            "nats_per_char": v.nats_per_char,
            "bits_per_byte": v.bits_per_byte,
        })).collect::<Vec<_>>(),
        "recipe": record.recipe.as_ref().map(recipe_json),
        "tensors": layout.tensors.iter().map(|t| json!({ "name": t.name, "shape": t.shape })).collect::<Vec<_>>(),
    })
}

fn recipe_json(recipe: &Recipe) -> Value {
    let (length, unit) = match recipe.length {
        RunLength::Epochs(epochs) => (f64::from(epochs), "epochs"),
        RunLength::Minutes(minutes) => (minutes, "minutes"),
        RunLength::Steps(steps) => (steps as f64, "steps"),
    };
    json!({
        "name": recipe.name,
        "length": length,
        "length_unit": unit,
        "batch_size": recipe.batch_size,
        "seq_length": recipe.seq_length,
        "lr": shortest(recipe.lr),
        "warmup_steps": recipe.warmup_steps,
        "final_lr": shortest(recipe.final_lr),
        "beta1": shortest(recipe.beta1),
        "beta2": shortest(recipe.beta2),
        "eps_adamw": shortest(recipe.eps_adamw),
        "wd": shortest(recipe.wd),
        "grad_clip": shortest(recipe.grad_clip),
        "dropout": shortest(recipe.dropout),
        "seed": recipe.seed,
    })
}

/// The number as a person would write it: 0.003, not the f64 nearest to the f32 nearest to 0.003.
fn shortest(value: f32) -> f64 {
    value.to_string().parse().unwrap_or(f64::from(value))
}
