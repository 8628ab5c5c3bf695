//! SIGINT, SIGTERM and SIGHUP; on Windows Ctrl-C, Ctrl-Break and the closing of the window.

use anyhow::{Context, Result};
use std::sync::{Mutex, PoisonError};

type Action = Box<dyn FnMut() + Send>;

/// What a signal does. A process can install its handler but once, so this is what changes.
static ACTION: Mutex<Option<Action>> = Mutex::new(None);

/// Runs `action`, on a thread of its own, each time a signal comes, in place of an earlier one.
pub fn handle(action: impl FnMut() + Send + 'static) -> Result<()> {
    let earlier = ACTION.lock().unwrap_or_else(PoisonError::into_inner).replace(Box::new(action));
    if earlier.is_none() {
        ctrlc::set_handler(run).context("cannot handle signals")?;
    }
    Ok(())
}

fn run() {
    if let Some(action) = ACTION.lock().unwrap_or_else(PoisonError::into_inner).as_mut() {
        action();
    }
}
