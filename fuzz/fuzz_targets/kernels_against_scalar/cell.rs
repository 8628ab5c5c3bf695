//! The recurrent cell, forward and backward.

use crate::{Case, compare_all, scalar, sums};
use shoestring_kernels::{Kernels, padded};
use shoestring_kernels_conformance::buffers::{Floats, Lines};
use shoestring_kernels_conformance::compare::{Expected, assert_close, reduction_bound};

/// Twice the accuracy of GELU and its derivative, absolute or relative: both sides have an error.
const GELU: f64 = 2e-6;

/// The operands of a few steps: states of the order of 1, weights that keep them there.
struct Cell {
    steps: usize,
    batch: usize,
    hidden: usize,
    misalignment: usize,
    h: Vec<f32>,         // [B, Hp]
    a: Vec<f32>,         // [T, B, Hp]
    z: Vec<f32>,         // [T, B, Hp], rows of some streams 0
    recurrent: Vec<f32>, // [H, H]
}

impl Cell {
    fn new(case: &mut Case) -> Self {
        let (steps, batch, hidden) = (case.outputs % 5, case.rows % 17 + 1, case.inputs);
        let random = &mut case.random;
        let mut z: Vec<f32> = random.rows(steps * batch, hidden).iter().map(|z| z.abs()).collect();
        for row in z.chunks_exact_mut(padded(hidden)) {
            if random.bits() % 4 == 0 {
                row.fill(0.0); // an inactive expert
            }
        }
        let scale = 1.0 / (hidden as f32).sqrt();
        Self {
            steps,
            batch,
            hidden,
            misalignment: case.misalignment,
            h: random.rows(batch, hidden),
            a: random.rows(steps * batch, hidden).iter().map(|a| 2.0 * a).collect(),
            z,
            recurrent: random.floats(hidden * hidden).iter().map(|w| w * scale).collect(),
        }
    }

    fn slot(&self) -> usize {
        self.batch * padded(self.hidden)
    }

    /// h [T + 1, B, Hp] and a [T, B, Hp] after the steps of `a` and `z`, from `h`.
    fn forward(
        &self,
        kernels: &Kernels,
        h: &[f32],
        a: &[f32],
        z: &[f32],
        recurrent: &[f32],
    ) -> (Vec<f32>, Vec<f32>) {
        let mut states = Floats::unwritten(a.len() + self.slot(), self.misalignment);
        states[..self.slot()].copy_from_slice(h);
        let (mut a, z) = (Floats::new(a, 15 - self.misalignment), Floats::new(z, 3));
        let recurrent = Lines::panels(recurrent, self.hidden, self.hidden);
        kernels.cell_forward(&mut states, &mut a, &z, &recurrent, self.batch, self.hidden);
        (states.to_vec(), a.to_vec())
    }

    /// What one step should make of the state `h`: the pre-activation, and the new state.
    fn expected_step(&self, t: usize, h: &[f32]) -> [Vec<Expected>; 2] {
        let here = t * self.slot()..(t + 1) * self.slot();
        let (a, z) = (&self.a[here.clone()], &self.z[here]);
        let operands = [h.to_vec(), a.to_vec(), self.recurrent.clone()];
        let pre_activation = sums(self.hidden, &operands, |kernels, [h, a, recurrent]| {
            self.forward(kernels, h, a, z, recurrent).1
        });
        let (states, _) = self.forward(scalar(), h, a, z, &self.recurrent);
        let state = |i: usize| {
            let (old, z, Expected { value: a, bound }) =
                (f64::from(h[i]), f64::from(z[i]), pre_activation[i]);
            // |gelu(a)| is at most |a|, and its slope at most 1.13.
            let candidate_bound = 1.13 * bound + GELU * (0.1 + a.abs());
            let bound = z * candidate_bound + reduction_bound(2, old.abs() + z * (a.abs() + old.abs()));
            Expected { value: states[self.slot() + i].into(), bound }
        };
        let states = (0..self.slot()).map(state).collect();
        [pre_activation, states]
    }
}

