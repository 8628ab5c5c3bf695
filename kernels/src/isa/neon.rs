//! NEON as every 64-bit ARM CPU has it: four registers make up the 16 lanes.

use crate::kernels::Kernels;
use crate::line::{CodeLine, HalfLine, Line, PANEL_ROWS, PairLine};
use crate::quantized::{Quantized, QuantizedCell};
use crate::simd::{Integers, Lanes, Simd, quad_bits};
use crate::table::{AdamwStep, Epilogue, operations};
use half::{bf16, f16};
use std::arch::aarch64::*;
use std::arch::asm;

#[derive(Clone, Copy)]
pub(super) struct Neon(());

pub(super) fn detect() -> Option<&'static Kernels> {
    is_available().then_some(&KERNELS)
}

pub(super) fn is_available() -> bool {
    std::arch::is_aarch64_feature_detected!("neon")
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
    type Widening = Self;

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
    fn widening(self) -> Self {
        self
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
        unsafe {
            [vld1q_f32(start), vld1q_f32(start.add(4)), vld1q_f32(start.add(8)), vld1q_f32(start.add(12))]
        }
    }

    #[inline(always)]
    fn load_half(self, lanes: &[f16; PANEL_ROWS]) -> [float32x4_t; 4] {
        let start = lanes.as_ptr().cast::<u16>();
        // SAFETY: `self` proves NEON, and 32 bytes can be read.
        unsafe {
            [
                widen(vld1_u16(start)),
                widen(vld1_u16(start.add(4))),
                widen(vld1_u16(start.add(8))),
                widen(vld1_u16(start.add(12))),
            ]
        }
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
        max(a, b) = max;
        select_less(a, b, yes, no) = select_less;
        shift_into_exponent(a) = shift_into_exponent;
    }

    #[inline(always)]
    fn reduce_max(self, [a, b, c, d]: [float32x4_t; 4]) -> f32 {
        // SAFETY: `self` proves NEON.
        unsafe { vmaxvq_f32(vmaxq_f32(vmaxq_f32(a, b), vmaxq_f32(c, d))) }
    }

    #[inline(always)]
    fn store_low_bytes(self, bytes: &mut [i8; PANEL_ROWS], a: [float32x4_t; 4]) {
        // SAFETY: `self` proves NEON, and 16 bytes can be written.
        unsafe {
            let low = vmovn_s16(vcombine_s16(low_words(a[0]), low_words(a[1])));
            let high = vmovn_s16(vcombine_s16(low_words(a[2]), low_words(a[3])));
            vst1q_s8(bytes.as_mut_ptr(), vcombine_s8(low, high));
        }
    }
}

impl Integers for Neon {
    type Floats = Self;
    type Codes = [int8x16_t; 4];
    type Quad = int8x16_t;
    /// Two numbers a row, side by side.
    type Sums = [int32x4_t; 8];

    // 8 sums, 8 codes, 4 products and 2 inputs, of 32 registers.
    const INTEGER_ROWS: usize = 1;
    const INTEGER_PANELS: usize = 1;
    const INTEGER_CHAINS: usize = 1;
    const CODE_OFFSET: i32 = 0;

    #[inline(always)]
    fn floats(self) -> Self {
        self
    }

    #[inline(always)]
    fn zero_sums(self) -> [int32x4_t; 8] {
        // SAFETY: `self` proves NEON.
        unsafe { [vdupq_n_s32(0); 8] }
    }

    #[inline(always)]
    fn load_codes(self, codes: &[i8; 64]) -> [int8x16_t; 4] {
        let start = codes.as_ptr();
        // SAFETY: `self` proves NEON, and 64 bytes can be read.
        unsafe {
            [vld1q_s8(start), vld1q_s8(start.add(16)), vld1q_s8(start.add(32)), vld1q_s8(start.add(48))]
        }
    }

    #[inline(always)]
    fn load_nibbles(self, codes: &[i8; 64]) -> [[int8x16_t; 4]; 2] {
        let [a, b, c, d] = self.load_codes(codes);
        // SAFETY: `self` proves NEON.
        unsafe {
            let low = vdupq_n_s8(15);
            [
                [vandq_s8(a, low), vandq_s8(b, low), vandq_s8(c, low), vandq_s8(d, low)],
                [high_nibbles(a), high_nibbles(b), high_nibbles(c), high_nibbles(d)],
            ]
        }
    }

    #[inline(always)]
    fn quad(self, activations: &[i8; 4]) -> int8x16_t {
        // SAFETY: `self` proves NEON.
        unsafe { vreinterpretq_s8_s32(vdupq_n_s32(quad_bits(activations))) }
    }

    #[inline(always)]
    fn add_products(
        self,
        mut sums: [int32x4_t; 8],
        codes: [[int8x16_t; 4]; 2],
        quads: [int8x16_t; 2],
    ) -> [int32x4_t; 8] {
        // SAFETY: `self` proves NEON.
        unsafe { add_products(&mut sums, codes, quads) };
        sums
    }

    #[inline(always)]
    fn add_sums(self, a: [int32x4_t; 8], b: [int32x4_t; 8]) -> [int32x4_t; 8] {
        let mut sums = a;
        for (sum, b) in sums.iter_mut().zip(b) {
            // SAFETY: `self` proves NEON.
            *sum = unsafe { vaddq_s32(*sum, b) };
        }
        sums
    }

