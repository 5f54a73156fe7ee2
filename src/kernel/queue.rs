//! FUSE over io_uring: the entries of the queues a worker owns.
//!
//! An entry is a header block and a payload buffer that the kernel remembers by address. It is in one of two
//! states:
//!
//! ```text
//!   Armed (the kernel's)  --completion-->  Held (ours)
//!         ^                                   |
//!         +------ commit-and-fetch -----------+      one command answers and arms again
//! ```
//!
//! Requests of a CPU come only to the queue of that CPU, so a queue whose entries are all parked is deaf:
//! whenever fewer than [`FREE_MIN`] are armed, a group more is registered. Entries belong to their queue for
//! ever. Buffers are mapped lazily: a parked entry costs the pages its request touched.
//!
//! A queue that ran dry keeps what came meanwhile: the kernel hands a waiting request to an entry at a commit of that
//! queue, never at a REGISTER. Its owner then *kicks* it: a RETRIEVE of no bytes, written on the queue's CPU, whose answer
//! takes an entry and whose commit fetches one waiting request; and again until nothing waits (kernel-note 0011).
//!
//! kernel-note 0002 (every possible CPU needs an entry), 0005 (what still comes by `/dev/fuse`)

use super::held::Held;
use super::ring::{self, Ring};
use crate::base::{NodeId, Unique, limit};
use crate::wire::fuse::abi::{self, RingBlock, ring_cmd};
use crate::wire::fuse::notify::RetrieveId;
use crate::wire::fuse::reply;
use crate::wire::fuse::request::Parts;
use memmap2::MmapMut;
use std::io;

/// Fewer armed entries than this and a queue gets more.
pub const FREE_MIN: usize = 8;
/// Entries registered together; their header blocks share the first pages of one mapping.
const GROUP: usize = 16;
/// Distance of header blocks: 288 rounded up so that a group fills whole pages.
const BLOCK_STRIDE: usize = 512;
/// Bytes of a group's header blocks.
const BLOCKS: usize = GROUP * BLOCK_STRIDE;

const _: () = assert!(BLOCKS.is_multiple_of(4096) && size_of::<RingBlock>() <= BLOCK_STRIDE);

/// The completion of a REGISTER or of a commit said that the queues are of no use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// Unmounted or aborted.
    Gone,
    /// The kernel refused an entry; the connection goes on by `/dev/fuse`.
    Register(i32),
}

/// Entries registered together: one mapping, a page of header blocks and then the payloads.
struct Group {
    map: MmapMut,
    /// What REGISTER reads: block and payload of each entry.
    iovecs: Box<[[libc::iovec; 2]; GROUP]>,
}

/// One entry, whichever its state.
struct Entry {
    qid: u16,
    armed: bool,
    /// Named by the kernel at fetch, needed for the commit.
    commit_id: u64,
    unique: Unique,
    /// Committed for a kick in this turn: what it fetches by the next one had been waiting.
    kicked: Option<u64>,
}

/// All queues of one worker.
pub struct Queues {
    payload_len: usize,
    groups: Vec<Group>,
    entries: Vec<Entry>,
    /// The queues it has.
    qids: Vec<u16>,
    /// Armed entries, and all entries, of each queue, by qid.
    armed: Vec<usize>,
    total: Vec<usize>,
    /// The queue of the CPU its thread is pinned to.
    own: u16,
    turn: u64,
    /// Queues of which requests may be waiting in the kernel, by qid.
    dry: Vec<bool>,
    /// The file of the last request that was about one.
    last_file: Option<NodeId>,
    /// A queue runs short of armed entries, and there was no memory for more.
    is_starved: bool,
}

impl std::fmt::Debug for Queues {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "Queues({} entries, armed {:?})",
            self.entries.len(),
            self.armed
        )
    }
}

impl Queues {
    /// Registers a first group of entries for each of `qids`.
    ///
    /// # Errors
    /// No memory for the buffers.
    pub fn new(
        ring: &mut Ring,
        (own, qids): (u16, &[u16]),
        payload_len: usize,
        data: impl Fn(u32) -> u64,
    ) -> io::Result<Self> {
        let queues = qids.iter().max().map_or(0, |&q| usize::from(q) + 1);
        let mut this = Self {
            payload_len,
            groups: Vec::new(),
            entries: Vec::new(),
            qids: qids.to_vec(),
            armed: vec![0; queues],
            total: vec![0; queues],
            own,
            turn: 0,
            dry: vec![false; queues],
            last_file: None,
            is_starved: false,
        };
        for &qid in qids {
            this.grow(ring, qid, &data)?;
        }
        Ok(this)
    }

