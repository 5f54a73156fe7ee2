//! What a request costs that was asked before: workers allocate nothing for it, and wait for no lock.
//!
//! The daemon is this binary ([`daemon`]), with an allocator that counts ([`counted`]); who asks is this binary too, inside the mount
//! ([`visit`]). So it is no test harness: `serve` makes it a daemon, `look` what that starts beside it, `visit` a visitor, anything
//! else runs the tests whose names contain one of the words, or all.
//!
//! ```text
//!   getattr      statx(2) that wants attributes from the server
//!   lookup       head/bigfile/<oid>, by who wants to make that name: others the kernel answers itself
//!   read         a page of a file in blocks of a page, let go of before; at head and at a revision
//!   direct       a page of a block of 2 MiB through O_DIRECT
//!   part         a page of a block of 2 MiB: when nobody asks for 2 ms the rest of it is stored, which allocates
//!   text         .wcfs/stats, which is written anew each time, and takes every lock
//! ```
//!
//! Rounds of 10,000 are asked until one costs nothing: each worker fills its tables once. In the last one the daemon holds all its locks.

#![allow(clippy::unwrap_used, reason = "tests")]
#![allow(
    clippy::disallowed_methods,
    reason = "tests wait, watch the clock and start threads"
)]

#[allow(dead_code, reason = "tests/mount uses more of it")]
#[path = "../mount/base.rs"]
mod base;
#[allow(dead_code, reason = "tests/mount uses more of it")]
#[path = "../mount/child.rs"]
mod child;
mod counted;
mod daemon;
#[allow(dead_code, reason = "tests/mount uses more of it")]
#[path = "../mount/machine.rs"]
mod machine;
#[allow(dead_code, reason = "tests/mount uses more of it")]
#[path = "../mount/rig.rs"]
mod rig;
mod visit;

use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use base::Base;
use machine::Transport;
use rig::{Mount, Rig, zurl};
use visit::Round;
use zring::zodb::write::Leaf;

#[global_allocator]
static ALLOCATOR: counted::Counted = counted::Counted;

/// Names the file of the page that counts lie in.
const COUNTS: &str = "ZRING_STEADY_COUNTS";
/// Requests of a round.
const MANY: usize = 10_000;
/// Allocations of the last round: a table may grow once more.
const FEW: u64 = 4;
/// Allocations for the rest of one block: its ranges, the task, its pages and what owns them, and their way to who stores them.
const STORE_MAX: u64 = 12;

/// What is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Getattr,
    Lookup,
    Read,
    Direct,
    Part,
    Text,
}

impl Kind {
    const ALL: [Self; 6] = [
        Self::Getattr,
        Self::Lookup,
        Self::Read,
        Self::Direct,
        Self::Part,
        Self::Text,
    ];

    fn name(self) -> String {
        format!("{self:?}").to_lowercase()
    }

    /// Whether a round costs no more than it may.
    pub(crate) fn is_cheap(self, round: Round) -> bool {
        match self {
            Self::Part => round.allocations <= round.stores * STORE_MAX,
            _ => round.allocations == 0,
        }
    }
}

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = args.iter().map(String::as_str).collect();
    let page = std::env::var_os(COUNTS).map(|path| counted::map(Path::new(&path)).unwrap());
    match (words.as_slice(), page) {
        (["look", ..], _) => zring::cli::run(std::env::args_os()),
        (["serve", transport, zurl, at], Some(page)) => {
            daemon::serve(page, transport, zurl, Path::new(at));
            ExitCode::SUCCESS
        }
        (["visit", at, kind, name, n], Some(page)) => {
            let kind = Kind::ALL.into_iter().find(|k| k.name() == *kind);
            let n = n.parse().unwrap();
            visit::rounds(page, Path::new(at), kind.unwrap(), name, n).unwrap();
            ExitCode::SUCCESS
        }
        (words, _) => tests(words),
    }
}

