//! Keeping what is known of a tree current: one thread hears what changes, another looks at it.
//!
//! ```text
//!   kernel::watch --events--> [ the caller's thread: etag::nominate ] --task, one at a time--> [ zring-look: the tree ]
//!                                        ^                                                          |
//!                                        +------------------------- done, and a wake-up ------------+
//! ```
//!
//! The caller's thread never looks at files, so the kernel's queue is emptied also while a pass takes its time. The tree is marked before
//! the first pass begins, and what happens meanwhile waits for its end: nothing falls in between. A stop cancels what is under
//! way, waits for it, and returns.
//!
//! What looking at a tree means is somebody else's ([`Tree`]). What was not in order afterwards is looked at again, after a wait that
//! doubles each time. Directories that cannot be watched for want of room are looked at every [`Opts::rest_every`], and said so.

use super::config::Pulse;
use super::walk::locked;
use crate::base::limit::NOMINEES_MAX;
use crate::etag::nominate::{Moment, Nominate, Nominee, Rules, Sign, Tally, Task};
use crate::kernel::proc::{self, Waker};
use crate::kernel::watch::{Engine, Event, WatchError, Watcher};
use crossbeam_channel::{Receiver, Sender, bounded};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use rustc_hash::FxHashMap;
use std::io;
use std::os::fd::BorrowedFd;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// A tree of which something is known.
pub trait Tree: Send + 'static {
    /// Why it cannot be looked at any more.
    type Error: Send + 'static;

    /// Looks at all of it. Soon after `pulse` is cancelled it ends, and keeps what it has.
    ///
    /// # Errors
    /// What makes watching pointless: the root is gone, what is known cannot be kept.
    fn pass(&mut self, pulse: &Arc<Pulse>) -> Result<Left, Self::Error>;

    /// Looks at these.
    ///
    /// # Errors
    /// The same.
    fn look(&mut self, nominees: &[Nominee], pulse: &Arc<Pulse>) -> Result<Left, Self::Error>;
}

/// What was not in order when a task ended: files that were written to while they were read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Left {
    /// To be looked at again.
    pub again: Vec<Nominee>,
}

/// How to watch.
#[derive(Clone, Debug)]
pub struct Opts {
    /// The root, a canonical path.
    pub root: PathBuf,
    /// Whether what is mounted below belongs to it.
    pub cross: bool,
    /// The engine; None leaves the choice.
    pub engine: Option<Engine>,
    /// How long things wait.
    pub rules: Rules,
    /// How often directories are looked at that cannot be watched.
    pub rest_every: Duration,
    /// How often [`Said::Progress`] comes, if it is wanted.
    pub progress_every: Option<Duration>,
}

impl Opts {
    /// The usual ones.
    pub fn new(root: PathBuf) -> Self {
        Self {
            root,
            cross: false,
            engine: None,
            rules: Rules::default(),
            rest_every: Duration::from_secs(60),
            progress_every: None,
        }
    }
}

/// What the caller is told.
#[derive(Clone, Debug)]
pub enum Said {
    /// The tree is marked, by this engine and with so many watches; the first pass begins.
    Marked {
        /// The engine.
        engine: Engine,
        /// Its watches.
        watches: usize,
    },
    /// There is no room for more watches: these directories, and all below them, are looked at now and then instead.
    Unwatched {
        /// Relative to the root.
        dirs: Vec<Vec<u8>>,
        /// How many watches the system grants.
        limit: Option<u64>,
    },
    /// A pass is done: from the first on, what is known is current.
    PassDone(Tally),
    /// A look is done at so many paths.
    LookDone(usize),
    /// How it stands.
    Progress {
        /// Counts so far.
        tally: Tally,
        /// Paths that wait.
        waiting: usize,
        /// What is looked at now.
        busy: Option<Arc<Pulse>>,
    },
}

