//! What is on its way to a client, and its reads that wait for it.

use super::isolation::Caller;
use crate::base::limit::LINK_REPLY_BYTES_MAX;
use crate::wire::watch::{Message, Stream};
use std::collections::VecDeque;

#[derive(Debug)]
struct Line {
    stream: Stream,
    bytes: Vec<u8>,
    given: usize,
}

/// What a read gets.
#[derive(Debug, PartialEq, Eq)]
pub struct Given {
    /// Whose read.
    pub caller: Caller,
    /// No bytes are the end.
    pub bytes: Vec<u8>,
    /// The message that is read to its end now.
    pub whole: Option<Stream>,
}

/// See the module.
#[derive(Debug, Default)]
pub struct Outbox {
    lines: VecDeque<Line>,
    reads: VecDeque<(Caller, usize)>,
    reply_bytes: usize,
    /// Of all messages that are not read to their end.
    bytes: usize,
    is_closed: bool,
}

impl Outbox {
    /// Adds a message. False when the client lets too many replies lie; pins have a deadline of their own.
    #[must_use]
    pub fn push(&mut self, stream: Stream, message: &Message) -> bool {
        if self.is_closed {
            return true;
        }
        let bytes = message.line(stream);
        if stream.is_clients() {
            self.reply_bytes += bytes.len();
        }
        self.bytes += bytes.len();
        let given = 0;
        self.lines.push_back(Line {
            stream,
            bytes,
            given,
        });
        self.reply_bytes <= LINK_REPLY_BYTES_MAX
    }

    /// Nothing more will be said than what is there.
    pub fn close(&mut self) {
        self.is_closed = true;
    }

    /// Nothing will be said at all.
    pub fn clear(&mut self) {
        self.close();
        // Who has read a part of a line has to get the rest, or takes what follows for it.
        self.lines.retain(|line| line.given > 0);
        self.bytes = self.lines.iter().map(|line| line.bytes.len()).sum();
    }

    /// Bytes that were not read.
    pub fn unread(&self) -> usize {
        self.bytes
    }

    /// One last message, after [`Self::clear`].
    pub fn last(&mut self, message: &Message) {
        self.is_closed = false;
        let _ = self.push(Stream::CONTROL, message);
        self.close();
    }

    /// Whether a message was read to its end.
    pub fn is_given(&self, stream: Stream) -> bool {
        !self.lines.iter().any(|line| line.stream == stream)
    }

    /// A client reads.
    pub fn read(&mut self, caller: Caller, room: usize) {
        self.reads.push_back((caller, room));
    }

    /// A read is given up; whether it was there.
    #[must_use]
    pub fn forget(&mut self, caller: Caller) -> bool {
        let at = self.reads.iter().position(|(c, _)| *c == caller);
        at.and_then(|at| self.reads.remove(at)).is_some()
    }

    /// Serves the next read, if there is something for it.
    pub fn give(&mut self) -> Option<Given> {
        if self.lines.is_empty() && !self.is_closed {
            return None;
        }
        let (caller, room) = self.reads.pop_front()?;
        let mut given = Given {
            caller,
            bytes: Vec::new(),
            whole: None,
        };
        if let Some(line) = self.lines.front_mut() {
            let len = room.min(line.bytes.len() - line.given);
            given
                .bytes
                .extend_from_slice(&line.bytes[line.given..][..len]);
            line.given += len;
            if line.given == line.bytes.len() {
                given.whole = Some(line.stream);
                self.bytes -= line.bytes.len();
                if line.stream.is_clients() {
                    self.reply_bytes -= line.bytes.len();
                }
                self.lines.pop_front();
            }
        }
        Some(given)
    }

    /// Gives back what many messages took.
    pub fn rest(&mut self) {
        self.lines.shrink_to_fit();
        self.reads.shrink_to_fit();
    }

    /// Whether everything was read.
    pub fn is_empty(&self) -> bool {
        self.lines.is_empty()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use crate::base::Unique;

    fn caller(n: u64) -> Caller {
        Caller {
            worker: 0,
            unique: Unique(n),
        }
    }

    #[test]
    fn a_read_gets_a_part_of_one_message() {
        let mut out = Outbox::default();
        out.read(caller(1), 100);
        assert_eq!(out.give(), None);
        assert!(out.push(Stream(1), &Message::Ok(None)));
        assert!(out.push(Stream(3), &Message::Ok(None)));
        let given = |out: &mut Outbox| {
            let given = out.give().unwrap();
            (
                given.caller.unique.0,
                String::from_utf8(given.bytes).unwrap(),
                given.whole,
            )
        };
        assert_eq!(given(&mut out), (1, "1 ok\n".into(), Some(Stream(1))));
        for n in 2..5 {
            out.read(caller(n), 2);
        }
        assert!(out.forget(caller(3)) && !out.forget(caller(3)));
        assert_eq!(given(&mut out), (2, "3 ".into(), None));
        assert_eq!(given(&mut out), (4, "ok".into(), None));
        // What was begun is ended, all else is not said.
        assert!(out.push(Stream(5), &Message::Ok(None)));
        out.clear();
        assert!(out.push(Stream(7), &Message::Ok(None)));
        out.read(caller(5), 100);
        out.read(caller(6), 100);
        assert_eq!(given(&mut out), (5, "\n".into(), Some(Stream(3))));
        assert_eq!(given(&mut out), (6, String::new(), None));
        assert!(out.is_empty());
    }

    #[test]
    fn d21_replies_that_nobody_reads_have_a_bound() {
        let mut out = Outbox::default();
        let message = Message::Error("x".repeat(200));
        let pushed = (0..).take_while(|_| out.push(Stream(1), &message)).count();
        assert!(pushed * 200 <= LINK_REPLY_BYTES_MAX && pushed * 250 > LINK_REPLY_BYTES_MAX);
    }
}
