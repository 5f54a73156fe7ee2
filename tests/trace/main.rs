//! `zring trace-startup`: what a start opens, counted by itself and by the kernel, and a trace that others can read.

#![allow(clippy::unwrap_used, reason = "tests")]

#[allow(dead_code, reason = "tests/mount uses more of it")]
#[path = "../mount/machine.rs"]
mod machine;

use machine::lack;
use serde_json::Value;
use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::process::{Command, Output};
use std::sync::atomic::{AtomicU32, Ordering};
use zring::kernel::opens::{OpenWatch, Opens};
use zring::kernel::watch::OpenLog;

const ZRING: &str = env!("CARGO_BIN_EXE_zring");
const PHASES: [&str; 7] = [
    "config",
    "state-open",
    "catalog-load",
    "watch",
    "check",
    "rings",
    "ready",
];

/// A tree of so many directories with a hundred files each, scanned.
struct Scene(PathBuf);

impl Scene {
    fn new(dirs: usize) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let n = NEXT.fetch_add(1, Ordering::Relaxed);
        let dir = std::env::temp_dir().join(format!("zrtrace.{}.{n}", std::process::id()));
        let this = Self(dir);
        for d in 0..dirs {
            fs::create_dir_all(this.0.join(format!("tree/{d}"))).unwrap();
            for f in 0..100 {
                fs::write(this.0.join(format!("tree/{d}/{f}")), f.to_string()).unwrap();
            }
        }
        let scan = this.run(&["etag", "scan", "-q", "--format", "none", "--settle", "0"]);
        assert!(scan.status.success(), "{scan:?}");
        this
    }

    fn run(&self, words: &[&str]) -> Output {
        let mut command = Command::new(ZRING);
        command.args(words).arg("--state").arg(self.0.join("state"));
        command.arg(self.0.join("tree")).output().unwrap()
    }

    fn trace(&self, words: &[&str]) -> (Output, Value) {
        let all = [&["trace-startup", "--format", "json"], words].concat();
        let out = self.run(&all);
        let json = serde_json::from_slice(&out.stdout).unwrap_or_else(|e| panic!("{e}: {out:?}"));
        (out, json)
    }
}