/// Why watching ended, other than by being stopped.
#[derive(Debug, thiserror::Error)]
pub enum Ended<E> {
    /// The tree cannot be watched.
    #[error(transparent)]
    Watch(#[from] WatchError),
    /// The system refused to wait, to tell, or to start a thread.
    #[error("{call}: {source}")]
    System {
        /// What was asked of it.
        call: &'static str,
        /// Why.
        source: io::Error,
    },
    /// The tree cannot be looked at.
    #[error("the tree cannot be looked at any more")]
    Tree(E),
}

impl<E> Ended<E> {
    fn system(call: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::System { call, source }
    }
}

/// First wait before something that was not in order is looked at again; it doubles up to [`AGAIN_MAX`].
const AGAIN_FIRST: Duration = Duration::from_secs(1);
const AGAIN_MAX: Duration = Duration::from_secs(600);

/// Watches a tree until `stop` is readable; `said` hears what happens.
///
/// # Errors
/// See [`Ended`].
pub fn run<T: Tree>(
    opts: &Opts,
    tree: T,
    stop: BorrowedFd<'_>,
    said: &mut dyn FnMut(Said),
) -> Result<Tally, Ended<T::Error>> {
    // Mark first, then the pass, then what came meanwhile.
    let watcher = Watcher::open(&opts.root, opts.cross, opts.engine)?;
    said(Said::Marked {
        engine: watcher.engine(),
        watches: watcher.watches(),
    });
    let looker = Looker::start(tree).map_err(Ended::system("thread"))?;
    let own = std::process::id().cast_signed();
    let mut watch = Watch {
        opts,
        watcher,
        looker: &looker,
        all: Nominate::new(opts.rules, Some(own)),
        began: now(),
        busy: None,
        tries: FxHashMap::default(),
        trying: FxHashMap::default(),
        unwatched: Vec::new(),
        rest_at: Moment::ZERO,
        progress_at: opts.progress_every.unwrap_or_default(),
        events: Vec::new(),
    };
    let outcome = watch.run(stop, said);
    let tally = watch.all.tally();
    looker.end();
    outcome.map(|()| tally)
}

#[allow(clippy::disallowed_methods, reason = "the clock of a loop")]
fn now() -> Instant {
    Instant::now()
}

/// Ends what the looking thread does, and all it might do next.
#[derive(Debug, Default)]
struct Halt {
    stopped: AtomicBool,
    pulse: Mutex<Arc<Pulse>>,
}

impl Halt {
    /// Counters and token for the next task.
    fn begin(&self) -> Arc<Pulse> {
        let pulse = Pulse::new();
        *locked(&self.pulse) = Arc::clone(&pulse);
        if self.stopped.load(Ordering::SeqCst) {
            pulse.cancel();
        }
        pulse
    }

    fn now(&self) {
        self.stopped.store(true, Ordering::SeqCst);
        locked(&self.pulse).cancel();
    }
}

/// The thread that looks.
struct Looker<E> {
    tasks: Sender<Task>,
    done: Receiver<Result<Left, E>>,
    waker: Waker,
    stop: Arc<Halt>,
    thread: std::thread::JoinHandle<()>,
}

impl<E: Send + 'static> Looker<E> {
    fn start<T: Tree<Error = E>>(mut tree: T) -> io::Result<Self> {
        let (tasks, todo) = bounded(1);
        let (tell, done) = bounded(1);
        let waker = Waker::new()?;
        let stop = Arc::<Halt>::default();
        let (wake, halt) = (waker.clone(), Arc::clone(&stop));
        let thread = proc::spawn("zring-look", move || {
            for task in todo {
                let pulse = halt.begin();
                let left = match task {
                    Task::Pass => tree.pass(&pulse),
                    Task::Look(nominees) => tree.look(&nominees, &pulse),
                    Task::Rest => Ok(Left::default()),
                };
                if tell.send(left).is_err() {
                    break;
                }
                wake.wake();
            }
        })?;
        Ok(Self {
            tasks,
            done,
            waker,
            stop,
            thread,
        })
    }

    /// Cancels what is under way and waits for its end.
    fn end(self) {
        self.stop.now();
        drop(self.tasks);
        drop(self.done);
        let _ = self.thread.join();
    }
}

/// What is under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Busy {
    Pass,
    Look(usize),
}

struct Watch<'a, E> {
    opts: &'a Opts,
    watcher: Watcher,
    looker: &'a Looker<E>,
    all: Nominate,
    began: Instant,
    busy: Option<Busy>,
    /// How often in a row a path was not in order.
    tries: FxHashMap<Vec<u8>, u32>,
    /// The same of what is under way: whatever is in order now is not heard of again.
    trying: FxHashMap<Vec<u8>, u32>,
    unwatched: Vec<Vec<u8>>,
    rest_at: Moment,
    progress_at: Moment,
    events: Vec<Event>,
}

impl<E: Send + 'static> Watch<'_, E> {
    fn run(&mut self, stop: BorrowedFd<'_>, said: &mut dyn FnMut(Said)) -> Result<(), Ended<E>> {
        loop {
            self.hear(said)?;
            self.take_done(said)?;
            self.look_at_rest();
            self.show(said);
            if self.busy.is_none() {
                self.begin();
            }
            if self.wait(stop)? {
                return Ok(());
            }
        }
    }

    fn now(&self) -> Moment {
        self.began.elapsed()
    }

