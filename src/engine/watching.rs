//! `head/watch` and pins, as a worker has them: requests that control answers.
//!
//! A READ of head whose blocks changed after what somebody sees is held, its bytes in place, until control says that they are pinned
//! there (I4). What it was made from is noted before: so a watch that begins meanwhile is told of it by control itself.

use super::links::OfLink;
use super::listen::Listener;
use super::notifier::Store;
use super::serve::FileService;
use super::shared::ToControl;
use super::task::{self, Task};
use super::wayout::Reader;
use crate::base::limit;
use crate::base::{BlkNo, Fh, NodeId, Rev, Tid, Unique};
use crate::fs::cache::Kept;
use crate::fs::read::{self, Info};
use crate::fs::tree::FileNode;
use crate::iso::{Caller, LinkId, Uid};
use crate::kernel::client::{self, Client, ClientError};
use crate::kernel::port::{Held, Port};
use crate::kernel::proc;
use crate::wire::fuse::request::Op;
use crate::zodb::bigfile;
use crate::zodb::need::{Ask, Step};
use std::cell::Cell;
use std::sync::Arc;
use std::sync::atomic::{Ordering, fence};

/// A READ whose bytes are in place, until they may be shown.
#[derive(Debug)]
pub(super) struct Pinning {
    unique: Unique,
    held: Held,
    file: Arc<FileNode>,
    off: u64,
    len: usize,
    is_direct: bool,
}

/// Pages that are stored when they may be shown, if the state that they are of lasts so long.
#[derive(Debug)]
pub(super) struct Storing {
    number: Unique,
    state: u64,
    pages: Vec<Store>,
}

/// Numbers of what is not a request, beside those of the kernel: these have the lowest bits clear and are far below.
const OWN: u64 = 1 << 63;

/// What a worker holds for control to answer.
#[derive(Debug, Default)]
pub(super) struct Watching {
    /// Requests on `head/watch`, and whose they are if not the owner's.
    links: Vec<(Unique, Held, Option<Uid>)>,
    pinning: Vec<Pinning>,
    storing: Vec<Storing>,
    numbers: u64,
    /// Something lies there for control.
    told: Cell<bool>,
    listener: Listener,
}

impl Watching {
    /// Whether something was told to control since the last time.
    pub(super) fn take_told(&self) -> bool {
        self.told.take()
    }

    /// Whether an answer to a pin may come so soon that sleeping is not worth it.
    pub(super) fn listens(&mut self) -> bool {
        self.listener.goes_on()
    }

    /// Whether no READ waits for pins.
    pub(super) fn is_pinning_none(&self) -> bool {
        self.pinning.is_empty()
    }

    /// Keeps pages of a state until they may be shown, under this number. A client that takes its time holds pages back, not memory:
    /// when there are too many they are given up, and readers ask for what they need.
    fn hold(&mut self, state: u64, pages: Vec<Store>) -> Option<Unique> {
        if self.storing.len() >= limit::STORES_PINNED_MAX {
            return None;
        }
        self.numbers += 1;
        let number = Unique(OWN | self.numbers);
        self.storing.push(Storing {
            number,
            state,
            pages,
        });
        Some(number)
    }

    /// Takes what was held under a number; `None` in place of pages of another state than this.
    fn take_held(&mut self, number: Unique, state: u64) -> Option<Option<Vec<Store>>> {
        let at = self.storing.iter().position(|s| s.number == number)?;
        let storing = self.storing.swap_remove(at);
        Some((storing.state == state).then_some(storing.pages))
    }

    /// READs that wait for pins.
    pub(super) fn pinning(&self) -> impl Iterator<Item = Unique> + '_ {
        self.pinning.iter().map(|pinning| pinning.unique)
    }

    /// Everything that is held.
    pub(super) fn drain(&mut self) -> impl Iterator<Item = Held> + '_ {
        let pinning = self.pinning.drain(..).map(|pinning| pinning.held);
        self.links.drain(..).map(|(_, held, _)| held).chain(pinning)
    }

    /// Whether one more request on `head/watch` may wait here. Those of the owner have a bound for what waits for messages; those of
    /// others, for everything.
    fn has_room(&self, user: Option<Uid>, user_max: usize) -> bool {
        let count = |is_one: &dyn Fn(Option<Uid>) -> bool| {
            self.links.iter().filter(|(.., user)| is_one(*user)).count()
        };
        self.links.len() < limit::LINKS_MAX
            && (user.is_none()
                || count(&|of| of.is_some()) < limit::LINKS_MAX / 2
                    && count(&|of| of == user) < user_max)
    }
}

