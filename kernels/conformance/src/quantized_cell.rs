//! Recurrent cells in q8.

use crate::buffers::{Floats, Lines};
use crate::compare::assert_same;
use crate::failure::case;
use crate::random::{Random, for_any};
use shoestring_kernels::quantized::{QuantizedCell, QuantizedRows, q8_lines};
use shoestring_kernels::{CodeLine, Epilogue, Kernels, Line, PANEL_ROWS, padded};

checks! {
    cells_do_what_their_steps_are_made_of: cell_forward_q8;
    any_cells_do_what_their_steps_are_made_of: cell_forward_q8;
    a_cell_that_is_not_finite_spoils_itself_only: cell_forward_q8;
}

/// Cells, steps, texts and hidden size: around tiles, units, lines and groups.
const SHAPES: [(usize, usize, usize, usize); 12] = [
    (0, 0, 1, 5),
    (1, 0, 2, 5),
    (1, 1, 1, 1),
    (1, 3, 1, 16),
    (2, 2, 1, 17),
    (2, 5, 1, 96),
    (3, 4, 1, 33),
    (1, 2, 2, 31),
    (2, 3, 7, 15),
    (2, 3, 8, 48),
    (3, 2, 9, 20),
    (2, 2, 1, 200),
];

/// The operands of one cell.
#[derive(Clone)]
struct Cell {
    state: Vec<f32>,          // [B, Hp]
    steps: Vec<f32>,          // [T, B, Hp]
    update: Vec<f32>,         // [T, B, Hp]
    recurrent: Vec<CodeLine>, // [panels, code_lines(H)]
    scales: Vec<Line>,        // [panels]
}

fn random_cells(
    random: &mut Random,
    (cells, steps, batch, hidden): (usize, usize, usize, usize),
) -> Vec<Cell> {
    let panels = hidden.div_ceil(PANEL_ROWS);
    let cell = |_| {
        let mut codes = vec![0; hidden * hidden];
        codes.fill_with(|| ((random.bits() % 255) as i16 - 127) as i8);
        let mut recurrent = vec![CodeLine::default(); q8_lines(hidden, hidden)];
        shoestring_kernels::quantized::pack_q8(&mut recurrent, &codes, hidden, hidden);
        let scale = 0.02 / (hidden as f32).sqrt();
        let scales: Vec<f32> = random.floats(panels * PANEL_ROWS).iter().map(|s| scale * (s + 1.1)).collect();
        Cell {
            state: random.rows(batch, hidden),
            steps: random.rows(steps * batch, hidden).iter().map(|a| 2.0 * a).collect(),
            update: random.rows(steps * batch, hidden).iter().map(|z| z.abs()).collect(),
            recurrent,
            scales: Lines::row(&scales).to_vec(),
        }
    };
    (0..cells).map(cell).collect()
}

/// The states after each step and those after the last, of every cell.
fn run(
    kernels: &Kernels,
    cells: &[Cell],
    batch: usize,
    hidden: usize,
    misalignment: usize,
) -> Vec<[Vec<f32>; 2]> {
    let steps = cells.first().map_or(0, |cell| cell.update.len() / padded(hidden) / batch);
    case(format_args!("cell_forward_q8, {} cells, {steps} steps of {batch}x{hidden}", cells.len()));
    let floats = |values: &[f32], more: usize| Floats::new(values, (misalignment + more) % 16);
    let mut states: Vec<_> = cells.iter().map(|cell| floats(&cell.state, 0)).collect();
    let mut steps: Vec<_> = cells.iter().map(|cell| floats(&cell.steps, 1)).collect();
    let updates: Vec<_> = cells.iter().map(|cell| floats(&cell.update, 2)).collect();
    let recurrent: Vec<_> = cells.iter().map(|cell| Lines::new(&cell.recurrent)).collect();
    let scales: Vec<_> = cells.iter().map(|cell| Lines::new(&cell.scales)).collect();
    let mut rooms = vec![QuantizedRows::default(); cells.len()];
    let buffers = states.iter_mut().zip(&mut steps).zip(&updates).zip(recurrent.iter().zip(&scales));
    let mut borrowed: Vec<_> = buffers
        .zip(&mut rooms)
        .map(|((((state, steps), update), (recurrent, scales)), room)| QuantizedCell {
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
    steps.into_iter().zip(states).map(|(steps, state)| [steps.into_vec(), state.into_vec()]).collect()
}

/// The same of one cell, by the reference and one operation after the other.
fn expected(cell: &Cell, batch: usize, hidden: usize) -> [Vec<f32>; 2] {
    let reference = Kernels::select("scalar").unwrap();
    let slot = batch * padded(hidden);
    let (mut state, mut steps) = (cell.state.clone(), cell.steps.clone());
    let mut room = QuantizedRows::default();
    for (a, z) in steps.chunks_exact_mut(slot).zip(cell.update.chunks_exact(slot)) {
        let x = room.quantize(reference, &state, hidden);
        reference.gemm_q8(a, x, &cell.recurrent, &cell.scales, hidden, Epilogue::Accumulate);
        reference.cell_step(&mut state, z, a);
        a.copy_from_slice(&state);
    }
    [steps, state]
}

fn compare(kernels: &Kernels, cells: &[Cell], batch: usize, hidden: usize, misalignment: usize) {
    let got = run(kernels, cells, batch, hidden, misalignment);
    for (cell, [steps, state]) in cells.iter().zip(got) {
        let [expected_steps, expected_state] = expected(cell, batch, hidden);
        assert_same("steps", &steps, &expected_steps);
        assert_same("state", &state, &expected_state);
    }
}

fn cells_do_what_their_steps_are_made_of(kernels: &Kernels) {
    let mut random = Random(131);
    for (index, shape) in SHAPES.into_iter().enumerate() {
        let (_, _, batch, hidden) = shape;
        compare(kernels, &random_cells(&mut random, shape), batch, hidden, index);
    }
}

fn any_cells_do_what_their_steps_are_made_of(kernels: &Kernels) {
    let shapes = (1_usize..4, 0_usize..5, 1_usize..11, 1_usize..70);
    for_any((shapes, 0_usize..16, 0_u64..), |(shape, misalignment, seed)| {
        let (_, _, batch, hidden) = shape;
        compare(kernels, &random_cells(&mut Random(seed), shape), batch, hidden, misalignment);
    });
}

fn a_cell_that_is_not_finite_spoils_itself_only(kernels: &Kernels) {
    let (batch, hidden) = (1, 40);
    let sound = random_cells(&mut Random(132), (2, 3, batch, hidden));
    for value in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        let mut cells = sound.clone();
        cells[0].state[7] = value;
        let got = run(kernels, &cells, batch, hidden, 0);
        assert!(got[0][0][..hidden].iter().all(|state| state.is_nan()), "{value} was lost");
        let [expected_steps, expected_state] = expected(&sound[1], batch, hidden);
        assert_same("steps", &got[1][0], &expected_steps);
        assert_same("state", &got[1][1], &expected_state);
    }
}
