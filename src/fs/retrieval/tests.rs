//! A kernel that has some pages of a file, asked for blocks of it.
#![allow(clippy::unwrap_used, reason = "tests")]

use super::*;
use crate::base::Tid;
use crate::fs::pagecache::{PAGE, hashes, seen};

const NODE: NodeId = NodeId(70);
const SIZES: Sizes = Sizes {
    page: PAGE as u64,
    run: 4 * PAGE as u64,
    piece: 8 * PAGE as u64,
};

fn word(state: &mut u64) -> u64 {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    *state
}

/// What it has of each page: `None`, or a byte that fills it.
struct Kernel {
    pages: Vec<Option<u8>>,
    asked: usize,
}

impl Kernel {
    /// Consecutive pages, as far as it has them, in parts of a block.
    fn answer(&mut self, ask: &Ask, blksize: u64) -> (Vec<Bytes>, Vec<u64>) {
        self.asked += 1;
        let page = |at: u64| usize::try_from(at).unwrap() / PAGE;
        let pages = &self.pages[page(ask.span.0)..page(ask.span.0 + ask.span.1)];
        let data: Vec<u8> = pages
            .iter()
            .map_while(|page| page.map(|byte| [byte; PAGE]))
            .collect::<Vec<_>>()
            .concat();
        let parts = data.chunks(usize::try_from(blksize).unwrap());
        let parts = parts.map(Bytes::copy_from_slice).collect();
        (parts, hashes(&data).collect())
    }
}

/// The pages of a block as they were given.
fn given(blk: u64, pages: u64) -> Vec<u8> {
    let pages = blk * pages..(blk + 1) * pages;
    pages.flat_map(|page| [fill(page); PAGE]).collect()
}

fn fill(page: u64) -> u8 {
    u8::try_from(page % 251).unwrap() + 1
}

fn kernel(pages: u64) -> Kernel {
    Kernel {
        pages: (0..pages).map(|page| Some(fill(page))).collect(),
        asked: 0,
    }
}

fn add(retrieval: &mut Retrieval, blk: u64, pages: u64) {
    let block = (NODE, BlkNo(blk), pages * SIZES.page);
    let given = seen(0, &given(blk, pages));
    retrieval.add(Oid(1), block, given);
}

/// Asks for all, in the order that answers come in last in first out.
fn ask_all(retrieval: &mut Retrieval, kernel: &mut Kernel, blksize: u64) {
    let mut open = Vec::new();
    loop {
        open.extend(std::iter::from_fn(|| retrieval.next_ask()));
        let Some(ask) = open.pop() else { break };
        assert!(!retrieval.is_done());
        let (parts, hashes) = kernel.answer(&ask, blksize);
        retrieval.came(ask.id, ask.span.0, parts.into_iter(), &hashes);
    }
    assert!(retrieval.is_done());
}

/// Blocks that are right; none is late.
fn right(retrieval: &mut Retrieval) -> Vec<u64> {
    let right = right_by_now(retrieval);
    retrieval.end(|_, blk| panic!("{blk} is late"));
    right
}

fn right_by_now(retrieval: &mut Retrieval) -> Vec<u64> {
    // Their numbers, for their revisions.
    let blks = retrieval.blocks.iter().skip(retrieval.revs);
    let blks: Vec<_> = blks
        .map(|block| Some(Tid(block.off / block.blksize)))
        .collect();
    retrieval.are_of(blks);
    let right = retrieval.whole().filter(|whole| whole.is_right);
    let mut right: Vec<u64> = right.map(|whole| whole.place.1.0).collect();
    right.sort_unstable(); // they come in any order
    right
}

