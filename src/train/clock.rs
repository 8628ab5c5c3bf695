//! Training time: monotonic, whatever happens to the date, and without the time in which the process did not
//! run, because it was stopped (SIGSTOP, Ctrl-Z), or the machine slept.
//!
//! The learning rate follows it, so a pause of minutes must not look like minutes of training.

use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

/// Time between two readings of a process that runs.
const BEAT: Duration = Duration::from_millis(100);
/// No more than this counts between two readings: on a loaded machine a beat may come late, not this late.
const LONGEST: Duration = Duration::from_secs(1);

/// A clock that is read by a thread of its own all the time, so that a pause shows as a gap between readings.
pub struct Clock {
    reading: Arc<Mutex<Reading>>,
}

struct Reading {
    at: Instant,
    counted: Duration,
}

impl Clock {
    /// A clock that starts at zero.
    ///
    /// # Errors
    /// If its thread can't be started.
    pub fn start() -> io::Result<Self> {
        let reading = Arc::new(Mutex::new(Reading { at: Instant::now(), counted: Duration::ZERO }));
        let weak = Arc::downgrade(&reading);
        // It ends when the clock is gone.
        thread::Builder::new().name("clock".to_owned()).spawn(move || {
            while let Some(reading) = weak.upgrade() {
                read(&reading);
                drop(reading);
                thread::sleep(BEAT);
            }
        })?;
        Ok(Clock { reading })
    }

    /// The time so far.
    pub fn now(&self) -> Duration {
        read(&self.reading)
    }
}

fn read(reading: &Mutex<Reading>) -> Duration {
    let mut reading = reading.lock().unwrap_or_else(PoisonError::into_inner);
    let now = Instant::now();
    let passed = now.duration_since(reading.at);
    reading.counted += passed.min(LONGEST);
    reading.at = now;
    reading.counted
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_runs_with_the_process() {
        let counts_all_but_a_beat = || {
            let (start, clock) = (Instant::now(), Clock::start().unwrap());
            thread::sleep(LONGEST + 5 * BEAT);
            let (counted, passed) = (clock.now(), start.elapsed());
            assert!(counted <= passed, "{counted:?} of {passed:?}");
            counted >= LONGEST + 4 * BEAT
        };
        // On a machine with much else to do a beat may be so late that it counts as a pause, but not each time.
        assert!((0..20).any(|_| counts_all_but_a_beat()));
    }

    #[test]
    fn a_gap_between_readings_is_a_pause() {
        let at = Instant::now().checked_sub(Duration::from_secs(300)).unwrap();
        let reading = Mutex::new(Reading { at, counted: Duration::from_secs(7) });
        assert_eq!(read(&reading), Duration::from_secs(8));
        assert!(read(&reading) < Duration::from_millis(8500));
    }
}
