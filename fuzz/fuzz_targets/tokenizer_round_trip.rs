//! Encoding loses nothing, whatever the bytes and whatever the tokenizer was trained on, and nothing depends
//! on how a text is cut into pieces.

#![no_main]

use libfuzzer_sys::fuzz_target;
use shoestring::tokenizer::{
    Encoder, MINIMUM_VOCABULARY, SPECIAL_TOKENS, Special, StreamingDecoder, Tokenizer, TokenizerView,
    split_point,
};
use std::sync::LazyLock;

/// A tokenizer of English with long tokens.
static TRAINED: LazyLock<Tokenizer> =
    LazyLock::new(|| Tokenizer::train(&[ENGLISH], 1024, 1).expect("the vocabulary is large enough"));

/// An encoder that has seen enough text to keep a cache of words.
static WARM: LazyLock<Encoder<'static>> = LazyLock::new(|| {
    let mut encoder = Encoder::new(TRAINED.view());
    encoder.encode(ENGLISH, Special::AsText, &mut Vec::new());
    encoder
});

static ENGLISH: &[u8] = shoestring::bundled::CORPUS.split_at(1 << 16).0;

fuzz_target!(|data: &[u8]| {
    check(Encoder::new(TRAINED.view()), TRAINED.view(), data);
    check(WARM.clone(), TRAINED.view(), data);
    // Training takes a hundred times as long.
    if data.len().is_multiple_of(8) {
        let own = train(data);
        check(Encoder::new(own.view()), own.view(), data);
    }
});

fn train(text: &[u8]) -> Tokenizer {
    let vocabulary = MINIMUM_VOCABULARY + 20;
    let trained =
        [1, 2].map(|threads| Tokenizer::train(&[text], vocabulary, threads).expect("it is large enough"));
    let [one, two] = trained;
    assert_eq!(one, two, "with one thread and with two");
    let Tokenizer { token_offsets, token_bytes, merges, merge_slots } = &one;
    TokenizerView::new(token_offsets, token_bytes, merges, merge_slots).expect("what was trained is sound");
    one
}

fn check(mut encoder: Encoder<'_>, view: TokenizerView<'_>, text: &[u8]) {
    for special in [Special::Match, Special::AsText] {
        let mut tokens = Vec::new();
        encoder.encode(text, special, &mut tokens);
        if special == Special::AsText {
            let ordinary = SPECIAL_TOKENS.len() as u32..;
            assert!(
                tokens.iter().all(|token| ordinary.contains(token)),
                "a special token from what is only text"
            );
        }
        assert_eq!(decode(view, &tokens), text);
        assert_eq!(decode_as_text(view, &tokens), String::from_utf8_lossy(text));

        let mut again = Vec::new();
        view.encode(text, special, &mut again);
        assert_eq!(again, tokens, "with a new encoder");
        if let Some(cut) = split_point(text) {
            let mut pieces = Vec::new();
            encoder.encode(&text[..cut], special, &mut pieces);
            encoder.encode(&text[cut..], special, &mut pieces);
            assert_eq!(pieces, tokens, "cut at {cut}");
        }
    }
}

fn decode(view: TokenizerView<'_>, tokens: &[u32]) -> Vec<u8> {
    let mut bytes = Vec::new();
    view.decode(tokens, &mut bytes).expect("its own tokens are known");
    bytes
}

/// As a chat shows it: token by token, whole characters only.
fn decode_as_text(view: TokenizerView<'_>, tokens: &[u32]) -> String {
    let (mut decoder, mut text) = (StreamingDecoder::new(), String::new());
    for &token in tokens {
        decoder.push(view.token(token), &mut text);
    }
    decoder.finish(&mut text);
    text
}
