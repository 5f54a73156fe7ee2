//! Lines of `head/watch`: frames, requests, and the texts that go back.
//!
//! ```text
//!   frame   = stream SP message LF
//!   stream  = decimal u64      odd: the client asked   even: the server asked   0: the server is about to hang up
//! ```
//!
//! A line that the server sends is never longer than [`TEXT_BYTES_MAX`] and holds no line feed but its last byte, whatever
//! the text in it was made from.
//!
//! The protocol itself is told in `iso/protocol.md`.

use super::quote::quoted;
use crate::base::limit::WATCH_LINE_BYTES_MAX;
use crate::base::{BlkNo, Oid, Rev, Tid};
use std::fmt::{self, Write as _};

/// Longest message the server sends, without stream and line feed: clients give up at 246 bytes.
pub const TEXT_BYTES_MAX: usize = 240;

/// Number of an exchange.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Stream(pub u64);

impl Stream {
    /// Control messages of the server.
    pub const CONTROL: Self = Self(0);

    /// Whether the client opens exchanges of this number.
    pub fn is_clients(self) -> bool {
        self.0 % 2 == 1
    }

    /// The server's next one.
    #[must_use]
    pub fn next(self) -> Self {
        match self.0.checked_add(2) {
            Some(n) => Self(n),
            None => Self(2 - self.0 % 2),
        }
    }
}

/// What breaks a link: the text that follows `0 error: `.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// No blank in it.
    #[error("invalid frame: {}", quoted(.0))]
    NoStream(Vec<u8>),
    /// What stands before the blank is no number.
    #[error("invalid frame: {} (invalid stream)", quoted(.0))]
    BadStream(Vec<u8>),
    /// It does not end.
    #[error("invalid frame: line is too long")]
    TooLong,
}

/// Cuts a line, its line feed included, into stream and message.
///
/// # Errors
/// It is no frame.
pub fn frame(line: &[u8]) -> Result<(Stream, &[u8]), FrameError> {
    let text = line.strip_suffix(b"\n").unwrap_or(line);
    let Some(at) = text.iter().position(|&c| c == b' ') else {
        return Err(FrameError::NoStream(line.to_vec()));
    };
    let (stream, message) = (&text[..at], &text[at + 1..]);
    match decimal(stream) {
        Some(stream) => Ok((Stream(stream), message)),
        None => Err(FrameError::BadStream(line.to_vec())),
    }
}

fn decimal(text: &[u8]) -> Option<u64> {
    if text.is_empty() || !text.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(text).ok()?.parse().ok()
}

/// What a client asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Request {
    /// Watch a file.
    Watch {
        /// The file.
        oid: Oid,
        /// As of this transaction; `None` for no longer.
        at: Option<Tid>,
        /// And say how long it is then.
        size: bool,
    },
    /// It is about to close the link.
    Bye,
}

/// A request that cannot be read: the text that follows `error bad watch: `.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RequestError {
    /// Another word.
    #[error("not a watch request: {}", quoted(.0))]
    Unknown(Vec<u8>),
    /// Not two arguments.
    #[error("expected 2 arguments, got {0}")]
    Count(usize),
    /// The first is no oid.
    #[error("invalid oid")]
    Oid,
    /// The second is neither `-` nor `@` and a tid.
    #[error("invalid at")]
    At,
}

/// Reads the message of a client's request.
///
/// # Errors
/// See [`RequestError`].
pub fn request(message: &[u8]) -> Result<Request, RequestError> {
    if message == b"bye" {
        return Ok(Request::Bye);
    }
    let Some(rest) = message.strip_prefix(b"watch ") else {
        return Err(RequestError::Unknown(message.to_vec()));
    };
    let words: Vec<&[u8]> = rest.split(|&c| c == b' ').collect();
    let (oid, at, size) = match words[..] {
        [oid, at] => (oid, at, false),
        [oid, at, b"+size"] => (oid, at, true),
        _ => return Err(RequestError::Count(words.len())),
    };
    let oid = Oid::parse(oid).ok_or(RequestError::Oid)?;
    let tid = at.strip_prefix(b"@").and_then(Tid::parse);
    match (at, tid) {
        (b"-", _) if size => Err(RequestError::At),
        (b"-", _) => Ok(Request::Watch {
            oid,
            at: None,
            size,
        }),
        (_, None) => Err(RequestError::At),
        (_, at) => Ok(Request::Watch { oid, at, size }),
    }
}

