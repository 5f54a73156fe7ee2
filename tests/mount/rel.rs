//! Databases of RelStorage: what is read through the mount is what the generator wrote, while its server serves, packs, dies and
//! comes back, with history and without.
//!
//! PostgreSQL is the test's own, from the distribution; `RelStorage` of the private Python writes.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::child::{Running, becomes_true};
use crate::data::{Database, database};
use crate::live::{Writer, followed};
use crate::machine::{Transport, number, python};
use crate::postgres::{DATABASE, Postgres};
use crate::rig::{Mount, Rig, SHORT, verdict};

const TRANSPORT: Transport = Transport::Dev;

fn relational(rig: &Rig, args: &[&str]) {
    let mut c = rig.command(python().unwrap());
    c.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/compat/relational.py"));
    rig.run(c.args(args), SHORT).good();
}

/// Puts a database of a file where `target` says.
fn put(rig: &Rig, db: &Database, target: &str) {
    relational(rig, &["copy", db.fs.to_str().unwrap(), target]);
}

fn mount<'r>(rig: &'r Rig, zurl: &str) -> Mount<'r> {
    let opts = format!("transport={}", TRANSPORT.name());
    let mount = rig.mount("mnt", zurl, &opts);
    mount.unwrap_or_else(|e| panic!("no mount: {e}"))
}

fn server(rig: &Rig) -> Option<Postgres> {
    if !TRANSPORT.is_there() || python().is_none() {
        return None;
    }
    Postgres::start(&rig.path("pg"))
}

/// Every block of every revision, by pread and by mmap, of each kind of history and of database.
#[test]
fn reads_all_that_was_written() {
    let rig = Rig::new("rel content", 180);
    let Some(server) = server(&rig) else { return };
    let sqlite = rig.path("sqlite").display().to_string();
    let mixed = "--fmt mixed --blksize 32k --blocks 32 --txns 14 --undo .1 --delete-file";
    let wide =
        "--fmt auto --blksize 2M --files 1 --blocks 4 --changes 2 --txns 4 --w-grow 0 --w-epoch 0";
    server.sql("postgres", "CREATE DATABASE wide");
    for (args, target, zurl) in [
        (mixed, server.target(DATABASE), server.zurl(DATABASE)),
        (wide, server.target("wide"), server.zurl("wide")),
        (
            mixed,
            format!("relsqlite:{sqlite}"),
            format!("sqlite://{sqlite}"),
        ),
    ] {
        let Some(db) = database(&rig, &format!("--seed 1 {args}")) else {
            return;
        };
        put(&rig, &db, &target);
        let mut blocks = Vec::new();
        for how in [&["--full"][..], &["--full", "--mmap"]] {
            let mount = mount(&rig, &zurl);
            blocks.push(mount.verify(&[&db.manifest], how));
            assert_eq!((mount.stat("Upstream"), mount.stat("connect")), (2, 1));
            mount.stop();
        }
        assert_eq!(blocks[0], blocks[1], "both ways compare the same blocks");
    }
}

/// A writer commits, the database is packed, another writer goes on; readers follow.
fn follows(rig: &Rig, target: &str, zurl: &str) {
    let seconds = number("ZRING_LIVE_S", 8).div_ceil(4);
    let seed = number("ZRING_SEED", 1);
    println!("seed {seed}");
    let target = PathBuf::from(target);
    // Files do not shrink: what is seen behind an end that moved is the kernel's affair, with any database (README).
    let steady = format!("--w-delete 0 --w-delrange 0 --interval 20 --seed {seed}");
    let options = format!("{steady} --create --blksize 4k --blocks 60");
    let writer = Writer::start(rig, &target, "first.jsonl", &options);
    let mount = mount(rig, zurl);
    let log = followed(rig, &mount, writer, seconds);
    mount.verify(&[&log], &["--every", "25"]);
    relational(rig, &["pack", target.to_str().unwrap()]);
    let writer = Writer::start(rig, &target, "second.jsonl", &steady);
    let log = followed(rig, &mount, writer, seconds);
    mount.verify(&[&log], &["--every", "50"]);
    let said = mount.stop();
    assert!(!said.contains("zring: error"), "{said}");
}

#[test]
fn follows_a_writer_of_postgresql() {
    let rig = Rig::new("rel live", 120);
    let Some(server) = server(&rig) else { return };
    follows(&rig, &server.target(DATABASE), &server.zurl(DATABASE));
}

#[test]
fn follows_a_writer_of_sqlite() {
    if !TRANSPORT.is_there() || python().is_none() {
        return;
    }
    let rig = Rig::new("rel sqlite live", 120);
    let dir = rig.path("sqlite").display().to_string();
    follows(
        &rig,
        &format!("relsqlite:{dir}"),
        &format!("sqlite://{dir}"),
    );
}

