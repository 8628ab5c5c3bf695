//! The recurrent cell: only the product with the state is sequential, so that is all the time loop holds.

use super::math::Normal;
use crate::line::{Line, PANEL_ROWS, padded};
use crate::simd::{Compiled, Lanes, Simd, Unfused};
use crate::table::Epilogue;

/// # Safety
///
/// Shapes are as [`Kernels::cell_forward`](crate::Kernels::cell_forward) checks them.
#[inline(always)]
pub(crate) unsafe fn cell_forward<S: Compiled>(
    s: S,
    h: &mut [f32],
    a: &mut [f32],
    z: &[f32],
    recurrent: &[Line],
    batch: usize,
    hidden: usize,
) {
    let slot = batch * padded(hidden);
    for (t, (a, z)) in a.chunks_exact_mut(slot).zip(z.chunks_exact(slot)).enumerate() {
        let (old, new) = h[t * slot..][..2 * slot].split_at_mut(slot); // both [B, Hp]
        // SAFETY: `a` and `old` are [B, Hp], and `recurrent` the panels of [H, H].
        unsafe { s.gemm(a, old, recurrent, hidden, Epilogue::Accumulate) };
        let inputs = lines(old).iter().zip(lines(z)).zip(lines(a));
        for (new, ((old, z), a)) in lines_mut(new).iter_mut().zip(inputs) {
            s.store(new, blend(s, s.load(old), s.load(z), s.load(a)));
        }
    }
}

/// # Safety
///
/// Shapes are as [`Kernels::cell_backward`](crate::Kernels::cell_backward) checks them.
#[expect(clippy::too_many_arguments, reason = "the signature of the table")]
#[inline(always)]
pub(crate) unsafe fn cell_backward<S: Compiled>(
    s: S,
    dh: &mut [f32],
    a: &mut [f32],
    z: &mut [f32],
    h: &[f32],
    dy: &[f32],
    gate: &[f32],
    recurrent_transposed: &[Line],
    batch: usize,
    hidden: usize,
) {
    let width = padded(hidden);
    for t in (0..gate.len() / batch).rev() {
        let step = t * batch * width..(t + 1) * batch * width;
        for b in 0..batch {
            let row = step.start + b * width..step.start + (b + 1) * width;
            let gate = s.splat(gate[t * batch + b]);
            let dh = lines_mut(&mut dh[b * width..][..width]).iter_mut();
            let gates = lines_mut(&mut a[row.clone()]).iter_mut().zip(lines_mut(&mut z[row.clone()]));
            let inputs = lines(&h[row.clone()]).iter().zip(lines(&dy[row]));
            for ((dh, (a, z)), (h, dy)) in dh.zip(gates).zip(inputs) {
                let gradient = s.mul_add(gate, s.load(dy), s.load(dh));
                let gradients = blend_backward(s, gradient, s.load(h), s.load(z), s.load(a));
                s.store(a, gradients.candidate_input);
                s.store(z, gradients.update_input);
                s.store(dh, gradients.state);
            }
        }
        // SAFETY: `dh` and this step of `a` are [B, Hp], and `recurrent_transposed` the panels of [H, H].
        unsafe { s.gemm(dh, &a[step], recurrent_transposed, hidden, Epilogue::Accumulate) };
    }
}

/// A step of whole lines whose new state also takes the candidate's place.
#[inline(always)]
pub(super) fn cell_step_into<S: Simd>(s: S, h: &mut [f32], z: &[f32], a: &mut [f32]) {
    let s = Unfused(s);
    for (h, (z, a)) in lines_mut(h).iter_mut().zip(lines(z).iter().zip(lines_mut(a))) {
        let new = blend(s, s.load(h), s.load(z), s.load(a));
        s.store(h, new);
        s.store(a, new);
    }
}

#[inline(always)]
pub(crate) fn cell_step<S: Simd>(s: S, h: &mut [f32], z: &[f32], a: &[f32]) {
    let s = Unfused(s);
    let (h, h_rest) = h.as_chunks_mut::<PANEL_ROWS>();
    let ((z, z_rest), (a, a_rest)) = (z.as_chunks::<PANEL_ROWS>(), a.as_chunks::<PANEL_ROWS>());
    for (h, (z, a)) in h.iter_mut().zip(z.iter().zip(a)) {
        s.store(h, blend(s, s.load(h), s.load(z), s.load(a)));
    }
    if !h_rest.is_empty() {
        let load = |values| s.load_partial(values, 0.0);
        let new = blend(s, load(h_rest), load(z_rest), load(a_rest));
        s.store_partial(h_rest, new);
    }
}

/// h + z (gelu(a) - h).
#[inline(always)]
fn blend<S: Simd>(s: S, h: S::Vector, z: S::Vector, a: S::Vector) -> S::Vector {
    s.mul_add(z, s.sub(Normal::at(s, a).gelu(s), h), h)
}

/// Gradients of one [`blend`].
struct BlendGradients<S: Simd> {
    /// At the old state, without the part that comes through the candidate.
    state: S::Vector,
    /// At the candidate's pre-activation.
    candidate_input: S::Vector,
    /// At the input of the update gate's sigmoid.
    update_input: S::Vector,
}

#[inline(always)]
fn blend_backward<S: Simd>(
    s: S,
    gradient: S::Vector,
    h: S::Vector,
    z: S::Vector,
    a: S::Vector,
) -> BlendGradients<S> {
    let normal = Normal::at(s, a);
    let held = s.sub(s.splat(1.0), z);
    let candidate = s.mul(gradient, z);
    BlendGradients {
        state: s.mul(gradient, held),
        candidate_input: s.mul(candidate, normal.gelu_derivative(s)),
        update_input: s.mul(s.mul(candidate, held), s.sub(normal.gelu(s), h)),
    }
}

#[inline(always)]
fn lines(values: &[f32]) -> &[Lanes] {
    values.as_chunks().0
}

#[inline(always)]
fn lines_mut(values: &mut [f32]) -> &mut [Lanes] {
    values.as_chunks_mut().0
}
