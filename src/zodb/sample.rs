//! For tests: records written by hand, small databases, and a seeded source of numbers.
#![allow(clippy::unwrap_used, reason = "tests")]

use super::class::Family;
use super::error::ZodbError;
use super::need::{Absent, Ask, Lookup, Objects, Step};
use super::object::{Object, ObjectError, decode};
use crate::base::Oid;
use bytes::Bytes;
use std::collections::{HashMap, HashSet};

/// A small generator (splitmix64): the same numbers for the same seed, everywhere.
pub(crate) struct Rng(pub(crate) u64);

impl Rng {
    pub(crate) fn word(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `n`.
    pub(crate) fn below(&mut self, n: usize) -> usize {
        usize::try_from(self.word() % n as u64).unwrap()
    }

    /// True once in `n`.
    pub(crate) fn one_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }
}

/// A record: class and state.
pub(crate) fn record(module: &str, class: &str, state: &[u8]) -> Bytes {
    let class = format!("c{module}\n{class}\nq\0.");
    [b"\x80\x03", class.as_bytes(), b"\x80\x03", state, b"."]
        .concat()
        .into()
}

pub(crate) fn wendelin(class: &str, state: &[u8]) -> Bytes {
    record("wendelin.bigfile.file_zodb", class, state)
}

pub(crate) fn int(n: i64) -> Vec<u8> {
    [&[0x8a, 8][..], &n.to_le_bytes()].concat()
}

pub(crate) fn bytes(data: &[u8]) -> Vec<u8> {
    [
        &b"B"[..],
        &u32::try_from(data.len()).unwrap().to_le_bytes(),
        data,
    ]
    .concat()
}

pub(crate) fn reference(oid: Oid, module: &str, class: &str) -> Vec<u8> {
    let class = format!("c{module}\n{class}\n");
    [
        &b"C\x08"[..],
        &oid.0.to_be_bytes(),
        class.as_bytes(),
        b"\x86Q",
    ]
    .concat()
}

fn letters(family: Family) -> &'static str {
    if family == Family::Lo { "LO" } else { "IO" }
}

pub(crate) fn node_ref(oid: Oid, family: Family, class: &str) -> Vec<u8> {
    let f = letters(family);
    reference(oid, &format!("BTrees.{f}BTree"), &format!("{f}{class}"))
}

/// State of a bucket, of keys with what they lead to.
pub(crate) fn bucket_state(items: &[(i64, Oid, &str)]) -> Vec<u8> {
    let mut state = b"(".to_vec();
    for &(key, oid, class) in items {
        state.extend(int(key));
        state.extend(reference(oid, "wendelin.bigfile.file_zodb", class));
    }
    state.extend_from_slice(b"t\x85");
    state
}

/// State of a tree with children, of class "BTree" or "Bucket".
pub(crate) fn inner_state(
    family: Family,
    class: &str,
    children: &[Oid],
    separators: &[i64],
) -> Vec<u8> {
    let mut state = b"(".to_vec();
    for (i, &child) in children.iter().enumerate() {
        if i > 0 {
            state.extend(int(separators[i - 1]));
        }
        state.extend(node_ref(child, family, class));
    }
    state.push(b't');
    state.extend(node_ref(Oid(0xffff), family, "Bucket"));
    state.push(0x86);
    state
}

pub(crate) fn node(family: Family, class: &str, state: &[u8]) -> Bytes {
    let f = letters(family);
    record(&format!("BTrees.{f}BTree"), &format!("{f}{class}"), state)
}

/// Objects, of which some are at hand.
#[derive(Default)]
pub(crate) struct Db {
    pub(crate) all: HashMap<Oid, Result<Object, ObjectError>>,
    pub(crate) here: HashSet<Oid>,
    last: u64,
}

impl Objects for Db {
    fn get(&self, oid: Oid) -> Lookup<'_> {
        match self.all.get(&oid) {
            _ if !self.here.contains(&oid) => Lookup::Missing,
            None => Lookup::Absent(Absent::NoObject),
            Some(Ok(object)) => Lookup::Here(object),
            Some(Err(error)) => Lookup::Broken(error),
        }
    }
}

impl Db {
    pub(crate) fn put(&mut self, oid: Oid, record: Bytes) -> Oid {
        self.all.insert(oid, decode(record));
        oid
    }

    /// Stores a new object.
    pub(crate) fn add(&mut self, record: Bytes) -> Oid {
        self.last += 1;
        self.put(Oid(self.last), record)
    }

    /// Runs a function until it is done, bringing what it asks for; also says how often it had to ask.
    pub(crate) fn run<T>(
        &mut self,
        mut f: impl FnMut(&mut Ask<'_, Self>) -> Result<Step<T>, ZodbError>,
    ) -> Result<(T, usize), ZodbError> {
        let (mut rounds, mut need) = (0, Vec::new());
        loop {
            need.clear();
            match f(&mut Ask::new(self, &mut need))? {
                Step::Done(value) => {
                    assert!(need.is_empty());
                    return Ok((value, rounds));
                }
                Step::Need => {
                    assert!(!need.is_empty() && need.iter().all(|oid| !self.here.contains(oid)));
                    self.here.extend(&need);
                    rounds += 1;
                }
            }
        }
    }
}
