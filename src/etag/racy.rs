//! When equal time stamps prove nothing.
//!
//! Kernels used to stamp times once per tick, so two writes could share a stamp: one before a file was looked at, one after it was
//! read. Kernels that stamp finely once somebody looked (*multigrain*) make each later write visible. Elsewhere a record is racy when its
//! file's times lie so near before the look that another write could have got the same stamp.
//!
//! A time in the future is racy everywhere ([`Grain::is_ahead`]): the clock that made it is not ours, or was set back.

use crate::base::{Stamp, Witness};
use std::time::Duration;

/// How finely a file system tells one write from the next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Grain {
    /// A write after a look always gets another stamp.
    Multi,
    /// Writes within so many nanoseconds may share one.
    Nanos(u64),
}

/// A tick, doubled, of file systems that keep nanoseconds.
pub const TICK: Grain = Grain::Nanos(20_000_000);
/// File systems that keep seconds.
pub const SECOND: Grain = Grain::Nanos(1_000_000_000);
/// FAT keeps every other second.
pub const FAT: Grain = Grain::Nanos(2_000_000_000);

impl Grain {
    /// As it is for one file. Of one without nanoseconds the second is the grain, whatever its file system is said to have: small inodes of ext4
    /// keep none, and no kernel can stamp them more finely.
    #[must_use]
    pub fn of(self, mtime: Stamp, ctime: Stamp) -> Self {
        let whole = mtime.ns == 0 && ctime.ns == 0;
        match self {
            _ if !whole => self,
            Self::Nanos(nanos) if nanos > 1_000_000_000 => self,
            _ => SECOND,
        }
    }

    /// How long after a change a look is late enough to tell it from the next one.
    pub fn wait(self) -> Duration {
        match self {
            Self::Multi => Duration::ZERO,
            Self::Nanos(nanos) => Duration::from_nanos(nanos),
        }
    }

    /// Whether a file that was hashed after a look at `looked` may have changed since without a sign.
    pub fn is_racy(self, witness: &Witness, looked: Stamp, sealed: bool) -> bool {
        if sealed {
            return false;
        }
        let newest = witness.mtime.max(witness.ctime);
        match self.of(witness.mtime, witness.ctime) {
            Self::Multi => false,
            Self::Nanos(nanos) => newest.nanos() > looked.nanos() - i128::from(nanos),
        }
    }

    /// Whether stamps lie in the future, seen from `now`.
    #[inline]
    pub fn is_ahead(witness: &Witness, now: Stamp) -> bool {
        witness.mtime > now || witness.ctime > now
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: i64) -> Stamp {
        Stamp::from_nanos(i128::from(ms) * 1_000_000 + 1)
    }

    fn file(mtime: Stamp, ctime: Stamp) -> Witness {
        Witness {
            mtime,
            ctime,
            ..Witness::default()
        }
    }

    #[test]
    fn the_grain_decides_how_near_is_too_near() {
        let looked = at(10_000);
        let late = file(at(0), at(9_990));
        assert!(TICK.is_racy(&late, looked, false));
        assert!(!Grain::Multi.is_racy(&late, looked, false));
        assert!(!TICK.is_racy(&file(at(0), at(9_979)), looked, false));
        assert!(TICK.is_racy(&file(at(9_990), at(0)), looked, false));
        assert!(FAT.is_racy(&file(at(8_001), at(0)), looked, false));
        assert!(!FAT.is_racy(&file(at(7_999), at(0)), looked, false));
        // No nanoseconds at all: a second, though the file system is said to have ticks.
        let whole = |s| Stamp { s, ns: 0 };
        assert!(TICK.is_racy(&file(whole(10), whole(9)), at(10_500), false));
        assert!(!TICK.is_racy(&file(whole(9), whole(9)), at(10_500), false));
        for grain in [Grain::Multi, SECOND] {
            assert!(grain.is_racy(&file(whole(10), whole(9)), at(10_500), false));
            assert!(!grain.is_racy(&file(whole(9), whole(9)), at(10_500), false));
        }
        assert_eq!(FAT.of(whole(9), whole(9)), FAT);
        // A time that somebody set, to the second: the other one tells.
        assert!(!Grain::Multi.is_racy(&file(whole(10), at(10_499)), at(10_500), false));
        assert!(!TICK.is_racy(&late, looked, true), "verity");
    }

    #[test]
    fn the_future_is_racy_everywhere_and_nothing_overflows() {
        let far = Stamp {
            s: i64::MAX,
            ns: u32::MAX,
        };
        let long_ago = Stamp { s: i64::MIN, ns: 0 };
        for grain in [Grain::Multi, TICK, SECOND, FAT] {
            let fine = grain == Grain::Multi;
            assert!(grain.is_racy(&file(far, at(0)), at(1000), false) != fine);
            assert!(grain.is_racy(&file(at(0), far), at(1000), false) != fine);
            assert!(Grain::is_ahead(&file(far, at(0)), at(1000)));
            assert!(!grain.is_racy(&file(long_ago, long_ago), at(1000), false));
            assert!(
                grain.is_racy(&file(long_ago, long_ago), long_ago, false) || grain == Grain::Multi
            );
        }
        assert!(Grain::is_ahead(&file(at(0), at(2)), at(1)));
        assert!(!Grain::is_ahead(&file(at(1), at(1)), at(1)));
    }
}
