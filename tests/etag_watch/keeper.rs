//! The loop that keeps what is known of a tree current, with a tree that knows the bytes of every file.
//!
//! A thread watches; this one makes changes, waits until nothing is left to be looked at, and compares.

use crate::machine::lack;
use crate::scene::{Dir, ENGINES, flooded};
use nix::sys::eventfd::{EfdFlags, EventFd};
use std::collections::BTreeMap;
use std::fs;
use std::os::fd::AsFd;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use zring::engine::etag::Pulse;
use zring::engine::etag::watch::{self, Ended, Left, Opts, Said, Tree};
use zring::etag::nominate::{Nominee, Rules, Tally};
use zring::kernel::watch::Engine;

type Known = BTreeMap<Vec<u8>, Vec<u8>>;

/// Knows the bytes of every file.
#[derive(Clone)]
struct Bytes {
    root: PathBuf,
    known: Arc<Mutex<Known>>,
    /// How often a file was read.
    reads: Arc<AtomicU32>,
    /// Paths that are said not to be in order, so many times.
    refuses: Arc<AtomicU32>,
    slow: Arc<AtomicBool>,
}

impl Bytes {
    fn of(root: &Path) -> Self {
        Self {
            root: root.to_owned(),
            known: Arc::default(),
            reads: Arc::default(),
            refuses: Arc::default(),
            slow: Arc::default(),
        }
    }

    fn read(&self, path: &Path, out: &mut Known) {
        let Ok(meta) = fs::symlink_metadata(path) else {
            return;
        };
        if meta.is_dir() {
            for entry in fs::read_dir(path).into_iter().flatten().flatten() {
                self.read(&entry.path(), out);
            }
        } else if let Ok(bytes) = fs::read(path) {
            self.reads.fetch_add(1, Ordering::Relaxed);
            let rel = path.strip_prefix(&self.root).unwrap();
            out.insert(rel.as_os_str().as_bytes().to_vec(), bytes);
        }
    }

    fn now(&self) -> Known {
        let mut out = Known::new();
        self.read(&self.root, &mut out);
        out
    }
}

impl Tree for Bytes {
    type Error = &'static str;

    fn pass(&mut self, pulse: &Arc<Pulse>) -> Result<Left, Self::Error> {
        if !self.root.exists() {
            return Err("the root is gone");
        }
        while self.slow.load(Ordering::Relaxed) && !pulse.is_cancelled() {
            std::thread::sleep(Duration::from_millis(5));
        }
        *self.known.lock().unwrap() = self.now();
        Ok(Left::default())
    }

    fn look(&mut self, nominees: &[Nominee], _: &Arc<Pulse>) -> Result<Left, Self::Error> {
        let refuse = Ordering::Relaxed;
        let less = self
            .refuses
            .fetch_update(refuse, refuse, |n| n.checked_sub(1));
        if less.is_ok() {
            let again = nominees.to_vec();
            return Ok(Left { again });
        }
        let mut known = self.known.lock().unwrap();
        for nominee in nominees {
            let below = [&nominee.path[..], b"/"].concat();
            known.retain(|path, _| {
                *path != nominee.path && !(nominee.tree && path.starts_with(&below))
            });
            let path = std::ffi::OsString::from_vec(nominee.path.clone());
            let path = self.root.join(path);
            // A directory that goes alone is looked at when its own things are.
            if nominee.tree || !path.is_dir() {
                self.read(&path, &mut known);
            }
        }
        Ok(Left::default())
    }
}

struct Keeper {
    tree: Bytes,
    said: Arc<Mutex<Vec<Said>>>,
    stop: Arc<EventFd>,
    thread: Option<JoinHandle<Result<Tally, Ended<&'static str>>>>,
}

fn quick(root: &Path, engine: Engine) -> Opts {
    let mut opts = Opts::new(root.to_owned());
    opts.engine = Some(engine);
    opts.rules = Rules {
        settled: Duration::from_millis(20),
        grain: Duration::from_millis(10),
        writing: Duration::from_millis(60),
        longest: Duration::from_millis(300),
        between: Duration::from_millis(20),
        ..Rules::default()
    };
    opts
}

impl Keeper {
    fn start(tree: Bytes, opts: Opts) -> Self {
        let said = Arc::<Mutex<Vec<Said>>>::default();
        let flags = EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK;
        let stop = Arc::new(EventFd::from_value_and_flags(0, flags).unwrap());
        let (tell, halt, looks) = (Arc::clone(&said), Arc::clone(&stop), tree.clone());
        let body = move || {
            let mut say = |what| tell.lock().unwrap().push(what);
            watch::run(&opts, looks, halt.as_fd(), &mut say)
        };
        Self {
            tree,
            said,
            stop,
            thread: Some(std::thread::spawn(body)),
        }
    }

    fn has_said(&self, is: impl Fn(&Said) -> bool) -> usize {
        self.said
            .lock()
            .unwrap()
            .iter()
            .filter(|said| is(said))
            .count()
    }

