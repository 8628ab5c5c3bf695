//! Reading and writing `tokenizer.json`, the file format of HuggingFace `tokenizers`.

use std::collections::HashMap;
use std::fmt::Write;

use serde_json::{Map, Value};

use super::alphabet::{spell, unspell};
use super::layout::fixed_tokens;
use super::{MINIMUM_VOCABULARY, SPECIAL_TOKENS, Tokenizer, TokenizerError};

const BYTE_LEVEL: &str =
    r#"{"type":"ByteLevel","add_prefix_space":false,"trim_offsets":true,"use_regex":true}"#;

impl Tokenizer {
    /// The `tokenizer.json` of this tokenizer, byte for byte as HuggingFace `tokenizers` 0.23 writes it
    /// without indentation.
    pub fn to_json(&self) -> String {
        let view = self.view();
        let spelling = |id: u32| match SPECIAL_TOKENS.get(id as usize) {
            Some(special) => quote(special),
            None => quote(&spell(view.token(id))),
        };
        let added = (0..).zip(SPECIAL_TOKENS).map(|(id, token): (u32, _)| {
            format!(
                r#"{{"id":{id},"content":{},"single_word":false,"lstrip":false,"rstrip":false,"normalized":false,"special":true}}"#,
                quote(token)
            )
        });
        let vocabulary = (0..view.vocabulary_size() as u32).map(|id| format!("{}:{id}", spelling(id)));
        let merges =
            view.merges().iter().map(|&[left, right, _]| format!("[{},{}]", spelling(left), spelling(right)));
        format!(
            concat!(
                r#"{{"version":"1.0","truncation":null,"padding":null,"added_tokens":[{}],"normalizer":null,"#,
                r#""pre_tokenizer":{},"post_processor":null,"decoder":{},"model":{{"type":"BPE","dropout":null,"#,
                r#""unk_token":null,"continuing_subword_prefix":null,"end_of_word_suffix":null,"#,
                r#""fuse_unk":false,"byte_fallback":false,"ignore_merges":false,"vocab":{{{}}},"merges":[{}]}}}}"#
            ),
            join(added),
            BYTE_LEVEL,
            BYTE_LEVEL,
            join(vocabulary),
            join(merges)
        )
    }

    /// Reads a `tokenizer.json`. Merges may be spelled `["a", "b"]` or, as older files do, `"a b"`; of merges of
    /// one pair the last counts, as in `tokenizers`.
    ///
    /// # Errors
    /// [`TokenizerError::Json`], [`Field`](TokenizerError::Field), [`Vocabulary`](TokenizerError::Vocabulary)
    /// and [`Merge`](TokenizerError::Merge) for a malformed file;
    /// [`Unsupported`](TokenizerError::Unsupported) for one that asks for anything else than byte-level BPE
    /// with [`SPECIAL_TOKENS`] as ids 0 to 4 and the bytes after them.
    pub fn from_json(json: &str) -> Result<Self, TokenizerError> {
        let file: Value = serde_json::from_str(json)?;
        let file = file
            .as_object()
            .ok_or(TokenizerError::Field { field: "the file".into(), expected: "an object" })?;
        let model = object(file, "model")?;
        check_pipeline(file)?;
        check_model(model)?;
        check_added_tokens(file)?;
        let ids = object_at(model.get("vocab"), "model.vocab")?;
        let tokens = read_vocabulary(ids)?;
        let merges = read_merges(model, ids, &tokens)?;
        Self::from_parts(&tokens, &keep_last_of_each_pair(merges))
    }
}

fn quote(text: &str) -> String {
    Value::from(text).to_string()
}

fn join(items: impl Iterator<Item = String>) -> String {
    let mut joined = String::new();
    for item in items {
        let comma = if joined.is_empty() { "" } else { "," };
        // Writing to a String does not fail.
        let _ = write!(joined, "{comma}{item}");
    }
    joined
}

fn object<'a>(parent: &'a Map<String, Value>, field: &str) -> Result<&'a Map<String, Value>, TokenizerError> {
    object_at(parent.get(field), field)
}

fn object_at<'a>(value: Option<&'a Value>, field: &str) -> Result<&'a Map<String, Value>, TokenizerError> {
    value
        .and_then(Value::as_object)
        .ok_or_else(|| TokenizerError::Field { field: field.into(), expected: "an object" })
}

