//! What names in the mount stand for: read by their form and their directory alone, before anybody knows whether they are there.

use super::tree::{Node, fixed};
use crate::base::{NodeId, Oid, Rev, Tid};
use crate::wire::quote::quoted;

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
}
