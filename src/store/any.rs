//! A database of any kind: what the engine holds, so that it knows of kinds only where they differ.
//!
//! They differ in how a worker loads: records of a file are read by the worker itself through its own port, objects of a server
//! are asked for and come as a message.

use super::file::{self, FileOpts, FileStore, FileView, IndexFault, OpenError, Progress, Rebuilt};
use super::file::{Reopen, Tail, WatchPaths};
use super::remote::{Fatal, Link, Notice, RemoteOpenError, RemotePoll, RemoteStore, RemoteView};
use super::zurl::Zurl;
use super::{Commit, LoadError, Loaded, View};
use super::{demo, neo, rel, zeo};
use crate::base::{Oid, Tid};
use crate::kernel::proc::Waker;

/// A picture of a database of any kind.
#[derive(Clone, Debug)]
pub enum AnyView {
    /// Of a file.
    File(FileView),
    /// Of a server.
    Remote(RemoteView),
}

impl AnyView {
    /// The transaction it is as of.
    pub fn at(&self) -> Tid {
        match self {
            Self::File(view) => view.at(),
            Self::Remote(view) => view.at(),
        }
    }

    /// Counts the files that stood under the path, or the times that the history was lost.
    pub fn generation(&self) -> u64 {
        match self {
            Self::File(view) => view.generation(),
            Self::Remote(view) => view.generation(),
        }
    }

    /// Whether each load is a message to somewhere else.
    pub fn is_remote(&self) -> bool {
        matches!(self, Self::Remote(_))
    }

    /// Loads an object as of `at`; blocks.
    ///
    /// # Errors
    /// There is none, or it cannot be read.
    pub fn load(&self, oid: Oid, at: Tid) -> Result<Loaded, LoadError> {
        match self {
            Self::File(view) => view.load(oid, at),
            Self::Remote(view) => view.load(oid, at),
        }
    }

    /// Loads objects, each as of a state; blocks, for about as long as one takes. In no particular order.
    pub fn load_many(
        &self,
        wanted: impl IntoIterator<Item = (Oid, Tid)>,
    ) -> Vec<(Oid, Tid, Result<Loaded, LoadError>)> {
        match self {
            Self::File(view) => {
                let load = |(oid, at)| (oid, at, view.load(oid, at));
                wanted.into_iter().map(load).collect()
            }
            Self::Remote(view) => view.load_many(wanted),
        }
    }
}

impl View for AnyView {
    fn at(&self) -> Tid {
        self.at()
    }

    fn load(&self, oid: Oid, at: Tid) -> Result<Loaded, LoadError> {
        self.load(oid, at)
    }
}

/// A database of any kind that is followed.
#[derive(Debug)]
pub enum AnyStore {
    /// A file.
    File(Box<FileStore>),
    /// A server.
    Remote(RemoteStore),
}

/// An event of it.
pub type Event = super::Event<AnyView>;

/// What a poll found.
#[derive(Debug, Default)]
pub struct Poll {
    /// What happened, in order.
    pub events: Vec<Event>,
    /// What stands behind the last transaction of a file.
    pub tail: Tail,
    /// What views of the file give now is anything, until it is opened anew.
    pub rewritten: bool,
    /// There is more to give out: poll again at once.
    pub more: bool,
    /// Build this on any thread, and `adopt` the result.
    pub reopen: Option<Reopen>,
    /// About the connection to a server.
    pub notices: Vec<Notice>,
}

