//! The tokenizer's own promises: nothing is lost, nothing depends on threads or pieces, no lie is believed.

use std::io::{self, Read};
use std::ops::ControlFlow;
use std::sync::LazyLock;
use std::time::{Duration, Instant};

use proptest::prelude::*;
use serde_json::{Value, json};
use shoestring::tokenizer::{
    BOT, EOS, Encoder, MINIMUM_VOCABULARY, PAD, Pieces, SPECIAL_TOKENS, Special, StreamingDecoder, Tokenizer,
    TokenizerError, TokenizerView, Trainer, UNK, USER, Words, split_point,
};
use tokenizers::utils::SysRegex;

/// GPT-2's pattern, as the `tokenizers` crate has it in `pre_tokenizers/byte_level.rs`.
const PATTERN: &str = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+";

static TOKENIZER: LazyLock<Tokenizer> = LazyLock::new(|| train(&training_text(), 400, 1));

/// Text of frequent and rare words, in two scripts, with more to merge than a vocabulary of 400 holds.
fn training_text() -> Vec<u8> {
    let syllables = ["the", "ca", "t's", "na", "ïve", "ко", "шка", "19", "84", "...", "\n\n", "xyz", " "];
    let word = |n: usize| [syllables[n % 13], syllables[n * n % 11], syllables[n / 7 % 13]].concat();
    let text: String = (0..4000).map(|n| format!(" {}", word(n))).collect();
    text.into_bytes()
}

fn train(text: &[u8], vocabulary_size: usize, threads: usize) -> Tokenizer {
    Tokenizer::train(&[text], vocabulary_size, threads).unwrap()
}

fn encode(view: TokenizerView<'_>, text: &[u8], special: Special) -> Vec<u32> {
    let mut ids = Vec::new();
    view.encode(text, special, &mut ids);
    ids
}

fn decode(view: TokenizerView<'_>, ids: &[u32]) -> Vec<u8> {
    let mut bytes = Vec::new();
    view.decode(ids, &mut bytes).unwrap();
    bytes
}

/// Bytes that are often nearly text: words, white space, special tokens, broken characters.
fn any_bytes() -> impl Strategy<Value = Vec<u8>> {
    let special = prop::sample::select(SPECIAL_TOKENS.to_vec()).prop_map(|token| token.as_bytes().to_vec());
    let piece = prop_oneof![
        "[a-z' ]{0,9}|[\\s]{0,5}|\\PC{0,5}".prop_map(String::into_bytes),
        special,
        prop::collection::vec(any::<u8>(), 0..6),
    ];
    prop::collection::vec(piece, 0..40).prop_map(|pieces| pieces.concat())
}