    /// Notes what the kernel tells.
    fn hear(&mut self, said: &mut dyn FnMut(Said)) -> Result<(), Ended<E>> {
        // One buffer at a time: who is told without end still gets to the rest of the loop.
        let read = self.watcher.read(&mut self.events);
        read.map_err(Ended::system("reading events"))?;
        let now = self.now();
        for event in self.events.drain(..) {
            let sign = Sign {
                path: &event.path,
                mask: event.mask,
                pid: event.pid,
            };
            self.all.note(now, sign);
        }
        let dirs = self.watcher.unwatched();
        if dirs != self.unwatched {
            self.unwatched.clone_from(&dirs);
            if !dirs.is_empty() {
                let limit = self.watcher.limit();
                said(Said::Unwatched { dirs, limit });
            }
        }
        Ok(())
    }

    /// Takes the answer of what was under way.
    fn take_done(&mut self, said: &mut dyn FnMut(Said)) -> Result<(), Ended<E>> {
        self.looker.waker.drain();
        let Ok(left) = self.looker.done.try_recv() else {
            return Ok(());
        };
        let left = left.map_err(Ended::Tree)?;
        let now = self.now();
        match self.busy.take() {
            Some(Busy::Look(paths)) => said(Said::LookDone(paths)),
            _ => {
                self.all.pass_done(now);
                said(Said::PassDone(self.all.tally()));
            }
        }
        let before = std::mem::take(&mut self.trying);
        for Nominee { path, tree } in left.again.into_iter().take(NOMINEES_MAX) {
            let n = before.get(&path).copied().unwrap_or(0);
            let wait = AGAIN_MAX.min(AGAIN_FIRST * 2u32.saturating_pow(n));
            self.all.again(now, &path, tree, wait);
            if self.tries.len() < NOMINEES_MAX {
                self.tries.insert(path, n + 1);
            }
        }
        Ok(())
    }

    /// Has directories that are not watched looked at, and tries to watch them.
    fn look_at_rest(&mut self) {
        let now = self.now();
        if self.unwatched.is_empty() || now < self.rest_at {
            return;
        }
        self.rest_at = now + self.opts.rest_every;
        for dir in self.unwatched.clone() {
            self.all.again(now, &dir, true, Duration::ZERO);
        }
        self.watcher.watch_rest();
    }

    fn show(&mut self, said: &mut dyn FnMut(Said)) {
        let Some(every) = self.opts.progress_every else {
            return;
        };
        let now = self.now();
        if now >= self.progress_at {
            self.progress_at = now + every;
            said(Said::Progress {
                tally: self.all.tally(),
                waiting: self.all.waiting(),
                busy: self
                    .busy
                    .map(|_| Arc::clone(&locked(&self.looker.stop.pulse))),
            });
        }
    }

    fn begin(&mut self) {
        let task = self.all.next(self.now());
        self.busy = match &task {
            Task::Rest => None,
            Task::Pass => {
                self.trying = std::mem::take(&mut self.tries);
                Some(Busy::Pass)
            }
            Task::Look(nominees) => {
                let tries = nominees
                    .iter()
                    .filter_map(|n| self.tries.remove_entry(&n.path));
                self.trying = tries.collect();
                Some(Busy::Look(nominees.len()))
            }
        };
        if self.busy.is_some() {
            let sent = self.looker.tasks.try_send(task);
            assert!(sent.is_ok(), "BUG: a task was given to who has one");
        }
    }

    /// Waits for anything to happen; true if that is the end.
    fn wait(&self, stop: BorrowedFd<'_>) -> Result<bool, Ended<E>> {
        let wake_at = if self.busy.is_some() {
            None
        } else {
            self.all.wake_at()
        };
        let rest_at = (!self.unwatched.is_empty()).then_some(self.rest_at);
        let progress_at = self.opts.progress_every.map(|_| self.progress_at);
        let soonest = [wake_at, rest_at, progress_at].into_iter().flatten().min();
        let timeout = soonest.map_or(PollTimeout::NONE, |at| {
            // Rounded up, or it would be woken just too early, again and again.
            let wait = at.saturating_sub(self.now()) + Duration::from_micros(999);
            PollTimeout::try_from(wait).unwrap_or(PollTimeout::MAX)
        });
        let mut fds = [
            PollFd::new(stop, PollFlags::POLLIN),
            PollFd::new(self.watcher.fd(), PollFlags::POLLIN),
            PollFd::new(self.looker.waker.fd(), PollFlags::POLLIN),
        ];
        match poll(&mut fds, timeout) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(errno) => return Err(Ended::system("poll")(errno.into())),
        }
        Ok(fds[0].any() == Some(true))
    }
}
