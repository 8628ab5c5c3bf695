//! The functions of one variable at all 2³² floats.
//!
//! Minutes of work, so ignored by default. To check the bounds, and print the errors that the documentation
//! of the functions states:
//!
//! ```text
//! cargo test --release -p shoestring-kernels --test exhaustive -- --ignored --nocapture
//! ```

use shoestring_kernels::Kernels;
use shoestring_kernels_conformance::accuracy::{FUNCTIONS, Function, ulp};
use shoestring_kernels_conformance::available;

/// The largest errors found, each with where it was.
#[derive(Clone, Copy, Default)]
struct Worst {
    ulps: (f64, f32),
    relative: (f64, f32),
    absolute: (f64, f32),
    /// The smaller of relative and absolute error times ten: what a bound on either must admit.
    either: (f64, f32),
}

impl Worst {
    fn see(&mut self, x: f32, got: f32, exact: f64) {
        let error = (f64::from(got) - exact).abs();
        if !error.is_finite() {
            return; // `check` has accepted an infinity or a NaN
        }
        self.merge(&Self {
            ulps: (error / ulp(exact), x),
            relative: (error / exact.abs().max(1e-30), x),
            absolute: (error, x),
            either: ((error / exact.abs()).min(10.0 * error), x),
        });
    }

    fn merge(&mut self, other: &Self) {
        let larger = |a: &mut (f64, f32), b: (f64, f32)| {
            if b.0 > a.0 {
                *a = b;
            }
        };
        larger(&mut self.ulps, other.ulps);
        larger(&mut self.relative, other.relative);
        larger(&mut self.absolute, other.absolute);
        larger(&mut self.either, other.either);
    }
}

#[test]
#[ignore = "tries all 2^32 floats: minutes in release"]
fn every_float_is_within_bounds() {
    let kernels: Vec<_> = available().iter().filter(|kernels| kernels.name() != "scalar").collect();
    for function in &FUNCTIONS {
        let threads = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        let parts: Vec<Vec<Worst>> = std::thread::scope(|scope| {
            let workers: Vec<_> = (0..threads)
                .map(|thread| {
                    scope.spawn({
                        let kernels = &kernels;
                        move || scan(function, kernels, thread, threads)
                    })
                })
                .collect();
            workers.into_iter().map(|worker| worker.join().unwrap()).collect()
        });
        for (index, kernels) in kernels.iter().enumerate() {
            let mut worst = Worst::default();
            parts.iter().for_each(|part| worst.merge(&part[index]));
            println!(
                "{:7} {:15} {:.3} ulp at {:e}, relative {:.2e} at {:e}, absolute {:.2e} at {:e}, \
                 min(relative, 10 absolute) {:.2e} at {:e}",
                kernels.name(),
                function.name,
                worst.ulps.0,
                worst.ulps.1,
                worst.relative.0,
                worst.relative.1,
                worst.absolute.0,
                worst.absolute.1,
                worst.either.0,
                worst.either.1
            );
        }
    }
}

/// Every `threads`-th block of 2¹⁶ floats, from block `thread` on.
fn scan(function: &Function, kernels: &[&&Kernels], thread: usize, threads: usize) -> Vec<Worst> {
    let mut worst = vec![Worst::default(); kernels.len()];
    let (mut x, mut exact, mut got) = (vec![0.0_f32; 1 << 16], vec![0.0; 1 << 16], vec![0.0; 1 << 16]);
    for block in (thread..1 << 16).step_by(threads) {
        for (low, (x, exact)) in (0..).zip(x.iter_mut().zip(&mut exact)) {
            *x = f32::from_bits((block as u32) << 16 | low);
            *exact = (function.exact)(f64::from(*x));
        }
        for (kernels, worst) in kernels.iter().zip(&mut worst) {
            (function.run)(kernels, &mut got, &x);
            for ((&x, &got), &exact) in x.iter().zip(&got).zip(&exact) {
                function.check(x, got, exact).unwrap_or_else(|error| panic!("{}: {error}", kernels.name()));
                worst.see(x, got, exact);
            }
        }
    }
    worst
}
