//! The room as a whole, against the slow, obvious twin.
#![allow(clippy::unwrap_used, reason = "tests")]

use super::testing::{Dir, Rng, SMALL, Says, Shape, Twin, commit, database, open};
use super::window::ReadAt;
use super::*;
use crate::base::{Oid, Tid};
use crate::store::LoadError;
use crate::wire::fs1::Fault;
use std::cell::Cell;
use std::collections::BTreeMap;
use std::io;

const T1: Tid = Tid(0x03d4_dc00_0888_8888);
const T2: Tid = Tid(0x03d4_dc00_0ccc_cccc);
const T3: Tid = Tid(0x03d4_dc00_1111_1111);
const T4: Tid = Tid(0x03d4_dc00_1555_5555);
const T5: Tid = Tid(0x03d4_dc00_1999_9999);
/// An empty tree and one of a single entry, as pickled.
const EMPTY: &[u8] = b"\x80\x03cBTrees.LOB\nLOB\nq\x00.\x80\x03N."; // 30 bytes: see `worked`
const ONE: &[u8] =
    b"\x80\x03cBTrees\nLOBTree\nq\x00.\x80\x03K\x01K\x07\x86q\x01\x85q\x02\x85q\x03\x85q\x04.";

/// The file that the format is explained with: five transactions, 737 bytes.
fn worked(dir: &Dir) -> FileWriter {
    let mut w = FileWriter::create(&dir.path()).unwrap();
    fn note<'n>(user: &'n [u8], description: &'n [u8]) -> Note<'n> {
        Note {
            user,
            description,
            extension: b"",
        }
    }
    let mut txn = w
        .begin(T1, note(b"", b"initial database creation"))
        .unwrap();
    txn.store(Oid(0), &[b'r'; 0x40]).unwrap();
    txn.commit().unwrap();
    let mut txn = w.begin(T2, note(b"/ u", b"create t")).unwrap();
    txn.store(Oid(0), &[b'R'; 0x73]).unwrap();
    txn.store(Oid(1), &tree(EMPTY, 0x21)).unwrap();
    txn.commit().unwrap();
    let mut txn = w.begin(T3, note(b"", b"set")).unwrap();
    txn.store(Oid(1), &tree(ONE, 0x30)).unwrap();
    txn.commit().unwrap();
    let mut txn = w.begin(T4, note(b"", b"undo set")).unwrap();
    txn.undo(Oid(1)).unwrap();
    txn.commit().unwrap();
    let mut txn = w.begin(T5, note(b"", b"del")).unwrap();
    txn.delete(Oid(1)).unwrap();
    txn.commit().unwrap();
    w
}

/// A record padded to the length it has in the explanation.
fn tree(data: &[u8], len: usize) -> Vec<u8> {
    let mut data = data.to_vec();
    data.resize(len, b'.');
    data
}

