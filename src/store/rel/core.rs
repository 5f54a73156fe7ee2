//! What a driver knows and decides, whatever it speaks: no socket, no clock, no thread.
//!
//! ```text
//!             first look                                head is there, or nothing but it is missing
//!   Opening -------------> Known <-------------------------------------------------+
//!                            |  lost                             looked             |
//!                            +---------> Unknown ---- older than head: grace ----> Ended (the database went back)
//! ```
//!
//! Invariants
//! - Head moves by looks alone, and in the order of tids.
//! - A load is asked only of a database that is known to have what head shows, and only as of a state that was given out.
//! - Every load is answered once, by its deadline at the latest.

use super::{Gap, Kept, Trouble};
use crate::base::limit::{REL_GRACE_MS, REL_HOLD_MS, REL_LOADS_UNDER_WAY, REL_ROW_BYTES};
use crate::base::{Oid, Tid};
use crate::store::Loaded;
use crate::store::remote::backoff::Backoff;
use crate::store::remote::link::{Given, Ports, Waiter};
use crate::store::remote::loads::{Key, Loads};
use crate::store::remote::store::Happened;
use crate::store::remote::{Fatal, Health, Why};
use crate::wire::zeo::Refusal;
use bytes::Bytes;
use std::collections::BTreeSet;
use std::time::{Duration, Instant};

/// Bytes that are handed out together at least.
const GIVEN_BYTES: usize = 512 << 10;

/// What a row says of an object as of a state.
#[derive(Debug)]
pub(super) enum Row {
    /// A revision.
    State(Tid, Bytes),
    /// One that is longer than allowed.
    Long(usize),
    /// The object is not there since this transaction.
    Null(Tid),
    /// The object changed since, and there is only what it is now.
    Newer(Tid),
    /// There is none that old; whether there is a newer one.
    None(bool),
    /// The database refuses to give it.
    Refused(Refusal),
}

/// A transaction that a look found.
#[derive(Debug)]
pub(super) struct Txn {
    pub(super) tid: Tid,
    /// A pack has been over it.
    pub(super) packed: bool,
    pub(super) oids: Vec<Oid>,
    /// There are more.
    pub(super) cut: bool,
}

/// A look at what is newer than head, in the order of tids.
#[derive(Debug)]
pub(super) struct Look {
    /// The transaction that head shows is there.
    pub(super) has_head: bool,
    /// The newest one, if there is none newer than head.
    pub(super) newest: Tid,
    pub(super) txns: Vec<Txn>,
    /// There may be more behind these.
    pub(super) more: bool,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Core {
    ports: Ports,
    max_record: usize,
    loads: Loads<Waiter>,
    /// What was asked of the connection there is.
    asked: BTreeSet<Key>,
    /// Newer than what was asked for: whoever asked hears so when head has had the time to pass by.
    held: Vec<(Key, Tid, Option<Instant>)>,
    given: Given,
    given_bytes: usize,
    row_bytes: usize,
    head: Option<Tid>,
    generation: u64,
    /// The database has what head shows.
    is_known: bool,
    missed: usize,
    behind: Option<Instant>,
    ended: Option<Why>,
    backoff: Backoff,
}

impl Core {
    /// Nothing is known yet; `chance` is what pauses are made of.
    pub(super) fn new(ports: Ports, max_record: usize, chance: u64) -> Self {
        Self {
            ports,
            max_record,
            loads: Loads::new(),
            asked: BTreeSet::new(),
            held: Vec::new(),
            given: Given::default(),
            given_bytes: 0,
            row_bytes: 4096,
            head: None,
            generation: 0,
            is_known: false,
            missed: 0,
            behind: None,
            ended: None,
            backoff: Backoff::new(chance),
        }
    }

    /// The last transaction given out; `None` before the first look.
    pub(super) fn head(&self) -> Option<Tid> {
        self.head
    }

    /// Largest record, in bytes.
    pub(super) fn max_record(&self) -> usize {
        self.max_record
    }

