//! Files that become shorter, and readers that never ask how long they are: behind the end they find the end (kernel-note 0019).
//!
//! The readers are a process of their own ([`crate::visitor`], question `behind`), which opens the file once. What is mapped is read by
//! writing it to a pipe: a page fault as any other, but who is behind the end gets EFAULT in place of SIGBUS.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use memmap2::{Advice, Mmap};
use nix::errno::Errno;
use nix::fcntl::{PosixFadviseAdvice, posix_fadvise};
use zring::zodb::write::Leaf;

use crate::child::{becomes_true, processes_with};
use crate::commit::Scene;
use crate::machine::{Transport, is_root, lack, number};
use crate::on_each_transport;
use crate::rig::{Rig, SHORT};
use crate::visitor::{PAGE, Tally, stamps};

on_each_transport!(
    who_does_not_ask_for_the_size_finds_the_end,
    who_watches_loses_no_page_by_it,
    the_test_sees_zeros_where_nobody_can_ask,
);

/// Blocks of the file, and how many of them go and come.
const BLOCKS: u64 = 8;
const KEPT: u64 = 4;

/// What readers saw of the pages that come and go.
#[derive(Debug, Default)]
struct Saw {
    reads: AtomicU64,
    ends: AtomicU64,
    zeros: AtomicU64,
    torn: AtomicU64,
    /// Older than what was seen there before.
    back: AtomicU64,
}

impl Saw {
    /// One page, or none: `newest` is the newest that its reader saw of it.
    fn page(&self, bytes: &[u8], off: u64, newest: &mut u32) {
        let count = Tally::add;
        count(&self.reads);
        if bytes.is_empty() {
            count(&self.ends);
            return;
        }
        match stamps(bytes, off).next() {
            Some(0) | None => count(&self.zeros),
            Some(u32::MAX) => count(&self.torn),
            Some(stamp) if stamp < *newest => count(&self.back),
            Some(stamp) => *newest = stamp,
        }
    }

    fn told(&self) -> String {
        let all = [&self.reads, &self.ends, &self.zeros, &self.torn, &self.back];
        let all = all.map(|counter| counter.load(Ordering::Relaxed).to_string());
        all.join(" ")
    }
}

/// In the visitor: reads pages of a file in all ways at once, for so long. Numbers of reads, of those at the end, and of wrong ones.
pub(crate) fn behind(
    [ahead, random]: [File; 2],
    pages: std::ops::Range<u64>,
    time: Duration,
) -> io::Result<String> {
    let (saw, end) = (Saw::default(), Instant::now() + time);
    posix_fadvise(random.as_fd(), 0, 0, PosixFadviseAdvice::POSIX_FADV_RANDOM)?;
    let map = map(&random, pages.end)?;
    map.advise(Advice::Random)?;
    let failed = Mutex::new(None);
    let run = |read: &dyn Fn(u64, &mut [u8]) -> io::Result<usize>, step: u64| {
        let (mut buf, mut page) = (vec![0; PAGE], pages.start);
        let mut newest = vec![0; usize::try_from(pages.end).unwrap()];
        while Instant::now() < end {
            page = pages.start + (page + step - pages.start) % (pages.end - pages.start);
            match read(page, &mut buf) {
                Ok(len) => {
                    let newest = &mut newest[usize::try_from(page).unwrap()];
                    saw.page(&buf[..len], page * PAGE as u64, newest);
                }
                Err(error) => return drop(failed.lock().unwrap().replace(error)),
            }
        }
    };
    let pread = |file: &File, page: u64, buf: &mut [u8]| file.read_at(buf, page * PAGE as u64);
    let fault = |page: u64, buf: &mut [u8]| {
        let (mut from, to) = io::pipe()?;
        let at = usize::try_from(page).unwrap() * PAGE;
        match nix::unistd::write(&to, &map[at..at + PAGE]) {
            Ok(PAGE) => from.read_exact(buf).map(|()| PAGE),
            Err(Errno::EFAULT) => Ok(0),
            other => Err(io::Error::other(format!("{other:?}"))),
        }
    };
    std::thread::scope(|scope| {
        scope.spawn(|| run(&|page, buf| pread(&random, page, buf), 7));
        scope.spawn(|| run(&|page, buf| pread(&random, page, buf), 3));
        scope.spawn(|| run(&|page, buf| pread(&ahead, page, buf), 1));
        scope.spawn(|| run(&fault, 5));
    });
    let failed = failed.into_inner().unwrap();
    failed.map_or_else(|| Ok(saw.told()), Err)
}

#[allow(unsafe_code, reason = "see its SAFETY comment")]
fn map(file: &File, pages: u64) -> io::Result<Mmap> {
    let len = usize::try_from(pages).unwrap() * PAGE;
    // SAFETY: only the kernel reads it, which tells of a page that is not there, and bytes that change are what the test looks for.
    unsafe { memmap2::MmapOptions::new().len(len).map(file) }
}

