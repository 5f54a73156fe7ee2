//! One io_uring: submit, reap, name the errors.
//!
//! Entries have 128 bytes, as FUSE commands need; everything else travels in the first 64. One thread makes
//! the ring, submits to it and reaps it; deferred task work keeps completions inside its own system calls.
//!
//! Buffers handed to the kernel are owned by the caller (`queue`: entries that live as long as the ring;
//! `port`: reads in a slab) and must outlive their completion; that is the contract of [`Ring::push`].

use io_uring::{IoUring, cqueue, opcode, squeue::Entry128, types};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::time::{Duration, Instant};

/// Why a ring cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum RingError {
    /// io_uring is forbidden (`kernel.io_uring_disabled`, a container's filter) or absent.
    #[error("io_uring is not available here: {0}")]
    Forbidden(#[source] io::Error),
    /// Anything else the kernel said.
    #[error("io_uring_setup: {0}")]
    Setup(#[source] io::Error),
}

/// One completion: the number given with the submission, the result, the flags.
#[derive(Clone, Copy, Debug)]
pub struct Completion {
    /// `user_data` of the submission.
    pub data: u64,
    /// Result, or -errno.
    pub res: i32,
    /// Whether a multishot operation goes on.
    pub more: bool,
}

/// A ring, owned by the thread that made it.
pub struct Ring {
    inner: IoUring<Entry128, cqueue::Entry>,
    /// When the timer goes off that is under way.
    due: Option<Instant>,
    /// How long it takes; the kernel reads it when it takes the entry, which may be in a later wait.
    timer: Box<types::Timespec>,
}

/// `user_data` of the timer; everything else is the caller's.
const TIMER: u64 = u64::MAX;

impl std::fmt::Debug for Ring {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Ring({})", self.inner.as_raw_fd())
    }
}

/// Submission entries. A full queue is submitted at once, so this bounds a batch, not the load.
const ENTRIES: u32 = 256;

impl Ring {
    /// Makes a ring for the calling thread.
    ///
    /// # Errors
    /// io_uring is forbidden, absent or too old for 128-byte entries.
    pub fn new() -> Result<Self, RingError> {
        // Kernels before 6.1 and 6.0 refuse the last two flags: they are dropped one by one.
        let attempts: [fn(&mut io_uring::Builder<Entry128, cqueue::Entry>); 3] = [
            |b| {
                b.setup_submit_all()
                    .setup_single_issuer()
                    .setup_defer_taskrun();
            },
            |b| {
                b.setup_submit_all().setup_coop_taskrun();
            },
            |_| {},
        ];
        let mut refused = io::Error::from_raw_os_error(libc::EINVAL);
        for attempt in attempts {
            let mut builder = IoUring::<Entry128, cqueue::Entry>::builder();
            builder.setup_cqsize(ENTRIES * 4);
            attempt(&mut builder);
            match builder.build(ENTRIES) {
                Ok(inner) => {
                    return Ok(Self {
                        inner,
                        due: None,
                        timer: Box::default(),
                    });
                }
                Err(error) => match error.raw_os_error() {
                    Some(libc::EINVAL) => refused = error,
                    Some(libc::EPERM | libc::ENOSYS | libc::EACCES) => {
                        return Err(RingError::Forbidden(error));
                    }
                    _ => return Err(RingError::Setup(error)),
                },
            }
        }
        Err(RingError::Setup(refused))
    }

    /// Makes `fd` known as fixed file 0, which saves a look-up per command.
    ///
    /// # Errors
    /// What the kernel said.
    pub fn register_file(&self, fd: BorrowedFd<'_>) -> io::Result<()> {
        self.inner.submitter().register_files(&[fd.as_raw_fd()])
    }

    /// Queues an entry; it reaches the kernel with the next [`Ring::wait`], or at once when the queue is full.
    ///
    /// The caller keeps every buffer the entry names alive, and does not touch it, until its completion.
    pub fn push(&mut self, entry: &Entry128) {
        loop {
            // SAFETY: callers keep the buffers an entry names until its completion: queue entries live in
            // mappings that are never freed while the ring lives, reads sit in `port`'s slab.
            if unsafe { self.inner.submission().push(entry) }.is_ok() {
                return;
            }
            // A submit that fails with EBUSY leaves completions to reap; EINTR asks to be repeated.
            let _ = self.inner.submit();
        }
    }

    /// Queues a read of `buf.len()` bytes at `pos`.
    pub fn push_read(&mut self, fd: BorrowedFd<'_>, pos: u64, buf: &mut [u8], data: u64) {
        let len = u32::try_from(buf.len()).expect("reads are bounded far below 4 GiB");
        let read = opcode::Read::new(types::Fd(fd.as_raw_fd()), buf.as_mut_ptr(), len).offset(pos);
        self.push(&read.build().user_data(data).into());
    }

