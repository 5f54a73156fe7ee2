//! Rings of the ETag engine: files read to be hashed, and attributes asked for in batches.
//!
//! A [`ReadRing`] has slots. A small file is one chain in a slot: open into a place of the ring's own table, sync if wanted, read, close. The
//! close is linked hard, as a short read breaks a soft link. Other files are opened as usual, looked at, and read piece by piece.
//! Whatever is under way reads into memory that the ring owns, and a ring that is dropped waits for it first.
//!
//! One thread owns a ring. Nothing is opened but what it is told; opens are counted as data ([`calls`]).

use super::calls::{self, Class, Count};
use super::direct::{self, Aligned};
use super::stat::{DATA_FLAGS, Resolve, Stat, Statx};
use io_uring::{IoUring, opcode, squeue, types};
use std::ffi::{CStr, CString, OsStr};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

/// Requests of one chain.
const CHAIN_MAX: usize = 4;
/// Pieces of a large file that are read at a time.
pub const PIECES: usize = 4;
/// `RWF_DONTCACHE`: what this read brings in does not stay (6.14).
const DONT_CACHE: i32 = 0x80;

/// What a request was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// An open.
    Open,
    /// A sync of data.
    Sync,
    /// A read into the slot's own buffer.
    Read,
    /// A close.
    Close,
    /// A read of a piece of a large file.
    Piece(usize),
}

impl Step {
    fn number(self) -> u64 {
        match self {
            Self::Open => 0,
            Self::Sync => 1,
            Self::Read => 2,
            Self::Close => 3,
            Self::Piece(piece) => 4 + piece as u64,
        }
    }

    fn of(number: u64) -> Self {
        match number {
            0 => Self::Open,
            1 => Self::Sync,
            2 => Self::Read,
            3 => Self::Close,
            n => Self::Piece(usize::try_from(n - 4).unwrap_or(0)),
        }
    }
}

/// A request that ended.
#[derive(Clone, Copy, Debug)]
pub struct Ended {
    /// Its slot.
    pub slot: usize,
    /// What it was.
    pub step: Step,
    /// Result, or -errno.
    pub res: i32,
}

#[derive(Default)]
struct Slot {
    name: CString,
    dir: Option<Arc<OwnedFd>>,
    file: Option<OwnedFd>,
    buf: Aligned,
    pending: usize,
    /// What its reads bring in is not to stay.
    dont_cache: bool,
    /// Its reads go past the page cache.
    direct: bool,
}

/// A ring that reads files.
pub struct ReadRing {
    ring: IoUring,
    slots: Vec<Slot>,
    pieces: Vec<Aligned>,
    /// For places in the ring's table, which are not inherited and refuse O_CLOEXEC, and for descriptors.
    how: Box<[types::OpenHow; 2]>,
    pending: usize,
}

impl std::fmt::Debug for ReadRing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "ReadRing({} slots)", self.slots.len())
    }
}

impl ReadRing {
    /// A ring of so many slots with buffers of these sizes; files are opened as `resolve` says.
    ///
    /// # Errors
    /// io_uring is forbidden or too old.
    pub fn new(
        slots: usize,
        buf_bytes: usize,
        piece_bytes: usize,
        resolve: Resolve,
    ) -> io::Result<Self> {
        let entries = u32::try_from(slots * CHAIN_MAX + PIECES).unwrap_or(u32::MAX);
        let ring = IoUring::builder()
            .setup_submit_all()
            .setup_single_issuer()
            .setup_defer_taskrun()
            .build(entries)?;
        let table = u32::try_from(slots).unwrap_or(u32::MAX);
        ring.submitter().register_files_sparse(table)?;
        let how = |flags: i32| {
            let flags = u64::from(flags.cast_unsigned());
            types::OpenHow::new().flags(flags).resolve(resolve.bits())
        };
        Ok(Self {
            ring,
            slots: (0..slots)
                .map(|_| Slot {
                    buf: Aligned::new(buf_bytes),
                    ..Slot::default()
                })
                .collect(),
            pieces: (0..PIECES).map(|_| Aligned::new(piece_bytes)).collect(),
            how: Box::new([how(DATA_FLAGS), how(DATA_FLAGS | libc::O_CLOEXEC)]),
            pending: 0,
        })
    }

