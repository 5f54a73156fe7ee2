//! What a worker waits on: requests, finished reads, wake-ups. Three transports, one interface.
//!
//! | transport | requests | waits in | reads of the database |
//! |---|---|---|---|
//! | `uring` | entries of its queues ([`super::queue`]); FORGET and INTERRUPT by `/dev/fuse` on one worker | its ring | its ring |
//! | `dev` | clone of `/dev/fuse` ([`super::dev`]), multishot poll on its ring while it looks there | its ring | its ring |
//! | `plain` | clone of `/dev/fuse` | poll(2) | threads ([`super::loads`]) |
//!
//! A `uring` port whose entries the kernel refuses becomes a `dev` port: the connection goes on.
//!
//! Owned by one thread. Held requests and reads in flight belong to it; what a held request is for is not its
//! business.

use super::dev::{Dev, Received};
use super::file::ReadBuf;
pub use super::held::Held;
use super::held::Place;
use super::loads::Loads;
use super::proc::{self, Waker};
use super::queue::{Queues, Refusal};
use super::ring::{Completion, Ring};
use crate::base::limit::{MESSAGES_MAX, QUEUE_ENTRIES_MAX};
use crate::wire::fuse::request::{Parts, Request, RequestError};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::Duration;

/// How requests reach the daemon.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TransportKind {
    /// FUSE over io_uring.
    Uring,
    /// io_uring on clones of `/dev/fuse`.
    Dev,
    /// poll(2), read(2) and write(2); no io_uring anywhere.
    Plain,
}

impl TransportKind {
    /// Its name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Uring => "uring",
            Self::Dev => "dev",
            Self::Plain => "plain",
        }
    }
}

/// A finished read of the database.
#[derive(Debug)]
pub struct ReadDone {
    /// As given to [`Port::read_file`].
    pub token: u32,
    /// Bytes read, or why not. Fewer than asked at the end of the file only.
    pub result: io::Result<usize>,
    /// The bytes.
    pub buf: ReadBuf,
}

/// What one wait brought. Kept by the worker and emptied by it, so that waiting allocates nothing.
#[derive(Debug, Default)]
pub struct Events {
    /// Requests, oldest first.
    pub requests: Vec<Held>,
    /// Finished reads.
    pub reads: Vec<ReadDone>,
    /// Somebody called the waker.
    pub woken: bool,
    /// The connection has ended.
    pub gone: bool,
    /// The kernel refused ring entries with this errno; the port goes on by `/dev/fuse`.
    pub refused: Option<i32>,
}

#[allow(
    clippy::large_enum_variant,
    reason = "one per worker, and the ring is what is used"
)]
enum Waiter {
    Ring(Ring),
    Poll(Loads),
}

struct InFlight {
    token: u32,
    file: Arc<File>,
    buf: ReadBuf,
    pos: u64,
    got: usize,
}

/// See the module.
pub struct Port {
    waiter: Waiter,
    queues: Option<Queues>,
    dev: Dev,
    /// Whether `dev` is polled here.
    dev_polled: bool,
    /// Number of the poll on the ring: one that was taken back may still be heard of.
    poll: u32,
    /// Whether `dev` may hold requests that were not read yet.
    dev_ready: bool,
    /// There was no room for them: not looked at before there may be.
    dev_full: bool,
    waker: Waker,
    completions: Vec<Completion>,
    /// Reads the ring works on, by number.
    reads: Vec<Option<InFlight>>,
    reads_free: Vec<u32>,
}

impl std::fmt::Debug for Port {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Port({:?}, {:?})", self.queues, self.dev)
    }
}

/// Kinds of completions, in the top byte of `user_data`.
const ENTRY: u64 = 1 << 56;
const READ: u64 = 2 << 56;
const DEV: u64 = 3 << 56;
const WAKE: u64 = 4 << 56;
const POLL_END: u64 = 5 << 56;
const KIND: u64 = 0xff << 56;

/// How long until memory, or room for a message, is looked for again when nothing happens.
const RETRY: Duration = Duration::from_millis(100);

/// Requests read from `/dev/fuse` in one turn. Others may be idle while one worker hoards.
const DEV_BATCH: usize = 2;
/// Bytes of pages that were asked back, beside these: nobody but control waits for them, and for all. Of small blocks a dozen.
const DEV_BATCH_PAGES: usize = 64 << 10;

