//! From the INIT reply to the first ring request (kernel-note 0002).

use nix::sys::signal::Signal;

use crate::machine::{Transport, lack};
use crate::stage::{SOON, Stage, WHILE, said};

/// Every sort of request, and what they bring.
const TOUR: &str = "stat {}/data ; gens {}/data 0 1048576 ; gens {}/data 8192 4096 direct ; write {}/ctl x ; statfs {} ; ls {}";
const TOURED: &str = "size 67108864 mtime 1000000 ; 1x256 ; 1x1 ; written ; answered ; 0";

#[test]
fn nothing_flows_until_every_possible_cpu_has_an_entry() {
    if std::thread::available_parallelism().is_ok_and(|n| n.get() == 1) {
        return lack("queues that come up one after the other: there is one CPU only");
    }
    let Some(mut stage) = Stage::up("rings-late", Transport::Uring, "late=last") else {
        return;
    };
    // One worker has registered its queues, the last one has not: also for CPU 0 nothing flows.
    let mut first = stage.send("pin 0 ; stat {}/n1");
    std::thread::sleep(WHILE);
    assert!(first.is_running(), "served by half of the queues");
    assert_eq!(stage.ask("counts"), "");
    // Whoever waits for the rings can be killed: nothing of it was delivered.
    let other = stage.send("stat {}/n2");
    std::thread::sleep(WHILE);
    other.signal(Signal::SIGKILL);
    assert_eq!(other.wait(SOON).signal(), Some(libc::SIGKILL));

    stage.ask("register");
    assert_eq!(said(&first.wait(SOON)), "pinned ; size 0 mtime 1000000");
    assert_eq!(stage.visit(TOUR), TOURED);
    assert_eq!(stage.count("dev", "LOOKUP"), 0);
}

#[test]
fn a_refused_entry_sends_everything_to_dev_fuse() {
    let Some(mut stage) = Stage::up("rings-short", Transport::Uring, "payload=4096") else {
        return;
    };
    assert_eq!(stage.visit(TOUR), TOURED);
    let counts = stage.ask("counts");
    assert!(
        !counts.contains("ring:") && counts.contains("dev:READ"),
        "{counts}"
    );
    assert_eq!(stage.ask("retrieve 0 4096"), "dev 0+4096 1x1");
    stage.ask("park READ 33554432");
    let reader = stage.send("gens {}/data 33554432 4096 random");
    stage.await_parked(1);
    assert_eq!(stage.ask("release"), "1");
    assert_eq!(said(&reader.wait(SOON)), "1x1");
}

#[test]
fn the_promise_of_rings_is_kept_or_taken_back() {
    let Some(mut stage) = Stage::up("rings-promise", Transport::Uring, "late=all payload=4096")
    else {
        return;
    };
    // Promised in INIT, and no entry so far.
    let mut caller = stage.send("stat {}/n1");
    std::thread::sleep(WHILE);
    assert!(caller.is_running(), "served without entries");
    // A REGISTER that fails takes the promise back.
    stage.ask("register");
    assert_eq!(said(&caller.wait(SOON)), "size 0 mtime 1000000");
    assert_eq!(stage.count("ring", "LOOKUP"), 0);
}
