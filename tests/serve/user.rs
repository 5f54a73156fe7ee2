//! An ordinary user serves with the help of `fusermount3`; others neither stop his server nor mistake it for theirs.

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::Path;
use std::process::Command;

use crate::machine::{DevFuseForAll, Transport, lack, on_path, root_or_lack, tool};
use crate::rig::{Rig, SHORT, no_bug};
use crate::scene::{Scene, is_there};

const NOBODY: u32 = 65534;
const OTHER: u32 = 65533;

fn as_user(rig: &Rig, uid: u32, program: &Path) -> Command {
    let mut c = rig.command("setpriv");
    c.args([&format!("--reuid={uid}"), &format!("--regid={uid}")]);
    c.arg("--clear-groups").arg(program);
    c
}

#[test]
fn an_ordinary_user_serves_and_only_he_stops() {
    if !is_there(Transport::Plain) || !root_or_lack("servers of an ordinary user") {
        return;
    }
    if !on_path("fusermount3") || !on_path("setpriv") {
        lack("servers of an ordinary user: no fusermount3 or no setpriv");
        return;
    }
    let _open = DevFuseForAll::open();
    let rig = Rig::alone("user", 120);
    let scene = Scene::named(&rig, "a,b\\c.fs");
    // A copy: a clone may lie where that user cannot go, and a link may not have its mode changed.
    let zring = rig.path("zring");
    fs::copy(&scene.wcfs, &zring).unwrap();
    fs::set_permissions(&zring, fs::Permissions::from_mode(0o755)).unwrap();
    chown(&scene.at, Some(NOBODY), Some(NOBODY)).unwrap();
    for dir in [rig.path("."), rig.path("package")] {
        fs::set_permissions(dir, fs::Permissions::from_mode(0o755)).unwrap();
    }
    let mut c = as_user(&rig, NOBODY, &zring);
    // Whoever starts a server may have next to no PATH.
    c.env("PATH", "/usr/sbin:/usr/bin:/bin");
    c.args([
        "serve",
        "-logtostderr",
        "-o",
        "transport=plain",
        &scene.zurl,
    ]);
    c.arg(&scene.at);
    let mount = rig
        .mount_by(&mut c, scene.at.clone(), &scene.zurl)
        .unwrap_or_else(|e| panic!("no mount: {e}"));
    assert_eq!(rig.mount_lines(&scene.at)[0].kind, "fuse.wcfs");
    let zring = |uid, word: &str| {
        let mut c = as_user(&rig, uid, &zring);
        rig.run(c.args([word, scene.mountpoint()]), SHORT)
    };
    let ended = zring(NOBODY, "status").good();
    assert!(
        ended
            .out
            .contains(&format!("server process: {} (zring)", mount.pid())),
        "{ended}"
    );
    let ended = zring(OTHER, "stop");
    assert_eq!(ended.code(), Some(7), "{ended}");
    assert!(!zring(OTHER, "status").is_good());
    let again = {
        let mut c = as_user(&rig, OTHER, &rig.path("zring"));
        c.args(["serve", "-logtostderr", &scene.zurl])
            .arg(&scene.at);
        rig.run(&mut c, SHORT)
    };
    assert_eq!(again.code(), Some(2), "{again}");
    zring(NOBODY, "stop").good();
    let ended = mount.ended();
    no_bug(&ended);
    ended.good();
}

/// As the server that is replaced: modes are what they were, and whoever serves may watch as much as memory allows.
#[test]
fn the_owner_has_no_quota() {
    if !is_there(Transport::Plain) {
        return;
    }
    let rig = Rig::new("owner", 120);
    let scene = Scene::new(&rig);
    let mount = scene.up(&["-o", "transport=plain,watch_per_uid=1+1"]);
    let modes = scene.shell("cd $M && stat -c %a . head head/at head/watch .wcfs/zurl");
    assert_eq!(modes.good().out, "755\n555\n644\n644\n644\n");
    let (oid, at) = (scene.base.files[0].oid, scene.base.last());
    let asks = format!("open {oid} 8192\\nlink A\\nread A\\nlinks 300 {oid} {at}\\nflood A 20000");
    let mut c = rig.command("sh");
    c.args(["-c", &format!("printf '{asks}\\n' | python3 $T $M")]);
    c.env("T", tool("client.py")).env("M", &scene.at);
    let ended = rig.run(&mut c, SHORT * 3).good();
    let answers: Vec<&str> = ended.out.lines().collect();
    let [opened, "> linked", "> served", "> 300", flood] = answers[..] else {
        panic!("{ended}");
    };
    assert_eq!(opened, "> 32768");
    let ms: u64 = flood.trim_start_matches("> ").parse().unwrap();
    // Another user would be made to wait 16 s.
    assert!(ms < 8000, "{ms} ms");
    scene.zring(&["stop", scene.mountpoint()]).good();
    no_bug(&mount.ended());
}
