//! While a pass runs: progress on stderr, its end by a signal or by time.

use super::options::{Options, Show};
use crate::engine::etag::{Counter, Pulse};
use crate::etag::State;
use crate::etag::json::Object;
use crate::kernel::proc;
use std::io::{IsTerminal, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering::Relaxed};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// On a terminal, four times a second at most.
const REDRAW: Duration = Duration::from_millis(250);

/// What ended passes early: the exit code of it, or 0.
static ENDED: AtomicU8 = AtomicU8::new(0);

/// The exit code of a pass that was cancelled.
pub(super) fn ended() -> Option<u8> {
    match ENDED.load(Relaxed) {
        0 => None,
        code => Some(code),
    }
}

/// Takes SIGINT and SIGTERM: the first ends the pass with what it has, the second ends the program at once.
pub(super) fn take_signals(pulse: &Arc<Pulse>) {
    if proc::block_signals().is_err() {
        return;
    }
    let pulse = Arc::clone(pulse);
    // It ends with the process.
    let _ = proc::spawn("zring-signal", move || {
        let code = proc::wait_for_stop_code();
        ENDED.store(code, Relaxed);
        pulse.cancel();
        let code = proc::wait_for_stop_code();
        std::process::exit(code.into());
    });
}

/// Has the pulse of one root end with that of all: by a thread that looks now and then.
pub(super) struct Linked {
    stop: Sender<()>,
}

/// See [`Linked`].
pub(super) fn link(all: &Arc<Pulse>, own: &Arc<Pulse>) -> Linked {
    let (stop, stopped) = channel::<()>();
    let (all, own) = (Arc::clone(all), Arc::clone(own));
    let look = Duration::from_millis(20);
    let _ = proc::spawn("zring-link", move || {
        while stopped.recv_timeout(look) == Err(RecvTimeoutError::Timeout) {
            if all.is_cancelled() {
                return own.cancel();
            }
        }
    });
    Linked { stop }
}

impl Drop for Linked {
    fn drop(&mut self) {
        let _ = self.stop.send(());
    }
}

/// A thread that shows how a pass goes on, and ends it when its time is over.
pub(super) struct Watch {
    stop: Sender<()>,
    thread: Option<JoinHandle<()>>,
}

impl Watch {
    pub(super) fn begin(options: &Options, pulse: &Arc<Pulse>) -> Self {
        let terminal = std::io::stderr().is_terminal();
        let shows = match options.show {
            Show::Never => false,
            Show::Always => true,
            Show::Auto => !options.quiet,
        };
        let every = if terminal { REDRAW } else { options.show_every };
        let deadline = options.max_time.map(|time| Instant::now() + time);
        let pulse = Arc::clone(pulse);
        let (stop, stopped) = channel::<()>();
        let thread = proc::spawn("zring-show", move || {
            let began = Instant::now();
            let mut next = began + every;
            let mut drawn = false;
            loop {
                let until = deadline.map_or(next, |d| d.min(next));
                let wait = until.saturating_duration_since(Instant::now());
                if stopped.recv_timeout(wait) != Err(RecvTimeoutError::Timeout) {
                    break;
                }
                let now = Instant::now();
                if deadline.is_some_and(|d| d <= now) && !pulse.is_cancelled() {
                    ENDED.store(143, Relaxed);
                    pulse.cancel();
                }
                if now < next {
                    continue;
                }
                next = now + every;
                if shows && terminal {
                    drawn = true;
                    eprint!("\r{}\x1b[K", line(&pulse, began));
                    let _ = std::io::stderr().flush();
                } else if shows {
                    eprintln!("{}", object(&pulse, began).end());
                }
            }
            if drawn {
                eprint!("\r\x1b[K");
            }
        });
        Self {
            stop,
            thread: thread.ok(),
        }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        let _ = self.stop.send(());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Seconds until the queue is empty, at the rate so far.
fn eta(pulse: &Pulse, began: Instant) -> Option<f64> {
    let done = pulse.get(Counter::HashedBytes) as f64;
    let left = pulse.get(Counter::QueuedBytes) as f64;
    (done > 0.0).then(|| left * began.elapsed().as_secs_f64() / done)
}

fn line(pulse: &Pulse, began: Instant) -> String {
    let seconds = began.elapsed().as_secs_f64().max(0.001);
    let files = pulse.get(Counter::Files);
    let mut out = format!("{files} files, {:.0}/s", files as f64 / seconds);
    let hashed = pulse.get(Counter::Hashed);
    let queued = pulse.get(Counter::Queued);
    if hashed + queued > 0 {
        let rate = pulse.get(Counter::HashedBytes) as f64 / seconds / f64::from(1 << 20);
        out += &format!(", {hashed} hashed, {rate:.0} MiB/s, {queued} left");
        if let Some(eta) = eta(pulse, began) {
            out += &format!(", {eta:.0} s");
        }
    }
    let bad = pulse.state(State::Unreadable);
    if bad > 0 {
        out += &format!(", {bad} unreadable");
    }
    out
}

fn object(pulse: &Pulse, began: Instant) -> Object {
    let seconds = began.elapsed().as_secs_f64().max(0.001);
    let count = |counter| Some(i128::from(pulse.get(counter)));
    let mut states = Object::new();
    for state in State::ALL {
        states = states.int(state.name(), Some(pulse.state(state).into()));
    }
    let inside = Object::new()
        .float("seconds", seconds)
        .int("dirs", count(Counter::Dirs))
        .int("files", count(Counter::Files))
        .object("states", states)
        .int("errors", count(Counter::DirErrors))
        .int("hashed", count(Counter::Hashed))
        .int("hashed_bytes", count(Counter::HashedBytes))
        .int("queued", count(Counter::Queued))
        .int("queued_bytes", count(Counter::QueuedBytes))
        .float("files_per_s", pulse.get(Counter::Files) as f64 / seconds)
        .float(
            "bytes_per_s",
            pulse.get(Counter::HashedBytes) as f64 / seconds,
        )
        .float("eta_s", eta(pulse, began).unwrap_or(0.0));
    Object::new().object("progress", inside)
}
