//! Random numbers as a function of the seed, their purpose and a counter: nothing to save or restore.

use rand::SeedableRng;
use rand_pcg::Pcg64Mcg;
use xxhash_rust::xxh3::xxh3_64_with_seed;

/// What random numbers are for; different purposes never share a stream. The numbers are part of every run's result.
#[derive(Clone, Copy)]
pub enum Purpose {
    Initialisation = 0,
    Offset = 1,
    Dropout = 2,
}

/// A 64-bit key for `purpose` at `counter`.
pub fn key(seed: u64, purpose: Purpose, counter: u64) -> u64 {
    let mut bytes = [0; 16];
    bytes[..8].copy_from_slice(&(purpose as u64).to_le_bytes());
    bytes[8..].copy_from_slice(&counter.to_le_bytes());
    xxh3_64_with_seed(&bytes, seed)
}

/// A random stream for `purpose` at `counter`.
pub fn stream(seed: u64, purpose: Purpose, counter: u64) -> Pcg64Mcg {
    Pcg64Mcg::seed_from_u64(key(seed, purpose, counter))
}
