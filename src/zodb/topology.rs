//! The shape of a tree: every node, level by level, and its text.
//!
//! ```text
//! text  = level *( "/" level )      the root is the first level
//! level = node *( "-" node )        in the order in which the level above links them
//! node  = "T" [keys]                n separators, n + 1 children
//!       | "B" [key ":" value ..]    a leaf; "B:" is an empty one
//! ```
//!
//! `T3/B1:a-B3:b,7:c` is a root with two leaves. Values are the oids of what keys lead to, without leading zeros. A leaf that
//! is no object of its own is written as if it were one.

use super::btree::{self, Coverage, Level, PathNode, TreeRef};
use super::error::{TreeFault, ZodbError};
use super::need::{Ask, Objects, Step};
use super::object::Entry;
use crate::base::Oid;
use crate::base::limit::{TREE_EMPTY_MAX, TREE_HEIGHT_MAX};
use std::fmt;

/// What a node holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Shape {
    /// Separators; one child more than there are of them, in the level below.
    Inner(Vec<i64>),
    /// Keys and what they lead to.
    Leaf(Vec<(i64, Entry)>),
}

/// One node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TopologyNode {
    /// Its oid; of a leaf within its parent the parent's.
    pub oid: Oid,
    /// A leaf within its parent.
    pub within: bool,
    /// Keys for which it answers.
    pub cover: Coverage,
    /// What it holds.
    pub shape: Shape,
}

impl fmt::Display for TopologyNode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.shape {
            Shape::Inner(keys) => {
                f.write_str("T")?;
                for (i, key) in keys.iter().enumerate() {
                    write!(f, "{}{key}", if i == 0 { "" } else { "," })?;
                }
            }
            Shape::Leaf(entries) => {
                f.write_str(if entries.is_empty() { "B:" } else { "B" })?;
                for (i, (key, entry)) in entries.iter().enumerate() {
                    let comma = if i == 0 { "" } else { "," };
                    write!(f, "{comma}{key}:{:x}", entry.oid.0)?;
                }
            }
        }
        Ok(())
    }
}

/// A whole tree.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Topology {
    /// The root, then each level as the one above links it.
    pub levels: Vec<Vec<TopologyNode>>,
}

impl Topology {
    /// All nodes, from the root down.
    pub fn nodes(&self) -> impl Iterator<Item = &TopologyNode> {
        self.levels.iter().flatten()
    }

    /// Keys with what they lead to. In order, unless leaves lie on several levels.
    pub fn entries(&self) -> impl Iterator<Item = (i64, Entry)> + '_ {
        self.nodes().flat_map(|node| match &node.shape {
            Shape::Inner(_) => [].iter().copied(),
            Shape::Leaf(entries) => entries.iter().copied(),
        })
    }
}

impl fmt::Display for Topology {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, level) in self.levels.iter().enumerate() {
            for (j, node) in level.iter().enumerate() {
                f.write_str(match (i, j) {
                    (0, 0) => "",
                    (_, 0) => "/",
                    _ => "-",
                })?;
                node.fmt(f)?;
            }
        }
        Ok(())
    }
}

/// A node of the level under way.
#[derive(Debug)]
enum Next {
    /// Not looked at yet.
    Open(PathNode),
    /// Looked at, and what is below it.
    Known(TopologyNode, Vec<Self>),
}

/// A topology under way. It keeps what it knows between steps, so that a wide tree is gone through once.
#[derive(Debug)]
pub struct Growing {
    tree: TreeRef,
    done: Topology,
    level: Vec<Next>,
    empty: usize,
}

impl Growing {
    /// Nothing is known yet.
    pub fn new(tree: TreeRef) -> Self {
        let root = PathNode {
            oid: tree.root,
            cover: Coverage::ALL,
        };
        Self {
            tree,
            done: Topology::default(),
            level: vec![Next::Open(root)],
            empty: 0,
        }
    }

    /// Goes on as far as what is at hand allows; gives the topology when it is whole.
    ///
    /// # Errors
    /// The tree is damaged.
    pub fn step<O: Objects + ?Sized>(
        &mut self,
        ask: &mut Ask<'_, O>,
    ) -> Result<Step<Topology>, ZodbError> {
        while !self.level.is_empty() {
            let (mut whole, is_root) = (true, self.done.levels.is_empty());
            for next in &mut self.level {
                let Next::Open(node) = *next else {
                    continue;
                };
                match btree::enter(ask, self.tree.family, node, is_root)? {
                    Some(level) => *next = known(node, &level),
                    None => whole = false,
                }
                if ask.is_full() {
                    return Ok(Step::Need);
                }
            }
            if !whole {
                return Ok(Step::Need);
            }
            self.close()?;
        }
        Ok(Step::Done(std::mem::take(&mut self.done)))
    }

    /// All of a level is known: on to the one below.
    fn close(&mut self) -> Result<(), ZodbError> {
        let mut nodes = Vec::with_capacity(self.level.len());
        let mut below = Vec::new();
        for next in std::mem::take(&mut self.level) {
            let Next::Known(node, children) = next else {
                unreachable!("BUG: a level is closed with an open node");
            };
            if matches!(&node.shape, Shape::Leaf(entries) if entries.is_empty()) {
                self.empty += 1;
            }
            nodes.push(node);
            below.extend(children);
        }
        // A leaf within the last tree allowed is one level more in the text.
        let fault = if self.done.levels.len() > TREE_HEIGHT_MAX {
            Some(TreeFault::Height)
        } else if self.empty > TREE_EMPTY_MAX {
            Some(TreeFault::EmptyLeaves)
        } else {
            None
        };
        if let Some(fault) = fault {
            let oid = self.tree.root;
            return Err(ZodbError::Tree { oid, fault });
        }
        self.done.levels.push(nodes);
        self.level = below;
        Ok(())
    }
}

/// A node, and what is to be looked at below it.
fn known(node: PathNode, level: &Level<'_>) -> Next {
    let PathNode { oid, cover } = node;
    let of = |shape, within| TopologyNode {
        oid,
        within,
        cover,
        shape,
    };
    let tree = || of(Shape::Inner(Vec::new()), false);
    let within = |entries| vec![Next::Known(of(Shape::Leaf(entries), true), Vec::new())];
    match level {
        Level::Empty => Next::Known(tree(), within(Vec::new())),
        Level::Within(bucket) => Next::Known(tree(), within(bucket.iter().collect())),
        Level::Leaf(bucket) => {
            let shape = Shape::Leaf(bucket.iter().collect());
            Next::Known(of(shape, false), Vec::new())
        }
        Level::Inner(inner) => {
            let children = inner.children().iter().enumerate();
            let open = children.map(|(i, &oid)| {
                let cover = cover.child(inner, i);
                Next::Open(PathNode { oid, cover })
            });
            let shape = Shape::Inner(inner.separators().collect());
            Next::Known(of(shape, false), open.collect())
        }
    }
}
