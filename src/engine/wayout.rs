//! The way out for a client that waits for itself (kernel-note 0017).
//!
//! A page fault that the kernel tries a second time holds the address space of its process. If its READ needs a pin of that same process,
//! the thread that has to map the block waits for the fault, and the fault for the pin: nobody would move until the deadline, and an
//! innocent client would be killed. A fault in user code can be brought out of it:
//!
//! ```text
//!   SIGSTOP to the faulting thread --> its READ is answered --> it is stopped, and has seen nothing --> the page is dropped --> SIGCONT
//! ```
//!
//! The instruction begins anew, with a fault that holds nothing, and a READ that waits for the pin as it should. All others that may see
//! the page meanwhile have what they need pinned: this is done only when the READ waits for nobody else.
//!
//! A fault inside a system call cannot be helped: the kernel would go on copying. Neither can one whose threads are not to be seen, nor one
//! that has come to wait for the READ of another process.

use super::shared::{Mailbox, ToWorker};
use crate::base::{NodeId, Unique};
use crate::iso::Caller;
use crate::kernel::client::Client;
use crate::kernel::mount::Connection;
use crate::kernel::notify::tell;
use crate::kernel::proc;
use crate::wire::fuse::notify::Head;
use crossbeam_channel::{RecvTimeoutError, bounded};
use rustc_hash::FxHashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::time::{Duration, Instant};

/// A pin that takes so long may be one of these.
pub(super) const SUSPICIOUS: Duration = Duration::from_millis(30);
/// A thread that was stopped is so when the kernel is done with its fault.
const STOPS_WITHIN: Duration = Duration::from_secs(1);
/// How often it is looked whether a page that does not let itself be dropped is another one by now.
const LOOK_EVERY: Duration = Duration::from_millis(5);

/// A READ that waits for pins.
#[derive(Clone, Copy, Debug)]
pub struct Reader {
    /// The thread that made it.
    pub tid: u32,
    /// What it reads.
    pub node: NodeId,
    /// First byte.
    pub off: u64,
    /// Bytes.
    pub len: u64,
}

impl Reader {
    fn meets(&self, other: &Self) -> bool {
        let is_before = |a: &Self, b: &Self| a.off < b.off.saturating_add(b.len);
        self.node == other.node && is_before(self, other) && is_before(other, self)
    }
}

/// How far a client has been brought out.
///
/// ```text
///   Waiting --taken--> UnderWay --the READ is answered--> Answered
///      ^                  |
///      '--- it was not ---'  the thread did something else just then: looked at again
/// ```
#[derive(Debug, Default)]
struct Way {
    state: AtomicU8,
    /// Another READ of the page came after the answer: it is not the page that was answered any more.
    replaced: AtomicBool,
    /// Nothing more is done.
    over: AtomicBool,
}

impl Way {
    const WAITING: u8 = 0;
    const UNDER_WAY: u8 = 1;
    const ANSWERED: u8 = 2;

    fn is(&self, state: u8) -> bool {
        self.state.load(Ordering::SeqCst) == state
    }

    fn be(&self, state: u8) {
        self.state.store(state, Ordering::SeqCst);
    }

    fn is_replaced(&self) -> bool {
        self.replaced.load(Ordering::SeqCst)
    }
}

#[derive(Debug)]
struct Waiter {
    reader: Reader,
    since: Instant,
    way: Arc<Way>,
}

/// READs that wait for pins, until these are there.
#[derive(Debug, Default)]
pub(super) struct Readers {
    waiters: FxHashMap<Caller, Waiter>,
    /// Clients that are being brought out. Two at a time of one process would let it go on for each other.
    under_way: Vec<(Arc<Client>, Arc<Way>)>,
}

impl Readers {
    pub(super) fn is_empty(&self) -> bool {
        self.waiters.is_empty()
    }

    /// One begins to wait. What was answered of its page to others is gone: the kernel has one READ of a page at a time.
    pub(super) fn came(&mut self, caller: Caller, reader: Reader, now: Instant) {
        for waiter in self.waiters.values() {
            if waiter.way.is(Way::ANSWERED) && waiter.reader.meets(&reader) {
                waiter.way.replaced.store(true, Ordering::SeqCst);
            }
        }
        let (since, way) = (now, Arc::default());
        self.waiters.insert(caller, Waiter { reader, since, way });
    }

