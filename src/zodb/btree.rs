//! The walk down a tree.
//!
//! The root covers all keys. In a node that covers `[lo, hi)`, child `i` covers from the separator before it to
//! the separator after it; what the child holds must lie within. This makes a shared subtree harmless: a node
//! with a separator or a key can stand in one place only, so no walk is longer than the tree is large.
//!
//! Nodes may have a single child, and paths may differ in length. Leaves without keys are accepted, up to
//! [`TREE_EMPTY_MAX`] in a walk; an inner tree that is empty or holds its bucket within is a leaf.

use super::class::Family;
use super::error::{Role, TreeFault, ZodbError};
use super::need::{Ask, Objects, Step};
use super::object::{Bucket, Entry, Inner, Node, Object};
use crate::base::Oid;
use crate::base::limit::{TREE_EMPTY_MAX, TREE_HEIGHT_MAX};
use crate::base::span::KeyRange;

/// A tree: its root, and what keys it has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct TreeRef {
    /// The root.
    pub root: Oid,
    /// What keys it has.
    pub family: Family,
}

/// Keys for which a node answers: `lo` and above, below `hi` if there is one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Coverage {
    /// Least key.
    pub lo: i64,
    /// First key that is not covered; `None` when there is none.
    pub hi: Option<i64>,
}

impl Coverage {
    /// All keys: what a root covers.
    pub const ALL: Self = Self {
        lo: i64::MIN,
        hi: None,
    };

    /// Whether a key is covered.
    pub fn contains(self, key: i64) -> bool {
        key >= self.lo && self.hi.is_none_or(|hi| key < hi)
    }

    /// Greatest key covered; `None` when no key is.
    pub fn last(self) -> Option<i64> {
        match self.hi {
            None => Some(i64::MAX),
            Some(hi) => hi.checked_sub(1).filter(|&last| last >= self.lo),
        }
    }

    /// What child `i` of a node with this coverage covers.
    pub fn child(self, inner: &Inner, i: usize) -> Self {
        let (before, after) = inner.around(i);
        Self {
            lo: before.unwrap_or(self.lo),
            hi: after.or(self.hi),
        }
    }
}

/// A node on the way from the root to a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PathNode {
    /// The node.
    pub oid: Oid,
    /// Keys for which it answers here.
    pub cover: Coverage,
}

/// What a tree says about a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Answer {
    /// What the key leads to; `None` when it is not there.
    pub entry: Option<Entry>,
    /// The keys that the same leaf answers for.
    pub cover: Coverage,
}

/// Looks up a key.
pub fn lookup<O: Objects + ?Sized>(
    ask: &mut Ask<'_, O>,
    tree: TreeRef,
    key: i64,
) -> Result<Step<Answer>, ZodbError> {
    descend(ask, tree, key, |_| {})
}

/// Looks up a key, and fills `path` with the nodes on the way, from the root to the leaf.
///
/// A bucket within a tree has no oid: there the path ends with the tree.
pub fn lookup_path<O: Objects + ?Sized>(
    ask: &mut Ask<'_, O>,
    tree: TreeRef,
    key: i64,
    path: &mut Vec<PathNode>,
) -> Result<Step<Answer>, ZodbError> {
    path.clear();
    descend(ask, tree, key, |node| path.push(node))
}

fn descend<O: Objects + ?Sized>(
    ask: &mut Ask<'_, O>,
    tree: TreeRef,
    key: i64,
    mut visit: impl FnMut(PathNode),
) -> Result<Step<Answer>, ZodbError> {
    let mut above = [Oid::default(); TREE_HEIGHT_MAX];
    let mut node = PathNode {
        oid: tree.root,
        cover: Coverage::ALL,
    };
    for height in 0..TREE_HEIGHT_MAX {
        if above[..height].contains(&node.oid) {
            return Err(fault(node.oid, TreeFault::Loop));
        }
        above[height] = node.oid;
        let Some(level) = enter(ask, tree.family, node, height == 0)? else {
            return Ok(Step::Need);
        };
        visit(node);
        let found = |entry| {
            Ok(Step::Done(Answer {
                entry,
                cover: node.cover,
            }))
        };
        match level {
            Level::Empty => return found(None),
            Level::Within(bucket) | Level::Leaf(bucket) => return found(bucket.get(key)),
            Level::Inner(inner) => {
                let i = inner.child_of(key);
                node = PathNode {
                    oid: inner.children()[i],
                    cover: node.cover.child(inner, i),
                };
            }
        }
    }
    Err(fault(node.oid, TreeFault::Height))
}

