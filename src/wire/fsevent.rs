//! What happened to files, as the kernel tells those who watch: fanotify's records by directory handle and name, and the mask that
//! inotify shares with it.
//!
//! ```text
//!   event   = len u32 | version u8 | reserved u8 | head len u16 | mask u64 | descriptor i32 | pid i32 | record...     len counts it all
//!   record  = type u8 | pad u8 | len u16 | fsid 8 bytes | handle len u32 | handle type i32 | handle | name, 0 | padding
//!   type    = 1 the thing itself   2 directory and name   3 directory   10 old directory and name   12 new directory and name
//! ```
//!
//! Integers are in the machine's order. Nothing here can panic, whatever the bytes are: what makes no sense ends the reading, and the
//! caller learns that something was missed ([`Reading::Broken`]), which is as good as an overflow.
//!
//! A handle is an opaque name of a directory: `kernel::watch` finds out where that is now.

use std::fmt;

/// Kinds of events, several of which may be merged into one; fanotify and inotify have the same bits.
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct Mask(pub u64);

impl Mask {
    /// Bytes were written, or the length was changed.
    pub const MODIFY: Self = Self(0x2);
    /// Owner, mode, times, links or an extended attribute were changed.
    pub const ATTRIB: Self = Self(0x4);
    /// A descriptor that could write was closed for the last time.
    pub const CLOSE_WRITE: Self = Self(0x8);
    /// Opened.
    pub const OPEN: Self = Self(0x20);
    /// A name went away to another place.
    pub const MOVED_FROM: Self = Self(0x40);
    /// A name came from another place.
    pub const MOVED_TO: Self = Self(0x80);
    /// A name was made.
    pub const CREATE: Self = Self(0x100);
    /// A name was removed.
    pub const DELETE: Self = Self(0x200);
    /// The thing itself has no name any more.
    pub const DELETE_SELF: Self = Self(0x400);
    /// The thing itself was moved.
    pub const MOVE_SELF: Self = Self(0x800);
    /// Its file system was unmounted (inotify).
    pub const UNMOUNT: Self = Self(0x2000);
    /// Events were lost.
    pub const OVERFLOW: Self = Self(0x4000);
    /// The watch is gone (inotify).
    pub const IGNORED: Self = Self(0x8000);
    /// Both names of a rename (fanotify of 5.17).
    pub const RENAME: Self = Self(0x1000_0000);
    /// It is a directory.
    pub const DIR: Self = Self(0x4000_0000);

    /// Whether one of `other` is in it.
    pub fn any(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }

    /// With those of `other`.
    #[must_use]
    pub const fn and(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Without those of `other`.
    #[must_use]
    pub fn but(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }
}

impl fmt::Debug for Mask {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const NAMES: [(Mask, &str); 15] = [
            (Mask::MODIFY, "modify"),
            (Mask::ATTRIB, "attrib"),
            (Mask::CLOSE_WRITE, "close"),
            (Mask::OPEN, "open"),
            (Mask::MOVED_FROM, "from"),
            (Mask::MOVED_TO, "to"),
            (Mask::CREATE, "create"),
            (Mask::DELETE, "delete"),
            (Mask::DELETE_SELF, "delete-self"),
            (Mask::MOVE_SELF, "move-self"),
            (Mask::UNMOUNT, "unmount"),
            (Mask::OVERFLOW, "overflow"),
            (Mask::IGNORED, "ignored"),
            (Mask::RENAME, "rename"),
            (Mask::DIR, "dir"),
        ];
        let set = NAMES.iter().filter(|(bit, _)| self.any(*bit));
        let names: Vec<&str> = set.map(|(_, name)| *name).collect();
        f.write_str(&names.join("+"))
    }
}

/// A directory's handle, as the kernel gave it: type and bytes. It fits into what the kernel takes back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Handle<'a> {
    /// Its type.
    pub kind: i32,
    /// Its bytes, at most [`Handle::LEN_MAX`].
    pub bytes: &'a [u8],
}