    /// One waits no more.
    pub(super) fn gone(&mut self, caller: Caller) {
        self.waiters.remove(&caller);
    }

    /// Those that have waited long enough to be looked at, and that nobody helps.
    pub(super) fn late(&self, now: Instant) -> Vec<(Caller, Reader)> {
        let is_late = |waiter: &Waiter| {
            now.saturating_duration_since(waiter.since) >= SUSPICIOUS && waiter.way.is(Way::WAITING)
        };
        let late = self.waiters.iter().filter(|(_, waiter)| is_late(waiter));
        late.map(|(&caller, waiter)| (caller, waiter.reader))
            .collect()
    }

    /// Brings the client of one out, on a thread of its own; false when that is to be tried again.
    pub(super) fn bring_out(
        &mut self,
        caller: Caller,
        client: &Arc<Client>,
        worker: &Mailbox<ToWorker>,
        connection: &Arc<Connection>,
        now: Instant,
    ) -> bool {
        self.under_way
            .retain(|(client, way)| !way.over.load(Ordering::SeqCst) && client.is_alive());
        let is_of = |(other, _): &(Arc<Client>, _)| other.pid() == client.pid();
        let Some(waiter) = self.waiters.get_mut(&caller) else {
            return false;
        };
        if self.under_way.iter().any(is_of) {
            return false;
        }
        waiter.since = now;
        waiter.way.be(Way::UNDER_WAY);
        let (reader, way) = (waiter.reader, Arc::clone(&waiter.way));
        self.under_way.push((Arc::clone(client), Arc::clone(&way)));
        let (client, worker) = (Arc::clone(client), worker.clone());
        let connection = Arc::clone(connection);
        let unique: Unique = caller.unique;
        let body = move || {
            let answer = || worker.send(ToWorker::WayOut(unique));
            let drop = || dropped(&connection, reader, &way);
            let guard = &connection.guard;
            // Without a guard too: it would be killed for what is no fault of its.
            guard.begin(client.pid());
            match take(&client, reader.tid, &way, answer, drop) {
                Left::GoingOn => guard.end(client.pid()),
                Left::Stopped => guard.condemn(client.pid()),
            }
        };
        let is_begun = proc::spawn("zring-wayout", body).is_ok();
        if !is_begun {
            waiter.way.over.store(true, Ordering::SeqCst);
            waiter.way.be(Way::WAITING);
        }
        is_begun
    }
}

/// Whether a READ waits for the process that made it, in a way that it can be brought out of.
pub(super) fn is_needed(client: &Client, reader: Reader) -> bool {
    client.has_thread(reader.tid)
        && client.is_in_user_fault(reader.tid)
        && client.waits_for_itself(reader.tid)
}

/// Drops what was answered, or waits until that is gone by itself. A commit may drop it first; who reads it next may have it locked, and wait
/// for a pin of the very client that is stopped.
fn dropped(connection: &Arc<Connection>, reader: Reader, way: &Way) -> bool {
    let head = Head::inval_inode(reader.node, reader.off, reader.len);
    let (tell_done, done) = bounded(1);
    let connection = Arc::clone(connection);
    let spawned = proc::spawn("zring-waydrop", move || {
        let is_done = tell(&connection.fuse, &head, &[]).is_ok();
        let _ = tell_done.send(is_done);
    });
    if spawned.is_err() {
        return false;
    }
    loop {
        match done.recv_timeout(LOOK_EVERY) {
            Ok(is_done) => return is_done,
            Err(RecvTimeoutError::Timeout) if way.is_replaced() => return true,
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return false,
        }
    }
}

/// How a client is left.
enum Left {
    GoingOn,
    Stopped,
}

