//! What was delivered stays delivered: a killed caller and its unanswered request (kernel-note 0009).

use nix::sys::signal::Signal;

use crate::machine::Transport;
use crate::on_each_transport;
use crate::stage::{SOON, Stage, WHILE};

on_each_transport!(a_killed_caller);

/// What to park, what the caller does, and whether its death waits for the answer.
const CALLS: [(&str, &str, bool); 6] = [
    ("LOOKUP", "stat {}/nslow", true),
    ("OPEN", "open {}/data", true),
    ("READ", "gens {}/data 0 4096 direct", true),
    ("READ", "gens {}/data 0 4096 random", false),
    ("READ", "touch {}/data 0 4096 random", true),
    ("READ", "touch {}/data 0 4096", false),
];

fn a_killed_caller(transport: Transport) {
    let Some(mut stage) = Stage::up("withdrawn", transport, "") else {
        return;
    };
    stage.visit("stat {}/data");
    for (kind, call, waits) in CALLS {
        stage.ask(&format!("park {kind}"));
        let mut caller = stage.send(call);
        stage.await_parked(1);
        caller.signal(Signal::SIGKILL);
        std::thread::sleep(WHILE);
        assert_eq!(caller.is_running(), waits, "{call} after SIGKILL");
        assert_eq!(stage.ask("parked"), "1", "{call}: withdrawn");
        assert_eq!(stage.ask("release"), "1");
        assert_eq!(caller.wait(SOON).signal(), Some(libc::SIGKILL), "{call}");
        stage.ask("inval 0 0");
    }
}
