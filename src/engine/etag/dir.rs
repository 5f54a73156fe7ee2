//! One directory: listed, each file asked for its attributes, each compared with its entry of the run.
//!
//! An unchanged file costs one statx and one comparison where the bytes are. What is known of the directory's order is only written
//! down once a name stands where it was not expected. A directory of very many names is read by one worker, which finds the entries; others
//! ask for attributes ([`Part`]).

use super::check::Pass;
use super::config::{Counter, Found, MetaEngine, wall_now};
use super::facts::Facts;
use super::node::Node;
use super::walk::{Part, Unit, locked};
use crate::base::Stamp;
use crate::etag::merge::Merge;
use crate::etag::{Grain, Reason, State, Verdict};
use crate::kernel::calls;
use crate::kernel::chain::StatRing;
use crate::kernel::stat::{self, Kind, Listing, Resolve, Stat};
use crate::wire::catalog::{Batch, DirWitness, Entries, Entry, Op, Run, push_order};
use std::ffi::{CStr, CString, OsStr};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;

/// Names after which a directory is shared out.
const LARGE_NAMES: usize = 64 << 10;
/// Names that are given away at a time.
const PART_NAMES: usize = 4096;
/// Directories below one another.
const DEPTH_MAX: usize = 4096;
/// The token is looked at once in so many names.
const LOOK_NAMES: usize = 256;
/// Bytes of a batch before it goes to the owner.
const BATCH_BYTES: usize = 256 << 10;

/// A worker's own things, used for one directory after another.
pub(super) struct Worker {
    pub(super) pass: Arc<Pass>,
    index: usize,
    listing: Listing,
    run: Arc<Vec<u8>>,
    path: Vec<u8>,
    batch: Batch,
    ring: Option<StatRing>,
    pub(super) tally: Tally,
}

/// Counts of one directory, told when it is done.
#[derive(Default)]
pub(super) struct Tally {
    pub(super) files: u64,
    pub(super) states: [u64; State::ALL.len()],
}

/// The directory that is being read.
pub(super) struct Here<'a> {
    pub(super) fd: BorrowedFd<'a>,
    pub(super) path: &'a [u8],
    /// The path once more, made when something has to keep it.
    pub(super) shared: Option<Arc<[u8]>>,
    pub(super) now: Stamp,
    /// What its file system is worth.
    facts: Facts,
    /// Its files are of no interest: it only leads somewhere.
    passes_through: bool,
}

impl Here<'_> {
    pub(super) fn shared(&mut self) -> Arc<[u8]> {
        let path = self.path;
        Arc::clone(self.shared.get_or_insert_with(|| path.into()))
    }
}

impl Worker {
    pub(super) fn new(pass: Arc<Pass>, index: usize) -> Self {
        let ring = match pass.config.meta {
            MetaEngine::Uring => StatRing::new().ok(),
            MetaEngine::Threads => None,
        };
        Self {
            pass,
            index,
            listing: Listing::default(),
            run: Arc::default(),
            path: Vec::new(),
            batch: Batch::new(),
            ring,
            tally: Tally::default(),
        }
    }

    /// Works until nothing is left.
    pub(super) fn work(mut self) {
        let pass = Arc::clone(&self.pass);
        while let Some(unit) = pass.pool.next(self.index) {
            if !pass.pulse.is_cancelled() {
                match unit {
                    Unit::Root(node) => self.root(&node),
                    Unit::Dir(parent, name) => self.enter(&parent, &name),
                    Unit::Part(part) => self.part(&part),
                }
                self.tell();
                pass.grow();
            }
            pass.pool.done();
        }
        self.flush();
    }

    fn tell(&mut self) {
        let tally = std::mem::take(&mut self.tally);
        self.pass.pulse.add(Counter::Files, tally.files);
        for (state, n) in State::ALL.into_iter().zip(tally.states) {
            if n > 0 {
                self.pass.pulse.enter(state, n);
            }
        }
    }

    fn flush(&mut self) {
        if !self.batch.is_empty() {
            let batch = std::mem::replace(&mut self.batch, Batch::new());
            self.pass.send(batch);
        }
    }

    pub(super) fn note(&mut self, op: &Op<'_>) {
        if self.pass.scan.is_none() {
            return;
        }
        self.batch.push(op);
        if self.batch.bytes() > BATCH_BYTES {
            self.flush();
        }
    }

    fn root(&mut self, node: &Arc<Node>) {
        let fd = match self.pass.root.dup() {
            Ok(fd) => fd,
            Err(error) => return self.closed(Vec::new(), &error),
        };
        self.read(node, Arc::new(fd), None);
    }

