//! Parked requests never exhaust a queue.

use crate::machine::{Transport, lack};
use crate::on_each_transport;
use crate::stage::{SOON, Stage, said};

on_each_transport!(
    a_thousand_buffered_reads,
    a_thousand_direct_reads,
    a_thousand_lookups,
);

const MANY: usize = 1000;

fn a_thousand_buffered_reads(transport: Transport) {
    if let Some(stage) = Stage::up("parked", transport, "") {
        park(stage, 0, "READ 0 33554432", "data", "random", "2x1");
    }
}

fn a_thousand_direct_reads(transport: Transport) {
    if let Some(stage) = Stage::up("parked-direct", transport, "") {
        park(stage, 0, "READ 0 33554432", "data", "direct", "2x1");
    }
}

/// Of which none names a file that a dry queue could be kicked with.
fn a_thousand_lookups(transport: Transport) {
    if let Some(stage) = Stage::up("parked-lookups", transport, "") {
        park(stage, 0, "LOOKUP", "", "names", "Some(0)");
    }
}

/// The daemon may run on CPU 0 only, its clients are on CPU 1: nobody is near their queue.
#[test]
fn on_a_cpu_without_a_worker() {
    if std::thread::available_parallelism().is_ok_and(|n| n.get() == 1) {
        return lack("clients on another CPU than the daemon's: there is one CPU only");
    }
    if let Some(stage) = Stage::up("parked-far", Transport::Uring, "pinned") {
        park(stage, 1, "READ 0 33554432", "data", "random", "2x1");
    }
}

/// Parks a thousand requests of one CPU, and looks that others from there still pass.
fn park(mut stage: Stage, cpu: u32, what: &str, path: &str, how: &str, brings: &str) {
    // For the RETRIEVE, a page that nobody reads.
    let far = 60 << 20;
    assert_eq!(
        stage.visit(&format!("pin {cpu} ; gens {{}}/data {far} 4096 random")),
        "pinned ; 1x1"
    );
    stage.ask(&format!("park {what}"));
    let callers = stage.send(&format!("many {{}}/{path} {MANY} {cpu} {how}"));
    stage.await_parked(MANY);

    let visit = format!("pin {cpu} ; stat {{}}/n0 ; stat {{}}/data ; write {{}}/ctl ack");
    assert_eq!(
        stage.visit(&visit),
        "pinned ; size 0 mtime 1000000 ; size 67108864 mtime 1000000 ; written"
    );
    let retrieved = stage.ask(&format!("retrieve {far} 4096"));
    assert!(
        retrieved.ends_with(&format!("{far}+4096 1x1")),
        "{retrieved}"
    );

    stage.ask("set generation 2");
    assert_eq!(stage.ask("release"), MANY.to_string());
    assert_eq!(said(&callers.wait(SOON)), format!("{MANY} of {brings}"));
}
