//! The way to the driver: what workers ask it, what they are handed, and how it is.

use super::Why;
use super::loads::Key;
use super::store::Inbox;
use crate::base::limit::STORAGE_WAIT_MS;
use crate::base::{Oid, Rev, Tid};
use crate::kernel::proc::Waker;
use crate::store::{LoadError, Loaded, View};
use crossbeam_channel::{Receiver, Sender, bounded, unbounded};
use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::time::Duration;

/// An object that was asked for.
#[derive(Debug)]
pub struct Came {
    /// As it was asked for: of head, or of a state.
    pub rev: Rev,
    /// The object.
    pub oid: Oid,
    /// What came.
    pub loaded: Result<Loaded, LoadError>,
}

/// Where objects go. Called by the driver, which must not wait in it.
pub trait Sink: fmt::Debug + Send + Sync {
    /// These came, together.
    fn came(&self, loads: Vec<Came>);
}

/// To the driver.
#[derive(Debug)]
pub(in crate::store) enum Order {
    /// Bring these.
    Load(Wanted),
    /// Fail what waits, and end.
    End,
}

/// Objects that somebody wants.
#[derive(Debug)]
pub(in crate::store) struct Wanted {
    pub(in crate::store) generation: u64,
    pub(in crate::store) rev: Rev,
    pub(in crate::store) at: Tid,
    pub(in crate::store) oids: Vec<Oid>,
    pub(in crate::store) sink: Arc<dyn Sink>,
}

/// Who waits for an object.
#[derive(Debug)]
pub(in crate::store) struct Waiter {
    pub(in crate::store) rev: Rev,
    pub(in crate::store) sink: Arc<dyn Sink>,
}

/// What a driver has of those who want something of it.
#[derive(Debug)]
pub(in crate::store) struct Ports {
    pub(in crate::store) orders: Receiver<Order>,
    /// Wakes it when there are orders.
    pub(in crate::store) waker: Waker,
    pub(in crate::store) status: Arc<Status>,
    pub(in crate::store) inbox: Arc<Inbox>,
}

impl Ports {
    /// Takes what is wanted, each with the generation of the history that it is of; false when nothing will be wanted any more.
    /// What came together with the end is taken too: later orders are refused by the channel.
    pub(in crate::store) fn take_orders(&self, mut want: impl FnMut(u64, Key, Waiter)) -> bool {
        let mut goes_on = true;
        while let Ok(order) = self.orders.try_recv() {
            let Order::Load(wanted) = order else {
                goes_on = false;
                continue;
            };
            for oid in wanted.oids {
                let waiter = Waiter {
                    rev: wanted.rev,
                    sink: Arc::clone(&wanted.sink),
                };
                want(wanted.generation, (oid, wanted.at), waiter);
            }
        }
        goes_on
    }
}

/// What came in one turn, by whom it is for: each is woken once for many objects.
#[derive(Debug, Default)]
pub(in crate::store) struct Given(Vec<(Arc<dyn Sink>, Vec<Came>)>);

impl Given {
    /// For one who waits.
    pub(in crate::store) fn give(
        &mut self,
        oid: Oid,
        waiter: Waiter,
        loaded: Result<Loaded, LoadError>,
    ) {
        let Waiter { rev, sink } = waiter;
        let came = Came { rev, oid, loaded };
        let mut known = self.0.iter_mut().rev();
        match known.find(|(known, _)| Arc::ptr_eq(known, &sink)) {
            Some((_, list)) => list.push(came),
            None => self.0.push((sink, vec![came])),
        }
    }

    pub(in crate::store) fn hand_out(&mut self) {
        for (sink, came) in self.0.drain(..) {
            sink.came(came);
        }
    }
}

/// How the connection is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Health {
    /// There is none: head stands still.
    Frozen,
    /// There is one, and head is behind.
    CatchingUp,
    /// All is well.
    Serving,
}

#[derive(Debug, Default)]
pub(in crate::store) struct Status {
    health: AtomicU8,
    connections: AtomicU64,
}

impl Status {
    pub(in crate::store) fn set(&self, health: Health) {
        self.health.store(health as u8, Ordering::Relaxed);
    }

    pub(in crate::store) fn connected(&self) {
        self.connections.fetch_add(1, Ordering::Relaxed);
    }
}

/// A handle of the driver, which ends with the last one.
#[derive(Clone)]
pub struct Link(Arc<Inner>);

struct Inner {
    orders: Sender<Order>,
    waker: Waker,
    status: Arc<Status>,
    max_record: usize,
}

impl Drop for Inner {
    fn drop(&mut self) {
        // The driver is gone, or ends by this.
        let _ = self.orders.send(Order::End);
        self.waker.wake();
    }
}

impl fmt::Debug for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Link({:?})", self.health())
    }
}

impl Link {
    pub(in crate::store) fn new(
        orders: Sender<Order>,
        waker: Waker,
        status: Arc<Status>,
        max_record: usize,
    ) -> Self {
        Self(Arc::new(Inner {
            orders,
            waker,
            status,
            max_record,
        }))
    }

