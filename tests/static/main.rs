//! The static binary, in a root that holds nothing but it, `/dev/fuse` and `/proc`.
//!
//! Builds `zring` for musl into the usual target directory, looks that it needs neither an interpreter nor a library,
//! and runs it under chroot(2) in a mount and PID namespace of its own: what a test leaves there goes with its first
//! process. The database is copied in; it is read and verified from outside the chroot.
//!
//! `ZRING_STATIC_BIN` tests another binary.

#![allow(clippy::unwrap_used, reason = "tests")]
#![allow(
    clippy::disallowed_methods,
    reason = "tests wait, watch the clock and start threads"
)]

#[allow(dead_code, reason = "tests/mount uses more of it")]
#[path = "../mount/child.rs"]
mod child;
#[allow(dead_code, reason = "tests/mount uses more of it")]
#[path = "../mount/data.rs"]
mod data;
#[allow(dead_code, reason = "tests/mount uses more of it")]
#[path = "../mount/machine.rs"]
mod machine;
#[allow(dead_code, reason = "tests/mount uses more of it")]
#[path = "../mount/rig.rs"]
mod rig;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::time::Duration;

use crate::child::Ended;
use crate::data::database;
use crate::machine::{Transport, lack, on_path, python, root_or_lack, tool};
use crate::rig::{Rig, no_bug};

/// The binary; `None`, and said, when it cannot be built here.
fn binary() -> Option<&'static Path> {
    static BUILT: OnceLock<Option<PathBuf>> = OnceLock::new();
    BUILT.get_or_init(build).as_deref()
}

fn build() -> Option<PathBuf> {
    if let Some(path) = std::env::var_os("ZRING_STATIC_BIN") {
        return Some(path.into());
    }
    let triple = format!("{}-unknown-linux-musl", std::env::consts::ARCH);
    let rustc = std::env::var_os("RUSTC").unwrap_or("rustc".into());
    let there = Command::new(rustc)
        .args(["--print", "target-libdir", "--target", &triple])
        .output()
        .is_ok_and(|o| o.status.success() && Path::new(text(&o.stdout).trim()).exists());
    if !there {
        lack(&format!("the static binary: `rustup target add {triple}`"));
        return None;
    }
    if !on_path("musl-gcc") {
        lack("the static binary: no musl-gcc (package musl-tools)");
        return None;
    }
    let cargo = std::env::var_os("CARGO").unwrap_or("cargo".into());
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(
        || Path::new(env!("CARGO_MANIFEST_DIR")).join("target"),
        PathBuf::from,
    );
    let built = Command::new(cargo)
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .args(["build", "--release", "--bin", "zring", "--target", &triple])
        .arg("--target-dir")
        .arg(&target)
        .env("ZRING_COMMIT", COMMIT)
        .output()
        .unwrap();
    assert!(built.status.success(), "{}", text(&built.stderr));
    Some(target.join(triple).join("release/zring"))
}

/// What the build is told to be made from.
const COMMIT: &str = "of-a-test";

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn needs_no_interpreter_and_no_library() {
    let Some(path) = binary() else { return };
    let elf = fs::read(path).unwrap();
    let word = |at: usize| u64::from_le_bytes(elf[at..at + 8].try_into().unwrap());
    let index = |at: usize| usize::try_from(word(at)).unwrap();
    let half = |at: usize| usize::from(u16::from_le_bytes([elf[at], elf[at + 1]]));
    assert_eq!(&elf[..6], b"\x7fELF\x02\x01", "64 bits, little-endian");
    // Program headers: where, how long, how many. Type 3 names an interpreter, type 2 is the dynamic section.
    let (from, len, count) = (index(32), half(54), half(56));
    for head in (0..count).map(|i| from + i * len) {
        match word(head) & 0xffff_ffff {
            3 => panic!("an interpreter"),
            2 => {
                let (at, size) = (index(head + 8), index(head + 32));
                let needed = (at..at + size).step_by(16).filter(|&d| word(d) == 1);
                assert_eq!(needed.count(), 0, "libraries");
            }
            _ => {}
        }
    }
}

