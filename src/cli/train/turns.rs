//! Whether a text's turns are written as `chat` writes them.

use crate::cli::printable::printable;
use crate::text::TextError;
use crate::train::Corpus;
use std::io::Read;

/// Bytes of a text that are looked at.
const LOOKED_AT: u64 = 256 << 10;
/// Characters of a line that are shown.
const SHOWN: usize = 50;

/// A warning if the text has turns written otherwise: a model does not know in a chat what it has not seen in training.
///
/// # Errors
/// If the text can't be read.
pub fn warning(corpus: &Corpus) -> Result<Option<String>, TextError> {
    let mut start = Vec::new();
    corpus.training().take(LOOKED_AT).read_to_end(&mut start).map_err(TextError::from_read)?;
    let text = String::from_utf8_lossy(&start);
    Ok(oddity(&text).map(|oddity| {
        format!(
            "Warning: the text has turns, but not as a chat has them: {oddity}. Write each on a line of its own, as \
             `[USER] Hello! [EOS]` and below it `[BOT] Hi! [EOS]`."
        )
    }))
}

/// What is odd about the turns in `text`, if it has any and the oddity is no exception.
fn oddity(text: &str) -> Option<String> {
    let (mut user, mut bot, mut ended, mut odd, mut first_odd) = (0, 0, 0, 0, None);
    for (number, line) in (1..).zip(text.lines()) {
        let lower = line.to_ascii_lowercase();
        let markers = lower.matches("[user]").count() + lower.matches("[bot]").count();
        ended += usize::from(line.ends_with(" [EOS]"));
        let is_whole = !line.contains("[EOS]") || line.ends_with(" [EOS]");
        let is_turn = line.starts_with("[USER] ") || line.starts_with("[BOT] ");
        if markers == 1 && is_turn && is_whole {
            user += usize::from(line.starts_with("[USER] "));
            bot += usize::from(line.starts_with("[BOT] "));
        } else if markers > 0 {
            odd += markers;
            first_odd.get_or_insert((number, line));
        }
    }
    let (turns, lines) = (user + bot + odd, text.lines().filter(|line| !line.is_empty()).count());
    if turns < 5 || turns * 10 < lines {
        // Somebody writes of markers.
        return None;
    }
    if let Some((number, line)) = first_odd.filter(|_| odd * 10 > turns) {
        let shown: String = line.chars().take(SHOWN).collect();
        let more = if shown.len() < line.len() { "..." } else { "" };
        return Some(format!("line {number} is `{}{more}`", printable(&shown)));
    }
    match (user, bot) {
        (0, _) => Some("there is no [USER]".to_owned()),
        (_, 0) => Some("there is no [BOT]".to_owned()),
        _ if ended * 2 < turns => Some("most do not end with ` [EOS]`".to_owned()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn turns_that_a_chat_would_write_otherwise_are_noticed() {
        let good = "[USER] Hello! [EOS]\n[BOT] Hi!\nHow are you? [EOS]\n\n";
        for (text, odd) in [
            (good.repeat(9), None),
            (good.repeat(9) + "[User] hi [EOS]\n", None),
            ("A text of markers such as [USER].\nAnd more.\n".repeat(4), None),
            ("[USER] is a marker.\n".to_owned() + &"And more.\n".repeat(99), None),
            ("[user] hi [eos]\n[bot] yo [eos]\n".repeat(9), Some("line 1 is `[user] hi [eos]`")),
            ("[USER]hi[EOS][BOT]yo[EOS]".repeat(9), Some("line 1 is `[USER]hi")),
            ("[USER] hi [EOS] [BOT] yo [EOS]\n".repeat(9), Some("line 1 is")),
            ("\n[USER] hi [EOS]\n[BOT] yo [EOS] \n".repeat(9), Some("line 3 is `[BOT] yo [EOS] `")),
            ("[USER] hi [EOS]\n".repeat(9), Some("there is no [BOT]")),
            ("[BOT] hi [EOS]\n".repeat(9), Some("there is no [USER]")),
            ("[USER] hi\n[BOT] yo\n".repeat(9), Some("most do not end")),
        ] {
            let found = oddity(&text);
            let as_expected = match (&found, odd) {
                (Some(found), Some(odd)) => found.contains(odd),
                (None, None) => true,
                _ => false,
            };
            assert!(as_expected, "{text}: {found:?}, not {odd:?}");
        }
    }
}
