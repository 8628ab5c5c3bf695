//! How long something takes: the median of repeated runs.

use std::time::{Duration, Instant};

/// How long to measure each thing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Effort {
    /// Time for each number, that it takes to prepare each run included.
    pub each: Duration,
}

impl Effort {
    /// About fifty seconds for so many sets of kernels.
    pub fn full(sets: usize) -> Self {
        Self { each: Duration::from_millis(680) / sets.max(1) as u32 }
    }

    /// About ten seconds, if only one set trains and decodes.
    pub fn quick(sets: usize) -> Self {
        Self { each: Duration::from_millis(160) / sets.max(1) as u32 }
    }

    /// Time of one sample at least. Longer than a clock's resolution, and so short that most samples of a thread
    /// that shares its core are taken between the interruptions.
    const SAMPLE: Duration = Duration::from_micros(100);

    /// The median of the seconds that `run` says it took, over as many samples as there is time for. The first run
    /// warms up, and counts only if there is no time for another.
    pub fn median_seconds(self, mut run: impl FnMut() -> Duration) -> f64 {
        let [median] = self.medians_by_turns(|_| run());
        median
    }

    /// The same for several things, each `run` by its number. They take turns, so that what slows the machine for a
    /// while slows all of them.
    pub fn medians_by_turns<const N: usize>(self, mut run: impl FnMut(usize) -> Duration) -> [f64; N] {
        let start = Instant::now();
        let first: [_; N] = std::array::from_fn(|which| {
            let start = Instant::now();
            (run(which), start.elapsed())
        });
        let runs = first.map(|(_, prepared_run)| {
            let runs = Self::SAMPLE.as_nanos().div_ceil(prepared_run.as_nanos().max(1));
            u32::try_from(runs).unwrap_or(u32::MAX).max(1)
        });
        let mut samples = [const { Vec::new() }; N];
        while start.elapsed() < self.each * N as u32 {
            for which in 0..N {
                let total: Duration = (0..runs[which]).map(|_| run(which)).sum();
                samples[which].push(total.as_secs_f64() / f64::from(runs[which]));
            }
        }
        std::array::from_fn(|which| match &mut samples[which] {
            samples if samples.is_empty() => first[which].0.as_secs_f64(),
            samples => median(samples),
        })
    }
}

fn median(samples: &mut [f64]) -> f64 {
    let middle = samples.len() / 2;
    *samples.select_nth_unstable_by(middle, f64::total_cmp).1
}

/// The time `work` takes.
pub fn timed<R>(work: impl FnOnce() -> R) -> Duration {
    let start = Instant::now();
    std::hint::black_box(work());
    start.elapsed()
}

#[cfg(test)]
mod tests {
    use super::*;

    const EFFORT: Effort = Effort { each: Duration::from_millis(2) };

    #[test]
    fn the_median_does_not_mind_outliers() {
        assert_eq!(median(&mut [3.0, 1000.0, 1.0]), 3.0);
        assert_eq!(median(&mut [7.0]), 7.0);
    }

    #[test]
    fn runs_are_counted_by_what_they_say_they_took() {
        let seconds = EFFORT.median_seconds(|| Duration::from_micros(3));
        // A sum of any number of runs, divided by that number: rounded once.
        assert!((seconds / 3e-6 - 1.0).abs() <= f64::EPSILON, "{seconds}");
    }

    #[test]
    fn several_things_take_turns() {
        let mut order = Vec::new();
        let medians: [f64; 3] = EFFORT.medians_by_turns(|which| {
            order.push(which);
            Duration::from_micros(100 * (1 + which as u64))
        });
        for (which, median) in medians.into_iter().enumerate() {
            let expected = 1e-4 * (1 + which) as f64;
            assert!((median / expected - 1.0).abs() <= 1e-12, "{medians:?}");
        }
        order.dedup();
        assert!(order.len() >= 3 && order.iter().enumerate().all(|(i, &which)| which == i % 3), "{order:?}");
    }

    #[test]
    fn what_takes_longer_than_there_is_time_is_run_once() {
        let mut runs = 0;
        let seconds = EFFORT.median_seconds(|| {
            runs += 1;
            timed(|| std::thread::sleep(2 * EFFORT.each))
        });
        assert!(runs == 1 && seconds >= 0.004, "{runs} runs, {seconds} s");
    }
}