#[test]
fn says_what_it_was_made_from() {
    let Some(path) = binary() else { return };
    if std::env::var_os("ZRING_STATIC_BIN").is_some() {
        return;
    }
    let said = Command::new(path).args(["version", "--json"]).output();
    let said = text(&said.unwrap().stdout);
    assert!(said.contains(&format!("\"commit\":\"{COMMIT}\"")), "{said}");
}

/// Runs in the namespaces: mounts, verifies from outside, unmounts. `$1` is the root, `$2` `-f` or nothing.
const SCRIPT: &str = r#"
set -eu
root=$1 front=$2 options=$3 python=$4 verify=$5 manifest=$6
zring() { chroot "$root" /zring "$@"; }
mount --bind /dev/fuse "$root/dev/fuse"
mount -t proc proc "$root/proc"
if [ "$front" = -f ]; then
    chroot "$root" /zring mount -f -o "$options" file:///db/Data.fs /mnt &
    daemon=$!
    n=0
    until timeout 5 cat "$root/mnt/head/at" >/dev/null 2>&1; do
        n=$((n + 1)); [ $n -lt 200 ] || exit 3
        kill -0 $daemon || exit 4
        sleep 0.05
    done
else
    zring mount -o "$options" file:///db/Data.fs /mnt
fi
timeout 60 "$python" "$verify" "$root/mnt" "$manifest" --full
zring umount /mnt
if [ "$front" = -f ]; then wait $daemon; fi
! grep -q " $root/mnt " /proc/self/mountinfo
"#;

fn runs_in_an_empty_root(front: &str, options: &str) -> Option<Ended> {
    let transport = match options {
        "transport=plain" => Transport::Plain,
        _ => Transport::Dev,
    };
    if !transport.is_there() || !root_or_lack("an empty root") {
        return None;
    }
    if !on_path("unshare") || !on_path("chroot") {
        lack("an empty root: no unshare or no chroot");
        return None;
    }
    let (binary, python) = (binary()?, python()?);
    let rig = Rig::new("static", 120);
    let db = database(
        &rig,
        "--seed 1 --fmt mixed --blksize 16k --blocks 20 --txns 6",
    )?;
    let root = rig.path("root");
    for dir in ["dev", "proc", "mnt", "db"] {
        fs::create_dir_all(root.join(dir)).unwrap();
    }
    fs::write(root.join("dev/fuse"), "").unwrap();
    fs::copy(binary, root.join("zring")).unwrap();
    fs::copy(&db.fs, root.join("db/Data.fs")).unwrap();
    let mut c = rig.command("unshare");
    c.args([
        "--mount",
        "--pid",
        "--fork",
        "--kill-child",
        "--propagation=private",
    ]);
    c.args(["sh", "-c", SCRIPT, "sh"]).arg(&root);
    c.args([front, options]).arg(python);
    c.arg(tool("verify_mount.py")).arg(&db.manifest);
    Some(rig.run(&mut c, Duration::from_secs(90)))
}

/// Ended well, with everything compared and nothing to complain about.
fn good(ended: Option<Ended>) {
    let Some(ended) = ended else { return };
    no_bug(&ended);
    let ended = ended.good();
    let last = ended.out.lines().last().unwrap_or_default();
    assert!(last.ends_with(", 0 differences"), "{ended}");
}

#[test]
fn in_front_with_the_transport_it_chooses() {
    good(runs_in_an_empty_root("-f", "transport=auto"));
}

#[test]
fn in_front_without_io_uring() {
    good(runs_in_an_empty_root("-f", "transport=plain"));
}

#[test]
fn in_the_background() {
    good(runs_in_an_empty_root("", "transport=auto"));
}

/// Without /sys the number of queues is not known: said in one sentence, and nothing is left.
#[test]
fn rings_without_sys_are_refused() {
    let Some(ended) = runs_in_an_empty_root("", "transport=uring") else {
        return;
    };
    assert!(!ended.is_good(), "{ended}");
    assert!(ended.err.contains("/sys is not mounted"), "{ended}");
    assert_eq!(ended.err.lines().count(), 1, "{ended}");
}
