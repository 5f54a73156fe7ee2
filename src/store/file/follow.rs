//! Following a file: the control thread's side.
//!
//! ```text
//!            poll: new transactions                       adopt: it continues the old one
//!           +---------------------+                     +---------------------------------+
//!           v                     |                     v                                 |
//! open --> Following -------------+                 Following (next generation)           |
//!           |   other file under the path,              ^                                 |
//!           |   or this one rewritten: Poll.reopen      |   adopt: other history: Reset   |
//!           +--------------------------------> Reopening -------------------------------->+
//!                                                       |
//!                                                       |   adopt: ends before our head
//!                                                       v
//!                                                   went back: every further call fails
//! ```
//!
//! A poll asks first which file stands under the path, then reads what the file at hand has grown by: so after a
//! pack the last transactions written to the old file are still given out from it, and the new file is asked
//! only for what comes after. Workers go on with old views all the while. Building the index of the new file
//! (`Reopen::build`) may take long and needs nothing from here: run it on any thread, then `adopt` what it gives.
//!
//! Time is the caller's: how long a suspicious tail or a missing file may last is for the caller to say. While
//! `tail` is `Voted` a commit is about to end: poll again after 2, 5, 10 ms.

use super::index::Index;
use super::open::{self, FileId, FileOpts, OpenError, Opened, Progress, beside};
use super::recent::{Past, Recent, oids_of};
use super::reopen::{Rebuilt, Reopen, Verdict};
use super::savedindex::IndexFault;
use super::scan::{Ends, Look, Records, look};
use super::view::{FileView, Inner};
use super::window::{ReadAt, Window};
use crate::base::limit::POLL_COMMITS_MAX;
use crate::base::{Oid, Tid};
use crate::store::{self, Store};
use crate::wire::fs1::{Fault, MAGIC_LEN, WORD_LEN};
use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// A commit seen in a file.
pub type Commit = store::Commit<FileView>;
/// An event of a file.
pub type Event = store::Event<FileView>;

/// What stands behind the last committed transaction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Tail {
    /// Nothing.
    #[default]
    Clean,
    /// Fewer bytes than a header: just begun, or left over.
    Stub,
    /// A transaction that is voted, not finished: poll again soon.
    Voted,
    /// Something that no writer leaves for long. Serving goes on up to there.
    Suspicious {
        /// Position.
        pos: u64,
        /// What is wrong.
        what: Fault,
    },
}

impl Tail {
    pub(super) fn of(seen: Look) -> Self {
        match seen {
            Look::Txn(_) | Look::Undone(_) | Look::End => Self::Clean,
            Look::Stub => Self::Stub,
            Look::Voted => Self::Voted,
            Look::Fault(pos, what) => Self::Suspicious { pos, what },
        }
    }
}

/// What stands under the path.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Place {
    /// The file that is followed.
    #[default]
    Same,
    /// Nothing: for a moment during a pack, or for good. Serving goes on.
    Missing,
    /// Another file, or the same one rewritten: a `Reopen` was given out.
    Replaced,
}

/// What a poll found.
#[derive(Debug, Default)]
pub struct Poll {
    /// What happened, in order.
    pub events: Vec<Event>,
    /// What stands behind it.
    pub tail: Tail,
    /// What stands under the path.
    pub place: Place,
    /// The file that views read from lost what was committed: what they give now is anything. Given out until `adopt` takes over.
    pub rewritten: bool,
    /// There is more to give out: poll again at once.
    pub more: bool,
    /// Build this, on any thread, and `adopt` the result, whatever it is: given out once per replacement.
    pub reopen: Option<Reopen>,
}

impl Poll {
    /// An error after events would lose them, and they are not found again: the next poll meets it, if it lasts.
    fn or_later(&mut self, outcome: Result<(), FollowError>) -> Result<(), FollowError> {
        match outcome {
            Err(_) if !self.events.is_empty() => {
                self.more = true;
                Ok(())
            }
            outcome => outcome,
        }
    }
}

