//! The instruction sets: one file each, and one line each in [`VARIANTS`].

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx2_vnni;
#[cfg(target_arch = "x86_64")]
mod avx512;
#[cfg(target_arch = "x86_64")]
mod avx512_bf16;
#[cfg(target_arch = "x86_64")]
mod avx512_vnni;
#[cfg(target_arch = "aarch64")]
mod neon;
#[cfg(target_arch = "aarch64")]
mod neon_dotprod;
mod plain;
mod scalar;
mod wide;

use crate::kernels::Kernels;
use crate::table::Table;

/// A set of kernels that may or may not exist on this architecture and CPU.
pub(crate) struct Variant {
    pub(crate) name: &'static str,
    /// The kernels, if this CPU can run them.
    pub(crate) detect: fn() -> Option<&'static Kernels>,
}

impl Table {
    /// The portable reference, which runs on every CPU.
    pub const SCALAR: Self = scalar::TABLE;
}

/// `variant!(name, module, condition)`: the module's kernels where the condition for compiling it holds.
macro_rules! variant {
    ($name:literal, $module:ident, $condition:meta) => {{
        #[cfg($condition)]
        fn detect() -> Option<&'static Kernels> {
            $module::detect()
        }
        #[cfg(not($condition))]
        fn detect() -> Option<&'static Kernels> {
            None
        }
        Variant { name: $name, detect }
    }};
}

/// Every set of kernels there is on any architecture, best first.
pub(crate) const VARIANTS: &[Variant] = &[
    variant!("avx512-bf16", avx512_bf16, target_arch = "x86_64"),
    variant!("avx512-vnni", avx512_vnni, target_arch = "x86_64"),
    variant!("avx512", avx512, target_arch = "x86_64"),
    variant!("avx2-vnni", avx2_vnni, target_arch = "x86_64"),
    variant!("avx2", avx2, target_arch = "x86_64"),
    variant!("neon-dotprod", neon_dotprod, target_arch = "aarch64"),
    variant!("neon", neon, target_arch = "aarch64"),
    variant!("wide", wide, all()),
    variant!("scalar", scalar, all()),
];

/// Compiles every body for an instruction set: `instantiate! { { Token (attributes) name } operations }`
/// is expanded by `operations!` into one function an operation, each with the attributes, and `KERNELS`.
macro_rules! instantiate {
    (
        { $token:ident $attributes:tt $name:literal $description:literal }
        $($operation:ident($($argument:ident: $type:ty),*) -> $result:ty;)*
    ) => {
        pub(super) const TABLE: crate::table::Table = crate::table::Table { $($operation),* };

        // SAFETY: `detect` hands these out only where the CPU has the instruction set, which is what the
        // functions need beside checked shapes.
        static KERNELS: crate::kernels::Kernels = unsafe {
            crate::kernels::Kernels::plug($name, $description, TABLE)
        };

        $(crate::isa::entry! { $token $attributes $operation($($argument: $type),*) -> $result })*

        impl crate::simd::Compiled for $token {
            #[inline(always)]
            unsafe fn gemm(
                self,
                out: &mut [f32],
                a: &[f32],
                weights: &[Line],
                depth: usize,
                epilogue: Epilogue<'_>,
            ) {
                // SAFETY: `self` proves the instruction set, and the caller vouches for the shapes.
                unsafe { gemm(out, a, weights, depth, epilogue) }
            }
        }
    };
}
use instantiate;

/// Kernels that differ from others only in their products of integers: `integer_products! { Token
/// (attributes) name description, base }`.
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
macro_rules! integer_products {
    ($token:ident $attributes:tt $name:literal $description:literal, $base:expr) => {
        pub(super) const TABLE: crate::table::Table =
            crate::table::Table { gemm_q8, gemm_q4, cell_forward_q8, ..$base };

        static KERNELS: crate::kernels::Kernels = {
            // SAFETY: as for the base, `detect` asks for the instruction set too.
            unsafe { crate::kernels::Kernels::plug($name, $description, TABLE) }
        };

        crate::isa::entry! { $token $attributes gemm_q8(
            out: &mut [f32], a: Quantized<'_>, weights: &[CodeLine], scales: &[Line], depth: usize,
            epilogue: Epilogue<'_>
        ) -> () }

        crate::isa::entry! { $token $attributes gemm_q4(
            out: &mut [f32], a: Quantized<'_>, weights: &[CodeLine], scales: &[HalfLine], depth: usize,
            epilogue: Epilogue<'_>
        ) -> () }

        crate::isa::entry! { $token $attributes cell_forward_q8(
            cells: &mut [QuantizedCell<'_>], batch: usize, hidden: usize
        ) -> () }
    };
}
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
use integer_products;

/// One function of [`instantiate!`].
macro_rules! entry {
    ($token:ident ($($attribute:tt)*) $operation:ident($($argument:ident: $type:ty),*) -> $result:ty) => {
        $($attribute)*
        #[allow(clippy::too_many_arguments)]
        unsafe fn $operation($($argument: $type),*) -> $result {
            // SAFETY: the caller vouches for the CPU and for the shapes.
            unsafe { crate::body::$operation($token::new(), $($argument),*) }
        }
    };
}
use entry;
