//! Which workers look at `/dev/fuse` for requests.
//!
//! For each request the kernel wakes every thread that polls the connection and sleeps, and the one that asks pays for each of them before it
//! may sleep itself (kernel-note 0024). So on a machine of many CPUs only some workers look:
//!
//! ```text
//!           all who look are at work (Pollers::begin), or callers run on its CPU (Balance)
//!   rests ---------------------------------------------------------------------------------> looks
//!         <---------------------------------------------------------------------------------
//!           nobody was missed for a while, and it served least (Balance)
//! ```
//!
//! Of this only the first is in a hurry, and it is the workers' own; the rest is for a thread that comes by ten times a second while
//! there are requests. Each worker brings its port in line before it waits ([`Pollers::looks`]).
//!
//! No request is lost: who begins to look looks at once; who looks, looks again before it sleeps; who stops was not the only one that was
//! woken, as [`Pollers::least`] others look on at any time, and takes what it was woken for first.
//!
//! Where there are no more workers than `least`, all look and nothing is counted. The same holds where requests come by rings: a queue
//! has one worker, and `/dev/fuse` brings so little then that one looks.

use crate::kernel::proc::Waker;
use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};
use std::sync::atomic::{
    AtomicBool, AtomicIsize, AtomicU8, AtomicU32, AtomicU64, AtomicUsize, Ordering,
};
use std::time::Duration;

/// How often it is looked who should look, while there are requests.
const PERIOD: Duration = Duration::from_millis(100);
/// And while there are none.
const PERIOD_IDLE: Duration = Duration::from_secs(1);
/// Requests in a [`PERIOD`] that are worth having another worker look.
const WORTH: u64 = 64;
/// A worker that was sent to rest is not asked for its place alone again before so many looks.
const RESTS: u64 = 64;

/// Who begins with something and who lets another rest must not both overlook that nobody is left: each writes one thing and then reads
/// what the other writes.
const ORDER: Ordering = Ordering::SeqCst;

/// Bits of what a worker does: it looks.
const LOOKS: u8 = 1;
/// It has something to do.
const AT_WORK: u8 = 2;

/// What is known of one worker; on lines of its own, as it writes there for each request.
#[derive(Debug)]
#[repr(align(128))]
struct Seat {
    waker: Waker,
    /// Its CPU.
    cpu: usize,
    /// [`LOOKS`], [`AT_WORK`].
    does: AtomicU8,
    /// Requests it took from `/dev/fuse`.
    served: AtomicU64,
    /// Thread that the last of them is from.
    caller: AtomicU32,
}

/// See the module. Shared by all workers of a connection.
#[derive(Debug)]
pub struct Pollers {
    seats: Box<[Seat]>,
    least: usize,
    /// Requests come by `/dev/fuse` alone, and there are workers that need not look.
    is_shared: AtomicBool,
    /// How many look.
    looking: AtomicUsize,
    /// How many of them have nothing else to do.
    free: AtomicIsize,
    /// How often there was none.
    missed: AtomicU64,
    is_over: AtomicBool,
    /// Sent to when requests begin to come by `/dev/fuse`, and at the end.
    to_balance: Sender<()>,
    balances: Receiver<()>,
}

impl Pollers {
    /// For workers on these CPUs. At least `least` look, more when needed; by rings the first alone.
    pub fn new(workers: Vec<(usize, Waker)>, least: usize, by_rings: bool) -> Self {
        let seat = |(cpu, waker)| Seat {
            waker,
            cpu,
            does: AtomicU8::new(0),
            served: AtomicU64::new(0),
            caller: AtomicU32::new(0),
        };
        let (to_balance, balances) = bounded(2);
        let this = Self {
            seats: workers.into_iter().map(seat).collect(),
            least: least.max(1),
            is_shared: AtomicBool::new(false),
            looking: AtomicUsize::new(0),
            free: AtomicIsize::new(0),
            missed: AtomicU64::new(0),
            is_over: AtomicBool::new(false),
            to_balance,
            balances,
        };
        match by_rings {
            true => _ = this.set(0, true),
            false => this.begin_by_dev(),
        }
        this
    }

