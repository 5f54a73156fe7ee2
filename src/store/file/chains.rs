//! Marks on long chains of revisions.
//!
//! A record names the one before it, and the index names the newest: whoever looks for an old revision passes all that came
//! after it. So a long walk leaves marks, and the next one begins at the mark that is the nearest above what it looks for.
//!
//! ```text
//!   newest                                            `at`
//!     o <- o <- o <- M <- o <- o <- o <- M <- o <- o <- o <- o
//!                                        ^ the next walk begins here
//! ```
//!
//! A chain does not change within one generation of the file: what is committed stays, and new records come before it.
//! So a mark holds for each view that has its record. Marks are a driver's own: no lock.
//!
//! Memory: 16 bytes a mark. An object that has many loses every other one of them; what has not been asked for longest
//! goes first, half of all at a time.

use super::view::FileView;
use crate::base::limit::{CHAIN_MARKS_MAX, CHAIN_MARKS_OF_OBJECT_MAX};
use crate::base::{Oid, Tid};
use rustc_hash::FxHashMap;

/// Revisions between two marks of a walk, at least.
const EVERY: u32 = 32;
/// A long walk leaves so many marks, and as many again each time it has become twice as long.
const PER_DOUBLING: u32 = 512;

/// A revision that a walk passed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mark {
    /// The object.
    pub oid: Oid,
    /// The transaction that made the revision.
    pub tid: Tid,
    /// Position of its record.
    pub pos: u64,
}

/// Whether a walk leaves a mark at the revision it has come to by so many steps.
pub(super) fn is_marked(steps: u32) -> bool {
    let every = EVERY.max((steps / PER_DOUBLING).next_power_of_two());
    steps > 0 && steps.is_multiple_of(every)
}

/// What walks through one file have left.
#[derive(Debug, Default)]
pub struct Chains {
    /// Of this generation of the file.
    generation: u64,
    /// Of objects that were asked for of late.
    young: Marks,
    old: Marks,
}

#[derive(Debug, Default)]
struct Marks {
    /// Newest first.
    of: FxHashMap<Oid, Vec<(Tid, u64)>>,
    len: usize,
}

impl Chains {
    /// The oldest revision known that is not older than `at`, if the view has it: its tid and the position of its record.
    pub(super) fn near(&mut self, view: &FileView, oid: Oid, at: Tid) -> Option<(Tid, u64)> {
        if view.generation() != self.generation || self.len() == 0 {
            return None;
        }
        if let Some(marks) = self.old.of.remove(&oid) {
            self.old.len -= marks.len();
            self.put(oid, marks);
        }
        let marks = self.young.of.get(&oid)?;
        let not_older = marks.partition_point(|&(tid, _)| tid >= at);
        marks[..not_older].last().copied()
    }

    /// Takes the marks of a walk through this view.
    pub fn learn(&mut self, view: &FileView, marks: &[Mark]) {
        if marks.is_empty() || view.generation() < self.generation {
            return;
        }
        if view.generation() > self.generation {
            *self = Self {
                generation: view.generation(),
                ..Self::default()
            };
        }
        for &Mark { oid, tid, pos } in marks {
            let mut all = self.take(oid);
            if let Err(place) = all.binary_search_by(|(known, _)| tid.cmp(known)) {
                all.insert(place, (tid, pos));
            }
            if all.len() > CHAIN_MARKS_OF_OBJECT_MAX {
                let mut n = 0_usize;
                all.retain(|_| {
                    n += 1;
                    n.is_multiple_of(2)
                });
            }
            self.put(oid, all);
        }
    }

    /// Marks at hand.
    fn len(&self) -> usize {
        self.young.len + self.old.len
    }

    fn take(&mut self, oid: Oid) -> Vec<(Tid, u64)> {
        for marks in [&mut self.young, &mut self.old] {
            if let Some(all) = marks.of.remove(&oid) {
                marks.len -= all.len();
                return all;
            }
        }
        Vec::new()
    }

