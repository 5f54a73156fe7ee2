//! Another file under the path: does it continue the one that was followed?
//!
//! A pack copies what is still reachable to a new file and puts it in the place of the old one. It adds no
//! transaction; it drops some, in whole or in part, even the newest if nothing in them is reachable. A restored
//! backup looks much alike, but must not pass: clients hold views of what it lacks. So the new file is judged by
//! the transactions remembered of the old one:
//!
//! 1. Each transaction of the new file in the remembered span is one of those remembered, and touches no object
//!    that the remembered one did not; without a pack it touches all of them. The last one is there, unless a pack
//!    left nothing of what it touched. Else it is another history.
//! 2. If the new file ends before the old one did, only a pack can explain it, and only if it left no trace of the
//!    missing transactions: an object that one of them touched and that is still there would now show older data.
//! 3. What comes after the last transaction of the old file is given out as commits. If it does not reach back that
//!    far in a bounded number of transactions, continuity is given up.
//!
//! `Reopen::build` does the I/O, on any thread. The decision is pure.

use super::index::Index;
use super::open::{self, OpenError, Opened, Progress};
use super::recent::{Past, Recent, walk_back};
use crate::base::limit::{RECENT_OIDS_MAX, RECENT_TXNS_MAX, REOPEN_COMMITS_MAX};
use crate::base::{Oid, Tid};
use std::path::{Path, PathBuf};

/// A file to be opened in place of the one that is followed.
#[derive(Debug)]
pub struct Reopen {
    path: PathBuf,
    /// Last transaction of the old file.
    last: Tid,
    /// Oldest one remembered.
    first: Tid,
}

/// A file opened in place of the one that is followed: to be adopted.
#[derive(Debug)]
pub struct Rebuilt {
    pub(super) opened: Opened,
    /// Its last transactions, newest first.
    pub(super) recent: Vec<Past>,
}

impl Reopen {
    pub(super) fn new(path: &Path, last: Tid, recent: &Recent) -> Self {
        Self {
            path: path.to_owned(),
            last,
            first: recent.first().unwrap_or(last),
        }
    }

    /// Opens the file and builds its index; blocks.
    pub fn build(self, progress: &mut Progress<'_>) -> Result<Rebuilt, OpenError> {
        let opened = open::open(&self.path, progress)?;
        let (first, last) = (self.first, self.last);
        let recent = walk_back(&*opened.file, opened.ends.end, |txns, oids, tid| {
            let news = tid > last && txns < REOPEN_COMMITS_MAX;
            let known = txns < REOPEN_COMMITS_MAX + RECENT_TXNS_MAX && oids < RECENT_OIDS_MAX;
            news || tid >= first && known
        });
        let recent = recent.map_err(|source| OpenError::Io {
            path: self.path,
            source,
        })?;
        Ok(Rebuilt { opened, recent })
    }
}

/// What a new file is to the old one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It continues the old one with these transactions, oldest first.
    Continues(Vec<Past>),
    /// It reaches as far, with another history.
    Differs,
    /// It ends before the old one did.
    WentBack,
}

impl Rebuilt {
    pub(super) fn judge(&self, last: Tid, known: &Recent, packed: bool) -> Verdict {
        let new = &self.opened;
        judge(&self.recent, new.ends.last, &new.index, last, known, packed)
    }
}

/// Judges a new file with transactions `recent` (newest first), ending with `now`, against an old one that
/// ended with `last`.
fn judge(
    recent: &[Past],
    now: Tid,
    index: &Index,
    last: Tid,
    known: &Recent,
    packed: bool,
) -> Verdict {
    let back = now < last;
    let differs = if back {
        Verdict::WentBack
    } else {
        Verdict::Differs
    };
    let span = known.first().unwrap_or(last);
    let shared = |past: &&Past| past.tid <= last && past.tid >= span;
    if !recent
        .iter()
        .filter(shared)
        .all(|past| is_known(past, known, packed))
    {
        return differs;
    }
    if back {
        let reaches = known.first().is_some_and(|first| first <= now);
        let traceless = |past: &Past| past.oids.iter().all(|&oid| index.get(oid).is_none());
        return match packed && reaches && known.above(now).all(traceless) {
            true => Verdict::Continues(Vec::new()),
            false => Verdict::WentBack,
        };
    }
    // Nothing but a pack takes the last transaction away, and that only when nothing it touched is there any more.
    let traceless = |past: &Past| past.oids.iter().all(|&oid| index.get(oid).is_none());
    let is_gone = || packed && known.get(last).is_some_and(traceless);
    if last != Tid::ZERO && !recent.iter().any(|past| past.tid == last) && !is_gone() {
        return Verdict::Differs;
    }
    let news: Vec<_> = recent
        .iter()
        .take_while(|past| past.tid > last)
        .cloned()
        .collect();
    if news.len() >= REOPEN_COMMITS_MAX {
        return Verdict::Differs;
    }
    Verdict::Continues(news.into_iter().rev().collect())
}

