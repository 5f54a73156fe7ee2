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
//! * [`driver`] is its thread; [`dial`] makes streams, on a thread of their own, as names may take long to resolve.
//! * What workers and control have of it is that of any driver: [`super::remote`].
//!
//! # When the server is not to be reached
//!
//! Head stays, and what is cached stays right, being just that state. A load waits for the next connection, at most
//! `STORAGE_WAIT_MS`. When the server is back, what happened meanwhile is found out exactly, transaction by transaction
//! ([`sync`]), or everything that was derived from the history is dropped. A server that ends before head is the end: clients
//! hold states that it does not have.

mod dial;
mod driver;
mod session;
mod sync;
#[cfg(test)]
mod tests;
mod tls;
mod vigil;

pub(in crate::store) use dial::connect;
pub use dial::{Address, DialError, Server};
pub use driver::open;
pub use sync::Gap;
pub use tls::{TlsError, TlsFiles};

use crate::base::{Oid, Tid};
use crate::store::remote::{Fatal, Why};
use crate::wire::zeo::{FrameError, Refusal, ZeoError};
use std::io;

/// Why a connection ended, or was not made.
#[derive(Debug, thiserror::Error)]
pub enum Trouble {
    /// No stream.
    #[error(transparent)]
    Dial(#[from] DialError),
    /// The server's end.
    #[error("the server closed the connection")]
    Closed,
    /// The stream.
    #[error("the connection failed: {0}")]
    Stream(#[source] io::Error),
    /// A step of the handshake takes too long.
    #[error("the server does not answer")]
    NoAnswer,
    /// Nothing comes.
    #[error("the server has fallen silent")]
    Silent,
    /// Too little comes, or leaves.
    #[error("the connection is too slow to be of use")]
    Slow,
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