    /// Nothing will ever work again.
    pub(super) fn has_ended(&self) -> bool {
        self.ended.is_some()
    }

    /// Somebody waits for head to pass by.
    pub(super) fn is_holding(&self) -> bool {
        !self.held.is_empty()
    }

    /// Takes what is wanted; false to end.
    pub(super) fn take_orders(&mut self, now: Instant) -> bool {
        let mut refused = Vec::new();
        let goes_on = self.ports.take_orders(|generation, key, waiter| {
            let why = match &self.ended {
                Some(why) => Some((waiter, why.clone())),
                None if generation != self.generation => Some((waiter, Why::Moved)),
                None => self.loads.want(now, key, waiter).err(),
            };
            refused.extend(why.map(|(waiter, why)| (key.0, waiter, why)));
        });
        for (oid, waiter, why) in refused {
            self.give(oid, waiter, Err(why));
        }
        if !goes_on {
            self.end(&Why::Closed);
        }
        self.hand_out();
        goes_on
    }

    /// The next objects to be asked for together, as far as there is room; they count as asked.
    pub(super) fn next_batch(&mut self) -> Vec<Key> {
        if !self.is_known {
            return Vec::new();
        }
        let room = (REL_ROW_BYTES / self.row_bytes.max(1)).clamp(4, REL_LOADS_UNDER_WAY);
        let room = room.saturating_sub(self.asked.len());
        let batch: Vec<_> = std::iter::from_fn(|| self.loads.next())
            .take(room)
            .collect();
        self.asked.extend(batch.iter().copied());
        batch
    }

    /// What came of one that was asked for.
    ///
    /// # Errors
    /// It cannot be right.
    pub(super) fn answered(&mut self, key: Key, row: Row) -> Result<(), Trouble> {
        let (oid, at) = key;
        // Asked twice, before and after history was lost: the first answer has served.
        if !self.asked.contains(&key) {
            return Ok(());
        }
        if let Row::State(serial, _) | Row::Null(serial) = &row
            && *serial > at
        {
            return Err(Trouble::Serial(oid, *serial, at));
        }
        let loaded = match row {
            Row::State(serial, data) => {
                self.row_bytes = (self.row_bytes * 7 + data.len()) / 8;
                self.given_bytes += data.len();
                Ok(Loaded { serial, data })
            }
            Row::Long(len) => Err(Why::TooBig(len)),
            Row::Null(at) => Err(Why::Deleted(at)),
            Row::None(true) => Err(Why::NotYet),
            Row::None(false) => Err(Why::NoObject),
            Row::Refused(refusal) => Err(Why::Refused(refusal)),
            Row::Newer(serial) => {
                self.held.push((key, serial, None));
                return Ok(());
            }
        };
        self.done(key, &loaded);
        if self.given_bytes >= GIVEN_BYTES {
            self.hand_out();
        }
        Ok(())
    }

    fn done(&mut self, key: Key, loaded: &Result<Loaded, Why>) {
        self.asked.remove(&key);
        for waiter in self.loads.answered(key) {
            self.give(key.0, waiter, loaded.clone());
        }
    }

    fn give(&mut self, oid: Oid, waiter: Waiter, loaded: Result<Loaded, Why>) {
        let loaded = loaded.map_err(|why| why.error(self.max_record));
        self.given.give(oid, waiter, loaded);
    }

    /// Hands out all that came.
    pub(super) fn hand_out(&mut self) {
        self.given_bytes = 0;
        self.given.hand_out();
    }

    /// Time passes.
    pub(super) fn tick(&mut self, now: Instant) {
        while let Some(((oid, _), waiter)) = self.loads.expired(now) {
            self.give(oid, waiter, Err(Why::Late));
        }
        let head = self.head.unwrap_or(Tid::ZERO);
        let mut over = Vec::new();
        self.held.retain_mut(|(key, serial, since)| {
            if since.is_none() && *serial <= head {
                *since = Some(now);
            }
            let waits = since.is_none_or(|since| now < since + Duration::from_millis(REL_HOLD_MS));
            if !waits {
                over.push((*key, *serial));
            }
            waits
        });
        for (key, serial) in over {
            self.done(key, &Err(Why::Gone(serial)));
        }
        self.hand_out();
    }

