//! A team runs every item once, whoever comes late, sleeps, panics or wants it at the same time.

use shoestring_kernels::Team;
use std::panic::{AssertUnwindSafe, catch_unwind, panic_any};
use std::sync::Barrier;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

#[test]
fn every_item_is_run_once_for_any_number_of_items_and_threads() {
    for threads in [0, 1, 2, 3, 8] {
        let team = Team::new(move || threads);
        assert_eq!(team.threads(), threads.max(1));
        for round in 0..200 {
            for length in [0, 1, 2, 3, 7, 64] {
                let mut items: Vec<usize> = (0..length).collect();
                team.for_each(&mut items, |item| *item += round);
                assert!(items.iter().enumerate().all(|(index, &item)| item == index + round));
            }
        }
    }
}

#[test]
fn the_work_is_shared() {
    // Two calls that wait for each other: no single thread could end them.
    let team = Team::new(|| 2);
    for _ in 0..100 {
        let barrier = Barrier::new(2);
        team.for_each(&mut [(); 2], |()| _ = barrier.wait());
    }
}

#[test]
fn sleepers_are_woken() {
    let team = Team::new(|| 2);
    for _ in 0..20 {
        thread::sleep(Duration::from_millis(2));
        let barrier = Barrier::new(2);
        team.for_each(&mut [(); 2], |()| _ = barrier.wait());
    }
}

#[test]
fn a_busy_team_leaves_the_work_to_the_caller() {
    let (team, count) = (Team::new(|| 2), AtomicUsize::new(0));
    let add = |_: &mut ()| _ = count.fetch_add(1, Ordering::Relaxed);
    team.for_each(&mut [(); 4], |()| team.for_each(&mut [(); 5], add));
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| (0..500).for_each(|_| team.for_each(&mut [(); 3], add)));
        }
    });
    assert_eq!(count.into_inner(), 4 * 5 + 4 * 500 * 3);
}

#[test]
fn a_panic_reaches_the_caller_after_all_have_ended_and_the_team_goes_on() {
    let team = Team::new(|| 3);
    for bad in 0..3 {
        let ended = AtomicUsize::new(0);
        let mut items: Vec<usize> = (0..3).collect();
        let run = || {
            team.for_each(&mut items, |&mut item| {
                assert!(item != bad, "item {item} is bad");
                thread::sleep(Duration::from_micros(100));
                ended.fetch_add(1, Ordering::Relaxed);
            });
        };
        let panic = catch_unwind(AssertUnwindSafe(run)).unwrap_err();
        assert_eq!(panic.downcast_ref::<String>(), Some(&format!("item {bad} is bad")));
        assert_eq!(ended.into_inner(), 2);
    }
    let mut items = [1, 2, 3];
    team.for_each(&mut items, |item| *item *= 2);
    assert_eq!(items, [2, 4, 6]);
}

/// What panics again when it is dropped.
struct Grudge;

impl Drop for Grudge {
    fn drop(&mut self) {
        assert!(thread::panicking(), "dropped");
    }
}

#[test]
fn a_second_panic_can_do_no_harm() {
    let team = Team::new(|| 3);
    for _ in 0..50 {
        let (barrier, ended) = (Barrier::new(3), AtomicUsize::new(0));
        let run = || {
            team.for_each(&mut [0, 1, 2], |&mut item| {
                barrier.wait(); // so that each is on a thread of its own
                if item < 2 {
                    panic_any(Grudge);
                }
                thread::sleep(Duration::from_millis(1));
                ended.fetch_add(1, Ordering::Relaxed);
            });
        };
        let panic = catch_unwind(AssertUnwindSafe(run)).unwrap_err();
        assert!(panic.is::<Grudge>());
        std::mem::forget(panic);
        assert_eq!(ended.into_inner(), 1, "it returned before all had ended");
    }
}
