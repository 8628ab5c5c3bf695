//! Products of quantized weights and quantized activations.
//!
//! Integer sums are exact, and all floating-point work is unfused and in one order: every instruction set
//! gives the same bits.

use super::math::sigmoid_vector;
use crate::line::{CodeLine, HalfLine, Line, PANEL_ROWS, padded};
use crate::quantized::{GROUP, Quantized, UNIT, code_lines, groups, units};
use crate::simd::{Integers, Lanes, Simd, Unfused};
use crate::table::Epilogue;
use half::f16;

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

/// How the weights of a panel are coded.
trait Format: Copy {
    /// Lines that hold a unit of inputs.
    const LINES: usize;
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
    /// A single row takes several panels at once instead, for as many independent sums.
    ///
    /// # Safety
    ///
    /// The buffers have the shapes that the methods of `Kernels` check.
    #[inline(always)]
    unsafe fn compute<S: Integers>(mut self, s: S) {
        let rows = self.a.scales.len();
        let panels = self.weights.len() / (code_lines(self.depth) * F::LINES / 2);
        let mut panel = 0;
        while panel < panels {
            // SAFETY: the rows and panels of every tile exist.
            unsafe {
                if rows == 1 {
                    let width = (panels - panel).min(S::INTEGER_PANELS);
                    match width {
                        1 => self.tile::<S, 1, 1>(s, 0, panel),
                        2 if const { S::INTEGER_PANELS >= 2 } => self.tile::<S, 1, 2>(s, 0, panel),
                        3 if const { S::INTEGER_PANELS >= 3 } => self.tile::<S, 1, 3>(s, 0, panel),
                        4 if const { S::INTEGER_PANELS >= 4 } => self.tile::<S, 1, 4>(s, 0, panel),
                        5 if const { S::INTEGER_PANELS >= 5 } => self.tile::<S, 1, 5>(s, 0, panel),
                        6 if const { S::INTEGER_PANELS >= 6 } => self.tile::<S, 1, 6>(s, 0, panel),
                        7 if const { S::INTEGER_PANELS >= 7 } => self.tile::<S, 1, 7>(s, 0, panel),
                        8 if const { S::INTEGER_PANELS >= 8 } => self.tile::<S, 1, 8>(s, 0, panel),
                        _ => unreachable!("a row takes at most 8 panels at once"),
                    }
                    panel += width;
                } else {
                    self.rows_of_panel(s, rows, panel);
                    panel += 1;
                }
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
                match height {
                    1 => self.tile::<S, 1, 1>(s, row, panel),
                    2 if const { S::INTEGER_ROWS >= 2 } => self.tile::<S, 2, 1>(s, row, panel),
                    3 if const { S::INTEGER_ROWS >= 3 } => self.tile::<S, 3, 1>(s, row, panel),
                    4 if const { S::INTEGER_ROWS >= 4 } => self.tile::<S, 4, 1>(s, row, panel),
                    5 if const { S::INTEGER_ROWS >= 5 } => self.tile::<S, 5, 1>(s, row, panel),
                    6 if const { S::INTEGER_ROWS >= 6 } => self.tile::<S, 6, 1>(s, row, panel),
                    7 if const { S::INTEGER_ROWS >= 7 } => self.tile::<S, 7, 1>(s, row, panel),
                    8 if const { S::INTEGER_ROWS >= 8 } => self.tile::<S, 8, 1>(s, row, panel),
                    _ => unreachable!("a tile has at most 8 rows"),
                }
            }
            row += height;
        }
    }

