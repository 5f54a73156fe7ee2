//! A writer goes on while head cannot: commits that wait for it are bounded, and none is lost.

use std::time::Duration;

use zring::base::limit::{COMMITS_WAITING_MAX, POLL_COMMITS_MAX};

use crate::child::becomes_true;
use crate::commit::Scene;
use crate::machine::Transport;
use crate::on_each_transport;
use crate::rig::{Rig, SHORT};
use crate::visitor::Visitor;

on_each_transport!(head_waits_for_a_client_and_a_writer_does_not);

/// The block that a READ waits for.
const BLK: u64 = 110;

fn head_waits_for_a_client_and_a_writer_does_not(transport: Transport) {
    const BOUND: u64 = (COMMITS_WAITING_MAX + POLL_COMMITS_MAX) as u64;
    if !transport.is_there() {
        return;
    }
    let rig = Rig::new("queue", 120);
    let mut scene = Scene::watched(&rig, transport, ",pintimeout=15s");
    let (oid, at) = (scene.oid(), scene.start);
    let mut silent = scene.client(&rig);
    silent.ask("link A");
    silent.ask(&format!("say A 1 watch {oid} @{at}"));
    assert_eq!(silent.ask("hear A"), "1 ok$");
    let mut other = Visitor::enter(&rig, &scene.mount.at);
    // A READ that waits for its answer, and a drop that waits for the READ.
    scene.change(&[BLK], 2);
    scene.begin_read(BLK);
    assert!(silent.ask("hear A").contains(" pin "));
    for n in 0..3500 {
        scene.base.set(0, if n == 0 { BLK } else { 3 }, 10 + n);
        scene.base.commit();
    }
    let waiting = |other: &mut Visitor| other.stat("CommitsWaiting");
    let full = COMMITS_WAITING_MAX as u64;
    let fills = becomes_true(SHORT / 3, || waiting(&mut other) >= full);
    assert!(fills, "{} commits wait", waiting(&mut other));
    for _ in 0..20 {
        std::thread::sleep(Duration::from_millis(50));
        let now = waiting(&mut other);
        assert!((full..=BOUND).contains(&now), "{now} commits wait");
    }
    silent.ask("say A 2 ack");
    // As it was when it was asked for, or, where its page was dropped before it was copied, as it is by now.
    let answer = scene.inside.answer(SHORT);
    assert!(["2x1", "10x1"].contains(&answer.as_str()), "{answer}");
    // It moves on, and with it what it sees; or its time is over. Either way all is shown.
    drop(silent);
    other.await_head(scene.base.last());
    assert_eq!(waiting(&mut other), 0);
    let path = scene.base.files[0].head();
    assert_eq!(
        other.ask(&format!("stamps {path} {} 4096", 3 * 4096)),
        "3509x1"
    );
    assert_eq!(
        other.ask(&format!("stamps {path} {} 4096", BLK * 4096)),
        "10x1"
    );
    drop(other);
    scene.stop();
}
