//! One io_uring: submit, reap, name the errors.
//!
//! Entries have 128 bytes, as FUSE commands need; everything else travels in the first 64. One thread makes
//! the ring, submits to it and reaps it; deferred task work keeps completions inside its own system calls.
//!
//! Buffers handed to the kernel are owned by the caller (`queue`: entries that live as long as the ring;
//! `port`: reads in a slab) and must outlive their completion; that is the contract of [`Ring::push`], which is unsafe for it.
//!
//! Nothing waits but [`Ring::wait`]: what the kernel does not take now, as it has no memory or no room for completions, is kept in order
//! and goes with a later wait, when completions have been reaped.

use io_uring::{EnterFlags, IoUring, cqueue, opcode, squeue::Entry128, types};
use std::collections::VecDeque;
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
    /// What the kernel did not take yet, oldest first: as many as there are entries and reads in flight at most.
    later: VecDeque<Entry128>,
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

/// Until what the kernel did not take is tried again, if nothing completes before.
const LATER: Duration = Duration::from_millis(1);

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
                        later: VecDeque::new(),
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
    /// # Safety
    /// All memory that the entry names stays where it is, and nobody else touches it as the operation forbids, until its completion
    /// was reaped; if the ring goes before that, for ever. Descriptors that it names stay open until it was submitted.
    pub unsafe fn push(&mut self, entry: Entry128) {
        // SAFETY: the caller's.
        unsafe { self.push_by(entry, |ring| ring.inner.submit().map(drop)) }
    }

    /// Queues an entry, with `submit` to make room.
    ///
    /// # Safety
    /// As of [`Ring::push`].
    unsafe fn push_by(&mut self, entry: Entry128, submit: impl FnMut(&mut Self) -> io::Result<()>) {
        self.later.push_back(entry);
        self.take_later(submit);
    }

    /// Moves what is left to the queue, with `submit` to make room; whether all went.
    fn take_later(&mut self, mut submit: impl FnMut(&mut Self) -> io::Result<()>) -> bool {
        while let Some(entry) = self.later.front() {
            // SAFETY: who pushed it keeps what it names; see `push`, the only way into `later`.
            if unsafe { self.inner.submission().push(entry) }.is_ok() {
                self.later.pop_front();
                continue;
            }
            // EBUSY leaves completions to reap, EAGAIN has no memory: both are for later. EINTR is too.
            let submitted = submit(self);
            if submitted.is_err() || self.inner.submission().is_full() {
                return false;
            }
        }
        true
    }

    /// Queues a read of `buf.len()` bytes at `pos`.
    ///
    /// # Safety
    /// `buf` stays where it is, and nobody else touches it, until the completion was reaped; if the ring goes before that, for ever.
    /// `fd` stays open until then.
    pub unsafe fn push_read(&mut self, fd: BorrowedFd<'_>, pos: u64, buf: &mut [u8], data: u64) {
        let len = u32::try_from(buf.len()).expect("reads are bounded far below 4 GiB");
        let read = opcode::Read::new(types::Fd(fd.as_raw_fd()), buf.as_mut_ptr(), len).offset(pos);
        // SAFETY: the caller's.
        unsafe { self.push(read.build().user_data(data).into()) }
    }

    /// Queues a poll that goes on until it says otherwise.
    pub fn push_poll(&mut self, fd: BorrowedFd<'_>, data: u64) {
        let events = u32::try_from(libc::POLLIN).expect("a small constant");
        let poll = opcode::PollAdd::new(types::Fd(fd.as_raw_fd()), events).multi(true);
        // SAFETY: it names no memory; and what is polled is never closed while it is (`port`: its own descriptors).
        unsafe { self.push(poll.build().user_data(data).into()) }
    }

    /// Queues the end of a poll that was queued with `poll`. Cancelled, as a poll that is being woken may
    /// outlive its removal (kernel-note 0024).
    pub fn push_poll_end(&mut self, poll: u64, data: u64) {
        let end = opcode::AsyncCancel::new(poll).build();
        // SAFETY: it names no memory.
        unsafe { self.push(end.user_data(data).into()) }
    }

    /// Submits what is queued.
    ///
    /// # Errors
    /// What the kernel said.
    pub fn submit(&mut self) -> io::Result<()> {
        self.take_later(|ring| ring.inner.submit().map(drop));
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
        let is_all = self.take_later(|ring| ring.inner.submit().map(drop));
        // What is left wants completions to be reaped first.
        let timeout = if is_all { timeout } else { Some(LATER) };
        let time;
        let mut args = types::SubmitArgs::new();
        if let Some(timeout) = timeout {
            let limit = Instant::now() + timeout;
            match self.due {
                Some(due) if due <= limit => {}
                None if !timeout.is_zero() => {
                    *self.timer = timeout.into();
                    let timer = opcode::Timeout::new(&raw const *self.timer).build();
                    // SAFETY: the timespec is the ring's own, in a place of its own on the heap, and no timer is under way.
                    unsafe { self.push(timer.user_data(TIMER).into()) };
                    self.due = Some(limit);
                }
                _ => {
                    time = types::Timespec::from(timeout);
                    args = args.timespec(&time);
                }
            }
        }
        let entered = if timeout.is_some_and(|timeout| timeout.is_zero()) {
            self.look()
        } else {
            self.inner.submitter().submit_with_args(1, &args)
        };
        match entered {
            Ok(_) => Ok(()),
            Err(error) => match error.raw_os_error() {
                Some(libc::ETIME | libc::EINTR | libc::EBUSY | libc::EAGAIN) => Ok(()),
                _ => Err(error),
            },
        }
    }

    /// Submits, and lets the kernel complete what it can without waiting: a timeout of nothing would have it sleep and be woken.
    fn look(&mut self) -> io::Result<usize> {
        let queued = u32::try_from(self.inner.submission().len()).unwrap_or(u32::MAX);
        // SAFETY: what is queued was pushed under the contract of `push`; no argument is passed.
        unsafe {
            self.inner.submitter().enter::<libc::sigset_t>(
                queued,
                0,
                EnterFlags::GETEVENTS.bits(),
                None,
            )
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

    /// More than the ring has room for, completions included, of a kernel that takes nothing for a while: nothing waits, all complete in the end.
    #[test]
    fn what_the_kernel_does_not_take_now_goes_later() {
        const ALL: u64 = 20 * ENTRIES as u64;
        let mut ring = match Ring::new() {
            Ok(ring) => ring,
            Err(error) => return eprintln!("LACKS io_uring: {error}"),
        };
        for data in 0..ALL {
            let nop = opcode::Nop::new().build().user_data(data).into();
            let refuse = |_: &mut Ring| Err(io::Error::from_raw_os_error(libc::EBUSY));
            if data % 3 == 0 {
                // SAFETY: it names nothing.
                unsafe { ring.push(nop) };
            } else {
                // SAFETY: likewise.
                unsafe { ring.push_by(nop, refuse) };
            }
        }
        let (mut out, began) = (Vec::new(), Instant::now());
        while out.len() < usize::try_from(ALL).unwrap() && began.elapsed().as_secs() < 10 {
            ring.wait(Some(Duration::from_millis(100))).unwrap();
            ring.reap(&mut out);
        }
        let mut seen: Vec<_> = out.iter().map(|done| done.data).collect();
        seen.sort_unstable();
        assert!(seen.into_iter().eq(0..ALL), "{} of {ALL}", out.len());
        assert!(ring.later.is_empty());
    }

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