proptest! {
    #[test]
    fn every_byte_string_comes_back(bytes in any_bytes(), training in any_bytes()) {
        let own = train(&training, 320, 1);
        for view in [TOKENIZER.view(), own.view()] {
            for special in [Special::Match, Special::AsText] {
                prop_assert_eq!(decode(view, &encode(view, &bytes, special)), &bytes[..]);
            }
        }
    }

    #[test]
    fn words_are_the_matches_of_the_pattern(text in "\\PC*|[\\sab1'!\u{a0}\u{e9}]{0,60}|[srtvemld' ]{0,40}") {
        let regex = SysRegex::new(PATTERN).unwrap();
        let expected: Vec<_> = regex.find_iter(&text).map(|(start, end)| &text.as_bytes()[start..end]).collect();
        prop_assert_eq!(Words::new(text.as_bytes()).collect::<Vec<_>>(), expected);
    }

    #[test]
    fn a_split_changes_no_words(start in any_bytes(), end in any_bytes()) {
        let whole = [start.clone(), end].concat();
        if let Some(cut) = split_point(&start) {
            let (before, after) = whole.split_at(cut);
            prop_assert!(Words::new(before).chain(Words::new(after)).eq(Words::new(&whole)));
            let view = TOKENIZER.view();
            let mut pieces = encode(view, before, Special::Match);
            view.encode(after, Special::Match, &mut pieces);
            prop_assert_eq!(pieces, encode(view, &whole, Special::Match));
        }
    }

    #[test]
    fn pieces_are_cut_only_where_words_allow(bytes in any_bytes(), longest in 1usize..20) {
        let found = read_in_pieces(&bytes, longest);
        prop_assert_eq!(&found.concat(), &bytes);
        prop_assert!(found.iter().flat_map(|piece| Words::new(piece)).eq(Words::new(&bytes)));
    }

    #[test]
    fn streamed_text_is_the_whole_text(bytes in any_bytes(), cuts in prop::collection::vec(0usize..5, 0..200)) {
        let (mut decoder, mut text, mut rest) = (StreamingDecoder::new(), String::new(), &bytes[..]);
        for cut in cuts {
            let (piece, after) = rest.split_at(cut.min(rest.len()));
            decoder.push(piece, &mut text);
            rest = after;
        }
        decoder.push(rest, &mut text);
        decoder.finish(&mut text);
        prop_assert_eq!(text, String::from_utf8_lossy(&bytes));
    }

    #[test]
    fn any_changed_number_or_byte_is_noticed(
        array in 0..4, place in any::<prop::sample::Index>(), flip in 1..=u32::MAX, bit in 0..8u32,
    ) {
        let mut damaged = TOKENIZER.clone();
        match array {
            0 => *place.get_mut(&mut damaged.token_offsets[..]) ^= flip,
            1 => *place.get_mut(&mut damaged.token_bytes[..]) ^= 1u8 << bit,
            2 => *place.get_mut(&mut damaged.merges[..]) ^= flip,
            _ => *place.get_mut(&mut damaged.merge_slots[..]) ^= flip,
        }
        prop_assert!(matches!(open(&damaged), Err(TokenizerError::Damaged(_))));
    }

    #[test]
    fn any_missing_end_is_noticed(array in 0..4, place in any::<prop::sample::Index>()) {
        let mut damaged = TOKENIZER.clone();
        match array {
            0 => damaged.token_offsets.truncate(place.index(damaged.token_offsets.len())),
            1 => damaged.token_bytes.truncate(place.index(damaged.token_bytes.len())),
            2 => damaged.merges.truncate(place.index(damaged.merges.len())),
            _ => damaged.merge_slots.truncate(place.index(damaged.merge_slots.len())),
        }
        prop_assert!(matches!(open(&damaged), Err(TokenizerError::Damaged(_))));
    }
}

/// A reader that gives at most `longest` bytes at a time.
struct Trickle<'a> {
    rest: &'a [u8],
    longest: usize,
}

impl Read for Trickle<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = self.longest.min(buffer.len());
        self.rest.read(&mut buffer[..length])
    }
}

fn read_in_pieces(text: &[u8], longest: usize) -> Vec<Vec<u8>> {
    let mut pieces = Pieces::new(Trickle { rest: text, longest });
    let mut found = Vec::new();
    while let Some(piece) = pieces.next_piece().unwrap() {
        assert!(!piece.is_empty());
        found.push(piece.to_vec());
    }
    found
}

#[test]
fn a_piece_is_as_long_as_it_must_be() {
    let word = vec![b'a'; 5 << 20];
    let text = [&word[..], b" b"].concat();
    assert_eq!(read_in_pieces(&text, 1 << 20), [word, b" b".to_vec()]);
}

fn open(tokenizer: &Tokenizer) -> Result<TokenizerView<'_>, TokenizerError> {
    let Tokenizer { token_offsets, token_bytes, merges, merge_slots } = tokenizer;
    TokenizerView::new(token_offsets, token_bytes, merges, merge_slots)
}

#[test]
fn every_character_has_the_class_the_pattern_gives_it() {
    let [letter, number, space] = [r"\p{L}", r"\p{N}", r"\s"].map(|class| regex::Regex::new(class).unwrap());
    for character in ('\0'..=char::MAX).filter(|&it| it != '\'') {
        let text = character.to_string();
        let (is_letter, is_number, is_space) =
            (letter.is_match(&text), number.is_match(&text), space.is_match(&text));
        let expected = [is_letter, is_number, is_space, !(is_letter || is_number || is_space)];
        // A character joins the word before it if it has the same class.
        let joins = ["a", "1", "\n", "!"]
            .map(|before| Words::new((before.to_string() + &text).as_bytes()).count() == 1);
        assert_eq!(joins, expected, "{character:?}: letter, number, white space, other");
    }
}

