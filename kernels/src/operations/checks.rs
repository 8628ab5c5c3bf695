//! What the shapes of an operation's buffers must be, and the panics that say so.

use crate::line::{Line, PANEL_ROWS, padded, panel_lines};
use crate::table::Epilogue;

pub(super) fn check_length(operation: &str, buffer: &str, got: usize, expected: usize) {
    assert!(got == expected, "{operation}: `{buffer}` must have length {expected}, got {got}");
}

pub(super) fn check_at_least(operation: &str, buffer: &str, got: usize, least: usize) {
    assert!(got >= least, "{operation}: `{buffer}` must be at least {least}, got {got}");
}

/// The number of rows of `width` in a buffer of `length`.
pub(super) fn check_rows(operation: &str, buffer: &str, length: usize, width: usize) -> usize {
    assert!(
        length.is_multiple_of(width),
        "{operation}: `{buffer}` must be a whole number of rows of {width}, got {length}"
    );
    length / width
}

/// The width of `rows` rows in a buffer of `length`, a multiple of 16; 0 without rows.
pub(super) fn check_wide_rows(operation: &str, buffer: &str, length: usize, rows: usize) -> usize {
    let width = length.checked_div(rows).unwrap_or(0);
    assert!(
        width.is_multiple_of(PANEL_ROWS) && product(width, rows) == length,
        "{operation}: `{buffer}` must be {rows} rows of a multiple of {PANEL_ROWS}, got {length}"
    );
    width
}

/// Checks a product of rows of `depth` activations and panels of `lines` lines each.
pub(super) fn check_gemm(
    operation: &str,
    out: &[f32],
    a: usize,
    weights: usize,
    depth: usize,
    lines: usize,
    epilogue: Epilogue<'_>,
) {
    let panels = check_panels(operation, "weights", weights, lines);
    let rows = check_rows(operation, "a", a, padded(depth));
    check_length(operation, "out", out.len(), product(rows, panels * PANEL_ROWS));
    check_epilogue(operation, epilogue, panels);
}

/// The number of panels of `depth` lines in a buffer of `length` lines.
pub(super) fn check_panels(operation: &str, buffer: &str, length: usize, depth: usize) -> usize {
    check_at_least(operation, "depth", depth, 1);
    assert!(
        length.is_multiple_of(depth),
        "{operation}: `{buffer}` must be a whole number of panels of {depth} lines, got {length}"
    );
    length / depth
}

pub(super) fn check_epilogue(operation: &str, epilogue: Epilogue<'_>, panels: usize) {
    match epilogue {
        Epilogue::Store | Epilogue::Accumulate => {}
        Epilogue::Bias(bias) | Epilogue::BiasSigmoid(bias) => {
            check_length(operation, "bias", bias.len(), panels)
        }
    }
}

/// Checks the buffers both directions of the cell have; returns T.
pub(super) fn check_cell(
    operation: &str,
    a: usize,
    z: usize,
    h: usize,
    (name, recurrent): (&str, &[Line]),
    batch: usize,
    hidden: usize,
) -> usize {
    check_at_least(operation, "batch", batch, 1);
    check_at_least(operation, "hidden", hidden, 1);
    let slot = product(batch, padded(hidden));
    let steps = check_rows(operation, "a", a, slot);
    check_length(operation, "z", z, a);
    check_length(operation, "h", h, product(steps + 1, slot));
    check_length(operation, name, recurrent.len(), panel_lines(hidden, hidden));
    steps
}

pub(super) fn check_norm(operation: &str, y: usize, inverse_rms: usize, gain: &[Line], width: usize) {
    check_at_least(operation, "width", width, 1);
    let rows = check_rows(operation, "y", y, padded(width));
    check_length(operation, "inverse_rms", inverse_rms, rows);
    check_length(operation, "gain", gain.len(), width.div_ceil(PANEL_ROWS));
}

/// `a * b`; a size that overflows is larger than any buffer, so it matches none.
pub(super) fn product(a: usize, b: usize) -> usize {
    a.saturating_mul(b)
}
