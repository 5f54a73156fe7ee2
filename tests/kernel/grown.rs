//! A new size that the kernel is told of and does not take (kernel-note 0020).

use std::os::unix::process::ExitStatusExt;

use crate::machine::Transport;
use crate::on_each_transport;
use crate::stage::{SOON, Stage};

on_each_transport!(a_size_that_something_overtook_is_told_and_not_taken);

/// The answer to a GETATTR brings a larger size. Whatever expired meanwhile, the caller is told of it; the kernel takes it only if nothing did.
/// A page fault asks for no size: behind the end that the kernel has it is SIGBUS, until somebody else asks.
fn a_size_that_something_overtook_is_told_and_not_taken(transport: Transport) {
    let Some(mut stage) = Stage::up("grown", transport, "") else {
        return;
    };
    for (expires, believed) in [
        (None, 65536),
        (Some("inval 0 4096"), 8192),
        (Some("inval-attr"), 8192),
    ] {
        stage.ask("set size 8192");
        stage.ask("inval-attr");
        assert_eq!(stage.visit("stat {}/data"), "size 8192 mtime 1000000");
        stage.ask("set size 65536");
        stage.ask("inval-attr");
        stage.ask("park GETATTR");
        let reader = stage.send("grown {}/data 65536 12288");
        stage.await_parked(1);
        if let Some(expires) = expires {
            stage.ask(expires);
        }
        stage.ask("release");
        let ended = reader.wait(SOON);
        let mut said = ended.out.lines().filter_map(|l| l.strip_prefix("> "));
        let told = format!("size 65536 believed {believed}");
        assert_eq!(said.next(), Some(&*told), "{expires:?}: {ended}");
        let signal = ended.status.and_then(|status| status.signal());
        if believed == 65536 {
            assert_eq!((said.next(), signal), (Some("1x1"), None), "{ended}");
        } else {
            assert_eq!((said.next(), signal), (None, Some(libc::SIGBUS)), "{ended}");
        }
        // Whoever asks while nothing expires, asks for all.
        assert_eq!(stage.visit("stat {}/data"), "size 65536 mtime 1000000");
        let told = "size 65536 believed 65536";
        assert_eq!(stage.visit("grown {}/data 65536 12288"), told);
    }
}
