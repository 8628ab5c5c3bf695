//! The training text as streams of tokens.

use super::random;
use super::tokens::{Tokens, TokensError};
use rand::RngExt;

/// A text cut into a batch of contiguous streams, read side by side in chunks.
///
/// Each epoch the streams start at another random offset of the text, which wraps around; the offset is
/// a function of the seed and the epoch, so that a position is two numbers.
pub struct Streams {
    text: Tokens, // [N]
    batch: usize,
    seq_length: usize,
    seed: u64,
    /// The last stream's tokens, and the one after them.
    row: Vec<u32>, // [T + 1]
}

impl Streams {
    /// Streams over `text`, which must have two tokens or more.
    pub fn new(text: Tokens, batch: usize, seq_length: usize, seed: u64) -> Self {
        assert!(text.count() >= 2 && batch > 0 && seq_length > 0);
        Streams { text, batch, seq_length, seed, row: Vec::new() }
    }

    /// Tokens of the text.
    pub fn tokens(&self) -> usize {
        self.text.count()
    }

    /// Tokens of each stream in an epoch.
    fn stream_length(&self) -> usize {
        (self.text.count() / self.batch).max(1)
    }

    /// Chunks of an epoch.
    pub fn chunks(&self) -> u64 {
        self.stream_length().div_ceil(self.seq_length) as u64
    }

    /// Writes chunk `chunk` of epoch `epoch` stream by stream: tokens `[B, T]`, and the tokens after them.
    /// Returns T, which is smaller in an epoch's last chunk.
    ///
    /// # Errors
    /// If the text's tokens can't be read.
    pub fn read(
        &mut self,
        epoch: u32,
        chunk: u64,
        tokens: &mut Vec<u32>,
        targets: &mut Vec<u32>,
    ) -> Result<usize, TokensError> {
        let mut random = random::stream(self.seed, random::Purpose::Offset, u64::from(epoch));
        let offset = random.random_range(0..self.text.count());
        let start = chunk as usize * self.seq_length;
        let steps = self.seq_length.min(self.stream_length() - start);
        tokens.clear();
        targets.clear();
        for stream in 0..self.batch {
            self.read_row(offset + stream * self.stream_length() + start, steps + 1)?;
            tokens.extend_from_slice(&self.row[..steps]);
            targets.extend_from_slice(&self.row[1..]);
        }
        Ok(steps)
    }

    /// Reads `count` tokens from `first` on, as if the text began again at its end.
    fn read_row(&mut self, first: usize, count: usize) -> Result<(), TokensError> {
        self.row.clear();
        while self.row.len() < count {
            let at = (first + self.row.len()) % self.text.count();
            let end = self.text.count().min(at + count - self.row.len());
            self.text.read(at..end, &mut self.row)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_epoch_reads_every_token_of_every_stream_once_and_targets_follow() {
        for (length, batch, seq_length) in [(2, 1, 1), (100, 3, 7), (33, 16, 80), (5, 16, 4), (1000, 16, 10)]
        {
            let ids: Vec<u32> = (0..length as u32).collect();
            let mut streams = Streams::new(Tokens::from_ids(&ids, length), batch, seq_length, 1);
            let (mut tokens, mut targets) = (Vec::new(), Vec::new());
            let mut count = vec![0; length];
            for chunk in 0..streams.chunks() {
                let steps = streams.read(3, chunk, &mut tokens, &mut targets).unwrap();
                assert!(steps > 0 && tokens.len() == steps * batch);
                tokens.iter().for_each(|&token| count[token as usize] += 1);
                for (token, target) in tokens.iter().zip(&targets) {
                    assert_eq!((token + 1) % length as u32, *target);
                }
            }
            let total: usize = count.iter().sum();
            assert_eq!(total, streams.stream_length() * batch);
            assert!(length < batch || count.iter().all(|&c| c <= 1));
        }
    }

    #[test]
    fn epochs_start_at_different_offsets() {
        let ids: Vec<u32> = (0..1000).collect();
        let mut streams = Streams::new(Tokens::from_ids(&ids, 1000), 4, 10, 1);
        let mut first = |epoch| {
            let mut tokens = Vec::new();
            streams.read(epoch, 0, &mut tokens, &mut Vec::new()).unwrap();
            tokens[0]
        };
        assert!((1..10).any(|epoch| first(epoch) != first(0)));
    }
}
