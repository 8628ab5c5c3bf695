//! Quantized weights and activations: what their numbers mean and how they lie in memory.
//!
//! A matrix W of shape [N, K] is stored in panels of [`PANEL_ROWS`] rows like any other, in units of
//! [`UNIT`] inputs, the last one padded with zeros:
//!
//! - **q8**: a unit is two [`CodeLine`]s; byte `4 r + j` of line `i` is the weight of row `r` and input `4 i + j`,
//!   -127 to 127. A weight is its code times the scale of its row, an f32.
//! - **q4**: a unit is one [`CodeLine`]; the low four bits of byte `4 r + j` are the weight of row `r` and input
//!   `j`, the high four that of input `4 + j`, both 0 to 15. A weight is its code less 8, times the scale of its
//!   row and of the group of [`GROUP`] inputs it is in, an f16.
//!
//! Activations are quantized when they come up, each row `[K]` by itself: int8 codes and one f32 scale.

use crate::line::{CodeLine, Line, PANEL_ROWS, padded};

/// Inputs that are stored together.
pub const UNIT: usize = 8;
/// Inputs that share a scale in q4.
pub const GROUP: usize = 32;

/// Rows of activations as int8; [`Kernels::quantize_rows`](crate::Kernels::quantize_rows) makes them.
#[derive(Clone, Copy, Debug)]
pub struct Quantized<'a> {
    /// `[M, padded(K)]`, -127 to 127; padding 0.
    pub codes: &'a [i8],
    /// `[M]`: an activation is its code times its row's scale.
    pub scales: &'a [f32],
    /// `[M, ceil(K / 32)]`: the sum of the codes of each group of [`GROUP`].
    pub sums: &'a [i32],
}

/// Room for rows of activations as int8.
#[derive(Clone, Debug, Default)]
pub struct QuantizedRows {
    codes: Vec<i8>,   // [M, padded(K)]
    scales: Vec<f32>, // [M]
    sums: Vec<i32>,   // [M, groups(K)]
}

/// A recurrent cell in q8 with the steps it is to take: `batch` B texts side by side, H hidden units.
#[derive(Debug)]
pub struct QuantizedCell<'a> {
    /// `[B, Hp]`: the states before the first step, then after the last.
    pub state: &'a mut [f32],
    /// `[T, B, Hp]`: what the candidates are before gelu without the states' part, then the states after each step.
    pub steps: &'a mut [f32],
    /// `[T, B, Hp]`: the update gates z.
    pub update: &'a [f32],
    /// Codes of the recurrent matrix [H, H].
    pub recurrent: &'a [CodeLine],
    /// The scales of its rows, a line a panel.
    pub scales: &'a [Line],
    /// Room for the states of a step as int8.
    pub room: &'a mut QuantizedRows,
}

impl QuantizedRows {
    /// Room for `rows` rows of `depth` numbers, at least 1.
    pub(crate) fn resize(&mut self, rows: usize, depth: usize) {
        resize_apart(&mut self.codes, rows * padded(depth));
        resize_apart(&mut self.scales, rows);
        resize_apart(&mut self.sums, rows * groups(depth));
    }

    /// Codes, scales and sums, for a [`cell_forward_q8`](crate::Kernels::cell_forward_q8) to write.
    pub fn parts_mut(&mut self) -> (&mut [i8], &mut [f32], &mut [i32]) {
        (&mut self.codes, &mut self.scales, &mut self.sums)
    }

    /// The quantized rows of x: [M, padded(K)], `depth` K, at least 1.
    ///
    /// # Panics
    ///
    /// If x is not a whole number of rows.
    pub fn quantize(&mut self, kernels: &crate::Kernels, x: &[f32], depth: usize) -> Quantized<'_> {
        let rows = x.len() / padded(depth).max(1);
        self.resize(rows, depth);
        kernels.quantize_rows(&mut self.codes, &mut self.scales, &mut self.sums, x, depth);
        self.last()
    }

    /// The rows last [quantized](Self::quantize), if no cell has used the room since: that leaves nothing to rely on.
    #[must_use]
    pub fn last(&self) -> Quantized<'_> {
        Quantized { codes: &self.codes, scales: &self.scales, sums: &self.sums }
    }
}

