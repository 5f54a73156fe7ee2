//! Records of a database under a zlib layer: `.z` and a zlib stream of the ordinary record.
//!
//! A pickle never begins with `.`, its STOP, so two bytes tell.

use super::error::PickleError;
use bytes::Bytes;
use flate2::{Decompress, FlushDecompress, Status};

/// Gives back the ordinary record, inflated when it was compressed; longer than `max` bytes is an error.
#[inline]
pub fn plain(record: Bytes, max: usize) -> Result<Bytes, PickleError> {
    if record.starts_with(b".z") {
        return inflate(&record[2..], max).map(Bytes::from);
    }
    if record.len() > max {
        return Err(PickleError::RecordTooLong { max });
    }
    Ok(record)
}

#[cold]
fn inflate(stream: &[u8], max: usize) -> Result<Vec<u8>, PickleError> {
    let mut zlib = Decompress::new(true);
    // One byte more than allowed tells "just fits" from "goes on".
    let room = max.saturating_add(1);
    let mut out = Vec::with_capacity(stream.len().saturating_mul(4).clamp(64, room.max(64)));
    loop {
        let (read, written) = (zlib.total_in(), out.len());
        let rest = stream
            .get(usize::try_from(read).unwrap_or(usize::MAX)..)
            .unwrap_or_default();
        let status = zlib.decompress_vec(rest, &mut out, FlushDecompress::None);
        if out.len() > max {
            return Err(PickleError::RecordTooLong { max });
        }
        match status {
            Ok(Status::StreamEnd) => return Ok(out),
            Ok(_) if out.len() == out.capacity() => {
                let more = out.capacity().min(room - out.len());
                out.reserve_exact(more);
            }
            Ok(_) if zlib.total_in() > read || out.len() > written => {}
            _ => return Err(PickleError::Inflate),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use flate2::Compression;
    use flate2::write::ZlibEncoder;
    use std::io::Write;

    fn packed(data: &[u8]) -> Bytes {
        let mut zlib = ZlibEncoder::new(b".z".to_vec(), Compression::default());
        zlib.write_all(data).unwrap();
        zlib.finish().unwrap().into()
    }

    #[test]
    fn inflates_up_to_the_bound_and_no_further() {
        for len in [0usize, 1, 63, 64, 65, 1000, 100_000] {
            let data: Vec<u8> = (0..len).map(|i| u8::try_from(i % 251).unwrap()).collect();
            assert_eq!(plain(packed(&data), len).unwrap(), data);
            assert_eq!(plain(packed(&data), len + 1).unwrap(), data);
            if len > 0 {
                let error = PickleError::RecordTooLong { max: len - 1 };
                assert_eq!(plain(packed(&data), len - 1), Err(error));
                assert_eq!(plain(Bytes::from(data), len - 1), Err(error));
            }
        }
    }

    #[test]
    fn a_bomb_stops_at_the_bound() {
        let bomb = packed(&vec![0; 32 << 20]);
        assert!(bomb.len() < 64 << 10);
        assert_eq!(
            plain(bomb, 1 << 20),
            Err(PickleError::RecordTooLong { max: 1 << 20 })
        );
    }

    #[test]
    fn every_cut_and_every_flip_is_an_error() {
        let data: Vec<u8> = (0..500u32).map(|i| i.to_be_bytes()[3]).collect();
        let whole = packed(&data);
        for len in 2..whole.len() {
            assert_eq!(
                plain(whole.slice(..len), 1 << 20),
                Err(PickleError::Inflate),
                "{len}"
            );
        }
        for bit in 16..whole.len() * 8 {
            let mut bytes = whole.to_vec();
            bytes[bit / 8] ^= 1 << (bit % 8);
            // Some header bits carry nothing; the data itself is under a checksum.
            if let Ok(out) = plain(bytes.into(), 1 << 20) {
                assert_eq!(out, data);
            }
        }
    }
}
