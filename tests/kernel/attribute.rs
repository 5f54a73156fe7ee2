//! What a change of size or mtime does to cached pages, and what it costs to ask (kernel-note 0007).

use crate::machine::Transport;
use crate::stage::Stage;

/// Cached pages after each change, and GETATTRs for a hundred cached reads.
#[derive(Debug, PartialEq, Eq)]
struct Kept {
    mtime: String,
    grown: String,
    cut: String,
    asked: bool,
}

fn kept(bends: &str) -> Option<Kept> {
    let mut stage = Stage::up("attribute", Transport::Plain, bends)?;
    let mut after = |what: &str, value: u64| {
        for (name, value) in [("size", 64 << 20), ("mtime", 1_000_000)] {
            stage.ask(&format!("set {name} {value}"));
        }
        stage.ask("inval 0 0");
        stage.visit("stat {}/data ; gens {}/data 0 65536");
        stage.ask(&format!("set {what} {value}"));
        stage.ask("inval-attr");
        let found = stage.visit("stat {}/data ; cached {}/data 16");
        found.split(" ; ").nth(1).unwrap().to_owned()
    };
    let (mtime, grown, cut) = (
        after("mtime", 2_000_000),
        after("size", 65 << 20),
        after("size", 40960),
    );
    stage.ask("set size 67108864");
    stage.ask("set valid 0");
    stage.ask("inval-attr");
    stage.visit("stat {}/data ; gens {}/data 0 4096");
    stage.ask("reset");
    stage.visit("again {}/data 100");
    let getattrs = stage.count("", "GETATTR");
    assert_eq!(stage.count("", "READ"), 0);
    Some(Kept {
        mtime,
        grown,
        cut,
        asked: getattrs >= 100,
    })
}

const ALL: &str = "16 without ";
const NONE: &str = "0 without 0,1,2,3,4,5,6,7";

#[test]
fn explicit_invalidation_keeps_what_is_cached() {
    if let Some(kept) = kept("") {
        let cut = "10 without ";
        assert_eq!(
            kept,
            Kept {
                mtime: ALL.into(),
                grown: ALL.into(),
                cut: cut.into(),
                asked: false
            }
        );
    }
}

#[test]
fn without_it_a_new_size_drops_the_file() {
    if let Some(kept) = kept("inval=none") {
        assert_eq!(
            kept,
            Kept {
                mtime: ALL.into(),
                grown: NONE.into(),
                cut: NONE.into(),
                asked: false
            }
        );
    }
}

#[test]
fn automatic_invalidation_drops_more_and_asks_at_each_read() {
    if let Some(kept) = kept("inval=auto") {
        assert_eq!(
            kept,
            Kept {
                mtime: NONE.into(),
                grown: NONE.into(),
                cut: NONE.into(),
                asked: true
            }
        );
    }
}
