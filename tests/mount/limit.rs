//! What the server that zring replaces does not do, by the numbers of its list (`tests/serve/limit.rs` has the table).

use std::time::Duration;

use zring::base::BlkSize;
use zring::zodb::Family;
use zring::zodb::write::{self, Leaf};

use crate::commit::Scene;
use crate::machine::Transport;
use crate::on_each_transport;
use crate::rig::{Rig, SHORT};
use crate::visitor::Visitor;

on_each_transport!(
    l04_a_file_that_is_another_one_concerns_its_clients_alone,
    l10_a_client_need_not_look_at_head,
);

/// There the server ends.
fn l04_a_file_that_is_another_one_concerns_its_clients_alone(transport: Transport) {
    if !transport.is_there() {
        return;
    }
    let rig = Rig::new("l04", 60);
    let mut scene = Scene::with(&rig, transport, ",pintimeout=6s", |base| {
        for _ in 0..2 {
            let file = base.file(4096, Leaf::Blk0);
            (0..4).for_each(|blk| base.set(file, blk, 1));
        }
    });
    let oids = [0, 1].map(|file| scene.base.files[file].oid);
    let paths = [0, 1].map(|file| scene.base.files[file].head());
    let at = scene.start;
    let mut clients = oids.map(|oid| {
        let mut client = Visitor::client(&rig, &scene.mount.at);
        client.ask(&format!("open {oid} 4096"));
        assert_eq!(client.number(&format!("look {oid} 0")), 1);
        client.ask("link G");
        client.ask("serve G");
        let reply = client.ask(&format!("ask G 1 watch {oid} @{at}"));
        assert!(reply.starts_with("1 ok$ "), "{reply}");
        client
    });
    scene.inside.ask(&format!("hold {}", paths[0]));
    // The first file gets another table and another size of blocks.
    let table = scene.base.fresh();
    let oid = oids[0];
    scene.base.put(table, write::small_tree(Family::Lo, &[]));
    scene.base.put(oid, write::bigfile(BlkSize(8192), table));
    scene.base.set(1, 2, 2);
    let last = scene.commit();
    // Who watches it can be shown no more what it sees; who has it open gets errors, and a name leads to what it is now.
    assert!(clients[0].ended(Duration::from_secs(3)).is_some());
    let held = scene.inside.ask(&format!("stamps {} 0 4096", paths[0]));
    assert_eq!(held, format!("errno {}", libc::EIO));
    scene.inside.ask(&format!("let {}", paths[0]));
    assert_eq!(scene.inside.number(&format!("size {}", paths[0])), 0);
    // The client of the other one sees what it did, and goes on.
    let oid = oids[1];
    let client = &mut clients[1];
    assert_eq!(client.number(&format!("look {oid} 2")), 1);
    let reply = client.ask(&format!("ask G 3 watch {oid} @{last}"));
    assert!(reply.starts_with("3 ok$ "), "{reply}");
    assert_eq!(client.number(&format!("look {oid} 2")), 2);
    let [_, client] = clients;
    scene.stop_after(client);
}

/// There it polls `head/at` until that shows its transaction, and asks for the size then.
fn l10_a_client_need_not_look_at_head(transport: Transport) {
    if !transport.is_there() {
        return;
    }
    let rig = Rig::new("l10", 60);
    let mut scene = Scene::watched(&rig, transport, "");
    let oid = scene.oid();
    let mut client = scene.client(&rig);
    client.ask("link A");
    // What its transaction will be is known to who commits it before head shows it.
    let blocks = scene.base.files[0].size() / 4096;
    scene.base.set(0, blocks + 2, 2);
    let next = scene.base.next();
    client.ask(&format!("say A 1 watch {oid} @{next} +size"));
    client.begin("hear A");
    assert_eq!(client.early(Duration::from_millis(300)), None);
    assert_eq!(scene.base.commit(), next);
    let size = (blocks + 3) * 4096;
    assert_eq!(client.answer(SHORT), format!("1 ok {size}$"));
    // That is as good as having looked: head is there, and so is the block.
    assert_eq!(client.ask(&format!("open {oid} 4096")), size.to_string());
    assert_eq!(client.number(&format!("look {oid} {}", blocks + 2)), 2);
    scene.stop_after(client);
}
