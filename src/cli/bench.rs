//! `shoestring bench`

use super::{Globals, KernelSource, memory};
use crate::bench::{
    Decoding, Effort, Machine, Measured, Memory, Peaks, Training, decoding, shapes, training,
};
use crate::bundled;
use crate::checkpoint::Checkpoint;
use crate::cores;
use crate::model::{Kind, Model, ModelConfig};
use anyhow::{Context, Result};
use clap::Args;
use serde::{Serialize, Serializer};
use shoestring_kernels::Kernels;
use std::io::{self, Write, stdout};
use std::path::PathBuf;
use std::process::ExitCode;

#[derive(Args)]
#[command(after_help = "Examples:\n  shoestring bench\n  shoestring bench --kernel wide --quick\n  \
    shoestring bench --checkpoint model.shoe\n  \
    shoestring bench --json > bench.json\n\ndocs/benchmarks.md explains every line.")]
pub struct BenchArgs {
    /// Measure for about 10 seconds instead of 50, and training and decoding with the chosen kernels only
    #[arg(long)]
    quick: bool,
    /// Decode this model instead of the bundled one, on one thread and on all, and train none
    #[arg(long, value_name = "FILE")]
    checkpoint: Option<PathBuf>,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Report {
    version: &'static str,
    machine: Machine,
    memory_available: Option<u64>,
    caches_assumed: bool,
    available: Vec<Name>,
    chosen: &'static str,
    #[serde(serialize_with = "source_name")]
    chosen_by: KernelSource,
    model: Sizes,
    kernels: Vec<KernelReport>,
}

#[derive(Serialize)]
struct Name {
    name: &'static str,
    description: &'static str,
}

/// Sizes of the model that is trained and run.
#[derive(Serialize)]
struct Sizes {
    vocabulary: usize,
    embedding_dim: usize,
    gru_hidden_size: usize,
    gru_layers: usize,
    num_experts: usize,
    top_k: usize,
}

#[derive(Serialize)]
struct KernelReport {
    name: &'static str,
    peaks: Peaks,
    operations: Vec<Measured>,
    training: Vec<Training>,
    decoding: Vec<Decoding>,
}

pub fn run(args: &BenchArgs, globals: Globals) -> Result<ExitCode> {
    let forced = globals.kernel_source != KernelSource::Best;
    let sets = if forced { vec![globals.kernels] } else { Kernels::available().to_vec() };
    let effort = if args.quick { Effort::quick(sets.len()) } else { Effort::full(sets.len()) };
    let config = args.open_model()?.config();
    let machine = Machine::detect();
    let available = memory::available(0);
    let memory = Memory::new(&machine, available);
    let mut report = Report {
        version: super::version(),
        machine,
        memory_available: available,
        caches_assumed: memory.assumed,
        available: Kernels::available()
            .iter()
            .map(|kernels| Name { name: kernels.name(), description: kernels.description() })
            .collect(),
        chosen: globals.kernels.name(),
        chosen_by: globals.kernel_source,
        model: Sizes::of(&config),
        kernels: Vec::new(),
    };
    let mut out = stdout().lock();
    if !args.json {
        write_machine(&mut out, &report)?;
    }
    for kernels in sets {
        let mut measured = measure(kernels, &memory, effort);
        if !args.quick || kernels.name() == report.chosen {
            if args.checkpoint.is_none() {
                measured.train(kernels, effort)?;
            }
            let model = Model::new(args.open_model()?, kernels);
            measured.decode(&model, args.checkpoint.is_some(), effort);
        }
        if !args.json {
            write_kernels(&mut out, &measured, args.checkpoint.is_none())?;
        }
        report.kernels.push(measured);
    }
    if args.json {
        writeln!(out, "{}", serde_json::to_string_pretty(&report)?)?;
    }
    Ok(ExitCode::SUCCESS)
}

fn measure(kernels: &'static Kernels, memory: &Memory, effort: Effort) -> KernelReport {
    let peaks = Peaks::measure(kernels, memory, effort);
    let operations = shapes::of_default_model();
    let operations = operations.iter().map(|operation| operation.measure(kernels, &peaks, effort)).collect();
    KernelReport { name: kernels.name(), peaks, operations, training: Vec::new(), decoding: Vec::new() }
}

/// One thread, and all of them if there are more.
fn thread_counts() -> Vec<usize> {
    let mut threads = vec![1, cores()];
    threads.dedup();
    threads
}

impl BenchArgs {
    /// The model that is to be decoded.
    fn open_model(&self) -> Result<Checkpoint> {
        Ok(match &self.checkpoint {
            Some(path) => Checkpoint::open(path)?,
            None => bundled::model()?,
        })
    }
}

impl KernelReport {
    fn train(&mut self, kernels: &'static Kernels, effort: Effort) -> Result<()> {
        for threads in thread_counts() {
            let training = training(kernels, threads, &self.peaks, effort).context("cannot start threads")?;
            self.training.push(training);
        }
        Ok(())
    }

