//! Quantized weights and activations: the same bits on all kernels.

use crate::products::Kind;
use crate::{Case, compare_exactly};
use half::f16;
use libfuzzer_sys::arbitrary::{self, Arbitrary};
use shoestring_kernels::quantized::{
    GROUP, Quantized, QuantizedCell, QuantizedRows, groups, q4_lines, q8_lines,
};
use shoestring_kernels::{CodeLine, HalfLine, Kernels, Line, PANEL_ROWS, padded};
use shoestring_kernels_conformance::buffers::{Buffer, Floats, Lines};
use shoestring_kernels_conformance::random::Random;

#[derive(Arbitrary, Clone, Copy, Debug, PartialEq)]
pub enum Format {
    Q8,
    Q4,
}

pub fn gemm(mut case: Case, format: Format, kind: Kind) {
    let Case { rows, inputs, outputs, misalignment, .. } = case;
    let mut codes = vec![0; rows * padded(inputs)]; // [M, Kp]
    for row in codes.chunks_exact_mut(padded(inputs)) {
        row[..inputs].fill_with(|| code(&mut case.random));
    }
    let row_sums = |row: &[i8]| -> Vec<i32> {
        row.chunks(GROUP).map(|group| group.iter().map(|&code| i32::from(code)).sum()).collect()
    };
    let sums: Vec<i32> = codes.chunks_exact(padded(inputs)).flat_map(row_sums).collect(); // [M, G]
    let a_scales = case.floats(rows); // [M]
    let lines = if format == Format::Q8 { q8_lines(outputs, inputs) } else { q4_lines(outputs, inputs) };
    let weights: Vec<CodeLine> =
        (0..lines).map(|_| CodeLine(std::array::from_fn(|_| code(&mut case.random)))).collect();
    let panels = outputs.div_ceil(PANEL_ROWS);
    let scale_lines: Vec<Line> = // [panels] or [panels, G]
        (0..if format == Format::Q8 { panels } else { panels * groups(inputs) })
            .map(|_| Line(std::array::from_fn(|_| case.random.float())))
            .collect();
    let half_scale_lines: Vec<HalfLine> =
        scale_lines.iter().map(|line| HalfLine(line.0.map(f16::from_f32))).collect();
    let bias = case.floats(panels * PANEL_ROWS); // [Np]
    let start = case.floats(rows * panels * PANEL_ROWS); // [M, Np]
    compare_exactly(&format!("{format:?} {kind:?} {rows}x{inputs}x{outputs}"), |kernels| {
        let (codes, sums) = (Buffer::new(&codes, 4 * misalignment + 1), Buffer::new(&sums, 3));
        let a_scales = Floats::new(&a_scales, 5);
        let a = Quantized { codes: &codes, scales: &a_scales, sums: &sums };
        let (weights, bias) = (Lines::new(&weights), Lines::row(&bias));
        let mut out = kind.out(&start, misalignment);
        let epilogue = kind.epilogue(&bias);
        match format {
            Format::Q8 => kernels.gemm_q8(&mut out, a, &weights, &Lines::new(&scale_lines), inputs, epilogue),
            Format::Q4 => {
                kernels.gemm_q4(&mut out, a, &weights, &Lines::new(&half_scale_lines), inputs, epilogue);
            }
        }
        out.to_vec()
    });
}

