//! The product behind every matrix operation: rows of scalars times panels of lines, summed over steps.
//!
//! A tile of sums stays in registers. One step loads a line of each of the tile's panels and broadcasts a
//! scalar of each of its rows, for rows · panels multiply-adds of 16 lanes. Panels are the outer loop, so
//! the tile's lines stay in the first-level cache while the rows stream past. Every element of the
//! output is one sum that takes its terms in the order of the steps: it does not depend on the tile.

#![allow(clippy::needless_range_loop, reason = "a tile is indexed alike in registers and in memory")]

use super::math;
use crate::line::{Line, PANEL_ROWS};
use crate::simd::{Lanes, Simd, prefetch};
use crate::table::Epilogue;
use half::f16;
use std::ops::Range;

/// What the lines of a product are made of.
pub(super) trait Element: Copy {
    fn load<S: Simd>(s: S, lanes: &[Self; PANEL_ROWS]) -> S::Vector;
}

impl Element for f32 {
    #[inline(always)]
    fn load<S: Simd>(s: S, lanes: &Lanes) -> S::Vector {
        s.load(lanes)
    }
}

impl Element for f16 {
    #[inline(always)]
    fn load<S: Simd>(s: S, lanes: &[f16; PANEL_ROWS]) -> S::Vector {
        s.load_half(lanes)
    }
}

/// out[row, panel, lane] = start + Σ_step scalar[row, step] · line[panel, step][lane].
///
/// Strides are in elements. `#[inline(always)]` makes those that are constants disappear.
#[derive(Clone, Copy)]
pub(super) struct Product<E> {
    pub(super) out: *mut f32,
    pub(super) out_row_stride: usize,
    pub(super) out_panel_stride: usize,
    pub(super) scalars: *const f32,
    pub(super) scalar_row_stride: usize,
    pub(super) scalar_step_stride: usize,
    pub(super) lines: *const E,
    pub(super) line_panel_stride: usize,
    pub(super) line_step_stride: usize,
    pub(super) steps: usize,
    pub(super) start: Start,
    pub(super) sigmoid: bool,
}

/// What the sums hold before the first step.
#[derive(Clone, Copy)]
pub(super) enum Start {
    Zero,
    Out,
    /// Points to the line of the first panel.
    Bias(*const Line),
}

impl From<Epilogue<'_>> for Start {
    #[inline(always)]
    fn from(epilogue: Epilogue<'_>) -> Self {
        match epilogue {
            Epilogue::Store => Self::Zero,
            Epilogue::Accumulate => Self::Out,
            Epilogue::Bias(bias) | Epilogue::BiasSigmoid(bias) => Self::Bias(bias.as_ptr()),
        }
    }
}

impl<E: Element> Product<E> {
    /// Computes `rows` rows and `panels` panels in tiles of `TILE_ROWS` by `TILE_PANELS`; a single row,
    /// which has too few sums for such a tile, `MATVEC_PANELS` panels at once.
    ///
    /// # Safety
    ///
    /// The buffers hold that many rows and panels, and the output overlaps neither operand.
    #[inline(always)]
    pub(super) unsafe fn compute<S: Simd>(&self, s: S, rows: usize, panels: usize) {
        if rows == 1 {
            // SAFETY: the row and the panels exist.
            return unsafe { self.compute_row(s, panels) };
        }
        let mut panel = 0;
        while panel < panels {
            let width = (panels - panel).min(S::TILE_PANELS);
            let mut row = 0;
            while row < rows {
                let height = tile_size(rows - row, S::TILE_ROWS);
                if panel == 0 {
                    self.prefetch_rows(row + height..rows.min(row + 2 * height));
                }
                // SAFETY: rows `row..row + height` and panels `panel..panel + width` exist.
                unsafe { self.from(row, panel).tile(s, height, width) };
                row += height;
            }
            panel += width;
        }
    }

