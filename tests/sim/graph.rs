//! Who waits for whom: what I3 says, as a graph.
//!
//! ```text
//!   request --> load          a parked task (the only thing a request of a file waits for)
//!   OPEN --> keeper           what is kept of a file is stored first
//!   advance --> dropper       a drop that is queued or under way
//!   dropper --> storer        a store under way of what is dropped
//!   READ --> client       some block of it is pinned there first
//!   client --> OPEN       of what it is to map, by the thread that serves its link
//!   dropper, storer, keeper --> READ      the page it has come to is locked
//! ```
//!
//! Loads, and workers between two steps, wait for nobody. A thread does one thing after the other: who waits for a thread
//! waits for what it is at.

/// Who waits, or is waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Node {
    /// LOOKUP, GETATTR or READ.
    Request(u64),
    Open(u64),
    Load,
    Advance,
    Dropper,
    Storer,
    Keeper,
    /// A client that watches.
    Client(u64),
}

/// The first waits for the second.
pub(crate) type Wait = (Node, Node);

/// All that one waits for, in the end, or up to clients.
fn reach(waits: &[Wait], from: Node, beyond: bool) -> Vec<Node> {
    let (mut path, mut next) = (vec![from], 0);
    while next < path.len() {
        let node = path[next];
        next += 1;
        if matches!(node, Node::Client(_)) && !beyond && node != from {
            continue;
        }
        for &(_, to) in waits.iter().filter(|(from, _)| *from == node) {
            // Whoever waits for itself stands there twice.
            if to == from || !path.contains(&to) {
                path.push(to);
            }
            if to == from {
                return path;
            }
        }
    }
    path
}

/// A wait that must not be. `is_head` tells READs of head, `is_own` those of pages that are dropped.
pub(crate) fn offence(
    waits: &[Wait],
    is_head: impl Fn(u64) -> bool,
    is_own: impl Fn(u64) -> bool,
) -> Option<String> {
    for &(from, _) in waits {
        let whole = reach(waits, from, true);
        let is_circle = whole[1..].contains(&from);
        if is_circle {
            return Some(format!("a circle: {whole:?}"));
        }
        let path = reach(waits, from, false);
        let is_direct = |to: Node| waits.contains(&(from, to));
        let wrong = |node: &Node| match (from, node) {
            (Node::Request(_), Node::Request(_) | Node::Open(_)) => true,
            (Node::Request(_) | Node::Open(_), Node::Advance | Node::Dropper | Node::Storer) => {
                true
            }
            (Node::Request(_), Node::Keeper) => true,
            (Node::Open(_), Node::Request(read)) => is_head(*read),
            (Node::Advance, Node::Request(read)) => !is_own(*read),
            (Node::Advance, Node::Keeper) => true,
            (Node::Request(_), Node::Client(_)) => !is_direct(*node),
            (Node::Open(_) | Node::Keeper, Node::Client(_)) => true,
            (Node::Client(_), Node::Request(read)) => is_head(*read),
            (Node::Client(_), Node::Advance | Node::Dropper | Node::Storer | Node::Client(_)) => {
                true
            }
            _ => false,
        };
        if let Some(node) = path[1..].iter().find(|node| wrong(node)) {
            return Some(format!("{from:?} waits for {node:?}: {waits:?}"));
        }
    }
    None
}

#[test]
fn a_circle_is_seen_however_long() {
    let around = [
        (Node::Advance, Node::Dropper),
        (Node::Dropper, Node::Storer),
        (Node::Storer, Node::Request(7)),
    ];
    let check = |waits: &[Wait], own| offence(waits, |_| true, |read| read == own);
    assert_eq!(check(&around, 7), None);
    assert!(check(&around, 8).unwrap().contains("Advance waits"));
    let closed = [&around[..], &[(Node::Request(7), Node::Advance)]].concat();
    assert!(check(&closed, 7).unwrap().contains("circle"));
    let other = [&around[..], &[(Node::Request(8), Node::Advance)]].concat();
    assert!(
        check(&other, 7).is_some(),
        "it waits, though not for itself"
    );
    let open = [
        (Node::Open(3), Node::Keeper),
        (Node::Keeper, Node::Request(4)),
    ];
    assert!(offence(&open, |_| true, |_| true).is_some());
    assert_eq!(offence(&open, |_| false, |_| true), None);
}
