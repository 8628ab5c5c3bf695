//! Exponential, sigmoid and GELU on vectors.
//!
//! The polynomials were fitted for this crate, in float64, by iteratively reweighted least squares (Lawson's
//! algorithm) on Chebyshev nodes, which converges to the minimax fit, and then rounded to f32. Bounds of
//! whole functions are measured over all 2³² inputs by the ignored tests in `tests/exhaustive.rs`.

use crate::line::PANEL_ROWS;
use crate::simd::Simd;
use std::f32::consts::LOG2_E;

/// Adding this to a float of magnitude below 2²² rounds it to an integer, and leaves that integer plus 127,
/// the exponent bias of f32, in the lowest bits of the sum: 1.5 · 2²³ + 127.
const ROUND_AND_BIAS: f32 = 12_582_912.0 + 127.0;

const TWO_TO_MINUS_64: f32 = 1.0 / 18_446_744_073_709_551_616.0;

/// ln 2 in two parts. The first has 10 significant bits, so its product with an exponent is exact even
/// without a fused multiply-add (Cody and Waite, 1980).
const LN_2_HIGH: f32 = 0.693_359_4;
const LN_2_LOW: f32 = -2.121_944_4e-4;

/// (e^r - 1 - r) / r² on |r| ≤ ln 2 / 2, lowest power first. Relative error of e^r: 3.8e-9.
const EXP: [f32; 5] = [4.999_999_4e-1, 1.666_652_1e-1, 4.166_839e-2, 8.368_73e-3, 1.381_456_6e-3];

/// (2^f - 1) / f on |f| ≤ 1/2, lowest power first. Relative error of 2^f: 1.2e-7.
#[expect(clippy::approx_constant, reason = "fitted: near ln 2, but not it")]
const EXP2: [f32; 5] = [6.931_47e-1, 2.402_224_1e-1, 5.550_734_3e-2, 9.671_555e-3, 1.326_468_9e-3];

/// Φ(-t) e^(t²/2) on 0 ≤ t ≤ 13.25 as a quotient of polynomials, lowest power first; 1/2 at 0. Relative
/// error: 1.4e-7 up to t = 2.5, then growing to 1.8e-6 from t = 6.5 on, where t Φ(-t) is below 3e-10.
const TAIL_NUMERATOR: [f32; 4] = [0.5, 0.346_476_9, 0.110_638_41, 0.014_946_444];
const TAIL_DENOMINATOR: [f32; 5] = [1.0, 1.490_833_9, 0.910_839_8, 0.276_992_08, 0.037_474_785];

/// From here on 2^round(-t² log₂e / 2) has the exponent field 0, so Φ(-t) comes out as exactly 0.
const TAIL_END: f32 = 13.25;

/// φ(0) = 1 / √(2π).
const DENSITY_AT_ZERO: f32 = 0.398_942_3;

#[inline(always)]
pub(crate) fn exp<S: Simd>(s: S, out: &mut [f32], x: &[f32]) {
    map(s, Exp, out, x);
}

#[inline(always)]
pub(crate) fn sigmoid<S: Simd>(s: S, out: &mut [f32], x: &[f32]) {
    map(s, Sigmoid, out, x);
}

#[inline(always)]
pub(crate) fn gelu<S: Simd>(s: S, out: &mut [f32], x: &[f32]) {
    map(s, Gelu, out, x);
}

#[inline(always)]
pub(crate) fn gelu_derivative<S: Simd>(s: S, out: &mut [f32], x: &[f32]) {
    map(s, GeluDerivative, out, x);
}

/// e^x. Overflows to ∞ and underflows through the denormals to 0.
#[inline(always)]
fn exp_vector<S: Simd>(s: S, x: S::Vector) -> S::Vector {
    // Beyond these the result is ∞ or rounds to 0. The constant comes first so that NaN stays NaN.
    let x = s.max(s.splat(-104.0), s.min(s.splat(89.0), x));
    let magic = s.splat(ROUND_AND_BIAS);
    let (power, _, n) = exp_parts(s, x, magic);
    // 2^n in two factors: n goes below the smallest and above the largest exponent of f32.
    let half = s.mul_add(n, s.splat(0.5), magic);
    let rest = s.add(s.sub(n, s.sub(half, magic)), magic);
    s.mul(s.mul(power, s.shift_into_exponent(half)), s.shift_into_exponent(rest))
}

/// e^x for x ≤ 0, the same bits as [`exp_vector`]; underflows through the denormals to 0.
#[inline(always)]
pub(super) fn exp_not_positive<S: Simd>(s: S, x: S::Vector) -> S::Vector {
    // 2^n in two factors, of which the second is a constant: n goes below the smallest exponent of f32, but
    // n + 64 does not.
    let magic = s.splat(ROUND_AND_BIAS + 64.0);
    let (power, shifted, _) = exp_parts(s, s.max(s.splat(-104.0), x), magic);
    s.mul(s.mul(power, s.shift_into_exponent(shifted)), s.splat(TWO_TO_MINUS_64))
}