/// Why a database cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum AnyOpenError {
    /// A file.
    #[error(transparent)]
    File(#[from] OpenError),
    /// A server.
    #[error(transparent)]
    Remote(#[from] RemoteOpenError),
}

/// Why following failed.
#[derive(Debug, thiserror::Error)]
pub enum FollowError {
    /// A file.
    #[error(transparent)]
    File(#[from] file::FollowError),
    /// A server.
    #[error(transparent)]
    Remote(#[from] Fatal),
}

impl FollowError {
    /// Whether nothing helps but to start anew.
    pub fn is_final(&self) -> bool {
        match self {
            Self::File(error) => matches!(
                error,
                file::FollowError::WentBack { .. } | file::FollowError::Damaged { .. }
            ),
            Self::Remote(Fatal::WentBack { .. } | Fatal::Part(_)) => true,
        }
    }
}

fn of<V>(event: super::Event<V>, view: impl Fn(V) -> AnyView) -> Event {
    match event {
        super::Event::Commit(commit) => Event::Commit(Commit {
            tid: commit.tid,
            oids: commit.oids,
            view: view(commit.view),
        }),
        super::Event::Switched(new) => Event::Switched(view(new)),
        super::Event::Reset(new) => Event::Reset(view(new)),
    }
}

fn of_file(poll: file::Poll) -> Poll {
    let events = poll.events.into_iter();
    Poll {
        events: events.map(|event| of(event, AnyView::File)).collect(),
        tail: poll.tail,
        rewritten: poll.rewritten,
        more: poll.more,
        reopen: poll.reopen,
        notices: Vec::new(),
    }
}

fn of_remote(poll: RemotePoll) -> Poll {
    let events = poll.events.into_iter();
    Poll {
        events: events.map(|event| of(event, AnyView::Remote)).collect(),
        notices: poll.notices,
        ..Poll::default()
    }
}

impl AnyStore {
    /// Opens what an address names; blocks. `control` is woken when a server has news; a file is watched by who follows it.
    ///
    /// # Errors
    /// It is not there, or is no database.
    pub fn open(
        zurl: &Zurl,
        max_record: usize,
        control: Option<Waker>,
        progress: &mut Progress<'_>,
    ) -> Result<(Self, AnyView), AnyOpenError> {
        match zurl {
            Zurl::File(path) => {
                let (store, view) = FileStore::open(path, &FileOpts { max_record }, progress)?;
                Ok((Self::File(Box::new(store)), AnyView::File(view)))
            }
            Zurl::Zeo(server) => {
                let (store, view) = zeo::open(server, max_record, control)?;
                Ok((Self::Remote(store), AnyView::Remote(view)))
            }
            Zurl::Neo(cluster) => {
                let (store, view) = neo::open(cluster, max_record, control)?;
                Ok((Self::Remote(store), AnyView::Remote(view)))
            }
            Zurl::Demo(demo) => {
                let (store, view) = demo::open(demo, max_record, control, progress)?;
                Ok((Self::Remote(store), AnyView::Remote(view)))
            }
            Zurl::Rel(rel) => {
                let (store, view) = rel::open(rel, max_record, control)?;
                Ok((Self::Remote(store), AnyView::Remote(view)))
            }
        }
    }

    /// The newest view.
    pub fn view(&self) -> AnyView {
        match self {
            Self::File(store) => AnyView::File(store.view()),
            Self::Remote(store) => AnyView::Remote(store.view()),
        }
    }

    /// What to watch for changes, of a file.
    pub fn watch_paths(&self) -> Option<WatchPaths> {
        match self {
            Self::File(store) => Some(store.watch_paths()),
            Self::Remote(_) => None,
        }
    }

    /// Why the saved index of a file was not used.
    pub fn index_fault(&self) -> Option<IndexFault> {
        match self {
            Self::File(store) => store.index_fault(),
            Self::Remote(_) => None,
        }
    }

    /// The way to a server.
    pub fn link(&self) -> Option<&Link> {
        match self {
            Self::File(_) => None,
            Self::Remote(store) => Some(store.link()),
        }
    }

    /// Looks for what is new; never waits.
    ///
    /// # Errors
    /// It cannot be followed: for now, or for good.
    pub fn poll(&mut self) -> Result<Poll, FollowError> {
        Ok(match self {
            Self::File(store) => of_file(store.poll()?),
            Self::Remote(store) => of_remote(store.poll()?),
        })
    }

    /// Goes over to the file that took the place of the old one, if it continues it.
    ///
    /// # Errors
    /// It does not, or cannot be opened.
    pub fn adopt(&mut self, rebuilt: Result<Rebuilt, OpenError>) -> Result<Poll, FollowError> {
        match self {
            Self::File(store) => Ok(of_file(store.adopt(rebuilt)?)),
            Self::Remote(_) => unreachable!("BUG: a server is no file"),
        }
    }
}
