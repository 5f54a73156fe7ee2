//! Reading files one after another: where rings are forbidden, and for who asks for one.
//!
//! In the order of [`super::hash`]: attributes, what is dirty written out, read to the end, attributes again.

use super::brought::Brought;
use super::config::wall_now;
use super::hash::{
    BATCH_AGE, BATCH_BYTES, BUF_BYTES_MAX, Outcome, Shared, failed, is_unsettled, sync_failed,
};
use super::node::open_path;
use super::queue::{Item, Taken};
use super::root::Hasher;
use super::settle::Read;
use crate::base::Algo;
use crate::kernel::calls::{self, Count};
use crate::kernel::direct::{self, Aligned};
use crate::kernel::proc;
use crate::kernel::stat::{self, Kind, Resolve};
use crate::wire::catalog::Batch;
use std::ffi::CStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

/// Reads files one after another, without a ring.
pub(super) fn one_by_one(shared: &Shared, mut next: Option<Box<Item>>) {
    let mut batch = Batch::new();
    let mut buf = Aligned::new(BUF_BYTES_MAX);
    let mut sent = Instant::now();
    loop {
        if let Some(item) = next.take() {
            let (outcome, read) = read_item(shared, &item, &mut buf);
            let read = read.as_ref().map(|(dir, read)| (dir.as_fd(), *read));
            super::settle::settle(shared, &mut batch, *item, outcome, read);
        }
        if shared.pass.pulse.is_cancelled() {
            shared.queue.clear();
        }
        if batch.bytes() > BATCH_BYTES || sent.elapsed() > BATCH_AGE {
            shared
                .owner
                .apply(std::mem::replace(&mut batch, Batch::new()));
            sent = Instant::now();
        }
        match shared.queue.take(true, Duration::from_millis(100)) {
            Taken::Item(item) => next = Some(item),
            Taken::Nothing => {}
            Taken::End => break,
        }
    }
    shared.owner.apply(batch);
}

fn read_item(
    shared: &Shared,
    item: &Item,
    buf: &mut Aligned,
) -> (Outcome, Option<(OwnedFd, Read)>) {
    let pass = &shared.pass;
    let resolve = Resolve::below(pass.config.cross_device);
    let dir = match open_path(pass.root.fd(), &item.dir, resolve) {
        Ok(dir) => dir,
        Err(error) => return (failed(&error), None),
    };
    let wait = |due: Option<Instant>| {
        if let Some(due) = due {
            proc::pause(due.saturating_duration_since(Instant::now()));
        }
    };
    wait(shared.throttle.file());
    let take = |bytes| wait(shared.throttle.bytes(bytes));
    let how = How {
        resolve,
        algo: pass.config.algo,
        settle: pass.config.hash.settle,
        direct: shared.wants_direct(item.stat.dev),
    };
    match read_one(dir.as_fd(), &item.name, how, buf, take) {
        Ok(read) => (Outcome::Digest(read.digest), Some((dir, read))),
        Err(outcome) => (outcome, None),
    }
}

/// How one file is read.
#[derive(Clone, Copy)]
pub(super) struct How {
    pub(super) resolve: Resolve,
    pub(super) algo: Algo,
    pub(super) settle: Duration,
    /// Past the page cache, where its file system has such reads.
    pub(super) direct: bool,
}

/// Reads one file as the rules say, waiting for each read.
pub(super) fn read_one(
    dir: BorrowedFd<'_>,
    name: &CStr,
    how: How,
    buf: &mut Aligned,
    take: impl Fn(u64),
) -> Result<Read, Outcome> {
    use std::io::Read as _;
    let fd = stat::open_data(Some(dir), name, how.resolve).map_err(|e| failed(&e))?;
    let looked = wall_now();
    let a = stat::stat_fd(fd.as_fd()).map_err(|e| failed(&e))?;
    if a.kind != Kind::File {
        return Err(Outcome::Kind);
    }
    let mut file = std::fs::File::from(fd);
    if is_unsettled(&a, how.settle) {
        let synced = calls::timed(
            Count::Sync,
            || std::path::Path::new(""),
            || file.sync_data(),
        );
        let failed = synced.err().and_then(|e| e.raw_os_error());
        if let Some(errno) = failed.filter(|errno| sync_failed(-errno)) {
            return Err(Outcome::Failed(errno));
        }
    }
    let mut direct = direct::set(&file, how.direct).map_err(|e| failed(&e))?;
    let mut brought = match direct {
        true => None,
        false => Brought::of(file.as_fd(), a.witness.size),
    };
    let mut hasher = Hasher::new(how.algo);
    let mut at = 0;
    loop {
        take((a.witness.size.saturating_sub(at)).min(buf.len() as u64));
        let len = match file.read(buf.bytes_mut()) {
            Ok(len) => len,
            // It said that it had them.
            Err(error) if direct && error.raw_os_error() == Some(libc::EINVAL) => {
                direct = direct::set(&file, false).map_err(|e| failed(&e))?;
                continue;
            }
            Err(error) => return Err(failed(&error)),
        };
        calls::add(Count::BytesRead, len);
        hasher.update(&buf.bytes()[..len]);
        at += len as u64;
        // Where a direct read ended short is no place for the next one to begin: that is the end of a regular file.
        if len == 0 || at > a.witness.size || direct && len < buf.len() {
            break;
        }
        if let Some(brought) = &mut brought {
            brought.let_go(file.as_fd(), at);
        }
    }
    if let Some(brought) = brought {
        brought.end(file.as_fd());
    }
    let b = stat::stat_fd(file.as_fd()).map_err(|e| failed(&e))?;
    if at != a.witness.size || b.witness != a.witness {
        return Err(Outcome::Changed);
    }
    Ok(Read {
        digest: hasher.end(),
        a,
        looked,
        by_link: false,
    })
}
