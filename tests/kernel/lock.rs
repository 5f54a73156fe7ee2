//! Notifications wait for the pages of unanswered READs (kernel-note 0003).

use crate::machine::Transport;
use crate::on_each_transport;
use crate::stage::{SOON, Stage, WHILE, said};

on_each_transport!(store_and_drop_wait_for_a_read);

fn store_and_drop_wait_for_a_read(transport: Transport) {
    let Some(mut stage) = Stage::up("lock", transport, "") else {
        return;
    };
    // Page 0 is cached, page 4 is being read, page 8 is absent.
    assert_eq!(stage.visit("gens {}/data 0 4096 random"), "1x1");
    stage.ask("park READ 16384 4096");
    let reader = stage.send("gens {}/data 16384 4096 random");
    stage.await_parked(1);
    stage.ask("set generation 2");

    let inval = stage.begin("inval 16384 4096");
    assert_eq!(
        inval.within(WHILE),
        None,
        "INVAL of a page that is being read"
    );
    let store = stage.begin("store 16384 4096");
    assert_eq!(
        store.within(WHILE),
        None,
        "STORE into a page that is being read"
    );
    let whole = stage.begin("inval 0 0");
    assert_eq!(whole.within(WHILE), None, "INVAL of the whole file");

    // None of these touches the page.
    for command in ["inval-attr", "store 32768 4096", "inval 32768 4096"] {
        let told = stage.ask(command);
        assert!(told.starts_with("Done"), "{command}: {told}");
    }
    let retrieved = stage.begin("retrieve 16384 4096").within(SOON);
    assert_eq!(
        retrieved
            .as_deref()
            .and_then(|r| r.split_once(' '))
            .map(|r| r.1),
        Some("16384+0 "),
        "RETRIEVE of a page that is being read"
    );

    assert_eq!(stage.ask("release"), "1");
    for pending in [inval, store, whole] {
        assert!(pending.soon().starts_with("Done"));
    }
    assert_eq!(said(&reader.wait(SOON)), "2x1");
}
