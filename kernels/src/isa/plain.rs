//! Arrays and loops in place of vectors: what every instruction set does, spelled out.
//!
//! For the operations that give the same bits on every set of kernels, and have to on the reference too.

use crate::line::PANEL_ROWS;
use crate::simd::{Integers, Lanes, Simd};
use half::f16;
use std::array::from_fn;

#[derive(Clone, Copy)]
pub(super) struct Plain;

/// Operations on each lane.
macro_rules! lanewise {
    ($($name:ident($($argument:ident),*) = $lane:expr;)*) => {
        $(
            #[inline(always)]
            fn $name(self, $($argument: Lanes),*) -> Lanes {
                from_fn(|lane| $lane($($argument[lane]),*))
            }
        )*
    };
}

impl Simd for Plain {
    type Vector = Lanes;
    type Widening = Self;

    const TILE_ROWS: usize = 1;
    const TILE_PANELS: usize = 1;
    const MATVEC_PANELS: usize = 1;

    #[inline(always)]
    unsafe fn new() -> Self {
        Self
    }

    #[inline(always)]
    fn widening(self) -> Self {
        self
    }

    #[inline(always)]
    fn splat(self, value: f32) -> Lanes {
        [value; PANEL_ROWS]
    }

    #[inline(always)]
    fn load(self, lanes: &Lanes) -> Lanes {
        *lanes
    }

    #[inline(always)]
    fn load_half(self, lanes: &[f16; PANEL_ROWS]) -> Lanes {
        lanes.map(f16::to_f32)
    }

    #[inline(always)]
    fn store(self, lanes: &mut Lanes, vector: Lanes) {
        *lanes = vector;
    }

    #[inline(always)]
    fn store_low_bytes(self, bytes: &mut [i8; PANEL_ROWS], a: Lanes) {
        *bytes = a.map(|lane| lane.to_bits() as i8);
    }

    lanewise! {
        add(a, b) = |a: f32, b: f32| a + b;
        sub(a, b) = |a: f32, b: f32| a - b;
        mul(a, b) = |a: f32, b: f32| a * b;
        div(a, b) = |a: f32, b: f32| a / b;
        sqrt(a) = f32::sqrt;
        abs(a) = f32::abs;
        mul_add(a, b, c) = |a: f32, b: f32, c: f32| a * b + c;
        neg_mul_add(a, b, c) = |a: f32, b: f32, c: f32| c - a * b;
        min(a, b) = |a: f32, b: f32| if a < b { a } else { b };
        max(a, b) = |a: f32, b: f32| if a > b { a } else { b };
        select_less(a, b, yes, no) = |a: f32, b: f32, yes: f32, no: f32| if a < b { yes } else { no };
        shift_into_exponent(a) = |a: f32| f32::from_bits(a.to_bits() << 23);
    }
}

impl Integers for Plain {
    type Floats = Self;
    type Codes = [i8; 64];
    type Quad = [i8; 4];
    type Sums = [i32; PANEL_ROWS];

    const INTEGER_ROWS: usize = 1;
    const INTEGER_CHAINS: usize = 1;
    const CODE_OFFSET: i32 = 0;

    #[inline(always)]
    fn floats(self) -> Self {
        self
    }

    #[inline(always)]
    fn zero_sums(self) -> [i32; PANEL_ROWS] {
        [0; PANEL_ROWS]
    }

    #[inline(always)]
    fn load_codes(self, codes: &[i8; 64]) -> [i8; 64] {
        *codes
    }

    #[inline(always)]
    fn load_nibbles(self, codes: &[i8; 64]) -> [[i8; 64]; 2] {
        [codes.map(|code| code & 15), codes.map(|code| code >> 4 & 15)]
    }

    #[inline(always)]
    fn quad(self, activations: &[i8; 4]) -> [i8; 4] {
        *activations
    }

    #[inline(always)]
    fn add_products(
        self,
        sums: [i32; PANEL_ROWS],
        codes: [[i8; 64]; 2],
        quads: [[i8; 4]; 2],
    ) -> [i32; PANEL_ROWS] {
        from_fn(|row| {
            let products = codes.iter().zip(&quads).map(|(codes, quad)| {
                let weights = &codes[4 * row..][..4];
                weights.iter().zip(quad).map(|(&w, &x)| i32::from(w) * i32::from(x)).sum::<i32>()
            });
            sums[row] + products.sum::<i32>()
        })
    }

    #[inline(always)]
    fn add_sums(self, a: [i32; PANEL_ROWS], b: [i32; PANEL_ROWS]) -> [i32; PANEL_ROWS] {
        from_fn(|row| a[row] + b[row])
    }

    #[inline(always)]
    fn finish_sums(self, sums: [i32; PANEL_ROWS], excess: i32) -> Lanes {
        sums.map(|sum| sum.wrapping_sub(excess) as f32)
    }
}
