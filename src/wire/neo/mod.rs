//! NEO, the protocol of a cluster of nodes (zodb.md 7), version 5, as a client that only reads meets it.
//!
//! ```text
//!   both sides -> greeting       ["NEO", 5]
//!   then       -> packets        [id, code, args]           one msgpack value each, nothing between them
//!
//!   request        a code, args                             id: counted by who asks
//!   answer         the code of its request | 0x8000         id: that of the request
//!   refusal        0x8000, (number, text)
//!   notification   a code                                   nobody answers
//! ```
//!
//! Numbers of packets are places in a list that changes with the version, so other versions are refused. [`Packets`] cuts a stream
//! into values, [`Message`] is what one says, [`Request`] what we say.

mod message;
mod msgpack;
mod request;
mod stream;

pub use message::{Cell, Cluster, Kind, Message, Node, Object, Packet, State};
pub use request::Request;
pub use stream::Packets;

/// What both sides send first.
pub const GREETING: &[u8] = b"\x92\xa3NEO\x05";

/// Numbers of packets; that of an answer is the request's with this bit.
mod code {
    pub(super) const ANSWER: i64 = 0x8000;
    pub(super) const IDENTIFY: i64 = 1;
    pub(super) const PING: i64 = 2;
    pub(super) const CLOSE_CLIENT: i64 = 3;
    pub(super) const NOT_PRIMARY: i64 = 5;
    pub(super) const NODES: i64 = 6;
    pub(super) const TABLE: i64 = 10;
    pub(super) const CELLS: i64 = 11;
    pub(super) const STOP: i64 = 13;
    pub(super) const INVALIDATE: i64 = 22;
    pub(super) const OBJECT: i64 = 32;
    pub(super) const TRANSACTION: i64 = 34;
    pub(super) const CLUSTER: i64 = 45;
    pub(super) const ASK_CLUSTER: i64 = 46;
    pub(super) const TIDS_FROM: i64 = 48;
    pub(super) const LAST_TID: i64 = 60;
}

/// Numbers of refusals that mean something to a reader.
pub mod refusal {
    /// Not now.
    pub const NOT_READY: i64 = 2;
    /// The object has no revision that old.
    pub const OID_NOT_FOUND: i64 = 3;
    /// There is no such transaction.
    pub const TID_NOT_FOUND: i64 = 4;
    /// There is no such object.
    pub const OID_DOES_NOT_EXIST: i64 = 5;
    /// This node does not have it.
    pub const NON_READABLE_CELL: i64 = 10;
}

/// Types of extension values: enumerations.
mod ext {
    pub(super) const CELL: u8 = 0;
    pub(super) const CLUSTER: u8 = 1;
    pub(super) const STATE: u8 = 3;
    pub(super) const KIND: u8 = 4;
}

/// Why bytes are no packet.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NeoError {
    /// Another protocol, or another version.
    #[error("the other side does not greet as a NEO node of protocol 5 does")]
    Greeting,
    /// No value, or not the one that belongs there.
    #[error("a packet cannot be read at byte {at}")]
    Form {
        /// Where.
        at: usize,
    },
    /// Deeper than any packet.
    #[error("a packet is nested too deeply")]
    Deep,
    /// Longer than any packet.
    #[error("a packet is longer than {0} bytes")]
    Long(usize),
}

/// Whether the other side speaks our version.
///
/// # Errors
/// It does not.
pub fn check_greeting(value: &[u8]) -> Result<(), NeoError> {
    let mut reader = msgpack::Reader::new(value);
    let greets = reader.array() == Ok(2)
        && reader.slice().is_ok_and(|name| name == b"NEO")
        && reader.int() == Ok(5);
    match greets && reader.is_over() {
        true => Ok(()),
        false => Err(NeoError::Greeting),
    }
}
