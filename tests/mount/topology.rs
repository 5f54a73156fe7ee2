//! `zring tree`, against what the generator says it wrote.

use std::time::Duration;

use crate::data::database;
use crate::rig::{Rig, SHORT, no_bug, zurl};

#[test]
fn tables_and_differences_are_what_was_committed() {
    let rig = Rig::new("topology", 300);
    let kinds = ["ZBlk0", "ZBlk1", "mixed"];
    for kind in kinds {
        let args =
            format!("--files 2 --blocks 20 --blksize 16384 --fmt {kind} --txns 15 --undo 0.1");
        let Some(db) = database(&rig, &args) else {
            return;
        };
        let mut c = rig.tool("check_tree.py");
        c.arg(rig.zring().get_program())
            .arg(&db.fs)
            .arg(&db.manifest);
        rig.run(&mut c, Duration::from_secs(120)).good();
    }
}

#[test]
fn what_cannot_be_shown_is_said() {
    let rig = Rig::new("topology-bad", 60);
    let args = "--files 1 --blocks 5 --blksize 4096 --txns 3 --delete-file";
    let Some(db) = database(&rig, args) else {
        return;
    };
    let url = zurl(&db.fs);
    let cases: [(&[&str], i32, &str); 6] = [
        (&[&url], 2, "oid"),
        (&[&url, "1"], 2, "16 hex digits"),
        (
            &[&url, "0000000000000001", "--at", "zz"],
            2,
            "16 hex digits",
        ),
        (
            &[&url, "0000000000000001", "--at", "7fffffffffffffff"],
            1,
            "beyond the last",
        ),
        (&[&url, "0000000000000000"], 1, "no big file"),
        (&[&url, "0000000000000001"], 1, "no big file"),
    ];
    for (args, code, says) in cases {
        let ended = rig.run(rig.zring().arg("tree").args(args), SHORT);
        assert_eq!(ended.code(), Some(code), "{ended}");
        assert!(ended.err.contains(says), "{ended}");
        no_bug(&ended);
    }
}
