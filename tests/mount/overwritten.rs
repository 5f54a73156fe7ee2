//! The database file is changed under the mount by who is no writer of it: cut, written over, replaced. What cannot be answered any more is an
//! error, for each view that depends on it; never other bytes, and never a daemon that tries without end.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::Duration;

use zring::base::Tid;
use zring::zodb::write::Leaf;

use crate::base::Base;
use crate::child::becomes_true;
use crate::commit::Scene;
use crate::machine::Transport;
use crate::on_each_transport;
use crate::rig::{Mount, Rig, SHORT};
use crate::visitor::Visitor;

on_each_transport!(
    cut_behind_a_place_that_is_known,
    written_over_with_what_is_older,
    written_over_with_another_history,
    another_history_in_its_place,
    packed,
);

const EIO: &str = "errno 5";
const BLKSIZE: u64 = 64 << 10;
const BLOCKS: u64 = 8;

/// A file of plain blocks, all with one stamp.
fn plain(base: &mut Base, stamp: u32) {
    let file = base.file(BLKSIZE, Leaf::Blk0);
    (0..BLOCKS).for_each(|blk| base.set(file, blk, stamp));
}

/// A page of a block.
fn page(path: &str, blk: u64, page: u64) -> String {
    format!("stamps {path} {} 4096", blk * BLKSIZE + page * 4096)
}

/// Lets go of all pages of a file.
fn evict(path: &str) -> String {
    format!("evict {path} 0 {}", BLOCKS * BLKSIZE)
}

/// So much memory and no more: a daemon that went on without end would take all there is.
fn bound_memory(rig: &Rig, mount: &Mount<'_>) {
    let pid = mount.pid().to_string();
    let mut c = rig.command("prlimit");
    rig.run(c.args(["--data=4294967296", "--pid", &pid]), SHORT)
        .good();
}

/// Clock ticks that the daemon has used.
fn ticks(mount: &Mount<'_>) -> u64 {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", mount.pid())).unwrap();
    let (_, after) = stat.rsplit_once(") ").unwrap();
    let fields = after.split(' ').skip(11).take(2);
    fields.map(|ticks| ticks.parse::<u64>().unwrap()).sum()
}

fn is_idle(mount: &Mount<'_>) {
    std::thread::sleep(Duration::from_millis(200));
    let before = ticks(mount);
    std::thread::sleep(Duration::from_secs(1));
    let used = ticks(mount) - before;
    assert!(used < 20, "{used} ticks in a second: {}", mount.said());
}

fn writable(path: &Path) -> File {
    OpenOptions::new().write(true).open(path).unwrap()
}

/// Workers know where the bytes of a block lie; the file ends before that now.
fn cut_behind_a_place_that_is_known(transport: Transport) {
    if !transport.is_there() {
        return;
    }
    let rig = Rig::new("cut", 60);
    let mut scene = Scene::new(&rig, transport, |base| plain(base, 1));
    bound_memory(&rig, &scene.mount);
    let file = &scene.base.files[0];
    let (head, old) = (file.head(), file.at(scene.start));
    for path in [&head, &old] {
        scene.inside.ask(&format!("hold {path}"));
        // Each worker is to know: which of them is asked is for the kernel to say.
        for n in 0..8 {
            assert_eq!(scene.inside.ask(&page(path, 3, n)), "1x1");
            scene.inside.ask(&evict(path));
        }
    }
    let page_of = |path: &str, n: u64| page(path, 3, n);
    // What is stored behind the readers comes to rest.
    std::thread::sleep(Duration::from_millis(100));
    scene.inside.ask(&evict(&old));
    writable(&rig.path("Data.fs")).set_len(100).unwrap();
    for n in 8..16 {
        assert_eq!(scene.inside.ask(&page_of(&old, n)), EIO);
    }
    // Pages of head that were stored behind the readers are there until they are dropped.
    let inside = &mut scene.inside;
    assert!(becomes_true(SHORT, || inside.ask(&page_of(&head, 9)) == EIO));
    is_idle(&scene.mount);
    let at = scene.inside.ask("text head/at");
    assert_eq!(Tid::parse(at.as_bytes()), Some(scene.start));
    scene.stop();
}

/// A copy of what the database was is written over it: it went back, and so nothing can be told of older states either.
fn written_over_with_what_is_older(transport: Transport) {
    if !transport.is_there() {
        return;
    }
    let rig = Rig::new("older", 60);
    let path = rig.path("Data.fs");
    let mut scene = Scene::new(&rig, transport, |base| plain(base, 1));
    let before = std::fs::read(&path).unwrap();
    scene.base.set(0, 3, 2);
    let next = scene.commit();
    let file = &scene.base.files[0];
    let (head, old, new) = (file.head(), file.at(scene.start), file.at(next));
    for (path, stamp) in [(&head, 2), (&old, 1), (&new, 2)] {
        scene.inside.ask(&format!("hold {path}"));
        assert_eq!(scene.inside.ask(&page(path, 3, 0)), format!("{stamp}x1"));
    }
    std::fs::write(&path, before).unwrap();
    // What is cached, what is not, and what is looked up anew.
    for path in [&head, &old, &new] {
        let inside = &mut scene.inside;
        assert!(
            becomes_true(SHORT, || inside.ask(&page(path, 3, 0)) == EIO),
            "{path}"
        );
        assert_eq!(inside.ask(&page(path, 5, 1)), EIO);
        inside.ask(&format!("let {path}"));
        assert_eq!(inside.ask(&page(path, 3, 0)), EIO);
    }
    let other = scene.base.files[0].at(Tid(scene.start.0 + 1));
    assert_eq!(scene.inside.ask(&page(&other, 3, 0)), EIO);
    let says = ["was written over", "went back in time"];
    let is_said = || says.iter().all(|what| scene.mount.said().contains(what));
    assert!(becomes_true(SHORT, is_said), "{}", scene.mount.said());
    is_idle(&scene.mount);
    let at = scene.inside.ask("text head/at");
    assert_eq!(Tid::parse(at.as_bytes()), Some(next));
    scene.stop();
}

