//! Streams of a ZEO server: frames, greetings, and messages in both encodings.

use crate::mutate;
use bytes::Bytes;
use zring::base::{Oid, Tid};
use zring::wire::zeo::{Arg, Call, Encoding, Frame, Frames, Message, Push, encode, number_of};

/// Payloads longer than this are read past.
const KEEP: usize = 4096;

/// The first byte of an input says how its stream is cut.
fn check(input: &[u8]) -> bool {
    let Some((&cut, stream)) = input.split_first() else {
        return false;
    };
    let whole = frames(stream, usize::MAX);
    let cut = frames(stream, usize::from(cut).max(1));
    assert_eq!(whole, cut, "frames depend on how the stream is cut");
    let Some(whole) = whole else { return false };
    let mut read = 0;
    for frame in whole {
        match frame {
            Frame::Whole(payload) => {
                assert!(payload.len() <= KEEP);
                let _ = Encoding::of_greeting(&payload);
                for encoding in [Encoding::Pickle, Encoding::Msgpack] {
                    read += u64::from(message(encoding, &payload));
                }
            }
            Frame::Skipped { len, head } => {
                assert!(len > KEEP && head.len() <= 128);
                let _ = number_of(Encoding::Pickle, &head);
                let _ = number_of(Encoding::Msgpack, &head);
            }
        }
    }
    read > 0
}

/// All frames of a stream, and whether one is left open; `None` when it cannot be read to its end.
fn frames(stream: &[u8], cut: usize) -> Option<Vec<Frame>> {
    let (mut frames, mut out) = (Frames::new(KEEP), Vec::new());
    for mut piece in stream.chunks(cut) {
        while let Some(frame) = frames.take(&mut piece).ok()? {
            out.push(frame);
        }
        assert!(piece.is_empty());
    }
    Some(out)
}

/// Reads a message, and whatever its result may be.
fn message(encoding: Encoding, payload: &Bytes) -> bool {
    let Ok(message) = Message::read(encoding, payload) else {
        return false;
    };
    let number = match &message {
        Message::Reply(number, _) | Message::Error(number, _) => Some(*number),
        Message::Push(_) => None,
    };
    // What tells the number without the rest knows fewer forms, and never says another.
    if let (Some(number), Some(found)) = (number, number_of(encoding, payload)) {
        assert_eq!(number, found);
    }
    match message {
        Message::Reply(_, answer) => {
            if let Ok(Some(revision)) = answer.revision() {
                assert!(revision.data.len() <= payload.len());
            }
            if let Ok(Some((_, oids))) = answer.invalidations() {
                assert!(oids.len() * 8 <= payload.len() * 100);
            }
            let _ = (answer.tid(), answer.walk());
            let _ = (answer.transaction(), answer.stored());
        }
        Message::Error(_, refusal) => {
            assert!(refusal.to_string().len() < 4096);
            let _ = refusal.is_no_object();
        }
        Message::Push(Push::Invalidate(_, oids)) => drop(oids),
        Message::Push(Push::Other) => {}
    }
    true
}

/// Sessions in both encodings, as real servers and clients have them.
fn samples() -> Vec<Vec<u8>> {
    let (tid, oid) = (7u64.to_be_bytes(), 9u64.to_be_bytes());
    let record = b"\x80\x03cpersistent.mapping\nPersistentMapping\nq\x00.\x80\x03}q\x01.";
    let (tid, oid) = (Arg::Bytes(&tid), Arg::Bytes(&oid));
    let no_object = [
        Arg::Text("ZODB.POSException.POSKeyError"),
        Arg::Tuple(&[oid]),
    ];
    let walked = [
        tid,
        Arg::Text(" "),
        Arg::Bytes(b""),
        Arg::Bytes(b""),
        Arg::Tuple(&[]),
    ];
    let results = [
        tid,
        Arg::None,
        Arg::Int(1 << 40),
        Arg::Tuple(&[Arg::Bytes(record), tid, Arg::None]),
        Arg::Tuple(&[tid, Arg::List(&[oid, oid])]),
        Arg::Tuple(&walked),
        Arg::Tuple(&[oid, tid, Arg::Bytes(record), Arg::None]),
    ];
    let mut out = Vec::new();
    for encoding in [Encoding::Pickle, Encoding::Msgpack] {
        let mut stream = vec![3];
        stream.extend(encoding.greeting());
        for (n, result) in (1..).zip(results) {
            let message = [Arg::Int(n * 200), Arg::Int(0), Arg::Text(".reply"), result];
            let mut one = vec![1];
            encode(encoding, &message, &mut one);
            stream.extend_from_slice(&one[1..]);
            out.push(one);
        }
        let args = Arg::Tuple(&no_object);
        let error = [Arg::Int(5), Arg::Int(2), Arg::Text(".reply"), args];
        encode(encoding, &error, &mut stream);
        let name = Arg::Text("invalidateTransaction");
        let push = [Arg::Int(0), Arg::Bool(true), name, results[4]];
        encode(encoding, &push, &mut stream);
        Call::LoadBefore(Oid(9), Tid(8)).encode(encoding, 70_000, &mut stream);
        Call::WalkEnd(3).encode(encoding, 2, &mut stream);
        out.push(stream);
    }
    out
}

const WORDS: &[&[u8]] = &[
    b".reply",
    b"invalidateTransaction",
    b"ZODB.POSException.POSKeyError",
    b"\x80\x03(",
    b"t.",
    b"](",
    b"\x94",
    b"\xc4\x08",
    b"C\x08",
    b"\x00\x00\x00\x05",
    b"\x40\x00\x00\x00",
    b"\xdd\x00\xff\xff\xff",
    b"\xdf\xff\xff\xff\xff",
];

#[test]
fn zeo() {
    let inputs = mutate::corpus("zeo", samples());
    mutate::run("zeo", &inputs, WORDS, check);
}
