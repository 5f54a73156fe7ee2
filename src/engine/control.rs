//! The control thread: follows the database and moves head.
//!
//! It waits for the database, the workers and the notifier, one message at a time, and lets
//! [`crate::fs::advance::Head`] decide what follows. Workers never wait for it.
//!
//! A database that cannot be followed any more (it went back in time, it is damaged in the middle) makes the mount
//! *failed*: everything under head is EIO and `head/at` stays, until an operator starts anew. Serving on would be
//! serving the past as the present.

use super::follow::{self, LOOK_EVERY, Watch};
use super::shared::{Mailbox, Notice, Published, Shared, ToControl, ToWorker};
use crate::base::Tid;
use crate::fs::advance::{Action, Event as HeadEvent, Head};
use crate::fs::tree::fixed;
use crate::kernel::mount::Connection;
use crate::kernel::proc::{self, Waker};
use crate::store::file::{Event, FileStore, FollowError, Poll, Tail};
use crossbeam_channel::{Receiver, Sender};
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// A voted transaction is about to end: looked at again after these, then by time.
const VOTED_MS: [u64; 6] = [1, 2, 5, 10, 20, 50];
/// A tail that no writer leaves is reported when it has lasted this long.
const SUSPICIOUS: Duration = Duration::from_secs(5);

/// What control works with.
#[derive(Debug)]
pub struct Control {
    /// The database, which it owns.
    pub store: FileStore,
    /// Shared with all.
    pub shared: Arc<Shared>,
    /// The mount.
    pub connection: Arc<Connection>,
    /// Every worker.
    pub workers: Vec<Mailbox<ToWorker>>,
    /// The notifier.
    pub notices: Sender<Notice>,
    /// What it is told.
    pub inbox: Receiver<ToControl>,
    /// How to tell it something.
    pub mailbox: Mailbox<ToControl>,
    /// Wakes it.
    pub waker: Waker,
    /// Whether it may use io_uring.
    pub rings: bool,
}

/// The state of its work.
struct Work {
    control: Control,
    head: Head<Published>,
    actions: Vec<Action<Published>>,
    voted: usize,
    suspicious: Option<(Instant, bool)>,
    troubled: Option<Instant>,
    /// States of head published so far.
    published: u64,
}

impl Control {
    /// Starts the thread; it ends when told to stop.
    ///
    /// # Errors
    /// A thread cannot be started.
    pub fn start(self, at: Tid) -> io::Result<JoinHandle<()>> {
        proc::spawn("zring-control", move || {
            let (rings, waker) = (self.rings, self.waker.clone());
            let watch = Watch::new(self.store.watch_paths());
            let head = Head::new(at, self.workers.len());
            let log = self.shared.log.clone();
            let mut work = Work {
                control: self,
                head,
                actions: Vec::new(),
                voted: 0,
                suspicious: None,
                troubled: None,
                published: 0,
            };
            if let Err(error) = follow::run(rings, &watch, &waker, || work.turn()) {
                log.error(format!("the database can no longer be followed: {error}"));
                work.fail();
            }
        })
    }
}

impl Work {
    /// Takes all messages and all transactions there are; `None` to stop.
    fn turn(&mut self) -> Option<Duration> {
        while let Ok(message) = self.control.inbox.try_recv() {
            match message {
                ToControl::Stop => return None,
                // What was under way when the database failed comes to nothing.
                ToControl::Answered(_) | ToControl::Took(_) | ToControl::Dropped
                    if self.control.shared.failed.load(Ordering::Relaxed) => {}
                ToControl::Answered(files) => self.apply(HeadEvent::Answered(files)),
                ToControl::Took(files) => self.apply(HeadEvent::Took(files)),
                ToControl::Dropped => self.apply(HeadEvent::Dropped),
                ToControl::DropFailed(error) => {
                    self.control.shared.log.error(error);
                    self.abandon();
                }
                ToControl::Rebuilt(rebuilt) => {
                    let poll = self.control.store.adopt(*rebuilt);
                    self.polled(poll);
                }
            }
        }
        if self.control.shared.failed.load(Ordering::Relaxed) {
            return Some(Duration::from_secs(3600));
        }
        let poll = self.control.store.poll();
        Some(self.polled(poll))
    }

    /// Acts on what a poll found; tells when to look again.
    fn polled(&mut self, poll: Result<Poll, FollowError>) -> Duration {
        let poll = match poll {
            Ok(poll) => poll,
            Err(error) => return self.trouble(&error),
        };
        self.troubled = None;
        for event in poll.events {
            match event {
                Event::Commit(commit) => {
                    let oids = Some(commit.oids);
                    self.publish(Published {
                        number: 0,
                        tid: commit.tid,
                        oids,
                        view: commit.view,
                    });
                }
                Event::Reset(view) => {
                    self.control.shared.log.warning(
                        "the database was replaced by one with another history; all cached pages of head go",
                    );
                    self.publish(Published {
                        number: 0,
                        tid: view.at(),
                        oids: None,
                        view,
                    });
                }
                Event::Switched(view) => {
                    for worker in &self.control.workers {
                        worker.send(ToWorker::Switched(view.clone()));
                    }
                }
            }
        }
        if let Some(reopen) = poll.reopen {
            // Building the index of a large file takes long; the old file serves meanwhile.
            let mailbox = self.control.mailbox.clone();
            let spawned = proc::spawn("zring-reopen", move || {
                let rebuilt = reopen.build(&mut |_, _| {});
                mailbox.send(ToControl::Rebuilt(Box::new(rebuilt)));
            });
            if let Err(error) = spawned {
                self.control
                    .shared
                    .log
                    .error(format!("no thread to open the new database file: {error}"));
                self.fail();
            }
        }
        self.watch_tail(poll.tail);
        if poll.more {
            Duration::ZERO
        } else {
            self.next_look(poll.tail)
        }
    }