    /// When to call [`Self::tick`].
    pub(super) fn timeout(&self) -> Option<Instant> {
        self.loads.timeout()
    }

    /// The connection could not be made, or ended. Gives how long to wait before the next.
    pub(super) fn lost(&mut self, trouble: Trouble) -> Duration {
        self.held.clear();
        let asked = std::mem::take(&mut self.asked);
        self.loads.requeue(asked.into_iter().collect());
        self.is_known = false;
        self.missed = 0;
        if !self.has_ended() {
            self.tell(Health::Frozen, Happened::Lost(trouble.into()));
        }
        self.backoff.pause()
    }

    /// Nobody gets anything any more.
    fn end(&mut self, why: &Why) {
        self.ended = Some(why.clone());
        self.is_known = false;
        self.fail(why);
    }

    fn fail(&mut self, why: &Why) {
        for ((oid, _), waiter) in self.loads.drain() {
            self.give(oid, waiter, Err(why.clone()));
        }
        // What was asked is still under way, and nobody's.
        self.held.clear();
        self.hand_out();
    }

    fn tell(&self, health: Health, happened: Happened) {
        self.ports.status.set(health);
        self.ports.inbox.put(happened);
    }
}

/// Head.
impl Core {
    /// The first connection found the newest transaction.
    pub(super) fn opened(&mut self, newest: Tid) {
        assert!(self.head.is_none(), "BUG: opened twice");
        self.head = Some(newest);
        self.ports.inbox.put(Happened::Opened(newest));
        self.serve();
    }

    /// Takes a look; how many transactions it brought.
    ///
    /// # Errors
    /// The database is behind head, which it may not be for long.
    pub(super) fn looked(
        &mut self,
        now: Instant,
        kept: Kept,
        look: Look,
    ) -> Result<usize, Trouble> {
        let head = self.head.expect("it is known since the first look");
        let Some(last) = look.txns.last() else {
            if look.newest < head {
                return self.is_behind(now, head, look.newest);
            }
            self.serve();
            return Ok(0);
        };
        let (last, count) = (last.tid, look.txns.len());
        let mut before = head;
        for txn in &look.txns {
            if txn.tid <= before {
                return Err(Trouble::Rows);
            }
            before = txn.tid;
        }
        if !self.is_known {
            self.tell(Health::CatchingUp, Happened::CatchingUp);
        }
        let has_head = look.has_head || kept == Kept::Newest || head == Tid::ZERO;
        let gap = match &look.txns {
            _ if !has_head => Some(Gap::Unknown(head)),
            txns if txns.iter().any(|txn| txn.packed) => Some(Gap::Packed),
            txns if txns.iter().any(|txn| txn.cut) => Some(Gap::TooMany),
            _ => None,
        };
        if let Some(gap) = gap {
            // What is waited for was asked for by whoever saw the other history.
            self.fail(&Why::Moved);
            self.generation += 1;
            self.head = Some(last);
            self.ports.inbox.put(Happened::Reset(last, gap.into()));
        } else {
            for txn in look.txns {
                self.head = Some(txn.tid);
                self.missed += 1;
                let commit = Happened::Commit(txn.tid, txn.oids.into());
                self.ports.inbox.put(commit);
            }
        }
        if !look.more {
            self.serve();
        }
        Ok(count)
    }

    /// The database is there, and head up to date.
    fn serve(&mut self) {
        self.behind = None;
        if !std::mem::replace(&mut self.is_known, true) {
            self.backoff.reset();
            self.ports.status.connected();
            self.tell(Health::Serving, Happened::Serving(self.missed));
        }
        self.missed = 0;
    }

