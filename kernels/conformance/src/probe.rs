//! The probes do all of the work whose speed they are there to measure.

use crate::LENGTHS;
use crate::buffers::Lines;
use crate::compare::{Expected, assert_close, reduction_bound};
use crate::failure::case;
use crate::random::Random;
use shoestring_kernels::{Kernels, Line, PANEL_ROWS};

checks! {
    multiply_adds_count_themselves: probe_multiply_adds;
    every_float_is_read: probe_reads;
}

fn multiply_adds_count_themselves(kernels: &Kernels) {
    case("probe_multiply_adds");
    let step = kernels.probe_multiply_adds(1);
    assert!(step >= PANEL_ROWS as f64 && step % PANEL_ROWS as f64 == 0.0, "{step} in a step");
    for steps in LENGTHS.into_iter().chain([1 << 19]) {
        assert_eq!(kernels.probe_multiply_adds(steps), step * steps as f64, "{steps} steps");
    }
}

fn every_float_is_read(kernels: &Kernels) {
    for length in LENGTHS {
        case(format_args!("probe_reads {length}"));
        let mut random = Random(length as u64);
        let lines: Vec<Line> = (0..length).map(|_| Line(std::array::from_fn(|_| random.float()))).collect();
        let values = || lines.iter().flat_map(|line| line.0).map(f64::from);
        let (value, magnitude): (f64, f64) = (values().sum(), values().map(f64::abs).sum());
        let bound = reduction_bound(length * PANEL_ROWS, magnitude);
        let got = kernels.probe_reads(&Lines::new(&lines));
        assert_close("sum", &[got as f32], &[Expected { value, bound }]);
    }
}