    /// Bytes of a slot's buffer.
    pub fn buf_bytes(&self) -> usize {
        self.slots[0].buf.len()
    }

    /// Bytes of a piece.
    pub fn piece_bytes(&self) -> usize {
        self.pieces[0].len()
    }

    /// Requests under way.
    pub fn pending(&self) -> usize {
        self.pending
    }

    /// Says whether what a slot reads from now on is to leave the page cache as it was; not every file system has such reads.
    pub fn set_dont_cache(&mut self, slot: usize, dont_cache: bool) {
        self.slots[slot].dont_cache = dont_cache;
    }

    /// Whether they are meant to.
    pub fn is_dont_cache(&self, slot: usize) -> bool {
        self.slots[slot].dont_cache
    }

    fn push(&mut self, slot: usize, step: Step, entry: squeue::Entry) {
        let entry = entry.user_data((slot as u64) << 8 | step.number());
        self.slots[slot].pending += 1;
        self.pending += 1;
        loop {
            // SAFETY: what an entry points to is owned by this ring (names, buffers, `how`), is not moved or touched while
            // `pending` counts it, and outlives it, as `drop` waits.
            if unsafe { self.ring.submission().push(&entry) }.is_ok() {
                return;
            }
            let _ = self.ring.submit();
        }
    }

    fn begin(&mut self, slot: usize, dir: Arc<OwnedFd>, name: CString) -> types::Fd {
        assert_eq!(self.slots[slot].pending, 0, "BUG: a slot in use");
        let fd = types::Fd(dir.as_raw_fd());
        let slot = &mut self.slots[slot];
        slot.name = name;
        slot.dir = Some(dir);
        slot.file = None;
        slot.direct = false;
        let path = || Path::new(OsStr::from_bytes(slot.name.to_bytes()));
        calls::note_open(Class::Data, path);
        calls::add(Count::RingOpen, 1);
        fd
    }

    /// Whether a slot's reads go past the page cache.
    pub fn is_direct(&self, slot: usize) -> bool {
        self.slots[slot].direct
    }

    fn read_flags(&self, slot: usize) -> i32 {
        let Slot {
            dont_cache, direct, ..
        } = self.slots[slot];
        if dont_cache && !direct { DONT_CACHE } else { 0 }
    }

    /// Bytes of a read of a slot's file, into a buffer of `most`.
    fn read_len(&self, slot: usize, len: usize, most: usize) -> u32 {
        let len = match self.slots[slot].direct {
            true => len.next_multiple_of(direct::ALIGN),
            false => len,
        };
        u32::try_from(len.min(most)).unwrap_or(0)
    }

    /// Opens, syncs if `sync`, reads at most `len` bytes and closes: three or four requests, each of which ends.
    /// Returns how many.
    pub fn chain(
        &mut self,
        slot: usize,
        dir: Arc<OwnedFd>,
        name: CString,
        len: usize,
        sync: bool,
    ) -> usize {
        let fd = self.begin(slot, dir, name);
        let place = u32::try_from(slot).unwrap_or(u32::MAX);
        let file = types::Fixed(place);
        let target = types::DestinationSlot::try_from_slot_target(place).ok();
        let path = self.slots[slot].name.as_ptr();
        let how = &raw const self.how[0];
        let open = opcode::OpenAt2::new(fd, path, how).file_index(target);
        self.push(slot, Step::Open, open.build().flags(squeue::Flags::IO_LINK));
        if sync {
            calls::add(Count::RingSync, 1);
            let sync = opcode::Fsync::new(file).flags(types::FsyncFlags::DATASYNC);
            self.push(slot, Step::Sync, sync.build().flags(squeue::Flags::IO_LINK));
        }
        calls::add(Count::RingRead, 1);
        calls::add(Count::RingClose, 1);
        let buf = self.slots[slot].buf.bytes_mut().as_mut_ptr();
        let len = u32::try_from(len.min(self.buf_bytes())).unwrap_or(0);
        let read = opcode::Read::new(file, buf, len).rw_flags(self.read_flags(slot));
        self.push(
            slot,
            Step::Read,
            read.build().flags(squeue::Flags::IO_HARDLINK),
        );
        self.push(slot, Step::Close, opcode::Close::new(file).build());
        3 + usize::from(sync)
    }

