//! What a body needs of an instruction set.

use crate::line::{Line, PANEL_ROWS};
use crate::table::Epilogue;
use half::{bf16, f16};

/// Sixteen floats, the contents of one [`Line`], as one value.
pub(crate) type Lanes = [f32; PANEL_ROWS];

/// An instruction set. A value of the type proves that the CPU has it.
///
/// The vector is 16 lanes whatever the width of the registers: one ZMM, two YMM or four NEON registers. So
/// every width in this crate is whole vectors, and sums are in the same order on every instruction set.
///
/// Every function must be `#[inline(always)]`: it becomes vector instructions only inside a function with the
/// right `#[target_feature]`.
pub(crate) trait Simd: Copy {
    /// 16 lanes of f32.
    type Vector: Copy;
    /// See [`widening`](Self::widening).
    type Widening: Simd;

    /// Rows of a matrix product's register tile, at most 8. With `TILE_PANELS`, as many accumulators as
    /// the register file holds beside the operands, so that each operand is loaded rarely.
    const TILE_ROWS: usize;
    /// Panels of a matrix product's register tile, at most 3.
    const TILE_PANELS: usize;
    /// Panels a matrix-vector product reads at once, at most 8: enough sums to hide an addition's latency.
    const MATVEC_PANELS: usize;

    /// # Safety
    ///
    /// The CPU has the instruction set.
    unsafe fn new() -> Self;

    /// The set for which to widen half-precision floats that are used once: this one, or one that has
    /// the same bits and is faster at it.
    fn widening(self) -> Self::Widening;

    fn splat(self, value: f32) -> Self::Vector;
    fn load(self, lanes: &Lanes) -> Self::Vector;
    /// Sixteen half-precision floats, widened: exact.
    fn load_half(self, lanes: &[f16; PANEL_ROWS]) -> Self::Vector;
    fn store(self, lanes: &mut Lanes, vector: Self::Vector);
    fn add(self, a: Self::Vector, b: Self::Vector) -> Self::Vector;
    fn sub(self, a: Self::Vector, b: Self::Vector) -> Self::Vector;
    fn mul(self, a: Self::Vector, b: Self::Vector) -> Self::Vector;
    fn div(self, a: Self::Vector, b: Self::Vector) -> Self::Vector;
    fn sqrt(self, a: Self::Vector) -> Self::Vector;
    fn abs(self, a: Self::Vector) -> Self::Vector;
    /// a · b + c, rounded once if the instruction set can.
    fn mul_add(self, a: Self::Vector, b: Self::Vector, c: Self::Vector) -> Self::Vector;
    /// c - a · b, rounded once if the instruction set can.
    fn neg_mul_add(self, a: Self::Vector, b: Self::Vector, c: Self::Vector) -> Self::Vector;
    /// The smaller, of two zeros either one; NaN where `b` is.
    fn min(self, a: Self::Vector, b: Self::Vector) -> Self::Vector;
    /// The larger, and `b` where neither is, as of two zeros; NaN where `b` is.
    fn max(self, a: Self::Vector, b: Self::Vector) -> Self::Vector;
    /// `yes` where a < b, else (NaN too) `no`.
    fn select_less(
        self,
        a: Self::Vector,
        b: Self::Vector,
        yes: Self::Vector,
        no: Self::Vector,
    ) -> Self::Vector;
    /// The bits of each lane shifted left by 23: its lowest bits become sign and exponent.
    fn shift_into_exponent(self, a: Self::Vector) -> Self::Vector;
    /// The lowest byte of each lane's bits.
    fn store_low_bytes(self, bytes: &mut [i8; PANEL_ROWS], a: Self::Vector);

    /// Up to 16 values, the lanes past them holding `fill`.
    #[inline(always)]
    fn load_partial(self, values: &[f32], fill: f32) -> Self::Vector {
        let mut lanes = [fill; PANEL_ROWS];
        lanes[..values.len()].copy_from_slice(values);
        self.load(&lanes)
    }

    /// As many lanes as `values` holds, up to 16.
    #[inline(always)]
    fn store_partial(self, values: &mut [f32], vector: Self::Vector) {
        let mut lanes = [0.0; PANEL_ROWS];
        self.store(&mut lanes, vector);
        values.copy_from_slice(&lanes[..values.len()]);
    }

