//! From bytes of `/dev/fuse` and of a ring to requests, and back to one line of text.

use crate::mutate;
use zring::wire::fuse::request::{self, Op, Parts, Request};

/// Holds what must be true of any request; whether it is one.
fn check(input: &[u8]) -> bool {
    // As a ring delivers it: fixed parts of fixed size, whatever was left in them.
    let (header, body) = input.split_at(input.len().min(40));
    let (fixed, rest) = body.split_at(body.len().min(128));
    if let Ok(request) = Request::parse(Parts {
        header,
        fixed,
        rest,
    }) {
        inside(&request, input);
    }
    let Ok(request) = request::split(input).and_then(Request::parse) else {
        return false;
    };
    inside(&request, input);
    true
}

/// Everything borrowed lies in the input, and a line of text comes out.
fn inside(request: &Request<'_>, input: &[u8]) {
    let borrowed: &[u8] = match request.op {
        Op::Lookup { name } => {
            assert!(!name.contains(&0));
            name
        }
        Op::BatchForget { list } => {
            assert!(request::forgets(list).count() <= list.len() / 16);
            list
        }
        Op::Write { data, .. } | Op::NotifyReply { data, .. } => data,
        _ => &[],
    };
    let (all, part) = (input.as_ptr_range(), borrowed.as_ptr_range());
    assert!(borrowed.is_empty() || (all.start <= part.start && part.end <= all.end));
    assert!(request.to_string().len() < 200 + 4 * input.len());
}

/// A message of `opcode`, as the kernel lays it out.
fn message(opcode: u32, body: &[u8]) -> Vec<u8> {
    let len = u32::try_from(40 + body.len()).unwrap();
    let words = [len, opcode, 8, 0, 1, 0, 0, 0, 77, 0];
    let header = words.iter().flat_map(|word| word.to_ne_bytes());
    header.chain(body.iter().copied()).collect()
}

#[test]
fn fuse() {
    let mut samples: Vec<Vec<u8>> = (1..54).map(|opcode| message(opcode, &[0; 96])).collect();
    samples.push(message(1, b"bigfile\0"));
    samples.push(message(
        42,
        &[[2, 0, 0, 0, 0, 0, 0, 0].as_slice(), &[7; 32]].concat(),
    ));
    let write = [[0; 16].as_slice(), &[5, 0, 0, 0], &[0; 20], b"1 ack"].concat();
    samples.push(message(16, &write));
    let reply = [[0; 16].as_slice(), &[3, 0, 0, 0], &[0; 20], b"abc"].concat();
    samples.push(message(41, &[[0; 40].as_slice(), &reply].concat()));
    let inputs = mutate::corpus("fuse", samples);
    mutate::run("fuse", &inputs, &[b"\0", b"@", b"\xff\xff\xff\xff"], check);
}