    /// Workers that look at any time.
    pub fn least(&self) -> usize {
        self.least.min(self.seats.len())
    }

    /// Requests come by `/dev/fuse` from now on: the kernel refused ring entries.
    pub fn begin_by_dev(&self) {
        for index in 0..self.least() {
            self.set(index, true);
        }
        if self.seats.len() > self.least() {
            self.is_shared.store(true, Ordering::Release);
            let _ = self.to_balance.try_send(());
        }
    }

    /// Whether this worker is to look.
    pub fn looks(&self, index: usize) -> bool {
        self.seats[index].does.load(ORDER) & LOOKS != 0
    }

    /// Has a worker look, or rest. False if it does already.
    fn set(&self, index: usize, looks: bool) -> bool {
        let seat = &self.seats[index];
        let did = match looks {
            true => seat.does.fetch_or(LOOKS, ORDER),
            false => seat.does.fetch_and(!LOOKS, ORDER),
        };
        if (did & LOOKS != 0) == looks {
            return false;
        }
        let is_free = isize::from(did & AT_WORK == 0);
        if looks {
            self.looking.fetch_add(1, ORDER);
            self.free.fetch_add(is_free, ORDER);
        } else {
            self.looking.fetch_sub(1, ORDER);
            self.free.fetch_sub(is_free, ORDER);
        }
        seat.waker.wake();
        true
    }

    /// A worker has something to do: so many requests, the last of thread `caller`, or what it waited for. If it was the last that had
    /// nothing else to do, another is sent for. `None` where nothing is counted.
    #[must_use]
    pub fn begin(
        &self,
        index: usize,
        requests: u64,
        caller: impl FnOnce() -> u32,
    ) -> Option<Turn<'_>> {
        if !self.is_shared.load(Ordering::Relaxed) {
            return None;
        }
        let seat = &self.seats[index];
        if requests > 0 {
            // Nobody else writes here.
            let served = seat.served.load(Ordering::Relaxed) + requests;
            seat.served.store(served, Ordering::Relaxed);
            seat.caller.store(caller(), Ordering::Relaxed);
        }
        let did = seat.does.fetch_or(AT_WORK, ORDER);
        if did & LOOKS != 0 && self.free.fetch_sub(1, ORDER) <= 1 {
            self.miss(index);
        }
        Some(Turn {
            pollers: self,
            index,
        })
    }

    fn end_turn(&self, index: usize) {
        let did = self.seats[index].does.fetch_and(!AT_WORK, ORDER);
        if did & LOOKS != 0 {
            self.free.fetch_add(1, ORDER);
        } else if self.free.load(ORDER) <= 0 {
            self.missed.fetch_add(1, Ordering::Relaxed);
            self.set(index, true);
        }
    }

    /// Nobody is there to look, as far as worker `index` knows: one more does, best one that has nothing to do.
    pub fn miss(&self, index: usize) {
        let all = self.seats.len();
        if !self.is_shared.load(Ordering::Relaxed) {
            return;
        }
        self.missed.fetch_add(1, Ordering::Relaxed);
        if self.looking.load(ORDER) < all {
            let others = (1..=all).map(|step| (index + step) % all);
            let idle = |&other: &usize| self.seats[other].does.load(ORDER) == 0;
            let _ = others
                .clone()
                .filter(idle)
                .any(|other| self.set(other, true))
                || { others }.any(|other| self.set(other, true));
        }
    }

    /// The connection has ended: those that do not look are told.
    pub fn end(&self) {
        if !self.is_over.swap(true, Ordering::AcqRel) {
            self.seats.iter().for_each(|seat| seat.waker.wake());
            let _ = self.to_balance.try_send(());
        }
    }

    /// Whether it has.
    pub fn is_over(&self) -> bool {
        self.is_over.load(Ordering::Acquire)
    }

    /// Whether a thread has to [`balance`](Self::balance).
    pub fn wants_balance(&self) -> bool {
        self.seats.len() > self.least()
    }

    /// Has those look that should, until the connection ends. `cpu_of` tells where a thread runs.
    pub fn balance(&self, cpu_of: impl Fn(u32) -> Option<usize>) {
        // Where requests come by rings there is nothing to be done but to wait for the end.
        let _ = self.balances.recv();
        let mut balance = Balance::new(self.seats.len());
        let mut period = PERIOD;
        while !self.is_over() {
            match self.balances.recv_timeout(period) {
                Ok(()) | Err(RecvTimeoutError::Disconnected) => {}
                Err(RecvTimeoutError::Timeout) => period = balance.step(self, &cpu_of),
            }
        }
    }
}

