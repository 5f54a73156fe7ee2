//! What moving a block from one file of a mount to another costs by itself: RETRIEVE, STORE and INVAL of the same bytes, and the two ways to
//! bring them below `@<tid>` (kernel-note 0016).
//!
//! A file system of its own on the daemon's engine and transport. This process holds the mount and never enters it: the one who
//! reads, and the helper who opens names, are children.

use crate::rig::{myself, output};
use crate::stat::Sample;
use anyhow::{Context, Result, bail, ensure};
use bytes::Bytes;
use std::collections::HashMap;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Stdio};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use zring::base::{NodeId, limit};
use zring::engine::start::{Choice, start};
use zring::engine::worker::Service;
use zring::kernel::mount::{Connection, MountSpec};
use zring::kernel::notify::{Told, tell};
use zring::kernel::port::{Held, Port, ReadDone, TransportKind};
use zring::wire::fuse::abi::{Attr, fopen};
use zring::wire::fuse::notify::{Head, RetrieveId, RetrieveLen};
use zring::wire::fuse::reply;
use zring::wire::fuse::request::Op;

const DATA: NodeId = NodeId(2);
const SIZE: u64 = 1 << 40;
/// As the daemon does.
const PIECE: u64 = 512 << 10;
const STORE: usize = 256 << 10;
/// Neighbours that are asked for at once.
const RUN: u64 = 128 << 10;
const PATIENCE: Duration = Duration::from_secs(5);
/// Between what makes blocks cached and what moves them, as between a reader and a commit: who moves them was asleep.
const PAUSE: Duration = Duration::from_millis(10);
const ROUNDS: u32 = 30;

#[derive(Debug, Default)]
struct Names {
    nodes: HashMap<(NodeId, Vec<u8>), NodeId>,
    /// Look-ups that the kernel has not forgotten.
    known: u64,
}

/// See the module.
#[derive(Clone, Debug)]
struct Mover {
    names: Arc<Mutex<Names>>,
    came: Sender<Bytes>,
}

/// Mounts on `at`, measures with so many blocks, every `step`th, prints and unmounts.
pub fn measure(at: &Path, transport: &str, blksize: u64, (count, step): (u64, u64)) -> Result<()> {
    let kind = match transport {
        "uring" => TransportKind::Uring,
        "dev" => TransportKind::Dev,
        "plain" => TransportKind::Plain,
        other => bail!("unknown transport {other}"),
    };
    let spec = MountSpec {
        source: "moves".into(),
        mountpoint: at.canonicalize()?,
        subtype: "zmoves".into(),
        allow_other: false,
        flags: Default::default(),
    };
    let (came, retrieved) = channel();
    let names = Arc::<Mutex<Names>>::default();
    let mover = Mover {
        names: Arc::clone(&names),
        came,
    };
    let running = start(spec, Choice::Force(kind), limit::POLLERS, |_, _, seats| {
        Ok(seats.iter().map(|_| mover.clone()).collect())
    })?;
    let connection = Arc::clone(&running.connection);
    let scene = Scene {
        at: at.to_owned(),
        connection: Arc::clone(&connection),
        retrieved,
        names,
        blksize,
        count,
        step,
    };
    let outcome = scene.measure();
    let _ = connection.abort();
    let _ = connection.unmount(true);
    outcome
}

struct Scene {
    at: std::path::PathBuf,
    connection: Arc<Connection>,
    retrieved: Receiver<Bytes>,
    names: Arc<Mutex<Names>>,
    blksize: u64,
    count: u64,
    /// From one block to the next.
    step: u64,
}

impl Scene {
    fn measure(&self) -> Result<()> {
        let mut helper = Helper::start(&self.at)?;
        let [
            mut retrieve,
            mut together,
            mut store,
            mut inval,
            mut asked,
            mut known,
        ] = [(); 6].map(|()| Sample::default());
        for round in 0..ROUNDS {
            if self.step == 1 {
                together.push(self.all(RUN.max(self.blksize))?.1);
            }
            let (kept, us) = self.all(self.blksize)?;
            retrieve.push(us);
            let off = |blk: u64| blk * self.step * self.blksize;
            inval.push(
                self.each(|blk| self.tell(&Head::inval_inode(DATA, off(blk), self.blksize), &[]))?,
            );
            // Back to where they were: the raw cost of the same bytes.
            store.push(self.each(|blk| self.store(DATA, off(blk), (blk, &kept)))?);
            let rev = format!("@{round:016x}/bigfile/{:016x}", 7);
            let (us, node) = self.by_helper(&mut helper, &rev, &kept)?;
            asked.push(us);
            known.push(self.each(|blk| self.store(node, blk * self.blksize, (blk, &kept)))?);
        }
        println!("retrieve_us {:.2}", retrieve.median());
        // Who has no neighbours is not asked for with any.
        let together = match self.step {
            1 => together.median(),
            _ => retrieve.median(),
        };
        println!("together_us {together:.2}");
        println!("store_us {:.2}", store.median());
        println!("inval_us {:.2}", inval.median());
        let raw = retrieve.median() + store.median() + inval.median();
        println!("raw_us {raw:.2}");
        println!("store_again_us {:.2}", known.median());
        println!("helper_us {:.2}", asked.median());
        drop(helper);
        std::thread::sleep(Duration::from_secs(2));
        let left = self.names.lock().expect("a panic ends it").known;
        println!("nodes_left {left}");
        println!("nodes_left_each {:.2}", left as f64 / f64::from(ROUNDS));
        Ok(())
    }

