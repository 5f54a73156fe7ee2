//! Questions about a big file: what it is, how long it is, where a block is.

use super::btree::{self, Coverage, PathNode, TreeRef};
use super::class::Family;
use super::error::ZodbError;
use super::need::{Absent, Ask, Objects, Step};
use super::object::{BigFile, Entry, Object};
use crate::base::{BlkNo, Oid};

/// Where a block is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// The block's object, and what kind it probably is; `None` for a hole.
    pub block: Option<Entry>,
    /// Numbers that the same leaf of the block table answers for.
    pub cover: Coverage,
}

impl BigFile {
    /// The block table.
    pub fn tree(&self) -> TreeRef {
        TreeRef {
            root: self.blktab,
            family: Family::Lo,
        }
    }
}

/// The big file of this oid.
pub fn open<O: Objects + ?Sized>(
    ask: &mut Ask<'_, O>,
    oid: Oid,
) -> Result<Step<BigFile>, ZodbError> {
    // A reference that dangles is damage; a name that does is the asker's mistake.
    let object = ask.get(oid).map_err(|error| match error {
        ZodbError::Dangling {
            absent: Absent::NoObject,
            ..
        } => ZodbError::NoObject { oid },
        ZodbError::Dangling {
            absent: Absent::NotYet,
            ..
        } => ZodbError::NotYetCreated { oid },
        ZodbError::Dangling {
            absent: Absent::Deleted,
            ..
        } => ZodbError::Deleted { oid },
        error => error,
    })?;
    match object {
        None => Ok(Step::Need),
        Some(Object::BigFile(file)) => Ok(Step::Done(*file)),
        Some(object) => Err(ZodbError::NotBigFile {
            oid,
            found: object.into(),
        }),
    }
}

/// Bytes in the file: all blocks up to the last one that is there. At most `i64::MAX`.
pub fn size<O: Objects + ?Sized>(
    ask: &mut Ask<'_, O>,
    file: &BigFile,
) -> Result<Step<u64>, ZodbError> {
    let last = match btree::max(ask, file.tree())? {
        Step::Need => return Ok(Step::Need),
        Step::Done(None) => return Ok(Step::Done(0)),
        Step::Done(Some((last, _))) => last,
    };
    let (oid, blksize) = (file.blktab, file.blksize);
    let last = u64::try_from(last).map_err(|_| ZodbError::NegativeBlocks { oid })?;
    let size = (last + 1)
        .checked_mul(blksize.0)
        .filter(|&size| i64::try_from(size).is_ok());
    Ok(Step::Done(size.ok_or(ZodbError::TooBig {
        oid,
        last,
        blksize,
    })?))
}

/// The leaves that the size of a file depends on, each with its path from the root: the one that holds the last block, and
/// those behind it, which hold none.
pub fn last_leaves<O: Objects + ?Sized>(
    ask: &mut Ask<'_, O>,
    file: &BigFile,
    paths: &mut Vec<Vec<PathNode>>,
) -> Result<Step<()>, ZodbError> {
    paths.clear();
    let Step::Done(last) = btree::max(ask, file.tree())? else {
        return Ok(Step::Need);
    };
    let last = last.map_or(i64::MIN, |(key, _)| key);
    let mut key = i64::MAX;
    loop {
        let mut path = Vec::new();
        let Step::Done(found) = btree::lookup_path(ask, file.tree(), key, &mut path)? else {
            return Ok(Step::Need);
        };
        paths.push(path);
        match found.cover.lo.checked_sub(1) {
            Some(before) if found.cover.lo > last => key = before,
            _ => return Ok(Step::Done(())),
        }
    }
}

/// Where a block is.
pub fn locate<O: Objects + ?Sized>(
    ask: &mut Ask<'_, O>,
    file: &BigFile,
    blk: BlkNo,
) -> Result<Step<Place>, ZodbError> {
    let found = btree::lookup(ask, file.tree(), key(blk))?;
    Ok(found.map(|found| Place {
        block: found.entry,
        cover: found.cover,
    }))
}

/// Where a block is, and the nodes of the block table on the way, from the root to the leaf.
pub fn locate_path<O: Objects + ?Sized>(
    ask: &mut Ask<'_, O>,
    file: &BigFile,
    blk: BlkNo,
    path: &mut Vec<PathNode>,
) -> Result<Step<Place>, ZodbError> {
    let found = btree::lookup_path(ask, file.tree(), key(blk), path)?;
    Ok(found.map(|found| Place {
        block: found.entry,
        cover: found.cover,
    }))
}

/// Block numbers stem from offsets in files, which have 63 bits.
fn key(blk: BlkNo) -> i64 {
    i64::try_from(blk.0).expect("a block number is at most i64::MAX")
}
