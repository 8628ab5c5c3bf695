//! What a failed check says: the check, the operation, its shape, and what is wrong.

use std::cell::{Cell, RefCell};
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Once;

/// A check that a set of kernels fails.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct FailedCheck {
    /// The check's name.
    pub name: &'static str,
    /// The operation, its shape, what it computed, what it should have, and where that was noticed.
    pub message: String,
}

impl fmt::Display for FailedCheck {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}: {}", self.name, self.message)
    }
}

/// Kernels that don't do what they must.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Failure {
    /// The kernels' name.
    pub kernels: &'static str,
    /// How many checks they pass.
    pub passed: usize,
    /// The checks they fail, at least one.
    pub failed: Vec<FailedCheck>,
}

impl fmt::Display for Failure {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { kernels, passed, failed } = self;
        write!(formatter, "kernels '{kernels}' fail {} of {} checks", failed.len(), passed + failed.len())?;
        failed.iter().try_for_each(|failed| write!(formatter, "\n  {failed}"))
    }
}

impl std::error::Error for Failure {}

thread_local! {
    /// What this thread is checking.
    static CASE: RefCell<String> = const { RefCell::new(String::new()) };
    /// Whether a panic of this thread is a result, and not to be printed.
    static CATCHING: Cell<bool> = const { Cell::new(false) };
    /// Where this thread last panicked while it was.
    static PLACE: RefCell<String> = const { RefCell::new(String::new()) };
}

/// Announces what comes next, such as `gemm Store 3x17x33`: a failure's message begins with it.
///
/// Whatever goes wrong from here on belongs to it, a spoilt guard too, which is only noticed when the buffer is
/// dropped.
pub fn case(description: impl fmt::Display) {
    CASE.set(description.to_string());
}

/// Runs `check`; if it panics, what it was about, its message, and where.
pub(crate) fn caught(check: impl FnOnce()) -> Result<(), String> {
    case("");
    panic_message(check).map_err(|message| {
        let (case, place) = (CASE.take(), PLACE.take());
        let separator = if case.is_empty() { "" } else { ": " };
        format!("{case}{separator}{message} ({place})")
    })
}

/// Runs `call`; if it panics, its message, which is not printed.
pub(crate) fn panic_message(call: impl FnOnce()) -> Result<(), String> {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let print = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            if CATCHING.get() {
                PLACE.set(panic.location().map(ToString::to_string).unwrap_or_default());
            } else {
                print(panic);
            }
        }));
    });
    let was_catching = CATCHING.replace(true);
    let result = catch_unwind(AssertUnwindSafe(call));
    CATCHING.set(was_catching);
    result.map_err(|payload| match payload.downcast::<String>() {
        Ok(message) => *message,
        Err(payload) => {
            payload.downcast_ref::<&str>().map_or("a panic without words", |text| text).to_owned()
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_names_the_case_and_the_place() {
        let message = caught(|| {
            case("gemm 1x2x3");
            panic!("out[0] is {}", "wrong");
        });
        let message = message.unwrap_err();
        assert!(
            message.starts_with("gemm 1x2x3: out[0] is wrong (kernels/conformance/src/failure.rs:"),
            "{message}"
        );
        assert_eq!(caught(|| ()), Ok(()));
        assert!(caught(|| panic!("plain")).unwrap_err().starts_with("plain ("));
    }

    #[test]
    fn a_panic_is_caught_within_a_check_too() {
        let message = caught(|| {
            case("outer");
            assert_eq!(panic_message(|| panic!("inner")), Err("inner".to_owned()));
            panic!("after it");
        });
        assert!(message.unwrap_err().starts_with("outer: after it ("));
    }
}
