//! Matrix products with panels of weights, and the gradients of those weights.

use super::product::{Product, Start, floats};
use crate::line::{HalfLine, Line, PANEL_ROWS, padded};
use crate::simd::{Simd, Unfused};
use crate::table::Epilogue;
use half::f16;

/// Rows of activations, against panels of weights, summed over inputs.
///
/// # Safety
///
/// Shapes are as [`Kernels::gemm`](crate::Kernels::gemm) checks them.
#[inline(always)]
pub(crate) unsafe fn gemm<S: Simd>(
    s: S,
    out: &mut [f32],
    a: &[f32],
    weights: &[Line],
    depth: usize,
    epilogue: Epilogue<'_>,
) {
    let (rows, panels) = (a.len() / padded(depth), weights.len() / depth);
    let product = weights_product(out, a, weights.as_ptr().cast::<f32>(), panels, depth, epilogue);
    // SAFETY: `out` holds rows · panels lines, `a` the rows and `weights` the panels.
    unsafe { product.compute(s, rows, panels) };
}

/// # Safety
///
/// Shapes are as [`Kernels::gemm_unfused`](crate::Kernels::gemm_unfused) checks them.
#[inline(always)]
pub(crate) unsafe fn gemm_unfused<S: Simd>(
    s: S,
    out: &mut [f32],
    a: &[f32],
    weights: &[Line],
    depth: usize,
    epilogue: Epilogue<'_>,
) {
    // SAFETY: the shapes are the same.
    unsafe { gemm(Unfused(s), out, a, weights, depth, epilogue) };
}

/// # Safety
///
/// Shapes are as [`Kernels::gemm_f16`](crate::Kernels::gemm_f16) checks them.
#[inline(always)]
pub(crate) unsafe fn gemm_f16<S: Simd>(
    s: S,
    out: &mut [f32],
    a: &[f32],
    weights: &[HalfLine],
    depth: usize,
    epilogue: Epilogue<'_>,
) {
    let (rows, panels) = (a.len() / padded(depth), weights.len() / depth);
    let product = weights_product(out, a, weights.as_ptr().cast::<f16>(), panels, depth, epilogue);
    // SAFETY: `out` holds rows · panels lines, `a` the rows and `weights` the panels.
    unsafe {
        if rows == 1 {
            product.compute(s.widening(), rows, panels);
        } else {
            product.compute(s, rows, panels);
        }
    }
}

#[inline(always)]
fn weights_product<E>(
    out: &mut [f32],
    a: &[f32],
    lines: *const E,
    panels: usize,
    depth: usize,
    epilogue: Epilogue<'_>,
) -> Product<E> {
    Product {
        out: out.as_mut_ptr(),
        out_row_stride: floats(panels),
        out_panel_stride: floats(1),
        scalars: a.as_ptr(),
        scalar_row_stride: padded(depth),
        scalar_step_stride: 1,
        lines,
        line_panel_stride: floats(depth),
        line_step_stride: floats(1),
        steps: depth,
        start: Start::from(epilogue),
        sigmoid: matches!(epilogue, Epilogue::BiasSigmoid(_)),
    }
}

/// Rows of x and dy that are multiplied before the next tile of the gradient is taken up, so few that those of x stay
/// in the first-level cache. The sums go on where they were, so it has no effect on results.
const BLOCK_ROWS: usize = 64;

/// Here the rows of the product are the inputs, its lines are those of dy, and it is summed over rows.
///
/// Lines of dy lie a row apart, often a multiple of a large power of two, and then fall into few sets of the first-level
/// cache. A tile of one panel reads one for every few multiply-adds, and gets them side by side.
///
/// # Safety
///
/// Shapes are as [`Kernels::weight_gradient`](crate::Kernels::weight_gradient) checks them.
#[inline(always)]
pub(crate) unsafe fn weight_gradient<S: Simd>(
    s: S,
    gradient: &mut [Line],
    first_panel: usize,
    dy: &[f32],
    dy_stride: usize,
    x: &[f32],
    depth: usize,
) {
    let (panels, x_stride) = (gradient.len() / depth, padded(depth));
    let first = first_panel * PANEL_ROWS;
    let mut gathered = [Line::default(); BLOCK_ROWS];
    for (dy, x) in dy.chunks(BLOCK_ROWS * dy_stride).zip(x.chunks(BLOCK_ROWS * x_stride)) {
        let product = Product {
            out: gradient.as_mut_ptr().cast(),
            out_row_stride: floats(1),
            out_panel_stride: floats(depth),
            scalars: x.as_ptr(),
            scalar_row_stride: 1,
            scalar_step_stride: x_stride,
            lines: dy[first..].as_ptr(),
            line_panel_stride: floats(1),
            line_step_stride: dy_stride,
            steps: dy.len() / dy_stride,
            start: Start::Out,
            sigmoid: false,
        };
        if const { S::TILE_PANELS > 1 } {
            // SAFETY: `gradient` holds panels of `depth` lines, dy and x `steps` rows, and dy has the panels.
            unsafe { product.compute(s, depth, panels) };
            continue;
        }
        for panel in 0..panels {
            let column = first + panel * PANEL_ROWS;
            for (line, row) in gathered.iter_mut().zip(dy.chunks_exact(dy_stride)) {
                line.0.copy_from_slice(&row[column..][..PANEL_ROWS]);
            }
            // SAFETY: as above, for one panel, whose `steps` lines, at most `BLOCK_ROWS`, are gathered.
            unsafe {
                let lines = gathered.as_ptr().cast();
                let product = Product { lines, line_step_stride: floats(1), ..product.from(0, panel) };
                product.compute(s, depth, 1);
            }
        }
    }
}

#[inline(always)]
pub(crate) fn bias_gradient<S: Simd>(s: S, gradient: &mut [Line], dy: &[f32]) {
    for row in dy.chunks_exact(gradient.len() * PANEL_ROWS) {
        for (gradient, lanes) in gradient.iter_mut().zip(row.as_chunks().0) {
            let sum = s.add(s.load(&gradient.0), s.load(lanes));
            s.store(&mut gradient.0, sum);
        }
    }
}

/// Moves blocks of 16 × 16: both sides of a block are 16 consecutive lines.
#[inline(always)]
pub(crate) fn transpose_panels<S: Simd>(
    _: S,
    out: &mut [Line],
    weights: &[Line],
    rows: usize,
    columns: usize,
) {
    for (out_panel, out_lines) in out.chunks_exact_mut(rows.max(1)).enumerate() {
        let first_column = out_panel * PANEL_ROWS;
        let block_columns = (columns - first_column).min(PANEL_ROWS);
        for (panel, out_lines) in out_lines.chunks_mut(PANEL_ROWS).enumerate() {
            let lines = &weights[panel * columns + first_column..][..block_columns];
            for (row, out_line) in out_lines.iter_mut().enumerate() {
                *out_line = Line::default();
                for (lane, line) in out_line.0.iter_mut().zip(lines) {
                    *lane = line.0[row];
                }
            }
        }
    }
}
