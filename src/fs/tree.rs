//! Names and nodes of the mount.
//!
//! ```text
//!   /  head/  at  watch  bigfile/<oid>      @<tid>/  bigfile/<oid>      .wcfs/  zurl  pintimeout  stats
//! ```
//!
//! The fixed nodes have fixed ids. Others get the next number when their name is first looked up and keep it until
//! the kernel has forgotten every look-up; a number is never used twice, so a FORGET that crosses a new look-up
//! cannot hit another node. A `@<tid>` lives as long as the kernel knows it or something below it.
//!
//! A `Tree` is one value for the whole daemon, changed by LOOKUP and FORGET only: requests for a known node
//! go by their worker's own copy of [`Node`].

use crate::base::{BlkNo, BlkSize, NodeId, Oid, Rev, Tid};
use crate::wire::quote::quoted;
use rustc_hash::FxHashMap;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// Ids of the fixed nodes.
pub mod fixed {
    use crate::base::NodeId;
    /// `/head`
    pub const HEAD: NodeId = NodeId(2);
    /// `/head/bigfile`
    pub const HEAD_BIGFILE: NodeId = NodeId(3);
    /// `/head/at`
    pub const HEAD_AT: NodeId = NodeId(4);
    /// `/.wcfs`
    pub const WCFS: NodeId = NodeId(5);
    /// `/.wcfs/zurl`
    pub const ZURL: NodeId = NodeId(6);
    /// `/.wcfs/pintimeout`
    pub const PINTIMEOUT: NodeId = NodeId(7);
    /// `/.wcfs/stats`
    pub const STATS: NodeId = NodeId(8);
    /// `/.wcfs/debug`, if asked for.
    pub const DEBUG: NodeId = NodeId(9);
    /// `/.wcfs/debug/zhead`
    pub const ZHEAD: NodeId = NodeId(10);
    /// `/head/watch`
    pub const WATCH: NodeId = NodeId(11);
    /// First id of nodes that come and go.
    pub const FIRST_FREE: u64 = 64;
}

/// A big file in one view.
#[derive(Debug)]
pub struct FileNode {
    /// Its node.
    pub id: NodeId,
    /// The view.
    pub rev: Rev,
    /// The ZBigFile.
    pub oid: Oid,
    /// Approximate last change, as shown by stat: 0 until known.
    mtime: AtomicU64,
    /// Bytes of a block, as they were when it was looked up last; 0 before that.
    blksize: AtomicU64,
    /// Bytes, of a file below `@<tid>`: 0 until the kernel is told.
    size: AtomicU64,
    /// Bytes that the kernel is told of at most, of a file below head: see [`FileNode::limit`].
    size_max: AtomicU64,
    /// It became shorter since the kernel knows it: there may be pages of zeros behind its end.
    has_shrunk: AtomicBool,
    /// Somebody sees it as of this state, nobody as of an older one; [`UNWATCHED`] if nobody watches.
    watched: AtomicU64,
    /// The ZBigFile itself changed under head: this node answers EIO, the name leads to a new one.
    gone: AtomicBool,
}

/// No bound.
const UNLIMITED: u64 = u64::MAX;
/// No tid.
const UNWATCHED: u64 = u64::MAX;

impl FileNode {
    /// The transaction that stat shows as last change, once known.
    pub fn mtime(&self) -> Option<Tid> {
        Some(Tid(self.mtime.load(Ordering::Relaxed))).filter(|&t| t != Tid::ZERO)
    }

    /// Notes a change; an older one than known is not news.
    pub fn changed_at(&self, tid: Tid) {
        self.mtime.fetch_max(tid.0, Ordering::Relaxed);
    }

    /// Its blocks have so many bytes.
    pub fn told_blksize(&self, blksize: BlkSize) {
        self.blksize.store(blksize.0, Ordering::Relaxed);
    }

    /// The block that a byte is in; the first while nobody has told how long they are.
    pub fn blk_at(&self, off: u64) -> BlkNo {
        let blksize = self.blksize.load(Ordering::Relaxed);
        BlkNo(off.checked_div(blksize).unwrap_or(0))
    }

    /// Bytes of a file below `@<tid>`, which never change; 0 until the kernel is told.
    pub fn size(&self) -> u64 {
        self.size.load(Ordering::Acquire)
    }

    /// The kernel is being told how long this file below `@<tid>` is.
    pub fn told_size(&self, size: u64) {
        self.size.store(size, Ordering::Release);
    }

    /// The bytes that the kernel is told of, of so many: see [`Self::limit`].
    pub fn tell_size(&self, size: u64) -> u64 {
        size.min(self.size_max.load(Ordering::SeqCst))
    }

