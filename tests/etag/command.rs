//! The command line: outputs, exit codes, locks, cancellation.

use crate::scene::{Rng, Scene, digest, run, wait_until};
use std::process::Stdio;
use std::time::Duration;

#[test]
fn states_and_codes_of_an_ordinary_day() {
    let scene = Scene::new("day");
    scene.write("a", "1");
    scene.write("d/b", "2");
    scene.write("d/c", "3");
    scene
        .etag(&["check", "-q"])
        .expect(1, &["new\ta", "new\td/b", "new\td/c"]);
    assert!(!scene.state.exists(), "a check changes nothing");
    scene.etag(&["export", "-q"]).expect(3, &[]);
    scene.etag(&["scan", "-q"]).expect(0, &[]);
    scene.etag(&["check", "-q"]).expect(0, &[]);
    scene.write("a", "changed");
    std::fs::remove_dir_all(scene.path("d")).unwrap();
    scene.write("e", "new");
    scene
        .etag(&["check", "-q"])
        .expect(1, &["gone\td/b", "gone\td/c", "new\te", "stale\ta"]);
    scene
        .etag(&["scan", "-q"])
        .expect(0, &["gone\td/b", "gone\td/c"]);
    scene.etag(&["check", "-q"]).expect(0, &[]);
    scene
        .etag(&["check", "-q", "--exclude", "e"])
        .expect(0, &[]);
    scene.write("e", "newer");
    scene
        .etag(&["check", "-q", "--exclude", "e"])
        .expect(0, &[]);
    scene
        .etag(&["check", "-q", "--all", "--exclude", "e"])
        .expect(0, &["fresh\ta", "skipped\te"]);
}

#[test]
fn one_thread_and_many_say_the_same() {
    let scene = Scene::new("threads");
    let mut rng = Rng::seeded(9);
    for i in 0..3000 {
        scene.write(
            &format!("d{}/e{}/f{i}", rng.below(30), rng.below(5)),
            &i.to_string(),
        );
    }
    assert_eq!(scene.etag(&["scan", "-q", "--threads", "8"]).code, Some(0));
    for i in 0..60 {
        scene.write(&format!("d{}/e{}/new{i}", rng.below(30), rng.below(5)), "x");
    }
    std::fs::remove_dir_all(scene.path("d7")).unwrap();
    let one = scene.etag(&["check", "-q", "--all", "--threads", "1"]);
    let many = scene.etag(&["check", "-q", "--all", "--threads", "7"]);
    let ring = scene.etag(&["check", "-q", "--all", "--meta-engine", "uring"]);
    assert_eq!((one.code, one.lines()), (many.code, many.lines()));
    assert_eq!((one.code, one.lines()), (ring.code, ring.lines()));
    let exports: Vec<_> = ["1", "7"]
        .iter()
        .map(|n| scene.etag(&["export", "-q", "--threads", n]).out)
        .collect();
    assert_eq!(exports[0], exports[1], "byte for byte");
}

#[test]
fn a_directory_too_large_for_one() {
    let scene = Scene::new("large");
    for i in 0..70_000 {
        std::fs::write(scene.path(&format!("{i}")), "").unwrap();
    }
    assert_eq!(scene.etag(&["scan", "-q", "--threads", "4"]).code, Some(0));
    scene
        .etag(&["check", "-q", "--threads", "4"])
        .expect(0, &[]);
    std::fs::remove_file(scene.path("69999")).unwrap();
    std::fs::remove_file(scene.path("3")).unwrap();
    scene.write("4", "x");
    scene.write("69998", "x");
    scene.write("another", "x");
    let lines = [
        "gone\t3",
        "gone\t69999",
        "new\tanother",
        "stale\t4",
        "stale\t69998",
    ];
    scene
        .etag(&["check", "-q", "--threads", "4"])
        .expect(1, &lines);
    scene
        .etag(&["check", "-q", "--threads", "1"])
        .expect(1, &lines);
}