    fn next_look(&mut self, tail: Tail) -> Duration {
        if tail != Tail::Voted {
            self.voted = 0;
            return LOOK_EVERY;
        }
        let wait = VOTED_MS
            .get(self.voted)
            .map_or(LOOK_EVERY, |&ms| Duration::from_millis(ms));
        self.voted += 1;
        wait
    }

    /// Reports a tail that stays as no writer leaves it, once.
    fn watch_tail(&mut self, tail: Tail) {
        let Tail::Suspicious { pos, what } = tail else {
            self.suspicious = None;
            return;
        };
        let (since, reported) = self
            .suspicious
            .get_or_insert_with(|| (Instant::now(), false));
        if !*reported && since.elapsed() > SUSPICIOUS {
            *reported = true;
            self.control.shared.log.warning(format!(
                "the database goes on at position {pos} with something that is no transaction ({what}); serving up to there"
            ));
        }
    }

    /// Following failed: for good, or for now.
    fn trouble(&mut self, error: &FollowError) -> Duration {
        let last = matches!(
            error,
            FollowError::WentBack { .. } | FollowError::Damaged { .. }
        );
        if last || self.troubled.is_none() {
            self.control.shared.log.error(error);
        }
        self.troubled.get_or_insert_with(Instant::now);
        if last {
            self.fail();
        }
        LOOK_EVERY
    }

    /// A new state of head. Big files whose own object changed are not what they were: their names lead to new nodes.
    fn publish(&mut self, published: Published) {
        if let Some(oids) = &published.oids {
            let retired: Vec<_> = {
                let mut tree = self.control.shared.tree();
                oids.iter().filter_map(|&oid| tree.retire(oid)).collect()
            };
            for file in retired {
                let log = &self.control.shared.log;
                log.warning(format!(
                    "big file {} changed @{}: open it anew",
                    file.oid, published.tid
                ));
                let name = Notice::DropName(fixed::HEAD_BIGFILE, file.oid.to_string());
                let _ = self.control.notices.try_send(name);
            }
        }
        let tid = published.tid;
        self.apply(HeadEvent::Commit(tid, published));
    }

    fn apply(&mut self, event: HeadEvent<Published>) {
        let mut actions = std::mem::take(&mut self.actions);
        self.head.apply(event, &mut actions);
        for action in actions.drain(..) {
            match action {
                Action::Ask(published) => {
                    for worker in &self.control.workers {
                        worker.send(ToWorker::Ask(published.oids.clone()));
                    }
                }
                Action::Publish(_, mut published) => {
                    self.published += 1;
                    published.number = self.published;
                    let published = Arc::new(published);
                    self.control.shared.publish(Arc::clone(&published));
                    for worker in &self.control.workers {
                        worker.send(ToWorker::View(Arc::clone(&published)));
                    }
                }
                Action::Drop(file, tid) => {
                    if let Some(node) = self.control.shared.tree().node(file)
                        && let crate::fs::tree::Node::File(file) = node
                    {
                        file.changed_at(tid);
                    }
                    // The notifier waits for READs alone, so there is room again in time.
                    let _ = self.control.notices.send(Notice::Drop(file));
                }
                Action::Show(tid) => {
                    let shared = &self.control.shared;
                    shared.show_head(tid);
                    if shared.future_lookups.load(Ordering::SeqCst) > 0 {
                        self.control
                            .workers
                            .iter()
                            .for_each(|w| w.send(ToWorker::Shown));
                    }
                }
            }
        }
        self.actions = actions;
    }

    /// Head can be trusted no more: EIO for it, and nothing of it stays cached.
    fn fail(&mut self) {
        let shared = &self.control.shared;
        if shared.failed.swap(true, Ordering::SeqCst) {
            return;
        }
        shared
            .log
            .error("everything under head is EIO from now on; unmount and mount again to go on");
        for file in shared.tree().head_files() {
            let _ = self.control.notices.send(Notice::Drop(file.id));
        }
    }

    /// The kernel keeps pages that are wrong: nobody may read them.
    fn abandon(&mut self) {
        self.control.shared.failed.store(true, Ordering::SeqCst);
        self.control
            .shared
            .log
            .error("the page cache can no longer be kept exact: the mount is aborted");
        if self.control.connection.abort().is_err() {
            std::process::abort();
        }
    }
}
