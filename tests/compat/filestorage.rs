//! FileStorage against Python: what ZODB writes is read as ZODB reads it, and the other way round.
//!
//! `oracle` tells what ZODB says.
#![allow(clippy::unwrap_used, missing_docs, reason = "tests")]

mod oracle;

use oracle::{Dir, Dump, command, make, oracle, python, sha1};
use std::path::Path;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};
use zring::base::{Oid, Tid};
use zring::store::file::{
    Event, FileOpts, FileStore, FileView, FileWriter, FollowError, IndexFault, Note, Place,
    Problem, Tail, verify,
};

fn open(path: &str) -> (FileStore, FileView) {
    FileStore::open(Path::new(path), &FileOpts::default(), &mut |_, _| {}).unwrap()
}

/// A check finds nothing, unusual or worse, in what ZODB wrote.
fn assert_sound(path: &str) {
    let report = verify(Path::new(path), &FileOpts::default(), None, &mut |_, _| {}).unwrap();
    let absent = Problem::Index(IndexFault::Absent);
    let strange = report.findings.iter().find(|f| f.what != absent);
    assert_eq!((strange, report.tail), (None, Tail::Clean));
}

/// Takes what a poll gives, rebuilding if the file was replaced.
struct Follower {
    store: FileStore,
    view: FileView,
    seen: Vec<(Tid, Vec<Oid>)>,
    switched: usize,
}

impl Follower {
    fn new(path: &str) -> Self {
        let (store, view) = open(path);
        let (seen, switched) = (Vec::new(), 0);
        Self {
            store,
            view,
            seen,
            switched,
        }
    }

    fn poll(&mut self) -> Result<(Tail, Place), FollowError> {
        let poll = self.store.poll_blocking()?;
        for event in poll.events {
            match event {
                Event::Commit(commit) => {
                    assert!(commit.tid > self.view.at(), "tids increase");
                    self.seen.push((commit.tid, commit.oids.to_vec()));
                    self.view = commit.view;
                }
                Event::Switched(view) => {
                    self.switched += 1;
                    assert_eq!(view.at(), self.view.at());
                    self.view = view;
                }
                Event::Reset(view) => panic!("reset: {view:?}"),
            }
        }
        // A writer that is alive never leaves what cannot be a transaction, not even for a moment.
        assert!(
            !matches!(poll.tail, Tail::Suspicious { .. }),
            "{:?}",
            poll.tail
        );
        Ok((poll.tail, poll.place))
    }

    /// Polls until a process has ended, then once more.
    fn until_end(&mut self, child: &mut Child) {
        let mut ended = false;
        let give_up = Instant::now() + Duration::from_secs(120);
        loop {
            self.poll().unwrap();
            if ended {
                return;
            }
            ended = child.try_wait().unwrap().is_some();
            assert!(Instant::now() < give_up, "the writer does not end");
            std::thread::sleep(Duration::from_millis(3));
        }
    }
}

#[test]
fn sha1_is_sha1() {
    assert_eq!(sha1(b"abc"), "a9993e364706816aba3e25717850c26c9cd0d89d");
    assert_eq!(
        sha1(&[b'a'; 119]),
        "ee971065aaa017e0632a8ca6c77bb3bf8b1dfc56"
    );
}