    #[inline(always)]
    fn finish_sums(self, sums: [int32x4_t; 8], excess: i32) -> [float32x4_t; 4] {
        let mut floats = self.splat(0.0);
        for (float, pair) in floats.iter_mut().zip(sums.as_chunks::<2>().0) {
            // SAFETY: `self` proves NEON.
            *float = unsafe { vcvtq_f32_s32(vsubq_s32(vpaddq_s32(pair[0], pair[1]), vdupq_n_s32(excess))) };
        }
        floats
    }
}

/// Every CPU with NEON has this instruction; its intrinsic takes a type that is not stable.
#[inline]
#[target_feature(enable = "neon")]
fn widen(half: uint16x4_t) -> float32x4_t {
    let result: float32x4_t;
    // SAFETY: works on registers only.
    unsafe {
        asm!(
            "fcvtl {result:v}.4s, {half:v}.4h",
            result = out(vreg) result,
            half = in(vreg) half,
            options(pure, nomem, nostack, preserves_flags),
        );
    }
    result
}

/// Two products of at most 127 · 127 fit into 16 bits; pairs of those sums are added to the 32-bit ones. Written out,
/// as the compiler exchanges the registers' halves where it could multiply the upper ones, and keeps more products at a
/// time than there are registers.
#[inline]
#[target_feature(enable = "neon")]
fn add_products(sums: &mut [int32x4_t; 8], codes: [[int8x16_t; 4]; 2], [first, second]: [int8x16_t; 2]) {
    // SAFETY: works on registers only.
    unsafe {
        asm!(
            "smull {low0:v}.8h, {x0:v}.8b, {first:v}.8b",
            "smull2 {high0:v}.8h, {x0:v}.16b, {first:v}.16b",
            "smull {low1:v}.8h, {x1:v}.8b, {first:v}.8b",
            "smull2 {high1:v}.8h, {x1:v}.16b, {first:v}.16b",
            "smull {low2:v}.8h, {x2:v}.8b, {first:v}.8b",
            "smull2 {high2:v}.8h, {x2:v}.16b, {first:v}.16b",
            "smull {low3:v}.8h, {x3:v}.8b, {first:v}.8b",
            "smull2 {high3:v}.8h, {x3:v}.16b, {first:v}.16b",
            "smlal {low0:v}.8h, {y0:v}.8b, {second:v}.8b",
            "smlal2 {high0:v}.8h, {y0:v}.16b, {second:v}.16b",
            "smlal {low1:v}.8h, {y1:v}.8b, {second:v}.8b",
            "smlal2 {high1:v}.8h, {y1:v}.16b, {second:v}.16b",
            "smlal {low2:v}.8h, {y2:v}.8b, {second:v}.8b",
            "smlal2 {high2:v}.8h, {y2:v}.16b, {second:v}.16b",
            "smlal {low3:v}.8h, {y3:v}.8b, {second:v}.8b",
            "smlal2 {high3:v}.8h, {y3:v}.16b, {second:v}.16b",
            "sadalp {sum0:v}.4s, {low0:v}.8h",
            "sadalp {sum1:v}.4s, {high0:v}.8h",
            "sadalp {sum2:v}.4s, {low1:v}.8h",
            "sadalp {sum3:v}.4s, {high1:v}.8h",
            "sadalp {sum4:v}.4s, {low2:v}.8h",
            "sadalp {sum5:v}.4s, {high2:v}.8h",
            "sadalp {sum6:v}.4s, {low3:v}.8h",
            "sadalp {sum7:v}.4s, {high3:v}.8h",
            x0 = in(vreg) codes[0][0], x1 = in(vreg) codes[0][1], x2 = in(vreg) codes[0][2], x3 = in(vreg) codes[0][3],
            y0 = in(vreg) codes[1][0], y1 = in(vreg) codes[1][1], y2 = in(vreg) codes[1][2], y3 = in(vreg) codes[1][3],
            first = in(vreg) first, second = in(vreg) second,
            low0 = out(vreg) _, high0 = out(vreg) _, low1 = out(vreg) _, high1 = out(vreg) _, low2 = out(vreg) _, high2 = out(vreg) _, low3 = out(vreg) _, high3 = out(vreg) _,
            sum0 = inout(vreg) sums[0], sum1 = inout(vreg) sums[1],
            sum2 = inout(vreg) sums[2], sum3 = inout(vreg) sums[3],
            sum4 = inout(vreg) sums[4], sum5 = inout(vreg) sums[5],
            sum6 = inout(vreg) sums[6], sum7 = inout(vreg) sums[7],
            options(pure, nomem, nostack, preserves_flags),
        );
    }
}

#[inline]
#[target_feature(enable = "neon")]
fn mul_add(a: float32x4_t, b: float32x4_t, c: float32x4_t) -> float32x4_t {
    vfmaq_f32(c, a, b)
}

#[inline]
#[target_feature(enable = "neon")]
fn low_words(a: float32x4_t) -> int16x4_t {
    vmovn_s32(vreinterpretq_s32_f32(a))
}

#[inline]
#[target_feature(enable = "neon")]
fn high_nibbles(codes: int8x16_t) -> int8x16_t {
    vreinterpretq_s8_u8(vshrq_n_u8::<4>(vreinterpretq_u8_s8(codes)))
}

#[inline]
#[target_feature(enable = "neon")]
fn neg_mul_add(a: float32x4_t, b: float32x4_t, c: float32x4_t) -> float32x4_t {
    vfmsq_f32(c, a, b)
}

/// The instruction of this name makes +0 of two zeros.
#[inline]
#[target_feature(enable = "neon")]
fn max(a: float32x4_t, b: float32x4_t) -> float32x4_t {
    vbslq_f32(vcgtq_f32(a, b), a, b)
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
