//! Looking up a token's embedding.

use super::Weights;
use super::encoding::{Encoding, Parts, read_number};
use shoestring_kernels::quantized::{GROUP, groups};
use shoestring_kernels::{
    Kernels, PANEL_ROWS, as_code_lines, as_codes, as_floats, as_half_lines, as_halves, padded,
};

impl Weights<'_> {
    /// Copies token `token`'s embedding `[D]` into `row` `[Dp]`, whose padding becomes zero.
    ///
    /// # Panics
    /// If the token is not below the vocabulary's size.
    pub fn embedding(&self, kernels: &Kernels, token: u32, row: &mut [f32]) {
        let tensor = self.layout.tensor_at(&self.layout.embedding);
        let (token, width) = (token as usize, self.config.embedding);
        assert!(token < self.config.vocabulary, "token {token} is not in the vocabulary");
        let (row, padding) = row.split_at_mut(width);
        padding.fill(0.0);
        let lines = self.get(&tensor.lines);
        let (numbers, scales) = lines.split_at(Parts::new(tensor.storage, tensor.encoding).numbers);
        match (tensor.encoding, self.config.tied) {
            (Encoding::F32, true) => {
                let panel = &numbers[token / PANEL_ROWS * width..][..width];
                for (value, line) in row.iter_mut().zip(panel) {
                    *value = line.0[token % PANEL_ROWS];
                }
            }
            (encoding, true) => {
                for (column, value) in row.iter_mut().enumerate() {
                    *value = read_number(tensor.storage, encoding, lines, token * width + column);
                }
            }
            (Encoding::F32, _) => {
                row.copy_from_slice(&as_floats(numbers)[token * padded(width)..][..width]);
            }
            (Encoding::F16, _) => {
                kernels.widen_f16(row, &as_halves(as_half_lines(numbers))[token * padded(width)..][..width]);
            }
            (Encoding::Q8, _) => {
                let codes = &as_codes(as_code_lines(numbers))[token * padded(width)..][..width];
                kernels.dequantize_q8(row, codes, as_halves(as_half_lines(scales))[token].to_f32());
            }
            (Encoding::Q4, _) => {
                let (groups, bytes) = (groups(width), groups(width) * GROUP / 2);
                let codes = &as_codes(as_code_lines(numbers))[token * bytes..][..bytes];
                let scales = &as_halves(as_half_lines(scales))[token * groups..][..groups];
                kernels.dequantize_q4(row, codes, scales);
            }
        }
    }
}
