//! Buffers that notice what must not happen to them.

use shoestring_kernels::{
    Line, PANEL_ROWS, as_floats, as_floats_mut, pack_panels, panel_lines, unpack_panels,
};
use std::ops::{Deref, DerefMut};

/// Surrounds every buffer: reading it spoils a result, and a write to it is noticed.
const GUARD: u32 = 0x7fc5_a5a5; // a NaN

/// Floats at a chosen distance from a 64-byte boundary, between guards. Dropping it checks the guards.
pub struct Floats {
    storage: Vec<Line>,
    start: usize,
    length: usize,
}

impl Floats {
    /// `values`, starting `misalignment` floats, at most 15, after a 64-byte boundary.
    #[must_use]
    pub fn new(values: &[f32], misalignment: usize) -> Self {
        let guard = Line([f32::from_bits(GUARD); PANEL_ROWS]);
        let start = PANEL_ROWS + misalignment;
        let mut storage = vec![guard; (start + values.len()).div_ceil(PANEL_ROWS) + 1];
        as_floats_mut(&mut storage)[start..][..values.len()].copy_from_slice(values);
        Self { storage, start, length: values.len() }
    }

    /// A buffer to be overwritten: whatever is left of what it holds shows.
    #[must_use]
    pub fn unwritten(length: usize, misalignment: usize) -> Self {
        Self::new(&vec![f32::from_bits(GUARD); length], misalignment)
    }

    /// The values, once the guards have been checked.
    ///
    /// What a function returns leaks if dropping one of its variables panics (rust-lang/rust#47949), so it should
    /// return this and not a copy of a buffer that is still to be dropped.
    #[must_use]
    pub fn into_vec(self) -> Vec<f32> {
        self.check_guards();
        self.to_vec()
    }

    fn check_guards(&self) {
        let all = as_floats(&self.storage);
        assert_guard(&all[..self.start], "before");
        assert_guard(&all[self.start + self.length..], "after");
    }
}

impl Deref for Floats {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        &as_floats(&self.storage)[self.start..][..self.length]
    }
}

impl DerefMut for Floats {
    fn deref_mut(&mut self) -> &mut [f32] {
        &mut as_floats_mut(&mut self.storage)[self.start..][..self.length]
    }
}

impl Drop for Floats {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            self.check_guards();
        }
    }
}

/// Lines between guards. Dropping it checks the guards.
pub struct Lines(Vec<Line>);

impl Lines {
    /// `lines`, as they are.
    #[must_use]
    pub fn new(lines: &[Line]) -> Self {
        let guard = [Line([f32::from_bits(GUARD); PANEL_ROWS])];
        Self([&guard, lines, &guard].concat())
    }

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
    /// [`Floats::into_vec`]).
    #[must_use]
    pub fn into_row_major(self, rows: usize, columns: usize) -> Vec<f32> {
        self.check_guards();
        let mut row_major = vec![f32::NAN; rows * columns];
        unpack_panels(&mut row_major, &self, rows, columns);
        row_major
    }

    fn check_guards(&self) {
        assert_guard(&self.0[0].0, "before");
        assert_guard(&self.0[self.0.len() - 1].0, "after");
    }
}

impl Deref for Lines {
    type Target = [Line];

    fn deref(&self) -> &[Line] {
        &self.0[1..self.0.len() - 1]
    }
}

impl DerefMut for Lines {
    fn deref_mut(&mut self) -> &mut [Line] {
        let end = self.0.len() - 1;
        &mut self.0[1..end]
    }
}

impl Drop for Lines {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            self.check_guards();
        }
    }
}

#[track_caller]
fn assert_guard(guard: &[f32], place: &str) {
    assert!(guard.iter().all(|value| value.to_bits() == GUARD), "a kernel wrote {place} its buffer");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[should_panic(expected = "wrote after its buffer")]
    fn a_write_past_the_end_is_noticed() {
        let mut floats = Floats::new(&[0.0; 5], 1);
        let end = floats.start + floats.length;
        as_floats_mut(&mut floats.storage)[end] = 0.0;
    }

    #[test]
    #[should_panic(expected = "wrote before its buffer")]
    fn a_write_before_the_start_is_noticed() {
        let mut lines = Lines::new(&[Line::default()]);
        lines.0[0].0[15] = 0.0;
    }
}
