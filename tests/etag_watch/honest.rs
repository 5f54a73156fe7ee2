//! Random changes: whatever differs afterwards was told of.
//!
//! A tree is looked at before and after a burst of changes. Each path whose inode, length or times differ, or that is there only
//! once, has to be told of by its own name, or by the name of a directory above it that came or went.

use crate::scene::{drain, everywhere};
use std::collections::BTreeMap;
use std::fs::{self, OpenOptions};
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use zring::kernel::watch::Watcher;
use zring::wire::fsevent::Mask;

type Look = BTreeMap<Vec<u8>, [i64; 6]>;

fn look(root: &Path, dir: &Path, out: &mut Look) {
    for entry in fs::read_dir(dir).unwrap().map(Result::unwrap) {
        let meta = entry.metadata().unwrap();
        let path = entry.path();
        if meta.is_dir() {
            look(root, &path, out);
        } else {
            let rel = path.strip_prefix(root).unwrap();
            let sign = [
                meta.ino().cast_signed(),
                meta.size().cast_signed(),
                meta.mtime(),
                meta.mtime_nsec(),
                meta.ctime(),
                meta.ctime_nsec(),
            ];
            out.insert(rel.as_os_str().as_bytes().to_vec(), sign);
        }
    }
}

struct Rng(u64);

impl Rng {
    fn below(&mut self, n: usize) -> usize {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        usize::try_from(self.0 >> 33).unwrap() % n
    }

    /// A path of a few names over few letters, so that changes meet.
    fn path(&mut self, root: &Path) -> PathBuf {
        let depth = 1 + self.below(3);
        (0..depth).fold(root.to_owned(), |path, _| {
            let name = ["a", "b", "c", "d"][self.below(4)];
            path.join(name)
        })
    }
}

/// One change; most fail now and then, as the path is something else, or nothing.
fn change(rng: &mut Rng, root: &Path) {
    let path = rng.path(root);
    let write = |append: bool| {
        let mut options = OpenOptions::new();
        options
            .create(true)
            .append(append)
            .write(true)
            .truncate(!append);
        if let Ok(mut file) = options.open(&path) {
            let _ = file.write_all(b"some bytes");
        }
    };
    match rng.below(9) {
        0 => drop(fs::create_dir_all(&path)),
        1 | 2 => write(false),
        3 => write(true),
        4 => drop(fs::remove_file(&path)),
        5 => drop(fs::remove_dir_all(&path)),
        6 => drop(fs::rename(&path, rng.path(root))),
        7 => {
            let mode = 0o700 + u32::try_from(rng.below(2)).unwrap() * 0o44;
            let _ = fs::set_permissions(&path, PermissionsExt::from_mode(mode));
        }
        _ => {
            if let Ok(file) = OpenOptions::new().write(true).open(&path) {
                let _ = file.set_len(3);
            }
        }
    }
}

#[test]
fn whatever_differs_was_told_of() {
    everywhere(|root, engine| {
        let seed = std::env::var("ZRING_SEED")
            .ok()
            .and_then(|s| s.parse().ok());
        let seed: u64 = seed.unwrap_or(1);
        let mut rng = Rng(seed);
        let mut watcher = Watcher::open(root, false, Some(engine)).unwrap();
        let mut differences = 0;
        for round in 0..60 {
            let (mut before, mut after) = (Look::new(), Look::new());
            look(root, root, &mut before);
            for _ in 0..rng.below(40) {
                change(&mut rng, root);
            }
            let events = drain(&mut watcher);
            look(root, root, &mut after);
            let mut names: Vec<&Vec<u8>> = before.keys().chain(after.keys()).collect();
            names.sort();
            names.dedup();
            for name in names {
                if before.get(name) == after.get(name) {
                    continue;
                }
                differences += 1;
                let covers = |e: &zring::kernel::watch::Event| {
                    let rest = name.strip_prefix(&e.path[..]);
                    let whole = e.mask.any(Mask::DIR);
                    rest.is_some_and(|rest| match rest {
                        [] => true,
                        [b'/', ..] => whole,
                        _ => false,
                    })
                };
                assert!(
                    events.iter().any(covers),
                    "{engine:?}, seed {seed}, round {round}: {} is not told of in {events:?}",
                    String::from_utf8_lossy(name)
                );
            }
            assert!(watcher.unwatched().is_empty());
        }
        assert!(differences > 80, "{differences}");
    });
}
