//! Names and nodes of the mount.
//!
//! ```text
//!   /  head/  at  watch  bigfile/<oid>      @<tid>/  bigfile/<oid>      .wcfs/  zurl  pintimeout  stats
//! ```
//!
//! The fixed nodes have fixed ids. Others get the next number when their name is first looked up and keep it until
//! the kernel has forgotten every look-up; a number is never used twice, so a FORGET that crosses a new look-up
//! cannot hit another node. A `@<tid>` lives as long as the kernel knows it or something below it; where there are many, the kernel is
//! asked to let go of those that nobody uses.
//!
//! A `Tree` is one value for the whole daemon, changed by LOOKUP and FORGET only: requests for a known node
//! go by their worker's own copy of [`Node`], and so does a LOOKUP of a known name of head ([`super::lookup`]).

pub use super::file::FileNode;
use super::file::left;
use crate::base::{NodeId, Oid, Rev, Tid, limit};
use rustc_hash::{FxHashMap, FxHashSet};
use std::collections::BTreeMap;
use std::sync::Arc;

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
    /// Look-ups the kernel has not forgotten, but of a file, which counts its own.
    lookups: u64,
}

impl Known {
    fn count_lookup(&mut self) {
        match &self.node {
            Node::File(file) => file.count_lookup(),
            _ => self.lookups += 1,
        }
    }

    /// The kernel forgot so many; how many are left.
    fn forget(&mut self, count: u64) -> u64 {
        if let Node::File(file) = &self.node {
            return file.forget(count);
        }
        self.lookups = left(self.lookups, count);
        self.lookups
    }
}

/// The nodes of `@<tid>`. A node exists while the kernel knows it or something below it.
#[derive(Debug)]
struct RevNodes {
    view: NodeId,
    bigfile: NodeId,
    files: FxHashSet<NodeId>,
    /// Where it stands in [`Tree::order`].
    used: u64,
}

