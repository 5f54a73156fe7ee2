//! What is to be looked at again, and when: events of a watched tree in, passes and nominees out. Pure; time is an argument.
//!
//! 1. An event never means *changed*, and silence never means *unchanged*. An event *nominates* its path: after a while somebody compares what
//!    the file is now with what is known of it. A full pass over the tree, every `verify_every`, finds what had no event.
//! 2. A path waits [`Rules::settled`] after its last event, [`Rules::writing`] if that was a write that no close has followed; events move
//!    it, but never beyond [`Rules::longest`] after the first of them.
//! 3. What waits is bounded, in paths and in bytes. Beyond that, and whenever events were lost, what waits is forgotten and the tree is
//!    *dirty*: a pass looks at everything.
//! 4. A pass sees what happened before it began, so what waited then is forgotten; what happens meanwhile waits for its end. If events
//!    are lost meanwhile, there is another pass, but not before as much time has passed as the last one took.
//! 5. Events of the attributes of a file that this very process caused are its own notes, and nominate nothing.
//! 6. A directory nominates all below it, and takes in what waits there.
//!
//! The one who drives it: open the watcher, then loop: [`Nominate::note`] what the kernel tells; if nothing is under way, ask
//! [`Nominate::next`] and do it; after a pass say [`Nominate::pass_done`]; sleep until [`Nominate::wake_at`] at most.

use crate::base::limit::{NOMINEE_BYTES_MAX, NOMINEES_MAX};
use crate::wire::fsevent::Mask;
use rustc_hash::FxHashMap;
use std::collections::BTreeSet;
use std::rc::Rc;
use std::time::Duration;

/// A moment: time since some origin that all moments share.
pub type Moment = Duration;

/// How long things wait, and how many may.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rules {
    /// After an event that leaves the file alone: a close, a rename.
    pub settled: Duration,
    /// After a write.
    pub writing: Duration,
    /// After the first event of several, whatever follows.
    pub longest: Duration,
    /// Moments at which looks begin are multiples of this, so that one look is of many.
    pub grain: Duration,
    /// From the end of a pass to the next.
    pub verify_every: Duration,
    /// At least between two passes that lost events ask for.
    pub between: Duration,
    /// Paths that wait.
    pub paths_max: usize,
    /// Bytes of those.
    pub bytes_max: usize,
}

impl Default for Rules {
    fn default() -> Self {
        Self {
            settled: Duration::from_millis(500),
            writing: Duration::from_secs(5),
            longest: Duration::from_secs(30),
            grain: Duration::from_millis(100),
            verify_every: Duration::from_secs(3600),
            between: Duration::from_secs(1),
            paths_max: NOMINEES_MAX,
            bytes_max: NOMINEE_BYTES_MAX,
        }
    }
}

/// What happened.
#[derive(Clone, Copy, Debug)]
pub struct Sign<'a> {
    /// Where, relative to the root.
    pub path: &'a [u8],
    /// What.
    pub mask: Mask,
    /// Who did it, if that is known.
    pub pid: Option<i32>,
}

/// A path to be looked at.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Nominee {
    /// Relative to the root.
    pub path: Vec<u8>,
    /// With all below it: it is a directory, or was one.
    pub tree: bool,
}

/// What is to be done now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Task {
    /// Look at the whole tree, and say when that is done.
    Pass,
    /// Look at these, in the order of their paths; none lies below another that goes with all below it.
    Look(Vec<Nominee>),
    /// Nothing.
    Rest,
}

/// What is known of the tree as a whole.
///
/// ```text
///              new                              next -> Pass
///               |                 +-------------------------------------+
///               v                 |                                     v
///          +---------+------------+                                +---------+
///          |  Dirty  |                                             | Passing |---+ note: lost, full
///          | not_before <------------- pass_done, lost ------------|  lost   |<--+ (lost = true)
///          +---------+                                             +---------+
///               ^                                                       |
///               |  note: lost, full, the root itself                    | pass_done
///               |  next: verify_at is over                              v
///               |                                                  +---------+
///               +--------------------------------------------------| Steady  |---+ next -> Look
///                                                                  | verify_at|<--+
///                                                                  +---------+
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Whole {
    /// A pass is wanted.
    Dirty { not_before: Moment },
    /// A pass is under way; nominees wait.
    Passing { began: Moment, lost: bool },
    /// What the last pass left, and nominees.
    Steady { verify_at: Moment },
}

