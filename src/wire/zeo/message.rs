//! What a payload says: a reply, an error, a push.

use super::tree::{Tree, Value};
use super::{Encoding, ZeoError};
use crate::base::{Oid, Tid};
use bytes::Bytes;
use std::borrow::Cow;

/// A message of a server.
#[derive(Debug)]
pub enum Message {
    /// What a call gave.
    Reply(i64, Answer),
    /// What a call was refused with.
    Error(i64, Refusal),
    /// Something nobody asked for.
    Push(Push),
}

/// Pushed by a server.
#[derive(Debug)]
pub enum Push {
    /// A transaction committed: these objects changed, in no order, some perhaps twice.
    Invalidate(Tid, Vec<Oid>),
    /// Anything else, which a reader has no use for.
    Other,
}

/// An exception that a call ended with.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{class}{}", if .text.is_empty() { String::new() } else { format!(": {text}") })]
pub struct Refusal {
    /// Dotted name of its class.
    pub class: Box<str>,
    /// Its first argument, if that is text.
    pub text: Box<str>,
}

impl Refusal {
    /// The object does not exist: never, not any more, or not any more at the time asked for.
    pub fn is_no_object(&self) -> bool {
        self.class.ends_with(".POSKeyError") || self.class.ends_with(".KeyError")
    }
}

/// Result of a load.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Revision {
    /// The record.
    pub data: Bytes,
    /// The transaction that made this revision.
    pub serial: Tid,
    /// The transaction that made the next one.
    pub next: Option<Tid>,
}

/// A transaction of a walk.
pub type History = Option<Tid>;

/// A record of a walk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stored {
    /// The object.
    pub oid: Oid,
    /// The transaction.
    pub tid: Tid,
}

/// The result of a call: its meaning depends on which.
#[derive(Debug)]
pub struct Answer {
    tree: Tree,
    result: Value,
}

fn tree(encoding: Encoding, payload: &Bytes) -> Result<Tree, ZeoError> {
    match encoding {
        Encoding::Pickle => Tree::of_pickle(payload),
        Encoding::Msgpack => Tree::of_msgpack(payload),
    }
}

impl Message {
    /// Reads a payload.
    ///
    /// # Errors
    /// It is no message.
    pub fn read(encoding: Encoding, payload: &Bytes) -> Result<Self, ZeoError> {
        let tree = tree(encoding, payload)?;
        let Some([number, flag, method, args]) = tree.items(&tree.root) else {
            return Err(ZeoError::Form);
        };
        let (Value::Int(number), Some(method)) = (number, word(method)) else {
            return Err(ZeoError::Form);
        };
        let (number, is_reply) = (*number, method == &b".reply"[..]);
        match flag {
            Value::Int(0) | Value::Bool(false) if is_reply => {
                let result = args.clone();
                Ok(Self::Reply(number, Answer { tree, result }))
            }
            Value::Int(2) if is_reply => Ok(Self::Error(number, refusal(&tree, args))),
            Value::Int(1) | Value::Bool(true) if !is_reply => {
                if method != &b"invalidateTransaction"[..] {
                    return Ok(Self::Push(Push::Other));
                }
                let what = invalidated(&tree, args);
                let (tid, oids) = what.ok_or(ZeoError::Push("invalidateTransaction"))?;
                Ok(Self::Push(Push::Invalidate(tid, oids)))
            }
            _ => Err(ZeoError::Form),
        }
    }
}

/// A call, as the other side reads it: for servers that are made for tests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// What its reply is told by.
    pub number: i64,
    /// Name of the method.
    pub method: String,
    /// Arguments.
    pub args: Vec<Word>,
}

/// An argument of a call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Word {
    /// A number.
    Int(i64),
    /// 8 bytes: an oid or a tid.
    Id(u64),
    /// Text.
    Text(String),
    /// Anything else.
    Other,
}

impl Request {
    /// Reads a call.
    ///
    /// # Errors
    /// It is none.
    pub fn read(encoding: Encoding, payload: &Bytes) -> Result<Self, ZeoError> {
        let tree = tree(encoding, payload)?;
        let Some([Value::Int(sent), Value::Bool(false), method, args]) = tree.items(&tree.root)
        else {
            return Err(ZeoError::Form);
        };
        let method = word(method).ok_or(ZeoError::Form)?;
        let args = tree.items(args).ok_or(ZeoError::Form)?;
        let word = |value: &Value| match value {
            Value::Int(n) => Word::Int(*n),
            Value::Text(text) => Word::Text(String::from_utf8_lossy(text).into_owned()),
            value => number(value).map_or(Word::Other, Word::Id),
        };
        Ok(Self {
            number: *sent,
            method: String::from_utf8_lossy(method).into_owned(),
            args: args.iter().map(word).collect(),
        })
    }
}