fn entry_data(index: u32) -> u64 {
    ENTRY | u64::from(index)
}

fn dev_data(poll: u32) -> u64 {
    DEV | u64::from(poll)
}

impl Port {
    /// A port on `ring`. It hears nothing of `/dev/fuse` before [`Port::set_polling`].
    pub fn on_ring(mut ring: Ring, dev: Dev, waker: Waker) -> Self {
        ring.push_poll(waker.fd(), WAKE);
        Self::new(Waiter::Ring(ring), dev, waker)
    }

    /// A port that waits in poll(2) and never touches io_uring. It hears nothing before [`Port::set_polling`].
    pub fn plain(loads: Loads, dev: Dev, waker: Waker) -> Self {
        Self::new(Waiter::Poll(loads), dev, waker)
    }

    fn new(waiter: Waiter, dev: Dev, waker: Waker) -> Self {
        Self {
            waiter,
            queues: None,
            dev,
            dev_polled: false,
            poll: 0,
            dev_ready: false,
            dev_full: false,
            waker,
            completions: Vec::with_capacity(256),
            reads: Vec::new(),
            reads_free: Vec::new(),
        }
    }

    /// Registers ring entries for `qids`, of which `own` is that of this thread's CPU; only after the INIT reply.
    ///
    /// # Errors
    /// No memory, or the file cannot be registered with the ring.
    pub fn register_queues(
        &mut self,
        fuse: &File,
        own: u16,
        qids: &[u16],
        payload: usize,
    ) -> io::Result<()> {
        let Waiter::Ring(ring) = &mut self.waiter else {
            panic!("BUG: queues need a ring");
        };
        ring.register_file(fuse.as_fd())?;
        self.queues = Some(Queues::new(ring, (own, qids), payload, entry_data)?);
        Ok(())
    }

    /// Reads requests from `/dev/fuse` here from now on, or leaves them to others. What it was woken for it still takes.
    pub fn set_polling(&mut self, polls: bool) {
        if polls == self.dev_polled {
            return;
        }
        self.dev_polled = polls;
        // Level or edge: look once in any case.
        self.dev_ready |= polls;
        let Waiter::Ring(ring) = &mut self.waiter else {
            return;
        };
        if polls {
            self.poll = self.poll.wrapping_add(1);
            ring.push_poll(self.dev.fd(), dev_data(self.poll));
        } else {
            ring.push_poll_end(dev_data(self.poll), POLL_END);
        }
    }

    /// Whether there is something to read that it has no room for.
    pub fn is_full(&self) -> bool {
        self.dev_full
    }

    /// Whether it hears by itself when the connection ends.
    pub fn hears_end(&self) -> bool {
        self.dev_polled || self.queues.is_some()
    }

    /// Thread that asks, 0 where that is not known.
    pub fn caller(&self, held: &Held) -> u32 {
        self.request(held).map_or(0, |request| request.pid)
    }

    /// Waits at most `timeout` and adds what came to `events`.
    ///
    /// # Errors
    /// An errno that nothing here explains; the worker cannot go on.
    pub fn wait(&mut self, timeout: Option<Duration>, events: &mut Events) -> io::Result<()> {
        let mut timeout = if self.dev_ready {
            Some(Duration::ZERO)
        } else {
            timeout
        };
        let mut soon = |is_starved| {
            if is_starved {
                timeout = Some(timeout.map_or(RETRY, |t| t.min(RETRY)));
            }
        };
        soon(self.dev_full);
        match &mut self.waiter {
            Waiter::Ring(ring) => {
                if let Some(queues) = &mut self.queues {
                    if queues.prepare(ring, entry_data) {
                        ring.submit()?;
                        kick(queues, &self.dev);
                    }
                    soon(queues.is_starved());
                }
                ring.wait(timeout)?;
                ring.reap(&mut self.completions);
                self.complete(events)?;
            }
            Waiter::Poll(loads) => {
                let waker = PollFd::new(self.waker.fd(), PollFlags::POLLIN);
                let dev = PollFd::new(self.dev.fd(), PollFlags::POLLIN);
                // What cannot be taken now, or is for others, would end every wait at once.
                let mut fds = [waker, dev];
                let fds = &mut fds[..1 + usize::from(self.dev_polled && !self.dev_full)];
                let limit = timeout.map_or(PollTimeout::NONE, |t| {
                    PollTimeout::try_from(t).unwrap_or(PollTimeout::MAX)
                });
                match poll(fds, limit) {
                    Ok(_) | Err(Errno::EINTR) => {}
                    Err(errno) => return Err(errno.into()),
                }
                let is_ready = |fd: &PollFd<'_>| fd.any().unwrap_or(false);
                let ready = (is_ready(&fds[0]), fds.get(1).is_some_and(is_ready));
                if ready.0 {
                    self.waker.drain();
                    events.woken = true;
                }
                self.dev_ready |= ready.1;
                while let Some(load) = loads.finished() {
                    events.reads.push(ReadDone {
                        token: load.token,
                        result: load.result,
                        buf: load.buf,
                    });
                }
            }
        }
        // A poll tells of what arrives, not of what waits: after `Full` it is looked at whenever there may be room.
        self.dev_ready |= std::mem::take(&mut self.dev_full);
        self.receive(events)
    }

