//! From a block to its bytes.
//!
//! A block reads as its data and zeros up to the block size. Chunks may have any length and any spacing; gaps
//! are zeros. They must not overlap nor pass the end of the block. A range of a block asks only for the chunks
//! that can reach into it, and so checks only those; the whole block is checked wholly.

use super::btree::{self, TreeRef};
use super::class::Family;
use super::error::{ChunkFault, Role, ZodbError};
use super::need::{Ask, Objects, Step};
use super::object::{Entry, Object};
use crate::base::{BlkSize, Oid};
use bytes::Bytes;

/// Fills `out` with the bytes of a block from `offset` on.
///
/// The range must lie in the block. Until this returns `Done`, what is in `out` means nothing.
pub fn fill<O: Objects + ?Sized>(
    ask: &mut Ask<'_, O>,
    oid: Oid,
    blksize: BlkSize,
    offset: u64,
    out: &mut [u8],
) -> Result<Step<()>, ZodbError> {
    let end = offset.checked_add(out.len() as u64);
    assert!(
        end.is_some_and(|end| end <= blksize.0),
        "BUG: range is not in the block"
    );
    match ask.get(oid)? {
        None => Ok(Step::Need),
        Some(Object::Blk0(data)) => {
            if data.len() as u64 > blksize.0 {
                return Err(ZodbError::LongBlock { oid, blksize });
            }
            let mut target = Target {
                offset,
                out,
                done: 0,
            };
            target.put(0, data);
            target.finish();
            Ok(Step::Done(()))
        }
        Some(&Object::Blk1 { chunktab }) => {
            let target = Target {
                offset,
                out,
                done: 0,
            };
            Chunks {
                oid,
                blksize,
                target,
                end: 0,
            }
            .fill(ask, table(chunktab))
        }
        Some(object) => Err(ZodbError::WrongClass {
            oid,
            expected: Role::Blk,
            found: object.into(),
        }),
    }
}

/// Asks for everything that a block consists of; of what is at hand no byte is touched, and nothing is checked.
pub fn parts<O: Objects + ?Sized>(ask: &mut Ask<'_, O>, oid: Oid) -> Result<Step<()>, ZodbError> {
    let Some(object) = ask.get(oid)? else {
        return Ok(Step::Need);
    };
    let &Object::Blk1 { chunktab } = object else {
        return Ok(Step::Done(()));
    };
    btree::range(
        ask,
        table(chunktab),
        i64::MIN,
        i64::MAX,
        &mut |ask, _, chunk| {
            Ok(match ask.get(chunk.oid)? {
                Some(_) => Step::Done(()),
                None => Step::Need,
            })
        },
    )
}

/// The chunks of a block and where they start, in order, to be checked by [`check`]. A block in one piece has none: it is checked here.
pub fn chunks<O: Objects + ?Sized>(
    ask: &mut Ask<'_, O>,
    oid: Oid,
    blksize: BlkSize,
    found: &mut Vec<(i64, Entry)>,
) -> Result<Step<()>, ZodbError> {
    found.clear();
    let Some(&Object::Blk1 { chunktab }) = ask.get(oid)? else {
        return fill(ask, oid, blksize, 0, &mut []);
    };
    btree::range(
        ask,
        table(chunktab),
        i64::MIN,
        i64::MAX,
        &mut |_, start, chunk| {
            found.push((start, chunk));
            Ok(Step::Done(()))
        },
    )
}

/// Checks chunks of a block that follow each other as [`fill`] does the whole of it, however large a block claims to be: that
/// each lies in the block, and behind the one before.
pub fn check<O: Objects + ?Sized>(
    ask: &mut Ask<'_, O>,
    oid: Oid,
    blksize: BlkSize,
    chunks: &[(i64, Entry)],
) -> Result<Step<()>, ZodbError> {
    let target = Target {
        offset: 0,
        out: &mut [],
        done: 0,
    };
    let mut walk = Chunks {
        oid,
        blksize,
        target,
        end: 0,
    };
    let mut all = Step::Done(());
    for &(start, chunk) in chunks {
        if walk.chunk(ask, start, chunk)? == Step::Need {
            all = Step::Need;
        }
    }
    Ok(all)
}

fn table(root: Oid) -> TreeRef {
    TreeRef {
        root,
        family: Family::Io,
    }
}

