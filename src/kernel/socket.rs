//! Streams to a server: made with a deadline, never blocking afterwards, waited for in poll(2).

use super::proc::Waker;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{setsockopt, sockopt};
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

/// Seconds of silence before the kernel asks the other side whether it is there, between questions, and how many.
const KEEPALIVE: (u32, u32, u32) = (60, 10, 3);
/// How long bytes may stay unacknowledged, in ms.
const UNACKNOWLEDGED_MS: u32 = 30_000;

/// A connected stream.
#[derive(Debug)]
pub enum Stream {
    /// TCP.
    Tcp(TcpStream),
    /// A socket of this machine.
    Unix(UnixStream),
}

impl Stream {
    /// Connects by TCP; blocks at most `limit`.
    ///
    /// # Errors
    /// As the system says.
    pub fn tcp(address: &SocketAddr, limit: Duration) -> io::Result<Self> {
        let stream = TcpStream::connect_timeout(address, limit)?;
        stream.set_nonblocking(true)?;
        stream.set_nodelay(true)?;
        // A second net below the probes of the protocol: being refused costs nothing.
        let (idle, interval, count) = KEEPALIVE;
        let _ = setsockopt(&stream, sockopt::KeepAlive, &true);
        let _ = setsockopt(&stream, sockopt::TcpKeepIdle, &idle);
        let _ = setsockopt(&stream, sockopt::TcpKeepInterval, &interval);
        let _ = setsockopt(&stream, sockopt::TcpKeepCount, &count);
        let _ = setsockopt(&stream, sockopt::TcpUserTimeout, &UNACKNOWLEDGED_MS);
        Ok(Self::Tcp(stream))
    }

    /// Connects to a socket file; blocks while its server does not take connections.
    ///
    /// # Errors
    /// As the system says.
    pub fn unix(path: &Path) -> io::Result<Self> {
        let stream = UnixStream::connect(path)?;
        stream.set_nonblocking(true)?;
        Ok(Self::Unix(stream))
    }
}

impl AsFd for Stream {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Tcp(stream) => stream.as_fd(),
            Self::Unix(stream) => stream.as_fd(),
        }
    }
}

impl Read for Stream {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(stream) => stream.read(buf),
            Self::Unix(stream) => stream.read(buf),
        }
    }
}

impl Write for Stream {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(stream) => stream.write(buf),
            Self::Unix(stream) => stream.write(buf),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Waits until somebody calls the waker, a stream can be read (or written, if that is wanted), or `timeout` is over. The
/// waker's call is taken.
///
/// # Errors
/// The system refuses to wait.
pub fn wait(
    waker: &Waker,
    streams: &[(BorrowedFd<'_>, bool)],
    timeout: Option<Duration>,
) -> io::Result<()> {
    let mut fds = vec![PollFd::new(waker.fd(), PollFlags::POLLIN)];
    for &(fd, writes) in streams {
        let out = if writes {
            PollFlags::POLLOUT
        } else {
            PollFlags::empty()
        };
        fds.push(PollFd::new(fd, PollFlags::POLLIN | out));
    }
    // Rounded up: a deadline that is a moment away is not to be met by spinning.
    let timeout = timeout.map_or(PollTimeout::NONE, |left| {
        let left = left + Duration::from_micros(999);
        PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX)
    });
    match poll(&mut fds, timeout) {
        Ok(_) | Err(Errno::EINTR) => {}
        Err(errno) => return Err(errno.into()),
    }
    if fds[0].any().unwrap_or(false) {
        waker.drain();
    }
    Ok(())
}
