//! The loop of one pinned thread: wait, hand over what came, submit.
//!
//! What is served is a [`Service`], owned by its worker outright. The loop itself knows requests only as values
//! to pass on, so that a stub, a test and the file system run on the same code.

use super::pollers::{Pollers, Turn};
use crate::kernel::port::{Events, Held, Port, ReadDone};
use std::io;
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

/// Why a loop ended.
#[derive(Debug)]
pub enum End {
    /// Unmounted or aborted.
    Gone,
    /// The wait failed.
    Failed(io::Error),
}

/// Runs worker `index` until the connection ends.
pub fn run<S: Service>(index: usize, mut port: Port, service: &mut S, pollers: &Pollers) -> End {
    let mut events = Events::default();
    let end = loop {
        let timeout = service.before_wait(&mut port);
        port.set_polling(pollers.looks(index));
        if let Err(error) = port.wait(timeout, &mut events) {
            break End::Failed(error);
        }
        let turn = begin(index, &port, &events, pollers);
        service.begin();
        if events.refused.take().is_some() {
            pollers.begin_by_dev();
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
        if events.gone || (pollers.is_over() && !port.hears_end()) {
            break End::Gone;
        }
        drop(turn);
    };
    service.gone(&mut port);
    pollers.end();
    end
}

/// Whoever looks for requests with it is told what this worker has to do now.
fn begin<'a>(index: usize, port: &Port, events: &Events, pollers: &'a Pollers) -> Option<Turn<'a>> {
    if port.is_full() {
        pollers.miss(index);
    }
    if events.requests.is_empty() && events.reads.is_empty() {
        return None;
    }
    let last = events.requests.last();
    let caller = || last.map_or(0, |held| port.caller(held));
    pollers.begin(index, events.requests.len() as u64, caller)
}
