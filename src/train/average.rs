//! The average of the weights over the last steps: the model that a run validates and saves.

use rayon::prelude::*;
use shoestring_kernels::Line;

/// How much less than all steps the average is about: the last twentieth of those so far.
const SHARE: f64 = 20.0;
/// Lines of one task.
const TASK_LINES: usize = 2048;

/// The polynomial-decay average of Shamir and Zhang (2013) over a run's weights.
///
/// Each step moves the weights about the point that they are on their way to; the average is nearer to it. Its
/// span grows with the run, so it needs neither the run's length nor a correction for its start.
pub struct Average {
    lines: Vec<Line>, // [lines], laid out as the weights
}

impl Average {
    /// The average before the first step of a run that starts from `weights`.
    pub fn new(weights: &[Line]) -> Self {
        Average { lines: weights.to_vec() }
    }

    /// Takes in the weights after step `step`, from 1 on.
    pub fn update(&mut self, weights: &[Line], step: u64) {
        let part = (SHARE / (step as f64 + SHARE - 1.0)) as f32;
        let tasks = self.lines.par_chunks_mut(TASK_LINES).zip(weights.par_chunks(TASK_LINES));
        tasks.for_each(|(average, weights)| {
            for (average, weights) in average.iter_mut().zip(weights) {
                for (average, weight) in average.0.iter_mut().zip(weights.0) {
                    *average += part * (weight - *average);
                }
            }
        });
    }

    /// The averaged weights.
    pub fn lines(&self) -> &[Line] {
        &self.lines
    }

    /// Puts the average back to what it was at some point.
    ///
    /// # Panics
    /// If the length differs.
    pub fn restore(&mut self, lines: &[Line]) {
        self.lines.copy_from_slice(lines);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The average's definition: step t's weights count in proportion to t (t + 1) ... (t + SHARE - 2).
    #[test]
    fn later_steps_count_as_the_polynomial_says() {
        let weights = |step: u64| ((step * step) % 17) as f32;
        let mut average = Average::new(&[Line([7.0; 16])]);
        let (mut sum, mut total) = (0.0, 0.0);
        for step in 1..=300 {
            average.update(&[Line([weights(step); 16])], step);
            let factors = (0..SHARE as u64 - 1).map(|i| (step + i) as f64 / 300.0);
            let part: f64 = factors.product();
            sum += part * f64::from(weights(step));
            total += part;
            let expected = sum / total;
            assert!((f64::from(average.lines()[0].0[5]) - expected).abs() < 1e-4, "step {step}: {expected}");
        }
    }
}