    /// From now on the kernel is told of no more bytes than these, whatever view an answer is made of.
    pub fn limit(&self, size: u64) {
        self.size_max.store(size, Ordering::SeqCst);
    }

    /// The same, if it is told of more now.
    pub fn limit_more(&self, size: u64) {
        self.size_max.fetch_min(size, Ordering::SeqCst);
    }

    /// From now on it is told how long the file is.
    pub fn let_size(&self) {
        self.limit(UNLIMITED);
    }

    /// Whether the kernel may be told that the file reaches up to `end`.
    pub fn may_reach(&self, end: u64) -> bool {
        self.tell_size(end) == end
    }

    /// The file becomes shorter.
    pub fn shrinks(&self) {
        self.has_shrunk.store(true, Ordering::SeqCst);
    }

    /// Whether it did.
    pub fn has_shrunk(&self) -> bool {
        self.has_shrunk.load(Ordering::SeqCst)
    }

    /// What changed after this has to be asked for before it is shown, if there is such a state.
    pub fn watched(&self) -> Option<Tid> {
        Some(Tid(self.watched.load(Ordering::SeqCst))).filter(|&tid| tid != Tid(UNWATCHED))
    }

    /// Whether the node outlived its ZBigFile.
    pub fn is_gone(&self) -> bool {
        self.gone.load(Ordering::Acquire)
    }
}

/// The path of a file in the mount, as the log names it.
impl fmt::Display for FileNode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "/{}/bigfile/{}", self.rev, self.oid)
    }
}

/// What a node is.
#[derive(Clone, Debug)]
pub enum Node {
    /// `/`
    Root,
    /// `/head` or `/@<tid>`
    View(Rev),
    /// `bigfile/` of a view.
    Bigfile(Rev),
    /// `head/at`
    HeadAt,
    /// `/head/watch`
    Watch,
    /// `/.wcfs`
    Wcfs,
    /// `.wcfs/zurl`
    Zurl,
    /// `.wcfs/pintimeout`
    Pintimeout,
    /// `.wcfs/stats`
    Stats,
    /// `/.wcfs/debug`
    Debug,
    /// `.wcfs/debug/zhead`
    Zhead,
    /// A big file.
    File(Arc<FileNode>),
}

impl Node {
    /// Whether it has names below it.
    pub fn is_dir(&self) -> bool {
        matches!(
            self,
            Self::Root | Self::View(_) | Self::Bigfile(_) | Self::Wcfs | Self::Debug
        )
    }
}

/// What a name in a directory stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Name {
    /// A node with a fixed id.
    Fixed(NodeId),
    /// `@<tid>`, which exists once head has reached it.
    Rev(Tid),
    /// `bigfile` below `@<tid>`.
    RevBigfile(Tid),
    /// A big file, if the database has it.
    File(Rev, Oid),
}

/// A name that stands for nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// Not of the form this directory knows.
    #[error("not a valid name here")]
    Invalid,
    /// Nothing has that name.
    #[error("no such name")]
    Absent,
    /// The parent is not a directory.
    #[error("not a directory")]
    NotDir,
}

/// Reads a name below `parent`.
///
/// # Errors
/// See [`NameError`].
pub fn resolve(parent: &Node, name: &[u8]) -> Result<Name, NameError> {
    let fixed = |id| Ok(Name::Fixed(id));
    match (parent, name) {
        (Node::Root, b"head") => fixed(fixed::HEAD),
        (Node::Root, b".wcfs") => fixed(fixed::WCFS),
        (Node::Root, _) => {
            let tid = name
                .strip_prefix(b"@")
                .and_then(Tid::parse)
                .ok_or(NameError::Invalid)?;
            // No transaction can have a greater tid, so nobody would ever be answered.
            if tid > Tid::MAX {
                Err(NameError::Invalid)
            } else {
                Ok(Name::Rev(tid))
            }
        }
        (Node::View(Rev::Head), b"at") => fixed(fixed::HEAD_AT),
        (Node::View(Rev::Head), b"watch") => fixed(fixed::WATCH),
        (Node::View(Rev::Head), b"bigfile") => fixed(fixed::HEAD_BIGFILE),
        (Node::View(Rev::At(tid)), b"bigfile") => Ok(Name::RevBigfile(*tid)),
        (Node::Wcfs, b"zurl") => fixed(fixed::ZURL),
        (Node::Wcfs, b"pintimeout") => fixed(fixed::PINTIMEOUT),
        (Node::Wcfs, b"stats") => fixed(fixed::STATS),
        (Node::Wcfs, b"debug") => fixed(fixed::DEBUG),
        (Node::Debug, b"zhead") => fixed(fixed::ZHEAD),
        (Node::View(_) | Node::Wcfs | Node::Debug, _) => Err(NameError::Absent),
        (Node::Bigfile(rev), _) => Ok(Name::File(
            *rev,
            Oid::parse(name).ok_or(NameError::Invalid)?,
        )),
        _ => Err(NameError::NotDir),
    }
}

