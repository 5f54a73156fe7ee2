//! Changes that are not in runs yet, and how a run looks with them.
//!
//! Applying an operation twice is applying it once. A directory that was read gives its run a new order ([`Op::Order`]); names in it that
//! have no record yet get their place when it comes.

use super::is_below;
use crate::wire::catalog::{
    DirWitness, ENTRY_BYTES, Entries, Entry, Op, Run, begin_run, dir_fixed, end_run, flag,
    order_names,
};
use rustc_hash::{FxHashMap, FxHashSet};
use std::collections::BTreeMap;
use std::ops::Bound;

/// Changes of one directory.
#[derive(Clone, Debug, Default)]
pub struct Change {
    /// Nothing of the old run counts.
    cleared: bool,
    order: Option<(DirWitness, Box<[u8]>)>,
    /// The fixed part of an entry, or None for a name that is gone.
    files: FxHashMap<Box<[u8]>, Option<[u8; ENTRY_BYTES]>>,
}

/// Changes of a tree.
#[derive(Clone, Debug, Default)]
pub struct Overlay {
    dirs: BTreeMap<Box<[u8]>, Change>,
    bytes: usize,
}

/// About what an operation takes beside its own bytes.
const COST: usize = 64;

impl Overlay {
    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.dirs.is_empty()
    }

    /// About how much memory they take.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Those of one directory.
    pub fn of(&self, dir: &[u8]) -> Option<&Change> {
        self.dirs.get(dir)
    }

    /// Directories with changes, in order.
    pub fn dirs(&self) -> impl Iterator<Item = (&[u8], &Change)> {
        self.dirs.iter().map(|(dir, change)| (&**dir, change))
    }

    fn change(&mut self, dir: &[u8]) -> &mut Change {
        if !self.dirs.contains_key(dir) {
            self.bytes += dir.len() + 2 * COST;
            self.dirs.insert(dir.into(), Change::default());
        }
        self.dirs.get_mut(dir).expect("just made")
    }

    /// Takes one in. `runs`: directories of runs that are this one or below, asked when a tree goes.
    pub fn apply(&mut self, op: &Op<'_>, runs: impl FnOnce(&[u8]) -> Vec<Box<[u8]>>) {
        match *op {
            Op::Put { dir, name, record } => {
                let len = u16::try_from(name.len()).unwrap_or(u16::MAX);
                self.bytes += name.len() + ENTRY_BYTES + COST;
                let fixed = Some(record.fixed(len));
                self.change(dir).files.insert(name.into(), fixed);
            }
            Op::Remove { dir, name } => {
                self.bytes += name.len() + ENTRY_BYTES + COST;
                self.change(dir).files.insert(name.into(), None);
            }
            Op::Order { path, dir, names } => {
                self.bytes += names.len() + COST;
                self.change(path).order = Some((dir, names.into()));
            }
            Op::RemoveTree { path } => {
                let own: Vec<Box<[u8]>> = self
                    .dirs
                    .range::<[u8], _>((Bound::Included(path), Bound::Unbounded))
                    .map(|(dir, _)| dir.clone())
                    .take_while(|dir| dir.starts_with(path))
                    .filter(|dir| is_below(dir, path))
                    .collect();
                for dir in own.into_iter().chain(runs(path)) {
                    *self.change(&dir) = Change {
                        cleared: true,
                        ..Change::default()
                    };
                }
            }
        }
    }
}

impl Change {
    /// Appends the run of `path` with these changes to `out`; false, and nothing, if nothing is left of it.
    pub fn merge(&self, path: &[u8], base: Option<&Run<'_>>, out: &mut Vec<u8>) -> bool {
        let base = base.filter(|_| !self.cleared);
        let entries = base.map_or(&[][..], |run| run.entries);
        let start = out.len();
        let old = base.map(|run| run.dir).unwrap_or_default();
        let dir = self.order.as_ref().map_or(old, |(dir, _)| *dir);
        begin_run(out, path, &dir);
        let mut merged = Merged {
            out,
            count: 0,
            complete: true,
        };
        match &self.order {
            None => self.in_place(entries, &mut merged),
            Some((_, names)) => self.in_order(entries, names, &mut merged),
        }
        let (count, complete) = (merged.count, merged.complete);
        if count == 0 && (self.order.is_none() || self.cleared) {
            out.truncate(start);
            return false;
        }
        if !complete {
            // A name without a record: who trusts the directory's times would not see it.
            out[start + 24..start + 32].fill(0);
        }
        end_run(out, start, count);
        true
    }

