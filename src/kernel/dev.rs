//! Messages of `/dev/fuse`: one descriptor of the connection, read and answered.
//!
//! A reply goes to the descriptor its request was read from; each worker therefore has a clone of its own.
//! Descriptors do not block: a wake-up may find that another worker took the request.
//!
//! A message buffer has two halves, the request and the reply, mapped lazily. FORGET and INTERRUPT come this way
//! whatever the transport is (kernel-note 0005).

use super::held::{Held, Place};
use super::notify::tell;
use crate::base::{NodeId, Unique, limit};
use crate::wire::fuse::abi;
use crate::wire::fuse::notify::{Head, RetrieveId, RetrieveLen};
use crate::wire::fuse::reply;
use crate::wire::fuse::request::{self, Parts};
use memmap2::MmapMut;
use nix::errno::Errno;
use nix::sys::uio;
use std::fs::{File, OpenOptions};
use std::io::IoSlice;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::fs::OpenOptionsExt;

/// The kernel wants room for a header and the largest WRITE.
const REQUEST_LEN_MAX: usize = limit::PAYLOAD_BYTES + 4096;

/// Messages that there are from the start.
const SPARE: usize = 4;
/// How often a reply is written that the kernel has no memory for.
const REPLY_TRIES: usize = 100;

nix::ioctl_read!(
    /// Attaches a fresh descriptor of `/dev/fuse` to the connection of another one, whose number is read.
    fuse_dev_ioc_clone, 229, 0, u32
);

/// Another descriptor of the connection of `original`, non-blocking.
///
/// # Errors
/// `/dev/fuse` cannot be opened, or the kernel is older than 4.2.
pub fn clone(original: &File) -> std::io::Result<File> {
    let fresh = OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(libc::O_NONBLOCK | libc::O_CLOEXEC)
        .open("/dev/fuse")?;
    let mut fd = u32::try_from(original.as_raw_fd()).expect("descriptors are not negative");
    // SAFETY: the argument is a valid u32 for the call; the kernel reads it and keeps nothing.
    unsafe { fuse_dev_ioc_clone(fresh.as_raw_fd(), &raw mut fd) }?;
    Ok(fresh)
}

struct Message {
    map: MmapMut,
    len: usize,
    unique: Unique,
}

/// One descriptor and the messages read from it that are not yet answered.
pub struct Dev {
    file: File,
    messages: Vec<Message>,
    free: Vec<u32>,
}

impl std::fmt::Debug for Dev {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "Dev({:?}, {} messages, {} free)",
            self.file,
            self.messages.len(),
            self.free.len()
        )
    }
}

