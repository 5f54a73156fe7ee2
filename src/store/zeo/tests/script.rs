//! Runs as transcripts. `?` is what the server was asked; other lines are what the session tells.

#![allow(clippy::unwrap_used, reason = "tests")]

use super::super::{Broken, Trouble, Why};
use super::world::{World, ms};
use crate::base::limit::{ANSWER_MS, HANDSHAKE_MS, IDLE_MS, PROBE_MS, STORAGE_WAIT_MS};
use crate::wire::zeo::{Arg, Encoding, encode};
use std::collections::BTreeSet;

const BOTH: [Encoding; 2] = [Encoding::Pickle, Encoding::Msgpack];

/// A session that serves a database of two transactions, 10 and 20.
fn serving(encoding: Encoding) -> World {
    let mut world = World::new(encoding);
    world.commit(10, &[(1, Some(b"a")), (2, Some(b"b"))]);
    world.commit(20, &[(2, Some(b"c"))]);
    world.flow();
    assert_eq!(
        world.told(),
        "? register main -\nopened 20\nserving, 0 missed"
    );
    world
}

#[test]
fn loads_and_pushes() {
    for encoding in BOTH {
        let mut world = serving(encoding);
        world.load(2, 20, 1);
        world.load(2, 15, 2);
        world.load(2, 20, 3);
        world.load(2, 5, 4);
        world.load(9, 20, 5);
        world.flow();
        assert_eq!(
            world.told(),
            "? loadBefore @2 @21\n? loadBefore @2 @16\n? loadBefore @2 @6\n? loadBefore @9 @21\n\
             1: c of 20\n3: c of 20\n2: b of 10\n4: NotYet\n5: NoObject"
        );
        world.commit(30, &[(2, None), (1, Some(b"d"))]);
        world.commit(40, &[]);
        world.flow();
        assert_eq!(world.told(), "commit 30 [1, 2]\ncommit 40 []");
        world.load(2, 40, 6);
        world.load(2, 20, 7);
        world.flow();
        assert_eq!(
            world.told(),
            "? loadBefore @2 @41\n? loadBefore @2 @21\n6: NoObject\n7: c of 20"
        );
        // Objects twice in a list, and a transaction told twice.
        world.push(50, &[3, 1, 3]);
        world.push(50, &[3, 1, 3]);
        world.flow();
        assert_eq!(world.told(), "commit 50 [1, 3]");
    }
}

#[test]
fn what_was_missed_is_told_transaction_by_transaction() {
    for encoding in BOTH {
        let mut world = serving(encoding);
        world.load(1, 20, 1);
        world.restart();
        world.commit(30, &[(1, Some(b"x")), (2, None)]);
        world.commit(40, &[]);
        world.commit(50, &[(1, Some(b"y"))]);
        world.reconnect();
        assert_eq!(
            world.told(),
            "lost: the server closed the connection\n? register main -\ncatching up\n\
             ? getInvalidations @20\n? iterator_start @20 @50\n? iterator_next 1\n\
             ? iterator_next 1\n? loadBefore @1 @21\n1: a of 10\n\
             ? iterator_record_start 1 @30\n? iterator_record_next 2\n? iterator_record_next 2\n\
             ? iterator_record_next 2\n? iterator_next 1\n\
             ? iterator_record_start 1 @40\n? iterator_record_next 3\n? iterator_next 1\n\
             ? iterator_record_start 1 @50\n? iterator_record_next 4\n? iterator_record_next 4\n\
             ? iterator_next 1\ncommit 30 [1, 2]\ncommit 40 []\ncommit 50 [1]\nserving, 3 missed"
        );
    }
}

#[test]
fn nothing_missed_is_nothing_to_catch_up_with() {
    let mut world = serving(Encoding::Pickle);
    world.restart();
    world.reconnect();
    assert_eq!(
        world.told(),
        "lost: the server closed the connection\n? register main -\nserving, 0 missed"
    );
}

