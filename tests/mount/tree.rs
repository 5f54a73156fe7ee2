//! The shape of the mounted tree: names, errors, attributes, listings, the small files, the ends of big files.

use crate::data::{Database, database};
use crate::machine::Transport;
use crate::on_each_transport;
use crate::rig::{Mount, Rig, SHORT, zurl};

/// Twelve files, so that oids with letters in them occur; one is deleted; arrays lie between.
pub(crate) const MANY: &str =
    "--seed 1 --files 12 --blocks 6 --blksize 8k --txns 6 --w-epoch 0 --delete-file --arrays";

/// A fresh mount of `MANY`.
fn with_tree(name: &str, transport: Transport, check: impl FnOnce(&Rig, &Mount<'_>, &Database)) {
    if !transport.is_there() {
        return;
    }
    let rig = Rig::new(name, 120);
    let Some(db) = database(&rig, MANY) else {
        return;
    };
    let mount = rig.up(&db.fs, transport);
    check(&rig, &mount, &db);
    mount.stop();
}

/// Operations and what each has to say.
fn expect(mount: &Mount<'_>, table: &[(&str, &str)]) {
    let operations: Vec<&str> = table.iter().map(|(op, _)| *op).collect();
    let got = mount.probe(&operations);
    let wrong: Vec<String> = table
        .iter()
        .zip(&got)
        .filter(|((_, want), got)| want != got)
        .map(|((op, want), got)| format!("{op}: {got}, expected {want}"))
        .collect();
    assert!(wrong.is_empty(), "{wrong:#?}\n{}", mount.said());
}

/// A field of the line that `stat` prints.
pub(crate) fn field(line: &str, name: &str) -> u64 {
    line.split(' ')
        .filter_map(|w| w.split_once('='))
        .find_map(|(n, v)| (n == name).then(|| v.parse().unwrap()))
        .unwrap_or_else(|| panic!("no {name} in {line}"))
}

on_each_transport!(
    names_and_errors,
    writing_is_not_there,
    attributes,
    listings,
    small_files,
    ends_of_files,
);

fn names_and_errors(transport: Transport) {
    with_tree("errors", transport, |_, mount, db| {
        let (oids, tids) = (db.oids(), db.tids());
        let (last, before) = (&tids[tids.len() - 1], &db.transactions()[0].0);
        let gone = deleted(db);
        for (path, want) in [
            ("foo", "EINVAL"),
            ("@", "EINVAL"),
            ("@123", "EINVAL"),
            ("@head", "EINVAL"),
            ("@000000000000000g", "EINVAL"),
            ("@00000000000000001", "EINVAL"),
            ("0000000000000001", "EINVAL"),
            ("head2", "EINVAL"),
            ("head/foo", "ENOENT"),
            ("head/zurl", "ENOENT"),
            (".wcfs/foo", "ENOENT"),
            (".wcfs/zhead", "ENOENT"),
            (&format!("@{last}/foo"), "ENOENT"),
            (&format!("@{last}/at"), "ENOENT"),
            (&format!("@{last}/watch"), "ENOENT"),
            ("head/at/foo", "ENOTDIR"),
            ("head/bigfile/foo", "EINVAL"),
            ("head/bigfile/000000000000001", "EINVAL"),
            ("head/bigfile/0x00000000000001", "EINVAL"),
            ("head/bigfile/000000000000000g", "EINVAL"),
            // The root object, which is a mapping; an object that nobody ever stored; a deleted file.
            ("head/bigfile/0000000000000000", "EINVAL"),
            ("head/bigfile/fffffffffffffff0", "EINVAL"),
            (&format!("head/bigfile/{gone}"), "EINVAL"),
            (&format!("@{last}/bigfile/{gone}"), "EINVAL"),
            (&format!("@{before}/bigfile/{}", oids[0]), "EINVAL"),
        ] {
            expect(
                mount,
                &[(&format!("stat {path}"), &format!("errno {want}"))],
            );
        }
        // Deleted now, alive before.
        let alive = format!("@{}/bigfile/{gone}", tids[tids.len() - 3]);
        assert!(mount.probe(&[&format!("stat {alive}")])[0].starts_with("ok"));
        // A state before all transactions exists and is empty, or is refused.
        let zero = "@0000000000000000";
        let got = mount.probe(&[
            &format!("stat {zero}"),
            &format!("stat {zero}/bigfile/{}", oids[0]),
            &format!("stat @0000000000000001/bigfile/{}", oids[0]),
        ]);
        assert!(
            got[0].starts_with("ok") || got[0] == "errno EINVAL",
            "{got:?}"
        );
        assert_eq!(got[1..], ["errno EINVAL", "errno EINVAL"]);
    });
}

/// The file that `--delete-file` took: the only one that the newest revision speaks of.
fn deleted(db: &Database) -> String {
    let text = std::fs::read_to_string(&db.manifest).unwrap();
    let (_, rest) = text.split_once("deleteObject ").unwrap();
    let (name, _) = rest.split_once('"').unwrap();
    let (_, rest) = text
        .split_once(&format!("\"{name}\":{{\"oid\":\""))
        .unwrap();
    rest.split_once('"').unwrap().0.to_owned()
}

fn writing_is_not_there(transport: Transport) {
    with_tree("readonly", transport, |_, mount, db| {
        let file = format!("head/bigfile/{}", db.oids()[0]);
        for op in [
            "create head/x",
            "mkdir head/x",
            "symlink head/x",
            "mknod head/x",
            "unlink head/at",
            "rmdir head/bigfile",
            "rename head/at head/x",
            "chmod head/at",
            "chown head/at",
            "utime head/at",
            &format!("chmod {file}"),
            &format!("truncate {file}"),
            &format!("unlink {file}"),
            &format!("write {file}"),
        ] {
            expect(mount, &[(op, "errno ENOSYS")]);
        }
        for verb in ["setxattr", "getxattr", "listxattr", "removexattr"] {
            // The kernel's word for a file system without attributes.
            let got = mount.probe(&[&format!("{verb} {file}")]).remove(0);
            let none = ["errno EOPNOTSUPP", "errno ENOTSUP"].contains(&got.as_str());
            assert!(
                none || (verb == "listxattr" && got == "ok "),
                "{verb}: {got}"
            );
        }
        // And all is as it was.
        mount.verify(&[&db.manifest], &[]);
    });
}

fn attributes(transport: Transport) {
    with_tree("attributes", transport, |rig, mount, db| {
        let me = |line: &str| (field(line, "uid"), field(line, "gid"));
        let (uid, gid) = (
            u64::from(nix::unistd::geteuid().as_raw()),
            u64::from(nix::unistd::getegid().as_raw()),
        );
        let url = zurl(&db.fs).len();
        for (path, mode, size) in [
            (".", "40755", None),
            ("head", "40555", Some(0)),
            ("head/bigfile", "40755", Some(0)),
            ("head/at", "100644", Some(16)),
            (".wcfs", "40755", Some(0)),
            (".wcfs/zurl", "100644", Some(url)),
            (".wcfs/pintimeout", "100644", Some(4)),
            (".wcfs/stats", "100644", None),
        ] {
            let line = mount.probe(&[&format!("stat {path}")]).remove(0);
            assert!(
                line.starts_with(&format!("ok mode={mode} ")),
                "{path}: {line}"
            );
            assert_eq!(me(&line), (uid, gid), "{path}: {line}");
            if let Some(size) = size {
                assert_eq!(
                    field(&line, "size"),
                    u64::try_from(size).unwrap(),
                    "{path}: {line}"
                );
            }
        }
        expect(
            mount,
            &[(
                "statvfs .",
                "ok bsize=2097152 frsize=2097152 blocks=0 files=0 namelen=255",
            )],
        );
        let mut c = rig.tool("check_attrs.py");
        c.arg(&mount.at).arg(&db.manifest);
        c.args([uid.to_string(), gid.to_string()]);
        let ended = rig.run(&mut c, SHORT).good();
        println!("{}", ended.out);
    });
}

fn listings(transport: Transport) {
    with_tree("listings", transport, |_, mount, db| {
        let (oids, tids) = (db.oids(), db.tids());
        let list = |path: &str| {
            let line = mount.probe(&[&format!("list {path}")]).remove(0);
            let names = line
                .strip_prefix("ok")
                .unwrap_or_else(|| panic!("{path}: {line}"));
            let mut names: Vec<String> = names.split_whitespace().map(str::to_owned).collect();
            // What a view or the server may offer beside the bare tree.
            names.retain(|n| !["watch", ".zring"].contains(&n.as_str()));
            names
        };
        assert_eq!(list("."), [".wcfs", "head"]);
        assert_eq!(list("head"), ["at", "bigfile"]);
        assert_eq!(list(".wcfs"), ["pintimeout", "stats", "zurl"]);
        assert!(list("head/bigfile").is_empty());
        let rev = format!("@{}", tids[tids.len() - 1]);
        // Only what was looked up, and looking it up in one view does not show it in another.
        mount.probe(&[&format!("stat head/bigfile/{}", oids[0])]);
        mount.probe(&[&format!("stat {rev}/bigfile/{}", oids[1])]);
        assert_eq!(list("."), [".wcfs", rev.as_str(), "head"]);
        assert_eq!(list("head/bigfile"), [oids[0].as_str()]);
        assert_eq!(list(&rev), ["bigfile"]);
        assert_eq!(list(&format!("{rev}/bigfile")), [oids[1].as_str()]);
    });
}

fn small_files(transport: Transport) {
    with_tree("small", transport, |_, mount, db| {
        let head = db.transactions().pop().unwrap().0;
        let url = zurl(&db.fs);
        assert_eq!(mount.cat("head/at"), head);
        assert_eq!(mount.cat(".wcfs/zurl"), url);
        assert_eq!(mount.cat(".wcfs/pintimeout"), "30.0");
        let ok = |bytes: &str| format!("ok {}", hex(bytes));
        for (path, text) in [("head/at", &head), (".wcfs/zurl", &url)] {
            let n = text.len();
            expect(
                mount,
                &[
                    (&format!("read {path} 0 4"), &ok(&text[..4])),
                    (&format!("read {path} 5 6"), &ok(&text[5..11])),
                    (&format!("read {path} {} 100", n - 3), &ok(&text[n - 3..])),
                    (&format!("read {path} {n} 10"), "ok "),
                    (&format!("read {path} {} 10", n + 1), "ok "),
                    (&format!("read {path} 1000000 10"), "ok "),
                    (&format!("direct {path} 0 4096"), &ok(text)),
                    (&format!("direct {path} 4 8"), &ok(&text[4..12])),
                ],
            );
        }
        stats(mount);
        expect(mount, &[("read .wcfs/stats 0 7", &ok("BigFile"))]);
        expect(mount, &[("read .wcfs/stats 100000 7", "ok ")]);
    });
}

fn hex(text: &str) -> String {
    text.bytes().map(|c| format!("{c:02x}")).collect()
}

/// Lines of `name`, TAB, `: `, number; the known names in their order; the same names each time.
fn stats(mount: &Mount<'_>) {
    let names = || {
        let text = mount.cat(".wcfs/stats");
        assert!(text.ends_with('\n'), "{text:?}");
        let mut names = Vec::new();
        for line in text.lines() {
            let (name, value) = line
                .split_once("\t: ")
                .unwrap_or_else(|| panic!("line {line:?} of .wcfs/stats"));
            assert!(value.parse::<u64>().is_ok(), "line {line:?} of .wcfs/stats");
            names.push(name.to_owned());
        }
        names
    };
    let all = names();
    let mut known = all.clone();
    let order = [
        "BigFile",
        "RevHead",
        "ZHeadLink",
        "WatchLink",
        "Watch",
        "PinnedBlk",
        "pin",
        "pinkill",
    ];
    known.retain(|n| order.contains(&n.as_str()));
    assert_eq!(known, order);
    assert_eq!(names(), all, "names change from read to read");
}

fn ends_of_files(transport: Transport) {
    with_tree("ends", transport, |_, mount, db| {
        let (oids, tids) = (db.oids(), db.tids());
        let rev = format!("@{}", tids[tids.len() - 1]);
        for view in ["head", &rev] {
            let file = format!("{view}/bigfile/{}", oids[0]);
            let line = mount.probe(&[&format!("stat {file}")]).remove(0);
            let (size, blksize) = (field(&line, "size"), field(&line, "blksize"));
            assert!(size > 0 && size % blksize == 0, "{line}");
            let length = |verb: &str, off: u64, n: u64| {
                let line = mount
                    .probe(&[&format!("{verb} {file} {off} {n}")])
                    .remove(0);
                let (ok, len) = line.rsplit_once(' ').unwrap();
                assert!(ok.starts_with("ok "), "{verb} {off} {n}: {line}");
                len.parse::<u64>().unwrap()
            };
            for off in size - 4..size + 4 {
                assert_eq!(
                    length("sum", off, 4),
                    size.saturating_sub(off).min(4),
                    "at {off}"
                );
            }
            assert_eq!(length("sum", size + (1 << 20), 4096), 0);
            assert_eq!(length("sum", 1 << 62, 4096), 0);
            assert_eq!(length("sum", 0, size + 1), size);
            let both = mount.probe(&[
                &format!("sum {file} 4096 {}", size - 4096),
                &format!("direct {file} {} 8192", size - 4096),
                &format!("read {file} {} 8192", size - 4096),
                &format!("map {file} 4096 {}", size - 4096),
            ]);
            assert_eq!(both[1], both[2], "O_DIRECT over the end");
            assert_eq!(both[1].len(), "ok ".len() + 2 * 4096);
            assert_eq!(both[0], both[3], "pread and mmap");
        }
        // Empty when it was made.
        let file = format!("@{}/bigfile/{}", tids[0], oids[0]);
        let line = mount.probe(&[&format!("stat {file}")]).remove(0);
        assert_eq!(field(&line, "size"), 0);
        expect(mount, &[(&format!("read {file} 0 4096"), "ok ")]);
    });
}
