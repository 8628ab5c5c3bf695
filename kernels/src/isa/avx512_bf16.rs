//! AVX-512 with VNNI and BF16: `vdpbf16ps` adds two products of bfloat16 numbers to each of 16 sums.

use super::avx512::Avx512;
use super::avx512_vnni;
use crate::kernels::Kernels;
use crate::line::{PANEL_ROWS, PairLine};
use crate::simd::{Pairs, Simd};
use crate::table::{Epilogue, Table};
use half::bf16;
use std::arch::x86_64::*;

#[derive(Clone, Copy)]
struct Avx512Bf16(Avx512);

pub(super) fn detect() -> Option<&'static Kernels> {
    (avx512_vnni::is_available() && is_x86_feature_detected!("avx512bf16")).then_some(&KERNELS)
}

// SAFETY: `detect` hands these out only where the CPU has the instruction set, which is what the functions need
// beside checked shapes.
static KERNELS: Kernels = unsafe {
    let table = Table { gemm_bf16, ..avx512_vnni::TABLE };
    Kernels::plug("avx512-bf16", "AVX-512 with VNNI, and BF16 for products of bfloat16", table)
};

impl Avx512Bf16 {
    /// # Safety
    ///
    /// The CPU has AVX-512 and BF16.
    #[inline(always)]
    unsafe fn new() -> Self {
        // SAFETY: the caller vouches for AVX-512.
        Self(unsafe { Avx512::new() })
    }
}

impl Pairs for Avx512Bf16 {
    type Floats = Avx512;
    type Weights = __m512bh;
    type Pair = __m512bh;

    const PAIR_ROWS: usize = 8;

    #[inline(always)]
    fn floats(self) -> Avx512 {
        self.0
    }

    #[inline(always)]
    fn load_pairs(self, weights: &[[bf16; 2]; PANEL_ROWS]) -> __m512bh {
        // SAFETY: `self` proves AVX-512, 64 bytes can be read, and both types are 32 bfloat16 numbers.
        unsafe { std::mem::transmute(_mm512_loadu_si512(weights.as_ptr().cast())) }
    }

    #[inline(always)]
    fn pair(self, activations: &[bf16; 2]) -> __m512bh {
        let [low, high] = activations.map(|activation| u32::from(activation.to_bits()));
        // SAFETY: `self` proves AVX-512, and both types are 32 bfloat16 numbers.
        unsafe { std::mem::transmute(_mm512_set1_epi32((high << 16 | low) as i32)) }
    }

    #[inline(always)]
    fn add_pairs(self, sum: __m512, weights: __m512bh, pair: __m512bh) -> __m512 {
        // SAFETY: `self` proves BF16.
        unsafe { _mm512_dpbf16_ps(sum, weights, pair) }
    }
}

super::entry! {
    Avx512Bf16
    (#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx512bf16,avx2,fma,f16c")])
    gemm_bf16(
        out: &mut [f32], a: &[bf16], weights: &[PairLine], depth: usize, epilogue: Epilogue<'_>
    ) -> ()
}
