//! `SHOESTRING_KERNEL`. The only test of its program, because it sets a variable that all threads see.

use shoestring_kernels::{Kernels, UnknownKernel};

fn chosen(name: &str) -> Result<&'static str, UnknownKernel> {
    // SAFETY: no other thread of this program looks at its environment or changes it.
    unsafe { std::env::set_var(Kernels::ENVIRONMENT_VARIABLE, name) };
    Kernels::from_environment().map(Kernels::name)
}

#[test]
fn an_unset_or_empty_variable_is_the_best_and_a_wrong_one_is_never_replaced() {
    assert_eq!(chosen(""), Ok(Kernels::best().name()));
    assert_eq!(chosen("scalar"), Ok("scalar"));
    assert_eq!(chosen("best"), Err(UnknownKernel::Unknown { name: "best".into() }));
    assert_eq!(chosen("Scalar "), Err(UnknownKernel::Unknown { name: "Scalar ".into() }));
    // SAFETY: as above.
    unsafe { std::env::remove_var(Kernels::ENVIRONMENT_VARIABLE) };
    assert_eq!(Kernels::from_environment().map(Kernels::name), Ok(Kernels::best().name()));
}