#[test]
fn lists_are_compared_without_reading() {
    let scene = Scene::new("against");
    scene.write("a", "1");
    scene.write("b", "2");
    scene.write("c", "3");
    assert_eq!(scene.etag(&["scan", "-q"]).code, Some(0));
    let list = scene.top.join("list");
    let path = list.to_str().unwrap();
    let sums = |entries: &[(&str, &str)]| {
        let text: String = entries
            .iter()
            .map(|(name, content)| format!("{}  {name}\n", digest(content.as_bytes())))
            .collect();
        std::fs::write(&list, text).unwrap();
    };
    sums(&[("./a", "1"), ("b", "2")]);
    scene
        .etag(&["check", "-q", "--against", path])
        .expect(0, &[]);
    sums(&[("a", "1"), ("b", "other"), ("none", "x")]);
    scene
        .etag(&["check", "-q", "--against", path])
        .expect(1, &["gone\tnone", "stale\tb"]);
    // A file that changed since is not vouched for, whatever was listed.
    scene.write("a", "one");
    sums(&[("a", "1"), ("b", "2")]);
    scene
        .etag(&["check", "-q", "--against", path])
        .expect(1, &["stale\ta"]);
    std::fs::write(&list, "no list").unwrap();
    assert_eq!(scene.etag(&["check", "--against", path]).code, Some(2));
}

#[test]
fn tags_of_single_files() {
    let scene = Scene::new("get");
    let path = scene.write("d/f", "content");
    let get = |args: &[&str]| {
        let mut command = scene.command(&[&["get"], args].concat());
        command.arg(&path);
        run(command)
    };
    assert_eq!(get(&["-q"]).code, Some(3), "nothing is known of it");
    assert_eq!(scene.etag(&["scan", "-q"]).code, Some(0));
    let tag = format!("\"SHA256:{}\"", digest(b"content"));
    let line = format!("{tag}\t{}\n", path.display());
    assert_eq!(get(&[]).text(), line);
    let same = get(&["--if-none-match", &format!("\"x\", W/{tag}")]);
    assert_eq!((same.code, same.out.len(), same.err.len()), (Some(0), 0, 0));
    assert_eq!(get(&["--if-none-match", "\"x\""]).text(), line);
    scene.write("d/f", "other");
    let stale = get(&[]);
    assert_eq!((stale.code, stale.out.len()), (Some(3), 0));
    let tag = format!("\"SHA256:{}\"", digest(b"other"));
    assert_eq!(
        get(&["--compute"]).text(),
        format!("{tag}\t{}\n", path.display())
    );
    // What its times say nothing about has no tag, asked for or not.
    let file = std::fs::File::options().write(true).open(&path).unwrap();
    let ahead = std::time::SystemTime::now() + Duration::from_secs(5000);
    file.set_modified(ahead).unwrap();
    get(&["-q", "--compute"]).expect(3, &[]);
}

#[test]
fn an_attribute_of_an_unknown_path_counts_under_drp_alone() {
    let scene = Scene::new("getattr");
    let path = scene.write("f", "content");
    scene
        .etag(&["scan", "-q", "--xattr", "write"])
        .expect(0, &[]);
    std::fs::remove_dir_all(&scene.state).unwrap();
    let get = |args: &[&str]| {
        let mut command = scene.command(&[&["get"], args].concat());
        command.arg(&path);
        run(command)
    };
    let drp = get(&["--trust", "drp"]);
    if drp.err.contains("new") {
        return crate::scene::lack("user attributes in the temporary directory");
    }
    let line = format!("\"SHA256:{}\"\t{}\n", digest(b"content"), path.display());
    assert_eq!((drp.code, drp.text()), (Some(0), line));
    let strict = get(&[]);
    assert!(
        strict.code == Some(3) && strict.err.contains("imported"),
        "{strict:?}"
    );
    assert_eq!(get(&["--trust", "drp", "--xattr", "off"]).code, Some(3));
}

/// A server that says how long requests wait is asked by a process of its own, which ends when there is nothing to be asked.
#[test]
fn a_mount_is_asked_for_its_delay_from_beside() {
    use std::io::BufRead as _;
    let scene = Scene::new("delay");
    scene.write(".zring/stats", "pin 3\nservice_delay_us 1234\n");
    let mut look = std::process::Command::new(env!("CARGO_BIN_EXE_zring"));
    look.args(["look", "delay"]).arg(&scene.tree);
    let mut child = look.stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = std::io::BufReader::new(child.stdout.take().unwrap()).lines();
    assert_eq!(lines.next().unwrap().unwrap(), "1234");
    scene.write(".zring/stats", "pin 3\n");
    wait_until("nothing more to be asked", || {
        child.try_wait().unwrap().is_some()
    });
}