    /// Has a child read all blocks.
    fn warm(&self) -> Result<()> {
        let mut reader = myself()?;
        let data = self.at.join("data");
        reader.args(["client", "seq"]).arg(data);
        let bytes = self.blksize * self.count * self.step;
        reader.args([&bytes.to_string(), "--unchecked"]);
        output(&mut reader, Duration::from_secs(60), &[])?;
        std::thread::sleep(PAUSE);
        Ok(())
    }

    fn tell(&self, head: &Head, data: &[&[u8]]) -> Result<()> {
        let told = tell(&self.connection.fuse, head, data)?;
        ensure!(told == Told::Done, "the kernel does not know the node");
        Ok(())
    }

    /// Microseconds for each block.
    fn each(&self, mut work: impl FnMut(u64) -> Result<()>) -> Result<f64> {
        let began = Instant::now();
        (0..self.count).try_for_each(&mut work)?;
        Ok(began.elapsed().as_secs_f64() * 1e6 / self.count as f64)
    }

    /// All blocks, and what it took to get them. A kernel that pages out by itself may take a page in between: then once more.
    fn all(&self, run: u64) -> Result<(Vec<Bytes>, f64)> {
        let mut tries = 3;
        loop {
            self.warm()?;
            let (kept, us) = self.retrieve(run)?;
            let bytes: u64 = kept.iter().map(|b| b.len() as u64).sum();
            let all = self.blksize * self.count;
            if bytes == all {
                return Ok((kept, us));
            }
            tries -= 1;
            ensure!(tries > 0, "{bytes} of {all} bytes came back");
        }
    }

    /// Asks for all blocks, so many bytes of neighbours at once, then waits for all of them, as the daemon does.
    fn retrieve(&self, run: u64) -> Result<(Vec<Bytes>, f64)> {
        let mut asked = 0;
        let began = Instant::now();
        // Neighbours as one, those apart one by one.
        let (spans, len) = match self.step {
            1 => (1, self.count * self.blksize),
            _ => (self.count, self.blksize),
        };
        for span in 0..spans {
            let first = span * self.step * self.blksize;
            for off in (first..first + len).step_by(usize::try_from(run)?) {
                let end = (first + len).min(off + run);
                for off in (off..end).step_by(PIECE as usize) {
                    let len = RetrieveLen::clamp(PIECE.min(end - off), 1 << 20);
                    asked += 1;
                    let head = Head::retrieve(RetrieveId(asked), DATA, off, len);
                    self.tell(&head, &[])?;
                }
            }
        }
        let kept: Vec<_> = (0..asked)
            .map(|_| self.retrieved.recv_timeout(PATIENCE))
            .collect::<Result<_, _>>()?;
        let us = began.elapsed().as_secs_f64() * 1e6 / self.count as f64;
        Ok((kept, us))
    }

    /// What was retrieved of a block, or as much, from `at` on.
    fn store(&self, node: NodeId, at: u64, (blk, kept): (u64, &[Bytes])) -> Result<()> {
        let pieces = self.blksize.div_ceil(PIECE);
        for piece in 0..pieces {
            let data = &kept[usize::try_from(blk * pieces + piece)?];
            for (part, i) in data.chunks(STORE).zip(0..) {
                let off = at + piece * PIECE + i * STORE as u64;
                self.tell(&Head::store(node, off, part.len()), &[part])?;
            }
        }
        Ok(())
    }

    /// For each block: the helper opens the name, the block is stored, the helper closes. Every block of a commit may be of another
    /// revision, so each is of one here; names below one that is known are looked up all the same.
    fn by_helper(&self, helper: &mut Helper, rev: &str, kept: &[Bytes]) -> Result<(f64, NodeId)> {
        let mut node = NodeId(0);
        let us = self.each(|blk| {
            let name = format!("@{blk:04x}{}", &rev[5..]);
            helper.ask(&name)?;
            node = self.names.lock().expect("a panic ends it").file(&name)?;
            self.store(node, blk * self.blksize, (blk, kept))?;
            helper.ask("close")
        })?;
        Ok((us, node))
    }
}

