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
static TRAINED: LazyLock<Tokenizer> = LazyLock::new(|| {
    let text = &shoestring::bundled::CORPUS[..1 << 16];
    Tokenizer::train(&[text], 1024, 1).expect("the vocabulary is large enough")
});

fuzz_target!(|data: &[u8]| {
    let vocabulary = MINIMUM_VOCABULARY + 20;
    let own = Tokenizer::train(&[data], vocabulary, 1).expect("the vocabulary is large enough");
    assert_eq!(Tokenizer::train(&[data], vocabulary, 2).expect("as before"), own, "trained with two threads");
    let Tokenizer { token_offsets, token_bytes, merges, merge_slots } = &own;
    let own = TokenizerView::new(token_offsets, token_bytes, merges, merge_slots)
        .expect("what was trained is sound");
    for view in [own, TRAINED.view()] {
        for special in [Special::Match, Special::AsText] {
            check(view, data, special);
        }
    }
});

fn check(view: TokenizerView<'_>, text: &[u8], special: Special) {
    let mut encoder = Encoder::new(view);
    let mut tokens = Vec::new();
    encoder.encode(text, special, &mut tokens);
    if special == Special::AsText {
        let first_ordinary = SPECIAL_TOKENS.len() as u32;
        assert!(
            tokens.iter().all(|&token| token >= first_ordinary),
            "a special token from what is only text"
        );
    }
    assert_eq!(decode(view, &tokens), text);
    assert_eq!(decode_as_text(view, &tokens), String::from_utf8_lossy(text));

    if let Some(cut) = split_point(text) {
        let mut pieces = Vec::new();
        encoder.encode(&text[..cut], special, &mut pieces);
        encoder.encode(&text[cut..], special, &mut pieces);
        assert_eq!(pieces, tokens, "cut at {cut}");
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
