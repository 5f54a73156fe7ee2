//! Processes of others, by descriptors: a number may be another process by the time a signal is sent to it, a descriptor
//! is not.

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::Signal;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::time::Duration;

/// A process.
#[derive(Debug)]
pub struct PidFd {
    fd: OwnedFd,
    /// Its number, for people.
    pub pid: i32,
}

impl PidFd {
    /// The process that has this number now.
    ///
    /// # Errors
    /// `ESRCH` when there is none; `ENOSYS` before Linux 5.3.
    pub fn open(pid: i32) -> Result<Self, Errno> {
        // SAFETY: pidfd_open takes two numbers and touches no memory of ours.
        let raw = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
        let raw = i32::try_from(Errno::result(raw)?).expect("descriptors are small");
        // SAFETY: the kernel has just put this descriptor into our table; nobody else knows it.
        let fd = unsafe { OwnedFd::from_raw_fd(raw) };
        Ok(Self { fd, pid })
    }

    /// The descriptor, readable when it has ended.
    pub fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// Sends a signal.
    ///
    /// # Errors
    /// `ESRCH` when it has ended, `EPERM` when it is not ours to signal.
    pub fn signal(&self, signal: Signal) -> Result<(), Errno> {
        self.send(signal as i32)
    }

    fn send(&self, signal: i32) -> Result<(), Errno> {
        let none = std::ptr::null::<libc::siginfo_t>();
        // SAFETY: the descriptor is live, the missing siginfo is allowed, and no memory of ours is touched.
        let done = unsafe {
            libc::syscall(
                libc::SYS_pidfd_send_signal,
                self.fd.as_raw_fd(),
                signal,
                none,
                0,
            )
        };
        Errno::result(done).map(drop)
    }

    /// Whether it may be signalled.
    ///
    /// # Errors
    /// As [`Self::signal`].
    pub fn probe(&self) -> Result<(), Errno> {
        self.send(0)
    }

    /// Waits for its end; false when it lives on.
    pub fn wait(&self, limit: Duration) -> bool {
        let timeout = PollTimeout::try_from(limit).unwrap_or(PollTimeout::MAX);
        let mut fds = [PollFd::new(self.fd.as_fd(), PollFlags::POLLIN)];
        poll(&mut fds, timeout).is_ok_and(|ready| ready > 0)
    }
}
/// Sends SIGSTOP to one thread of a process. Thread ids are given anew like others: the caller knows that this one cannot end meanwhile.
///
/// # Errors
/// `ESRCH` when there is none, `EPERM` when it is not ours to signal.
pub fn stop_thread(pid: i32, tid: u32) -> Result<(), Errno> {
    // SAFETY: tgkill takes three numbers and touches no memory of ours.
    let done = unsafe { libc::syscall(libc::SYS_tgkill, pid, tid, libc::SIGSTOP) };
    Errno::result(done).map(drop)
}