    /// The sum of the lanes, added pairwise at distance 8, 4, 2, 1.
    #[inline(always)]
    fn reduce_add(self, vector: Self::Vector) -> f32 {
        let mut lanes = [0.0; PANEL_ROWS];
        self.store(&mut lanes, vector);
        for distance in [8, 4, 2, 1] {
            for lane in 0..distance {
                lanes[lane] += lanes[lane + distance];
            }
        }
        lanes[0]
    }

    /// The largest lane; any value if a lane is NaN.
    #[inline(always)]
    fn reduce_max(self, vector: Self::Vector) -> f32 {
        let mut lanes = [0.0; PANEL_ROWS];
        self.store(&mut lanes, vector);
        for distance in [8, 4, 2, 1] {
            for lane in 0..distance {
                lanes[lane] =
                    if lanes[lane] > lanes[lane + distance] { lanes[lane] } else { lanes[lane + distance] };
            }
        }
        lanes[0]
    }
}

/// Products of int8 weights and int8 activations, summed in i32: exact, so the same on every instruction set.
///
/// The unit is the 8 inputs of 16 rows: 128 weights as two groups of [16 rows][4 inputs].
pub(crate) trait Integers: Copy {
    /// The same instruction set's floating-point half.
    type Floats: Simd;
    /// The weights of 16 rows and 4 inputs, as the products read them.
    type Codes: Copy;
    /// 4 activations, repeated for each of the 16 rows.
    type Quad: Copy;
    /// Sums of 16 rows, not necessarily one number a row.
    type Sums: Copy;

    /// Rows of activations that are multiplied with one panel at once, at most 8.
    const INTEGER_ROWS: usize;
    /// Panels that a single row is multiplied with at once, 1 or 2: two where registers hold the sums and codes of
    /// both. Only two, because caches read few streams faster than many.
    const INTEGER_PANELS: usize = 2;
    /// Independent sums that a single row's products with a panel are spread over, at most 4: with the panels at once,
    /// enough to hide an addition's latency.
    const INTEGER_CHAINS: usize;
    /// What [`load_codes`](Self::load_codes) adds to every weight.
    const CODE_OFFSET: i32;

    fn floats(self) -> Self::Floats;
    fn zero_sums(self) -> Self::Sums;
    /// Signed weights, -127 to 127.
    fn load_codes(self, codes: &[i8; 64]) -> Self::Codes;
    /// The low and the high half of every byte: weights from 0 to 15.
    fn load_nibbles(self, codes: &[i8; 64]) -> [Self::Codes; 2];
    /// Activations, -127 to 127.
    fn quad(self, activations: &[i8; 4]) -> Self::Quad;
    /// Adds the products with weights from `load_codes`.
    fn add_products(self, sums: Self::Sums, codes: [Self::Codes; 2], quads: [Self::Quad; 2]) -> Self::Sums;
    /// Adds the products with weights from `load_nibbles`.
    #[inline(always)]
    fn add_nibble_products(
        self,
        sums: Self::Sums,
        codes: [Self::Codes; 2],
        quads: [Self::Quad; 2],
    ) -> Self::Sums {
        self.add_products(sums, codes, quads)
    }
    fn add_sums(self, a: Self::Sums, b: Self::Sums) -> Self::Sums;
    /// The sums, less `excess`, as floats.
    fn finish_sums(self, sums: Self::Sums, excess: i32) -> <Self::Floats as Simd>::Vector;
}

/// The 4 activations of a quad in the order in which they lie.
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
#[inline(always)]
pub(crate) fn quad_bits(activations: &[i8; 4]) -> i32 {
    let [a, b, c, d] = *activations;
    i32::from_le_bytes([a as u8, b as u8, c as u8, d as u8])
}

/// Products of bfloat16 numbers, two at a time, summed in f32.
pub(crate) trait Pairs: Copy {
    /// The same instruction set's floating-point half.
    type Floats: Simd;
    /// Two weights of each of the 16 rows.
    type Weights: Copy;
    /// Two activations, repeated for each of the 16 rows.
    type Pair: Copy;

    /// Rows of activations that are multiplied with one panel at once, at most 8.
    const PAIR_ROWS: usize;

