//! What every set of kernels must do, as checks that kernels from anywhere can be run through.
//!
//! [`check`] runs all of them on one [`Kernels`]. This crate's tests run them on those of this CPU; whoever
//! [plugs in](Kernels::plug) others runs them on those.
//!
//! ```
//! use shoestring_kernels::Kernels;
//!
//! match shoestring_kernels_conformance::check(Kernels::best()) {
//!     Ok(report) => println!("{report}"),
//!     Err(failure) => panic!("{failure}"),
//! }
//! ```
//!
//! Results are compared with float64, within the rounding errors the operation may have, or bit for bit with a
//! plain computation or the reference where an operation promises that. Buffers lie between [guards](buffers), at
//! every alignment, with lengths around every boundary. A kernel that writes past its buffer, up to a line, is
//! noticed; one that reads or writes further may crash the process, and AddressSanitizer then says where.
//!
//! # Adding a check
//!
//! A check is a private function of a [`Kernels`] in the file of its subject. It announces each
//! [`case`](failure::case), an operation and its shape, and panics when a result is wrong:
//!
//! ```text
//! checks! {
//!     rows_are_multiplied_and_summed: dot_rows;   // the operations of the table that it is about
//! }
//!
//! fn rows_are_multiplied_and_summed(kernels: &Kernels) {
//!     for (x, y, expected) in ... {
//!         case(format_args!("dot_rows {rows}x{width}"));
//!         let mut out = Floats::unwritten(rows, 1);
//!         kernels.dot_rows(&mut out, &Floats::new(&x, 2), &Floats::new(&y, 3));
//!         assert_close("out", &out, &expected);
//!     }
//! }
//! ```
//!
//! Its line in `checks!` puts it on the list and makes it a test of this crate on every set of kernels of this
//! CPU. A function without a line, or a file that is not in `SUITE` below, is dead code, which does not compile
//! here. An operation of the table without a check fails a test, and so does one whose checks don't notice that
//! it is wrong (`tests/plugged.rs` of the kernels).

#![deny(dead_code, reason = "a check that is not listed would never run")]

/// Lists a file's checks, each with the operations it is about, and makes them tests.
macro_rules! checks {
    ($($name:ident: $($operation:ident),+;)+) => {
        pub(crate) const CHECKS: &[crate::Check] = &[$(crate::Check {
            path: concat!(module_path!(), "::", stringify!($name)),
            operations: {
                // Only operations that there are.
                let _ = |table: shoestring_kernels::Table| { $(let _ = table.$operation;)+ };
                &[$(stringify!($operation)),+]
            },
            function: $name,
        }),+];

        #[cfg(test)]
        mod on_every_kernel_of_this_cpu {
            $(
                #[test]
                fn $name() {
                    crate::tests::pass_on_available(super::CHECKS, stringify!($name));
                }
            )+
        }
    };
}

pub mod accuracy;
pub mod buffers;
mod cell;
pub mod compare;
mod dropout;
mod exact;
pub mod failure;
mod functions;
mod gradients;
mod loss;
mod optimizer;
mod probe;
mod products;
mod quantization;
mod quantized;
mod quantized_cell;
pub mod random;
mod refusals;
mod rows;
mod splits;

use failure::{FailedCheck, Failure};
use shoestring_kernels::Kernels;
use std::fmt;
use std::time::{Duration, Instant};

/// Lengths around every boundary there is: a quarter, half and whole line, and several of them.
const LENGTHS: [usize; 17] = [0, 1, 3, 4, 5, 7, 8, 9, 15, 16, 17, 31, 32, 33, 63, 65, 100];

/// The files of checks, in the order in which [`check`] runs them.
const SUITE: &[&[Check]] = &[
    products::CHECKS,
    quantized::CHECKS,
    quantized_cell::CHECKS,
    quantization::CHECKS,
    gradients::CHECKS,
    cell::CHECKS,
    rows::CHECKS,
    functions::CHECKS,
    loss::CHECKS,
    optimizer::CHECKS,
    dropout::CHECKS,
    exact::CHECKS,
    probe::CHECKS,
    splits::CHECKS,
    refusals::CHECKS,
];

/// One property that every set of kernels must have.
#[derive(Debug)]
pub struct Check {
    path: &'static str,
    operations: &'static [&'static str],
    function: fn(&Kernels),
}

