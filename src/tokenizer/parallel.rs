//! Encoding a long text on several threads.

use std::sync::{Mutex, PoisonError};
use std::thread;

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
        in_parallel(workers.iter_mut().zip(parts), |((encoder, ids), part)| {
            ids.clear();
            encoder.encode(part, special, ids);
        });
        workers.iter().map(|(_, ids)| &ids[..])
    }
}

/// Does `work` for each of `tasks`, on a thread each, this one included; on as many as the system grants, if that is fewer.
pub fn in_parallel<T: Send>(tasks: impl ExactSizeIterator<Item = T> + Send, work: impl Fn(T) + Sync) {
    let helpers = tasks.len().saturating_sub(1);
    let tasks = Mutex::new(tasks);
    let next = || tasks.lock().unwrap_or_else(PoisonError::into_inner).next();
    let work_off = || {
        while let Some(task) = next() {
            work(task);
        }
    };
    thread::scope(|scope| {
        for _ in 0..helpers {
            if thread::Builder::new().spawn_scoped(scope, work_off).is_err() {
                break;
            }
        }
        work_off();
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_task_is_done_once_in_its_own_place() {
        for count in [0, 1, 2, 7] {
            let mut done = vec![0; count];
            in_parallel(done.iter_mut().enumerate(), |(task, done)| *done += 1 + task);
            assert_eq!(done, (1..=count).collect::<Vec<_>>());
        }
    }
}
