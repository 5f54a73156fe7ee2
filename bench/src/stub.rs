//! The floor: a file system of zeros on the daemon's own transports.
//!
//! `/zero` is a file of 1 TiB of zeros, answered without any look-up. What it costs to read it is what the kernel
//! and the transport cost; everything a real block costs beyond it is ours. Given a file, a READ is answered with
//! the bytes of that file instead: one pread, the least that any database can cost.

use anyhow::{Result, bail};
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use zring::base::{NodeId, limit};
use zring::engine::start::{Choice, start};
use zring::engine::worker::Service;
use zring::kernel::mount::MountSpec;
use zring::kernel::port::TransportKind;
use zring::kernel::port::{Held, Port, ReadDone};
use zring::wire::fuse::abi::{Attr, fopen};
use zring::wire::fuse::reply;
use zring::wire::fuse::request::Op;

/// Bytes of `/zero`.
const SIZE: u64 = 1 << 40;

/// See the module.
#[derive(Clone, Debug, Default)]
pub struct Stub {
    file: Option<Arc<File>>,
}

/// Mounts it on `at`, until it is unmounted.
pub fn serve(at: &Path, transport: &str, file: Option<&Path>) -> Result<()> {
    let kind = match transport {
        "uring" => TransportKind::Uring,
        "dev" => TransportKind::Dev,
        "plain" => TransportKind::Plain,
        other => bail!("unknown transport {other}"),
    };
    let spec = MountSpec {
        source: "stub".into(),
        mountpoint: at.canonicalize()?,
        subtype: "zstub".into(),
        allow_other: false,
        flags: Default::default(),
    };
    let stub = Stub {
        file: file.map(File::open).transpose()?.map(Arc::new),
    };
    let running = start(spec, Choice::Force(kind), limit::POLLERS, |_, _, seats| {
        Ok(seats.iter().map(|_| stub.clone()).collect())
    })?;
    Ok(running.join()?)
}

fn attr(node: NodeId) -> Attr {
    let (mode, size, nlink) = match node {
        NodeId::ROOT => (libc::S_IFDIR | 0o755, 0, 2),
        _ => (libc::S_IFREG | 0o444, SIZE, 1),
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

impl Service for Stub {
    fn request(&mut self, port: &mut Port, held: Held) {
        let Ok(request) = port.request(&held) else {
            return port.reply(held, Err(libc::EIO));
        };
        let node = request.node;
        let outcome = match request.op {
            Op::Forget { .. } | Op::BatchForget { .. } | Op::Interrupt { .. } => {
                return port.discard(held);
            }
            Op::Lookup { name: b"zero" } => Ok(reply::entry(
                port.body(&held),
                attr(NodeId(2)),
                reply::CACHE_S,
            )),
            Op::Lookup { .. } => Err(libc::ENOENT),
            Op::Getattr => Ok(reply::attr(port.body(&held), attr(node))),
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
            Op::Read { off, size, .. } => {
                let len = usize::try_from(size).expect("at most the payload");
                let out = &mut port.body(&held)[..len];
                match &self.file {
                    Some(file) => file
                        .read_exact_at(out, off)
                        .map(|()| len)
                        .map_err(|_| libc::EIO),
                    None => {
                        out.fill(0);
                        Ok(len)
                    }
                }
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
