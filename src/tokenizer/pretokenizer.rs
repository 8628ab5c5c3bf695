//! Cuts a text into words, the units that merges never cross.
//!
//! The words are the matches of GPT-2's pattern,
//! `'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+`,
//! which together cover the text. A byte that is not part of valid UTF-8 counts as a character that is
//! neither letter, number nor white space, so invalid text is cut too, and loses nothing.

use unicode_general_category::{GeneralCategory, get_general_category};

#[derive(Clone, Copy, PartialEq, Eq)]
enum Class {
    Letter,
    Number,
    Space,
    Other,
    /// Not ASCII: the byte alone does not tell.
    Unknown,
}

/// The class of each byte as a character. // [256]
const CLASS_OF_BYTE: [Class; 256] = {
    let mut classes = [Class::Unknown; 256];
    let mut byte = 0;
    while byte < 128 {
        classes[byte] = match byte as u8 {
            b'a'..=b'z' | b'A'..=b'Z' => Class::Letter,
            b'0'..=b'9' => Class::Number,
            b'\t'..=b'\r' | b' ' => Class::Space,
            _ => Class::Other,
        };
        byte += 1;
    }
    classes
};

/// The words of a text, in order; their concatenation is the text.
#[derive(Clone, Debug)]
pub struct Words<'a> {
    rest: &'a [u8],
}

impl<'a> Words<'a> {
    /// The words of `text`.
    pub fn new(text: &'a [u8]) -> Self {
        Self { rest: text }
    }
}

impl<'a> Iterator for Words<'a> {
    type Item = &'a [u8];

    #[inline]
    fn next(&mut self) -> Option<&'a [u8]> {
        if self.rest.is_empty() {
            return None;
        }
        let (word, rest) = self.rest.split_at(word_length(self.rest));
        self.rest = rest;
        Some(word)
    }
}

/// The length of the first word of `text`, which is not empty.
#[inline]
fn word_length(text: &[u8]) -> usize {
    if text[0] == b'\''
        && let Some(length) = contraction_length(text)
    {
        return length;
    }
    let (class, length) = character(text, 0);
    if class != Class::Space {
        return run_end(text, length, class);
    }
    if text[0] == b' ' && text.len() > 1 {
        let (next, length) = character(text, 1);
        if next != Class::Space {
            return run_end(text, 1 + length, next);
        }
    }
    white_space_length(text, length)
}

/// The length of the English contraction that `text` starts with.
fn contraction_length(text: &[u8]) -> Option<usize> {
    match text {
        [_, b's' | b't' | b'm' | b'd', ..] => Some(2),
        [_, b'r' | b'v', b'e', ..] | [_, b'l', b'l', ..] => Some(3),
        _ => None,
    }
}

/// Where the run of `class` that reaches `at` ends.
#[inline]
fn run_end(text: &[u8], mut at: usize, class: Class) -> usize {
    loop {
        while at < text.len() && CLASS_OF_BYTE[text[at] as usize] == class {
            at += 1;
        }
        if at == text.len() || CLASS_OF_BYTE[text[at] as usize] != Class::Unknown {
            return at;
        }
        let (next, length) = character(text, at);
        if next != class {
            return at;
        }
        at += length;
    }
}

/// The length of the white space that starts `text` with a character of `first` bytes: all of it at the
/// end of the text; else all but its last character, which goes with what follows or stands alone.
fn white_space_length(text: &[u8], first: usize) -> usize {
    let (mut end, mut last) = (first, 0);
    while end < text.len() {
        let (class, length) = character(text, end);
        if class != Class::Space {
            return if last == 0 { end } else { last };
        }
        last = end;
        end += length;
    }
    end
}

/// The class and length of the character at `at`, which is inside `text`.
#[inline]
fn character(text: &[u8], at: usize) -> (Class, usize) {
    match CLASS_OF_BYTE[text[at] as usize] {
        Class::Unknown => character_beyond_ascii(&text[at..]),
        class => (class, 1),
    }
}

fn character_beyond_ascii(text: &[u8]) -> (Class, usize) {
    let length = match text[0] {
        0xC2..=0xDF => 2,
        0xE0..=0xEF => 3,
        0xF0..=0xF4 => 4,
        _ => return (Class::Other, 1),
    };
    let character = text.get(..length).and_then(|bytes| std::str::from_utf8(bytes).ok()?.chars().next());
    character.map_or((Class::Other, 1), |character| (class_of(character), length))
}

