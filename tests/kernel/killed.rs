//! A daemon that is killed or aborted leaves nobody waiting (kernel-note 0004).

use crate::child::{Ended, Running};
use crate::machine::Transport;
use crate::on_each_transport;
use crate::stage::{SOON, Stage, WHILE};

on_each_transport!(
    abort_ends_every_caller,
    kill_ends_every_caller,
    a_notification_that_waits_outlives_a_kill,
);

/// Callers of every sort, all of them waiting for an answer.
fn waiting(stage: &mut Stage) -> Vec<Running> {
    // Known before anything parks.
    stage.visit("stat {}/data ; stat {}/n1");
    for kind in ["READ", "LOOKUP", "GETATTR", "OPEN"] {
        stage.ask(&format!("park {kind} 0"));
    }
    stage.ask("inval-attr");
    let mut callers = vec![stage.send("stat {}/data"), stage.send("stat {}/nslow")];
    stage.await_parked(2);
    stage.ask("release");
    for caller in callers.drain(..) {
        caller.wait(SOON).good();
    }
    stage.ask("park READ 0");
    stage.ask("park LOOKUP 0");
    callers = vec![
        stage.send("gens {}/data 0 4096 random"),
        stage.send("gens {}/data 1048576 1048576 direct"),
        stage.send("touch {}/data 4194304 4096 random"),
        stage.send("many {}/data 40 0 random"),
        stage.send("stat {}/nslow2"),
    ];
    // 40 of `many`, of which one waits for the same page as the first.
    stage.await_waiting(43);
    callers
}

/// Everybody ended, with an error or by SIGBUS, and nobody had to be killed.
fn ended(callers: Vec<Running>) {
    for caller in callers {
        let ended = caller.wait(SOON);
        let sigbus = ended.signal() == Some(libc::SIGBUS);
        assert!(sigbus || failed(&ended), "{ended}");
    }
}

/// The client lives, and found an error of an ended connection.
fn failed(ended: &Ended) -> bool {
    let errors = [libc::EIO, libc::ECONNABORTED, libc::ENOTCONN];
    let found = ended.out.lines().find_map(|l| l.strip_prefix("> "));
    let all_failed = |text: &str| {
        text.split(", ").all(|part| {
            let errno = part.rsplit("errno ").next().unwrap_or_default();
            part.contains("errno") && errors.iter().any(|e| e.to_string() == errno)
        })
    };
    ended.is_good() && found.is_some_and(all_failed)
}

fn abort_ends_every_caller(transport: Transport) {
    let Some(mut stage) = Stage::up("abort", transport, "") else {
        return;
    };
    let callers = waiting(&mut stage);
    stage.abort();
    ended(callers);
    assert_eq!(stage.ask("gone"), "true", "workers go on");
    // The mount is dead, not hung.
    assert!(failed(&stage.send("stat {}/nnew").wait(SOON)));
}

fn kill_ends_every_caller(transport: Transport) {
    let Some(mut stage) = Stage::up("kill", transport, "") else {
        return;
    };
    let callers = waiting(&mut stage);
    stage.kill();
    ended(callers);
    assert!(failed(&stage.send("stat {}/nnew").wait(SOON)));
}

/// A thread of the daemon waits for a page whose READ the daemon would have to answer, when it is killed (kernel-note 0023).
fn a_notification_that_waits_outlives_a_kill(transport: Transport) {
    let Some(mut stage) = Stage::up("kill-store", transport, "") else {
        return;
    };
    assert_eq!(stage.visit("gens {}/data 0 4096 random"), "1x1");
    stage.ask("park READ 16384 4096");
    let reader = stage.send("gens {}/data 16384 4096 random");
    stage.await_parked(1);
    let store = stage.begin("store 16384 4096");
    assert_eq!(
        store.within(WHILE),
        None,
        "STORE into a page that is being read"
    );
    assert!(
        !stage.dies_within(WHILE),
        "a thread that waits for a page was let go: the note is out of date"
    );
    stage.abort();
    assert!(stage.dies_within(SOON), "not even the abort ends it");
    // With an error, or with what the STORE left in its page (0003).
    let reader = reader.wait(SOON);
    assert!(reader.status.is_some(), "{reader}");
}
