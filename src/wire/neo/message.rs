//! What a packet says.

use super::msgpack::Reader;
use super::{NeoError, code, ext};
use crate::base::{Oid, Tid};
use bytes::Bytes;

/// Longest text of a refusal that is shown.
const SHOWN_MAX: usize = 200;

/// Kinds of nodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Leads.
    Master,
    /// Has objects.
    Storage,
    /// Anything else.
    Other,
}

/// States of nodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Works.
    Running,
    /// Any other.
    Other,
}

/// States of a cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cluster {
    /// Serves.
    Running,
    /// Follows another cluster, and serves readers.
    BackingUp,
    /// Does not serve.
    Other,
}

/// Whether a node has what a partition should have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cell {
    /// All of it: to be read from.
    Readable,
    /// It is not known to.
    Unreadable,
    /// It has nothing of it any more.
    Discarded,
}

/// A node, as the master announces it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// What it is.
    pub kind: Kind,
    /// Where it listens, if it does.
    pub address: Option<(String, u16)>,
    /// Its number.
    pub id: Option<i32>,
    /// How it is.
    pub state: State,
    /// Bits of the time at which it came.
    pub stamp: Option<u64>,
}

/// An object, as a storage node gives it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Object {
    /// Which.
    pub oid: Oid,
    /// The transaction that made this revision.
    pub serial: Tid,
    /// Whether `data` was compressed by zlib.
    pub is_compressed: bool,
    /// SHA-1 of `data`; zeros, with no data, say that the object does not exist from this revision on.
    pub checksum: [u8; 20],
    /// The record.
    pub data: Bytes,
}

/// What is said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Packet {
    /// The other side takes us in: its number, and ours.
    Accepted(i32, i32),
    /// Is somebody there? To be answered.
    Ping,
    /// Somebody is.
    Pong,
    /// The other side has no use for us any more.
    CloseClient,
    /// Somebody else leads: which of these, if it is known.
    NotPrimary(Option<usize>, Vec<(String, u16)>),
    /// Nodes came, went or changed.
    Nodes(Vec<Node>),
    /// Cells of all partitions, in their order.
    Table(Vec<Vec<(i32, Cell)>>),
    /// Cells that changed.
    Cells(Vec<(u32, i32, Cell)>),
    /// The cluster stops.
    Stop,
    /// A transaction committed: these objects changed. Those that it deleted are missing.
    Invalidate(Tid, Vec<Oid>),
    /// A revision.
    Object(Object),
    /// What a transaction stored, or only looked at.
    Transaction(Tid, Vec<Oid>),
    /// Transactions, oldest first.
    Tids(Vec<Tid>),
    /// The newest transaction.
    LastTid(Tid),
    /// What the cluster is at.
    Cluster(Cluster),
    /// A refusal.
    Refused(i64, Box<str>),
    /// Nothing for a reader.
    Other,
}

/// A packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// Its number.
    pub id: u32,
    /// Whether the number is that of a request of ours.
    pub is_answer: bool,
    /// What it says.
    pub packet: Packet,
}

type Outcome<T> = Result<T, NeoError>;

impl Message {
    /// Reads a packet.
    ///
    /// # Errors
    /// It is none that a reader of version 5 may meet.
    pub fn read(bytes: &Bytes) -> Outcome<Self> {
        let mut reader = Reader::new(bytes);
        let (id, number) = head(&mut reader)?;
        let packet = packet(number, &mut reader, bytes)?;
        if !reader.is_over() {
            return Err(reader.wrong());
        }
        let is_answer = number & code::ANSWER != 0;
        Ok(Self {
            id,
            is_answer,
            packet,
        })
    }

    /// Of a packet that begins like this: its number, if it is an answer. What follows may be missing.
    pub fn answers(head_of: &[u8]) -> Option<u32> {
        let (id, number) = head(&mut Reader::new(head_of)).ok()?;
        (number & code::ANSWER != 0).then_some(id)
    }
}