/// One turn of a worker that has something to do.
#[derive(Debug)]
pub struct Turn<'a> {
    pollers: &'a Pollers,
    index: usize,
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.pollers.end_turn(self.index);
    }
}

/// What was so at the last look.
#[derive(Debug)]
struct Balance {
    served: Vec<u64>,
    missed: u64,
    looks: u64,
    /// From which look on a worker may be asked for its place alone.
    from: Vec<u64>,
}

impl Balance {
    fn new(workers: usize) -> Self {
        Self {
            served: vec![0; workers],
            missed: 0,
            looks: 0,
            from: vec![0; workers],
        }
    }

    /// Looks once; when to look next.
    fn step(&mut self, pollers: &Pollers, cpu_of: impl Fn(u32) -> Option<usize>) -> Duration {
        self.looks += 1;
        let all = 0..pollers.seats.len();
        let served: Vec<u64> = all
            .clone()
            .map(|index| self.served(pollers, index))
            .collect();
        let total = served.iter().sum();
        let missed = pollers.missed.load(Ordering::Relaxed);
        let was_missed = std::mem::replace(&mut self.missed, missed) != missed;
        let mut looking: Vec<usize> = all.filter(|&index| pollers.looks(index)).collect();
        let spare = looking.len().saturating_sub(pollers.least());
        if spare == 0 && total >= WORTH {
            // Beside the one that it may take the place of.
            if let Some(near) = self.near(pollers, &served, cpu_of) {
                pollers.set(near, true);
            }
        } else if spare > 0 && !was_missed {
            looking.sort_by_key(|&index| served[index]);
            for &index in &looking[..spare.div_ceil(4)] {
                pollers.set(index, false);
                self.from[index] = self.looks + RESTS;
                if pollers.free.load(ORDER) <= 0 {
                    pollers.miss(index);
                }
            }
        }
        match total {
            0 if spare == 0 => PERIOD_IDLE,
            _ => PERIOD,
        }
    }

    /// What a worker served since the last look.
    fn served(&mut self, pollers: &Pollers, index: usize) -> u64 {
        let now = pollers.seats[index].served.load(Ordering::Relaxed);
        now - std::mem::replace(&mut self.served[index], now)
    }

