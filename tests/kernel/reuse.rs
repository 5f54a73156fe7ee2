//! The buffer of an answered request is the buffer of the next one (kernel-note 0010).

use crate::machine::Transport;
use crate::on_each_transport;
use crate::stage::Stage;

on_each_transport!(few_buffers_for_many_requests);

fn few_buffers_for_many_requests(transport: Transport) {
    let Some(mut stage) = Stage::up("reuse", transport, "") else {
        return;
    };
    stage.visit("pin 0 ; writes {}/ctl 200");
    let uses: Vec<u64> = stage
        .ask("bodies")
        .trim_matches(['[', ']'])
        .split(", ")
        .map(|n| n.parse().unwrap())
        .collect();
    assert_eq!(uses.iter().sum::<u64>(), 200);
    assert!(uses.len() <= 32, "200 requests in {uses:?}");
}
