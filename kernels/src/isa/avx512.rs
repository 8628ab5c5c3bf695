//! AVX-512 (F, BW, VL, DQ): one register holds the 16 lanes.

use super::avx2::{self, Ymm};
use crate::kernels::Kernels;
use crate::line::{CodeLine, HalfLine, Line, PANEL_ROWS, PairLine};
use crate::quantized::{Quantized, QuantizedCell};
use crate::simd::{Integers, Lanes, Simd, quad_bits};
use crate::table::{AdamwStep, Epilogue, operations};
use half::{bf16, f16};
use std::arch::x86_64::*;

#[derive(Clone, Copy)]
pub(super) struct Avx512(());

pub(super) fn detect() -> Option<&'static Kernels> {
    is_available().then_some(&KERNELS)
}

pub(super) fn is_available() -> bool {
    avx2::is_available()
        && is_x86_feature_detected!("avx512f")
        && is_x86_feature_detected!("avx512bw")
        && is_x86_feature_detected!("avx512vl")
        && is_x86_feature_detected!("avx512dq")
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
    /// `vcvtph2ps` fills a whole register at less than half the speed of a half one on Zen 4.
    type Widening = Ymm<32>;

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
    fn widening(self) -> Ymm<32> {
        // SAFETY: `is_available` has asked for what AVX2 needs.
        unsafe { Ymm::new() }
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
    fn load_half(self, lanes: &[f16; PANEL_ROWS]) -> __m512 {
        // SAFETY: `self` proves AVX-512, and 32 bytes can be read.
        unsafe { _mm512_cvtph_ps(_mm256_loadu_si256(lanes.as_ptr().cast())) }
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

    #[inline(always)]
    fn reduce_max(self, vector: __m512) -> f32 {
        // SAFETY: `self` proves AVX-512.
        unsafe { _mm512_reduce_max_ps(vector) }
    }

    #[inline(always)]
    fn store_low_bytes(self, bytes: &mut [i8; PANEL_ROWS], a: __m512) {
        // SAFETY: `self` proves AVX-512, and 16 bytes can be written.
        unsafe {
            _mm_storeu_si128(bytes.as_mut_ptr().cast(), _mm512_cvtepi32_epi8(_mm512_castps_si512(a)));
        }
    }
}

/// Activations, ready for `vpmaddubsw`, which multiplies unsigned by signed bytes: their magnitudes, which are
/// the unsigned factor, and which of them are negative, whose weights change sign instead.
#[derive(Clone, Copy)]
pub(super) struct SignedQuad {
    signed: __m512i,
    magnitude: __m512i,
    negative: __mmask64,
}

impl Integers for Avx512 {
    type Floats = Self;
    type Codes = __m512i;
    type Quad = SignedQuad;
    type Sums = __m512i;

    // 8 sums, of two panels or 8 rows: enough to hide the latency of multiplying and adding.
    const INTEGER_ROWS: usize = 8;
    const INTEGER_CHAINS: usize = 4;
    const CODE_OFFSET: i32 = 0;

    #[inline(always)]
    fn floats(self) -> Self {
        self
    }

    #[inline(always)]
    fn zero_sums(self) -> __m512i {
        // SAFETY: `self` proves AVX-512.
        unsafe { _mm512_setzero_si512() }
    }

    #[inline(always)]
    fn load_codes(self, codes: &[i8; 64]) -> __m512i {
        // SAFETY: `self` proves AVX-512, and 64 bytes can be read.
        unsafe { _mm512_loadu_si512(codes.as_ptr().cast()) }
    }

    #[inline(always)]
    fn load_nibbles(self, codes: &[i8; 64]) -> [__m512i; 2] {
        // SAFETY: `self` proves AVX-512, and 64 bytes can be read.
        unsafe {
            let (codes, low) = (_mm512_loadu_si512(codes.as_ptr().cast()), _mm512_set1_epi8(15));
            [_mm512_and_si512(codes, low), _mm512_and_si512(_mm512_srli_epi16::<4>(codes), low)]
        }
    }

    #[inline(always)]
    fn quad(self, activations: &[i8; 4]) -> SignedQuad {
        // SAFETY: `self` proves AVX-512.
        unsafe {
            let signed = _mm512_set1_epi32(quad_bits(activations));
            let (magnitude, negative) = (_mm512_abs_epi8(signed), _mm512_movepi8_mask(signed));
            SignedQuad { signed, magnitude, negative }
        }
    }

    #[inline(always)]
    fn add_products(self, mut sums: __m512i, codes: [__m512i; 2], quads: [SignedQuad; 2]) -> __m512i {
        for (codes, quad) in codes.into_iter().zip(quads) {
            // SAFETY: `self` proves AVX-512.
            unsafe {
                let signed = _mm512_mask_sub_epi8(codes, quad.negative, _mm512_setzero_si512(), codes);
                // Two products of at most 127 · 127 fit into 16 bits.
                let pairs = _mm512_maddubs_epi16(quad.magnitude, signed);
                sums = _mm512_add_epi32(sums, _mm512_madd_epi16(pairs, _mm512_set1_epi16(1)));
            }
        }
        sums
    }

    #[inline(always)]
    fn add_nibble_products(self, sums: __m512i, codes: [__m512i; 2], quads: [SignedQuad; 2]) -> __m512i {
        // SAFETY: `self` proves AVX-512.
        unsafe {
            // Four products of at most 15 · 127 fit into 16 bits.
            let first = _mm512_maddubs_epi16(codes[0], quads[0].signed);
            let pairs = _mm512_add_epi16(first, _mm512_maddubs_epi16(codes[1], quads[1].signed));
            _mm512_add_epi32(sums, _mm512_madd_epi16(pairs, _mm512_set1_epi16(1)))
        }
    }

    #[inline(always)]
    fn add_sums(self, a: __m512i, b: __m512i) -> __m512i {
        // SAFETY: `self` proves AVX-512.
        unsafe { _mm512_add_epi32(a, b) }
    }

    #[inline(always)]
    fn finish_sums(self, sums: __m512i, excess: i32) -> __m512 {
        // SAFETY: `self` proves AVX-512.
        unsafe { _mm512_cvtepi32_ps(_mm512_sub_epi32(sums, _mm512_set1_epi32(excess))) }
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
    Avx512 (#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx2,fma,f16c")]) "avx512"
    "AVX-512 F, BW, VL and DQ"
} }