#[test]
fn databases_of_all_flavours_answer_as_zodb_does() {
    let Some(python) = python() else { return };
    let mut questions = 0;
    let flavours: [&[&str]; 6] = [
        &["--undo", ".3", "--delete-file"],
        &["--fmt", "ZBlk1", "--blksize", "16k", "--undo", ".2"],
        &[
            "--fmt",
            "ZBlk0",
            "--w-topology",
            "10",
            "--w-epoch",
            "2",
            "--undo",
            ".1",
        ],
        &[
            "--pickle", "2", "--style", "py2", "--magic", "FS21", "--undo", ".2",
        ],
        &["--pickle", "1", "--style", "py2", "--no-index"],
        &[
            "--arrays",
            "--w-delrange",
            "5",
            "--undo",
            ".3",
            "--delete-file",
        ],
    ];
    for (seed, flavour) in flavours.iter().enumerate() {
        let dir = Dir::new();
        let (path, manifest) = (dir.file("Data.fs"), dir.file("m.json"));
        let seed = seed.to_string();
        let mut args = vec![
            "gen",
            "--target",
            &path,
            "--manifest",
            &manifest,
            "--blocks",
            "20",
        ];
        args.extend(["--txns", "40", "--blksize", "8k", "--seed", &seed]);
        args.extend(*flavour);
        make(&python, &args);
        let no_index = flavour.contains(&"--no-index");
        let (store, view) = open(&path);
        assert_eq!(store.index_fault(), no_index.then_some(IndexFault::Absent));
        let dump = Dump::new(&python, &path);
        assert_eq!(view.at(), dump.txns.last().unwrap().0);
        questions += dump.check(&view);
        assert_sound(&path);
        if flavour.contains(&"FS21") {
            continue;
        }
        // The same after a pack to the middle, by the saved index and by a scan.
        make(
            &python,
            &[
                "pack",
                "--target",
                &path,
                "--manifest",
                &manifest,
                "--rev",
                "25",
            ],
        );
        let dump = Dump::new(&python, &path);
        let (store, view) = open(&path);
        assert_eq!(store.index_fault(), None);
        questions += dump.check(&view);
        assert_sound(&path);
        std::fs::remove_file(dir.file("Data.fs.index")).unwrap();
        let (_, view) = open(&path);
        questions += dump.check(&view);
    }
    println!("{questions} (oid, at) pairs compared");
}

#[test]
fn damaged_tails_end_where_the_last_whole_transaction_ends() {
    let Some(python) = python() else { return };
    let dir = Dir::new();
    let (whole, manifest) = (dir.file("whole.fs"), dir.file("m.json"));
    make(
        &python,
        &[
            "gen",
            "--target",
            &whole,
            "--manifest",
            &manifest,
            "--txns",
            "9",
            "--blksize",
            "4k",
        ],
    );
    let dump = Dump::new(&python, &whole);
    let (last, before) = (
        dump.txns[dump.txns.len() - 1].0,
        dump.txns[dump.txns.len() - 2].0,
    );
    for (mode, at, pending) in [
        ("checkpoint", last, Some(Tail::Voted)),
        ("partial-checkpoint", last, Some(Tail::Voted)),
        ("half-header", last, Some(Tail::Stub)),
        ("truncate", before, None),
        ("zeros", last, None),
        ("garbage", last, None),
        ("badlen", before, None),
    ] {
        for with_index in [true, false] {
            let path = dir.file("Data.fs");
            std::fs::copy(&whole, &path).unwrap();
            if with_index {
                std::fs::copy(format!("{whole}.index"), format!("{path}.index")).unwrap();
            } else {
                drop(std::fs::remove_file(format!("{path}.index")));
            }
            make(&python, &["tail", "--target", &path, "--mode", mode]);
            let (mut store, view) = open(&path);
            assert_eq!(view.at(), at, "{mode}");
            let poll = store.poll().unwrap();
            assert!(poll.events.is_empty());
            match pending {
                Some(tail) => assert_eq!(poll.tail, tail, "{mode}"),
                None => assert!(
                    matches!(poll.tail, Tail::Suspicious { .. }),
                    "{mode}: {:?}",
                    poll.tail
                ),
            }
            dump.check(&view);
        }
    }
}

