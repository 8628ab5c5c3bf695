//! NEON with the dot product extension (ARMv8.2 and later): `sdot` adds four products of bytes to each of 4 sums.

use super::neon::{self, Neon};
use crate::kernels::Kernels;
use crate::line::{CodeLine, HalfLine, Line};
use crate::quantized::{Quantized, QuantizedCell};
use crate::simd::{Integers, Simd};
use crate::table::Epilogue;
use std::arch::aarch64::*;
use std::arch::asm;

#[derive(Clone, Copy)]
struct NeonDotprod(Neon);

pub(super) fn detect() -> Option<&'static Kernels> {
    (neon::is_available() && std::arch::is_aarch64_feature_detected!("dotprod")).then_some(&KERNELS)
}

impl NeonDotprod {
    /// # Safety
    ///
    /// The CPU has NEON and the dot product extension.
    #[inline(always)]
    unsafe fn new() -> Self {
        // SAFETY: the caller vouches for NEON.
        Self(unsafe { Neon::new() })
    }
}

impl Integers for NeonDotprod {
    type Floats = Neon;
    type Codes = [int8x16_t; 4];
    type Quad = int8x16_t;
    type Sums = [int32x4_t; 4];

    // 16 sums, of two panels or 4 rows: two products a cycle with a latency of three or four.
    const INTEGER_ROWS: usize = 4;
    const INTEGER_CHAINS: usize = 2;
    const CODE_OFFSET: i32 = 0;

    #[inline(always)]
    fn floats(self) -> Neon {
        self.0
    }

    #[inline(always)]
    fn zero_sums(self) -> [int32x4_t; 4] {
        // SAFETY: `self` proves NEON.
        unsafe { [vdupq_n_s32(0); 4] }
    }

    #[inline(always)]
    fn load_codes(self, codes: &[i8; 64]) -> [int8x16_t; 4] {
        self.0.load_codes(codes)
    }

    #[inline(always)]
    fn load_nibbles(self, codes: &[i8; 64]) -> [[int8x16_t; 4]; 2] {
        self.0.load_nibbles(codes)
    }

    #[inline(always)]
    fn quad(self, activations: &[i8; 4]) -> int8x16_t {
        self.0.quad(activations)
    }

    #[inline(always)]
    fn add_products(
        self,
        mut sums: [int32x4_t; 4],
        codes: [[int8x16_t; 4]; 2],
        quads: [int8x16_t; 2],
    ) -> [int32x4_t; 4] {
        for (codes, quad) in codes.into_iter().zip(quads) {
            for (sums, codes) in sums.iter_mut().zip(codes) {
                // SAFETY: `self` proves the dot product extension, of which this is the instruction (its
                // intrinsic is not stable); it reads and writes registers only.
                unsafe {
                    asm!(
                        ".arch_extension dotprod",
                        "sdot {sums:v}.4s, {codes:v}.16b, {quad:v}.16b",
                        sums = inout(vreg) *sums,
                        codes = in(vreg) codes,
                        quad = in(vreg) quad,
                        options(pure, nomem, nostack, preserves_flags),
                    );
                }
            }
        }
        sums
    }

    #[inline(always)]
    fn add_sums(self, a: [int32x4_t; 4], b: [int32x4_t; 4]) -> [int32x4_t; 4] {
        let mut sums = a;
        for (sum, b) in sums.iter_mut().zip(b) {
            // SAFETY: `self` proves NEON.
            *sum = unsafe { vaddq_s32(*sum, b) };
        }
        sums
    }

    #[inline(always)]
    fn finish_sums(self, sums: [int32x4_t; 4], excess: i32) -> [float32x4_t; 4] {
        let mut floats = self.0.splat(0.0);
        for (float, sums) in floats.iter_mut().zip(sums) {
            // SAFETY: `self` proves NEON.
            *float = unsafe { vcvtq_f32_s32(vsubq_s32(sums, vdupq_n_s32(excess))) };
        }
        floats
    }
}

super::integer_products! {
    NeonDotprod (#[target_feature(enable = "neon,dotprod")])
    "neon-dotprod" "NEON with the dot product extension for products of integers", neon::TABLE
}
