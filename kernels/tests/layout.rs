//! Where each number of a matrix lies, in panels of floats and of codes.

use shoestring_kernels::quantized::{
    QuantizedRows, code_lines, pack_q4, pack_q8, q4_lines, q4_place, q8_lines, q8_place, units,
};
use shoestring_kernels::{
    CodeLine, Kernels, Line, PANEL_ROWS, as_floats, as_floats_mut, pack_panels, panel_lines, unpack_panels,
};

#[test]
fn lane_r_of_line_k_of_panel_p_is_row_16p_plus_r() {
    let (rows, columns) = (19, 3);
    let matrix: Vec<f32> = (0..rows * columns).map(|i| i as f32 + 1.0).collect(); // [19, 3]
    let mut panels = vec![Line([f32::NAN; PANEL_ROWS]); panel_lines(rows, columns)];
    pack_panels(&mut panels, &matrix, rows, columns);
    for (index, line) in panels.iter().enumerate() {
        let (panel, k) = (index / columns, index % columns);
        for (r, &value) in line.0.iter().enumerate() {
            let row = panel * PANEL_ROWS + r;
            let expected = if row < rows { matrix[row * columns + k] } else { 0.0 };
            assert_eq!(value, expected, "panel {panel}, line {k}, lane {r}");
        }
    }
    let mut back = vec![f32::NAN; matrix.len()];
    unpack_panels(&mut back, &panels, rows, columns);
    assert_eq!(back, matrix);
}

#[test]
fn floats_of_lines_are_in_order() {
    let mut lines = [Line([1.0; PANEL_ROWS]), Line([2.0; PANEL_ROWS])];
    as_floats_mut(&mut lines)[17] = 9.0;
    assert_eq!(lines[1].0[1], 9.0);
    assert_eq!(as_floats(&lines).len(), 32);
}

#[test]
#[should_panic(expected = "pack_panels: `panels` must hold 6 lines, got 5")]
fn a_short_panel_buffer_is_refused() {
    pack_panels(&mut [Line::default(); 5], &[0.0; 57], 19, 3);
}

/// Rows and inputs of matrices of codes, around the ends of panels and lines.
const SHAPES: [(usize, usize); 6] = [(0, 5), (1, 1), (16, 8), (17, 9), (33, 12), (40, 100)];

/// Codes from `least` to `most`, in an order without a pattern that fits the layout.
fn codes(rows: usize, depth: usize, (least, most): (i8, i8)) -> Vec<i8> {
    let count = usize::from(least.abs_diff(most)) + 1;
    (0..rows * depth)
        .map(|i| (i * i * 7 + 3 * i) % count)
        .map(|i| (i16::from(least) + i as i16) as i8)
        .collect()
}

#[test]
fn byte_4r_plus_j_of_line_i_of_a_q8_panel_is_row_r_and_input_4i_plus_j() {
    for (rows, depth) in SHAPES {
        let codes = codes(rows, depth, (-127, 127));
        let mut lines = vec![CodeLine([99; 64]); q8_lines(rows, depth)];
        pack_q8(&mut lines, &codes, rows, depth);
        for (index, line) in lines.iter().enumerate() {
            let (panel, i) = (index / code_lines(depth), index % code_lines(depth));
            for (byte, &code) in line.0.iter().enumerate() {
                let (row, input) = (panel * 16 + byte / 4, 4 * i + byte % 4);
                let expected = if row < rows && input < depth { codes[row * depth + input] } else { 0 };
                assert_eq!(code, expected, "{rows}x{depth}: byte {byte} of line {index}");
            }
        }
        for (index, &code) in codes.iter().enumerate() {
            let (line, byte) = q8_place(index / depth, index % depth, depth);
            assert_eq!(lines[line].0[byte], code, "{rows}x{depth}: code {index}");
        }
    }
}

#[test]
fn half_h_of_byte_4r_plus_j_of_a_q4_line_is_row_r_and_input_4h_plus_j() {
    for (rows, depth) in SHAPES {
        let codes = codes(rows, depth, (-8, 7));
        let mut lines = vec![CodeLine([99; 64]); q4_lines(rows, depth)];
        pack_q4(&mut lines, &codes, rows, depth);
        for (index, line) in lines.iter().enumerate() {
            let (panel, unit) = (index / units(depth), index % units(depth));
            for (byte, &pair) in line.0.iter().enumerate() {
                for half in 0..2 {
                    let (row, input) = (panel * 16 + byte / 4, 8 * unit + 4 * half + byte % 4);
                    let expected = if row < rows && input < depth { codes[row * depth + input] } else { 0 };
                    let code = (pair as u8 >> (4 * half) & 15) as i8 - 8;
                    assert_eq!(code, expected, "{rows}x{depth}: half {half} of byte {byte} of line {index}");
                }
            }
        }
        for (index, &code) in codes.iter().enumerate() {
            let (line, byte, shift) = q4_place(index / depth, index % depth, depth);
            let got = (lines[line].0[byte] as u8 >> shift & 15) as i8 - 8;
            assert_eq!(got, code, "{rows}x{depth}: code {index}");
        }
    }
}

#[test]
fn rows_are_quantized_again_into_the_same_room() {
    let kernels = Kernels::best();
    let mut room = QuantizedRows::default();
    let large = room.quantize(kernels, &[1.0; 96], 48);
    assert_eq!((large.codes.len(), large.scales.len(), large.sums), (96, 2, &[4064, 2032, 4064, 2032][..]));
    let mut x = [0.0; 16];
    x[2] = -254.0;
    let small = room.quantize(kernels, &x, 3);
    assert_eq!((small.codes[..3].to_vec(), small.codes.len()), (vec![0, 0, -127], 16));
    assert_eq!((small.scales, small.sums), (&[2.0][..], &[-127][..]));
    assert!(room.quantize(kernels, &[], 3).scales.is_empty());
}

#[test]
#[should_panic(expected = "pack_q8: `lines` must hold 12")]
fn q8_lines_of_the_wrong_number_are_refused() {
    pack_q8(&mut [CodeLine::default(); 11], &[0; 17 * 20], 17, 20);
}

#[test]
#[should_panic(expected = "pack_q4: `codes` must hold 340")]
fn q4_codes_of_the_wrong_number_are_refused() {
    pack_q4(&mut [CodeLine::default(); 6], &[0; 339], 17, 20);
}
