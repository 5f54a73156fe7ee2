//! A ZEO server as a database: one connection, many loads in flight, head by what the server pushes.
//!
//! ```text
//!   workers --Load--> driver --calls--> server        driver: one thread, which owns the stream and waits in poll(2)
//!      ^                |  ^
//!      +----- Came -----+  +-- replies, pushes
//!                       |
//!                       +-- Happened --> control (`RemoteStore::poll`)
//! ```
//!
//! * [`session`] decides: handshake, which load is asked when, catching up, deadlines, when a connection is dead. It is pure.
//! * Its thread is [`super::remote::driver`]; what workers and control have of it is that of any driver: [`super::remote`].
//!
//! # When the server is not to be reached
//!
//! Head stays, and what is cached stays right, being just that state. A load waits for the next connection, at most
//! `STORAGE_WAIT_MS`. When the server is back, what happened meanwhile is found out exactly, transaction by transaction
//! ([`sync`]), or everything that was derived from the history is dropped. A server that ends before head is the end: clients
//! hold states that it does not have.

mod session;
mod sync;
#[cfg(test)]
mod tests;

pub use sync::Gap;

use crate::base::{Oid, Tid};
use crate::kernel::proc::Waker;
use crate::store::remote::driver::{self, Setup};
use crate::store::remote::{Address, Broken, Fatal, RemoteOpenError, RemoteStore, RemoteView};
use crate::store::remote::{TlsFiles, Why};
use crate::wire::zeo::{FrameError, Refusal, ZeoError};
use session::{Opts, Session};
use std::time::Instant;

/// A storage of a server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Server {
    /// Where it is.
    pub address: Address,
    /// Name of the storage.
    pub storage: String,
    /// How both sides show who they are.
    pub tls: Option<TlsFiles>,
}

/// Connects; blocks until the server serves, or the first attempt failed. `control` is woken whenever there is something to
/// be polled.
///
/// # Errors
/// The server is not to be had.
pub fn open(
    server: &Server,
    max_record: usize,
    control: Option<Waker>,
) -> Result<(RemoteStore, RemoteView), RemoteOpenError> {
    RemoteStore::open(server.address.to_string(), max_record, control, |ports| {
        let opts = Opts {
            address: server.address.clone(),
            storage: server.storage.clone(),
            max_record,
            seed: driver::seed(),
        };
        let setup = Setup {
            name: "zring-zeo",
            tls: server.tls.clone(),
            max_record,
        };
        driver::start(setup, ports, Session::new(opts, Instant::now()))
    })
}

/// Why a connection ended, or was not made.
#[derive(Debug, thiserror::Error)]
pub enum Trouble {
    /// The connection.
    #[error(transparent)]
    Broken(#[from] Broken),
    /// A length that no message has.
    #[error("the server sends no sound messages: {0}")]
    Frame(FrameError),
    /// A message that cannot be read.
    #[error(transparent)]
    Message(#[from] ZeoError),
    /// A reply to nothing.
    #[error("the server replies to call {0}, which was not made")]
    Number(i64),
    /// A message that is no reply to a load, and larger than any record.
    #[error("the server sends a message of {0} bytes")]
    TooLong(usize),
    /// The storage is not to be had.
    #[error("the server refuses: {0}")]
    Refused(Refusal),
    /// A push from the past.
    #[error("the server pushes transaction {0} after {1}")]
    Order(Tid, Tid),
    /// More than can be kept while catching up.
    #[error("transactions come faster than they can be caught up with")]
    Pushes,
    /// A revision from the future.
    #[error("the server gives object {0} of transaction {1}, asked for as of {2}")]
    Serial(Oid, Tid, Tid),
}
