//! A READ in terms of blocks: what a file is in a view, and which part of which block goes where.

use crate::base::{BlkNo, Oid};
use crate::zodb::ZodbError;
use crate::zodb::bigfile;
use crate::zodb::need::{Ask, Objects, Step};
use crate::zodb::object::BigFile;

/// What a big file is in one view.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Info {
    /// Block size and block table.
    pub file: BigFile,
    /// Bytes.
    pub size: u64,
}

/// Finds out what the big file `oid` is.
///
/// # Errors
/// It is none, or the database is damaged.
pub fn info<O: Objects>(ask: &mut Ask<'_, O>, oid: Oid) -> Result<Step<Info>, ZodbError> {
    let Step::Done(file) = bigfile::open(ask, oid)? else {
        return Ok(Step::Need);
    };
    Ok(bigfile::size(ask, &file)?.map(|size| Info { file, size }))
}

/// A part of one block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Piece {
    /// The block.
    pub blk: BlkNo,
    /// First byte in the block.
    pub off: u64,
    /// Where it goes in the reply.
    pub at: usize,
    /// Bytes.
    pub len: usize,
}

/// The bytes that a READ gets: none at or beyond the end of the file.
pub fn clip(off: u64, want: usize, size: u64) -> usize {
    let left = size.saturating_sub(off);
    usize::try_from(left).unwrap_or(usize::MAX).min(want)
}

/// Cuts `len` bytes at `off` into blocks.
pub fn pieces(blksize: u64, off: u64, len: usize) -> impl Iterator<Item = Piece> {
    let mut at = 0;
    std::iter::from_fn(move || {
        let left = len - at;
        if left == 0 {
            return None;
        }
        let pos = off + at as u64;
        let in_blk = pos % blksize;
        let room = usize::try_from(blksize - in_blk).unwrap_or(usize::MAX);
        let piece = Piece {
            blk: BlkNo(pos / blksize),
            off: in_blk,
            at,
            len: left.min(room),
        };
        at += piece.len;
        Some(piece)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_cover_a_read_once_and_stay_inside_their_blocks() {
        for blksize in [1u64, 4, 7, 4096, 1 << 21] {
            for off in [0u64, 1, 4095, 4096, 99_999, 1 << 40] {
                for len in [0usize, 1, 5, 4096, 20_000] {
                    let mut next = 0;
                    for piece in pieces(blksize, off, len) {
                        assert_eq!(piece.at, next);
                        assert_eq!(piece.blk.0 * blksize + piece.off, off + next as u64);
                        assert!(piece.len > 0 && piece.off + piece.len as u64 <= blksize);
                        next += piece.len;
                    }
                    assert_eq!(next, len);
                }
            }
        }
    }

    #[test]
    fn nothing_is_read_beyond_the_end() {
        assert_eq!(clip(0, 4096, 0), 0);
        assert_eq!(clip(8190, 4096, 8192), 2);
        assert_eq!(clip(8192, 1, 8192), 0);
        assert_eq!(clip(u64::MAX, 1, 8192), 0);
    }
}