/// A file that loses its last blocks and gets others, with transactions in between that change what stays, while somebody reads: what
/// readers saw, and how often it became shorter.
fn shortened(scene: &mut Scene<'_>, time: Duration, stamp: &mut u64) -> ([u64; 5], u64) {
    let (path, pages) = (scene.base.files[0].head(), (64 << 10) / PAGE as u64);
    let (first, last) = (KEPT * pages, BLOCKS * pages);
    let question = format!("behind {path} {first} {last} {}", time.as_millis());
    scene.inside.begin(&question);
    let (end, mut times) = (Instant::now() + time, 0);
    while Instant::now() < end {
        for blk in KEPT..BLOCKS {
            scene.base.remove(0, blk);
        }
        scene.base.commit();
        times += 1;
        for _ in 0..3 {
            std::thread::sleep(Duration::from_millis(3));
            *stamp += 1;
            scene
                .base
                .set(0, *stamp % KEPT, u32::try_from(*stamp).unwrap());
            scene.base.commit();
        }
        *stamp += 1;
        for blk in KEPT..BLOCKS {
            scene.base.set(0, blk, u32::try_from(*stamp).unwrap());
        }
        scene.base.commit();
        std::thread::sleep(Duration::from_millis(3));
    }
    let answer = scene.inside.answer(SHORT + time);
    let saw: Vec<u64> = answer.split(' ').filter_map(|n| n.parse().ok()).collect();
    let saw = saw.try_into().unwrap_or_else(|_| panic!("{answer}"));
    (saw, times)
}

fn scene<'r>(rig: &'r Rig, transport: Transport) -> Scene<'r> {
    Scene::new(rig, transport, |base| {
        let file = base.file(64 << 10, Leaf::Blk0);
        (0..BLOCKS).for_each(|blk| base.set(file, blk, 1));
    })
}

fn who_does_not_ask_for_the_size_finds_the_end(transport: Transport) {
    if !transport.is_there() {
        return;
    }
    let seconds = number("ZRING_SHORTER_S", 4);
    let rig = Rig::new("shorter", 90 + seconds);
    let mut scene = scene(&rig, transport);
    scene.read_all(0);
    let (saw, times) = shortened(&mut scene, Duration::from_secs(seconds), &mut 10);
    let [reads, ends, wrong @ ..] = saw;
    println!("{}: {saw:?}, {times} times shorter", transport.name());
    assert!(reads > 1000 && ends > 100 && times > 20, "{saw:?} {times}");
    assert_eq!(wrong, [0; 3], "{saw:?}");
    scene.inside.await_head(scene.base.last());
    scene.read_all(0);
    let told = scene.inside.stat("shorter");
    assert!(told >= times, "{told} of {times}");
    assert_eq!(scene.inside.stat("size_untold"), 0);
    let said = scene.stop();
    assert!(!said.contains("could not be made to know"), "{said}");
}

/// Something lies over the mountpoint, so that nobody finds the file by its path: nothing hangs, and the kernel is told by nobody.
fn the_test_sees_zeros_where_nobody_can_ask(transport: Transport) {
    if !transport.is_there() {
        return;
    }
    if !is_root() {
        return lack("files that shrink below a covered mount: only root can cover one");
    }
    let rig = Rig::new("covered", 120);
    let mut scene = scene(&rig, transport);
    scene.read_all(0);
    let path = scene.base.files[0].head();
    scene.inside.ask(&format!("hold {path}"));
    let at = scene.mount.at.clone();
    let cover = Cover::over(&rig, &at);
    let (mut zeros, mut stamp) = (0, 10);
    for _ in 0..10 {
        let (saw, _) = shortened(&mut scene, Duration::from_millis(500), &mut stamp);
        zeros += saw[2];
        assert_eq!(saw[3..], [0; 2], "{saw:?}");
    }
    drop(cover);
    println!("{}: {zeros} zeros", transport.name());
    assert!(zeros > 0, "the readers would not have seen it");
    scene.inside.await_head(scene.base.last());
    assert!(scene.inside.stat("size_untold") > 20);
    let said = scene.stop();
    assert!(said.contains("could not be made to know"), "{said}");
}

/// Another file system over a mountpoint.
#[derive(Debug)]
struct Cover<'r>(&'r Rig, &'r Path);

impl<'r> Cover<'r> {
    fn over(rig: &'r Rig, at: &'r Path) -> Self {
        let mut mount = rig.command("mount");
        mount.args(["-t", "tmpfs", "zring-cover"]).arg(at);
        rig.run(&mut mount, SHORT).good();
        Self(rig, at)
    }
}

