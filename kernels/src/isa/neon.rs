//! NEON as every 64-bit ARM CPU has it: four registers make up the 16 lanes.

use crate::kernels::Kernels;
use crate::line::Line;
use crate::simd::{Lanes, Simd};
use crate::table::{AdamwStep, Epilogue, operations};
use std::arch::aarch64::*;

#[derive(Clone, Copy)]
struct Neon(());

pub(super) fn detect() -> Option<&'static Kernels> {
    std::arch::is_aarch64_feature_detected!("neon").then_some(&KERNELS)
}

/// Operations that are the same for each quarter.
macro_rules! quarters {
    ($($name:ident($($argument:ident),*) = $intrinsic:ident;)*) => {
        $(
            #[inline(always)]
            fn $name(self, $($argument: [float32x4_t; 4]),*) -> [float32x4_t; 4] {
                // SAFETY: `self` proves NEON.
                unsafe {
                    [
                        $intrinsic($($argument[0]),*),
                        $intrinsic($($argument[1]),*),
                        $intrinsic($($argument[2]),*),
                        $intrinsic($($argument[3]),*),
                    ]
                }
            }
        )*
    };
}

impl Simd for Neon {
    type Vector = [float32x4_t; 4];

    // 6 × 4 sums, 4 of weights and 1 input, of 32 registers.
    const TILE_ROWS: usize = 6;
    const TILE_PANELS: usize = 1;
    // 8 sums: two multiply-adds a cycle with a latency of four.
    const MATVEC_PANELS: usize = 2;

    #[inline(always)]
    unsafe fn new() -> Self {
        Self(())
    }

    #[inline(always)]
    fn splat(self, value: f32) -> [float32x4_t; 4] {
        // SAFETY: `self` proves NEON.
        unsafe { [vdupq_n_f32(value); 4] }
    }

    #[inline(always)]
    fn load(self, lanes: &Lanes) -> [float32x4_t; 4] {
        let start = lanes.as_ptr();
        // SAFETY: `self` proves NEON, and 16 floats can be read.
        unsafe { [0, 4, 8, 12].map(|offset| vld1q_f32(start.add(offset))) }
    }

    #[inline(always)]
    fn store(self, lanes: &mut Lanes, vector: [float32x4_t; 4]) {
        for (quarter, values) in vector.into_iter().zip(lanes.as_chunks_mut::<4>().0) {
            // SAFETY: `self` proves NEON, and 4 floats can be written.
            unsafe { vst1q_f32(values.as_mut_ptr(), quarter) };
        }
    }

    quarters! {
        add(a, b) = vaddq_f32;
        sub(a, b) = vsubq_f32;
        mul(a, b) = vmulq_f32;
        div(a, b) = vdivq_f32;
        sqrt(a) = vsqrtq_f32;
        abs(a) = vabsq_f32;
        mul_add(a, b, c) = mul_add;
        neg_mul_add(a, b, c) = neg_mul_add;
        min(a, b) = vminq_f32;
        max(a, b) = vmaxq_f32;
        select_less(a, b, yes, no) = select_less;
        shift_into_exponent(a) = shift_into_exponent;
    }
}

#[inline]
#[target_feature(enable = "neon")]
fn mul_add(a: float32x4_t, b: float32x4_t, c: float32x4_t) -> float32x4_t {
    vfmaq_f32(c, a, b)
}

#[inline]
#[target_feature(enable = "neon")]
fn neg_mul_add(a: float32x4_t, b: float32x4_t, c: float32x4_t) -> float32x4_t {
    vfmsq_f32(c, a, b)
}

#[inline]
#[target_feature(enable = "neon")]
fn select_less(a: float32x4_t, b: float32x4_t, yes: float32x4_t, no: float32x4_t) -> float32x4_t {
    vbslq_f32(vcltq_f32(a, b), yes, no)
}

#[inline]
#[target_feature(enable = "neon")]
fn shift_into_exponent(a: float32x4_t) -> float32x4_t {
    vreinterpretq_f32_u32(vshlq_n_u32::<23>(vreinterpretq_u32_f32(a)))
}

operations! { super::instantiate! {
    Neon (#[target_feature(enable = "neon")]) "neon" "NEON, on every 64-bit ARM CPU"
} }
