//! What a RETRIEVE may ask for (kernel-note 0001), and where its answer comes.
//!
//! The fatal length is never sent. What is shown is that the type of a length cannot hold it, and that the longest one
//! it can hold comes back whole.

use zring::base::{NodeId, limit};
use zring::wire::fuse::notify::{Head, RetrieveId, RetrieveLen};

use crate::machine::Transport;
use crate::on_each_transport;
use crate::stage::Stage;

on_each_transport!(pages_have_no_answer, the_longest_retrieve);

/// Bytes of the ring's payload buffers.
fn payload() -> u32 {
    u32::try_from(limit::PAYLOAD_BYTES).unwrap()
}

/// The size in the message itself, which is all the kernel sees.
fn asked(head: &Head) -> u32 {
    u32::from_ne_bytes(head.as_bytes()[40..44].try_into().unwrap())
}

#[test]
fn no_length_reaches_the_payload_less_a_page() {
    let mut wants: Vec<u64> = (0..64).map(|bit| 1 << bit).collect();
    wants.extend(wants.clone().iter().map(|w| w - 1));
    wants.extend((0..10_000).map(|n| n * 131_071));
    wants.push(u64::MAX);
    for want in wants {
        let len = RetrieveLen::clamp(want, payload());
        assert!(len <= RetrieveLen::max(payload()));
        let head = Head::retrieve(RetrieveId(1), NodeId(2), 0, len);
        assert!(asked(&head) <= payload() - 4096, "{want}");
        assert!(u64::from(asked(&head)) <= want);
    }
    assert_eq!(RetrieveLen::max(payload()).bytes(), payload() - 4096);
}

/// Kernel-note 0026.
fn pages_have_no_answer(transport: Transport) {
    let Some(mut stage) = Stage::up("unanswered", transport, "") else {
        return;
    };
    assert_eq!(stage.visit("gens {}/data 0 16384"), "1x4");
    let unknown = std::io::Error::from_raw_os_error(libc::ENOENT).to_string();
    assert_eq!(stage.ask("retrieve-answer 0 16384"), unknown);
    // Nothing else waits for it either.
    assert!(stage.ask("retrieve 0 16384").ends_with(" 0+16384 1x4"));
    assert!(stage.ask("inval 0 16384").starts_with("Done"));
    assert_eq!(stage.visit("gens {}/data 0 16384"), "1x4");
}

fn the_longest_retrieve(transport: Transport) {
    let Some(mut stage) = Stage::up("retrieve", transport, "") else {
        return;
    };
    assert_eq!(stage.visit("gens {}/data 0 4194304"), "1x1024");
    let channel = match transport {
        Transport::Uring => "ring",
        _ => "dev",
    };
    let pages = (payload() - 4096) / 4096;
    let len = payload() - 4096;
    let whole = format!("{channel} 0+{len} 1x{pages}");
    assert_eq!(stage.ask("retrieve 0 4194304"), whole);
    // It takes consecutive cached pages only, and always answers.
    stage.ask("inval 8192 4096");
    assert_eq!(
        stage.ask("retrieve 0 4194304"),
        format!("{channel} 0+8192 1x2")
    );
    assert_eq!(
        stage.ask("retrieve 8192 4096"),
        format!("{channel} 8192+0 ")
    );
    assert_eq!(
        stage.ask("retrieve 67108864 4096"),
        format!("{channel} 67108864+0 ")
    );
}
