//! Whether a mountpoint would cover what its own daemon uses.
//!
//! The daemon looks at the database by its path as long as it serves: once a second, and when it was packed. A path that leads
//! through its own mount would have it wait for itself, in a wait that nothing ends.

use crate::store::zurl::Zurl;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// As many symbolic links as the kernel follows.
const LINKS_MAX: usize = 40;

/// A mountpoint that cannot be had.
#[derive(Debug, thiserror::Error)]
#[error(
    "mountpoint {mountpoint} would cover {path}, {what}: the daemon would wait for itself; mount on a directory that it is not in"
)]
pub(super) struct CoverError {
    mountpoint: PathBuf,
    path: PathBuf,
    what: &'static str,
}

/// Refuses a mountpoint, which has no symbolic links, that the database lies in, or one of `logs`.
pub(super) fn check<'a>(
    mountpoint: &Path,
    database: &Zurl,
    logs: impl IntoIterator<Item = &'a Path>,
) -> Result<(), CoverError> {
    let database = database.paths().into_iter();
    let database = database.map(|path| (path, "which the database needs"));
    let logs = logs.into_iter();
    let logs = logs.map(|path| (path.to_owned(), "which the log is written to"));
    for (path, what) in database.chain(logs) {
        if is_in(&path, mountpoint) {
            let mountpoint = mountpoint.to_owned();
            return Err(CoverError {
                mountpoint,
                path,
                what,
            });
        }
    }
    Ok(())
}

/// Whether a file, or what stands beside it, is reached through `dir`.
fn is_in(path: &Path, dir: &Path) -> bool {
    let Ok(path) = std::path::absolute(path) else {
        return false; // an empty one
    };
    // As it is written first: that `dir` may be a trigger that must not be entered.
    path.starts_with(dir) || beside(&path).iter().any(|path| reaches(path, dir))
}

/// A file of a database and those that are found by its name.
fn beside(path: &Path) -> Vec<PathBuf> {
    let with = |suffix: &str| {
        let mut name = path.as_os_str().to_owned();
        name.push(suffix);
        PathBuf::from(name)
    };
    ["", ".index", ".old"].map(with).to_vec()
}

/// Whether one of the directories that a path leads through, by the links in it, is at or below `dir`.
fn reaches(path: &Path, dir: &Path) -> bool {
    let (mut path, mut seen) = (path.to_owned(), BTreeSet::new());
    while seen.len() < LINKS_MAX && seen.insert(path.clone()) {
        let parent = path.parent().unwrap_or(Path::new("/"));
        let real = std::fs::canonicalize(parent).unwrap_or_else(|_| parent.to_owned());
        if real.starts_with(dir) {
            return true;
        }
        match std::fs::read_link(&path) {
            Ok(target) => path = real.join(target),
            Err(_) => return false,
        }
    }
    false
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use std::fs;
    use std::os::unix::fs::symlink;

    #[test]
    fn what_lies_in_a_mountpoint_is_seen_however_it_is_named() {
        let dir = std::env::temp_dir().join(format!("zring-cover-{}", std::process::id()));
        fs::create_dir_all(dir.join("in/deep")).unwrap();
        fs::create_dir_all(dir.join("out")).unwrap();
        let dir = dir.canonicalize().unwrap();
        for name in ["in/deep/Data.fs", "out/Data.fs", "out/Other.fs"] {
            fs::write(dir.join(name), "FS30").unwrap();
        }
        for (target, name) in [
            ("../in/deep/Data.fs", "out/link.fs"),
            ("link.fs", "out/twice.fs"),
            ("../in/deep/index", "out/Other.fs.index"),
            ("../out/Data.fs", "in/back.fs"),
            ("in", "way"),
            ("loop", "loop"),
        ] {
            symlink(target, dir.join(name)).unwrap();
        }
        for (file, mountpoint, is_covered) in [
            ("in/deep/Data.fs", "in", true),
            ("in/deep/Data.fs", "in/deep", true),
            ("in/deep/Missing.fs", "in/deep", true),
            ("way/deep/Data.fs", "in", true),
            ("out/link.fs", "in", true),
            ("out/twice.fs", "in", true),
            ("in/back.fs", "in", true),
            ("out/Other.fs", "in", true),
            ("out/Data.fs", "in", false),
            ("out/Data.fs", "out/mnt", false),
            ("in/deep/Data.fs", "in/de", false),
            ("loop", "in", false),
        ] {
            let found = is_in(&dir.join(file), &dir.join(mountpoint));
            assert_eq!(found, is_covered, "{file} by {mountpoint}");
        }
        let (database, log) = (Zurl::parse("zeo://h:1").unwrap(), dir.join("in/log"));
        let refused = check(&dir.join("in"), &database, [log.as_path()]).unwrap_err();
        assert!(refused.to_string().contains("the log is written to"));
        fs::remove_dir_all(&dir).unwrap();
    }
}
