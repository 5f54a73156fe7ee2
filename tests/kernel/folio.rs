//! Pages of the cache: dropping and storing are exact to 4 KiB (kernel-note 0006).

use crate::machine::{Transport, root_or_lack};
use crate::on_each_transport;
use crate::stage::Stage;

on_each_transport!(one_page_of_many);

/// 4 MiB.
const PAGES: usize = 1024;

fn one_page_of_many(transport: Transport) {
    let Some(mut stage) = Stage::up("folio", transport, "") else {
        return;
    };
    if root_or_lack("pages that came by a large readahead") {
        stage.read_ahead_kb(2048);
    }
    for fill in [
        "gens {}/data 0 4194304",
        "touch {}/data 0 4194304 huge",
        "touch {}/data 0 4194304",
    ] {
        exact(&mut stage, |stage| {
            assert_eq!(stage.visit(fill), format!("1x{PAGES}"));
        });
    }
    // The same for pages that were stored.
    exact(&mut stage, |stage| drop(stage.ask("store 0 4194304")));

    // A page that is stored in part, and was not there, is not there afterwards.
    stage.ask("inval 0 0");
    stage.ask("store 100 8192");
    assert_eq!(stage.visit("cached {}/data 4"), "1 without 0,2,3");
    // A page that was there is overwritten in part.
    stage.ask("set generation 1");
    stage.ask("store 0 4096");
    stage.ask("set generation 2");
    stage.ask("store 0 2048");
    assert_eq!(
        stage.visit("cached {}/data 1 ; gens {}/data 0 4096"),
        "1 without  ; badx1"
    );
}

/// Has all pages there in generation 1, drops some, looks for them. Some machines page out with most of their memory free: where the reader
/// asks for more than the three pages that were dropped, it is looked at once more.
fn exact(stage: &mut Stage, fill: impl Fn(&mut Stage)) {
    let reads = ["40960+4096", "3141632+4096", "3145728+4096"];
    let wanted = [
        "1023 without 10",
        "1021 without 10,767,768",
        "1x10 2x1 1x755 ; 1x1 2x2 1x255",
        &reads.join(" "),
    ];
    for left in (0..3).rev() {
        stage.ask("set generation 1");
        stage.ask("inval 0 0");
        fill(stage);
        let seen = dropped(stage);
        let asked: Vec<&str> = seen[3].split(' ').collect();
        let is_paged_out =
            asked.len() > reads.len() && reads.iter().all(|read| asked.contains(read));
        if left == 0 || !is_paged_out {
            assert_eq!(seen, wanted);
            return;
        }
    }
}

/// What is there after a page, and then two bytes on either side of a boundary, are dropped; what a reader gets, and asks for.
fn dropped(stage: &mut Stage) -> [String; 4] {
    stage.ask("set generation 2");
    stage.ask("inval 40960 4096");
    let one = stage.visit("cached {}/data 1024");
    // Two pages.
    stage.ask("inval 3145727 2");
    let three = stage.visit("cached {}/data 1024");
    stage.ask("reset");
    let read = stage.visit("gens {}/data 0 3137536 ; touch {}/data 3137536 1056768 random");
    [one, three, read, stage.ask("reads")]
}