impl Names {
    fn node(&mut self, parent: NodeId, name: &[u8]) -> NodeId {
        let next = NodeId(100 + self.nodes.len() as u64);
        *self.nodes.entry((parent, name.to_vec())).or_insert(next)
    }

    fn file(&self, path: &str) -> Result<NodeId> {
        let down = path.split('/').try_fold(NodeId::ROOT, |at, name| {
            self.nodes.get(&(at, name.as_bytes().to_vec())).copied()
        });
        down.with_context(|| format!("{path} was not looked up"))
    }
}

/// A process without any descriptor of the mount, which opens what it is told.
struct Helper {
    child: Child,
    ask: ChildStdin,
    answers: BufReader<ChildStdout>,
}

impl Helper {
    fn start(at: &Path) -> Result<Self> {
        let mut command = myself()?;
        command.args(["client", "hold"]).arg(at);
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        Ok(Self {
            ask: child.stdin.take().context("no stdin")?,
            answers: BufReader::new(child.stdout.take().context("no stdout")?),
            child,
        })
    }

    fn ask(&mut self, what: &str) -> Result<()> {
        self.ask.write_all(format!("{what}\n").as_bytes())?;
        let mut answer = String::new();
        self.answers.read_line(&mut answer)?;
        ensure!(answer == "ok\n", "the helper says {answer}");
        Ok(())
    }
}

impl Drop for Helper {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The helper: opens each path it is given below `at`, checks that it is of that mount, and closes it at the next line.
pub fn hold(at: &Path) -> Result<()> {
    let device = std::fs::metadata(at)?.dev();
    let mut held = None;
    for line in std::io::stdin().lock().lines() {
        let line = line?;
        held = match line.as_str() {
            "close" => {
                drop(held);
                None
            }
            path => {
                let mut options = std::fs::File::options();
                std::os::unix::fs::OpenOptionsExt::custom_flags(&mut options, libc::O_PATH);
                let file = options.read(true).open(at.join(path))?;
                ensure!(
                    file.metadata()?.dev() == device,
                    "something is mounted there"
                );
                Some(file)
            }
        };
        println!("ok");
        std::io::stdout().flush()?;
    }
    Ok(())
}

fn attr(node: NodeId, dir: bool) -> Attr {
    let (mode, size, nlink) = match dir {
        true => (libc::S_IFDIR | 0o755, 0, 2),
        false => (libc::S_IFREG | 0o444, SIZE, 1),
    };
    Attr {
        ino: node.0,
        mode,
        size,
        nlink,
        blksize: 2 << 20,
        ..Attr::default()
    }
}

impl Service for Mover {
    fn request(&mut self, port: &mut Port, held: Held) {
        let Ok(request) = port.request(&held) else {
            return port.reply(held, Err(libc::EIO));
        };
        let (node, names) = (request.node, Arc::clone(&self.names));
        let mut names = names.lock().expect("a panic ends it");
        let outcome = match request.op {
            Op::Forget { nlookup } => {
                names.known -= nlookup;
                return port.discard(held);
            }
            Op::BatchForget { list } => {
                let all = zring::wire::fuse::request::forgets(list);
                names.known -= all.map(|(_, n)| n).sum::<u64>();
                return port.discard(held);
            }
            Op::Interrupt { .. } => return port.discard(held),
            Op::Lookup { name } => {
                names.known += 1;
                let (child, dir) = match name {
                    b"data" => (DATA, false),
                    name => {
                        let dir = node == NodeId::ROOT || name == b"bigfile";
                        (names.node(node, name), dir)
                    }
                };
                let attr = attr(child, dir);
                Ok(reply::entry(port.body(&held), attr, reply::CACHE_S))
            }
            Op::Getattr => {
                let attr = attr(node, node == NodeId::ROOT);
                Ok(reply::attr(port.body(&held), attr))
            }
            Op::Open { dir, .. } => {
                let flags = if dir {
                    0
                } else {
                    fopen::KEEP_CACHE | fopen::NOFLUSH
                };
                Ok(reply::open(port.body(&held), 0, flags))
            }
            Op::Release { .. } | Op::Readdir { .. } => Ok(0),
            Op::Statfs => Ok(reply::statfs(port.body(&held))),
            Op::NotifyReply { data, .. } => {
                let _ = self.came.send(Bytes::copy_from_slice(data));
                return port.acknowledge(held);
            }
            Op::Read { size, .. } => {
                let len = usize::try_from(size).expect("at most the payload");
                port.body(&held)[..len].fill(1);
                Ok(len)
            }
            _ => Err(libc::ENOSYS),
        };
        port.reply(held, outcome);
    }

    fn read_done(&mut self, _: &mut Port, _: ReadDone) {}
    fn woken(&mut self, _: &mut Port) {}
    fn before_wait(&mut self, _: &mut Port) -> Option<Duration> {
        None
    }
    fn gone(&mut self, _: &mut Port) {}
}