#[test]
fn a_sound_tokenizer_opens_and_copies() {
    for size in [MINIMUM_VOCABULARY, MINIMUM_VOCABULARY + 1, 400] {
        let tokenizer = train(&training_text(), size, 1);
        let view = open(&tokenizer).unwrap();
        assert_eq!(view.vocabulary_size(), size);
        assert_eq!(view.merges().len(), size - MINIMUM_VOCABULARY);
        assert_eq!(view.to_owned(), tokenizer);
        assert_eq!(Tokenizer::from_json(&tokenizer.to_json()).unwrap(), tokenizer);
    }
    assert!(matches!(open(&Tokenizer::default()), Err(TokenizerError::Damaged(_))));
}

#[test]
fn special_tokens_are_matched_only_when_asked() {
    let view = TOKENIZER.view();
    let text = b"[USER][BOT][EOS]\n[PAD] [UNK]";
    let newline = encode(view, b"\n", Special::AsText)[0];
    let space = encode(view, b" ", Special::AsText)[0];
    let matched = encode(view, text, Special::Match);
    assert_eq!(matched, [USER, BOT, EOS, newline, PAD, space, UNK]);
    assert_eq!(decode(view, &matched), text);
    assert!(encode(view, text, Special::AsText).iter().all(|&id| id > UNK));
}

#[test]
fn threads_and_pieces_do_not_change_the_result() {
    // Long enough for every thread to get a share.
    let text = training_text().repeat(60);
    let expected = train(&text, 400, 1);
    for threads in [0, 2, 3, 7] {
        assert_eq!(train(&text, 400, threads), expected, "{threads} threads");
    }
    let mut trainer = Trainer::new(400, 2).unwrap();
    let mut rest = &text[..];
    while let Some(cut) = split_point(&rest[..rest.len().min(10_000)]) {
        trainer.count(&rest[..cut]);
        rest = &rest[cut..];
    }
    trainer.count(rest);
    let mut sizes = Vec::new();
    let broken_off = trainer.clone().train(|size, _| match size {
        270 => ControlFlow::Break(()),
        _ => ControlFlow::Continue(()),
    });
    assert!(matches!(broken_off, Err(TokenizerError::Interrupted)));
    let note = |size, limit| {
        sizes.push((size, limit));
        ControlFlow::Continue(())
    };
    assert_eq!(trainer.train(note).unwrap(), expected);
    assert!(sizes.is_sorted() && sizes.last() == Some(&(400, 400)));
}

#[test]
fn an_encoder_gives_what_the_view_gives() {
    let view = TOKENIZER.view();
    let mut encoder = Encoder::new(view);
    let text = training_text();
    // The second time all words are in its cache.
    for piece in [&text[..], &text, b"?? ??\0 ??\0\0 ??\0", b"the cat", b"sat", b"", b"\xFF\xFF the"] {
        let mut ids = Vec::new();
        encoder.encode(piece, Special::Match, &mut ids);
        let alone: Vec<_> = Words::new(piece).flat_map(|word| encode(view, word, Special::AsText)).collect();
        assert_eq!(ids, alone);
    }
}

#[test]
fn a_vocabulary_that_cannot_be_filled_is_smaller() {
    let tokenizer = train(b"aa b aa", 1000, 1);
    let view = tokenizer.view();
    assert_eq!(view.vocabulary_size(), MINIMUM_VOCABULARY + 3);
    let merged: Vec<_> = (MINIMUM_VOCABULARY as u32..).take(3).map(|id| view.token(id)).collect();
    assert_eq!(merged, [&b"aa"[..], b" b", b" aa"]);
    assert_eq!(train(b"", 1000, 2).view().vocabulary_size(), MINIMUM_VOCABULARY);
}

#[test]
fn a_vocabulary_below_the_minimum_is_an_error() {
    let error = Tokenizer::train(&[b"text"], MINIMUM_VOCABULARY - 1, 1).unwrap_err();
    assert!(matches!(error, TokenizerError::VocabularyTooSmall { size: 260 }));
    assert_eq!(error.to_string(), "a vocabulary of 260 is too small: it must be at least 261");
}

