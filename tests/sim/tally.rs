//! What the daemon was told to count of pages, held against what is there: whether it has to know a block again when it changes, and
//! which pages somebody still has to bring.

use crate::data::{PAGE, PAGES};
use crate::kernel::{Inode, Kernel, Page};
use zring::base::{NodeId, Tid};

impl Kernel {
    /// Pages were dropped because of `tid`: the daemon counts from there.
    pub(crate) fn count_anew(&mut self, node: NodeId, pages: std::ops::Range<usize>, tid: Tid) {
        if let Some(inode) = self.inodes.get_mut(&node) {
            let lost = inode.lost[pages].iter_mut();
            lost.filter(|lost| **lost < tid)
                .for_each(|lost| *lost = Tid::ZERO);
        }
    }

    /// Pages are given as of a state, by a store.
    pub(crate) fn coming(&mut self, node: NodeId, pages: std::ops::Range<usize>, others: u64) {
        if let Some(inode) = self.inodes.get_mut(&node) {
            let own = pages.filter(|page| others & 1 << page == 0);
            own.for_each(|page| inode.coming[page] += 1);
        }
    }

    /// They were given as of `at`, and do not come.
    pub(crate) fn lose(
        &mut self,
        node: NodeId,
        pages: std::ops::Range<usize>,
        at: Tid,
        others: u64,
    ) {
        if let Some(inode) = self.inodes.get_mut(&node) {
            for page in pages {
                if others & 1 << page == 0 {
                    inode.coming[page] = inode.coming[page].saturating_sub(1);
                    inode.lose(page, at);
                }
                inode.excuse(page);
            }
        }
    }

    /// The newest state of which one of these pages is.
    pub(crate) fn newest(&self, node: NodeId, pages: std::ops::Range<usize>) -> Tid {
        let inode = self.inodes.get(&node);
        let of = inode.into_iter().flat_map(|inode| {
            let there = pages
                .clone()
                .filter(|&at| matches!(inode.pages[at], Page::Cached(_)));
            there.map(|at| inode.of[at])
        });
        of.max().unwrap_or(Tid::ZERO)
    }

    /// Whether each of these pages was given once and is there.
    pub(crate) fn has_all(&self, node: NodeId, mut pages: std::ops::Range<usize>) -> bool {
        let Some(inode) = self.inodes.get(&node) else {
            return false;
        };
        inode.size >= (pages.end * PAGE) as u64
            && pages.all(|page| {
                let is_there = matches!(inode.pages[page], Page::Cached(_));
                is_there && inode.lost[page] == Tid::ZERO && inode.coming[page] == 0
            })
    }

    /// Pages of a block are stored. What went of it meanwhile is read again.
    pub(crate) fn note_gone(&mut self, node: NodeId, block: std::ops::Range<usize>, stored: u64) {
        if let Some(inode) = self.inodes.get_mut(&node) {
            let went = inode.went & !stored;
            let mut gone = block.filter(|page| went & 1 << page != 0);
            if let Some(page) = gone.next() {
                inode.excuse(page);
            }
        }
    }

    /// A page is stored of a state; false if it was before, and never went.
    pub(crate) fn note_stored(
        &mut self,
        node: NodeId,
        page: usize,
        (per_block, state): (usize, u64),
    ) -> bool {
        let Some(inode) = self.inodes.get_mut(&node) else {
            return true;
        };
        inode.per_block = per_block;
        let before = std::mem::replace(&mut inode.stored[page], state + 1);
        before != state + 1
    }

    /// Who would bring them cannot, or need not.
    pub(crate) fn excuse(&mut self, node: NodeId, pages: std::ops::Range<usize>) {
        if let Some(inode) = self.inodes.get_mut(&node) {
            for page in pages.filter(|&page| page < PAGES) {
                inode.excuse(page);
            }
        }
    }
}

impl Inode {
    /// A page went, or does not come: who reads it again touches its block for the first time.
    pub(crate) fn excuse(&mut self, page: usize) {
        self.excused |= 1 << page;
        self.went |= 1 << page;
        let first = page - page % self.per_block;
        let end = PAGES.min(first + self.per_block);
        self.stored[first..end].fill(0);
    }

    /// The daemon knows nothing of these pages any more: who reads one of them brings them all, but those that come before they are
    /// dropped.
    pub(crate) fn begin_anew(&mut self, pages: u64) {
        self.excused &= !pages;
        self.known &= !pages;
    }

    /// A page is dropped because its block changed.
    pub(crate) fn drop(&mut self, page: usize) {
        let excused = self.excused;
        self.evict(page);
        if self.known & 1 << page == 0 {
            self.excused = excused;
        }
    }

    pub(crate) fn evict(&mut self, page: usize) {
        if self.uncounted & 1 << page == 0 {
            self.lose(page, self.of[page]);
        }
        self.uncounted &= !(1 << page);
        self.excuse(page);
        self.pages[page] = Page::Absent;
    }

    pub(crate) fn give_up(&mut self, page: usize, at: Tid) {
        self.lose(page, at);
        self.excuse(page);
    }

    pub(crate) fn lose(&mut self, page: usize, at: Tid) {
        self.lost[page] = self.lost[page].max(at);
    }
}