    /// Decodes with every kind of weights; on all threads too if they may be worth it.
    fn decode(&mut self, model: &Model, on_threads: bool, effort: Effort) {
        for threads in if on_threads { thread_counts() } else { vec![1] } {
            for kind in Kind::ALL {
                self.decoding.push(decoding(model, kind, threads, &self.peaks, effort));
            }
        }
    }
}

impl Sizes {
    fn of(config: &ModelConfig) -> Self {
        let ModelConfig { vocabulary, embedding, hidden, layers, experts, top_k, .. } = *config;
        Sizes {
            vocabulary,
            embedding_dim: embedding,
            gru_hidden_size: hidden,
            gru_layers: layers,
            num_experts: experts,
            top_k,
        }
    }
}

fn source_name<S: Serializer>(source: &KernelSource, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(source.name())
}

fn write_machine(out: &mut dyn Write, report: &Report) -> io::Result<()> {
    let machine = &report.machine;
    writeln!(out, "cpu       {}", machine.cpu.as_deref().unwrap_or("unknown"))?;
    let caches: Vec<String> = machine
        .caches
        .iter()
        .map(|cache| {
            let name = if cache.level == 1 { "L1d".to_owned() } else { format!("L{}", cache.level) };
            let shared = match cache.shared_by {
                1 => String::new(),
                threads => format!(" shared by {threads}"),
            };
            format!("{name} {}{shared}", binary_size(cache.bytes))
        })
        .collect();
    let unknown = "unknown; the sizes below are assumed".to_owned();
    writeln!(out, "caches    {}", if caches.is_empty() { unknown } else { caches.join(", ") })?;
    writeln!(
        out,
        "cores     {} with {} hardware threads, of which this process may use {}",
        machine.physical_cores, machine.logical_cores, machine.usable_cores
    )?;
    match report.memory_available {
        Some(bytes) => writeln!(out, "memory    {} free", memory::size(bytes))?,
        None => writeln!(out, "memory    unknown")?,
    }
    for (index, Name { name, description }) in report.available.iter().enumerate() {
        let heading = if index == 0 { "kernels" } else { "" };
        writeln!(out, "{heading:8}  {name:11} {description}")?;
    }
    match report.chosen_by {
        KernelSource::Best => writeln!(out, "chosen    {}, the best this CPU has", report.chosen),
        by => writeln!(out, "chosen    {}, by {}", report.chosen, by.name()),
    }
}

fn write_kernels(out: &mut dyn Write, report: &KernelReport, bundled: bool) -> io::Result<()> {
    let peaks = &report.peaks;
    writeln!(out, "\n{}, peaks of one core", report.name)?;
    let line = |out: &mut dyn Write, what: &str, of: &str, value: f64, unit: &str, note: &str| {
        let line = format!("  {what:16}{of:22}{:>10} {unit:10}{note}", significant(value));
        writeln!(out, "{}", line.trim_end())
    };
    line(out, "multiply-add", "", peaks.gflops, "GFLOP/s", "")?;
    for read in &peaks.reads {
        let of = format!("{}, {}", read.level, binary_size(read.bytes));
        line(out, "read", &of, read.gb_per_s, "GB/s", "")?;
    }
    writeln!(out, "{}, operations of the default model on one core", report.name)?;
    for measured in &report.operations {
        let Measured { operation, shape, gflops, gb_per_s, elements_per_ns, peak, share, .. } = measured;
        let rates = [(gflops, "GFLOP/s"), (gb_per_s, "GB/s"), (elements_per_ns, "per ns")];
        let rate = rates.into_iter().find_map(|(rate, unit)| Some(((*rate)?, unit)));
        if let Some((rate, unit)) = rate {
            line(out, operation, shape, rate, unit, &of_peak(*peak, *share))?;
        }
    }
    if !report.decoding.is_empty() {
        writeln!(out, "{}, the {} model", report.name, if bundled { "default" } else { "given" })?;
    }
    for Training { threads, tokens_per_second, share, .. } in &report.training {
        let note = of_peak(Some("multiply-add"), Some(*share));
        line(out, "training", &count(*threads), *tokens_per_second, "tokens/s", &note)?;
    }
    for Decoding { weights, threads, tokens_per_second, peak, share, .. } in &report.decoding {
        let of = format!("{weights}, {}", count(*threads));
        line(out, "decoding", &of, *tokens_per_second, "tokens/s", &of_peak(*peak, *share))?;
    }
    let on_one_thread = || report.decoding.iter().filter(|decoding| decoding.threads == 1);
    for Decoding { weights, layers_us, head_us, sampling_us, .. } in on_one_thread() {
        let us = |value: f64| format!("{value:.2}");
        let (layers, head, sampling) = (us(*layers_us), us(*head_us), us(*sampling_us));
        writeln!(out, "    {weights}: {layers} us a token in the layers, {head} head, {sampling} sampling")?;
    }
    for decoding in on_one_thread() {
        let rates = [
            (format!("{}, 1 thread", decoding.weights), decoding.prompt_tokens_per_second),
            (format!("{}, long prompt", decoding.weights), decoding.long_prompt_tokens_per_second),
        ];
        for (of, tokens_per_second) in rates {
            let note = format!("{:.1} times decoding", tokens_per_second / decoding.tokens_per_second);
            line(out, "reading", &of, tokens_per_second, "tokens/s", &note)?;
        }
    }
    out.flush()
}

fn count(threads: usize) -> String {
    format!("{threads} thread{}", if threads == 1 { "" } else { "s" })
}

/// Such as `86 % multiply-add`.
fn of_peak(peak: Option<&str>, share: Option<f64>) -> String {
    match (peak, share) {
        (Some(peak), Some(share)) => format!("{:3.0} % {peak}", 100.0 * share),
        _ => String::new(),
    }
}

/// Three digits, or all that stand before the point.
fn significant(value: f64) -> String {
    let decimals = (2.0 - value.abs().max(1e-9).log10().floor()).clamp(0.0, 3.0);
    format!("{value:.0$}", decimals as usize)
}

fn binary_size(bytes: usize) -> String {
    match bytes {
        _ if bytes.is_multiple_of(1 << 20) => format!("{} MiB", bytes >> 20),
        _ => format!("{} KiB", bytes >> 10),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_three_digits() {
        let cases =
            [(253_123.4, "253123"), (253.4, "253"), (99.96, "100.0"), (25.34, "25.3"), (0.5, "0.500")];
        for (value, text) in cases {
            assert_eq!(significant(value), text);
        }
        assert_eq!([24 << 10, 1 << 20, 75 << 19].map(binary_size), ["24 KiB", "1 MiB", "38400 KiB"]);
    }
}
