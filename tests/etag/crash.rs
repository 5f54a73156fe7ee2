//! A scan that is killed at any moment leaves a catalog that loads, and nothing in it is wrong.

use crate::oracle::change;
use crate::scene::{Rng, Scene, number};
use std::process::Stdio;
use std::time::Duration;

#[test]
fn what_is_killed_leaves_nothing_wrong() {
    let scene = Scene::new("crash");
    let mut rng = Rng::seeded(1004);
    // Many names of some length make the journal grow fast: a generation every other scan.
    for dir in 0..8 {
        for i in 0..400 {
            scene.write(&format!("many{dir}/{}{i}", "n".repeat(200)), &i.to_string());
        }
    }
    assert_eq!(scene.etag(&["scan", "-q"]).code, Some(0));
    let kills = number("ZRING_ETAG_KILLS", 12);
    let mut alive = 0;
    for kill in 0..kills {
        for _ in 0..10 {
            change(&mut rng, &scene);
        }
        for _ in 0..600 {
            let (dir, i) = (rng.below(8), rng.below(400));
            scene.write(
                &format!("many{dir}/{}{i}", "n".repeat(200)),
                &format!("{kill}/{i}"),
            );
        }
        let mut command = scene.command(&["scan", "-q"]);
        command
            .arg(&scene.tree)
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        let mut child = command.spawn().unwrap();
        std::thread::sleep(Duration::from_micros(rng.below(120_000) as u64));
        alive += usize::from(child.try_wait().unwrap().is_none());
        child.kill().unwrap();
        child.wait().unwrap();
        let check = scene.etag(&["check", "-q"]);
        assert!(matches!(check.code, Some(0 | 1)), "kill {kill}: {check:?}");
        if kill % 3 == 2 {
            let scan = scene.etag(&["scan", "-q"]);
            assert_eq!(scan.code, Some(0), "kill {kill}: {scan:?}");
            assert_eq!(scene.exported(), scene.truth(), "kill {kill}");
        }
    }
    assert!(alive > 0 || kills < 5, "no scan was ever killed at work");
    println!("{alive} of {kills} scans were killed at work");
}

/// Damage of any kind costs records, and nothing that is wrong is believed.
#[test]
fn a_damaged_catalog_costs_work_and_nothing_else() {
    let scene = Scene::new("damage");
    let mut rng = Rng::seeded(5);
    for dir in 0..6 {
        for i in 0..900 {
            scene.write(
                &format!("d{dir}/{}{i}", "n".repeat(150)),
                &format!("{dir} {i}"),
            );
        }
    }
    assert_eq!(scene.etag(&["scan", "-q"]).code, Some(0));
    let truth = scene.truth();
    for _ in 0..number("ZRING_ETAG_KILLS", 12) {
        let files: Vec<_> = std::fs::read_dir(scene.catalog())
            .unwrap()
            .map(|e| e.unwrap().path())
            .collect();
        let files: Vec<_> = files
            .iter()
            .filter(|f| f.metadata().unwrap().len() > 0 && !f.ends_with("MANIFEST"))
            .collect();
        let file = files[rng.below(files.len())];
        let mut bytes = std::fs::read(file).unwrap();
        match rng.below(3) {
            0 => {
                let at = rng.below(bytes.len());
                bytes[at] ^= 1 << rng.below(8);
            }
            1 => bytes.truncate(rng.below(bytes.len())),
            _ => {
                let at = rng.below(bytes.len());
                let end = (at + 4096).min(bytes.len());
                bytes[at..end].fill(0);
            }
        }
        std::fs::write(file, bytes).unwrap();
        let check = scene.etag(&["export", "-0", "-q"]);
        assert!(matches!(check.code, Some(0 | 3)), "{check:?}");
        for line in check.out.split(|&c| c == 0).filter(|l| !l.is_empty()) {
            assert_eq!(truth[&line[66..]].as_bytes(), &line[..64]);
        }
        let scan = scene.etag(&["scan", "-q"]);
        assert_eq!(scan.code, Some(0), "{scan:?}");
        assert_eq!(scene.exported(), truth);
    }
}