/// Up to two cells, of a few steps.
pub fn cells(mut case: Case) {
    let Case { rows, inputs: hidden, outputs, misalignment, .. } = case;
    let (batch, steps, panels) = (rows % 10 + 1, rows / 10, hidden.div_ceil(PANEL_ROWS));
    let cells: Vec<_> = (0..outputs / 50)
        .map(|_| {
            let state = case.padded_rows(batch, hidden); // [B, Hp]
            let candidates = case.padded_rows(steps * batch, hidden); // [T, B, Hp]
            let update: Vec<f32> = // [T, B, Hp]
                case.random.rows(steps * batch, hidden).iter().map(|z| z.abs()).collect();
            let lines = q8_lines(hidden, hidden);
            let recurrent: Vec<CodeLine> =
                (0..lines).map(|_| CodeLine(std::array::from_fn(|_| code(&mut case.random)))).collect();
            let scales: Vec<Line> = // [panels]
                (0..panels).map(|_| Line(std::array::from_fn(|_| 0.01 * case.random.float()))).collect();
            (state, candidates, update, recurrent, scales)
        })
        .collect();
    compare_exactly(&format!("cell_forward_q8 {} of {steps}x{batch}x{hidden}", cells.len()), |kernels| {
        let mut states: Vec<_> = cells.iter().map(|cell| Floats::new(&cell.0, misalignment)).collect();
        let mut all_steps: Vec<_> =
            cells.iter().map(|cell| Floats::new(&cell.1, 15 - misalignment)).collect();
        let mut rooms = vec![QuantizedRows::default(); cells.len()];
        let buffers = states.iter_mut().zip(&mut all_steps).zip(&mut rooms).zip(&cells);
        let mut borrowed: Vec<_> = buffers
            .map(|(((state, steps), room), (_, _, update, recurrent, scales))| QuantizedCell {
                state,
                steps,
                update,
                recurrent,
                scales,
                room,
            })
            .collect();
        kernels.cell_forward_q8(&mut borrowed, batch, hidden);
        drop(borrowed);
        states.iter().chain(&all_steps).flat_map(|buffer| buffer.to_vec()).collect()
    });
}

/// -127 to 127.
fn code(random: &mut Random) -> i8 {
    ((random.bits() % 255) as i16 - 127) as i8
}

/// Rows of random numbers.
pub fn quantize_rows(mut case: Case) {
    let x = case.padded_rows(case.rows, case.inputs); // [M, Kp]
    quantize(&x, case.inputs, case.misalignment);
}

/// One row of any floats.
pub fn quantize_row(x: &[f32], misalignment: usize) {
    if !x.is_empty() {
        let mut row = x.to_vec();
        row.resize(padded(x.len()), 0.0);
        quantize(&row, x.len(), misalignment);
    }
}

fn quantize(x: &[f32], depth: usize, misalignment: usize) {
    let rows = x.len() / padded(depth);
    compare_exactly(&format!("quantize_rows {rows}x{depth}"), |kernels| {
        let mut codes = Buffer::<i8>::unwritten(x.len(), 4 * misalignment + 1);
        let mut scales = Floats::unwritten(rows, misalignment);
        let mut sums = Buffer::<i32>::unwritten(rows * groups(depth), misalignment);
        kernels.quantize_rows(&mut codes, &mut scales, &mut sums, &Floats::new(x, 15 - misalignment), depth);
        let integers = codes.iter().map(|&code| i32::from(code)).chain(sums.iter().copied());
        integers.map(|integer| integer as f32).chain(scales.iter().copied()).collect()
    });
}

pub fn dequantize(mut case: Case, format: Format, scale: u32) {
    let Case { inputs: length, misalignment, .. } = case;
    let bytes = if format == Format::Q8 { length } else { groups(length) * GROUP / 2 };
    let codes: Vec<i8> = (0..bytes).map(|_| case.random.bits() as i8).collect();
    let scales: Vec<f16> = (0..groups(length)).map(|_| f16::from_bits(case.random.bits() as u16)).collect();
    compare_exactly(&format!("dequantize {format:?} {length}"), |kernels| {
        let mut out = Floats::unwritten(length, misalignment);
        let codes = Buffer::new(&codes, 4 * misalignment + 1);
        match format {
            Format::Q8 => kernels.dequantize_q8(&mut out, &codes, f32::from_bits(scale)),
            Format::Q4 => kernels.dequantize_q4(&mut out, &codes, &Buffer::new(&scales, 1)),
        }
        out.to_vec()
    });
}

pub fn widen(halves: &[f16], misalignment: usize) {
    compare_exactly(&format!("widen_f16 {}", halves.len()), |kernels: &Kernels| {
        let mut out = Floats::unwritten(halves.len(), misalignment);
        kernels.widen_f16(&mut out, &Buffer::new(halves, 31 - misalignment));
        out.to_vec()
    });
}
