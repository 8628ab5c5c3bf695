//! How numbers are coded: the kinds of checkpoint, and what each makes of a tensor.

use super::parameters::Storage;
use half::f16;
use shoestring_kernels::quantized::{
    GROUP, groups, pack_q4, pack_q8, q4_lines, q4_place, q8_lines, q8_place,
};
use shoestring_kernels::{
    Line, PANEL_ROWS, as_code_lines, as_code_lines_mut, as_codes, as_codes_mut, as_floats, as_floats_mut,
    as_half_lines, as_half_lines_mut, as_halves, as_halves_mut, padded, panel_lines,
};
use std::fmt;

/// How a model's weights are stored. Biases, gains and the router are f32 in all of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// 32-bit floats: what training works with.
    F32 = 0,
    /// 16-bit floats.
    F16 = 1,
    /// 8-bit integers, one scale a row.
    Q8 = 2,
    /// 4-bit integers, one scale for 32 inputs of a row, but 8 bits for the recurrent matrices and the head,
    /// whose errors add up over time and go straight into the loss.
    Q4 = 3,
}

/// What a matrix is for, which decides how it is coded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Tokens' embeddings, where the head has a matrix of its own.
    Embedding,
    /// Gates, candidates and residuals: multiplies a layer's input.
    Input,
    /// Multiplies a state, or is the head.
    Sensitive,
    /// Decides which experts run; always f32.
    Router,
    /// Biases and gains, which don't decay; always f32.
    Small,
}

/// How the numbers of one tensor are coded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Encoding {
    /// 32-bit floats.
    F32,
    /// 16-bit floats.
    F16,
    /// 8-bit integers times a scale a row.
    Q8,
    /// 4-bit integers times a scale for [`GROUP`] columns of a row.
    Q4,
}

impl Kind {
    /// All of them.
    pub const ALL: [Kind; 4] = [Kind::F32, Kind::F16, Kind::Q8, Kind::Q4];

    /// The name used on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Kind::F32 => "f32",
            Kind::F16 => "f16",
            Kind::Q8 => "q8",
            Kind::Q4 => "q4",
        }
    }

    /// How this kind codes a tensor.
    pub fn encoding(self, role: Role) -> Encoding {
        match (self, role) {
            (_, Role::Router | Role::Small) | (Kind::F32, _) => Encoding::F32,
            (Kind::F16, _) => Encoding::F16,
            (Kind::Q8, _) | (Kind::Q4, Role::Sensitive) => Encoding::Q8,
            (Kind::Q4, _) => Encoding::Q4,
        }
    }

    /// Whether activations are quantized to multiply with such weights.
    pub fn is_integer(self) -> bool {
        matches!(self, Kind::Q8 | Kind::Q4)
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.name())
    }
}

impl Encoding {
    /// The name of the kind of which it is typical.
    pub fn name(self) -> &'static str {
        match self {
            Encoding::F32 => "f32",
            Encoding::F16 => "f16",
            Encoding::Q8 => "q8",
            Encoding::Q4 => "q4",
        }
    }

    /// Columns of a row of `columns` that share a scale.
    pub fn group(self, columns: usize) -> usize {
        if self == Encoding::Q4 { GROUP } else { columns }
    }

    /// The lowest and the highest code of an integer.
    pub fn codes(self) -> (i8, i8) {
        match self {
            Encoding::Q4 => (-8, 7),
            _ => (-127, 127),
        }
    }
}

/// Where a tensor's numbers lie in its lines: the numbers or codes first, then the scales.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Parts {
    /// Lines of numbers or codes.
    pub numbers: usize,
    /// Lines of scales.
    pub scales: usize,
}