/// Counts, for people.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Events noted.
    pub events: u64,
    /// Of those, our own.
    pub own: u64,
    /// Times that events were lost.
    pub lost: u64,
    /// Times that too much waited.
    pub full: u64,
    /// Passes begun.
    pub passes: u64,
}

#[derive(Clone, Copy, Debug)]
struct Waiting {
    first: Moment,
    due: Moment,
    tree: bool,
}

/// See the module.
#[derive(Debug)]
pub struct Nominate {
    rules: Rules,
    own: Option<i32>,
    whole: Whole,
    waiting: FxHashMap<Rc<[u8]>, Waiting>,
    order: BTreeSet<(Moment, Rc<[u8]>)>,
    bytes: usize,
    tally: Tally,
}

impl Nominate {
    /// Of a tree of which nothing is known; `own` is this process.
    pub fn new(rules: Rules, own: Option<i32>) -> Self {
        Self {
            rules,
            own,
            whole: Whole::Dirty {
                not_before: Moment::ZERO,
            },
            waiting: FxHashMap::default(),
            order: BTreeSet::new(),
            bytes: 0,
            tally: Tally::default(),
        }
    }

    /// Counts.
    pub fn tally(&self) -> Tally {
        self.tally
    }

    /// How many paths wait.
    pub fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// Takes note of an event.
    pub fn note(&mut self, now: Moment, sign: Sign<'_>) {
        self.tally.events += 1;
        if sign.mask.any(Mask::OVERFLOW.and(Mask::UNMOUNT)) {
            self.tally.lost += 1;
            return self.all(now);
        }
        let marks = Mask::ATTRIB.and(Mask::DIR);
        if self.own.is_some() && sign.pid == self.own && sign.mask.but(marks) == Mask::default() {
            self.tally.own += 1;
            return;
        }
        let tree = sign.mask.any(Mask::DIR);
        if sign.path.is_empty() && tree {
            // The root itself: gone, moved, or other rights.
            return self.all(now);
        }
        let wait = if sign.mask.any(Mask::MODIFY) && !sign.mask.any(Mask::CLOSE_WRITE) {
            self.rules.writing
        } else {
            self.rules.settled
        };
        self.nominate(now, sign.path, tree, wait);
    }

    /// Has a path looked at after `wait`, as if something had happened there: it was not in order when it was last looked at.
    pub fn again(&mut self, now: Moment, path: &[u8], tree: bool, wait: Duration) {
        let longest = self.rules.longest.max(wait);
        self.nominate_within(now, path, tree, wait, longest);
    }

    fn nominate(&mut self, now: Moment, path: &[u8], tree: bool, wait: Duration) {
        self.nominate_within(now, path, tree, wait, self.rules.longest);
    }

    fn nominate_within(
        &mut self,
        now: Moment,
        path: &[u8],
        tree: bool,
        wait: Duration,
        longest: Duration,
    ) {
        if matches!(self.whole, Whole::Dirty { .. }) {
            return; // the pass will see it
        }
        let due = self.round_up(now + wait);
        if let Some((path, old)) = self.waiting.get_key_value(path) {
            let (path, old) = (Rc::clone(path), *old);
            let new = Waiting {
                first: old.first,
                due: due.min(self.round_up(old.first + longest)),
                tree: old.tree || tree,
            };
            self.order.remove(&(old.due, Rc::clone(&path)));
            self.order.insert((new.due, Rc::clone(&path)));
            self.waiting.insert(path, new);
            return;
        }
        let full = self.waiting.len() >= self.rules.paths_max
            || self.bytes + path.len() > self.rules.bytes_max;
        if full {
            self.tally.full += 1;
            return self.all(now);
        }
        let path: Rc<[u8]> = path.into();
        self.bytes += path.len();
        let first = now;
        self.order.insert((due, Rc::clone(&path)));
        self.waiting.insert(path, Waiting { first, due, tree });
    }

