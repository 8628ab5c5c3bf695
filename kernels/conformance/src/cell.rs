//! The recurrent cell, forward and backward.

use crate::LENGTHS;
use crate::buffers::{Floats, Lines};
use crate::compare::{Expected, assert_close, assert_same, reduction_bound};
use crate::failure::case;
use crate::random::Random;
use shoestring_kernels::{Kernels, padded};

checks! {
    every_step_follows_from_the_one_before: cell_forward;
    a_gate_of_zero_holds_the_state_exactly: cell_forward, cell_backward;
    gradients_are_the_slopes_of_the_loss: cell_backward;
    gradients_of_every_shape_are_those_of_the_reference: cell_backward;
    a_step_blends_any_number_of_states: cell_step;
}

/// Steps, batch and hidden size: batches around every tile height, sizes around lines.
const SHAPES: [(usize, usize, usize); 11] = [
    (0, 3, 5),
    (1, 1, 1),
    (1, 1, 16),
    (2, 2, 15),
    (3, 5, 17),
    (2, 6, 33),
    (4, 7, 16),
    (3, 8, 48),
    (2, 9, 49),
    (2, 16, 31),
    (5, 8, 96),
];

/// The accuracy of GELU: whichever of the two is larger.
const GELU_RELATIVE: f64 = 6e-7;
const GELU_ABSOLUTE: f64 = 6e-8;

struct Case {
    steps: usize,
    batch: usize,
    hidden: usize,
    h: Vec<f32>,         // [B, Hp]
    a: Vec<f32>,         // [T, B, Hp]
    z: Vec<f32>,         // [T, B, Hp], some of them 0
    recurrent: Vec<f32>, // [H, H]
    dh: Vec<f32>,        // [B, Hp]
    dy: Vec<f32>,        // [T, B, Hp]
    gate: Vec<f32>,      // [T, B]
}

impl Case {
    fn random(random: &mut Random, (steps, batch, hidden): (usize, usize, usize)) -> Self {
        let mut z: Vec<f32> = random.rows(steps * batch, hidden).iter().map(|z| 0.5 + 0.5 * z).collect();
        for row in z.chunks_exact_mut(padded(hidden)).step_by(3) {
            row.fill(0.0); // an inactive expert
        }
        let scale = 1.0 / (hidden as f32).sqrt();
        Self {
            steps,
            batch,
            hidden,
            h: random.rows(batch, hidden),
            a: random.rows(steps * batch, hidden).iter().map(|a| 2.0 * a).collect(),
            z,
            recurrent: random.floats(hidden * hidden).iter().map(|w| w * scale).collect(),
            dh: random.rows(batch, hidden),
            dy: random.rows(steps * batch, hidden),
            gate: random.floats(steps * batch),
        }
    }

    fn announce(&self, operation: &str) {
        let Self { steps, batch, hidden, .. } = self;
        case(format_args!("{operation}, {steps} steps of {batch}x{hidden}"));
    }

    fn slot(&self) -> usize {
        self.batch * padded(self.hidden)
    }

    /// h [T+1, B, Hp] and a [T, B, Hp] after the forward pass.
    fn forward(&self, kernels: &Kernels, misalignment: usize) -> (Vec<f32>, Vec<f32>) {
        self.announce("cell_forward");
        let mut h = Floats::unwritten((self.steps + 1) * self.slot(), misalignment);
        h[..self.slot()].copy_from_slice(&self.h);
        let (mut a, z) = (Floats::new(&self.a, misalignment), Floats::new(&self.z, misalignment));
        let recurrent = Lines::panels(&self.recurrent, self.hidden, self.hidden);
        kernels.cell_forward(&mut h, &mut a, &z, &recurrent, self.batch, self.hidden);
        (h.into_vec(), a.into_vec())
    }