/// Without history, head is exact when the writer is at rest, and what is gone is an error and never other bytes.
#[test]
fn without_history_head_is_exact() {
    let rig = Rig::new("rel free", 120);
    let Some(server) = server(&rig) else { return };
    let args = "--seed 6 --fmt mixed --blksize 16k --blocks 30 --txns 10";
    let Some(db) = database(&rig, args) else {
        return;
    };
    let target = format!("{}?nohist", server.target(DATABASE));
    put(&rig, &db, &target);
    let zurl = server.zurl(DATABASE);
    fs::create_dir(rig.path("mnt")).unwrap();
    let mut c = rig.zring();
    c.args(["mount", &zurl]).arg(rig.path("mnt"));
    let refused = rig.run(&mut c, SHORT);
    assert_eq!(refused.code(), Some(1), "{refused}");
    assert!(refused.err.contains("history_free=accept"), "{refused}");

    let mount = mount(&rig, &format!("{zurl}&history_free=accept"));
    let tids = db.tids();
    assert_eq!(Some(mount.head()), tids.last().cloned());
    let head = |manifest: &Path| mount.verify(&[manifest], &["--only", "head", "--full"]);
    let compared = head(&db.manifest);
    assert!(compared > 20, "{compared}");
    // Blocks that were read are dropped when they change.
    for n in 0..3 {
        let log = format!("log{n}.jsonl");
        let options = format!("--interval 5 --count 15 --seed {n} --w-delete 0 --w-delrange 0");
        let writer = Writer::start(&rig, Path::new(&target), &log, &options);
        let last = writer.finish().pop().unwrap();
        let caught_up = becomes_true(SHORT, || mount.head() == last);
        assert!(caught_up, "head is {}: {}", mount.head(), mount.said());
        head(&rig.path(&log));
    }
    // The past: whatever is read is right, or an error.
    let mut errors = 0;
    let old = &tids[tids.len() / 2];
    for oid in db.oids() {
        let mut c = rig.command("cat");
        c.arg(mount.path(&format!("@{old}/bigfile/{oid}")));
        errors += usize::from(!rig.run(&mut c, SHORT).is_good());
    }
    assert!(errors > 0, "all of the past is there?");
    mount.stop();
}

/// The server is killed and started again while readers read old states: none of them sees an error or a wrong byte. What was
/// committed before the mount heard of it is there afterwards.
#[test]
fn survives_kills_of_the_server() {
    let kills = number("ZRING_KILLS", 5).min(100);
    let rig = Rig::new("rel kills", 120 + 20 * kills);
    let Some(mut server) = server(&rig) else {
        return;
    };
    let args = "--seed 3 --fmt mixed --blksize 16k --blocks 40 --txns 12";
    let Some(db) = database(&rig, args) else {
        return;
    };
    let target = server.target(DATABASE);
    put(&rig, &db, &target);
    let mount = mount(&rig, &server.zurl(DATABASE));
    let mut compared = 0;
    for n in 0..kills {
        let mut c = rig.tool("verify_mount.py");
        c.arg(&mount.at).arg(&db.manifest);
        // Head moves meanwhile.
        c.args(["--full", "--only", "past"]);
        let reader = rig.start(&mut c);
        std::thread::sleep(Duration::from_millis(100 + 70 * n));
        server.kill();
        let lost = becomes_true(SHORT, || mount.stat("Upstream") == 0);
        assert!(lost, "{}", mount.said());
        server.again();
        let log = format!("log{n}.jsonl");
        let options = format!("--interval 1 --count 10 --seed {n}");
        let writer = Writer::start(&rig, Path::new(&target), &log, &options);
        let last = writer.finish().pop().unwrap();
        let caught_up = becomes_true(SHORT, || mount.head() == last);
        assert!(caught_up, "head is {}: {}", mount.head(), mount.said());
        assert!(becomes_true(SHORT, || mount.stat("Upstream") == 2));
        compared += verdict(&reader.wait(SHORT + SHORT));
        mount.verify(&[&rig.path(&log)], &["--sample", "20"]);
    }
    assert_eq!(mount.stat("connect"), 1 + kills);
    println!("{kills} kills, {compared} blocks compared meanwhile");
    let said = mount.stop();
    assert!(!said.contains("all cached pages of head go"), "{said}");
    assert!(!said.contains("zring: error"), "{said}");
}

