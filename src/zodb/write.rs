//! Records of big files that Python 3 reads: for the demonstration, and for tests that make databases. Those of benchmarks are
//! written opcode by opcode as Python writes them, memo included (`bench/src/pickle.rs`), for decoding pays for each.
//!
//! Protocol 3, class first and then state; what the reader of `wire::pickle` takes and Python's unpickler too.

use super::class::Family;
use crate::base::{BlkSize, Oid};

const FILES: &str = "wendelin.bigfile.file_zodb";

/// Both pickles of a record.
fn record(module: &str, class: &str, state: &[u8]) -> Vec<u8> {
    let mut out = vec![0x80, 3];
    global(&mut out, module, class);
    out.extend_from_slice(b".\x80\x03");
    out.extend_from_slice(state);
    out.push(b'.');
    out
}

fn global(out: &mut Vec<u8>, module: &str, class: &str) {
    out.extend_from_slice(format!("c{module}\n{class}\n").as_bytes());
}

fn int(out: &mut Vec<u8>, n: i64) {
    out.extend_from_slice(&[0x8a, 8]); // LONG1 of 8 bytes: any i64
    out.extend_from_slice(&n.to_le_bytes());
}

fn bytes(data: &[u8]) -> Vec<u8> {
    let len = u32::try_from(data.len()).expect("a block is far below 4 GiB");
    [b"B", &len.to_le_bytes()[..], data].concat()
}

/// A persistent reference with its class.
fn reference(out: &mut Vec<u8>, oid: Oid, module: &str, class: &str) {
    out.extend_from_slice(b"C\x08");
    out.extend_from_slice(&oid.0.to_be_bytes());
    global(out, module, class);
    out.extend_from_slice(b"\x86Q");
}

fn module(family: Family) -> &'static str {
    match family {
        Family::Lo => "BTrees.LOBTree",
        Family::Io => "BTrees.IOBTree",
    }
}

fn class(family: Family, kind: &str) -> String {
    let letters = match family {
        Family::Lo => "LO",
        Family::Io => "IO",
    };
    format!("{letters}{kind}")
}

/// What the values of a tree are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Leaf {
    /// Blocks in one piece.
    Blk0,
    /// Blocks in chunks.
    Blk1,
    /// Chunks.
    Data,
}

impl Leaf {
    fn class(self) -> &'static str {
        match self {
            Self::Blk0 => "ZBlk0",
            Self::Blk1 => "ZBlk1",
            Self::Data => "ZData",
        }
    }
}

/// A key of a tree, and the object it leads to.
pub type Item = (i64, Oid, Leaf);

fn items(out: &mut Vec<u8>, items: &[Item]) {
    out.push(b'(');
    for &(key, oid, leaf) in items {
        int(out, key);
        reference(out, oid, FILES, leaf.class());
    }
    out.push(b't');
}

/// The root object: an empty mapping.
pub fn root() -> Vec<u8> {
    record(
        "persistent.mapping",
        "PersistentMapping",
        b"}X\x04\x00\x00\x00data}s",
    )
}

/// A `ZBigFile`.
pub fn bigfile(blksize: BlkSize, blktab: Oid) -> Vec<u8> {
    let mut state = Vec::new();
    int(
        &mut state,
        i64::try_from(blksize.0).expect("block sizes are below 2^63"),
    );
    reference(
        &mut state,
        blktab,
        module(Family::Lo),
        &class(Family::Lo, "BTree"),
    );
    state.push(0x86);
    record(FILES, "ZBigFile", &state)
}

/// A tree whose only bucket is part of it.
pub fn small_tree(family: Family, content: &[Item]) -> Vec<u8> {
    let mut state = Vec::new();
    items(&mut state, content);
    state.extend_from_slice(b"\x85\x85\x85");
    record(module(family), &class(family, "BTree"), &state)
}

/// A bucket, and the one with the next keys.
pub fn bucket(family: Family, content: &[Item], next: Option<Oid>) -> Vec<u8> {
    let mut state = Vec::new();
    items(&mut state, content);
    match next {
        None => state.push(0x85),
        Some(next) => {
            reference(&mut state, next, module(family), &class(family, "Bucket"));
            state.push(0x86);
        }
    }
    record(module(family), &class(family, "Bucket"), &state)
}

/// What the children of a node are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Child {
    /// Leaves.
    Bucket,
    /// Nodes.
    Tree,
}

/// A node: its children with the first key each may hold, and the leftmost bucket below.
pub fn node(family: Family, children: &[(i64, Oid)], kind: Child, first_bucket: Oid) -> Vec<u8> {
    let child = class(
        family,
        if kind == Child::Bucket {
            "Bucket"
        } else {
            "BTree"
        },
    );
    let mut state = vec![b'('];
    for (i, &(key, oid)) in children.iter().enumerate() {
        if i > 0 {
            int(&mut state, key);
        }
        reference(&mut state, oid, module(family), &child);
    }
    state.push(b't');
    reference(
        &mut state,
        first_bucket,
        module(family),
        &class(family, "Bucket"),
    );
    state.push(0x86);
    record(module(family), &class(family, "BTree"), &state)
}

fn stripped(data: &[u8]) -> &[u8] {
    let end = data
        .iter()
        .rposition(|&b| b != 0)
        .map_or(0, |last| last + 1);
    &data[..end]
}

/// A block in one piece.
pub fn zblk0(data: &[u8]) -> Vec<u8> {
    record(FILES, "ZBlk0", &bytes(stripped(data)))
}

/// A block in chunks.
pub fn zblk1(chunktab: Oid) -> Vec<u8> {
    let mut state = Vec::new();
    reference(
        &mut state,
        chunktab,
        module(Family::Io),
        &class(Family::Io, "BTree"),
    );
    record(FILES, "ZBlk1", &state)
}

/// A chunk.
pub fn zdata(data: &[u8]) -> Vec<u8> {
    record(FILES, "ZData", &bytes(stripped(data)))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use crate::zodb::object::{Node, Object, decode};

    #[test]
    fn what_is_written_reads_back() {
        let read = |record: Vec<u8>| decode(record.into()).unwrap();
        let file = read(bigfile(BlkSize(1 << 21), Oid(7)));
        assert!(matches!(file, Object::BigFile(f) if f.blksize.0 == 1 << 21 && f.blktab == Oid(7)));
        assert!(matches!(read(zblk0(b"abc\0\0")), Object::Blk0(data) if data == "abc"));
        assert!(matches!(read(zdata(b"")), Object::Data(data) if data.is_empty()));
        assert!(matches!(
            read(zblk1(Oid(9))),
            Object::Blk1 { chunktab: Oid(9) }
        ));
        let content = [(0, Oid(1), Leaf::Blk0), (1 << 40, Oid(2), Leaf::Blk1)];
        let Object::Bucket(leaf) = read(bucket(Family::Lo, &content, Some(Oid(5)))) else {
            panic!()
        };
        assert_eq!(leaf.get(1 << 40).unwrap().oid, Oid(2));
        let Object::Tree(tree) = read(small_tree(Family::Lo, &content)) else {
            panic!()
        };
        assert!(matches!(tree.node, Node::Inline(leaf) if leaf.ends() == Some([0, 1 << 40])));
        let children = [(0, Oid(3)), (60, Oid(4))];
        let Object::Tree(tree) = read(node(Family::Io, &children, Child::Bucket, Oid(3))) else {
            panic!()
        };
        assert!(matches!(tree.node, Node::Inner(inner) if inner.ends() == Some([60, 60])));
        assert!(matches!(read(root()), Object::Other(_)));
    }
}
