//! Products of quantized weights and quantized activations.
//!
//! Integer sums are exact, and all floating-point work is unfused and in one order: every instruction set
//! gives the same bits.

#![allow(clippy::needless_range_loop, reason = "a tile is indexed alike in registers and in memory")]

use super::cell::cell_step_into;
use super::codes::{quantize_row, quantize_rows};
use super::product::{of_size, store};
use crate::line::{CodeLine, HalfLine, Line, PANEL_ROWS, padded};
use crate::quantized::{GROUP, Quantized, QuantizedCell, UNIT, groups, units};
use crate::simd::{Integers, Lanes, Simd, Unfused};
use crate::table::Epilogue;

/// # Safety
///
/// Shapes are as [`Kernels::gemm_q8`](crate::Kernels::gemm_q8) checks them.
#[inline(always)]
pub(crate) unsafe fn gemm_q8<S: Integers>(
    s: S,
    out: &mut [f32],
    a: Quantized<'_>,
    weights: &[CodeLine],
    scales: &[Line],
    depth: usize,
    epilogue: Epilogue<'_>,
) {
    let job = Job { out, a, weights, depth, epilogue, format: Q8 { scales } };
    // SAFETY: the caller vouches for the shapes.
    unsafe { job.compute(s) };
}

/// # Safety
///
/// Shapes are as [`Kernels::gemm_q4`](crate::Kernels::gemm_q4) checks them.
#[inline(always)]
pub(crate) unsafe fn gemm_q4<S: Integers>(
    s: S,
    out: &mut [f32],
    a: Quantized<'_>,
    weights: &[CodeLine],
    scales: &[HalfLine],
    depth: usize,
    epilogue: Epilogue<'_>,
) {
    let job = Job { out, a, weights, depth, epilogue, format: Q4 { scales } };
    // SAFETY: the caller vouches for the shapes.
    unsafe { job.compute(s) };
}

/// # Safety
///
/// Shapes are as [`Kernels::cell_forward_q8`](crate::Kernels::cell_forward_q8) checks them.
#[inline(always)]
pub(crate) unsafe fn cell_forward_q8<S: Integers>(
    s: S,
    cells: &mut [QuantizedCell<'_>],
    batch: usize,
    hidden: usize,
) {
    let slot = batch * padded(hidden);
    let steps = cells.first().map_or(0, |cell| cell.steps.len() / slot);
    for step in 0..steps {
        // One part of the step for all cells before the next part of any: a cell waits for its own results in each.
        for cell in &mut *cells {
            let (codes, row_scales, sums) = cell.room.parts_mut();
            if batch > 1 {
                quantize_rows(s.floats(), codes, row_scales, sums, cell.state, hidden);
            } else {
                let (scale, sum) = quantize_row(s.floats(), codes, cell.state);
                row_scales[0] = scale;
                // Only the sum of all groups matters to q8, and only where weights have an offset. It is exact in f32.
                sums.fill(0);
                sums[0] = if S::CODE_OFFSET == 0 { 0 } else { s.floats().reduce_add(sum) as i32 };
            }
        }
        for cell in &mut *cells {
            let candidate = &mut cell.steps[step * slot..][..slot]; // [B, Hp]
            let (codes, row_scales, sums) = cell.room.parts_mut();
            let a = Quantized { codes, scales: row_scales, sums };
            let (epilogue, format) = (Epilogue::Accumulate, Q8 { scales: cell.scales });
            let job = Job { out: candidate, a, weights: cell.recurrent, depth: hidden, epilogue, format };
            // SAFETY: the caller vouches for the shapes.
            unsafe { if batch == 1 { job.compute_row(s) } else { job.compute(s) } }
        }
        for cell in &mut *cells {
            let candidate = &mut cell.steps[step * slot..][..slot];
            cell_step_into(s.floats(), cell.state, &cell.update[step * slot..][..slot], candidate);
        }
    }
}

/// Chains of sums at most.
const MOST_CHAINS: usize = 4;

/// How the weights of a panel are coded.
trait Format: Copy {
    /// Lines that hold a unit of inputs.
    const LINES: usize;
    /// Chains of sums at most: groups of few units need fewer, as they don't wait for each other.
    const CHAINS: usize;
    /// What is added to every weight, so that codes are not negative.
    fn offset<S: Integers>() -> i32;
    /// Units that share their rows' scales, from the first of a group on.
    fn group_units(units: usize) -> usize;
    /// The codes of one unit.
    ///
    /// # Safety
    ///
    /// `LINES` lines can be read.
    unsafe fn load<S: Integers>(s: S, lines: *const CodeLine) -> [S::Codes; 2];
    fn add_products<S: Integers>(s: S, sums: S::Sums, codes: [S::Codes; 2], quads: [S::Quad; 2]) -> S::Sums;
    /// The scales of the rows of a panel in a group, the panel having `groups` of them.
    ///
    /// # Safety
    ///
    /// The panel and the group exist.
    unsafe fn scale<S: Simd>(self, s: S, panel: usize, group: usize, groups: usize) -> S::Vector;
}

/// int8, a scale a row.
#[derive(Clone, Copy)]
struct Q8<'a> {
    scales: &'a [Line], // [panels]
}

