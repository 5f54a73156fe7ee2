//! How the control thread waits: for the database to change, for a message, or for a while.
//!
//! A database file is watched by inotify, and looked at each second all the same: some file systems do not tell.
//! Where io_uring may be used control waits in the loop of tokio-uring, else in poll(2); the rest of control cannot
//! tell the difference. Both wait until a descriptor can be read and read it then: reads that stay in a ring would have been
//! woken up twice more, by the kernel's own threads, for each commit (50 us of 100).

use crate::kernel::proc::Waker;
use crate::store::file::WatchPaths;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

/// Longest wait: what inotify did not tell is seen then.
pub(super) const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Events that fill no read, however long their names: nothing is left behind them. A read of 4 KiB holds 15 of the longest.
const FEW: usize = 8;

/// Tells of changes of the database file and of its name.
#[derive(Debug)]
pub(super) struct Watch {
    inotify: Option<Inotify>,
    paths: Option<WatchPaths>,
}

impl Watch {
    /// Watches a file and its directory; a system without inotify is looked at by time alone. A server tells by itself.
    pub(super) fn new(paths: Option<WatchPaths>) -> Self {
        let init =
            |_: &WatchPaths| Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK).ok();
        let this = Self {
            inotify: paths.as_ref().and_then(init),
            paths,
        };
        this.rearm();
        this
    }

    /// Watches the names, and the file that has the name now.
    fn rearm(&self) {
        let (Some(inotify), Some(paths)) = (&self.inotify, &self.paths) else {
            return;
        };
        let names =
            AddWatchFlags::IN_MOVED_TO | AddWatchFlags::IN_CREATE | AddWatchFlags::IN_DELETE;
        // The name may be missing for a moment during a pack; the directory tells when it is back.
        let _ = inotify.add_watch(&paths.dir, names);
        let _ = inotify.add_watch(&paths.file, AddWatchFlags::IN_MODIFY);
    }

    fn fd(&self) -> Option<BorrowedFd<'_>> {
        self.inotify.as_ref().map(AsFd::as_fd)
    }

    /// Takes what there is. Mostly the file was written to, and is the one that is watched.
    fn drain(&self) {
        let Some(inotify) = &self.inotify else { return };
        let mut renamed = false;
        while let Ok(events) = inotify.read_events() {
            renamed |= events.iter().any(|e| e.mask != AddWatchFlags::IN_MODIFY);
            if events.len() <= FEW {
                break;
            }
        }
        if renamed {
            self.rearm();
        }
    }
}

/// Calls `turn` until it says to stop: whenever something happened, and when the time it asked for is over. It is told whether
/// the database may have changed.
///
/// # Errors
/// The system refused to wait.
pub(super) fn run(
    rings: bool,
    watch: &Watch,
    waker: &Waker,
    mut turn: impl FnMut(bool) -> Option<Duration>,
) -> io::Result<()> {
    #[cfg(not(target_env = "musl"))] // tokio-uring 0.5.0 does not compile for musl
    if rings {
        return tokio_uring::start(by_ring::run(watch, waker, turn));
    }
    let _ = rings;
    let mut changed = true;
    while let Some(timeout) = turn(changed) {
        changed = wait_by_poll(watch, waker, timeout)?;
    }
    Ok(())
}

/// Waits until the watch or the waker has something, at most `timeout`, and takes it; tells whether the watch had.
fn wait_by_poll(watch: &Watch, waker: &Waker, timeout: Duration) -> io::Result<bool> {
    let mut fds = vec![PollFd::new(waker.fd(), PollFlags::POLLIN)];
    fds.extend(watch.fd().map(|fd| PollFd::new(fd, PollFlags::POLLIN)));
    let timeout = PollTimeout::try_from(timeout).unwrap_or(PollTimeout::MAX);
    match poll(&mut fds, timeout) {
        Ok(_) | Err(nix::errno::Errno::EINTR) => {}
        Err(errno) => return Err(errno.into()),
    }
    let ready: Vec<bool> = fds.iter().map(|fd| fd.any().unwrap_or(false)).collect();
    if ready[0] {
        waker.drain();
    }
    let changed = ready.get(1) == Some(&true);
    if changed {
        watch.drain();
    }
    Ok(changed)
}

/// The same in the loop of tokio-uring.
#[cfg(not(target_env = "musl"))]
mod by_ring {
    use super::{Waker, Watch};
    use std::future::poll_fn;
    use std::io;
    use std::os::fd::{BorrowedFd, OwnedFd};
    use std::task::{Context, Poll};
    use std::time::Duration;
    use tokio::io::Interest;
    use tokio::io::unix::AsyncFd;

    pub(super) async fn run(
        watch: &Watch,
        waker: &Waker,
        mut turn: impl FnMut(bool) -> Option<Duration>,
    ) -> io::Result<()> {
        let messages = readable(waker.fd())?;
        let changes = watch.fd().map(readable).transpose()?;
        let mut changed = true;
        while let Some(timeout) = turn(changed) {
            let happened = poll_fn(|context| {
                let woken = take(&messages, context, || waker.drain())?;
                let changed = match &changes {
                    Some(fd) => take(fd, context, || watch.drain())?,
                    None => Poll::Pending,
                };
                match (woken, changed) {
                    (Poll::Pending, Poll::Pending) => Poll::Pending,
                    _ => Poll::Ready(io::Result::Ok(changed.is_ready())),
                }
            });
            changed = tokio::time::timeout(timeout, happened)
                .await
                .unwrap_or(Ok(false))?;
        }
        Ok(())
    }

    #[allow(
        deprecated,
        reason = "what it may be misused for needs a type that gives another number each time it is asked"
    )]
    fn readable(fd: BorrowedFd<'_>) -> io::Result<AsyncFd<OwnedFd>> {
        AsyncFd::with_interest(fd.try_clone_to_owned()?, Interest::READABLE)
    }

    /// Drains a descriptor that can be read.
    fn take(
        fd: &AsyncFd<OwnedFd>,
        context: &mut Context<'_>,
        drain: impl FnOnce(),
    ) -> io::Result<Poll<()>> {
        Ok(match fd.poll_read_ready(context)? {
            Poll::Pending => Poll::Pending,
            Poll::Ready(mut ready) => {
                drain();
                ready.clear_ready();
                Poll::Ready(())
            }
        })
    }
}
