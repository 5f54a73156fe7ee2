//! The attribute of dr-provision, and the bytes of a catalog.

use crate::mutate;
use zring::base::{Digest, Stamp, Witness};
use zring::wire::catalog::{
    Batch, DirWitness, Entries, Op, Origin, Record, Run, Sealed, begin_run, end_run,
};
use zring::wire::etag::Tag;

/// A value that is one can be written, and read back to the same.
fn attribute(input: &[u8]) -> bool {
    let Ok(tag) = Tag::parse(input) else {
        return false;
    };
    assert!(input.len() == 48 || input.len() == 49);
    let written = tag.value().expect("what was read can be written");
    assert_eq!(Tag::parse(&written), Ok(tag));
    true
}

/// Everything that is read lies in the input; entries end.
fn catalog(input: &[u8]) -> bool {
    let run = Run::parse(input).is_ok_and(|run| Entries(run.entries).count() <= input.len() / 96);
    // Without the checksum, as if it were right.
    let mut entries = 0;
    for entry in Entries(input) {
        assert_eq!(entry.record().witness, entry.witness());
        entries += 1;
    }
    assert!(entries <= input.len() / 96);
    let Ok((batch, rest)) = Sealed::split(input) else {
        return run;
    };
    assert!(rest.len() < input.len());
    let ops = batch.ops().take_while(Result::is_ok).count();
    assert!(ops <= input.len());
    true
}

#[test]
fn etag() {
    let tag = Tag {
        digest: Digest([9; 32]),
        mtime: Stamp { s: 5, ns: 7 },
    };
    let mut two = tag.value().unwrap().to_vec();
    two[33] = 2;
    two.push(30);
    let inputs = mutate::corpus("etag", vec![tag.value().unwrap().to_vec(), two]);
    mutate::run("etag", &inputs, &[b"\x20", b"\x01", b"\xff\xff"], attribute);
}

#[test]
fn catalog_bytes() {
    let record = Record {
        witness: Witness::default(),
        digest: Digest([1; 32]),
        hashed_at: 3,
        flags: 0,
    };
    let mut run = Vec::new();
    begin_run(&mut run, b"a/b", &DirWitness::default());
    run.extend_from_slice(&record.fixed(2));
    run.extend_from_slice(b"nm");
    end_run(&mut run, 0, 1);
    let mut batch = Batch::new();
    batch.push(&Op::Put {
        dir: b"d",
        name: b"n",
        record,
    });
    batch.push(&Op::RemoveTree { path: b"t" });
    let batch = batch.seal(Origin::default(), 1).to_vec();
    let inputs = mutate::corpus("catalog", vec![run, batch]);
    mutate::run(
        "catalog",
        &inputs,
        &[b"ZrR1", b"\x01", b"\xff\xff\xff\xff"],
        catalog,
    );
}