/// Links.
impl FileService {
    fn caller(&self, unique: Unique) -> Caller {
        let worker = self.index;
        Caller { worker, unique }
    }

    /// Control hears it when this worker has nothing else to do, from whom has its place then.
    fn tell_links(&self, what: OfLink) {
        self.links.control.leave(ToControl::OfLink(what));
        self.watching.told.set(true);
    }

    /// A client opens `head/watch`: it answers for what it does not do.
    pub(super) fn open_link(&self, port: &Port, held: &Held) -> Result<u64, i32> {
        let request = port.request(held).map_err(|_| libc::EIO)?;
        let client = Client::of_thread(request.pid, request.uid).map_err(|error| {
            let text = format!("head/watch: thread {}: {error}", request.pid);
            self.shared.log.error(text);
            match error {
                ClientError::Unknown => libc::EIO,
                ClientError::Protected => libc::EPERM,
            }
        })?;
        // Whoever cannot be ended for the others' sake: this daemon, and what holds the system up.
        if client.pid() == 1 || client.pid().cast_unsigned() == std::process::id() {
            return Err(libc::EPERM);
        }
        let owner = self.shared.owner;
        let in_group = |gid| request.gid == gid || client::is_in_group(request.pid, gid);
        if !owner.may_watch(request.uid, in_group) {
            return Err(libc::EACCES);
        }
        let user = self.other(request.uid);
        let number = self.shared.links.open(user)?;
        self.tell_links(OfLink::Opened(LinkId(number), client, user));
        Ok(number)
    }

    /// The user, if it is not the owner.
    pub(super) fn other(&self, uid: u32) -> Option<Uid> {
        (!self.shared.owner.is_trusted(uid)).then_some(Uid(uid))
    }

    pub(super) fn close_link(&self, fh: Fh) {
        self.tell_links(OfLink::Closed(LinkId(fh.0)));
    }

    pub(super) fn read_link(&mut self, port: &mut Port, held: Held, unique: Unique, fh: Fh) {
        if self.was_interrupted(unique) {
            return self.reply(port, held, Err(libc::EINTR));
        }
        if self.shared.stopping.load(Ordering::Relaxed) {
            return self.reply(port, held, Ok(0));
        }
        let room = Self::room(port, &held);
        let request = port.request(&held);
        let (tid, user) = request.map_or((0, None), |r| (r.pid, self.other(r.uid)));
        if !self
            .watching
            .has_room(user, self.shared.links.user_waiting())
        {
            return self.reply(port, held, Err(libc::EAGAIN));
        }
        self.watching.links.push((unique, held, user));
        self.came_to_wait(unique);
        let read = OfLink::Read(LinkId(fh.0), self.caller(unique), tid, room);
        self.tell_links(read);
    }

    pub(super) fn write_link(&mut self, port: &mut Port, held: Held, unique: Unique) {
        let request = port.request(&held);
        let Ok((tid, uid, Op::Write { fh, data, .. })) = request.map(|r| (r.pid, r.uid, r.op))
        else {
            return self.reply(port, held, Err(libc::EIO));
        };
        if data.ends_with(b" ack\n") {
            // The next pin comes soon, if a reader goes from block to block.
            self.watching.listener.begin();
        }
        let write = OfLink::Write(LinkId(fh.0), self.caller(unique), tid, data.to_vec());
        let user = self.other(uid);
        let user_max = self.shared.links.user_waiting();
        // What the owner writes is taken at once.
        if user.is_some() && !self.watching.has_room(user, user_max) {
            return self.reply(port, held, Err(libc::EAGAIN));
        }
        self.watching.links.push((unique, held, user));
        self.came_to_wait(unique);
        self.tell_links(write);
    }

    fn take_link(&mut self, unique: Unique) -> Option<Held> {
        let links = &mut self.watching.links;
        // What came last is mostly answered first.
        let at = links.iter().rposition(|(u, ..)| *u == unique)?;
        Some(links.swap_remove(at).1)
    }

