//! The training text as streams of tokens.

use super::random;
use rand::RngExt;

/// A text cut into a batch of contiguous streams, read side by side in chunks.
///
/// Each epoch the streams start at another random offset of the text, which wraps around; the offset is
/// a function of the seed and the epoch, so that a position is two numbers.
pub struct Streams {
    tokens: Vec<u32>, // [N]
    batch: usize,
    seq_length: usize,
    seed: u64,
}

impl Streams {
    /// Streams over `tokens`, which must be at least two.
    pub fn new(tokens: Vec<u32>, batch: usize, seq_length: usize, seed: u64) -> Self {
        assert!(tokens.len() >= 2 && batch > 0 && seq_length > 0);
        Streams { tokens, batch, seq_length, seed }
    }

    /// Tokens of the text.
    pub fn tokens(&self) -> usize {
        self.tokens.len()
    }

    /// Tokens of each stream in an epoch.
    fn stream_length(&self) -> usize {
        (self.tokens.len() / self.batch).max(1)
    }

    /// Chunks of an epoch.
    pub fn chunks(&self) -> u64 {
        self.stream_length().div_ceil(self.seq_length) as u64
    }

    /// Writes chunk `chunk` of epoch `epoch` stream by stream: tokens `[B, T]`, and the tokens after them.
    /// Returns T, which is smaller in an epoch's last chunk.
    pub fn read(&self, epoch: u32, chunk: u64, tokens: &mut Vec<u32>, targets: &mut Vec<u32>) -> usize {
        let mut random = random::stream(self.seed, random::Purpose::Offset, u64::from(epoch));
        let offset = random.random_range(0..self.tokens.len());
        let start = chunk as usize * self.seq_length;
        let steps = self.seq_length.min(self.stream_length() - start);
        tokens.clear();
        targets.clear();
        for stream in 0..self.batch {
            let first = offset + stream * self.stream_length() + start;
            tokens.extend((first..first + steps).map(|at| self.tokens[at % self.tokens.len()]));
            targets.extend((first + 1..=first + steps).map(|at| self.tokens[at % self.tokens.len()]));
        }
        steps
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_epoch_reads_every_token_of_every_stream_once_and_targets_follow() {
        for (length, batch, seq_length) in [(2, 1, 1), (100, 3, 7), (33, 16, 80), (5, 16, 4), (1000, 16, 10)]
        {
            let streams = Streams::new((0..length as u32).collect(), batch, seq_length, 1);
            let (mut tokens, mut targets) = (Vec::new(), Vec::new());
            let mut count = vec![0; length];
            for chunk in 0..streams.chunks() {
                let steps = streams.read(3, chunk, &mut tokens, &mut targets);
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
        let streams = Streams::new((0..1000).collect(), 4, 10, 1);
        let first = |epoch| {
            let mut tokens = Vec::new();
            streams.read(epoch, 0, &mut tokens, &mut Vec::new());
            tokens[0]
        };
        assert!((1..10).any(|epoch| first(epoch) != first(0)));
    }
}
