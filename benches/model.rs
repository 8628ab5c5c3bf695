//! Training steps and decoding at the default sizes, on every available kernel.
//!
//! Ids are `kernel/op/shape`. Each is verified before it is timed: training by its loss against the
//! scalar kernels', decoding by its logits.

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use shoestring::bench::DEFAULT_MODEL as CONFIG;
use shoestring::kernels::{Kernels, Line};
use shoestring::model::{Layout, Session, Weights};
use shoestring::sample::{Sampler, Sampling};
use shoestring::tokenizer::{Tokenizer, TokenizerView};
use shoestring::train::{Trainer, Update, initialise};
use std::sync::LazyLock;

const BATCH: usize = 16;
const STEPS: usize = 80;

static LAYOUT: LazyLock<Layout> = LazyLock::new(|| Layout::new(&CONFIG));
static WEIGHTS: LazyLock<Vec<Line>> = LazyLock::new(|| initialise(&LAYOUT, 1));
static TOKENIZER: LazyLock<Tokenizer> = LazyLock::new(|| {
    Tokenizer::train(&[shoestring::bundled::CORPUS], CONFIG.vocabulary, 2).expect("the corpus trains")
});

fn tokens() -> (Vec<u32>, Vec<u32>) {
    let token = |i: usize| (i * i % 839 % CONFIG.vocabulary) as u32;
    ((0..BATCH * STEPS).map(token).collect(), (1..=BATCH * STEPS).map(token).collect())
}

fn trainer(kernels: &'static Kernels, threads: usize) -> Trainer {
    Trainer::new(CONFIG, kernels, WEIGHTS.clone(), (BATCH, STEPS), threads).expect("threads start")
}

fn session(kernels: &'static Kernels) -> Session<'static> {
    let weights = Weights { config: CONFIG, layout: &LAYOUT, lines: &WEIGHTS };
    let view: TokenizerView<'static> = TOKENIZER.view();
    Session::new(weights, view, kernels)
}

fn scalar() -> &'static Kernels {
    Kernels::select("scalar").expect("scalar kernels run everywhere")
}

fn training(criterion: &mut Criterion) {
    let (tokens, targets) = tokens();
    let gradient = |kernels, threads| {
        let mut trainer = trainer(kernels, threads);
        let loss = trainer.gradient(&tokens, &targets, STEPS, None);
        (loss, trainer.last_gradient().iter().flat_map(|line| line.0).collect::<Vec<f32>>())
    };
    let expected = gradient(scalar(), 2);
    let largest = expected.1.iter().fold(0.0_f32, |largest, x| largest.max(x.abs()));
    let update = Update {
        step: 1,
        learning_rate: 1e-3,
        beta1: 0.9,
        beta2: 0.99,
        eps: 1e-8,
        weight_decay: 0.05,
        clip: 1.0,
    };
    for kernels in Kernels::available() {
        for threads in [1, 2] {
            let (loss, slopes) = gradient(kernels, threads);
            assert!(
                (loss - expected.0).abs() < 1e-5,
                "{}: loss {loss} instead of {}",
                kernels.name(),
                expected.0
            );
            let is_close = |(a, b): (&f32, &f32)| (a - b).abs() < 1e-4 * largest;
            assert!(slopes.iter().zip(&expected.1).all(is_close), "{}: the gradient is off", kernels.name());
            let mut trainer = trainer(kernels, threads);
            let mut group = criterion.benchmark_group(format!("{}/train", kernels.name()));
            group.throughput(Throughput::Elements((BATCH * STEPS) as u64)).sample_size(10);
            group.bench_function(format!("default-{threads}-threads"), |bencher| {
                bencher.iter(|| trainer.step((&tokens, &targets), STEPS, update, None));
            });
        }
    }
}

fn decoding(criterion: &mut Criterion) {
    let (prompt, _) = tokens();
    let logits = |kernels| {
        let mut session = session(kernels);
        session.feed_tokens(&prompt[..50]);
        session.logits().to_vec()
    };
    let expected = logits(scalar());
    for kernels in Kernels::available() {
        let is_close = |(a, b): (&f32, &f32)| (a - b).abs() < 1e-4;
        assert!(logits(kernels).iter().zip(&expected).all(is_close), "{}: logits are off", kernels.name());
        let (mut session, mut sampler) = (session(kernels), Sampler::new(Sampling::default()));
        session.feed_tokens(&prompt[..50]);
        let mut group = criterion.benchmark_group(format!("{}/decode", kernels.name()));
        group.throughput(Throughput::Elements(1));
        group.bench_function("default-f32", |bencher| bencher.iter(|| session.next_token(&mut sampler)));
    }
}

criterion_group!(benches, training, decoding);
criterion_main!(benches);