fn array_at<'a>(value: Option<&'a Value>, field: &str) -> Result<&'a [Value], TokenizerError> {
    value
        .and_then(Value::as_array)
        .map(Vec::as_slice)
        .ok_or_else(|| TokenizerError::Field { field: field.into(), expected: "an array" })
}

/// Checks that `field` is absent or one of the values that `accepts` does.
fn check(
    parent: &Map<String, Value>,
    path: &str,
    field: &str,
    supported: &'static str,
    accepts: impl Fn(&Value) -> bool,
) -> Result<(), TokenizerError> {
    match parent.get(field) {
        Some(value) if !accepts(value) => Err(unsupported(format!("{path}{field}"), value, supported)),
        _ => Ok(()),
    }
}

fn unsupported(field: String, value: &Value, supported: &'static str) -> TokenizerError {
    const LONGEST_SHOWN: usize = 60;
    let value = value.to_string();
    let mut found: String = value.chars().take(LONGEST_SHOWN).collect();
    if found.len() < value.len() {
        found.push('…');
    }
    TokenizerError::Unsupported { field, found, supported }
}

/// Checks everything around the model.
fn check_pipeline(file: &Map<String, Value>) -> Result<(), TokenizerError> {
    for field in ["truncation", "padding", "normalizer"] {
        check(file, "", field, "null", Value::is_null)?;
    }
    let byte_level = |value: &Value| value["type"] == "ByteLevel";
    // As a post-processor, ByteLevel changes offsets only.
    check(file, "", "post_processor", "null or ByteLevel", |value| value.is_null() || byte_level(value))?;
    for field in ["pre_tokenizer", "decoder"] {
        let value = file.get(field).unwrap_or(&Value::Null);
        if !byte_level(value) {
            return Err(unsupported(field.into(), value, "ByteLevel"));
        }
    }
    let pre_tokenizer = object(file, "pre_tokenizer")?;
    if pre_tokenizer.get("add_prefix_space") != Some(&Value::Bool(false)) {
        let found = pre_tokenizer.get("add_prefix_space").unwrap_or(&Value::Null);
        return Err(unsupported("pre_tokenizer.add_prefix_space".into(), found, "false"));
    }
    check(pre_tokenizer, "pre_tokenizer.", "use_regex", "true", |value| *value == Value::Bool(true))
}

/// Checks the settings of the model. `unk_token`, `fuse_unk` and `byte_fallback` do not matter: every byte
/// has a token.
fn check_model(model: &Map<String, Value>) -> Result<(), TokenizerError> {
    check(model, "model.", "type", "\"BPE\"", |value| value == "BPE")?;
    check(model, "model.", "dropout", "null", |value| value.is_null() || value.as_f64() == Some(0.0))?;
    for field in ["continuing_subword_prefix", "end_of_word_suffix"] {
        check(model, "model.", field, "null", |value| value.is_null() || value == "")?;
    }
    check(model, "model.", "ignore_merges", "false", |value| *value == Value::Bool(false))
}

/// Checks that the added tokens are the special tokens, matched as they are.
fn check_added_tokens(file: &Map<String, Value>) -> Result<(), TokenizerError> {
    let added = array_at(file.get("added_tokens"), "added_tokens")?;
    for (place, token) in added.iter().enumerate() {
        let known = (0..)
            .zip(SPECIAL_TOKENS)
            .any(|(id, text): (u64, _)| token["id"] == id && token["content"] == text);
        let plain = ["single_word", "lstrip", "rstrip"].iter().all(|flag| token[flag] != Value::Bool(true));
        if !known || !plain {
            let supported =
                "the special tokens [USER], [BOT], [EOS], [PAD], [UNK] as ids 0 to 4, not stripping";
            return Err(unsupported(format!("added_tokens[{place}]"), token, supported));
        }
    }
    let ids: Vec<_> = added.iter().map(|token| token["id"].as_u64()).collect();
    match (0..).zip(SPECIAL_TOKENS).find(|&(id, _)| !ids.contains(&Some(id))) {
        Some((id, text)) => Err(TokenizerError::Vocabulary(format!("no added token {text} with id {id}"))),
        None => Ok(()),
    }
}

