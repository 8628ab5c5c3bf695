//! Encoding a long text on several threads.

use super::pretokenizer::split_evenly;
use super::{Encoder, Special, TokenizerView};

/// A thread is not started for less text than this, in bytes.
const SMALLEST_SHARE: usize = 1 << 15;

/// Encodes the pieces of a text, each on several threads. The ids are those of [`Encoder`].
#[derive(Clone, Debug)]
pub struct ParallelEncoder<'a> {
    /// Each thread's encoder, and the ids of its part of the piece.
    workers: Vec<(Encoder<'a>, Vec<u32>)>, // [threads]
}

impl<'a> ParallelEncoder<'a> {
    /// An encoder for `view` with `threads` threads (0 is 1).
    pub fn new(view: TokenizerView<'a>, threads: usize) -> Self {
        Self { workers: vec![(Encoder::new(view), Vec::new()); threads.max(1)] }
    }

    /// The ids of `piece`, in parts one after the other: a text, or a piece of one that was cut at a
    /// [`split_point`](super::split_point).
    pub fn encode(&mut self, piece: &[u8], special: Special) -> impl Iterator<Item = &[u32]> {
        let parts: Vec<_> = split_evenly(piece, self.workers.len(), SMALLEST_SHARE).collect();
        let workers = &mut self.workers[..parts.len()];
        std::thread::scope(|scope| {
            for ((encoder, ids), part) in workers.iter_mut().zip(parts) {
                let mut encode = move || {
                    ids.clear();
                    encoder.encode(part, special, ids);
                };
                // The last part's turn is this thread's, once the others are at work.
                if part.as_ptr_range().end == piece.as_ptr_range().end {
                    encode();
                } else {
                    scope.spawn(encode);
                }
            }
        });
        workers.iter().map(|(_, ids)| &ids[..])
    }
}