/// The greatest key, and what it leads to; `None` when the tree is empty.
pub fn max<O: Objects + ?Sized>(
    ask: &mut Ask<'_, O>,
    tree: TreeRef,
) -> Result<Step<Option<(i64, Entry)>>, ZodbError> {
    floor(ask, tree, i64::MAX)
}

/// The greatest key that is not above `key`, and what it leads to.
pub fn floor<O: Objects + ?Sized>(
    ask: &mut Ask<'_, O>,
    tree: TreeRef,
    key: i64,
) -> Result<Step<Option<(i64, Entry)>>, ZodbError> {
    let root = PathNode {
        oid: tree.root,
        cover: Coverage::ALL,
    };
    Walk {
        ask,
        family: tree.family,
        empty: 0,
    }
    .floor(root, None, key)
}

/// Hands each key from `first` to `last`, both included, to `each`, in order.
///
/// `each` may ask for more. As long as something is missing it is called for what is at hand, to find out all
/// that is needed; the keys are complete when this returns `Done`.
pub fn range<'o, O: Objects + ?Sized>(
    ask: &mut Ask<'o, O>,
    tree: TreeRef,
    first: i64,
    last: i64,
    each: &mut impl FnMut(&mut Ask<'o, O>, i64, Entry) -> Result<Step<()>, ZodbError>,
) -> Result<Step<()>, ZodbError> {
    let root = PathNode {
        oid: tree.root,
        cover: Coverage::ALL,
    };
    Walk {
        ask,
        family: tree.family,
        empty: 0,
    }
    .range(root, None, (first, last), each)
}

/// What is below a node, as [`below`] tells it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Below {
    /// Nodes, and the keys each answers for. Children that answer for no key are left out.
    Nodes(Vec<PathNode>),
    /// Keys, with what they lead to.
    Entries(Vec<(i64, Entry)>),
}

/// What is below a node of a tree: of its children, those that answer for some of `keys`. A root that is not there is an
/// empty tree: so one that was deleted, or is yet to be made, can be compared with what it was or becomes.
pub fn below<O: Objects + ?Sized>(
    ask: &mut Ask<'_, O>,
    tree: TreeRef,
    node: PathNode,
    keys: KeyRange,
) -> Result<Step<Below>, ZodbError> {
    let is_root = node.oid == tree.root && node.cover == Coverage::ALL;
    let level = match enter(ask, tree.family, node, is_root) {
        Err(ZodbError::Dangling { oid, .. }) if is_root && oid == tree.root => Some(Level::Empty),
        level => level?,
    };
    Ok(match level {
        None => Step::Need,
        Some(Level::Empty) => Step::Done(Below::Entries(Vec::new())),
        Some(Level::Within(bucket) | Level::Leaf(bucket)) => {
            Step::Done(Below::Entries(bucket.iter().collect()))
        }
        Some(Level::Inner(inner)) => {
            let places = inner.child_of(keys.first())..=inner.child_of(keys.last());
            let children = places.map(|i| PathNode {
                oid: inner.children()[i],
                cover: node.cover.child(inner, i),
            });
            Step::Done(Below::Nodes(
                children
                    .filter(|child| child.cover.last().is_some())
                    .collect(),
            ))
        }
    })
}

/// What a node is to a walk.
pub(super) enum Level<'a> {
    /// A tree of no keys.
    Empty,
    /// A tree with its one leaf within.
    Within(&'a Bucket),
    /// A leaf.
    Leaf(&'a Bucket),
    /// A node with children.
    Inner(&'a Inner),
}

/// Looks into a node, and checks it against the coverage that its parents grant. `None` when not at hand.
pub(super) fn enter<'o, O: Objects + ?Sized>(
    ask: &mut Ask<'o, O>,
    family: Family,
    node: PathNode,
    root: bool,
) -> Result<Option<Level<'o>>, ZodbError> {
    let Some(object) = ask.get(node.oid)? else {
        return Ok(None);
    };
    let (level, ends) = match object {
        Object::Tree(tree) if tree.family == family => match &tree.node {
            Node::Empty => (Level::Empty, None),
            Node::Inline(bucket) => (Level::Within(bucket), bucket.ends()),
            Node::Inner(inner) => (Level::Inner(inner), inner.ends()),
        },
        Object::Bucket(bucket) if bucket.family() == family && !root => {
            (Level::Leaf(bucket), bucket.ends())
        }
        object => {
            let expected = if root {
                Role::Tree(family)
            } else {
                Role::Node(family)
            };
            return Err(ZodbError::WrongClass {
                oid: node.oid,
                expected,
                found: object.into(),
            });
        }
    };
    // Keys increase, so the outermost speak for all.
    for key in ends.into_iter().flatten() {
        if !node.cover.contains(key) {
            return Err(fault(node.oid, TreeFault::Coverage { key }));
        }
    }
    Ok(Some(level))
}

