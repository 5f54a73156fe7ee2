//! Descriptors with O_DIRECT. What they read goes past the page cache; what is mapped of them does not, and the server cannot tell.

use zring::zodb::write::Leaf;

use crate::commit::Scene;
use crate::machine::Transport;
use crate::on_each_transport;
use crate::rig::Rig;

on_each_transport!(a_mapping_is_pinned_as_any_other, what_is_read_is_not_met);

fn a_mapping_is_pinned_as_any_other(transport: Transport) {
    if !transport.is_there() {
        return;
    }
    let rig = Rig::new("direct", 60);
    let mut scene = Scene::watched(&rig, transport, "");
    let (oid, start) = (scene.oid(), scene.start);
    let mut client = scene.client(&rig);
    client.ask("link A");
    client.ask(&format!("pread {oid} 110"));
    client.ask("serve A");
    let reply = client.ask(&format!("ask A 1 watch {oid} @{start}"));
    assert!(reply.starts_with("1 ok$"), "{reply}");
    scene.change(&[110], 2);
    let path = scene.base.files[0].head();
    let blksize = scene.base.files[0].blksize;
    let mut others = crate::visitor::Visitor::enter(&rig, &scene.mount.at);
    let seen = others.ask(&format!("direct {path} {} 4096", 110 * blksize));
    assert_eq!(seen, "2x1");
    let heard = client.ask("heard A");
    let pin = format!("pin {oid} #110 @{start}$");
    assert_eq!(heard.split_once(' ').map(|(_, pin)| pin), Some(&*pin));
    assert_eq!(client.ask(&format!("look {oid} 110")), "1");
    others.ended(std::time::Duration::ZERO);
    scene.stop_after(client);
}

/// Nobody is told to store the rest of a block whose reader wants none of it cached.
fn what_is_read_is_not_met(transport: Transport) {
    if !transport.is_there() {
        return;
    }
    const BLOCK: u64 = 2 << 20;
    let rig = Rig::new("direct read", 60);
    let mut scene = Scene::new(&rig, transport, |base| {
        let file = base.file(BLOCK, Leaf::Blk0);
        base.set(file, 0, 1);
    });
    let path = scene.base.files[0].head();
    for n in 0..12 {
        let hex = scene
            .mount
            .probe(&[&format!("direct {path} {} {}", n * 131_072, 131_072)]);
        assert_eq!(hex[0].len(), "ok ".len() + 2 * 131_072);
    }
    std::thread::sleep(std::time::Duration::from_millis(100));
    let cached = scene.inside.pages(&format!("cached {path}"));
    assert_eq!(cached.iter().sum::<u32>(), 0, "{cached:?}");
    scene.stop();
}
