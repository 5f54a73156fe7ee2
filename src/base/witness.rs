//! What stands for a file's content without reading it, and what a reading gives.

use std::fmt;

/// A time stamp of a file system: seconds since 1970, before it too, and nanoseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Stamp {
    /// Seconds; rounded towards the past.
    pub s: i64,
    /// Nanoseconds, below 10^9 where a kernel made it.
    pub ns: u32,
}

impl Stamp {
    /// Nanoseconds since 1970: no stamp overflows it.
    pub fn nanos(self) -> i128 {
        i128::from(self.s) * 1_000_000_000 + i128::from(self.ns)
    }

    /// From nanoseconds since 1970.
    pub fn from_nanos(nanos: i128) -> Self {
        let s = nanos.div_euclid(1_000_000_000);
        Self {
            s: i64::try_from(s).unwrap_or(if s < 0 { i64::MIN } else { i64::MAX }),
            ns: u32::try_from(nanos.rem_euclid(1_000_000_000)).expect("below 10^9"),
        }
    }
}

/// What stands for the content of a file. The file system it is on is known once for a whole tree.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Witness {
    /// Inode number.
    pub ino: u64,
    /// When the inode was made: tells a number used again. None where the file system does not say.
    pub btime: Option<Stamp>,
    /// Bytes.
    pub size: u64,
    /// When the content was changed; anybody may set it.
    pub mtime: Stamp,
    /// When the inode was changed; the kernel alone sets it.
    pub ctime: Stamp,
}

/// 32 bytes that stand for the content: SHA-256 or BLAKE3.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Digest(pub [u8; 32]);

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = [0; 64];
        for (pair, byte) in text.chunks_exact_mut(2).zip(self.0) {
            pair[0] = HEX[usize::from(byte >> 4)];
            pair[1] = HEX[usize::from(byte & 15)];
        }
        f.write_str(std::str::from_utf8(&text).expect("digits are ASCII"))
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Digest({self})")
    }
}

const HEX: &[u8; 16] = b"0123456789abcdef";

impl Digest {
    /// From 64 hex digits of either case.
    pub fn parse(text: &[u8]) -> Option<Self> {
        let mut out = [0; 32];
        if text.len() != 64 {
            return None;
        }
        for (byte, pair) in out.iter_mut().zip(text.chunks_exact(2)) {
            let digit = |c: u8| char::from(c).to_digit(16);
            *byte = u8::try_from(digit(pair[0])? << 4 | digit(pair[1])?).ok()?;
        }
        Some(Self(out))
    }
}

/// How a digest is made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Algo {
    /// The form that is exchanged with others.
    #[default]
    Sha256,
    /// Faster; for use inside.
    Blake3,
}

impl Algo {
    /// Its name on the command line and in a manifest.
    pub fn name(self) -> &'static str {
        match self {
            Self::Sha256 => "sha256",
            Self::Blake3 => "blake3",
        }
    }

    /// By name.
    pub fn by_name(name: &str) -> Option<Self> {
        [Self::Sha256, Self::Blake3]
            .into_iter()
            .find(|algo| algo.name() == name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stamps_go_both_ways_at_the_ends_of_time() {
        for s in [i64::MIN, -1, 0, 1, i64::MAX] {
            for ns in [0, 1, 999_999_999] {
                let stamp = Stamp { s, ns };
                assert_eq!(Stamp::from_nanos(stamp.nanos()), stamp);
            }
        }
        assert_eq!(
            Stamp::from_nanos(-1),
            Stamp {
                s: -1,
                ns: 999_999_999
            }
        );
        assert_eq!(Stamp::from_nanos(i128::MAX).s, i64::MAX);
    }

    #[test]
    fn digests_go_through_text() {
        let digest = Digest(std::array::from_fn(|i| u8::try_from(i * 7).unwrap_or(0xff)));
        let text = digest.to_string();
        assert_eq!(Digest::parse(text.as_bytes()), Some(digest));
        assert_eq!(Digest::parse(text.to_uppercase().as_bytes()), Some(digest));
        assert_eq!(Digest::parse(&text.as_bytes()[1..]), None);
        assert_eq!(Digest::parse(&[b'g'; 64]), None);
    }
}