    /// Registers one more group for `qid`.
    fn grow(&mut self, ring: &mut Ring, qid: u16, data: &impl Fn(u32) -> u64) -> io::Result<()> {
        let mut map = MmapMut::map_anon(BLOCKS + GROUP * self.payload_len)?;
        let base = map.as_mut_ptr();
        let iovecs = Box::new(std::array::from_fn(|i| {
            let at = |offset: usize, len: usize| libc::iovec {
                iov_base: base.wrapping_add(offset).cast(),
                iov_len: len,
            };
            [
                at(i * BLOCK_STRIDE, size_of::<RingBlock>()),
                at(BLOCKS + i * self.payload_len, self.payload_len),
            ]
        }));
        self.groups.push(Group { map, iovecs });
        for _ in 0..GROUP {
            let index = u32::try_from(self.entries.len()).expect("bounded by QUEUE_ENTRIES_MAX");
            self.entries.push(Entry {
                qid,
                armed: true,
                commit_id: 0,
                unique: Unique(0),
                kicked: None,
            });
            self.register(ring, index, data(index));
        }
        self.armed[usize::from(qid)] += GROUP;
        self.total[usize::from(qid)] += GROUP;
        Ok(())
    }

    fn register(&self, ring: &mut Ring, index: u32, data: u64) {
        let (group, i) = self.place(index);
        let iovecs = std::ptr::from_ref(&self.groups[group].iovecs[i]) as u64;
        let qid = self.entries[index as usize].qid;
        let entry = ring::fuse_cmd(ring_cmd::REGISTER, qid, 0, iovecs, data);
        // SAFETY: block, payload and the vectors that name them lie in a group, which is never taken apart and is leaked at the end
        // (`Port::drop`); of an armed entry nothing is touched until it completes.
        unsafe { ring.push(entry) }
    }

    fn place(&self, index: u32) -> (usize, usize) {
        (index as usize / GROUP, index as usize % GROUP)
    }

    /// An entry completed: its request is now held, or the queues have ended.
    pub(super) fn completed(
        &mut self,
        ring: &mut Ring,
        index: u32,
        res: i32,
        data: u64,
    ) -> Result<Option<Held>, Refusal> {
        match -res {
            0 => {}
            // Not initialised yet, or interrupted: the same entry once more.
            libc::EAGAIN | libc::EINTR => {
                self.register(ring, index, data);
                return Ok(None);
            }
            libc::ENOTCONN | libc::ECONNABORTED | libc::ECANCELED => return Err(Refusal::Gone),
            errno => return Err(Refusal::Register(errno)),
        }
        let (group, i) = self.place(index);
        let block = &self.groups[group].map[i * BLOCK_STRIDE..];
        let commit_id = u64::from_ne_bytes(block[264..272].try_into().expect("8 bytes"));
        let unique = u64::from_ne_bytes(block[8..16].try_into().expect("8 bytes"));
        let entry = &mut self.entries[index as usize];
        assert!(entry.armed, "BUG: an entry completed twice");
        entry.armed = false;
        entry.commit_id = commit_id;
        entry.unique = Unique(unique);
        let waited = entry
            .kicked
            .take()
            .is_some_and(|turn| turn + 1 >= self.turn);
        let qid = usize::from(entry.qid);
        self.armed[qid] -= 1;
        self.dry[qid] |= waited;
        if unique == RetrieveId::KICK.unique() {
            self.commit(ring, index, Ok(0), data);
            self.entries[index as usize].kicked = Some(self.turn);
            return Ok(None);
        }
        if let Some(head) = abi::read::<abi::InHeader>(block)
            && matches!(head.opcode, abi::op::READ | abi::op::WRITE | abi::op::OPEN)
        {
            self.last_file = Some(NodeId(head.nodeid));
        }
        Ok(Some(Held::entry(index)))
    }

