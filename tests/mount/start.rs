//! What a mount refuses before it is made.

use std::path::Path;

use zring::zodb::write::Leaf;

use crate::base::Base;
use crate::child::Ended;
use crate::damage::refused;
use crate::machine::Transport;
use crate::rig::{Rig, SHORT, no_bug, zurl};

fn database(path: &Path) {
    let mut base = Base::create(path);
    let file = base.file(4096, Leaf::Blk0);
    base.set(file, 0, 1);
    base.commit();
}

/// A daemon that reaches its database through its own mount would wait for itself.
#[test]
fn a_mountpoint_that_covers_the_database_is_refused() {
    if !Transport::Plain.is_there() {
        return;
    }
    let rig = Rig::new("cover", 60);
    let (at, db) = (rig.path("mnt"), rig.path("mnt/db/Data.fs"));
    std::fs::create_dir_all(db.parent().unwrap()).unwrap();
    database(&db);
    database(&rig.path("Data.fs"));
    let (inside, outside) = (zurl(&db), zurl(&rig.path("Data.fs")));
    let covered = |ended: &Ended, code| {
        let says = "would cover ";
        assert!(ended.err.contains(says), "{ended}");
        no_bug(ended);
        assert_eq!(ended.code(), Some(code), "{ended}");
        assert!(rig.mount_lines(&at).is_empty());
    };
    let demo = format!("demo:({outside})/({inside})");
    let log = format!("log_file={}", at.join("log").display());
    for (options, zurl) in [("ro", &inside), ("ro", &demo), (&log, &outside)] {
        for front in [&["mount"][..], &["mount", "-f"]] {
            let mut c = rig.zring();
            c.args(front).args(["-o", options, zurl]).arg(&at);
            let ended = rig.run(&mut c, SHORT);
            covered(&ended, 1);
            refused(&ended);
        }
    }
    let serve = |flags: &[&str], zurl: &str| {
        let mut c = rig.zring();
        c.arg("serve").args(flags).arg(zurl).arg(&at);
        rig.run(&mut c, SHORT)
    };
    covered(&serve(&["-logtostderr"], &inside), 2);
    let logs = at.display().to_string();
    covered(&serve(&["-log_dir", &logs], &outside), 2);
    // Beside it is no harm.
    let next = rig.path("mnt/db/here");
    std::fs::create_dir(&next).unwrap();
    let mount = rig.mount("mnt/db/here", &inside, "transport=plain");
    mount.unwrap_or_else(|e| panic!("no mount: {e}")).stop();
}