    fn floats(self) -> Self::Floats;
    fn load_pairs(self, weights: &[[bf16; 2]; PANEL_ROWS]) -> Self::Weights;
    fn pair(self, activations: &[bf16; 2]) -> Self::Pair;
    fn add_pairs(
        self,
        sum: <Self::Floats as Simd>::Vector,
        weights: Self::Weights,
        pair: Self::Pair,
    ) -> <Self::Floats as Simd>::Vector;
}

/// Asks for a line to be brought into the second-level cache, without waiting for it. The address need not exist.
#[inline(always)]
pub(crate) fn prefetch<T>(address: *const T) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: every x86-64 CPU has the instruction, on which a bad address has no effect.
    unsafe {
        std::arch::x86_64::_mm_prefetch::<{ std::arch::x86_64::_MM_HINT_T1 }>(address.cast());
    }
    #[cfg(target_arch = "aarch64")]
    // SAFETY: as above, on 64-bit ARM, where the intrinsic is not stable.
    unsafe {
        std::arch::asm!("prfm pldl2keep, [{}]", in(reg) address, options(nostack, readonly, preserves_flags));
    }
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    let _ = address;
}

/// An instruction set of which every product is rounded before it is added to something: the same bits as
/// an instruction set that has no fused multiply-add.
#[derive(Clone, Copy)]
pub(crate) struct Unfused<S>(pub(crate) S);

macro_rules! delegate {
    ($($name:ident($($argument:ident: $type:ty),*) $(-> $result:ty)?;)*) => {
        $(
            #[inline(always)]
            fn $name(self, $($argument: $type),*) $(-> $result)? {
                self.0.$name($($argument),*)
            }
        )*
    };
}

impl<S: Simd> Simd for Unfused<S> {
    type Vector = S::Vector;
    type Widening = Self;

    const TILE_ROWS: usize = S::TILE_ROWS;
    const TILE_PANELS: usize = S::TILE_PANELS;
    const MATVEC_PANELS: usize = S::MATVEC_PANELS;

    #[inline(always)]
    unsafe fn new() -> Self {
        // SAFETY: the caller vouches for the instruction set.
        Self(unsafe { S::new() })
    }

    #[inline(always)]
    fn widening(self) -> Self {
        self
    }

    #[inline(always)]
    fn mul_add(self, a: S::Vector, b: S::Vector, c: S::Vector) -> S::Vector {
        self.0.add(self.0.mul(a, b), c)
    }

    #[inline(always)]
    fn neg_mul_add(self, a: S::Vector, b: S::Vector, c: S::Vector) -> S::Vector {
        self.0.sub(c, self.0.mul(a, b))
    }

    delegate! {
        splat(value: f32) -> S::Vector;
        load(lanes: &Lanes) -> S::Vector;
        load_half(lanes: &[f16; PANEL_ROWS]) -> S::Vector;
        store(lanes: &mut Lanes, vector: S::Vector);
        add(a: S::Vector, b: S::Vector) -> S::Vector;
        sub(a: S::Vector, b: S::Vector) -> S::Vector;
        mul(a: S::Vector, b: S::Vector) -> S::Vector;
        div(a: S::Vector, b: S::Vector) -> S::Vector;
        sqrt(a: S::Vector) -> S::Vector;
        abs(a: S::Vector) -> S::Vector;
        min(a: S::Vector, b: S::Vector) -> S::Vector;
        max(a: S::Vector, b: S::Vector) -> S::Vector;
        select_less(a: S::Vector, b: S::Vector, yes: S::Vector, no: S::Vector) -> S::Vector;
        shift_into_exponent(a: S::Vector) -> S::Vector;
        store_low_bytes(bytes: &mut [i8; PANEL_ROWS], a: S::Vector);
        reduce_max(vector: S::Vector) -> f32;
    }
}

/// An instruction set for which the matrix product has been compiled once, to be called by other bodies.
pub(crate) trait Compiled: Simd {
    /// [`gemm`](crate::Kernels::gemm).
    ///
    /// # Safety
    ///
    /// Shapes are as that method checks them.
    unsafe fn gemm(self, out: &mut [f32], a: &[f32], weights: &[Line], depth: usize, epilogue: Epilogue<'_>);
}