/// What the log says of a name that is not of its directory's form.
pub fn unreadable(parent: &Node, name: &[u8]) -> String {
    let name = quoted(name);
    match parent {
        Node::Bigfile(rev) => format!("/{rev}/bigfile: lookup {name}: not oid"),
        _ => format!("/: lookup {name}: not @rev"),
    }
}

/// The node of a fixed id.
pub fn fixed_node(id: NodeId) -> Option<Node> {
    Some(match id {
        NodeId::ROOT => Node::Root,
        fixed::HEAD => Node::View(Rev::Head),
        fixed::HEAD_BIGFILE => Node::Bigfile(Rev::Head),
        fixed::HEAD_AT => Node::HeadAt,
        fixed::WATCH => Node::Watch,
        fixed::WCFS => Node::Wcfs,
        fixed::ZURL => Node::Zurl,
        fixed::PINTIMEOUT => Node::Pintimeout,
        fixed::STATS => Node::Stats,
        fixed::DEBUG => Node::Debug,
        fixed::ZHEAD => Node::Zhead,
        _ => return None,
    })
}

/// One entry of a directory listing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    /// Its node.
    pub id: NodeId,
    /// Its name.
    pub name: String,
    /// Whether it is a directory.
    pub dir: bool,
}

#[derive(Debug)]
struct Known {
    node: Node,
    /// Look-ups the kernel has not forgotten.
    lookups: u64,
}

/// The nodes of `@<tid>`. A node exists while the kernel knows it or something below it.
#[derive(Clone, Copy, Debug)]
struct RevNodes {
    view: NodeId,
    bigfile: NodeId,
    files: usize,
}

/// Nodes that come and go.
#[derive(Debug, Default)]
pub struct Tree {
    known: FxHashMap<NodeId, Known>,
    files: FxHashMap<(Rev, Oid), NodeId>,
    revs: FxHashMap<Tid, RevNodes>,
    /// Files that are watched, and the oldest state that somebody sees.
    watched: FxHashMap<Oid, Tid>,
    given: u64,
}

impl Tree {
    /// The node of `id`, if the kernel may speak of it.
    pub fn node(&self, id: NodeId) -> Option<Node> {
        fixed_node(id).or_else(|| Some(self.known.get(&id)?.node.clone()))
    }

    fn add(&mut self, make: impl FnOnce(NodeId) -> Node) -> NodeId {
        let id = NodeId(fixed::FIRST_FREE + self.given);
        self.given += 1;
        self.known.insert(
            id,
            Known {
                node: make(id),
                lookups: 0,
            },
        );
        id
    }

    fn count_lookup(&mut self, id: NodeId) {
        self.known
            .get_mut(&id)
            .expect("ids in the tables are known")
            .lookups += 1;
    }

    fn rev_nodes(&mut self, tid: Tid) -> RevNodes {
        if let Some(nodes) = self.revs.get(&tid) {
            return *nodes;
        }
        let view = self.add(|_| Node::View(Rev::At(tid)));
        let bigfile = self.add(|_| Node::Bigfile(Rev::At(tid)));
        *self.revs.entry(tid).or_insert(RevNodes {
            view,
            bigfile,
            files: 0,
        })
    }

    /// Looks `@<tid>` up.
    pub fn enter_rev(&mut self, tid: Tid) -> NodeId {
        let id = self.rev_nodes(tid).view;
        self.count_lookup(id);
        id
    }

    /// Looks `@<tid>/bigfile` up.
    pub fn enter_rev_bigfile(&mut self, tid: Tid) -> NodeId {
        let id = self.rev_nodes(tid).bigfile;
        self.count_lookup(id);
        id
    }

