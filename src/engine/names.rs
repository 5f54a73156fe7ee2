//! Names, attributes and small files, as one worker answers them: on the spot, but for what concerns big files,
//! which become tasks.

use super::notifier::Store;
use super::serve::FileService;
use super::shared::{Counters, ToControl, ToWorker};
use super::task::{Job, Task};
use crate::base::limit;
use crate::base::{Fh, NodeId, Rev, Tid, Unique};
use crate::fs::errno;
use crate::fs::name::{self, Name, NameError};
use crate::fs::tree::{Node, fixed};
use crate::kernel::port::{Held, Port};
use crate::wire::fuse::abi::{Attr, fopen};
use crate::wire::fuse::reply;
use crate::wire::fuse::request::Op;
use std::borrow::Cow;
use std::sync::Arc;
use std::sync::atomic::Ordering;

impl FileService {
    pub(super) fn lookup(&mut self, port: &mut Port, held: Held, unique: Unique, parent: NodeId) {
        let resolved = self.node(parent).and_then(|parent| {
            let Ok(request) = port.request(&held) else {
                return Err(libc::EIO);
            };
            let Op::Lookup { name } = request.op else {
                return Err(libc::EIO);
            };
            name::resolve(&parent, name).map_err(|error| {
                if error == NameError::Invalid {
                    self.shared.log.warning(name::unreadable(&parent, name));
                }
                errno::of_name(error)
            })
        });
        let outcome = match resolved {
            Err(errno) => Err(errno),
            Ok(Name::Fixed(fixed::DEBUG)) if !self.shared.debug => Err(libc::ENOENT),
            Ok(Name::Fixed(id)) => self.entry(port, &held, id),
            Ok(Name::Rev(tid)) if tid > self.shared.head() => {
                return self.park_future(port, held, unique, tid);
            }
            Ok(Name::Rev(tid)) => {
                let id = self.enter_rev(tid);
                self.entry(port, &held, id)
            }
            Ok(Name::RevBigfile(tid)) => {
                let id = self.shared.tree().enter_rev_bigfile(tid);
                self.entry(port, &held, id)
            }
            Ok(Name::File(Rev::Head, _)) if self.shared.failed.load(Ordering::Relaxed) => {
                Err(libc::EIO)
            }
            Ok(Name::File(..)) if self.is_void() => Err(libc::EIO),
            Ok(Name::File(rev, oid)) => {
                return self.admit(port, Task::new(Some(held), unique, rev, Job::Lookup(oid)));
            }
        };
        self.reply(port, held, outcome);
    }

    /// One more revision; if there are too many, those that nobody uses are let go of.
    fn enter_rev(&self, tid: Tid) -> NodeId {
        let mut tree = self.shared.tree();
        let id = tree.enter_rev(tid);
        let idle = match self.shared.prunes {
            true => tree.idle(),
            false => Vec::new(),
        };
        drop(tree);
        if !idle.is_empty() {
            self.shared.stores.push(Store::Prune(idle));
        }
        id
    }

    fn entry(&mut self, port: &mut Port, held: &Held, id: NodeId) -> Result<usize, i32> {
        let attr = self.small_attr(id)?;
        Ok(reply::entry(port.body(held), attr, reply::CACHE_S))
    }

    /// Attributes of anything but a big file.
    fn small_attr(&mut self, id: NodeId) -> Result<Attr, i32> {
        let node = self.node(id)?;
        let owner = self.shared.owner;
        Ok(match self.text(&node) {
            Some(text) => owner.small(id, text.len()),
            None if node.is_dir() => owner.dir(id, &node, self.shared.head()),
            None => owner.small(id, 0),
        })
    }

