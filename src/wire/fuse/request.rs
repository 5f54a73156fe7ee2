//! What the kernel asks: a request borrowed from the buffer it came in.
//!
//! All transports hand over the same three parts: the 40-byte header, the operation's fixed structure, and
//! the rest. `/dev/fuse` delivers them in one piece, which `split` cuts; a ring delivers them apart.

use super::abi::{self, op};
use crate::base::{Fh, NodeId, Unique};

/// A request that cannot be read. The kernel made it, so it is answered EIO and counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RequestError {
    /// Fewer bytes than a header.
    #[error("request of {0} bytes is shorter than its header")]
    NoHeader(usize),
    /// Fewer bytes than the operation needs.
    #[error("operation {opcode} is cut short")]
    Short {
        /// The operation.
        opcode: u32,
    },
    /// A name without its terminating NUL.
    #[error("operation {opcode} carries a name without an end")]
    Name {
        /// The operation.
        opcode: u32,
    },
}

/// One request.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    /// The kernel's number of it, to be echoed.
    pub unique: Unique,
    /// The node it is about.
    pub node: NodeId,
    /// User id of the caller.
    pub uid: u32,
    /// Group id of the caller.
    pub gid: u32,
    /// Thread id of the caller.
    pub pid: u32,
    /// What is asked.
    pub op: Op<'a>,
}

/// What is asked. Operations the daemon does not serve are `Other`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Op<'a> {
    /// Find `name` in the directory.
    Lookup {
        /// The name, without NUL.
        name: &'a [u8],
    },
    /// The kernel dropped this many references; never answered.
    Forget {
        /// References dropped.
        nlookup: u64,
    },
    /// Many FORGETs; never answered. Read with [`forgets`].
    BatchForget {
        /// The packed list.
        list: &'a [u8],
    },
    /// Attributes of the node.
    Getattr,
    /// Open a file or a directory.
    Open {
        /// Whether it is a directory.
        dir: bool,
        /// open(2) flags.
        flags: u32,
    },
    /// The last descriptor of an open is gone.
    Release {
        /// Whether it was a directory.
        dir: bool,
        /// The open file.
        fh: Fh,
    },
    /// Bytes of a file.
    Read {
        /// The open file.
        fh: Fh,
        /// First byte.
        off: u64,
        /// Bytes wanted.
        size: u32,
        /// open(2) flags.
        flags: u32,
    },
    /// Names of a directory.
    Readdir {
        /// Cookie of the entry to go on after.
        off: u64,
        /// Room for the reply.
        size: u32,
    },
    /// Bytes for a control file.
    Write {
        /// The open file.
        fh: Fh,
        /// First byte.
        off: u64,
        /// The bytes.
        data: &'a [u8],
    },
    /// Figures of the file system.
    Statfs,
    /// The caller of `target` was signalled; never answered.
    Interrupt {
        /// The request the caller waits for.
        target: Unique,
    },
    /// Answer to a RETRIEVE.
    NotifyReply {
        /// First byte of what follows.
        off: u64,
        /// Pages the kernel held.
        data: &'a [u8],
    },
    /// First request of a connection.
    Init {
        /// Protocol, and what the kernel offers.
        offer: Offer,
    },
    /// Last request of a connection; not sent to plain fuse mounts.
    Destroy,
    /// Anything else: answered ENOSYS.
    Other {
        /// Its number.
        opcode: u32,
    },
}

/// What a kernel offers in INIT.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Offer {
    /// Protocol major; 7.
    pub major: u32,
    /// Protocol minor.
    pub minor: u32,
    /// Bytes of readahead.
    pub max_readahead: u32,
    /// Flag bits, both words.
    pub flags: u64,
}

/// The three parts of a request.
#[derive(Clone, Copy, Debug)]
pub struct Parts<'a> {
    /// 40 bytes.
    pub header: &'a [u8],
    /// The fixed structure; what is beyond its size is not looked at.
    pub fixed: &'a [u8],
    /// Names and data.
    pub rest: &'a [u8],
}

