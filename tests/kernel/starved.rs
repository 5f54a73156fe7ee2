//! Requests that come while there is no memory to take them.

use crate::child::becomes_true;
use crate::machine::Transport;
use crate::on_each_transport;
use crate::stage::{SOON, Stage, said};

on_each_transport!(without_memory_requests_wait_and_nothing_ends);

const READERS: usize = 100;

/// They stay in the kernel until one that is held is answered, or there is memory again. The server hears what is said to it all the while.
fn without_memory_requests_wait_and_nothing_ends(transport: Transport) {
    let Some(mut stage) = Stage::up("starved", transport, "") else {
        return;
    };
    // What a worker needs from the start it needs: on rings all of them are there when the first request is answered, and have their memory.
    stage.visit("gens {}/data 0 4096 random");
    let rings = match transport {
        Transport::Plain => 0,
        Transport::Uring | Transport::Dev => zring::kernel::proc::cpus_allowed().len(),
    };
    assert!(becomes_true(SOON, || stage.rings() == rings));
    let many = format!("many {{}}/data {READERS} 0 direct");
    // A worker has room for a few, or for 16 of a CPU.
    for is_lifted in [false, true] {
        assert_eq!(stage.ask("limit 1900"), "limited");
        stage.ask("park READ");
        let readers = stage.send(&many);
        stage.await_waiting(READERS);
        stage.settle();
        let parked: usize = stage.ask("parked").parse().unwrap();
        assert!((1..READERS / 2).contains(&parked), "{parked} were taken");
        if is_lifted {
            stage.ask("limit 0");
            stage.await_parked(READERS);
        }
        stage.ask("release");
        assert_eq!(said(&readers.wait(SOON)), format!("{READERS} of 1x1"));
        stage.ask("limit 0");
    }
}
