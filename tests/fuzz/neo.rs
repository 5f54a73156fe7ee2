//! Streams of NEO nodes: greetings and packets.

use crate::mutate;
use zring::base::{Oid, Tid};
use zring::wire::neo::{GREETING, Message, Packet, Packets, Request, check_greeting};
use zring::wire::zeo::Frame;

/// Packets longer than this are read past.
const KEEP: usize = 4096;

/// The first byte of an input says how its stream is cut.
fn check(input: &[u8]) -> bool {
    let Some((&cut, stream)) = input.split_first() else {
        return false;
    };
    let whole = packets(stream, usize::MAX);
    let cut = packets(stream, usize::from(cut).max(1));
    assert_eq!(whole, cut, "packets depend on how the stream is cut");
    let Some(whole) = whole else { return false };
    let mut read = 0;
    for frame in whole {
        let packet = match frame {
            Frame::Whole(packet) => packet,
            Frame::Skipped { len, head } => {
                assert!(len > KEEP && head.len() <= 128);
                let _ = Message::answers(&head);
                continue;
            }
        };
        assert!(packet.len() <= KEEP);
        let _ = check_greeting(&packet);
        let Ok(message) = Message::read(&packet) else {
            continue;
        };
        read += 1;
        assert_eq!(
            Message::answers(&packet),
            message.is_answer.then_some(message.id)
        );
        // Nothing that is said has more parts than bytes.
        let parts = match message.packet {
            Packet::Invalidate(_, oids) | Packet::Transaction(_, oids) => oids.len() * 10,
            Packet::Tids(tids) => tids.len() * 10,
            Packet::Object(object) => object.data.len(),
            Packet::Nodes(nodes) => nodes.len() * 9,
            Packet::Table(rows) => rows.iter().map(Vec::len).sum(),
            Packet::Cells(cells) => cells.len() * 6,
            Packet::NotPrimary(_, masters) => masters.len() * 3,
            _ => 0,
        };
        assert!(parts <= packet.len());
    }
    read > 0
}

/// All packets of a stream; `None` when it cannot be read to its end.
fn packets(stream: &[u8], cut: usize) -> Option<Vec<Frame>> {
    let (mut packets, mut out) = (Packets::new(KEEP), Vec::new());
    for mut piece in stream.chunks(cut) {
        while let Some(packet) = packets.take(&mut piece).ok()? {
            out.push(packet);
        }
        assert!(piece.is_empty());
    }
    Some(out)
}

/// What real nodes and clients were seen to send, and the rest of what a reader meets.
fn samples() -> Vec<Vec<u8>> {
    let nodes: &[u8] = b"\x93\x00\x06\x92\xcb\x41\xda\xc0\x19\xaf\xf3\x3d\xb1\x92\
        \x95\xd4\x04\x02\xc0\xd2\xe0\0\0\x01\xd4\x03\x02\xcb\x41\xda\xc0\x19\xaf\xf3\x3a\x0d\
        \x95\xd4\x04\x01\x92\xc4\x09127.0.0.1\xcd\x15\xea\x01\xd4\x03\x01\xc0";
    let object = [
        &b"\x93\x01\xcd\x80\x20\x97\xc4\x08\0\0\0\0\0\0\0\x05\xc4\x08\0\0\0\0\0\0\0\x06\xc0\x01\xc4\x14"[..],
        &[9; 20],
        b"\xc4\x03abc\xc0",
    ];
    let packets = [
        GREETING,
        b"\x93\x00\xcd\x80\x01\x93\xd4\x04\x00\xd2\xf0\0\0\x01\xd2\xe0\0\0\x01",
        nodes,
        b"\x93\x01\x0a\x93\x01\x01\x92\x92\x92\x01\xd4\x00\x01\x92\x02\xd4\x00\x00\x90",
        b"\x93\x01\xcd\x80\x3c\x91\xc4\x08\0\0\0\0\0\0\0\0",
        &object.concat(),
        b"\x93\x07\x05\x92\x01\x91\x92\xa1h\x50",
        b"\x93\x07\x0b\x93\x02\x01\x91\x93\x03\x02\xd4\x00\x04",
        b"\x93\x07\x16\x92\xc4\x08\0\0\0\0\0\0\0\x09\x91\xc4\x08\0\0\0\0\0\0\0\x08",
        b"\x93\x07\xcd\x80\x22\x96\xc4\x08\0\0\0\0\0\0\0\x09\xc4\0\xc4\0\xc4\0\xc2\x91\xc4\x08\0\0\0\0\0\0\0\x08",
        b"\x93\x07\xcd\x80\x30\x91\x91\xc4\x08\0\0\0\0\0\0\0\x09",
        b"\x93\x07\xcd\x80\x00\x92\x05\xc4\x02no",
        b"\x93\x07\xcd\x80\x2e\x91\xd4\x01\x05",
        b"\x93\x07\x02\x90\x93\x07\x0d\x90",
    ];
    let mut out: Vec<_> = packets
        .iter()
        .map(|packet| [b"\x03", *packet].concat())
        .collect();
    let mut ours = vec![1];
    let cluster = "z";
    let (node, stamp) = (-5, Some(7));
    for request in [
        Request::IdentifyToMaster { cluster },
        Request::IdentifyToStorage {
            cluster,
            node,
            stamp,
        },
        Request::Before(Oid(9), Tid(8)),
        Request::TidsFrom(Tid(1), Tid(2), 1000, 3),
    ] {
        request.encode(70_000, &mut ours);
    }
    out.push(ours);
    out.push([&b"\x05"[..], &packets.concat()].concat());
    out
}

const WORDS: &[&[u8]] = &[
    b"\x93\x07",
    b"\xcd\x80\x20",
    b"\xc4\x08",
    b"\xd4\x00\x01",
    b"\xc6\x00\x00\x10\x01",
    b"\xdd\x00\xff\xff\xff",
    b"\xdf\xff\xff\xff\xff",
    b"\x91\x91\x91\x91\x91",
    b"\xc7\xff",
    b"\x90",
];

#[test]
fn neo() {
    let inputs = mutate::corpus("neo", samples());
    mutate::run("neo", &inputs, WORDS, check);
}
