//! What it costs to wake a thread on another CPU (kernel-note 0021).
//!
//! Requests, commits and pins go through several threads; each step pays this. On bare metal it is a few microseconds. On a virtual
//! machine whose idle CPUs halt at once, each wake-up is an exit to the host.

use super::proc;
use nix::errno::Errno;
use nix::sched::{sched_getaffinity, sched_setaffinity};
use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::unistd::Pid;
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How long two threads on two CPUs take to wake each other once there and once back: the median of so many rounds. `None` where
/// there is one CPU.
///
/// # Errors
/// No descriptor, or no thread.
pub fn round_trip(rounds: usize) -> io::Result<Option<Duration>> {
    let cpus = proc::cpus_allowed();
    let [here, .., there] = cpus[..] else {
        return Ok(None);
    };
    let event = || EventFd::from_value_and_flags(0, EfdFlags::EFD_CLOEXEC).map(Arc::new);
    let (go, back) = (event()?, event()?);
    let partner = {
        let (go, back) = (Arc::clone(&go), Arc::clone(&back));
        proc::spawn("zring-wakeup", move || {
            proc::pin(there);
            (0..rounds).for_each(|_| {
                wait(&go);
                wake(&back);
            });
        })?
    };
    let before = sched_getaffinity(Pid::from_raw(0));
    proc::pin(here);
    let round = |_| {
        let began = Instant::now();
        wake(&go);
        wait(&back);
        began.elapsed()
    };
    let mut took: Vec<Duration> = (0..rounds).map(round).collect();
    if let Ok(cpus) = before {
        let _ = sched_setaffinity(Pid::from_raw(0), &cpus);
    }
    let _ = partner.join();
    took.sort_unstable();
    Ok(took.get(rounds / 2).copied())
}

fn wake(event: &EventFd) {
    while event.write(1) == Err(Errno::EINTR) {}
}

fn wait(event: &EventFd) {
    while event.read() == Err(Errno::EINTR) {}
}
