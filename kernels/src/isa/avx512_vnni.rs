//! AVX-512 with VNNI: `vpdpbusd` adds four products of bytes to each of 16 sums.

use super::avx512::{self, Avx512};
use crate::kernels::Kernels;
use crate::line::{CodeLine, HalfLine, Line};
use crate::quantized::{Quantized, QuantizedCell};
use crate::simd::{Integers, Simd, quad_bits};
use crate::table::Epilogue;
use std::arch::x86_64::*;

#[derive(Clone, Copy)]
struct Avx512Vnni(Avx512);

pub(super) fn detect() -> Option<&'static Kernels> {
    is_available().then_some(&KERNELS)
}

pub(super) fn is_available() -> bool {
    avx512::is_available() && is_x86_feature_detected!("avx512vnni")
}

impl Avx512Vnni {
    /// # Safety
    ///
    /// The CPU has AVX-512 and VNNI.
    #[inline(always)]
    unsafe fn new() -> Self {
        // SAFETY: the caller vouches for AVX-512.
        Self(unsafe { Avx512::new() })
    }
}

impl Integers for Avx512Vnni {
    type Floats = Avx512;
    type Codes = __m512i;
    type Quad = __m512i;
    type Sums = __m512i;

    // 8 sums: two additions a cycle with a latency of four.
    const INTEGER_ROWS: usize = 8;
    const INTEGER_CHAINS: usize = 4;
    /// The instruction multiplies unsigned by signed bytes; the weights become the unsigned factor.
    const CODE_OFFSET: i32 = 128;

    #[inline(always)]
    fn floats(self) -> Avx512 {
        self.0
    }

    #[inline(always)]
    fn zero_sums(self) -> __m512i {
        self.0.zero_sums()
    }

    #[inline(always)]
    fn load_codes(self, codes: &[i8; 64]) -> __m512i {
        // SAFETY: `self` proves AVX-512.
        unsafe { _mm512_xor_si512(self.0.load_codes(codes), _mm512_set1_epi8(-128)) }
    }

    #[inline(always)]
    fn load_nibbles(self, codes: &[i8; 64]) -> [__m512i; 2] {
        self.0.load_nibbles(codes)
    }

    #[inline(always)]
    fn quad(self, activations: &[i8; 4]) -> __m512i {
        // SAFETY: `self` proves AVX-512.
        unsafe { _mm512_set1_epi32(quad_bits(activations)) }
    }

    #[inline(always)]
    fn add_products(self, sums: __m512i, codes: [__m512i; 2], quads: [__m512i; 2]) -> __m512i {
        // SAFETY: `self` proves AVX-512 and VNNI.
        unsafe {
            let sums = _mm512_dpbusd_epi32(sums, codes[0], quads[0]);
            _mm512_dpbusd_epi32(sums, codes[1], quads[1])
        }
    }

    #[inline(always)]
    fn add_sums(self, a: __m512i, b: __m512i) -> __m512i {
        self.0.add_sums(a, b)
    }

    #[inline(always)]
    fn finish_sums(self, sums: __m512i, excess: i32) -> __m512 {
        self.0.finish_sums(sums, excess)
    }
}

super::integer_products! {
    Avx512Vnni (#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx2,fma,f16c")])
    "avx512-vnni" "AVX-512 with VNNI for products of integers", avx512::TABLE
}