    /// Opens a directory and reads it.
    fn enter(&mut self, parent: &Arc<Node>, name: &CStr) {
        let mut path = std::mem::take(&mut self.path);
        parent.path(&mut path);
        calls::within(|| self.pass.root.canonical.join(OsStr::from_bytes(&path)));
        if !path.is_empty() {
            path.push(b'/');
        }
        path.extend_from_slice(name.to_bytes());
        if self.pass.root.ours.contains(&path) {
            self.left_out(&path, Reason::Ours);
            self.path = path;
            return;
        }
        let resolve = Resolve::below(self.pass.config.cross_device);
        let opened = parent.open_child(name, resolve).and_then(|fd| {
            let own = stat::stat_fd(fd.as_fd())?;
            Ok((fd, own))
        });
        match opened {
            Ok((fd, own)) => match self.refused(parent, &own) {
                Some(reason) => self.left_out(&path, reason),
                None => {
                    let place = (own.dev, own.witness.ino);
                    if own.dev != parent.dev {
                        self.pass.enter(fd.as_fd(), own.dev);
                    }
                    let fd = Arc::new(fd);
                    let node = Node::child(parent, name.to_bytes(), place, Arc::clone(&fd));
                    self.read(&node, fd, Some(&own));
                }
            },
            // Not there any more: what was below is gone, if the rest of the pass agrees.
            Err(e) if matches!(e.raw_os_error(), Some(libc::ENOENT | libc::ESTALE)) => {}
            Err(e) if matches!(e.raw_os_error(), Some(libc::ENOTDIR | libc::ELOOP)) => {}
            Err(e) if e.raw_os_error() == Some(libc::EXDEV) => self.left_out(&path, Reason::Mount),
            Err(e) => self.closed(path.clone(), &e),
        }
        self.path = path;
    }

    fn refused(&self, parent: &Node, own: &Stat) -> Option<Reason> {
        let place = (own.dev, own.witness.ino);
        if parent.has_ancestor(place) {
            self.pass
                .sink
                .warn("a directory is one of its own ancestors and is left out");
            return Some(Reason::Loop);
        }
        if parent.depth + 1 > DEPTH_MAX {
            self.pass
                .sink
                .warn("directories lie deeper than 4096 levels and are left out");
            return Some(Reason::Depth);
        }
        let config = &self.pass.config;
        let crossed = own.dev != parent.dev;
        (crossed && !config.allow_ours && super::root::is_ours(own.dev)).then_some(Reason::Ours)
    }

    /// A directory that is not entered; what is known below stays.
    fn left_out(&mut self, path: &[u8], reason: Reason) {
        locked(&self.pass.kept).push(path.to_vec());
        self.tally.states[State::Skipped as usize] += 1;
        if self.pass.sink.wants_fresh() {
            self.say_dir(path, Verdict::new(State::Skipped, reason), None);
        }
    }

    /// A directory that could not be read, or not to its end; what is known below stays.
    fn closed(&mut self, path: Vec<u8>, error: &io::Error) {
        self.tally.states[State::Unreadable as usize] += 1;
        self.pass.pulse.add(Counter::DirErrors, 1);
        let verdict = Verdict::new(State::Unreadable, None);
        self.say_dir(
            &path,
            verdict,
            Some(error.raw_os_error().unwrap_or(libc::EIO)),
        );
        locked(&self.pass.kept).push(path);
    }

    fn say_dir(&self, path: &[u8], verdict: Verdict, errno: Option<i32>) {
        let (dir, name) = crate::store::catalog::split(path);
        self.pass.sink.found(&Found {
            dir,
            name,
            verdict,
            stat: None,
            record: None,
            errno,
        });
    }

    /// Brings in the run of a directory, and says that it was met.
    fn load(&mut self, path: &[u8]) {
        // Parts of the last directory may still be held by others.
        if Arc::get_mut(&mut self.run).is_none() {
            self.run = Arc::default();
        }
        let bytes = Arc::get_mut(&mut self.run).expect("just made, or not shared");
        bytes.clear();
        let Some(snapshot) = &self.pass.snapshot else {
            return;
        };
        let Some(run) = snapshot.find(path) else {
            return;
        };
        self.pass.visited[run / 64].fetch_or(1 << (run % 64), std::sync::atomic::Ordering::Relaxed);
        if snapshot.load(run, bytes).is_err() {
            self.pass.pulse.add(Counter::DamagedRuns, 1);
            bytes.clear();
        }
    }

