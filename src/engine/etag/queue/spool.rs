//! Items that have no room in memory: a file without a name, written at its end and read from its start.
//!
//! It is of this process alone, lost with it, and a disk that is full is no harm: who adds then waits for room, as before there were such files.

use super::{Item, Rank};
use crate::base::{Digest, Stamp, Witness};
use crate::kernel::stat::{Kind, Stat};
use crate::wire::catalog::{ENTRY_BYTES, Entry, Record};
use std::ffi::CString;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Written at once.
const WRITE_BYTES: usize = 64 << 10;
/// Read at once; an item has less.
const READ_BYTES: usize = 256 << 10;

/// See the module.
#[derive(Debug)]
pub(super) struct Spool {
    dir: PathBuf,
    number: usize,
    file: Option<File>,
    /// Bytes in the file that were not read yet.
    from: u64,
    to: u64,
    /// Behind them.
    unwritten: Vec<u8>,
    items: usize,
}

impl Spool {
    /// In a directory, with a number of its own there.
    pub(super) fn new(dir: &Path, number: usize) -> Self {
        Self {
            dir: dir.to_owned(),
            number,
            file: None,
            from: 0,
            to: 0,
            unwritten: Vec::new(),
            items: 0,
        }
    }

    pub(super) fn len(&self) -> usize {
        self.items
    }

    /// Adds one at the end. After an error it is as before.
    pub(super) fn push(&mut self, item: &Item) -> io::Result<()> {
        if self.unwritten.len() >= WRITE_BYTES {
            let file = match &self.file {
                Some(file) => file,
                None => self.file.insert(nameless(&self.dir, self.number)?),
            };
            file.write_all_at(&self.unwritten, self.to)?;
            self.to += self.unwritten.len() as u64;
            self.unwritten.clear();
        }
        put(&mut self.unwritten, item);
        self.items += 1;
        Ok(())
    }

    /// Takes some from the start. After an error there are none any more.
    pub(super) fn take(&mut self) -> io::Result<Vec<Item>> {
        self.read()
            .inspect_err(|_| *self = Self::new(&self.dir, self.number))
    }

    fn read(&mut self) -> io::Result<Vec<Item>> {
        let mut bytes = Vec::new();
        match &self.file {
            Some(file) if self.from < self.to => {
                let len = (self.to - self.from).min(READ_BYTES as u64);
                bytes.resize(usize::try_from(len).expect("it is small"), 0);
                file.read_exact_at(&mut bytes, self.from)?;
            }
            _ => bytes.append(&mut self.unwritten),
        }
        let (mut out, mut rest) = (Vec::new(), &bytes[..]);
        while let Some((item, behind)) = get(rest, out.last()) {
            out.push(item);
            rest = behind;
        }
        assert!(!out.is_empty() || bytes.is_empty(), "BUG: an item is cut");
        self.items -= out.len();
        if self.from < self.to {
            self.from += (bytes.len() - rest.len()) as u64;
            if self.from == self.to
                && let Some(file) = &self.file
            {
                file.set_len(0)?;
                (self.from, self.to) = (0, 0);
            }
        }
        Ok(out)
    }
}

/// It has a name for a moment: not every file system makes files without.
fn nameless(dir: &Path, number: usize) -> io::Result<File> {
    let path = dir.join(format!("waiting.{}.{number}", std::process::id()));
    let mut options = OpenOptions::new();
    let file = options.read(true).write(true).create_new(true).open(&path);
    std::fs::remove_file(&path)?;
    file
}

/// An item: its length, lengths of its texts, fixed parts, texts.
fn put(out: &mut Vec<u8>, item: &Item) {
    let Item {
        dir,
        name,
        stat,
        looked,
        rank,
        old,
        tries,
        alone,
    } = item;
    debug_assert_eq!(stat.kind, Kind::File, "others have no content");
    let begin = out.len();
    out.extend_from_slice(&[0; 4]);
    let name = name.to_bytes();
    for text in [dir, name] {
        let len = u32::try_from(text.len()).expect("paths are short");
        out.extend_from_slice(&len.to_le_bytes());
    }
    let bits = [*alone, stat.verity, old.is_some()];
    let bits = bits
        .iter()
        .rev()
        .fold(0, |all, &bit| all << 1 | u8::from(bit));
    out.extend_from_slice(&[*rank as u8, *tries, bits]);
    out.extend_from_slice(&stat.nlink.to_le_bytes());
    out.extend_from_slice(&stat.dev.to_le_bytes());
    out.extend_from_slice(&looked.s.to_le_bytes());
    out.extend_from_slice(&looked.ns.to_le_bytes());
    let own = Record {
        witness: stat.witness,
        digest: Digest([0; 32]),
        hashed_at: 0,
        flags: 0,
    };
    out.extend_from_slice(&own.fixed(0));
    out.extend_from_slice(&old.map_or([0; ENTRY_BYTES], |old| old.fixed(0)));
    out.extend_from_slice(dir);
    out.extend_from_slice(name);
    let len = u32::try_from(out.len() - begin).expect("paths are short");
    out[begin..begin + 4].copy_from_slice(&len.to_le_bytes());
}