    /// dh, da and dz, from the states that `kernels` itself computed.
    fn backward(&self, kernels: &Kernels, misalignment: usize) -> [Vec<f32>; 3] {
        let (h, a) = self.forward(kernels, misalignment);
        self.announce("cell_backward");
        let floats = |values: &[f32]| Floats::new(values, misalignment);
        let (mut dh, mut a, mut z) = (floats(&self.dh), floats(&a), floats(&self.z));
        let (h, dy, gate) = (floats(&h), floats(&self.dy), floats(&self.gate));
        let transposed: Vec<f32> = (0..self.recurrent.len())
            .map(|i| self.recurrent[i % self.hidden * self.hidden + i / self.hidden])
            .collect();
        let transposed = Lines::panels(&transposed, self.hidden, self.hidden);
        kernels.cell_backward(&mut dh, &mut a, &mut z, &h, &dy, &gate, &transposed, self.batch, self.hidden);
        [dh.into_vec(), a.into_vec(), z.into_vec()]
    }
}

fn gelu(x: f64) -> f64 {
    0.5 * x * libm::erfc(-x * std::f64::consts::FRAC_1_SQRT_2)
}

fn every_step_follows_from_the_one_before(kernels: &Kernels) {
    let mut random = Random(21);
    for (index, shape) in SHAPES.into_iter().enumerate() {
        let case = Case::random(&mut random, shape);
        let (h, a) = case.forward(kernels, index % 2);
        let (expected_a, expected_h) = expected_steps(&case, &h, &a);
        assert_same("h[0]", &h[..case.slot()], &case.h);
        assert_close("a", &a, &expected_a);
        assert_close("h[1..]", &h[case.slot()..], &expected_h);
    }
}

/// What a[t] and h[t+1] should be, given the kernels' own h[t] and a[t]: errors cannot add up.
fn expected_steps(case: &Case, h: &[f32], a: &[f32]) -> (Vec<Expected>, Vec<Expected>) {
    let width = padded(case.hidden);
    let pre_activation = |index: usize| {
        let (row, i) = (index / width, index % width);
        let start = f64::from(case.a[index]);
        if i >= case.hidden {
            return Expected::exactly(0.0);
        }
        let term = |k: usize| f64::from(h[row * width + k]) * f64::from(case.recurrent[i * case.hidden + k]);
        let magnitude = start.abs() + (0..case.hidden).map(|k| term(k).abs()).sum::<f64>();
        let value = start + (0..case.hidden).map(term).sum::<f64>();
        Expected { value, bound: reduction_bound(case.hidden, magnitude) }
    };
    let state = |index: usize| {
        let (old, z) = (f64::from(h[index]), f64::from(case.z[index]));
        let candidate = gelu(f64::from(a[index]));
        let gelu_error = (GELU_RELATIVE * candidate.abs()).max(GELU_ABSOLUTE);
        if index % width >= case.hidden {
            return Expected::exactly(0.0);
        }
        let magnitude = old.abs() + z * (candidate.abs() + old.abs());
        Expected { value: old + z * (candidate - old), bound: z * gelu_error + reduction_bound(0, magnitude) }
    };
    ((0..a.len()).map(pre_activation).collect(), (0..a.len()).map(state).collect())
}

fn a_gate_of_zero_holds_the_state_exactly(kernels: &Kernels) {
    let mut case = Case::random(&mut Random(22), (3, 4, 20));
    case.z.fill(0.0);
    let (h, _) = case.forward(kernels, 0);
    for state in h.chunks_exact(case.slot()) {
        assert_same("h", state, &case.h);
    }
    case.gate.fill(0.0);
    let [dh, da, dz] = case.backward(kernels, 0);
    assert_same("dh", &dh, &case.dh);
    let zeros = vec![Expected::exactly(0.0); da.len()];
    assert_close("da", &da, &zeros);
    assert_close("dz", &dz, &zeros);
}

/// The loss whose gradients `cell_backward` computes, in f64, as a function of h[0], a and the gates' logits:
/// Σ gate dy h[t+1] + Σ dh h[T].
fn loss(case: &Case, h0: &[f64], a: &[f64], gate_logits: &[f64]) -> f64 {
    let (width, slot) = (padded(case.hidden), case.slot());
    let mut h = h0.to_vec();
    let mut loss = 0.0;
    for t in 0..case.steps {
        let old = h.clone();
        for b in 0..case.batch {
            for i in 0..case.hidden {
                let (here, state) = (t * slot + b * width + i, b * width + i);
                let term = |k: usize| f64::from(case.recurrent[i * case.hidden + k]) * old[b * width + k];
                let candidate = gelu(a[here] + (0..case.hidden).map(term).sum::<f64>());
                let z = 1.0 / (1.0 + (-gate_logits[here]).exp());
                h[state] = old[state] + z * (candidate - old[state]);
                loss += f64::from(case.gate[t * case.batch + b]) * f64::from(case.dy[here]) * h[state];
            }
        }
    }
    loss + h.iter().zip(&case.dh).map(|(h, &dh)| h * f64::from(dh)).sum::<f64>()
}

