//! What ZODB itself says of a database, to compare stores with.
//!
//! Needs `ZRING_PYTHON`, a Python with ZODB. Without it these tests say so and pass, unless `ZRING_TESTS_FULL`
//! is 1. `tests/tools/make_zodb.py` writes databases, `filestorage.py` beside this file is the oracle.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use zring::base::{Oid, Tid};
use zring::store::file::FileView;
use zring::store::remote::RemoteView;
use zring::store::{LoadError, Loaded, View};

/// The Python to use; `None` if these tests are to be skipped.
pub(crate) fn python() -> Option<String> {
    let python = std::env::var("ZRING_PYTHON").ok();
    if python.is_none() {
        println!("skipped: ZRING_PYTHON is not set");
        assert_ne!(
            std::env::var("ZRING_TESTS_FULL").as_deref(),
            Ok("1"),
            "ZRING_PYTHON is not set"
        );
    }
    python
}

pub(crate) fn script(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests")
        .join(name)
}

pub(crate) fn command(python: &str, file: &str, args: &[&str]) -> Command {
    let mut command = Command::new(python);
    command.arg(script(file)).args(args).stderr(Stdio::null());
    command
}

pub(crate) fn run(python: &str, file: &str, args: &[&str]) -> String {
    let out = Command::new(python)
        .arg(script(file))
        .args(args)
        .output()
        .unwrap();
    assert!(
        out.status.success(),
        "{file} {args:?}: {}",
        String::from_utf8_lossy(&out.stderr)
    );
    String::from_utf8(out.stdout).unwrap()
}

pub(crate) fn make(python: &str, args: &[&str]) -> String {
    run(python, "tools/make_zodb.py", args)
}

pub(crate) fn oracle(python: &str, args: &[&str]) -> String {
    run(python, "compat/filestorage.py", args)
}

/// A directory that goes away.
pub(crate) struct Dir(pub(crate) PathBuf);

impl Dir {
    pub(crate) fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let n = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("zring-compat-fs-{}-{n}", std::process::id());
        let dir = std::env::temp_dir().join(name);
        std::fs::create_dir(&dir).unwrap();
        Self(dir)
    }

    pub(crate) fn file(&self, name: &str) -> String {
        self.0.join(name).to_str().unwrap().to_owned()
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        drop(std::fs::remove_dir_all(&self.0));
    }
}

/// What ZODB says of a file.
pub(crate) struct Dump {
    pub(crate) txns: Vec<(Tid, Vec<Oid>)>,
    pub(crate) loads: BTreeMap<(Oid, Tid), String>,
}

impl Dump {
    pub(crate) fn new(python: &str, path: &str) -> Self {
        let (mut txns, mut loads) = (Vec::new(), BTreeMap::new());
        let tid = |text: &str| Tid::parse(text.as_bytes()).unwrap();
        let oid = |text: &str| Oid::parse(text.as_bytes()).unwrap();
        for line in oracle(python, &["dump", path]).lines() {
            let mut words = line.splitn(4, ' ');
            match words.next().unwrap() {
                "txn" => {
                    let at = tid(words.next().unwrap());
                    let oids = words
                        .next()
                        .unwrap_or("")
                        .split(',')
                        .filter(|o| !o.is_empty());
                    txns.push((at, oids.map(oid).collect()));
                }
                _ => {
                    let oid = oid(words.next().unwrap());
                    let at = tid(words.next().unwrap());
                    loads.insert((oid, at), words.next().unwrap().to_owned());
                }
            }
        }
        Self { txns, loads }
    }

    /// Compares a view with all of it; gives the number of questions.
    pub(crate) fn check(&self, view: &impl Answers) -> usize {
        let newer = self.txns.iter().filter(|txn| txn.0 > view.at());
        let newer: BTreeSet<_> = newer.flat_map(|txn| txn.1.iter().copied()).collect();
        let wanted = self.loads.keys().filter(|key| key.1 <= view.at());
        let answers = view.answers(wanted.copied().collect());
        for ((oid, at), says) in answers {
            let said = &self.loads[&(oid, at)];
            // To an older view, what was first stored after it does not exist.
            let unborn = said == "none" && says == "gone" && newer.contains(&oid);
            assert!(
                unborn || &says == said,
                "{oid} at {at}: {says}, ZODB says {said}"
            );
        }
        self.loads.len()
    }
}

/// An object as of a state, and what is said of it.
pub(crate) type Answer = ((Oid, Tid), String);

/// A view that is asked for many objects: one after the other, unless it has something better.
pub(crate) trait Answers: View {
    fn answers(&self, wanted: Vec<(Oid, Tid)>) -> Vec<Answer> {
        let says = |(oid, at)| ((oid, at), words(oid, at, self.load(oid, at)));
        wanted.into_iter().map(says).collect()
    }
}

impl Answers for FileView {}

impl Answers for RemoteView {
    fn answers(&self, wanted: Vec<(Oid, Tid)>) -> Vec<Answer> {
        let count = wanted.len();
        let all = self.load_many(wanted);
        assert_eq!(all.len(), count);
        let says = |(oid, at, loaded)| ((oid, at), words(oid, at, loaded));
        all.into_iter().map(says).collect()
    }
}

fn words(oid: Oid, at: Tid, loaded: Result<Loaded, LoadError>) -> String {
    match loaded {
        Ok(found) => format!("{} {}", found.serial, sha1(&found.data)),
        Err(LoadError::NotYet) => "none".to_owned(),
        Err(LoadError::NoObject | LoadError::Deleted { .. } | LoadError::Gone { .. }) => {
            "gone".to_owned()
        }
        Err(error) => panic!("{oid} at {at}: {error}"),
    }
}

/// SHA-1, for no other reason than to compare short lines.
pub(crate) fn sha1(data: &[u8]) -> String {
    let mut h: [u32; 5] = [
        0x6745_2301,
        0xefcd_ab89,
        0x98ba_dcfe,
        0x1032_5476,
        0xc3d2_e1f0,
    ];
    let mut padded = data.to_vec();
    padded.push(0x80);
    while padded.len() % 64 != 56 {
        padded.push(0);
    }
    padded.extend_from_slice(&(data.len() as u64 * 8).to_be_bytes());
    for block in padded.as_chunks::<64>().0 {
        let mut w = [0u32; 80];
        for (w, bytes) in w.iter_mut().zip(block.as_chunks::<4>().0) {
            *w = u32::from_be_bytes(*bytes);
        }
        for i in 16..80 {
            w[i] = (w[i - 3] ^ w[i - 8] ^ w[i - 14] ^ w[i - 16]).rotate_left(1);
        }
        let [mut a, mut b, mut c, mut d, mut e] = h;
        for (i, w) in w.iter().enumerate() {
            let (f, k) = match i / 20 {
                0 => (b & c | !b & d, 0x5a82_7999),
                1 => (b ^ c ^ d, 0x6ed9_eba1),
                2 => (b & c | b & d | c & d, 0x8f1b_bcdc),
                _ => (b ^ c ^ d, 0xca62_c1d6_u32),
            };
            let next = a
                .rotate_left(5)
                .wrapping_add(f)
                .wrapping_add(e)
                .wrapping_add(k)
                .wrapping_add(*w);
            (e, d, c, b, a) = (d, c, b.rotate_left(30), a, next);
        }
        for (h, add) in h.iter_mut().zip([a, b, c, d, e]) {
            *h = h.wrapping_add(add);
        }
    }
    h.iter().map(|word| format!("{word:08x}")).collect()
}
