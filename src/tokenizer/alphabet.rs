//! The byte alphabet: how GPT-2 spells bytes as characters, and which ids they have.
//!
//! A byte that Latin-1 prints (`!`..`~`, `¡`..`¬`, `®`..`ÿ`) is spelled as that character; the other 68, in
//! order, as U+0100 onwards (`bytes_to_unicode` in GPT-2's `encoder.py`). Ids follow the characters' code
//! points, after the special tokens.

use super::SPECIAL_TOKENS;

/// The id of the first byte token.
pub(super) const FIRST_BYTE: u32 = SPECIAL_TOKENS.len() as u32;

/// Code points of the bytes that are spelled otherwise than by themselves start here.
const FIRST_SUBSTITUTE: u16 = 0x100;

const fn prints(byte: u8) -> bool {
    matches!(byte, b'!'..=b'~' | 0xA1..=0xAC | 0xAE..=0xFF)
}

/// The code point of the character that spells each byte. // [256]
const CODE_POINTS: [u16; 256] = {
    let mut points = [0; 256];
    let mut substitute = FIRST_SUBSTITUTE;
    let mut byte = 0;
    while byte < 256 {
        if prints(byte as u8) {
            points[byte] = byte as u16;
        } else {
            points[byte] = substitute;
            substitute += 1;
        }
        byte += 1;
    }
    points
};

/// The bytes in the order of their ids. // [256]
pub(super) const BYTES_BY_ID: [u8; 256] = {
    let mut bytes = [0; 256];
    let mut place = 0;
    let mut pass = 0;
    while pass < 2 {
        let mut byte = 0;
        while byte < 256 {
            if prints(byte as u8) == (pass == 0) {
                bytes[place] = byte as u8;
                place += 1;
            }
            byte += 1;
        }
        pass += 1;
    }
    bytes
};

/// The id of each byte's token. // [256]
pub(super) const ID_OF_BYTE: [u32; 256] = {
    let mut ids = [0; 256];
    let mut place = 0;
    while place < 256 {
        ids[BYTES_BY_ID[place] as usize] = FIRST_BYTE + place as u32;
        place += 1;
    }
    ids
};

/// Spells `bytes` in GPT-2's characters.
pub(super) fn spell(bytes: &[u8]) -> String {
    bytes.iter().filter_map(|&byte| char::from_u32(CODE_POINTS[byte as usize].into())).collect()
}

/// The bytes that `spelling` stands for; `None` if it has a character that spells no byte.
pub(super) fn unspell(spelling: &str) -> Option<Vec<u8>> {
    spelling.chars().map(byte_of).collect()
}

fn byte_of(character: char) -> Option<u8> {
    let point = u16::try_from(u32::from(character)).ok()?;
    CODE_POINTS.iter().position(|&candidate| candidate == point).and_then(|byte| u8::try_from(byte).ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spelling_is_reversible_and_known() {
        let every: Vec<u8> = (0..=255).collect();
        assert_eq!(unspell(&spell(&every)), Some(every));
        assert_eq!(spell(b" the\n\x00\xAD"), "ĠtheĊĀŃ");
        assert_eq!(unspell("Ġ the"), None);
        assert_eq!(unspell("日"), None);
    }

    #[test]
    fn ids_follow_code_points() {
        let points: Vec<u16> = BYTES_BY_ID.iter().map(|&byte| CODE_POINTS[byte as usize]).collect();
        assert!(points.is_sorted_by(|a, b| a < b));
        assert_eq!(ID_OF_BYTE[b'!' as usize], FIRST_BYTE);
        assert_eq!(ID_OF_BYTE[0xAD], FIRST_BYTE + 255);
    }
}