impl Handle<'_> {
    /// `MAX_HANDLE_SZ` of the kernel.
    pub const LEN_MAX: usize = 128;
}

/// Where something is: a directory and a name in it. The name of the directory itself is `.`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Spot<'a> {
    /// The directory.
    pub dir: Handle<'a>,
    /// The name in it.
    pub name: &'a [u8],
}

/// One event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Event<'a> {
    /// Its kinds.
    pub mask: Mask,
    /// The process that did it; 0 if it is not to be seen from here.
    pub pid: i32,
    /// Where. None of an event that has no name: a link count that changed, the end of a file without names.
    pub spot: Option<Spot<'a>>,
    /// Where it was before a rename.
    pub old: Option<Spot<'a>>,
    /// Where it is after a rename.
    pub new: Option<Spot<'a>>,
}

/// A step through a buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reading<'a> {
    /// An event.
    Event(Event<'a>),
    /// The rest makes no sense: events may be missed.
    Broken,
}

/// The events of what one read(2) gave.
#[derive(Clone, Debug)]
pub struct Events<'a>(&'a [u8]);

impl<'a> Events<'a> {
    /// Of these bytes.
    pub fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }
}

/// Version of the records that is understood.
const VERSION: u8 = 3;
const HEAD_LEN: usize = 24;
/// Of a record up to its handle.
const RECORD_HEAD_LEN: usize = 20;

impl<'a> Iterator for Events<'a> {
    type Item = Reading<'a>;

    fn next(&mut self) -> Option<Reading<'a>> {
        if self.0.is_empty() {
            return None;
        }
        let cut = event(self.0);
        // After something broken there is no telling where the next begins.
        self.0 = cut.map_or(&[], |(_, rest)| rest);
        Some(cut.map_or(Reading::Broken, |(event, _)| Reading::Event(event)))
    }
}

fn array<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..at + N)?.try_into().ok()
}

/// The first event, and what follows it.
fn event(bytes: &[u8]) -> Option<(Event<'_>, &[u8])> {
    let len = usize::try_from(u32::from_ne_bytes(array(bytes, 0)?)).ok()?;
    let head_len = usize::from(u16::from_ne_bytes(array(bytes, 6)?));
    if bytes.get(4) != Some(&VERSION) || head_len < HEAD_LEN || len < head_len {
        return None;
    }
    let (all, rest) = bytes.split_at_checked(len)?;
    let mut out = Event {
        mask: Mask(u64::from_ne_bytes(array(all, 8)?)),
        pid: i32::from_ne_bytes(array(all, 20)?),
        spot: None,
        old: None,
        new: None,
    };
    let mut records = &all[head_len..];
    while !records.is_empty() {
        let len = usize::from(u16::from_ne_bytes(array(records, 2)?));
        let (record, next) = records.split_at_checked(len).filter(|_| len >= 4)?;
        match record[0] {
            2 | 3 => out.spot = Some(spot(record)?),
            10 => out.old = Some(spot(record)?),
            12 => out.new = Some(spot(record)?),
            // The thing's own handle, and whatever later kernels add, is not needed.
            _ => {}
        }
        records = next;
    }
    Some((out, rest))
}

fn spot(record: &[u8]) -> Option<Spot<'_>> {
    let handle_len = usize::try_from(u32::from_ne_bytes(array(record, 12)?)).ok()?;
    let kind = i32::from_ne_bytes(array(record, 16)?);
    let (bytes, name) = record[RECORD_HEAD_LEN..].split_at_checked(handle_len)?;
    if bytes.len() > Handle::LEN_MAX {
        return None;
    }
    let end = name.iter().position(|&b| b == 0).unwrap_or(name.len());
    let name = if end == 0 { b"." } else { &name[..end] };
    // A name with a slash would lead elsewhere.
    (!name.contains(&b'/')).then_some(Spot {
        dir: Handle { kind, bytes },
        name,
    })
}

