//! Trust levels: which parts of a witness stand for the content.
//!
//! | level | compared | replaced, same size and mtime | chmod, link, attribute |
//! |---|---|---|---|
//! | `strict` | inode, btime, size, mtime, ctime | seen | hashed again |
//! | `mtime` | inode, btime, size, mtime | seen if it is a new inode | not |
//! | `drp` | mtime | missed | not |

use super::verdict::Reason;
use crate::base::Witness;

/// How much has to be equal for a file to count as unchanged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Trust {
    /// All of it: what nobody but the kernel sets is among it.
    #[default]
    Strict,
    /// All but ctime.
    Mtime,
    /// The mtime alone, as dr-provision does.
    Drp,
}

impl Trust {
    /// By its name on the command line.
    pub fn by_name(name: &str) -> Option<Self> {
        Some(match name {
            "strict" => Self::Strict,
            "mtime" => Self::Mtime,
            "drp" => Self::Drp,
            _ => return None,
        })
    }

    /// Whether a digest moves with a file that is renamed. Under `strict` it does not: a rename moves ctime.
    pub fn follows_renames(self) -> bool {
        self != Self::Strict
    }

    /// What differs first, if anything does. `sealed`: the kernel itself keeps the content of this inode as it is (fs-verity).
    #[inline]
    pub fn differs(self, old: &Witness, new: &Witness, sealed: bool) -> Option<Reason> {
        if self == Self::Drp {
            return (old.mtime != new.mtime).then_some(Reason::Mtime);
        }
        if old.size != new.size {
            return Some(Reason::Size);
        }
        if old.ino != new.ino {
            return Some(Reason::Inode);
        }
        if old.btime != new.btime {
            return Some(Reason::Btime);
        }
        if sealed {
            return None;
        }
        if old.mtime != new.mtime {
            return Some(Reason::Mtime);
        }
        (self == Self::Strict && old.ctime != new.ctime).then_some(Reason::Ctime)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::Stamp;

    fn witness() -> Witness {
        let stamp = |s| Stamp { s, ns: 5 };
        Witness {
            ino: 1,
            btime: Some(stamp(1)),
            size: 10,
            mtime: stamp(2),
            ctime: stamp(3),
        }
    }

    /// Each part bent by itself, and what each level says of it.
    #[test]
    fn each_level_compares_what_its_row_says() {
        use Reason::{Btime, Ctime, Inode, Mtime, Size};
        let old = witness();
        let later = Stamp { s: 2, ns: 6 };
        let bent = [
            (Witness { ino: 2, ..old }, [Some(Inode), Some(Inode), None]),
            (
                Witness { btime: None, ..old },
                [Some(Btime), Some(Btime), None],
            ),
            (Witness { size: 9, ..old }, [Some(Size), Some(Size), None]),
            (
                Witness {
                    mtime: later,
                    ..old
                },
                [Some(Mtime); 3],
            ),
            (
                Witness {
                    ctime: later,
                    ..old
                },
                [Some(Ctime), None, None],
            ),
            (old, [None; 3]),
        ];
        for (new, said) in bent {
            let levels = [Trust::Strict, Trust::Mtime, Trust::Drp];
            assert_eq!(
                levels.map(|t| t.differs(&old, &new, false)),
                said,
                "{new:?}"
            );
        }
        let absent = Witness { btime: None, ..old };
        assert_eq!(Trust::Strict.differs(&absent, &absent, false), None);
    }

    #[test]
    fn a_sealed_inode_needs_no_times() {
        let old = witness();
        let moved = Witness {
            ctime: Stamp { s: 9, ns: 0 },
            ..old
        };
        assert_eq!(Trust::Strict.differs(&old, &moved, true), None);
        let other = Witness { ino: 2, ..moved };
        assert_eq!(
            Trust::Strict.differs(&old, &other, true),
            Some(Reason::Inode)
        );
    }
}
