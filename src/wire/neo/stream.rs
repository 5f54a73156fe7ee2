//! Packets out of a stream of bytes, however it is cut. There is no length before a packet: it ends when its values do.
//!
//! A packet up to `keep` bytes is given whole, in memory of its own; one beyond is read past, and only its beginning is given, so
//! that whoever asked for it can be told. Memory grows as bytes arrive.

use super::NeoError;
use super::msgpack::{Shape, shape};
use crate::base::limit::{NEO_DEPTH_MAX, RECORD_BYTES_CEILING, ZEO_FRAME_AROUND_BYTES};
use crate::wire::zeo::{Frame, SKIPPED_HEAD_BYTES};

/// Longest packet that is read past.
const SKIP_MAX: usize = RECORD_BYTES_CEILING + ZEO_FRAME_AROUND_BYTES;

/// What comes next.
#[derive(Clone, Copy, Debug)]
enum At {
    /// A mark.
    Mark,
    /// A number that a mark announced: how many bytes of it are missing, and what it is so far.
    Number(usize, u64, Shape),
    /// So many bytes.
    Body(u64),
}

/// Cuts a stream into packets.
#[derive(Debug)]
pub struct Packets {
    keep: usize,
    at: At,
    /// Values that are missing, outermost first.
    missing: Vec<u64>,
    /// What there is of the packet, or how it begins.
    packet: Vec<u8>,
    len: usize,
}

impl Packets {
    /// At the beginning of a stream; packets up to `keep` bytes are kept.
    pub fn new(keep: usize) -> Self {
        Self {
            keep,
            at: At::Mark,
            missing: Vec::new(),
            packet: Vec::new(),
            len: 0,
        }
    }

    /// Whether a packet has begun and not ended.
    pub fn is_inside(&self) -> bool {
        self.len > 0
    }

    /// Takes bytes from the front of `bytes`; a packet when one ended with them. Without one, all were taken.
    ///
    /// # Errors
    /// The stream cannot be read any further.
    pub fn take(&mut self, bytes: &mut &[u8]) -> Result<Option<Frame>, NeoError> {
        while let Some(&first) = bytes.first() {
            let is_over = match self.at {
                At::Mark => {
                    self.keep(bytes, 1)?;
                    self.marked(first)?
                }
                At::Number(missing, so_far, what) => {
                    self.keep(bytes, 1)?;
                    let number = so_far << 8 | u64::from(first);
                    self.at = At::Number(missing - 1, number, what);
                    missing == 1 && self.numbered(number, what)?
                }
                At::Body(left) => {
                    let have = bytes.len();
                    let part = usize::try_from(left).map_or(have, |left| left.min(have));
                    self.keep(bytes, part)?;
                    self.body(left - part as u64)
                }
            };
            if is_over {
                let (len, packet) = (self.len, std::mem::take(&mut self.packet).into());
                self.len = 0;
                return Ok(Some(match len > self.keep {
                    true => Frame::Skipped { len, head: packet },
                    false => Frame::Whole(packet),
                }));
            }
        }
        Ok(None)
    }

    /// Moves bytes from the front of a stream into the packet.
    fn keep(&mut self, bytes: &mut &[u8], count: usize) -> Result<(), NeoError> {
        let (part, rest) = bytes.split_at(count);
        *bytes = rest;
        self.len += count;
        if self.len <= self.keep {
            self.packet.extend_from_slice(part);
            return Ok(());
        }
        if self.len > SKIP_MAX {
            return Err(NeoError::Long(SKIP_MAX));
        }
        let room = SKIPPED_HEAD_BYTES.saturating_sub(self.packet.len());
        self.packet.extend_from_slice(&part[..count.min(room)]);
        self.packet.truncate(SKIPPED_HEAD_BYTES);
        self.packet.shrink_to_fit();
        Ok(())
    }

    /// A mark came; whether the packet is over.
    fn marked(&mut self, mark: u8) -> Result<bool, NeoError> {
        let shape = shape(mark);
        match shape {
            Shape::Body(len) => Ok(self.body(len)),
            Shape::Items(count) => self.items(count),
            Shape::LongBody(width) | Shape::LongExt(width) | Shape::LongItems(width, _) => {
                self.at = At::Number(width, 0, shape);
                Ok(false)
            }
            Shape::Never => Err(NeoError::Form { at: self.len }),
        }
    }

