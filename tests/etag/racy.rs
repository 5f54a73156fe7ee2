//! Equal stamps of different bytes: what statx says is bent, as on file systems with coarse time.

use crate::scene::{Scene, digest};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use zring::base::Stamp;
use zring::engine::etag::{self, Bend, Config, Found, Pulse, Root, Sink};
use zring::etag::{Grain, State, racy};
use zring::store::catalog;

#[derive(Default)]
struct Seen(Mutex<Vec<(State, Option<[u8; 32]>)>>);

impl Sink for Seen {
    fn found(&self, found: &Found<'_>) {
        let digest = found.record.map(|record| record.digest.0);
        self.0.lock().unwrap().push((found.verdict.state, digest));
    }

    fn wants_fresh(&self) -> bool {
        true
    }
}

/// The root with this grain, what is said of it bent, and where its catalog is.
fn opened(scene: &Scene, grain: Grain, bend: Bend) -> (Root, Config, PathBuf) {
    let config = Config {
        bend: Some(bend),
        ..Config::default()
    };
    let mut root = Root::open(&scene.tree, &config).unwrap();
    root.facts.grain = grain;
    let dir = scene.state.join(&root.identity.root_id);
    (root, config, dir)
}

/// Scans with this grain and this bend; what it said of the one file.
fn scan(scene: &Scene, grain: Grain, bend: Bend) -> (State, Option<String>) {
    let (root, config, dir) = opened(scene, grain, bend);
    let catalog = catalog::open(&dir, &root.identity, catalog::place::Wanted::default()).unwrap();
    let seen = Arc::new(Seen::default());
    etag::scan(
        root,
        config,
        catalog,
        Arc::clone(&seen) as Arc<dyn Sink>,
        Pulse::new(),
    )
    .unwrap();
    let all = seen.0.lock().unwrap();
    let (state, digest) = *all.last().unwrap();
    (
        state,
        digest.map(|d| d.iter().map(|b| format!("{b:02x}")).collect()),
    )
}

fn check(scene: &Scene, grain: Grain, bend: Bend) -> State {
    let (root, config, dir) = opened(scene, grain, bend);
    let found = catalog::open_read_only(
        &dir,
        &root.identity,
        catalog::place::Wanted::default(),
        false,
    )
    .unwrap();
    let seen = Arc::new(Seen::default());
    etag::check(
        root,
        config,
        found,
        Arc::clone(&seen) as Arc<dyn Sink>,
        Pulse::new(),
    )
    .unwrap();
    let all = seen.0.lock().unwrap();
    all.last().unwrap().0
}

fn now() -> Stamp {
    let since = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap();
    Stamp::from_nanos(i128::try_from(since.as_nanos()).unwrap())
}

/// Every look shows the moment of the first; at the n-th, the file gets other bytes before anybody goes on.
fn frozen(path: &Path, write_at: usize) -> Bend {
    let (path, looks, first) = (path.to_owned(), AtomicUsize::new(0), Mutex::new(None));
    Arc::new(move |_, _, stat| {
        let stamp = *first.lock().unwrap().get_or_insert_with(now);
        if looks.fetch_add(1, Ordering::Relaxed) + 1 == write_at {
            std::fs::write(&path, "after!").unwrap();
        }
        stat.witness.mtime = stamp;
        stat.witness.ctime = stamp;
    })
}

/// A write right after the bytes were read, within the same tick: stamps are equal, and only the grain can tell.
#[test]
fn a_write_within_one_tick_is_found_out() {
    for (grain, content, retried) in [
        (racy::TICK, "after!", true),
        (Grain::Multi, "before", false),
    ] {
        let scene = Scene::new("tick");
        let path = scene.write("f", "before");
        // The second look is the one after the read. With stamps that tell each write apart it could not show the same.
        let began = std::time::Instant::now();
        let (state, hash) = scan(&scene, grain, frozen(&path, 2));
        assert_eq!(
            (state, hash),
            (State::Fresh, Some(digest(content.as_bytes()))),
            "{grain:?}"
        );
        assert!(
            !retried || began.elapsed().as_millis() >= 20,
            "it waits for a tick"
        );
        assert_eq!(std::fs::read(&path).unwrap(), b"after!");
    }
}

/// Where a moment's pause is not enough to tell, the file stays racy, and is never called fresh.
#[test]
fn what_cannot_be_told_is_racy() {
    let scene = Scene::new("racy");
    scene.write("f", "content");
    // The first two looks show a moment ago; those of the second try, two seconds later, a moment before that one.
    let (first, looks) = (now(), AtomicUsize::new(0));
    let second = Stamp::from_nanos(first.nanos() + 1_900_000_000);
    let bend: Bend = Arc::new(move |_, _, stat| {
        let late = looks.fetch_add(1, Ordering::Relaxed) >= 2;
        stat.witness.mtime = if late { second } else { first };
        stat.witness.ctime = stat.witness.mtime;
    });
    let (state, _) = scan(&scene, racy::FAT, bend);
    assert_eq!(state, State::Racy);
    // A record that was racy when it was made is racy for a check, whatever the stamps say by now.
    let bend: Bend = Arc::new(move |_, _, stat| {
        stat.witness.mtime = second;
        stat.witness.ctime = second;
    });
    assert_eq!(check(&scene, racy::FAT, bend), State::Racy);
}