/// What the server says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Message {
    /// The request is carried out; the file has so many bytes, if that was asked.
    Ok(Option<u64>),
    /// It is not, and why.
    Error(String),
    /// Map a block from a revision.
    Pin(Oid, BlkNo, Rev),
    /// The client broke the protocol: the link ends.
    Broken(String),
    /// The client failed a pin: the link ends, and so does the client.
    Fatal(String),
}

impl Message {
    /// The line of it.
    pub fn line(&self, stream: Stream) -> Vec<u8> {
        let mut text = String::new();
        let _ = match self {
            Self::Ok(None) => write!(text, "ok"),
            Self::Ok(Some(size)) => write!(text, "ok {size}"),
            Self::Error(why) => write!(text, "error {why}"),
            Self::Pin(oid, blk, rev) => write!(text, "pin {oid} {blk} {}", At(*rev)),
            Self::Broken(why) => write!(text, "error: {why}"),
            Self::Fatal(why) => write!(text, "fatal: {why}"),
        }; // a String takes everything
        let mut len = text.len().min(TEXT_BYTES_MAX);
        while !text.is_char_boundary(len) {
            len -= 1;
        }
        text.truncate(len);
        let text = text.replace('\n', " ");
        format!("{} {text}\n", stream.0).into_bytes()
    }
}

/// A revision as lines name it.
#[derive(Clone, Copy, Debug)]
pub struct At(pub Rev);

impl fmt::Display for At {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Rev::Head => f.write_str("@head"),
            Rev::At(tid) => write!(f, "@{tid}"),
        }
    }
}

/// Bytes of a client, as they come, cut into lines.
#[derive(Debug, Default)]
pub struct Lines {
    begun: Vec<u8>,
}

impl Lines {
    /// Whether no line is begun.
    pub fn is_empty(&self) -> bool {
        self.begun.is_empty()
    }