#[test]
fn merges_of_special_or_unknown_tokens_are_noticed() {
    let sound = train(b"ab", MINIMUM_VOCABULARY + 1, 1);
    let [left, right, merged] = sound.view().merges()[0];
    assert_eq!((sound.view().token(merged), sound.merge_slots.len()), (&b"ab"[..], 2));
    for wrong in (0..5).chain(262..300) {
        for [left, right] in [[wrong, right], [left, wrong]] {
            let mut damaged = sound.clone();
            let text = |id: u32| if id < 262 { sound.view().token(id) } else { b"" };
            damaged.token_bytes.truncate(damaged.token_offsets[261] as usize);
            damaged.token_bytes.extend_from_slice(&[text(left), text(right)].concat());
            damaged.token_offsets[262] = damaged.token_bytes.len() as u32;
            damaged.merges = vec![left, right, merged];
            // One of the two slots is where the pair is looked for.
            for slots in [[0, u32::MAX], [u32::MAX, 0]] {
                damaged.merge_slots = slots.to_vec();
                assert!(matches!(open(&damaged), Err(TokenizerError::Damaged(_))), "{left} {right}");
            }
        }
    }
}

#[test]
fn a_full_merge_table_is_noticed() {
    let mut damaged = train(b"ab", MINIMUM_VOCABULARY + 1, 1);
    let [_, right, merged] = damaged.view().merges()[0];
    damaged.merges.extend([right, right, merged]);
    for slots in [[0, 0], [0, 1], [1, 0], [0, 2]] {
        damaged.merge_slots = slots.to_vec();
        // To look for a pair that is not there would not end, and there is no merge 2.
        assert!(matches!(open(&damaged), Err(TokenizerError::Damaged(_))));
    }
}

#[test]
fn of_merges_of_one_pair_the_last_counts() {
    let mut file: Value = serde_json::from_str(&TOKENIZER.to_json()).unwrap();
    let merges = file["model"]["merges"].as_array_mut().unwrap();
    let first = merges[0].clone();
    merges.push(first);
    let doubled = Tokenizer::from_json(&file.to_string()).unwrap();
    let mut moved = TOKENIZER.merges.clone();
    moved.rotate_left(3);
    assert_eq!(doubled.merges, moved);
    open(&doubled).unwrap();
}

#[test]
fn an_unknown_id_is_an_error_after_the_known_ones() {
    let mut bytes = Vec::new();
    let error = TOKENIZER.view().decode(&[EOS, 400, EOS], &mut bytes).unwrap_err();
    assert!(matches!(error, TokenizerError::UnknownId { id: 400, vocabulary_size: 400 }));
    assert_eq!(bytes, b"[EOS]");
}

#[test]
fn very_long_words_take_no_quadratic_time() {
    let word = vec![b'a'; 1 << 20];
    let start = Instant::now();
    let tokenizer = train(&word, 300, 2);
    let ids = encode(tokenizer.view(), &word, Special::AsText);
    assert_eq!(decode(tokenizer.view(), &ids), word);
    // Quadratic time would be hours.
    assert!(start.elapsed() < Duration::from_secs(60));
}

#[test]
fn incomplete_characters_wait() {
    let (mut decoder, mut text) = (StreamingDecoder::new(), String::new());
    decoder.push("é".as_bytes().split_at(1).0, &mut text);
    assert_eq!(text, "");
    decoder.push(b"\xA9\xF0\x9F\x98", &mut text);
    assert_eq!(text, "é");
    decoder.push(b"!", &mut text);
    assert_eq!(text, "é\u{FFFD}!");
    decoder.push(b"\xE2\x82", &mut text);
    decoder.finish(&mut text);
    assert_eq!(text, "é\u{FFFD}!\u{FFFD}");
}

/// The error for the test tokenizer's JSON after `change`.
fn error_after(change: impl FnOnce(&mut Value)) -> TokenizerError {
    let mut file: Value = serde_json::from_str(&TOKENIZER.to_json()).unwrap();
    change(&mut file);
    Tokenizer::from_json(&file.to_string()).unwrap_err()
}