#[test]
fn a_bench_says_what_it_was_measured_on() {
    let scene = Scene::new("bench");
    scene.write("d/f", "x");
    assert_eq!(scene.etag(&["scan", "-q"]).code, Some(0));
    let text = scene.etag(&["scan", "--bench"]).text();
    for word in [
        "Linux ",
        " CPUs; told of opens: ",
        "ns/file",
        "catalog-load",
        "stats 4",
    ] {
        assert!(text.contains(word), "{word}: {text}");
    }
    let json = scene.etag(&["scan", "--bench", "--format", "json"]).text();
    let value: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert!(
        value["monitors"].is_array() && value["check_s"].is_f64(),
        "{json}"
    );
    assert_eq!(value["opens.data"], 0);
    let ran = scene.etag(&["check", "-v"]);
    assert!(ran.err.contains("opens.directory 2\n"), "{ran:?}");
}

#[test]
fn blake3_is_for_inside_alone() {
    let scene = Scene::new("blake3");
    let path = scene.write("f", "content");
    assert_eq!(
        scene.etag(&["scan", "-q", "--algo", "blake3"]).code,
        Some(0)
    );
    scene.etag(&["check", "-q"]).expect(0, &[]);
    let mut get = scene.command(&["get"]);
    get.arg(&path);
    let ran = run(get);
    assert_eq!((ran.code, ran.out.len()), (Some(3), 0));
    let mut get = scene.command(&["get", "--compute"]);
    get.arg(&path);
    assert!(run(get).text().contains(&digest(b"content")));
    scene.etag(&["export", "-q"]).expect(3, &[]);
    let other = scene.etag(&["scan", "--algo", "sha256"]);
    assert_eq!(other.code, Some(4), "{other:?}");
}

#[test]
fn silent_damage_is_found_and_not_papered_over() {
    let scene = Scene::new("corrupt");
    scene.write("a", "1");
    scene.write("b", "2");
    assert_eq!(scene.etag(&["scan", "-q"]).code, Some(0));
    // As if the bytes had changed without a sign: the record says otherwise.
    let journal = scene.catalog().join("journal-1");
    let bytes = std::fs::read(&journal).unwrap();
    let hash: Vec<u8> = (0..32)
        .map(|i| u8::from_str_radix(&digest(b"1")[2 * i..2 * i + 2], 16).unwrap())
        .collect();
    let at = bytes.windows(32).position(|w| w == hash).unwrap();
    let mut bent = bytes.clone();
    bent[at] ^= 1;
    // The batch that holds it is sealed again.
    let mut from = 8;
    while from < bent.len() {
        let len = u32::from_le_bytes(bent[from..from + 4].try_into().unwrap()) as usize;
        let crc = crc32c::crc32c(&bent[from + 8..from + len]);
        bent[from + 4..from + 8].copy_from_slice(&crc.to_le_bytes());
        from += len;
    }
    std::fs::write(&journal, bent).unwrap();
    scene.etag(&["check", "-q"]).expect(0, &[]);
    scene
        .etag(&["scan", "-q", "--verify", "1"])
        .expect(1, &["corrupt\ta"]);
    // It is remembered: nobody vouches for it until somebody takes what is there.
    scene.etag(&["check", "-q"]).expect(1, &["corrupt\ta"]);
    scene.etag(&["scan", "-q"]).expect(1, &["corrupt\ta"]);
    let export = scene.etag(&["export", "-q"]);
    assert_eq!((export.code, export.lines().len()), (Some(3), 1));
    let mut get = scene.command(&["get", "-q"]);
    get.arg(scene.path("a"));
    run(get).expect(3, &[]);
    // It goes along with a new name.
    std::fs::rename(scene.path("a"), scene.path("c")).unwrap();
    let moved = scene.etag(&["scan", "--trust", "mtime", "--format", "json"]);
    let text = moved.text();
    assert!(
        moved.code == Some(1) && text.contains("\"racy\":0,") && text.contains("\"corrupt\":1,"),
        "{moved:?}"
    );
    scene
        .etag(&["scan", "-q", "--accept-corrupt"])
        .expect(0, &[]);
    assert_eq!(scene.exported(), scene.truth());
}

