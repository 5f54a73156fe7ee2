//! Links of `head/watch`, counted where they are opened: an OPEN is answered at once.
//!
//! Each has a READ that waits for the next message, and the requests that a worker can hold have a bound: answers to pins have to
//! come through whatever waits. So does each take a descriptor of the daemon.

use crate::base::limit::{FILES_RESERVED, LINKS_MAX, USER_WAITING};
use crate::iso::Uid;
use crate::iso::quota::Admitted;
use std::sync::{Mutex, MutexGuard};

/// See the module.
#[derive(Debug)]
pub struct Opens {
    /// How many there may be.
    max: usize,
    /// How many each user but the owner may have.
    user_max: usize,
    counted: Mutex<Counted>,
}

#[derive(Debug, Default)]
struct Counted {
    /// Numbers given so far.
    given: u64,
    all: usize,
    others: usize,
    users: Admitted,
}

impl Opens {
    /// For a process that may have so many files open; each user but the owner may have `user_max` links.
    pub fn new(files: usize, user_max: usize) -> Self {
        Self {
            max: LINKS_MAX.min(files.saturating_sub(FILES_RESERVED)),
            user_max,
            counted: Mutex::default(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Counted> {
        self.counted.lock().expect("a panic aborts")
    }

    /// For who holds all locks.
    pub(super) fn hold(&self) -> impl Sized {
        self.lock()
    }

    /// One more, of a user if it is not the owner; gives its number.
    ///
    /// # Errors
    /// `EMFILE`: there are as many as there may be.
    pub(super) fn open(&self, user: Option<Uid>) -> Result<u64, i32> {
        let mut counted = self.lock();
        let is_room = counted.all < self.max
            && user.is_none_or(|user| {
                counted.others < self.max / 2 && counted.users.admit(user, self.user_max)
            });
        if !is_room {
            return Err(libc::EMFILE);
        }
        counted.all += 1;
        counted.others += usize::from(user.is_some());
        counted.given += 1;
        Ok(counted.given)
    }

    /// One is gone.
    pub(super) fn gone(&self, user: Option<Uid>) {
        let mut counted = self.lock();
        counted.all -= 1;
        if let Some(user) = user {
            counted.others -= 1;
            counted.users.gone(user);
        }
    }

    /// Requests of such a user that a worker may hold.
    pub(super) fn user_waiting(&self) -> usize {
        USER_WAITING.max(2 * self.user_max)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_is_a_bound_for_all_for_others_and_for_each() {
        let opens = Opens::new(1 << 20, 64);
        let count = |user| (0..).take_while(|_| opens.open(user).is_ok()).count();
        let user = |n| Some(Uid(n));
        assert_eq!(count(user(1)), 64);
        assert_eq!(
            (2..100).map(|n| count(user(n))).sum::<usize>(),
            LINKS_MAX / 2 - 64
        );
        assert_eq!(count(None), LINKS_MAX / 2);
        opens.gone(user(1));
        assert_eq!((count(user(2)), count(user(1)), count(None)), (0, 1, 0));
        opens.gone(None);
        assert_eq!((count(user(1)), count(None)), (0, 1));
        assert_eq!(opens.open(None), Err(libc::EMFILE));
        // Few files may be open.
        let opens = Opens::new(FILES_RESERVED + 3, 64);
        let all: Vec<_> = (0..5).map(|_| opens.open(None)).collect();
        let full = Err(libc::EMFILE);
        assert_eq!(all, [Ok(1), Ok(2), Ok(3), full, full]);
    }
}
