//! Any text as a `tokenizer.json`: read or refused, never a panic; what was read is sound and is written as
//! a file that is read as the same.
//!
//! Input that starts with `{` is the file itself. Otherwise it is a list of merges, each of which is right or
//! wrong in some way, put into a file that is otherwise right.

#![no_main]

use libfuzzer_sys::arbitrary::{self, Arbitrary, Unstructured};
use libfuzzer_sys::fuzz_target;
use serde_json::{Value, json};
use shoestring::tokenizer::{SPECIAL_TOKENS, Special, Tokenizer, TokenizerView};
use std::sync::LazyLock;

/// A right file, from the seed of the same name.
static FILE: LazyLock<Value> = LazyLock::new(|| {
    let seed = include_str!("../seeds/tokenizer_json/tokenizer.json");
    Tokenizer::from_json(seed).expect("`cargo run --example seeds` renews it");
    serde_json::from_str(seed).expect("it was just read")
});

/// How a merge is written, and what is wrong with it.
#[derive(Arbitrary)]
enum Spelling {
    Pair,
    Joined,
    Reversed,
    WithoutToken,
    TokenOfAnyId(u16),
}

/// The places of two tokens in the list so far, counted from the first byte's and going round.
#[derive(Arbitrary)]
struct Merge {
    left: u16,
    right: u16,
    spelling: Spelling,
}

fuzz_target!(|data: &[u8]| {
    if data.starts_with(b"{") {
        read(&String::from_utf8_lossy(data));
    } else if let Ok(merges) = Vec::<Merge>::arbitrary_take_rest(Unstructured::new(data)) {
        read(&file_with(&merges));
    }
});

fn file_with(merges: &[Merge]) -> String {
    const FIXED: usize = SPECIAL_TOKENS.len() + 256;
    let mut file = FILE.clone();
    let mut spellings = vec![String::new(); FIXED - SPECIAL_TOKENS.len()];
    let vocabulary = file["model"]["vocab"].as_object_mut().expect("the seed has a vocabulary");
    vocabulary.retain(|_, id| id.as_u64().is_some_and(|id| id < FIXED as u64));
    for (spelling, id) in vocabulary.iter() {
        let place = id.as_u64().expect("an id") as usize;
        if place >= SPECIAL_TOKENS.len() {
            spellings[place - SPECIAL_TOKENS.len()] = spelling.clone();
        }
    }
    let mut written = Vec::new();
    for merge in merges {
        let token = |place: u16| spellings[usize::from(place) % spellings.len()].clone();
        let (left, right) = (token(merge.left), token(merge.right));
        written.push(match merge.spelling {
            Spelling::Joined => json!(format!("{left} {right}")),
            Spelling::Reversed => json!([right, left]),
            _ => json!([left, right]),
        });
        let merged = left + &right;
        if merged.len() > 1 << 12 || vocabulary.contains_key(&merged) {
            continue; // a length that doubles with every merge soon fills the memory
        }
        match merge.spelling {
            Spelling::WithoutToken => continue,
            Spelling::TokenOfAnyId(id) => vocabulary.insert(merged.clone(), id.into()),
            _ => vocabulary.insert(merged.clone(), vocabulary.len().into()),
        };
        spellings.push(merged);
    }
    file["model"]["merges"] = written.into();
    file.to_string()
}

fn read(json: &str) {
    let Ok(tokenizer) = Tokenizer::from_json(json) else { return };
    let Tokenizer { token_offsets, token_bytes, merges, merge_slots } = &tokenizer;
    let view =
        TokenizerView::new(token_offsets, token_bytes, merges, merge_slots).expect("what was read is sound");
    let again = Tokenizer::from_json(&tokenizer.to_json()).expect("what was written can be read");
    assert_eq!(again, tokenizer);

    let text = b"the then [BOT] theatre   \n abab\xc3\xa9\xff".as_slice();
    for special in [Special::Match, Special::AsText] {
        let (mut tokens, mut bytes) = (Vec::new(), Vec::new());
        view.encode(text, special, &mut tokens);
        view.decode(&tokens, &mut bytes).expect("its own tokens are known");
        assert_eq!(bytes, text);
    }
}
