//! AVX2 with FMA: two vectors of 8 make up the 16 lanes.

use crate::kernels::Kernels;
use crate::line::Line;
use crate::simd::{Lanes, Simd};
use crate::table::{AdamwStep, Epilogue, operations};
use std::arch::x86_64::*;

#[derive(Clone, Copy)]
struct Avx2(());

pub(super) fn detect() -> Option<&'static Kernels> {
    (is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma")).then_some(&KERNELS)
}

/// Operations that are one instruction for each half.
macro_rules! halves {
    ($($name:ident($($argument:ident),*) = $intrinsic:ident;)*) => {
        $(
            #[inline(always)]
            fn $name(self, $($argument: [__m256; 2]),*) -> [__m256; 2] {
                // SAFETY: `self` proves AVX2 and FMA.
                unsafe { [$intrinsic($($argument[0]),*), $intrinsic($($argument[1]),*)] }
            }
        )*
    };
}

impl Simd for Avx2 {
    type Vector = [__m256; 2];

    // 6 × 2 sums, 2 of weights and 1 input, of 16 registers.
    const TILE_ROWS: usize = 6;
    const TILE_PANELS: usize = 1;
    // 8 sums: two multiply-adds a cycle with a latency of four.
    const MATVEC_PANELS: usize = 4;

    #[inline(always)]
    unsafe fn new() -> Self {
        Self(())
    }

    #[inline(always)]
    fn splat(self, value: f32) -> [__m256; 2] {
        // SAFETY: `self` proves AVX2.
        unsafe { [_mm256_set1_ps(value); 2] }
    }

    #[inline(always)]
    fn load(self, lanes: &Lanes) -> [__m256; 2] {
        // SAFETY: `self` proves AVX2, and 16 floats can be read.
        unsafe { [_mm256_loadu_ps(lanes.as_ptr()), _mm256_loadu_ps(lanes.as_ptr().add(8))] }
    }

    #[inline(always)]
    fn store(self, lanes: &mut Lanes, vector: [__m256; 2]) {
        // SAFETY: `self` proves AVX2, and 16 floats can be written.
        unsafe {
            _mm256_storeu_ps(lanes.as_mut_ptr(), vector[0]);
            _mm256_storeu_ps(lanes.as_mut_ptr().add(8), vector[1]);
        }
    }

    halves! {
        add(a, b) = _mm256_add_ps;
        sub(a, b) = _mm256_sub_ps;
        mul(a, b) = _mm256_mul_ps;
        div(a, b) = _mm256_div_ps;
        sqrt(a) = _mm256_sqrt_ps;
        abs(a) = abs;
        mul_add(a, b, c) = _mm256_fmadd_ps;
        neg_mul_add(a, b, c) = _mm256_fnmadd_ps;
        min(a, b) = _mm256_min_ps;
        max(a, b) = _mm256_max_ps;
        select_less(a, b, yes, no) = select_less;
        shift_into_exponent(a) = shift_into_exponent;
    }
}

#[inline]
#[target_feature(enable = "avx2")]
fn abs(a: __m256) -> __m256 {
    _mm256_andnot_ps(_mm256_set1_ps(-0.0), a)
}

#[inline]
#[target_feature(enable = "avx2")]
fn select_less(a: __m256, b: __m256, yes: __m256, no: __m256) -> __m256 {
    _mm256_blendv_ps(no, yes, _mm256_cmp_ps::<_CMP_LT_OQ>(a, b))
}

#[inline]
#[target_feature(enable = "avx2")]
fn shift_into_exponent(a: __m256) -> __m256 {
    _mm256_castsi256_ps(_mm256_slli_epi32::<23>(_mm256_castps_si256(a)))
}

operations! { super::instantiate! {
    Avx2 (#[target_feature(enable = "avx2,fma")]) "avx2" "AVX2 with FMA"
} }