    fn numbered(&mut self, number: u64, what: Shape) -> Result<bool, NeoError> {
        match what {
            Shape::LongItems(_, times) => self.items(number.saturating_mul(times)),
            Shape::LongExt(_) => Ok(self.body(number + 1)),
            _ => Ok(self.body(number)),
        }
    }

    fn items(&mut self, count: u64) -> Result<bool, NeoError> {
        if count == 0 {
            return Ok(self.body(0));
        }
        if self.missing.len() >= NEO_DEPTH_MAX {
            return Err(NeoError::Deep);
        }
        self.missing.push(count);
        self.at = At::Mark;
        Ok(false)
    }

    /// So many bytes of a value are missing; whether the packet is over.
    fn body(&mut self, left: u64) -> bool {
        if left > 0 {
            self.at = At::Body(left);
            return false;
        }
        self.at = At::Mark;
        while let Some(missing) = self.missing.last_mut() {
            *missing -= 1;
            if *missing > 0 {
                return false;
            }
            self.missing.pop();
        }
        true
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use bytes::Bytes;

    /// All packets of a stream that arrives in pieces of `size`.
    fn cut(stream: &[u8], size: usize, keep: usize) -> Result<Vec<Frame>, NeoError> {
        let (mut packets, mut out) = (Packets::new(keep), Vec::new());
        for mut piece in stream.chunks(size) {
            while let Some(packet) = packets.take(&mut piece)? {
                out.push(packet);
            }
            assert!(piece.is_empty());
        }
        assert!(!packets.is_inside());
        Ok(out)
    }

    #[test]
    fn packets_are_the_same_however_the_stream_is_cut() {
        let long = [&b"\xc6\x00\x02\x00\x00"[..], &[7; 131_072]].concat();
        let one = [b"\x93\x01\xcd\x80\x20\x92", &long[..], b"\x81\xa1a\x90"].concat();
        let values: [&[u8]; 5] = [
            super::super::GREETING,
            &one,
            b"\x93\x01\x0a\xdc\x00\x02\xd4\x00\x01\xc7\x01\x05x",
            b"\xc0",
            b"\xde\x00\x01\x90\x80",
        ];
        let whole = cut(&values.concat(), usize::MAX, 1 << 20).unwrap();
        assert_eq!(whole.len(), values.len());
        for (packet, value) in whole.iter().zip(values) {
            assert_eq!(*packet, Frame::Whole(Bytes::copy_from_slice(value)));
        }
        for size in [1, 2, 3, 7, 70_000] {
            assert_eq!(cut(&values.concat(), size, 1 << 20).unwrap(), whole);
        }
        for size in [1, 2, 1000, usize::MAX] {
            let short = cut(&values.concat(), size, 1000).unwrap();
            let head = Bytes::copy_from_slice(&one[..SKIPPED_HEAD_BYTES]);
            assert_eq!(
                short[1],
                Frame::Skipped {
                    len: one.len(),
                    head
                }
            );
            assert_eq!(short[2..], whole[2..]);
        }
    }

    #[test]
    fn depth_and_length_are_bounded() {
        let deep = |n: usize| [vec![0x91; n], vec![1]].concat();
        assert_eq!(cut(&deep(NEO_DEPTH_MAX), 1, 100).unwrap().len(), 1);
        assert_eq!(cut(&deep(NEO_DEPTH_MAX + 1), 1, 100), Err(NeoError::Deep));
        assert!(matches!(
            cut(b"\x91\xc1", 9, 100),
            Err(NeoError::Form { .. })
        ));
        let mut packets = Packets::new(1000);
        let mut endless = &b"\xc6\xff\xff\xff\xff"[..];
        assert_eq!(packets.take(&mut endless), Ok(None));
        let piece = vec![0; 1 << 20];
        let mut took = 0;
        let error = loop {
            match packets.take(&mut &piece[..]) {
                Ok(_) => took += 1,
                Err(error) => break error,
            }
            assert!(packets.packet.capacity() <= 2000);
        };
        assert_eq!((error, took), (NeoError::Long(SKIP_MAX), SKIP_MAX >> 20));
    }
}