impl Parts {
    /// The parts of a tensor that is stored and coded this way.
    pub fn new(storage: Storage, encoding: Encoding) -> Self {
        let (numbers, scales) = match (storage, encoding) {
            (Storage::Rows { rows, columns }, Encoding::F32) => (rows * columns.div_ceil(PANEL_ROWS), 0),
            (Storage::Rows { rows, columns }, Encoding::F16) => {
                ((rows * columns.div_ceil(PANEL_ROWS)).div_ceil(2), 0)
            }
            (Storage::Rows { rows, columns }, Encoding::Q8) => {
                ((rows * padded(columns)).div_ceil(64), rows.div_ceil(2 * PANEL_ROWS))
            }
            (Storage::Rows { rows, columns }, Encoding::Q4) => {
                let groups = rows * groups(columns);
                ((groups * GROUP / 2).div_ceil(64), groups.div_ceil(2 * PANEL_ROWS))
            }
            (Storage::Panels { matrices, rows, columns }, Encoding::F32) => {
                (matrices * panel_lines(rows, columns), 0)
            }
            (Storage::Panels { matrices, rows, columns }, Encoding::F16) => {
                ((matrices * panel_lines(rows, columns)).div_ceil(2), 0)
            }
            (Storage::Panels { matrices, rows, columns }, Encoding::Q8) => {
                (matrices * q8_lines(rows, columns), matrices * rows.div_ceil(PANEL_ROWS))
            }
            (Storage::Panels { matrices, rows, columns }, Encoding::Q4) => {
                let half_lines = matrices * rows.div_ceil(PANEL_ROWS) * groups(columns);
                (matrices * q4_lines(rows, columns), half_lines.div_ceil(2))
            }
        };
        Parts { numbers, scales }
    }

    /// All lines.
    pub fn lines(self) -> usize {
        self.numbers + self.scales
    }
}

/// A tensor's numbers as floats, row-major, without padding.
pub fn read(storage: Storage, encoding: Encoding, lines: &[Line]) -> Vec<f32> {
    let (matrices, rows, columns) = storage.shape();
    (0..matrices * rows * columns).map(|i| read_number(storage, encoding, lines, i)).collect()
}

/// Number `i`, row-major, of a tensor.
pub fn read_number(storage: Storage, encoding: Encoding, lines: &[Line], i: usize) -> f32 {
    let (numbers, scales) = lines.split_at(Parts::new(storage, encoding).numbers);
    let code = |mask: i8, offset: i8| {
        let (byte, shift) = code_place(storage, encoding, i);
        f32::from((as_codes(as_code_lines(numbers))[byte] >> shift & mask) - offset)
    };
    match encoding {
        Encoding::F32 => as_floats(numbers)[float_place(storage, i)],
        Encoding::F16 => as_halves(as_half_lines(numbers))[float_place(storage, i)].to_f32(),
        Encoding::Q8 => code(-1, 0) * scale(storage, encoding, scales, i),
        Encoding::Q4 => code(15, 8) * scale(storage, encoding, scales, i),
    }
}

/// Stores row-major numbers as f32 or f16; padding becomes zero.
///
/// # Panics
/// If the encoding is one of integers.
pub fn write_floats(storage: Storage, encoding: Encoding, lines: &mut [Line], row_major: &[f32]) {
    lines.fill(Line::default());
    let places = (0..row_major.len()).map(|i| float_place(storage, i));
    match encoding {
        Encoding::F32 => {
            let floats = as_floats_mut(lines);
            places.zip(row_major).for_each(|(place, &value)| floats[place] = value);
        }
        Encoding::F16 => {
            let halves = as_halves_mut(as_half_lines_mut(lines));
            places.zip(row_major).for_each(|(place, &value)| halves[place] = f16::from_f32(value));
        }
        Encoding::Q8 | Encoding::Q4 => panic!("integers are written with their scales"),
    }
}