#[test]
fn neighbours_are_asked_for_together_as_far_as_a_run_goes() {
    let mut retrieval = Retrieval::new(SIZES);
    for blk in [0, 1, 2, 3, 4, 5, 7] {
        add(&mut retrieval, blk, 1);
    }
    let asks: Vec<_> = std::iter::from_fn(|| retrieval.next_ask()).collect();
    let spans: Vec<_> = asks.iter().map(|ask| ask.span).collect();
    let page = SIZES.page;
    let runs = [(0, 4 * page), (4 * page, 2 * page), (7 * page, page)];
    assert_eq!(spans, runs);
    // Blocks of another file, or of another length, are nobody's neighbours; a large one is asked for in pieces.
    let mut retrieval = Retrieval::new(SIZES);
    add(&mut retrieval, 0, 1);
    let other = (NodeId(71), BlkNo(1), page);
    retrieval.add(Oid(2), other, Seen::default());
    retrieval.add(Oid(2), (NodeId(71), BlkNo(1), 2 * page), Seen::default());
    add(&mut retrieval, 1, 20);
    let asks: Vec<_> = std::iter::from_fn(|| retrieval.next_ask()).collect();
    let spans: Vec<_> = asks.iter().map(|ask| ask.span).collect();
    let pieces = [
        (20 * page, 8 * page),
        (28 * page, 8 * page),
        (36 * page, 4 * page),
    ];
    let small = [(0, page), (page, page), (2 * page, 2 * page)];
    assert_eq!(spans, [&small[..], &pieces].concat());
}

#[test]
fn who_is_behind_a_missing_page_is_asked_for_alone() {
    let (mut retrieval, mut kernel) = (Retrieval::new(SIZES), kernel(8));
    kernel.pages[1] = None;
    (0..8).for_each(|blk| add(&mut retrieval, blk, 1));
    ask_all(&mut retrieval, &mut kernel, SIZES.page);
    assert_eq!(kernel.asked, 2 + 2);
    assert_eq!(right(&mut retrieval), [0, 2, 3, 4, 5, 6, 7]);
}

/// The slow twin: a block is right when the kernel has all of its pages, as they were given.
#[test]
fn blocks_are_right_when_the_kernel_has_all_of_them() {
    let mut state = 0x9e37_79b9_7f4a_7c15;
    for round in 0..3000 {
        let pages = [1, 1, 2, 3, 4, 5, 9, 17][round % 8];
        let (blks, rarely) = (1 + word(&mut state) % 12, 2 + word(&mut state) % 40);
        let mut kernel = kernel(blks * pages);
        for page in &mut kernel.pages {
            match word(&mut state) % rarely {
                0 => *page = None,
                1 if rarely > 9 => *page = Some(0), // nobody gave that
                _ => {}
            }
        }
        let mut retrieval = Retrieval::new(SIZES);
        let mut twin = Vec::new();
        for blk in 0..blks {
            if word(&mut state).is_multiple_of(5) {
                continue;
            }
            add(&mut retrieval, blk, pages);
            let all = blk * pages..(blk + 1) * pages;
            let has = |page: u64| kernel.pages[usize::try_from(page).unwrap()] == Some(fill(page));
            twin.extend(all.into_iter().all(has).then_some(blk));
        }
        ask_all(&mut retrieval, &mut kernel, pages * SIZES.page);
        assert_eq!(right(&mut retrieval), twin, "round {round}");
        assert_eq!(retrieval.whole().count(), 0);
    }
}

#[test]
fn what_is_refused_is_named_and_what_is_late_once() {
    let mut retrieval = Retrieval::new(SIZES);
    (0..6).for_each(|blk| add(&mut retrieval, blk, 1));
    add(&mut retrieval, 2, 20);
    let asks: Vec<_> = std::iter::from_fn(|| retrieval.next_ask()).collect();
    let named = |blks: &[u64]| -> Vec<_> { blks.iter().map(|&b| (Oid(1), BlkNo(b))).collect() };
    assert_eq!(retrieval.refused(asks[0].id), named(&[0, 1, 2, 3]));
    assert_eq!(retrieval.refused(asks[0].id), []);
    let (parts, hashes) = kernel(60).answer(&asks[1], SIZES.page);
    retrieval.came(
        asks[1].id,
        asks[1].span.0,
        parts.clone().into_iter(),
        &hashes,
    );
    retrieval.came(asks[1].id, asks[1].span.0, parts.into_iter(), &hashes); // nobody asked for that
    assert_eq!(right_by_now(&mut retrieval), [4, 5]);
    let mut late = Vec::new();
    retrieval.end(|oid, blk| late.push((oid, blk)));
    assert_eq!(late, named(&[2]), "three pieces of one block");
    assert!(retrieval.is_done());
}