fn fault(oid: Oid, fault: TreeFault) -> ZodbError {
    ZodbError::Tree { oid, fault }
}

/// The nodes above, from the parent to the root.
#[derive(Clone, Copy)]
struct Above<'a> {
    oid: Oid,
    height: usize,
    above: Option<&'a Self>,
}

/// A walk over part of a tree. It recurses, at most `TREE_HEIGHT_MAX` deep.
struct Walk<'w, 'o, O: ?Sized> {
    ask: &'w mut Ask<'o, O>,
    family: Family,
    /// Leaves that had nothing to give so far.
    empty: usize,
}

impl<'o, O: Objects + ?Sized> Walk<'_, 'o, O> {
    fn enter(
        &mut self,
        node: PathNode,
        above: Option<&Above<'_>>,
    ) -> Result<Option<Level<'o>>, ZodbError> {
        let mut up = above;
        while let Some(ancestor) = up {
            if ancestor.oid == node.oid {
                return Err(fault(node.oid, TreeFault::Loop));
            }
            up = ancestor.above;
        }
        if height(above) >= TREE_HEIGHT_MAX {
            return Err(fault(node.oid, TreeFault::Height));
        }
        let level = enter(self.ask, self.family, node, above.is_none())?;
        let empty = match level {
            Some(Level::Empty) => true,
            Some(Level::Within(bucket) | Level::Leaf(bucket)) => bucket.is_empty(),
            _ => false,
        };
        self.empty += usize::from(empty);
        if self.empty > TREE_EMPTY_MAX {
            return Err(fault(node.oid, TreeFault::EmptyLeaves));
        }
        Ok(level)
    }

    fn floor(
        &mut self,
        node: PathNode,
        above: Option<&Above<'_>>,
        key: i64,
    ) -> Result<Step<Option<(i64, Entry)>>, ZodbError> {
        let inner = match self.enter(node, above)? {
            None => return Ok(Step::Need),
            Some(Level::Empty) => return Ok(Step::Done(None)),
            Some(Level::Within(bucket) | Level::Leaf(bucket)) => {
                return Ok(Step::Done(bucket.floor(key)));
            }
            Some(Level::Inner(inner)) => inner,
        };
        let here = Above {
            oid: node.oid,
            height: height(above) + 1,
            above,
        };
        // Usually the child that covers the key; its left neighbours if that has nothing so low.
        for i in (0..=inner.child_of(key)).rev() {
            let child = PathNode {
                oid: inner.children()[i],
                cover: node.cover.child(inner, i),
            };
            let step = self.floor(child, Some(&here), key)?;
            if step != Step::Done(None) {
                return Ok(step);
            }
        }
        Ok(Step::Done(None))
    }

    fn range(
        &mut self,
        node: PathNode,
        above: Option<&Above<'_>>,
        (first, last): (i64, i64),
        each: &mut impl FnMut(&mut Ask<'o, O>, i64, Entry) -> Result<Step<()>, ZodbError>,
    ) -> Result<Step<()>, ZodbError> {
        let mut whole = Step::Done(());
        match self.enter(node, above)? {
            None => whole = Step::Need,
            Some(Level::Empty) => {}
            Some(Level::Within(bucket) | Level::Leaf(bucket)) => {
                for (key, entry) in bucket.range(first, last) {
                    if each(self.ask, key, entry)? == Step::Need {
                        whole = Step::Need;
                    }
                    if whole == Step::Need && self.ask.is_full() {
                        return Ok(Step::Need);
                    }
                }
            }
            Some(Level::Inner(inner)) => {
                let here = Above {
                    oid: node.oid,
                    height: height(above) + 1,
                    above,
                };
                for i in inner.child_of(first)..=inner.child_of(last) {
                    let oid = inner.children()[i];
                    let child = PathNode {
                        oid,
                        cover: node.cover.child(inner, i),
                    };
                    if self.range(child, Some(&here), (first, last), each)? == Step::Need {
                        whole = Step::Need;
                    }
                    if whole == Step::Need && self.ask.is_full() {
                        return Ok(Step::Need);
                    }
                }
            }
        }
        Ok(whole)
    }
}

fn height(above: Option<&Above<'_>>) -> usize {
    above.map_or(0, |above| above.height)
}