/// The number of the message that begins like this; what follows may be missing.
pub fn number_of(encoding: Encoding, head: &[u8]) -> Option<i64> {
    let array = |n: usize| head.get(n..);
    let number = match encoding {
        Encoding::Pickle => {
            let at = match head {
                [0x80, _, b'(', ..] => 3,
                [b'(', ..] => 1,
                _ => return None,
            };
            match *array(at)? {
                [b'K', n, ..] => i64::from(n),
                [b'M', a, b, ..] => i64::from(u16::from_le_bytes([a, b])),
                [b'J', a, b, c, d, ..] => i64::from(i32::from_le_bytes([a, b, c, d])),
                [0x8a, len @ 1..=8, ref rest @ ..] => {
                    let bytes = rest.get(..usize::from(len))?;
                    let fill = if bytes.last()? & 0x80 != 0 { 0xff } else { 0 };
                    let mut whole = [fill; 8];
                    whole[..bytes.len()].copy_from_slice(bytes);
                    i64::from_le_bytes(whole)
                }
                _ => return None,
            }
        }
        Encoding::Msgpack => match *array(0)? {
            [0x94, n @ 0x00..=0x7f, ..] => i64::from(n),
            [0x94, 0xcc, n, ..] => i64::from(n),
            [0x94, 0xcd, a, b, ..] => i64::from(u16::from_be_bytes([a, b])),
            [0x94, 0xce, a, b, c, d, ..] => i64::from(u32::from_be_bytes([a, b, c, d])),
            [0x94, 0xcf | 0xd3, ref rest @ ..] => {
                i64::from_be_bytes(rest.get(..8)?.try_into().ok()?)
            }
            _ => return None,
        },
    };
    Some(number)
}

/// Names come as text or as bytes.
fn word(value: &Value) -> Option<&Bytes> {
    match value {
        Value::Text(text) | Value::Bytes(text) => Some(text),
        _ => None,
    }
}

/// 8 bytes.
fn number(value: &Value) -> Option<u64> {
    let bytes = word(value)?;
    Some(u64::from_be_bytes(bytes.as_ref().try_into().ok()?))
}

fn invalidated(tree: &Tree, value: &Value) -> Option<(Tid, Vec<Oid>)> {
    let [tid, oids] = tree.items(value)? else {
        return None;
    };
    let oids = tree.items(oids)?.iter().map(|oid| number(oid).map(Oid));
    Some((Tid(number(tid)?), oids.collect::<Option<_>>()?))
}

/// Longest text of an exception that is shown.
const SHOWN_MAX: usize = 200;

/// An error of any form is an error.
fn refusal(tree: &Tree, value: &Value) -> Refusal {
    let shown = |value: &Value| {
        let text = word(value)?;
        let text = String::from_utf8_lossy(&text[..text.len().min(SHOWN_MAX)]);
        let is_plain = |c: char| !c.is_control();
        Some(match text {
            Cow::Borrowed(text) if text.chars().all(is_plain) => text.to_owned(),
            text => text.chars().filter(|&c| is_plain(c)).collect(),
        })
    };
    let (class, args) = match tree.items(value) {
        Some([class, args]) => (shown(class), Some(args)),
        _ => (None, None),
    };
    let args = args.and_then(|args| tree.items(args)).unwrap_or_default();
    // Arguments may be bytes, such as an oid, which say nothing to a reader.
    let text = args.first().filter(|arg| matches!(arg, Value::Text(_)));
    Refusal {
        class: class
            .unwrap_or_else(|| "an unknown error".to_owned())
            .into(),
        text: text.and_then(shown).unwrap_or_default().into(),
    }
}

impl Answer {
    fn items(&self) -> Option<&[Value]> {
        self.tree.items(&self.result)
    }

