//! Which kernels there are, and how they are found.

use shoestring_kernels::{Kernels, Table, UnknownKernel};

#[test]
fn required_kernels_are_available() {
    assert!(!shoestring_kernels_conformance::available().is_empty()); // panics if one is missing
}

#[test]
fn portable_kernels_are_always_available_and_the_reference_is_last() {
    let names: Vec<_> = Kernels::available().iter().map(|kernels| kernels.name()).collect();
    assert!(names.ends_with(&["wide", "scalar"]), "{names:?}");
    assert_eq!(Kernels::best().name(), names[0]);
    for name in names {
        assert_eq!(Kernels::select(name).unwrap().name(), name);
    }
}

#[test]
fn the_kernels_of_the_cpu_are_available() {
    #[cfg(target_arch = "x86_64")]
    if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") && is_x86_feature_detected!("f16c")
    {
        assert!(Kernels::select("avx2").is_ok());
        assert_eq!(Kernels::select("avx2-vnni").is_ok(), is_x86_feature_detected!("avxvnni"));
        let avx512 = is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512vl")
            && is_x86_feature_detected!("avx512dq");
        let vnni = avx512 && is_x86_feature_detected!("avx512vnni");
        assert_eq!(Kernels::select("avx512").is_ok(), avx512);
        assert_eq!(Kernels::select("avx512-vnni").is_ok(), vnni);
        assert_eq!(Kernels::select("avx512-bf16").is_ok(), vnni && is_x86_feature_detected!("avx512bf16"));
    }
    #[cfg(target_arch = "aarch64")]
    {
        let dotprod = std::arch::is_aarch64_feature_detected!("dotprod");
        assert_eq!(Kernels::best().name(), if dotprod { "neon-dotprod" } else { "neon" });
        assert!(Kernels::select("neon").is_ok());
    }
}

#[test]
fn an_unknown_name_is_told_from_an_unsupported_one() {
    let unknown = Kernels::select("avx3").unwrap_err();
    assert_eq!(unknown, UnknownKernel::Unknown { name: "avx3".into() });
    let message = unknown.to_string();
    assert!(message.starts_with("there is no kernel 'avx3'; this machine has "), "{message}");
    assert!(message.ends_with("wide, scalar"), "{message}");

    // No CPU has both.
    let foreign = if cfg!(target_arch = "x86_64") { "neon" } else { "avx2" };
    let unsupported = Kernels::select(foreign).unwrap_err();
    assert_eq!(unsupported, UnknownKernel::Unsupported { name: foreign.into() });
    let message = unsupported.to_string();
    assert!(
        message.starts_with(&format!("kernel '{foreign}' is not supported by this CPU; it has ")),
        "{message}"
    );
}

#[test]
fn kernels_can_be_plugged_in() {
    fn halves(out: &mut [f32], x: &[f32]) {
        out.iter_mut().zip(x).for_each(|(out, x)| *out = x / 2.0);
    }
    let table = Table { exp: halves, ..Table::SCALAR };
    // SAFETY: all functions are safe and need no target features.
    let kernels = unsafe { Kernels::plug("halves", "an exponential that halves", table) };
    assert_eq!((kernels.name(), kernels.description()), ("halves", "an exponential that halves"));
    let mut out = [0.0];
    kernels.exp(&mut out, &[3.0]);
    assert_eq!(out, [1.5]);
    kernels.sigmoid(&mut out, &[0.0]);
    assert_eq!(out, [0.5]);
}
