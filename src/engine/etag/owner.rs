//! The one thread that has the catalog of a root. Others send it what happened and never wait for more than room in its queue.
//!
//! The owner sends nothing to a queue that could wait for it: an answer goes into a place that was made for it. Each message may be sent
//! again; batches of other nodes are numbered and count once, and those of nodes that were removed do not count (`crate::etag::member`).
//!
//! In unit tests it runs on threads and queues of a scheduler that tries many orders (`model`).
//!
//! After a change could not be written, for a full disk, nothing is written any more: what is there is kept, and [`Owner::end`] says why.

#[cfg(test)]
mod model;

#[cfg(test)]
use self::model::on::{JoinHandle, Receiver, Sender, bounded, spawn};
use crate::etag::member::{Admit, Members};
#[cfg(not(test))]
use crate::kernel::proc::spawn;
use crate::store::catalog::{Catalog, CatalogError, Snapshot, batch_of, split};
use crate::wire::catalog::{Batch, Op, Origin, Record};
#[cfg(not(test))]
use crossbeam_channel::{Receiver, Sender, bounded};
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
#[cfg(not(test))]
use std::thread::JoinHandle;

/// Batches that wait; each has at most some hundred KiB.
const MESSAGES_MAX: usize = if cfg!(test) { 2 } else { 16 };

enum Message {
    Apply(Batch),
    ApplyOf(Origin, u64, Batch),
    Remove(Vec<u8>),
    RemoveTree(Vec<u8>),
    Join(Origin),
    Leave(Origin),
    Get(Vec<u8>, Sender<Option<Record>>),
    Snapshot(Sender<Arc<dyn Snapshot>>),
}

/// Sends to the owner of a catalog.
#[derive(Clone)]
pub struct Handle {
    to: Sender<Message>,
    failed: Arc<AtomicBool>,
}

impl std::fmt::Debug for Handle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Handle").finish_non_exhaustive()
    }
}

impl Handle {
    fn send(&self, message: Message) {
        // The owner lives until its handles are gone.
        let _ = self.to.send(message);
    }

    /// Changes of our own.
    pub fn apply(&self, batch: Batch) {
        if !batch.is_empty() {
            self.send(Message::Apply(batch));
        }
    }

    /// Changes that another node made, as its `seq`-th batch.
    pub fn apply_of(&self, node: Origin, seq: u64, batch: Batch) {
        self.send(Message::ApplyOf(node, seq, batch));
    }

    /// A file is gone.
    pub fn remove(&self, path: &[u8]) {
        self.send(Message::Remove(path.to_vec()));
    }

    /// A directory is gone, with all below it.
    pub fn remove_tree(&self, path: &[u8]) {
        self.send(Message::RemoveTree(path.to_vec()));
    }

    /// A node joins.
    pub fn join(&self, node: Origin) {
        self.send(Message::Join(node));
    }

    /// A node is removed.
    pub fn leave(&self, node: Origin) {
        self.send(Message::Leave(node));
    }

    /// What is known of a file, after all that was sent before.
    pub fn get(&self, path: &[u8]) -> Option<Record> {
        let (answer, got) = bounded(1);
        self.send(Message::Get(path.to_vec(), answer));
        got.recv().ok().flatten()
    }

    /// The catalog as it is, after all that was sent before.
    pub fn snapshot(&self) -> Option<Arc<dyn Snapshot>> {
        let (answer, got) = bounded(1);
        self.send(Message::Snapshot(answer));
        got.recv().ok()
    }

    /// Whether nothing is written any more.
    pub fn has_failed(&self) -> bool {
        self.failed.load(Relaxed)
    }
}

/// The thread.
#[derive(Debug)]
pub struct Owner {
    thread: JoinHandle<(Box<dyn Catalog>, Result<(), CatalogError>)>,
    handle: Handle,
}

impl std::fmt::Debug for dyn Catalog {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Catalog({})", self.manifest().identity.root)
    }
}

impl Owner {
    /// Gives a catalog to a thread.
    ///
    /// # Errors
    /// There is no room for one.
    pub fn start(catalog: Box<dyn Catalog>) -> io::Result<Self> {
        let (to, from) = bounded(MESSAGES_MAX);
        let failed = Arc::new(AtomicBool::new(false));
        let told = Arc::clone(&failed);
        let thread = spawn("zring-catalog", move || {
            let mut state = State {
                catalog,
                members: Members::default(),
                outcome: Ok(()),
                failed: told,
            };
            state.run(&from);
            (state.catalog, state.outcome)
        })?;
        Ok(Self {
            thread,
            handle: Handle { to, failed },
        })
    }

    /// To send to it.
    pub fn handle(&self) -> Handle {
        self.handle.clone()
    }

    /// Waits until all that was sent is done, and gives the catalog back. Other handles must be gone.
    ///
    /// # Errors
    /// The first change that could not be written.
    pub fn end(self) -> (Box<dyn Catalog>, Result<(), CatalogError>) {
        drop(self.handle);
        self.thread.join().expect("a panic ends the process")
    }
}

struct State {
    catalog: Box<dyn Catalog>,
    members: Members,
    outcome: Result<(), CatalogError>,
    failed: Arc<AtomicBool>,
}

impl State {
    fn run(&mut self, from: &Receiver<Message>) {
        let own = Origin {
            node: 0,
            epoch: self.catalog.manifest().generation,
        };
        self.members.join(own, self.catalog.seq_of(own));
        while let Ok(message) = from.recv() {
            match message {
                Message::Apply(batch) => self.own(own, batch),
                Message::Remove(path) => {
                    let (dir, name) = split(&path);
                    self.own(own, batch_of(&Op::Remove { dir, name }));
                }
                Message::RemoveTree(path) => {
                    self.own(own, batch_of(&Op::RemoveTree { path: &path }))
                }
                Message::ApplyOf(node, seq, batch) => self.apply(node, seq, batch),
                Message::Join(node) => self.members.join(node, self.catalog.seq_of(node)),
                Message::Leave(node) => self.members.remove(node),
                Message::Get(path, answer) => {
                    let _ = answer.send(self.catalog.get(&path).ok().flatten()); // there is room for it
                }
                Message::Snapshot(answer) => {
                    let _ = answer.send(self.catalog.runs());
                }
            }
        }
    }

    fn own(&mut self, own: Origin, batch: Batch) {
        let seq = self.members.last(own).unwrap_or(0) + 1;
        self.apply(own, seq, batch);
    }

    fn apply(&mut self, node: Origin, seq: u64, mut batch: Batch) {
        if self.outcome.is_err() || self.members.ask(node, seq) != Admit::Next {
            return;
        }
        match self.catalog.apply(&mut batch, node, seq) {
            Ok(()) => self.members.applied(node, seq),
            Err(error) => {
                self.failed.store(true, Relaxed);
                self.outcome = Err(error);
            }
        }
    }
}
