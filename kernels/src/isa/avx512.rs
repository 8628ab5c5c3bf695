//! AVX-512 (F, BW, VL, DQ): one register holds the 16 lanes.

use crate::kernels::Kernels;
use crate::line::Line;
use crate::simd::{Lanes, Simd};
use crate::table::{AdamwStep, Epilogue, operations};
use std::arch::x86_64::*;

#[derive(Clone, Copy)]
struct Avx512(());

pub(super) fn detect() -> Option<&'static Kernels> {
    (is_x86_feature_detected!("avx512f")
        && is_x86_feature_detected!("avx512bw")
        && is_x86_feature_detected!("avx512vl")
        && is_x86_feature_detected!("avx512dq"))
    .then_some(&KERNELS)
}

/// Operations that are one instruction.
macro_rules! one_to_one {
    ($($name:ident($($argument:ident),*) = $intrinsic:ident;)*) => {
        $(
            #[inline(always)]
            fn $name(self, $($argument: __m512),*) -> __m512 {
                // SAFETY: `self` proves AVX-512.
                unsafe { $intrinsic($($argument),*) }
            }
        )*
    };
}

impl Simd for Avx512 {
    type Vector = __m512;

    // 8 × 3 sums, 3 of weights and 1 input, of 32 registers: a batch of 8 or 16 is whole tiles.
    const TILE_ROWS: usize = 8;
    const TILE_PANELS: usize = 3;
    // 8 sums: two multiply-adds a cycle with a latency of four.
    const MATVEC_PANELS: usize = 8;

    #[inline(always)]
    unsafe fn new() -> Self {
        Self(())
    }

    #[inline(always)]
    fn splat(self, value: f32) -> __m512 {
        // SAFETY: `self` proves AVX-512.
        unsafe { _mm512_set1_ps(value) }
    }

    #[inline(always)]
    fn load(self, lanes: &Lanes) -> __m512 {
        // SAFETY: `self` proves AVX-512, and 16 floats can be read.
        unsafe { _mm512_loadu_ps(lanes.as_ptr()) }
    }

    #[inline(always)]
    fn store(self, lanes: &mut Lanes, vector: __m512) {
        // SAFETY: `self` proves AVX-512, and 16 floats can be written.
        unsafe { _mm512_storeu_ps(lanes.as_mut_ptr(), vector) }
    }

    one_to_one! {
        add(a, b) = _mm512_add_ps;
        sub(a, b) = _mm512_sub_ps;
        mul(a, b) = _mm512_mul_ps;
        div(a, b) = _mm512_div_ps;
        sqrt(a) = _mm512_sqrt_ps;
        abs(a) = _mm512_abs_ps;
        mul_add(a, b, c) = _mm512_fmadd_ps;
        neg_mul_add(a, b, c) = _mm512_fnmadd_ps;
        min(a, b) = _mm512_min_ps;
        max(a, b) = _mm512_max_ps;
        select_less(a, b, yes, no) = select_less;
        shift_into_exponent(a) = shift_into_exponent;
    }
}

#[inline]
#[target_feature(enable = "avx512f")]
fn select_less(a: __m512, b: __m512, yes: __m512, no: __m512) -> __m512 {
    _mm512_mask_blend_ps(_mm512_cmp_ps_mask::<_CMP_LT_OQ>(a, b), no, yes)
}

#[inline]
#[target_feature(enable = "avx512f")]
fn shift_into_exponent(a: __m512) -> __m512 {
    _mm512_castsi512_ps(_mm512_slli_epi32::<23>(_mm512_castps_si512(a)))
}

operations! { super::instantiate! {
    Avx512 (#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx2,fma")]) "avx512"
    "AVX-512 F, BW, VL and DQ"
} }
