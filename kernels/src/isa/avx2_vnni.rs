//! AVX2 with AVX-VNNI, as CPUs without AVX-512 have it: `vpdpbusd` on vectors of 8 sums.

use super::avx2::{self, Avx2};
use crate::kernels::Kernels;
use crate::line::{CodeLine, HalfLine, Line};
use crate::quantized::{Quantized, QuantizedCell};
use crate::simd::{Integers, Simd, quad_bits};
use crate::table::Epilogue;
use std::arch::x86_64::*;

#[derive(Clone, Copy)]
struct Avx2Vnni(Avx2);

pub(super) fn detect() -> Option<&'static Kernels> {
    (avx2::is_available() && is_x86_feature_detected!("avxvnni")).then_some(&KERNELS)
}

impl Avx2Vnni {
    /// # Safety
    ///
    /// The CPU has AVX2 and AVX-VNNI.
    #[inline(always)]
    unsafe fn new() -> Self {
        // SAFETY: the caller vouches for AVX2.
        Self(unsafe { Avx2::new() })
    }
}

impl Integers for Avx2Vnni {
    type Floats = Avx2;
    type Codes = [__m256i; 2];
    type Quad = __m256i;
    type Sums = [__m256i; 2];

    // 8 sums: two additions a cycle with a latency of four.
    const INTEGER_ROWS: usize = 4;
    const INTEGER_CHAINS: usize = 2;
    /// The instruction multiplies unsigned by signed bytes; the weights become the unsigned factor.
    const CODE_OFFSET: i32 = 128;

    #[inline(always)]
    fn floats(self) -> Avx2 {
        self.0
    }

    #[inline(always)]
    fn zero_sums(self) -> [__m256i; 2] {
        self.0.zero_sums()
    }

    #[inline(always)]
    fn load_codes(self, codes: &[i8; 64]) -> [__m256i; 2] {
        let [a, b] = self.0.load_codes(codes);
        // SAFETY: `self` proves AVX2.
        unsafe {
            let sign = _mm256_set1_epi8(-128);
            [_mm256_xor_si256(a, sign), _mm256_xor_si256(b, sign)]
        }
    }

    #[inline(always)]
    fn load_nibbles(self, codes: &[i8; 64]) -> [[__m256i; 2]; 2] {
        self.0.load_nibbles(codes)
    }

    #[inline(always)]
    fn quad(self, activations: &[i8; 4]) -> __m256i {
        // SAFETY: `self` proves AVX2.
        unsafe { _mm256_set1_epi32(quad_bits(activations)) }
    }

    #[inline(always)]
    fn add_products(
        self,
        mut sums: [__m256i; 2],
        codes: [[__m256i; 2]; 2],
        quads: [__m256i; 2],
    ) -> [__m256i; 2] {
        for (codes, quad) in codes.into_iter().zip(quads) {
            for (sums, codes) in sums.iter_mut().zip(codes) {
                // SAFETY: `self` proves AVX-VNNI.
                *sums = unsafe { _mm256_dpbusd_avx_epi32(*sums, codes, quad) };
            }
        }
        sums
    }

    #[inline(always)]
    fn add_sums(self, a: [__m256i; 2], b: [__m256i; 2]) -> [__m256i; 2] {
        self.0.add_sums(a, b)
    }

    #[inline(always)]
    fn finish_sums(self, sums: [__m256i; 2], excess: i32) -> [__m256; 2] {
        self.0.finish_sums(sums, excess)
    }
}

super::integer_products! {
    Avx2Vnni (#[target_feature(enable = "avx2,fma,f16c,avxvnni")])
    "avx2-vnni" "AVX2 and FMA with AVX-VNNI for products of integers", avx2::TABLE
}