impl Drop for Scene {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn may_listen() -> bool {
    let may = OpenLog::open(&std::env::temp_dir());
    if let Err(error) = &may {
        lack(&format!("trace-startup --verify: {error}"));
    }
    may.is_ok()
}

/// The gates, on ten thousand files, by each engine: no file is opened, and no directory more than twice.
#[test]
fn a_start_on_an_unchanged_tree_opens_no_file() {
    let scene = Scene::new(100);
    let listens = may_listen();
    let mut engines = vec![("inotify", 202)];
    if listens {
        engines.extend([("fanotify", 102), ("fanotify-moves", 102)]);
    }
    for (engine, directories) in engines {
        let mut words = vec!["--assert-no-data-opens", "--watch-by", engine];
        if listens {
            words.push("--verify");
        }
        let (out, json) = scene.trace(&words);
        assert_eq!(out.status.code(), Some(0), "{out:?}");
        assert_eq!(json["counts"]["opens.data"], 0);
        assert_eq!(json["counts"]["opens.directory"], directories, "{engine}");
        assert_eq!(
            (&json["dirs"], &json["files"]),
            (&101.into(), &10_000.into())
        );
        assert_eq!(
            (&json["fresh"], &json["gates_hold"]),
            (&10_000.into(), &true.into())
        );
        if listens {
            assert_eq!(json["heard"]["agrees"], true);
            assert_eq!(json["heard"]["directories"], directories);
            assert_eq!(json["heard"]["files"], 0);
        }
    }
}

/// Who may not use fanotify has a witness all the same, and it hears of an open that nobody counted.
#[test]
fn without_privileges_opens_are_witnessed_too() {
    use std::os::unix::fs::{PermissionsExt, chown};
    use std::os::unix::process::CommandExt;
    if !nix::unistd::geteuid().is_root() {
        return lack("root: the witness of users without privileges is tested by them alone");
    }
    let scene = Scene::new(3);
    let nobody = Some(65534);
    let zring = scene.0.join("zring");
    // By another process: see tests/etag/scene.rs.
    let copied = Command::new("cp").arg(ZRING).arg(&zring).status();
    assert!(copied.unwrap().success());
    fs::set_permissions(&zring, PermissionsExt::from_mode(0o755)).unwrap();
    fs::remove_dir_all(scene.0.join("state")).unwrap();
    fs::create_dir(scene.0.join("state")).unwrap();
    chown(scene.0.join("state"), nobody, nobody).unwrap();
    let run = |words: &[&str]| {
        let mut command = Command::new(&zring);
        command
            .args(words)
            .arg("--state")
            .arg(scene.0.join("state"));
        command.arg(scene.0.join("tree")).uid(65534).gid(65534);
        command.output().unwrap()
    };
    let scan = run(&["etag", "scan", "-q", "--format", "none", "--settle", "0"]);
    assert!(scan.status.success(), "{scan:?}");
    let out = run(&[
        "trace-startup",
        "--verify",
        "--watch-by",
        "inotify",
        "--format",
        "json",
    ]);
    assert_eq!(out.status.code(), Some(0), "{out:?}");
    let json: Value = serde_json::from_slice(&out.stdout).unwrap();
    assert_eq!(json["heard"]["agrees"], true, "{json}");
    assert_eq!(json["heard"]["files"], 0);
    assert_eq!(
        json["heard"]["directories"],
        json["counts"]["opens.directory"]
    );
    // The witness by itself.
    let watch = OpenWatch::open(&scene.0.join("tree")).unwrap();
    fs::read(scene.0.join("tree/1/5")).unwrap();
    assert_eq!(fs::read_dir(scene.0.join("tree/2")).unwrap().count(), 100);
    assert_eq!(fs::read_dir(scene.0.join("tree")).unwrap().count(), 3);
    let mut heard = Opens::default();
    watch.read(&mut heard).unwrap();
    assert_eq!((heard.directories, heard.files, heard.lost), (2, 1, false));
}

#[test]
fn phases_add_up_to_the_time_on_the_wall() {
    let scene = Scene::new(20);
    let (_, json) = scene.trace(&[]);
    let phases = json["phases"].as_object().unwrap();
    let mut names: Vec<&str> = phases.keys().map(String::as_str).collect();
    names.sort_unstable();
    let mut expected = PHASES;
    expected.sort_unstable();
    assert_eq!(names, expected);
    let sum: f64 = phases
        .values()
        .map(|p| p["wall_ms"].as_f64().unwrap())
        .sum();
    let wall = json["wall_ms"].as_f64().unwrap();
    assert!((sum / wall - 1.0).abs() < 0.05, "{sum} of {wall}");
    let counted = phases
        .values()
        .map(|p| p["counts"]["stats"].as_u64().unwrap());
    assert_eq!(Some(counted.sum()), json["counts"]["stats"].as_u64());
    let slowest = json["slowest"].as_array().unwrap();
    let took = |call: &Value| call["ms"].as_f64().unwrap();
    assert!((1..=10).contains(&slowest.len()));
    assert!(slowest.windows(2).all(|two| took(&two[0]) >= took(&two[1])));
}

/// What a reader of Chrome's format relies on, checked event by event.
#[test]
fn the_trace_can_be_read() {
    let scene = Scene::new(20);
    let file = scene.0.join("trace.json");
    let (out, json) = scene.trace(&["--out", file.to_str().unwrap(), "--threads", "2"]);
    assert!(out.status.success());
    let trace: Value = serde_json::from_str(&fs::read_to_string(file).unwrap()).unwrap();
    assert_eq!(trace["displayTimeUnit"], "ns");
    let (mut names, mut phases, mut last, mut opens) = (
        BTreeMap::new(),
        Vec::new(),
        BTreeMap::new(),
        BTreeMap::new(),
    );
    for event in trace["traceEvents"].as_array().unwrap() {
        let text = |key: &str| event[key].as_str().unwrap();
        let tid = event["tid"].as_u64().unwrap();
        assert!(event["pid"].is_u64() && !text("name").is_empty());
        let ts = event["ts"].as_f64();
        assert!(event["ph"] == "M" || ts.is_some_and(|ts| ts >= 0.0));
        match text("ph") {
            "M" => drop(names.insert(tid, event["args"]["name"].as_str().unwrap().to_owned())),
            "X" => {
                let (from, len) = (ts.unwrap(), event["dur"].as_f64().unwrap());
                assert!(len >= 0.0);
                // Spans of one track follow each other.
                let end = last.entry(tid).or_insert(0.0);
                assert!(from >= *end - 0.001, "{event}");
                *end = from + len;
                if event["cat"] == "phase" {
                    phases.push((text("name").to_owned(), from, from + len));
                }
            }
            "C" => {
                let args = event["args"].as_object().unwrap();
                assert!(!args.is_empty() && args.values().all(Value::is_u64));
            }
            "i" => {
                assert_eq!(event["s"], "t");
                if event["cat"] == "open" {
                    let class = event["args"]["class"].as_str().unwrap().to_owned();
                    let path = event["args"]["path"].as_str().unwrap();
                    assert!(path.starts_with('/'), "{path}");
                    *opens.entry(class).or_insert(0u64) += 1;
                }
            }
            other => panic!("{other}"),
        }
        assert!(
            names.contains_key(&tid),
            "a track has a name before its first event"
        );
    }
    assert_eq!(
        phases
            .iter()
            .map(|(name, ..)| &name[..])
            .collect::<Vec<_>>(),
        PHASES
    );
    assert!(
        phases
            .windows(2)
            .all(|two| (two[0].2 - two[1].1).abs() < 0.01)
    );
    // Each open that was counted stands there by itself.
    for class in ["directory", "state", "config", "proc", "data"] {
        let counted = json["counts"][format!("opens.{class}")].as_u64().unwrap();
        assert_eq!(opens.get(class).copied().unwrap_or(0), counted, "{class}");
    }
    // A worker that found nothing to do has no track.
    let known = |name: &String| name == "main" || name == "zring-check";
    assert!(names.values().all(known), "{names:?}");
    assert!(names.values().any(|name| name == "main"), "{names:?}");
}

#[test]
fn a_changed_tree_is_told_of_and_still_not_opened() {
    let scene = Scene::new(2);
    fs::write(scene.0.join("tree/1/5"), "another").unwrap();
    let (out, json) = scene.trace(&["--assert-no-data-opens"]);
    assert_eq!(out.status.code(), Some(0));
    assert_eq!((&json["fresh"], &json["files"]), (&199.into(), &200.into()));
    // A start looks and changes nothing: the next one finds the same.
    let (_, again) = scene.trace(&[]);
    assert_eq!(again["fresh"], 199);
}

#[test]
fn as_text_it_has_a_line_for_each_phase() {
    let scene = Scene::new(2);
    let out = scene.run(&["trace-startup"]);
    let text = String::from_utf8(out.stdout).unwrap();
    for phase in PHASES {
        assert!(text.lines().any(|line| line.starts_with(phase)), "{text}");
    }
    assert!(text.contains("opened 0 files and"), "{text}");
}

#[test]
fn what_cannot_be_started_is_said() {
    let scene = Scene::new(1);
    let code = |words: &[&str]| scene.run(words).status.code();
    assert_eq!(code(&["trace-startup", "/nowhere/at all"]), Some(2));
    assert_eq!(code(&["trace-startup", "--read-only"]), Some(2));
    let missing = code(&["trace-startup", "--out", "/nowhere/trace.json"]);
    assert_eq!(missing, Some(3));
}