/// The tokens' bytes by id.
fn read_vocabulary(ids: &Map<String, Value>) -> Result<Vec<Vec<u8>>, TokenizerError> {
    let mut spellings: Vec<Option<&str>> = vec![None; ids.len()];
    for (spelling, id) in ids {
        let id = id.as_u64().ok_or_else(|| TokenizerError::Field {
            field: format!("model.vocab[{}]", quote(spelling)),
            expected: "an id",
        })?;
        let place = usize::try_from(id).ok().and_then(|id| spellings.get_mut(id));
        let place = place.ok_or_else(|| vocabulary(format!("{} tokens, but an id {id}", ids.len())))?;
        if let Some(other) = place.replace(spelling) {
            return Err(vocabulary(format!("two tokens with id {id}, {other:?} and {spelling:?}")));
        }
    }
    // As many ids as places, none twice: there is no gap.
    let mut tokens = Vec::with_capacity(spellings.len());
    for (id, spelling) in spellings.into_iter().flatten().enumerate() {
        tokens.push(match SPECIAL_TOKENS.get(id) {
            Some(_) => spelling.as_bytes().to_vec(),
            None => unspell(spelling)
                .filter(|bytes| !bytes.is_empty())
                .ok_or_else(|| vocabulary(format!("a token that spells no bytes, {spelling:?}")))?,
        });
    }
    check_fixed_tokens(&tokens)?;
    Ok(tokens)
}

fn check_fixed_tokens(tokens: &[Vec<u8>]) -> Result<(), TokenizerError> {
    for (id, fixed) in fixed_tokens().iter().enumerate() {
        if tokens.get(id) != Some(fixed) {
            let name =
                SPECIAL_TOKENS.get(id).map_or_else(|| format!("byte 0x{:02X}", fixed[0]), |it| (*it).into());
            return Err(vocabulary(format!(
                "no {name} at id {id}; ids below {MINIMUM_VOCABULARY} are fixed"
            )));
        }
    }
    Ok(())
}

fn vocabulary(problem: String) -> TokenizerError {
    TokenizerError::Vocabulary(problem)
}

/// Each merge's left, right and merged id, in order.
fn read_merges(
    model: &Map<String, Value>,
    ids: &Map<String, Value>,
    tokens: &[Vec<u8>],
) -> Result<Vec<(u32, u32, u32)>, TokenizerError> {
    let id_of_bytes: HashMap<&[u8], u32> =
        (0..).zip(tokens).skip(SPECIAL_TOKENS.len()).map(|(id, token)| (token.as_slice(), id)).collect();
    let merges = array_at(model.get("merges"), "model.merges")?.iter().enumerate();
    merges
        .map(|(rank, merge)| {
            let error = |problem| TokenizerError::Merge { rank, merge: merge.to_string(), problem };
            let (left, right) =
                parts(merge).ok_or_else(|| error("it should be [\"a\", \"b\"] or \"a b\""))?;
            let token = |spelling: &str| {
                let id = ids.get(spelling)?.as_u64().filter(|&id| id >= SPECIAL_TOKENS.len() as u64)?;
                u32::try_from(id).ok()
            };
            let left = token(left).ok_or_else(|| error("its left part is not in the vocabulary"))?;
            let right = token(right).ok_or_else(|| error("its right part is not in the vocabulary"))?;
            let bytes = [tokens[left as usize].as_slice(), &tokens[right as usize]].concat();
            let merged = id_of_bytes.get(bytes.as_slice());
            Ok((left, right, *merged.ok_or_else(|| error("what it makes is not in the vocabulary"))?))
        })
        .collect()
}

/// The two parts of a merge in either spelling.
fn parts(merge: &Value) -> Option<(&str, &str)> {
    match merge {
        Value::Array(parts) => match parts.as_slice() {
            [left, right] => Some((left.as_str()?, right.as_str()?)),
            _ => None,
        },
        Value::String(parts) => parts.split_once(' ').filter(|(_, right)| !right.contains(' ')),
        _ => None,
    }
}

fn keep_last_of_each_pair(mut merges: Vec<(u32, u32, u32)>) -> Vec<(u32, u32, u32)> {
    let last: HashMap<(u32, u32), usize> =
        merges.iter().enumerate().map(|(rank, &(left, right, _))| ((left, right), rank)).collect();
    let mut rank = 0;
    merges.retain(|&(left, right, _)| {
        rank += 1;
        last[&(left, right)] == rank - 1
    });
    merges
}
