//! Where the time of a training step goes: every call of a kernel, timed by operation and shape.
//!
//!     cargo bench --bench step                      with one thread, and with one on each core
//!     cargo bench --bench step -- --kernel avx2
//!
//! Products are compared with the peak of multiply-adds, the rest with reading from the level of memory that
//! holds what a step of the whole model goes through.

#[path = "../kernels/examples/plugged/timed.rs"]
mod timed;

use shoestring::bench::{DEFAULT_MODEL, Effort, Machine, Memory, Peaks};
use shoestring::checkpoint::Recipe;
use shoestring::kernels::Kernels;
use shoestring::model::Layout;
use shoestring::train::{Dropout, Trainer, Update, default_recipe, initialise};
use std::time::{Duration, Instant};

/// Steps that are timed.
const STEPS: u32 = 60;
/// Steps before, in which memory is touched for the first time.
const WARM_UP: u32 = 10;

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    // As `cargo bench -- --test` asks for: only to see that it runs.
    let steps = if arguments.iter().any(|argument| argument == "--test") { 1 } else { STEPS };
    let name = arguments.iter().position(|argument| argument == "--kernel").map(|at| &arguments[at + 1]);
    let kernels = name.map_or(Kernels::best(), |name| Kernels::select(name).expect("a kernel of this CPU"));
    let machine = Machine::detect();
    let memory = Memory::new(&machine, None);
    let peaks = Peaks::measure(kernels, &memory, Effort::quick(1));
    drop(memory);
    println!(
        "{}, {}, {:.0} GFLOP/s a core",
        machine.cpu.as_deref().unwrap_or("unknown"),
        kernels.name(),
        peaks.gflops
    );
    for threads in [1, 2] {
        profile(kernels, threads, steps, &peaks);
    }
}

/// Prints the time of a step on `threads` threads, and of the kernels in it.
fn profile(kernels: &'static Kernels, threads: usize, steps: u32, peaks: &Peaks) {
    let plain = step_time(kernels, threads, steps);
    let timed = step_time(timed::timing(kernels), threads, steps);
    let calls = timed::take();
    let all = plain.as_secs_f64() * threads as f64;
    let recipe = default_recipe();
    let rate = (recipe.batch_size * recipe.seq_length) as f64 / plain.as_secs_f64();
    println!(
        "\n{threads} threads: {:.0} us a step, {rate:.0} tokens/s ({:.0} us with the timing)",
        us(plain),
        us(timed)
    );
    println!("  {:18} {:26} {:>6} {:>8} {:>6}", "operation", "shape", "calls", "us", "share");
    let mut calls: Vec<_> = calls.into_iter().collect();
    calls.sort_by_key(|(_, calls)| std::cmp::Reverse(calls.time));
    let mut covered = 0.0;
    for ((operation, shape), calls) in calls {
        let each = 1.0 / f64::from(steps + WARM_UP);
        let seconds = calls.time.as_secs_f64() * each;
        covered += seconds;
        let rate = if calls.flops > 0 {
            let gflops = calls.flops as f64 * each / seconds / 1e9;
            format!("{gflops:5.0} GFLOP/s {:3.0} %", 100.0 * gflops / peaks.gflops)
        } else {
            format!("{:5.1} GB/s", calls.bytes as f64 * each / seconds / 1e9)
        };
        let (count, share) = (calls.count as f64 * each, 100.0 * seconds / all);
        println!("  {operation:18} {shape:26} {count:6.0} {:8.0} {share:5.1} %  {rate}", 1e6 * seconds);
    }
    let rest = 100.0 * (1.0 - covered / all);
    println!("  {:18} {:26} {:6} {:8.0} {rest:5.1} %", "between kernels", "", "", 1e6 * (all - covered));
}

fn us(time: Duration) -> f64 {
    1e6 * time.as_secs_f64()
}

/// The mean time of a step of the default model and recipe on random tokens.
fn step_time(kernels: &'static Kernels, threads: usize, steps: u32) -> Duration {
    let recipe = default_recipe();
    let Recipe { batch_size, seq_length, beta1, beta2, .. } = recipe;
    let weights = initialise(&Layout::new(&DEFAULT_MODEL), recipe.seed);
    let mut trainer = Trainer::new(DEFAULT_MODEL, kernels, weights, (batch_size, seq_length), threads)
        .expect("threads start");
    let token = |i: usize| (i * i % 839 % DEFAULT_MODEL.vocabulary) as u32;
    let tokens: Vec<u32> = (0..batch_size * seq_length).map(token).collect();
    let targets: Vec<u32> = (1..=batch_size * seq_length).map(token).collect();
    let mut start = Instant::now();
    for step in 0..WARM_UP + steps {
        if step == WARM_UP {
            start = Instant::now();
        }
        let update = Update {
            step: u64::from(step) + 1,
            learning_rate: recipe.lr / recipe.warmup_steps as f32,
            beta1,
            beta2,
            eps: recipe.eps_adamw,
            weight_decay: recipe.wd,
            clip: recipe.grad_clip,
        };
        let dropout = Dropout { probability: recipe.dropout, key: u64::from(step) };
        assert!(trainer.step((&tokens, &targets), seq_length, update, Some(dropout)).updated);
    }
    start.elapsed() / steps
}
