//! The probes do all of the work whose speed they are there to measure.

use crate::LENGTHS;
use crate::buffers::{Lines, Random};
use crate::compare::{is_close, reduction_bound};
use shoestring_kernels::{Kernels, Line, PANEL_ROWS};

#[test]
fn multiply_adds_count_themselves() {
    for kernels in Kernels::available() {
        let name = kernels.name();
        let step = kernels.probe_multiply_adds(1);
        assert!(step >= PANEL_ROWS as f64 && step % PANEL_ROWS as f64 == 0.0, "{name}: {step} in a step");
        for steps in LENGTHS.into_iter().chain([1 << 19]) {
            assert_eq!(kernels.probe_multiply_adds(steps), step * steps as f64, "{name}: {steps} steps");
        }
    }
}

#[test]
#[should_panic(expected = "probe_multiply_adds: `steps` must be at most 524288, got 524289")]
fn more_steps_than_can_be_counted_are_refused() {
    let _ = Kernels::best().probe_multiply_adds((1 << 19) + 1);
}

#[test]
fn every_float_is_read() {
    for kernels in Kernels::available() {
        for length in LENGTHS {
            let mut random = Random(length as u64);
            let lines: Vec<Line> =
                (0..length).map(|_| Line(std::array::from_fn(|_| random.float()))).collect();
            let values = || lines.iter().flat_map(|line| line.0).map(f64::from);
            let (sum, magnitude): (f64, f64) = (values().sum(), values().map(f64::abs).sum());
            let got = kernels.probe_reads(&Lines::new(&lines));
            let bound = reduction_bound(length * PANEL_ROWS, magnitude);
            assert!(is_close(got as f32, sum, bound), "{}: {length} lines: {got}, not {sum}", kernels.name());
        }
    }
}