    fn round_up(&self, at: Moment) -> Moment {
        let grain = self.rules.grain.as_nanos().max(1);
        let nanos = at.as_nanos().next_multiple_of(grain);
        Moment::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
    }

    /// Everything is to be looked at.
    pub fn all(&mut self, now: Moment) {
        match &mut self.whole {
            Whole::Dirty { .. } => {}
            Whole::Passing { lost, .. } => *lost = true,
            Whole::Steady { .. } => self.whole = Whole::Dirty { not_before: now },
        }
        self.forget();
    }

    fn forget(&mut self) {
        self.waiting.clear();
        self.order.clear();
        self.bytes = 0;
    }

    /// What is to be done, if nothing is under way.
    pub fn next(&mut self, now: Moment) -> Task {
        match self.whole {
            Whole::Passing { .. } => Task::Rest,
            Whole::Dirty { not_before } if now >= not_before => self.begin(now),
            Whole::Dirty { .. } => Task::Rest,
            Whole::Steady { verify_at } if now >= verify_at => self.begin(now),
            Whole::Steady { .. } => self.take(now),
        }
    }

    fn begin(&mut self, now: Moment) -> Task {
        self.forget();
        self.tally.passes += 1;
        self.whole = Whole::Passing {
            began: now,
            lost: false,
        };
        Task::Pass
    }

    /// Nominees that are due, in the order of their paths.
    fn take(&mut self, now: Moment) -> Task {
        let mut due = Vec::new();
        while let Some((at, _)) = self.order.first()
            && *at <= now
            && let Some((_, path)) = self.order.pop_first()
        {
            let waiting = self.waiting.remove(&path);
            self.bytes -= path.len();
            due.push(Nominee {
                path: path.to_vec(),
                tree: waiting.is_some_and(|waiting| waiting.tree),
            });
        }
        if due.is_empty() {
            return Task::Rest;
        }
        // Directories directly before what is below them: a slash sorts before any other byte.
        due.sort_by(|a, b| by_name(&a.path, &b.path));
        due.dedup_by(|this, kept| kept.tree && is_below(&kept.path, &this.path));
        Task::Look(due)
    }

    /// The pass that [`Nominate::next`] asked for is done.
    pub fn pass_done(&mut self, now: Moment) {
        let Whole::Passing { began, lost } = self.whole else {
            unreachable!("BUG: a pass ended that was not begun");
        };
        self.whole = if lost {
            let rest = now.saturating_sub(began).max(self.rules.between);
            Whole::Dirty {
                not_before: now + rest,
            }
        } else {
            Whole::Steady {
                verify_at: now + self.rules.verify_every,
            }
        };
        if lost {
            self.forget();
        }
    }

    /// When [`Nominate::next`] has something to say, if nothing happens before. None while a pass is under way.
    pub fn wake_at(&self) -> Option<Moment> {
        match self.whole {
            Whole::Passing { .. } => None,
            Whole::Dirty { not_before } => Some(not_before),
            Whole::Steady { verify_at } => {
                let first = self.order.first().map(|(due, _)| *due);
                Some(first.map_or(verify_at, |due| due.min(verify_at)))
            }
        }
    }
}

/// Order of paths in which all below a directory follows it directly.
fn by_name(a: &[u8], b: &[u8]) -> std::cmp::Ordering {
    let key = |path: &[u8]| -> Vec<u8> {
        path.iter()
            .map(|&c| if c == b'/' { 0 } else { c })
            .collect()
    };
    key(a).cmp(&key(b))
}

fn is_below(dir: &[u8], path: &[u8]) -> bool {
    dir.is_empty()
        || path
            .strip_prefix(dir)
            .is_some_and(|rest| matches!(rest, [] | [b'/', ..]))
}

#[cfg(test)]
mod tests;
