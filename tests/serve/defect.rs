//! Defects of the server that is replaced, by their numbers in its list: they are not here.
//!
//! | | where it is shown |
//! |---|---|
//! | 1, 4, 5, 11, 14, 19, 20 | `mount`: `defect::d<number>_*` |
//! | 2 | `engine::probe`, `engine::retrieval`: `d02_*` |
//! | 3, 10, 12, 17, 21, 22 | `mount`: `fault::d<number>_*`; of 10 and 21 also `kernel::client` and `iso::outbox` |
//! | 6, 7, 16 | here; of 16 also `kernel::mountinfo` |
//! | 15 | `tail::tests::scenario`: `d15_*` |
//! | 18 | `fs::past`: `d18_*` |
//!
//! 8, 9 and 13 are of the library in its clients, not of the server.

use crate::machine::Transport;
use crate::on_each_transport;
use crate::rig::Rig;
use crate::scene::{Scene, is_there};

on_each_transport!(
    d06_small_files_are_read_at_any_place,
    d07_the_state_before_all_states
);

fn d06_small_files_are_read_at_any_place(transport: Transport) {
    if !is_there(transport) {
        return;
    }
    let rig = Rig::new("d06", 60);
    let scene = Scene::new(&rig);
    let mount = scene.up_by(transport);
    for file in ["head/at", ".wcfs/zurl", ".wcfs/pintimeout", ".wcfs/stats"] {
        let whole = mount.cat(file);
        for (skip, len) in [
            (0, 1),
            (1, 1),
            (0, 7),
            (3, 4),
            (15, 1),
            (16, 1),
            (99_999, 1),
            (1_u64 << 40, 8),
        ] {
            let script = format!(
                "dd if=$M/{file} iflag=skip_bytes,count_bytes bs={len} skip={skip} count={len} 2>/dev/null"
            );
            let got = scene.shell(&script).good().out;
            let skip = usize::try_from(skip).unwrap_or(usize::MAX).min(whole.len());
            let want = &whole[skip..(skip + len).min(whole.len())];
            // Counters move; how much is read does not.
            assert_eq!(got.len(), want.len(), "{file} {skip}+{len}");
            assert!(
                file == ".wcfs/stats" || got == want,
                "{file} {skip}+{len}: {got}"
            );
        }
    }
    mount.stop();
}

fn d07_the_state_before_all_states(transport: Transport) {
    if !is_there(transport) {
        return;
    }
    let rig = Rig::new("d07", 60);
    let scene = Scene::new(&rig);
    let mount = scene.up_by(transport);
    let oid = scene.base.files[0].oid;
    for tid in ["0000000000000000", "0000000000000001"] {
        let ended = scene.shell(&format!("cat $M/@{tid}/bigfile/{oid}"));
        assert!(ended.err.contains("Invalid argument"), "{ended}");
    }
    mount.head();
    mount.stop();
}

#[test]
fn d16_an_address_that_the_kernel_escapes_is_recognised() {
    if !is_there(Transport::Plain) {
        return;
    }
    let rig = Rig::new("d16", 60);
    let scene = Scene::named(&rig, "with blanks, a\\backslash and a #.fs");
    // A place of its own, since an address is what is looked for.
    let mut c = rig.zring();
    c.args(["serve", "-logtostderr", &scene.zurl]);
    let status = |code| {
        let ended = scene.zring(&["status", &scene.zurl]);
        assert_eq!(ended.code(), Some(code), "{ended}");
        ended
    };
    let absent = status(3);
    let at = absent.out.rsplit_once(" on ").unwrap().1.trim().to_owned();
    let server = rig
        .mount_by(&mut c, at.clone().into(), &scene.zurl)
        .unwrap_or_else(|e| panic!("no mount: {e}"));
    status(0);
    let ended = scene.zring(&["stop", &scene.zurl]).good();
    assert!(ended.out.contains("unmounted"), "{ended}");
    server.ended().good();
    assert!(!std::path::Path::new(&at).exists(), "stop leaves {at}");
}