    /// Opens a file as usual; see [`ReadRing::opened`].
    pub fn open(&mut self, slot: usize, dir: Arc<OwnedFd>, name: CString) {
        let fd = self.begin(slot, dir, name);
        let path = self.slots[slot].name.as_ptr();
        let open = opcode::OpenAt2::new(fd, path, &raw const self.how[1]);
        self.push(slot, Step::Open, open.build());
    }

    /// Takes in the descriptor that an open gave, to be read from this slot.
    pub fn opened(&mut self, slot: usize, res: i32) -> BorrowedFd<'_> {
        assert!(res >= 0, "BUG: an open that failed gave no descriptor");
        // SAFETY: the kernel made this descriptor for the open of this slot, and it is taken in once.
        let fd = unsafe { OwnedFd::from_raw_fd(res) };
        let file: &OwnedFd = self.slots[slot].file.insert(fd);
        file.as_fd()
    }

    /// The file of a slot is a regular one: its reads may wait, and go past the page cache if that is wanted and can be. Returns whether they do;
    /// buffers and offsets are multiples of [`direct::ALIGN`] then.
    ///
    /// # Errors
    /// What the system says.
    pub fn set_waiting(&mut self, slot: usize, direct: bool) -> io::Result<bool> {
        let slot = &mut self.slots[slot];
        let file = slot.file.as_ref().expect("BUG: it was opened");
        slot.direct = direct::set(file, direct)?;
        Ok(slot.direct)
    }

    /// The file of a slot.
    pub fn file(&self, slot: usize) -> Option<BorrowedFd<'_>> {
        self.slots[slot].file.as_ref().map(AsFd::as_fd)
    }

    /// The directory of a slot.
    pub fn dir(&self, slot: usize) -> Option<&Arc<OwnedFd>> {
        self.slots[slot].dir.as_ref()
    }

    /// The name of a slot's file.
    pub fn name(&self, slot: usize) -> &CStr {
        &self.slots[slot].name
    }

    fn raw(&self, slot: usize) -> types::Fd {
        let file = self.slots[slot].file.as_ref();
        types::Fd(file.expect("BUG: it was opened").as_raw_fd())
    }

    /// Has what was written to the file reach the disk.
    pub fn sync(&mut self, slot: usize) {
        calls::add(Count::RingSync, 1);
        let sync = opcode::Fsync::new(self.raw(slot)).flags(types::FsyncFlags::DATASYNC);
        self.push(slot, Step::Sync, sync.build());
    }

    fn count_read(&self, slot: usize) {
        calls::add(Count::RingRead, 1);
        calls::add(Count::DirectRead, usize::from(self.slots[slot].direct));
    }

    /// Reads at most `len` bytes at `at` into the slot's buffer.
    pub fn read(&mut self, slot: usize, at: u64, len: usize) {
        self.count_read(slot);
        let fd = self.raw(slot);
        let len = self.read_len(slot, len, self.buf_bytes());
        let buf = self.slots[slot].buf.bytes_mut().as_mut_ptr();
        let read = opcode::Read::new(fd, buf, len).offset(at);
        self.push(
            slot,
            Step::Read,
            read.rw_flags(self.read_flags(slot)).build(),
        );
    }

    /// Reads at most `len` bytes at `at` into one of the pieces, which one slot has at a time.
    pub fn read_piece(&mut self, slot: usize, piece: usize, at: u64, len: usize) {
        self.count_read(slot);
        let fd = self.raw(slot);
        let len = self.read_len(slot, len, self.piece_bytes());
        let buf = self.pieces[piece].bytes_mut().as_mut_ptr();
        let read = opcode::Read::new(fd, buf, len).offset(at);
        self.push(
            slot,
            Step::Piece(piece),
            read.rw_flags(self.read_flags(slot)).build(),
        );
    }

    /// What the last read of a slot gave; nothing may be under way there.
    pub fn bytes(&self, slot: usize, len: usize) -> &[u8] {
        assert_eq!(self.slots[slot].pending, 0, "BUG: a read is under way");
        &self.slots[slot].buf.bytes()[..len]
    }

    /// What a read of a piece gave.
    pub fn piece(&self, piece: usize, len: usize) -> &[u8] {
        &self.pieces[piece].bytes()[..len]
    }

    /// Closes what a slot has open.
    pub fn release(&mut self, slot: usize) {
        assert_eq!(self.slots[slot].pending, 0, "BUG: requests are under way");
        self.slots[slot].file = None;
        self.slots[slot].dir = None;
    }

    /// Submits all, waits for a request to end, at most `limit`, and moves all that ended to `out`.
    ///
    /// # Errors
    /// What the system says.
    pub fn wait(&mut self, limit: Duration, out: &mut Vec<Ended>) -> io::Result<()> {
        let time = types::Timespec::from(limit);
        let args = types::SubmitArgs::new().timespec(&time);
        let want = usize::from(self.pending > 0);
        match self.ring.submitter().submit_with_args(want, &args) {
            Ok(_) => {}
            Err(e) => match e.raw_os_error() {
                Some(libc::ETIME | libc::EINTR | libc::EBUSY | libc::EAGAIN) => {}
                _ => return Err(e),
            },
        }
        for entry in self.ring.completion() {
            let slot = usize::try_from(entry.user_data() >> 8).expect("a slot's number");
            self.slots[slot].pending -= 1;
            self.pending -= 1;
            out.push(Ended {
                slot,
                step: Step::of(entry.user_data() & 0xff),
                res: entry.result(),
            });
        }
        Ok(())
    }
}

