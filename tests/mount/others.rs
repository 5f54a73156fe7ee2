//! Users other than the owner of the mount: who may enter and who may watch, what each may take, and links in other hands.
//!
//! Clients begin as root and become somebody else. Where the tests do not run as root, that is said.

use std::time::{Duration, Instant};

use crate::base::Base;
use crate::child::becomes_true;
use crate::commit::Scene;
use crate::machine::{Transport, root_or_lack, zring};
use crate::on_each_transport;
use crate::rig::{Rig, SHORT, zurl};
use crate::visitor::Visitor;

on_each_transport!(
    who_may_enter_and_who_may_watch,
    who_cannot_be_held_responsible_may_not_watch,
    quotas_are_of_each_user,
    who_is_killed_waits,
    requests_have_a_rate,
    root_is_not_signalled_for_what_somebody_else_opened,
    a_link_in_other_hands_is_told_of,
    a_link_in_other_hands_ends_where_that_is_strict,
);

/// A user, and one of another name.
const USER: u32 = 54_001;
const OTHER: u32 = 54_002;
/// A group that nobody is of but who is told.
const GROUP: u32 = 54_003;
/// The block that changes.
const BLK: u64 = 110;

const EPERM: &str = "errno 1";
const EACCES: &str = "errno 13";
const EMFILE: &str = "errno 24";

fn is_there(transport: Transport) -> bool {
    transport.is_there() && root_or_lack("users other than the owner of a mount")
}

/// A process that acts as somebody else, of the group if `is_in`.
fn act(rig: &Rig, scene: &Scene<'_>, user: u32, is_in: bool) -> Visitor {
    let mut client = Visitor::client(rig, &scene.mount.at);
    let group = if is_in {
        format!(" {GROUP}")
    } else {
        String::new()
    };
    client.ask(&format!("become {user} {user}{group}"));
    client
}

/// The same with the file open.
fn client_of(rig: &Rig, scene: &Scene<'_>, user: u32) -> Visitor {
    let mut client = act(rig, scene, user, true);
    client.ask(&format!("open {} 4096", scene.oid()));
    client
}

fn who_may_enter_and_who_may_watch(transport: Transport) {
    if !is_there(transport) {
        return;
    }
    for (access, modes, enters, watches) in [
        (
            "owner",
            "755 555 644 644 444",
            [false, false],
            [false, false],
        ),
        ("all", "555 555 444 660 444", [true, true], [false, false]),
        (
            "group=54003",
            "550 550 440 660 440",
            [false, true],
            [false, true],
        ),
    ] {
        let rig = Rig::new("enter", 60);
        let scene = Scene::watched(&rig, transport, &format!(",access={access}"));
        let file = scene.base.files[0].head();
        let mut owner = Visitor::client(&rig, &scene.mount.at);
        let names = [".", "head", "head/at", "head/watch", file.as_str()];
        let shown = names.map(|name| owner.ask(&format!("stat {name}")));
        let group = if access.starts_with("group") {
            GROUP
        } else {
            0
        };
        for (shown, mode) in shown.iter().zip(modes.split(' ')) {
            assert_eq!(*shown, format!("{mode} 0 {group}"), "{access}");
        }
        assert_eq!(owner.ask("link A"), "linked");
        drop(owner);
        for is_in in [false, true] {
            let (enters, watches) = (enters[usize::from(is_in)], watches[usize::from(is_in)]);
            let mut client = act(&rig, &scene, USER, is_in);
            let said = client.ask(&format!("open {} 4096", scene.oid()));
            let want = if enters { "491520" } else { EACCES };
            assert_eq!(said, want, "{access}, in the group: {is_in}");
            if enters {
                assert_eq!(client.ask(&format!("look {} 3", scene.oid())), "1");
            }
            let want = if watches { "linked" } else { EACCES };
            assert_eq!(
                client.ask("link A"),
                want,
                "{access}, in the group: {is_in}"
            );
        }
        scene.stop();
    }
}

/// A process that the server may not signal, as it is another user's and the server has no right to; and one that it cannot see, as it
/// is outside of the server's own numbers of processes.
fn who_cannot_be_held_responsible_may_not_watch(transport: Transport) {
    if !is_there(transport) {
        return;
    }
    let user = USER.to_string();
    let group = GROUP.to_string();
    for (server, client, why, log) in [
        (
            vec!["setpriv", "--bounding-set", "-kill", "--"],
            vec![
                "setpriv", "--reuid", &user, "--regid", &user, "--groups", &group,
            ],
            "Operation not permitted",
            "its process may not be signalled",
        ),
        (
            vec!["unshare", "--pid", "--fork", "--kill-child", "--"],
            vec!["env"],
            "Input/output error",
            "thread 0: its process cannot be identified",
        ),
    ] {
        let rig = Rig::new("responsible", 60);
        let (at, db) = (rig.path("mnt"), rig.path("Data.fs"));
        Base::create(&db).commit();
        let zurl = zurl(&db);
        std::fs::create_dir_all(&at).unwrap();
        let opts = format!("transport={},access=group={GROUP}", transport.name());
        let mut c = rig.command(server[0]);
        c.args(&server[1..]).arg(zring());
        c.args(["mount", "-f", "-o", &opts, &zurl]).arg(&at);
        let mount = rig.mount_by(&mut c, at, &zurl);
        let mount = mount.unwrap_or_else(|e| panic!("no mount: {e}"));
        let mut c = rig.command(client[0]);
        c.args(&client[1..]).arg("cat");
        let ended = rig.run(c.arg(mount.path("head/watch")), SHORT);
        assert!(ended.err.contains(why), "{ended}: {}", mount.said());
        let told = becomes_true(SHORT, || mount.said().contains(log));
        assert!(told, "{}", mount.said());
        mount.stop();
    }
}