    /// Of `register` and `lastTransaction`.
    ///
    /// # Errors
    /// It is no tid.
    pub fn tid(&self) -> Result<Tid, ZeoError> {
        let tid = number(&self.result).map(Tid);
        tid.ok_or(ZeoError::Result("lastTransaction"))
    }

    /// Of `loadBefore`; `None` when the object was not there yet.
    ///
    /// # Errors
    /// It is something else.
    pub fn revision(&self) -> Result<Option<Revision>, ZeoError> {
        let wrong = ZeoError::Result("loadBefore");
        if matches!(self.result, Value::None) {
            return Ok(None);
        }
        let Some([data, serial, next]) = self.items() else {
            return Err(wrong);
        };
        let next = match next {
            Value::None => Some(None),
            next => number(next).map(|tid| Some(Tid(tid))),
        };
        match (word(data), number(serial), next) {
            (Some(data), Some(serial), Some(next)) => Ok(Some(Revision {
                data: data.clone(),
                serial: Tid(serial),
                next,
            })),
            _ => Err(wrong),
        }
    }

    /// Of `getInvalidations`; `None` when the server does not reach back so far.
    ///
    /// # Errors
    /// It is something else.
    pub fn invalidations(&self) -> Result<Option<(Tid, Vec<Oid>)>, ZeoError> {
        if matches!(self.result, Value::None) {
            return Ok(None);
        }
        let found = invalidated(&self.tree, &self.result);
        found.map(Some).ok_or(ZeoError::Result("getInvalidations"))
    }

    /// Of `iterator_start` and `iterator_record_start`.
    ///
    /// # Errors
    /// It is no integer.
    pub fn walk(&self) -> Result<i64, ZeoError> {
        match self.result {
            Value::Int(walk) => Ok(walk),
            _ => Err(ZeoError::Result("iterator_start")),
        }
    }

    /// Of `iterator_next`: `None` at the end.
    ///
    /// # Errors
    /// It is something else.
    pub fn transaction(&self) -> Result<History, ZeoError> {
        if matches!(self.result, Value::None) {
            return Ok(None);
        }
        let tid = self.items().and_then(|items| number(items.first()?));
        tid.map(|tid| Some(Tid(tid)))
            .ok_or(ZeoError::Result("iterator_next"))
    }

    /// Of `iterator_record_next`: `None` at the end.
    ///
    /// # Errors
    /// It is something else.
    pub fn stored(&self) -> Result<Option<Stored>, ZeoError> {
        if matches!(self.result, Value::None) {
            return Ok(None);
        }
        let found = self.items().and_then(|items| match items {
            [oid, tid, ..] => Some(Stored {
                oid: Oid(number(oid)?),
                tid: Tid(number(tid)?),
            }),
            _ => None,
        });
        found
            .map(Some)
            .ok_or(ZeoError::Result("iterator_record_next"))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::super::{Arg, encode};
    use super::*;

    const BOTH: [Encoding; 2] = [Encoding::Pickle, Encoding::Msgpack];

    fn bytes(hex: &str) -> Bytes {
        let hex: Vec<u8> = hex.bytes().filter(|b| !b.is_ascii_whitespace()).collect();
        let pair = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16);
        hex.chunks(2).map(|two| pair(two).unwrap()).collect()
    }

    fn reply(encoding: Encoding, hex: &str) -> (i64, Answer) {
        match Message::read(encoding, &bytes(hex)).unwrap() {
            Message::Reply(number, answer) => (number, answer),
            other => panic!("{other:?}"),
        }
    }

    fn made(encoding: Encoding, number: i64, flag: Arg<'_>, name: &str, args: Arg<'_>) -> Bytes {
        let mut out = Vec::new();
        encode(
            encoding,
            &[Arg::Int(number), flag, Arg::Text(name), args],
            &mut out,
        );
        Bytes::from(out).slice(4..)
    }

