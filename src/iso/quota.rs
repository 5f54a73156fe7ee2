//! What users other than the mount's owner may take, each by itself (protocol 12). The owner, and root, have no bound but memory.
//!
//! A [`User`] is known from its first link on, and for as long as it has one, has to wait, or has used some of its credit:
//!
//! ```text
//!          killed                       killed
//!   Good ----------> Waits 1 s ----------------> Waits 2 s ---> 4 s ---> ... ---> 5 min     (a new watch begins when that is over)
//!     ^                  |                           |                              |
//!     +------------------+--- an hour since the last one was killed ----------------+
//!
//!              asks: one less                         asks: owes one more
//!   Has credit ---------------> ... none is left ---> In debt      (what it writes is not taken)
//!     ^                                                 |
//!     +---------------- time: so many a second ---------+
//! ```

use crate::base::limit;
use rustc_hash::FxHashMap;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// Number of a user.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Uid(pub u32);

/// What is asked of clients.
#[derive(Clone, Copy, Debug)]
pub struct Rules {
    /// A pin has to be answered within this.
    pub timeout: Duration,
    /// A link is for the process that opened it alone.
    pub is_strict: bool,
    /// Of users other than the mount's owner.
    pub others: Quota,
}

impl Rules {
    /// The usual ones.
    pub fn new(timeout: Duration) -> Self {
        Self {
            timeout,
            is_strict: false,
            others: Quota::default(),
        }
    }

    /// What a client of this user is given to answer.
    pub(super) fn timeout_of(&self, user: Option<Uid>) -> Duration {
        let others = self.others.timeout.unwrap_or(self.timeout);
        match user {
            Some(_) => others.min(self.timeout),
            None => self.timeout,
        }
    }
}

/// What one user may take.
#[derive(Clone, Copy, Debug)]
pub struct Quota {
    /// Opens of `head/watch`.
    pub links: usize,
    /// Files watched, over all of them.
    pub watches: usize,
    /// Blocks pinned, over all of these.
    pub pinned: usize,
    /// A pin has to be answered within this, if that is less than what the owner is given.
    pub timeout: Option<Duration>,
}

impl Default for Quota {
    fn default() -> Self {
        Self {
            links: limit::USER_LINKS,
            watches: limit::USER_WATCHES,
            pinned: limit::USER_PINNED,
            timeout: None,
        }
    }
}

/// Links of each user, counted where they are opened: an OPEN is answered at once.
#[derive(Debug, Default)]
pub struct Admitted(FxHashMap<Uid, usize>);

impl Admitted {
    /// Whether there is room for one more of at most `max`; then it is counted.
    #[must_use]
    pub fn admit(&mut self, user: Uid, max: usize) -> bool {
        let links = self.0.entry(user).or_default();
        let is_room = *links < max;
        *links += usize::from(is_room);
        is_room
    }

    /// One is gone.
    pub fn gone(&mut self, user: Uid) {
        if let Some(links) = self.0.get_mut(&user) {
            *links -= 1;
            if *links == 0 {
                self.0.remove(&user);
            }
        }
    }
}

/// How long the first new watch after a kill waits.
const WAIT: Duration = Duration::from_secs(1);
/// The longest such wait.
const WAIT_MAX: Duration = Duration::from_secs(300);
/// After so long without a kill nothing is held against anybody.
const FORGIVEN: Duration = Duration::from_secs(3600);

/// Clients that were killed lately.
#[derive(Clone, Copy, Debug)]
struct Kills {
    last: Instant,
    wait: Duration,
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct User {
    links: usize,
    kills: Option<Kills>,
    /// All requests are paid for by then: what it says of times to come is the credit that was used.
    paid: Option<Instant>,
}

impl User {
    /// A client of it was killed.
    pub(super) fn killed(&mut self, now: Instant) {
        self.forgive(now);
        let wait = self
            .kills
            .map_or(WAIT, |kills| (kills.wait * 2).min(WAIT_MAX));
        self.kills = Some(Kills { last: now, wait });
    }

    fn forgive(&mut self, now: Instant) {
        let is_over = |kills: &mut Kills| now >= kills.last + FORGIVEN;
        self.kills.take_if(is_over);
    }

    /// When it may begin to watch something new.
    pub(super) fn may_begin(&self) -> Option<Instant> {
        self.kills.map(|kills| kills.last + kills.wait)
    }

    /// It asks for something.
    pub(super) fn asks(&mut self, now: Instant) {
        let paid = self.paid.map_or(now, |paid| paid.max(now));
        self.paid = Some(paid + Duration::from_secs(1) / limit::USER_REQUESTS_PER_SECOND);
    }

    /// What it writes is not taken before this.
    pub(super) fn in_debt_until(&self) -> Option<Instant> {
        let credit =
            Duration::from_secs(1) / limit::USER_REQUESTS_PER_SECOND * limit::USER_REQUESTS_AT_ONCE;
        self.paid.and_then(|paid| paid.checked_sub(credit))
    }

    /// Nothing has to be known of it.
    fn is_nobody(&self, now: Instant) -> bool {
        let is_forgiven = self.kills.is_none_or(|kills| now >= kills.last + FORGIVEN);
        let has_all_credit = self.paid.is_none_or(|paid| paid <= now);
        self.links == 0 && is_forgiven && has_all_credit
    }
}

/// All users but the owner.
#[derive(Debug, Default)]
pub(super) struct Users(BTreeMap<Uid, User>);

impl Users {
    /// A client of it opened a link.
    pub(super) fn opened(&mut self, user: Uid, now: Instant) {
        self.0.retain(|_, user| !user.is_nobody(now));
        // Of those that have no link one that only owes is forgotten, else the one that did wrong longest ago.
        if self.0.len() >= limit::USERS_MAX {
            let idle = self.0.iter().filter(|(_, user)| user.links == 0);
            let first =
                idle.min_by_key(|(_, user)| (user.kills.map(|kills| kills.last), user.paid));
            let first = first.map(|(&uid, _)| uid);
            first.and_then(|uid| self.0.remove(&uid));
        }
        self.0.entry(user).or_default().links += 1;
    }

