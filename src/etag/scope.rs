//! Which part of a tree a pass looks at: nominees, and what leads to them.
//!
//! Of a nominated file its whole directory is looked at, as that is how it is known which names are gone; of a nominated directory also all
//! below. What leads there is listed and nothing more. Nothing is concluded about the rest.

use super::nominate::Nominee;
use std::collections::BTreeSet;

/// A part of a tree.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Scope {
    /// Directories whose files are looked at.
    dirs: BTreeSet<Vec<u8>>,
    /// Directories of which everything below is looked at.
    trees: BTreeSet<Vec<u8>>,
    /// What leads to either.
    ways: BTreeSet<Vec<u8>>,
}

impl Scope {
    /// What is to be looked at for these.
    pub fn of(nominees: &[Nominee]) -> Self {
        let mut out = Self::default();
        for nominee in nominees {
            let parent = parent_of(&nominee.path);
            out.dirs.insert(parent.to_vec());
            if nominee.tree {
                out.trees.insert(nominee.path.clone());
            }
            let mut way = &nominee.path[..];
            while !way.is_empty() {
                way = parent_of(way);
                out.ways.insert(way.to_vec());
            }
        }
        out
    }

    /// Whether a directory is entered.
    pub fn enters(&self, dir: &[u8]) -> bool {
        self.ways.contains(dir) || self.holds(dir)
    }

    /// Whether the files that lie in a directory are looked at.
    pub fn looks_in(&self, dir: &[u8]) -> bool {
        self.dirs.contains(dir) || self.holds(dir)
    }

    /// Whether everything below a directory is looked at.
    pub fn holds(&self, dir: &[u8]) -> bool {
        let mut at = dir;
        loop {
            if self.trees.contains(at) {
                return true;
            }
            if at.is_empty() {
                return false;
            }
            at = parent_of(at);
        }
    }
}

fn parent_of(path: &[u8]) -> &[u8] {
    let slash = path.iter().rposition(|&c| c == b'/');
    slash.map_or(&[], |at| &path[..at])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scope(paths: &[(&str, bool)]) -> Scope {
        let nominee = |(path, tree): &(&str, bool)| Nominee {
            path: path.as_bytes().to_vec(),
            tree: *tree,
        };
        Scope::of(&paths.iter().map(nominee).collect::<Vec<_>>())
    }

    #[test]
    fn a_file_needs_its_directory_and_what_leads_there() {
        let scope = scope(&[("a/b/f", false)]);
        for dir in ["", "a", "a/b"] {
            assert!(scope.enters(dir.as_bytes()), "{dir}");
            assert_eq!(scope.looks_in(dir.as_bytes()), dir == "a/b", "{dir}");
        }
        for dir in ["a/b/c", "a/bb", "b", "a/b/f"] {
            assert!(!scope.enters(dir.as_bytes()), "{dir}");
        }
        assert!(!scope.holds(b"a/b"));
    }

    #[test]
    fn a_directory_needs_all_below_it_and_its_parent() {
        let scope = scope(&[("a/b", true), ("f", false)]);
        for dir in ["a/b", "a/b/c", "a/b/c/d"] {
            assert!(scope.holds(dir.as_bytes()) && scope.looks_in(dir.as_bytes()));
        }
        assert!(scope.looks_in(b"") && scope.looks_in(b"a") && scope.enters(b"a"));
        assert!(!scope.enters(b"a/c") && !scope.holds(b"a") && !scope.holds(b"a/bb"));
    }
}