#[test]
fn the_worked_file_has_its_layout_and_its_answers() {
    let dir = Dir::new();
    worked(&dir).save_index().unwrap();
    let bytes = std::fs::read(dir.path()).unwrap();
    assert_eq!(bytes.len(), 737);
    let word = |at: usize| u64::from_be_bytes(*bytes[at..].first_chunk().unwrap());
    // Transactions: tid and both lengths.
    for (pos, tid, tlen) in [
        (0x004, T1, 0x9a),
        (0x0a6, T2, 0x10a),
        (0x1b8, T3, 0x74),
        (0x234, T4, 0x51),
        (0x28d, T5, 0x4c),
    ] {
        assert_eq!((word(pos), word(pos + 8)), (tid.0, tlen));
        assert_eq!(word(pos + usize::try_from(tlen).unwrap()), tlen);
        assert_eq!(bytes[pos + 16], b' ');
    }
    // Records: oid, prev, tloc, plen, and the back pointer.
    for (pos, oid, prev, tloc, plen) in [
        (0x034, 0, 0, 0x004, 0x40),
        (0x0c8, 0, 0x34, 0x0a6, 0x73),
        (0x165, 1, 0, 0x0a6, 0x21),
        (0x1d2, 1, 0x165, 0x1b8, 0x30),
        (0x253, 1, 0x1d2, 0x234, 0),
        (0x2a7, 1, 0x253, 0x28d, 0),
    ] {
        assert_eq!(
            [word(pos), word(pos + 16), word(pos + 24)],
            [oid, prev, tloc]
        );
        assert_eq!(word(pos + 34), plen);
    }
    assert_eq!((word(0x253 + 42), word(0x2a7 + 42)), (0x165, 0));

    let index = std::fs::read(dir.0.join("Data.fs.index")).unwrap();
    let wanted = b"\x80\x03\x8a\x08\xe1\x02\0\0\0\0\0\0.\x80\x03C\x06\0\0\0\0\0\0B\x10\0\0\0\
        \0\0\0\x01\0\0\0\0\0\xc8\0\0\0\0\x02\xa7\x86.\x80\x03N.";
    assert_eq!(index, wanted);

    let (store, view) = open(&dir.path()).unwrap();
    assert_eq!((store.index_fault(), view.at()), (None, T5));
    let (empty, one) = (tree(EMPTY, 0x21), tree(ONE, 0x30));
    for (at, says) in [
        (Tid(T2.0 - 1), Says::NotYet),
        (T2, Says::Data(T2, empty.clone())),
        (Tid(T3.0 - 1), Says::Data(T2, empty.clone())),
        (T3, Says::Data(T3, one.clone())),
        (Tid(T4.0 - 1), Says::Data(T3, one)),
        (T4, Says::Data(T4, empty.clone())),
        (Tid(T5.0 - 1), Says::Data(T4, empty)),
        (T5, Says::Deleted(T5)),
    ] {
        assert_eq!(Says::of(&view, Oid(1), at), says, "{at}");
    }
    assert_eq!(Says::of(&view, Oid(2), T5), Says::NoObject);
}

#[test]
fn random_databases_answer_as_their_twin_with_and_without_saved_index() {
    for seed in 0..40 {
        let dir = Dir::new();
        let shape = Shape {
            stride: [1, 7, 1 << 16, 0x0123_4567_89ab][usize::try_from(seed % 4).unwrap()],
            oids: 1 + seed,
            bytes: [60, 9000][usize::from(seed % 5 == 0)],
            ..SMALL
        };
        let (mut writer, mut twin) = database(&dir.path(), seed, 30, shape);
        let (store, view) = open(&dir.path()).unwrap();
        assert_eq!(store.index_fault(), Some(IndexFault::Absent));
        twin.check(&view);
        batch_equals_loads(&view, &twin);
        writer.save_index().unwrap();
        let (store, view) = open(&dir.path()).unwrap();
        assert_eq!(store.index_fault(), None);
        twin.check(&view);
        // A saved index that is behind, and one that is another file's.
        let mut rng = Rng(seed);
        (0..5).for_each(|_| commit(&mut writer, &mut twin, &mut rng, shape));
        let (store, view) = open(&dir.path()).unwrap();
        assert_eq!(store.index_fault(), None);
        twin.check(&view);
        let other = Dir::new();
        database(&other.path(), seed + 1000, 25, shape)
            .0
            .save_index()
            .unwrap();
        std::fs::copy(other.0.join("Data.fs.index"), dir.0.join("Data.fs.index")).unwrap();
        let (store, view) = open(&dir.path()).unwrap();
        assert!(store.index_fault().is_some());
        twin.check(&view);
    }
}