    /// Queues a poll that goes on until it says otherwise.
    pub fn push_poll(&mut self, fd: BorrowedFd<'_>, data: u64) {
        let events = u32::try_from(libc::POLLIN).expect("a small constant");
        let poll = opcode::PollAdd::new(types::Fd(fd.as_raw_fd()), events).multi(true);
        self.push(&poll.build().user_data(data).into());
    }

    /// Submits what is queued.
    ///
    /// # Errors
    /// What the kernel said.
    pub fn submit(&mut self) -> io::Result<()> {
        self.inner.submit().map(drop)
    }

    /// Submits what is queued and waits for a completion, at most `timeout`; it may end earlier with none.
    ///
    /// A worker that is asked often waits often, and each new limit would have the kernel program a timer and take it
    /// back, which costs a guest of a hypervisor more than a system call. So one timer goes on through all waits
    /// until it is due.
    ///
    /// # Errors
    /// What the kernel said; a timeout, a signal and a full completion queue are not errors.
    pub fn wait(&mut self, timeout: Option<Duration>) -> io::Result<()> {
        let time;
        let mut args = types::SubmitArgs::new();
        if let Some(timeout) = timeout {
            let limit = Instant::now() + timeout;
            match self.due {
                Some(due) if due <= limit => {}
                None if !timeout.is_zero() => {
                    *self.timer = timeout.into();
                    let timer = opcode::Timeout::new(&raw const *self.timer).build();
                    self.push(&timer.user_data(TIMER).into());
                    self.due = Some(limit);
                }
                _ => {
                    time = types::Timespec::from(timeout);
                    args = args.timespec(&time);
                }
            }
        }
        match self.inner.submitter().submit_with_args(1, &args) {
            Ok(_) => Ok(()),
            Err(error) => match error.raw_os_error() {
                Some(libc::ETIME | libc::EINTR | libc::EBUSY | libc::EAGAIN) => Ok(()),
                _ => Err(error),
            },
        }
    }

    /// Moves all completions to `out`: they are acted upon only after the queue is empty.
    pub fn reap(&mut self, out: &mut Vec<Completion>) {
        for entry in self.inner.completion() {
            if entry.user_data() == TIMER {
                self.due = None;
                continue;
            }
            out.push(Completion {
                data: entry.user_data(),
                res: entry.result(),
                more: cqueue::more(entry.flags()),
            });
        }
    }
}

/// A FUSE command on fixed file 0. `iovecs` is the address of two `iovec`s for REGISTER, 0 otherwise.
pub(super) fn fuse_cmd(cmd: u32, qid: u16, commit_id: u64, iovecs: u64, data: u64) -> Entry128 {
    let mut area = [0; 80];
    area[8..16].copy_from_slice(&commit_id.to_ne_bytes());
    area[16..18].copy_from_slice(&qid.to_ne_bytes());
    let command = opcode::UringCmd80::new(types::Fixed(0), cmd).cmd(area);
    if iovecs == 0 {
        return command.build().user_data(data);
    }
    let mut entry = command.addr(Some(iovecs)).build().user_data(data);
    let len_at = std::ptr::from_mut(&mut entry)
        .cast::<u32>()
        .wrapping_add(24 / 4);
    // SAFETY: an Entry128 is 128 bytes of plain data in the kernel's layout, 8-byte aligned; byte 24 is `len`,
    // which the builder of this command has no setter for.
    unsafe { len_at.write(2) };
    entry
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use std::io::Write;
    use std::os::fd::AsFd;

    #[test]
    fn a_wait_ends_in_time_whatever_timer_is_under_way() {
        let mut ring = match Ring::new() {
            Ok(ring) => ring,
            Err(error) => return eprintln!("LACKS io_uring: {error}"),
        };
        let mut out = Vec::new();
        let mut waited = |ring: &mut Ring, millis| {
            let began = Instant::now();
            ring.wait(Some(Duration::from_millis(millis))).unwrap();
            ring.reap(&mut out);
            (began.elapsed().as_millis(), std::mem::take(&mut out).len())
        };
        let (took, came) = waited(&mut ring, 30);
        assert!((30..5000).contains(&took) && came == 0, "{took} ms");
        // Ready at once, so the timer of this wait stays under way.
        let (read, mut write) = io::pipe().unwrap();
        write.write_all(b"x").unwrap();
        ring.push_poll(read.as_fd(), 7);
        let (took, came) = waited(&mut ring, 20_000);
        assert!(took < 5000 && came == 1);
        let (took, came) = waited(&mut ring, 30);
        assert!((30..5000).contains(&took) && came == 0, "{took} ms");
        assert!(waited(&mut ring, 0).0 < 5000);
        // Now one that is under way ends the wait first: early, never late.
        let due = ring.due;
        assert!(due.is_some());
        ring.due = None;
        let (took, _) = waited(&mut ring, 40);
        assert!((40..5000).contains(&took), "{took} ms");
        assert_eq!(ring.due, None, "a timer that went off is gone");
    }
}
