//! Notifications wait for the pages of unanswered READs (kernel-note 0003).

use crate::machine::Transport;
use crate::on_each_transport;
use crate::stage::{SOON, Stage, WHILE, said};

on_each_transport!(
    store_and_drop_wait_for_a_read,
    dropping_a_name_waits_for_a_lookup,
    who_wants_to_make_a_name_stops_all_lookups,
    a_notification_that_waits_ends_with_the_connection,
);

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

fn dropping_a_name_waits_for_a_lookup(transport: Transport) {
    let Some(mut stage) = Stage::up("lock-name", transport, "") else {
        return;
    };
    stage.visit("stat {}/n1 ; gens {}/data 0 4096 random");
    stage.ask("park LOOKUP");
    let caller = stage.send("stat {}/nslow");
    stage.await_parked(1);
    // Another name of the same directory.
    let dropped = stage.begin("inval-entry n1");
    assert_eq!(dropped.within(WHILE), None, "INVAL_ENTRY beside a LOOKUP");
    // Files have locks of their own.
    for command in ["inval-attr", "inval 0 0", "store 0 4096"] {
        let told = stage.ask(command);
        assert!(told.starts_with("Done"), "{command}: {told}");
    }
    // Who walks past the directory by names that are cached does not wait, who needs another LOOKUP does.
    assert_eq!(stage.visit("gens {}/data 0 4096 random"), "1x1");
    assert_eq!(stage.ask("release"), "1");
    assert!(dropped.soon().starts_with("Done"));
    said(&caller.wait(SOON));
}

fn a_notification_that_waits_ends_with_the_connection(transport: Transport) {
    let Some(mut stage) = Stage::up("lock-abort", transport, "") else {
        return;
    };
    stage.visit("stat {}/data");
    stage.ask("park READ");
    let reader = stage.send("gens {}/data 0 4096 random");
    stage.await_parked(1);
    let (inval, store) = (stage.begin("inval 0 0"), stage.begin("store 0 4096"));
    assert_eq!(inval.within(WHILE), None);
    assert_eq!(store.within(WHILE), None);
    // A lazy unmount does not wait for them.
    assert!(stage.ask("umount-lazy").starts_with("Ok"));
    stage.abort();
    for pending in [inval, store] {
        assert!(!pending.soon().is_empty());
    }
    // Its page may have come by the STORE, now that the READ holds it no more.
    let found = said(&reader.wait(SOON));
    assert!(found.starts_with("errno") || found == "1x1", "{found}");
    assert_eq!(stage.ask("gone"), "true");
}

/// A LOOKUP that is parked shares the lock of its directory. Whoever wants it alone waits, and then so does everybody.
fn who_wants_to_make_a_name_stops_all_lookups(transport: Transport) {
    let Some(mut stage) = Stage::up("lock-create", transport, "") else {
        return;
    };
    stage.ask("set valid 0"); // names are asked for again each time
    stage.visit("stat {}/n1 ; gens {}/data 0 4096 random");
    stage.ask("park LOOKUP");
    let first = stage.send("stat {}/nslow");
    stage.await_parked(1);
    // Others share it,
    stage.visit("stat {}/n2 ; ls {}");
    let mut maker = stage.send("create {}/n3");
    std::thread::sleep(WHILE);
    assert!(maker.is_running(), "made beside a LOOKUP");
    let mut third = stage.send("stat {}/n4");
    std::thread::sleep(WHILE);
    assert!(third.is_running(), "a LOOKUP behind one who waits alone");
    // but for names the kernel remembers, also when it has to ask for them again.
    stage.ask("reset");
    assert_eq!(stage.visit("gens {}/data 0 4096 random"), "1x1");
    assert!(stage.count("", "LOOKUP") > 0);
    assert_eq!(stage.ask("release"), "1");
    for client in [first, third] {
        said(&client.wait(SOON));
    }
    said(&maker.wait(SOON));
}