/// They are put away as they come, each once; of what has no revision nothing is.
#[test]
fn what_came_is_whole_before_the_rest_comes() {
    let (mut retrieval, mut kernel) = (Retrieval::new(SIZES), kernel(8));
    for blk in [0, 2, 4, 6] {
        add(&mut retrieval, blk, 1);
    }
    let asks: Vec<_> = std::iter::from_fn(|| retrieval.next_ask()).collect();
    retrieval.are_of([Some(Tid(7)), None, Some(Tid(8)), None]);
    let mut come = |retrieval: &mut Retrieval, at: usize| {
        let (parts, hashes) = kernel.answer(&asks[at], SIZES.page);
        retrieval.came(asks[at].id, asks[at].span.0, parts.into_iter(), &hashes);
        let whole = retrieval.whole().map(|whole| (whole.place, whole.off));
        whole.collect::<Vec<_>>()
    };
    assert_eq!(
        come(&mut retrieval, 2),
        [((Oid(1), Tid(8)), 4 * SIZES.page)]
    );
    assert_eq!(come(&mut retrieval, 1), []);
    assert_eq!(come(&mut retrieval, 0), [((Oid(1), Tid(7)), 0)]);
    assert!(!retrieval.is_done());
    assert_eq!(come(&mut retrieval, 3), []);
    assert!(right(&mut retrieval).is_empty());
}

#[test]
fn the_rest_of_a_block_that_is_refused_is_not_asked_for() {
    let mut retrieval = Retrieval::new(SIZES);
    add(&mut retrieval, 0, 20);
    let ask = retrieval.next_ask().unwrap();
    assert_eq!(retrieval.refused(ask.id).len(), 1);
    assert_eq!(retrieval.next_ask(), None);
    assert!(retrieval.is_done());
    assert!(right(&mut retrieval).is_empty());
}

/// D2: whatever the kernel gives back, only what it was given is kept.
#[test]
fn d02_pages_that_are_not_what_was_given_are_not_kept() {
    let page = |byte: u8| vec![byte; PAGE];
    let block = [page(7), page(8)].concat();
    let came = |off: u64, parts: &[&[u8]]| {
        let mut retrieval = Retrieval::new(SIZES);
        let at = (NODE, BlkNo(1), 2 * SIZES.page);
        retrieval.add(Oid(1), at, seen(0, &block));
        let id = retrieval.next_ask().unwrap().id;
        let hashes = hashes(&parts.concat()).collect::<Vec<_>>();
        let parts = parts.iter().map(|part| Bytes::copy_from_slice(part));
        retrieval.came(id, off, parts, &hashes);
        right(&mut retrieval).len()
    };
    let off = 2 * SIZES.page;
    assert_eq!(came(off, &[&block]), 1);
    // A page nobody filled, pages in each other's place, less than all, nothing, from elsewhere, of another block length.
    assert_eq!(came(off, &[&[page(7), page(0)].concat()]), 0);
    assert_eq!(came(off, &[&[page(8), page(7)].concat()]), 0);
    assert_eq!(came(off, &[&block[..PAGE]]), 0);
    assert_eq!(came(off, &[&block[..PAGE + 100]]), 0);
    assert_eq!(came(off, &[]), 0);
    assert_eq!(came(0, &[&block]), 0);
    assert_eq!(came(off, &[&page(7), &page(8)]), 0);
}

/// Pieces of a large block, in whatever order.
#[test]
fn d02_pieces_in_each_others_place_are_not_kept() {
    for order in [[0, 1, 2], [2, 0, 1], [1, 2, 0]] {
        let (mut retrieval, mut kernel) = (Retrieval::new(SIZES), kernel(20));
        add(&mut retrieval, 0, 20);
        let asks: Vec<_> = std::iter::from_fn(|| retrieval.next_ask()).collect();
        for at in order {
            let (parts, hashes) = kernel.answer(&asks[at], 20 * SIZES.page);
            retrieval.came(asks[at].id, asks[at].span.0, parts.into_iter(), &hashes);
        }
        assert_eq!(right(&mut retrieval), [0], "{order:?}");
    }
    let (mut retrieval, mut kernel) = (Retrieval::new(SIZES), kernel(20));
    add(&mut retrieval, 0, 20);
    let asks: Vec<_> = std::iter::from_fn(|| retrieval.next_ask()).collect();
    for (of, by) in [(0, 1), (1, 0), (2, 2)] {
        let (parts, hashes) = kernel.answer(&asks[by], 20 * SIZES.page);
        retrieval.came(asks[of].id, asks[of].span.0, parts.into_iter(), &hashes);
    }
    assert!(right(&mut retrieval).is_empty());
}
