//! Control's side of a server: what happened, in order.

use super::link::{Link, Ports, RemoteView, Status};
use super::{Fatal, Words};
use crate::base::limit::REMOTE_EVENT_OIDS_MAX;
use crate::base::{Oid, Tid};
use crate::kernel::proc::Waker;
use crate::store::{self, Store};
use crossbeam_channel::unbounded;
use std::collections::VecDeque;
use std::io;
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

/// How long the first connection may take.
const OPEN: Duration = Duration::from_secs(20);

/// What the driver tells.
#[derive(Debug)]
pub(in crate::store) enum Happened {
    Opened(Tid),
    Commit(Tid, Arc<[Oid]>),
    Reset(Tid, Words),
    Serving(usize),
    CatchingUp,
    Lost(Words),
    Fatal(Fatal),
}

/// A word about the connection, for the log.
#[derive(Debug)]
pub enum Notice {
    /// It is lost: head stands still.
    Lost(Words),
    /// It is back, so many transactions were missed and are made up for.
    Back(usize),
    /// It is back, and what was missed cannot be told: all that was derived goes.
    Gap(Words),
    /// More happened than could be taken in time: the same.
    Flooded,
}

impl std::fmt::Display for Notice {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Lost(trouble) => write!(
                f,
                "frozen: {trouble}; head stands still, what is cached stays right, other reads wait for the server"
            ),
            Self::Back(0) => write!(f, "serving: the server is back, nothing was missed"),
            Self::Back(n) => write!(
                f,
                "serving: the server is back, {n} transactions were missed and are made up for"
            ),
            Self::Gap(gap) => write!(f, "{gap}: all cached pages of head go"),
            Self::Flooded => write!(
                f,
                "transactions came faster than they could be taken: all cached pages of head go"
            ),
        }
    }
}

#[derive(Debug, Default)]
struct Queue {
    all: VecDeque<Happened>,
    oids: usize,
    /// The newest transaction, when there was too much to keep.
    flooded: Option<Tid>,
    /// Times that the history was lost, among what was not kept.
    resets: u64,
}

/// From the driver to control.
#[derive(Debug)]
pub(in crate::store) struct Inbox {
    queue: Mutex<Queue>,
    first: Condvar,
    /// Who is to be woken.
    control: Option<Waker>,
}

impl Inbox {
    pub(in crate::store) fn new(control: Option<Waker>) -> Self {
        Self {
            queue: Mutex::default(),
            first: Condvar::new(),
            control,
        }
    }

    pub(in crate::store) fn put(&self, happened: Happened) {
        let mut queue = self.queue.lock().expect("a panic aborts");
        let is_reset = |happened: &Happened| matches!(happened, Happened::Reset(..));
        let tid = match &happened {
            Happened::Commit(tid, oids) => {
                queue.oids += oids.len() + 1;
                Some(*tid)
            }
            Happened::Reset(tid, _) => Some(*tid),
            _ => None,
        };
        match (tid, queue.flooded) {
            (Some(tid), Some(_)) => {
                queue.flooded = Some(tid);
                queue.resets += u64::from(is_reset(&happened));
            }
            (Some(tid), None) if queue.oids > REMOTE_EVENT_OIDS_MAX => {
                queue.resets = queue.all.iter().map(|h| u64::from(is_reset(h))).sum();
                queue.resets += u64::from(is_reset(&happened));
                let is_kept = |h: &Happened| !matches!(h, Happened::Commit(..)) && !is_reset(h);
                queue.all.retain(is_kept);
                queue.flooded = Some(tid);
            }
            _ => queue.all.push_back(happened),
        }
        drop(queue);
        self.first.notify_one();
        if let Some(control) = &self.control {
            control.wake();
        }
    }

    /// What happened, in order.
    #[cfg(test)]
    pub(in crate::store) fn all(&self) -> Vec<Happened> {
        self.take().all.into()
    }

    /// All there is.
    fn take(&self) -> Queue {
        std::mem::take(&mut *self.queue.lock().expect("a panic aborts"))
    }

    /// Waits until there is something.
    fn wait(&self, limit: Duration) {
        let queue = self.queue.lock().expect("a panic aborts");
        let empty = |queue: &mut Queue| queue.all.is_empty();
        drop(self.first.wait_timeout_while(queue, limit, empty));
    }
}

/// What a poll found.
#[derive(Debug, Default)]
pub struct RemotePoll {
    /// What happened, in order.
    pub events: Vec<RemoteEvent>,
    /// About the connection, in order.
    pub notices: Vec<Notice>,
}

/// An event of a server.
pub type RemoteEvent = store::Event<RemoteView>;

