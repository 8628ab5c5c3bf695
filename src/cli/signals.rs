//! What the program makes of signals: SIGINT, SIGTERM and SIGHUP; on Windows Ctrl-C, Ctrl-Break and the closing of
//! the window.

use super::{INTERRUPTED, tell};
use anyhow::{Context, Result};
#[cfg(unix)]
use nix::sys::signal::{SigSet, Signal};
#[cfg(unix)]
use signal_hook::{consts, iterator::Signals};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

type Action = Box<dyn FnMut(Asked) + Send>;

/// What a signal asks of the program.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Asked {
    /// To stop what it does: Ctrl-C.
    Stop,
    /// To end.
    End,
}

/// What a signal does. A process can install its handler but once, so this is what changes.
static ACTION: Mutex<Option<Action>> = Mutex::new(None);

/// Runs `action`, on a thread of its own, each time a signal comes, in place of an earlier one.
pub fn handle(action: impl FnMut(Asked) + Send + 'static) -> Result<()> {
    let earlier = ACTION.lock().unwrap_or_else(PoisonError::into_inner).replace(Box::new(action));
    if earlier.is_none() {
        install().context("cannot handle signals")?;
    }
    Ok(())
}

#[cfg(unix)]
fn install() -> std::io::Result<()> {
    let mut heeded = vec![consts::SIGINT, consts::SIGTERM];
    // A handler would take the place of what `nohup` asked for.
    if !ignores_hangups() {
        heeded.push(consts::SIGHUP);
    }
    let mut signals = Signals::new(heeded)?;
    std::thread::Builder::new().name("signals".to_owned()).spawn(move || {
        for signal in &mut signals {
            run(if signal == consts::SIGINT { Asked::Stop } else { Asked::End });
        }
    })?;
    Ok(())
}

#[cfg(windows)]
fn install() -> Result<(), ctrlc::Error> {
    // Which of them came it does not tell.
    ctrlc::set_handler(|| run(Asked::Stop))
}

fn run(asked: Asked) {
    if let Some(action) = ACTION.lock().unwrap_or_else(PoisonError::into_inner).as_mut() {
        action(asked);
    }
}

/// Lets a write beyond `ulimit -f` fail, which is told like a full disk, where SIGXFSZ would end the program. To be called
/// before it starts a thread.
#[cfg(unix)]
pub fn prepare() {
    // It fails for wrong arguments only.
    let _ = SigSet::from(Signal::SIGXFSZ).thread_block();
}

#[cfg(not(unix))]
pub fn prepare() {}

/// Whether the program was started with SIGHUP ignored, as far as the system tells without being asked by unsafe
/// code.
#[cfg(unix)]
fn ignores_hangups() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    ignored(&status).is_some_and(|mask| mask & (1 << (Signal::SIGHUP as i32 - 1)) != 0)
}

/// The mask of ignored signals in `/proc/self/status`.
#[cfg(unix)]
fn ignored(status: &str) -> Option<u64> {
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"))?;
    u64::from_str_radix(mask.trim(), 16).ok()
}

/// Ends the process at the first signal, with `message`: as long as there is nothing to lose.
pub fn end_at_once(quiet: bool, message: &'static str) -> Result<()> {
    handle(move |_| {
        if !quiet {
            tell!("\n{message}");
        }
        std::process::exit(i32::from(INTERRUPTED));
    })
}

/// Sets `stop` at the first signal from now on; the next ends the process at once.
pub fn stop(stop: Arc<AtomicBool>, quiet: bool) -> Result<()> {
    let mut first = None;
    handle(move |_| {
        let now = Instant::now();
        let first = *first.get_or_insert(now);
        if first == now {
            stop.store(true, Ordering::Relaxed);
            if !quiet {
                tell!("\nStopping; once more to stop at once.");
            }
        } else if is_another(first, now) {
            std::process::exit(i32::from(INTERRUPTED));
        }
    })
}

/// Whether a signal that comes at `now` is not just the one that came at `first`, once more: `timeout` sends one to the process, then
/// to its group, and of a terminal that is closed both shell and kernel tell.
fn is_another(first: Instant, now: Instant) -> bool {
    now - first >= Duration::from_millis(200)
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;

    #[test]
    fn a_signal_that_comes_twice_in_a_moment_is_one() {
        let first = Instant::now();
        assert!([0, 2, 50].iter().all(|&later| !is_another(first, first + Duration::from_millis(later))));
        assert!([500, 5000].iter().all(|&later| is_another(first, first + Duration::from_millis(later))));
    }

    #[test]
    fn the_mask_of_ignored_signals_is_found() {
        let status = "Name:\tshoestring\nSigBlk:\t0000000000000002\nSigIgn:\t0000000000001001\nSigCgt:\t0\n";
        assert_eq!(ignored(status), Some(0x1001));
        assert_eq!(ignored("Name:\tshoestring\n"), None);
    }
}
