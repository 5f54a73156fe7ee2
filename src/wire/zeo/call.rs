//! What is sent: calls of a client that only reads, in either encoding.
//!
//! A payload is put together from [`Arg`]s, small trees on the stack; a server made for a test writes its replies with them too.

use super::Encoding;
use crate::base::{Oid, Tid};

/// A value to be sent.
#[derive(Clone, Copy, Debug)]
pub enum Arg<'a> {
    /// None.
    None,
    /// A boolean.
    Bool(bool),
    /// An integer.
    Int(i64),
    /// Bytes.
    Bytes(&'a [u8]),
    /// Text.
    Text(&'a str),
    /// A tuple.
    Tuple(&'a [Self]),
    /// A list.
    List(&'a [Self]),
}

/// Calls that change nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Call<'a> {
    /// The first one: which storage. Read-only is what any server grants.
    Register(&'a str),
    /// The newest transaction; also asked to see whether the server is there.
    LastTransaction,
    /// Name and sizes of the storage.
    Info,
    /// An object as it was before a transaction.
    LoadBefore(Oid, Tid),
    /// Objects changed after a transaction.
    Invalidations(Tid),
    /// A walk over the transactions between these two, both included.
    WalkStart(Tid, Tid),
    /// The next transaction of a walk.
    WalkNext(i64),
    /// A walk over the records of the transaction that a walk came to.
    RecordsStart(i64, Tid),
    /// The next record of it.
    RecordsNext(i64),
    /// A walk that is not finished is no longer wanted.
    WalkEnd(i64),
}

impl Call<'_> {
    /// Its name at the server.
    pub fn method(&self) -> &'static str {
        match self {
            Self::Register(_) => "register",
            Self::LastTransaction => "lastTransaction",
            Self::Info => "get_info",
            Self::LoadBefore(..) => "loadBefore",
            Self::Invalidations(_) => "getInvalidations",
            Self::WalkStart(..) => "iterator_start",
            Self::WalkNext(_) => "iterator_next",
            Self::RecordsStart(..) => "iterator_record_start",
            Self::RecordsNext(_) => "iterator_record_next",
            Self::WalkEnd(_) => "iterator_gc",
        }
    }

    /// Appends its frame, with `number` to tell its reply by.
    pub fn encode(&self, encoding: Encoding, number: i64, out: &mut Vec<u8>) {
        let mut send = |args: &[Arg<'_>]| {
            let message = [
                Arg::Int(number),
                Arg::Bool(false),
                Arg::Text(self.method()),
                Arg::Tuple(args),
            ];
            encode(encoding, &message, out);
        };
        match *self {
            Self::Register(storage) => send(&[Arg::Text(storage), Arg::Bool(true)]),
            Self::LastTransaction | Self::Info => send(&[]),
            Self::LoadBefore(oid, before) => {
                send(&[
                    Arg::Bytes(&oid.0.to_be_bytes()),
                    Arg::Bytes(&before.0.to_be_bytes()),
                ]);
            }
            Self::Invalidations(since) => send(&[Arg::Bytes(&since.0.to_be_bytes())]),
            Self::WalkStart(first, last) => {
                send(&[
                    Arg::Bytes(&first.0.to_be_bytes()),
                    Arg::Bytes(&last.0.to_be_bytes()),
                ]);
            }
            Self::WalkNext(walk) | Self::RecordsNext(walk) => send(&[Arg::Int(walk)]),
            Self::RecordsStart(walk, tid) => {
                send(&[Arg::Int(walk), Arg::Bytes(&tid.0.to_be_bytes())]);
            }
            Self::WalkEnd(walk) => send(&[Arg::List(&[Arg::Int(walk)])]),
        }
    }
}

/// Appends the frame of a message of these four parts.
///
/// # Panics
/// The frame is longer than 4 GiB.
pub fn encode(encoding: Encoding, message: &[Arg<'_>; 4], out: &mut Vec<u8>) {
    let start = out.len();
    out.extend_from_slice(&[0; 4]);
    match encoding {
        Encoding::Pickle => {
            out.extend_from_slice(b"\x80\x03");
            pickle(&Arg::Tuple(message), out);
            out.push(b'.');
        }
        Encoding::Msgpack => msgpack(&Arg::Tuple(message), out),
    }
    let len = u32::try_from(out.len() - start - 4).expect("BUG: a message of 4 GiB");
    out[start..][..4].copy_from_slice(&len.to_be_bytes());
}

fn len32(len: usize) -> u32 {
    u32::try_from(len).expect("BUG: a value of 4 GiB")
}

fn pickle(arg: &Arg<'_>, out: &mut Vec<u8>) {
    match *arg {
        Arg::None => out.push(b'N'),
        Arg::Bool(yes) => out.push(if yes { 0x88 } else { 0x89 }),
        Arg::Int(n) => pickle_int(n, out),
        Arg::Bytes(bytes) => {
            match u8::try_from(bytes.len()) {
                Ok(len) => out.extend_from_slice(&[b'C', len]),
                Err(_) => {
                    out.push(b'B');
                    out.extend_from_slice(&len32(bytes.len()).to_le_bytes());
                }
            }
            out.extend_from_slice(bytes);
        }
        Arg::Text(text) => {
            out.push(b'X');
            out.extend_from_slice(&len32(text.len()).to_le_bytes());
            out.extend_from_slice(text.as_bytes());
        }
        Arg::Tuple(items) => {
            let close = match items.len() {
                0 => b')',
                1 => 0x85,
                2 => 0x86,
                3 => 0x87,
                _ => b't',
            };
            if close == b't' {
                out.push(b'(');
            }
            items.iter().for_each(|item| pickle(item, out));
            out.push(close);
        }
        Arg::List(items) => {
            out.extend_from_slice(b"](");
            items.iter().for_each(|item| pickle(item, out));
            out.push(b'e');
        }
    }
}

fn pickle_int(n: i64, out: &mut Vec<u8>) {
    if let Ok(n) = u8::try_from(n) {
        out.extend_from_slice(&[b'K', n]);
    } else if let Ok(n) = u16::try_from(n) {
        out.push(b'M');
        out.extend_from_slice(&n.to_le_bytes());
    } else if let Ok(n) = i32::try_from(n) {
        out.push(b'J');
        out.extend_from_slice(&n.to_le_bytes());
    } else {
        out.extend_from_slice(&[0x8a, 8]);
        out.extend_from_slice(&n.to_le_bytes());
    }
}

fn msgpack(arg: &Arg<'_>, out: &mut Vec<u8>) {
    match *arg {
        Arg::None => out.push(0xc0),
        Arg::Bool(yes) => out.push(if yes { 0xc3 } else { 0xc2 }),
        Arg::Int(n) => msgpack_int(n, out),
        Arg::Bytes(bytes) => {
            msgpack_len(bytes.len(), None, [Some(0xc4), Some(0xc5), Some(0xc6)], out);
            out.extend_from_slice(bytes);
        }
        Arg::Text(text) => {
            let marks = [Some(0xd9), Some(0xda), Some(0xdb)];
            msgpack_len(text.len(), Some((0xa0, 32)), marks, out);
            out.extend_from_slice(text.as_bytes());
        }
        Arg::Tuple(items) | Arg::List(items) => {
            let marks = [None, Some(0xdc), Some(0xdd)];
            msgpack_len(items.len(), Some((0x90, 16)), marks, out);
            items.iter().for_each(|item| msgpack(item, out));
        }
    }
}

fn msgpack_int(n: i64, out: &mut Vec<u8>) {
    if let Ok(n) = i8::try_from(n) {
        if n >= -32 {
            return out.extend_from_slice(&n.to_be_bytes());
        }
        out.push(0xd0);
        return out.extend_from_slice(&n.to_be_bytes());
    }
    if let Ok(n) = u32::try_from(n) {
        return match (u8::try_from(n), u16::try_from(n)) {
            (Ok(n), _) => out.extend_from_slice(&[0xcc, n]),
            (_, Ok(n)) => {
                out.push(0xcd);
                out.extend_from_slice(&n.to_be_bytes());
            }
            _ => {
                out.push(0xce);
                out.extend_from_slice(&n.to_be_bytes());
            }
        };
    }
    out.push(0xd3);
    out.extend_from_slice(&n.to_be_bytes());
}

/// A length, in the shortest form that its kind has: within the mark, or in 1, 2 or 4 bytes.
fn msgpack_len(
    len: usize,
    fix: Option<(u8, usize)>,
    [one, two, four]: [Option<u8>; 3],
    out: &mut Vec<u8>,
) {
    if let Some((mark, below)) = fix
        && len < below
        && let Ok(len) = u8::try_from(len)
    {
        return out.push(mark | len);
    }
    match (u8::try_from(len), u16::try_from(len), one, two, four) {
        (Ok(len), _, Some(mark), ..) => out.extend_from_slice(&[mark, len]),
        (_, Ok(len), _, Some(mark), _) => {
            out.push(mark);
            out.extend_from_slice(&len.to_be_bytes());
        }
        (.., mark) => {
            out.push(mark.unwrap_or_default());
            out.extend_from_slice(&len32(len).to_be_bytes());
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|b| format!("{b:02x}")).collect()
    }

    /// What a client of ZEO 6.2 was seen to send.
    #[test]
    fn calls_are_what_real_clients_send() {
        let max = Tid(0x7fff_ffff_ffff_ffff);
        let since = Tid(0x03d4_dc00_20da_73dd);
        for (call, number, pickled, packed) in [
            (
                Call::Register("1"),
                1,
                "0000001d8003284b0189580800000072656769737465725801000000318886742e",
                "000000109401c2a872656769737465729\
                 2a131c3",
            ),
            (
                Call::LastTransaction,
                2,
                "0000001d8003284b0289580f0000006c6173745472616e73616374696f6e29742e",
                "000000149402c2af6c6173745472616e73616374696f6e90",
            ),
            (
                Call::LoadBefore(Oid(0), max),
                4,
                "0000002c8003284b0489580a0000006c6f61644265666f7265430800000000000000004308\
                 7fffffffffffffff86742e",
                "000000239404c2aa6c6f61644265666f726592c4080000000000000000c4087fffffffffffffff",
            ),
            (
                Call::Invalidations(since),
                9,
                "000000288003284b09895810000000676574496e76616c69646174696f6e73430803d4dc0020da73dd\
                 85742e",
                "0000001f9409c2b0676574496e76616c69646174696f6e7391c40803d4dc0020da73dd",
            ),
        ] {
            for (encoding, seen) in [(Encoding::Pickle, pickled), (Encoding::Msgpack, packed)] {
                let mut out = Vec::new();
                call.encode(encoding, number, &mut out);
                assert_eq!(hex(&out), seen.replace(char::is_whitespace, ""), "{call:?}");
            }
        }
    }

    #[test]
    fn a_choice_is_two_bytes_in_a_frame() {
        assert_eq!(Encoding::Pickle.greeting(), b"\0\0\0\x02Z5");
        assert_eq!(Encoding::Msgpack.greeting(), b"\0\0\0\x02M5");
    }
}