    fn send(&self, order: Order) -> bool {
        let sent = self.0.orders.send(order).is_ok();
        self.0.waker.wake();
        sent
    }

    /// Fails what waits for the server, and whatever is asked of it from now on.
    pub fn close(&self) {
        self.send(Order::End);
    }

    /// How it is.
    pub fn health(&self) -> Health {
        match self.0.status.health.load(Ordering::Relaxed) {
            0 => Health::Frozen,
            1 => Health::CatchingUp,
            _ => Health::Serving,
        }
    }

    /// Connections so far.
    pub fn connections(&self) -> u64 {
        self.0.status.connections.load(Ordering::Relaxed)
    }

    fn want(&self, wanted: Wanted) {
        if let Some(Order::Load(wanted)) = self.refused(wanted) {
            let closed = |oid| Came {
                rev: wanted.rev,
                oid,
                loaded: Err(Why::Closed.error(self.0.max_record)),
            };
            wanted
                .sink
                .came(wanted.oids.into_iter().map(closed).collect());
        }
    }

    /// The order, if the driver is gone.
    fn refused(&self, wanted: Wanted) -> Option<Order> {
        let refused = self.0.orders.send(Order::Load(wanted));
        self.0.waker.wake();
        refused.err().map(|refused| refused.0)
    }
}

/// The database as of one transaction.
#[derive(Clone, Debug)]
pub struct RemoteView {
    at: Tid,
    generation: u64,
    link: Link,
}

/// Beyond the driver's own deadline: it answers by then, whatever the server does.
const ANSWERED: Duration = Duration::from_millis(STORAGE_WAIT_MS + 5000);

impl RemoteView {
    pub(in crate::store) fn new(at: Tid, generation: u64, link: Link) -> Self {
        Self {
            at,
            generation,
            link,
        }
    }

    /// The transaction it is as of.
    pub fn at(&self) -> Tid {
        self.at
    }

    /// Counts how often the history was lost: views of before cannot be loaded from any more.
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// The way to the server.
    pub fn link(&self) -> &Link {
        &self.link
    }

    /// Asks for objects as of `at`, which must not be above `self.at()`. Each goes to `sink`, by its deadline at the latest.
    pub fn ask(&self, rev: Rev, at: Tid, oids: &[Oid], sink: &Arc<dyn Sink>) {
        assert!(
            at <= self.at,
            "BUG: load as of {at} on a view of {}",
            self.at
        );
        self.link.want(Wanted {
            generation: self.generation,
            rev,
            at,
            oids: oids.to_vec(),
            sink: Arc::clone(sink),
        });
    }

    /// Loads objects, each as of a state, all at once; blocks. In no particular order.
    pub fn load_many(
        &self,
        wanted: impl IntoIterator<Item = (Oid, Tid)>,
    ) -> Vec<(Oid, Tid, Result<Loaded, LoadError>)> {
        let (sender, inbox) = unbounded();
        let sink: Arc<dyn Sink> = Arc::new(ToChannel(sender));
        // Those of one state in one order, so that a driver sees them together.
        let mut left: BTreeSet<(Tid, Oid)> = BTreeSet::new();
        left.extend(wanted.into_iter().map(|(oid, at)| (at, oid)));
        let mut states: Vec<(Tid, Vec<Oid>)> = Vec::new();
        for &(at, oid) in &left {
            match states.last_mut() {
                Some((last, oids)) if *last == at => oids.push(oid),
                _ => states.push((at, vec![oid])),
            }
        }
        for (at, oids) in states {
            self.ask(Rev::At(at), at, &oids, &sink);
        }
        let mut out = Vec::with_capacity(left.len());
        while !left.is_empty()
            && let Ok(came) = inbox.recv_timeout(ANSWERED)
        {
            for Came { rev, oid, loaded } in came {
                let Rev::At(at) = rev else { continue };
                left.remove(&(at, oid));
                out.push((oid, at, loaded));
            }
        }
        let late = |(at, oid)| (oid, at, Err(LoadError::Late));
        out.extend(left.into_iter().map(late));
        out
    }

    /// Loads an object; blocks.
    ///
    /// # Errors
    /// There is none, or the server is not to be reached in time.
    pub fn load(&self, oid: Oid, at: Tid) -> Result<Loaded, LoadError> {
        let (sender, inbox) = bounded(1);
        let sink: Arc<dyn Sink> = Arc::new(ToChannel(sender));
        self.ask(Rev::At(at), at, &[oid], &sink);
        let came = inbox.recv_timeout(ANSWERED).ok();
        let came = came.and_then(|came| came.into_iter().next());
        came.map_or(Err(LoadError::Late), |came| came.loaded)
    }
}

impl View for RemoteView {
    fn at(&self) -> Tid {
        self.at
    }

    fn load(&self, oid: Oid, at: Tid) -> Result<Loaded, LoadError> {
        self.load(oid, at)
    }
}

/// To somebody who waits.
#[derive(Debug)]
struct ToChannel(Sender<Vec<Came>>);

impl Sink for ToChannel {
    fn came(&self, loads: Vec<Came>) {
        // Who waited may have gone. A bounded one has room for the only answer.
        let _ = self.0.try_send(loads);
    }
}
