//! What an unmount asks of the daemon that serves the mount: nothing (kernel-note 0012).

use crate::machine::{Changed, DevFuseForAll, Transport, lack, on_path, root_or_lack};
use crate::on_each_transport;
use crate::rig::Rig;
use crate::stage::{SOON, Stage, said};

on_each_transport!(an_idle_mount, a_busy_mount, a_mount_of_an_ordinary_user);

fn an_idle_mount(transport: Transport) {
    let Some(mut stage) = Stage::up("unmount", transport, "") else {
        return;
    };
    stage.visit("stat {}/data ; gens {}/data 0 1048576 ; touch {}/data 0 4096");
    stage.ask("inval-attr");
    stage.settle();
    stage.ask("reset");
    let done = stage.ask("umount");
    assert!(done.starts_with("Ok"), "{done}");
    assert_eq!(stage.ask("gone"), "true");
    assert_eq!(stage.ask("counts"), "", "requests of an unmount");
    assert!(stage.rig.mount_lines(&stage.at).is_empty());
}

fn a_busy_mount(transport: Transport) {
    let Some(mut stage) = Stage::up("unmount-busy", transport, "") else {
        return;
    };
    stage.visit("stat {}/data");
    stage.ask("park ALL");
    let reader = stage.send("gens {}/data 0 4096 random");
    stage.await_parked(1);
    stage.ask("inval-attr");
    stage.ask("reset");
    // The server has a READ to answer, so these would hang if they asked it for anything.
    let refused = stage.ask("umount");
    assert!(refused.starts_with("Err(EBUSY)"), "{refused}");
    let done = stage.ask("umount-lazy");
    assert!(done.starts_with("Ok"), "{done}");
    assert_eq!(stage.ask("counts"), "", "requests of an unmount");
    assert!(stage.rig.mount_lines(&stage.at).is_empty());
    // Out of sight it goes on until its last user is done.
    stage.ask("release");
    assert_eq!(said(&reader.wait(SOON)), "1x1");
    assert_eq!(stage.ask("gone"), "true");
    assert_eq!(stage.count("", "DESTROY"), 0);
}

/// There `fusermount3` unmounts, a child of the server. It must not enter the mount either.
fn a_mount_of_an_ordinary_user(transport: Transport) {
    if !transport.is_there() || !root_or_lack("unmounting as an ordinary user") {
        return;
    }
    if !on_path("fusermount3") || !on_path("setpriv") {
        return lack("unmounting as an ordinary user: no fusermount3 or no setpriv");
    }
    if Changed::io_uring_is_for_root() && transport != Transport::Plain {
        return lack("transports uring and dev for ordinary users: kernel.io_uring_disabled is 1");
    }
    let _open = DevFuseForAll::open();
    let mut stage = Stage::up_as_nobody(Rig::alone("unmount-user", 60), transport);
    stage.visit("stat {}/data ; gens {}/data 0 4096 random");
    stage.settle();
    stage.ask("inval-attr");
    stage.ask("park ALL");
    stage.ask("reset");
    let reader = stage.send("gens {}/data 40960 4096 random");
    stage.await_parked(1);
    stage.ask("reset");
    let refused = stage.ask("umount");
    assert!(refused.starts_with("Err(EBUSY)"), "{refused}");
    let done = stage.ask("umount-lazy");
    assert!(done.starts_with("Ok"), "{done}");
    assert_eq!(stage.ask("counts"), "", "requests of an unmount");
    assert!(stage.rig.mount_lines(&stage.at).is_empty());
    stage.ask("release");
    assert_eq!(said(&reader.wait(SOON)), "1x1");
    assert_eq!(stage.ask("gone"), "true");
}
