//! Which pages a RETRIEVE gives back, and what is in pages behind the end of a file (kernel-note 0015).

use crate::machine::Transport;
use crate::on_each_transport;
use crate::stage::{SOON, Stage};

on_each_transport!(
    pages_behind_a_short_answer_are_zeros_and_stay,
    a_short_answer_is_the_end_unless_something_expired_meanwhile,
    who_asks_for_the_size_makes_the_end_before_he_waits,
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

/// A READ behind the new end is under way when somebody asks for the size. He waits for it, as its page has to go; but the end is there
/// already: others make no READ behind it, and who waits for the READ finds the end whatever it brings (kernel-note 0019).
fn who_asks_for_the_size_makes_the_end_before_he_waits(transport: Transport) {
    let Some(mut stage) = Stage::up("asks", transport, "") else {
        return;
    };
    assert_eq!(stage.visit("stat {}/data"), "size 67108864 mtime 1000000");
    stage.ask("reset");
    stage.ask("park READ");
    let reader = stage.send("gens {}/data 12288 4096 random");
    stage.await_parked(1);
    stage.ask("set size 8192");
    stage.ask("inval-attr");
    let asker = stage.send("stat {}/data");
    while stage.count("", "GETATTR") == 0 {
        std::thread::yield_now();
    }
    let others = stage.visit("gens {}/data 16384 4096 random");
    assert_eq!(others, "", "another reader");
    assert_eq!(stage.count("", "READ"), 1);
    // As from a view in which the file is longer.
    stage.ask("set size 67108864");
    stage.ask("release");
    let found = |said: &str| {
        said.lines()
            .find_map(|l| l.strip_prefix("> ").map(str::to_owned))
    };
    assert_eq!(found(&reader.wait(SOON).out).as_deref(), Some(""));
    let size = found(&asker.wait(SOON).out);
    assert_eq!(size.as_deref(), Some("size 8192 mtime 1000000"));
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