    /// A worker that rests, on whose CPU its share of the callers runs: taking a request there wakes no other CPU.
    fn near(
        &self,
        pollers: &Pollers,
        served: &[u64],
        cpu_of: impl Fn(u32) -> Option<usize>,
    ) -> Option<usize> {
        let mut near = vec![0; served.len()];
        for (seat, &count) in pollers.seats.iter().zip(served) {
            if count == 0 {
                continue;
            }
            let cpu = cpu_of(seat.caller.load(Ordering::Relaxed));
            let there = pollers
                .seats
                .iter()
                .position(|other| Some(other.cpu) == cpu);
            if let Some(there) = there {
                near[there] += count;
            }
        }
        let share = served.iter().sum::<u64>() / pollers.least() as u64;
        let mut all: Vec<usize> = (0..near.len()).collect();
        all.retain(|&index| near[index] >= share && !pollers.looks(index));
        all.retain(|&index| near[index] > 0 && self.looks >= self.from[index]);
        all.into_iter().max_by_key(|&index| near[index])
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use crate::zodb::sample::Rng;

    fn pollers(workers: usize, least: usize) -> Pollers {
        let seat = |cpu| (cpu, Waker::new().unwrap());
        Pollers::new((0..workers).map(seat).collect(), least, false)
    }

    fn looking(pollers: &Pollers) -> Vec<usize> {
        let all = 0..pollers.seats.len();
        all.filter(|&index| pollers.looks(index)).collect()
    }

    fn nowhere(_: u32) -> Option<usize> {
        None
    }

    #[test]
    fn by_rings_one_looks_and_all_where_there_are_no_more_than_have_to() {
        let seat = |cpu| (cpu, Waker::new().unwrap());
        let rings = Pollers::new((0..9).map(seat).collect(), 4, true);
        assert_eq!(looking(&rings), [0]);
        assert!(rings.begin(0, 1, || panic!("nothing is counted")).is_none());
        rings.miss(0);
        assert_eq!(looking(&rings), [0]);
        rings.begin_by_dev();
        assert_eq!(looking(&rings), [0, 1, 2, 3]);
        let few = pollers(3, 4);
        assert_eq!(looking(&few), [0, 1, 2]);
        assert!(few.begin(0, 1, || 7).is_none() && !few.wants_balance());
        assert_eq!(looking(&pollers(9, 0)), [0]);
    }

    #[test]
    fn another_is_called_by_the_last_that_is_free_and_the_least_used_rest() {
        let pollers = pollers(8, 2);
        let mut balance = Balance::new(8);
        let first = pollers.begin(0, 1, || 7);
        assert_eq!(looking(&pollers), [0, 1]);
        let second = pollers.begin(1, 5, || 7);
        assert_eq!(looking(&pollers), [0, 1, 2]);
        let third = pollers.begin(2, 5, || 7);
        assert_eq!(looking(&pollers), [0, 1, 2, 3]);
        drop((first, second, third));
        assert_eq!(balance.step(&pollers, nowhere), PERIOD);
        assert_eq!(looking(&pollers).len(), 4, "they were needed just now");
        drop(pollers.begin(3, 9, || 7));
        drop(pollers.begin(0, 7, || 7));
        drop(pollers.begin(1, 8, || 7));
        balance.step(&pollers, nowhere);
        assert_eq!(looking(&pollers), [0, 1, 3]);
        balance.step(&pollers, nowhere);
        assert_eq!(looking(&pollers).len(), 2);
        assert_eq!(balance.step(&pollers, nowhere), PERIOD_IDLE);
        assert_eq!(looking(&pollers).len(), 2, "no fewer");
    }

    #[test]
    fn who_is_where_callers_run_takes_the_place_of_another() {
        let pollers = pollers(8, 2);
        let mut balance = Balance::new(8);
        let on_six = |tid| (tid == 7).then_some(6);
        drop(pollers.begin(0, WORTH - 1, || 7));
        balance.step(&pollers, on_six);
        assert_eq!(looking(&pollers), [0, 1], "not for so few");
        drop(pollers.begin(0, WORTH, || 8));
        balance.step(&pollers, on_six);
        assert_eq!(looking(&pollers), [0, 1], "nobody knows where");
        drop(pollers.begin(0, WORTH, || 7));
        balance.step(&pollers, on_six);
        assert_eq!(looking(&pollers), [0, 1, 6]);
        drop(pollers.begin(0, 1, || 7));
        drop(pollers.begin(6, WORTH, || 7));
        balance.step(&pollers, on_six);
        assert_eq!(looking(&pollers), [0, 6]);
        for _ in 0..9 {
            drop(pollers.begin(6, WORTH, || 7));
            balance.step(&pollers, on_six);
            assert_eq!(looking(&pollers), [0, 6]);
        }
        // One that got nothing there is left in peace for a while.
        let on_five = |_| Some(5);
        let serve = |balance: &mut Balance| {
            drop(pollers.begin(6, WORTH, || 7));
            drop(pollers.begin(0, WORTH, || 7));
            balance.step(&pollers, on_five);
            pollers.looks(5)
        };
        assert!(serve(&mut balance) && !serve(&mut balance));
        let rests = (0..).take_while(|_| !serve(&mut balance)).count() as u64;
        assert_eq!(rests, RESTS - 1);
    }

    #[derive(Clone, Copy, Debug, PartialEq)]
    enum Worker {
        Asleep,
        Awake,
        Busy,
    }

    /// Workers as they run, one step of one of them at a time, with a kernel that wakes all who sleep and poll.
    struct World<'a> {
        workers: Vec<(Worker, bool, Option<Turn<'a>>)>,
        queue: usize,
    }

    impl<'a> World<'a> {
        fn step(&mut self, at: usize, pollers: &'a Pollers) {
            let looks = pollers.looks(at);
            let (state, polls, turn) = &mut self.workers[at];
            match state {
                Worker::Awake => {
                    // It begins by looking, and takes what it was woken for before it rests.
                    let looked = *polls || looks;
                    *polls = looks;
                    if looked && self.queue > 0 {
                        self.queue -= 1;
                        *state = Worker::Busy;
                        *turn = pollers.begin(at, 1, || 7);
                    } else {
                        *state = Worker::Asleep;
                    }
                }
                Worker::Busy => {
                    *turn = None;
                    *state = Worker::Awake;
                }
                // Its waker was called.
                Worker::Asleep if looks != *polls => *state = Worker::Awake,
                Worker::Asleep => {}
            }
        }

        fn comes(&mut self) {
            self.queue += 1;
            for (state, polls, _) in &mut self.workers {
                if *state == Worker::Asleep && *polls {
                    *state = Worker::Awake;
                }
            }
        }
    }

    #[test]
    fn no_request_is_left_and_nobody_is_idle_beside_one() {
        for seed in 0..200 {
            let mut rng = Rng(seed);
            let (all, least) = (2 + rng.below(7), 1 + rng.below(4));
            let pollers: &'static Pollers = Box::leak(Box::new(pollers(all, least)));
            let mut balance = Balance::new(all);
            let mut world = World {
                workers: (0..all).map(|_| (Worker::Awake, false, None)).collect(),
                queue: 0,
            };
            for _ in 0..2000 {
                match rng.below(10) {
                    0..3 => world.comes(),
                    3 => drop(balance.step(pollers, |_| Some(3))),
                    _ => world.step(rng.below(all), pollers),
                }
                assert!(looking(pollers).len() >= least.min(all), "seed {seed}");
                let does = pollers.seats.iter().map(|seat| seat.does.load(ORDER));
                let free = does.filter(|&does| does == LOOKS).count();
                assert_eq!(pollers.free.load(ORDER), free.cast_signed(), "seed {seed}");
                let free = |(at, (state, polls, _)): (usize, &(Worker, bool, Option<Turn<'_>>))| {
                    let called = pollers.looks(at) != *polls && *state == Worker::Asleep;
                    *state == Worker::Awake || called
                };
                let busy = world
                    .workers
                    .iter()
                    .all(|(state, ..)| *state == Worker::Busy);
                if world.queue > 0 && !busy {
                    let helped = world.workers.iter().enumerate().any(free);
                    assert!(helped, "seed {seed}: a request waits, workers sleep");
                }
            }
            // All that came is taken, and in the end as few look as may.
            for step in 0..20 * all * (world.queue + all) {
                world.step(step % all, pollers);
                if step % (8 * all) == 0 {
                    balance.step(pollers, nowhere);
                }
            }
            assert_eq!(world.queue, 0, "seed {seed}");
            assert!(
                pollers.free.load(ORDER) == looking(pollers).len().cast_signed(),
                "seed {seed}"
            );
            for _ in 0..100 {
                balance.step(pollers, nowhere);
            }
            assert_eq!(looking(pollers).len(), least.min(all), "seed {seed}");
        }
    }
}