/// Runs the tests that are asked for, as a harness would; its options mean nothing here.
fn tests(words: &[&str]) -> ExitCode {
    let is_list = words.contains(&"--list");
    let wanted: Vec<_> = words.iter().filter(|word| !word.starts_with('-')).collect();
    for transport in Transport::ALL {
        let name = format!("warm_requests_are_cheap::{}", transport.name());
        if !wanted.is_empty() && !wanted.iter().any(|word| name.contains(**word)) {
            continue;
        }
        match is_list {
            true => println!("{name}: test"),
            false => {
                println!("test {name} ...");
                warm_requests_are_cheap(transport);
                println!("test {name} ... ok");
            }
        }
    }
    ExitCode::SUCCESS
}

fn warm_requests_are_cheap(transport: Transport) {
    if !transport.is_there() {
        return;
    }
    let rig = Rig::new("steady", 240);
    let db = rig.path("Data.fs");
    let mut base = Base::create(&db);
    let (small, large) = (base.file(4096, Leaf::Blk0), base.file(2 << 20, Leaf::Blk0));
    (0..64).for_each(|blk| base.set(small, blk, 1));
    base.set(large, 0, 1);
    let then = base.commit();
    base.set(small, 40, 2);
    base.commit();
    counted::create(&rig.path("counts")).unwrap();
    let mount = up(&rig, &db, transport);

    let (head, old) = (base.files[small].head(), base.files[small].at(then));
    let large = base.files[large].head();
    let all = [
        (Kind::Getattr, &head),
        (Kind::Lookup, &head),
        (Kind::Read, &head),
        (Kind::Read, &old),
        (Kind::Direct, &large),
        (Kind::Part, &large),
    ];
    let mut dear = Vec::new();
    for (kind, name) in all {
        let rounds = ask(&rig, &mount, kind, name, MANY);
        println!("  {kind:?} {name}: {rounds:?}");
        let [.., last, held] = rounds[..] else {
            panic!("{kind:?}: {rounds:?}")
        };
        // What was stored just before it was asked for is not asked for.
        let is_asked = |round: Round| round.requests + round.stores >= MANY as u64;
        assert!(is_asked(last) && is_asked(held), "{kind:?}: {rounds:?}");
        if !kind.is_cheap(last) || held.waited || held.allocations > FEW {
            dear.push(format!("{kind:?} {name}: {last:?}, {held:?}"));
        }
    }
    // And the counter counts, and locks are held.
    let text = ask(&rig, &mount, Kind::Text, ".wcfs/stats", 100);
    let (last, counted) = text.split_last().unwrap();
    assert!(counted.iter().all(|r| r.allocations >= 100), "{text:?}");
    assert!(last.waited, "{text:?}");
    assert!(dear.is_empty(), "{dear:#?}\n{}", mount.said());
    mount.stop();
}

/// A mount served by this binary.
fn up<'r>(rig: &'r Rig, db: &Path, transport: Transport) -> Mount<'r> {
    let (at, zurl) = (rig.path("mnt"), zurl(db));
    std::fs::create_dir(&at).unwrap();
    let mut c = rig.command(std::env::current_exe().unwrap());
    c.env(COUNTS, rig.path("counts"));
    c.args(["serve", transport.name(), &zurl]).arg(&at);
    rig.mount_by(&mut c, at, &zurl)
        .unwrap_or_else(|e| panic!("no mount: {e}"))
}

/// Rounds of one kind of request.
fn ask(rig: &Rig, mount: &Mount<'_>, kind: Kind, name: &str, n: usize) -> Vec<Round> {
    let mut c = rig.command(std::env::current_exe().unwrap());
    c.env(COUNTS, rig.path("counts"));
    c.arg("visit").arg(&mount.at);
    c.args([&kind.name(), name, &n.to_string()]);
    let ended = rig.run(&mut c, Duration::from_secs(120)).good();
    let lines = ended.out.lines().filter_map(|l| l.strip_prefix("> "));
    lines.map(|line| Round::parse(line).unwrap()).collect()
}
