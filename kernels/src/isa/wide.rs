//! Portable SIMD through the `wide` crate, the floor on every target: it picks its instructions at compile
//! time.

use crate::kernels::Kernels;
use crate::line::Line;
use crate::simd::{Lanes, Simd};
use crate::table::{AdamwStep, Epilogue, operations};
use wide::{bytemuck, f32x16, u32x16};

#[derive(Clone, Copy)]
struct Wide;

pub(super) fn detect() -> Option<&'static Kernels> {
    Some(&KERNELS)
}

impl Simd for Wide {
    type Vector = f32x16;

    // 2 × 4 sums of 4 lanes, 4 of weights and 1 input, of the 16 registers of SSE2.
    const TILE_ROWS: usize = 2;
    const TILE_PANELS: usize = 1;
    const MATVEC_PANELS: usize = 2;

    #[inline(always)]
    unsafe fn new() -> Self {
        Self
    }

    #[inline(always)]
    fn splat(self, value: f32) -> f32x16 {
        f32x16::splat(value)
    }

    #[inline(always)]
    fn load(self, lanes: &Lanes) -> f32x16 {
        f32x16::new(*lanes)
    }

    #[inline(always)]
    fn store(self, lanes: &mut Lanes, vector: f32x16) {
        *lanes = vector.to_array();
    }

    #[inline(always)]
    fn add(self, a: f32x16, b: f32x16) -> f32x16 {
        a + b
    }

    #[inline(always)]
    fn sub(self, a: f32x16, b: f32x16) -> f32x16 {
        a - b
    }

    #[inline(always)]
    fn mul(self, a: f32x16, b: f32x16) -> f32x16 {
        a * b
    }

    #[inline(always)]
    fn div(self, a: f32x16, b: f32x16) -> f32x16 {
        a / b
    }

    #[inline(always)]
    fn sqrt(self, a: f32x16) -> f32x16 {
        a.sqrt()
    }

    #[inline(always)]
    fn abs(self, a: f32x16) -> f32x16 {
        a.abs()
    }

    // Two roundings on every target: where there is no fused instruction, `mul_add` calls libm for each lane.
    #[inline(always)]
    fn mul_add(self, a: f32x16, b: f32x16, c: f32x16) -> f32x16 {
        a * b + c
    }

    #[inline(always)]
    fn neg_mul_add(self, a: f32x16, b: f32x16, c: f32x16) -> f32x16 {
        c - a * b
    }

    // `f32x16::min` returns the number where one side is NaN; this returns `b` where either is.
    #[inline(always)]
    fn min(self, a: f32x16, b: f32x16) -> f32x16 {
        a.fast_min(b)
    }

    #[inline(always)]
    fn max(self, a: f32x16, b: f32x16) -> f32x16 {
        a.fast_max(b)
    }

    #[inline(always)]
    fn select_less(self, a: f32x16, b: f32x16, yes: f32x16, no: f32x16) -> f32x16 {
        a.simd_lt(b).select(yes, no)
    }

    #[inline(always)]
    fn shift_into_exponent(self, a: f32x16) -> f32x16 {
        bytemuck::cast(bytemuck::cast::<f32x16, u32x16>(a) << 23_u32)
    }
}

operations! { super::instantiate! {
    Wide () "wide" "portable SIMD without fused multiply-add, on every CPU"
} }
