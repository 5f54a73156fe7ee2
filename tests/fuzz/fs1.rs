//! FileStorage from hostile bytes: never a panic, never a walk without end, never an answer that the bytes do not
//! hold.
//!
//! Small databases are mutated and then opened, loaded from, followed, and checked; saved indexes are mutated
//! beside a good database, where every answer must still be right. Reads are completed with anything at all. A
//! failing input is named by its number.

use crate::mutate::{self, Rng};
use bytes::Bytes;
use std::path::{Path, PathBuf};
use zring::base::{Oid, Tid};
use zring::store::file::{FileOpts, FileStore, FileView, FileWriter, IndexFault, Note, verify};
use zring::store::{LoadError, Loaded};
use zring::wire::fs1::{DATA_HEADER_LEN, DataHeader, TXN_HEADER_LEN, TxnHeader};

/// The inputs of a test: a number to name one by, and chance of its own.
fn inputs(test: u64) -> impl Iterator<Item = (Input, Rng)> {
    let (count, seed) = mutate::plan();
    (0..count).map(move |n| (Input(n), Rng::new(seed << 40 ^ test << 32 ^ n)))
}

/// Says which input it was, should it fail.
struct Input(u64);

impl Drop for Input {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("failed on input {}", self.0);
        }
    }
}

/// Changes a file or an index, mostly in its numbers and lengths.
fn spoil(bytes: &mut Vec<u8>, rng: &mut Rng) {
    for _ in 0..1 + rng.below(4) {
        let at = rng.below(bytes.len());
        let len = rng.below(60).min(bytes.len() - at);
        match rng.below(9) {
            0 => bytes.truncate(at),
            1 => drop(bytes.drain(at..at + len)),
            2 => {
                let copy = bytes[at..at + len].to_vec();
                let to = rng.below(bytes.len());
                bytes.splice(to..to, copy);
            }
            3 => bytes[at..at + len].fill(0),
            4 | 5 if bytes.len() >= at + 8 => {
                let size = bytes.len();
                let words = [
                    0,
                    1,
                    4,
                    8,
                    23,
                    42,
                    50,
                    at,
                    size,
                    size - at,
                    size + 1,
                    usize::MAX,
                ];
                let mut word = words[rng.below(words.len())] as u64;
                if rng.below(2) == 0 {
                    word = rng.word() >> rng.below(64);
                }
                bytes[at..at + 8].copy_from_slice(&word.to_be_bytes());
            }
            6 if at < bytes.len() => bytes[at] = b" pucFS.N\x80\x86\xff\x00"[rng.below(12)],
            _ if at < bytes.len() => bytes[at] ^= 1 << rng.below(8),
            _ => {}
        }
        if bytes.is_empty() {
            return;
        }
    }
}

/// A directory that goes away.
struct Dir(PathBuf);