/// Everything at once, as of several tids, by both machines, reads completed in an order of their own.
fn batch_equals_loads(view: &FileView, twin: &Twin) {
    let mut rng = Rng(7);
    for at in twin.txns.iter().map(|t| t.0).step_by(7) {
        let oids: Vec<_> = twin
            .objects
            .keys()
            .copied()
            .chain([Oid(99_999_999)])
            .collect();
        let mut batch = view.batch(at, oids.iter().copied());
        let mut locate = view.locate(at, oids.iter().copied());
        let (mut found, mut under_way) = (BTreeMap::new(), Vec::new());
        loop {
            while let Some(read) = batch.next_read() {
                under_way.push(read);
            }
            while let Some((oid, result)) = batch.next_done() {
                let says = Says::from(result.map(|l| (l.serial, l.data.to_vec())));
                assert!(found.insert(oid, says).is_none(), "{oid} done twice");
            }
            if under_way.is_empty() {
                break;
            }
            let n = usize::try_from(rng.below(under_way.len() as u64)).unwrap();
            let read = under_way.swap_remove(n);
            batch.complete(read.id, view.read(read.pos, read.len));
        }
        while let Some(read) = locate.next_read() {
            locate.complete(read.id, view.read(read.pos, read.len));
        }
        for &oid in &oids {
            assert_eq!(found[&oid], twin.load(oid, at), "{oid} at {at}");
        }
        while let Some((oid, result)) = locate.next_done() {
            let says = Says::from(result.map(|l| {
                let data = view.read(l.data_pos, l.data_len).unwrap();
                assert_eq!(l.prefix, data[..data.len().min(256)]);
                (l.serial, data.to_vec())
            }));
            assert_eq!(says, twin.load(oid, at), "{oid} at {at}");
            found.remove(&oid);
        }
        assert!(found.is_empty(), "not located: {found:?}");
    }
}

#[test]
fn following_gives_every_commit_once_with_a_view_that_stays() {
    for seed in 0..30 {
        let dir = Dir::new();
        let (mut writer, mut twin) =
            database(&dir.path(), seed, usize::try_from(seed % 3).unwrap(), SMALL);
        let (mut store, mut view) = open(&dir.path()).unwrap();
        let mut rng = Rng(seed + 1);
        let mut views = vec![view.clone()];
        for _ in 0..40 {
            let before = twin.txns.len();
            for _ in 0..rng.below(4) {
                commit(&mut writer, &mut twin, &mut rng, SMALL);
            }
            let voted = rng.below(3) == 0;
            let tid = Tid(twin.last().0 + 1);
            let mut txn = writer.begin(tid, Note::default()).unwrap();
            txn.store(Oid(3), b"never seen").unwrap();
            let pending = voted.then(|| txn.vote().unwrap());
            let poll = store.poll().unwrap();
            assert_eq!(poll.tail == Tail::Voted, voted);
            assert_eq!((poll.more, poll.place), (false, Place::Same));
            let new: Vec<_> = twin.txns[before..].iter().collect();
            assert_eq!(poll.events.len(), new.len());
            for (event, (tid, oids)) in poll.events.into_iter().zip(new) {
                let Event::Commit(commit) = event else {
                    panic!("{event:?}")
                };
                assert_eq!((commit.tid, &commit.oids[..]), (*tid, &oids[..]));
                assert_eq!(commit.view.at(), *tid);
                view = commit.view;
                views.push(view.clone());
            }
            if let Some(pending) = pending {
                pending.abort().unwrap();
            }
        }
        twin.check(&view);
        for view in views.iter().step_by(9) {
            twin.as_of(view.at()).check(view);
        }
    }
}

/// A file of which one question fails, after so many that do not.
struct Failing<'f>(&'f std::fs::File, Cell<usize>);

impl Failing<'_> {
    fn ask(&self) -> io::Result<()> {
        let left = self.1.get().checked_sub(1);
        self.1.set(left.unwrap_or(usize::MAX));
        left.map(drop)
            .ok_or(io::Error::from_raw_os_error(libc::EIO))
    }
}

impl ReadAt for Failing<'_> {
    fn read_at(&self, buf: &mut [u8], pos: u64) -> io::Result<usize> {
        self.ask()?;
        ReadAt::read_at(self.0, buf, pos)
    }

    fn size(&self) -> io::Result<u64> {
        self.ask()?;
        self.0.size()
    }
}

