//! The unit of every weight buffer, and the one weight layout.
//!
//! A matrix W of shape [N, K] is stored as ceil(N / 16) *panels* of 16 output rows. A panel is K
//! [`Line`]s, one for each input column: lane `r` of line `k` of panel `p` is `W[16 p + r][k]`. A
//! product then broadcasts one input and multiplies a whole line by it, without horizontal sums, and
//! the same bytes serve a checkpoint file, a matrix-vector product and a matrix-matrix product.

use half::{bf16, f16};

/// Output rows of a panel: the number of floats in a [`Line`].
pub const PANEL_ROWS: usize = 16;

/// 64 bytes, 64-byte aligned: the 16 weights of one input column of a panel.
#[repr(C, align(64))]
#[derive(Clone, Copy, Debug, PartialEq, Default)]
pub struct Line(pub [f32; PANEL_ROWS]);

const _: () = assert!(size_of::<Line>() == 64 && align_of::<Line>() == 64);

/// 32 bytes, 32-byte aligned: the 16 half-precision weights of one input column of a panel, or the scales of
/// a panel's rows.
#[repr(C, align(32))]
#[derive(Clone, Copy, Debug, PartialEq, Default)]
pub struct HalfLine(pub [f16; PANEL_ROWS]);

/// 64 bytes, 64-byte aligned: the bfloat16 weights of two input columns of a panel, those of a row side by side.
#[repr(C, align(64))]
#[derive(Clone, Copy, Debug, PartialEq, Default)]
pub struct PairLine(pub [[bf16; 2]; PANEL_ROWS]);

/// 64 bytes, 64-byte aligned: int8 or int4 weights of a panel, see [`quantized`](crate::quantized).
#[repr(C, align(64))]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CodeLine(pub [i8; 64]);

const _: () = assert!(size_of::<HalfLine>() == 32 && align_of::<HalfLine>() == 32);
const _: () = assert!(size_of::<PairLine>() == 64 && align_of::<PairLine>() == 64);
const _: () = assert!(size_of::<CodeLine>() == 64 && align_of::<CodeLine>() == 64);

impl Default for CodeLine {
    fn default() -> Self {
        Self([0; 64])
    }
}

/// `reinterpret!`: the memory of lines of one kind as lines of another.
macro_rules! reinterpret {
    ($($(#[$documentation:meta])+ $name:ident, $name_mut:ident: $from:ty => $to:ty;)*) => {
        $(
            const _: () = assert!(
                size_of::<$from>().is_multiple_of(size_of::<$to>()) && align_of::<$from>() >= align_of::<$to>()
            );

            $(#[$documentation])+
            #[must_use]
            pub const fn $name(lines: &[$from]) -> &[$to] {
                let length = lines.len() * (size_of::<$from>() / size_of::<$to>());
                // SAFETY: plain numbers without padding, of which every bit pattern is valid; the sizes
                // divide and the alignment suffices, as asserted above.
                unsafe { std::slice::from_raw_parts(lines.as_ptr().cast(), length) }
            }

            /// The same, mutable.
            #[must_use]
            pub const fn $name_mut(lines: &mut [$from]) -> &mut [$to] {
                let length = lines.len() * (size_of::<$from>() / size_of::<$to>());
                // SAFETY: as above; the exclusive borrow of the lines is handed on.
                unsafe { std::slice::from_raw_parts_mut(lines.as_mut_ptr().cast(), length) }
            }
        )*
    };
}
reinterpret! {
    /// The lines as one slice of `16 * lines.len()` floats.
    as_floats, as_floats_mut: Line => f32;
    /// The memory of the lines as twice as many lines of half-precision floats.
    as_half_lines, as_half_lines_mut: Line => HalfLine;
    /// The memory of the lines as lines of codes.
    as_code_lines, as_code_lines_mut: Line => CodeLine;
    /// The lines as one slice of `16 * lines.len()` half-precision floats.
    as_halves, as_halves_mut: HalfLine => f16;
    /// The lines as one slice of `64 * lines.len()` bytes.
    as_codes, as_codes_mut: CodeLine => i8;
}

/// `width` rounded up to a multiple of 16: the row stride, in floats, of every activation buffer.
#[must_use]
pub const fn padded(width: usize) -> usize {
    width.next_multiple_of(PANEL_ROWS)
}

/// Lines in the panels of a [rows, columns] matrix: `ceil(rows / 16) * columns`.
#[must_use]
pub const fn panel_lines(rows: usize, columns: usize) -> usize {
    rows.div_ceil(PANEL_ROWS).checked_mul(columns).expect("a matrix that large cannot be stored")
}

/// Copies a row-major [rows, columns] matrix into panels; rows past the last become zero.
///
/// # Panics
///
/// If `panels` does not hold `panel_lines(rows, columns)` lines or `row_major` not rows * columns floats.
pub fn pack_panels(panels: &mut [Line], row_major: &[f32], rows: usize, columns: usize) {
    check_panels("pack_panels", panels.len(), row_major.len(), rows, columns);
    panels.fill(Line::default());
    for row in 0..rows {
        for column in 0..columns {
            let line = row / PANEL_ROWS * columns + column;
            panels[line].0[row % PANEL_ROWS] = row_major[row * columns + column];
        }
    }
}

/// Rounds a row-major [rows, columns] matrix to bfloat16 panels: `ceil(rows / 16) * ceil(columns / 2)` lines. Rows
/// past the last, and the second half of an odd last pair, become zero.
///
/// # Panics
///
/// If `panels` or `row_major` does not fit that shape.
pub fn pack_bf16(panels: &mut [PairLine], row_major: &[f32], rows: usize, columns: usize) {
    let steps = columns.div_ceil(2);
    let lines = panel_lines(rows, steps);
    assert!(panels.len() == lines, "pack_bf16: `panels` must hold {lines} lines, got {}", panels.len());
    let floats = rows.saturating_mul(columns);
    let got = row_major.len();
    assert!(got == floats, "pack_bf16: `row_major` must hold {floats} floats, got {got}");
    panels.fill(PairLine::default());
    for (i, &value) in row_major.iter().enumerate() {
        let (row, column) = (i / columns, i % columns);
        panels[row / PANEL_ROWS * steps + column / 2].0[row % PANEL_ROWS][column % 2] = bf16::from_f32(value);
    }
}

/// Copies panels back into a row-major [rows, columns] matrix; the inverse of [`pack_panels`].
///
/// # Panics
///
/// If `panels` does not hold `panel_lines(rows, columns)` lines or `row_major` not rows * columns floats.
pub fn unpack_panels(row_major: &mut [f32], panels: &[Line], rows: usize, columns: usize) {
    check_panels("unpack_panels", panels.len(), row_major.len(), rows, columns);
    for row in 0..rows {
        for column in 0..columns {
            let line = row / PANEL_ROWS * columns + column;
            row_major[row * columns + column] = panels[line].0[row % PANEL_ROWS];
        }
    }
}

fn check_panels(operation: &str, panels: usize, row_major: usize, rows: usize, columns: usize) {
    let lines = panel_lines(rows, columns);
    assert!(panels == lines, "{operation}: `panels` must hold {lines} lines, got {panels}");
    let floats = rows.saturating_mul(columns);
    assert!(row_major == floats, "{operation}: `row_major` must hold {floats} floats, got {row_major}");
}