impl Dir {
    fn new(name: &str) -> Self {
        // In memory where possible: this is about bytes, not about disks.
        let shm = Path::new("/dev/shm");
        let base = if shm.is_dir() {
            shm.to_owned()
        } else {
            std::env::temp_dir()
        };
        let dir = base.join(format!("zring-fuzz-fs1-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        Self(dir)
    }

    fn path(&self) -> PathBuf {
        self.0.join("Data.fs")
    }

    fn index(&self) -> PathBuf {
        self.0.join("Data.fs.index")
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        drop(std::fs::remove_dir_all(&self.0));
    }
}

const OIDS: u64 = 6;

/// A small database with everything in it, and its saved index.
fn seed(dir: &Dir, rng: &mut Rng) -> (Vec<u8>, Vec<u8>) {
    drop(std::fs::remove_file(dir.path()));
    let mut writer = FileWriter::create(&dir.path()).unwrap().synced(false);
    for n in 1..=8 {
        let note = Note {
            user: b"u",
            description: b"de",
            extension: b"ext",
        };
        let mut txn = writer.begin(Tid(n * 10), note).unwrap();
        for _ in 0..rng.below(4) {
            let oid = Oid(rng.word() % OIDS);
            let done = match rng.below(4) {
                0 => txn.delete(oid),
                1 => txn.undo(oid),
                _ => txn.store(oid, &[7; 30][..1 + rng.below(30)]),
            };
            done.unwrap_or_default(); // nothing to delete or undo yet
        }
        txn.commit().unwrap();
    }
    writer.save_index().unwrap();
    (
        std::fs::read(dir.path()).unwrap(),
        std::fs::read(dir.index()).unwrap(),
    )
}

fn open(path: &Path) -> Option<(FileStore, FileView)> {
    FileStore::open(path, &FileOpts { max_record: 4096 }, &mut |_, _| {}).ok()
}

fn load_all(view: &FileView) -> Vec<Result<Loaded, LoadError>> {
    let mut all = Vec::new();
    for at in [0, 1, 10, 35, 40, 79, 80, view.at().0] {
        let at = Tid(at).min(view.at());
        for oid in (0..=OIDS).chain([u64::MAX]) {
            let loaded = view.load(Oid(oid), at);
            if let Ok(found) = &loaded {
                assert!(found.serial <= at && !found.data.is_empty());
            }
            all.push(loaded);
        }
    }
    all
}

#[test]
fn mutated_files_are_opened_followed_and_checked_without_harm() {
    let (dir, mut base) = (Dir::new("file"), (Vec::new(), Vec::new()));
    let (mut opened, mut refused) = (0u64, 0u64);
    for (input, mut rng) in inputs(1) {
        let n = input.0;
        if base.0.is_empty() || n % 64 == 0 {
            base = seed(&dir, &mut Rng::new(n / 64));
        }
        let mut bytes = base.0.clone();
        spoil(&mut bytes, &mut rng);
        std::fs::write(dir.path(), &bytes).unwrap();
        match rng.below(2) {
            0 => std::fs::write(dir.index(), &base.1).unwrap(),
            _ => drop(std::fs::remove_file(dir.index())),
        }
        match open(&dir.path()) {
            Some((mut store, view)) => {
                opened += 1;
                load_all(&view);
                follow(&dir, &mut store, &bytes, &mut rng);
                view.history(Tid::ZERO, Tid::MAX).take(1000).for_each(drop);
            }
            None => refused += 1,
        }
        if n % 4 == 0 {
            let mut seen = 0;
            let mut object = |_, _, data: Bytes| seen += data.len();
            let opts = FileOpts { max_record: 4096 };
            drop(verify(
                &dir.path(),
                &opts,
                Some(&mut object),
                &mut |_, _| {},
            ));
            assert!(
                seen <= bytes.len(),
                "records cannot hold more than the file"
            );
        }
    }
    println!("fs1 files: {opened} opened, {refused} refused");
}

/// The file goes on, is cut, or becomes another one, while it is followed.
fn follow(dir: &Dir, store: &mut FileStore, bytes: &[u8], rng: &mut Rng) {
    let mut changed = bytes.to_vec();
    match rng.below(3) {
        0 => changed.extend_from_slice(&bytes[bytes.len() / 2..]),
        1 => changed.truncate(rng.below(bytes.len())),
        _ if bytes.is_empty() => {}
        _ => spoil(&mut changed, rng),
    }
    std::fs::write(dir.path(), &changed).unwrap();
    let mut head = store.head();
    for _ in 0..2 {
        if let Ok(poll) = store.poll_blocking() {
            assert!(store.head() >= head, "head never goes back");
            head = store.head();
            drop(poll);
        }
    }
    load_all(&store.view());
}

#[test]
fn mutated_indexes_never_change_an_answer() {
    let (dir, mut base) = (Dir::new("index"), (Vec::new(), Vec::new()));
    let (mut truth, mut used) = (String::new(), 0u64);
    for (input, mut rng) in inputs(2) {
        let n = input.0;
        if base.0.is_empty() || n % 64 == 0 {
            base = seed(&dir, &mut Rng::new(n / 64));
            drop(std::fs::remove_file(dir.index()));
            let (store, view) = open(&dir.path()).unwrap();
            assert_eq!(store.index_fault(), Some(IndexFault::Absent));
            truth = format!("{:?}", load_all(&view));
        }
        let mut index = base.1.clone();
        spoil(&mut index, &mut rng);
        std::fs::write(dir.index(), &index).unwrap();
        let (store, view) = open(&dir.path()).unwrap();
        used += u64::from(store.index_fault().is_none());
        assert_eq!(format!("{:?}", load_all(&view)), truth);
    }
    println!("fs1 indexes: {used} used");
}

#[test]
fn reads_may_give_anything() {
    let dir = Dir::new("reads");
    let (bytes, _) = seed(&dir, &mut Rng::new(99));
    let (_, view) = open(&dir.path()).unwrap();
    for (_input, mut rng) in inputs(3) {
        let at = Tid(rng.word() % 81);
        let mut batch = view.batch(at, (0..=OIDS).map(Oid));
        let mut locate = view.locate(at, (0..=OIDS).map(Oid));
        let mut give = |pos: u64, len: usize| {
            let from = usize::try_from(pos).unwrap();
            assert!(from + len <= bytes.len(), "only what is committed is read");
            let mut given = bytes[from..from + len].to_vec();
            if rng.below(2) == 0 && !given.is_empty() {
                spoil(&mut given, &mut rng);
            }
            match rng.below(20) {
                0 => Err(std::io::ErrorKind::TimedOut.into()),
                _ => Ok(Bytes::from(given)),
            }
        };
        while let Some(read) = batch.next_read() {
            batch.complete(read.id, give(read.pos, read.len));
        }
        while let Some(read) = locate.next_read() {
            locate.complete(read.id, give(read.pos, read.len));
        }
        let (mut loaded, mut located) = (0, 0);
        while batch.next_done().is_some() {
            loaded += 1;
        }
        while locate.next_done().is_some() {
            located += 1;
        }
        assert_eq!(
            (loaded, located),
            (OIDS + 1, OIDS + 1),
            "every object is answered once"
        );
    }
}

#[test]
fn headers_of_any_bytes_stay_inside_their_container() {
    for (_input, mut rng) in inputs(4) {
        let mut bytes: Vec<u8> = (0..64).map(|_| rng.word().to_le_bytes()[0]).collect();
        for word in bytes.as_chunks_mut::<8>().0 {
            if rng.below(3) > 0 {
                *word = (rng.word() >> rng.below(64)).to_be_bytes();
            }
        }
        bytes.truncate(rng.below(65));
        let (pos, size) = (4 + (rng.word() >> 20), rng.word() >> 16);
        let txn = TxnHeader::view(&bytes);
        assert_eq!(txn.is_some(), bytes.len() >= TXN_HEADER_LEN);
        let data = DataHeader::view(&bytes);
        assert_eq!(data.is_some(), bytes.len() >= DATA_HEADER_LEN);
        let Some(Ok(span)) = txn.map(|t| t.check(pos, Tid(5), size)) else {
            continue;
        };
        assert!(span.pos < span.records && span.records <= span.records_end);
        assert!(span.records_end < span.end && span.end <= size && span.tid > Tid(5));
        let at = span.records + rng.word() % (span.end - span.records);
        if let Some(Ok(next)) = data.map(|d| d.check_in(at, &span)) {
            assert!(next > at && next <= span.records_end);
        }
    }
}