#[test]
fn unsupported_settings_are_named() {
    let cases = [
        ("/model/type", json!("WordPiece"), "model.type"),
        ("/model/dropout", json!(0.1), "model.dropout"),
        ("/model/ignore_merges", json!(true), "model.ignore_merges"),
        ("/model/end_of_word_suffix", json!("</w>"), "model.end_of_word_suffix"),
        ("/model/continuing_subword_prefix", json!("##"), "model.continuing_subword_prefix"),
        ("/pre_tokenizer", Value::Null, "pre_tokenizer"),
        ("/pre_tokenizer/type", json!("Metaspace"), "pre_tokenizer"),
        ("/pre_tokenizer/add_prefix_space", json!(true), "pre_tokenizer.add_prefix_space"),
        ("/pre_tokenizer/use_regex", json!(false), "pre_tokenizer.use_regex"),
        ("/decoder/type", json!("WordPiece"), "decoder"),
        ("/normalizer", json!({"type": "NFC"}), "normalizer"),
        ("/post_processor", json!({"type": "TemplateProcessing"}), "post_processor"),
        ("/truncation", json!({"max_length": 5}), "truncation"),
        ("/padding", json!({"pad_id": 3}), "padding"),
        ("/added_tokens/1/id", json!(7), "added_tokens[1]"),
        ("/added_tokens/2/content", json!("<s>"), "added_tokens[2]"),
        ("/added_tokens/0/lstrip", json!(true), "added_tokens[0]"),
    ];
    for (pointer, value, named) in cases {
        match error_after(|file| *file.pointer_mut(pointer).unwrap() = value) {
            TokenizerError::Unsupported { field, .. } => assert_eq!(field, named),
            other => panic!("{pointer}: {other}"),
        }
    }
}

#[test]
fn malformed_files_are_typed_errors() {
    assert!(matches!(Tokenizer::from_json("{"), Err(TokenizerError::Json(_))));
    for (json, named) in [("[]", "the file"), ("{}", "model")] {
        match Tokenizer::from_json(json) {
            Err(TokenizerError::Field { field, .. }) => assert_eq!(field, named),
            other => panic!("{json}: {other:?}"),
        }
    }
    for field in ["vocab", "merges"] {
        let error = error_after(|file| drop(file["model"].as_object_mut().unwrap().remove(field)));
        assert!(matches!(error, TokenizerError::Field { .. }), "{error}");
    }
    let error = error_after(|file| drop(file["added_tokens"].as_array_mut().unwrap().pop()));
    assert_eq!(error.to_string(), "the vocabulary has no added token [UNK] with id 4");
}

#[test]
fn impossible_vocabularies_are_errors() {
    let entry = |token: &'static str, id: Value| {
        error_after(move |file| {
            drop(file["model"]["vocab"].as_object_mut().unwrap().insert(token.into(), id))
        })
    };
    assert_eq!(entry("zz", json!(900)).to_string(), "the vocabulary has 401 tokens, but an id 900");
    assert_eq!(entry("zz", json!(-1)).to_string(), "`model.vocab[\"zz\"]` should be an id");
    assert!(entry("zz", json!(300)).to_string().starts_with("the vocabulary has two tokens with id 300, "));
    assert_eq!(
        entry("日", json!(400)).to_string(),
        "the vocabulary has a token that spells no bytes, \"日\""
    );
    let swapped = error_after(|file| {
        let vocabulary = file["model"]["vocab"].as_object_mut().unwrap();
        let (a, b) = (vocabulary["a"].clone(), vocabulary["b"].clone());
        vocabulary.insert("a".into(), b);
        vocabulary.insert("b".into(), a);
    });
    assert!(swapped.to_string().contains("no byte 0x61 at id"), "{swapped}");
    let missing = error_after(|file| {
        let vocabulary = file["model"]["vocab"].as_object_mut().unwrap();
        let id = vocabulary.remove("Ā").unwrap();
        vocabulary.insert("ĀĀ".into(), id);
    });
    assert!(missing.to_string().contains("no byte 0x00 at id"), "{missing}");
}

#[test]
fn malformed_merges_are_errors() {
    for (merge, problem) in [
        (json!("a"), "it should be [\"a\", \"b\"] or \"a b\""),
        (json!("a b c"), "it should be [\"a\", \"b\"] or \"a b\""),
        (json!(["a"]), "it should be [\"a\", \"b\"] or \"a b\""),
        (json!(["a", 1]), "it should be [\"a\", \"b\"] or \"a b\""),
        (json!(7), "it should be [\"a\", \"b\"] or \"a b\""),
        (json!(["qq", "a"]), "its left part is not in the vocabulary"),
        (json!(["a", "[EOS]"]), "its right part is not in the vocabulary"),
        (json!(["Q", "Q"]), "what it makes is not in the vocabulary"),
    ] {
        let spelled = merge.to_string();
        match error_after(|file| file["model"]["merges"][3] = merge) {
            TokenizerError::Merge { rank: 3, merge, problem: found } => {
                assert_eq!((merge, found), (spelled, problem));
            }
            other => panic!("{spelled}: {other}"),
        }
    }
}