/// Central differences of `function` at `point`, one for each coordinate.
fn differences(point: &[f64], function: impl Fn(&[f64]) -> f64) -> Vec<Expected> {
    let step = 1e-5;
    let difference = |i: usize| {
        let at = |offset: f64| {
            let mut moved = point.to_vec();
            moved[i] += offset;
            function(&moved)
        };
        Expected { value: (at(step) - at(-step)) / (2.0 * step), bound: 2e-6 }
    };
    (0..point.len()).map(difference).collect()
}

fn gradients_are_the_slopes_of_the_loss(kernels: &Kernels) {
    for shape in [(1, 1, 1), (2, 2, 5), (4, 3, 4), (3, 1, 17)] {
        let case = Case::random(&mut Random(23), shape);
        let wide = |values: &[f32]| values.iter().map(|&x| f64::from(x)).collect::<Vec<_>>();
        let (h, a) = (wide(&case.h), wide(&case.a));
        // A gate of exactly 0 has a logit of -∞, and no slope.
        let logits: Vec<f64> = case.z.iter().map(|&z| (f64::from(z) / (1.0 - f64::from(z))).ln()).collect();
        let expected = [
            differences(&h, |h| loss(&case, h, &a, &logits)),
            differences(&a, |a| loss(&case, &h, a, &logits)),
            differences(&logits, |logits| loss(&case, &h, &a, logits)),
        ];
        for (name, (got, expected)) in
            ["dh", "da", "dz"].iter().zip(case.backward(kernels, 1).iter().zip(&expected))
        {
            let in_padding = |i: usize| i % padded(case.hidden) >= case.hidden;
            let expected: Vec<Expected> = expected
                .iter()
                .enumerate()
                .map(|(i, &e)| if in_padding(i) { Expected::exactly(0.0) } else { e })
                .collect();
            assert_close(name, got, &expected);
        }
    }
}

fn gradients_of_every_shape_are_those_of_the_reference(kernels: &Kernels) {
    let reference = Kernels::select("scalar").unwrap();
    let mut random = Random(24);
    for (index, shape) in SHAPES.into_iter().enumerate() {
        let case = Case::random(&mut random, shape);
        let expected = case.backward(reference, 0);
        for (name, (got, expected)) in
            ["dh", "da", "dz"].iter().zip(case.backward(kernels, index % 2).iter().zip(&expected))
        {
            // Gradients here are of the order of 1; every step adds the rounding of a sum of H terms.
            let bound = reduction_bound(case.hidden, 1.0) * (1 + case.steps) as f64;
            let expected: Vec<_> =
                expected.iter().map(|&value| Expected { value: f64::from(value), bound }).collect();
            assert_close(name, got, &expected);
        }
    }
}

fn a_step_blends_any_number_of_states(kernels: &Kernels) {
    let mut random = Random(25);
    for length in LENGTHS {
        let (h, a) = (random.floats(length), random.floats(length));
        let z: Vec<f32> = random.floats(length).iter().map(|z| z.abs()).collect();
        let element = |i: usize| {
            let (old, z, candidate) = (f64::from(h[i]), f64::from(z[i]), gelu(f64::from(a[i])));
            let gelu_error = (GELU_RELATIVE * candidate.abs()).max(GELU_ABSOLUTE);
            let magnitude = old.abs() + z * (candidate.abs() + old.abs());
            Expected {
                value: old + z * (candidate - old),
                bound: z * gelu_error + reduction_bound(0, magnitude),
            }
        };
        let expected: Vec<_> = (0..length).map(element).collect();
        case(format_args!("cell_step {length}"));
        let mut state = Floats::new(&h, 1);
        kernels.cell_step(&mut state, &Floats::new(&z, 2), &Floats::new(&a, 3));
        assert_close("h", &state, &expected);
    }
}