fn head(reader: &mut Reader<'_>) -> Outcome<(u32, i64)> {
    reader.tuple(3)?;
    Ok((reader.small()?, reader.int()?))
}

fn packet(number: i64, r: &mut Reader<'_>, bytes: &Bytes) -> Outcome<Packet> {
    const ANSWER: i64 = code::ANSWER;
    const ACCEPTED: i64 = code::IDENTIFY | ANSWER;
    const PONG: i64 = code::PING | ANSWER;
    const OBJECT: i64 = code::OBJECT | ANSWER;
    const TRANSACTION: i64 = code::TRANSACTION | ANSWER;
    const TIDS: i64 = code::TIDS_FROM | ANSWER;
    const LAST: i64 = code::LAST_TID | ANSWER;
    const CLUSTER: i64 = code::ASK_CLUSTER | ANSWER;
    let packet = match number {
        ACCEPTED => {
            r.tuple(3)?;
            r.variant(ext::KIND)?;
            Packet::Accepted(r.small()?, r.small()?)
        }
        code::NOT_PRIMARY => {
            r.tuple(2)?;
            Packet::NotPrimary(r.option(Reader::small)?, r.short_list(address)?)
        }
        code::NODES => {
            r.tuple(2)?;
            r.skip()?;
            Packet::Nodes(r.short_list(node)?)
        }
        code::TABLE => {
            r.tuple(3)?;
            r.skip()?;
            r.skip()?;
            let row = |r: &mut Reader<'_>| {
                r.list(|r| {
                    r.tuple(2)?;
                    Ok((r.small()?, cell(r)?))
                })
            };
            Packet::Table(r.short_list(row)?)
        }
        code::CELLS => {
            r.tuple(3)?;
            r.skip()?;
            r.skip()?;
            Packet::Cells(r.short_list(|r| {
                r.tuple(3)?;
                Ok((r.small()?, r.small()?, cell(r)?))
            })?)
        }
        code::INVALIDATE => {
            r.tuple(2)?;
            Packet::Invalidate(r.tid()?, r.list(Reader::oid)?)
        }
        OBJECT => Packet::Object(object(r, bytes)?),
        TRANSACTION => {
            r.tuple(6)?;
            let tid = r.tid()?;
            for _ in 0..4 {
                r.skip()?; // user, description, extension, whether it is packed
            }
            Packet::Transaction(tid, r.list(Reader::oid)?)
        }
        TIDS => {
            r.tuple(1)?;
            Packet::Tids(r.list(Reader::tid)?)
        }
        LAST => {
            r.tuple(1)?;
            Packet::LastTid(r.tid()?)
        }
        code::CLUSTER | CLUSTER => {
            r.tuple(1)?;
            Packet::Cluster(match r.variant(ext::CLUSTER)? {
                2 => Cluster::Running,
                5 => Cluster::BackingUp,
                _ => Cluster::Other,
            })
        }
        ANSWER => {
            r.tuple(2)?;
            let refusal = r.int()?;
            let text = r.slice()?;
            let text = String::from_utf8_lossy(&text[..text.len().min(SHOWN_MAX)]);
            let text: String = text.chars().filter(|c| !c.is_control()).collect();
            Packet::Refused(refusal, text.into())
        }
        _ => {
            r.skip()?;
            match number {
                code::PING => Packet::Ping,
                PONG => Packet::Pong,
                code::CLOSE_CLIENT => Packet::CloseClient,
                code::STOP => Packet::Stop,
                _ => Packet::Other,
            }
        }
    };
    Ok(packet)
}

fn address(r: &mut Reader<'_>) -> Outcome<(String, u16)> {
    r.tuple(2)?;
    let host = String::from_utf8_lossy(r.slice()?).into_owned();
    Ok((host, r.small()?))
}