    /// Acts on reaped completions.
    fn complete(&mut self, events: &mut Events) -> io::Result<()> {
        let mut completions = std::mem::take(&mut self.completions);
        for done in completions.drain(..) {
            let index = u32::try_from(done.data & !KIND).expect("numbers below 2^32 are submitted");
            match done.data & KIND {
                ENTRY => self.entry_done(index, done, events),
                READ => self.read_done(index, done.res, events),
                DEV => {
                    self.dev_ready = true;
                    if let Waiter::Ring(ring) = &mut self.waiter
                        && !done.more
                        && self.dev_polled
                        && index == self.poll
                    {
                        ring.push_poll(self.dev.fd(), done.data);
                    }
                }
                POLL_END => {}
                _ => {
                    self.waker.drain();
                    events.woken = true;
                    let Waiter::Ring(ring) = &mut self.waiter else {
                        continue;
                    };
                    if !done.more {
                        ring.push_poll(self.waker.fd(), WAKE);
                    }
                }
            }
        }
        self.completions = completions;
        Ok(())
    }

    fn entry_done(&mut self, index: u32, done: Completion, events: &mut Events) {
        let (Some(queues), Waiter::Ring(ring)) = (&mut self.queues, &mut self.waiter) else {
            return; // entries of queues that were given up
        };
        match queues.completed(ring, index, done.res, done.data) {
            Ok(Some(held)) => events.requests.push(held),
            Ok(None) => {}
            Err(Refusal::Gone) => events.gone = true,
            Err(Refusal::Register(errno)) => events.refused = Some(errno),
        }
    }

    fn read_done(&mut self, index: u32, res: i32, events: &mut Events) {
        let mut read = self.reads[index as usize]
            .take()
            .expect("a read completes once");
        match usize::try_from(res) {
            Ok(n) => {
                read.got += n;
                if n > 0 && read.got < read.buf.len() {
                    self.push_read(index, read); // short, but not at the end yet
                    return;
                }
            }
            Err(_) if matches!(-res, libc::EINTR | libc::EAGAIN) => {
                self.push_read(index, read);
                return;
            }
            Err(_) => {}
        }
        self.reads_free.push(index);
        let result = if res < 0 {
            Err(io::Error::from_raw_os_error(-res))
        } else {
            Ok(read.got)
        };
        events.reads.push(ReadDone {
            token: read.token,
            result,
            buf: read.buf,
        });
    }

    /// Reads requests of `/dev/fuse`, a few at a time.
    fn receive(&mut self, events: &mut Events) -> io::Result<()> {
        let (mut requests, mut pages) = (0, 0);
        while self.dev_ready && requests < DEV_BATCH && pages < DEV_BATCH_PAGES {
            match self.dev.receive()? {
                Received::Request(held) => {
                    match self.dev.pages(&held) {
                        Some(bytes) => pages += bytes,
                        None => requests += 1,
                    }
                    events.requests.push(held);
                }
                Received::Empty => self.dev_ready = false,
                Received::Full => (self.dev_ready, self.dev_full) = (false, true),
                Received::Gone => {
                    self.dev_ready = false;
                    events.gone = true;
                }
            }
        }
        Ok(())
    }