impl Format for Q8<'_> {
    const LINES: usize = 2;
    const CHAINS: usize = MOST_CHAINS;

    #[inline(always)]
    fn offset<S: Integers>() -> i32 {
        S::CODE_OFFSET
    }

    #[inline(always)]
    fn group_units(units: usize) -> usize {
        units
    }

    #[inline(always)]
    unsafe fn load<S: Integers>(s: S, lines: *const CodeLine) -> [S::Codes; 2] {
        // SAFETY: the caller vouches for two lines.
        unsafe { [s.load_codes(&(*lines).0), s.load_codes(&(*lines.add(1)).0)] }
    }

    #[inline(always)]
    fn add_products<S: Integers>(s: S, sums: S::Sums, codes: [S::Codes; 2], quads: [S::Quad; 2]) -> S::Sums {
        s.add_products(sums, codes, quads)
    }

    #[inline(always)]
    unsafe fn scale<S: Simd>(self, s: S, panel: usize, _: usize, _: usize) -> S::Vector {
        // SAFETY: the caller vouches for the panel.
        s.load(unsafe { &self.scales.get_unchecked(panel).0 })
    }
}

/// int4, a scale a row and group of [`GROUP`] inputs.
#[derive(Clone, Copy)]
struct Q4<'a> {
    scales: &'a [HalfLine], // [panels, groups]
}

impl Format for Q4<'_> {
    const LINES: usize = 1;
    const CHAINS: usize = 2;

    #[inline(always)]
    fn offset<S: Integers>() -> i32 {
        8
    }

    #[inline(always)]
    fn group_units(_: usize) -> usize {
        GROUP / UNIT
    }

    #[inline(always)]
    unsafe fn load<S: Integers>(s: S, lines: *const CodeLine) -> [S::Codes; 2] {
        // SAFETY: the caller vouches for a line.
        s.load_nibbles(unsafe { &(*lines).0 })
    }

    #[inline(always)]
    fn add_products<S: Integers>(s: S, sums: S::Sums, codes: [S::Codes; 2], quads: [S::Quad; 2]) -> S::Sums {
        s.add_nibble_products(sums, codes, quads)
    }

    #[inline(always)]
    unsafe fn scale<S: Simd>(self, s: S, panel: usize, group: usize, groups: usize) -> S::Vector {
        // SAFETY: the caller vouches for the panel and the group.
        s.load_half(unsafe { &self.scales.get_unchecked(panel * groups + group).0 })
    }
}

/// out = epilogue(a · Wᵀ).
struct Job<'a, F> {
    out: &'a mut [f32], // [M, Np]
    a: Quantized<'a>,   // [M, K]
    weights: &'a [CodeLine],
    depth: usize,
    epilogue: Epilogue<'a>,
    format: F,
}

