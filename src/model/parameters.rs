//! Where every tensor of a model lies in one flat buffer of [`Line`]s.
//!
//! Weights, gradients and both AdamW moments share this layout, so the optimizer is one pass over
//! flat buffers and a checkpoint stores each as it stands in memory. A matrix that a matrix product
//! reads is stored as panels of 16 output rows; everything else is stored in rows padded to 16.

use super::ModelConfig;
use shoestring_kernels::{
    Line, PANEL_ROWS, as_floats, as_floats_mut, pack_panels, panel_lines, unpack_panels,
};
use std::ops::Range;

/// How a tensor's numbers lie in its lines.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Storage {
    /// `rows` rows, each padded to a multiple of 16 columns.
    #[expect(missing_docs, reason = "said above")]
    Rows { rows: usize, columns: usize },
    /// `matrices` matrices of [rows, columns], each as panels of 16 rows.
    #[expect(missing_docs, reason = "said above")]
    Panels { matrices: usize, rows: usize, columns: usize },
}

impl Storage {
    fn lines(self) -> usize {
        match self {
            Storage::Rows { rows, columns } => rows * columns.div_ceil(PANEL_ROWS),
            Storage::Panels { matrices, rows, columns } => matrices * panel_lines(rows, columns),
        }
    }
}

/// One named tensor: its logical shape (row-major, [out, in]) and its place in the buffer.
#[derive(Clone, Debug)]
pub struct Tensor {
    /// Name in safetensors files, `inspect` and error messages.
    pub name: String,
    /// Logical shape, without padding.
    pub shape: Vec<usize>,
    /// How the numbers are stored.
    pub storage: Storage,
    /// Lines of the flat buffer that hold it.
    pub lines: Range<usize>,
    /// Whether weight decay applies: to matrices, not to biases and norms.
    pub decayed: bool,
}

impl Tensor {
    /// Number of parameters.
    pub fn elements(&self) -> usize {
        self.shape.iter().product()
    }

    /// Copies the tensor out of the flat buffer `buffer`, row-major, without padding.
    pub fn read(&self, buffer: &[Line]) -> Vec<f32> {
        let lines = &buffer[self.lines.clone()];
        let mut row_major = vec![0.0; self.elements()];
        match self.storage {
            Storage::Rows { columns, .. } => {
                let padded_rows = as_floats(lines).chunks_exact(columns.next_multiple_of(PANEL_ROWS));
                for (row, padded) in row_major.chunks_exact_mut(columns).zip(padded_rows) {
                    row.copy_from_slice(&padded[..columns]);
                }
            }
            Storage::Panels { rows, columns, .. } => {
                let matrices = lines.chunks_exact(panel_lines(rows, columns));
                for (matrix, panels) in row_major.chunks_exact_mut(rows * columns).zip(matrices) {
                    unpack_panels(matrix, panels, rows, columns);
                }
            }
        }
        row_major
    }

    /// Writes row-major numbers into the flat buffer; padding becomes zero.
    ///
    /// # Panics
    /// If `row_major` does not have [`Tensor::elements`] numbers.
    pub fn write(&self, buffer: &mut [Line], row_major: &[f32]) {
        assert_eq!(row_major.len(), self.elements(), "{}: wrong number of elements", self.name);
        let lines = &mut buffer[self.lines.clone()];
        lines.fill(Line::default());
        match self.storage {
            Storage::Rows { columns, .. } => {
                let padded_rows = as_floats_mut(lines).chunks_exact_mut(columns.next_multiple_of(PANEL_ROWS));
                for (row, padded) in row_major.chunks_exact(columns).zip(padded_rows) {
                    padded[..columns].copy_from_slice(row);
                }
            }
            Storage::Panels { rows, columns, .. } => {
                let matrices = lines.chunks_exact_mut(panel_lines(rows, columns));
                for (matrix, panels) in row_major.chunks_exact(rows * columns).zip(matrices) {
                    pack_panels(panels, matrix, rows, columns);
                }
            }
        }
    }
}

/// Lines of one layer's tensors in the flat buffer.
#[derive(Clone, Debug)]
pub struct LayerLayout {
    /// Panels `[E, D]`.
    pub router: Range<usize>,
    /// `[E]` in one padded row.
    pub router_bias: Range<usize>,
    /// E matrices, panels `[H, D]`.
    pub update: Range<usize>,
    /// `[E, H]`, each expert's row padded.
    pub update_bias: Range<usize>,
    /// E matrices, panels `[H, D]`.
    pub candidate: Range<usize>,
    /// `[E, H]`, each expert's row padded.
    pub candidate_bias: Range<usize>,
    /// E matrices, panels `[H, H]`.
    pub recurrent: Range<usize>,
    /// Panels `[H, D]` and the bias `[H]`; only where the layer's input and output widths differ.
    pub residual: Option<(Range<usize>, Range<usize>)>,
    /// Gain `[H]`.
    pub norm: Range<usize>,
}

/// The place of every tensor of a model of one configuration.
#[derive(Clone, Debug)]
pub struct Layout {
    /// All tensors in buffer order.
    pub tensors: Vec<Tensor>,
    /// `[V, D]`: rows, or panels where the head shares it.
    pub embedding: Range<usize>,
    /// One entry a layer.
    pub layers: Vec<LayerLayout>,
    /// Panels `[V, H]`; the embedding's own lines if tied.
    pub head: Range<usize>,
    /// `[V]` in one padded row.
    pub head_bias: Range<usize>,
    /// Length of the flat buffer, in lines.
    pub lines: usize,
}