/// Nodes that come and go.
#[derive(Debug, Default)]
pub struct Tree {
    known: FxHashMap<NodeId, Known>,
    files: FxHashMap<(Rev, Oid), NodeId>,
    revs: FxHashMap<Tid, RevNodes>,
    /// All of them, the one that was looked up or pruned longest ago first.
    order: BTreeMap<u64, Tid>,
    uses: u64,
    /// Files that are watched, and the oldest state that somebody sees.
    watched: FxHashMap<Oid, Tid>,
    /// The generation of the database that names below `@<tid>` lead to; see [`Self::retire_revisions`].
    generation: u64,
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
            .count_lookup();
    }

    fn rev_nodes(&mut self, tid: Tid) -> &mut RevNodes {
        self.uses += 1;
        let used = self.uses;
        if !self.revs.contains_key(&tid) {
            let view = self.add(|_| Node::View(Rev::At(tid)));
            let bigfile = self.add(|_| Node::Bigfile(Rev::At(tid)));
            let files = FxHashSet::default();
            let nodes = RevNodes {
                view,
                bigfile,
                files,
                used,
            };
            self.revs.insert(tid, nodes);
        }
        let nodes = self.revs.get_mut(&tid).expect("made above");
        self.order.remove(&nodes.used);
        self.order.insert(used, tid);
        nodes.used = used;
        nodes
    }

    /// If there are too many revisions: the nodes of those that were looked up longest ago, files before their directories. The
    /// kernel may be asked to let go of them; what is used stays, and is not named again before all others were.
    pub fn idle(&mut self) -> Vec<NodeId> {
        let mut idle = Vec::new();
        if self.revs.len() < limit::REVISIONS_MAX + limit::REVISIONS_PRUNED {
            return idle;
        }
        for _ in 0..limit::REVISIONS_PRUNED {
            let Some((_, tid)) = self.order.pop_first() else {
                break;
            };
            let nodes = self.rev_nodes(tid);
            idle.extend(nodes.files.iter().copied());
            idle.extend([nodes.bigfile, nodes.view]);
        }
        idle
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
                let watched = self.watched.get(&oid).filter(|_| rev == Rev::Head).copied();
                let id = self.add(|id| {
                    let file = FileNode::new(id, (rev, oid), mtime);
                    file.watch(watched);
                    Node::File(Arc::new(file))
                });
                self.files.insert((rev, oid), id);
                if let Rev::At(tid) = rev {
                    self.rev_nodes(tid).files.insert(id);
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
            file.watch(after);
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
        file.go();
        Some(file)
    }

    /// All big files.
    pub fn all_files(&self) -> Vec<Arc<FileNode>> {
        let all = self.known.values().filter_map(|known| match &known.node {
            Node::File(file) => Some(Arc::clone(file)),
            _ => None,
        });
        all.collect()
    }

    /// The history is another one from this generation of the database on: nodes of files below `@<tid>` are gone, their names will lead to
    /// others. Who looked into an older generation is to make none.
    pub fn retire_revisions(&mut self, generation: u64) -> Vec<Arc<FileNode>> {
        self.generation = generation;
        let revisions = |rev: &Rev| *rev != Rev::Head;
        let gone: Vec<_> = self
            .files
            .extract_if(|(rev, _), _| revisions(rev))
            .collect();
        let files = gone
            .iter()
            .filter_map(|(_, id)| match &self.known[id].node {
                Node::File(file) => Some(Arc::clone(file)),
                _ => None,
            });
        let files: Vec<_> = files.collect();
        for file in &files {
            file.go();
        }
        files
    }

    /// Whether names below `@<tid>` may lead to what was found in this generation.
    pub fn is_of(&self, generation: u64) -> bool {
        generation >= self.generation
    }

    /// The `bigfile/` of a revision.
    pub fn rev_bigfile(&self, tid: Tid) -> Option<NodeId> {
        Some(self.revs.get(&tid)?.bigfile)
    }

    /// The kernel forgot `count` look-ups of `id`. Nodes that nobody can name any more are dropped and added to
    /// `dropped`.
    pub fn forget(&mut self, id: NodeId, count: u64, dropped: &mut Vec<NodeId>) {
        let Some(known) = self.known.get_mut(&id) else {
            return;
        };
        if known.forget(count) > 0 {
            return;
        }
        match &known.node {
            Node::File(file) => {
                let key = (file.rev, file.oid);
                // A worker that has not heard of it may have something of it under way.
                file.go();
                self.known.remove(&id);
                dropped.push(id);
                if self.files.get(&key) == Some(&id) {
                    self.files.remove(&key);
                }
                if let Rev::At(tid) = key.0 {
                    let nodes = self.revs.get_mut(&tid).expect("a file has its view");
                    nodes.files.remove(&id);
                    self.drop_rev_if_unused(tid, dropped);
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
        let nodes = &self.revs[&tid];
        let unknown = |id: NodeId| self.known[&id].lookups == 0;
        if nodes.files.is_empty() && unknown(nodes.view) && unknown(nodes.bigfile) {
            self.order.remove(&nodes.used);
            for id in [nodes.view, nodes.bigfile] {
                self.known.remove(&id);
                dropped.push(id);
            }
            self.revs.remove(&tid);
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
    fn of_many_revisions_those_looked_up_longest_ago_are_named() {
        let mut tree = Tree::default();
        let max = (limit::REVISIONS_MAX + limit::REVISIONS_PRUNED) as u64;
        for tid in 1..max {
            tree.enter_rev(Tid(tid));
            assert!(tree.idle().is_empty());
        }
        let file = tree.enter_file(Rev::At(Tid(2)), Oid(1), Tid(1)).id;
        tree.enter_rev(Tid(1));
        let view = tree.enter_rev(Tid(max));
        // All but those two, in order, each file before its directories; and other ones the next time.
        let of = |tree: &Tree, tid| (tree.revs[&Tid(tid)].view, tree.revs[&Tid(tid)].bigfile);
        let idle = tree.idle();
        assert_eq!(idle.len(), 2 * limit::REVISIONS_PRUNED);
        assert_eq!((idle[1], idle[0]), of(&tree, 3));
        let next = tree.idle();
        assert!(next.iter().all(|node| !idle.contains(node)));
        let rest: Vec<NodeId> = (2..limit::REVISIONS_MAX / limit::REVISIONS_PRUNED + 1)
            .flat_map(|_| tree.idle())
            .collect();
        let at = |id| rest.iter().position(|&node| node == id);
        assert!(at(file).is_some() && at(file) < at(of(&tree, 2).1));
        assert!(at(view).is_some_and(|at| at == rest.len() - 1));
        // When the kernel forgets them there is room.
        let mut dropped = Vec::new();
        tree.forget(view, 1, &mut dropped);
        assert_eq!(dropped.len(), 2);
        assert!(tree.idle().is_empty());
        assert_eq!(tree.order.len(), tree.revs.len());
    }

    #[test]
    fn of_another_history_old_files_are_others_and_their_views_stay() {
        let mut tree = Tree::default();
        let (rev, mut dropped) = (Rev::At(Tid(7)), Vec::new());
        let view = tree.enter_rev(Tid(7));
        let bigfile = tree.enter_rev_bigfile(Tid(7));
        let old = tree.enter_file(rev, Oid(1), Tid(5));
        let head = tree.enter_file(Rev::Head, Oid(1), Tid(5));
        let gone = tree.retire_revisions(3);
        assert_eq!(
            gone.iter().map(|file| file.id).collect::<Vec<_>>(),
            [old.id]
        );
        assert!(old.is_gone() && !head.is_gone());
        assert!(!tree.is_of(2) && tree.is_of(3));
        let new = tree.enter_file(rev, Oid(1), Tid(6));
        assert!(new.id != old.id && tree.all_files().len() == 3);
        assert_eq!(tree.rev_bigfile(Tid(7)), Some(bigfile));
        // Forgotten in any order: the view goes with the last of them.
        tree.forget(new.id, 1, &mut dropped);
        tree.forget(view, 1, &mut dropped);
        tree.forget(bigfile, 1, &mut dropped);
        assert_eq!(dropped, [new.id]);
        tree.forget(old.id, 1, &mut dropped);
        assert_eq!(dropped, [new.id, old.id, view, bigfile]);
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