#[test]
fn the_future_is_racy_and_the_far_past_is_not() {
    let scene = Scene::new("future");
    let file = std::fs::File::options()
        .write(true)
        .open(scene.write("f", "x"))
        .unwrap();
    let ahead = std::time::SystemTime::now() + std::time::Duration::from_secs(5000);
    file.set_modified(ahead).unwrap();
    scene.etag(&["scan", "-q"]).expect(3, &["racy\tf"]);
    scene.etag(&["check", "-q"]).expect(1, &["racy\tf"]);
    let before_1970 = std::time::UNIX_EPOCH - std::time::Duration::from_millis(1_234_567);
    file.set_modified(before_1970).unwrap();
    scene.etag(&["scan", "-q"]).expect(0, &[]);
    let json = scene.etag(&["check", "-q", "--all", "--format", "json"]);
    assert!(
        json.text().contains("\"mtime_ns\":-1234567000000,"),
        "{json:?}"
    );
    scene.etag(&["check", "-q"]).expect(0, &[]);
}

/// Each look is followed by a change: whatever is read is not what was looked at.
#[test]
fn a_file_that_keeps_changing_is_never_fresh() {
    let scene = Scene::new("growing");
    for large in [false, true] {
        let path = scene.write("log", &"x".repeat(if large { 9 << 20 } else { 1000 }));
        let bend: Bend = Arc::new(move |_, _, _| {
            use std::io::Write as _;
            let mut file = std::fs::File::options().append(true).open(&path).unwrap();
            file.write_all(b"more").unwrap();
        });
        assert_eq!(scan(&scene, Grain::Multi, bend).0, State::Racy);
        // Left in peace it is hashed.
        scene
            .etag(&["check", "-q"])
            .expect(1, &[if large { "stale\tlog" } else { "new\tlog" }]);
        assert_eq!(scene.etag(&["scan", "-q"]).code, Some(0));
        assert_eq!(scene.exported(), scene.truth());
    }
}

/// Names that the kernel gave, and that are gone or something else by the time somebody asks.
#[test]
fn what_vanishes_or_turns_into_something_else_is_no_error() {
    let scene = Scene::new("vanish");
    for i in 0..6 {
        scene.write(&format!("f{i}"), "content");
    }
    assert_eq!(scene.etag(&["scan", "-q"]).code, Some(0));
    // At the first look all others go; those that are known are gone, and nothing else is said.
    let tree = scene.tree.clone();
    let looks = AtomicUsize::new(0);
    let bend: Bend = Arc::new(move |_, name, _| {
        if looks.fetch_add(1, Ordering::Relaxed) == 0 {
            for entry in std::fs::read_dir(&tree).unwrap() {
                let path = entry.unwrap().path();
                if path.file_name().unwrap().as_encoded_bytes() != name {
                    std::fs::remove_file(path).unwrap();
                }
            }
        }
    });
    let (root, config, dir) = opened(&scene, Grain::Multi, bend);
    let config = Config {
        threads: 1,
        ..config
    };
    let wanted = catalog::place::Wanted::default();
    let found = catalog::open_read_only(&dir, &root.identity, wanted, false).unwrap();
    let seen = Arc::new(Seen::default());
    let sink = Arc::clone(&seen) as Arc<dyn Sink>;
    let sum = etag::check(root, config, found, sink, Pulse::new()).unwrap();
    let all: Vec<State> = seen
        .0
        .lock()
        .unwrap()
        .iter()
        .map(|(state, _)| *state)
        .collect();
    assert_eq!(
        all.iter().filter(|s| **s == State::Gone).count(),
        5,
        "{all:?}"
    );
    assert_eq!(
        (sum.state(State::Fresh), sum.state(State::Unreadable)),
        (1, 0)
    );
}

/// A file that is a fifo by the time it is opened: nothing is read of it, and nobody waits.
#[test]
fn what_became_a_fifo_is_not_read() {
    use std::io::{Read as _, Write as _};
    let scene = Scene::new("fifo");
    let path = scene.write("f", "content");
    let fifo: Arc<Mutex<Option<std::fs::File>>> = Arc::default();
    let (kept, looks) = (Arc::clone(&fifo), AtomicUsize::new(0));
    let bend: Bend = Arc::new(move |_, _, _| {
        if looks.fetch_add(1, Ordering::Relaxed) == 0 {
            std::fs::remove_file(&path).unwrap();
            nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
            let mut both = std::fs::File::options()
                .read(true)
                .write(true)
                .open(&path)
                .unwrap();
            both.write_all(b"letter").unwrap();
            *kept.lock().unwrap() = Some(both);
        }
    });
    let (state, _) = scan(&scene, Grain::Multi, bend);
    assert_eq!(state, State::Skipped);
    let mut letter = [0; 6];
    let mut fifo = fifo.lock().unwrap().take().expect("it was made");
    fifo.read_exact(&mut letter).unwrap();
    assert_eq!(&letter, b"letter", "all of it is there");
}

/// Where stamps are coarse, the write of an attribute makes a file look changed just now; in the end it is fresh all the same.
#[test]
fn an_attribute_that_is_written_makes_nothing_uncertain_for_long() {
    let scene = Scene::new("own");
    let path = scene.write("f", "content");
    let bend: Bend = Arc::new(|_, _, _| ());
    let (mut root, config, dir) = opened(&scene, racy::TICK, bend);
    root.facts.grain = racy::TICK;
    let config = Config {
        xattr: etag::XattrUse::Write,
        ..config
    };
    let catalog = catalog::open(&dir, &root.identity, catalog::place::Wanted::default()).unwrap();
    let (seen, pulse) = (Arc::new(Seen::default()), Pulse::new());
    let sink = Arc::clone(&seen) as Arc<dyn Sink>;
    let (sum, _) = etag::scan(root, config, catalog, sink, pulse).unwrap();
    if sum.attrs_failed > 0 {
        return crate::scene::lack("user attributes in the temporary directory");
    }
    assert_eq!((sum.state(State::Fresh), sum.state(State::Racy)), (1, 0));
    scene.etag(&["check", "-q"]).expect(0, &[]);
    assert_eq!(std::fs::read(&path).unwrap(), b"content");
}