/// Whether a transaction is a remembered one, or what a pack left of it.
fn is_known(past: &Past, known: &Recent, packed: bool) -> bool {
    let Some(was) = known.get(past.tid) else {
        return false;
    };
    let mut left: Vec<Oid> = was.oids.to_vec();
    left.sort_unstable();
    let subset = past.oids.iter().all(|oid| left.binary_search(oid).is_ok());
    subset && (packed || past.oids.len() == was.oids.len())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::super::testing::{Dir, Rng, SMALL, commit, database, open};
    use super::super::{Event, FileStore, FollowError, Place, Tail};
    use super::*;
    use std::fs;

    fn past(tid: u64, oids: &[u64]) -> Past {
        Past {
            tid: Tid(tid),
            oids: oids.iter().map(|&oid| Oid(oid)).collect(),
        }
    }

    /// Ten transactions, tid 10 to 100; each touches oid tid/10 and oid 0.
    fn history() -> Vec<Past> {
        (1..=10).map(|n| past(n * 10, &[0, n])).collect()
    }

    fn judged(new: Vec<Past>, packed: bool) -> Verdict {
        let known: Recent = history().into_iter().skip(3).collect();
        let mut entries: Vec<_> = new
            .iter()
            .flat_map(|p| p.oids.iter())
            .map(|&o| (o, 4))
            .collect();
        let index = Index::default().with(&mut entries);
        let now = new.last().map_or(Tid::ZERO, |p| p.tid);
        let recent: Vec<_> = new.into_iter().rev().collect();
        judge(&recent, now, &index, Tid(100), &known, packed)
    }

    #[test]
    fn a_file_that_continues_is_taken_with_or_without_a_pack() {
        let mut new = history();
        assert_eq!(judged(new.clone(), false), Verdict::Continues(vec![]));
        new.extend([past(110, &[1]), past(120, &[])]);
        let news = vec![past(110, &[1]), past(120, &[])];
        assert_eq!(judged(new.clone(), false), Verdict::Continues(news.clone()));
        // What a pack leaves: transactions are missing, and records of those that stay.
        new.remove(6);
        new[6] = past(80, &[8]);
        assert_eq!(judged(new.clone(), true), Verdict::Continues(news));
        assert_eq!(judged(new, false), Verdict::Differs);
    }

    #[test]
    fn another_history_is_told_by_a_tid_or_by_an_object() {
        let mut other = history();
        other.push(past(110, &[1]));
        other[7] = past(81, &[0, 8]);
        assert_eq!(judged(other.clone(), true), Verdict::Differs);
        other[7] = past(80, &[0, 9]);
        assert_eq!(judged(other.clone(), true), Verdict::Differs);
        other.truncate(9);
        assert_eq!(judged(other, true), Verdict::WentBack);
        // None of what is remembered, but what went on before and after.
        let without = vec![past(20, &[2]), past(110, &[1])];
        assert_eq!(judged(without.clone(), false), Verdict::Differs);
        assert!(matches!(judged(without, true), Verdict::Continues(_)));
        let traced = vec![past(20, &[10]), past(110, &[1])];
        assert_eq!(judged(traced, true), Verdict::Differs);
        // Older than what is remembered: nobody can tell.
        let mut older = history();
        older[1] = past(21, &[5]);
        assert_eq!(judged(older, false), Verdict::Continues(vec![]));
    }

    #[test]
    fn a_shorter_file_is_a_pack_only_if_the_missing_left_no_trace() {
        let mut new = history();
        new.truncate(8);
        assert_eq!(judged(new.clone(), false), Verdict::WentBack);
        assert_eq!(
            judged(new.clone(), true),
            Verdict::WentBack,
            "oid 0 has older data now"
        );
        let known: Recent = [past(70, &[7]), past(90, &[9]), past(100, &[9])]
            .into_iter()
            .collect();
        let index = Index::default().with(&mut vec![(Oid(7), 4)]);
        let recent = [past(70, &[7])];
        let verdict = |packed, known| judge(&recent, Tid(70), &index, Tid(100), known, packed);
        assert_eq!(verdict(true, &known), Verdict::Continues(vec![]));
        assert_eq!(verdict(false, &known), Verdict::WentBack);
        // Not all that is missing is remembered.
        let known: Recent = [past(90, &[9]), past(100, &[9])].into_iter().collect();
        assert_eq!(verdict(true, &known), Verdict::WentBack);
    }

    fn replace(dir: &Dir, bytes: &[u8]) {
        fs::write(dir.0.join("new"), bytes).unwrap();
        fs::rename(dir.0.join("new"), dir.path()).unwrap();
    }

    fn following(
        dir: &Dir,
        seed: u64,
    ) -> (
        super::super::FileWriter,
        super::super::testing::Twin,
        FileStore,
    ) {
        let (writer, twin) = database(&dir.path(), seed, 20, SMALL);
        let (store, _) = open(&dir.path()).unwrap();
        (writer, twin, store)
    }

    #[test]
    fn a_copy_in_the_place_of_the_file_is_taken_and_followed_on() {
        let dir = Dir::new();
        let (_, mut twin, mut store) = following(&dir, 1);
        let bytes = fs::read(dir.path()).unwrap();
        replace(&dir, &bytes);
        let poll = store.poll_blocking().unwrap();
        let [Event::Switched(view)] = &poll.events[..] else {
            panic!("{poll:?}")
        };
        assert_eq!((view.at(), view.generation()), (twin.last(), 1));
        twin.check(view);
        // A copy that has more, while the old file is held open by views.
        let other = Dir::new();
        let (mut writer, _) = database(&other.path(), 1, 20, SMALL);
        (0..3).for_each(|n| commit(&mut writer, &mut twin, &mut Rng(n), SMALL));
        replace(&dir, &fs::read(other.path()).unwrap());
        let poll = store.poll_blocking().unwrap();
        assert_eq!(poll.events.len(), 3);
        twin.check(&store.view());
        assert_eq!(store.poll().unwrap().place, Place::Same);
    }

    #[test]
    fn a_file_that_is_written_over_is_void_until_it_is_opened_anew() {
        let dir = Dir::new();
        let (_, twin, mut store) = following(&dir, 1);
        let bytes = fs::read(dir.path()).unwrap();
        assert!(!store.poll().unwrap().rewritten);
        let file = fs::OpenOptions::new().write(true).open(dir.path()).unwrap();
        file.set_len(100).unwrap();
        let poll = store.poll().unwrap();
        assert!(poll.rewritten && poll.place == Place::Replaced);
        // The same bytes again: what was read meanwhile was wrong, and nobody can tell what that was.
        fs::write(dir.path(), &bytes).unwrap();
        assert!(store.poll().unwrap().rewritten);
        let poll = store
            .adopt(poll.reopen.unwrap().build(&mut |_, _| {}))
            .unwrap();
        assert!(matches!(&poll.events[..], [Event::Reset(view)] if view.generation() == 1));
        assert!(!poll.rewritten && !store.poll().unwrap().rewritten);
        twin.check(&store.view());
    }

    #[test]
    fn another_history_is_a_reset_and_an_older_one_the_end() {
        let dir = Dir::new();
        let (_, twin, mut store) = following(&dir, 2);
        let mut other = Dir::new();
        let (mut writer, mut theirs) = database(&other.path(), 3, 20, SMALL);
        while theirs.last() <= twin.last() {
            commit(&mut writer, &mut theirs, &mut Rng(5), SMALL);
        }
        replace(&dir, &fs::read(other.path()).unwrap());
        let poll = store.poll_blocking().unwrap();
        assert!(matches!(&poll.events[..], [Event::Reset(view)] if view.at() == theirs.last()));
        theirs.check(&store.view());
        other = Dir::new();
        database(&other.path(), 3, 10, SMALL);
        replace(&dir, &fs::read(other.path()).unwrap());
        for _ in 0..3 {
            assert!(matches!(
                store.poll_blocking(),
                Err(FollowError::WentBack { .. })
            ));
        }
        theirs.check(&store.view());
    }

    #[test]
    fn a_missing_file_and_one_that_is_no_database_leave_the_old_one_serving() {
        let dir = Dir::new();
        let (mut writer, mut twin, mut store) = following(&dir, 4);
        let away = dir.0.join("away");
        fs::rename(dir.path(), &away).unwrap();
        commit(&mut writer, &mut twin, &mut Rng(1), SMALL);
        let poll = store.poll().unwrap();
        assert_eq!(
            (poll.events.len(), poll.place, poll.tail),
            (1, Place::Missing, Tail::Clean)
        );
        fs::write(dir.path(), b"something else").unwrap();
        for _ in 0..2 {
            let error = store.poll_blocking().unwrap_err();
            assert!(matches!(
                error,
                FollowError::Reopen(OpenError::NotFileStorage { .. })
            ));
        }
        // Gone again between the poll and the build, and back at last.
        let reopen = store.poll().unwrap().reopen.unwrap();
        fs::remove_file(dir.path()).unwrap();
        let poll = store.adopt(reopen.build(&mut |_, _| {})).unwrap();
        assert_eq!(poll.place, Place::Missing);
        fs::rename(&away, dir.path()).unwrap();
        assert_eq!(store.poll().unwrap().place, Place::Same);
        twin.check(&store.view());
    }
}