/// Why a server cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum RemoteOpenError {
    /// The first attempt failed.
    #[error("{address}: {trouble}")]
    Connect {
        /// Where.
        address: String,
        /// How, told whole: what is logged of a connection has no chain.
        trouble: Words,
    },
    /// It took too long.
    #[error("{address}: the server does not answer")]
    Late {
        /// Where.
        address: String,
    },
    /// A thread or a descriptor is missing.
    #[error("the system has no room for a connection")]
    Resources(#[source] io::Error),
}

/// A server that is followed.
#[derive(Debug)]
pub struct RemoteStore {
    link: Link,
    inbox: Arc<Inbox>,
    head: Tid,
    generation: u64,
    fatal: Option<Fatal>,
    is_frozen: bool,
}

impl RemoteStore {
    /// Has `start` start a driver, and blocks until that serves, or its first attempt failed. `control` is woken whenever there is
    /// something to be polled; `address` is for words.
    ///
    /// # Errors
    /// The database is not to be had.
    pub(in crate::store) fn open(
        address: String,
        max_record: usize,
        control: Option<Waker>,
        start: impl FnOnce(Ports) -> io::Result<()>,
    ) -> Result<(Self, RemoteView), RemoteOpenError> {
        let waker = Waker::new().map_err(RemoteOpenError::Resources)?;
        let (sender, orders) = unbounded();
        let status = Arc::new(Status::default());
        let inbox = Arc::new(Inbox::new(control));
        let ports = Ports {
            orders,
            waker: waker.clone(),
            status: Arc::clone(&status),
            inbox: Arc::clone(&inbox),
        };
        let link = Link::new(sender, waker, status, max_record);
        start(ports).map_err(RemoteOpenError::Resources)?;
        let began = Instant::now();
        loop {
            let left = OPEN.saturating_sub(began.elapsed());
            inbox.wait(left);
            let mut queue = inbox.queue.lock().expect("a panic aborts");
            match queue.all.pop_front() {
                Some(Happened::Opened(head)) => {
                    drop(queue);
                    let store = Self {
                        link,
                        inbox,
                        head,
                        generation: 0,
                        fatal: None,
                        is_frozen: false,
                    };
                    let view = store.view();
                    return Ok((store, view));
                }
                Some(Happened::Lost(trouble)) => {
                    return Err(RemoteOpenError::Connect { address, trouble });
                }
                _ if left.is_zero() => return Err(RemoteOpenError::Late { address }),
                _ => {}
            }
        }
    }

    /// The newest view.
    pub fn view(&self) -> RemoteView {
        RemoteView::new(self.head, self.generation, self.link.clone())
    }

    /// The way to the server.
    pub fn link(&self) -> &Link {
        &self.link
    }

    /// What is new; never waits.
    ///
    /// # Errors
    /// The database went back in time: so says every further call.
    pub fn poll(&mut self) -> Result<RemotePoll, Fatal> {
        let mut poll = RemotePoll::default();
        let queue = self.inbox.take();
        for happened in queue.all {
            self.take(happened, &mut poll);
        }
        if let Some(tid) = queue.flooded {
            poll.notices.push(Notice::Flooded);
            self.head = tid;
            self.generation += queue.resets;
            poll.events.push(RemoteEvent::Reset(self.view()));
        }
        // What came before the end is given out first.
        match &self.fatal {
            Some(fatal) if poll.events.is_empty() => Err(fatal.clone()),
            _ => Ok(poll),
        }
    }

    fn take(&mut self, happened: Happened, poll: &mut RemotePoll) {
        match happened {
            Happened::Commit(tid, oids) => {
                self.head = tid;
                let view = self.view();
                poll.events
                    .push(RemoteEvent::Commit(store::Commit { tid, oids, view }));
            }
            Happened::Reset(tid, gap) => {
                self.head = tid;
                self.generation += 1;
                poll.notices.push(Notice::Gap(gap));
                poll.events.push(RemoteEvent::Reset(self.view()));
            }
            Happened::Serving(missed) => {
                if std::mem::take(&mut self.is_frozen) {
                    poll.notices.push(Notice::Back(missed));
                }
            }
            Happened::Lost(trouble) => {
                // Said once, not with every attempt.
                if !std::mem::replace(&mut self.is_frozen, true) {
                    poll.notices.push(Notice::Lost(trouble));
                }
            }
            Happened::Fatal(fatal) => self.fatal = Some(fatal),
            Happened::Opened(_) | Happened::CatchingUp => {}
        }
    }
}

impl Store for RemoteStore {
    type View = RemoteView;
    type Error = Fatal;

    fn view(&self) -> RemoteView {
        self.view()
    }

    fn follow(&mut self) -> Result<Vec<RemoteEvent>, Fatal> {
        self.poll().map(|poll| poll.events)
    }
}