    fn read(&mut self, node: &Arc<Node>, fd: Arc<OwnedFd>, own: Option<&Stat>) {
        let mut path = Vec::new();
        node.path(&mut path);
        calls::within(|| self.pass.root.canonical.join(OsStr::from_bytes(&path)));
        let scope = self.pass.config.scope.clone();
        let now = wall_now();
        // Before anything is listed: a name that comes later moves the times seen here.
        let own = match own.map_or_else(|| stat::stat_fd(fd.as_fd()), |own| Ok(*own)) {
            Ok(own) => own,
            Err(error) => return self.closed(path, &error),
        };
        self.load(&path);
        let run = Arc::clone(&self.run);
        let run_parsed = Run::parse(&run).ok();
        if run_parsed.is_none() && !run.is_empty() {
            self.pass.pulse.add(Counter::DamagedRuns, 1);
        }
        let witness = DirWitness {
            ino: own.witness.ino,
            mtime: own.witness.mtime,
            ctime: own.witness.ctime,
        };
        let facts = self.pass.root.facts_of(own.dev);
        let mut here = Here {
            fd: fd.as_fd(),
            path: &path,
            shared: None,
            now,
            facts,
            passes_through: scope.is_some_and(|scope| !scope.looks_in(&path)),
        };
        let mut reading = Reading {
            merge: Merge::new(run_parsed.as_ref()),
            entries: run_parsed.map_or(&[][..], |r| r.entries),
            base: run.len() - run_parsed.map_or(0, |r| r.entries.len()),
            order: None,
            subdirs: Vec::new(),
            seen: 0,
            keeps_order: self.pass.scan.is_some(),
        };
        let unlisted = self.pass.config.quick
            && facts.grain.of(witness.mtime, witness.ctime) == Grain::Multi
            && run_parsed.is_some_and(|run| run.dir == witness);
        let ended = if unlisted {
            self.recall(&mut here, &mut reading);
            Ok(true)
        } else {
            self.list(&mut here, &mut reading, &fd, &run)
        };
        let Reading {
            merge,
            order,
            subdirs,
            ..
        } = reading;
        match ended {
            Ok(true) => {
                for entry in merge.unmet().filter(|e| !e.is_dir()) {
                    self.gone(&here, entry.name, &entry.record());
                }
                let moved = run_parsed.is_none_or(|run| run.dir != witness);
                let exact = merge.is_exact() && order.is_none();
                if self.pass.scan.is_some() && !unlisted && (!exact || moved) {
                    let names = order.unwrap_or_else(|| names_of(run_parsed.as_ref()));
                    self.note(&Op::Order {
                        path: &path,
                        dir: witness,
                        names: &names,
                    });
                }
                self.pass.pulse.add(Counter::Dirs, 1);
            }
            Ok(false) => {} // cancelled
            Err(error) => self.closed(path.clone(), &error),
        }
        drop(run);
        for name in subdirs {
            let unit = Unit::Dir(Arc::clone(node), name);
            self.pass.pool.push(self.index, unit);
        }
    }

    /// All names of a directory. False if the pass was cancelled meanwhile.
    fn list(
        &mut self,
        here: &mut Here<'_>,
        reading: &mut Reading<'_>,
        fd: &Arc<OwnedFd>,
        run: &Arc<Vec<u8>>,
    ) -> io::Result<bool> {
        let mut listing = std::mem::take(&mut self.listing);
        listing.clear();
        let shares = self.pass.workers > 1;
        let mut given: Option<Box<Part>> = None;
        let mut asked = Asked::default();
        let mut ended = loop {
            let name = match listing.next(here.fd) {
                Ok(Some(name)) => name,
                Ok(None) => break Ok(true),
                Err(error) => break Err(error),
            };
            if reading.seen.is_multiple_of(LOOK_NAMES) && self.pass.pulse.is_cancelled() {
                break Ok(false);
            }
            reading.seen += 1;
            if here.passes_through && name.kind == Kind::File {
                reading.find(name.name.to_bytes(), false);
                continue;
            }
            if shares && reading.seen > LARGE_NAMES && name.kind == Kind::File {
                self.give(here, reading, &mut given, name.name, fd, run);
            } else if self.ring.is_some() && name.kind == Kind::File {
                asked.push(name.name);
                if asked.len() == StatRing::DEPTH {
                    self.answer(here, reading, &mut asked);
                }
            } else {
                self.answer(here, reading, &mut asked);
                self.name(here, reading, name.name, name.kind);
            }
        };
        self.answer(here, reading, &mut asked);
        if let Some(part) = given {
            self.pass.pool.push(self.index, Unit::Part(part));
        }
        self.listing = listing;
        if self.pass.pulse.is_cancelled() && ended.is_ok() {
            ended = Ok(false);
        }
        ended
    }