/// 1 / (1 + e^-x), from e^-|x| so that nothing overflows and small results keep their accuracy.
#[inline(always)]
pub(super) fn sigmoid_vector<S: Simd>(s: S, x: S::Vector) -> S::Vector {
    let (zero, one) = (s.splat(0.0), s.splat(1.0));
    let power = exp_not_positive(s, s.sub(zero, s.abs(x)));
    let larger = s.div(one, s.add(one, power));
    s.select_less(x, zero, s.mul(power, larger), larger)
}

/// e^x = 2^n e^r with n an integer and |r| ≤ ln 2 / 2: e^r, n + `magic` (see [`ROUND_AND_BIAS`]), and n.
#[inline(always)]
fn exp_parts<S: Simd>(s: S, x: S::Vector, magic: S::Vector) -> (S::Vector, S::Vector, S::Vector) {
    let shifted = s.mul_add(x, s.splat(LOG2_E), magic);
    let n = s.sub(shifted, magic);
    let r = s.neg_mul_add(n, s.splat(LN_2_LOW), s.neg_mul_add(n, s.splat(LN_2_HIGH), x));
    let power = s.add(s.mul_add(s.mul(r, r), polynomial(s, EXP, r), r), s.splat(1.0));
    (power, shifted, n)
}

/// The normal distribution at x, in the terms that GELU and its derivative share.
#[derive(Clone, Copy)]
pub(super) struct Normal<S: Simd> {
    x: S::Vector,
    /// |x|, at most [`TAIL_END`].
    magnitude: S::Vector,
    /// e^(-magnitude² / 2).
    bell: S::Vector,
    /// Φ(-magnitude).
    tail: S::Vector,
}

impl<S: Simd> Normal<S> {
    /// As the tail is the bell times a smooth quotient, it keeps its relative accuracy however small it gets.
    #[inline(always)]
    pub(super) fn at(s: S, x: S::Vector) -> Self {
        let magic = s.splat(ROUND_AND_BIAS);
        let magnitude = s.min(s.splat(TAIL_END), s.abs(x)); // NaN stays NaN
        let square = s.mul(magnitude, magnitude);
        let half_log = s.splat(-0.5 * LOG2_E);
        let shifted = s.mul_add(square, half_log, magic);
        let fraction = s.mul_add(square, half_log, s.sub(magic, shifted));
        let power = s.mul_add(polynomial(s, EXP2, fraction), fraction, s.splat(1.0));
        let bell = s.mul(power, s.shift_into_exponent(shifted));
        let numerator = polynomial(s, TAIL_NUMERATOR, magnitude);
        let denominator = polynomial(s, TAIL_DENOMINATOR, magnitude);
        let tail = s.mul(bell, s.div(numerator, denominator));
        Self { x, magnitude, bell, tail }
    }

    /// x Φ(x) = max(x, 0) - |x| Φ(-|x|), without cancellation on either side.
    #[inline(always)]
    pub(super) fn gelu(self, s: S) -> S::Vector {
        s.neg_mul_add(self.magnitude, self.tail, s.max(s.splat(0.0), self.x))
    }

    /// Φ(x) + x φ(x): g = Φ(-|x|) - |x| φ(x) for negative x, 1 - g for the others.
    #[inline(always)]
    pub(super) fn gelu_derivative(self, s: S) -> S::Vector {
        let density = s.mul(self.bell, s.splat(DENSITY_AT_ZERO));
        let negative = s.neg_mul_add(self.magnitude, density, self.tail);
        s.select_less(self.x, s.splat(0.0), negative, s.sub(s.splat(1.0), negative))
    }
}

/// Σ coefficients[i] x^i, by Horner's rule.
#[inline(always)]
fn polynomial<S: Simd, const N: usize>(s: S, coefficients: [f32; N], x: S::Vector) -> S::Vector {
    let mut sum = s.splat(coefficients[N - 1]);
    for &coefficient in coefficients[..N - 1].iter().rev() {
        sum = s.mul_add(sum, x, s.splat(coefficient));
    }
    sum
}

/// A function of one variable, as a type: unlike a closure it is certain to be inlined.
trait Function: Copy {
    fn call<S: Simd>(self, s: S, x: S::Vector) -> S::Vector;
}

macro_rules! function {
    ($name:ident = |$s:ident, $x:ident| $body:expr) => {
        #[derive(Clone, Copy)]
        struct $name;

        impl Function for $name {
            #[inline(always)]
            fn call<S: Simd>(self, $s: S, $x: S::Vector) -> S::Vector {
                $body
            }
        }
    };
}
function!(Exp = |s, x| exp_vector(s, x));
function!(Sigmoid = |s, x| sigmoid_vector(s, x));
function!(Gelu = |s, x| Normal::at(s, x).gelu(s));
function!(GeluDerivative = |s, x| Normal::at(s, x).gelu_derivative(s));

#[inline(always)]
fn map<S: Simd, F: Function>(s: S, function: F, out: &mut [f32], x: &[f32]) {
    let (out, out_rest) = out.as_chunks_mut::<PANEL_ROWS>();
    let (x, x_rest) = x.as_chunks::<PANEL_ROWS>();
    for (out, x) in out.iter_mut().zip(x) {
        s.store(out, function.call(s, s.load(x)));
    }
    if !out_rest.is_empty() {
        s.store_partial(out_rest, function.call(s, s.load_partial(x_rest, 0.0)));
    }
}
