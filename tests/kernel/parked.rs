//! Parked requests never exhaust a queue.

use crate::machine::Transport;
use crate::on_each_transport;
use crate::stage::{SOON, Stage, said};

on_each_transport!(a_thousand_parked_reads);

const READERS: usize = 1000;

fn a_thousand_parked_reads(transport: Transport) {
    let Some(mut stage) = Stage::up("parked", transport, "") else {
        return;
    };
    // For the RETRIEVE, a page that nobody reads.
    let far = 60 << 20;
    assert_eq!(
        stage.visit(&format!("gens {{}}/data {far} 4096 random")),
        "1x1"
    );
    stage.ask("park READ 0 33554432");
    let readers = stage.send(&format!("many {{}}/data {READERS} 0 random"));
    stage.await_parked(READERS);

    let others = stage.visit("pin 0 ; stat {}/n0 ; stat {}/data ; write {}/ctl ack");
    assert_eq!(
        others,
        "pinned ; size 0 mtime 1000000 ; size 67108864 mtime 1000000 ; written"
    );
    let retrieved = stage.ask(&format!("retrieve {far} 4096"));
    assert!(
        retrieved.ends_with(&format!("{far}+4096 1x1")),
        "{retrieved}"
    );

    stage.ask("set generation 2");
    assert_eq!(stage.ask("release"), READERS.to_string());
    assert_eq!(said(&readers.wait(SOON)), format!("{READERS} of 2x1"));
}