/// Cuts a message of `/dev/fuse` into its parts.
///
/// # Errors
/// Fewer bytes than the header or the operation's fixed structure.
pub fn split(message: &[u8]) -> Result<Parts<'_>, RequestError> {
    let (header, body) = message
        .split_at_checked(abi::IN_HEADER_LEN)
        .ok_or(RequestError::NoHeader(message.len()))?;
    let head: abi::InHeader = abi::read(header).expect("cut to its length");
    // INIT was 16 bytes before protocol 7.36.
    let fixed_len = abi::fixed_len(head.opcode).min(if head.opcode == op::INIT {
        body.len()
    } else {
        usize::MAX
    });
    let (fixed, rest) = body
        .split_at_checked(fixed_len)
        .ok_or(RequestError::Short {
            opcode: head.opcode,
        })?;
    Ok(Parts {
        header,
        fixed,
        rest,
    })
}

impl<'a> Request<'a> {
    /// Reads a request from its parts.
    ///
    /// # Errors
    /// A part is shorter than the operation needs, or a name has no end.
    pub fn parse(parts: Parts<'a>) -> Result<Self, RequestError> {
        let head: abi::InHeader =
            abi::read(parts.header).ok_or(RequestError::NoHeader(parts.header.len()))?;
        Ok(Self {
            unique: Unique(head.unique),
            node: NodeId(head.nodeid),
            uid: head.uid,
            gid: head.gid,
            pid: head.pid,
            op: Op::parse(head.opcode, parts.fixed, parts.rest)?,
        })
    }
}

impl<'a> Op<'a> {
    fn parse(opcode: u32, fixed: &'a [u8], rest: &'a [u8]) -> Result<Self, RequestError> {
        let short = RequestError::Short { opcode };
        Ok(match opcode {
            op::LOOKUP => Self::Lookup {
                name: name(opcode, rest)?,
            },
            op::FORGET => Self::Forget {
                nlookup: u64_at(fixed, 0).ok_or(short)?,
            },
            op::BATCH_FORGET => Self::BatchForget { list: rest },
            op::GETATTR => Self::Getattr,
            op::OPEN | op::OPENDIR => {
                let open: abi::OpenIn = abi::read(fixed).ok_or(short)?;
                Self::Open {
                    dir: opcode == op::OPENDIR,
                    flags: open.flags,
                }
            }
            op::RELEASE | op::RELEASEDIR => {
                let release: abi::ReleaseIn = abi::read(fixed).ok_or(short)?;
                Self::Release {
                    dir: opcode == op::RELEASEDIR,
                    fh: Fh(release.fh),
                }
            }
            op::READ | op::READDIR => {
                let read: abi::ReadIn = abi::read(fixed).ok_or(short)?;
                let (off, size) = (read.offset, read.size);
                match opcode {
                    op::READ => Self::Read {
                        fh: Fh(read.fh),
                        off,
                        size,
                        flags: read.flags,
                    },
                    _ => Self::Readdir { off, size },
                }
            }
            op::WRITE => {
                let write: abi::WriteIn = abi::read(fixed).ok_or(short)?;
                let data = usize::try_from(write.size).ok().and_then(|n| rest.get(..n));
                Self::Write {
                    fh: Fh(write.fh),
                    off: write.offset,
                    data: data.ok_or(short)?,
                }
            }
            op::STATFS => Self::Statfs,
            op::INTERRUPT => Self::Interrupt {
                target: Unique(u64_at(fixed, 0).ok_or(short)?),
            },
            op::NOTIFY_REPLY => Self::notify_reply(fixed, rest).ok_or(short)?,
            op::INIT => Self::Init {
                offer: offer(fixed).ok_or(short)?,
            },
            op::DESTROY => Self::Destroy,
            _ => Self::Other { opcode },
        })
    }

    /// The structure lies before the data on `/dev/fuse` and in newer rings, apart from it in the first ones:
    /// told by the size it names.
    fn notify_reply(fixed: &'a [u8], rest: &'a [u8]) -> Option<Self> {
        let inside: Option<abi::NotifyRetrieveIn> = abi::read(rest);
        if let Some(head) = inside
            && usize::try_from(head.size).ok() == rest.len().checked_sub(size_of_val(&head))
        {
            return Some(Self::NotifyReply {
                off: head.offset,
                data: &rest[size_of_val(&head)..],
            });
        }
        let head: abi::NotifyRetrieveIn = abi::read(fixed)?;
        Some(Self::NotifyReply {
            off: head.offset,
            data: rest,
        })
    }
}

