//! Buffers that notice what must not happen to them.

use half::{bf16, f16};
use shoestring_kernels::{
    CodeLine, HalfLine, Line, PANEL_ROWS, as_floats, pack_panels, panel_lines, unpack_panels,
};
use std::ops::{Deref, DerefMut};

/// What buffers are made of, and what surrounds them: reading it spoils a result, and a write to it is noticed.
pub trait Element: Copy {
    /// A number that no operation writes, NaN where there is one.
    const GUARD: Self;

    /// Whether this is still the guard, bit for bit.
    fn is_guard(&self) -> bool;
}

const FLOAT_GUARD: f32 = f32::from_bits(0x7fc5_a5a5);
const HALF_GUARD: f16 = f16::from_bits(0x7ea5);
const CODE_GUARD: i8 = -91; // 0xa5

impl Element for f32 {
    const GUARD: Self = FLOAT_GUARD;

    fn is_guard(&self) -> bool {
        self.to_bits() == FLOAT_GUARD.to_bits()
    }
}

impl Element for f16 {
    const GUARD: Self = HALF_GUARD;

    fn is_guard(&self) -> bool {
        self.to_bits() == HALF_GUARD.to_bits()
    }
}

impl Element for bf16 {
    const GUARD: Self = Self::from_bits(0x7fc5);

    fn is_guard(&self) -> bool {
        self.to_bits() == Self::GUARD.to_bits()
    }
}

impl Element for i8 {
    const GUARD: Self = CODE_GUARD;

    fn is_guard(&self) -> bool {
        *self == CODE_GUARD
    }
}

impl Element for i32 {
    const GUARD: Self = 0x55a5_a5a5;

    fn is_guard(&self) -> bool {
        *self == Self::GUARD
    }
}

impl Element for Line {
    const GUARD: Self = Self([FLOAT_GUARD; PANEL_ROWS]);

    fn is_guard(&self) -> bool {
        self.0.iter().all(Element::is_guard)
    }
}

impl Element for HalfLine {
    const GUARD: Self = Self([HALF_GUARD; PANEL_ROWS]);

    fn is_guard(&self) -> bool {
        self.0.iter().all(Element::is_guard)
    }
}

impl Element for CodeLine {
    const GUARD: Self = Self([CODE_GUARD; 64]);

    fn is_guard(&self) -> bool {
        *self == Self::GUARD
    }
}

/// The bytes that a buffer's place is chosen in, and the least that guards are long: a line.
const LINE_BYTES: usize = 64;

/// Numbers at a chosen distance from a 64-byte boundary, between guards. Dropping it checks the guards.
pub struct Buffer<T: Element> {
    storage: Vec<T>, // never grows: it would move
    start: usize,
    length: usize,
}

/// A [`Buffer`] of floats.
pub type Floats = Buffer<f32>;

impl<T: Element> Buffer<T> {
    /// `values`, starting `misalignment` elements after a 64-byte boundary.
    #[must_use]
    pub fn new(values: &[T], misalignment: usize) -> Self {
        let line = LINE_BYTES / size_of::<T>();
        let mut storage = vec![T::GUARD; 3 * line + misalignment + values.len()];
        let start = storage.as_ptr().align_offset(LINE_BYTES) + line + misalignment;
        storage[start..][..values.len()].copy_from_slice(values);
        Self { storage, start, length: values.len() }
    }

    /// A buffer to be overwritten: whatever is left of what it holds shows.
    #[must_use]
    pub fn unwritten(length: usize, misalignment: usize) -> Self {
        Self::new(&vec![T::GUARD; length], misalignment)
    }

    /// The values, once the guards have been checked.
    ///
    /// What a function returns leaks if dropping one of its variables panics (rust-lang/rust#47949), so it should
    /// return this and not a copy of a buffer that is still to be dropped.
    #[must_use]
    pub fn into_vec(self) -> Vec<T> {
        self.check_guards();
        self.to_vec()
    }

    fn check_guards(&self) {
        assert_guard(&self.storage[..self.start], "before");
        assert_guard(&self.storage[self.start + self.length..], "after");
    }
}

impl<T: Element> Deref for Buffer<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        &self.storage[self.start..][..self.length]
    }
}

