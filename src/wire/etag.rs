//! `user.drpetag`: the digest of a file as dr-provision keeps it in an extended attribute.
//!
//! ```text
//!   0   1  length of the digest: 32
//!   1  32  the digest, SHA-256
//!  33   1  version of the time: 1 or 2
//!  34   8  seconds since the year 1 (UTC), big-endian
//!  42   4  nanoseconds, big-endian, below 10^9
//!  46   2  offset of the time zone in minutes, big-endian, signed; -1 is UTC
//!  48   1  version 2 alone: seconds of that offset
//! ```
//!
//! The time is the file's mtime when the digest was made; what counts is the instant, not its zone. [`Tag::parse`] takes a value of
//! exactly one of these two lengths and nothing else; after it nothing can go wrong.

use crate::base::{Digest, Stamp};

/// Name of the attribute.
pub const NAME: &std::ffi::CStr = c"user.drpetag";
/// The longest value that is one, with room to see that it is longer.
pub const ASK_BYTES: usize = 256;

/// Seconds from the year 1 to 1970, as Go counts.
const UNIX_TO_YEAR_1: i64 = 62_135_596_800;
const V1_BYTES: usize = 48;
const V2_BYTES: usize = 49;

/// What the attribute says: this was the digest when the file had this mtime.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tag {
    /// SHA-256 of the content.
    pub digest: Digest,
    /// The file's mtime.
    pub mtime: Stamp,
}

/// Why a value says nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TagError {
    /// Not as long as its version wants.
    #[error("{0} bytes are neither version")]
    Length(usize),
    /// Not SHA-256.
    #[error("a digest of {0} bytes")]
    Digest(u8),
    /// A time of a version nobody wrote yet.
    #[error("a time of version {0}")]
    Version(u8),
    /// Nanoseconds of a second or more.
    #[error("{0} nanoseconds")]
    Nanos(u32),
    /// An instant that no file has.
    #[error("a time beyond all stamps")]
    Seconds,
}

impl Tag {
    /// Reads a value of the attribute.
    ///
    /// # Errors
    /// It is not one.
    pub fn parse(value: &[u8]) -> Result<Self, TagError> {
        let (&len, rest) = value.split_first().ok_or(TagError::Length(0))?;
        if len != 32 {
            return Err(TagError::Digest(len));
        }
        let wrong = TagError::Length(value.len());
        let (digest, rest) = rest.split_first_chunk::<32>().ok_or(wrong)?;
        let (&version, rest) = rest.split_first().ok_or(wrong)?;
        let want = match version {
            1 => V1_BYTES,
            2 => V2_BYTES,
            other => return Err(TagError::Version(other)),
        };
        if value.len() != want {
            return Err(wrong);
        }
        let (seconds, rest) = rest.split_first_chunk().ok_or(wrong)?;
        let (nanos, _zone) = rest.split_first_chunk().ok_or(wrong)?;
        let ns = u32::from_be_bytes(*nanos);
        if ns >= 1_000_000_000 {
            return Err(TagError::Nanos(ns));
        }
        let s = i64::from_be_bytes(*seconds)
            .checked_sub(UNIX_TO_YEAR_1)
            .ok_or(TagError::Seconds)?;
        Ok(Self {
            digest: Digest(*digest),
            mtime: Stamp { s, ns },
        })
    }

    /// As version 1, in UTC. None for a time that the format cannot hold.
    pub fn value(&self) -> Option<[u8; V1_BYTES]> {
        let seconds = self.mtime.s.checked_add(UNIX_TO_YEAR_1)?;
        let mut out = [0; V1_BYTES];
        out[0] = 32;
        out[1..33].copy_from_slice(&self.digest.0);
        out[33] = 1;
        out[34..42].copy_from_slice(&seconds.to_be_bytes());
        out[42..46].copy_from_slice(&self.mtime.ns.to_be_bytes());
        out[46..48].copy_from_slice(&(-1i16).to_be_bytes());
        Some(out)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    fn bytes(hex: &str) -> Vec<u8> {
        let digits: Vec<_> = hex.chars().filter_map(|c| c.to_digit(16)).collect();
        digits
            .chunks(2)
            .map(|p| u8::try_from(p[0] << 4 | p[1]).unwrap())
            .collect()
    }

    /// SHA-256 of nothing.
    const EMPTY: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    #[test]
    fn golden_values_of_both_versions_and_several_zones() {
        // 2021-03-04 05:06:07.000000089 UTC is 1614834367: 62135596800 more is 0xed7d261bf.
        let seconds = "0000000ed7d261bf";
        let nanos = "00000059";
        let mtime = Stamp {
            s: 1_614_834_367,
            ns: 89,
        };
        let zones = ["ffff", "0000", "003c", "ff10", "0159", "7fff", "8000"];
        for zone in zones {
            let one = bytes(&format!("20{EMPTY}01{seconds}{nanos}{zone}"));
            let two = bytes(&format!("20{EMPTY}02{seconds}{nanos}{zone}1e"));
            for value in [one, two] {
                let tag = Tag::parse(&value).unwrap();
                assert_eq!((tag.digest.to_string().as_str(), tag.mtime), (EMPTY, mtime));
            }
        }
        let written = bytes(&format!("20{EMPTY}01{seconds}{nanos}ffff"));
        let tag = Tag::parse(&written).unwrap();
        assert_eq!(tag.value().unwrap().as_slice(), written);
    }

    #[test]
    fn times_before_1970_and_the_ends_of_time() {
        for s in [-1, -62_135_596_800, 0, i64::MAX - 62_135_596_800, i64::MIN] {
            let tag = Tag {
                digest: Digest([7; 32]),
                mtime: Stamp { s, ns: 999_999_999 },
            };
            assert_eq!(Tag::parse(&tag.value().unwrap()), Ok(tag));
        }
        let mtime = Stamp { s: i64::MAX, ns: 0 };
        let digest = Digest([7; 32]);
        assert_eq!(Tag { digest, mtime }.value(), None);
    }

    #[test]
    fn what_is_not_one_says_why() {
        let good = bytes(&format!("20{EMPTY}010000000ed7d261bf00000059ffff"));
        for len in 1..good.len() {
            assert_eq!(Tag::parse(&good[..len]), Err(TagError::Length(len)));
        }
        assert_eq!(Tag::parse(&[]), Err(TagError::Length(0)));
        let with = |at: usize, byte: u8| {
            let mut value = good.clone();
            value[at] = byte;
            Tag::parse(&value)
        };
        assert_eq!(with(0, 31), Err(TagError::Digest(31)));
        assert_eq!(with(33, 0), Err(TagError::Version(0)));
        assert_eq!(with(33, 3), Err(TagError::Version(3)));
        assert_eq!(with(33, 2), Err(TagError::Length(48)));
        let mut early = good.clone();
        early[34..42].copy_from_slice(&i64::MIN.to_be_bytes());
        assert_eq!(Tag::parse(&early), Err(TagError::Seconds));
        assert_eq!(with(42, 0x3c), Err(TagError::Nanos(0x3c00_0059)));
        let long = [good.as_slice(), &[0]].concat();
        assert_eq!(Tag::parse(&long), Err(TagError::Length(49)));
    }
}