impl Check {
    /// Its subject and what it asserts, such as `products::gemm_of_every_tile_and_epilogue`.
    #[must_use]
    pub fn name(&self) -> &'static str {
        self.path.split_once("::").map_or(self.path, |(_crate, name)| name)
    }

    /// The operations, fields of the [`Table`](shoestring_kernels::Table), that it is about.
    #[must_use]
    pub const fn operations(&self) -> &'static [&'static str] {
        self.operations
    }

    /// Runs it on `kernels`.
    ///
    /// # Errors
    ///
    /// What is wrong with them.
    pub fn run(&self, kernels: &Kernels) -> Result<(), FailedCheck> {
        failure::caught(|| (self.function)(kernels))
            .map_err(|message| FailedCheck { name: self.name(), message })
    }
}

/// All checks, in the order in which [`check`] runs them.
pub fn checks() -> impl Iterator<Item = &'static Check> {
    SUITE.iter().copied().flatten()
}

/// Runs every check on `kernels`.
///
/// # Errors
///
/// All checks that fail, each with the operation, its shape, and what was wrong.
pub fn check(kernels: &Kernels) -> Result<Report, Failure> {
    let mut report = Report { name: kernels.name(), description: kernels.description(), passed: Vec::new() };
    let mut failed = Vec::new();
    for check in checks() {
        let begin = Instant::now();
        match check.run(kernels) {
            Ok(()) => report.passed.push((check, begin.elapsed())),
            Err(failure) => failed.push(failure),
        }
    }
    if failed.is_empty() {
        Ok(report)
    } else {
        Err(Failure { kernels: report.name, passed: report.passed.len(), failed })
    }
}

/// The checks that a set of kernels passed: all there are.
#[derive(Debug)]
#[non_exhaustive]
pub struct Report {
    /// The kernels' name.
    pub name: &'static str,
    /// What the kernels say of themselves.
    pub description: &'static str,
    /// Every check and the time it took.
    pub passed: Vec<(&'static Check, Duration)>,
}

impl fmt::Display for Report {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (check, time) in &self.passed {
            writeln!(formatter, "{:7.1} ms  {}", time.as_secs_f64() * 1e3, check.name())?;
        }
        let Self { name, description, passed } = self;
        write!(formatter, "kernels '{name}' ({description}) pass all {} checks", passed.len())
    }
}

/// The kernels of this CPU, as [`Kernels::available`] lists them.
///
/// # Panics
///
/// If one of those that the environment variable `SHOESTRING_REQUIRE_KERNELS` names, separated by commas, is
/// not among them: no test passes because what it tests is missing.
#[must_use]
pub fn available() -> &'static [&'static Kernels] {
    let required = std::env::var("SHOESTRING_REQUIRE_KERNELS").unwrap_or_default();
    for name in required.split(',').map(str::trim).filter(|name| !name.is_empty()) {
        if let Err(error) = Kernels::select(name) {
            panic!("SHOESTRING_REQUIRE_KERNELS={required}: {error}");
        }
    }
    Kernels::available()
}

#[cfg(doctest)]
#[doc = include_str!("../../../docs/kernels.md")]
mod documentation {}

#[cfg(test)]
mod tests {
    use super::*;
    use shoestring_kernels::Table;

    /// The test that [`checks!`] makes of the check called `name`.
    pub(crate) fn pass_on_available(checks: &[Check], name: &str) {
        let check = checks.iter().find(|check| check.name().ends_with(&format!("::{name}"))).unwrap();
        for kernels in available() {
            if let Err(failure) = check.run(kernels) {
                panic!("kernels '{}': {failure}", kernels.name());
            }
        }
    }

    #[test]
    fn every_operation_of_the_table_has_a_check() {
        let table = format!("{:?}", Table::SCALAR); // Table { gemm: 0x5555, exp: 0x5556 }
        let fields = table.trim_start_matches("Table {").split(',');
        let operations: Vec<_> = fields.map(|field| field.split(':').next().unwrap().trim()).collect();
        assert!(operations.contains(&"gemm") && operations.len() >= 21, "{operations:?}");
        for operation in operations {
            assert!(checks().any(|check| check.operations().contains(&operation)), "{operation} has none");
        }
    }

    #[test]
    fn no_two_checks_share_a_name() {
        let mut names: Vec<_> = checks().map(Check::name).collect();
        let all = names.len();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), all);
    }
}