/// Answers with this body, or an errno; and where that cannot be written, with EIO: nobody waits for ever.
fn answer(
    unique: Unique,
    outcome: Result<usize, i32>,
    body: &[u8],
    mut write: impl FnMut(&[IoSlice<'_>]) -> nix::Result<()>,
) {
    let mut write = |outcome, body: &[u8]| {
        let header = reply::header(unique, outcome);
        let parts = [IoSlice::new(abi::bytes(&header)), IoSlice::new(body)];
        let parts = &parts[..2 - usize::from(body.is_empty())];
        let mut left = REPLY_TRIES;
        loop {
            match write(parts) {
                Err(Errno::EINTR) => {}
                Err(Errno::ENOMEM | Errno::EAGAIN) if left > 0 => {
                    left -= 1;
                    std::thread::yield_now();
                }
                written => return written,
            }
        }
    };
    match write(outcome, body) {
        // The caller is gone, or all are.
        Ok(()) | Err(Errno::ENOENT | Errno::ENODEV | Errno::ENOTCONN | Errno::ECONNABORTED) => {}
        // Of a reply that it finds fault with the kernel itself makes EIO; then this one is for nobody.
        Err(_) => drop(write(Err(libc::EIO), &[])),
    }
}

/// What a read found.
#[derive(Debug)]
pub enum Received {
    /// A request.
    Request(Held),
    /// Nothing now.
    Empty,
    /// As many requests are parked as may be, or there is no memory for another one: not now.
    Full,
    /// Unmounted or aborted.
    Gone,
}

impl Dev {
    /// Takes a non-blocking descriptor. Some messages are there from the start: whatever memory there is later, something is heard.
    pub fn new(file: File) -> Self {
        let mut this = Self {
            file,
            messages: Vec::new(),
            free: Vec::new(),
        };
        let spare: Vec<_> = (0..SPARE).map_while(|_| this.take_free()).collect();
        this.free.extend(spare);
        this
    }

    /// The descriptor, for polling.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }

    /// Reads one request.
    ///
    /// # Errors
    /// An errno that this file does not explain.
    pub fn receive(&mut self) -> Result<Received, Errno> {
        let Some(index) = self.take_free() else {
            return Ok(Received::Full);
        };
        let message = &mut self.messages[index as usize];
        let received = loop {
            match nix::unistd::read(&self.file, &mut message.map[..REQUEST_LEN_MAX]) {
                Ok(len) => {
                    message.len = len;
                    let head: Option<abi::InHeader> = abi::read(&message.map[..len]);
                    message.unique = Unique(head.map_or(0, |h| h.unique));
                    return Ok(Received::Request(Held::message(index)));
                }
                // ENOENT: the request was interrupted while it was read.
                Err(Errno::EINTR | Errno::ENOENT) => {}
                Err(Errno::EAGAIN) => break Received::Empty,
                Err(Errno::ENODEV | Errno::ECONNABORTED) => break Received::Gone,
                Err(errno) => return Err(errno),
            }
        };
        self.free.push(index);
        Ok(received)
    }

    fn take_free(&mut self) -> Option<u32> {
        if let Some(index) = self.free.pop() {
            return Some(index);
        }
        if self.messages.len() == limit::MESSAGES_MAX {
            return None;
        }
        let map = MmapMut::map_anon(REQUEST_LEN_MAX + limit::PAYLOAD_BYTES).ok()?;
        self.messages.push(Message {
            map,
            len: 0,
            unique: Unique(0),
        });
        Some(u32::try_from(self.messages.len() - 1).expect("bounded by MESSAGES_MAX"))
    }

    /// Bytes of a message, if it is of pages that were asked back.
    pub(super) fn pages(&self, held: &Held) -> Option<usize> {
        let Place::Message(index) = held.place() else {
            return None;
        };
        let message = &self.messages[index as usize];
        let head: Option<abi::InHeader> = abi::read(&message.map[..message.len]);
        let is_pages = head.is_some_and(|head| head.opcode == abi::op::NOTIFY_REPLY);
        is_pages.then_some(message.len)
    }

    /// Messages that are held.
    pub(super) fn held(&self) -> usize {
        self.messages.len() - self.free.len()
    }

    /// The parts of a held request; a message that cannot be cut has no rest.
    pub(super) fn parts(&self, index: u32) -> Parts<'_> {
        let message = &self.messages[index as usize];
        let bytes = &message.map[..message.len];
        let header = &bytes[..abi::IN_HEADER_LEN.min(message.len)];
        request::split(bytes).unwrap_or(Parts {
            header,
            fixed: &[],
            rest: &[],
        })
    }

    /// Where the reply body goes.
    pub(super) fn body(&mut self, index: u32) -> &mut [u8] {
        &mut self.messages[index as usize].map[REQUEST_LEN_MAX..]
    }

    /// Answers a held request.
    pub(super) fn reply(&mut self, index: u32, outcome: Result<usize, i32>) {
        let message = &self.messages[index as usize];
        let body = &message.map[REQUEST_LEN_MAX..][..outcome.unwrap_or(0)];
        answer(message.unique, outcome, body, |parts| {
            uio::writev(&self.file, parts).map(drop)
        });
        self.free.push(index);
    }

    /// Has the kernel send the answer to a RETRIEVE of no bytes to the queue of this CPU. It touches no page, so it
    /// waits for nothing; a kernel that refuses it leaves the queue to its next commit.
    pub(super) fn kick(&self, node: NodeId) {
        let len = RetrieveLen::clamp(0, 0);
        let _ = tell(
            &self.file,
            &Head::retrieve(RetrieveId::KICK, node, 0, len),
            &[],
        );
    }

    /// Forgets a request that has no answer.
    pub(super) fn discard(&mut self, index: u32) {
        self.free.push(index);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    /// What was written, of a kernel that says this to one write after the other, and then nothing bad: the errno and bytes behind the header.
    fn written(says: &[Errno], outcome: Result<usize, i32>, body: &[u8]) -> Vec<(i32, usize)> {
        let (mut says, mut all) = (says.iter(), Vec::new());
        answer(Unique(7), outcome, body, |parts| {
            let header: abi::OutHeader = abi::read(&parts[0]).unwrap();
            let body = parts.get(1).map_or(0, |part| part.len());
            assert_eq!(header.unique, 7);
            assert_eq!(header.len as usize, abi::OUT_HEADER_LEN + body);
            all.push((header.error, body));
            says.next().map_or(Ok(()), |&errno| Err(errno))
        });
        all
    }

    #[test]
    fn a_reply_that_cannot_be_written_is_an_error_in_the_end() {
        let (whole, eio) = ((0, 3), (-libc::EIO, 0));
        assert_eq!(written(&[], Ok(3), b"abc"), [whole]);
        assert_eq!(written(&[], Err(libc::ENOENT), b""), [(-libc::ENOENT, 0)]);
        let busy = [Errno::EINTR, Errno::ENOMEM, Errno::EAGAIN, Errno::EINTR];
        assert_eq!(written(&busy, Ok(3), b"abc"), [whole; 5]);
        // Nobody is there to be told.
        for gone in [Errno::ENOENT, Errno::ENODEV] {
            assert_eq!(written(&[gone], Ok(3), b"abc"), [whole]);
        }
        for errno in [Errno::EINVAL, Errno::EFAULT, Errno::EPERM] {
            assert_eq!(written(&[errno], Ok(3), b"abc"), [whole, eio]);
            assert_eq!(written(&[errno, errno], Ok(3), b"abc"), [whole, eio]);
        }
        // No memory, again and again: for the header alone there is.
        let tries = REPLY_TRIES + 1;
        let all = written(&vec![Errno::ENOMEM; tries + 1], Ok(3), b"abc");
        assert_eq!(all.len(), tries + 2);
        assert!(all[..tries].iter().all(|one| *one == whole));
        assert_eq!(all[tries..], [eio; 2]);
        let all = written(&vec![Errno::ENOMEM; 10 * tries], Ok(3), b"abc");
        assert_eq!(all.len(), 2 * tries, "it ends");
    }
}