/// The steps above. One that would see the page, as it could not be dropped, stays stopped until its deadline.
fn take(
    client: &Client,
    tid: u32,
    way: &Way,
    answer: impl FnOnce(),
    drop: impl FnOnce() -> bool,
) -> Left {
    if client.stop_thread(tid).is_err() {
        way.be(Way::WAITING);
        way.over.store(true, Ordering::SeqCst);
        return Left::GoingOn;
    }
    // The signal makes it run for a moment; and what happened since it was looked at may be that the fault is over.
    let asleep = (0..100).any(|_| {
        let is_asleep = !client.is_running(tid);
        if !is_asleep {
            proc::pause(Duration::from_micros(200));
        }
        is_asleep
    });
    if asleep && client.is_in_user_fault(tid) {
        way.be(Way::ANSWERED);
        answer();
        let began = Instant::now();
        // The page may go before the thread has it: then it asks again, and is not stopped.
        while !client.is_stopped(tid) && !way.is_replaced() && began.elapsed() < STOPS_WITHIN {
            proc::pause(Duration::from_micros(200));
        }
        if !drop() {
            return Left::Stopped;
        }
    } else {
        way.be(Way::WAITING);
    }
    let _ = client.go_on();
    way.over.store(true, Ordering::SeqCst);
    Left::GoingOn
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use std::process::{Child, Command};

    /// Ended whatever becomes of the test.
    struct Spinning(Child);

    impl Drop for Spinning {
        fn drop(&mut self) {
            let _ = self.0.kill();
            let _ = self.0.wait();
        }
    }

    /// Only who asks for the page after it was answered tells that it is another one.
    #[test]
    fn a_page_is_replaced_when_it_is_read_again() {
        let (mut readers, now) = (Readers::default(), Instant::now());
        let caller = |n| Caller {
            worker: 0,
            unique: Unique(n),
        };
        let reader = |node, off| Reader {
            tid: 7,
            node: NodeId(node),
            off,
            len: 4096,
        };
        let way = |readers: &Readers, n| Arc::clone(&readers.waiters[&caller(n)].way);
        readers.came(caller(1), reader(70, 4096), now);
        readers.came(caller(2), reader(70, 4096), now);
        let ours = way(&readers, 1);
        assert_eq!(readers.late(now).len(), 0);
        assert_eq!(readers.late(now + SUSPICIOUS).len(), 2);
        ours.be(Way::ANSWERED);
        assert_eq!(readers.late(now + SUSPICIOUS).len(), 1);
        for other in [reader(71, 4096), reader(70, 0), reader(70, 8192)] {
            readers.came(caller(3), other, now);
        }
        assert!(!ours.replaced.load(Ordering::SeqCst));
        readers.came(caller(4), reader(70, 4096), now);
        assert!(ours.replaced.load(Ordering::SeqCst));
        assert!(!way(&readers, 2).replaced.load(Ordering::SeqCst));
        readers.gone(caller(1));
        assert_eq!(readers.late(now + SUSPICIOUS).len(), 3);
    }

    /// Who runs in user code and is stopped looks as one in a fault of user code does: in no system call.
    #[test]
    fn only_who_cannot_see_the_page_goes_on() {
        let mut shell = Command::new("sh");
        let spinning = shell.args(["-c", "while :; do :; done"]).spawn();
        let spinning = Spinning(spinning.unwrap());
        let tid = spinning.0.id();
        let client = Client::of_thread(tid, 0).unwrap();
        let is_user_code = || {
            let exe = std::fs::read_to_string(format!("/proc/{tid}/cmdline"));
            exe.is_ok_and(|words| words.contains("while"))
        };
        while !is_user_code() {
            proc::pause(Duration::from_millis(1));
        }
        let answers = |is_dropped| {
            let mut answered = false;
            let way = Way::default();
            let left = take(&client, tid, &way, || answered = true, || is_dropped);
            assert_eq!(matches!(left, Left::Stopped), answered && !is_dropped);
            assert_eq!(way.is(Way::ANSWERED), answered);
            let goes_on = is_dropped || !answered;
            let soon = (0..1000).any(|_| {
                proc::pause(Duration::from_millis(1));
                client.is_stopped(tid) != goes_on
            });
            assert!(soon, "dropped: {is_dropped}, answered: {answered}");
            answered
        };
        // In this moment it may be in a system call after all, or have no CPU on which to stop; then nothing is done to it.
        let in_the_end = |is_dropped| (0..100).any(|_| answers(is_dropped));
        assert!(in_the_end(true) && in_the_end(false));
        proc::pause(Duration::from_millis(50));
        assert!(client.is_stopped(tid), "it sees the page");
    }
}
