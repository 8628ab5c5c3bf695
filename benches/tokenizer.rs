//! Training and encoding next to HuggingFace `tokenizers`, on the same text in the same run.
//!
//! `tokenizers` gets the text line by line, as it does from files. It trains with as many threads as
//! `RAYON_NUM_THREADS` says, by default one a core; here that many are asked for too.

use std::hint::black_box;
use std::path::Path;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use shoestring::tokenizer::{Encoder, SPECIAL_TOKENS, Special, Tokenizer};
use tokenizers::decoders::byte_level::ByteLevel;
use tokenizers::models::TrainerWrapper;
use tokenizers::models::bpe::{BPE, BpeTrainer};
use tokenizers::{AddedToken, Tokenizer as Peer};

const VOCABULARY_SIZE: usize = 4096;

/// Lines of which both must make the same ids before they are timed.
const LINES_COMPARED: usize = 1000;

/// Bytes of text, of which peers make several copies.
const LENGTH: usize = 4 << 20;

/// The start of a corpus that may lie beside the repository, else made-up text; and its name.
fn corpus() -> (&'static str, String) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/data/prose_simple.txt");
    let (name, mut text) = match std::fs::read_to_string(path) {
        Ok(text) => ("prose_simple", text),
        Err(_) => ("generated", generated()),
    };
    let end = (0..=LENGTH.min(text.len())).rev().find(|&end| text.is_char_boundary(end));
    text.truncate(end.unwrap_or(0));
    (name, text)
}

/// Words of random syllables, low numbers far more often than high ones, as in language.
fn generated() -> String {
    let syllables = ["ka", "to", "ri", "me", "son", "lu", "the", "ing", "pre", "é", "o", "shi"];
    let mut random = 1u64;
    let mut text = String::new();
    while text.len() < LENGTH {
        random = random.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        let uniform = (random >> 33) as f64 / (1u64 << 31) as f64;
        let mut word = 30_000f64.powf(uniform) as usize;
        while word > 0 {
            text.push_str(syllables[word % syllables.len()]);
            word /= syllables.len();
        }
        text.push_str(if random >> 60 == 0 { ".\n" } else { " " });
    }
    text
}

fn train_peer(text: &str) -> Peer {
    let byte_level = ByteLevel::new(false, true, true);
    let mut peer = Peer::new(BPE::default());
    peer.with_pre_tokenizer(Some(byte_level)).with_decoder(Some(byte_level));
    let mut trainer: TrainerWrapper = BpeTrainer::builder()
        .vocab_size(VOCABULARY_SIZE)
        .show_progress(false)
        .special_tokens(SPECIAL_TOKENS.map(|token| AddedToken::from(token, true)).to_vec())
        .initial_alphabet(ByteLevel::alphabet().into_iter().collect())
        .build()
        .into();
    peer.train(&mut trainer, text.split_inclusive('\n')).expect("the peer trains");
    peer
}

fn training(criterion: &mut Criterion) {
    let (name, text) = corpus();
    let asked_for = std::env::var("RAYON_NUM_THREADS").ok().and_then(|number| number.parse().ok());
    let threads = asked_for.unwrap_or_else(|| std::thread::available_parallelism().map_or(1, usize::from));
    let train = || Tokenizer::train(&[text.as_bytes()], VOCABULARY_SIZE, threads).expect("the text trains");
    assert_eq!(train().view().vocabulary_size(), VOCABULARY_SIZE);
    assert_eq!(train_peer(&text).get_vocab_size(true), VOCABULARY_SIZE);
    let mut group = criterion.benchmark_group("tokenizer/train");
    group.sample_size(10).throughput(Throughput::Bytes(text.len() as u64));
    group.bench_function(format!("shoestring/{name}"), |bencher| {
        bencher.iter(train);
    });
    group.bench_function(format!("tokenizers/{name}"), |bencher| bencher.iter(|| train_peer(&text)));
}

fn encoding(criterion: &mut Criterion) {
    let (name, text) = corpus();
    let peer = train_peer(&text);
    let json = peer.to_string(false).expect("the peer writes JSON");
    let tokenizer = Tokenizer::from_json(&json).expect("its JSON is readable");
    let mut ids = Vec::new();
    for line in text.split_inclusive('\n').take(LINES_COMPARED) {
        ids.clear();
        Encoder::new(tokenizer.view()).encode(line.as_bytes(), Special::Match, &mut ids);
        assert_eq!(ids, peer.encode_fast(line, false).expect("the peer encodes").get_ids(), "{line}");
    }
    let mut group = criterion.benchmark_group("tokenizer/encode");
    group.sample_size(10).throughput(Throughput::Bytes(text.len() as u64));
    group.bench_function(format!("shoestring/{name}"), |bencher| {
        bencher.iter(|| {
            ids.clear();
            Encoder::new(tokenizer.view()).encode(text.as_bytes(), Special::Match, &mut ids);
            black_box(ids.len())
        });
    });
    group.bench_function(format!("tokenizers/{name}"), |bencher| {
        let count = |line| peer.encode_fast(line, false).expect("the peer encodes").len();
        bencher.iter(|| text.split_inclusive('\n').map(count).sum::<usize>());
    });
}

criterion_group!(benches, training, encoding);
criterion_main!(benches);