fn quotas_are_of_each_user(transport: Transport) {
    if !is_there(transport) {
        return;
    }
    let rig = Rig::new("quota", 60);
    let options = format!(",access=group={GROUP},watch_per_uid=2+1");
    let mut scene = Scene::watched(&rig, transport, &options);
    let (oid, at) = (scene.oid(), scene.start);
    let watch = |client: &mut Visitor, link: &str| {
        client.ask(&format!("say {link} 1 watch {oid} @{at}"));
        client.ask(&format!("hear {link}"))
    };
    let refused = |user| {
        format!(
            "1 error setup watch f<{oid}> @{at}: user {user} watches 1 files, and may not watch more$"
        )
    };
    // Two processes of one user have what one has.
    let (mut a, mut b) = (client_of(&rig, &scene, USER), client_of(&rig, &scene, USER));
    assert_eq!([a.ask("link A"), b.ask("link A")], ["linked", "linked"]);
    assert_eq!([a.ask("link B"), b.ask("link B")], [EMFILE, EMFILE]);
    assert_eq!(watch(&mut a, "A"), "1 ok$");
    assert_eq!(watch(&mut b, "A"), refused(USER));
    // Another user, and the owner, are not concerned.
    let mut other = client_of(&rig, &scene, OTHER);
    assert_eq!(other.ask("link A"), "linked");
    assert_eq!(watch(&mut other, "A"), "1 ok$");
    let mut owner = scene.client(&rig);
    for n in 0..5 {
        let link = format!("O{n}");
        assert_eq!(owner.ask(&format!("link {link}")), "linked");
        assert_eq!(watch(&mut owner, &link), "1 ok$");
    }
    // What is given back can be had again.
    a.ask("shut A");
    scene.await_counts(7, 6, 0);
    assert_eq!(watch(&mut b, "A"), "1 ok$");
    assert!(becomes_true(SHORT, || b.ask("link B") == "linked"));
    assert_eq!(watch(&mut b, "B"), refused(USER));
    drop((a, b, other));
    scene.stop_after(owner);
}

fn who_is_killed_waits(transport: Transport) {
    if !is_there(transport) {
        return;
    }
    let rig = Rig::new("backoff", 90);
    let options = format!(",access=group={GROUP},pintimeout=20s,pintimeout_others=1.5s");
    let mut scene = Scene::watched(&rig, transport, &options);
    let oid = scene.oid();
    let mut owner = scene.client(&rig);
    owner.ask("link O");
    owner.ask("serve O");
    for (times, wait_s) in [(1, 1), (2, 2)] {
        let at = scene.base.last();
        let mut bad = client_of(&rig, &scene, USER);
        bad.ask("link A");
        bad.ask(&format!("say A 1 watch {oid} @{at}"));
        assert_eq!(bad.ask("hear A"), "1 ok$");
        scene.change(&[BLK], 10 + times);
        scene.begin_read(BLK);
        let began = Instant::now();
        assert_eq!(scene.inside.answer(SHORT), format!("{}x1", 10 + times));
        let took = began.elapsed();
        // Far less than the owner is given.
        assert!(
            took >= Duration::from_millis(1500) && took < Duration::from_secs(4),
            "{took:?}"
        );
        let is_killed = |scene: &mut Scene<'_>| scene.inside.stat("pinkill") == u64::from(times);
        assert!(becomes_true(SHORT, || is_killed(&mut scene)));
        let killed = Instant::now();
        let mut next = client_of(&rig, &scene, USER);
        let mut other = client_of(&rig, &scene, OTHER);
        let at = scene.base.last();
        for client in [&mut next, &mut other] {
            client.ask("link A");
            client.begin(&format!("say A 1 watch {oid} @{at}"));
            client.answer(SHORT);
            client.begin("hear A");
        }
        // Neither another user nor the owner waits with it.
        assert_eq!(other.answer(SHORT), "1 ok$");
        let reply = owner.ask(&format!("ask O {} watch {oid} @{at}", 2 * times + 1));
        assert!(reply.contains(" ok$ "), "{reply}");
        let before = killed.elapsed();
        let early = next.early(Duration::from_millis(100));
        assert!(
            early.is_none() || before > Duration::from_millis(700),
            "{early:?} after {before:?}"
        );
        if early.is_none() {
            assert_eq!(next.answer(SHORT), "1 ok$");
        }
        let waited = killed.elapsed();
        println!("kill {times}: the next watch began after {waited:?}");
        let (least, most) = (wait_s * 1000 - 300, wait_s * 1000 + 3000);
        let waited_ms = u64::try_from(waited.as_millis()).unwrap();
        assert!((least..most).contains(&waited_ms), "{waited:?}");
    }
    scene.stop_after(owner);
}