/// Stores row-major integers, within [`Encoding::codes`], and the scales of each row's groups, `[rows of all
/// matrices, groups]`; padding becomes zero.
///
/// # Panics
/// If the encoding is one of floats.
pub fn write_integers(
    storage: Storage,
    encoding: Encoding,
    lines: &mut [Line],
    codes: &[i8],
    row_scales: &[f32],
) {
    let (_, rows, columns) = storage.shape();
    lines.fill(Line::default());
    let (numbers, scales) = lines.split_at_mut(Parts::new(storage, encoding).numbers);
    let code_lines = as_code_lines_mut(numbers);
    match (storage, encoding) {
        (Storage::Panels { .. }, Encoding::Q8) => {
            let matrices = code_lines.chunks_exact_mut(q8_lines(rows, columns));
            for (codes, lines) in codes.chunks_exact(rows * columns).zip(matrices) {
                pack_q8(lines, codes, rows, columns);
            }
        }
        (Storage::Panels { .. }, Encoding::Q4) => {
            let matrices = code_lines.chunks_exact_mut(q4_lines(rows, columns));
            for (codes, lines) in codes.chunks_exact(rows * columns).zip(matrices) {
                pack_q4(lines, codes, rows, columns);
            }
        }
        (Storage::Rows { .. }, Encoding::Q8 | Encoding::Q4) => {
            let bytes = as_codes_mut(code_lines);
            for (i, &code) in codes.iter().enumerate() {
                let (byte, shift) = code_place(storage, encoding, i);
                bytes[byte] |= if encoding == Encoding::Q4 { (code + 8) << shift } else { code };
            }
        }
        (_, Encoding::F32 | Encoding::F16) => panic!("floats have no scales"),
    }
    for (i, &scale) in row_scales.iter().enumerate() {
        let groups = columns.div_ceil(encoding.group(columns));
        let place = scale_place(storage, encoding, i / groups, i % groups);
        if scales_are_halves(storage, encoding) {
            as_halves_mut(as_half_lines_mut(scales))[place] = f16::from_f32(scale);
        } else {
            as_floats_mut(scales)[place] = scale;
        }
    }
}

/// The index of number `i` among the floats of a tensor of floats.
fn float_place(storage: Storage, i: usize) -> usize {
    let (_, rows, columns) = storage.shape();
    let (row, column) = (i / columns, i % columns);
    match storage {
        Storage::Rows { .. } => row * padded(columns) + column,
        Storage::Panels { .. } => {
            let (matrix, row) = (row / rows, row % rows);
            let line = matrix * panel_lines(rows, columns) + row / PANEL_ROWS * columns + column;
            line * PANEL_ROWS + row % PANEL_ROWS
        }
    }
}

/// The byte that holds the code of number `i`, and how far the code is shifted to the left in it.
fn code_place(storage: Storage, encoding: Encoding, i: usize) -> (usize, u32) {
    let (_, rows, columns) = storage.shape();
    let (row, column) = (i / columns, i % columns);
    match (storage, encoding) {
        (Storage::Rows { .. }, Encoding::Q4) => {
            let (group, place) = (row * groups(columns) + column / GROUP, column % GROUP);
            (group * GROUP / 2 + place % (GROUP / 2), if place < GROUP / 2 { 0 } else { 4 })
        }
        (Storage::Rows { .. }, _) => (row * padded(columns) + column, 0),
        (Storage::Panels { .. }, Encoding::Q4) => {
            let (line, byte, shift) = q4_place(row % rows, column, columns);
            ((row / rows * q4_lines(rows, columns) + line) * 64 + byte, shift)
        }
        (Storage::Panels { .. }, _) => {
            let (line, byte) = q8_place(row % rows, column, columns);
            ((row / rows * q8_lines(rows, columns) + line) * 64 + byte, 0)
        }
    }
}

/// The index of the scale of a row's group among the scales of a tensor.
fn scale_place(storage: Storage, encoding: Encoding, row: usize, group: usize) -> usize {
    let (_, rows, columns) = storage.shape();
    let groups = columns.div_ceil(encoding.group(columns));
    match storage {
        Storage::Rows { .. } => row * groups + group,
        Storage::Panels { .. } => {
            let (matrix, row) = (row / rows, row % rows);
            let panel = matrix * rows.div_ceil(PANEL_ROWS) + row / PANEL_ROWS;
            (panel * groups + group) * PANEL_ROWS + row % PANEL_ROWS
        }
    }
}

/// Whether scales are stored as f16: all but those of q8 panels.
pub fn scales_are_halves(storage: Storage, encoding: Encoding) -> bool {
    encoding == Encoding::Q4 || matches!(storage, Storage::Rows { .. })
}

/// The scale of number `i`.
fn scale(storage: Storage, encoding: Encoding, scales: &[Line], i: usize) -> f32 {
    let (_, _, columns) = storage.shape();
    let place = scale_place(storage, encoding, i / columns, i % columns / encoding.group(columns));
    if scales_are_halves(storage, encoding) {
        as_halves(as_half_lines(scales))[place].to_f32()
    } else {
        as_floats(scales)[place]
    }
}