/// Why following failed.
#[derive(Debug, thiserror::Error)]
pub enum FollowError {
    /// The database went back in time. Final.
    #[error(
        "the database went back in time: it was at {head} and is now at {now}; if it was restored on purpose, start again"
    )]
    WentBack {
        /// Newest transaction given out.
        head: Tid,
        /// Newest transaction in the file.
        now: Tid,
    },
    /// The file is damaged, and goes on behind the damage. Final.
    #[error("the file is damaged at position {pos}: {what}; whole transactions follow")]
    Damaged {
        /// Position.
        pos: u64,
        /// What is wrong there.
        what: Fault,
    },
    /// The file that took the place of the old one cannot be opened. The next poll tries again.
    #[error("the file was replaced, and the new one cannot be opened")]
    Reopen(#[from] OpenError),
    /// Reading failed. The next poll tries again.
    #[error("following the file failed")]
    Io(#[from] io::Error),
}

/// What to watch for changes: polls after a change there see it. Some file systems never tell, so poll also by time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WatchPaths {
    /// The directory: names come and go there during a pack.
    pub dir: PathBuf,
    /// The file: it is modified by each commit.
    pub file: PathBuf,
}

/// A FileStorage that is followed.
#[derive(Debug)]
pub struct FileStore {
    path: PathBuf,
    opts: FileOpts,
    file: Arc<File>,
    id: FileId,
    index: Index,
    ends: Ends,
    recent: Recent,
    /// Whether the file had its magic when it was last looked at.
    begun: bool,
    /// Newest transaction given out; never goes back.
    head: Tid,
    generation: u64,
    reopening: bool,
    /// The file at hand was written over since it was opened.
    rewritten: bool,
    /// Size of the file when its tail was last found suspicious.
    suspicious_size: Option<u64>,
    /// Why the saved index was not used, the last time a file was opened.
    index_fault: Option<IndexFault>,
    /// Final errors stay.
    ended: Option<Ended>,
}

/// Why following ended for good.
#[derive(Clone, Copy, Debug)]
enum Ended {
    WentBack { head: Tid, now: Tid },
    Damaged { pos: u64, what: Fault },
}

impl From<Ended> for FollowError {
    fn from(ended: Ended) -> Self {
        match ended {
            Ended::WentBack { head, now } => Self::WentBack { head, now },
            Ended::Damaged { pos, what } => Self::Damaged { pos, what },
        }
    }
}

impl FileStore {
    /// Opens a file; blocks while it is scanned, telling `progress`. Gives the view of its last transaction.
    pub fn open(
        path: &Path,
        opts: &FileOpts,
        progress: &mut Progress<'_>,
    ) -> Result<(Self, FileView), OpenError> {
        let opened = open::open(path, progress)?;
        let recent = open::recent(&*opened.file, opened.ends.end);
        let recent = recent.map_err(|source| OpenError::Io {
            path: path.to_owned(),
            source,
        })?;
        let store = Self {
            path: path.to_owned(),
            opts: *opts,
            head: opened.ends.last,
            file: opened.file,
            id: opened.id,
            index: opened.index,
            ends: opened.ends,
            recent,
            begun: opened.begun,
            generation: 0,
            reopening: false,
            rewritten: false,
            suspicious_size: None,
            index_fault: opened.index_fault,
            ended: None,
        };
        let view = store.view();
        Ok((store, view))
    }

    /// The newest view.
    pub fn view(&self) -> FileView {
        self.view_at(self.head)
    }

    /// Newest transaction given out.
    pub fn head(&self) -> Tid {
        self.head
    }

    /// Why the saved index of the file was not used, and all of it scanned; `None` if it was.
    pub fn index_fault(&self) -> Option<IndexFault> {
        self.index_fault
    }

    /// What to watch for changes.
    pub fn watch_paths(&self) -> WatchPaths {
        let dir = self.path.parent().filter(|dir| !dir.as_os_str().is_empty());
        WatchPaths {
            dir: dir.unwrap_or(Path::new(".")).to_owned(),
            file: self.path.clone(),
        }
    }

    fn view_at(&self, at: Tid) -> FileView {
        FileView::new(Inner {
            file: self.file.clone(),
            index: self.index.clone(),
            at,
            end: self.ends.end,
            newest: self.ends.last,
            generation: self.generation,
            max_record: self.opts.max_record,
        })
    }

    /// Looks for what is new; never waits. What was found before an error is given out first; the next poll tells the error, if it lasts.
    pub fn poll(&mut self) -> Result<Poll, FollowError> {
        let file = Arc::clone(&self.file);
        self.poll_in(&*file)
    }

