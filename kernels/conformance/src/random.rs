//! Numbers to fill buffers with, and shapes to try.

use proptest::strategy::Strategy;
use proptest::test_runner::{Config, TestError, TestRunner};
use shoestring_kernels::padded;

/// A reproducible stream of numbers: SplitMix64 (Steele, Lea and Flood, 2014).
#[derive(Clone, Debug)]
pub struct Random(pub u64);

impl Random {
    /// Uniform in all 64 bits.
    pub fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut x = self.0;
        x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        x ^ (x >> 31)
    }

    /// Uniform in [-1, 1).
    pub fn float(&mut self) -> f32 {
        ((self.bits() >> 40) as f32 / (1 << 23) as f32) - 1.0
    }

    /// Uniform in [-1, 1).
    pub fn floats(&mut self, length: usize) -> Vec<f32> {
        (0..length).map(|_| self.float()).collect()
    }

    /// Rows of `width` values in [-1, 1), padded with zeros: [rows, padded(width)].
    pub fn rows(&mut self, rows: usize, width: usize) -> Vec<f32> {
        let mut values = vec![0.0; rows * padded(width)];
        for row in values.chunks_exact_mut(padded(width).max(1)) {
            row[..width].fill_with(|| self.float());
        }
        values
    }
}

/// Runs `test` on 48 inputs of `strategy`, and fails on the smallest one it fails on.
pub(crate) fn for_any<S: Strategy>(strategy: S, test: impl Fn(S::Value)) {
    let mut runner = TestRunner::new(Config { cases: 48, failure_persistence: None, ..Config::default() });
    let result = runner.run(&strategy, |input| {
        test(input);
        Ok(())
    });
    let input = match result {
        Ok(()) => return,
        Err(TestError::Fail(_, input)) => input,
        Err(TestError::Abort(reason)) => panic!("no inputs: {reason}"),
    };
    // Once more, so that the failure is this input's and not that of the last one tried.
    let description = format!("{input:?}");
    test(input);
    panic!("failed on {description}, but not when that was tried again");
}
