//! Every operation of every set of kernels this CPU can run, against float64.
//!
//! `SHOESTRING_REQUIRE_KERNELS=avx2,avx512` (names separated by commas) makes it an error if one of them is
//! not among those tested.

mod buffers;
mod cell;
mod compare;
mod loss;
mod math;
mod optimizer;
mod probe;
mod products;
mod rows;
mod selection;
mod shapes;
mod splits;

/// Lengths around every boundary there is: a quarter, half and whole line, and several of them.
const LENGTHS: [usize; 17] = [0, 1, 3, 4, 5, 7, 8, 9, 15, 16, 17, 31, 32, 33, 63, 65, 100];
