//! After any changes, what is exported is what the bytes say.

use crate::scene::{Rng, Scene, number};
use std::fs::File;
use std::io::{Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

/// A directory and a name out of few, so that changes meet.
fn pick(rng: &mut Rng, scene: &Scene) -> PathBuf {
    let dirs = ["", "a", "a/b", "a/b/c", "z", "z y"];
    let names = [
        "f",
        "g",
        "h.tmp",
        "new\nline",
        "back\\slash",
        "-dash",
        "\u{e9}",
        "x",
    ];
    let dir = scene.path(dirs[rng.below(dirs.len())]);
    let _ = std::fs::create_dir_all(&dir);
    dir.join(names[rng.below(names.len())])
}

fn content(rng: &mut Rng) -> Vec<u8> {
    let len = match rng.below(12) {
        0 => 0,
        1 => 100_000 + rng.below(400_000),
        2 => 131_071 + rng.below(3),
        _ => 1 + rng.below(3000),
    };
    let byte = rng.below(256);
    (0..len)
        .map(|i| u8::try_from((i * 31 + byte) % 251).unwrap())
        .collect()
}

#[allow(unsafe_code, reason = "a mapping is made")]
/// Stores through a mapping, without a call that a file system would see.
fn store(path: &Path, rng: &mut Rng) {
    let Ok(file) = File::options().read(true).write(true).open(path) else {
        return;
    };
    if file.metadata().is_ok_and(|m| m.is_file() && m.len() > 0) {
        // SAFETY: nobody else changes or cuts the file while it is mapped: changes are made one by one.
        let mut map = unsafe { memmap2::MmapMut::map_mut(&file) }.unwrap();
        let at = rng.below(map.len());
        map[at] = map[at].wrapping_add(1);
    }
}

/// One random change.
pub(crate) fn change(rng: &mut Rng, scene: &Scene) {
    let path = pick(rng, scene);
    let is_file = std::fs::symlink_metadata(&path).is_ok_and(|m| m.is_file());
    match rng.below(14) {
        0..=2 => drop(std::fs::write(&path, content(rng))),
        3 if is_file => {
            let mut file = File::options().append(true).open(&path).unwrap();
            file.write_all(&content(rng)).unwrap();
        }
        4 if is_file => {
            let file = File::options().write(true).open(&path).unwrap();
            file.set_len(rng.below(2000) as u64).unwrap();
        }
        5 => {
            let other = pick(rng, scene);
            let _ = std::fs::rename(&path, other);
        }
        6 => {
            let other = pick(rng, scene);
            let _ = std::fs::hard_link(&path, other);
        }
        7 if is_file => {
            use std::os::unix::fs::PermissionsExt;
            let mode = 0o600 | u32::try_from(rng.below(64)).unwrap();
            std::fs::set_permissions(&path, PermissionsExt::from_mode(mode)).unwrap();
        }
        8 if is_file => {
            // As tools do that keep times: the bytes change, the mtime is put back.
            let file = File::options().write(true).open(&path).unwrap();
            let before = file.metadata().unwrap().modified().unwrap();
            (&file).seek(SeekFrom::Start(0)).unwrap();
            (&file).write_all(b"quietly").unwrap();
            file.set_modified(before).unwrap();
        }
        9 if is_file => {
            let file = File::options().write(true).open(&path).unwrap();
            let ago = Duration::from_secs(rng.below(4_000_000) as u64);
            file.set_modified(SystemTime::now() - ago).unwrap();
        }
        10 => store(&path, rng),
        11 => {
            // Another inode of the same size and mtime in its place.
            let new = scene.path("replacement");
            std::fs::write(&new, b"12345678").unwrap();
            let _ = std::fs::rename(&new, &path);
        }
        12 => drop(std::fs::remove_file(&path)),
        13 if rng.below(6) == 0 => {
            let dir = path.parent().unwrap();
            if dir != scene.tree {
                let _ = std::fs::remove_dir_all(dir);
            }
        }
        _ => drop(std::os::unix::fs::symlink("f", &path)),
    }
}

#[test]
fn an_export_is_what_the_bytes_say() {
    let scene = Scene::new("oracle");
    let mut rng = Rng::seeded(4);
    let rounds = number("ZRING_ETAG_ROUNDS", 12);
    for round in 0..rounds {
        for _ in 0..30 {
            change(&mut rng, &scene);
        }
        let scan = scene.etag(&["scan", "-q", "--settle", "35s"]);
        assert_eq!(scan.code, Some(0), "round {round}: {scan:?}");
        assert_eq!(scene.exported(), scene.truth(), "round {round}");
        let quick = scene.etag(&["check", "-q", "--quick"]);
        quick.expect(0, &[]);
    }
}

/// What a check says between a change and a scan is never "fresh" of a file that changed.
#[test]
fn nothing_that_changed_is_called_fresh() {
    let scene = Scene::new("between");
    let mut rng = Rng::seeded(77);
    for round in 0..number("ZRING_ETAG_ROUNDS", 12) {
        for _ in 0..20 {
            change(&mut rng, &scene);
        }
        let ran = scene.etag(&["export", "-0", "-q"]);
        let truth = scene.truth();
        for line in ran.out.split(|&c| c == 0).filter(|l| !l.is_empty()) {
            let digest = std::str::from_utf8(&line[..64]).unwrap();
            assert_eq!(
                truth.get(&line[66..]).map(String::as_str),
                Some(digest),
                "round {round}"
            );
        }
        assert_eq!(scene.etag(&["scan", "-q"]).code, Some(0));
    }
}
