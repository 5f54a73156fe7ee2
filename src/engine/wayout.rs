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
//! A fault inside a system call cannot be helped: the kernel would go on copying. Neither can one whose threads are not to be seen.

use super::shared::{Mailbox, ToWorker};
use crate::base::{NodeId, Unique};
use crate::kernel::client::Client;
use crate::kernel::mount::Connection;
use crate::kernel::notify::tell;
use crate::kernel::proc;
use crate::wire::fuse::notify::Head;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// A pin that takes so long may be one of these.
pub(super) const SUSPICIOUS: Duration = Duration::from_millis(30);
/// A thread that was stopped is so when the kernel is done with its fault.
const STOPS_WITHIN: Duration = Duration::from_secs(1);

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

/// Whether a READ waits for the process that made it, in a way that it can be brought out of.
pub(super) fn is_needed(client: &Client, reader: Reader) -> bool {
    client.has_thread(reader.tid)
        && client.is_in_user_fault(reader.tid)
        && client.waits_for_itself(reader.tid)
}

/// Brings it out, on a thread of its own.
pub(super) fn take(
    client: &Arc<Client>,
    reader: Reader,
    (worker, unique): (Mailbox<ToWorker>, Unique),
    connection: &Arc<Connection>,
) {
    let (client, connection) = (Arc::clone(client), Arc::clone(connection));
    let body = move || {
        let drop = Head::inval_inode(reader.node, reader.off, reader.len);
        bring_out(
            &client,
            reader.tid,
            || worker.send(ToWorker::WayOut(unique)),
            || tell(&connection.fuse, &drop, &[]).is_ok(),
        );
    };
    // Without a thread it waits for its deadline.
    let _ = proc::spawn("zring-wayout", body);
}

/// The steps above. One that would see the page, as it could not be dropped, stays stopped until its deadline.
fn bring_out(client: &Client, tid: u32, answer: impl FnOnce(), drop: impl FnOnce() -> bool) {
    if client.stop_thread(tid).is_err() {
        return;
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
        answer();
        let began = Instant::now();
        while !client.is_stopped(tid) && began.elapsed() < STOPS_WITHIN {
            proc::pause(Duration::from_micros(200));
        }
        if !drop() {
            return;
        }
    }
    let _ = client.go_on();
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
        for is_dropped in [true, false] {
            let mut answered = false;
            bring_out(&client, tid, || answered = true, || is_dropped);
            // In this moment it may be in a system call after all; then nothing is done to it.
            let goes_on = is_dropped || !answered;
            let soon = (0..1000).any(|_| {
                proc::pause(Duration::from_millis(1));
                client.is_stopped(tid) != goes_on
            });
            assert!(soon, "dropped: {is_dropped}, answered: {answered}");
            if !is_dropped {
                assert!(answered && client.is_stopped(tid));
                proc::pause(Duration::from_millis(50));
                assert!(client.is_stopped(tid), "it sees the page");
            }
        }
    }
}
