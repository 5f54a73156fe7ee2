//! History against its twin: random databases, random tracks, every question.

use super::diff::bounds;
use super::model::{BLOCK, BLOCKS, State};
use super::twin::{Twin, rev_at};
use super::world::{Content, World, bigfile};
use crate::base::{BlkNo, Oid, Tid};
use crate::tail::{FTail, FileChange, Slice, Tracked, What, Which};
use crate::zodb::sample::Rng;
use std::collections::BTreeSet;

pub(super) const FILES: [Oid; 3] = [Oid(11), Oid(12), Oid(13)];
pub(super) const ROOTS: [Oid; 2] = [Oid(100_000), Oid(200_000)];

/// What happened, to know that it did.
#[derive(Default, Debug)]
struct Counts {
    commits: usize,
    blocks: usize,
    epochs: usize,
    late: usize,
    revs: usize,
    exact: usize,
    slices: usize,
}

/// A history, its twin, and the database they are of.
pub(super) struct Pair {
    rng: Rng,
    /// Files change once in so many commits.
    calm: usize,
    /// Blocks that are asked for.
    pub(super) blks: Vec<BlkNo>,
    pub(super) content: Content,
    pub(super) world: World,
    pub(super) ftail: FTail,
    pub(super) twin: Twin,
    counts: Counts,
}

fn blks() -> impl Iterator<Item = BlkNo> {
    let ends = [500, i64::MAX.unsigned_abs()];
    (0..118).chain(ends).map(BlkNo)
}

impl Pair {
    /// A database that starts with this.
    pub(super) fn of(content: Content, rng: Rng, calm: usize) -> Self {
        let world = World::new(&content);
        let ftail = FTail::new(world.head().tid);
        Self {
            rng,
            calm,
            blks: blks().collect(),
            content,
            world,
            ftail,
            twin: Twin::default(),
            counts: Counts::default(),
        }
    }

    fn new(seed: u64) -> Self {
        let mut rng = Rng(seed);
        let mut content = Content::default();
        for root in ROOTS {
            let mut tree = State::rooted(root);
            tree.mutate(&mut rng, 200);
            content.trees.insert(root, tree);
        }
        for file in FILES {
            if !rng.one_in(4) {
                let is = bigfile(4 << rng.below(2), ROOTS[rng.below(2)]);
                content.files.insert(file, is);
            }
        }
        let calm = [12, 100][rng.below(2)];
        Self::of(content, rng, calm)
    }

    /// The next transaction of the database.
    fn commit(&mut self) {
        let rng = &mut self.rng;
        for tree in self.content.trees.values_mut() {
            if rng.one_in(2) {
                let most = [1, 4, 30][rng.below(3)];
                tree.mutate(rng, most);
            }
        }
        let mut more = vec![Oid(77)];
        for file in FILES {
            if rng.one_in(12) {
                more.push(file);
            }
            if rng.one_in(self.calm) {
                match self.content.files.remove(&file) {
                    Some(_) if rng.one_in(2) => {}
                    _ => {
                        let is = bigfile(4 << rng.below(2), ROOTS[rng.below(2)]);
                        self.content.files.insert(file, is);
                    }
                }
            }
        }
        for blk in 0..BLOCKS as u64 {
            if rng.one_in(5) {
                more.push(Oid(BLOCK + blk));
            }
        }
        // Objects that are written as they were, and one that is named twice.
        for tree in self.content.trees.values() {
            let leaves = tree.leaves();
            let (path, _) = &leaves[rng.below(leaves.len())];
            if rng.one_in(3) {
                more.push(path[rng.below(path.len())].oid);
            }
        }
        more.push(more[rng.below(more.len())]);
        self.world.commit(&self.content, &more);
    }

    /// Tracks and reads something as of the last state.
    fn track(&mut self, tracked: &mut Tracked, twin: &mut Twin) {
        let (rng, snap) = (&mut self.rng, self.world.head());
        for (&file, is) in &snap.files {
            let known = twin.files.contains_key(&file);
            if !known && rng.one_in(3) || known && rng.one_in(2) {
                continue;
            }
            tracked.open(file, *is).unwrap();
            twin.files.entry(file).or_default();
            twin.keys.entry(is.blktab).or_default();
            let table = &snap.trees[&is.blktab];
            let all = rng.one_in(6);
            for (path, _) in &table.leaves {
                if all || rng.one_in(4) {
                    tracked.track(file, path).unwrap();
                    let cover = path.last().unwrap().cover;
                    let range = crate::base::span::KeyRange::new(cover.lo, cover.last().unwrap());
                    twin.keys
                        .get_mut(&is.blktab)
                        .unwrap()
                        .insert(range.unwrap());
                }
            }
            let often = 1 + rng.below(8);
            for blk in blks() {
                let key = i64::try_from(blk.0).unwrap();
                if twin.keys[&is.blktab].contains(key) && rng.one_in(often) {
                    tracked.read(file, blk, table.value(blk)).unwrap();
                    twin.files.get_mut(&file).unwrap().insert(blk);
                }
            }
        }
    }

