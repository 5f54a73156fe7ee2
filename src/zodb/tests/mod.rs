//! Tests of the room: examples, samples of all flavours, properties against slow twins.
#![allow(clippy::unwrap_used, reason = "tests")]

mod block;
mod file;
mod object;
mod topology;
mod tree;

use super::btree::{Coverage, TreeRef};
use super::object::Expected;
use super::sample::*;
use super::*;
use crate::base::limit::TREE_EMPTY_MAX;
use crate::base::{BlkNo, BlkSize, Oid};
use crate::wire::pickle::{PickleError, ValueKind};
use bytes::Bytes;
use std::collections::{BTreeMap, BTreeSet};

const BLK: Oid = Oid(77);
const LO: Family = Family::Lo;

/// State of a bucket of blocks.
fn lo_state(items: &[i64]) -> Vec<u8> {
    bucket_state(
        &items
            .iter()
            .map(|&key| (key, BLK, "ZBlk0"))
            .collect::<Vec<_>>(),
    )
}
