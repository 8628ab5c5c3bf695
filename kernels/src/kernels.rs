//! [`Kernels`]: which sets of kernels there are, and how one is chosen.

use crate::isa;
use crate::table::Table;
use std::fmt;
use std::sync::OnceLock;

/// The kernels of one instruction set, all of which this CPU can run.
///
/// The operations are its methods. The function pointers behind them cannot be reached, and a `Kernels`
/// can only be got from [`available`](Self::available) and its siblings, which check the CPU, or
/// from [`plug`](Self::plug), whose caller does.
pub struct Kernels {
    name: &'static str,
    description: &'static str,
    pub(crate) table: Table,
}

/// A kernel name that cannot be used here.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum UnknownKernel {
    /// No set of kernels has this name on any CPU.
    #[error("there is no kernel '{name}'; this machine has {}", available_names())]
    Unknown {
        /// The name asked for.
        name: String,
    },
    /// The kernels exist, but this CPU (or this build's architecture) cannot run them.
    #[error("kernel '{name}' is not supported by this CPU; it has {}", available_names())]
    Unsupported {
        /// The name asked for.
        name: String,
    },
}

impl Kernels {
    /// The environment variable [`from_environment`](Self::from_environment) reads.
    pub const ENVIRONMENT_VARIABLE: &str = "SHOESTRING_KERNEL";

    /// Every set of kernels this CPU can run, best first. Never empty; detected once.
    #[must_use]
    pub fn available() -> &'static [&'static Self] {
        static AVAILABLE: OnceLock<Vec<&'static Kernels>> = OnceLock::new();
        AVAILABLE.get_or_init(|| isa::VARIANTS.iter().filter_map(|variant| (variant.detect)()).collect())
    }

    /// The fastest kernels for this CPU.
    #[must_use]
    pub fn best() -> &'static Self {
        Self::available()[0]
    }

    /// The kernels called `name`.
    ///
    /// # Errors
    ///
    /// [`UnknownKernel`] if there are none of that name or this CPU cannot run them.
    pub fn select(name: &str) -> Result<&'static Self, UnknownKernel> {
        if let Some(kernels) = Self::available().iter().find(|kernels| kernels.name == name) {
            return Ok(kernels);
        }
        let name = name.to_owned();
        if isa::VARIANTS.iter().any(|variant| variant.name == name) {
            Err(UnknownKernel::Unsupported { name })
        } else {
            Err(UnknownKernel::Unknown { name })
        }
    }

    /// The kernels named by the environment variable `SHOESTRING_KERNEL`; the best if unset or empty.
    ///
    /// # Errors
    ///
    /// [`UnknownKernel`] as for [`select`](Self::select); a name that is not Unicode is unknown.
    pub fn from_environment() -> Result<&'static Self, UnknownKernel> {
        match std::env::var_os(Self::ENVIRONMENT_VARIABLE) {
            Some(name) if !name.is_empty() => Self::select(&name.to_string_lossy()),
            _ => Ok(Self::best()),
        }
    }

    /// Kernels from outside this crate.
    ///
    /// `Table { exp: mine, ..Table::SCALAR }` replaces one operation and keeps the portable rest. The crate
    /// `shoestring-kernels-conformance` checks that they do what they must; `examples/plugged` does all of it.
    ///
    /// # Safety
    ///
    /// Every function of the table must be sound to call, on the CPUs this value is used on, with
    /// any arguments that pass the checks of the method with its name.
    #[must_use]
    pub const unsafe fn plug(name: &'static str, description: &'static str, table: Table) -> Self {
        Self { name, description, table }
    }

    /// The name [`select`](Self::select) knows it by, such as `avx2`.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        self.name
    }

    /// What it needs and does, in one line.
    #[must_use]
    pub const fn description(&self) -> &'static str {
        self.description
    }
}

impl fmt::Debug for Kernels {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_tuple("Kernels").field(&self.name).finish()
    }
}

fn available_names() -> String {
    let names: Vec<_> = Kernels::available().iter().map(|kernels| kernels.name).collect();
    names.join(", ")
}
