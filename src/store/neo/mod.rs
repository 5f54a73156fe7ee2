//! A NEO cluster as a database (zodb.md 7): the primary master tells what commits, storage nodes have the objects.
//!
//! ```text
//!                           +--> primary master     who is there, who has what, what commits
//!   workers --Load--> driver +--> storage node      objects, by partition; each partition on several nodes
//!      ^                |   +--> storage node
//!      +----- Came -----+-- Happened --> control (`RemoteStore::poll`)
//! ```
//!
//! * [`session`] decides: which master, which node, what is asked when, when a connection is dead. It is pure. [`peer`] is one
//!   connection of it, [`topology`] who has what, [`asks`] what waits for a node.
//! * [`follow`] finds out what transactions changed: announcements leave deleted objects out.
//! * Its thread is [`super::remote::driver`]; what workers and control have of it is that of any driver: [`super::remote`].
//!
//! # When somebody is not to be reached
//!
//! A storage node: another one that has the partition is asked; who failed is asked last, until the master says that it works. The
//! master: head stays, loads wait for the next one, at most `STORAGE_WAIT_MS`; then what was missed is found out, transaction by
//! transaction, or everything that was derived from the history is dropped. A cluster that ends before head is the end.

mod asks;
mod follow;
mod peer;
mod session;
#[cfg(test)]
mod tests;
mod topology;

use super::remote::driver::{self, Setup};
use super::remote::{Address, Broken, RemoteOpenError, RemoteStore, RemoteView, TlsFiles};
use crate::base::limit::ZEO_CATCH_UP_OIDS_MAX;
use crate::base::{Oid, Tid};
use crate::kernel::proc::Waker;
use crate::wire::neo::NeoError;
use session::{Opts, Session};
use std::fmt;
use std::time::Instant;

/// A cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cluster {
    /// Its name.
    pub name: String,
    /// Masters, one at least.
    pub masters: Vec<Address>,
    /// How all nodes show who they are.
    pub tls: Option<TlsFiles>,
}

impl fmt::Display for Cluster {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let masters: Vec<_> = self.masters.iter().map(ToString::to_string).collect();
        write!(f, "cluster {:?} at {}", self.name, masters.join(","))
    }
}

/// Why a connection ended, or was not made.
#[derive(Debug, thiserror::Error)]
pub enum Trouble {
    /// The connection.
    #[error(transparent)]
    Broken(#[from] Broken),
    /// Bytes that are no packets.
    #[error(transparent)]
    Packet(#[from] NeoError),
    /// An answer to nothing.
    #[error("a node answers request {0}, which was not made")]
    Number(u32),
    /// An answer to something else.
    #[error("a node answers what it was not asked")]
    Answer,
    /// A packet that may not be so long.
    #[error("a node sends a packet of {0} bytes")]
    TooLong(usize),
    /// We are not taken in.
    #[error("the cluster refuses us: {1} (error {0})")]
    Refused(i64, Box<str>),
    /// No master leads.
    #[error("no master leads the cluster yet")]
    NoPrimary,
    /// Partitions without nodes.
    #[error("the cluster does not work: partitions are missing")]
    NotOperational,
    /// It ends.
    #[error("the cluster stops")]
    Stopped,
    /// The master has forgotten us.
    #[error("the master dropped us")]
    Dropped,
    /// An announcement from the past.
    #[error("the master announces transaction {0} after {1}")]
    Order(Tid, Tid),
    /// More than can be kept.
    #[error("transactions come faster than they can be caught up with")]
    Pushes,
    /// A revision from the future.
    #[error("a node gives object {0} of transaction {1}, asked for as of {2}")]
    Serial(Oid, Tid, Tid),
}

/// Why what was missed cannot be told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Gap {
    /// A transaction that should be there is not.
    #[error("the cluster does not have transaction {0}")]
    Unknown(Tid),
    /// Too much happened.
    #[error("more than {ZEO_CATCH_UP_OIDS_MAX} objects changed meanwhile")]
    TooMany,
}

/// Connects; blocks until the cluster serves, or every master was tried in vain. `control` is woken whenever there is something to
/// be polled.
///
/// # Errors
/// The cluster is not to be had.
pub fn open(
    cluster: &Cluster,
    max_record: usize,
    control: Option<Waker>,
) -> Result<(RemoteStore, RemoteView), RemoteOpenError> {
    RemoteStore::open(cluster.to_string(), max_record, control, |ports| {
        let opts = Opts {
            cluster: cluster.name.clone(),
            masters: cluster.masters.clone(),
            max_record,
            seed: driver::seed(),
        };
        let setup = Setup {
            name: "zring-neo",
            tls: cluster.tls.clone(),
            max_record,
        };
        driver::start(setup, ports, Session::new(opts, Instant::now()))
    })
}