    /// Polls, the file at hand being read through `file`.
    pub(super) fn poll_in<R: ReadAt + ?Sized>(&mut self, file: &R) -> Result<Poll, FollowError> {
        if let Some(ended) = self.ended {
            return Err(ended.into());
        }
        let mut poll = Poll::default();
        let named = match std::fs::metadata(&self.path) {
            Ok(meta) => Some(FileId::of(&meta)),
            Err(e) if e.kind() == io::ErrorKind::NotFound => None,
            Err(e) => return Err(e.into()),
        };
        // What it lost once it may have again: what was read meanwhile was wrong all the same.
        self.rewritten = self.rewritten || self.has_lost(file)?;
        let rewritten = self.rewritten;
        poll.rewritten = rewritten;
        if !rewritten {
            let advanced = self.advance(file, &mut poll);
            poll.or_later(advanced)?;
        }
        poll.place = match named {
            _ if rewritten => Place::Replaced,
            None => Place::Missing,
            Some(id) if id != self.id => Place::Replaced,
            Some(_) => Place::Same,
        };
        // What is left in the old file comes first.
        if poll.place == Place::Replaced && !self.reopening && !poll.more {
            self.reopening = true;
            poll.reopen = Some(Reopen::new(&self.path, self.ends.last, &self.recent));
        }
        Ok(poll)
    }

    /// Polls, and rebuilds at once if the file was replaced: for whoever has no workers to keep going.
    pub fn poll_blocking(&mut self) -> Result<Poll, FollowError> {
        let mut poll = self.poll()?;
        if let Some(reopen) = poll.reopen.take() {
            match self.adopt(reopen.build(&mut |_, _| {})) {
                Ok(mut adopted) => {
                    poll.events.append(&mut adopted.events);
                    (poll.tail, poll.place) = (adopted.tail, adopted.place);
                    poll.more = adopted.more;
                }
                Err(error) => poll.or_later(Err(error))?,
            }
        }
        Ok(poll)
    }

    /// Whether the file at hand lost what was committed.
    fn has_lost<R: ReadAt + ?Sized>(&self, file: &R) -> io::Result<bool> {
        let size = file.size()?;
        let Some(pos) = self.ends.last_pos else {
            // Nothing was committed: there is only the magic to lose.
            return Ok(self.begun && size < MAGIC_LEN);
        };
        let mut tid = [0; WORD_LEN];
        let n = file.read_full(&mut tid, pos)?;
        let same = n == tid.len() && Tid::from_bytes(tid) == self.ends.last;
        Ok(size < self.ends.end || !same)
    }

    /// Takes in what the file at hand has grown by.
    fn advance<R: ReadAt + ?Sized>(
        &mut self,
        file: &R,
        poll: &mut Poll,
    ) -> Result<(), FollowError> {
        let mut size = file.size()?;
        if !self.begun && size >= MAGIC_LEN {
            open::check_magic(&self.path, file)?;
            self.begun = true;
        }
        let (mut window, mut records) = (Window::new(file), Records::new());
        loop {
            let Ends { end, last, .. } = self.ends;
            match look(&mut window, end, last, size, &mut records)? {
                // One that was undone in place changes nothing, but time goes on.
                Look::Txn(span) | Look::Undone(span) => {
                    let oids = oids_of(&records);
                    self.index = self.index.with(&mut records);
                    self.ends = Ends::after(&span);
                    let tid = span.tid;
                    self.recent.push(Past {
                        tid,
                        oids: Arc::clone(&oids),
                    });
                    self.commit(tid, oids, poll)?;
                }
                seen => {
                    poll.tail = Tail::of(seen);
                    let Look::Fault(pos, what) = seen else {
                        self.suspicious_size = None;
                        return Ok(());
                    };
                    // The file may have grown while it was read: only what stays is suspicious.
                    let now = file.size()?;
                    if now == size {
                        return self.suspect(file, pos, what, size);
                    }
                    (size, window) = (now, Window::new(file));
                }
            }
            if poll.events.len() >= POLL_COMMITS_MAX {
                poll.more = true;
                return Ok(());
            }
        }
    }

