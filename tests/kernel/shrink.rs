//! Which pages a RETRIEVE gives back, and what is in pages behind the end of a file (kernel-note 0015).

use crate::machine::Transport;
use crate::on_each_transport;
use crate::stage::{SOON, Stage};

on_each_transport!(
    pages_behind_a_short_answer_are_zeros_and_stay,
    a_short_answer_is_the_end_unless_something_expired_meanwhile,
    what_is_being_read_is_not_given_back,
);

/// The file has become shorter, and the kernel does not know: what a READ does not bring is zeros, in pages that count as filled. When
/// the file is longer again they are still there.
fn pages_behind_a_short_answer_are_zeros_and_stay(transport: Transport) {
    let Some(mut stage) = Stage::up("shrink", transport, "") else {
        return;
    };
    assert_eq!(stage.visit("stat {}/data"), "size 67108864 mtime 1000000");
    stage.ask("set size 8192");
    let short = "a READ of 16 pages that brings 2";
    assert_eq!(stage.visit("gens {}/data 0 65536"), "1x2", "{short}");
    // The kernel takes the end for the end of the file, and shows nothing behind it,
    assert_eq!(stage.visit("cached {}/data 16"), "2 without ", "{short}");
    assert!(stage.ask("retrieve 0 65536").ends_with("0+8192 1x2"));
    // until it is longer again: only its attributes expired.
    stage.ask("set size 65536");
    stage.ask("set generation 2");
    stage.ask("inval-attr");
    assert_eq!(stage.visit("stat {}/data"), "size 65536 mtime 1000000");
    assert_eq!(stage.visit("cached {}/data 16"), "16 without ");
    stage.ask("reset");
    assert_eq!(stage.visit("gens {}/data 0 65536"), "1x2 badx14");
    assert_eq!(stage.count("", "READ"), 0);
    let given_back = stage.ask("retrieve 0 65536");
    assert!(given_back.ends_with("0+65536 1x2 badx14"), "{given_back}");
    stage.ask("inval 8192 57344");
    assert_eq!(stage.visit("gens {}/data 0 65536"), "1x2 2x14");
}

/// A READ behind the new end that the kernel does not know of is answered with nothing. It takes that for the end of the file, and shows
/// the reader nothing, unless any page or the attributes of the file expired while the READ was under way: then it keeps its old size,
/// and shows zeros (kernel-note 0019).
fn a_short_answer_is_the_end_unless_something_expired_meanwhile(transport: Transport) {
    let Some(mut stage) = Stage::up("end", transport, "") else {
        return;
    };
    assert_eq!(stage.visit("stat {}/data"), "size 67108864 mtime 1000000");
    // Each time another page: one that was shown as zeros stays.
    for (expires, off, shown) in [
        (None, 8192, ""),
        (Some("inval 0 4096"), 12288, "badx1"),
        (Some("inval-attr"), 16384, "badx1"),
    ] {
        stage.ask("set size 67108864");
        stage.ask("inval-attr");
        stage.visit("stat {}/data");
        stage.ask("set size 8192");
        stage.ask("park READ");
        let reader = stage.send(&format!("gens {{}}/data {off} 4096 random"));
        stage.await_parked(1);
        if let Some(expires) = expires {
            stage.ask(expires);
        }
        stage.ask("release");
        let said = reader.wait(SOON).out;
        let found = said.lines().find_map(|line| line.strip_prefix("> "));
        assert_eq!(found, Some(shown), "{expires:?}: {said}");
    }
}

/// The first READ of a mount as a probe: its pages are there, locked, and nobody has filled them.
fn what_is_being_read_is_not_given_back(transport: Transport) {
    let Some(mut stage) = Stage::up("unfilled", transport, "") else {
        return;
    };
    for (advice, after) in [("random", "0+16384 1x4"), ("direct", "0+0 ")] {
        stage.ask("park READ");
        let reader = stage.send(&format!("gens {{}}/data 0 16384 {advice}"));
        stage.await_parked(1);
        let told = stage.ask("retrieve 0 16384");
        assert!(told.ends_with("0+0 "), "{advice}: {told}");
        stage.ask("release");
        reader.wait(SOON);
        // Past the page cache nothing is ever in it: such a READ says nothing of the kernel.
        let told = stage.ask("retrieve 0 16384");
        assert!(told.ends_with(after), "{advice}: {told}");
        stage.ask("inval 0 0");
    }
    // A page that is there, and one that is being read beside it.
    stage.visit("gens {}/data 0 4096 random");
    stage.ask("park READ");
    let reader = stage.send("gens {}/data 4096 4096 random");
    stage.await_parked(1);
    let told = stage.ask("retrieve 0 16384");
    assert!(told.ends_with("0+4096 1x1"), "{told}");
    stage.ask("release");
    reader.wait(SOON);
}