impl<T: Element> DerefMut for Buffer<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        &mut self.storage[self.start..][..self.length]
    }
}

impl<T: Element> Drop for Buffer<T> {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            self.check_guards();
        }
    }
}

/// Lines between guards. Dropping it checks the guards.
pub struct Lines<L: Element = Line>(Buffer<L>);

impl<L: Element> Lines<L> {
    /// `lines`, as they are.
    #[must_use]
    pub fn new(lines: &[L]) -> Self {
        Self(Buffer::new(lines, 0))
    }
}

impl Lines {
    /// The panels of a row-major [rows, columns] matrix.
    #[must_use]
    pub fn panels(row_major: &[f32], rows: usize, columns: usize) -> Self {
        let mut panels = vec![Line::default(); panel_lines(rows, columns)];
        pack_panels(&mut panels, row_major, rows, columns);
        Self::new(&panels)
    }

    /// One row, padded with zeros.
    #[must_use]
    pub fn row(values: &[f32]) -> Self {
        Self::panels(values, values.len(), 1)
    }

    /// The lines' floats.
    #[must_use]
    pub fn floats(&self) -> &[f32] {
        as_floats(self)
    }

    /// The row-major [rows, columns] matrix whose panels these are, once the guards have been checked (see
    /// [`Buffer::into_vec`]).
    #[must_use]
    pub fn into_row_major(self, rows: usize, columns: usize) -> Vec<f32> {
        self.0.check_guards();
        let mut row_major = vec![f32::NAN; rows * columns];
        unpack_panels(&mut row_major, &self, rows, columns);
        row_major
    }
}

impl Lines<HalfLine> {
    /// The panels of a row-major [rows, columns] matrix, each weight rounded to half precision.
    #[must_use]
    pub fn half_panels(row_major: &[f32], rows: usize, columns: usize) -> Self {
        let panels = Lines::panels(row_major, rows, columns);
        let halves: Vec<_> = panels.iter().map(|line| HalfLine(line.0.map(f16::from_f32))).collect();
        Self::new(&halves)
    }
}

impl<L: Element> Deref for Lines<L> {
    type Target = [L];

    fn deref(&self) -> &[L] {
        &self.0
    }
}

impl<L: Element> DerefMut for Lines<L> {
    fn deref_mut(&mut self) -> &mut [L] {
        &mut self.0
    }
}

#[track_caller]
fn assert_guard<T: Element>(guard: &[T], place: &str) {
    assert!(guard.iter().all(Element::is_guard), "a kernel wrote {place} its buffer");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[should_panic(expected = "wrote after its buffer")]
    fn a_write_past_the_end_is_noticed() {
        let mut floats = Floats::new(&[0.0; 5], 1);
        let end = floats.start + floats.length;
        floats.storage[end] = 0.0;
    }

    #[test]
    #[should_panic(expected = "wrote after its buffer")]
    fn a_byte_past_the_end_is_noticed() {
        let mut codes = Buffer::new(&[0_i8; 5], 3);
        let end = codes.start + codes.length;
        codes.storage[end] = 0;
    }

    #[test]
    #[should_panic(expected = "wrote before its buffer")]
    fn a_write_before_the_start_is_noticed() {
        let mut lines = Lines::new(&[Line::default()]);
        let before = lines.0.start - 1;
        lines.0.storage[before].0[15] = 0.0;
    }

    #[test]
    fn a_buffer_is_where_it_should_be_between_guards_of_a_line() {
        fn assert_place<T: Element>(misalignment: usize) {
            let buffer = Buffer::<T>::unwritten(3, misalignment);
            assert_eq!(buffer.as_ptr().addr() % LINE_BYTES, misalignment * size_of::<T>() % LINE_BYTES);
            let guards = [buffer.start, buffer.storage.len() - buffer.start - buffer.length];
            assert!(guards.iter().all(|guard| guard * size_of::<T>() >= LINE_BYTES), "{guards:?}");
        }
        for misalignment in 0..64 {
            assert_place::<i8>(misalignment);
            assert_place::<f16>(misalignment);
            assert_place::<f32>(misalignment);
            assert_place::<i32>(misalignment);
        }
        assert_place::<HalfLine>(1);
        assert_place::<Line>(0);
    }
}