    fn commit(&mut self, tid: Tid, oids: Arc<[Oid]>, poll: &mut Poll) -> Result<(), FollowError> {
        // A pack may have dropped the newest transactions; a clock that went back as well could fall below.
        if tid <= self.head {
            return self.end(Ended::WentBack {
                head: self.head,
                now: tid,
            });
        }
        self.head = tid;
        let view = self.view_at(tid);
        poll.events.push(Event::Commit(Commit { tid, oids, view }));
        Ok(())
    }

    /// A tail that cannot be right: waiting may help, unless the database goes on behind.
    fn suspect<R: ReadAt + ?Sized>(
        &mut self,
        file: &R,
        pos: u64,
        what: Fault,
        size: u64,
    ) -> Result<(), FollowError> {
        if self.suspicious_size == Some(size) {
            return Ok(());
        }
        if open::goes_on_behind(file, &self.ends, size)? {
            return self.end(Ended::Damaged { pos, what });
        }
        // Only now: a read that failed has answered nothing.
        self.suspicious_size = Some(size);
        Ok(())
    }

    fn end<T>(&mut self, ended: Ended) -> Result<T, FollowError> {
        self.ended = Some(ended);
        Err(ended.into())
    }

    /// Goes over to the file that took the place of the old one, if it continues it.
    pub fn adopt(&mut self, rebuilt: Result<Rebuilt, OpenError>) -> Result<Poll, FollowError> {
        self.reopening = false;
        let rebuilt = match rebuilt {
            Ok(rebuilt) => rebuilt,
            // Gone again: the next poll sees what has come instead.
            Err(OpenError::Missing { .. }) => {
                return Ok(Poll {
                    place: Place::Missing,
                    ..Poll::default()
                });
            }
            Err(error) => return Err(error.into()),
        };
        let packed = self.was_packed(&rebuilt.opened)?;
        let verdict = rebuilt.judge(self.ends.last, &self.recent, packed);
        let now = rebuilt.opened.ends.last;
        match verdict {
            // What was read meanwhile, and where records were said to lie, may be of neither file.
            Verdict::Continues(_) if self.rewritten => self.start_anew(rebuilt),
            Verdict::WentBack => {
                let head = self.head;
                self.end(Ended::WentBack { head, now })
            }
            Verdict::Continues(commits) => self.take_over(rebuilt, |store, poll| {
                for past in commits {
                    store.commit(past.tid, past.oids, poll)?;
                }
                if poll.events.is_empty() {
                    poll.events.push(Event::Switched(store.view()));
                }
                Ok(())
            }),
            Verdict::Differs => self.start_anew(rebuilt),
        }
    }

    fn start_anew(&mut self, rebuilt: Rebuilt) -> Result<Poll, FollowError> {
        let now = rebuilt.opened.ends.last;
        self.take_over(rebuilt, |store, poll| {
            store.head = store.head.max(now);
            poll.events.push(Event::Reset(store.view()));
            Ok(())
        })
    }

    fn take_over(
        &mut self,
        rebuilt: Rebuilt,
        tell: impl FnOnce(&mut Self, &mut Poll) -> Result<(), FollowError>,
    ) -> Result<Poll, FollowError> {
        let Rebuilt { opened, recent } = rebuilt;
        let mut poll = Poll {
            tail: opened.tail,
            ..Poll::default()
        };
        self.generation += 1;
        self.file = opened.file;
        self.id = opened.id;
        self.index = opened.index;
        self.ends = opened.ends;
        self.begun = opened.begun;
        self.index_fault = opened.index_fault;
        self.recent = recent.into_iter().rev().collect();
        self.suspicious_size = None;
        self.rewritten = false;
        let told = tell(self, &mut poll);
        poll.or_later(told)?;
        Ok(poll)
    }

    /// Whether a pack explains that another file took the place of ours.
    fn was_packed(&self, new: &Opened) -> io::Result<bool> {
        if new.id == self.id {
            return Ok(false);
        }
        let ours = self.file.metadata()?;
        let old = std::fs::metadata(beside(&self.path, ".old"));
        Ok(ours.nlink() == 0 || old.is_ok_and(|old| FileId::of(&old) == self.id))
    }
}

impl Store for FileStore {
    type View = FileView;
    type Error = FollowError;

    fn view(&self) -> FileView {
        self.view()
    }

    fn follow(&mut self) -> Result<Vec<Event>, FollowError> {
        self.poll_blocking().map(|poll| poll.events)
    }
}
