//! What the bundled model writes, to the letter, on every set of kernels and every machine: a file of integer weights
//! gives the same bits everywhere.
//!
//! After a change of the bundled model: `UPDATE_GOLDEN=1 cargo test --test golden`.

use shoestring::bundled;
use shoestring::kernels::Kernels;
use shoestring::model::Model;
use shoestring::sample::{Sampler, Sampling};
use shoestring::tokenizer::{EOS, Special};
use std::fmt::Write;
use std::path::Path;

const PROMPTS: [&str; 20] = [
    "[USER] Hello! [EOS]\n[BOT]",
    "[USER] How are you? [EOS]\n[BOT]",
    "[USER] What is your name? [EOS]\n[BOT]",
    "[USER] My name is Ada. [EOS]\n[BOT]",
    "[USER] Tell me a joke. [EOS]\n[BOT]",
    "[USER] What is the capital of France? [EOS]\n[BOT]",
    "[USER] I am tired. [EOS]\n[BOT]",
    "[USER] Do you like music? [EOS]\n[BOT]",
    "[USER] What can you do? [EOS]\n[BOT]",
    "[USER] Good night. [EOS]\n[BOT]",
    "[USER] How many legs does a spider have? [EOS]\n[BOT]",
    "[USER] I had a bad day. [EOS]\n[BOT]",
    "[USER] What colour is the sky? [EOS]\n[BOT]",
    "[USER] I like to cook. [EOS]\n[BOT]",
    "[USER]",
    "Once upon a time",
    "The weather",
    "\n",
    "12345",
    "\u{e9}\u{4e16}\u{1f600}",
];
const TOKENS: usize = 200;

/// The likeliest continuation of each prompt.
fn texts(kernels: &'static Kernels) -> String {
    let model = Model::new(bundled::model().unwrap(), kernels);
    let mut texts = String::new();
    for prompt in PROMPTS {
        let mut tokens = vec![EOS];
        model.tokenizer().encode(prompt.as_bytes(), Special::Match, &mut tokens);
        let mut session = model.session();
        session.feed_tokens(&tokens);
        let mut sampler = Sampler::new(Sampling { temperature: 0.0, ..Sampling::default() });
        let written: Vec<u32> = (0..TOKENS).map(|_| session.next_token(&mut sampler)).collect();
        let mut bytes = Vec::new();
        model.tokenizer().decode(&written, &mut bytes).unwrap();
        writeln!(texts, "{prompt:?}\n{:?}", String::from_utf8_lossy(&bytes)).unwrap();
    }
    texts
}

#[test]
fn the_bundled_model_writes_the_same_text_on_every_kernel() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/vectors/greedy.txt");
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(&path, texts(Kernels::best())).unwrap();
    }
    let golden = std::fs::read_to_string(&path).unwrap();
    assert_eq!(golden.lines().count(), 2 * PROMPTS.len());
    for kernels in Kernels::available() {
        for (line, (got, expected)) in texts(kernels).lines().zip(golden.lines()).enumerate() {
            assert_eq!(got, expected, "{}: line {}", kernels.name(), line + 1);
        }
    }
}
