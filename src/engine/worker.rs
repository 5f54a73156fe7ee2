//! The loop of one pinned thread: wait, hand over what came, submit.
//!
//! What is served is a [`Service`], owned by its worker outright. The loop itself knows requests only as values
//! to pass on, so that a stub, a test and the file system run on the same code.

use crate::kernel::port::{Events, Held, Port, ReadDone};
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// What a worker serves.
pub trait Service {
    /// Called after each wait, before anything that came is handed over.
    fn begin(&mut self) {}

    /// A request came; it is answered through `port` now, or kept and answered later.
    fn request(&mut self, port: &mut Port, held: Held);

    /// A read of the database ended.
    fn read_done(&mut self, port: &mut Port, done: ReadDone);

    /// Somebody called this worker's waker: the channels have something.
    fn woken(&mut self, port: &mut Port);

    /// Called before each wait, when everything that came is handled: does small work that can be put off, and
    /// tells how long the wait may be.
    fn before_wait(&mut self, port: &mut Port) -> Option<Duration>;

    /// The connection has ended: held requests are to be discarded.
    fn gone(&mut self, port: &mut Port);
}

/// What the workers of one connection share beside their channels.
#[derive(Debug, Default)]
pub struct Flags {
    /// The kernel refused ring entries: requests come by `/dev/fuse`.
    pub rings_refused: AtomicBool,
}

/// Why a loop ended.
#[derive(Debug)]
pub enum End {
    /// Unmounted or aborted.
    Gone,
    /// The wait failed.
    Failed(io::Error),
}

/// Runs until the connection ends. `refused` is called when the kernel refuses ring entries.
pub fn run<S: Service>(
    mut port: Port,
    service: &mut S,
    flags: &Flags,
    refused: impl Fn(i32),
) -> End {
    let mut events = Events::default();
    let mut polling = false;
    loop {
        let timeout = service.before_wait(&mut port);
        if let Err(error) = port.wait(timeout, &mut events) {
            service.gone(&mut port);
            return End::Failed(error);
        }
        service.begin();
        if let Some(errno) = events.refused.take() {
            flags.rings_refused.store(true, Ordering::Release);
            refused(errno);
        }
        if !polling && flags.rings_refused.load(Ordering::Acquire) {
            polling = true;
            port.poll_dev();
        }
        if std::mem::take(&mut events.woken) {
            service.woken(&mut port);
        }
        for done in events.reads.drain(..) {
            service.read_done(&mut port, done);
        }
        for held in events.requests.drain(..) {
            service.request(&mut port, held);
        }
        if events.gone {
            service.gone(&mut port);
            return End::Gone;
        }
    }
}
