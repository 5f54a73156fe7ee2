//! Which requests come by which channel (kernel-note 0005).

use nix::sys::signal::Signal;

use crate::child::becomes_true;
use crate::machine::Transport;
use crate::on_each_transport;
use crate::stage::{SOON, Stage, WHILE};

on_each_transport!(what_comes_where);

/// Everything a caller can ask for.
const ORDINARY: [&str; 9] = [
    "LOOKUP", "GETATTR", "OPEN", "READ", "WRITE", "RELEASE", "STATFS", "OPENDIR", "READDIR",
];

fn what_comes_where(transport: Transport) {
    let Some(mut stage) = Stage::up("channel", transport, "") else {
        return;
    };
    let (ring, other) = match transport {
        Transport::Uring => ("ring", "dev"),
        _ => ("dev", "ring"),
    };
    stage.visit("stat {}/n1 ; stat {}/data");
    stage.ask("inval-attr");
    stage.visit(
        "stat {}/data ; gens {}/data 0 4096 random ; gens {}/data 8192 4096 direct ; write {}/ctl x ; statfs {} ; ls {}",
    );
    let retrieved = stage.ask("retrieve 0 4096");
    assert_eq!(retrieved, format!("{ring} 0+4096 1x1"));
    for kind in ORDINARY {
        assert!(
            stage.count(ring, kind) > 0,
            "{kind} does not come by {ring}"
        );
        assert_eq!(stage.count(other, kind), 0, "{kind} comes by {other}");
    }

    // What always comes by /dev/fuse: FORGET,
    assert!(stage.ask("inval-entry n1").starts_with("Done"));
    let forgotten = becomes_true(SOON, || {
        stage.count("dev", "FORGET") + stage.count("dev", "BATCH_FORGET") > 0
    });
    assert!(forgotten, "no FORGET by /dev/fuse: {}", stage.ask("counts"));

    // and INTERRUPT, for requests that a caller waits for itself.
    stage.ask("park LOOKUP");
    let caller = stage.send("stat {}/nslow");
    stage.await_parked(1);
    caller.signal(Signal::SIGINT);
    let told = becomes_true(SOON, || stage.count("dev", "INTERRUPT") == 1);
    assert!(told, "no INTERRUPT by /dev/fuse: {}", stage.ask("counts"));
    stage.ask("release");
    assert_eq!(caller.wait(SOON).signal(), Some(libc::SIGINT));

    // A READ through the page cache is nobody's in particular: no INTERRUPT.
    stage.ask("park READ 40960 4096");
    let caller = stage.send("gens {}/data 40960 4096 random");
    stage.await_parked(1);
    caller.signal(Signal::SIGINT);
    std::thread::sleep(WHILE);
    assert_eq!(stage.count("", "INTERRUPT"), 1);
    stage.ask("release");
    assert_eq!(caller.wait(SOON).signal(), Some(libc::SIGINT));
    for kind in ["FORGET", "BATCH_FORGET", "INTERRUPT"] {
        assert_eq!(stage.count("ring", kind), 0, "{kind} comes by a ring");
    }
}