#[test]
fn what_we_write_zodb_reads_and_works_on() {
    let Some(python) = python() else { return };
    let dir = Dir::new();
    let path = dir.file("Data.fs");
    // Persistent mappings, as pickled by Python 3: the root, and objects with nothing in them.
    let record = b"\x80\x03cpersistent.mapping\nPersistentMapping\nq\x00.\
        \x80\x03}q\x01X\x04\x00\x00\x00dataq\x02}q\x03s.";
    let mut writer = FileWriter::create(Path::new(&path)).unwrap();
    let tid = |n: u64| Tid(0x03d4_dc00_0000_0000 + n);
    for n in 0..300u64 {
        let note = Note {
            user: b"me",
            description: b"work",
            extension: b"",
        };
        let mut txn = writer.begin(tid(n), note).unwrap();
        if n == 0 {
            txn.store(Oid(0), record).unwrap();
        }
        for k in 1..5 {
            txn.store(Oid(1 + (n * 7 + k) % 200), record).unwrap();
        }
        match n % 10 {
            3 => txn
                .delete(Oid(1 + n * 7 % 200))
                .or_else(|_| txn.store(Oid(500 + n), record))
                .unwrap(),
            6 => txn
                .undo(Oid(1 + (n * 7 - 1) % 200))
                .or_else(|_| txn.store(Oid(900 + n), record))
                .unwrap(),
            _ => {}
        }
        match n % 9 {
            4 => txn.vote().unwrap().abort().unwrap(),
            _ => txn.commit().unwrap(),
        }
    }
    writer.save_index().unwrap();
    drop(writer);
    assert!(oracle(&python, &["index", &path]).starts_with("index used"));
    let dump = Dump::new(&python, &path);
    let (_, view) = open(&path);
    assert_eq!(dump.txns.len(), 300 - 33);
    assert!(dump.check(&view) > 15_000);
    // Python commits to it, undoes, packs, and commits again; we follow.
    let mut follower = Follower::new(&path);
    let mut child = command(&python, "compat/filestorage.py", &["work", &path, "60"])
        .spawn()
        .unwrap();
    follower.until_end(&mut child);
    assert!(child.wait().unwrap().success());
    assert_eq!(follower.seen.len(), 62);
    assert_eq!(follower.view.generation(), 1);
    let dump = Dump::new(&python, &path);
    dump.check(&follower.view);
    let last = dump.txns.last().unwrap().clone();
    assert_eq!(follower.seen.last(), Some(&last));
}

#[test]
fn a_live_writer_is_followed_through_kills() {
    let Some(python) = python() else { return };
    let dir = Dir::new();
    let (path, log) = (dir.file("Data.fs"), dir.file("l.jsonl"));
    make(
        &python,
        &[
            "gen",
            "--target",
            &path,
            "--manifest",
            &dir.file("m.json"),
            "--txns",
            "3",
            "--blksize",
            "64k",
        ],
    );
    let mut follower = Follower::new(&path);
    let start = follower.view.at();
    let mut views = Vec::new();
    for round in 0..6u64 {
        let args = [
            "live",
            "--target",
            &path,
            "--interval",
            "4",
            "--log",
            &log,
            "--undo",
            ".1",
        ];
        let mut child = command(&python, "tools/make_zodb.py", &args)
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let commits = follower.seen.len();
        let give_up = Instant::now() + Duration::from_secs(60);
        // Killed after an uneven number of commits, at whatever it is doing.
        while follower.seen.len() < commits + 20 + usize::try_from(round * 13 % 29).unwrap() {
            follower.poll().unwrap();
            assert!(Instant::now() < give_up, "the writer writes nothing");
            std::thread::sleep(Duration::from_millis(1));
        }
        std::thread::sleep(Duration::from_micros(round * 1700));
        child.kill().unwrap();
        child.wait().unwrap();
        follower.poll().unwrap();
        views.push(follower.view.clone());
    }
    // A writer that opens and closes cuts what the last kill left.
    oracle(&python, &["pack", &path]);
    let dump_path = format!("{path}.old");
    follower.poll().unwrap();
    let dump = Dump::new(&python, &dump_path);
    let after: Vec<_> = dump.txns.iter().filter(|t| t.0 > start).cloned().collect();
    assert_eq!(follower.seen, after);
    println!("{} commits followed through 6 kills", after.len());
    // Views of the old file still answer, though another has taken its place.
    assert_eq!(follower.view.generation(), 1);
    for view in views {
        dump.check(&view);
    }
}