    fn in_place(&self, entries: &[u8], out: &mut Merged<'_>) {
        let mut seen = FxHashSet::default();
        for entry in Entries(entries) {
            match self.files.get(entry.name) {
                None => out.push(entry.fixed, entry.name),
                Some(changed) => {
                    seen.insert(entry.name);
                    out.push_some(changed.as_ref(), entry.name);
                }
            }
        }
        self.rest(out, |name| seen.contains(name));
    }

    fn in_order(&self, entries: &[u8], names: &[u8], out: &mut Merged<'_>) {
        let mut seen = FxHashSet::default();
        let mut wanted = order_names(names).peekable();
        let mut left = Entries(entries);
        // Mostly the order is what it was, up to some name: no map is needed so far.
        while let Some((is_dir, name)) = wanted.peek().copied() {
            let mut next = left;
            let Some(entry) = next.next() else { break };
            if (entry.name, entry.is_dir()) != (name, is_dir) {
                break;
            }
            match self.files.get(name).filter(|_| !is_dir) {
                None => out.push(entry.fixed, name),
                Some(changed) => {
                    seen.insert(name);
                    out.complete &= changed.is_some();
                    out.push_some(changed.as_ref(), name);
                }
            }
            wanted.next();
            left = next;
        }
        if wanted.peek().is_some() {
            // A directory that changes while it is listed may show a name twice.
            let met = entries.len() - left.0.len();
            seen.extend(Entries(&entries[..met]).map(|entry| entry.name));
        }
        let entries = left.0;
        let old: FxHashMap<&[u8], Entry<'_>> =
            Entries(entries).map(|entry| (entry.name, entry)).collect();
        for (is_dir, name) in wanted {
            if !seen.insert(name) {
                continue;
            }
            if is_dir {
                let len = u16::try_from(name.len()).unwrap_or(u16::MAX);
                out.push(&dir_fixed(len), name);
                continue;
            }
            match (self.files.get(name), old.get(name)) {
                (Some(Some(fixed)), _) => out.push(fixed, name),
                (None, Some(entry)) if !entry.is_dir() => out.push(entry.fixed, name),
                _ => out.complete = false,
            }
        }
        // Records of names that were not listed: who found out that they are gone says so by removing them.
        for entry in Entries(entries).filter(|e| !e.is_dir() && !seen.contains(e.name)) {
            if !self.files.contains_key(entry.name) {
                out.push(entry.fixed, entry.name);
            }
        }
        self.rest(out, |name| seen.contains(name));
    }

    /// Puts of names that were not met yet, in an order that is the same each time.
    fn rest(&self, out: &mut Merged<'_>, seen: impl Fn(&[u8]) -> bool) {
        let mut rest: Vec<_> = self.files.iter().filter(|(name, _)| !seen(name)).collect();
        rest.sort_unstable_by_key(|(name, _)| *name);
        for (name, changed) in rest {
            out.push_some(changed.as_ref(), name);
        }
    }
}

struct Merged<'a> {
    out: &'a mut Vec<u8>,
    count: u32,
    complete: bool,
}

impl Merged<'_> {
    fn push(&mut self, fixed: &[u8; ENTRY_BYTES], name: &[u8]) {
        self.out.extend_from_slice(fixed);
        self.out.extend_from_slice(name);
        self.count += 1;
    }

    fn push_some(&mut self, fixed: Option<&[u8; ENTRY_BYTES]>, name: &[u8]) {
        if let Some(fixed) = fixed {
            self.push(fixed, name);
        }
    }
}

