//! The kernel operations behind training and decoding, of every instruction set, in the shapes of the default model and
//! of a wider one, and the matrix products of two other crates.
//!
//! Ids are `kernel/operation/shape`, and `peer-crate/operation/shape`. Throughput is in floating-point operations
//! for products and the cell (Gelem/s reads as GFLOP/s), in bytes of weights for products with a vector and for
//! the optimizer, else in elements. Before it is timed, each is verified, against the scalar reference or, a peer,
//! in f64.
//!
//! ```text
//! cargo bench --bench kernels -- avx2/
//! cargo bench --bench kernels -- gemm/1280x96x1152
//! ```

mod operations;
mod peers;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use shoestring::bench::{Operation, Work, shapes};
use shoestring::model::Encoding;
use shoestring_kernels::{Kernels, Line, as_floats};
use std::hint::black_box;
use std::time::{Duration, Instant};

criterion_group!(benches, default_model, wider_model, rest, peers::products);
criterion_main!(benches);

/// What `shoestring bench` measures, and each of its products in one call.
fn default_model(criterion: &mut Criterion) {
    let whole = [
        shapes::gemm(1280, 96, 1152),
        shapes::gemm(1280, 1152, 96),
        shapes::weight_gradient(1280, 96, 1152),
        shapes::gemm(640, 96, 96),
        shapes::weight_gradient(1280, 96, 96),
    ];
    shapes::of_default_model().into_iter().chain(whole).for_each(|operation| bench(criterion, operation));
}

/// Hidden width 256, 8 experts: the products of one expert, and decoding's of all.
fn wider_model(criterion: &mut Criterion) {
    let operations = [
        shapes::gemm(640, 256, 256),
        shapes::gemm(64, 256, 256),
        shapes::weight_gradient(1280, 256, 256),
        shapes::cell_forward(80, 8, 256),
        shapes::cell_backward(80, 8, 256),
        shapes::matvec(Encoding::F32, 1, 8 * 256, 256),
        shapes::matvec(Encoding::Q8, 1, 8 * 256, 256),
    ];
    operations.into_iter().for_each(|operation| bench(criterion, operation));
}

fn rest(criterion: &mut Criterion) {
    operations::all().into_iter().for_each(|operation| bench(criterion, operation));
}

/// Verifies, then times, an operation on every set of kernels.
fn bench(criterion: &mut Criterion, operation: Operation) {
    let Operation { name, shape, work, buffers, call } = operation;
    let result = |kernels: &Kernels| {
        let mut buffers = buffers.clone();
        call(kernels, &mut buffers);
        buffers.concat()
    };
    let reference = result(Kernels::select("scalar").expect("the reference is always available"));
    for kernels in Kernels::available() {
        let id = format!("{}/{name}/{shape}", kernels.name());
        verify(&id, as_floats(&result(kernels)), as_floats(&reference));
        let mut group = criterion.benchmark_group(format!("{}/{name}", kernels.name()));
        group.throughput(throughput(work));
        group.bench_function(&shape, |bencher| {
            let mut fresh = buffers.clone();
            bencher.iter_custom(|calls| timed(calls, &mut fresh, &buffers, |fresh| call(kernels, fresh)));
        });
        group.finish();
    }
}

fn throughput(work: Work) -> Throughput {
    match work {
        Work::MultiplyAdds(count) => Throughput::Elements(2 * count as u64),
        Work::Bytes(bytes) => Throughput::Bytes(bytes as u64),
        Work::Elements(elements) => Throughput::Elements(elements as u64),
    }
}

/// The time of so many calls, each on fresh buffers.
fn timed(
    calls: u64,
    fresh: &mut [Vec<Line>],
    buffers: &[Vec<Line>],
    call: impl Fn(&mut [Vec<Line>]),
) -> Duration {
    let mut time = Duration::ZERO;
    for _ in 0..calls {
        fresh.clone_from_slice(buffers);
        let start = Instant::now();
        call(black_box(fresh));
        time += start.elapsed();
    }
    time
}

/// Panics unless every value is within a ten-thousandth of the reference, relative to 1 where that is small.
fn verify(id: &str, got: &[f32], reference: &[f32]) {
    assert_eq!(got.len(), reference.len(), "{id}");
    for (index, (got, reference)) in got.iter().zip(reference).enumerate() {
        let close = (got - reference).abs() <= 1e-4 * reference.abs().max(1.0); // false for NaN
        assert!(close, "{id}: value {index} is {got}, of the reference {reference}");
    }
}