fn requests_have_a_rate(transport: Transport) {
    if !is_there(transport) {
        return;
    }
    let rig = Rig::new("rate", 60);
    let mut scene = Scene::watched(&rig, transport, &format!(",access=group={GROUP}"));
    let mut took = [scene.client(&rig), client_of(&rig, &scene, USER)].map(|mut client| {
        client.ask("link A");
        client.ask("read A");
        let ms = client.number("flood A 7096");
        // It is served as ever afterwards.
        let reply = client.ask(&format!("ask A 3 watch {} @{}", scene.oid(), scene.start));
        assert!(reply.starts_with("3 ok$"), "{reply}");
        (ms, client)
    });
    let [(owner, _), (user, _)] = &took;
    println!("the owner took {owner} ms, another user {user} ms");
    assert!(*user >= 1500 && owner < user, "{owner} {user}");
    // Who is signalled in it does not wait: a process that is killed is gone.
    let (_, client) = &mut took[1];
    client.begin("flood A 30000");
    assert!(client.early(Duration::from_millis(300)).is_none());
    nix::sys::signal::kill(client.pid(), nix::sys::signal::Signal::SIGKILL).unwrap();
    assert!(client.ended(Duration::from_secs(3)).is_some());
    // Who closes all links and opens another has no new credit.
    scene.await_counts(1, 1, 0);
    let mut client = client_of(&rig, &scene, USER);
    client.ask("link A");
    client.ask("read A");
    let ms = client.number("flood A 2500");
    println!("2500 more of the same user took {ms} ms");
    assert!(ms >= 1200, "{ms}");
    drop(client);
    let [(_, owner), _] = took;
    scene.stop_after(owner);
}

/// It runs another program by then, or was trusted with root anyway: nothing is kept from it.
fn root_is_not_signalled_for_what_somebody_else_opened(transport: Transport) {
    if !is_there(transport) {
        return;
    }
    let rig = Rig::new("again", 60);
    let options = format!(",access=group={GROUP},pintimeout=1.5s");
    let mut scene = Scene::watched(&rig, transport, &options);
    let mut client = client_of(&rig, &scene, USER);
    client.ask("link A");
    client.ask(&format!("say A 1 watch {} @{}", scene.oid(), scene.start));
    assert_eq!(client.ask("hear A"), "1 ok$");
    client.ask("again");
    scene.change(&[BLK], 2);
    scene.begin_read(BLK);
    assert_eq!(scene.inside.answer(SHORT), "2x1");
    // The link is over, the process lives.
    let heard = client.ask("hear A");
    assert!(heard.starts_with("0 fatal: "), "{heard}");
    assert_eq!(client.ended(Duration::from_millis(700)), None);
    assert_eq!(scene.inside.stat("pinkill"), 0);
    scene.stop_after(client);
}

/// A client with a link, and a child in its place.
fn inherited<'r>(rig: &'r Rig, transport: Transport, options: &str) -> (Scene<'r>, Visitor) {
    let mut scene = Scene::watched(rig, transport, options);
    let mut client = scene.client(rig);
    client.ask("link A");
    client.ask(&format!("say A 1 watch {} @{}", scene.oid(), scene.start));
    assert_eq!(client.ask("hear A"), "1 ok$");
    assert_eq!(scene.inside.stat("inherited"), 0);
    client.ask("fork");
    (scene, client)
}

fn a_link_in_other_hands_is_told_of(transport: Transport) {
    if !transport.is_there() {
        return;
    }
    let rig = Rig::new("inherited", 60);
    let (mut scene, mut child) = inherited(&rig, transport, "");
    for n in [3, 5] {
        child.ask(&format!("say A {n} watch {} @{}", scene.oid(), scene.start));
        assert_eq!(child.ask("hear A"), format!("{n} ok$"));
    }
    assert_eq!(scene.inside.stat("inherited"), 1);
    let said = scene.stop_after(child);
    assert_eq!(said.matches("of another process").count(), 1, "{said}");
}

fn a_link_in_other_hands_ends_where_that_is_strict(transport: Transport) {
    if !transport.is_there() {
        return;
    }
    let rig = Rig::new("strict", 60);
    let (mut scene, mut child) = inherited(&rig, transport, ",watch_owner=strict");
    let asks = format!("say A 3 watch {} @{}", scene.oid(), scene.start);
    assert_eq!(child.ask(&asks), EPERM);
    assert_eq!(child.ask("hear A"), EPERM);
    assert_eq!(child.ask(&asks), EPERM);
    scene.await_counts(1, 0, 0);
    assert_eq!(scene.inside.stat("inherited"), 1);
    let said = scene.stop_after(child);
    assert!(
        said.contains("serve rx: used by a process that did not open it"),
        "{said}"
    );
}