    fn put(&mut self, oid: Oid, marks: Vec<(Tid, u64)>) {
        if self.young.len + marks.len() > CHAIN_MARKS_MAX / 2 {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.len += marks.len();
        self.young.of.insert(oid, marks);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::super::testing::{Dir, Rng, Says, Shape, Twin, commit, database, open};
    use super::super::{Event, FileWriter, Note};
    use super::*;

    const LONG: Shape = Shape {
        oids: 2,
        stride: 1,
        records: 2,
        bytes: 60,
    };

    /// Loads by a batch and by a search for places, both with these chains; gives the reads that the batch did.
    fn check(view: &FileView, twin: &Twin, oid: Oid, at: Tid, chains: &mut Chains) -> usize {
        let one = || std::iter::once(oid);
        let mut batch = view.batch_near(at, one(), None, chains);
        let mut reads = 0;
        while let Some(read) = batch.next_read() {
            batch.complete(read.id, view.read(read.pos, read.len));
            reads += 1;
        }
        chains.learn(view, batch.marks());
        let loaded = batch.next_done().unwrap().1;
        let loaded = Says::from(loaded.map(|l| (l.serial, l.data.to_vec())));
        assert_eq!(loaded, twin.load(oid, at), "{oid} at {at}");
        let mut locate = view.locate_near(at, one(), chains);
        while let Some(read) = locate.next_read() {
            locate.complete(read.id, view.read(read.pos, read.len));
        }
        chains.learn(view, locate.marks());
        let found = locate.next_done().unwrap().1;
        let found = found.map(|l| (l.serial, view.read(l.data_pos, l.data_len).unwrap()));
        let found = Says::from(found.map(|(serial, data)| (serial, data.to_vec())));
        assert_eq!(found, loaded, "{oid} at {at}");
        reads
    }

    #[test]
    fn a_long_chain_answers_as_its_twin_from_any_view() {
        for seed in 0..6 {
            let dir = Dir::new();
            let (mut writer, mut twin) = database(&dir.path(), seed, 300, LONG);
            let (mut store, first) = open(&dir.path()).unwrap();
            let (mut views, mut chains) = (vec![first], Chains::default());
            let mut rng = Rng(seed);
            for _ in 0..300 {
                if rng.below(4) == 0 {
                    (0..20).for_each(|_| commit(&mut writer, &mut twin, &mut rng, LONG));
                    for event in store.poll().unwrap().events {
                        let Event::Commit(commit) = event else {
                            panic!("{event:?}")
                        };
                        views.push(commit.view);
                    }
                }
                let view = &views[usize::try_from(rng.below(views.len() as u64)).unwrap()];
                let at = Tid(rng.below(view.at().0 + 1));
                let twin = twin.as_of(view.at());
                check(view, &twin, Oid(rng.below(3)), at, &mut chains);
            }
            assert!(chains.len() > 10, "{}", chains.len());
        }
    }

    /// One object with a revision in each of so many transactions, other records between them.
    fn chain(writer: &mut FileWriter, twin: &mut Twin, revisions: u64, between: usize) {
        for tid in 1..=revisions {
            let mut txn = writer.begin(Tid(tid), Note::default()).unwrap();
            let data = tid.to_be_bytes().to_vec();
            txn.store(Oid(1), &data).unwrap();
            txn.store(Oid(2), &vec![1; between]).unwrap();
            txn.commit().unwrap();
            let revs = twin.objects.entry(Oid(1)).or_default();
            revs.push((Tid(tid), Some(data)));
        }
    }

    fn stored(dir: &Dir, revisions: u64, between: usize) -> (FileView, Twin) {
        let mut writer = FileWriter::create(&dir.path()).unwrap().synced(false);
        let mut twin = Twin::default();
        chain(&mut writer, &mut twin, revisions, between);
        (open(&dir.path()).unwrap().1, twin)
    }

    /// The first walk passes all of them, a later one a few.
    #[test]
    fn a_chain_is_walked_once() {
        let dir = Dir::new();
        let (view, twin) = stored(&dir, 20_000, 5000);
        let mut chains = Chains::default();
        let mut load = |at| check(&view, &twin, Oid(1), Tid(at), &mut chains);
        assert!(load(1) > 19_000);
        for at in [1, 2, 777, 10_000, 19_000] {
            let reads = load(at);
            assert!(reads <= 2 + 64, "{reads} as of {at}");
        }
        assert_eq!(load(20_000), 1);
        // Where one ends, the next goes on.
        let mut chains = Chains::default();
        let reads = [15_000, 10_000].map(|at| check(&view, &twin, Oid(1), Tid(at), &mut chains));
        assert!(reads.iter().all(|&n| n < 5_100), "{reads:?}");
    }

    /// Where the revisions lie next to each other, one read passes many of them.
    #[test]
    fn neighbours_are_passed_in_one_read() {
        let dir = Dir::new();
        let (view, twin) = stored(&dir, 4000, 1);
        let reads = check(&view, &twin, Oid(1), Tid(1), &mut Chains::default());
        assert!((100..400).contains(&reads), "{reads}");
    }

    #[test]
    fn marks_are_bounded() {
        let dir = Dir::new();
        let (view, _) = stored(&dir, 1, 1);
        let mut chains = Chains::default();
        let mark = |oid, n: u64| Mark {
            oid: Oid(oid),
            tid: Tid(n),
            pos: n,
        };
        for n in (1..100_000).rev() {
            chains.learn(&view, &[mark(1, n)]);
        }
        let kept = chains.young.of[&Oid(1)].len();
        let half = CHAIN_MARKS_OF_OBJECT_MAX / 2;
        assert!((half..=2 * half).contains(&kept), "{kept}");
        assert!(chains.young.of[&Oid(1)].is_sorted_by(|a, b| a.0 > b.0));
        for oid in 2..200_000 {
            chains.learn(&view, &[mark(oid, 5)]);
            // Who is asked for stays.
            assert!(chains.near(&view, Oid(1), Tid(1)).is_some(), "{oid}");
        }
        assert!(chains.len() <= CHAIN_MARKS_MAX, "{}", chains.len());
        assert_eq!(chains.near(&view, Oid(2), Tid(1)), None);
        let of = |marks: &Marks| marks.of.values().map(Vec::len).sum::<usize>();
        assert_eq!(of(&chains.young), chains.young.len);
        assert_eq!(of(&chains.old), chains.old.len);
    }

    #[test]
    fn a_walk_of_any_length_leaves_few_marks() {
        let marks = |steps: u32| (0..steps).filter(|&n| is_marked(n)).count();
        assert_eq!(marks(32), 0);
        assert_eq!(marks(33), 1);
        assert!((600..=1024).contains(&marks(32_768)), "{}", marks(32_768));
        assert!(marks(100_000_000) < 16_384, "{}", marks(100_000_000));
    }

    /// Positions of another file mean nothing.
    #[test]
    fn another_file_begins_without_marks() {
        let dir = Dir::new();
        let mut writer = FileWriter::create(&dir.path()).unwrap().synced(false);
        let mut twin = Twin::default();
        chain(&mut writer, &mut twin, 200, 1);
        let (mut store, old) = open(&dir.path()).unwrap();
        let mut chains = Chains::default();
        check(&old, &twin, Oid(1), Tid(1), &mut chains);
        assert!(chains.len() > 0);
        let other = Dir::new();
        let mut writer = FileWriter::create(&other.path()).unwrap().synced(false);
        let mut twin = Twin::default();
        chain(&mut writer, &mut twin, 250, 3);
        std::fs::rename(other.path(), dir.path()).unwrap();
        assert!(!store.poll_blocking().unwrap().events.is_empty());
        let new = store.view().clone();
        assert!(new.generation() > old.generation());
        for at in [1, 100, 200] {
            check(&new, &twin, Oid(1), Tid(at), &mut chains);
        }
        let learned = chains.len();
        assert!(learned > 0);
        chains.learn(
            &old,
            &[Mark {
                oid: Oid(1),
                tid: Tid(7),
                pos: 7,
            }],
        );
        assert_eq!(chains.len(), learned);
        assert_eq!(chains.near(&old, Oid(1), Tid(1)), None);
    }
}
