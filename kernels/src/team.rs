//! Threads that share pieces of work of a few microseconds.
//!
//! A pool whose threads sleep between tasks takes some 5 µs to hand one over, and a token of a model of five million
//! parameters, decoded in 60 µs, is handed over three times. The threads of a [`Team`] stay awake for a little while
//! after they last had work and look at one word in memory, which costs a fraction of a microsecond.
//!
//! That word, [`Board::round`], says which shares of the work are taken. Every thread has one that it takes first, so that
//! what a share reads stays in the cache of the same core; whoever is through takes what is left. So a thread that comes
//! late, or that the system has put aside, is not waited for.

use std::any::Any;
use std::hint::spin_loop;
use std::mem;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::ptr;
use std::slice;
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, LazyLock, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// How long a thread without work keeps its core to itself: what one thread does between two rounds of a token.
const PATIENCE: Duration = Duration::from_micros(20);

/// How long it looks on, letting others have the core, before it sleeps: several tokens of a model worth several threads.
const AWAKE: Duration = Duration::from_micros(200);

/// The calling thread and some more, which are started when they are first needed.
pub struct Team {
    threads: LazyLock<usize, Box<dyn FnOnce() -> usize + Send>>,
    workers: OnceLock<Workers>,
}

impl Team {
    /// A team of as many threads as `threads` says when they are first needed, the caller among them.
    pub fn new(threads: impl FnOnce() -> usize + Send + 'static) -> Self {
        Team { threads: LazyLock::new(Box::new(threads)), workers: OnceLock::new() }
    }

    /// Its threads, the caller among them.
    pub fn threads(&self) -> usize {
        (*self.threads).max(1)
    }

    /// Calls `run` once with every item, on the calling thread and those of the team, in any order; returns when all
    /// calls have. Where the team is at work already, or has no other threads, the caller does it alone.
    ///
    /// # Panics
    /// If a call does, once no other is at work; some items may not have been run then.
    pub fn for_each<T: Send>(&self, items: &mut [T], run: impl Fn(&mut T) + Sync) {
        if items.len() < 2 || self.threads() == 1 {
            return items.iter_mut().for_each(run);
        }
        let workers = self.workers.get_or_init(|| Workers::start(self.threads().min(MOST_SHARES) - 1));
        let Ok(busy) = workers.busy.try_lock() else { return items.iter_mut().for_each(run) };
        let shares = items.len().min(self.threads()).min(MOST_SHARES);
        let (length, all) = (items.len(), Items(items.as_mut_ptr()));
        let panic = workers.board.share(shares, &|share| {
            let (first, end) = (share * length / shares, (share + 1) * length / shares);
            // SAFETY: these ranges lie within `items` and do not overlap, and `Board::share` calls this once with every
            // share. It returns only after all calls have, so none outlives `items`. T is Send: another thread may have it.
            let items = unsafe { slice::from_raw_parts_mut(all.first().add(first), end - first) };
            items.iter_mut().for_each(&run);
        });
        drop(busy);
        if let Some(panic) = panic {
            resume_unwind(panic);
        }
    }
}

/// The first item of a slice.
struct Items<T>(*mut T);

impl<T> Items<T> {
    fn first(&self) -> *mut T {
        self.0
    }
}

// SAFETY: the pointer is used for ranges that don't overlap only, and to hand a T to another thread is what `Send`
// allows.
unsafe impl<T: Send> Sync for Items<T> {}

struct Workers {
    board: Arc<Board>,
    busy: Mutex<()>,
    threads: Vec<JoinHandle<()>>,
}

impl Workers {
    /// Starts up to `count` threads: as many as the system grants.
    fn start(count: usize) -> Self {
        let board = Arc::new(Board::default());
        let start = |thread: usize| {
            let board = Arc::clone(&board);
            thread::Builder::new().name("shoestring team".to_owned()).spawn(move || board.work(thread)).ok()
        };
        let threads = (1..=count).map_while(start).collect();
        Workers { board, busy: Mutex::new(()), threads }
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        self.board.ended.store(true, Ordering::SeqCst);
        self.board.wake();
        for thread in self.threads.drain(..) {
            // A thread ends by a panic only if one of `for_each` was lost, which then has told of it.
            let _ = thread.join();
        }
    }
}

/// What does a share of the work, by its index.
type Work<'a> = &'a (dyn Fn(usize) + Sync);

/// What the threads of a team look at. What one writes and another waits for has a cache line of its own, or two where the
/// hardware fetches them in pairs.
#[derive(Default)]
struct Board {
    announcement: Apart<Announcement>,
    unfinished: Apart<AtomicUsize>,
    panic: Mutex<Option<Box<dyn Any + Send>>>,
    ended: AtomicBool,
    sleepers: AtomicUsize,
    sleep: Mutex<()>,
    work_came: Condvar,
}

#[derive(Default)]
#[repr(align(128))]
struct Apart<T>(T);