/// The nodes of a BATCH_FORGET and how many references each lost.
pub fn forgets(list: &[u8]) -> impl Iterator<Item = (NodeId, u64)> + '_ {
    list.chunks_exact(size_of::<abi::ForgetOne>()).map(|chunk| {
        let one: abi::ForgetOne = abi::read(chunk).expect("cut to its length");
        (NodeId(one.nodeid), one.nlookup)
    })
}

fn name(opcode: u32, rest: &[u8]) -> Result<&[u8], RequestError> {
    let end = rest
        .iter()
        .position(|&c| c == 0)
        .ok_or(RequestError::Name { opcode })?;
    Ok(&rest[..end])
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    abi::read(bytes.get(at..)?)
}

fn offer(fixed: &[u8]) -> Option<Offer> {
    let first: abi::InitIn = abi::read(fixed)?;
    let flags2 = abi::read::<abi::InitIn2>(&fixed[size_of_val(&first)..]).map_or(0, |i| i.flags2);
    let extended = u64::from(first.flags) & abi::init::INIT_EXT != 0;
    Some(Offer {
        major: first.major,
        minor: first.minor,
        max_readahead: first.max_readahead,
        flags: u64::from(first.flags) | if extended { u64::from(flags2) << 32 } else { 0 },
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    fn message(opcode: u32, body: &[u8]) -> Vec<u8> {
        let len = u32::try_from(40 + body.len()).unwrap();
        let head = abi::InHeader {
            len,
            opcode,
            unique: 6,
            nodeid: 9,
            ..Default::default()
        };
        [abi::bytes(&head), body].concat()
    }

    fn parse(message: &[u8]) -> Result<Request<'_>, RequestError> {
        Request::parse(split(message)?)
    }

    #[test]
    fn a_lookup_names_its_child() {
        let bytes = message(op::LOOKUP, b"head\0");
        let request = parse(&bytes).unwrap();
        assert_eq!((request.unique, request.node), (Unique(6), NodeId(9)));
        assert_eq!(request.op, Op::Lookup { name: b"head" });
        assert_eq!(
            parse(&message(op::LOOKUP, b"head")).err(),
            Some(RequestError::Name { opcode: 1 })
        );
    }

    #[test]
    fn the_offer_joins_both_flag_words_only_when_extended() {
        let words = |flags: u32| {
            let mut body = vec![7u32, 45, 131_072, flags, 1 << 9];
            body.resize(16, 0);
            body.iter()
                .flat_map(|w| w.to_ne_bytes())
                .collect::<Vec<u8>>()
        };
        let flags_of = |flags| match parse(&message(op::INIT, &words(flags))).unwrap().op {
            Op::Init { offer } => offer.flags,
            other => panic!("{other:?}"),
        };
        assert_eq!(flags_of(1), 1);
        assert_eq!(flags_of(1 << 30), 1 << 30 | abi::init::OVER_IO_URING);
    }

    #[test]
    fn a_retrieved_page_is_found_in_both_layouts() {
        let head = abi::NotifyRetrieveIn {
            offset: 4096,
            size: 3,
            ..Default::default()
        };
        let expected = Op::NotifyReply {
            off: 4096,
            data: b"abc",
        };
        let inside = [abi::bytes(&head), b"abc"].concat();
        assert_eq!(
            Op::parse(op::NOTIFY_REPLY, &[0; 128], &inside).unwrap(),
            expected
        );
        assert_eq!(
            Op::parse(op::NOTIFY_REPLY, abi::bytes(&head), b"abc").unwrap(),
            expected
        );
    }

    #[test]
    fn no_bytes_make_the_reader_panic() {
        let mut seed = 7u64;
        for opcode in 0..64u32 {
            for len in 0..96 {
                let mut body = vec![0; len];
                for byte in &mut body {
                    seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                    *byte = seed.to_be_bytes()[0];
                }
                let _ = parse(&message(opcode, &body));
                let _ = parse(&body);
            }
        }
    }
}
