//! `zring etag watch` as people run it, with each engine: what `export` says of its catalog is what `sha256sum` says of the tree.

use crate::machine::lack;
use crate::scene::{Dir, ENGINES};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};
use zring::kernel::watch::{Engine, Watcher};

const ZRING: &str = env!("CARGO_BIN_EXE_zring");

struct Watched {
    dir: Dir,
    tree: PathBuf,
    child: Child,
}

impl Drop for Watched {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Watched {
    fn start(engine: Engine, more: &[&str]) -> Self {
        let dir = Dir::under(&std::env::temp_dir());
        let tree = dir.0.join("tree");
        fs::create_dir_all(tree.join("a/b")).unwrap();
        for n in 0..20 {
            fs::write(tree.join(format!("a/b/{n}")), n.to_string()).unwrap();
        }
        let log = fs::File::create(dir.0.join("log")).unwrap();
        let said = fs::File::create(dir.0.join("said")).unwrap();
        let child = Command::new(ZRING)
            .args([
                "etag",
                "watch",
                "--watch-by",
                engine.name(),
                "--settle",
                "0",
            ])
            .args(["--progress-interval", "50ms", "--state"])
            .arg(dir.0.join("state"))
            .args(more)
            .arg(&tree)
            .stdout(said)
            .stderr(log)
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        let mut this = Self { dir, tree, child };
        this.wait_for("the first pass", |this| {
            this.log().contains("20 files in 3 directories")
        });
        this
    }

    fn log(&self) -> String {
        fs::read_to_string(self.dir.0.join("log")).unwrap()
    }

    fn said(&self) -> String {
        fs::read_to_string(self.dir.0.join("said")).unwrap()
    }

    fn wait_for(&mut self, what: &str, mut is: impl FnMut(&Self) -> bool) {
        let end = Instant::now() + Duration::from_secs(20);
        while !is(self) {
            assert!(
                self.child.try_wait().unwrap().is_none(),
                "it ended: {}",
                self.log()
            );
            assert!(
                Instant::now() < end,
                "in vain: {what}: {}{}",
                self.log(),
                self.said()
            );
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// What the catalog says, of files that are fresh.
    fn export(&self) -> Output {
        Command::new(ZRING)
            .args(["etag", "export", "-q", "--read-only", "--state"])
            .arg(self.dir.0.join("state"))
            .arg(&self.tree)
            .output()
            .unwrap()
    }

    /// Waits until the catalog says of every file what `sha256sum` says.
    fn settles(&mut self) {
        let wanted = sums(&self.tree);
        self.wait_for("a catalog that is current", |this| {
            let export = this.export();
            export.status.code() == Some(0) && export.stdout == wanted
        });
    }

    fn end(mut self, signal: Signal) -> Option<i32> {
        kill(Pid::from_raw(self.child.id().cast_signed()), signal).unwrap();
        self.child.wait().unwrap().code()
    }
}

fn sums(tree: &Path) -> Vec<u8> {
    let script = "find . -type f -printf '%P\\0' | LC_ALL=C sort -z | xargs -0r sha256sum --";
    let out = Command::new("sh")
        .args(["-c", script])
        .current_dir(tree)
        .output()
        .unwrap();
    assert!(out.status.success());
    out.stdout
}

fn each(body: fn(Engine)) {
    for engine in ENGINES {
        let dir = Dir::under(&std::env::temp_dir());
        match Watcher::open(&dir.0, false, Some(engine)) {
            Ok(_) => body(engine),
            Err(error) => lack(&format!("zring etag watch: {error}")),
        }
    }
}

#[test]
fn the_catalog_follows_the_tree() {
    each(|engine| {
        let mut watched = Watched::start(engine, &[]);
        watched.settles();
        let tree = watched.tree.clone();
        fs::write(tree.join("a/b/3"), "another").unwrap();
        fs::remove_file(tree.join("a/b/4")).unwrap();
        fs::rename(tree.join("a/b/5"), tree.join("five")).unwrap();
        fs::create_dir_all(tree.join("c/d/e")).unwrap();
        fs::write(tree.join("c/d/e/f"), "deep").unwrap();
        watched.settles();
        fs::rename(tree.join("a"), tree.join("z")).unwrap();
        watched.settles();
        fs::write(tree.join("z/b/6"), "moved, then written").unwrap();
        fs::remove_dir_all(tree.join("c")).unwrap();
        watched.settles();
        // What is known is printed a moment later.
        for line in [
            "fresh\ta/b/3\n",
            "gone\ta/b/4\n",
            "fresh\tfive\n",
            "gone\tc/d/e/f\n",
            "fresh\tz/b/6\n",
        ] {
            watched.wait_for(line, |this| this.said().contains(line));
        }
        let said = watched.said();
        // What did not change was not looked at again after the first pass: its line stands there once.
        assert_eq!(said.matches("fresh\ta/b/7\n").count(), 1);
        let log = watched.log();
        assert_eq!(log.matches("files in 3 directories").count(), 1, "{log}");
        assert!(log.contains("\"passes\":1"), "{log}");
        assert_eq!(watched.end(Signal::SIGTERM), Some(143));
    });
}

#[test]
fn own_attributes_end_in_no_circle() {
    each(|engine| {
        let mut watched = Watched::start(engine, &["--xattr", "write"]);
        fs::write(watched.tree.join("a/b/3"), "another").unwrap();
        watched.settles();
        std::thread::sleep(Duration::from_millis(1500));
        let said = watched.said();
        assert!(said.matches("fresh\ta/b/3\n").count() <= 2, "{said}");
        assert_eq!(said.matches("fresh\ta/b/9\n").count(), 1, "{said}");
        assert_eq!(watched.end(Signal::SIGINT), Some(130));
    });
}

#[test]
fn a_pass_finds_what_no_event_told() {
    each(|engine| {
        let mut watched =
            Watched::start(engine, &["--verify-interval", "300ms", "--format", "none"]);
        watched.wait_for("more passes", |this| this.log().contains("\"passes\":4"));
        assert_eq!(watched.end(Signal::SIGTERM), Some(143));
    });
}

#[test]
fn a_root_that_goes_away_ends_it_with_its_name() {
    each(|engine| {
        let mut watched = Watched::start(engine, &[]);
        fs::rename(&watched.tree, watched.dir.0.join("elsewhere")).unwrap();
        assert_eq!(watched.child.wait().unwrap().code(), Some(2));
        assert!(
            watched.log().contains("tree cannot be opened as a root"),
            "{}",
            watched.log()
        );
    });
}

#[test]
fn one_watches_and_another_is_told() {
    let watched = Watched::start(Engine::Inotify, &[]);
    let state = watched.dir.0.join("state");
    let run = |words: &[&str]| {
        let mut command = Command::new(ZRING);
        command
            .args(words)
            .arg("--state")
            .arg(&state)
            .arg(&watched.tree);
        command.output().unwrap()
    };
    assert_eq!(run(&["etag", "scan"]).status.code(), Some(5));
    assert_eq!(run(&["etag", "watch"]).status.code(), Some(5));
    assert_eq!(
        run(&["etag", "check", "--read-only"]).status.code(),
        Some(0)
    );
    for words in [
        ["etag", "watch", "--format=sha256sum"],
        ["etag", "watch", "--read-only"],
        ["etag", "watch", "--watch-by=ears"],
    ] {
        assert_eq!(run(&words).status.code(), Some(2), "{words:?}");
    }
    assert_eq!(watched.end(Signal::SIGINT), Some(130));
}
