//! Portable SIMD through the `wide` crate, the floor on every target: it picks its instructions at compile
//! time.

use crate::kernels::Kernels;
use crate::line::{CodeLine, HalfLine, Line, PANEL_ROWS, PairLine};
use crate::quantized::{Quantized, QuantizedCell};
use crate::simd::{Integers, Lanes, Simd};
use crate::table::{AdamwStep, Epilogue, operations};
use half::{bf16, f16};
use std::array::from_fn;
use wide::{bytemuck, f32x16, i8x16, i16x16, i32x8, i32x16, u32x16};

#[derive(Clone, Copy)]
struct Wide;

pub(super) fn detect() -> Option<&'static Kernels> {
    Some(&KERNELS)
}

impl Simd for Wide {
    type Vector = f32x16;
    type Widening = Self;

    // 2 × 4 sums of 4 lanes, 4 of weights and 1 input, of the 16 registers of SSE2.
    const TILE_ROWS: usize = 2;
    const TILE_PANELS: usize = 1;
    const MATVEC_PANELS: usize = 2;

    #[inline(always)]
    unsafe fn new() -> Self {
        Self
    }

    #[inline(always)]
    fn widening(self) -> Self {
        self
    }

    #[inline(always)]
    fn splat(self, value: f32) -> f32x16 {
        f32x16::splat(value)
    }

    #[inline(always)]
    fn load(self, lanes: &Lanes) -> f32x16 {
        f32x16::new(*lanes)
    }

    /// Exponent and fraction, moved to where f32 has them, are the value times 2⁻¹¹², denormal or not.
    #[inline(always)]
    fn load_half(self, lanes: &[f16; PANEL_ROWS]) -> f32x16 {
        let bits = u32x16::new(lanes.map(|half| u32::from(half.to_bits())));
        let magnitude = (bits & u32x16::splat(0x7fff)) << 13_u32;
        let sign = (bits & u32x16::splat(0x8000)) << 16_u32;
        let finite = bytemuck::cast::<u32x16, f32x16>(magnitude) * f32x16::splat(f32::from_bits(0x7780_0000));
        // Infinities and NaNs have the largest exponent in both formats.
        let special = bytemuck::cast::<u32x16, f32x16>(magnitude | u32x16::splat(0x7f80_0000));
        let value = finite.simd_lt(f32x16::splat(65536.0)).select(finite, special);
        bytemuck::cast(bytemuck::cast::<f32x16, u32x16>(value) | sign)
    }

    #[inline(always)]
    fn store(self, lanes: &mut Lanes, vector: f32x16) {
        *lanes = vector.to_array();
    }

    #[inline(always)]
    fn add(self, a: f32x16, b: f32x16) -> f32x16 {
        a + b
    }

    #[inline(always)]
    fn sub(self, a: f32x16, b: f32x16) -> f32x16 {
        a - b
    }

    #[inline(always)]
    fn mul(self, a: f32x16, b: f32x16) -> f32x16 {
        a * b
    }

    #[inline(always)]
    fn div(self, a: f32x16, b: f32x16) -> f32x16 {
        a / b
    }

    #[inline(always)]
    fn sqrt(self, a: f32x16) -> f32x16 {
        a.sqrt()
    }

    #[inline(always)]
    fn abs(self, a: f32x16) -> f32x16 {
        a.abs()
    }

    // Two roundings on every target: where there is no fused instruction, `mul_add` calls libm for each lane.
    #[inline(always)]
    fn mul_add(self, a: f32x16, b: f32x16, c: f32x16) -> f32x16 {
        a * b + c
    }

    #[inline(always)]
    fn neg_mul_add(self, a: f32x16, b: f32x16, c: f32x16) -> f32x16 {
        c - a * b
    }

    // `f32x16::min` returns the number where one side is NaN; this returns `b` where either is.
    #[inline(always)]
    fn min(self, a: f32x16, b: f32x16) -> f32x16 {
        a.fast_min(b)
    }

    #[inline(always)]
    fn max(self, a: f32x16, b: f32x16) -> f32x16 {
        // Elsewhere it makes +0 of two zeros.
        if cfg!(target_arch = "x86_64") { a.fast_max(b) } else { b.simd_lt(a).select(a, b) }
    }

    #[inline(always)]
    fn select_less(self, a: f32x16, b: f32x16, yes: f32x16, no: f32x16) -> f32x16 {
        a.simd_lt(b).select(yes, no)
    }

    #[inline(always)]
    fn shift_into_exponent(self, a: f32x16) -> f32x16 {
        bytemuck::cast(bytemuck::cast::<f32x16, u32x16>(a) << 23_u32)
    }

    #[inline(always)]
    fn store_low_bytes(self, bytes: &mut [i8; PANEL_ROWS], a: f32x16) {
        *bytes = a.to_array().map(|lane| lane.to_bits() as i8);
    }
}

impl Integers for Wide {
    type Floats = Self;
    /// As 16-bit numbers, 4 rows in each vector.
    type Codes = [i16x16; 4];
    type Quad = i16x16;
    /// Two numbers a row, side by side.
    type Sums = [i32x8; 4];

    const INTEGER_ROWS: usize = 1;
    const INTEGER_CHAINS: usize = 1;
    const CODE_OFFSET: i32 = 0;

    #[inline(always)]
    fn floats(self) -> Self {
        self
    }

    #[inline(always)]
    fn zero_sums(self) -> [i32x8; 4] {
        [i32x8::splat(0); 4]
    }

    #[inline(always)]
    fn load_codes(self, codes: &[i8; 64]) -> [i16x16; 4] {
        let quarters = codes.as_chunks::<16>().0;
        from_fn(|i| i16x16::from_i8x16(i8x16::new(quarters[i])))
    }

    #[inline(always)]
    fn load_nibbles(self, codes: &[i8; 64]) -> [[i16x16; 4]; 2] {
        let codes = self.load_codes(codes);
        let low = i16x16::splat(15);
        [codes.map(|quarter| quarter & low), codes.map(|quarter| (quarter >> 4_i32) & low)]
    }

    #[inline(always)]
    fn quad(self, activations: &[i8; 4]) -> i16x16 {
        i16x16::new(from_fn(|i| i16::from(activations[i % 4])))
    }

    #[inline(always)]
    fn add_products(self, sums: [i32x8; 4], codes: [[i16x16; 4]; 2], quads: [i16x16; 2]) -> [i32x8; 4] {
        from_fn(|i| sums[i] + codes[0][i].dot(quads[0]) + codes[1][i].dot(quads[1]))
    }

    #[inline(always)]
    fn add_nibble_products(
        self,
        sums: [i32x8; 4],
        codes: [[i16x16; 4]; 2],
        quads: [i16x16; 2],
    ) -> [i32x8; 4] {
        self.add_products(sums, codes, quads)
    }

    #[inline(always)]
    fn add_sums(self, a: [i32x8; 4], b: [i32x8; 4]) -> [i32x8; 4] {
        from_fn(|i| a[i] + b[i])
    }

    #[inline(always)]
    fn finish_sums(self, sums: [i32x8; 4], excess: i32) -> f32x16 {
        let halves = sums.map(|sums| sums.to_array());
        let pair = |row: usize| &halves[row / 4][row % 4 * 2..][..2];
        let row = |row| pair(row)[0].wrapping_add(pair(row)[1]).wrapping_sub(excess);
        f32x16::from_i32x16(i32x16::new(from_fn(row)))
    }
}

operations! { super::instantiate! {
    Wide () "wide" "portable SIMD without fused multiply-add, on every CPU"
} }