#[test]
fn renames_move_digests_where_that_is_trusted() {
    let scene = Scene::new("rename");
    scene.write("d/f", "content");
    scene.write("d/g", "others");
    assert_eq!(
        scene.etag(&["scan", "-q", "--trust", "mtime"]).code,
        Some(0)
    );
    std::fs::rename(scene.path("d"), scene.path("e")).unwrap();
    let strict = scene.etag(&["check", "-q"]);
    strict.expect(1, &["gone\td/f", "gone\td/g", "new\te/f", "new\te/g"]);
    scene
        .etag(&["check", "-q", "--trust", "mtime"])
        .expect(0, &[]);
    let scan = scene.etag(&["scan", "--trust", "mtime"]);
    assert!(
        scan.code == Some(0) && scan.err.contains("2 renamed") && !scan.err.contains("hashed"),
        "{scan:?}"
    );
    scene
        .etag(&["check", "-q", "--trust", "mtime"])
        .expect(0, &[]);
    let export = scene.etag(&["export", "-q", "--trust", "mtime"]);
    assert!(export.code == Some(0) && export.text().contains(&digest(b"others")));
}

#[test]
fn several_names_of_a_file_are_hashed_once() {
    let scene = Scene::new("links");
    let path = scene.write("a", &"x".repeat(100_000));
    for i in 0..50 {
        std::fs::hard_link(&path, scene.path(&format!("l{i}"))).unwrap();
    }
    let json = scene.etag(&["scan", "--format", "json"]).text();
    assert!(
        json.contains("\"fresh\":51") && json.contains("\"hashed\":1,"),
        "{json}"
    );
    assert_eq!(scene.exported(), scene.truth());
    // Writing the attribute moves ctime, of all names at once.
    std::fs::write(&path, "other").unwrap();
    let json = scene.etag(&["scan", "--format", "json", "--xattr", "write"]);
    assert!(json.text().contains("\"hashed\":1,"), "{json:?}");
    scene.etag(&["check", "-q"]).expect(0, &[]);
    assert_eq!(scene.exported(), scene.truth());
    // Under a level that follows renames too, each name that goes is gone.
    for name in ["l7", "l8", "l9"] {
        std::fs::remove_file(scene.path(name)).unwrap();
    }
    let gone = ["gone\tl7", "gone\tl8", "gone\tl9"];
    scene
        .etag(&["scan", "-q", "--trust", "mtime"])
        .expect(0, &gone);
    scene
        .etag(&["check", "-q", "--trust", "mtime"])
        .expect(0, &[]);
}

/// A name that waits for another one of its inode to be hashed does not keep a scan from ending.
#[test]
fn a_scan_ends_while_names_wait_for_each_other() {
    let scene = Scene::new("waiting");
    let file = std::fs::File::create(scene.path("a")).unwrap();
    file.set_len(64 << 30).unwrap();
    for i in 0..3 {
        std::fs::hard_link(scene.path("a"), scene.path(&format!("l{i}"))).unwrap();
    }
    let ran = scene.etag(&["scan", "-q", "--max-time", "400ms"]);
    assert_eq!(ran.code, Some(143), "{ran:?}");
}

#[test]
fn one_writer_at_a_time() {
    let scene = Scene::new("lock");
    scene.write("f", "x");
    assert_eq!(scene.etag(&["scan", "-q"]).code, Some(0));
    let file = std::fs::File::open(scene.catalog().join("LOCK")).unwrap();
    let lock = nix::fcntl::Flock::lock(file, nix::fcntl::FlockArg::LockExclusiveNonblock)
        .map_err(|(_, e)| e)
        .unwrap();
    assert_eq!(scene.etag(&["scan", "-q"]).code, Some(5));
    assert_eq!(scene.etag(&["check", "-q"]).code, Some(5));
    scene.etag(&["check", "-q", "--read-only"]).expect(0, &[]);
    assert_eq!(scene.etag(&["scan", "--read-only"]).code, Some(2));
    drop(lock);
    assert_eq!(scene.etag(&["scan", "-q"]).code, Some(0));
}

