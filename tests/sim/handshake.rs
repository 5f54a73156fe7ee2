//! How a state is published and passed, load by load and store by store: every order there is.
//!
//! `engine::shared` says what is meant: either control sees that a worker is busy with the old state, or the worker sees the
//! new one; and a worker that control waits for tells when it moves on. Here control publishes two states, one after the other,
//! to one or two workers that wake, answer and sleep as often as they like. Each load and each store is a step of its own, and
//! all orders of steps are gone through.
//!
//! Checked are two things: nobody answers from a state that control thinks is over (`Late`), and control never waits for
//! workers that all sleep (`Asleep`). Both rest on a store that comes before a load: each pair is turned round in turn, which is
//! what a weaker order than `SeqCst` would allow, and has to be found.

use std::collections::HashSet;

const IDLE: u8 = u8::MAX;
/// States that are published.
const LAST: u8 = 2;

/// A store and the load behind it, in the wrong order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Turned {
    /// A worker looks for a new state before it says what it answers from.
    Enter,
    /// A worker looks whether it is awaited before it says that it sleeps.
    Leave,
    /// Control looks at the workers before the state is public.
    Publish,
    /// Control looks again before it says that it waits.
    Await,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wrong {
    Late,
    Asleep,
}

/// What a worker does next; the number is what it loaded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Worker {
    Asleep,
    Enter,
    Look,
    /// `Turned::Enter`: it has looked.
    EnterLate(u8),
    Take(u8),
    Enter2,
    Tell,
    Request,
    Answer,
    Leave,
    Awaited,
    /// `Turned::Leave`: it has looked.
    LeaveLate(bool),
}

/// What control does next; the number is the worker it looks at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Control {
    Publish,
    First(u8),
    Await,
    Second(u8),
    Passed,
    Waits,
    /// `Turned::Publish`: all were idle.
    PublishLate(bool),
    /// `Turned::Await`: somebody was busy.
    AwaitLate,
    Done,
}

/// Everything there is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct World {
    newest: u8,
    awaited: u8,
    busy: [u8; 2],
    /// A message to control that it has not read; it wakes for it.
    look: bool,
    /// The state that control publishes, or has published.
    number: u8,
    /// The last one that it thinks every worker has.
    passed: u8,
    control: Control,
    workers: [Worker; 2],
    taken: [u8; 2],
}

impl World {
    fn new() -> Self {
        Self {
            newest: 0,
            awaited: 0,
            busy: [IDLE; 2],
            look: false,
            number: 1,
            passed: 0,
            control: Control::Publish,
            workers: [Worker::Asleep; 2],
            taken: [0; 2],
        }
    }

    /// One step of a worker; `true` for the other one where it has a choice.
    fn worker(mut self, i: usize, turned: Option<Turned>, other: bool) -> Result<Self, Wrong> {
        let is = |which| turned == Some(which);
        // A load that came in is answered from what it has; before a request it looks once more.
        let looked = |newest: u8, taken: u8| match newest > taken {
            true => Worker::Take(newest),
            false if other => Worker::Answer,
            false => Worker::Request,
        };
        self.workers[i] = match self.workers[i] {
            Worker::Asleep if is(Turned::Enter) => Worker::EnterLate(self.newest),
            Worker::Asleep => Worker::Enter,
            Worker::EnterLate(newest) => {
                self.busy[i] = self.taken[i];
                looked(newest, self.taken[i])
            }
            Worker::Enter => {
                self.busy[i] = self.taken[i];
                Worker::Look
            }
            Worker::Look => looked(self.newest, self.taken[i]),
            Worker::Take(number) => {
                self.taken[i] = number;
                Worker::Enter2
            }
            Worker::Enter2 => {
                self.busy[i] = self.taken[i];
                Worker::Tell
            }
            Worker::Tell => {
                self.look |= self.awaited != 0;
                Worker::Look
            }
            // A message, or nothing at all, was what it woke for.
            Worker::Request if other => Worker::Leave,
            Worker::Request if self.newest > self.taken[i] => Worker::Enter,
            Worker::Request => Worker::Answer,
            Worker::Answer if self.taken[i] < self.passed => return Err(Wrong::Late),
            Worker::Answer if other => Worker::Request,
            Worker::Answer | Worker::Leave if is(Turned::Leave) => {
                Worker::LeaveLate(self.awaited != 0)
            }
            Worker::Answer => Worker::Leave,
            Worker::LeaveLate(awaited) => {
                self.busy[i] = IDLE;
                self.look |= awaited;
                Worker::Asleep
            }
            Worker::Leave => {
                self.busy[i] = IDLE;
                Worker::Awaited
            }
            Worker::Awaited => {
                self.look |= self.awaited != 0;
                Worker::Asleep
            }
        };
        Ok(self)
    }

