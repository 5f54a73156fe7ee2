//! How the control thread waits: for the database to change, for a message, or for a while.
//!
//! A database file is watched by inotify, and looked at each second all the same: some file systems do not tell.
//! Where io_uring may be used the descriptors are read by tokio-uring, else by poll(2); the rest of control cannot
//! tell the difference.

use crate::kernel::proc::Waker;
use crate::store::file::WatchPaths;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

/// Longest wait: what inotify did not tell is seen then.
pub(super) const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Tells of changes of the database file and of its name.
#[derive(Debug)]
pub(super) struct Watch {
    inotify: Option<Inotify>,
    paths: WatchPaths,
}

impl Watch {
    /// Watches a file and its directory; a system without inotify is looked at by time alone.
    pub(super) fn new(paths: WatchPaths) -> Self {
        let this = Self {
            inotify: Inotify::init(InitFlags::IN_CLOEXEC).ok(),
            paths,
        };
        this.rearm();
        this
    }

    /// Watches the names, and the file that has the name now.
    fn rearm(&self) {
        let Some(inotify) = &self.inotify else { return };
        let names =
            AddWatchFlags::IN_MOVED_TO | AddWatchFlags::IN_CREATE | AddWatchFlags::IN_DELETE;
        // The name may be missing for a moment during a pack; the directory tells when it is back.
        let _ = inotify.add_watch(&self.paths.dir, names);
        let _ = inotify.add_watch(&self.paths.file, AddWatchFlags::IN_MODIFY);
    }

    fn fd(&self) -> Option<BorrowedFd<'_>> {
        self.inotify.as_ref().map(AsFd::as_fd)
    }
}

/// Calls `turn` until it says to stop: whenever something happened, and when the time it asked for is over.
///
/// # Errors
/// The system refused to wait.
pub(super) fn run(
    rings: bool,
    watch: &Watch,
    waker: &Waker,
    mut turn: impl FnMut() -> Option<Duration>,
) -> io::Result<()> {
    #[cfg(not(target_env = "musl"))] // tokio-uring 0.5.0 does not compile for musl
    if rings {
        return tokio_uring::start(by_ring::run(watch, waker, turn));
    }
    let _ = rings;
    while let Some(timeout) = turn() {
        wait_by_poll(watch, waker, timeout)?;
    }
    Ok(())
}

/// Waits until the watch or the waker has something, at most `timeout`, and takes it.
fn wait_by_poll(watch: &Watch, waker: &Waker, timeout: Duration) -> io::Result<()> {
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
    if ready.get(1) == Some(&true) {
        let _ = watch.inotify.as_ref().map(Inotify::read_events);
        watch.rearm();
    }
    Ok(())
}

/// The same by reads that stay in a ring all the time: cancelling one could lose what it took.
#[cfg(not(target_env = "musl"))]
mod by_ring {
    use super::{Waker, Watch};
    use std::io;
    use std::rc::Rc;
    use std::time::Duration;
    use tokio::sync::Notify;
    use tokio_uring::fs::File;

    /// Room for a burst of inotify events; what they say is not looked at.
    const EVENTS_BYTES: usize = 4096;

    pub(super) async fn run(
        watch: &Watch,
        waker: &Waker,
        mut turn: impl FnMut() -> Option<Duration>,
    ) -> io::Result<()> {
        let happened = Rc::new(Notify::new());
        let readers: Vec<_> = [Some(waker.fd()), watch.fd()]
            .into_iter()
            .flatten()
            .map(|fd| {
                let happened = Rc::clone(&happened);
                let file = File::from_std(fd.try_clone_to_owned()?.into());
                Ok(tokio_uring::spawn(async move {
                    let mut buf = vec![0; EVENTS_BYTES];
                    loop {
                        let (result, back) = file.read_at(buf, 0).await;
                        buf = back;
                        happened.notify_one();
                        if result.is_err() {
                            return; // looking each second is what is left
                        }
                    }
                }))
            })
            .collect::<io::Result<_>>()?;
        while let Some(timeout) = turn() {
            if tokio::time::timeout(timeout, happened.notified())
                .await
                .is_ok()
            {
                watch.rearm();
            }
        }
        readers.iter().for_each(tokio::task::JoinHandle::abort);
        Ok(())
    }
}