    /// Looks a big file up that the database has; two look-ups of a name give one node.
    pub fn enter_file(&mut self, rev: Rev, oid: Oid, mtime: Tid) -> Arc<FileNode> {
        if let Rev::At(tid) = rev {
            self.rev_nodes(tid);
        }
        let id = match self.files.get(&(rev, oid)) {
            Some(&id) => id,
            None => {
                let watched = self.watched.get(&oid).filter(|_| rev == Rev::Head);
                let watched = watched.map_or(UNWATCHED, |at| at.0);
                let id = self.add(|id| {
                    let mtime = AtomicU64::new(mtime.0);
                    Node::File(Arc::new(FileNode {
                        id,
                        rev,
                        oid,
                        mtime,
                        blksize: 0.into(),
                        size: 0.into(),
                        size_max: UNLIMITED.into(),
                        has_shrunk: false.into(),
                        watched: watched.into(),
                        gone: false.into(),
                    }))
                });
                self.files.insert((rev, oid), id);
                if let Rev::At(tid) = rev {
                    self.revs.get_mut(&tid).expect("made above").files += 1;
                }
                id
            }
        };
        self.count_lookup(id);
        match &self.known[&id].node {
            Node::File(file) => Arc::clone(file),
            other => unreachable!("BUG: the table of files names {other:?}"),
        }
    }

    /// READs of a file under head have to ask about what changed after this from now on: `None` for nothing.
    pub fn watch(&mut self, oid: Oid, after: Option<Tid>) {
        match after {
            Some(at) => self.watched.insert(oid, at),
            None => self.watched.remove(&oid),
        };
        if let Some(file) = self.file(Rev::Head, oid) {
            let at = after.map_or(UNWATCHED, |at| at.0);
            file.watched.store(at, Ordering::SeqCst);
        }
    }

    /// The big file of a name, if it was looked up.
    pub fn file(&self, rev: Rev, oid: Oid) -> Option<Arc<FileNode>> {
        match &self.known[self.files.get(&(rev, oid))?].node {
            Node::File(file) => Some(Arc::clone(file)),
            _ => None,
        }
    }

    /// All big files under head.
    pub fn head_files(&self) -> Vec<Arc<FileNode>> {
        let heads = self.files.iter().filter(|((rev, _), _)| *rev == Rev::Head);
        heads
            .filter_map(|((rev, oid), _)| self.file(*rev, *oid))
            .collect()
    }

    /// The ZBigFile of a head file changed: its node is gone, its name will lead to another. `None` if it does so already.
    pub fn retire(&mut self, oid: Oid, node: NodeId) -> Option<Arc<FileNode>> {
        let file = self.file(Rev::Head, oid).filter(|file| file.id == node)?;
        self.files.remove(&(Rev::Head, oid));
        file.gone.store(true, Ordering::Release);
        Some(file)
    }

    /// The kernel forgot `count` look-ups of `id`. Nodes that nobody can name any more are dropped and added to
    /// `dropped`.
    pub fn forget(&mut self, id: NodeId, count: u64, dropped: &mut Vec<NodeId>) {
        let Some(known) = self.known.get_mut(&id) else {
            return;
        };
        debug_assert!(
            known.lookups >= count,
            "the kernel forgot more than it was told"
        );
        known.lookups = known.lookups.saturating_sub(count);
        if known.lookups > 0 {
            return;
        }
        match &known.node {
            Node::File(file) => {
                let key = (file.rev, file.oid);
                self.known.remove(&id);
                dropped.push(id);
                if self.files.get(&key) == Some(&id) {
                    self.files.remove(&key);
                    if let Rev::At(tid) = key.0 {
                        self.revs.get_mut(&tid).expect("a file has its view").files -= 1;
                        self.drop_rev_if_unused(tid, dropped);
                    }
                }
            }
            Node::View(Rev::At(tid)) | Node::Bigfile(Rev::At(tid)) => {
                let tid = *tid;
                self.drop_rev_if_unused(tid, dropped);
            }
            _ => {}
        }
    }

    fn drop_rev_if_unused(&mut self, tid: Tid, dropped: &mut Vec<NodeId>) {
        let nodes = self.revs[&tid];
        let unknown = |id: NodeId| self.known[&id].lookups == 0;
        if nodes.files == 0 && unknown(nodes.view) && unknown(nodes.bigfile) {
            self.revs.remove(&tid);
            for id in [nodes.view, nodes.bigfile] {
                self.known.remove(&id);
                dropped.push(id);
            }
        }
    }

