//! Processes that opened something: who they are, whether they live, and signals to them.
//!
//! A request names the *thread* that made it. The process is found once, at that time, and held by a pidfd: a thread may end while its
//! process lives on, and numbers are given anew.

use super::pidfd::PidFd;
use nix::errno::Errno;
use nix::sys::signal::Signal;
use std::path::Path;
use std::time::Duration;

/// Why a caller cannot be held responsible.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ClientError {
    /// It is not to be seen from here, or gone.
    #[error("its process cannot be identified")]
    Unknown,
    /// It may not be signalled.
    #[error("its process may not be signalled")]
    Protected,
}

/// A process.
#[derive(Debug)]
pub struct Client {
    /// User id it acted as.
    pub uid: u32,
    fd: PidFd,
}

impl Client {
    /// The process of a thread.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub fn of_thread(tid: u32, uid: u32) -> Result<Self, ClientError> {
        let leader = leader_of(tid).ok_or(ClientError::Unknown)?;
        let fd = PidFd::open(leader).map_err(|_| ClientError::Unknown)?;
        // If it is its leader still, the descriptor is of that one and not of a later one with the number.
        if leader_of(tid) != Some(leader) {
            return Err(ClientError::Unknown);
        }
        match fd.probe() {
            Ok(()) => Ok(Self { uid, fd }),
            Err(Errno::EPERM) => Err(ClientError::Protected),
            Err(_) => Err(ClientError::Unknown),
        }
    }

    /// Its number, for people.
    pub fn pid(&self) -> i32 {
        self.fd.pid
    }

    /// Whether it is neither gone nor a zombie.
    pub fn is_alive(&self) -> bool {
        !self.fd.wait(Duration::ZERO)
    }

    /// Whether a thread is one of its.
    pub fn has_thread(&self, tid: u32) -> bool {
        // Below a directory of its own: nothing is read, and the number of a process that is gone leads nowhere.
        self.is_alive() && Path::new(&format!("/proc/{}/task/{tid}", self.fd.pid)).exists()
    }

    /// Whether a process of somebody else's is root's now: it runs another program, of which nothing is mapped that it had.
    pub fn became_root(&self) -> bool {
        self.uid != 0
            && field_of(self.fd.pid, "Uid:").is_some_and(|uids| {
                let mut uids = uids.split_whitespace().take(2);
                uids.any(|uid| uid == "0")
            })
    }

    /// What a thread does: `None` if it is in no system call, as in a page fault of user code; a number if it is in one. Errs when that
    /// cannot be seen, or it runs.
    fn call_of(&self, tid: u32) -> Result<Option<i64>, ()> {
        let path = format!("/proc/{}/task/{tid}/syscall", self.fd.pid);
        let text = std::fs::read_to_string(path).map_err(drop)?;
        let first = text.split_whitespace().next().unwrap_or_default();
        match first.parse() {
            Ok(-1) => Ok(None),
            Ok(number) => Ok(Some(number)),
            Err(_) => Err(()),
        }
    }

    /// Whether a thread waits in a page fault of user code.
    pub fn is_in_user_fault(&self, tid: u32) -> bool {
        self.call_of(tid) == Ok(None)
    }

    /// Whether a thread runs, or cannot be seen.
    pub fn is_running(&self, tid: u32) -> bool {
        self.call_of(tid).is_err()
    }

    /// Whether one of its threads wants to change its address space, and waits for that.
    pub fn waits_for_itself(&self, but: u32) -> bool {
        const CALLS: [i64; 6] = [
            libc::SYS_mmap,
            libc::SYS_munmap,
            libc::SYS_mprotect,
            libc::SYS_mremap,
            libc::SYS_madvise,
            libc::SYS_brk,
        ];
        let Ok(threads) = std::fs::read_dir(format!("/proc/{}/task", self.fd.pid)) else {
            return false;
        };
        let names = threads.flatten().map(|entry| entry.file_name());
        let tids = names.filter_map(|name| name.to_str()?.parse::<u32>().ok());
        tids.filter(|&tid| tid != but).any(|tid| {
            let call = self.call_of(tid);
            call.is_ok_and(|call| call.is_some_and(|call| CALLS.contains(&call)))
                && self.state_of(tid) == Some('D')
        })
    }

    fn state_of(&self, tid: u32) -> Option<char> {
        let thread = format!("{}/task/{tid}", self.fd.pid);
        field_of(thread, "State:")?.chars().next()
    }

    /// Whether a thread is stopped.
    pub fn is_stopped(&self, tid: u32) -> bool {
        matches!(self.state_of(tid), Some('T' | 't'))
    }

    /// Stops its threads, this one before it does anything in user code: the signal is its alone.
    ///
    /// # Errors
    /// The system refuses, or it is gone.
    pub fn stop_thread(&self, tid: u32) -> Result<(), Errno> {
        super::pidfd::stop_thread(self.fd.pid, tid)
    }

    /// Lets it go on.
    ///
    /// # Errors
    /// The same.
    pub fn go_on(&self) -> Result<(), Errno> {
        self.fd.signal(Signal::SIGCONT)
    }

    /// Sends it SIGBUS: it touched what it must not.
    ///
    /// # Errors
    /// The system refuses, or it is gone.
    pub fn bus(&self) -> Result<(), Errno> {
        self.fd.signal(Signal::SIGBUS)
    }

    /// Sends it SIGKILL.
    ///
    /// # Errors
    /// The same.
    pub fn kill(&self) -> Result<(), Errno> {
        self.fd.signal(Signal::SIGKILL)
    }
}

/// The leader of a thread's group.
fn leader_of(tid: u32) -> Option<i32> {
    field_of(tid, "Tgid:")?.parse().ok()
}

/// Whether a thread is of a group, beside the one that it acts as.
pub fn is_in_group(tid: u32, gid: u32) -> bool {
    let groups = field_of(tid, "Groups:").unwrap_or_default();
    groups.split_whitespace().any(|of| of.parse() == Ok(gid))
}

/// What `/proc` says of a thread.
fn field_of(tid: impl std::fmt::Display, name: &str) -> Option<String> {
    let status = std::fs::read_to_string(format!("/proc/{tid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix(name))?;
    Some(line.trim().to_owned())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use std::process::Command;

    #[test]
    #[allow(clippy::disallowed_methods, reason = "a thread that is not the leader")]
    fn d10_a_thread_stands_for_its_process() {
        let asked = std::thread::spawn(|| {
            let tid = nix::unistd::gettid().as_raw().cast_unsigned();
            (tid, Client::of_thread(tid, 0))
        });
        let (tid, client) = asked.join().unwrap();
        let client = client.unwrap();
        assert_ne!(client.pid().cast_unsigned(), tid);
        assert_eq!(client.pid().cast_unsigned(), std::process::id());
        // The thread has ended, the process has not.
        assert!(client.is_alive());
    }

    #[test]
    fn a_zombie_is_not_alive() {
        let mut child = Command::new("sleep").arg("100").spawn().unwrap();
        let client = Client::of_thread(child.id(), 0).unwrap();
        assert!(client.is_alive());
        client.bus().unwrap();
        let gone = client.fd.wait(Duration::from_secs(5));
        assert!(gone && !client.is_alive());
        child.wait().unwrap();
        assert!(!client.is_alive() && client.kill().is_err());
        assert_eq!(Client::of_thread(0, 0).unwrap_err(), ClientError::Unknown);
        assert_eq!(
            Client::of_thread(child.id(), 0).unwrap_err(),
            ClientError::Unknown
        );
    }
}
