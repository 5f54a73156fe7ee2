//! Frames out of a stream of bytes, however it is cut.
//!
//! A frame up to `keep` bytes is given whole, in memory of its own; one beyond is read past, and only its beginning is given, so
//! that whoever asked for it can be told. The length in a header reserves little: memory grows as bytes arrive.

use crate::base::limit::{RECORD_BYTES_CEILING, ZEO_FRAME_AROUND_BYTES};
use bytes::Bytes;

/// Bytes of the length before each payload.
pub const LENGTH_BYTES: usize = 4;
/// Bytes kept of a frame that is read past: its number, and of a record of the history its oid and tid.
pub const SKIPPED_HEAD_BYTES: usize = 128;
/// Longest payload that is read past. Nothing beyond it is a record with something around it.
const SKIP_MAX: usize = RECORD_BYTES_CEILING + ZEO_FRAME_AROUND_BYTES;
/// Reserved at once for a frame.
const RESERVE_MAX: usize = 64 << 10;

/// What came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Frame {
    /// A payload.
    Whole(Bytes),
    /// A payload that is too long: its length, and how it begins.
    Skipped {
        /// Bytes of the payload.
        len: usize,
        /// The first [`SKIPPED_HEAD_BYTES`] of it.
        head: Bytes,
    },
}

/// A length that no payload has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a frame of {len} bytes is announced")]
pub struct FrameError {
    /// As announced.
    pub len: u32,
}

#[derive(Debug)]
enum At {
    /// In a length.
    Length([u8; LENGTH_BYTES], usize),
    /// In a payload of this length.
    Body(Vec<u8>, usize),
    /// In a payload of this length that is read past; so many bytes of it are gone.
    Skip(Vec<u8>, usize, usize),
}

/// Cuts a stream into frames.
#[derive(Debug)]
pub struct Frames {
    keep: usize,
    at: At,
}

impl Frames {
    /// At the beginning of a stream; payloads up to `keep` bytes are kept.
    pub fn new(keep: usize) -> Self {
        Self {
            keep,
            at: At::Length([0; LENGTH_BYTES], 0),
        }
    }

    /// Whether a frame has begun and not ended.
    pub fn is_inside(&self) -> bool {
        !matches!(self.at, At::Length(_, 0))
    }

    /// Takes bytes from the front of `bytes`; a frame when one ended with them. Without one, all were taken.
    ///
    /// # Errors
    /// The stream cannot be read any further.
    pub fn take(&mut self, bytes: &mut &[u8]) -> Result<Option<Frame>, FrameError> {
        loop {
            match &mut self.at {
                At::Length(length, have) => {
                    let part = split(bytes, LENGTH_BYTES - *have);
                    length[*have..][..part.len()].copy_from_slice(part);
                    *have += part.len();
                    if *have < LENGTH_BYTES {
                        return Ok(None);
                    }
                    let length = u32::from_be_bytes(*length);
                    self.at = self.begin(length)?;
                }
                At::Body(body, len) => {
                    let part = split(bytes, *len - body.len());
                    if body.capacity() - body.len() < part.len() {
                        let double = body.len().max(RESERVE_MAX);
                        body.reserve_exact(double.max(part.len()).min(*len - body.len()));
                    }
                    body.extend_from_slice(part);
                    if body.len() < *len {
                        return Ok(None);
                    }
                    let body = std::mem::take(body);
                    self.at = At::Length([0; LENGTH_BYTES], 0);
                    return Ok(Some(Frame::Whole(body.into())));
                }
                At::Skip(head, len, gone) => {
                    let part = split(bytes, *len - *gone);
                    let room = SKIPPED_HEAD_BYTES - head.len();
                    head.extend_from_slice(&part[..part.len().min(room)]);
                    *gone += part.len();
                    if gone < len {
                        return Ok(None);
                    }
                    let (len, head) = (*len, std::mem::take(head).into());
                    self.at = At::Length([0; LENGTH_BYTES], 0);
                    return Ok(Some(Frame::Skipped { len, head }));
                }
            }
        }
    }

    fn begin(&self, length: u32) -> Result<At, FrameError> {
        let len = usize::try_from(length).map_err(|_| FrameError { len: length })?;
        match len {
            _ if len <= self.keep => Ok(At::Body(Vec::with_capacity(len.min(RESERVE_MAX)), len)),
            _ if len <= SKIP_MAX => Ok(At::Skip(Vec::new(), len, 0)),
            _ => Err(FrameError { len: length }),
        }
    }
}

/// The first bytes, at most `max`, which the rest begins behind.
fn split<'b>(bytes: &mut &'b [u8], max: usize) -> &'b [u8] {
    let (part, rest) = bytes.split_at(max.min(bytes.len()));
    *bytes = rest;
    part
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    fn frame(payload: &[u8]) -> Vec<u8> {
        let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
        [&length, payload].concat()
    }

    /// All frames of a stream that arrives in pieces of `size`.
    fn cut(stream: &[u8], size: usize, keep: usize) -> Result<Vec<Frame>, FrameError> {
        let mut frames = Frames::new(keep);
        let mut out = Vec::new();
        for mut piece in stream.chunks(size) {
            while let Some(frame) = frames.take(&mut piece)? {
                out.push(frame);
            }
            assert!(piece.is_empty());
        }
        assert!(!frames.is_inside());
        Ok(out)
    }

    #[test]
    fn frames_are_the_same_however_the_stream_is_cut() {
        let long: Vec<u8> = (0..200_000u32).map(|n| n.to_be_bytes()[3]).collect();
        let stream = [frame(b""), frame(b"Z5"), frame(&long), frame(b"x")].concat();
        let whole = cut(&stream, usize::MAX, 1 << 20).unwrap();
        let payloads: [&[u8]; 4] = [b"", b"Z5", &long, b"x"];
        assert_eq!(whole.len(), 4);
        for (frame, payload) in whole.iter().zip(payloads) {
            assert_eq!(*frame, Frame::Whole(Bytes::copy_from_slice(payload)));
        }
        for size in [1, 2, 3, 5, 1000, 70_000] {
            assert_eq!(cut(&stream, size, 1 << 20).unwrap(), whole, "{size}");
        }
    }

    #[test]
    fn a_frame_that_is_too_long_is_read_past_and_one_that_cannot_be_is_refused() {
        let long = vec![7; 1001];
        let stream = [frame(&long), frame(&[8; 1000])].concat();
        for size in [1, 7, 5000] {
            let frames = cut(&stream, size, 1000).unwrap();
            let head = Bytes::from(vec![7; SKIPPED_HEAD_BYTES]);
            assert_eq!(frames[0], Frame::Skipped { len: 1001, head });
            assert_eq!(frames[1], Frame::Whole(vec![8; 1000].into()));
        }
        let len = u32::try_from(SKIP_MAX + 1).unwrap();
        let mut frames = Frames::new(1000);
        assert_eq!(
            frames.take(&mut &len.to_be_bytes()[..]),
            Err(FrameError { len })
        );
    }

    #[test]
    fn a_length_alone_reserves_next_to_nothing() {
        let mut frames = Frames::new(1 << 30);
        let header = (1u32 << 29).to_be_bytes();
        assert_eq!(frames.take(&mut &header[..]), Ok(None));
        assert_eq!(frames.take(&mut &[1, 2][..]), Ok(None));
        let At::Body(body, _) = &frames.at else {
            panic!("{frames:?}")
        };
        assert!(body.capacity() <= RESERVE_MAX);
        assert!(frames.is_inside());
    }
}
