//! Any bytes as a checkpoint: opened or refused, never a panic; and what was opened can be used.
//!
//! Each input is tried twice, the second time with a header whose length and checksum fit, so that the
//! archive's own checks are reached.

#![no_main]

use libfuzzer_sys::fuzz_target;
use shoestring::Model;
use shoestring::checkpoint::{Checkpoint, reseal};
use shoestring::kernels::Kernels;
use shoestring::model::{Kind, Layout};
use shoestring::sample::{Sampler, Sampling};
use shoestring::tokenizer::{EOS, Special};

fuzz_target!(
    init: seeds_are_of_this_format(),
    |data: &[u8]| {
        let mut file = data.to_vec();
        open(&file);
        reseal(&mut file);
        open(&file);
    }
);

fn seeds_are_of_this_format() {
    let model = include_bytes!("../seeds/open_checkpoint/model.shoe");
    let resumable = include_bytes!("../seeds/open_checkpoint/resumable.shoe");
    let q8 = include_bytes!("../seeds/open_checkpoint/q8.shoe");
    let q4 = include_bytes!("../seeds/open_checkpoint/q4.shoe");
    let f16 = include_bytes!("../seeds/open_checkpoint/f16.shoe");
    let models = [&model[..], f16, q8, q4].map(|seed| (seed, false));
    for (seed, is_resumable) in models.into_iter().chain([(&resumable[..], true)]) {
        let checkpoint =
            Checkpoint::from_bytes(seed, "the seed").expect("`cargo run --example seeds` renews it");
        assert_eq!(checkpoint.is_resumable(), is_resumable);
    }
}

fn open(file: &[u8]) {
    match Checkpoint::from_bytes(file, "input") {
        Ok(checkpoint) => use_all(checkpoint, file),
        Err(error) => {
            let message = error.to_string();
            assert!(
                message.contains("input") && !message.contains('\n'),
                "not one line naming the file: {message}"
            );
        }
    }
}

fn use_all(checkpoint: Checkpoint, file: &[u8]) {
    let config = checkpoint.config();
    assert_eq!(checkpoint.file_length(), file.len());
    assert_eq!(checkpoint.weights().len(), Layout::of_kind(&config, checkpoint.kind()).lines);
    checkpoint.verify().expect("a small file was verified when it was opened");
    let _ = (checkpoint.record(), checkpoint.kind());
    match checkpoint.training() {
        Ok(training) => {
            assert_eq!(checkpoint.kind(), Kind::F32);
            assert_eq!(training.weights().len(), checkpoint.weights().len());
            assert_eq!(training.moments().len(), 2 * checkpoint.weights().len());
            let _ = (training.position(), training.model_data(), training.validation_data());
        }
        Err(_) => assert!(!checkpoint.is_resumable()),
    }
    encode_and_decode(&checkpoint);
    write_tokens(&Model::new(checkpoint, Kernels::best()));
}

fn encode_and_decode(checkpoint: &Checkpoint) {
    let (view, text) = (checkpoint.tokenizer(), b"the theatre [EOS] of \xff then");
    let (mut tokens, mut bytes) = (Vec::new(), Vec::new());
    view.encode(text, Special::Match, &mut tokens);
    view.decode(&tokens, &mut bytes).expect("its own tokens are known");
    assert_eq!(bytes, text);
}

/// Weights may be any numbers, NaN too; a token is a token all the same.
fn write_tokens(model: &Model) {
    let mut session = model.session();
    session.feed_tokens(&[EOS, model.config().vocabulary as u32 - 1]);
    let mut sampler = Sampler::new(Sampling { repetition_penalty: 1.1, top_k: 40, ..Sampling::default() });
    for _ in 0..3 {
        let token = session.next_token(&mut sampler) as usize;
        assert!(token < model.config().vocabulary, "token {token}");
    }
}
