//! Any bytes as a saved session: restored or refused, never a panic; what was refused changed nothing, and with what was
//! restored the model goes on.
//!
//! Each input is tried three times: as it is, with a checksum that fits, and with a model and a length that fit too.

#![no_main]

use libfuzzer_sys::fuzz_target;
use shoestring::Model;
use shoestring::checkpoint::Checkpoint;
use shoestring::kernels::Kernels;
use shoestring::model::{Session, SessionError};
use shoestring::sample::{Sampler, Sampling};
use shoestring::tokenizer::EOS;
use std::sync::LazyLock;
use xxhash_rust::xxh3::xxh3_64;

static MODEL: LazyLock<Model> = LazyLock::new(|| {
    let checkpoint = Checkpoint::from_bytes(&shoestring_fuzz::checkpoint(false), "the model");
    let model = Model::new(checkpoint.expect("it was just made"), Kernels::best());
    let seed = include_bytes!("../seeds/session_restore/session");
    model.session().restore(seed).expect("`cargo run --example seeds` renews it");
    model
});

/// A session that has read something.
static BEGUN: LazyLock<Session<'static>> = LazyLock::new(|| {
    let mut session = MODEL.session();
    session.feed("the theatre");
    session
});

fuzz_target!(|data: &[u8]| {
    let mut bytes = data.to_vec();
    let _ = restore(&bytes);
    seal(&mut bytes);
    let _ = restore(&bytes);
    // Magic and version, number of floats, model; then the floats.
    let right = BEGUN.save();
    bytes.resize(right.len(), 0x3f);
    bytes[..24].copy_from_slice(&right[..24]);
    seal(&mut bytes);
    restore(&bytes).expect("only its numbers are the input's");
});

/// Makes the last eight bytes the checksum of those before.
fn seal(bytes: &mut [u8]) {
    if let Some((content, checksum)) = bytes.split_last_chunk_mut::<8>() {
        *checksum = xxh3_64(content).to_le_bytes();
    }
}

fn restore(bytes: &[u8]) -> Result<(), SessionError> {
    let mut session = BEGUN.clone();
    let restored = session.restore(bytes);
    match restored {
        Ok(()) => {
            assert_eq!(session.save(), bytes, "not what was restored");
            write_tokens(session);
        }
        Err(error) => {
            assert!(!error.to_string().contains('\n'), "not one line: {error}");
            assert_eq!(session.save(), BEGUN.save(), "refused, but changed");
        }
    }
    restored
}

/// The state may be any numbers, NaN too; a token is a token all the same.
fn write_tokens(mut session: Session<'_>) {
    let vocabulary = MODEL.config().vocabulary;
    let mut sampler = Sampler::new(Sampling { repetition_penalty: 1.1, top_k: 40, ..Sampling::default() });
    for _ in 0..2 {
        let token = session.next_token(&mut sampler) as usize;
        assert!(token < vocabulary, "token {token}");
    }
    session.feed_tokens(&[EOS]);
    assert!(session.sample(&mut Sampler::new(Sampling::default())) < vocabulary as u32);
}
