//! One connection to a node: from the stream to packets, questions and their answers, and whether it is alive. Pure.
//!
//! ```text
//!             dialed              greeting                  accepted
//!   Dialing ---------> Greeting ------------> Identifying ------------> In
//! ```

use super::Trouble;
use super::asks::Ask;
use crate::base::limit::{HANDSHAKE_MS, ZEO_FRAME_AROUND_BYTES};
use crate::store::remote::Broken;
use crate::store::remote::vigil::{Vigil, Watch};
use crate::wire::neo::{GREETING, Message, Packet, Packets, Request, check_greeting};
use crate::wire::zeo::Frame;
use rustc_hash::FxHashMap;
use std::time::{Duration, Instant};

/// What a question is for.
#[derive(Clone, Copy, Debug)]
pub(super) enum Asked {
    Identify,
    LastTid,
    /// What the cluster is at.
    Cluster,
    /// Whether somebody is there.
    Probe,
    /// Whether the master has told all it had to say before this.
    Flush,
    /// Of a storage node.
    Of(Ask),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Dialing,
    Greeting,
    Identifying,
    In,
}

/// What came.
#[derive(Debug)]
pub(super) enum Came {
    /// The other side speaks our protocol.
    Greeted,
    /// An answer.
    Answer(Asked, Packet, usize),
    /// An answer that is too long to be kept.
    Skipped(Asked, usize),
    /// Nobody asked for it.
    News(Packet),
}

/// See the module.
#[derive(Debug)]
pub(super) struct Peer {
    step: Step,
    deadline: Instant,
    packets: Packets,
    pub(super) out: Vec<u8>,
    vigil: Vigil,
    asked: FxHashMap<u32, Asked>,
    next: u32,
    /// Questions whose silence says something: all but probes.
    due: usize,
    /// Questions about objects and transactions.
    pub(super) under_way: usize,
    /// Bytes of an answer, of late.
    pub(super) answer_bytes: usize,
    /// The other side wants no more questions.
    pub(super) is_closing: bool,
}

impl Peer {
    /// A stream was asked for.
    pub(super) fn new(now: Instant, max_record: usize) -> Self {
        Self {
            step: Step::Dialing,
            deadline: now + Duration::from_millis(HANDSHAKE_MS),
            packets: Packets::new(max_record + ZEO_FRAME_AROUND_BYTES),
            out: Vec::new(),
            vigil: Vigil::new(now),
            asked: FxHashMap::default(),
            next: 0,
            due: 0,
            under_way: 0,
            answer_bytes: 4096,
            is_closing: false,
        }
    }

    /// The stream is there.
    pub(super) fn dialed(&mut self, now: Instant) {
        self.step_to(now, Step::Greeting);
        self.vigil = Vigil::new(now);
        self.out.extend_from_slice(GREETING);
    }

    /// The other side took us in.
    pub(super) fn accepted(&mut self, now: Instant) {
        self.step_to(now, Step::In);
    }

    pub(super) fn is_in(&self) -> bool {
        self.step == Step::In
    }

    fn step_to(&mut self, now: Instant, step: Step) {
        self.step = step;
        self.deadline = now + Duration::from_millis(HANDSHAKE_MS);
    }

    /// Asks something.
    pub(super) fn ask(&mut self, now: Instant, asked: Asked, request: &Request<'_>) {
        let id = self.next;
        self.next = self.next.wrapping_add(1);
        request.encode(id, &mut self.out);
        if !matches!(asked, Asked::Probe) {
            self.due += 1;
            self.vigil.expects(now, true);
        }
        self.under_way += usize::from(matches!(asked, Asked::Of(_)));
        self.asked.insert(id, asked);
        self.vigil.sent(now, 0, true);
    }

    /// Takes bytes from the front; the next thing that came with them.
    ///
    /// # Errors
    /// The connection is of no use any more.
    pub(super) fn take(
        &mut self,
        now: Instant,
        bytes: &mut &[u8],
    ) -> Result<Option<Came>, Trouble> {
        while let Some(frame) = self.packets.take(bytes)? {
            let packet = match frame {
                Frame::Whole(packet) => packet,
                Frame::Skipped { len, head } => {
                    let id = Message::answers(&head).ok_or(Trouble::TooLong(len))?;
                    return Ok(Some(Came::Skipped(self.answered(id)?, len)));
                }
            };
            match self.step {
                Step::Dialing => unreachable!("BUG: bytes of no stream"),
                Step::Greeting => {
                    check_greeting(&packet)?;
                    self.step_to(now, Step::Identifying);
                    return Ok(Some(Came::Greeted));
                }
                Step::Identifying | Step::In => {}
            }
            let message = Message::read(&packet)?;
            match message.packet {
                Packet::Ping => Request::Pong.encode(message.id, &mut self.out),
                news if !message.is_answer => return Ok(Some(Came::News(news))),
                answer => {
                    let asked = self.answered(message.id)?;
                    return Ok(Some(Came::Answer(asked, answer, packet.len())));
                }
            }
        }
        Ok(None)
    }

    fn answered(&mut self, id: u32) -> Result<Asked, Trouble> {
        let asked = self.asked.remove(&id).ok_or(Trouble::Number(id))?;
        if !matches!(asked, Asked::Probe) {
            self.due -= 1;
        }
        self.under_way -= usize::from(matches!(asked, Asked::Of(_)));
        Ok(asked)
    }

    /// So many bytes came, and were taken.
    pub(super) fn received(&mut self, now: Instant, bytes: usize) {
        self.vigil.received(now, bytes, self.packets.is_inside());
        self.vigil.expects(now, self.due > 0);
    }

    /// So many bytes of `out` left.
    pub(super) fn sent(&mut self, now: Instant, bytes: usize) {
        self.vigil.sent(now, bytes, !self.out.is_empty());
    }

    /// When to call [`Self::tick`].
    pub(super) fn timeout(&self) -> Instant {
        match self.step {
            Step::Dialing => self.deadline,
            Step::Greeting | Step::Identifying => self.deadline.min(self.vigil.timeout()),
            Step::In => self.vigil.timeout(),
        }
    }

    /// Time passes.
    ///
    /// # Errors
    /// The connection is dead.
    pub(super) fn tick(&mut self, now: Instant) -> Result<(), Trouble> {
        if self.step != Step::In && self.deadline <= now {
            return Err(Broken::NoAnswer.into());
        }
        if self.step == Step::Dialing {
            return Ok(());
        }
        match self.vigil.look(now) {
            Watch::Wait => Ok(()),
            Watch::Probe => {
                self.ask(now, Asked::Probe, &Request::Ping);
                Ok(())
            }
            Watch::Dead(broken) => Err(broken.into()),
        }
    }

    /// What was asked of a storage node and will not be answered, oldest first.
    pub(super) fn left(&mut self) -> Vec<Ask> {
        let mut left: Vec<_> = self.asked.drain().collect();
        // Numbers wrap: what lies far behind the next one is the oldest.
        left.sort_unstable_by_key(|(id, _)| std::cmp::Reverse(self.next.wrapping_sub(*id)));
        let asks = left.into_iter().filter_map(|(_, asked)| match asked {
            Asked::Of(ask) => Some(ask),
            _ => None,
        });
        asks.collect()
    }
}
