//! A session as bytes, to go on with it another day.
//!
//! | offset | bytes | |
//! |---|---|---|
//! | 0 | 8 | `SHOESESS` |
//! | 8 | 4 | version, 1, as are all numbers little-endian |
//! | 12 | 4 | floats n |
//! | 16 | 8 | checksum of the model's file |
//! | 24 | 4 n | the state [L, E, padded(H)], then the last output [padded(H)], f32 |
//! | 24 + 4 n | 8 | XXH3 of everything before |

use thiserror::Error;
use xxhash_rust::xxh3::xxh3_64;

const MAGIC: [u8; 8] = *b"SHOESESS";
const VERSION: u32 = 1;
/// Bytes before the floats.
const HEADER: usize = 24;

/// Why bytes are not a session that can be restored.
#[derive(Debug, Error, Clone, Copy, PartialEq, Eq)]
pub enum SessionError {
    /// They don't begin as a session does.
    #[error("it is not a saved session; name a file that a conversation was saved in")]
    Foreign,
    /// They were written by a newer version.
    #[error(
        "the session has format version {0}, newer than the {VERSION} this shoestring reads; update shoestring"
    )]
    Newer(u32),
    /// They are not what was saved.
    #[error("the session is truncated or damaged; begin a new one")]
    Damaged,
    /// They are the state of another model.
    #[error("the session was saved with another model; open that one, or begin a new session")]
    OtherModel,
}

/// The bytes of a session of the model whose file has the checksum `model`.
pub fn encode(model: u64, state: &[f32], output: &[f32]) -> Vec<u8> {
    let floats = state.len() + output.len();
    let mut bytes = Vec::with_capacity(HEADER + 4 * floats + 8);
    bytes.extend(MAGIC);
    bytes.extend(VERSION.to_le_bytes());
    bytes.extend((floats as u32).to_le_bytes());
    bytes.extend(model.to_le_bytes());
    bytes.extend(state.iter().chain(output).flat_map(|value| value.to_le_bytes()));
    bytes.extend(xxh3_64(&bytes).to_le_bytes());
    bytes
}

/// Reads the bytes of a session of the model whose file has the checksum `model`; nothing changes if they are wrong.
pub fn decode(bytes: &[u8], model: u64, state: &mut [f32], output: &mut [f32]) -> Result<(), SessionError> {
    let floats = floats(bytes, model, state.len() + output.len())?;
    for (value, bytes) in state.iter_mut().chain(output).zip(floats) {
        *value = f32::from_le_bytes(*bytes);
    }
    Ok(())
}

/// The floats, `count` of them, in the bytes of a session of the model whose file has the checksum `model`.
pub fn floats(bytes: &[u8], model: u64, count: usize) -> Result<&[[u8; 4]], SessionError> {
    if !bytes.starts_with(&MAGIC) {
        return Err(SessionError::Foreign);
    }
    let version = u32::from_le_bytes(*bytes[8..].first_chunk().ok_or(SessionError::Damaged)?);
    if version > VERSION {
        return Err(SessionError::Newer(version));
    }
    let (content, checksum) = bytes.split_last_chunk::<8>().ok_or(SessionError::Damaged)?;
    if content.len() < HEADER || version != VERSION || u64::from_le_bytes(*checksum) != xxh3_64(content) {
        return Err(SessionError::Damaged);
    }
    let (header, floats) = content.split_at(HEADER);
    let (floats, rest) = floats.as_chunks::<4>();
    if header[12..16] != (floats.len() as u32).to_le_bytes() || !rest.is_empty() {
        return Err(SessionError::Damaged);
    }
    if header[16..24] != model.to_le_bytes() || floats.len() != count {
        return Err(SessionError::OtherModel);
    }
    Ok(floats)
}