    /// Gives every line that `bytes` ends to `each`, its line feed included, until it says false.
    ///
    /// # Errors
    /// A line does not end.
    pub fn add(
        &mut self,
        bytes: &[u8],
        mut each: impl FnMut(&[u8]) -> bool,
    ) -> Result<(), FrameError> {
        for part in bytes.split_inclusive(|&c| c == b'\n') {
            if self.begun.len() + part.len() > WATCH_LINE_BYTES_MAX {
                return Err(FrameError::TooLong);
            }
            let is_ended = part.ends_with(b"\n");
            let goes_on = match (is_ended, self.begun.is_empty()) {
                (true, true) => each(part),
                (true, false) => {
                    self.begun.extend_from_slice(part);
                    let goes_on = each(&self.begun);
                    self.begun.clear();
                    goes_on
                }
                (false, _) => {
                    self.begun.extend_from_slice(part);
                    true
                }
            };
            if !goes_on {
                break;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn frames() {
        let ok = |line: &'static [u8]| frame(line).unwrap();
        assert_eq!(ok(b"1 bye\n"), (Stream(1), &b"bye"[..]));
        assert_eq!(ok(b"18446744073709551615  x\n").1, b" x");
        assert_eq!(ok(b"2 \n"), (Stream(2), &b""[..]));
        let text = |line: &'static [u8]| frame(line).unwrap_err().to_string();
        assert_eq!(text(b"hello\n"), "invalid frame: \"hello\\n\"");
        let bad = r#"invalid frame: "zzz hello\n" (invalid stream)"#;
        assert_eq!(text(b"zzz hello\n"), bad);
        for line in [
            &b"-1 x\n"[..],
            b"+1 x\n",
            b" x\n",
            b"18446744073709551616 x\n",
            b"0x1 x\n",
        ] {
            assert!(
                matches!(frame(line), Err(FrameError::BadStream(_))),
                "{line:?}"
            );
        }
    }

    #[test]
    fn requests() {
        let oid = Oid(0x10);
        let at = Tid(0x0404_bfc5_fd8b_75ee);
        let ok = |text: &[u8]| request(text).unwrap();
        assert_eq!(ok(b"bye"), Request::Bye);
        let watch = |at, size| Request::Watch { oid, at, size };
        assert_eq!(ok(b"watch 0000000000000010 -"), watch(None, false));
        let line = b"watch 0000000000000010 @0404bfc5fd8b75ee";
        assert_eq!(ok(line), watch(Some(at), false));
        assert_eq!(ok(&[line, &b" +size"[..]].concat()), watch(Some(at), true));
        let text = |text: &[u8]| request(text).unwrap_err().to_string();
        assert_eq!(text(b"bla bla"), r#"not a watch request: "bla bla""#);
        assert_eq!(text(b"watch"), r#"not a watch request: "watch""#);
        assert_eq!(text(b"watch a"), "expected 2 arguments, got 1");
        assert_eq!(text(b"watch a b c"), "expected 2 arguments, got 3");
        assert_eq!(text(b"watch a  -"), "expected 2 arguments, got 3");
        assert_eq!(text(b"watch 10 -"), "invalid oid");
        assert_eq!(text(b"watch 0000000000000010 - +size"), "invalid at");
        assert_eq!(text(b"watch 0000000000000010 x"), "invalid at");
        assert_eq!(
            text(b"watch 0000000000000010 0404bfc5fd8b75ee"),
            "invalid at"
        );
    }

    #[test]
    fn lines_sent_are_short_and_one() {
        let line = |message: Message| String::from_utf8(message.line(Stream(2))).unwrap();
        let pin = Message::Pin(Oid(16), BlkNo(7), Rev::At(Tid(0x1f)));
        assert_eq!(line(pin), "2 pin 0000000000000010 #7 @000000000000001f\n");
        let pin = Message::Pin(Oid(u64::MAX), BlkNo(u64::MAX), Rev::Head);
        assert_eq!(
            line(pin),
            "2 pin ffffffffffffffff #18446744073709551615 @head\n"
        );
        // D22: whatever a text is made from.
        let long = Message::Error(format!("a\nb{}", "\u{e9}".repeat(300)));
        let text = line(long);
        assert!(text.len() <= TEXT_BYTES_MAX + 3, "{}", text.len());
        assert_eq!(text.matches('\n').count(), 1);
        assert!(text.starts_with("2 error a b\u{e9}"));
    }

    #[test]
    fn lines_come_in_any_pieces() {
        let bytes = b"1 bye\n2 ack\n\n3 x";
        for cut in 0..bytes.len() {
            let (mut lines, mut found) = (Lines::default(), Vec::new());
            for part in [&bytes[..cut], &bytes[cut..]] {
                let mut each = |line: &[u8]| {
                    found.push(line.to_vec());
                    true
                };
                lines.add(part, &mut each).unwrap();
            }
            assert_eq!(found, [&b"1 bye\n"[..], b"2 ack\n", b"\n"]);
            assert_eq!(lines.begun, b"3 x");
        }
        // D17: a line that never ends.
        let mut lines = Lines::default();
        let long = vec![b'x'; WATCH_LINE_BYTES_MAX];
        assert_eq!(lines.add(&long, |_| true), Ok(()));
        assert_eq!(lines.add(b"x", |_| true), Err(FrameError::TooLong));
    }
}