    /// # Safety
    ///
    /// `ROWS` rows from `row` on and `PANELS` panels from `panel` on exist.
    #[inline(always)]
    unsafe fn tile<S: Integers, const ROWS: usize, const PANELS: usize>(
        &mut self,
        s: S,
        row: usize,
        panel: usize,
    ) {
        let f = Unfused(s.floats());
        let (units, groups) = (units(self.depth), groups(self.depth));
        let group_units = F::group_units(units);
        let lines = self.weights.as_ptr();
        let mut totals = [[f.splat(0.0); PANELS]; ROWS];
        // SAFETY: the caller vouches for the rows and panels; units and groups are those of the depth.
        unsafe {
            for (group, first) in (0..units).step_by(group_units).enumerate() {
                let mut sums = [[s.zero_sums(); PANELS]; ROWS];
                for unit in first..(first + group_units).min(units) {
                    let mut codes = [F::load(s, lines.add((panel * units + unit) * F::LINES)); PANELS];
                    for i in 1..PANELS {
                        codes[i] = F::load(s, lines.add(((panel + i) * units + unit) * F::LINES));
                    }
                    for r in 0..ROWS {
                        let activations = self.activations(row + r, unit);
                        let quads = [s.quad(&activations[0]), s.quad(&activations[1])];
                        for i in 0..PANELS {
                            sums[r][i] = F::add_products(s, sums[r][i], codes[i], quads);
                        }
                    }
                }
                for r in 0..ROWS {
                    let excess = self.excess::<S>(row + r, group, groups);
                    for i in 0..PANELS {
                        let scale = self.format.scale(f, panel + i, group, groups);
                        let sum = f.mul(s.finish_sums(sums[r][i], excess), scale);
                        totals[r][i] = f.add(totals[r][i], sum);
                    }
                }
            }
            for r in 0..ROWS {
                for i in 0..PANELS {
                    self.finish(f, row + r, panel + i, totals[r][i]);
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
        let product = f.mul(total, f.splat(scale));
        let value = match self.epilogue {
            Epilogue::Store => product,
            Epilogue::Accumulate => f.add(f.load(out), product),
            // SAFETY: a bias has a line for every panel.
            Epilogue::Bias(bias) | Epilogue::BiasSigmoid(bias) => {
                f.add(f.load(unsafe { &bias.get_unchecked(panel).0 }), product)
            }
        };
        let sigmoid = matches!(self.epilogue, Epilogue::BiasSigmoid(_));
        f.store(out, if sigmoid { sigmoid_vector(f, value) } else { value });
    }
}

/// Adding this to a float of magnitude below 2²² rounds it to the nearest integer, ties to even, and leaves
/// that integer in the lowest bits of the sum: 1.5 · 2²³.
const ROUND: f32 = 12_582_912.0;

/// The least largest magnitude of a row that is not taken for zero: its inverse is far from overflow.
const LEAST_MAGNITUDE: f32 = 1e-30;

#[inline(always)]
pub(crate) fn quantize_rows<S: Simd>(
    s: S,
    codes: &mut [i8],
    scales: &mut [f32],
    sums: &mut [i32],
    x: &[f32],
    depth: usize,
) {
    let (s, stride) = (Unfused(s), padded(depth));
    let rows = x.chunks_exact(stride).zip(codes.chunks_exact_mut(stride));
    let results = scales.iter_mut().zip(sums.chunks_exact_mut(groups(depth)));
    for ((x, codes), (scale, sums)) in rows.zip(results) {
        let lines = x.as_chunks::<PANEL_ROWS>().0;
        let (mut largest, mut poison) = (s.splat(0.0), s.splat(0.0));
        for lanes in lines {
            let lanes = s.load(lanes);
            largest = s.max(s.abs(lanes), largest);
            poison = s.add(poison, s.mul(lanes, s.splat(0.0)));
        }
        // Zero, or NaN if a value is not finite.
        let poison = s.reduce_add(poison);
        let largest = if poison.is_nan() { 0.0 } else { s.reduce_max(largest) };
        let is_zero = largest < LEAST_MAGNITUDE;
        *scale = if is_zero { poison } else { largest / 127.0 };
        let inverse = s.splat(if is_zero { 0.0 } else { 127.0 / largest });
        for (lanes, codes) in lines.iter().zip(codes.as_chunks_mut::<PANEL_ROWS>().0) {
            if is_zero {
                *codes = [0; PANEL_ROWS];
            } else {
                s.store_low_bytes(codes, s.add(s.mul(s.load(lanes), inverse), s.splat(ROUND)));
            }
        }
        for (sum, codes) in sums.iter_mut().zip(codes.chunks(GROUP)) {
            *sum = codes.iter().map(|&code| i32::from(code)).sum();
        }
    }
}

#[inline(always)]
pub(crate) fn dequantize_q8<S: Simd>(_: S, out: &mut [f32], codes: &[i8], scale: f32) {
    for (out, &code) in out.iter_mut().zip(codes) {
        *out = f32::from(code) * scale;
    }
}

#[inline(always)]
pub(crate) fn dequantize_q4<S: Simd>(_: S, out: &mut [f32], codes: &[i8], scales: &[f16]) {
    for ((out, codes), scale) in out.chunks_mut(GROUP).zip(codes.chunks(GROUP / 2)).zip(scales) {
        let scale = scale.to_f32();
        let (low, high) = out.split_at_mut(out.len().min(GROUP / 2));
        for (out, &code) in low.iter_mut().zip(codes) {
            *out = f32::from((code & 15) - 8) * scale;
        }
        for (out, &code) in high.iter_mut().zip(codes) {
            *out = f32::from(((code >> 4) & 15) - 8) * scale;
        }
    }
}

#[inline(always)]
pub(crate) fn widen_f16<S: Simd>(s: S, out: &mut [f32], x: &[f16]) {
    let (out, out_rest) = out.as_chunks_mut::<PANEL_ROWS>();
    let (x, x_rest) = x.as_chunks::<PANEL_ROWS>();
    for (out, x) in out.iter_mut().zip(x) {
        s.store(out, s.load_half(x));
    }
    if !out_rest.is_empty() {
        let mut lanes = [f16::ZERO; PANEL_ROWS];
        lanes[..x_rest.len()].copy_from_slice(x_rest);
        s.store_partial(out_rest, s.load_half(&lanes));
    }
}