impl Drop for ReadRing {
    fn drop(&mut self) {
        let mut ended = Vec::new();
        while self.pending > 0 {
            if self.wait(Duration::from_millis(100), &mut ended).is_err() {
                // The kernel may still write: what it writes to is never freed.
                std::mem::forget(std::mem::take(&mut self.slots));
                std::mem::forget(std::mem::take(&mut self.pieces));
                let none = Box::new([types::OpenHow::new(), types::OpenHow::new()]);
                std::mem::forget(std::mem::replace(&mut self.how, none));
                return;
            }
        }
    }
}

/// A ring that asks for attributes.
pub struct StatRing {
    ring: IoUring,
    names: Vec<u8>,
    answers: Vec<Statx>,
}

impl std::fmt::Debug for StatRing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "StatRing")
    }
}

impl StatRing {
    /// Names asked for at a time.
    pub const DEPTH: usize = 128;

    /// A ring for the calling thread.
    ///
    /// # Errors
    /// io_uring is forbidden or too old.
    pub fn new() -> io::Result<Self> {
        Ok(Self {
            ring: IoUring::builder().build(128)?,
            names: Vec::new(),
            answers: vec![Statx::EMPTY; Self::DEPTH],
        })
    }

    /// statx of each of `count` names, which each end with a zero; links are not followed.
    pub fn stat(
        &mut self,
        dir: BorrowedFd<'_>,
        names: &[u8],
        count: usize,
    ) -> Vec<io::Result<Stat>> {
        assert!(count <= Self::DEPTH, "BUG: more names than the ring takes");
        self.names.clear();
        self.names.extend_from_slice(names);
        calls::add(Count::RingStat, count);
        let each = self.names.split_inclusive(|&c| c == 0).take(count);
        let mut asked = 0;
        for (i, name) in each.enumerate() {
            let out = (&raw mut self.answers[i]).cast::<types::statx>();
            let entry = opcode::Statx::new(types::Fd(dir.as_raw_fd()), name.as_ptr().cast(), out)
                .flags(libc::AT_SYMLINK_NOFOLLOW)
                .mask(Statx::MASK)
                .build()
                .user_data(i as u64);
            // SAFETY: the name and the place of the answer are owned by this ring and stay as they are until all have ended, below.
            let pushed = unsafe { self.ring.submission().push(&entry) };
            pushed.expect("the queue has room for as many as may be asked");
            asked += 1;
        }
        let mut ended: Vec<i32> = vec![-libc::EIO; count];
        let mut left = asked;
        while left > 0 {
            // Nothing but an interruption can be said here, and then it is asked again.
            let _ = self.ring.submit_and_wait(left);
            for entry in self.ring.completion() {
                if let Some(res) = usize::try_from(entry.user_data())
                    .ok()
                    .and_then(|i| ended.get_mut(i))
                {
                    *res = entry.result();
                }
                left -= 1;
            }
        }
        let answers = ended.iter().zip(&self.answers);
        answers
            .map(|(&res, answer)| match res {
                0 => Ok(answer.stat()),
                e => Err(io::Error::from_raw_os_error(-e)),
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use crate::kernel::stat::{Freshness, open_dir, stat_at};

    fn scratch(name: &str) -> (std::path::PathBuf, Arc<OwnedFd>) {
        let dir = std::env::temp_dir().join(format!("zring-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let path = CString::new(dir.as_os_str().as_bytes()).unwrap();
        let fd = open_dir(None, &path, Resolve::root()).unwrap();
        (dir, Arc::new(fd))
    }

    #[test]
    fn a_chain_reads_a_file_and_ends_as_a_whole_when_there_is_none() {
        let (dir, fd) = scratch("chain");
        std::fs::write(dir.join("f"), "content").unwrap();
        let mut ring = match ReadRing::new(4, 64, 64, Resolve::below(false)) {
            Ok(ring) => ring,
            Err(error) => return eprintln!("LACKS io_uring: {error}"),
        };
        for sync in [false, true] {
            for (name, read) in [(c"f", 7), (c"none", -libc::ECANCELED)] {
                let mut left = ring.chain(1, Arc::clone(&fd), name.to_owned(), 64, sync);
                let (mut ended, mut results) = (Vec::new(), Vec::new());
                while left > 0 {
                    ring.wait(Duration::from_secs(5), &mut ended).unwrap();
                    left -= ended.len();
                    results.append(&mut ended);
                }
                let of = |step| results.iter().find(|e| e.step == step).unwrap().res;
                if of(Step::Read) == -libc::EOPNOTSUPP {
                    eprintln!("LACKS uncached reads here");
                } else {
                    assert_eq!(of(Step::Read), read, "{results:?}");
                }
                let open = if name == c"f" { 0 } else { -libc::ENOENT };
                assert_eq!(of(Step::Open), open);
                if read == 7 {
                    assert_eq!(
                        (of(Step::Close), ring.bytes(1, 7)),
                        (0, b"content".as_slice())
                    );
                }
                ring.release(1);
            }
        }
        // Dropped in the middle: nothing is left behind, and nothing is written to memory that is not ours.
        ring.chain(0, Arc::clone(&fd), c"f".to_owned(), 64, true);
        drop(ring);
        std::fs::remove_dir_all(&dir).unwrap();
    }

    #[test]
    fn attributes_in_batches_are_those_asked_one_by_one() {
        let (dir, fd) = scratch("batch");
        let mut names = Vec::new();
        for i in 0..100 {
            let name = format!("n{i}");
            if i % 7 != 0 {
                std::fs::write(dir.join(&name), &name).unwrap();
            }
            names.extend_from_slice(name.as_bytes());
            names.push(0);
        }
        let mut ring = match StatRing::new() {
            Ok(ring) => ring,
            Err(error) => return eprintln!("LACKS io_uring: {error}"),
        };
        for (i, answer) in ring.stat(fd.as_fd(), &names, 100).into_iter().enumerate() {
            let name = CString::new(format!("n{i}")).unwrap();
            let one = stat_at(fd.as_fd(), &name, Freshness::Usual);
            match (answer, one) {
                (Ok(a), Ok(b)) => assert_eq!(a.witness, b.witness),
                (Err(a), Err(b)) => assert_eq!(a.raw_os_error(), b.raw_os_error()),
                other => panic!("{other:?}"),
            }
        }
        std::fs::remove_dir_all(&dir).unwrap();
    }
}
