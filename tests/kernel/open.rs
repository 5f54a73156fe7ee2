//! What an OPEN does to cached pages (kernel-note 0013).

use zring::wire::fuse::abi::fopen;

use crate::machine::Transport;
use crate::on_each_transport;
use crate::stage::Stage;

on_each_transport!(open_keeps_or_drops);

fn open_keeps_or_drops(transport: Transport) {
    let Some(mut stage) = Stage::up("open", transport, "") else {
        return;
    };
    stage.visit("gens {}/data 0 65536");
    assert_eq!(
        stage.visit("open {}/data ; cached {}/data 16"),
        "open ; 16 without "
    );
    stage.ask(&format!("set open {}", fopen::NOFLUSH));
    assert_eq!(
        stage.visit("open {}/data ; cached {}/data 16"),
        "open ; 0 without 0,1,2,3,4,5,6,7"
    );
    // A mapping of another open file sees its pages dropped and read again.
    stage.ask(&format!("set open {}", fopen::NOFLUSH | fopen::KEEP_CACHE));
    stage.visit("gens {}/data 0 65536");
    stage.ask("reset");
    stage.visit("gens {}/data 0 65536");
    assert_eq!(stage.count("", "READ"), 0);
    stage.ask(&format!("set open {}", fopen::NOFLUSH));
    stage.visit("gens {}/data 0 65536");
    assert_eq!(stage.count("", "READ"), 1);
}