    /// What a server of ZEO 6.2 was seen to send.
    #[test]
    fn messages_of_real_servers_are_read() {
        let last = Tid(0x03d4_dc00_2a3d_7066);
        for (encoding, hex) in [
            (
                Encoding::Pickle,
                "8003284b014b0058060000002e7265706c79430803d4dc002a3d7066742e",
            ),
            (
                Encoding::Msgpack,
                "940100a62e7265706c79c40803d4dc002a3d7066",
            ),
        ] {
            let (number, answer) = reply(encoding, hex);
            assert_eq!((number, answer.tid()), (1, Ok(last)));
            assert!(answer.revision().is_err() && answer.walk().is_err());
        }
        for (encoding, hex) in [
            (
                Encoding::Pickle,
                "8003284b064b0058060000002e7265706c794e742e",
            ),
            (Encoding::Msgpack, "940600a62e7265706c79c0"),
        ] {
            let (number, answer) = reply(encoding, hex);
            assert_eq!((number, answer.revision()), (6, Ok(None)));
            assert_eq!(answer.invalidations(), Ok(None));
            assert_eq!(answer.transaction(), Ok(None));
            assert_eq!(answer.stored(), Ok(None));
            assert!(answer.tid().is_err());
        }
        for (encoding, hex) in [
            (
                Encoding::Pickle,
                "8003284b094b0058060000002e7265706c79430803d4dc002a3d70665d284308000000000000000043080000000000000001 65 86742e",
            ),
            (
                Encoding::Msgpack,
                "940900a62e7265706c7992c40803d4dc002a3d706692c4080000000000000001c4080000000000000000",
            ),
        ] {
            let (_, answer) = reply(encoding, hex);
            let (tid, mut oids) = answer.invalidations().unwrap().unwrap();
            oids.sort();
            assert_eq!((tid, oids), (last, vec![Oid(0), Oid(1)]));
        }
        for (encoding, hex) in [
            (
                Encoding::Pickle,
                "8003284b124b0058060000002e7265706c7928430803d4dc00258bf222580100000020430043007d74742e",
            ),
            (
                Encoding::Msgpack,
                "941200a62e7265706c7995c40803d4dc00258bf222a120c400c40080",
            ),
        ] {
            let (number, answer) = reply(encoding, hex);
            let found = answer.transaction().unwrap();
            assert_eq!((number, found), (18, Some(Tid(0x03d4_dc00_258b_f222))));
        }
        for (encoding, hex) in [
            (
                Encoding::Pickle,
                "8003284b074b0258060000002e7265706c79581d0000005a4f44422e504f53457863657074696f6e2e504f534b65794572726f72430800000000000077778586742e",
            ),
            (
                Encoding::Msgpack,
                "940702a62e7265706c7992bd5a4f44422e504f53457863657074696f6e2e504f534b65794572726f7291c4080000000000007777",
            ),
        ] {
            let Message::Error(7, refusal) = Message::read(encoding, &bytes(hex)).unwrap() else {
                panic!("no error")
            };
            assert!(refusal.is_no_object());
            assert_eq!(refusal.to_string(), "ZODB.POSException.POSKeyError");
        }
    }

    #[test]
    fn what_is_written_is_read_back() {
        let (tid, oid) = (7u64.to_be_bytes(), 9u64.to_be_bytes());
        for encoding in BOTH {
            for len in [0, 1, 255, 256, 70_000] {
                let data = vec![5; len];
                let result = [Arg::Bytes(&data), Arg::Bytes(&tid), Arg::None];
                let payload = made(encoding, 300, Arg::Int(0), ".reply", Arg::Tuple(&result));
                let Message::Reply(300, answer) = Message::read(encoding, &payload).unwrap() else {
                    panic!("no reply")
                };
                let revision = answer.revision().unwrap().unwrap();
                assert_eq!((revision.data, revision.serial), (data.into(), Tid(7)));
                assert_eq!(revision.next, None);
                assert_eq!(
                    number_of(encoding, &payload[..20.min(payload.len())]),
                    Some(300)
                );
            }
            let oids = vec![Arg::Bytes(&oid); 100_000];
            let args = [Arg::Bytes(&tid), Arg::List(&oids)];
            let name = "invalidateTransaction";
            let payload = made(encoding, 0, Arg::Bool(true), name, Arg::Tuple(&args));
            match Message::read(encoding, &payload).unwrap() {
                Message::Push(Push::Invalidate(Tid(7), oids)) => {
                    assert_eq!(oids, vec![Oid(9); 100_000]);
                }
                other => panic!("{other:?}"),
            }
            let payload = made(encoding, 0, Arg::Bool(true), "info", Arg::Tuple(&[]));
            assert!(matches!(
                Message::read(encoding, &payload),
                Ok(Message::Push(Push::Other))
            ));
            let short = [Arg::Bytes(&tid), Arg::List(&[Arg::Bytes(b"short")])];
            let payload = made(encoding, 0, Arg::Bool(true), name, Arg::Tuple(&short));
            assert!(matches!(
                Message::read(encoding, &payload),
                Err(ZeoError::Push(_))
            ));
        }
    }