impl Drop for Cover<'_> {
    fn drop(&mut self) {
        let mut umount = self.0.command("umount");
        let _ = self.0.run(umount.args(["-l"]).arg(self.1), SHORT);
    }
}

/// Somebody sees the file as it was longer, through head: as long as he does nobody makes his mapping end. When he has left, the kernel is told.
fn who_watches_loses_no_page_by_it(transport: Transport) {
    if !transport.is_there() {
        return;
    }
    let rig = Rig::new("watched shorter", 90);
    let mut scene = scene(&rig, transport);
    scene.read_all(0);
    let (start, oid) = (scene.start, scene.base.files[0].head());
    let oid = oid.rsplit('/').next().unwrap().to_owned();
    let mut client = crate::visitor::Visitor::client(&rig, &scene.mount.at);
    client.ask(&format!("open {oid} {}", 64 << 10));
    client.ask("link G");
    client.ask("serve G");
    let watched = client.ask(&format!("ask G 1 watch {oid} @{start}"));
    assert!(watched.starts_with("1 ok"), "{watched}");
    for blk in KEPT..BLOCKS {
        scene.base.remove(0, blk);
    }
    let shorter = scene.base.commit();
    scene.inside.await_head(shorter);
    assert_eq!(scene.inside.stat("shorter"), 0);
    client.ask("say G 3 bye");
    let told = becomes_true(SHORT, || scene.inside.stat("shorter") == 1);
    assert!(told, "{}", scene.mount.said());
    assert_eq!(scene.inside.stat("size_untold"), 0);
    drop(client);
    scene.stop();
}

/// The process that asks has nothing open of the server, keeps nothing of the mount, and ends with the server.
#[test]
fn who_asks_holds_nothing_and_ends_with_the_server() {
    let transport = Transport::Dev;
    if !transport.is_there() {
        return;
    }
    let rig = Rig::new("asker", 60);
    let mut scene = scene(&rig, transport);
    let askers = || {
        let all = processes_with("ZRING_RIG", rig.path("x").parent().unwrap().as_os_str());
        let of = |pid: &nix::unistd::Pid| {
            let words = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            String::from_utf8_lossy(&words).contains("look\0sizes")
        };
        all.into_iter().filter(of).collect::<Vec<_>>()
    };
    scene.read_all(0);
    assert_eq!(askers(), [], "nobody needs it yet");
    scene.base.remove(0, BLOCKS - 1);
    scene.commit();
    let [asker] = askers()[..] else {
        panic!("{:?}", askers())
    };
    let open = std::fs::read_dir(format!("/proc/{asker}/fd")).unwrap();
    let open = open.map(|fd| std::fs::read_link(fd.unwrap().path()).unwrap());
    let mut open: Vec<_> = open.map(|to| to.to_string_lossy().into_owned()).collect();
    let of_server = |to: &String| {
        to == "/dev/fuse"
            || to.starts_with("anon_inode:")
            || Path::new(to).starts_with(&scene.mount.at)
    };
    open.retain(of_server); // what the tests themselves were started with it has too
    assert_eq!(open, [""; 0]);
    // It is killed, and another one takes its place.
    nix::sys::signal::kill(asker, nix::sys::signal::Signal::SIGKILL).unwrap();
    scene.base.remove(0, BLOCKS - 2);
    scene.commit();
    scene.base.remove(0, BLOCKS - 3);
    scene.commit();
    assert_eq!(scene.inside.stat("size_untold"), 1);
    assert_eq!(askers().len(), 1);
    scene.stop();
    assert!(
        becomes_true(SHORT, || askers().is_empty()),
        "{:?}",
        askers()
    );
}

/// A measurement: transactions one after the other, each of which makes the file a block shorter, and as many that do not.
#[test]
#[ignore = "a measurement"]
fn what_a_transaction_takes_that_makes_a_file_shorter() {
    const COUNT: u64 = 300;
    for transport in Transport::ALL.into_iter().filter(|of| of.is_there()) {
        let rig = Rig::new("shorter cost", 90);
        let mut scene = Scene::new(&rig, transport, |base| {
            let file = base.file(4 << 10, Leaf::Blk0);
            (0..2 * COUNT).for_each(|blk| base.set(file, blk, 1));
        });
        scene.read_all(0);
        let mut took = [Duration::ZERO; 2];
        for (took, shorter) in took.iter_mut().zip([false, true]) {
            let began = Instant::now();
            for blk in (COUNT..2 * COUNT).rev() {
                match shorter {
                    true => scene.base.remove(0, blk),
                    false => scene.base.set(0, blk, 2),
                }
                scene.base.commit();
            }
            scene.inside.await_head(scene.base.last());
            *took = began.elapsed() / u32::try_from(COUNT).unwrap();
        }
        println!(
            "{}: {:?} a change, {:?} a block less",
            transport.name(),
            took[0],
            took[1]
        );
        scene.stop();
    }
}
