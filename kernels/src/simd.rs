//! What a body needs of an instruction set.

use crate::line::{Line, PANEL_ROWS};
use crate::table::Epilogue;

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

    fn splat(self, value: f32) -> Self::Vector;
    fn load(self, lanes: &Lanes) -> Self::Vector;
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
    /// The smaller; NaN where `b` is.
    fn min(self, a: Self::Vector, b: Self::Vector) -> Self::Vector;
    /// The larger; NaN where `b` is.
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
        lanes.into_iter().fold(f32::NEG_INFINITY, f32::max)
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