    #[test]
    fn calls_are_read_as_they_were_made() {
        use super::super::Call;
        let (oid, tid) = (Oid(5), Tid(6));
        let id = Word::Id;
        for (call, args) in [
            (
                Call::Register("main"),
                vec![Word::Text("main".into()), Word::Other],
            ),
            (Call::LastTransaction, vec![]),
            (Call::LoadBefore(oid, tid), vec![id(5), id(6)]),
            (Call::WalkStart(Tid(1), tid), vec![id(1), id(6)]),
            (
                Call::RecordsStart(70_000, tid),
                vec![Word::Int(70_000), id(6)],
            ),
            (Call::WalkEnd(-3), vec![Word::Other]),
        ] {
            for encoding in BOTH {
                let mut out = Vec::new();
                call.encode(encoding, 9, &mut out);
                let request = Request::read(encoding, &Bytes::from(out).slice(4..)).unwrap();
                assert_eq!(
                    (request.number, request.method.as_str()),
                    (9, call.method())
                );
                assert_eq!(request.args, args);
            }
        }
    }

    #[test]
    fn numbers_are_found_without_the_rest() {
        for encoding in BOTH {
            for n in [0, 1, 127, 128, 255, 256, 65_535, 65_536, 1 << 31, 1 << 40] {
                let payload = made(encoding, n, Arg::Int(0), ".reply", Arg::None);
                assert_eq!(number_of(encoding, &payload), Some(n), "{n}");
                for cut in 0..3 {
                    let _ = number_of(encoding, &payload[..cut]);
                }
            }
            assert_eq!(number_of(encoding, b""), None);
        }
    }

    #[test]
    fn other_forms_are_refused_and_errors_of_any_form_are_errors() {
        for encoding in BOTH {
            for (flag, name) in [
                (Arg::Int(0), "reply"),
                (Arg::Int(1), ".reply"),
                (Arg::Int(3), ".reply"),
                (Arg::None, ".reply"),
                (Arg::Bool(false), "loadBefore"),
            ] {
                let payload = made(encoding, 1, flag, name, Arg::None);
                assert!(matches!(
                    Message::read(encoding, &payload),
                    Err(ZeoError::Form)
                ));
            }
            let args = [Arg::Text("unknown\nstorage: x")];
            for (args, said) in [
                (Arg::None, "an unknown error"),
                (
                    Arg::Tuple(&[Arg::Text("builtins.ValueError"), Arg::Tuple(&args)]),
                    "builtins.ValueError: unknownstorage: x",
                ),
            ] {
                let payload = made(encoding, 1, Arg::Int(2), ".reply", args);
                match Message::read(encoding, &payload).unwrap() {
                    Message::Error(1, refusal) => assert_eq!(refusal.to_string(), said),
                    other => panic!("{other:?}"),
                }
            }
        }
        for greeting in [&b"Z5"[..], b"M5"] {
            assert!(Encoding::of_greeting(greeting).is_ok());
        }
        for (greeting, said) in [
            (&b"Z4"[..], "version 4"),
            (b"Z310", "version 310"),
            (b"", "does not greet"),
            (b"X5", "does not greet"),
            (b"SSH-2.0", "does not greet"),
            (b"Z", "does not greet"),
        ] {
            let error = Encoding::of_greeting(greeting).unwrap_err().to_string();
            assert!(error.contains(said), "{error}");
        }
    }

    /// A pickle whose memo makes one list of many: bounded, not expanded without end.
    #[test]
    fn shared_lists_do_not_expand() {
        let mut pickle = b"\x80\x03(K\x01K\x00X\x06\0\0\0.reply".to_vec();
        pickle.extend_from_slice(b"](");
        pickle.extend(std::iter::repeat_n(b'N', 3000));
        pickle.push(b'e');
        for _ in 0..4 {
            pickle.extend_from_slice(b"q\x00](");
            pickle.extend_from_slice(&b"h\x00".repeat(3000));
            pickle.extend_from_slice(b"e");
        }
        pickle.extend_from_slice(b"1"); // whatever it is: it must end
        assert!(Message::read(Encoding::Pickle, &pickle.into()).is_err());
    }
}
