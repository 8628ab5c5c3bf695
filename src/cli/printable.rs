//! Text for a terminal: what a model writes must not control it.

use std::borrow::Cow;
use std::io::{self, BufWriter, IsTerminal, StdoutLock, Write, stdout};

/// Writes to stdout what a model or a file says: on a terminal [`printable`], elsewhere byte for byte. To be flushed at the end.
pub struct Printer {
    out: BufWriter<StdoutLock<'static>>,
    terminal: bool,
}

impl Printer {
    pub fn new() -> Self {
        Printer { out: BufWriter::new(stdout().lock()), terminal: stdout().is_terminal() }
    }

    pub fn is_terminal(&self) -> bool {
        self.terminal
    }

    /// Writes a piece of text; on a terminal it is seen at once.
    pub fn print(&mut self, text: &str) -> io::Result<()> {
        self.write_all(text.as_bytes())?;
        if self.terminal { self.out.flush() } else { Ok(()) }
    }

    /// Ends a line, and writes what has not been written yet.
    pub fn end_line(&mut self) -> io::Result<()> {
        self.out.write_all(b"\n")?;
        self.out.flush()
    }
}

impl Write for Printer {
    fn write(&mut self, text: &[u8]) -> io::Result<usize> {
        if !self.terminal {
            return self.out.write(text);
        }
        self.out.write_all(printable(&String::from_utf8_lossy(text)).as_bytes())?;
        Ok(text.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

/// `text` with its control characters made visible, but for line ends and tabs: those of ASCII as `^[`, the others
/// as U+FFFD.
pub fn printable(text: &str) -> Cow<'_, str> {
    if !text.chars().any(controls) {
        return text.into();
    }
    let mut shown = String::with_capacity(text.len() + 8);
    for character in text.chars() {
        if !controls(character) {
            shown.push(character);
        } else if character.is_ascii() {
            shown.push('^');
            // The key that with Ctrl makes the character; `?` for DEL.
            shown.push(char::from(character as u8 ^ 0x40));
        } else {
            shown.push(char::REPLACEMENT_CHARACTER);
        }
    }
    shown.into()
}

fn controls(character: char) -> bool {
    character.is_control() && !matches!(character, '\n' | '\t')
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn control_characters_are_shown() {
        assert_eq!(printable("caf\u{e9}\t\u{4f60}\n"), "caf\u{e9}\t\u{4f60}\n");
        assert_eq!(printable("\x1b]0;x\x07\r\x7f\0"), "^[]0;x^G^M^?^@");
        assert_eq!(printable("\u{9b}31m"), "\u{fffd}31m");
    }

    proptest! {
        #[test]
        fn nothing_that_is_shown_controls_a_terminal(text: String) {
            let shown = printable(&text);
            prop_assert!(!shown.chars().any(controls));
            if !text.chars().any(controls) {
                prop_assert_eq!(shown, text.as_str());
            }
        }
    }
}
