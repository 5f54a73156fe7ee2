//! A database behind a driver: what control, workers and the command line have of any server, whatever it speaks.
//!
//! ```text
//!   workers --Order--> driver        one thread, which alone talks to the database ([`super::zeo`], [`super::neo`], [`super::rel`], [`super::demo`])
//!      ^                 |  |
//!      +----- Came ------+  +-- Happened --> control (`RemoteStore::poll`)
//! ```
//!
//! * [`RemoteView`] is what workers load from. Nobody waits in a load: what comes is handed to a [`Sink`]. Control and the
//!   command line wait, with a deadline.
//! * [`RemoteStore`] is control's side: transactions, in order, and words about the connection.
//! * [`loads`] is a driver's book of who waits for what.
//! * [`driver`] is the thread of servers that speak by streams: it carries bytes between [`dial`]'s streams and a session, which
//!   decides and is pure. [`vigil`] watches a connection, [`backoff`] spaces out attempts to make one.
//!
//! Nothing here knows a protocol: a driver says its troubles as errors that are told whole.

pub(super) mod backoff;
pub(super) mod dial;
pub(super) mod driver;
pub(super) mod link;
pub(super) mod loads;
pub(super) mod store;
mod tls;
pub(super) mod vigil;

pub use dial::{Address, DialError};
pub use link::{Came, Health, Link, RemoteView, Sink};
pub use store::{Notice, RemoteEvent, RemoteOpenError, RemotePoll, RemoteStore};
pub use tls::{TlsError, TlsFiles};

use crate::base::Tid;
use crate::store::LoadError;
use crate::wire::zeo::Refusal;
use std::io;
use std::sync::Arc;

/// What is wrong with a connection or a history, in a driver's own words.
pub type Words = Box<dyn std::error::Error + Send + Sync>;

/// Why a load has no object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Why {
    NoObject,
    NotYet,
    Deleted(Tid),
    Gone(Tid),
    TooBig(usize),
    Refused(Refusal),
    Late,
    Busy,
    Moved,
    Closed,
}

impl Why {
    pub(super) fn error(self, max: usize) -> LoadError {
        match self {
            Self::NoObject => LoadError::NoObject,
            Self::NotYet => LoadError::NotYet,
            Self::Deleted(at) => LoadError::Deleted { at },
            Self::Gone(at) => LoadError::Gone { at },
            Self::TooBig(len) => LoadError::TooBig {
                len: len as u64,
                max,
            },
            Self::Refused(refusal) => LoadError::Refused(refusal),
            Self::Late => LoadError::Late,
            Self::Busy => LoadError::Busy,
            Self::Moved => LoadError::Moved,
            Self::Closed => LoadError::Closed,
        }
    }
}

/// What ends a connection, whatever is spoken on it.
#[derive(Debug, thiserror::Error)]
pub enum Broken {
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
}

/// Why following ended for good.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Fatal {
    /// Clients hold states that the server does not have.
    #[error(
        "the database went back in time: it was at {head} and the server is now at {now}; if it was restored, or packed and its \
         server restarted, start again"
    )]
    WentBack {
        /// Newest transaction given out.
        head: Tid,
        /// Newest transaction of the server.
        now: Tid,
    },
    /// A database that this one is made of cannot be followed any more.
    #[error("{0}")]
    Part(Arc<str>),
}