    /// Entries of a directory, ordered by id, which also serves as the place to go on from.
    pub fn list(&self, dir: &Node) -> Vec<Listed> {
        let entry = |id, name: &str, dir| Listed {
            id,
            name: name.to_owned(),
            dir,
        };
        let mut out = match dir {
            Node::Root => vec![
                entry(fixed::HEAD, "head", true),
                entry(fixed::WCFS, ".wcfs", true),
            ],
            Node::View(Rev::Head) => vec![
                entry(fixed::HEAD_BIGFILE, "bigfile", true),
                entry(fixed::HEAD_AT, "at", false),
                entry(fixed::WATCH, "watch", false),
            ],
            Node::View(Rev::At(tid)) => self
                .revs
                .get(tid)
                .map(|n| entry(n.bigfile, "bigfile", true))
                .into_iter()
                .collect(),
            Node::Wcfs => vec![
                entry(fixed::ZURL, "zurl", false),
                entry(fixed::PINTIMEOUT, "pintimeout", false),
                entry(fixed::STATS, "stats", false),
                entry(fixed::DEBUG, "debug", true),
            ],
            Node::Debug => vec![entry(fixed::ZHEAD, "zhead", false)],
            _ => Vec::new(),
        };
        match dir {
            Node::Root => {
                out.extend(
                    self.revs
                        .iter()
                        .map(|(tid, n)| entry(n.view, &format!("@{tid}"), true)),
                );
            }
            Node::Bigfile(rev) => out.extend(
                self.files
                    .iter()
                    .filter(|((of, _), _)| of == rev)
                    .map(|((_, oid), &id)| entry(id, &oid.to_string(), false)),
            ),
            _ => {}
        }
        out.sort_by_key(|listed| listed.id);
        out
    }

    /// Big files under head, and revisions: the gauges `BigFile` and `RevHead`.
    pub fn counts(&self) -> (usize, usize) {
        (
            self.files
                .keys()
                .filter(|(rev, _)| *rev == Rev::Head)
                .count(),
            self.revs.len(),
        )
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn names_are_read_as_the_tree_has_them() {
        let oid = b"00000000000000ab";
        let ok = |node: &Node, name: &[u8]| resolve(node, name).unwrap();
        assert_eq!(ok(&Node::Root, b"@0000000000000010"), Name::Rev(Tid(16)));
        assert_eq!(
            ok(&Node::Bigfile(Rev::Head), b"00000000000000AB"),
            Name::File(Rev::Head, Oid(0xab))
        );
        assert_eq!(resolve(&Node::Root, b"@head"), Err(NameError::Invalid));
        assert_eq!(
            resolve(&Node::Root, b"@ffffffffffffffff"),
            Err(NameError::Invalid)
        );
        assert_eq!(
            resolve(&Node::Bigfile(Rev::Head), b"x"),
            Err(NameError::Invalid)
        );
        assert_eq!(
            resolve(&Node::View(Rev::At(Tid(1))), b"at"),
            Err(NameError::Absent)
        );
        assert_eq!(resolve(&Node::View(Rev::Head), oid), Err(NameError::Absent));
        assert_eq!(resolve(&Node::HeadAt, b"x"), Err(NameError::NotDir));
        let text = unreadable(&Node::Root, b"@x\n");
        assert_eq!(text, r#"/: lookup "@x\n": not @rev"#);
        let text = unreadable(&Node::Bigfile(Rev::At(Tid(16))), b"x");
        assert_eq!(text, r#"/@0000000000000010/bigfile: lookup "x": not oid"#);
    }

    #[test]
    fn a_revision_lives_until_all_below_it_is_forgotten_and_ids_are_not_reused() {
        let mut tree = Tree::default();
        let (rev, mut dropped) = (Rev::At(Tid(7)), Vec::new());
        let view = tree.enter_rev(Tid(7));
        let bigfile = tree.enter_rev_bigfile(Tid(7));
        let file = tree.enter_file(rev, Oid(1), Tid(5)).id;
        assert_eq!(
            tree.enter_file(rev, Oid(1), Tid(5)).id,
            file,
            "one name, one node"
        );
        tree.forget(view, 1, &mut dropped);
        tree.forget(bigfile, 1, &mut dropped);
        tree.forget(file, 1, &mut dropped);
        assert!(dropped.is_empty());
        assert_eq!(tree.counts(), (0, 1));
        tree.forget(file, 1, &mut dropped);
        assert_eq!(dropped, [file, view, bigfile]);
        assert_eq!(tree.counts(), (0, 0));
        assert!(tree.enter_rev(Tid(7)) > file);
    }

    #[test]
    fn a_retired_file_keeps_its_node_and_loses_its_name() {
        let mut tree = Tree::default();
        let old = tree.enter_file(Rev::Head, Oid(1), Tid(5));
        tree.retire(Oid(1), old.id).unwrap();
        assert!(old.is_gone());
        let new = tree.enter_file(Rev::Head, Oid(1), Tid(9));
        assert!(tree.retire(Oid(1), old.id).is_none());
        assert!(new.id != old.id && !new.is_gone());
        let mut dropped = Vec::new();
        tree.forget(old.id, 1, &mut dropped);
        assert_eq!(dropped, [old.id]);
        assert_eq!(tree.file(Rev::Head, Oid(1)).unwrap().id, new.id);
    }
}
