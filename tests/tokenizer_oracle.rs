//! The tokenizer against its oracle, the `tokenizers` crate: same vocabulary, merges, ids and encodings.

mod common;

use proptest::prelude::*;
use shoestring::tokenizer::{SPECIAL_TOKENS, Special, Tokenizer};
use tokenizers::decoders::byte_level::ByteLevel;
use tokenizers::models::TrainerWrapper;
use tokenizers::models::bpe::{BPE, BpeTrainer};
use tokenizers::{
    AddedToken, DecoderWrapper, ModelWrapper, NormalizerWrapper, PostProcessorWrapper, PreTokenizerWrapper,
    TokenizerBuilder, TokenizerImpl,
};

type Oracle =
    TokenizerImpl<ModelWrapper, NormalizerWrapper, PreTokenizerWrapper, PostProcessorWrapper, DecoderWrapper>;

/// Text that has what goes wrong: joined emoji, combining marks, line ends, runs of white space, NUL, scripts
/// from right to left, digits of other scripts, white space beyond ASCII, contractions, special tokens.
const NASTY: &[&str] = &[
    "👩‍👩‍👧‍👦 👍🏽👍🏽 🇫🇮🇫🇮",
    "e\u{301}e\u{301} नमस्ते n\u{303}",
    "one\r\ntwo\r\n\r\n\r\nthree\n\n\nfour\r",
    "\t\ttabs\t and    spaces   ",
    "nul\0nul\0\0 \u{7f}\u{85}next",
    "שלום עולם مرحبا بالعالم",
    "٣٤٥ ४५६ Ⅷ ½ ² ೬೭",
    "a\u{a0}b\u{3000}\u{3000}c\u{2028}d\u{200b}e \u{feff}f",
    "it's we'll I'm they've he'd 's 'S can't''ll '",
    "[USER]hi [BOT] there[EOS]\n[PAD][UNK][user] [[EOS]] [EOS",
    "-----=====-----____.....!!!!!!??? ..",
    "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
    "日本語のテキスト。漢字かな交じり文、",
    "İıſßﬁǅʰªº𝔘𝟘",
    "",
    " ",
    "\n",
];

fn train_oracle(texts: &[&str], vocabulary_size: usize) -> Oracle {
    let byte_level = ByteLevel::new(false, true, true);
    let mut oracle: Oracle = TokenizerBuilder::new()
        .with_model(BPE::default().into())
        .with_normalizer(None)
        .with_pre_tokenizer(Some(byte_level.into()))
        .with_post_processor(None)
        .with_decoder(Some(byte_level.into()))
        .build()
        .unwrap();
    let mut trainer: TrainerWrapper = BpeTrainer::builder()
        .vocab_size(vocabulary_size)
        .min_frequency(0)
        .show_progress(false)
        .special_tokens(SPECIAL_TOKENS.map(|token| AddedToken::from(token, true)).to_vec())
        .initial_alphabet(ByteLevel::alphabet().into_iter().collect())
        .build()
        .into();
    oracle.train(&mut trainer, texts.iter()).unwrap();
    oracle
}

fn oracle_from_json(json: &str) -> Oracle {
    json.parse().unwrap()
}

fn encode(tokenizer: &Tokenizer, text: &str) -> Vec<u32> {
    let mut ids = Vec::new();
    tokenizer.view().encode(text.as_bytes(), Special::Match, &mut ids);
    ids
}

/// Asserts that `oracle` and `tokenizer` give `text` the same ids, and that it comes back from them.
fn assert_same_ids(oracle: &Oracle, tokenizer: &Tokenizer, text: &str) {
    let ids = encode(tokenizer, text);
    let expected = oracle.encode_fast(text, false).unwrap();
    if ids != expected.get_ids() {
        let at = ids.iter().zip(expected.get_ids()).take_while(|(a, b)| a == b).count();
        panic!(
            "ids differ from place {at}: {:?}, expected {:?}",
            &ids[at..ids.len().min(at + 9)],
            &expected.get_ids()[at..expected.len().min(at + 9)]
        );
    }
    let mut bytes = Vec::new();
    tokenizer.view().decode(&ids, &mut bytes).unwrap();
    assert!(bytes == text.as_bytes(), "the text did not come back");
}

/// Trains both on `texts`, and asserts that they write the same `tokenizer.json`.
fn train_both(texts: &[&str], vocabulary_size: usize) -> (Oracle, Tokenizer) {
    let oracle = train_oracle(texts, vocabulary_size);
    let bytes: Vec<_> = texts.iter().map(|text| text.as_bytes()).collect();
    let tokenizer = Tokenizer::train(&bytes, vocabulary_size, 2).unwrap();
    assert_same_json(&oracle.to_string(false).unwrap(), &tokenizer.to_json());
    assert_eq!(Tokenizer::from_json(&tokenizer.to_json()).unwrap(), tokenizer);
    (oracle, tokenizer)
}