/// A database that is restored to an older copy is the end of head; `head/at` stays.
#[test]
fn fails_when_the_database_went_back() {
    let rig = Rig::new("rel back", 120);
    let Some(server) = server(&rig) else { return };
    let args = "--seed 4 --fmt ZBlk1 --blksize 16k --blocks 20 --txns 6";
    let Some(db) = database(&rig, args) else {
        return;
    };
    put(&rig, &db, &server.target(DATABASE));
    let mount = mount(&rig, &server.zurl(DATABASE));
    let head = mount.head();
    let last = i64::from_str_radix(&head, 16).unwrap();
    let tables = ["current_object", "object_state", "transaction"];
    let cut = tables.map(|table| format!("DELETE FROM {table} WHERE tid = {last};"));
    server.sql(
        DATABASE,
        &format!(
            "UPDATE object_state SET prev_tid = 0 WHERE prev_tid = {last};{}",
            cut.concat()
        ),
    );
    let failed = becomes_true(SHORT, || mount.said().contains("went back in time"));
    assert!(failed, "{}", mount.said());
    assert_eq!(mount.head(), head);
    let mut c = rig.command("cat");
    c.arg(mount.path(&format!("head/bigfile/{}", db.oids()[0])));
    let read = rig.run(&mut c, SHORT);
    assert!(read.err.contains("Input/output error"), "{read}");
    mount.stop();
}

/// A server that stands still: the daemon ends in time when it is told to, and whoever reads gets an error.
#[test]
fn ends_in_time_while_the_server_hangs() {
    let rig = Rig::new("rel hang", 120);
    let Some(server) = server(&rig) else { return };
    let args = "--seed 5 --fmt mixed --blksize 64k --blocks 60 --txns 6";
    let Some(db) = database(&rig, args) else {
        return;
    };
    put(&rig, &db, &server.target(DATABASE));
    let mount = mount(&rig, &server.zurl(DATABASE));
    let frozen: Vec<Pid> = server.pids().into_iter().map(Pid::from_raw).collect();
    assert!(!frozen.is_empty());
    frozen
        .iter()
        .for_each(|&pid| kill(pid, Signal::SIGSTOP).unwrap());
    let mut c = rig.tool("verify_mount.py");
    c.arg(&mount.at).arg(&db.manifest).arg("--full");
    let waits: Running = rig.start(&mut c);
    std::thread::sleep(Duration::from_secs(1));
    let began = std::time::Instant::now();
    kill(mount.pid(), Signal::SIGTERM).unwrap();
    mount.ended();
    let took = began.elapsed();
    assert!(took < Duration::from_secs(10), "{took:?}");
    waits.wait(SHORT);
    frozen.iter().for_each(|&pid| {
        let _ = kill(pid, Signal::SIGCONT);
    });
}

/// What cannot be mounted is said, with what to do; and other commands take the address.
#[test]
fn says_what_is_wrong_with_a_database() {
    let rig = Rig::new("rel words", 120);
    let Some(server) = server(&rig) else { return };
    let args = "--seed 4 --fmt ZBlk1 --blksize 16k --blocks 20 --txns 6";
    let Some(db) = database(&rig, args) else {
        return;
    };
    put(&rig, &db, &server.target(DATABASE));
    let zurl = server.zurl(DATABASE);
    fs::create_dir(rig.path("mnt")).unwrap();
    let open = rig.path("open").display().to_string();
    fs::write(&open, "secret").unwrap();
    let none = rig.path("none").display().to_string();
    for (zurl, code, says) in [
        (
            server.zurl("nosuch"),
            1,
            "database \"nosuch\" does not exist",
        ),
        (server.zurl("postgres"), 1, "no tables of RelStorage"),
        (
            zurl.replace("zring@", "other@"),
            1,
            "role \"other\" does not exist",
        ),
        (
            zurl.replace("zring@", "zring:x@"),
            2,
            "a password in a database address",
        ),
        (
            format!("{zurl}&password_file={open}"),
            1,
            "may be read by others",
        ),
        (format!("{zurl}&password_file={none}"), 1, "No such file"),
        (format!("sqlite://{none}"), 1, "No such file"),
    ] {
        let mut c = rig.zring();
        c.args(["mount", &zurl]).arg(rig.path("mnt"));
        let ended = rig.run(&mut c, SHORT);
        assert_eq!(ended.code(), Some(code), "{zurl}: {ended}");
        assert!(ended.err.contains(says), "{zurl}: {ended}");
        assert!(rig.mount_lines(&rig.path("mnt")).is_empty());
    }
    let (oid, tids) = (&db.oids()[0], db.tids());
    let last = tids.last().unwrap();
    let check = rig.run(rig.zring().args(["check", &zurl]), SHORT).good();
    let said = format!("last transaction {last}");
    assert!(check.out.contains(&said), "{}", check.out);
    let file = format!("file://{}", db.fs.display());
    for args in [vec![], vec!["--diff", &tids[1], last]] {
        let tree = |zurl: &str| {
            let mut c = rig.zring();
            c.args(["tree", zurl, oid]).args(&args);
            rig.run(&mut c, SHORT).good().out
        };
        assert_eq!(tree(&zurl), tree(&file), "{args:?}");
    }
    // And the drop-in server.
    let mut c = rig.zring();
    c.args(["serve", "-logtostderr", "-o", "transport=plain", &zurl])
        .arg(rig.path("mnt"));
    let served = rig.mount_by(&mut c, rig.path("mnt"), &zurl).unwrap();
    served.verify(&[&db.manifest], &["--every", "3"]);
    served.stop();
}