impl Layout {
    /// Lays out the tensors of a model of configuration `config`, which must be valid.
    pub fn new(config: &ModelConfig) -> Self {
        let ModelConfig { vocabulary, embedding, hidden, experts, .. } = *config;
        let mut builder = Builder::default();
        let embedding_lines = if config.tied {
            builder.panels("embedding.weight", &[vocabulary, embedding])
        } else {
            builder.rows("embedding.weight", &[vocabulary, embedding], true)
        };
        let layers = (0..config.layers)
            .map(|i| {
                let input = config.input_width(i);
                let mut panels =
                    |part: &str, shape: &[usize]| builder.panels(&format!("layers.{i}.{part}.weight"), shape);
                let router = panels("router", &[experts, input]);
                let update = panels("update", &[experts, hidden, input]);
                let candidate = panels("candidate", &[experts, hidden, input]);
                let recurrent = panels("recurrent", &[experts, hidden, hidden]);
                let residual = config.projects_residual(i).then(|| panels("residual", &[hidden, input]));
                let mut bias =
                    |part: &str, shape: &[usize]| builder.rows(&format!("layers.{i}.{part}"), shape, false);
                LayerLayout {
                    router,
                    router_bias: bias("router.bias", &[experts]),
                    update,
                    update_bias: bias("update.bias", &[experts, hidden]),
                    candidate,
                    candidate_bias: bias("candidate.bias", &[experts, hidden]),
                    recurrent,
                    residual: residual.map(|weight| (weight, bias("residual.bias", &[hidden]))),
                    norm: bias("norm.weight", &[hidden]),
                }
            })
            .collect();
        let head = if config.tied {
            embedding_lines.clone()
        } else {
            builder.panels("head.weight", &[vocabulary, hidden])
        };
        let head_bias = builder.rows("head.bias", &[vocabulary], false);
        let lines = builder.lines;
        Layout { tensors: builder.tensors, embedding: embedding_lines, layers, head, head_bias, lines }
    }

    /// Number of parameters, padding not counted.
    pub fn parameters(&self) -> usize {
        self.tensors.iter().map(Tensor::elements).sum()
    }

    /// The tensor of that name.
    pub fn tensor(&self, name: &str) -> Option<&Tensor> {
        self.tensors.iter().find(|tensor| tensor.name == name)
    }
}

#[derive(Default)]
struct Builder {
    tensors: Vec<Tensor>,
    lines: usize,
}

impl Builder {
    fn panels(&mut self, name: &str, shape: &[usize]) -> Range<usize> {
        let (matrices, rows, columns) = match *shape {
            [rows, columns] => (1, rows, columns),
            [matrices, rows, columns] => (matrices, rows, columns),
            _ => unreachable!("a weight has two or three dimensions"),
        };
        self.push(name, shape, Storage::Panels { matrices, rows, columns }, true)
    }

    fn rows(&mut self, name: &str, shape: &[usize], decayed: bool) -> Range<usize> {
        let (rows, columns) = match *shape {
            [columns] => (1, columns),
            [rows, columns] => (rows, columns),
            _ => unreachable!("a table has one or two dimensions"),
        };
        self.push(name, shape, Storage::Rows { rows, columns }, decayed)
    }

    fn push(&mut self, name: &str, shape: &[usize], storage: Storage, decayed: bool) -> Range<usize> {
        let lines = self.lines..self.lines + storage.lines();
        self.lines = lines.end;
        let (name, shape) = (name.to_owned(), shape.to_owned());
        self.tensors.push(Tensor { name, shape, storage, lines: lines.clone(), decayed });
        lines
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEFAULT: ModelConfig = ModelConfig {
        vocabulary: 850,
        embedding: 96,
        hidden: 96,
        layers: 2,
        experts: 6,
        top_k: 6,
        tied: false,
        eps_rmsnorm: 1e-5,
    };

    #[test]
    fn default_model_has_the_documented_number_of_parameters() {
        assert_eq!(Layout::new(&DEFAULT).parameters(), 499_486);
    }

    #[test]
    fn tensors_fill_the_buffer_without_gaps_and_read_back_what_was_written() {
        for config in [
            DEFAULT,
            ModelConfig { tied: true, ..DEFAULT },
            ModelConfig { embedding: 19, hidden: 23, vocabulary: 41, experts: 7, top_k: 7, ..DEFAULT },
        ] {
            let layout = Layout::new(&config);
            let mut buffer = vec![Line([7.0; 16]); layout.lines]; // [lines]
            let mut end = 0;
            for (number, tensor) in layout.tensors.iter().enumerate() {
                assert_eq!(tensor.lines.start, end, "{}", tensor.name);
                end = tensor.lines.end;
                let values: Vec<f32> =
                    (0..tensor.elements()).map(|i| (number * 100_000 + i) as f32).collect();
                tensor.write(&mut buffer, &values);
                assert_eq!(tensor.read(&buffer), values, "{}", tensor.name);
            }
            assert_eq!(end, layout.lines);
            let nonzero = as_floats(&buffer).iter().filter(|&&x| x != 0.0).count();
            assert_eq!(
                nonzero,
                layout.parameters() - 1,
                "every padding is zero, and one element is number 0"
            );
        }
    }
}