/// In the bytes of the same file.
fn written_over_with_another_history(transport: Transport) {
    // One call: whoever looks meanwhile waits for it.
    another_history(transport, |path, bytes| {
        writable(path).write_all_at(bytes, 0).unwrap();
    });
}

/// In another file that gets the name.
fn another_history_in_its_place(transport: Transport) {
    another_history(transport, |path, bytes| {
        let new = path.with_extension("new");
        std::fs::write(&new, bytes).unwrap();
        std::fs::rename(new, path).unwrap();
    });
}

/// Nothing stays of what was derived from the history before, neither of head nor of older states: their names lead to what the new one has.
fn another_history(transport: Transport, replace: impl FnOnce(&Path, &[u8])) {
    if !transport.is_there() {
        return;
    }
    let rig = Rig::new("another", 60);
    let path = rig.path("Data.fs");
    let mut scene = Scene::new(&rig, transport, |base| plain(base, 1));
    let mut other = Base::create(&rig.path("other.fs"));
    other.step -= 1;
    plain(&mut other, 7);
    other.commit();
    other.set(0, 3, 8);
    let last = (other.commit(), other.commit()).1;
    let file = &scene.base.files[0];
    let (head, old) = (file.head(), file.at(scene.start));
    for path in [&head, &old] {
        scene.inside.ask(&format!("hold {path}"));
        assert_eq!(scene.inside.ask(&page(path, 3, 0)), "1x1");
    }
    replace(&path, &std::fs::read(rig.path("other.fs")).unwrap());
    scene.inside.await_head(last);
    assert_eq!(scene.inside.ask(&page(&head, 3, 0)), "8x1");
    assert_eq!(scene.inside.ask(&page(&head, 4, 0)), "7x1");
    // Who has it open sees no mixture.
    for blk in [3, 4] {
        assert_eq!(scene.inside.ask(&page(&old, blk, 0)), EIO);
    }
    scene.inside.ask(&format!("let {old}"));
    for blk in [3, 4] {
        assert_eq!(scene.inside.ask(&page(&old, blk, 0)), "7x1");
    }
    let size = scene.inside.number(&format!("size {old}"));
    assert_eq!(size, BLOCKS * BLKSIZE);
    // It goes on.
    drop(other);
    is_idle(&scene.mount);
    scene.stop();
}

/// A pack leaves nothing of the file before: neither a descriptor nor, with the views that had it, an index in memory.
fn packed(transport: Transport) {
    if !transport.is_there() {
        return;
    }
    let rig = Rig::new("packed", 60);
    let (made, path) = (rig.path("made.fs"), rig.path("Data.fs"));
    let mut base = Base::create(&made);
    plain(&mut base, 1);
    let start = base.commit();
    std::fs::copy(&made, &path).unwrap();
    let mount = rig.up(&path, transport);
    let mut inside = Visitor::enter(&rig, &mount.at);
    let (head, old) = (base.files[0].head(), base.files[0].at(start));
    for (blk, path) in (0..4).flat_map(|blk| [(blk, &head), (blk, &old)]) {
        inside.ask(&format!("hold {path}"));
        assert_eq!(inside.ask(&page(path, blk, 0)), "1x1");
    }
    let held = || {
        let all = std::fs::read_dir(format!("/proc/{}/fd", mount.pid())).unwrap();
        let targets = all
            .flatten()
            .filter_map(|fd| std::fs::read_link(fd.path()).ok());
        targets
            .filter(|to| to.to_string_lossy().contains("Data.fs (deleted)"))
            .count()
    };
    // As a pack does that finds nothing to leave out; who packed removes the old file.
    let new = rig.path("Data.fs.pack");
    std::fs::copy(&path, &new).unwrap();
    let size = usize::try_from(std::fs::metadata(&path).unwrap().len()).unwrap();
    std::fs::rename(&new, &path).unwrap();
    base.set(0, 2, 2);
    let next = base.commit();
    let bytes = std::fs::read(&made).unwrap();
    let mut file = OpenOptions::new().append(true).open(&path).unwrap();
    file.write_all(&bytes[size..]).unwrap();
    inside.await_head(next);
    assert_eq!(inside.ask(&page(&head, 2, 0)), "2x1");
    assert!(
        becomes_true(SHORT, || held() == 0),
        "{} descriptors",
        held()
    );
    // What was open stays so, and is what it was.
    for (blk, stamp) in [(1, 1), (2, 2), (7, 1)] {
        assert_eq!(inside.ask(&page(&head, blk, 5)), format!("{stamp}x1"));
        assert_eq!(inside.ask(&page(&old, blk, 5)), "1x1");
    }
    drop(inside);
    mount.stop();
}
