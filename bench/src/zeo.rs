//! Blocks behind a ZEO server, the way to it made longer by a proxy.
//!
//! Of the same blocks, in turns: who loads one object after the other, a bare connection that asks for all at once, and a reader
//! of the mount that nothing of the block was loaded for.

use crate::bench::{Bench, LIMIT, ZBLK1};
use crate::content;
use crate::data::{self, BLKSIZE};
use crate::inside;
use crate::report::Report;
use crate::rig::{Mounted, myself, output};
use anyhow::{Context, Result, bail, ensure};
use bytes::Bytes;
use std::fs::File;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};
use zring::base::{Oid, Tid};
use zring::wire::zeo::{Call, Encoding, Frame, Frames, Message};

/// Blocks of the file. The first brings in the file's own table; each turn reads one of the others.
const BLOCKS: u64 = 24;
/// Round trips that are measured, in ms.
const DELAYS_MS: [u64; 3] = [0, 1, 5];

/// A server, ended when it is dropped.
struct Server(Child, u16);

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Server {
    fn start(python: &Path, database: &Path) -> Result<Self> {
        let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?
            .local_addr()?
            .port();
        let mut command = Command::new(python);
        command.args(["-m", "ZEO.runzeo", "-a", &format!("127.0.0.1:{port}"), "-f"]);
        command.arg(database).stdin(Stdio::null());
        let child = command
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()?;
        let this = Self(child, port);
        let began = Instant::now();
        while TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_err() {
            ensure!(began.elapsed() < LIMIT, "the server does not come up");
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(this)
    }
}

/// A proxy to `port` that keeps every byte for half of `round_trip`; gives its own port. It lasts as long as the process.
fn proxy(port: u16, round_trip: Duration) -> Result<u16> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let own = listener.local_addr()?.port();
    std::thread::spawn(move || {
        for near in listener.incoming().flatten() {
            let Ok(far) = TcpStream::connect((Ipv4Addr::LOCALHOST, port)) else {
                return;
            };
            let (Ok(near2), Ok(far2)) = (near.try_clone(), far.try_clone()) else {
                return;
            };
            carry(near, far2, round_trip / 2);
            carry(far, near2, round_trip / 2);
        }
    });
    Ok(own)
}

fn carry(mut from: TcpStream, mut to: TcpStream, delay: Duration) {
    let (sender, inbox) = channel::<(Instant, Vec<u8>)>();
    let _ = to.set_nodelay(true);
    std::thread::spawn(move || {
        let mut buf = vec![0; 256 << 10];
        while let Ok(n @ 1..) = from.read(&mut buf) {
            if sender
                .send((Instant::now() + delay, buf[..n].to_vec()))
                .is_err()
            {
                return;
            }
        }
    });
    std::thread::spawn(move || {
        for (due, bytes) in inbox {
            std::thread::sleep(due.saturating_duration_since(Instant::now()));
            if to.write_all(&bytes).is_err() {
                return;
            }
        }
        let _ = to.shutdown(Shutdown::Both);
    });
}

/// A connection with nothing around it.
struct Bare {
    stream: TcpStream,
    frames: Frames,
    encoding: Encoding,
    rest: Vec<u8>,
    last: Tid,
}

impl Bare {
    fn connect(port: u16) -> Result<Self> {
        let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port))?;
        stream.set_nodelay(true)?;
        let mut this = Self {
            stream,
            frames: Frames::new(64 << 20),
            encoding: Encoding::Pickle,
            rest: Vec::new(),
            last: Tid::ZERO,
        };
        this.encoding = Encoding::of_greeting(&this.payload()?)?;
        let mut out = this.encoding.greeting();
        Call::Register("1").encode(this.encoding, 1, &mut out);
        this.stream.write_all(&out)?;
        match Message::read(this.encoding, &this.payload()?)? {
            Message::Reply(1, answer) => this.last = answer.tid()?,
            other => bail!("{other:?}"),
        }
        Ok(this)
    }

    fn payload(&mut self) -> Result<Bytes> {
        let mut buf = vec![0; 256 << 10];
        loop {
            let mut bytes = &self.rest[..];
            let frame = self.frames.take(&mut bytes)?;
            self.rest = bytes.to_vec();
            match frame {
                Some(Frame::Whole(payload)) => return Ok(payload),
                Some(other) => bail!("{other:?}"),
                None => {}
            }
            let n = self.stream.read(&mut buf)?;
            ensure!(n > 0, "the server closed the connection");
            self.rest.extend_from_slice(&buf[..n]);
        }
    }

    /// Loads these, `wide` at a time; how long it took.
    fn load(&mut self, oids: &[Oid], wide: usize) -> Result<Duration> {
        let before = Tid(self.last.0 + 1);
        let began = Instant::now();
        for part in oids.chunks(wide) {
            let mut out = Vec::new();
            for (&oid, n) in part.iter().zip(2..) {
                Call::LoadBefore(oid, before).encode(self.encoding, n, &mut out);
            }
            self.stream.write_all(&out)?;
            for _ in part {
                match Message::read(self.encoding, &self.payload()?)? {
                    Message::Reply(_, answer) => drop(answer.revision()?.context("no object")?),
                    other => bail!("{other:?}"),
                }
            }
        }
        Ok(began.elapsed())
    }
}

