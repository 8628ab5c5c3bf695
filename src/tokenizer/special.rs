//! Finding special tokens in text.

use super::SPECIAL_TOKENS;

/// Whether the text of a special token in the input is that token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Special {
    /// It is the token: for training text and for prompts the program builds.
    Match,
    /// It is text like any other: for what a user types.
    AsText,
}

/// Where the first special token in `text` starts, and its id.
pub(super) fn find_special(text: &[u8]) -> Option<(usize, u32)> {
    let mut from = 0;
    while let Some(bracket) = text[from..].iter().position(|&byte| byte == b'[') {
        let at = from + bracket;
        if let Some(id) =
            (0..).zip(SPECIAL_TOKENS).find(|(_, token)| text[at..].starts_with(token.as_bytes()))
        {
            return Some((at, id.0));
        }
        from = at + 1;
    }
    None
}
