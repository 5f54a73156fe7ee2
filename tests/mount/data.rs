//! Databases for tests: made by `make_zodb.py`, kept under `target/tmp` by what they were made of.
//!
//! The generator gives the same bytes for the same arguments, so a database made once serves every test and transport.
//! Kept databases are never written to: a test that changes one takes a `copy`.

use std::collections::hash_map::DefaultHasher;
use std::fs::{self, File};
use std::hash::{Hash, Hasher};
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::fcntl::{Flock, FlockArg};

use crate::machine::{python, tool};
use crate::rig::Rig;

/// A database file and the manifest of what is in it.
#[derive(Debug, Clone)]
pub(crate) struct Database {
    pub(crate) fs: PathBuf,
    pub(crate) manifest: PathBuf,
}

/// Makes (or finds) the database of `make_zodb.py gen <args>`. None, and said, when there is no Python for it.
pub(crate) fn database(rig: &Rig, args: &str) -> Option<Database> {
    let python = python()?;
    let mut hash = DefaultHasher::new();
    (args, fs::read(tool("make_zodb.py")).unwrap(), python).hash(&mut hash);
    fs::read(tool("requirements.txt")).unwrap().hash(&mut hash);
    let keep = Path::new(env!("CARGO_TARGET_TMPDIR")).join("zodb");
    fs::create_dir_all(&keep).unwrap();
    let dir = keep.join(format!("{:016x}", hash.finish()));
    let lock = File::create(dir.with_extension("lock")).unwrap();
    let _lock = Flock::lock(lock, FlockArg::LockExclusive).unwrap();
    if !dir.exists() {
        let part = dir.with_extension("part");
        let _ = fs::remove_dir_all(&part);
        fs::create_dir(&part).unwrap();
        generate(rig, &Database::below(&part), args);
        fs::write(part.join("args"), args).unwrap();
        fs::rename(&part, &dir).unwrap();
    }
    Some(Database::below(&dir))
}

fn generate(rig: &Rig, to: &Database, args: &str) {
    let mut c = rig.tool("make_zodb.py");
    c.arg("gen").arg("--target").arg(&to.fs);
    c.arg("--manifest").arg(&to.manifest);
    c.args(args.split_whitespace());
    rig.run(&mut c, Duration::from_secs(300)).good();
}

impl Database {
    fn below(dir: &Path) -> Self {
        Self {
            fs: dir.join("Data.fs"),
            manifest: dir.join("manifest.json"),
        }
    }

    /// The same in the rig, free to be changed, with its index file when there is one.
    pub(crate) fn copy(&self, rig: &Rig, name: &str) -> Self {
        let dir = rig.path(name);
        fs::create_dir_all(&dir).unwrap();
        let to = Self::below(&dir);
        fs::copy(&self.fs, &to.fs).unwrap();
        fs::copy(&self.manifest, &to.manifest).unwrap();
        let index = |d: &Self| d.fs.with_extension("fs.index");
        if index(self).exists() {
            fs::copy(index(self), index(&to)).unwrap();
        }
        to
    }

    /// Oids of the files, in the order of their names.
    pub(crate) fn oids(&self) -> Vec<String> {
        let text = fs::read_to_string(&self.manifest).unwrap();
        values(&text, "oid")
    }

    /// Tids of the revisions, oldest first.
    pub(crate) fn tids(&self) -> Vec<String> {
        let text = fs::read_to_string(&self.manifest).unwrap();
        values(&text, "tid")
    }

    /// A manifest of the revisions up to and including `at`; None when there is none.
    pub(crate) fn up_to(&self, rig: &Rig, at: &str) -> Option<PathBuf> {
        let n = self.tids().iter().filter(|t| t.as_str() <= at).count();
        if n == 0 {
            return None;
        }
        let to = self.manifest.with_file_name(format!("upto{n}.json"));
        let mut c = rig.tool("cut_manifest.py");
        c.arg(&self.manifest).arg(at).arg(&to);
        rig.run(&mut c, crate::rig::SHORT).good();
        Some(to)
    }

    /// Every transaction in the file: tid, and where it ends.
    pub(crate) fn transactions(&self) -> Vec<(String, u64)> {
        transactions(&fs::read(&self.fs).unwrap())
    }
}

/// The strings that follow `"key":"` in a text of JSON that has no spaces, as the generator writes it.
pub(crate) fn values(json: &str, key: &str) -> Vec<String> {
    let mark = format!("\"{key}\":\"");
    json.split(&mark)
        .skip(1)
        .filter_map(|rest| Some(rest.split_once('"')?.0.to_owned()))
        .collect()
}

/// A FileStorage's whole transactions: 8 bytes tid, 8 bytes length without the copy of it that ends the record.
fn transactions(file: &[u8]) -> Vec<(String, u64)> {
    let number = |at: usize| Some(u64::from_be_bytes(file.get(at..at + 8)?.try_into().ok()?));
    let (mut out, mut at) = (Vec::new(), 4);
    while let (Some(tid), Some(len)) = (number(at), number(at + 8)) {
        let end = at + usize::try_from(len).unwrap();
        if number(end) != Some(len) {
            break;
        }
        at = end + 8;
        out.push((format!("{tid:016x}"), u64::try_from(at).unwrap()));
    }
    out
}

#[test]
fn values_are_found() {
    let json = r#"{"files":{"f0":{"oid":"0a"},"f1":{"oid":"0b"}},"revisions":[{"tid":"1"}]}"#;
    assert_eq!(values(json, "oid"), ["0a", "0b"]);
    assert_eq!(values(json, "tid"), ["1"]);
}

#[test]
fn whole_transactions_are_counted() {
    let mut file = b"FS30".to_vec();
    for tid in 1..=3u64 {
        file.extend(tid.to_be_bytes());
        file.extend(23u64.to_be_bytes());
        file.extend([b' ', 0, 0, 0, 0, 0, 0]);
        file.extend(23u64.to_be_bytes());
    }
    let ends = |f: &[u8]| {
        transactions(f)
            .into_iter()
            .map(|(_, e)| e)
            .collect::<Vec<_>>()
    };
    assert_eq!(ends(&file), [35, 66, 97]);
    assert_eq!(ends(&file[..96]), [35, 66]);
    assert_eq!(ends(&file[..4]), [0u64; 0]);
}