/// What is pushed while head is not known waits, and is told when it is newer.
#[test]
fn pushes_wait_for_the_end_of_catching_up() {
    let mut world = serving(Encoding::Msgpack);
    world.restart();
    world.commit(30, &[(1, Some(b"x"))]);
    let until = world.session.timeout().unwrap();
    world.wait(until - world.now);
    assert!(world.dial());
    world.arrive(usize::MAX);
    world.depart(usize::MAX);
    world.arrive(usize::MAX);
    // Registered, and asked for the list: these are pushed, and the list has them too.
    world.commit(40, &[(2, Some(b"y"))]);
    world.depart(usize::MAX);
    world.arrive(usize::MAX);
    // The walk is to 40 by now: this one comes after it.
    world.commit(50, &[(1, Some(b"z"))]);
    world.flow();
    let told = world.told();
    let end = "commit 30 [1]\ncommit 40 [2]\nserving, 2 missed\ncommit 50 [1]";
    assert!(told.ends_with(end), "{told}");
}

#[test]
fn a_gap_is_a_reset_and_loads_of_before_fail() {
    for (break_it, why) in [
        (
            (|world: &mut World| world.model.walks = false) as fn(&mut World),
            "the server cannot list its transactions: builtins.AttributeError",
        ),
        (
            |world| world.model.packed = vec![7],
            "a pack removed transactions that were missed",
        ),
        (
            |world| drop(world.model.txns.remove(1)),
            "the server's database does not have transaction 0000000000000014, which head shows",
        ),
    ] {
        let mut world = serving(Encoding::Pickle);
        world.restart();
        world.commit(30, &[(1, Some(b"x"))]);
        break_it(&mut world);
        world.load(1, 20, 1);
        world.reconnect();
        let told = world.told();
        let end = format!("reset 30: {why}\nserving, 0 missed");
        assert!(told.contains(&end), "{told}");
        // It is the same database if its walk begins with what head shows.
        let answer = if why.contains("pack") {
            "1: a of 10"
        } else {
            "1: Moved\nreset"
        };
        assert!(told.contains(answer), "{told}");
        // A walk that was begun is let go of.
        assert_eq!(told.contains("iterator_gc"), told.contains("iterator_next"));
        world.load_of(0, 1, 20, 2);
        world.load_of(1, 1, 30, 3);
        world.flow();
        let told = world.told();
        assert!(told.starts_with("2: Moved\n"), "{told}");
        assert!(told.ends_with("3: x of 30"), "{told}");
        assert!(world.commits.is_empty());
    }
}

#[test]
fn a_list_that_does_not_reach_back_is_made_up_for_by_the_walk() {
    let mut world = serving(Encoding::Pickle);
    world.model.remembers = 2;
    world.restart();
    for n in 0..5 {
        world.commit(30 + n, &[(n, Some(b"x"))]);
    }
    world.reconnect();
    let right: Vec<_> = (0..5).map(|n| (30 + n, vec![n])).collect();
    assert_eq!(world.commits, right);
}

#[test]
fn a_database_that_went_back_is_the_end() {
    let mut world = serving(Encoding::Pickle);
    world.restart();
    world.model.txns.pop();
    world.load(1, 20, 1);
    world.reconnect_once();
    let told = world.told();
    assert!(
        told.contains("1: Moved\nfatal: the database went back"),
        "{told}"
    );
    world.load(1, 10, 2);
    assert_eq!(world.told(), "2: Moved");
    assert!(!world.session.dial(world.now + ms(100_000)));
    assert_eq!(world.session.timeout(), None);
}