    fn track_head(&mut self) {
        let mut tracked = std::mem::take(self.ftail.tracked_mut());
        let mut twin = std::mem::take(&mut self.twin);
        self.track(&mut tracked, &mut twin);
        (*self.ftail.tracked_mut(), self.twin) = (tracked, twin);
    }

    pub(super) fn span(&self) -> (Tid, Tid) {
        (self.ftail.tail(), self.ftail.head())
    }

    fn step(&mut self, at: &str) {
        self.track_head();
        if self.rng.one_in(25) {
            let file = FILES[self.rng.below(3)];
            self.ftail.tracked_mut().forget_file(file);
            self.twin.files.remove(&file);
            let snap = self.world.head();
            self.twin.drop_tables(snap);
        }
        self.ask_some(at);
        let (mut late, mut late_twin) = (Tracked::default(), Twin::default());
        if self.rng.one_in(2) {
            self.track(&mut late, &mut late_twin);
        }
        if self.rng.one_in(3) {
            self.world.store.here.clear();
        }
        self.commit();
        self.advance(at);
        if self.rng.one_in(2) {
            self.track_head();
        }
        if self.rng.one_in(6) {
            self.forget();
        }
        if !late_twin.files.is_empty() {
            let (ftail, store) = (&mut self.ftail, &mut self.world.store);
            // It may ask for the state before head, even if that is forgotten.
            let [.., old, new] = &self.world.snaps[..] else {
                unreachable!("there was a commit");
            };
            let span = (old.tid.min(ftail.tail()), new.tid);
            let found = store.run(span, |s, need| ftail.join(s, need, &late));
            assert_eq!(found, late_twin.commit(old, new), "{at}");
            self.twin.merge(late_twin);
            let tail = self.ftail.tail();
            self.twin.ended.retain(|&(tid, _), _| tid > tail);
            self.counts.late += found.len();
            self.check(at);
        }
        if self.rng.one_in(5) {
            self.forget();
        }
        self.ask_some(at);
    }

    /// Takes the last transaction of the database.
    pub(super) fn advance(&mut self, at: &str) {
        let [.., old, new] = &self.world.snaps[..] else {
            unreachable!("there was a commit");
        };
        let (ftail, store) = (&mut self.ftail, &mut self.world.store);
        let span = (old.tid.min(ftail.tail()), new.tid);
        let seen = store.run(span, |s, need| ftail.look(s, need, new.tid, &new.oids));
        let found = store.run(span, |s, need| ftail.update(s, need, new.tid, &new.oids));
        assert_eq!(seen, found, "{at}");
        assert_eq!(found, self.twin.commit(old, new), "{at}");
        self.counts.saw(&found);
        self.check(at);
    }

    fn forget(&mut self) {
        let head = self.ftail.head();
        let back = [0, 5, 10, 20, 50, 100][self.rng.below(6)];
        self.forget_until(Tid(head.0.saturating_sub(back)));
    }

    pub(super) fn forget_until(&mut self, cut: Tid) {
        let tail = self.ftail.tail();
        self.ftail.forget(cut);
        assert_eq!(self.ftail.tail(), tail.max(cut.min(self.ftail.head())));
        let tail = self.ftail.tail();
        self.twin.ended.retain(|&(tid, _), _| tid > tail);
    }

    /// Compares what is tracked.
    fn check(&mut self, at: &str) {
        let (snap, tracked) = (self.world.head(), self.ftail.tracked());
        let files: BTreeSet<_> = tracked.files().collect();
        assert!(files.iter().eq(self.twin.files.keys()), "{at}");
        for (&file, explicit) in &self.twin.files {
            let table = snap.table(file).unwrap();
            let want = explicit.iter().map(|&blk| (blk, table.value(blk)));
            assert!(tracked.blocks(file).eq(want), "{at}");
        }
        let trees = self.twin.keys.len();
        assert_eq!(tracked.counts().trees, trees, "{at}");
        for (&root, keys) in &self.twin.keys {
            assert_eq!(tracked.keys(root), Some(keys), "{at}");
        }
        let mut clone = self.ftail.clone();
        clone.heed(clone.head());
        for (&root, keys) in &self.twin.keys {
            let since = clone.btail.history(root).map(|h| h.since().clone());
            let since = since.unwrap_or_default();
            let known = since.ranges().map(|(range, _)| range).collect();
            assert_eq!(*keys, known, "{at}");
        }
    }