/// Each step from the kernels' own state before it, so that errors do not add up.
pub fn forward(mut case: Case) {
    let cell = Cell::new(&mut case);
    for kernels in Kernels::available() {
        let (h, a) = cell.forward(kernels, &cell.h, &cell.a, &cell.z, &cell.recurrent);
        for (t, (h, a)) in
            h.windows(2 * cell.slot()).step_by(cell.slot()).zip(a.chunks_exact(cell.slot())).enumerate()
        {
            let what = format!("{} cell_forward {}x{}, step {t}", kernels.name(), cell.batch, cell.hidden);
            let (old, new) = h.split_at(cell.slot());
            let [expected_a, expected_h] = cell.expected_step(t, old);
            assert_close(&format!("{what}, a"), a, &expected_a);
            assert_close(&format!("{what}, h"), new, &expected_h);
        }
    }
}

pub fn backward(mut case: Case) {
    let cell = Cell::new(&mut case);
    let Cell { steps, batch, hidden, misalignment, .. } = cell;
    let random = &mut case.random;
    let dh = random.rows(batch, hidden); // [B, Hp]
    let dy = random.rows(steps * batch, hidden); // [T, B, Hp]
    let gate = random.floats(steps * batch); // [T, B]
    let (h, a) = cell.forward(scalar(), &cell.h, &cell.a, &cell.z, &cell.recurrent);
    let transposed: Vec<f32> =
        (0..hidden * hidden).map(|i| cell.recurrent[i % hidden * hidden + i / hidden]).collect(); // [H, H]
    let run = |kernels: &Kernels| {
        let mut dh = Floats::new(&dh, misalignment);
        let (mut a, mut z) = (Floats::new(&a, 15 - misalignment), Floats::new(&cell.z, misalignment));
        let (h, dy, gate) = (Floats::new(&h, 1), Floats::new(&dy, 2), Floats::new(&gate, 3));
        let transposed = Lines::panels(&transposed, hidden, hidden);
        kernels.cell_backward(&mut dh, &mut a, &mut z, &h, &dy, &gate, &transposed, batch, hidden);
        [&dh[..], &a[..], &z[..]].concat()
    };
    let values = run(scalar());
    // Every step adds the rounding of a sum of H terms and the error of GELU's derivative, and all are of the
    // order of the largest gradient.
    let largest = values.iter().fold(1.0, |largest: f64, &value| largest.max(f64::from(value).abs()));
    let bound = (1 + steps) as f64 * (reduction_bound(hidden, 2.0 * largest) + 2.0 * GELU * largest);
    let close = |(i, &value): (usize, &f32)| {
        let in_padding = i % padded(hidden) >= hidden;
        Expected { value: value.into(), bound: if in_padding { 0.0 } else { bound } }
    };
    let expected: Vec<_> = values.iter().enumerate().map(close).collect();
    compare_all(&format!("cell_backward {steps}x{batch}x{hidden}"), &expected, run);
}

pub fn step(mut case: Case) {
    let Case { misalignment, .. } = case;
    let length = case.rows * case.inputs;
    let random = &mut case.random;
    let (h, a) = (random.floats(length), random.floats(length));
    let z: Vec<f32> = random.floats(length).iter().map(|z| z.abs()).collect();
    let run = |kernels: &Kernels| {
        let mut state = Floats::new(&h, misalignment);
        kernels.cell_step(&mut state, &Floats::new(&z, 15 - misalignment), &Floats::new(&a, 3));
        state.to_vec()
    };
    let values = run(scalar());
    let close = |i: usize| {
        let [old, z, a] = [h[i], z[i], a[i]].map(|x| f64::from(x).abs());
        Expected {
            value: values[i].into(),
            bound: z * GELU * (0.1 + a) + reduction_bound(2, old + z * (a + old)),
        }
    };
    let expected: Vec<_> = (0..length).map(close).collect();
    compare_all(&format!("cell_step {length}"), &expected, run);
}