#[test]
fn a_scan_that_is_ended_keeps_what_it_has() {
    let scene = Scene::new("ended");
    for i in 0..400 {
        scene.write(&format!("f{i}"), &i.to_string().repeat(1000));
    }
    for (signal, code) in [
        (nix::sys::signal::Signal::SIGINT, 130),
        (nix::sys::signal::Signal::SIGTERM, 143),
    ] {
        let mut command = scene.command(&["scan", "-q", "--files-per-sec", "100"]);
        command.arg(&scene.tree).stdout(Stdio::null());
        let mut child = command.spawn().unwrap();
        std::thread::sleep(Duration::from_millis(700));
        let pid = nix::unistd::Pid::from_raw(i32::try_from(child.id()).unwrap());
        nix::sys::signal::kill(pid, signal).unwrap();
        wait_until("the scan to end", || child.try_wait().unwrap().is_some());
        assert_eq!(child.wait().unwrap().code(), Some(code));
    }
    let left = scene.etag(&["check", "-q"]).lines().len();
    assert!((1..400).contains(&left), "{left} are left");
    let ran = scene.etag(&["scan", "-q", "--files-per-sec", "50", "--max-time", "300ms"]);
    assert_eq!(ran.code, Some(143), "{ran:?}");
    assert_eq!(scene.etag(&["scan", "-q"]).code, Some(0));
    assert_eq!(scene.exported(), scene.truth());
}

#[test]
fn roots_are_told_apart_and_one_root_has_one_catalog() {
    let scene = Scene::new("roots");
    scene.write("one/f", "1");
    scene.write("two/f", "2");
    let both = |args: &[&str]| {
        let mut command = scene.command(args);
        command.args(["one", "./two/."]).current_dir(&scene.tree);
        run(command)
    };
    both(&["check", "-q"]).expect(1, &["new\t./two/./f", "new\tone/f"]);
    assert_eq!(both(&["scan", "-q"]).code, Some(0));
    let mut command = scene.command(&["check", "-q"]);
    command.arg(scene.path("two"));
    run(command).expect(0, &[]);
    let mut command = scene.command(&["scan"]);
    command.arg(&scene.top);
    let ran = run(command);
    assert!(ran.code == Some(2) && ran.err.contains("inside"), "{ran:?}");
}

#[test]
fn what_is_not_understood_is_said() {
    let scene = Scene::new("usage");
    for args in [
        vec!["check", "--trust", "none"],
        vec!["check", "--bps", "1M"],
        vec!["get", "--against", "x"],
        vec!["scan", "--verify", "2"],
        vec!["check", "--exclude", "["],
        vec!["check", "--nonsense"],
        vec!["nonsense"],
    ] {
        let ran = scene.etag(&args);
        assert_eq!(ran.code, Some(2), "{args:?} {ran:?}");
        assert!(ran.err.starts_with("zring: "), "{ran:?}");
    }
    let mut command = scene.command(&["check"]);
    command.env_remove("ZRING_STATE");
    assert_eq!(run(command).code, Some(2));
    let help = scene.etag(&["check", "--help"]);
    assert!(help.code == Some(0) && help.text().contains("--against"));
    let bench = scene.etag(&["scan", "--bench"]);
    assert!(
        bench.code == Some(0) && bench.text().contains("ns/file"),
        "{bench:?}"
    );
}

#[test]
fn progress_is_for_stderr() {
    let scene = Scene::new("progress");
    for i in 0..100 {
        scene.write(&format!("f{i}"), "x");
    }
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_zring"));
    command.args([
        "etag",
        "scan",
        "-q",
        "--files-per-sec",
        "100",
        "--progress-interval",
        "50ms",
    ]);
    command
        .args(["--progress", "always"])
        .arg("--state")
        .arg(&scene.state)
        .arg(&scene.tree);
    let ran = run(command);
    assert_eq!((ran.code, ran.out.len()), (Some(0), 0), "{ran:?}");
    let lines: Vec<serde_json::Value> = ran
        .err
        .lines()
        .map(|l| serde_json::from_str(l).unwrap())
        .collect();
    assert!(lines.len() > 3, "{ran:?}");
    assert!(lines.iter().all(|l| l["progress"]["files"].is_u64()));
}