#[test]
fn a_pack_is_followed_while_commits_go_on() {
    let Some(python) = python() else { return };
    for remove_old in [false, true] {
        let dir = Dir::new();
        let path = dir.file("Data.fs");
        make(
            &python,
            &[
                "gen",
                "--target",
                &path,
                "--manifest",
                &dir.file("m.json"),
                "--txns",
                "30",
                "--blksize",
                "8k",
            ],
        );
        let mut follower = Follower::new(&path);
        let old = follower.view.clone();
        let before = Dump::new(&python, &path);
        for round in 1..4 {
            let mut child = command(&python, "compat/filestorage.py", &["work", &path, "40"])
                .spawn()
                .unwrap();
            if remove_old {
                // Only the link count of our descriptor tells that it was a pack.
                child.wait().unwrap();
                std::fs::remove_file(format!("{path}.old")).unwrap();
            }
            follower.until_end(&mut child);
            assert_eq!(follower.seen.len(), 42 * round);
            Dump::new(&python, &path).check(&follower.view);
        }
        assert!(follower.view.generation() >= 3, "{:?}", follower.view);
        before.check(&old);
    }
}

#[test]
fn a_pack_may_drop_the_newest_transactions() {
    let Some(python) = python() else { return };
    let dir = Dir::new();
    let path = dir.file("Data.fs");
    make(
        &python,
        &[
            "gen",
            "--target",
            &path,
            "--manifest",
            &dir.file("m.json"),
            "--txns",
            "5",
            "--blksize",
            "4k",
        ],
    );
    let mut follower = Follower::new(&path);
    let mut child = command(&python, "compat/filestorage.py", &["vanish", &path])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    follower.until_end(&mut child);
    let said = std::io::read_to_string(child.stdout.take().unwrap()).unwrap();
    let tids: Vec<_> = said
        .lines()
        .map(|line| Tid::parse(line.as_bytes()).unwrap())
        .collect();
    let seen: Vec<_> = follower.seen.iter().map(|t| t.0).collect();
    assert_eq!(seen, tids);
    assert_eq!((follower.view.at(), follower.switched), (tids[1], 1));
    let dump = Dump::new(&python, &path);
    assert!(
        dump.txns.last().unwrap().0 < tids[0],
        "the pack dropped them"
    );
    dump.check(&follower.view);
    // And it goes on from there.
    let mut child = command(&python, "compat/filestorage.py", &["work", &path, "5"])
        .spawn()
        .unwrap();
    follower.until_end(&mut child);
    assert_eq!(follower.seen.len(), 2 + 7);
    Dump::new(&python, &path).check(&follower.view);
}

#[test]
fn an_older_copy_is_a_database_that_went_back() {
    let Some(python) = python() else { return };
    for how in ["rename", "overwrite", "by way of .old"] {
        let dir = Dir::new();
        let (path, backup) = (dir.file("Data.fs"), dir.file("backup.fs"));
        make(
            &python,
            &[
                "gen",
                "--target",
                &path,
                "--manifest",
                &dir.file("m.json"),
                "--txns",
                "5",
                "--blksize",
                "4k",
            ],
        );
        std::fs::copy(&path, &backup).unwrap();
        oracle(&python, &["work", &path, "3"]);
        let mut follower = Follower::new(&path);
        let head = follower.view.at();
        match how {
            "rename" => std::fs::rename(&backup, &path).unwrap(),
            "overwrite" => drop(std::fs::copy(&backup, &path).unwrap()),
            _ => {
                std::fs::rename(&path, format!("{path}.old")).unwrap();
                assert_eq!(follower.poll().unwrap().1, Place::Missing);
                std::fs::rename(&backup, &path).unwrap();
            }
        }
        for _ in 0..2 {
            match follower.poll() {
                Err(FollowError::WentBack { head: at, now }) => assert!(now < head && at == head),
                other => panic!("{how}: {other:?}"),
            }
        }
    }
}
