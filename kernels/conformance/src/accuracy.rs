//! How accurate the functions of one variable must be.

use shoestring_kernels::Kernels;
use std::f64::consts::{FRAC_1_SQRT_2, TAU};

/// A function, its exact values, and the largest error allowed.
pub struct Function {
    /// That of the operation.
    pub name: &'static str,
    /// The operation.
    pub run: fn(&Kernels, &mut [f32], &[f32]),
    /// The function in float64.
    pub exact: fn(f64) -> f64,
    /// What the documentation of the function promises.
    pub bound: Bound,
}

/// The largest error allowed.
pub enum Bound {
    /// In units in the last place of the exact value as f32.
    Ulps(f64),
    /// The larger of the two errors is allowed.
    RelativeOrAbsolute(f64, f64),
}

/// Every function of one variable in the table.
pub const FUNCTIONS: [Function; 4] = [
    Function { name: "exp", run: Kernels::exp, exact: libm::exp, bound: Bound::Ulps(1.02) },
    Function { name: "sigmoid", run: Kernels::sigmoid, exact: sigmoid, bound: Bound::Ulps(2.83) },
    Function { name: "gelu", run: Kernels::gelu, exact: gelu, bound: Bound::RelativeOrAbsolute(6e-7, 6e-8) },
    Function {
        name: "gelu_derivative",
        run: Kernels::gelu_derivative,
        exact: gelu_derivative,
        bound: Bound::RelativeOrAbsolute(0.0, 1.9e-7),
    },
];

impl Function {
    /// Whether `got` is close enough to `exact`, the function's value at `x`.
    ///
    /// # Errors
    ///
    /// The operation, `x` and both values, if it is not.
    pub fn check(&self, x: f32, got: f32, exact: f64) -> Result<(), String> {
        let accepted = if exact.is_nan() {
            got.is_nan()
        } else if f64::from(got) == exact || (exact > largest() && got == f32::INFINITY) {
            true
        } else {
            let error = (f64::from(got) - exact).abs();
            error
                <= match self.bound {
                    Bound::Ulps(ulps) => ulps * ulp(exact),
                    Bound::RelativeOrAbsolute(relative, absolute) => absolute.max(relative * exact.abs()),
                }
        };
        if accepted { Ok(()) } else { Err(format!("{}({x:e}): got {got:e}, exact {exact:e}", self.name)) }
    }
}

/// The distance between neighbouring f32 at the magnitude of `x`.
#[must_use]
pub fn ulp(x: f64) -> f64 {
    let exponent = libm::ilogb(x).clamp(-126, 127);
    libm::ldexp(1.0, exponent - 23)
}

/// From here on, half an ulp above the largest float, a value rounds to infinity.
fn largest() -> f64 {
    f64::from(f32::MAX) + libm::ldexp(1.0, 103)
}

fn sigmoid(x: f64) -> f64 {
    1.0 / (1.0 + libm::exp(-x))
}

fn normal_distribution(x: f64) -> f64 {
    0.5 * libm::erfc(-x * FRAC_1_SQRT_2)
}

fn gelu(x: f64) -> f64 {
    if x == f64::NEG_INFINITY { 0.0 } else { x * normal_distribution(x) }
}

fn gelu_derivative(x: f64) -> f64 {
    let slope = if x.is_infinite() { 0.0 } else { x * libm::exp(-0.5 * x * x) / TAU.sqrt() };
    normal_distribution(x) + slope
}
