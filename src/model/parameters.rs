//! Where every tensor of a model lies in one flat buffer of [`Line`]s.
//!
//! Weights, gradients and both AdamW moments share this layout, so the optimizer is one pass over
//! flat buffers and a checkpoint stores each as it stands in memory. A matrix that a matrix product
//! reads is stored as panels of 16 output rows; everything else is stored in rows padded to 16. Models of
//! other kinds than f32 have the same tensors in the same order, coded as [`Kind`] says.

use super::ModelConfig;
use super::encoding::{self, Encoding, Kind, Parts, Role};
use half::f16;
use shoestring_kernels::Line;
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
    /// Matrices, and rows and columns of each.
    pub fn shape(self) -> (usize, usize, usize) {
        match self {
            Storage::Rows { rows, columns } => (1, rows, columns),
            Storage::Panels { matrices, rows, columns } => (matrices, rows, columns),
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
    /// How each number is coded.
    pub encoding: Encoding,
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

    /// Its matrices that multiply with a token: none of a table of rows, and of one an expert those of experts that run.
    pub fn running_matrices(&self, config: &ModelConfig) -> usize {
        match self.storage {
            Storage::Rows { .. } => 0,
            Storage::Panels { matrices, .. } if matrices == config.experts => config.top_k,
            Storage::Panels { matrices, .. } => matrices,
        }
    }

    /// Copies the tensor out of the flat buffer `buffer`, row-major, without padding.
    pub fn read(&self, buffer: &[Line]) -> Vec<f32> {
        encoding::read(self.storage, self.encoding, &buffer[self.lines.clone()])
    }

    /// Writes row-major numbers into the flat buffer, as f32 or f16; padding becomes zero.
    ///
    /// # Panics
    /// If `row_major` does not have [`Tensor::elements`] numbers, or the tensor's encoding is one of integers.
    pub fn write(&self, buffer: &mut [Line], row_major: &[f32]) {
        assert_eq!(row_major.len(), self.elements(), "{}: wrong number of elements", self.name);
        encoding::write_floats(self.storage, self.encoding, &mut buffer[self.lines.clone()], row_major);
    }

    /// Writes row-major codes and the scales of their groups into the flat buffer.
    ///
    /// # Panics
    /// If the tensor's encoding is one of floats, or a length does not fit.
    pub fn write_integers(&self, buffer: &mut [Line], codes: &[i8], scales: &[f32]) {
        assert_eq!(codes.len(), self.elements(), "{}: wrong number of elements", self.name);
        assert_eq!(scales.len(), self.elements() / self.columns() * self.groups(), "{}: scales", self.name);
        encoding::write_integers(self.storage, self.encoding, &mut buffer[self.lines.clone()], codes, scales);
    }

    /// A scale as it comes back from being stored.
    pub fn stored_scale(&self, scale: f32) -> f32 {
        let halved = encoding::scales_are_halves(self.storage, self.encoding);
        if halved { f16::from_f32(scale).to_f32() } else { scale }
    }

    /// Length of a row.
    pub fn columns(&self) -> usize {
        match self.storage {
            Storage::Rows { columns, .. } | Storage::Panels { columns, .. } => columns,
        }
    }

    /// Scales of a row.
    pub fn groups(&self) -> usize {
        self.columns().div_ceil(self.encoding.group(self.columns()))
    }
}

/// Lines of one layer's tensors in the flat buffer.
#[derive(Clone, Debug)]
pub struct LayerLayout {
    /// `[E, D]`: panels in f32, where training needs them; rows in the other kinds, as there are few experts.
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
    /// How the tensors are coded.
    pub kind: Kind,
}

impl Layout {
    /// Lays out the f32 tensors of a model of configuration `config`, which must be valid.
    pub fn new(config: &ModelConfig) -> Self {
        Layout::of_kind(config, Kind::F32)
    }

    /// Lays out the tensors of a model of configuration `config`, which must be valid, as `kind` codes them.
    pub fn of_kind(config: &ModelConfig, kind: Kind) -> Self {
        let ModelConfig { vocabulary, embedding, hidden, experts, .. } = *config;
        let mut builder = Builder { kind, tensors: Vec::new(), lines: 0 };
        let embedding_lines = if config.tied {
            builder.panels("embedding.weight", &[vocabulary, embedding], Role::Sensitive)
        } else {
            builder.rows("embedding.weight", &[vocabulary, embedding], Role::Embedding)
        };
        let layers = (0..config.layers)
            .map(|i| {
                let input = config.input_width(i);
                let (name, shape) = (format!("layers.{i}.router.weight"), [experts, input]);
                let router = match kind {
                    Kind::F32 => builder.panels(&name, &shape, Role::Router),
                    _ => builder.rows(&name, &shape, Role::Router),
                };
                let mut panels = |part: &str, shape: &[usize], role| {
                    builder.panels(&format!("layers.{i}.{part}.weight"), shape, role)
                };
                let update = panels("update", &[experts, hidden, input], Role::Input);
                let candidate = panels("candidate", &[experts, hidden, input], Role::Input);
                let recurrent = panels("recurrent", &[experts, hidden, hidden], Role::Sensitive);
                let projects = config.projects_residual(i);
                let residual = projects.then(|| panels("residual", &[hidden, input], Role::Input));
                let mut bias = |part: &str, shape: &[usize]| {
                    builder.rows(&format!("layers.{i}.{part}"), shape, Role::Small)
                };
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
            builder.panels("head.weight", &[vocabulary, hidden], Role::Sensitive)
        };
        let head_bias = builder.rows("head.bias", &[vocabulary], Role::Small);
        let lines = builder.lines;
        Layout { tensors: builder.tensors, embedding: embedding_lines, layers, head, head_bias, lines, kind }
    }

    /// Number of parameters, padding not counted.
    pub fn parameters(&self) -> usize {
        self.tensors.iter().map(Tensor::elements).sum()
    }

    /// Multiply-adds of a token's matrix products in a model of configuration `config`: one for each number in a matrix, but
    /// for those of experts that don't run.
    pub fn multiply_adds(&self, config: &ModelConfig) -> usize {
        let used = |tensor: &Tensor| {
            let (_, rows, columns) = tensor.storage.shape();
            tensor.running_matrices(config) * rows * columns
        };
        self.tensors.iter().map(used).sum()
    }

    /// The tensor that begins where `lines` does.
    ///
    /// # Panics
    /// If there is none.
    pub fn tensor_at(&self, lines: &Range<usize>) -> &Tensor {
        let found = self.tensors.iter().find(|tensor| tensor.lines.start == lines.start);
        found.expect("every range of a layout is that of a tensor")
    }

    /// The tensor of that name.
    pub fn tensor(&self, name: &str) -> Option<&Tensor> {
        self.tensors.iter().find(|tensor| tensor.name == name)
    }
}

struct Builder {
    kind: Kind,
    tensors: Vec<Tensor>,
    lines: usize,
}

impl Builder {
    fn panels(&mut self, name: &str, shape: &[usize], role: Role) -> Range<usize> {
        let (matrices, rows, columns) = match *shape {
            [rows, columns] => (1, rows, columns),
            [matrices, rows, columns] => (matrices, rows, columns),
            _ => unreachable!("a weight has two or three dimensions"),
        };
        self.push(name, shape, Storage::Panels { matrices, rows, columns }, role)
    }

    fn rows(&mut self, name: &str, shape: &[usize], role: Role) -> Range<usize> {
        let (rows, columns) = match *shape {
            [columns] => (1, columns),
            [rows, columns] => (rows, columns),
            _ => unreachable!("a table has one or two dimensions"),
        };
        self.push(name, shape, Storage::Rows { rows, columns }, role)
    }

    fn push(&mut self, name: &str, shape: &[usize], storage: Storage, role: Role) -> Range<usize> {
        let encoding = self.kind.encoding(role);
        let lines = self.lines..self.lines + Parts::new(storage, encoding).lines();
        self.lines = lines.end;
        let (name, shape) = (name.to_owned(), shape.to_owned());
        let decayed = role != Role::Small;
        self.tensors.push(Tensor { name, shape, storage, encoding, lines: lines.clone(), decayed });
        lines
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use shoestring_kernels::as_floats;

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
