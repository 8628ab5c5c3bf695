//! Routing: which experts run for a token, and how their outputs are weighted.

use shoestring_kernels::Kernels;

/// Turns router scores `[E]` into gates in place, and marks the active experts.
///
/// `scores` become probabilities: the softmax over all experts if `top_k` is E or 1, else the softmax
/// over the `top_k` experts with the highest score (ties: lowest id) and zero elsewhere. An expert's
/// gate is its probability where `active`, else zero.
pub fn route(kernels: &Kernels, scores: &mut [f32], top_k: usize, active: &mut [bool]) {
    if top_k == scores.len() {
        active.fill(true);
    } else {
        mark_highest(scores, top_k, active);
        if top_k > 1 {
            for (score, active) in scores.iter_mut().zip(&*active) {
                if !active {
                    *score = f32::NEG_INFINITY;
                }
            }
        }
    }
    kernels.softmax(scores);
}

/// Gradient of the router's scores, in place of the gradient of its gates.
///
/// `probabilities` and `active` are what [`route`] left. With p the probabilities, g the gates'
/// gradient and S the active experts: d score_j = p_j (g_j [j in S] - Σ_{e in S} p_e g_e). This is the
/// softmax's gradient for all three rules, because p vanishes outside S where the softmax was over S.
pub fn route_backward(probabilities: &[f32], active: &[bool], gradient: &mut [f32]) {
    for (gradient, active) in gradient.iter_mut().zip(active) {
        if !active {
            *gradient = 0.0;
        }
    }
    let mean: f32 = probabilities.iter().zip(&*gradient).map(|(p, g)| p * g).sum();
    for (gradient, p) in gradient.iter_mut().zip(probabilities) {
        *gradient = p * (*gradient - mean);
    }
}

/// Marks the `count` highest scores; of equal ones, those with the lowest index. NaN counts as lowest.
fn mark_highest(scores: &[f32], count: usize, active: &mut [bool]) {
    active.fill(false);
    for _ in 0..count {
        let mut best: Option<usize> = None;
        for (i, &score) in scores.iter().enumerate() {
            if !active[i] && best.is_none_or(|b| score > scores[b] || scores[b].is_nan() && !score.is_nan()) {
                best = Some(i);
            }
        }
        if let Some(best) = best {
            active[best] = true;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn routed(scores: &[f32], top_k: usize) -> (Vec<f32>, Vec<bool>) {
        let (mut p, mut active) = (scores.to_vec(), vec![false; scores.len()]);
        route(Kernels::best(), &mut p, top_k, &mut active);
        (p, active)
    }

    #[test]
    fn ties_go_to_the_lowest_id() {
        assert_eq!(routed(&[1.0, 3.0, 3.0, 3.0], 2).1, [false, true, true, false]);
        assert_eq!(routed(&[0.0; 5], 1).1, [true, false, false, false, false]);
    }

    #[test]
    fn top_two_is_renormalised_and_top_one_is_not() {
        let (p, active) = routed(&[0.0, 1.0, 2.0], 2);
        assert_eq!(active, [false, true, true]);
        assert_eq!(p[0], 0.0);
        assert!((p[1] + p[2] - 1.0).abs() < 1e-6 && (p[2] / p[1] - 1f32.exp()).abs() < 1e-5);
        let (p, active) = routed(&[0.0, 1.0, 2.0], 1);
        assert_eq!(active, [false, false, true]);
        assert!((p[2] - 0.665_240_94).abs() < 1e-6);
    }

    #[test]
    fn not_a_number_never_wins_against_a_number() {
        assert_eq!(routed(&[f32::NAN, 1.0, 0.0], 2).1, [false, true, true]);
    }
}