#[test]
fn whatever_read_fails_no_commit_is_lost_and_damage_is_still_found() {
    let dir = Dir::new();
    let shape = Shape {
        bytes: 30_000,
        ..SMALL
    };
    let (mut writer, mut twin) = database(&dir.path(), 11, 3, shape);
    let begun = std::fs::read(dir.path()).unwrap();
    let (known, mut rng) = (twin.txns.len(), Rng(12));
    (0..20).for_each(|_| commit(&mut writer, &mut twin, &mut rng, shape));
    let sound = std::fs::read(dir.path()).unwrap();
    let (last, end) = (twin.last(), sound.len());
    (0..2).for_each(|_| commit(&mut writer, &mut twin, &mut rng, shape));
    let mut damaged = std::fs::read(dir.path()).unwrap();
    damaged[end + 16] = 0xee;
    let path = dir.0.join("grown");
    for (whole, is_sound) in [(sound, true), (damaged, false)] {
        let mut errors = [0; 2];
        for n in 0.. {
            std::fs::write(&path, &begun).unwrap();
            let (mut store, _) = open(&path).unwrap();
            std::fs::write(&path, &whole).unwrap();
            let (file, mut seen) = (std::fs::File::open(&path).unwrap(), Vec::new());
            let failing = Failing(&file, Cell::new(n));
            let ended = loop {
                match store.poll_in(&failing) {
                    Ok(poll) => {
                        let is_last = poll.events.is_empty() && !poll.more;
                        errors[1] += usize::from(poll.more);
                        seen.extend(poll.events);
                        if is_last {
                            break true;
                        }
                    }
                    Err(FollowError::Io(_)) => errors[0] += 1,
                    Err(FollowError::Reopen(OpenError::Io { .. })) => errors[0] += 1,
                    Err(FollowError::Damaged { pos, .. }) => break pos != end as u64,
                    Err(error) => panic!("{error}"),
                }
            };
            assert_eq!(ended, is_sound, "after {n}");
            let wanted = twin.txns[known..].iter().filter(|txn| txn.0 <= last);
            let given = seen.iter().map(|event| match event {
                Event::Commit(commit) => (commit.tid, commit.oids.to_vec()),
                other => panic!("{other:?}"),
            });
            assert!(given.eq(wanted.cloned()), "after {n}: {seen:?}");
            twin.as_of(last).check(&store.view());
            if failing.1.get() < usize::MAX / 2 {
                break; // more than are asked
            }
        }
        // Some came before anything was found, and some in the middle.
        assert!(errors[0] > 2 && errors[1] > 10, "{errors:?}");
    }
}

#[test]
fn a_file_cut_anywhere_never_gives_wrong_bytes() {
    let dir = Dir::new();
    let (_, twin) = database(&dir.path(), 5, 14, SMALL);
    let whole = std::fs::read(dir.path()).unwrap();
    let cut = dir.0.join("cut");
    for len in 0..=whole.len() {
        std::fs::write(&cut, &whole[..len]).unwrap();
        let (mut store, view) = open(&cut).unwrap();
        let kept = twin.as_of(view.at());
        assert_eq!(kept.last(), view.at());
        kept.check(&view);
        // The rest comes later: everything is found after all.
        std::fs::write(&cut, &whole).unwrap();
        let poll = store.poll().unwrap();
        assert_eq!(poll.tail, Tail::Clean);
        assert_eq!(poll.events.len(), twin.txns.len() - kept.txns.len());
        twin.check(&store.view());
    }
}

#[test]
fn a_larger_file_cut_at_random_places_serves_what_is_whole() {
    let dir = Dir::new();
    let shape = Shape {
        oids: 200,
        bytes: 6000,
        records: 30,
        ..SMALL
    };
    let (writer, twin) = database(&dir.path(), 6, 60, shape);
    writer.save_index().unwrap();
    let size = std::fs::metadata(dir.path()).unwrap().len();
    let file = std::fs::OpenOptions::new()
        .write(true)
        .open(dir.path())
        .unwrap();
    let mut lens: Vec<_> = {
        let mut rng = Rng(1);
        (0..1000).map(|_| rng.below(size)).collect()
    };
    lens.sort_unstable();
    let mut rng = Rng(2);
    for len in lens.into_iter().rev() {
        file.set_len(len).unwrap();
        let (_, view) = open(&dir.path()).unwrap();
        let kept = twin.as_of(view.at());
        assert_eq!(kept.last(), view.at());
        for _ in 0..20 {
            let oid = Oid(rng.below(shape.oids));
            let at = Tid(rng.below(view.at().0 + 1));
            assert_eq!(Says::of(&view, oid, at), kept.load(oid, at));
        }
    }
}