    /// Before a wait, when all that could be answered is: registers more entries for every queue that runs short of
    /// armed ones. True when a queue wants a kick, once what is queued has been submitted.
    ///
    /// Without memory for them there are no more now: what is answered arms its entry again, and each wait tries anew.
    pub(super) fn prepare(&mut self, ring: &mut Ring, data: impl Fn(u32) -> u64) -> bool {
        self.turn += 1;
        self.is_starved = false;
        for i in 0..self.qids.len() {
            let qid = self.qids[i];
            let short = self.armed[usize::from(qid)] < FREE_MIN;
            if short && self.entries.len() < limit::QUEUE_ENTRIES_MAX {
                match self.grow(ring, qid, &data) {
                    Ok(()) => self.dry[usize::from(qid)] = true,
                    Err(_) => self.is_starved = true,
                }
            }
        }
        // What is not parked was committed, and commits fetch what waits.
        for &qid in &self.qids {
            let qid = usize::from(qid);
            self.dry[qid] &= self.armed[qid] < self.total[qid];
        }
        self.dry.contains(&true)
    }

    /// Whether the last [`Queues::prepare`] had no memory for entries that are needed.
    pub(super) fn is_starved(&self) -> bool {
        self.is_starved
    }

    /// Entries that are held.
    pub(super) fn held(&self) -> usize {
        self.entries.len()
            - self
                .qids
                .iter()
                .map(|&qid| self.armed[usize::from(qid)])
                .sum::<usize>()
    }

    /// A queue that wants a kick, and a file the kernel knows, as a kick needs.
    pub(super) fn kick(&mut self) -> Option<(u16, NodeId)> {
        let qid = *self.qids.iter().find(|&&q| self.dry[usize::from(q)])?;
        let file = self.known_file()?;
        self.dry[usize::from(qid)] = false;
        Some((qid, file))
    }

    /// The CPU its thread is pinned to.
    pub(super) fn own_cpu(&self) -> usize {
        usize::from(self.own)
    }

    /// The file of a READ that is held is known for certain. Without one, the last that was seen may have been
    /// forgotten: then the kick fails, and the queue is left to its next commit.
    fn known_file(&self) -> Option<NodeId> {
        let held = (0..).zip(&self.entries).filter(|(_, e)| !e.armed);
        held.filter_map(|(index, _)| abi::read::<abi::InHeader>(self.parts(index).header))
            .find(|head| head.opcode == abi::op::READ)
            .map(|head| NodeId(head.nodeid))
            .or(self.last_file)
    }

    /// The parts of a held request.
    pub(super) fn parts(&self, index: u32) -> Parts<'_> {
        let (group, i) = self.place(index);
        let map = &self.groups[group].map;
        let block = &map[i * BLOCK_STRIDE..];
        let sent = u32::from_ne_bytes(block[272..276].try_into().expect("4 bytes"));
        let sent = usize::try_from(sent)
            .unwrap_or(usize::MAX)
            .min(self.payload_len);
        Parts {
            header: &block[..abi::IN_HEADER_LEN],
            fixed: &block[128..256],
            rest: &map[BLOCKS + i * self.payload_len..][..sent],
        }
    }

    /// Where the reply body of a held request goes; the request's own payload is overwritten.
    pub(super) fn body(&mut self, index: u32) -> &mut [u8] {
        let (group, i) = self.place(index);
        &mut self.groups[group].map[BLOCKS + i * self.payload_len..][..self.payload_len]
    }

    /// Answers a held request and arms its entry again.
    pub(super) fn commit(
        &mut self,
        ring: &mut Ring,
        index: u32,
        outcome: Result<usize, i32>,
        data: u64,
    ) {
        let (group, i) = self.place(index);
        let entry = &mut self.entries[index as usize];
        let block = &mut self.groups[group].map[i * BLOCK_STRIDE..][..BLOCK_STRIDE];
        block[..abi::OUT_HEADER_LEN]
            .copy_from_slice(abi::bytes(&reply::header(entry.unique, outcome)));
        let len = u32::try_from(outcome.unwrap_or(0)).expect("at most the payload");
        block[272..276].copy_from_slice(&len.to_ne_bytes());
        entry.armed = true;
        self.armed[usize::from(entry.qid)] += 1;
        let cmd = ring::fuse_cmd(
            ring_cmd::COMMIT_AND_FETCH,
            entry.qid,
            entry.commit_id,
            0,
            data,
        );
        // SAFETY: as at REGISTER: the entry is armed from here on.
        unsafe { ring.push(cmd) }
    }
}
