//! A stream of PostgreSQL that bounds what the server sends: the length of each message is looked at before the message is kept.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Any stream.
pub(super) trait Wire: AsyncRead + AsyncWrite + Unpin {}
impl<T: AsyncRead + AsyncWrite + Unpin> Wire for T {}

/// A kind and a length, which counts itself.
const HEADER_BYTES: usize = 5;

/// See the module.
#[derive(Debug)]
pub(super) struct Guard<S> {
    stream: S,
    lengths: Lengths,
}

/// Where messages begin.
#[derive(Debug)]
struct Lengths {
    header: [u8; HEADER_BYTES],
    have: usize,
    body_left: usize,
    max: usize,
}

impl Lengths {
    /// These bytes came.
    fn pass(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            if self.body_left > 0 {
                let n = self.body_left.min(bytes.len());
                self.body_left -= n;
                bytes = &bytes[n..];
                continue;
            }
            self.header[self.have] = bytes[0];
            self.have += 1;
            bytes = &bytes[1..];
            if self.have == HEADER_BYTES {
                self.have = 0;
                let [_, a, b, c, d] = self.header;
                let len = u32::from_be_bytes([a, b, c, d]) as usize;
                if !(4..=self.max).contains(&len) {
                    let text = format!("the server sends a message of {len} bytes");
                    return Err(io::Error::new(io::ErrorKind::InvalidData, text));
                }
                self.body_left = len - 4;
            }
        }
        Ok(())
    }
}

impl<S> Guard<S> {
    /// Lets messages of up to `max` bytes pass.
    pub(super) fn new(stream: S, max: usize) -> Self {
        let lengths = Lengths {
            header: [0; HEADER_BYTES],
            have: 0,
            body_left: 0,
            max,
        };
        Self { stream, lengths }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Guard<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let had = buf.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(cx, buf))?;
        Poll::Ready(self.lengths.pass(&buf.filled()[had..]))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Guard<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    fn message(kind: u8, body: &[u8]) -> Vec<u8> {
        let len = u32::try_from(body.len() + 4).unwrap();
        [&[kind][..], &len.to_be_bytes(), body].concat()
    }

    #[test]
    fn messages_within_the_bound_pass_however_they_are_cut() {
        let all = [
            message(b'D', &[7; 96]),
            message(b'Z', b"I"),
            message(b'1', b""),
        ]
        .concat();
        for size in 1..all.len() {
            let mut lengths = Guard::new((), 100).lengths;
            for piece in all.chunks(size) {
                lengths.pass(piece).unwrap();
            }
            assert_eq!((lengths.have, lengths.body_left), (0, 0));
        }
    }

    #[test]
    fn a_message_that_is_too_long_or_impossible_ends_the_stream() {
        for len in [0, 3, 101, u32::MAX] {
            let mut lengths = Guard::new((), 100).lengths;
            lengths.pass(&message(b'Z', b"I")).unwrap();
            let bad = [&[b'D'][..], &len.to_be_bytes()].concat();
            assert!(lengths.pass(&bad).is_err(), "{len}");
        }
    }
}