    /// A read of `head/watch` returns.
    pub(super) fn link_read(
        &mut self,
        port: &mut Port,
        unique: Unique,
        result: Result<Vec<u8>, i32>,
    ) {
        let Some(held) = self.take_link(unique) else {
            return;
        };
        let outcome = result.map(|bytes| {
            port.body(&held)[..bytes.len()].copy_from_slice(&bytes);
            bytes.len()
        });
        self.reply(port, held, outcome);
    }

    /// A write of `head/watch` returns.
    pub(super) fn link_wrote(
        &mut self,
        port: &mut Port,
        unique: Unique,
        result: Result<usize, i32>,
    ) {
        if let Some(held) = self.take_link(unique) {
            let outcome = result.map(|len| crate::wire::fuse::reply::write(port.body(&held), len));
            self.reply(port, held, outcome);
        }
    }

    /// A request on `head/watch` that is held.
    pub(super) fn of_link(&self, unique: Unique) -> Option<&Held> {
        let mut links = self.watching.links.iter();
        links.find(|(u, ..)| *u == unique).map(|(_, held, _)| held)
    }

    /// All of them.
    pub(super) fn of_links(&self) -> impl Iterator<Item = Unique> + '_ {
        self.watching.links.iter().map(|(unique, ..)| *unique)
    }

    /// Its caller was signalled.
    pub(super) fn tell_interrupted(&self, unique: Unique) {
        self.tell_links(OfLink::Interrupted(self.caller(unique)));
    }

    /// The mount is ending: nobody waits for a message any more, nor for an answer to a pin.
    pub(super) fn end_links(&mut self, port: &mut Port) {
        if self.shared.stopping.load(Ordering::Relaxed) {
            for (_, held, _) in std::mem::take(&mut self.watching.links) {
                self.reply(port, held, Ok(0));
            }
            for pinning in std::mem::take(&mut self.watching.pinning) {
                self.reply(port, pinning.held, Err(libc::EIO));
            }
        }
    }
}

/// Pins.
impl FileService {
    /// Blocks of an answer that somebody may see as something else. What the answer was made from is noted already.
    pub(super) fn unpinned(
        &mut self,
        task: &Task,
        file: &FileNode,
        info: &Info,
        (off, len): (u64, usize),
    ) -> Vec<BlkNo> {
        if file.rev != Rev::Head {
            return Vec::new();
        }
        // Either control sees the notes when it begins to watch, or this sees that it is watched.
        fence(Ordering::SeqCst);
        let Some(after) = file.watched() else {
            return Vec::new();
        };
        let hand = task::at_hand(task, &self.cache, &self.seen);
        let serial = |oid| match hand.kept(oid) {
            Some(Kept::Object(_, serial) | Kept::Raw(_, serial)) => *serial,
            // Not known: asked for.
            _ => Tid::MAX,
        };
        let len =
            len.min(usize::try_from(i64::MAX.unsigned_abs().saturating_sub(off)).unwrap_or(len));
        let (mut needs, mut path) = (Vec::new(), Vec::new());
        let mut found = Vec::new();
        for piece in read::pieces(info.file.blksize.0, off, len) {
            let mut ask = Ask::new(&hand, &mut needs);
            let place = bigfile::locate_path(&mut ask, &info.file, piece.blk, &mut path);
            let newest = match place {
                Ok(Step::Done(place)) => {
                    let nodes = path.iter().map(|node| node.oid);
                    let block = place.block.map(|entry| entry.oid);
                    nodes.chain(block).map(serial).max().unwrap_or(Tid::MAX)
                }
                _ => Tid::MAX,
            };
            if newest > after {
                found.push(piece.blk);
            }
        }
        found
    }