impl<F: Format> Job<'_, F> {
    /// Panels are the outer loop: a panel's codes stay in the first-level cache while the rows stream past.
    ///
    /// # Safety
    ///
    /// The buffers have the shapes that the methods of `Kernels` check.
    #[inline(always)]
    unsafe fn compute<S: Integers>(mut self, s: S) {
        let rows = self.a.scales.len();
        if rows == 0 {
            return;
        }
        let panels = self.weights.len() / (units(self.depth) * F::LINES);
        let mut panel = 0;
        while panel < panels {
            // SAFETY: the panels and the rows exist.
            unsafe {
                if rows > 1 {
                    self.rows_of_panel(s, rows, panel);
                    panel += 1;
                } else if const { S::INTEGER_PANELS >= 2 } && panel + 2 <= panels {
                    self.tile::<S, 1, 2, { MOST_CHAINS }>(s, 0, panel);
                    panel += 2;
                } else {
                    self.tile::<S, 1, 1, { MOST_CHAINS }>(s, 0, panel);
                    panel += 1;
                }
            }
        }
    }

    /// The same for a single row and weights that lie in the first-level cache, from which many panels can be read at
    /// once: the more of them, the more each activation that is loaded serves.
    ///
    /// # Safety
    ///
    /// As for [`compute`](Self::compute).
    #[inline(always)]
    unsafe fn compute_row<S: Integers>(mut self, s: S) {
        const WIDE: usize = 6;
        let panels = self.out.len() / PANEL_ROWS;
        let mut panel = 0;
        // SAFETY: the panels and the row exist.
        unsafe {
            // As many sums as there are in the largest tile of rows, or few enough for small register files.
            while const { S::INTEGER_ROWS >= WIDE } && panel + WIDE <= panels {
                self.tile::<S, 1, WIDE, 1>(s, 0, panel);
                panel += WIDE;
            }
            while const { S::INTEGER_PANELS >= 2 } && panel + 2 <= panels {
                self.tile::<S, 1, 2, { MOST_CHAINS }>(s, 0, panel);
                panel += 2;
            }
            while panel < panels {
                self.tile::<S, 1, 1, { MOST_CHAINS }>(s, 0, panel);
                panel += 1;
            }
        }
    }

    /// # Safety
    ///
    /// The panel and that many rows exist.
    #[inline(always)]
    unsafe fn rows_of_panel<S: Integers>(&mut self, s: S, rows: usize, panel: usize) {
        let mut row = 0;
        while row < rows {
            let height = (rows - row).min(S::INTEGER_ROWS);
            // SAFETY: the panel and rows `row..row + height` exist.
            unsafe {
                of_size!(height, at_most S::INTEGER_ROWS, ROWS => self.tile::<S, ROWS, 1, 1>(s, row, panel));
            }
            row += height;
        }
    }

    /// Rows from `row` on and panels from `panel` on, with sums in up to `CHAINS` chains that are added up at the end
    /// of a group: sums of integers do not depend on their order.
    ///
    /// # Safety
    ///
    /// `ROWS` rows and `PANELS` panels exist there.
    #[inline(always)]
    unsafe fn tile<S: Integers, const ROWS: usize, const PANELS: usize, const CHAINS: usize>(
        &mut self,
        s: S,
        row: usize,
        panel: usize,
    ) {
        let f = Unfused(s.floats());
        let (units, groups) = (units(self.depth), groups(self.depth));
        let group_units = F::group_units(units);
        let chains = CHAINS.min(S::INTEGER_CHAINS).min(F::CHAINS);
        let mut totals = [[f.splat(0.0); PANELS]; ROWS];
        // SAFETY: the caller vouches for the rows and the panels; units and groups are those of the depth.
        unsafe {
            for (group, first) in (0..units).step_by(group_units).enumerate() {
                let last = (first + group_units).min(units);
                let mut sums = [[[s.zero_sums(); CHAINS]; PANELS]; ROWS];
                let mut unit = first;
                while unit + chains <= last {
                    for chain in 0..chains {
                        self.add_unit(s, &mut sums, chain, (row, panel, unit + chain));
                    }
                    unit += chains;
                }
                for unit in unit..last {
                    self.add_unit(s, &mut sums, 0, (row, panel, unit));
                }
                for (r, (totals, sums)) in totals.iter_mut().zip(sums).enumerate() {
                    let excess = self.excess::<S>(row + r, group, groups);
                    for (i, (total, sums)) in totals.iter_mut().zip(sums).enumerate() {
                        let scale = self.format.scale(f, panel + i, group, groups);
                        let mut sum = sums[0];
                        for &chain in &sums[1..chains] {
                            sum = s.add_sums(sum, chain);
                        }
                        *total = f.add(*total, f.mul(s.finish_sums(sum, excess), scale));
                    }
                }
            }
            for (r, totals) in totals.into_iter().enumerate() {
                for (i, total) in totals.into_iter().enumerate() {
                    self.finish(f, row + r, panel + i, total);
                }
            }
        }
    }

    /// Adds one unit's products to one chain of the sums.
    ///
    /// # Safety
    ///
    /// The rows, the panels and the unit exist.
    #[inline(always)]
    unsafe fn add_unit<S: Integers, const ROWS: usize, const PANELS: usize, const CHAINS: usize>(
        &self,
        s: S,
        sums: &mut [[[S::Sums; CHAINS]; PANELS]; ROWS],
        chain: usize,
        (row, panel, unit): (usize, usize, usize),
    ) {
        // SAFETY: the caller vouches for all of them.
        unsafe {
            let stride = units(self.depth) * F::LINES;
            let lines = self.weights.as_ptr().add(panel * stride + unit * F::LINES);
            // Not by a closure, which would not be sure to be inlined.
            let mut codes = [F::load(s, lines); PANELS];
            for (i, codes) in codes.iter_mut().enumerate().skip(1) {
                *codes = F::load(s, lines.add(i * stride));
            }
            for (r, sums) in sums.iter_mut().enumerate() {
                let activations = self.activations(row + r, unit);
                let quads = [s.quad(&activations[0]), s.quad(&activations[1])];
                for (sums, codes) in sums.iter_mut().zip(codes) {
                    sums[chain] = F::add_products(s, sums[chain], codes, quads);
                }
            }
        }
    }

    /// # Safety
    ///
    /// The row and the unit exist.
    #[inline(always)]
    unsafe fn activations(&self, row: usize, unit: usize) -> &[[i8; 4]; 2] {
        // SAFETY: the caller vouches for both; a row is padded to whole units.
        unsafe { &*self.a.codes.as_ptr().add(row * padded(self.depth) + unit * UNIT).cast() }
    }

    /// What the offset of the weights adds to each sum over a group.
    ///
    /// # Safety
    ///
    /// The row and the group exist.
    #[inline(always)]
    unsafe fn excess<S: Integers>(&self, row: usize, group: usize, groups: usize) -> i32 {
        let offset = F::offset::<S>();
        if offset == 0 {
            return 0;
        }
        // SAFETY: the caller vouches for both.
        let sums = unsafe { self.a.sums.get_unchecked(row * groups..(row + 1) * groups) };
        if F::group_units(usize::MAX) == usize::MAX {
            offset.wrapping_mul(sums.iter().fold(0, |sum: i32, &group| sum.wrapping_add(group)))
        } else {
            // SAFETY: as above.
            offset.wrapping_mul(unsafe { *sums.get_unchecked(group) })
        }
    }

    /// Scales a row's product with a panel by the activations' scale, and stores it as the epilogue says.
    ///
    /// # Safety
    ///
    /// The row and the panel exist.
    #[inline(always)]
    unsafe fn finish<S: Simd>(&mut self, f: Unfused<S>, row: usize, panel: usize, total: S::Vector) {
        let panels = self.out.len() / PANEL_ROWS / self.a.scales.len();
        // SAFETY: the caller vouches for both.
        let (scale, out) = unsafe {
            let out = self.out.as_mut_ptr().cast::<Lanes>().add(row * panels + panel);
            (*self.a.scales.get_unchecked(row), &mut *out)
        };
        // SAFETY: a bias has a line for every panel.
        unsafe { store(f, out, f.mul(total, f.splat(scale)), self.epilogue, panel) };
    }
}