#[test]
fn a_load_waits_for_the_next_connection_and_not_for_ever() {
    let mut world = serving(Encoding::Pickle);
    world.restart();
    world.load(1, 20, 1);
    world.wait(ms(STORAGE_WAIT_MS - 1000));
    world.load(1, 20, 2);
    world.wait(ms(1000));
    assert_eq!(
        world.told(),
        "lost: the server closed the connection\n1: Late"
    );
    world.reconnect();
    let told = world.told();
    assert!(told.ends_with("? loadBefore @1 @21\n2: a of 10"), "{told}");
}

#[test]
fn loads_in_flight_are_asked_again() {
    let mut world = serving(Encoding::Pickle);
    for n in 0..10 {
        world.load(n, 20, u32::try_from(n).unwrap());
    }
    world.depart(usize::MAX);
    world.arrive(120);
    let answered = world.done.len();
    assert!((1..10).contains(&answered));
    world.cut(Trouble::Broken(Broken::Silent));
    world.reconnect();
    assert_eq!(world.done.len(), 10);
}

#[test]
fn silence_ends_a_connection() {
    let mut world = serving(Encoding::Pickle);
    world.wait(ms(IDLE_MS));
    world.depart(usize::MAX);
    assert_eq!(world.told(), "? lastTransaction");
    world.flow();
    world.wait(ms(IDLE_MS));
    world.wait(ms(PROBE_MS - 1));
    assert_eq!(world.told(), "");
    world.wait(ms(1));
    assert_eq!(world.told(), "lost: the server has fallen silent");
    world.reconnect();
    world.told();
    // Sooner when somebody waits.
    world.load(1, 20, 1);
    world.depart(usize::MAX);
    assert_eq!(world.told(), "? loadBefore @1 @21");
    world.wait(ms(ANSWER_MS - 1));
    assert_eq!(world.told(), "");
    world.wait(ms(1));
    assert_eq!(world.told(), "lost: the server has fallen silent");
    world.reconnect();
    assert!(world.told().ends_with("1: a of 10"));
}

#[test]
fn a_handshake_that_stalls_is_given_up() {
    for step in 0..2 {
        let mut world = World::new(Encoding::Pickle);
        assert!(world.dial());
        if step == 1 {
            world.arrive(usize::MAX);
        }
        world.wait(ms(HANDSHAKE_MS - 1));
        assert_eq!(world.told(), "");
        world.wait(ms(1));
        assert_eq!(world.told(), "lost: the server does not answer");
    }
}

#[test]
fn attempts_are_spread_and_not_longer_apart_than_the_longest() {
    let mut world = World::new(Encoding::Pickle);
    let mut pauses = Vec::new();
    for _ in 0..30 {
        assert!(world.session.dial(world.now));
        world
            .session
            .lost(world.now, Trouble::Broken(Broken::Closed));
        let until = world.session.timeout().unwrap();
        assert!(!world.session.dial(until - ms(1)));
        pauses.push((until - world.now).as_millis());
        world.wait(until - world.now);
    }
    for (n, &pause) in pauses.iter().enumerate() {
        let most = (50u128 << n.min(20)).min(5000);
        assert!((most / 2..=most).contains(&pause), "{pauses:?}");
    }
    let late: BTreeSet<_> = pauses[10..].iter().collect();
    assert!(late.len() > 15, "{pauses:?}");
    // One that lasted begins anew.
    world.flow();
    world.wait(ms(20_000));
    world.cut(Trouble::Broken(Broken::Closed));
    let pause = world.session.timeout().unwrap() - world.now;
    assert!(pause <= ms(50), "{pause:?}: {}", world.told());
}