    /// Holds a READ until its blocks are pinned. READs through the page cache are bounded by the kernel; of others there may be too many:
    /// the answers that they wait for could not come any more.
    pub(super) fn pin_first(
        &mut self,
        port: &mut Port,
        (held, unique, is_direct): (Held, Unique, bool),
        file: Arc<FileNode>,
        (off, len): (u64, usize),
        blks: Vec<BlkNo>,
    ) {
        if self.shared.stopping.load(Ordering::Relaxed) {
            return self.reply(port, held, Err(libc::EIO));
        }
        if port.room() < limit::RESERVED {
            return self.reply(port, held, Err(libc::EAGAIN));
        }
        let oid = file.oid;
        let reader = Reader {
            tid: port.request(&held).map_or(0, |request| request.pid),
            node: file.id,
            off,
            len: len as u64,
        };
        self.watching.pinning.push(Pinning {
            unique,
            held,
            file,
            off,
            len,
            is_direct,
        });
        self.watching.listener.begin();
        self.tell_links(OfLink::Ask(self.caller(unique), oid, blks, Some(reader)));
    }

    /// Holds pages back until they are pinned.
    pub(super) fn store_pinned(&mut self, file: &FileNode, pages: Vec<Store>, blks: Vec<BlkNo>) {
        let Some(number) = self.watching.hold(self.taken, pages) else {
            return;
        };
        self.tell_links(OfLink::Ask(self.caller(number), file.oid, blks, None));
    }

    /// Whether a READ waits for pins.
    pub(super) fn is_pinning(&self, unique: Unique) -> bool {
        self.watching.pinning.iter().any(|p| p.unique == unique)
    }

    /// Answers a READ that waits for pins if its caller is being killed; the pins go on. False when it waits on.
    pub(super) fn end_pinning(&mut self, port: &mut Port, unique: Unique) -> bool {
        let pinning = &mut self.watching.pinning;
        let Some(at) = pinning.iter().position(|p| p.unique == unique) else {
            return true;
        };
        let caller = port
            .request(&pinning[at].held)
            .map_or(0, |request| request.pid);
        let is_killed = proc::is_being_killed(caller);
        if is_killed {
            let held = pinning.swap_remove(at).held;
            self.reply(port, held, Err(libc::EINTR));
        }
        is_killed
    }

    /// A READ is answered as it is: see [`super::wayout`].
    pub(super) fn way_out(&mut self, port: &mut Port, unique: Unique) {
        let pinning = &mut self.watching.pinning;
        if let Some(at) = pinning.iter().position(|p| p.unique == unique) {
            let Pinning { held, len, .. } = pinning.swap_remove(at);
            self.reply(port, held, Ok(len));
        }
    }

    /// What was asked for is pinned; or it cannot be told.
    pub(super) fn granted(&mut self, port: &mut Port, unique: Unique, granted: bool) {
        if let Some(pages) = self.watching.take_held(unique, self.taken) {
            if let Some(pages) = pages.filter(|_| granted) {
                self.store_pages(pages, None);
            }
            return;
        }
        let pinning = &mut self.watching.pinning;
        let Some(at) = pinning.iter().position(|p| p.unique == unique) else {
            return; // its caller went away
        };
        let Pinning {
            held,
            file,
            off,
            len,
            is_direct,
            ..
        } = pinning.swap_remove(at);
        if pinning.is_empty() {
            self.watching.listener.end();
        }
        if !granted {
            return self.reply(port, held, Err(libc::EIO));
        }
        self.read_ready(port, held, &file, (off, len), is_direct);
    }

    /// The node of a file that the kernel forgot is of no interest any more.
    pub(super) fn forget_storing(&mut self, ids: &[NodeId]) {
        self.watching.storing.retain(|storing| {
            !storing.pages.iter().any(|store| match store {
                Store::Pages { node, .. } => ids.contains(node),
                Store::Name(..) | Store::Names(_) | Store::Prune(_) | Store::Then(..) => false,
            })
        });
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn pages_held_back_have_a_bound_and_a_state() {
        let mut watching = Watching::default();
        let held: Vec<Unique> = std::iter::from_fn(|| watching.hold(1, Vec::new()))
            .take(1000)
            .collect();
        assert_eq!(held.len(), limit::STORES_PINNED_MAX);
        // Of the state that they were made in they are stored, of the next one not; either way there is room again.
        assert!(watching.take_held(held[0], 1).unwrap().is_some());
        assert!(watching.take_held(held[1], 2).unwrap().is_none());
        assert!(watching.take_held(held[0], 1).is_none());
        let next = watching.hold(2, Vec::new()).unwrap();
        assert!(!held.contains(&next) && watching.take_held(next, 2).is_some());
    }
}