/// Resizes a buffer that has a cache line more than is used, so that what different threads write never shares one.
fn resize_apart<T: Clone + Default>(buffer: &mut Vec<T>, length: usize) {
    let line = size_of::<CodeLine>() / size_of::<T>();
    buffer.reserve((length + line).saturating_sub(buffer.len()));
    buffer.resize(length, T::default());
}

/// Units of `depth` inputs.
#[must_use]
pub const fn units(depth: usize) -> usize {
    depth.div_ceil(UNIT)
}

/// Groups of `depth` inputs.
#[must_use]
pub const fn groups(depth: usize) -> usize {
    depth.div_ceil(GROUP)
}

/// Lines of codes in a q8 panel of `depth` inputs; a q4 panel has half as many.
#[must_use]
pub const fn code_lines(depth: usize) -> usize {
    2 * units(depth)
}

/// Lines of codes of a [rows, depth] matrix in q8.
#[must_use]
pub const fn q8_lines(rows: usize, depth: usize) -> usize {
    rows.div_ceil(PANEL_ROWS) * code_lines(depth)
}

/// Lines of codes of a [rows, depth] matrix in q4.
#[must_use]
pub const fn q4_lines(rows: usize, depth: usize) -> usize {
    rows.div_ceil(PANEL_ROWS) * units(depth)
}

/// The place of a q8 weight: its line, and its byte in it.
#[must_use]
pub const fn q8_place(row: usize, input: usize, depth: usize) -> (usize, usize) {
    let line = row / PANEL_ROWS * code_lines(depth) + input / 4;
    (line, row % PANEL_ROWS * 4 + input % 4)
}

/// The place of a q4 weight: its line, its byte in it, and how far its bits are shifted to the left.
#[must_use]
pub const fn q4_place(row: usize, input: usize, depth: usize) -> (usize, usize, u32) {
    let line = row / PANEL_ROWS * units(depth) + input / UNIT;
    (line, row % PANEL_ROWS * 4 + input % 4, if input % UNIT < 4 { 0 } else { 4 })
}

/// Stores the codes of a row-major [rows, depth] matrix, -127 to 127, as q8; padding becomes 0.
///
/// # Panics
///
/// If a buffer does not fit that shape.
pub fn pack_q8(lines: &mut [CodeLine], codes: &[i8], rows: usize, depth: usize) {
    assert!(lines.len() == q8_lines(rows, depth), "pack_q8: `lines` must hold {}", q8_lines(rows, depth));
    assert!(codes.len() == rows * depth, "pack_q8: `codes` must hold {}", rows * depth);
    lines.fill(CodeLine::default());
    for (i, &code) in codes.iter().enumerate() {
        let (line, byte) = q8_place(i / depth, i % depth, depth);
        lines[line].0[byte] = code;
    }
}

/// Stores the codes of a row-major [rows, depth] matrix, -8 to 7, as q4; padding becomes 0.
///
/// # Panics
///
/// If a buffer does not fit that shape.
pub fn pack_q4(lines: &mut [CodeLine], codes: &[i8], rows: usize, depth: usize) {
    assert!(lines.len() == q4_lines(rows, depth), "pack_q4: `lines` must hold {}", q4_lines(rows, depth));
    assert!(codes.len() == rows * depth, "pack_q4: `codes` must hold {}", rows * depth);
    lines.fill(CodeLine([0x88_u8 as i8; 64]));
    for (i, &code) in codes.iter().enumerate() {
        let (line, byte, shift) = q4_place(i / depth, i % depth, depth);
        let place = &mut lines[line].0[byte];
        *place = *place & !(15 << shift) | (((code + 8) & 15) << shift);
    }
}