    /// A link is gone.
    pub(super) fn closed(&mut self, user: Uid) {
        if let Some(user) = self.0.get_mut(&user) {
            user.links -= 1;
        }
    }

    pub(super) fn get(&self, user: Uid) -> Option<&User> {
        self.0.get(&user)
    }

    pub(super) fn get_mut(&mut self, user: Uid) -> Option<&mut User> {
        self.0.get_mut(&user)
    }

    /// When the next of them may go on with something.
    pub(super) fn next(&self, now: Instant) -> Option<Instant> {
        let times = |user: &User| [user.may_begin(), user.in_debt_until()];
        let all = self.0.values().flat_map(times).flatten();
        all.filter(|&at| at > now).min()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    #![allow(clippy::disallowed_methods, reason = "any instant will do")]
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn who_is_killed_waits_twice_as_long_each_time_until_an_hour_has_passed() {
        let (mut user, mut now) = (User::default(), Instant::now());
        let mut waits = Vec::new();
        for _ in 0..11 {
            user.killed(now);
            waits.push((user.may_begin().unwrap() - now).as_secs());
            now += 400 * SECOND;
        }
        assert_eq!(waits, [1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300]);
        user.killed(now + FORGIVEN);
        assert_eq!(user.may_begin(), Some(now + FORGIVEN + SECOND));
    }

    #[test]
    fn requests_are_taken_at_once_up_to_a_credit_and_then_at_a_rate() {
        let (mut user, now) = (User::default(), Instant::now() + 1000 * SECOND);
        let is_paused = |user: &User, now| user.in_debt_until().is_some_and(|until| until > now);
        for _ in 0..limit::USER_REQUESTS_AT_ONCE {
            user.asks(now);
            assert!(!is_paused(&user, now));
        }
        for _ in 0..limit::USER_REQUESTS_PER_SECOND {
            user.asks(now);
        }
        assert!(is_paused(&user, now));
        let almost = SECOND - SECOND / limit::USER_REQUESTS_PER_SECOND;
        assert!(is_paused(&user, now + almost) && !is_paused(&user, now + SECOND));
        // Who asks for nothing has all its credit again, and no more than that.
        let later = now + 1000 * SECOND;
        (0..limit::USER_REQUESTS_AT_ONCE).for_each(|_| user.asks(later));
        assert!(!is_paused(&user, later));
        user.asks(later);
        assert!(is_paused(&user, later));
    }

    #[test]
    fn who_closes_all_links_and_opens_another_has_no_new_credit() {
        let (mut users, now) = (Users::default(), Instant::now());
        users.opened(Uid(1), now);
        let all = limit::USER_REQUESTS_AT_ONCE + 1;
        (0..all).for_each(|_| users.get_mut(Uid(1)).unwrap().asks(now));
        let until = users.get(Uid(1)).unwrap().in_debt_until();
        users.closed(Uid(1));
        users.opened(Uid(1), now);
        assert!(until > Some(now));
        assert_eq!(users.get(Uid(1)).unwrap().in_debt_until(), until);
        users.closed(Uid(1));
        // When all of it is paid for nothing has to be known.
        let paid = now + SECOND * all / limit::USER_REQUESTS_PER_SECOND;
        users.opened(Uid(2), paid);
        assert!(users.get(Uid(1)).is_none());
    }

    #[test]
    fn links_of_a_user_have_a_bound_and_others_have_their_own() {
        let mut admitted = Admitted::default();
        assert!(admitted.admit(Uid(1), 2) && admitted.admit(Uid(1), 2));
        assert!(!admitted.admit(Uid(1), 2) && admitted.admit(Uid(2), 2));
        admitted.gone(Uid(1));
        assert!(admitted.admit(Uid(1), 2) && !admitted.admit(Uid(1), 2));
        for uid in [1, 1, 2] {
            admitted.gone(Uid(uid));
        }
        assert!(admitted.0.is_empty());
    }

    #[test]
    fn a_user_is_known_while_it_has_a_link_or_waits_and_users_have_a_bound() {
        let (mut users, now) = (Users::default(), Instant::now());
        users.opened(Uid(1), now);
        users.closed(Uid(1));
        users.opened(Uid(2), now);
        assert!(users.get(Uid(1)).is_none());
        users.get_mut(Uid(2)).unwrap().killed(now);
        users.closed(Uid(2));
        users.opened(Uid(3), now + 10 * SECOND);
        assert_eq!(users.get(Uid(2)).unwrap().may_begin(), Some(now + SECOND));
        let max = u32::try_from(limit::USERS_MAX).unwrap();
        for uid in 10..10 + 2 * max {
            let now = now + SECOND;
            users.opened(Uid(uid), now);
            users.get_mut(Uid(uid)).unwrap().killed(now);
            users.closed(Uid(uid));
        }
        assert_eq!(users.0.len(), limit::USERS_MAX);
        assert!(users.get(Uid(2)).is_none() && users.get(Uid(3)).is_some());
        users.opened(Uid(4), now + FORGIVEN + 10 * SECOND);
        assert_eq!(users.0.len(), 2);
    }
}