    /// Asks the ring for attributes of names that were put by, and judges them in their order.
    fn answer(&mut self, here: &mut Here<'_>, reading: &mut Reading<'_>, asked: &mut Asked) {
        if asked.len() == 0 {
            return;
        }
        let mut ring = self.ring.take().expect("names are put by for a ring alone");
        let answers = ring.stat(here.fd, &asked.names, asked.len());
        self.ring = Some(ring);
        let names = std::mem::take(&mut asked.names);
        asked.count = 0;
        for (name, answer) in each_name(&names).zip(answers) {
            self.found(here, reading, name, answer);
        }
    }

    /// A name of a large directory: who takes the part asks for attributes.
    fn give(
        &mut self,
        here: &mut Here<'_>,
        reading: &mut Reading<'_>,
        given: &mut Option<Box<Part>>,
        name: &CStr,
        fd: &Arc<OwnedFd>,
        run: &Arc<Vec<u8>>,
    ) {
        if self.is_excluded(here, reading, name.to_bytes(), false) {
            return;
        }
        let entry = reading.find(name.to_bytes(), false);
        let at = entry.map(|entry| reading.base + reading.offset(&entry));
        let part = given.get_or_insert_with(|| {
            Box::new(Part {
                fd: Arc::clone(fd),
                path: here.shared(),
                run: Arc::clone(run),
                names: Vec::with_capacity(PART_NAMES * 24),
                entries: Vec::with_capacity(PART_NAMES),
                now: here.now,
                facts: here.facts,
            })
        });
        part.names.extend_from_slice(name.to_bytes_with_nul());
        part.entries.push(at);
        if part.entries.len() == PART_NAMES {
            let part = given.take().expect("just filled");
            self.pass.pool.push(self.index, Unit::Part(part));
        }
    }

    fn part(&mut self, part: &Part) {
        let mut here = Here {
            fd: part.fd.as_fd(),
            path: &part.path,
            shared: Some(Arc::clone(&part.path)),
            now: part.now,
            facts: part.facts,
            passes_through: false,
        };
        for (i, (name, &at)) in each_name(&part.names).zip(&part.entries).enumerate() {
            if i % LOOK_NAMES == 0 && self.pass.pulse.is_cancelled() {
                return;
            }
            let entry = at.and_then(|at| Entries(&part.run[at..]).next());
            match self.stat(&here, name) {
                Ok(stat) if stat.kind == Kind::File => {
                    self.file(&mut here, name, &stat, entry.as_ref());
                }
                Ok(_) => self.lost(&here, name, entry.as_ref()),
                Err(e) if is_vanished(&e) => self.lost(&here, name, entry.as_ref()),
                Err(e) => self.unreadable(&here, name, entry.as_ref(), &e),
            }
        }
    }

    /// A name that was listed and is not a file any more.
    fn lost(&mut self, here: &Here<'_>, name: &CStr, entry: Option<&Entry<'_>>) {
        if let Some(entry) = entry {
            self.gone(here, name.to_bytes(), &entry.record());
        }
    }

    fn stat(&self, here: &Here<'_>, name: &CStr) -> io::Result<Stat> {
        let mut found = stat::stat_at(here.fd, name, here.facts.fresh)?;
        if let Some(bend) = &self.pass.config.bend {
            bend(here.path, name.to_bytes(), &mut found);
        }
        Ok(found)
    }

    fn name(&mut self, here: &mut Here<'_>, reading: &mut Reading<'_>, name: &CStr, kind: Kind) {
        match kind {
            Kind::Dir => self.dir(here, reading, name),
            Kind::Other => self.other(here, name),
            Kind::File | Kind::Unknown => {
                let answer = self.stat(here, name);
                self.found(here, reading, name, answer);
            }
        }
    }

    fn found(
        &mut self,
        here: &mut Here<'_>,
        reading: &mut Reading<'_>,
        name: &CStr,
        answer: io::Result<Stat>,
    ) {
        match answer {
            Ok(found) => match found.kind {
                Kind::File => {
                    if self.is_excluded(here, reading, name.to_bytes(), false) {
                        return;
                    }
                    let entry = reading.find(name.to_bytes(), false);
                    self.file(here, name, &found, entry.as_ref());
                }
                Kind::Dir => self.dir(here, reading, name),
                Kind::Other | Kind::Unknown => self.other(here, name),
            },
            Err(e) if is_vanished(&e) => {}
            Err(e) => {
                let entry = reading.find(name.to_bytes(), false);
                self.unreadable(here, name, entry.as_ref(), &e);
            }
        }
    }