/// The same, and asserts that both encode `texts` and [`NASTY`] the same.
fn assert_same_training(texts: &[&str], vocabulary_size: usize) {
    let (oracle, tokenizer) = train_both(texts, vocabulary_size);
    for text in texts.iter().chain(NASTY) {
        assert_same_ids(&oracle, &tokenizer, text);
    }
}

fn assert_same_json(expected: &str, found: &str) {
    let at = expected.bytes().zip(found.bytes()).take_while(|(a, b)| a == b).count();
    let around = |json: &str| {
        String::from_utf8_lossy(&json.as_bytes()[at.saturating_sub(60)..json.len().min(at + 60)]).into_owned()
    };
    assert!(expected == found, "JSON differs at {at}: {}\nexpected: {}", around(found), around(expected));
}

#[test]
fn nasty_text_trains_and_encodes_the_same() {
    for size in [261, 262, 300, 1000] {
        assert_same_training(NASTY, size);
        assert_same_training(&[&NASTY.join("\n")], size);
        assert_same_training(&[&NASTY.join(" ").repeat(3)], size);
    }
}

#[test]
fn shared_text_trains_and_encodes_the_same() {
    for (path, size) in [
        ("data/dialog_small.txt", 850),
        ("data/tinyshakespeare.txt", 850),
        ("data/tinyshakespeare.txt", 4096),
    ] {
        if let Some(path) = common::shared(path) {
            assert_same_training(&[&std::fs::read_to_string(path).unwrap()], size);
        }
    }
}

#[test]
fn shared_prose_trains_and_encodes_the_same() {
    if let Some(path) = common::shared("data/prose_simple.txt") {
        let text = std::fs::read_to_string(path).unwrap();
        let (oracle, tokenizer) = train_both(&[&text], 4096);
        // The oracle takes seconds to encode all of it.
        let end = (1 << 20..).find(|&end| text.is_char_boundary(end)).unwrap();
        assert_same_ids(&oracle, &tokenizer, &text[..end]);
    }
}

#[test]
fn the_oracle_reads_what_we_write() {
    let text = NASTY.join("\n").repeat(2);
    let tokenizer = Tokenizer::train(&[text.as_bytes()], 600, 1).unwrap();
    let oracle = oracle_from_json(&tokenizer.to_json());
    for text in NASTY {
        assert_same_ids(&oracle, &tokenizer, text);
    }
}

#[test]
fn we_read_what_the_oracle_writes() {
    let text = NASTY.join("\n").repeat(2);
    let oracle = train_oracle(&[&text], 600);
    let indented = oracle.to_string(true).unwrap();
    let tokenizer = Tokenizer::from_json(&indented).unwrap();
    assert_eq!(tokenizer, Tokenizer::train(&[text.as_bytes()], 600, 1).unwrap());
    let pairs = regex::Regex::new(r#"\[\s*("(?:[^"\\]|\\.)*"),\s*("(?:[^"\\]|\\.)*")\s*\]"#).unwrap();
    let old_spelling = pairs.replace_all(&indented, |pair: &regex::Captures<'_>| {
        format!("{} {}", pair[1].strip_suffix('"').unwrap(), pair[2].strip_prefix('"').unwrap())
    });
    assert_ne!(old_spelling, indented);
    assert_eq!(Tokenizer::from_json(&old_spelling).unwrap(), tokenizer);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn generated_text_trains_and_encodes_the_same(
        texts in prop::collection::vec("[ab .\n\u{e9}]{0,120}", 1..4),
        size in 261usize..420,
    ) {
        let texts: Vec<_> = texts.iter().map(String::as_str).collect();
        assert_same_training(&texts, size);
    }

    #[test]
    fn runs_train_and_encode_the_same(
        runs in prop::collection::vec(("[-=]", 1usize..40), 1..12),
        size in 261usize..420,
    ) {
        let text: String = runs.iter().map(|(run, times)| run.repeat(*times) + " ").collect();
        assert_same_training(&[&text], size);
    }

    #[test]
    fn any_text_encodes_the_same(text in any::<String>(), words in "\\PC{0,60}|[\\s\\w']{0,60}") {
        let training = NASTY.join("\n");
        let tokenizer = Tokenizer::train(&[training.as_bytes()], 700, 1)?;
        let oracle = oracle_from_json(&tokenizer.to_json());
        assert_same_ids(&oracle, &tokenizer, &text);
        assert_same_ids(&oracle, &tokenizer, &words);
    }
}
