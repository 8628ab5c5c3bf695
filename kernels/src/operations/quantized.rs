//! Products of quantized weights, and the conversions to and from what they are made of.

use super::checks::{check_at_least, check_epilogue, check_length, check_rows, product};
use crate::kernels::Kernels;
use crate::line::{CodeLine, HalfLine, Line, PANEL_ROWS, padded};
use crate::quantized::{GROUP, Quantized, QuantizedCell, code_lines, groups, units};
use crate::table::Epilogue;
use half::f16;

/// Products of quantized weights with quantized activations; see [`quantized`](crate::quantized) for the formats.
///
/// Sums of integers are exact and the rest is unfused: the same bits on every kernel.
impl Kernels {
    /// `out[M, Np] = a[M, K] · Wᵀ`, then the epilogue; W in q8.
    ///
    /// With n the row of a weight and i that of an activation: `sum · scales[n] · a.scales[i]`, rounded after each
    /// product, then added to the epilogue's bias or old value. `weights`:
    /// [`code_lines(depth)`](crate::quantized::code_lines) for each panel; `scales`: a line for each; `depth`: K,
    /// from 1 to 65536, so that no sum overflows. Codes are -127 to 127: the product of a -128, which no quantization makes,
    /// depends on the kernel.
    ///
    /// # Panics
    ///
    /// If a buffer's length does not fit these shapes.
    pub fn gemm_q8(
        &self,
        out: &mut [f32],
        a: Quantized<'_>,
        weights: &[CodeLine],
        scales: &[Line],
        depth: usize,
        epilogue: Epilogue<'_>,
    ) {
        check_quantized("gemm_q8", &a, depth);
        let panels = check_rows("gemm_q8", "weights", weights.len(), code_lines(depth));
        check_length("gemm_q8", "scales", scales.len(), panels);
        check_length("gemm_q8", "out", out.len(), product(a.scales.len(), panels * PANEL_ROWS));
        check_epilogue("gemm_q8", epilogue, panels);
        // SAFETY: shapes checked above; `self` exists only where its functions can run.
        unsafe { (self.table.gemm_q8)(out, a, weights, scales, depth, epilogue) }
    }

    /// `out[M, Np] = a[M, K] · Wᵀ`, then the epilogue; W in q4.
    ///
    /// As [`gemm_q8`](Self::gemm_q8), but every group of 32 inputs has a sum and scales of its own, added up in
    /// order. `weights`: [`units(depth)`](crate::quantized::units) lines for each panel; `scales`:
    /// [`groups(depth)`](crate::quantized::groups) lines for each.
    ///
    /// # Panics
    ///
    /// If a buffer's length does not fit these shapes.
    pub fn gemm_q4(
        &self,
        out: &mut [f32],
        a: Quantized<'_>,
        weights: &[CodeLine],
        scales: &[HalfLine],
        depth: usize,
        epilogue: Epilogue<'_>,
    ) {
        check_quantized("gemm_q4", &a, depth);
        let panels = check_rows("gemm_q4", "weights", weights.len(), units(depth));
        check_length("gemm_q4", "scales", scales.len(), product(panels, groups(depth)));
        check_length("gemm_q4", "out", out.len(), product(a.scales.len(), panels * PANEL_ROWS));
        check_epilogue("gemm_q4", epilogue, panels);
        // SAFETY: shapes checked above; `self` exists only where its functions can run.
        unsafe { (self.table.gemm_q4)(out, a, weights, scales, depth, epilogue) }
    }

