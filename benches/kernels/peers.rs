//! The matrix products of the crates `gemm` and `matrixmultiply` in the same shapes, on one thread.
//!
//! Both take row-major matrices and pack them in every call, which the kernels, whose weights are kept in panels,
//! don't need to. Both choose AVX-512 where the CPU has it; to compare AVX2, take the features `x86-v4` and `avx512`
//! out of `Cargo.toml`.

use criterion::{Criterion, Throughput};
use shoestring::bench::shapes::floats;
use std::hint::black_box;

/// `out[rows, columns] = left · right`, `left` with `depth` columns, all dense and row-major; but `left` is the
/// transpose of a row-major matrix if so marked.
struct Product {
    operation: &'static str,
    shape: &'static str,
    rows: usize,
    depth: usize,
    columns: usize,
    left_transposed: bool,
    left: Vec<f32>,
    right: Vec<f32>,
}

type Multiply = fn(&mut [f32], &Product);

const PEERS: [(&str, Multiply); 2] = [("peer-gemm", gemm), ("peer-matrixmultiply", matrixmultiply)];

/// The products of [`super::default_model`] and [`super::wider_model`].
pub fn products(criterion: &mut Criterion) {
    let products = [
        forward("1280x96x1152", 1280, 96, 1152),
        forward("1280x1152x96", 1280, 1152, 96),
        weight_gradient("1280x96x1152", 1280, 96, 1152),
        forward("640x96x96", 640, 96, 96),
        weight_gradient("1280x96x96", 1280, 96, 96),
        forward("640x256x256", 640, 256, 256),
        weight_gradient("1280x256x256", 1280, 256, 256),
    ];
    for product in &products {
        let expected = product.in_f64();
        for (peer, multiply) in PEERS {
            let mut out = vec![f32::NAN; product.rows * product.columns];
            multiply(&mut out, product);
            super::verify(&format!("{peer}/{}/{}", product.operation, product.shape), &out, &expected);
            let mut group = criterion.benchmark_group(format!("{peer}/{}", product.operation));
            group.throughput(Throughput::Elements(product.flops()));
            group.bench_function(product.shape, |bencher| {
                bencher.iter(|| multiply(black_box(&mut out), black_box(product)));
            });
            group.finish();
        }
    }
}

fn forward(shape: &'static str, rows: usize, depth: usize, columns: usize) -> Product {
    let (left, right) = (floats(rows * depth), floats(depth * columns));
    Product { operation: "gemm", shape, rows, depth, columns, left_transposed: false, left, right }
}

/// `dW[outputs, inputs] = dYᵀ · X`, of dY `[batch, outputs]` and X `[batch, inputs]`.
fn weight_gradient(shape: &'static str, batch: usize, inputs: usize, outputs: usize) -> Product {
    Product {
        operation: "weight_gradient",
        shape,
        rows: outputs,
        depth: batch,
        columns: inputs,
        left_transposed: true,
        left: floats(batch * outputs),
        right: floats(batch * inputs),
    }
}

impl Product {
    fn flops(&self) -> u64 {
        2 * (self.rows * self.depth * self.columns) as u64
    }

    /// From one row of `left` to the next, and from one column to the next.
    fn left_strides(&self) -> (isize, isize) {
        if self.left_transposed { (1, self.rows as isize) } else { (self.depth as isize, 1) }
    }

    fn check(&self, out: &[f32]) {
        assert_eq!(out.len(), self.rows * self.columns);
        assert_eq!(self.left.len(), self.rows * self.depth);
        assert_eq!(self.right.len(), self.depth * self.columns);
    }

    fn in_f64(&self) -> Vec<f32> {
        let (row_stride, column_stride) = self.left_strides();
        let mut out = Vec::with_capacity(self.rows * self.columns);
        let mut sums = vec![0.0; self.columns];
        for row in 0..self.rows {
            sums.fill(0.0_f64);
            for (k, right) in self.right.chunks_exact(self.columns).enumerate() {
                let left = self.left[row * row_stride as usize + k * column_stride as usize];
                for (sum, &right) in sums.iter_mut().zip(right) {
                    *sum += f64::from(left) * f64::from(right);
                }
            }
            out.extend(sums.iter().map(|&sum| sum as f32));
        }
        out
    }
}

fn gemm(out: &mut [f32], product: &Product) {
    product.check(out);
    let Product { rows, depth, columns, left, right, .. } = product;
    let (row_stride, column_stride) = product.left_strides();
    // SAFETY: `check` holds every matrix to have as many elements as its sizes and strides reach.
    unsafe {
        gemm::gemm(
            *rows,
            *columns,
            *depth,
            out.as_mut_ptr(),
            1,
            *columns as isize,
            false,
            left.as_ptr(),
            column_stride,
            row_stride,
            right.as_ptr(),
            1,
            *columns as isize,
            0.0_f32,
            1.0,
            false,
            false,
            false,
            gemm::Parallelism::None,
        );
    }
}

fn matrixmultiply(out: &mut [f32], product: &Product) {
    product.check(out);
    let Product { rows, depth, columns, left, right, .. } = product;
    let (row_stride, column_stride) = product.left_strides();
    // SAFETY: as above.
    unsafe {
        matrixmultiply::sgemm(
            *rows,
            *depth,
            *columns,
            1.0,
            left.as_ptr(),
            row_stride,
            column_stride,
            right.as_ptr(),
            *columns as isize,
            1,
            0.0,
            out.as_mut_ptr(),
            *columns as isize,
            1,
        );
    }
}