/// `\p{L}`, `\p{N}` and `\s` as regular expressions have them.
fn class_of(character: char) -> Class {
    use GeneralCategory as G;
    match get_general_category(character) {
        G::UppercaseLetter | G::LowercaseLetter | G::TitlecaseLetter | G::ModifierLetter | G::OtherLetter => {
            Class::Letter
        }
        G::DecimalNumber | G::LetterNumber | G::OtherNumber => Class::Number,
        _ if character.is_whitespace() => Class::Space,
        _ => Class::Other,
    }
}

/// The last place at which `text` can be cut so that the words of the parts are the words of the whole,
/// whatever follows; `None` if there is none.
///
/// It lies between two characters of different classes, the first of which does not join what follows, as white
/// space and the apostrophe of a contraction may: a word always ends there. No special token has such a place
/// inside. Only a run of one class, as of letters without a space or a comma, has none.
pub fn split_point(text: &[u8]) -> Option<usize> {
    (1..text.len()).rev().find(|&at| is_boundary(text, at))
}

/// The first such place at or after `from`.
pub(super) fn split_point_after(text: &[u8], from: usize) -> Option<usize> {
    (from.max(1)..text.len()).find(|&at| is_boundary(text, at))
}

/// Cuts `text` into at most `parts` parts of `shortest` bytes or more, but for the last, at such places.
pub(super) fn split_evenly(text: &[u8], parts: usize, shortest: usize) -> impl Iterator<Item = &[u8]> {
    let share = text.len().div_ceil(parts.max(1)).max(shortest);
    let mut rest = text;
    std::iter::from_fn(move || {
        let part;
        (part, rest) = rest.split_at(split_point_after(rest, share).unwrap_or(rest.len()));
        (!part.is_empty()).then_some(part)
    })
}

/// Whether such a place is at `at`, which is inside `text` and not its start.
#[inline]
fn is_boundary(text: &[u8], at: usize) -> bool {
    let (before, after) = (text[at - 1], text[at]);
    // A special token has only these places.
    if matches!(before, b'\'' | b'[') || after == b']' {
        return false;
    }
    match (CLASS_OF_BYTE[before as usize], CLASS_OF_BYTE[after as usize]) {
        (Class::Space, _) => false,
        (Class::Unknown, _) | (_, Class::Unknown) => is_boundary_beyond_ascii(text, at),
        (before, after) => before != after,
    }
}

/// The same where one of the two characters is not ASCII. What is not valid UTF-8, or not all there, is left whole.
fn is_boundary_beyond_ascii(text: &[u8], at: usize) -> bool {
    let valid = |bytes: &[u8]| Some(class_of(std::str::from_utf8(bytes).ok()?.chars().next()?));
    let start = (at.saturating_sub(4)..at).rev().find(|&start| text[start] & 0xC0 != 0x80);
    let end = (at + 1..=at + 4).find(|&end| text.get(end).is_none_or(|byte| byte & 0xC0 != 0x80));
    let before = start.and_then(|start| valid(&text[start..at]));
    let after = end.and_then(|end| valid(text.get(at..end)?));
    matches!((before, after), (Some(before), Some(after)) if before != Class::Space && before != after)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_follow_the_pattern() {
        let cases: &[(&str, &[&str])] = &[
            ("it's we'll 'tis", &["it", "'s", " we", "'ll", " '", "tis"]),
            ("a  b \n\n c\n", &["a", " ", " b", " \n\n", " c", "\n"]),
            ("x1 22½!? €", &["x", "1", " 22½", "!?", " €"]),
            ("a\u{3000}\u{3000}b", &["a", "\u{3000}", "\u{3000}", "b"]),
            ("e\u{301}a", &["e", "\u{301}", "a"]),
            ("   ", &["   "]),
            ("", &[]),
        ];
        for (text, words) in cases {
            let found: Vec<_> = Words::new(text.as_bytes()).collect();
            let expected: Vec<_> = words.iter().map(|word| word.as_bytes()).collect();
            assert_eq!(found, expected, "{text:?}");
        }
    }

    #[test]
    fn invalid_bytes_are_other_characters() {
        let found: Vec<_> = Words::new(b"a\xE2\x82 b\xFF!\xC3\xA9").collect();
        assert_eq!(found, [&b"a"[..], b"\xE2\x82", b" b", b"\xFF!", b"\xC3\xA9"]);
    }
}
