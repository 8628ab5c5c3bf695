//! Products of bfloat16 activations and weights, summed in f32.

use super::product::{of_size, store};
use crate::line::{PANEL_ROWS, PairLine, padded};
use crate::simd::{Lanes, Pairs, Simd};
use crate::table::Epilogue;
use half::bf16;

/// # Safety
///
/// Shapes are as [`Kernels::gemm_bf16`](crate::Kernels::gemm_bf16) checks them.
#[inline(always)]
pub(crate) unsafe fn gemm_bf16<P: Pairs>(
    p: P,
    out: &mut [f32],
    a: &[bf16],
    weights: &[PairLine],
    depth: usize,
    epilogue: Epilogue<'_>,
) {
    let (rows, panels) = (a.len() / padded(depth), weights.len() / depth.div_ceil(2));
    let job = Job { out: out.as_mut_ptr().cast(), a, weights, depth, panels, epilogue };
    for panel in 0..panels {
        let mut row = 0;
        while row < rows {
            let height = (rows - row).min(P::PAIR_ROWS);
            // SAFETY: the panel and the rows of the tile exist, and `out` holds a line for each of them.
            unsafe {
                of_size!(height, at_most P::PAIR_ROWS, ROWS => job.tile::<P, ROWS>(p, row, panel));
            }
            row += height;
        }
    }
}

/// out = epilogue(a · Wᵀ).
struct Job<'a> {
    out: *mut Lanes,         // [M, panels]
    a: &'a [bf16],           // [M, padded(K)]
    weights: &'a [PairLine], // [panels, ceil(K / 2)]
    depth: usize,
    panels: usize,
    epilogue: Epilogue<'a>,
}

impl Job<'_> {
    /// # Safety
    ///
    /// The panel and `ROWS` rows from `row` on exist.
    #[inline(always)]
    unsafe fn tile<P: Pairs, const ROWS: usize>(&self, p: P, row: usize, panel: usize) {
        let s = p.floats();
        let steps = self.depth.div_ceil(2);
        let mut sums = [s.splat(0.0); ROWS];
        // SAFETY: the caller vouches for the rows and the panel; rows are padded to whole pairs.
        unsafe {
            for step in 0..steps {
                let weights = p.load_pairs(&self.weights.get_unchecked(panel * steps + step).0);
                for (r, sum) in sums.iter_mut().enumerate() {
                    let place = (row + r) * padded(self.depth) + 2 * step;
                    let pair = p.pair(&*self.a.as_ptr().add(place).cast());
                    *sum = p.add_pairs(*sum, weights, pair);
                }
            }
            for (r, sum) in sums.into_iter().enumerate() {
                let out = &mut *self.out.add((row + r) * self.panels + panel);
                store(s, out, sum, self.epilogue, panel);
            }
        }
    }
}

/// Rounds to the nearest, ties to even.
#[inline(always)]
pub(crate) fn narrow_bf16<S: Simd>(_: S, out: &mut [bf16], x: &[f32]) {
    for (out, &x) in out.iter_mut().zip(x) {
        let bits = x.to_bits();
        let rounded = bits.wrapping_add(0x7fff + (bits >> 16 & 1)) >> 16;
        // A NaN must not become an infinity by losing, or a number by overflowing, its payload.
        let quiet = bits >> 16 | 0x40;
        *out = bf16::from_bits(if x.is_nan() { quiet } else { rounded } as u16);
    }
}

/// The products by widening, on any instruction set: a bfloat16 is the upper half of an f32.
impl<S: Simd> Pairs for S {
    type Floats = S;
    type Weights = [S::Vector; 2];
    type Pair = [S::Vector; 2];

    const PAIR_ROWS: usize = S::TILE_ROWS;

    #[inline(always)]
    fn floats(self) -> S {
        self
    }

    #[inline(always)]
    fn load_pairs(self, weights: &[[bf16; 2]; PANEL_ROWS]) -> [S::Vector; 2] {
        let widen = |of: usize| weights.map(|pair| f32::from_bits(u32::from(pair[of].to_bits()) << 16));
        [self.load(&widen(0)), self.load(&widen(1))]
    }

    #[inline(always)]
    fn pair(self, activations: &[bf16; 2]) -> [S::Vector; 2] {
        activations.map(|activation| self.splat(f32::from_bits(u32::from(activation.to_bits()) << 16)))
    }

    #[inline(always)]
    fn add_pairs(self, sum: S::Vector, weights: [S::Vector; 2], pair: [S::Vector; 2]) -> S::Vector {
        self.mul_add(pair[1], weights[1], self.mul_add(pair[0], weights[0], sum))
    }
}