fn node(r: &mut Reader<'_>) -> Outcome<Node> {
    r.tuple(5)?;
    Ok(Node {
        kind: match r.variant(ext::KIND)? {
            0 => Kind::Master,
            1 => Kind::Storage,
            _ => Kind::Other,
        },
        address: r.option(address)?,
        id: r.option(Reader::small)?,
        state: match r.variant(ext::STATE)? {
            2 => State::Running,
            _ => State::Other,
        },
        stamp: r.option(Reader::float)?,
    })
}

fn cell(r: &mut Reader<'_>) -> Outcome<Cell> {
    Ok(match r.variant(ext::CELL)? {
        // Feeding another one is being up to date.
        1 | 2 => Cell::Readable,
        4 => Cell::Discarded,
        _ => Cell::Unreadable,
    })
}

fn object(r: &mut Reader<'_>, bytes: &Bytes) -> Outcome<Object> {
    r.tuple(7)?;
    let (oid, serial) = (r.oid()?, r.tid()?);
    r.option(Reader::tid)?; // the next revision
    let is_compressed = match r.option(Reader::int)? {
        None | Some(0) => false,
        Some(1) => true,
        Some(_) => return Err(r.wrong()),
    };
    let checksum = r.slice()?.try_into().map_err(|_| r.wrong())?;
    let data = bytes.slice(r.span()?);
    r.option(Reader::tid)?; // where the data was first, if it was undone
    Ok(Object {
        oid,
        serial,
        is_compressed,
        checksum,
        data,
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    fn read(bytes: &[u8]) -> Outcome<Message> {
        let whole = Bytes::copy_from_slice(bytes);
        for cut in 0..bytes.len() {
            assert!(Message::read(&whole.slice(..cut)).is_err(), "{cut}");
        }
        Message::read(&whole)
    }

    fn said(bytes: &[u8]) -> Packet {
        read(bytes).unwrap().packet
    }

    /// What real nodes were seen to send.
    #[test]
    fn packets_of_real_nodes_are_read() {
        let accepted = b"\x93\x00\xcd\x80\x01\x93\xd4\x04\x00\xd2\xf0\0\0\x01\xd2\xe0\0\0\x01";
        let message = read(accepted).unwrap();
        assert_eq!((message.id, message.is_answer), (0, true));
        assert_eq!(message.packet, Packet::Accepted(-0x0fff_ffff, -0x1fff_ffff));
        assert_eq!(Message::answers(&accepted[..5]), Some(0));
        let nodes = b"\x93\x00\x06\x92\xcb\x41\xda\xc0\x19\xaf\xf3\x3d\xb1\x92\
            \x95\xd4\x04\x02\xc0\xd2\xe0\0\0\x01\xd4\x03\x02\xcb\x41\xda\xc0\x19\xaf\xf3\x3a\x0d\
            \x95\xd4\x04\x01\x92\xc4\x09127.0.0.1\xcd\x15\xea\x01\xd4\x03\x01\xc0";
        let Packet::Nodes(nodes) = said(nodes) else {
            panic!("no nodes")
        };
        let [we, storage] = &nodes[..] else {
            panic!("{nodes:?}")
        };
        assert_eq!((we.id, we.state), (Some(-0x1fff_ffff), State::Running));
        assert_eq!(we.stamp, Some(0x41da_c019_aff3_3a0d));
        assert_eq!(storage.address, Some(("127.0.0.1".to_owned(), 5610)));
        assert_eq!((storage.kind, storage.state), (Kind::Storage, State::Other));
        let table = b"\x93\x01\x0a\x93\x01\x01\x92\x92\x92\x01\xd4\x00\x01\x92\x02\xd4\x00\x00\x90";
        let row = vec![(1, Cell::Readable), (2, Cell::Unreadable)];
        assert_eq!(said(table), Packet::Table(vec![row, vec![]]));
        let last = b"\x93\x01\xcd\x80\x3c\x91\xc4\x08\0\0\0\0\0\0\0\0";
        assert_eq!(said(last), Packet::LastTid(Tid(0)));
        let id = |n: u8| [b"\xc4\x08\0\0\0\0\0\0\0".as_slice(), &[n]].concat();
        let object = [
            b"\x93\x01\xcd\x80\x20\x97",
            &id(5)[..],
            &id(6),
            b"\xc0\x01\xc4\x14",
            &[9; 20],
            b"\xc4\x03abc\xc0",
        ];
        let Packet::Object(object) = said(&object.concat()) else {
            panic!("no object")
        };
        assert_eq!((object.oid, object.serial), (Oid(5), Tid(6)));
        assert!(object.is_compressed && object.data == "abc" && object.checksum == [9; 20]);
    }

    #[test]
    fn everything_else_that_a_reader_meets_is_read() {
        for (bytes, packet) in [
            (&b"\x93\x07\x02\x90"[..], Packet::Ping),
            (b"\x93\x07\xcd\x80\x02\x90", Packet::Pong),
            (b"\x93\x07\x03\x90", Packet::CloseClient),
            (b"\x93\x07\x0d\x90", Packet::Stop),
            (
                b"\x93\x07\x2d\x91\xd4\x01\x02",
                Packet::Cluster(Cluster::Running),
            ),
            (
                b"\x93\x07\xcd\x80\x2e\x91\xd4\x01\x05",
                Packet::Cluster(Cluster::BackingUp),
            ),
            (
                b"\x93\x07\xcd\x80\x00\x92\x05\xc4\x02no",
                Packet::Refused(5, "no".into()),
            ),
            (
                b"\x93\x07\xcd\x80\x00\x92\x05\xa2no",
                Packet::Refused(5, "no".into()),
            ),
            (
                b"\x93\x07\x05\x92\x01\x91\x92\xa1h\x50",
                Packet::NotPrimary(Some(1), vec![("h".into(), 80)]),
            ),
            (
                b"\x93\x07\x0b\x93\x02\x01\x91\x93\x03\x02\xd4\x00\x04",
                Packet::Cells(vec![(3, 2, Cell::Discarded)]),
            ),
            (
                b"\x93\x07\x16\x92\xc4\x08\0\0\0\0\0\0\0\x09\x91\xc4\x08\0\0\0\0\0\0\0\x08",
                Packet::Invalidate(Tid(9), vec![Oid(8)]),
            ),
            (
                b"\x93\x07\xcd\x80\x22\x96\xc4\x08\0\0\0\0\0\0\0\x09\xc4\0\xc4\0\xc4\0\xc2\x90",
                Packet::Transaction(Tid(9), vec![]),
            ),
            (
                b"\x93\x07\xcd\x80\x30\x91\x91\xc4\x08\0\0\0\0\0\0\0\x09",
                Packet::Tids(vec![Tid(9)]),
            ),
            (b"\x93\x07\x63\x92\x81\x01\x02\xc7\x01\x07x", Packet::Other),
        ] {
            assert_eq!(said(bytes), packet, "{}", bytes.escape_ascii());
        }
        for bytes in [
            &b"\x93\x07\x02\x90\x00"[..],
            b"\x93\xff\x02\x90",
            b"\x92\x07\x02",
            b"\x93\x07\xcd\x80\x3c\x91\xc4\x07\0\0\0\0\0\0\0",
            b"\x93\x07\x16\x92\xc4\x08\0\0\0\0\0\0\0\x09\xdd\xff\xff\xff\xff",
        ] {
            let bytes = Bytes::copy_from_slice(bytes);
            assert!(Message::read(&bytes).is_err());
        }
    }

    #[test]
    fn greetings_of_other_versions_are_refused() {
        use super::super::{GREETING, check_greeting};
        assert_eq!(check_greeting(GREETING), Ok(()));
        assert_eq!(check_greeting(b"\x92\xc4\x03NEO\x05"), Ok(()));
        for other in [
            &b"\x92\xa3NEO\x04"[..],
            b"\xa3NEO",
            b"\x92\xa3ZEO\x05",
            b"S",
        ] {
            assert_eq!(check_greeting(other), Err(super::NeoError::Greeting));
        }
    }
}
