//! What limits the kernels: how fast a core multiplies, and how fast it reads.

use super::machine::{Cache, Machine};
use super::timing::{Effort, timed};
use serde::Serialize;
use shoestring_kernels::{Kernels, Line, PANEL_ROWS};

/// Steps of multiply-adds in one run: about a millisecond.
const STEPS: usize = 1 << 17;
/// Bytes read in one run, of a cache that holds less, as many times over.
const RUN_BYTES: usize = 4 << 20;
/// Caches of a machine that does not describe its own: sizes that most have at least.
const ASSUMED: [usize; 3] = [32 << 10, 256 << 10, 4 << 20];
/// Most that is read to measure memory.
const LARGEST: usize = 512 << 20;

/// The peaks of one core with one set of kernels.
#[derive(Clone, Debug, Serialize)]
pub struct Peaks {
    /// Billions of floating-point operations a second, a multiply-add being two.
    pub gflops: f64,
    /// Reading, nearest first.
    pub reads: Vec<Read>,
}

/// How fast a cache or the memory is read.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Read {
    /// `L1d`, `L2`, `L3` or `memory`.
    pub level: &'static str,
    /// Its size; none for memory.
    pub size: Option<usize>,
    /// Bytes read over and over to measure it.
    pub bytes: usize,
    /// Billions of bytes a second.
    pub gb_per_s: f64,
}

/// Something to read, large enough for every level of a machine's memory.
pub struct Memory {
    lines: Vec<Line>,
    levels: Vec<(&'static str, Option<usize>, usize)>,
    /// Whether the machine described its caches, or typical sizes are assumed.
    pub assumed: bool,
}

impl Memory {
    /// Buffers for `machine`'s caches, and for its memory if `available` bytes, where known, allow.
    pub fn new(machine: &Machine, available: Option<u64>) -> Self {
        let levels = levels(&machine.caches, available);
        let largest = levels.iter().map(|&(_, _, bytes)| bytes).max().unwrap_or(0);
        // Not zeros: the system would map one page of them over and over.
        let lines = vec![Line([1.0; PANEL_ROWS]); largest / size_of::<Line>()];
        Memory { lines, levels, assumed: machine.caches.is_empty() }
    }
}

/// Name, size, and bytes to read of every level. Of a cache that is half of a thread's share, if that is much more
/// than the caches before it hold; of memory, much more than all of them hold.
fn levels(caches: &[Cache], available: Option<u64>) -> Vec<(&'static str, Option<usize>, usize)> {
    let assumed = (1..).zip(ASSUMED).map(|(level, bytes)| Cache { level, bytes, shared_by: 1 });
    let assumed: Vec<Cache> = assumed.collect();
    let mut levels = Vec::new();
    let mut last = 0_usize;
    for &Cache { level, bytes, shared_by } in if caches.is_empty() { &assumed } else { caches } {
        let name = ["L1d", "L2", "L3", "L4"].get(usize::from(level).wrapping_sub(1));
        let read = (bytes / shared_by.max(1) / 2).max(last.saturating_mul(4)).min(bytes / 2);
        levels.extend(name.map(|&name| (name, Some(bytes), read)));
        last = last.max(bytes);
    }
    let spare = available.map_or(usize::MAX, |bytes| usize::try_from(bytes / 4).unwrap_or(usize::MAX));
    let bytes = last.saturating_mul(4).clamp(64 << 20, LARGEST).min(spare);
    // Less would measure the cache.
    if bytes >= last.saturating_mul(2) {
        levels.push(("memory", None, bytes));
    }
    levels
}

impl Peaks {
    /// Measures `kernels` on this thread.
    pub fn measure(kernels: &Kernels, memory: &Memory, effort: Effort) -> Self {
        let multiply_adds = kernels.probe_multiply_adds(1) * STEPS as f64;
        let seconds = effort.median_seconds(|| timed(|| kernels.probe_multiply_adds(STEPS)));
        let read = |&(level, size, bytes): &(_, _, usize)| {
            let lines = &memory.lines[..bytes / size_of::<Line>()];
            let times = (RUN_BYTES / bytes).max(1);
            let sweep = || (0..times).map(|_| kernels.probe_reads(std::hint::black_box(lines))).sum::<f64>();
            let seconds = effort.median_seconds(|| timed(sweep));
            Read { level, size, bytes, gb_per_s: (times * bytes) as f64 / seconds / 1e9 }
        };
        Peaks { gflops: 2.0 * multiply_adds / seconds / 1e9, reads: memory.levels.iter().map(read).collect() }
    }

    /// The nearest level that holds `bytes`: where repeated work on so much data reads from.
    pub fn level_of(&self, bytes: usize) -> Option<&Read> {
        self.reads.iter().find(|read| read.size.is_none_or(|size| size >= bytes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CACHES: [Cache; 3] = [
        Cache { level: 1, bytes: 48 << 10, shared_by: 1 },
        Cache { level: 2, bytes: 1 << 20, shared_by: 1 },
        Cache { level: 3, bytes: 32 << 20, shared_by: 2 },
    ];

    #[test]
    fn half_of_a_share_of_each_cache_is_read_and_memory_beyond_them() {
        let expected = [
            ("L1d", Some(48 << 10), 24 << 10),
            ("L2", Some(1 << 20), 512 << 10),
            ("L3", Some(32 << 20), 8 << 20),
            ("memory", None, 128 << 20),
        ];
        assert_eq!(levels(&CACHES, None), expected);
        assert_eq!(levels(&CACHES[..1], None).last(), Some(&("memory", None, 64 << 20)));
        assert_eq!(levels(&[], None).len(), 4);
        // What each of 64 threads has of the third is less than the second.
        let shared = [CACHES[1], Cache { level: 3, bytes: 96 << 20, shared_by: 64 }];
        assert_eq!(levels(&shared, None)[1], ("L3", Some(96 << 20), 4 << 20));
    }

    #[test]
    fn memory_is_not_measured_where_there_is_too_little_or_too_much_cache() {
        assert_eq!(levels(&CACHES, Some(300 << 20)).last(), Some(&("memory", None, 75 << 20)));
        assert_eq!(levels(&CACHES, Some(200 << 20)).len(), 3);
        let huge = [Cache { level: 3, bytes: 1 << 30, shared_by: 64 }];
        assert_eq!(levels(&huge, None), [("L3", Some(1 << 30), 8 << 20)]);
    }

    #[test]
    fn data_is_read_from_the_nearest_level_that_holds_it() {
        let read = |level, size| Read { level, size, bytes: 0, gb_per_s: 1.0 };
        let reads = vec![read("L1d", Some(10)), read("L2", Some(100)), read("memory", None)];
        let mut peaks = Peaks { gflops: 1.0, reads };
        let level = |peaks: &Peaks, bytes| peaks.level_of(bytes).map(|read| read.level);
        assert_eq!(
            [10, 11, 101].map(|bytes| level(&peaks, bytes)),
            [Some("L1d"), Some("L2"), Some("memory")]
        );
        peaks.reads.pop();
        assert_eq!(level(&peaks, 101), None);
    }
}