    /// The request held.
    ///
    /// # Errors
    /// It is cut short; the caller answers EIO.
    pub fn request(&self, held: &Held) -> Result<Request<'_>, RequestError> {
        Request::parse(self.parts(held))
    }

    fn parts(&self, held: &Held) -> Parts<'_> {
        match held.place() {
            Place::Entry(index) => self.entries().parts(index),
            Place::Message(index) => self.dev.parts(index),
        }
    }

    fn entries(&self) -> &Queues {
        self.queues.as_ref().expect("an entry is held")
    }

    /// Where the reply body goes. Names and data of the request itself may be overwritten by it.
    pub fn body(&mut self, held: &Held) -> &mut [u8] {
        match held.place() {
            Place::Entry(index) => self.queues.as_mut().expect("an entry is held").body(index),
            Place::Message(index) => self.dev.body(index),
        }
    }

    /// Answers: the length of the body, or an errno.
    pub fn reply(&mut self, held: Held, outcome: Result<usize, i32>) {
        match (held.into_place(), &mut self.queues, &mut self.waiter) {
            (Place::Entry(index), Some(queues), Waiter::Ring(ring)) => {
                queues.commit(ring, index, outcome, entry_data(index));
            }
            (Place::Message(index), ..) => {
                self.dev.reply(index, outcome);
                self.has_room();
            }
            _ => unreachable!("an entry is held"),
        }
    }

    /// Lets go of a request that has no answer: FORGET, INTERRUPT, and all of them when the connection is gone.
    pub fn discard(&mut self, held: Held) {
        match held.into_place() {
            Place::Message(index) => {
                self.dev.discard(index);
                self.has_room();
            }
            Place::Entry(_) => {}
        }
    }

    /// Lets go of pages that came back. The kernel waits for no answer, and refuses one (kernel-note 0026); an entry is armed by it again.
    pub fn acknowledge(&mut self, held: Held) {
        match held.place() {
            Place::Message(_) => self.discard(held),
            Place::Entry(_) => self.reply(held, Ok(0)),
        }
    }

    /// Whether it has not yet heard that nothing more is there: the next wait ends at once.
    pub fn has_more(&self) -> bool {
        self.dev_ready
    }

    /// There is room for a message again.
    fn has_room(&mut self) {
        self.dev_ready |= std::mem::take(&mut self.dev_full);
    }

    /// How many more requests this port can hold.
    pub fn room(&self) -> usize {
        let entries = self.queues.as_ref().map(Queues::held);
        let entries = entries.map_or(usize::MAX, |held| QUEUE_ENTRIES_MAX - held);
        entries.min(MESSAGES_MAX - self.dev.held())
    }

    /// Starts a read of the database; its end is an event with `token`.
    pub fn read_file(&mut self, token: u32, file: &Arc<File>, pos: u64, buf: ReadBuf) {
        if let Waiter::Poll(loads) = &mut self.waiter {
            loads.start(token, Arc::clone(file), pos, buf);
            return;
        }
        let index = self.reads_free.pop().unwrap_or_else(|| {
            self.reads.push(None);
            u32::try_from(self.reads.len() - 1).expect("bounded by the requests in flight")
        });
        self.push_read(
            index,
            InFlight {
                token,
                file: Arc::clone(file),
                buf,
                pos,
                got: 0,
            },
        );
    }

    fn push_read(&mut self, index: u32, mut read: InFlight) {
        let Waiter::Ring(ring) = &mut self.waiter else {
            unreachable!("reads of a ring")
        };
        let pos = read.pos + read.got as u64;
        let data = READ | u64::from(index);
        // SAFETY: the buffer is on the heap, and with the file in the slab until the read has completed; what is in flight at the
        // end is leaked (`drop`).
        unsafe { ring.push_read(read.file.as_fd(), pos, &mut read.buf[read.got..], data) };
        self.reads[index as usize] = Some(read);
    }
}

/// Has every queue that ran dry give out what waits. The answer to a kick comes to the queue of the CPU it is written
/// on; where this thread may not go, that is its own, and nothing is lost.
fn kick(queues: &mut Queues, dev: &Dev) {
    let own = queues.own_cpu();
    let mut at = own;
    while let Some((qid, file)) = queues.kick() {
        if at != usize::from(qid) {
            at = usize::from(qid);
            proc::pin(at);
        }
        dev.kick(file);
    }
    if at != own {
        proc::pin(own);
    }
}

impl Drop for Port {
    /// The kernel may still write to entries and to the buffers of unfinished reads: they are leaked, once, at
    /// the end.
    fn drop(&mut self) {
        std::mem::forget(self.queues.take());
        std::mem::forget(std::mem::take(&mut self.reads));
    }
}