    /// A server that took over may lag behind for a while.
    fn is_behind(&mut self, now: Instant, head: Tid, newest: Tid) -> Result<usize, Trouble> {
        let since = *self.behind.get_or_insert(now);
        if now < since + Duration::from_millis(REL_GRACE_MS) {
            return Err(Trouble::Behind { head, now: newest });
        }
        self.end(&Why::Moved);
        let fatal = Fatal::WentBack { head, now: newest };
        self.tell(Health::Frozen, Happened::Fatal(fatal));
        Err(Trouble::Behind { head, now: newest })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use crate::base::Rev;
    use crate::kernel::proc::Waker;
    use crate::store::LoadError;
    use crate::store::remote::link::{Order, Status, Wanted};
    use crate::store::remote::store::Inbox;
    use crate::store::remote::{Came, Sink};
    use crossbeam_channel::{Sender, unbounded};
    use std::sync::{Arc, Mutex};

    /// Keeps what comes.
    #[derive(Debug, Default)]
    struct Basket(Mutex<Vec<Came>>);

    impl Sink for Basket {
        fn came(&self, loads: Vec<Came>) {
            self.0.lock().unwrap().extend(loads);
        }
    }

    impl Basket {
        fn take(&self) -> Vec<(u64, Result<Loaded, LoadError>)> {
            let all = std::mem::take(&mut *self.0.lock().unwrap());
            all.into_iter().map(|c| (c.oid.0, c.loaded)).collect()
        }
    }

    struct World {
        core: Core,
        orders: Sender<Order>,
        inbox: Arc<Inbox>,
        basket: Arc<Basket>,
        now: Instant,
    }

    impl World {
        /// Opened at transaction 10.
        fn new() -> Self {
            let (orders, receiver) = unbounded();
            let inbox = Arc::new(Inbox::new(None));
            let ports = Ports {
                orders: receiver,
                waker: Waker::new().unwrap(),
                status: Arc::new(Status::default()),
                inbox: Arc::clone(&inbox),
            };
            let mut core = Core::new(ports, 100, 1);
            core.opened(Tid(10));
            let opened = inbox.all();
            assert!(matches!(opened[0], Happened::Opened(Tid(10))));
            let (basket, now) = (Arc::default(), Instant::now());
            Self {
                core,
                orders,
                inbox,
                basket,
                now,
            }
        }

        fn want(&mut self, generation: u64, at: u64, oids: &[u64]) {
            let wanted = Wanted {
                generation,
                rev: Rev::Head,
                at: Tid(at),
                oids: oids.iter().map(|&oid| Oid(oid)).collect(),
                sink: Arc::clone(&self.basket) as Arc<dyn Sink>,
            };
            self.orders.send(Order::Load(wanted)).unwrap();
            assert!(self.core.take_orders(self.now));
        }

        fn look(&mut self, has_head: bool, txns: &[(u64, bool)]) -> Result<usize, Trouble> {
            let txn = |&(tid, packed)| Txn {
                tid: Tid(tid),
                packed,
                oids: vec![Oid(1)],
                cut: false,
            };
            let look = Look {
                has_head,
                newest: Tid(if has_head { 10 } else { 9 }),
                txns: txns.iter().map(txn).collect(),
                more: false,
            };
            self.core.looked(self.now, Kept::All, look)
        }
    }

    fn state(serial: u64) -> Row {
        Row::State(Tid(serial), Bytes::from_static(b"record"))
    }

    #[test]
    fn what_is_wanted_is_asked_together_and_once_and_again_after_a_loss() {
        let mut w = World::new();
        w.want(0, 10, &[1, 2, 3]);
        w.want(0, 10, &[2]);
        let batch = w.core.next_batch();
        assert_eq!(batch.len(), 3);
        w.core.answered(batch[0], state(4)).unwrap();
        w.core.lost(Trouble::Silent);
        assert!(w.core.next_batch().is_empty(), "nobody is there");
        assert_eq!(w.look(true, &[]).unwrap(), 0);
        let again = w.core.next_batch();
        assert_eq!(again, batch[1..]);
        w.core.answered(again[0], Row::None(true)).unwrap();
        w.core.answered(again[1], Row::Null(Tid(7))).unwrap();
        w.core.hand_out();
        let came = w.basket.take();
        assert_eq!(came.len(), 4);
        assert!(matches!(came[0], (1, Ok(_))));
        assert!(matches!(came[1], (2, Err(LoadError::NotYet))));
        assert!(matches!(
            came[3],
            (3, Err(LoadError::Deleted { at: Tid(7) }))
        ));
        // What nobody waits for is nobody's; the future is nobody's either.
        w.core.answered(batch[0], state(4)).unwrap();
        w.want(0, 10, &[5]);
        let key = w.core.next_batch()[0];
        let future = w.core.answered(key, state(11));
        assert!(matches!(future, Err(Trouble::Serial(..))));
    }

    #[test]
    fn each_transaction_is_told_and_what_cannot_be_told_is_a_reset() {
        for (has_head, txns, resets) in [
            (true, [(11, false), (12, false)], false),
            (false, [(11, false), (12, false)], true),
            (true, [(11, true), (12, false)], true),
        ] {
            let mut w = World::new();
            w.want(0, 10, &[1]);
            w.look(has_head, &txns).unwrap();
            assert_eq!(w.core.head(), Some(Tid(12)));
            let told = w.inbox.all();
            if resets {
                assert!(matches!(told[..], [Happened::Reset(Tid(12), _)]));
                // Who saw the other history gets nothing of this one.
                assert!(matches!(w.basket.take()[..], [(1, Err(LoadError::Moved))]));
                w.want(0, 10, &[1]);
                assert!(matches!(w.basket.take()[..], [(1, Err(LoadError::Moved))]));
            } else {
                let [Happened::Commit(a, _), Happened::Commit(b, _)] = &told[..] else {
                    panic!("{told:?}")
                };
                assert_eq!((*a, *b), (Tid(11), Tid(12)));
                assert_eq!(w.core.next_batch().len(), 1);
            }
        }
        let mut w = World::new();
        let order = w.look(true, &[(12, false), (11, false)]);
        assert!(matches!(order, Err(Trouble::Rows)));
    }

    #[test]
    fn a_database_behind_head_has_a_while_to_catch_up_and_is_the_end_then() {
        let mut w = World::new();
        assert!(matches!(w.look(false, &[]), Err(Trouble::Behind { .. })));
        w.now += Duration::from_millis(REL_GRACE_MS - 1);
        assert!(w.look(false, &[]).is_err() && !w.core.has_ended());
        assert!(w.look(true, &[]).is_ok());
        w.inbox.all();
        assert!(w.look(false, &[]).is_err() && !w.core.has_ended());
        w.now += Duration::from_millis(REL_GRACE_MS);
        assert!(w.look(false, &[]).is_err() && w.core.has_ended());
        assert!(matches!(w.inbox.all()[..], [Happened::Fatal(_)]));
        w.want(0, 10, &[1]);
        assert!(matches!(w.basket.take()[..], [(1, Err(LoadError::Moved))]));
    }

    #[test]
    fn a_revision_that_is_gone_is_told_when_head_had_the_time_to_pass() {
        let mut w = World::new();
        w.want(0, 10, &[1]);
        let key = w.core.next_batch()[0];
        w.core.answered(key, Row::Newer(Tid(11))).unwrap();
        w.now += Duration::from_secs(5);
        w.core.tick(w.now);
        assert!(w.basket.take().is_empty() && w.core.is_holding());
        w.look(true, &[(11, false)]).unwrap();
        w.core.tick(w.now);
        assert!(w.basket.take().is_empty());
        w.now += Duration::from_millis(REL_HOLD_MS);
        w.core.tick(w.now);
        let came = w.basket.take();
        assert!(matches!(
            came[..],
            [(1, Err(LoadError::Gone { at: Tid(11) }))]
        ));
        assert!(!w.core.is_holding());
    }
}
