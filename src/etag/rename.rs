//! Files that have a new name: a path that is gone and another that appeared, with the same inode.
//!
//! Only where the trust level does not compare ctime, which a rename moves on common file systems ([`super::Trust::follows_renames`]).

use crate::base::{Stamp, Witness};
use crate::wire::catalog::Record;
use rustc_hash::FxHashMap;

type Key = (u64, Option<Stamp>, u64, Stamp);

fn key(w: &Witness) -> Key {
    (w.ino, w.btime, w.size, w.mtime)
}

/// Records of paths that are gone, to be claimed by paths that appeared. Of several names of one inode the last can be claimed.
#[derive(Debug, Default)]
pub struct Renames {
    by_inode: FxHashMap<Key, (Vec<u8>, Record)>,
    more: Vec<(Vec<u8>, Record)>,
}

impl Renames {
    /// A path that is gone.
    pub fn gone(&mut self, path: &[u8], record: &Record) {
        let gone = (path.to_vec(), *record);
        let before = self.by_inode.insert(key(&record.witness), gone);
        self.more.extend(before);
    }

    /// Paths that nobody claimed, in order.
    pub fn rest(self) -> Vec<(Vec<u8>, Record)> {
        let mut rest: Vec<_> = self.by_inode.into_values().chain(self.more).collect();
        rest.sort_unstable_by(|a, b| a.0.cmp(&b.0));
        rest
    }

    /// The record for a path that appeared and now has this witness: its digest, with the witness of today. Each is claimed once.
    pub fn claim(&mut self, found: &Witness) -> Option<(Vec<u8>, Record)> {
        let (path, mut record) = self.by_inode.remove(&key(found))?;
        record.witness = *found;
        Some((path, record))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::Digest;

    #[test]
    fn a_digest_moves_once_and_with_the_inode_alone() {
        let witness = Witness {
            ino: 5,
            size: 9,
            ..Witness::default()
        };
        let record = Record {
            witness,
            digest: Digest([1; 32]),
            hashed_at: 1,
            flags: 0,
        };
        let mut renames = Renames::default();
        renames.gone(b"old", &record);
        let moved = Witness {
            ctime: Stamp { s: 8, ns: 0 },
            ..witness
        };
        for other in [
            Witness { ino: 6, ..moved },
            Witness { size: 8, ..moved },
            Witness {
                btime: Some(Stamp::default()),
                ..moved
            },
        ] {
            assert!(renames.claim(&other).is_none());
        }
        let (path, claimed) = renames.claim(&moved).expect("the same inode");
        assert_eq!(
            (path.as_slice(), claimed.witness.ctime.s),
            (b"old".as_slice(), 8)
        );
        assert!(renames.claim(&moved).is_none());
        // Of two names that went, one at most moved: the other is gone, and said to be.
        renames.gone(b"a", &record);
        renames.gone(b"b", &record);
        assert!(renames.claim(&moved).is_some() && renames.claim(&moved).is_none());
        let rest: Vec<_> = renames.rest().into_iter().map(|(path, _)| path).collect();
        assert_eq!(rest, [b"a".to_vec()]);
    }
}
