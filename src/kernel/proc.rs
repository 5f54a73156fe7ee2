//! What the machine is, threads and their cores, waking a thread.

use nix::errno::Errno;
use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::unistd::Pid;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::thread::JoinHandle;

/// Starts a named thread.
///
/// # Errors
/// The system has no room for one.
#[allow(
    clippy::disallowed_methods,
    reason = "the one place that starts threads"
)]
pub fn spawn<T: Send + 'static>(
    name: &str,
    body: impl FnOnce() -> T + Send + 'static,
) -> io::Result<JoinHandle<T>> {
    std::thread::Builder::new()
        .name(name.to_owned())
        .stack_size(1 << 20)
        .spawn(body)
}

/// CPUs this process may run on, in order: one worker each.
pub fn cpus_allowed() -> Vec<usize> {
    let set = sched_getaffinity(Pid::from_raw(0)).unwrap_or_default();
    let cpus: Vec<_> = (0..CpuSet::count())
        .filter(|&cpu| set.is_set(cpu).unwrap_or(false))
        .collect();
    if cpus.is_empty() { vec![0] } else { cpus }
}

/// Keeps the calling thread on one CPU. Being refused costs speed, not correctness.
pub fn pin(cpu: usize) {
    let mut set = CpuSet::new();
    if set.set(cpu).is_ok() {
        let _ = sched_setaffinity(Pid::from_raw(0), &set);
    }
}

/// Queues the kernel has for FUSE over io_uring: one per *possible* CPU. `None` without /sys.
pub fn queues() -> Option<u16> {
    let text = std::fs::read_to_string("/sys/devices/system/cpu/possible").ok()?;
    let last = text.trim().rsplit(['-', ',']).next()?;
    last.parse::<u16>().ok()?.checked_add(1)
}

/// Wakes the worker that polls it, from any thread.
#[derive(Clone, Debug)]
pub struct Waker(Arc<EventFd>);

impl Waker {
    /// A new one.
    ///
    /// # Errors
    /// No descriptor left.
    pub fn new() -> io::Result<Self> {
        let flags = EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK;
        Ok(Self(Arc::new(EventFd::from_value_and_flags(0, flags)?)))
    }

    /// Wakes it now, or as soon as it waits.
    pub fn wake(&self) {
        // A full counter (EAGAIN) means that it has not looked yet, which is as good.
        while self.0.write(1) == Err(Errno::EINTR) {}
    }

    /// Takes note of all wake-ups so far.
    pub(super) fn drain(&self) {
        let _ = self.0.read();
    }

    /// What to poll.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
