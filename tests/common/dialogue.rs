//! A text to train on.

/// About `length` bytes of dialogue, with characters of one to four bytes, in paragraphs.
pub fn dialogue(length: usize) -> String {
    const TOPICS: [&str; 8] =
        ["the weather", "a café", "your cat", "old trains", "😀 faces", "the naïve moon", "tea", "rivers"];
    let mut text = String::new();
    let mut turn: usize = 0;
    while text.len() < length {
        let (first, second) = (TOPICS[turn * 5 % 8], TOPICS[(turn / 8 + turn) % 8]);
        let number = (turn % 97).pow(2) % 97; // `turn` squared can overflow 32 bits
        text += &format!("[USER] Tell me of {first}, number {number}! [EOS]\n");
        text += &format!("[BOT] I like {first} more than {second}. What of {second}? [EOS]\n");
        if turn % 3 == 2 {
            text.push('\n');
        }
        turn += 1;
    }
    text
}