#[cfg(test)]
pub(crate) mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    /// A record as the kernel lays it out.
    fn record(kind: u8, handle: &[u8], name: &[u8]) -> Vec<u8> {
        let len = (RECORD_HEAD_LEN + handle.len() + name.len() + 1).next_multiple_of(4);
        let mut out = vec![kind, 0];
        out.extend_from_slice(&u16::try_from(len).unwrap().to_ne_bytes());
        out.extend_from_slice(&[9; 8]);
        out.extend_from_slice(&u32::try_from(handle.len()).unwrap().to_ne_bytes());
        out.extend_from_slice(&1i32.to_ne_bytes());
        out.extend_from_slice(handle);
        out.extend_from_slice(name);
        out.resize(len, 0);
        out
    }

    fn message(mask: Mask, records: &[Vec<u8>]) -> Vec<u8> {
        let records = records.concat();
        let len = u32::try_from(HEAD_LEN + records.len()).unwrap();
        let mut out = len.to_ne_bytes().to_vec();
        out.extend_from_slice(&[VERSION, 0, 24, 0]);
        out.extend_from_slice(&mask.0.to_ne_bytes());
        out.extend_from_slice(&(-1i32).to_ne_bytes());
        out.extend_from_slice(&77i32.to_ne_bytes());
        out.extend_from_slice(&records);
        out
    }

    fn of(bytes: &[u8]) -> Vec<Reading<'_>> {
        Events::new(bytes).collect()
    }

    fn sample() -> Vec<u8> {
        let create = Mask::CREATE.and(Mask::CLOSE_WRITE);
        let one = message(
            create,
            &[record(2, &[7; 8], b"name"), record(1, &[8; 8], b"")],
        );
        let old_new = [
            record(10, &[7; 8], b"a"),
            record(12, &[6; 12], b"\xff\n"),
            record(1, &[8; 8], b""),
        ];
        let two = message(Mask::RENAME.and(Mask::DIR), &old_new);
        let lost = message(Mask::OVERFLOW, &[]);
        [one, two, lost].concat()
    }

    #[test]
    fn names_and_both_ends_of_renames_are_read() {
        let bytes = sample();
        let all = of(&bytes);
        let [
            Reading::Event(one),
            Reading::Event(two),
            Reading::Event(lost),
        ] = all[..]
        else {
            panic!("{all:?}")
        };
        assert_eq!(format!("{:?}", one.mask), "close+create");
        let spot = one.spot.unwrap();
        assert_eq!(
            (spot.name, spot.dir.bytes, one.pid),
            (b"name".as_slice(), [7; 8].as_slice(), 77)
        );
        assert_eq!((two.spot, two.old.unwrap().name), (None, b"a".as_slice()));
        assert_eq!(two.new.unwrap().dir.bytes, [6; 12]);
        assert_eq!(two.new.unwrap().name, b"\xff\n");
        assert!(lost.mask.any(Mask::OVERFLOW) && lost.spot.is_none());
    }

    #[test]
    fn a_directory_alone_is_itself() {
        let bytes = message(Mask::ATTRIB.and(Mask::DIR), &[record(3, &[7; 8], b"")]);
        let [Reading::Event(event)] = of(&bytes)[..] else {
            panic!()
        };
        assert_eq!(event.spot.unwrap().name, b".");
    }

    #[test]
    fn what_makes_no_sense_ends_the_reading_and_says_so() {
        let good = sample();
        for len in 1..good.len() {
            let cut = of(&good[..len]);
            let whole = cut.iter().filter(|r| **r != Reading::Broken).count();
            // Whole messages come out; a cut one is Broken, at the end and once.
            assert!(whole <= 3 && cut.len() - whole <= 1);
            assert!(cut[..cut.len() - 1].iter().all(|r| *r != Reading::Broken));
        }
        let slash = message(Mask::CREATE, &[record(2, &[7; 8], b"a/b")]);
        let wide = message(Mask::CREATE, &[record(2, &[7; 129], b"a")]);
        let mut version = sample();
        version[4] = 4;
        for bytes in [slash, wide, version, vec![0; 24], vec![255; 100]] {
            assert_eq!(of(&bytes)[..], [Reading::Broken]);
        }
    }
}