/// A range of a block, written from front to back.
struct Target<'t> {
    /// Where the range begins in the block.
    offset: u64,
    out: &'t mut [u8],
    /// Bytes written.
    done: usize,
}

impl Target<'_> {
    /// Writes the part of `data`, at `start` in the block, that lies in the range, and zeros before it.
    fn put(&mut self, start: u64, data: &[u8]) {
        let skip = self.offset.saturating_sub(start);
        let skip = usize::try_from(skip).map_or(data.len(), |skip| skip.min(data.len()));
        let at = start.saturating_sub(self.offset);
        let at = usize::try_from(at).map_or(self.out.len(), |at| at.min(self.out.len()));
        let data = &data[skip..];
        let data = &data[..data.len().min(self.out.len() - at)];
        if data.is_empty() {
            return;
        }
        self.out[self.done..at].fill(0);
        self.out[at..at + data.len()].copy_from_slice(data);
        self.done = at + data.len();
    }

    /// Zeros for the rest.
    fn finish(self) {
        self.out[self.done..].fill(0);
    }
}

/// Chunks on their way to a range.
struct Chunks<'t> {
    oid: Oid,
    blksize: BlkSize,
    target: Target<'t>,
    /// End of the chunk before, or its start when it is not at hand.
    end: i64,
}

impl Chunks<'_> {
    fn fill<'o, O: Objects + ?Sized>(
        mut self,
        ask: &mut Ask<'o, O>,
        tree: TreeRef,
    ) -> Result<Step<()>, ZodbError> {
        if self.target.out.is_empty() {
            return Ok(Step::Done(()));
        }
        // Offsets have 31 bits; what a block holds beyond them is zeros.
        let Ok(offset) = i64::try_from(self.target.offset) else {
            self.target.finish();
            return Ok(Step::Done(()));
        };
        let end = offset.saturating_add_unsigned(self.target.out.len() as u64);
        // From the start of the block look also for chunks before it, to its end for chunks after it.
        let last = if end.unsigned_abs() == self.blksize.0 {
            i64::MAX
        } else {
            end - 1
        };
        let (first, before) = match offset {
            0 => (i64::MIN, Step::Done(())),
            _ => match btree::floor(ask, tree, offset)? {
                // The chunk before the range may reach into it.
                Step::Done(Some((start, _))) => (start, Step::Done(())),
                Step::Done(None) => (offset, Step::Done(())),
                Step::Need => (offset, Step::Need),
            },
        };
        let step = btree::range(ask, tree, first, last, &mut |ask, start, entry| {
            self.chunk(ask, start, entry)
        })?;
        if before == Step::Need || step == Step::Need {
            return Ok(Step::Need);
        }
        self.target.finish();
        Ok(Step::Done(()))
    }

    fn chunk<O: Objects + ?Sized>(
        &mut self,
        ask: &mut Ask<'_, O>,
        start: i64,
        entry: Entry,
    ) -> Result<Step<()>, ZodbError> {
        let oid = self.oid;
        let Ok(offset) = u64::try_from(start) else {
            return Err(ZodbError::Chunk {
                oid,
                fault: ChunkFault::Negative { start },
            });
        };
        if offset > self.blksize.0 {
            return Err(ZodbError::LongBlock {
                oid,
                blksize: self.blksize,
            });
        }
        if self.end > start {
            let fault = ChunkFault::Overlap {
                start,
                end: self.end,
            };
            return Err(ZodbError::Chunk { oid, fault });
        }
        let Some(data) = data(ask, entry.oid)? else {
            self.end = start;
            return Ok(Step::Need);
        };
        let end = start.saturating_add_unsigned(data.len() as u64);
        if end.unsigned_abs() > self.blksize.0 {
            return Err(ZodbError::LongBlock {
                oid,
                blksize: self.blksize,
            });
        }
        self.end = end;
        self.target.put(offset, data);
        Ok(Step::Done(()))
    }
}

/// The bytes of a chunk; `None` when not at hand.
fn data<'o, O: Objects + ?Sized>(
    ask: &mut Ask<'o, O>,
    oid: Oid,
) -> Result<Option<&'o Bytes>, ZodbError> {
    match ask.get(oid)? {
        None => Ok(None),
        Some(Object::Data(data)) => Ok(Some(data)),
        Some(object) => Err(ZodbError::WrongClass {
            oid,
            expected: Role::Data,
            found: object.into(),
        }),
    }
}