/// The first of them, if it is whole. Most are of the directory of the one before.
fn get<'b>(bytes: &'b [u8], before: Option<&Item>) -> Option<(Item, &'b [u8])> {
    let len = u32::from_le_bytes(*bytes.first_chunk()?);
    let (mut own, behind) = bytes.split_at_checked(usize::try_from(len).ok()?)?;
    let mut word = |len: usize| {
        let (word, rest) = own.split_at(len);
        own = rest;
        word
    };
    let u32_of = |bytes: &[u8]| u32::from_le_bytes(bytes.try_into().expect("four bytes"));
    let u64_of = |bytes: &[u8]| u64::from_le_bytes(bytes.try_into().expect("eight bytes"));
    word(4);
    let dir_len = usize::try_from(u32_of(word(4))).ok()?;
    let name_len = usize::try_from(u32_of(word(4))).ok()?;
    let (rank, tries, bits) = (word(1)[0], word(1)[0], word(1)[0]);
    let (nlink, dev) = (u32_of(word(4)), u64_of(word(8)));
    let looked = Stamp {
        s: i64::from_le_bytes(word(8).try_into().expect("eight bytes")),
        ns: u32_of(word(4)),
    };
    let mut record = || {
        let fixed = word(ENTRY_BYTES).try_into().expect("as many bytes");
        Entry { fixed, name: b"" }.record()
    };
    let witness: Witness = record().witness;
    let old = Some(record()).filter(|_| bits & 4 != 0);
    let (dir, name) = (word(dir_len), word(name_len));
    let same = before.filter(|item| *item.dir == *dir);
    let item = Item {
        dir: same.map_or_else(|| Arc::from(dir), |item| Arc::clone(&item.dir)),
        name: CString::new(name).ok()?.into_boxed_c_str(),
        stat: Stat {
            kind: Kind::File,
            witness,
            nlink,
            dev,
            verity: bits & 2 != 0,
        },
        looked,
        rank: Rank::ALL[usize::from(rank)],
        old,
        tries,
        alone: bits & 1 != 0,
    };
    Some((item, behind))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use crate::wire::catalog::flag;

    fn item(n: u64) -> Item {
        let stamp = |s: u64| Stamp {
            s: i64::try_from(s).unwrap() - 5,
            ns: 7,
        };
        let witness = Witness {
            ino: n,
            btime: n.is_multiple_of(3).then(|| stamp(n)),
            size: n * 3,
            mtime: stamp(n + 1),
            ctime: stamp(n + 2),
        };
        let old = Record {
            witness: Witness { ino: 9, ..witness },
            digest: Digest([8; 32]),
            hashed_at: -1,
            flags: flag::BTIME * u16::from(witness.btime.is_some()),
        };
        Item {
            dir: Arc::from(
                format!("d{}", n / 100)
                    .repeat(1 + usize::try_from(n % 7).unwrap())
                    .as_bytes(),
            ),
            name: CString::new(format!("f{n}")).unwrap().into_boxed_c_str(),
            stat: Stat {
                kind: Kind::File,
                witness,
                nlink: 3,
                dev: n << 40,
                verity: n.is_multiple_of(2),
            },
            looked: stamp(n),
            rank: Rank::ALL[usize::try_from(n).unwrap() % Rank::ALL.len()],
            old: n.is_multiple_of(5).then_some(old),
            tries: 4,
            alone: n.is_multiple_of(11),
        }
    }

    #[test]
    fn what_goes_in_comes_out_whole_and_in_order() {
        let dir = std::env::temp_dir().join(format!("zring-spool-{}", std::process::id()));
        std::fs::create_dir(&dir).unwrap();
        let mut spool = Spool::new(&dir, 1);
        let (mut added, mut taken) = (0, 0);
        // Filled and emptied, also while it is being filled.
        for (adds, takes) in [(5, 9), (20_000, 3), (4000, 99), (1, 1), (3000, 99)] {
            for _ in 0..adds {
                spool.push(&item(added)).unwrap();
                added += 1;
            }
            for _ in 0..takes {
                for one in spool.take().unwrap() {
                    assert_eq!(format!("{one:?}"), format!("{:?}", item(taken)));
                    taken += 1;
                }
            }
            assert_eq!(spool.len() as u64, added - taken);
        }
        assert_eq!(added, taken);
        let file = spool.file.as_ref().unwrap();
        assert_eq!(
            file.metadata().unwrap().len(),
            0,
            "it gives back what was read"
        );
        std::fs::remove_dir(&dir).expect("files have no names");
    }

    #[test]
    fn where_nothing_can_be_written_what_is_there_stays() {
        let mut spool = Spool::new(Path::new("/nowhere/at/all"), 1);
        let mut n = 0;
        while spool.push(&item(n)).is_ok() {
            n += 1;
        }
        assert!(n > 100 && spool.push(&item(n)).is_err());
        let all = spool.take().unwrap();
        assert_eq!((all.len() as u64, spool.len()), (n, 0));
    }
}