/// Marks every file of a run as taken over from elsewhere.
pub fn mark_imported(run: &mut [u8], path_len: usize) {
    let mut at = crate::wire::catalog::RUN_BYTES + path_len;
    let mut count = 0;
    while let Some(entry) = Entries(&run[at..]).next() {
        let (len, flags) = (entry.len(), entry.flags() | flag::IMPORTED);
        if !entry.is_dir() {
            run[at + 2..at + 4].copy_from_slice(&flags.to_le_bytes());
        }
        at += len;
        count += 1;
    }
    end_run(run, 0, count);
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use crate::base::{Digest, Witness};
    use crate::wire::catalog::{Record, push_order};

    fn record(n: u8) -> Record {
        Record {
            witness: Witness::default(),
            digest: Digest([n; 32]),
            hashed_at: 0,
            flags: 0,
        }
    }

    fn put(overlay: &mut Overlay, dir: &str, name: &str, n: u8) {
        let op = Op::Put {
            dir: dir.as_bytes(),
            name: name.as_bytes(),
            record: record(n),
        };
        overlay.apply(&op, |_| Vec::new());
    }

    fn order(overlay: &mut Overlay, dir: &str, names: &[(bool, &str)]) {
        let mut bytes = Vec::new();
        for (is_dir, name) in names {
            push_order(&mut bytes, *is_dir, name.as_bytes());
        }
        let op = Op::Order {
            path: dir.as_bytes(),
            dir: DirWitness {
                ino: 7,
                ..DirWitness::default()
            },
            names: &bytes,
        };
        overlay.apply(&op, |_| Vec::new());
    }

    /// The run of a directory as `name=digest` in order, and its inode.
    fn shown(run: &[u8]) -> String {
        let run = Run::parse(run).unwrap();
        let mut out = format!("{}:", run.dir.ino);
        for entry in Entries(run.entries) {
            let name = String::from_utf8_lossy(entry.name).into_owned();
            let mark = if entry.is_dir() {
                "/".to_owned()
            } else {
                format!("={}", entry.record().digest.0[0])
            };
            out += &format!(" {name}{mark}");
        }
        out
    }

    fn merged(overlay: &Overlay, dir: &str, base: Option<&[u8]>) -> Vec<u8> {
        let mut out = Vec::new();
        let base = base.map(|bytes| Run::parse(bytes).unwrap());
        let change = overlay.of(dir.as_bytes()).unwrap();
        change.merge(dir.as_bytes(), base.as_ref(), &mut out);
        out
    }

    #[test]
    fn a_run_follows_the_order_of_the_last_pass() {
        let mut first = Overlay::default();
        order(
            &mut first,
            "d",
            &[(false, "b"), (true, "sub"), (false, "a"), (false, "n")],
        );
        put(&mut first, "d", "a", 1);
        put(&mut first, "d", "b", 2);
        let base = merged(&first, "d", None);
        assert_eq!(
            shown(&base),
            "0: b=2 sub/ a=1",
            "a name without a record voids the times"
        );
        put(&mut first, "d", "n", 3);
        let base = merged(&first, "d", None);
        assert_eq!(shown(&base), "7: b=2 sub/ a=1 n=3");

        let mut second = Overlay::default();
        put(&mut second, "d", "z", 4);
        put(&mut second, "d", "y", 5);
        put(&mut second, "d", "a", 6);
        let gone = Op::Remove {
            dir: b"d",
            name: b"b",
        };
        second.apply(&gone, |_| Vec::new());
        second.apply(&gone, |_| Vec::new());
        assert_eq!(
            shown(&merged(&second, "d", Some(&base))),
            "7: sub/ a=6 n=3 y=5 z=4"
        );
        order(
            &mut second,
            "d",
            &[(false, "z"), (false, "a"), (false, "y")],
        );
        let last = merged(&second, "d", Some(&base));
        assert_eq!(
            shown(&last),
            "7: z=4 a=6 y=5 n=3",
            "what nobody removed stays"
        );
    }

    #[test]
    fn a_tree_that_goes_takes_what_was_below_and_nothing_beside() {
        let mut overlay = Overlay::default();
        for dir in ["t", "t/u", "tt", "t-"] {
            put(&mut overlay, dir, "f", 1);
        }
        let gone = Op::RemoveTree { path: b"t" };
        overlay.apply(&gone, |_| vec![b"t/old".as_slice().into()]);
        for (dir, left) in [
            ("t", false),
            ("t/u", false),
            ("t/old", false),
            ("tt", true),
            ("t-", true),
        ] {
            assert_eq!(!merged(&overlay, dir, None).is_empty(), left, "{dir}");
        }
        put(&mut overlay, "t/old", "back", 3);
        let base = {
            let mut other = Overlay::default();
            put(&mut other, "t/old", "f", 1);
            merged(&other, "t/old", None)
        };
        assert_eq!(shown(&merged(&overlay, "t/old", Some(&base))), "0: back=3");
    }

    #[test]
    fn taken_over_means_every_file_of_it() {
        let mut overlay = Overlay::default();
        order(
            &mut overlay,
            "d",
            &[(true, "s"), (false, "a"), (false, "b")],
        );
        put(&mut overlay, "d", "a", 1);
        put(&mut overlay, "d", "b", 1);
        let mut run = merged(&overlay, "d", None);
        mark_imported(&mut run, 1);
        let run = Run::parse(&run).unwrap();
        let flags: Vec<u16> = Entries(run.entries)
            .map(|e| e.flags() & flag::IMPORTED)
            .collect();
        assert_eq!(flags, [0, flag::IMPORTED, flag::IMPORTED]);
    }
}
