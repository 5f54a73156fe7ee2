//! Names under head that a worker has looked up: looked up again, they ask nothing of the tree that all workers share.
//!
//! What the tree has to know of such a look-up is that there was one more ([`super::tree::Tree::forget`]). So it is counted at the node
//! itself, as long as the kernel knows that: a node that is being forgotten, or whose ZBigFile is another one now, is none that a
//! name leads to, and the tree is asked. Names below `@<tid>` are always looked up in the tree, which notes when they were used; the
//! kernel asks for them once.
//!
//! Owned by a worker. It has as many names as the worker has nodes.

use super::tree::FileNode;
use crate::base::{Oid, Rev};
use rustc_hash::FxHashMap;
use std::sync::Arc;

/// See the module.
#[derive(Debug, Default)]
pub struct LookedUp(FxHashMap<Oid, Arc<FileNode>>);

impl LookedUp {
    /// Looks a name up again. `None` when the tree has to be asked.
    pub fn again(&self, rev: Rev, oid: Oid) -> Option<Arc<FileNode>> {
        let file = self.0.get(&oid).filter(|_| rev == Rev::Head)?;
        (!file.is_gone() && file.look_up_again()).then(|| Arc::clone(file))
    }

    /// The tree was asked, and gave this.
    pub fn note(&mut self, file: &Arc<FileNode>) {
        if file.rev == Rev::Head {
            self.0.insert(file.oid, Arc::clone(file));
        }
    }

    /// The kernel forgot a node. Its name may lead to another one by now.
    pub fn forget(&mut self, file: &FileNode) {
        if self.0.get(&file.oid).is_some_and(|of| of.id == file.id) {
            self.0.remove(&file.oid);
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use crate::base::Tid;
    use crate::fs::tree::Tree;

    const OID: Oid = Oid(1);

    fn ask(tree: &mut Tree, names: &mut LookedUp, rev: Rev) -> Arc<FileNode> {
        let file = tree.enter_file(rev, OID, Tid(5));
        names.note(&file);
        file
    }

    #[test]
    fn look_ups_count_wherever_they_are_made() {
        let (mut tree, mut dropped) = (Tree::default(), Vec::new());
        let (mut one, mut other) = (LookedUp::default(), LookedUp::default());
        let file = ask(&mut tree, &mut one, Rev::Head);
        assert_eq!(ask(&mut tree, &mut other, Rev::Head).id, file.id);
        for names in [&one, &other, &one] {
            assert_eq!(names.again(Rev::Head, OID).unwrap().id, file.id);
        }
        tree.forget(file.id, 4, &mut dropped);
        assert!(dropped.is_empty() && !file.is_gone());
        tree.forget(file.id, 1, &mut dropped);
        assert_eq!(dropped, [file.id]);
        // Who has not heard of it asks the tree, and does not lose what that gives when he hears.
        assert!(other.again(Rev::Head, OID).is_none());
        let new = ask(&mut tree, &mut other, Rev::Head);
        assert_ne!(new.id, file.id);
        other.forget(&file);
        assert_eq!(other.again(Rev::Head, OID).unwrap().id, new.id);
        other.forget(&new);
        assert!(other.again(Rev::Head, OID).is_none());
    }

    #[test]
    fn a_name_that_leads_to_another_node_is_asked_for() {
        let (mut tree, mut names) = (Tree::default(), LookedUp::default());
        let old = ask(&mut tree, &mut names, Rev::Head);
        tree.retire(OID, old.id).unwrap();
        assert!(names.again(Rev::Head, OID).is_none());
        ask(&mut tree, &mut names, Rev::Head);
        assert!(names.again(Rev::Head, OID).is_some());
        // That one look-up of the old node is all there was.
        let mut dropped = Vec::new();
        tree.forget(old.id, 1, &mut dropped);
        assert_eq!(dropped, [old.id]);
    }

    /// The tree counts the last look-up as forgotten before it says that a node is gone.
    #[test]
    fn a_node_that_is_being_forgotten_is_not_looked_up_again() {
        let (mut tree, mut names) = (Tree::default(), LookedUp::default());
        let file = ask(&mut tree, &mut names, Rev::Head);
        assert_eq!(file.forget(1), 0);
        assert!(!file.is_gone() && names.again(Rev::Head, OID).is_none());
        assert_eq!(ask(&mut tree, &mut names, Rev::Head).id, file.id);
        assert!(names.again(Rev::Head, OID).is_some());
    }

    #[test]
    fn names_of_revisions_are_the_trees() {
        let (mut tree, mut names) = (Tree::default(), LookedUp::default());
        let rev = Rev::At(Tid(7));
        ask(&mut tree, &mut names, rev);
        assert!(names.again(rev, OID).is_none());
        assert!(names.again(Rev::Head, OID).is_none());
    }
}