#[test]
fn damage_in_the_middle_is_refused_and_at_the_end_is_waited_for() {
    let dir = Dir::new();
    let (_, twin) = database(&dir.path(), 9, 10, SMALL);
    let whole = std::fs::read(dir.path()).unwrap();
    let bad = dir.0.join("bad");
    let mut damaged = 0;
    for at in 4..whole.len() {
        let mut bytes = whole.clone();
        bytes[at] ^= 0x55;
        std::fs::write(&bad, &bytes).unwrap();
        match open(&bad) {
            Err(OpenError::Damaged { .. }) => damaged += 1,
            Err(OpenError::Versions { .. }) => {}
            Err(other) => panic!("byte {at}: {other}"),
            // The flip hit data or a text, a tid that still fits, or the last transaction.
            Ok((_, view)) => assert!(view.at() >= Tid(twin.last().0 - 10), "byte {at}: {view:?}"),
        }
    }
    assert!(damaged > whole.len() / 4, "{damaged} of {}", whole.len());
    // What a crash or a broken disk leaves behind the end.
    for (tail, what) in [
        (vec![0; 100], Fault::Status(0)),
        (vec![0xaa; 100], Fault::Status(0xaa)),
    ] {
        let mut bytes = whole.clone();
        bytes.extend_from_slice(&tail);
        std::fs::write(&bad, &bytes).unwrap();
        let (mut store, view) = open(&bad).unwrap();
        assert_eq!(view.at(), twin.last());
        let pos = whole.len() as u64;
        assert_eq!(store.poll().unwrap().tail, Tail::Suspicious { pos, what });
    }
}

#[test]
fn what_is_no_file_storage_is_refused_in_one_sentence() {
    let dir = Dir::new();
    let error = |path: &std::path::Path| open(path).unwrap_err();
    assert!(matches!(error(&dir.path()), OpenError::Missing { .. }));
    assert!(matches!(error(&dir.0), OpenError::Directory { .. }));
    assert!(matches!(
        error(std::path::Path::new("/dev/null")),
        OpenError::NotRegular { .. }
    ));
    std::fs::write(dir.path(), b"SQLite format 3").unwrap();
    assert!(matches!(
        error(&dir.path()),
        OpenError::NotFileStorage { .. }
    ));
    for start in [&b""[..], b"F", b"FS30", b"FS21"] {
        std::fs::write(dir.path(), start).unwrap();
        let (mut store, view) = open(&dir.path()).unwrap();
        assert_eq!(view.at(), Tid::ZERO);
        assert!(store.poll().unwrap().events.is_empty());
    }
}

#[test]
fn records_beyond_the_limit_are_refused_one_by_one() {
    let dir = Dir::new();
    let mut writer = FileWriter::create(&dir.path()).unwrap();
    let mut txn = writer.begin(Tid(9), Note::default()).unwrap();
    txn.store(Oid(1), &[1; 100]).unwrap();
    txn.store(Oid(2), &[2; 101]).unwrap();
    txn.commit().unwrap();
    let opts = FileOpts { max_record: 100 };
    let (_, view) = FileStore::open(&dir.path(), &opts, &mut |_, _| {}).unwrap();
    assert_eq!(view.load(Oid(1), Tid(9)).unwrap().data.len(), 100);
    let error = view.load(Oid(2), Tid(9)).unwrap_err();
    assert!(matches!(error, LoadError::TooBig { len: 101, max: 100 }));
}

fn check(path: &std::path::Path) -> Report {
    verify(path, &FileOpts::default(), None, &mut |_, _| {}).unwrap()
}

#[test]
fn a_sound_file_is_found_sound_and_every_record_is_handed_out() {
    for seed in 0..10 {
        let dir = Dir::new();
        let (writer, twin) = database(&dir.path(), seed, 50, SMALL);
        writer.save_index().unwrap();
        let mut seen = BTreeMap::new();
        let mut object =
            |oid, tid, data: bytes::Bytes| drop(seen.insert((oid, tid), data.to_vec()));
        let opts = FileOpts::default();
        let report = verify(&dir.path(), &opts, Some(&mut object), &mut |_, _| {}).unwrap();
        assert_eq!((&report.findings[..], report.is_sound()), (&[][..], true));
        let revisions: usize = twin.objects.values().map(Vec::len).sum();
        assert_eq!((report.txns, report.records), (50, revisions as u64));
        assert_eq!(report.objects, twin.objects.len() as u64);
        assert_eq!(
            seen.len() as u64,
            report.records - report.shared - report.deleted
        );
        for ((oid, tid), data) in seen {
            assert_eq!(twin.load(oid, tid), Says::Data(tid, data));
        }
    }
}

