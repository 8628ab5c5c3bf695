//! The course of a number as a few characters.

/// Heights of a column.
const BLOCKS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
/// Values that are kept at most; then every two neighbours become one.
const MOST_VALUES: usize = 256;

/// Values so far, evenly spaced, each the mean of as many as it takes to keep a bounded number of them.
pub struct Course {
    means: Vec<f64>,
    each: u32,
    sum: f64,
    count: u32,
}

impl Course {
    pub fn new() -> Self {
        Course { means: Vec::new(), each: 1, sum: 0.0, count: 0 }
    }

    /// Takes the next value into account. One that is not finite has no height and is left out.
    pub fn push(&mut self, value: f64) {
        if !value.is_finite() {
            return;
        }
        self.sum += value;
        self.count += 1;
        if self.count < self.each {
            return;
        }
        self.means.push(self.sum / f64::from(self.count));
        (self.sum, self.count) = (0.0, 0);
        if self.means.len() == MOST_VALUES {
            self.means = self.means.chunks_exact(2).map(mean).collect();
            self.each *= 2;
        }
    }

    /// At most `width` columns, from the lowest value to the highest.
    pub fn sparkline(&self, width: usize) -> String {
        let columns = self.means.len().min(width);
        let edge = |column: usize| column * self.means.len() / columns;
        let heights: Vec<f64> =
            (0..columns).map(|column| mean(&self.means[edge(column)..edge(column + 1)])).collect();
        let lowest = heights.iter().copied().fold(f64::INFINITY, f64::min);
        let highest = heights.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let top = (BLOCKS.len() - 1) as f64;
        // Of equal heights the quotient is not a number, which is the lowest block.
        let block = |height: &f64| ((height - lowest) / (highest - lowest) * top).round() as usize;
        heights.iter().map(|height| BLOCKS[block(height)]).collect()
    }
}

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len() as f64
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn course(values: impl IntoIterator<Item = f64>) -> Course {
        let mut course = Course::new();
        values.into_iter().for_each(|value| course.push(value));
        course
    }

    #[test]
    fn it_runs_from_the_highest_block_to_the_lowest() {
        assert_eq!(course((0..8).map(|i| -f64::from(i))).sparkline(8), "█▇▆▅▄▃▂▁");
        assert_eq!(course([4.0, 4.0, 0.0, 0.0]).sparkline(2), "█▁");
        assert_eq!(course([1.0, f64::NAN, 1.0]).sparkline(9), "▁▁");
        // Seven over the difference overflows; then the difference does.
        assert_eq!(course([1e-308, 0.0]).sparkline(2), "█▁");
        assert_eq!(course([f64::MAX, f64::MIN]).sparkline(2), "▁▁");
        assert_eq!(course([]).sparkline(9), "");
        assert_eq!(course([1.0]).sparkline(0), "");
    }

    proptest! {
        #[test]
        fn a_falling_loss_never_rises_and_fits(length in 0..5000_usize, width in 0..60_usize) {
            let line = course((0..length).map(|i| 1.0 / (i as f64 + 1.0))).sparkline(width);
            let blocks: Vec<char> = line.chars().collect();
            prop_assert!(blocks.len() <= width && blocks.is_sorted_by(|a, b| a >= b), "{}", line);
            // Halving keeps at least half of the columns that there could be.
            prop_assert!(blocks.len() >= width.min(length).min(MOST_VALUES / 2), "{}", line);
        }

        #[test]
        fn any_values_have_a_line(values in proptest::collection::vec(any::<f64>(), 0..600), width in 0..60_usize) {
            prop_assert!(course(values).sparkline(width).chars().all(|c| BLOCKS.contains(&c)));
        }
    }
}