    /// Asks for the scalars of the next tile while this one is computed: they may come from the third-level cache,
    /// for which a tile's multiply-adds would wait. Where neighbouring rows share lines there is nothing to ask for.
    #[inline(always)]
    fn prefetch_rows(&self, rows: Range<usize>) {
        if self.scalar_step_stride != 1 {
            return;
        }
        for row in rows {
            for step in (0..self.steps).step_by(PANEL_ROWS) {
                prefetch(self.scalars.wrapping_add(row * self.scalar_row_stride + step));
            }
        }
    }

    /// # Safety
    ///
    /// The buffers hold a row and that many panels, and the output overlaps neither operand.
    #[inline(always)]
    unsafe fn compute_row<S: Simd>(&self, s: S, panels: usize) {
        let mut panel = 0;
        while panel < panels {
            let width = tile_size(panels - panel, S::MATVEC_PANELS);
            // SAFETY: the row and panels `panel..panel + width` exist.
            unsafe {
                let tile = self.from(0, panel);
                of_size!(width, at_most S::MATVEC_PANELS, PANELS => tile.sum::<S, 1, PANELS>(s));
                if self.sigmoid {
                    tile.apply_sigmoid(s, 1, width);
                }
            }
            panel += width;
        }
    }

    /// The part of the product that begins at a row and a panel.
    ///
    /// # Safety
    ///
    /// The row and the panel exist.
    #[inline(always)]
    pub(super) unsafe fn from(&self, row: usize, panel: usize) -> Self {
        // SAFETY: the row and the panel exist, so every pointer stays in its buffer.
        unsafe {
            Self {
                out: self.out.add(row * self.out_row_stride + panel * self.out_panel_stride),
                scalars: self.scalars.add(row * self.scalar_row_stride),
                lines: self.lines.add(panel * self.line_panel_stride),
                start: match self.start {
                    Start::Bias(bias) => Start::Bias(bias.add(panel)),
                    start => start,
                },
                ..*self
            }
        }
    }

    /// # Safety
    ///
    /// `height` rows and `width` panels exist, at least one and at most a tile of each.
    #[inline(always)]
    unsafe fn tile<S: Simd>(self, s: S, height: usize, width: usize) {
        // SAFETY: the caller vouches for the rows and panels.
        unsafe {
            match width {
                1 => of_size!(height, at_most S::TILE_ROWS, ROWS => self.sum::<S, ROWS, 1>(s)),
                2 if const { S::TILE_PANELS >= 2 } => {
                    of_size!(height, at_most S::TILE_ROWS, ROWS => self.sum::<S, ROWS, 2>(s));
                }
                3 if const { S::TILE_PANELS >= 3 } => {
                    of_size!(height, at_most S::TILE_ROWS, ROWS => self.sum::<S, ROWS, 3>(s));
                }
                _ => unreachable!("a tile has at most 3 panels"),
            }
            if self.sigmoid {
                self.apply_sigmoid(s, height, width);
            }
        }
    }

    /// # Safety
    ///
    /// `ROWS` rows and `PANELS` panels exist.
    #[inline(always)]
    unsafe fn sum<S: Simd, const ROWS: usize, const PANELS: usize>(self, s: S) {
        let mut sums = [[s.splat(0.0); PANELS]; ROWS];
        // SAFETY: the loops stay within `ROWS` rows, `PANELS` panels and `steps` steps.
        unsafe {
            match self.start {
                Start::Zero => {}
                Start::Out => {
                    for row in 0..ROWS {
                        for panel in 0..PANELS {
                            sums[row][panel] = s.load(&*self.out_lanes(row, panel));
                        }
                    }
                }
                Start::Bias(bias) => {
                    for panel in 0..PANELS {
                        let bias = s.load(&(*bias.add(panel)).0);
                        for row in &mut sums {
                            row[panel] = bias;
                        }
                    }
                }
            }
            for step in 0..self.steps {
                let mut lines = [s.splat(0.0); PANELS];
                for panel in 0..PANELS {
                    let line = self.lines.add(panel * self.line_panel_stride + step * self.line_step_stride);
                    lines[panel] = E::load(s, &*line.cast());
                }
                for row in 0..ROWS {
                    let scalar = row * self.scalar_row_stride + step * self.scalar_step_stride;
                    let scalar = s.splat(*self.scalars.add(scalar));
                    for panel in 0..PANELS {
                        sums[row][panel] = s.mul_add(scalar, lines[panel], sums[row][panel]);
                    }
                }
            }
            for row in 0..ROWS {
                for panel in 0..PANELS {
                    s.store(&mut *self.out_lanes(row, panel), sums[row][panel]);
                }
            }
        }
    }

