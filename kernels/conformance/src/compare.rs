//! When a float is close enough to what it should be.

/// Half the distance from 1 to the next f32: the largest relative error of one rounding.
pub const UNIT_ROUNDOFF: f64 = 1.0 / 16_777_216.0;

/// Whether `got` is `expected` up to `bound`. NaN is only close to NaN, and infinities only to themselves.
///
/// # Panics
///
/// If the bound is not a number that bounds anything.
#[must_use]
pub fn is_close(got: f32, expected: f64, bound: f64) -> bool {
    assert!(bound >= 0.0 && bound.is_finite(), "a bound of {bound} says nothing");
    if expected.is_nan() {
        got.is_nan()
    } else if expected.is_infinite() {
        f64::from(got) == expected
    } else {
        (f64::from(got) - expected).abs() <= bound
    }
}

/// The rounding error of a sum of `terms` products whose absolute values sum to `magnitude` (Higham, Accuracy
/// and Stability of Numerical Algorithms, section 3.1), with room for a bias and the product's own rounding.
#[must_use]
pub fn reduction_bound(terms: usize, magnitude: f64) -> f64 {
    (terms + 3) as f64 * UNIT_ROUNDOFF * magnitude
}

/// A value and the bound on the error of its f32 result.
#[derive(Clone, Copy, Debug)]
pub struct Expected {
    /// What is right.
    pub value: f64,
    /// The largest error allowed, in absolute terms.
    pub bound: f64,
}

impl Expected {
    /// Nothing but `value`.
    #[must_use]
    pub const fn exactly(value: f64) -> Self {
        Self { value, bound: 0.0 }
    }
}

/// # Panics
///
/// If the lengths differ or an element is not within its bound.
#[track_caller]
pub fn assert_close(what: &str, got: &[f32], expected: &[Expected]) {
    assert_eq!(got.len(), expected.len(), "{what}: length");
    for (index, (&got, &Expected { value, bound })) in got.iter().zip(expected).enumerate() {
        assert!(is_close(got, value, bound), "{what}[{index}]: got {got:e}, expected {value:e} ± {bound:e}");
    }
}

/// The same bits, where NaN is NaN whatever its payload.
///
/// # Panics
///
/// If they are not.
#[track_caller]
pub fn assert_same(what: &str, got: &[f32], expected: &[f32]) {
    assert_eq!(got.len(), expected.len(), "{what}: length");
    for (index, (got, expected)) in got.iter().zip(expected).enumerate() {
        let same = got.to_bits() == expected.to_bits() || got.is_nan() && expected.is_nan();
        assert!(same, "{what}[{index}]: got {got:e}, expected exactly {expected:e}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_is_not_close_to_nan_nor_nan_to_a_number() {
        assert!(!is_close(f32::NAN, 1.0, 1e30));
        assert!(!is_close(1.0, f64::NAN, 1e30));
        assert!(is_close(f32::NAN, f64::NAN, 0.0));
    }

    #[test]
    fn infinities_are_close_to_themselves_only() {
        assert!(is_close(f32::INFINITY, f64::INFINITY, 0.0));
        assert!(!is_close(f32::INFINITY, f64::NEG_INFINITY, 1e30));
        assert!(!is_close(f32::MAX, f64::INFINITY, 1e30));
        assert!(!is_close(f32::INFINITY, 1e38, 1e38));
    }

    #[test]
    fn an_error_of_one_percent_is_not_within_the_bound_of_a_reduction() {
        for terms in [1, 16, 96, 1000, 10_000] {
            let sum = terms as f64 * 0.25;
            assert!(is_close(sum as f32, sum, reduction_bound(terms, sum)));
            assert!(!is_close((sum * 1.01) as f32, sum, reduction_bound(terms, sum)), "{terms} terms");
        }
    }

    #[test]
    fn a_wrong_zero_is_rejected_both_ways() {
        assert!(!is_close(0.0, 1e-30, reduction_bound(96, 1e-30)));
        assert!(!is_close(1e-30, 0.0, reduction_bound(96, 0.0)));
        assert!(is_close(0.0, 0.0, reduction_bound(96, 0.0)));
    }

    #[test]
    #[should_panic(expected = "says nothing")]
    fn a_bound_that_is_nan_is_refused() {
        let _ = is_close(1.0, 1.0, f64::NAN);
    }
}