#[test]
fn what_no_sound_server_sends_costs_a_connection() {
    let number = |n| [Arg::Int(n), Arg::Int(0), Arg::Text(".reply"), Arg::None];
    let later = 99u64.to_be_bytes();
    let future = [Arg::Bytes(b"data"), Arg::Bytes(&later), Arg::None];
    for (bytes, told) in [
        (
            b"\xff\xff\xff\xff".to_vec(),
            "lost: the server sends no sound messages",
        ),
        (b"\0\0\0\x03abc".to_vec(), "lost: a message cannot be read"),
        (message(&number(77)), "lost: the server replies to call 77"),
        (message(&number(1)), "lost: the server replies to call 1,"),
        (
            message(&[
                Arg::Int(2),
                Arg::Int(0),
                Arg::Text(".reply"),
                Arg::Tuple(&future),
            ]),
            "lost: the server gives object 0000000000000001 of transaction",
        ),
        (
            message(&[
                Arg::Int(2),
                Arg::Int(0),
                Arg::Text(".reply"),
                Arg::Bytes(b"no tuple"),
            ]),
            "lost: the result of loadBefore has another form",
        ),
    ] {
        let mut world = serving(Encoding::Pickle);
        world.load(1, 20, 1);
        world.down.extend(bytes);
        world.arrive(usize::MAX);
        let said = world.told();
        assert!(said.starts_with(told), "{said}");
        world.reconnect();
        let told = world.told();
        assert!(told.ends_with("1: a of 10"), "{said}\n{told}");
    }
    // Back in time, within a connection.
    let mut world = serving(Encoding::Pickle);
    world.push(15, &[1]);
    world.flow();
    assert!(
        world
            .told()
            .starts_with("lost: the server pushes transaction")
    );
}

fn message(parts: &[Arg<'_>; 4]) -> Vec<u8> {
    let mut out = Vec::new();
    encode(Encoding::Pickle, parts, &mut out);
    out
}

#[test]
fn a_record_that_is_too_large_fails_its_load_alone() {
    for encoding in BOTH {
        let mut world = World::new(encoding);
        // Larger than a record, and larger than a message.
        let (large, huge) = (vec![b'x'; 1001], vec![b'x'; 70_000]);
        world.commit(10, &[(1, Some(&large)), (2, Some(&huge)), (3, Some(b"c"))]);
        world.flow();
        world.told();
        for n in 1..=3 {
            world.load(n, 10, u32::try_from(n).unwrap());
        }
        world.depart(usize::MAX);
        world.told();
        while !world.down.is_empty() {
            world.arrive(999);
        }
        let told = world.told();
        assert!(told.starts_with("1: TooBig(1001)\n2: TooBig(70"), "{told}");
        assert!(told.ends_with("\n3: c of 10"), "{told}");
    }
}

#[test]
fn a_storage_that_is_refused_is_told() {
    let mut world = World::new(Encoding::Pickle);
    assert!(world.dial());
    world.arrive(usize::MAX);
    world.refuse(1, "builtins.ValueError");
    world.arrive(usize::MAX);
    let told = world.told();
    assert_eq!(told, "lost: the server refuses: builtins.ValueError");
}

#[test]
fn the_end_answers_everybody() {
    let mut world = serving(Encoding::Pickle);
    world.load(1, 20, 1);
    world.depart(usize::MAX);
    world.load(2, 20, 2);
    world.session.end(Why::Closed);
    world.load(1, 20, 3);
    let mut told: Vec<_> = world.told().lines().map(str::to_owned).collect();
    told.sort();
    assert_eq!(told[..3], ["1: Closed", "2: Closed", "3: Closed"]);
    assert_eq!(world.session.timeout(), None);
}

/// A server keeps what its client has not read: it is not asked for more than a bound.
#[test]
fn so_many_loads_are_under_way_as_their_replies_allow() {
    let mut world = World::new(Encoding::Pickle);
    let data = vec![b'x'; 900];
    world.commit(10, &[(0, Some(&data))]);
    world.flow();
    world.told();
    for n in 0..5000 {
        world.load(n, 10, u32::try_from(n).unwrap());
    }
    world.depart(usize::MAX);
    let asked = world.told().lines().count();
    assert_eq!(asked, crate::base::limit::ZEO_LOADS_UNDER_WAY);
    world.flow();
    assert_eq!(world.done.len(), 5000);
}