    /// One step of control, if it can take one.
    fn control(mut self, workers: u8, turned: Option<Turned>) -> Option<Self> {
        let is = |which| turned == Some(which);
        let passed = |at: u8| self.busy[usize::from(at)] >= self.number;
        self.control = match self.control {
            Control::Publish if is(Turned::Publish) => Control::First(0),
            Control::Publish => {
                self.newest = self.number;
                Control::First(0)
            }
            Control::First(at) if at == workers => match self.newest < self.number {
                true => Control::PublishLate(true),
                false => Control::Passed,
            },
            Control::First(at) if passed(at) => Control::First(at + 1),
            Control::First(_) if self.newest < self.number => Control::PublishLate(false),
            Control::First(_) if is(Turned::Await) => Control::Second(0),
            Control::First(_) => Control::Await,
            Control::PublishLate(all) => {
                self.newest = self.number;
                if all { Control::Passed } else { Control::Await }
            }
            Control::Await => {
                self.awaited = self.number;
                Control::Second(0)
            }
            Control::Second(at) if at == workers => Control::Passed,
            Control::Second(at) if passed(at) => Control::Second(at + 1),
            Control::Second(_) if is(Turned::Await) => Control::AwaitLate,
            Control::Second(_) => Control::Waits,
            Control::AwaitLate => {
                self.awaited = self.number;
                Control::Waits
            }
            Control::Waits if self.look => {
                self.look = false;
                Control::First(0)
            }
            Control::Passed => {
                (self.awaited, self.passed) = (0, self.number);
                self.number += 1;
                match self.number > LAST {
                    true => Control::Done,
                    false => Control::Publish,
                }
            }
            Control::Waits | Control::Done => return None,
        };
        Some(self)
    }

    fn all_sleep(&self, workers: u8) -> bool {
        let workers = &self.workers[..usize::from(workers)];
        workers.iter().all(|&worker| worker == Worker::Asleep)
    }
}

/// Goes through all orders; how many states there are, or what is wrong.
fn explore(workers: u8, turned: Option<Turned>) -> Result<usize, Wrong> {
    let (mut known, mut next) = (HashSet::new(), vec![World::new()]);
    while let Some(world) = next.pop() {
        if !known.insert(world) {
            continue;
        }
        let step = world.control(workers, turned);
        if step.is_none() && world.control == Control::Waits && world.all_sleep(workers) {
            return Err(Wrong::Asleep);
        }
        next.extend(step);
        for i in 0..usize::from(workers) {
            for other in [false, true] {
                next.push(world.worker(i, turned, other)?);
            }
        }
    }
    Ok(known.len())
}

#[test]
fn no_order_of_loads_and_stores_lets_a_worker_fall_behind() {
    for workers in [1, 2] {
        let states = explore(workers, None).unwrap();
        println!("{workers} workers: {states} states");
        assert!(states > 200, "it went through some");
    }
}

#[test]
fn finds_each_store_that_comes_after_its_load() {
    for (turned, wrong) in [
        (Turned::Enter, Wrong::Late),
        (Turned::Publish, Wrong::Late),
        (Turned::Leave, Wrong::Asleep),
        (Turned::Await, Wrong::Asleep),
    ] {
        for workers in [1, 2] {
            let found = explore(workers, Some(turned));
            assert_eq!(found, Err(wrong), "{turned:?}, {workers} workers");
        }
    }
}