    /// What a small file says now.
    fn text(&self, node: &Node) -> Option<Cow<'_, str>> {
        Some(match node {
            Node::HeadAt => self.shared.head().to_string().into(),
            Node::Zurl => self.shared.zurl.as_str().into(),
            Node::Pintimeout => self.shared.pintimeout.as_str().into(),
            Node::Stats => {
                let stats = self.shared.stats();
                // The next one to look sees whether it answered.
                if self.shared.control.ask() {
                    self.links.control.send(ToControl::Look);
                }
                stats.into()
            }
            _ => return None,
        })
    }

    /// Whether one more may wait here for a transaction.
    fn may_wait(&self, port: &Port, held: &Held) -> bool {
        let is_other = |held: &Held| {
            let request = port.request(held);
            request.is_ok_and(|request| self.other(request.uid).is_some())
        };
        let all = || {
            let future = self.future.iter().map(|(.., held)| held);
            future.chain(self.zhead_reads.iter().map(|(.., held)| held))
        };
        all().count() < limit::WAITING_MAX
            && (!is_other(held)
                || all().filter(|held| is_other(held)).count() < limit::WAITING_MAX / 2)
    }

    /// Waits for head to reach `tid`: the one LOOKUP that waits.
    fn park_future(&mut self, port: &mut Port, held: Held, unique: Unique, tid: Tid) {
        if self.was_interrupted(unique) {
            return self.reply(port, held, Err(libc::EINTR));
        }
        if !self.may_wait(port, &held) {
            return self.reply(port, held, Err(libc::EAGAIN));
        }
        self.future.push((tid, unique, held));
        self.came_to_wait(unique);
        self.shared.future_lookups.fetch_add(1, Ordering::SeqCst);
        self.wake_future(port); // head may have moved before control could see the count
    }

    /// Answers look-ups that head has reached, and all of them when the mount is ending.
    pub(super) fn wake_future(&mut self, port: &mut Port) {
        let head = self.shared.head();
        let stopping = self.shared.stopping.load(Ordering::Relaxed);
        let mut i = 0;
        while i < self.future.len() {
            if self.future[i].0 > head && !stopping {
                i += 1;
                continue;
            }
            let (tid, _, held) = self.future.swap_remove(i);
            self.shared.future_lookups.fetch_sub(1, Ordering::SeqCst);
            let outcome = if tid > head {
                Err(libc::ESHUTDOWN)
            } else {
                let id = self.enter_rev(tid);
                self.entry(port, &held, id)
            };
            self.reply(port, held, outcome);
        }
    }

    pub(super) fn open(&mut self, port: &mut Port, held: Held, unique: Unique, id: NodeId) {
        // What is kept of a file at a revision is stored before anybody reads it. Nobody's READ waits for that.
        if let Ok(Node::File(file)) = self.node(id)
            && self.store_kept(&file, unique)
        {
            return self.opening.push((unique, id, held));
        }
        self.opened(port, held, id);
    }

    pub(super) fn opened(&mut self, port: &mut Port, held: Held, id: NodeId) {
        let outcome = self.open_flags(id).and_then(|flags| {
            let fh = match id {
                fixed::ZHEAD => self.shared.zhead.open().0,
                fixed::WATCH => self.open_link(port, &held)?,
                fixed::ZURL => {
                    self.shared.presence.open();
                    0
                }
                _ => 0,
            };
            Ok(reply::open(port.body(&held), fh, flags))
        });
        self.reply(port, held, outcome);
    }

    fn open_flags(&mut self, id: NodeId) -> Result<u32, i32> {
        if self.shared.stopping.load(Ordering::Relaxed) {
            return Err(libc::ESHUTDOWN);
        }
        Ok(match self.node(id)? {
            Node::HeadAt | Node::Stats => fopen::DIRECT_IO | fopen::NOFLUSH,
            Node::Zhead | Node::Watch => {
                fopen::DIRECT_IO | fopen::NOFLUSH | fopen::STREAM | fopen::NONSEEKABLE
            }
            // Its name leads to another one: the kernel looks it up again.
            Node::File(file) if file.is_gone() && file.rev != Rev::Head => {
                return Err(libc::ESTALE);
            }
            Node::File(file) => {
                self.refuse(&file)?;
                fopen::KEEP_CACHE | fopen::NOFLUSH
            }
            _ => fopen::KEEP_CACHE | fopen::NOFLUSH,
        })
    }

    pub(super) fn getattr(&mut self, port: &mut Port, held: Held, unique: Unique, id: NodeId) {
        let outcome = match self.node(id) {
            Ok(Node::File(file)) => match self.refuse(&file) {
                Ok(()) => {
                    let task = Task::new(Some(held), unique, file.rev, Job::Getattr(file));
                    return self.admit(port, task);
                }
                Err(errno) => Err(errno),
            },
            _ => self
                .small_attr(id)
                .map(|attr| reply::attr(port.body(&held), attr)),
        };
        self.reply(port, held, outcome);
    }

    pub(super) fn read(
        &mut self,
        port: &mut Port,
        held: Held,
        unique: Unique,
        id: NodeId,
        (off, len): (u64, u32),
        (fh, flags): (Fh, u32),
    ) {
        let len = usize::try_from(len).unwrap_or(usize::MAX);
        let len = len.min(limit::PAYLOAD_BYTES);
        let outcome = match self.node(id) {
            Ok(Node::File(file)) => match self.refuse(&file) {
                Ok(()) => {
                    Counters::add(&self.counters().reads, 1);
                    let rev = file.rev;
                    let is_direct = flags & libc::O_DIRECT.cast_unsigned() != 0;
                    let job = Job::Read {
                        file,
                        off,
                        len,
                        is_direct,
                    };
                    return self.admit(port, Task::new(Some(held), unique, rev, job));
                }
                Err(errno) => Err(errno),
            },
            Ok(Node::Zhead) => return self.read_zhead(port, held, unique, fh),
            Ok(Node::Watch) => return self.read_link(port, held, unique, fh),
            Ok(node) => match self.text(&node) {
                Some(text) => {
                    let from = usize::try_from(off).unwrap_or(usize::MAX).min(text.len());
                    let part = &text.as_bytes()[from..];
                    let part = &part[..part.len().min(len)];
                    port.body(&held)[..part.len()].copy_from_slice(part);
                    Ok(part.len())
                }
                None => Err(libc::EISDIR),
            },
            Err(errno) => Err(errno),
        };
        self.reply(port, held, outcome);
    }

    /// Transactions that head shows; waits for the next if there is none.
    fn read_zhead(&mut self, port: &mut Port, held: Held, unique: Unique, fh: Fh) {
        if self.was_interrupted(unique) {
            return self.reply(port, held, Err(libc::EINTR));
        }
        if !self.may_wait(port, &held) {
            return self.reply(port, held, Err(libc::EAGAIN));
        }
        self.zhead_reads.push((fh, unique, held));
        self.came_to_wait(unique);
        self.wake_zhead(port);
    }

    /// Answers reads of zhead that have something to say.
    pub(super) fn wake_zhead(&mut self, port: &mut Port) {
        let stopping = self.shared.stopping.load(Ordering::Relaxed);
        let mut i = 0;
        while i < self.zhead_reads.len() {
            let (fh, _, held) = &self.zhead_reads[i];
            let room = Self::room(port, held);
            let read = self.shared.zhead.read(*fh, &mut port.body(held)[..room]);
            if read.is_none() && !stopping {
                i += 1;
                continue;
            }
            let (_, _, held) = self.zhead_reads.swap_remove(i);
            self.reply(port, held, Ok(read.unwrap_or(0)));
        }
    }

    /// Bytes that a READ asks for.
    pub(super) fn room(port: &Port, held: &Held) -> usize {
        match port.request(held).map(|request| request.op) {
            Ok(Op::Read { size, .. }) => usize::try_from(size).unwrap_or(0),
            _ => 0,
        }
        .min(limit::PAYLOAD_BYTES)
    }

    /// Names of a directory, behind the one whose cookie is `off`.
    pub(super) fn readdir(
        &mut self,
        port: &mut Port,
        held: &Held,
        id: NodeId,
        (off, size): (u64, u32),
    ) -> Result<usize, i32> {
        let node = self.node(id)?;
        let mut listed = self.shared.tree().list(&node);
        listed.retain(|l| l.id != fixed::DEBUG || self.shared.debug);
        let body = port.body(held);
        let size = usize::try_from(size).unwrap_or(usize::MAX).min(body.len());
        let out = &mut body[..size];
        let dots = [(id, 1, true, "."), (NodeId::ROOT, 2, true, "..")];
        // Cookies follow ids, so that a listing goes on rightly while names come and go.
        let named = listed
            .iter()
            .map(|l| (l.id, l.id.0 + 2, l.dir, l.name.as_str()));
        let mut len = 0;
        for (ino, cookie, dir, name) in dots.into_iter().chain(named) {
            if cookie <= off {
                continue;
            }
            match reply::dirent(out, len, ino, cookie, dir, name.as_bytes()) {
                Some(more) => len = more,
                None => break,
            }
        }
        Ok(len)
    }

    /// The kernel forgot nodes; those that nobody can name are forgotten by every worker.
    pub(super) fn forget(&mut self, forgets: impl Iterator<Item = (NodeId, u64)>) {
        let mut dropped = Vec::new();
        let mut tree = self.shared.tree();
        for (id, count) in forgets {
            tree.forget(id, count, &mut dropped);
        }
        drop(tree);
        if !dropped.is_empty() {
            let dropped: Arc<[NodeId]> = dropped.into();
            for worker in &self.links.workers {
                worker.send(ToWorker::Forgotten(Arc::clone(&dropped)));
            }
            self.links.control.send(ToControl::Forgotten(dropped));
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "tests")]
    use crate::base::{Oid, Rev, Tid};
    use crate::fs::lookup::LookedUp;
    use crate::fs::tree::{FileNode, Tree};
    use std::sync::{Arc, Mutex};

    /// Workers look one name up again and again, and the kernel forgets each look-up after a while: what is looked up is known, and is
    /// the same for all who have it, whether the tree was asked or not.
    #[test]
    fn a_name_that_is_looked_up_is_known_whoever_forgets_it_meanwhile() {
        const WORKERS: usize = 4;
        const TIMES: usize = 60_000;
        let tree = Mutex::<Tree>::default();
        let is_known = |tree: &Tree, file: &FileNode| {
            let named = tree.file(Rev::Head, file.oid);
            tree.node(file.id).is_some() && named.is_some_and(|named| named.id == file.id)
        };
        let work = |worker: usize| {
            let (mut names, mut had) = (LookedUp::default(), Vec::<Arc<FileNode>>::new());
            let (mut again, mut anew) = (0, 0);
            for n in 0..TIMES {
                // Mostly few are had at a time, so that the last one goes often.
                if had.len() < 1 + (n / 64 + worker) % 3 {
                    let found = names.again(Rev::Head, Oid(1));
                    again += usize::from(found.is_some());
                    let file = found.unwrap_or_else(|| {
                        anew += 1;
                        let file = tree.lock().unwrap().enter_file(Rev::Head, Oid(1), Tid(1));
                        names.note(&file);
                        file
                    });
                    assert!(!file.is_gone());
                    had.push(file);
                } else if let Some(file) = had.pop() {
                    let mut tree = tree.lock().unwrap();
                    assert!(is_known(&tree, &file));
                    tree.forget(file.id, 1, &mut Vec::new());
                }
            }
            let mut tree = tree.lock().unwrap();
            had.iter()
                .for_each(|file| tree.forget(file.id, 1, &mut Vec::new()));
            (again, anew)
        };
        let counts = std::thread::scope(|scope| {
            let work = &work;
            let threads: Vec<_> = (0..WORKERS)
                .map(|worker| scope.spawn(move || work(worker)))
                .collect();
            let done = threads.into_iter().map(|thread| thread.join().unwrap());
            done.fold((0, 0), |all, one| (all.0 + one.0, all.1 + one.1))
        });
        println!("{} without the tree, {} with it", counts.0, counts.1);
        assert!(counts.0 > 0 && counts.1 > WORKERS);
        assert_eq!(tree.lock().unwrap().counts().0, 0, "all is forgotten");
    }
}