    /// Runs recurrent cells in q8 over their steps, each cell by itself; `batch`: B, `hidden`: H, at least 1 both.
    ///
    /// A step quantizes the states ([`quantize_rows`](Self::quantize_rows)), adds their product with the recurrent
    /// matrix to the candidates ([`gemm_q8`](Self::gemm_q8)) and blends ([`cell_step`](Self::cell_step)), with the same
    /// bits as those three. The steps of a cell wait for each other; those of different cells need not, so two cells
    /// in a call take less time than two calls.
    ///
    /// # Panics
    ///
    /// If a buffer's length does not fit these shapes, or the cells have different numbers of steps.
    pub fn cell_forward_q8(&self, cells: &mut [QuantizedCell<'_>], batch: usize, hidden: usize) {
        let operation = "cell_forward_q8";
        check_at_least(operation, "batch", batch, 1);
        check_depth(operation, "hidden", hidden);
        let (slot, panels) = (product(batch, padded(hidden)), hidden.div_ceil(PANEL_ROWS));
        let length = cells.first().map_or(0, |cell| cell.steps.len());
        check_rows(operation, "steps", length, slot);
        for cell in &mut *cells {
            check_length(operation, "steps", cell.steps.len(), length);
            check_length(operation, "update", cell.update.len(), length);
            check_length(operation, "state", cell.state.len(), slot);
            check_length(operation, "recurrent", cell.recurrent.len(), product(panels, code_lines(hidden)));
            check_length(operation, "scales", cell.scales.len(), panels);
            cell.room.resize(batch, hidden);
        }
        // SAFETY: shapes checked above; `self` exists only where its functions can run.
        unsafe { (self.table.cell_forward_q8)(cells, batch, hidden) }
    }

    /// Quantizes rows of activations: `scale = max|x| / 127`, `code = round(x · (127 / max|x|))`, ties to even.
    ///
    /// x, codes: [M, padded(K)], padding of x zero; scales: `[M]`; sums: [M, groups(K)], see [`Quantized`];
    /// `depth`: K, at least 1. A row of which no magnitude reaches 1e-30 becomes zero; a row that holds an
    /// infinity or NaN gets the scale NaN. The same bits on every kernel.
    ///
    /// # Panics
    ///
    /// If a buffer's length does not fit these shapes.
    pub fn quantize_rows(
        &self,
        codes: &mut [i8],
        scales: &mut [f32],
        sums: &mut [i32],
        x: &[f32],
        depth: usize,
    ) {
        check_at_least("quantize_rows", "depth", depth, 1);
        let rows = check_rows("quantize_rows", "x", x.len(), padded(depth));
        check_length("quantize_rows", "codes", codes.len(), x.len());
        check_length("quantize_rows", "scales", scales.len(), rows);
        check_length("quantize_rows", "sums", sums.len(), product(rows, groups(depth)));
        // SAFETY: shapes checked above; `self` exists only where its functions can run.
        unsafe { (self.table.quantize_rows)(codes, scales, sums, x, depth) }
    }

    /// `out[i] = codes[i] · scale`; any length.
    ///
    /// # Panics
    ///
    /// If the lengths differ.
    pub fn dequantize_q8(&self, out: &mut [f32], codes: &[i8], scale: f32) {
        check_length("dequantize_q8", "codes", codes.len(), out.len());
        // SAFETY: shapes checked above; `self` exists only where its functions can run.
        unsafe { (self.table.dequantize_q8)(out, codes, scale) }
    }

    /// One row of 4-bit numbers, in groups of 32 with a scale each: `out[i] = (code - 8) · scale`.
    ///
    /// The low four bits of a group's 16 bytes are its first 16 codes, the high four bits the others. `codes`:
    /// 16 bytes a group, `scales`: one a group, of which `out` may leave the last unfinished.
    ///
    /// # Panics
    ///
    /// If a buffer's length does not fit these shapes.
    pub fn dequantize_q4(&self, out: &mut [f32], codes: &[i8], scales: &[f16]) {
        check_length("dequantize_q4", "scales", scales.len(), groups(out.len()));
        check_length("dequantize_q4", "codes", codes.len(), product(scales.len(), GROUP / 2));
        // SAFETY: shapes checked above; `self` exists only where its functions can run.
        unsafe { (self.table.dequantize_q4)(out, codes, scales) }
    }

    /// `out[i] = x[i]`, exactly; any length.
    ///
    /// # Panics
    ///
    /// If the lengths differ.
    pub fn widen_f16(&self, out: &mut [f32], x: &[f16]) {
        check_length("widen_f16", "x", x.len(), out.len());
        // SAFETY: shapes checked above; `self` exists only where its functions can run.
        unsafe { (self.table.widen_f16)(out, x) }
    }
}

/// Integer sums over this depth do not overflow: 255 · 127 · 65536 is below 2³¹.
const LARGEST_QUANTIZED_DEPTH: usize = 1 << 16;

fn check_depth(operation: &str, name: &str, depth: usize) {
    check_at_least(operation, name, depth, 1);
    assert!(depth <= LARGEST_QUANTIZED_DEPTH, "{operation}: `{name}` must be at most 65536, got {depth}");
}

fn check_quantized(operation: &str, a: &Quantized<'_>, depth: usize) {
    check_depth(operation, "depth", depth);
    let rows = a.scales.len();
    check_length(operation, "a.codes", a.codes.len(), product(rows, padded(depth)));
    check_length(operation, "a.sums", a.sums.len(), product(rows, groups(depth)));
}