    fn dir(&mut self, here: &Here<'_>, reading: &mut Reading<'_>, name: &CStr) {
        if !self.is_excluded(here, reading, name.to_bytes(), true) {
            reading.find(name.to_bytes(), true);
            if let Some(scope) = &self.pass.config.scope
                && !scope.enters(&super::config::join(here.path, name.to_bytes()))
            {
                return;
            }
            reading.subdirs.push(name.to_owned());
        }
    }

    fn other(&mut self, here: &Here<'_>, name: &CStr) {
        self.tally.states[State::Skipped as usize] += 1;
        if self.pass.sink.wants_fresh() {
            self.say(
                here,
                name.to_bytes(),
                Verdict::new(State::Skipped, Reason::Kind),
                None,
                None,
                None,
            );
        }
    }

    fn is_excluded(
        &mut self,
        here: &Here<'_>,
        reading: &mut Reading<'_>,
        name: &[u8],
        dir: bool,
    ) -> bool {
        let exclude = &self.pass.config.exclude;
        if exclude.is_empty() || !exclude.has(here.path, name) {
            return false;
        }
        reading.find(name, dir);
        self.tally.states[State::Skipped as usize] += 1;
        if dir {
            locked(&self.pass.kept).push(super::config::join(here.path, name));
        }
        if self.pass.sink.wants_fresh() {
            self.say(
                here,
                name,
                Verdict::new(State::Skipped, Reason::Excluded),
                None,
                None,
                None,
            );
        }
        true
    }

    /// The recorded names of a directory whose times did not move, without listing it.
    fn recall(&mut self, here: &mut Here<'_>, reading: &mut Reading<'_>) {
        let mut name = Vec::new();
        for entry in Entries(reading.entries) {
            name.clear();
            name.extend_from_slice(entry.name);
            name.push(0);
            let Ok(text) = CStr::from_bytes_with_nul(&name) else {
                continue;
            };
            let kind = if entry.is_dir() {
                Kind::Dir
            } else {
                Kind::File
            };
            self.name(here, reading, text, kind);
        }
    }
}

/// How far the names of a directory are, against its run.
struct Reading<'a> {
    merge: Merge<'a>,
    entries: &'a [u8],
    /// Bytes of the run before its entries.
    base: usize,
    /// Names in their order, once that is not the order of the run.
    order: Option<Vec<u8>>,
    subdirs: Vec<CString>,
    seen: usize,
    keeps_order: bool,
}

impl<'a> Reading<'a> {
    fn find(&mut self, name: &[u8], is_dir: bool) -> Option<Entry<'a>> {
        let before = self.merge.position();
        let entry = self.merge.find(name);
        let fits = entry.is_some_and(|entry| entry.is_dir() == is_dir);
        if self.keeps_order {
            if self.order.is_none() && !(fits && self.merge.in_order()) {
                let mut order = Vec::new();
                for entry in Entries(&self.entries[..before]) {
                    push_order(&mut order, entry.is_dir(), entry.name);
                }
                self.order = Some(order);
            }
            if let Some(order) = &mut self.order {
                push_order(order, is_dir, name);
            }
        }
        entry
    }

    fn offset(&self, entry: &Entry<'a>) -> usize {
        entry.fixed.as_ptr() as usize - self.entries.as_ptr() as usize
    }
}

fn names_of(run: Option<&Run<'_>>) -> Vec<u8> {
    let mut names = Vec::new();
    for entry in Entries(run.map_or(&[][..], |run| run.entries)) {
        push_order(&mut names, entry.is_dir(), entry.name);
    }
    names
}

/// Names whose attributes are asked for together.
#[derive(Default)]
struct Asked {
    names: Vec<u8>,
    count: usize,
}

impl Asked {
    fn push(&mut self, name: &CStr) {
        self.names.extend_from_slice(name.to_bytes_with_nul());
        self.count += 1;
    }

    fn len(&self) -> usize {
        self.count
    }
}

/// Names that each end with a zero.
fn each_name(names: &[u8]) -> impl Iterator<Item = &CStr> {
    names
        .split_inclusive(|&c| c == 0)
        .filter_map(|name| CStr::from_bytes_with_nul(name).ok())
}

fn is_vanished(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ESTALE))
}
