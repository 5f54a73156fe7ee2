//! What is said of a database that cannot be followed just now, or goes on with what is no transaction.

use super::super::follow::LOOK_EVERY;
use super::super::log::Chain;
use super::{SUSPICIOUS, Work};
use crate::store::any::FollowError;
use crate::store::file::Tail;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

impl Work {
    /// Reports a tail that stays as no writer leaves it, once.
    pub(super) fn watch_tail(&mut self, tail: Tail) {
        let Tail::Suspicious { pos, what } = tail else {
            if self.suspicious.take().is_some() {
                self.show_tail_fault(0);
            }
            return;
        };
        let (since, reported) = self
            .suspicious
            .get_or_insert_with(|| (Instant::now(), false));
        if !*reported && since.elapsed() > SUSPICIOUS {
            *reported = true;
            self.show_tail_fault(pos);
            self.control.shared.log.warning(format!(
                "the database goes on at position {pos} with something that is no transaction ({what}); serving up to there"
            ));
        }
    }

    /// Following failed: for good, or for now.
    pub(super) fn trouble(&mut self, error: &FollowError) -> Duration {
        let last = error.is_final();
        if last || self.troubled.is_none() {
            let (shared, error) = (&self.control.shared, Chain(error));
            match shared.is_drop_in {
                true => shared.log.error(format!("zwatch {}: {error}", shared.zurl)),
                false => shared.log.error(error),
            }
        }
        self.troubled.get_or_insert_with(Instant::now);
        self.show_trouble(true);
        if last {
            self.fail();
        }
        LOOK_EVERY
    }

    pub(super) fn show_trouble(&self, is_there: bool) {
        let standstill = &self.control.shared.standstill;
        standstill.troubled.store(is_there, Ordering::Relaxed);
    }

    fn show_tail_fault(&self, pos: u64) {
        let standstill = &self.control.shared.standstill;
        standstill.tail_fault.store(pos, Ordering::Relaxed);
    }
}
