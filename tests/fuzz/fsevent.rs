//! What the kernel tells of files: fanotify's records.

use crate::mutate;
use zring::wire::fsevent::{Events, Handle, Mask, Reading};

/// Names lead nowhere else, handles fit into what the kernel takes back, and what makes no sense ends the reading once.
fn events(input: &[u8]) -> bool {
    let all: Vec<Reading<'_>> = Events::new(input).collect();
    assert!(all.len() <= input.len() / 24 + 1);
    let mut whole = 0;
    for (i, reading) in all.iter().enumerate() {
        let Reading::Event(event) = reading else {
            assert_eq!(i + 1, all.len(), "nothing is read behind what is broken");
            continue;
        };
        whole += 1;
        let _ = format!("{:?}", event.mask);
        assert_eq!(event.mask.but(event.mask), Mask::default());
        for spot in [event.spot, event.old, event.new].into_iter().flatten() {
            assert!(spot.dir.bytes.len() <= Handle::LEN_MAX);
            assert!(!spot.name.is_empty() && !spot.name.iter().any(|c| matches!(c, 0 | b'/')));
        }
    }
    whole > 0 && whole == all.len()
}

/// A record as the kernel lays it out.
fn record(kind: u8, handle: &[u8], name: &[u8]) -> Vec<u8> {
    let len = (20 + handle.len() + name.len() + 1).next_multiple_of(4);
    let mut out = vec![kind, 0];
    out.extend_from_slice(&u16::try_from(len).unwrap().to_ne_bytes());
    out.extend_from_slice(&[9; 8]);
    out.extend_from_slice(&u32::try_from(handle.len()).unwrap().to_ne_bytes());
    out.extend_from_slice(&1i32.to_ne_bytes());
    out.extend_from_slice(handle);
    out.extend_from_slice(name);
    out.resize(len, 0);
    out
}

fn message(mask: Mask, records: &[Vec<u8>]) -> Vec<u8> {
    let records = records.concat();
    let mut out = u32::try_from(24 + records.len())
        .unwrap()
        .to_ne_bytes()
        .to_vec();
    out.extend_from_slice(&[3, 0, 24, 0]);
    out.extend_from_slice(&mask.0.to_ne_bytes());
    out.extend_from_slice(&[0xff; 4]);
    out.extend_from_slice(&[1, 0, 0, 0]);
    out.extend_from_slice(&records);
    out
}

#[test]
fn fsevent() {
    let one = message(
        Mask::CREATE,
        &[record(2, &[7; 8], b"name"), record(1, &[8; 8], b"")],
    );
    let two = message(
        Mask::RENAME.and(Mask::DIR),
        &[record(10, &[7; 8], b"a"), record(12, &[6; 12], b"\xff\n")],
    );
    let own = message(Mask::ATTRIB.and(Mask::DIR), &[record(3, &[7; 128], b"")]);
    let lost = message(Mask::OVERFLOW, &[]);
    let all = [one.clone(), two.clone(), own, lost].concat();
    let inputs = mutate::corpus("fsevent", vec![one, two, all]);
    let words: [&[u8]; 6] = [b"\x02", b"\x03", b"\x0a", b"/", b"\0", b"\xff\xff"];
    mutate::run("fsevent", &inputs, &words, events);
}
