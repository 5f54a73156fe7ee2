//! SIGQUIT: the daemon says where it stands. It goes on then, but a drop-in server, which ends at once and leaves the mount to who sent it.
//!
//! What can be said without anybody's help: of each thread its name, its state, and where in the kernel it sleeps; then the
//! counters, if no lock is stuck. Stacks in this program would need the threads' help, and one that hangs gives none.

use super::shared::Shared;
use crate::kernel::{proc, process};
use std::io::Write;
use std::sync::{Arc, mpsc};
use std::time::Duration;

/// Exit status after it.
const STATUS: i32 = 2;
/// How long the counters may take.
const PATIENCE: Duration = Duration::from_millis(500);

/// Waits for SIGQUIT; does not return after it.
pub(super) fn end(shared: &Arc<Shared>) {
    proc::wait_for_quit();
    let mut err = std::io::stderr();
    let _ = writeln!(err, "SIGQUIT: quit\n\n{}", threads());
    let _ = writeln!(err, "{}", counts(shared));
    std::process::exit(STATUS)
}

/// Tells the log at each SIGQUIT, for ever.
pub(super) fn tell(shared: &Arc<Shared>) {
    loop {
        proc::wait_for_quit();
        let text = format!("SIGQUIT\n{}\n{}", threads(), counts(shared));
        for line in text.lines().filter(|line| !line.is_empty()) {
            shared.log.trace(line);
        }
    }
}

fn threads() -> String {
    let pid = i32::try_from(std::process::id()).unwrap_or_default();
    process::stacks(pid)
}

fn counts(shared: &Arc<Shared>) -> String {
    let (done, answer) = mpsc::channel();
    let shared = Arc::clone(shared);
    let asked = proc::spawn("zring-count", move || {
        let _ = done.send(shared.stats());
    });
    asked
        .ok()
        .and_then(|_| answer.recv_timeout(PATIENCE).ok())
        .unwrap_or_else(|| "the counters cannot be had: a lock is stuck".to_owned())
}