#[test]
fn a_check_finds_what_opening_takes_for_granted_and_goes_on_behind_damage() {
    let dir = Dir::new();
    worked(&dir).save_index().unwrap();
    let whole = std::fs::read(dir.path()).unwrap();
    let spoil = |at: usize, byte: u8| {
        let mut bytes = whole.clone();
        bytes[at] = byte;
        std::fs::write(dir.path(), &bytes).unwrap();
        check(&dir.path())
    };
    // The last byte of prev of the record at 0x1d2, made 0x34: a record of another object.
    let report = spoil(0x1d2 + 23, 0x34);
    let (oid, prev) = (Oid(1), 0x134);
    assert_eq!(report.findings[0].what, Problem::Prev { oid, prev });
    // The back pointer at 0x253, likewise.
    let report = spoil(0x253 + 49, 0x34);
    let back = 0x134;
    assert_eq!(
        report.findings,
        [Finding {
            pos: 0x253,
            what: Problem::Back { oid, back }
        }]
    );
    // A length: what is behind is recognised by the next transaction or from the end.
    for (at, lost) in [(0x1d2 + 41, false), (0x1b8 + 15, true)] {
        let report = spoil(at, 0xee);
        assert!(!report.is_sound());
        assert!(matches!(
            report.findings[usize::from(lost)].what,
            Problem::Damaged(_)
        ));
        assert_eq!(lost, report.findings[0].what == Problem::Lost(0x234));
        assert_eq!((report.txns, report.last), (4, T5));
    }
    // The saved index, changed and for less than all.
    std::fs::write(dir.path(), &whole).unwrap();
    let index = dir.0.join("Data.fs.index");
    let saved = std::fs::read(&index).unwrap();
    let mut changed = saved.clone();
    let at = changed.len() - 13;
    changed[at] = 0xc9;
    std::fs::write(&index, &changed).unwrap();
    let what = Problem::IndexEntry {
        oid: Oid(0),
        saved: Some(0xc9),
        found: Some(0xc8),
    };
    assert_eq!(check(&dir.path()).findings, [Finding { pos: 0xc8, what }]);
    std::fs::remove_file(&index).unwrap();
    let report = check(&dir.path());
    assert_eq!(report.findings[0].what, Problem::Index(IndexFault::Absent));
    assert!(report.is_sound());
}

#[test]
fn any_flipped_byte_is_survived_by_a_check() {
    let dir = Dir::new();
    let (_, twin) = database(&dir.path(), 3, 12, SMALL);
    let whole = std::fs::read(dir.path()).unwrap();
    let mut found = 0;
    for at in 4..whole.len() {
        let mut bytes = whole.clone();
        bytes[at] ^= 1 << (at % 8);
        std::fs::write(dir.path(), &bytes).unwrap();
        let report = check(&dir.path());
        found += usize::from(!report.is_sound());
        assert!(
            report.txns + 2 >= twin.txns.len() as u64,
            "byte {at}: {report:?}"
        );
    }
    assert!(found > whole.len() / 3, "{found} of {}", whole.len());
}

#[test]
fn the_history_of_a_view_is_read_backwards() {
    let dir = Dir::new();
    let (_, twin) = database(&dir.path(), 8, 60, SMALL);
    let (_, view) = open(&dir.path()).unwrap();
    for (lo, hi) in [(0, 59), (10, 20), (59, 59), (0, 0)] {
        let (lo, hi) = (twin.txns[lo].0, twin.txns[hi].0);
        let read: Vec<_> = view.history(lo, hi).map(|p| p.unwrap()).collect();
        let want = twin.txns.iter().rev().filter(|t| t.0 > lo && t.0 <= hi);
        assert!(
            read.iter()
                .map(|p| (p.tid, p.oids.to_vec()))
                .eq(want.cloned())
        );
    }
    assert_eq!(view.history(Tid::ZERO, Tid::MAX).count(), 60);
}