    /// # Safety
    ///
    /// `height` rows and `width` panels exist.
    #[inline(always)]
    unsafe fn apply_sigmoid<S: Simd>(self, s: S, height: usize, width: usize) {
        for row in 0..height {
            for panel in 0..width {
                // SAFETY: the row and the panel exist.
                let lanes = unsafe { &mut *self.out_lanes(row, panel) };
                let value = math::sigmoid_vector(s, s.load(lanes));
                s.store(lanes, value);
            }
        }
    }

    /// # Safety
    ///
    /// The row and the panel exist.
    #[inline(always)]
    unsafe fn out_lanes(self, row: usize, panel: usize) -> *mut Lanes {
        // SAFETY: the row and the panel exist.
        unsafe { self.out.add(row * self.out_row_stride + panel * self.out_panel_stride).cast() }
    }
}

/// Evaluates an expression in which a size, from 1 to 8 and no larger than a constant, is a constant too: a tile whose
/// size is known to the compiler stays in registers.
macro_rules! of_size {
    ($size:expr, at_most $most:expr, $Size:ident => $tile:expr) => {
        of_size!(@ $size, $most, $Size, $tile, 1 2 3 4 5 6 7 8)
    };
    (@ $size:expr, $most:expr, $Size:ident, $tile:expr, $($n:literal)+) => {
        match $size {
            $($n if const { $most >= $n } => {
                const $Size: usize = $n;
                $tile
            })+
            _ => unreachable!("a tile has at most 8 rows, or panels"),
        }
    };
}
pub(super) use of_size;

/// Stores a product's sum in its place, of a row and a panel, as the epilogue says.
///
/// # Safety
///
/// If there is a bias, it has a line for the panel.
#[inline(always)]
pub(super) unsafe fn store<S: Simd>(
    s: S,
    out: &mut Lanes,
    sum: S::Vector,
    epilogue: Epilogue<'_>,
    panel: usize,
) {
    let value = match epilogue {
        Epilogue::Store => sum,
        Epilogue::Accumulate => s.add(s.load(out), sum),
        Epilogue::Bias(bias) | Epilogue::BiasSigmoid(bias) => {
            // SAFETY: the caller vouches for the panel.
            let bias = unsafe { bias.get_unchecked(panel) };
            s.add(s.load(&bias.0), sum)
        }
    };
    let sigmoid = matches!(epilogue, Epilogue::BiasSigmoid(_));
    s.store(out, if sigmoid { math::sigmoid_vector(s, value) } else { value });
}

/// Floats of `lines` lines: the stride from one to the next of them, if they are that far apart.
pub(super) const fn floats(lines: usize) -> usize {
    lines * PANEL_ROWS
}

/// How many of `left` rows, or of a single row's panels, to compute next: whole tiles, and the last two of equal
/// size, because a tile of few has too few independent sums to keep the multipliers busy.
#[inline(always)]
const fn tile_size(left: usize, most: usize) -> usize {
    if left <= most {
        left
    } else if left < 2 * most {
        left.div_ceil(2)
    } else {
        most
    }
}

/// Checked when this is compiled: tiles end, none is larger than asked for, and the last two differ by one at most.
const _: () = {
    let mut most = 1;
    while most <= 8 {
        let mut left = 1;
        while left < 100 {
            let size = tile_size(left, most);
            assert!(1 <= size && size <= most);
            let rest = left - size;
            assert!(rest == 0 || rest > most || (rest <= size && size - rest <= 1));
            left += 1;
        }
        most += 1;
    }
};
