//! AVX2 with FMA: two vectors of 8 make up the 16 lanes.

use crate::kernels::Kernels;
use crate::line::{CodeLine, HalfLine, Line, PANEL_ROWS, PairLine};
use crate::quantized::{Quantized, QuantizedCell};
use crate::simd::{Integers, Lanes, Simd, quad_bits};
use crate::table::{AdamwStep, Epilogue, operations};
use half::{bf16, f16};
use std::arch::x86_64::*;

/// `REGISTERS`: how many there are, 16 or, with AVX-512 VL, 32.
#[derive(Clone, Copy)]
pub(super) struct Ymm<const REGISTERS: usize>(());

pub(super) type Avx2 = Ymm<16>;

pub(super) fn detect() -> Option<&'static Kernels> {
    is_available().then_some(&KERNELS)
}

pub(super) fn is_available() -> bool {
    is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") && is_x86_feature_detected!("f16c")
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

impl<const REGISTERS: usize> Simd for Ymm<REGISTERS> {
    type Vector = [__m256; 2];
    type Widening = Self;

    // 6 × 2 sums, 2 of weights and 1 input, of 16 registers.
    const TILE_ROWS: usize = 6;
    const TILE_PANELS: usize = 1;
    // 8 sums of 16 registers: two multiply-adds a cycle with a latency of four. More share a broadcast.
    const MATVEC_PANELS: usize = REGISTERS / 4;

    #[inline(always)]
    unsafe fn new() -> Self {
        Self(())
    }

    #[inline(always)]
    fn widening(self) -> Self {
        self
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
    fn load_half(self, lanes: &[f16; PANEL_ROWS]) -> [__m256; 2] {
        let start = lanes.as_ptr();
        // SAFETY: `self` proves F16C, and 32 bytes can be read.
        unsafe {
            [
                _mm256_cvtph_ps(_mm_loadu_si128(start.cast())),
                _mm256_cvtph_ps(_mm_loadu_si128(start.add(8).cast())),
            ]
        }
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

    #[inline(always)]
    fn reduce_max(self, vector: [__m256; 2]) -> f32 {
        // SAFETY: `self` proves AVX2.
        unsafe {
            let eight = _mm256_max_ps(vector[0], vector[1]);
            let four = _mm_max_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps::<1>(eight));
            let two = _mm_max_ps(four, _mm_movehl_ps(four, four));
            _mm_cvtss_f32(_mm_max_ss(two, _mm_movehdup_ps(two)))
        }
    }

    #[inline(always)]
    fn store_low_bytes(self, bytes: &mut [i8; PANEL_ROWS], a: [__m256; 2]) {
        // SAFETY: `self` proves AVX2, and 16 bytes can be written.
        unsafe {
            let low = _mm256_set1_epi32(0xff);
            let first = _mm256_and_si256(_mm256_castps_si256(a[0]), low);
            let second = _mm256_and_si256(_mm256_castps_si256(a[1]), low);
            // Packing works within 128 bits: [a0 b0 | a1 b1] of quarters.
            let words = _mm256_packus_epi32(first, second);
            let bytes_in_quarters = _mm256_packus_epi16(words, words);
            let order = _mm256_setr_epi32(0, 4, 1, 5, 0, 4, 1, 5);
            let ordered = _mm256_permutevar8x32_epi32(bytes_in_quarters, order);
            _mm_storeu_si128(bytes.as_mut_ptr().cast(), _mm256_castsi256_si128(ordered));
        }
    }
}

/// Activations and their magnitudes: `vpmaddubsw` multiplies unsigned by signed bytes, so the weights take the
/// activations' sign.
#[derive(Clone, Copy)]
pub(super) struct SignedQuad {
    signed: __m256i,
    magnitude: __m256i,
}

impl Integers for Avx2 {
    type Floats = Self;
    type Codes = [__m256i; 2];
    type Quad = SignedQuad;
    type Sums = [__m256i; 2];

    // 6 sums, of 16 registers; a single row has 4, as its products' five instructions need the others.
    const INTEGER_ROWS: usize = 3;
    const INTEGER_CHAINS: usize = 1;
    const CODE_OFFSET: i32 = 0;

    #[inline(always)]
    fn floats(self) -> Self {
        self
    }

    #[inline(always)]
    fn zero_sums(self) -> [__m256i; 2] {
        // SAFETY: `self` proves AVX2.
        unsafe { [_mm256_setzero_si256(); 2] }
    }

    #[inline(always)]
    fn load_codes(self, codes: &[i8; 64]) -> [__m256i; 2] {
        let start = codes.as_ptr();
        // SAFETY: `self` proves AVX2, and 64 bytes can be read.
        unsafe { [_mm256_loadu_si256(start.cast()), _mm256_loadu_si256(start.add(32).cast())] }
    }

    #[inline(always)]
    fn load_nibbles(self, codes: &[i8; 64]) -> [[__m256i; 2]; 2] {
        let [a, b] = self.load_codes(codes);
        // SAFETY: `self` proves AVX2.
        unsafe {
            let low = _mm256_set1_epi8(15);
            [
                [_mm256_and_si256(a, low), _mm256_and_si256(b, low)],
                [
                    _mm256_and_si256(_mm256_srli_epi16::<4>(a), low),
                    _mm256_and_si256(_mm256_srli_epi16::<4>(b), low),
                ],
            ]
        }
    }

    #[inline(always)]
    fn quad(self, activations: &[i8; 4]) -> SignedQuad {
        // SAFETY: `self` proves AVX2.
        unsafe {
            let signed = _mm256_set1_epi32(quad_bits(activations));
            SignedQuad { signed, magnitude: _mm256_abs_epi8(signed) }
        }
    }

    #[inline(always)]
    fn add_products(
        self,
        mut sums: [__m256i; 2],
        codes: [[__m256i; 2]; 2],
        quads: [SignedQuad; 2],
    ) -> [__m256i; 2] {
        for (codes, quad) in codes.into_iter().zip(quads) {
            for (sums, codes) in sums.iter_mut().zip(codes) {
                // SAFETY: `self` proves AVX2.
                unsafe {
                    // Two products of at most 127 · 127 fit into 16 bits.
                    let signed = _mm256_sign_epi8(codes, quad.signed);
                    let pairs = _mm256_maddubs_epi16(quad.magnitude, signed);
                    *sums = _mm256_add_epi32(*sums, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
                }
            }
        }
        sums
    }

    #[inline(always)]
    fn add_nibble_products(
        self,
        mut sums: [__m256i; 2],
        codes: [[__m256i; 2]; 2],
        quads: [SignedQuad; 2],
    ) -> [__m256i; 2] {
        for (half, sums) in sums.iter_mut().enumerate() {
            // SAFETY: `self` proves AVX2.
            unsafe {
                // Four products of at most 15 · 127 fit into 16 bits.
                let first = _mm256_maddubs_epi16(codes[0][half], quads[0].signed);
                let second = _mm256_maddubs_epi16(codes[1][half], quads[1].signed);
                let pairs = _mm256_add_epi16(first, second);
                *sums = _mm256_add_epi32(*sums, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
            }
        }
        sums
    }

    #[inline(always)]
    fn add_sums(self, a: [__m256i; 2], b: [__m256i; 2]) -> [__m256i; 2] {
        // SAFETY: `self` proves AVX2.
        unsafe { [_mm256_add_epi32(a[0], b[0]), _mm256_add_epi32(a[1], b[1])] }
    }

    #[inline(always)]
    fn finish_sums(self, sums: [__m256i; 2], excess: i32) -> [__m256; 2] {
        // SAFETY: `self` proves AVX2.
        unsafe {
            let excess = _mm256_set1_epi32(excess);
            [
                _mm256_cvtepi32_ps(_mm256_sub_epi32(sums[0], excess)),
                _mm256_cvtepi32_ps(_mm256_sub_epi32(sums[1], excess)),
            ]
        }
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
    Avx2 (#[target_feature(enable = "avx2,fma,f16c")]) "avx2" "AVX2 with FMA"
} }
