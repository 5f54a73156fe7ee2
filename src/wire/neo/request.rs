//! What a client says.

use super::msgpack::Writer;
use super::{code, ext};
use crate::base::{Oid, Tid};

/// The type of a client among nodes.
const CLIENT: u8 = 2;

/// A packet of ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Request<'a> {
    /// To a master: who we are.
    IdentifyToMaster {
        /// Name of the cluster.
        cluster: &'a str,
    },
    /// To a storage node: who we are to the master, as it announced us.
    IdentifyToStorage {
        /// Name of the cluster.
        cluster: &'a str,
        /// Our number.
        node: i32,
        /// Bits of the time that stands with it.
        stamp: Option<u64>,
    },
    /// Whether the other side is there.
    Ping,
    /// That we are; the number is that of its question.
    Pong,
    /// An object as it was before a transaction.
    Before(Oid, Tid),
    /// An object as just this transaction made it.
    Exactly(Oid, Tid),
    /// What a transaction stored.
    Transaction(Tid),
    /// Transactions of a partition from one up to another, at most so many.
    TidsFrom(Tid, Tid, u32, u32),
    /// The newest transaction.
    LastTid,
    /// What the cluster is at.
    Cluster,
}

impl Request<'_> {
    fn code(&self) -> i64 {
        match self {
            Self::IdentifyToMaster { .. } | Self::IdentifyToStorage { .. } => code::IDENTIFY,
            Self::Ping => code::PING,
            Self::Pong => code::PING | code::ANSWER,
            Self::Before(..) | Self::Exactly(..) => code::OBJECT,
            Self::Transaction(_) => code::TRANSACTION,
            Self::TidsFrom(..) => code::TIDS_FROM,
            Self::LastTid => code::LAST_TID,
            Self::Cluster => code::ASK_CLUSTER,
        }
    }

    /// Appends the packet to `out`.
    pub fn encode(&self, id: u32, out: &mut Vec<u8>) {
        let mut w = Writer(out);
        w.array(3);
        w.int(i64::from(id));
        w.int(self.code());
        match *self {
            Self::IdentifyToMaster { cluster } => {
                identify(&mut w, cluster, None, None, Some("read_only"));
            }
            Self::IdentifyToStorage {
                cluster,
                node,
                stamp,
            } => identify(&mut w, cluster, Some(node), stamp, None),
            Self::Ping | Self::Pong | Self::LastTid | Self::Cluster => w.array(0),
            Self::Before(oid, tid) | Self::Exactly(oid, tid) => {
                w.array(3);
                w.bin(&oid.0.to_be_bytes());
                let is_before = matches!(self, Self::Before(..));
                if is_before {
                    w.nil();
                }
                w.bin(&tid.0.to_be_bytes());
                if !is_before {
                    w.nil();
                }
            }
            Self::Transaction(tid) => {
                w.array(1);
                w.bin(&tid.0.to_be_bytes());
            }
            Self::TidsFrom(from, to, count, partition) => {
                w.array(4);
                w.bin(&from.0.to_be_bytes());
                w.bin(&to.0.to_be_bytes());
                w.int(i64::from(count));
                w.int(i64::from(partition));
            }
        }
    }
}

fn identify(
    w: &mut Writer<'_>,
    cluster: &str,
    node: Option<i32>,
    stamp: Option<u64>,
    switch: Option<&str>,
) {
    w.array(6);
    w.variant(ext::KIND, CLIENT);
    match node {
        Some(node) => w.int(i64::from(node)),
        None => w.nil(),
    }
    w.nil();
    w.bin(cluster.as_bytes());
    match stamp {
        Some(bits) => w.float(bits),
        None => w.nil(),
    }
    w.switch(switch);
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As a real client was seen to send them.
    #[test]
    fn requests_are_those_of_a_real_client() {
        let cluster = "z";
        let stamp = Some(0x41da_c019_bda5_b93f);
        let node = -0x2000_0000 + 1;
        for (request, right) in [
            (
                Request::IdentifyToMaster { cluster },
                &b"\x93\x00\x01\x96\xd4\x04\x02\xc0\xc0\xc4\x01z\xc0\x81\xc4\x09read_only\xc3"[..],
            ),
            (
                Request::IdentifyToStorage {
                    cluster,
                    node,
                    stamp,
                },
                b"\x93\x00\x01\x96\xd4\x04\x02\xd2\xe0\0\0\x01\xc0\xc4\x01z\xcb\x41\xda\xc0\x19\xbd\xa5\xb9\x3f\x80",
            ),
            (Request::LastTid, b"\x93\x00\x3c\x90"),
            (Request::Pong, b"\x93\x00\xcd\x80\x02\x90"),
            (
                Request::Before(Oid(0), Tid(1)),
                b"\x93\x00\x20\x93\xc4\x08\0\0\0\0\0\0\0\0\xc0\xc4\x08\0\0\0\0\0\0\0\x01",
            ),
            (
                Request::Exactly(Oid(0), Tid(1)),
                b"\x93\x00\x20\x93\xc4\x08\0\0\0\0\0\0\0\0\xc4\x08\0\0\0\0\0\0\0\x01\xc0",
            ),
        ] {
            let mut out = Vec::new();
            request.encode(0, &mut out);
            assert_eq!(out, right, "{request:?}");
        }
    }
}