    fn ask_some(&mut self, at: &str) {
        let (tail, head) = self.span();
        for _ in 0..self.rng.below(4) {
            let file = FILES[self.rng.below(3)];
            let blk = self.blks[self.rng.below(self.blks.len())];
            let tids: Vec<_> = (tail.0..=head.0).map(Tid).collect();
            let mut ends = [(); 2].map(|()| tids[self.rng.below(tids.len())]);
            self.rev_at(file, blk, ends[0], at);
            ends.sort_unstable();
            if self.rng.one_in(4) {
                let which = [Which::Explicit, Which::Tracked][self.rng.below(2)];
                self.slice(file, (ends[0], ends[1]), which, at);
            }
        }
    }

    pub(super) fn rev_at(&mut self, file: Oid, blk: BlkNo, tid: Tid, at: &str) {
        let (span, ftail, store) = (self.span(), &mut self.ftail, &mut self.world.store);
        // Some at once, or each by itself: the same is to be found.
        let mut blks = vec![blk];
        if self.rng.one_in(4) {
            blks.extend((0..self.rng.below(4)).map(|_| self.blks[self.rng.below(self.blks.len())]));
        }
        let found = store.run(span, |s, need| {
            ftail.revs_at(s, need, file, &blks, tid).unwrap()
        });
        assert_eq!(found.len(), blks.len());
        for (mut found, blk) in found.into_iter().zip(blks) {
            let want = rev_at(&self.world, span.0, file, blk, tid);
            // It need not be at hand.
            found.is_there = found.is_there.or(want.is_there);
            assert_eq!(found, want, "{at}: {blk} of {file} at {}", tid.0);
            self.counts.revs += 1;
            self.counts.exact += usize::from(found.exact);
        }
    }

    pub(super) fn slice(&mut self, file: Oid, ends: (Tid, Tid), which: Which, at: &str) {
        let (span, ftail, store) = (self.span(), &mut self.ftail, &mut self.world.store);
        let found: Vec<Slice> = store.run(span, |s, need| {
            ftail.slice(s, need, file, ends, which).unwrap()
        });
        let want = self.twin.slice(&self.world, file, ends, which);
        assert_eq!(found, want, "{at}: {file} {which:?} in {ends:?}");
        self.counts.slices += found.len();
    }

    /// Every question there is.
    fn ask_all(&mut self, at: &str) {
        for file in FILES {
            self.ask_file(file, at);
        }
    }

    /// Every question about a file.
    pub(super) fn ask_file(&mut self, file: Oid, at: &str) {
        let (tail, head) = self.span();
        let tids: Vec<_> = (tail.0..=head.0).step_by(5).map(Tid).collect();
        for (i, &lo) in tids.iter().enumerate() {
            for &hi in &tids[i..] {
                for which in [Which::Explicit, Which::Tracked] {
                    self.slice(file, (lo, hi), which, at);
                }
            }
            for blk in self.blks.clone() {
                self.rev_at(file, blk, lo, at);
            }
        }
    }
}

impl Counts {
    fn saw(&mut self, changes: &[FileChange]) {
        self.commits += 1;
        for change in changes {
            match &change.what {
                What::Blocks { blocks, .. } => self.blocks += blocks.len(),
                What::Epoch => self.epochs += 1,
                What::Lost(error) => panic!("{error}"),
            }
        }
    }

    fn add(&mut self, other: &Self) {
        self.commits += other.commits;
        self.blocks += other.blocks;
        self.epochs += other.epochs;
        self.late += other.late;
        self.revs += other.revs;
        self.exact += other.exact;
        self.slices += other.slices;
    }
}

#[test]
fn history_is_that_of_all_states() {
    let (steps, first) = bounds(12_000);
    let (mut counts, mut seed) = (Counts::default(), first);
    while counts.commits < steps {
        let mut pair = Pair::new(seed);
        for step in 0..12 {
            pair.step(&format!("seed {seed} step {step}"));
        }
        if seed.is_multiple_of(5) {
            pair.ask_all(&format!("seed {seed} at the end"));
        }
        counts.add(&pair.counts);
        seed += 1;
    }
    println!("seeds {first} to {}: {counts:?}", seed - 1);
    for count in [counts.blocks, counts.epochs, counts.late, counts.exact] {
        assert!(count > steps / 20, "{counts:?}");
    }
}