    fn wait_for(&self, what: &str, mut is: impl FnMut() -> bool) {
        let end = Instant::now() + Duration::from_secs(20);
        while !is() {
            assert!(
                Instant::now() < end,
                "in vain: {what}; {:?}",
                self.said.lock().unwrap()
            );
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    fn passes(&self) -> usize {
        self.has_said(|said| matches!(said, Said::PassDone(_)))
    }

    /// Waits until what is known is what is there.
    fn settles(&self) {
        self.wait_for("what is known to be what is there", || {
            *self.tree.known.lock().unwrap() == self.tree.now()
        });
    }

    fn end(mut self) -> Result<Tally, Ended<&'static str>> {
        self.stop.write(1).unwrap();
        self.thread.take().unwrap().join().unwrap()
    }
}

fn each(body: fn(&Path, Opts)) {
    each_under(&std::env::temp_dir(), body);
}

fn each_under(parent: &Path, body: fn(&Path, Opts)) {
    for engine in ENGINES {
        let dir = Dir::under(parent);
        match zring::kernel::watch::Watcher::open(&dir.0, false, Some(engine)) {
            Ok(_) => body(&dir.0, quick(&dir.0, engine)),
            Err(error) => lack(&format!("keeping a tree current: {error}")),
        }
    }
}

#[test]
fn what_is_known_follows_what_is_there() {
    each(|root, opts| {
        fs::create_dir_all(root.join("a/b")).unwrap();
        fs::write(root.join("a/b/f"), "1").unwrap();
        let keeper = Keeper::start(Bytes::of(root), opts);
        keeper.wait_for("the first pass", || keeper.passes() == 1);
        let at_first = keeper.tree.reads.load(Ordering::Relaxed);
        keeper.settles();
        fs::write(root.join("a/b/f"), "2").unwrap();
        keeper.settles();
        fs::create_dir_all(root.join("deep/er/still")).unwrap();
        fs::write(root.join("deep/er/still/g"), "3").unwrap();
        keeper.settles();
        fs::rename(root.join("a"), root.join("z")).unwrap();
        keeper.settles();
        fs::write(root.join("z/b/f"), "4").unwrap();
        keeper.settles();
        fs::remove_dir_all(root.join("deep")).unwrap();
        keeper.settles();
        assert!(at_first >= 1 && keeper.passes() == 1);
        let tally = keeper.end().unwrap();
        assert_eq!((tally.passes, tally.lost, tally.full), (1, 0, 0));
    });
}

#[test]
fn what_happens_during_a_pass_is_looked_at_after_it() {
    each(|root, opts| {
        fs::write(root.join("f"), "1").unwrap();
        let tree = Bytes::of(root);
        tree.slow.store(true, Ordering::Relaxed);
        let keeper = Keeper::start(tree, opts);
        keeper.wait_for("the mark", || {
            keeper.has_said(|said| matches!(said, Said::Marked { .. })) > 0
        });
        std::thread::sleep(Duration::from_millis(50));
        fs::write(root.join("f"), "2").unwrap();
        std::thread::sleep(Duration::from_millis(100));
        assert_eq!(keeper.has_said(|said| matches!(said, Said::LookDone(_))), 0);
        keeper.tree.slow.store(false, Ordering::Relaxed);
        keeper.wait_for("a look", || {
            keeper.has_said(|said| matches!(said, Said::LookDone(1))) > 0
        });
        keeper.settles();
        assert_eq!(keeper.passes(), 1);
        keeper.end().unwrap();
    });
}

#[test]
fn a_stop_cancels_a_pass() {
    each(|root, opts| {
        let tree = Bytes::of(root);
        tree.slow.store(true, Ordering::Relaxed);
        let keeper = Keeper::start(tree, opts);
        std::thread::sleep(Duration::from_millis(50));
        let asked = Instant::now();
        keeper.end().unwrap();
        assert!(asked.elapsed() < Duration::from_secs(2));
    });
}

#[test]
fn what_was_not_in_order_is_looked_at_again() {
    each(|root, opts| {
        fs::write(root.join("f"), "1").unwrap();
        let keeper = Keeper::start(Bytes::of(root), opts);
        keeper.wait_for("the first pass", || keeper.passes() == 1);
        keeper.tree.refuses.store(1, Ordering::Relaxed);
        let began = Instant::now();
        fs::write(root.join("f"), "2").unwrap();
        keeper.settles();
        assert!(
            began.elapsed() > Duration::from_millis(900),
            "the wait is a second"
        );
        keeper.end().unwrap();
    });
}

#[test]
fn silence_does_not_last_longer_than_the_interval() {
    each(|root, mut opts| {
        opts.rules.verify_every = Duration::from_millis(300);
        fs::write(root.join("f"), "1").unwrap();
        let keeper = Keeper::start(Bytes::of(root), opts);
        keeper.wait_for("three passes", || keeper.passes() == 3);
        assert!(keeper.end().unwrap().passes >= 3);
    });
}

#[test]
fn a_root_that_goes_away_is_the_end() {
    each(|root, opts| {
        let tree = root.join("tree");
        fs::create_dir(&tree).unwrap();
        let opts = Opts {
            root: tree.clone(),
            ..opts
        };
        let keeper = Keeper::start(Bytes::of(&tree), opts);
        keeper.wait_for("the first pass", || keeper.passes() == 1);
        fs::rename(&tree, root.join("other")).unwrap();
        let mut keeper = keeper;
        let ended = keeper.thread.take().unwrap().join().unwrap();
        assert!(matches!(ended, Err(Ended::Tree("the root is gone"))));
    });
}

/// More than may wait.
#[test]
fn a_flood_ends_in_a_pass_and_in_order() {
    flooded(|parent| each_under(parent, flood));
}

fn flood(root: &Path, mut opts: Opts) {
    // What waits is bounded long before the kernel's queue is full.
    opts.rules.paths_max = 10;
    opts.rules.settled = Duration::from_secs(2);
    let keeper = Keeper::start(Bytes::of(root), opts);
    keeper.wait_for("the first pass", || keeper.passes() == 1);
    for n in 0..2000 {
        fs::write(root.join(n.to_string()), n.to_string()).unwrap();
    }
    keeper.settles();
    keeper.wait_for("another pass", || keeper.passes() > 1);
    let tally = keeper.end().unwrap();
    assert!(tally.full + tally.lost > 0 && tally.passes > 1);
}