/// `zring-bench zeo-read FILE BLK`: reads a block and compares it; prints how long reading took, in us.
pub fn read(file: &Path, blk: u64) -> Result<()> {
    let file = File::open(file)?;
    let mut block = vec![0; usize::try_from(BLKSIZE)?];
    let began = Instant::now();
    file.read_exact_at(&mut block, blk * BLKSIZE)?;
    let took = began.elapsed();
    let mut right = vec![0; block.len()];
    content::fill(ZBLK1.tag, blk * BLKSIZE, &mut right);
    ensure!(block == right, "block {blk} is wrong");
    println!("{}", took.as_micros());
    Ok(())
}

fn median(mut all: Vec<f64>) -> f64 {
    all.sort_by(f64::total_cmp);
    all[all.len() / 2]
}

/// The measurements.
pub fn run(bench: &Bench, report: &mut Report, python: Option<&Path>) -> Result<()> {
    report.line("## A cold block behind a ZEO server");
    report.line("");
    let Some(python) = python else {
        report.line("Left out: no Python with ZODB and ZEO.");
        return Ok(());
    };
    let database = bench.path("zeo.fs");
    data::blocks(&database, 1, BLOCKS)?;
    let blocks = inside::chunks(&database)?;
    let name = data::oid_of(&database, "zblk1")?;
    let server = Server::start(python, &database)?;
    let mut rows = Vec::new();
    for delay in DELAYS_MS {
        let port = proxy(server.1, Duration::from_millis(delay))?;
        let zurl = format!("zeo://127.0.0.1:{port}");
        let mut command = Command::new(bench.zring()?);
        let at = bench.path("zeo-mnt");
        command
            .args(["mount", "-f", "-o", "transport=uring", &zurl])
            .arg(&at);
        let mounted = Mounted::start(&mut command, &at)?;
        let file = at.join("head/bigfile").join(&name);
        let mut bare = Bare::connect(port)?;
        let (mut serial, mut wide, mut ours) = (Vec::new(), Vec::new(), Vec::new());
        for (blk, chunks) in (0u64..).zip(&blocks) {
            let ms = |took: Duration| took.as_secs_f64() * 1e3;
            let one = if blk % 4 == 1 {
                Some(ms(bare.load(chunks, 1)?))
            } else {
                None
            };
            let all = ms(bare.load(chunks, chunks.len())?);
            let mut reader = myself()?;
            reader.arg("zeo-read").arg(&file).arg(blk.to_string());
            let took: f64 = output(&mut reader, LIMIT, &[&mounted])?.trim().parse()?;
            if blk > 0 {
                serial.extend(one);
                wide.push(all);
                ours.push(took / 1e3);
            }
        }
        mounted.stop()?;
        let (serial, wide, ours) = (median(serial), median(wide), median(ours));
        let bar = 3.0 * delay as f64 + 1.2 * wide;
        let verdict = report.judge(&format!("ZEO, {delay} ms"), ours <= bar);
        rows.push([
            format!("{delay} ms"),
            format!("{serial:.1}"),
            format!("{wide:.1}"),
            format!("{ours:.1}"),
            format!("{:.1} x", serial / ours),
            format!("{bar:.1} {verdict}"),
        ]);
    }
    let head = [
        "round trip",
        "one by one, ms",
        "512 at once, ms",
        "read of the mount, ms",
        "against one by one",
        "bar, ms",
    ];
    report.table(head, &rows);
    Ok(())
}
