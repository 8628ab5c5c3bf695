//! Probes of the CPU as safe methods.

use crate::kernels::Kernels;
use crate::line::Line;

/// The most steps whose multiply-adds are counted without rounding: of a tile of up to 24 sums,
/// all together stay below 2²⁴ a lane.
const MAX_STEPS: usize = 1 << 19;

/// What the CPU can do at best with these instructions: the peaks that operations are compared with.
impl Kernels {
    /// Multiply-adds on registers, for `steps` steps of the matrix product's register tile. Returns how many
    /// multiply-adds of single floats that were, counted by themselves.
    ///
    /// `steps`: at most 2¹⁹. A step is as many independent multiply-adds as the instruction set's tile holds, and
    /// reads one line a panel from the first-level cache, so that the multipliers alone limit its speed.
    ///
    /// # Panics
    ///
    /// If there are too many steps to count.
    #[must_use]
    pub fn probe_multiply_adds(&self, steps: usize) -> f64 {
        assert!(steps <= MAX_STEPS, "probe_multiply_adds: `steps` must be at most {MAX_STEPS}, got {steps}");
        // SAFETY: `self` exists only where its functions can run.
        unsafe { (self.table.probe_multiply_adds)(steps) }
    }

    /// The sum of all floats of `lines`, in no particular order: reads them from the first to the last, as fast
    /// as the memory they lie in gives them.
    #[must_use]
    pub fn probe_reads(&self, lines: &[Line]) -> f64 {
        // SAFETY: `self` exists only where its functions can run.
        unsafe { (self.table.probe_reads)(lines) }
    }
}