#[derive(Default)]
struct Announcement {
    /// See [`Round`].
    round: AtomicU64,
    /// A `Work`, which lives as long as shares of its round are unfinished.
    work: AtomicPtr<()>,
}

/// Shares that the bits of a round have room for; more threads would have nothing to do.
const MOST_SHARES: usize = 32;

/// A round of work and which shares of it are left, a bit each: `[number: 32, left: 32]` bits. A number comes again only
/// after 2³² rounds, which takes an hour; a thread would have to be put aside for just as long, between two instructions.
#[derive(Clone, Copy)]
struct Round(u64);

impl Round {
    /// The next round, of `shares`, the first of them taken.
    fn following(self, shares: usize) -> Round {
        Round((((self.0 >> 32) + 1) << 32) | ((1 << shares) - 2))
    }

    fn left(self) -> u32 {
        self.0 as u32
    }

    /// The same round with `share` taken.
    fn without(self, share: u32) -> Round {
        Round(self.0 & !(1 << share))
    }
}

impl Board {
    /// Has `work` called with every index below `shares`, returns when all calls have, and what one panicked with. For one
    /// caller at a time.
    fn share(&self, shares: usize, work: Work<'_>) -> Option<Box<dyn Any + Send>> {
        let Announcement { round, work: place } = &self.announcement.0;
        let next = Round(round.load(Ordering::Relaxed)).following(shares);
        self.unfinished.0.store(shares, Ordering::Relaxed);
        place.store(ptr::from_ref(&work).cast_mut().cast(), Ordering::Relaxed);
        // With the two lines above for those who see it; and in one order with `sleepers`, see `sleep`.
        round.store(next.0, Ordering::SeqCst);
        if self.sleepers.load(Ordering::SeqCst) > 0 {
            self.wake();
        }
        self.run(work, 0);
        while self.take(0) {}
        let begin = Instant::now();
        while self.unfinished.0.load(Ordering::Acquire) > 0 {
            pause(begin.elapsed());
        }
        lock(&self.panic).take()
    }

    /// Does the share `own`, if it is left, or else another; returns whether there may be more.
    fn take(&self, own: usize) -> bool {
        let Announcement { round, work } = &self.announcement.0;
        let now = Round(round.load(Ordering::Acquire));
        if now.left() == 0 {
            return false;
        }
        let is_left = own < MOST_SHARES && (now.left() >> own) & 1 == 1;
        let share = if is_left { own as u32 } else { now.left().trailing_zeros() };
        let work = work.load(Ordering::Relaxed);
        let taken = now.without(share);
        if round.compare_exchange(now.0, taken.0, Ordering::AcqRel, Ordering::Relaxed).is_ok() {
            // SAFETY: `share` stored a pointer to a `Work` before this round, and does not return, nor store another, before
            // the share just taken is finished, which `run` says. So the pointer read is the round's, and it lives.
            self.run(unsafe { *work.cast::<Work<'_>>() }, share as usize);
        }
        true
    }

    fn run(&self, work: Work<'_>, share: usize) {
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| work(share))) {
            let mut first = lock(&self.panic);
            // Dropping a later one could panic in turn, before this share counts as finished.
            if first.is_some() { mem::forget(panic) } else { *first = Some(panic) }
        }
        self.unfinished.0.fetch_sub(1, Ordering::Release);
    }

    /// What the thread of number `own` does until the team ends.
    fn work(&self, own: usize) {
        let mut had_work = Instant::now();
        while !self.ended.load(Ordering::Relaxed) {
            if self.take(own) {
                while self.take(own) {}
                had_work = Instant::now();
                continue;
            }
            let idle = had_work.elapsed();
            if idle < AWAKE {
                pause(idle);
            } else {
                self.sleep();
                had_work = Instant::now();
            }
        }
    }

    /// Sleeps until there is work. In the one order of all `SeqCst` operations, either the count of sleepers rises before
    /// `share` reads it, which then waits for the lock and wakes, or the new round is seen here.
    fn sleep(&self) {
        let mut guard = lock(&self.sleep);
        self.sleepers.fetch_add(1, Ordering::SeqCst);
        while self.nothing_left() && !self.ended.load(Ordering::SeqCst) {
            guard = self.work_came.wait(guard).unwrap_or_else(PoisonError::into_inner);
        }
        self.sleepers.fetch_sub(1, Ordering::SeqCst);
    }

    fn nothing_left(&self) -> bool {
        Round(self.announcement.0.round.load(Ordering::SeqCst)).left() == 0
    }

    fn wake(&self) {
        drop(lock(&self.sleep));
        self.work_came.notify_all();
    }
}

/// A moment of waiting, after `waited`.
fn pause(waited: Duration) {
    if waited < PATIENCE {
        (0..8).for_each(|_| spin_loop());
    } else {
        thread::yield_now();
    }
}

/// Nothing that these locks guard can be left half-done by a panic.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
