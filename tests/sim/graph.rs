//! Who waits for whom: what I3 says, as a graph.
//!
//! ```text
//!   READ --> load             a parked task (the only one that is right)
//!   READ --> advance          none in a daemon that is right
//!   advance --> notice n      a drop that is queued or under way
//!   notice n --> notice n-1   one at a time, in order; number 0 is under way
//!   notice 0 --> READ         the page it has come to is locked
//! ```
//!
//! Loads, and workers between two steps, wait for nobody.

/// An edge.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wait {
    ReadForLoad(u64),
    ReadForAdvance(u64),
    /// A parked READ that nothing will wake.
    ReadForNothing(u64),
    AdvanceForNotice(usize),
    NoticeForNotice(usize),
    NoticeForRead(u64),
}

/// A node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Node {
    Read(u64),
    Load,
    Advance,
    Notice(usize),
}

fn edge(wait: Wait) -> Option<(Node, Node)> {
    Some(match wait {
        Wait::ReadForLoad(read) => (Node::Read(read), Node::Load),
        Wait::ReadForAdvance(read) => (Node::Read(read), Node::Advance),
        Wait::ReadForNothing(_) => return None,
        Wait::AdvanceForNotice(i) => (Node::Advance, Node::Notice(i)),
        Wait::NoticeForNotice(i) => (Node::Notice(i), Node::Notice(i - 1)),
        Wait::NoticeForRead(read) => (Node::Notice(0), Node::Read(read)),
    })
}

/// A parked READ that nothing will wake.
pub(crate) fn read_without_load(waits: &[Wait]) -> Option<u64> {
    waits.iter().find_map(|wait| match wait {
        Wait::ReadForNothing(read) => Some(*read),
        _ => None,
    })
}

/// A way from a READ to an advance, a notification, or back to itself.
pub(crate) fn offence(waits: &[Wait]) -> Option<String> {
    let starts = waits.iter().filter_map(|&wait| edge(wait));
    let reads = starts.filter(|(from, _)| matches!(from, Node::Read(_)));
    for (read, _) in reads {
        let (mut path, mut open) = (vec![read], vec![read]);
        while let Some(node) = open.pop() {
            for (_, to) in waits
                .iter()
                .filter_map(|&w| edge(w))
                .filter(|e| e.0 == node)
            {
                if to == read {
                    return Some(format!("a circle: {path:?}"));
                }
                if !path.contains(&to) {
                    path.push(to);
                    open.push(to);
                }
            }
        }
        if path
            .iter()
            .any(|node| matches!(node, Node::Advance | Node::Notice(_)))
        {
            return Some(format!("{path:?}"));
        }
    }
    None
}

#[test]
fn a_circle_is_seen_however_long() {
    let around = [
        Wait::AdvanceForNotice(2),
        Wait::NoticeForNotice(1),
        Wait::NoticeForNotice(2),
        Wait::NoticeForRead(7),
    ];
    assert_eq!(offence(&around), None);
    let closed = [&around[..], &[Wait::ReadForAdvance(7)]].concat();
    assert!(offence(&closed).unwrap().contains("circle"));
    let other = [&around[..], &[Wait::ReadForAdvance(8)]].concat();
    assert!(offence(&other).is_some(), "it waits, though not for itself");
}
