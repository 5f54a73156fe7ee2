//! One immutable run of the index: oid to position, sorted and packed.
//!
//! Oids are handed out in sequence, so they are cut into a prefix of 6 bytes and a suffix of 2: each prefix
//! that occurs has a bucket of up to 65536 sorted suffixes, and beside them the positions in 6 bytes each. That
//! is 8 bytes per object, the layout of a saved index, which is therefore nearly copied. Scattered oids, one
//! to a bucket, cost 24.
//!
//! A lookup guesses: a full bucket is an array, and in a bucket of n entries a suffix s stands between
//! s - (65536 - n) and s. A run that is laid over others also has a filter of 16 bits per entry, because most
//! lookups pass through it in vain.
//!
//! Who builds one: `index::Index` (commits and scans) and `savedindex`. It never changes afterwards.

use crate::base::Oid;

/// Suffixes in a full bucket.
pub(super) const BUCKET_MAX: usize = 1 << 16;
/// Bits of filter per entry: with one probe, one miss in 16 looks further in vain.
const FILTER_BITS: usize = 16;

/// A sorted run of (oid, position).
#[derive(Default)]
pub(super) struct Table {
    /// Upper 48 bits of the oids in each bucket, increasing.
    prefixes: Vec<u64>,
    /// Index of each bucket's first entry.
    starts: Vec<usize>,
    /// Lower 16 bits of each oid.
    suffixes: Vec<u16>,
    /// Position of each oid, 48 bits big-endian.
    positions: Vec<[u8; 6]>,
    /// One bit per hashed oid; empty: no filter.
    filter: Vec<u64>,
}

impl std::fmt::Debug for Table {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "Table({} oids, {} buckets)",
            self.len(),
            self.prefixes.len()
        )
    }
}

impl Table {
    /// Number of oids.
    pub(super) fn len(&self) -> usize {
        self.suffixes.len()
    }

    /// Bytes of memory.
    pub(super) fn memory(&self) -> usize {
        self.prefixes.capacity() * 16 + self.suffixes.capacity() * 8 + self.filter.capacity() * 8
    }

    /// Position of an oid.
    pub(super) fn get(&self, oid: Oid) -> Option<u64> {
        if !self.may_hold(oid) {
            return None;
        }
        let (prefix, suffix) = split(oid);
        let bucket = find_guessed(&self.prefixes, prefix)?;
        let range = self.range(bucket);
        let at = range.start + find_suffix(&self.suffixes[range], suffix)?;
        Some(unpack(self.positions[at]))
    }

    /// All entries in order of oid.
    pub(super) fn iter(&self) -> impl Iterator<Item = (Oid, u64)> + '_ {
        self.prefixes
            .iter()
            .enumerate()
            .flat_map(move |(b, &prefix)| {
                self.range(b).map(move |i| {
                    let oid = Oid(prefix << 16 | u64::from(self.suffixes[i]));
                    (oid, unpack(self.positions[i]))
                })
            })
    }

    /// All buckets: prefix, suffixes and positions.
    pub(super) fn buckets(&self) -> impl Iterator<Item = (u64, &[u16], &[[u8; 6]])> + '_ {
        self.prefixes.iter().enumerate().map(move |(b, &prefix)| {
            let range = self.range(b);
            (
                prefix,
                &self.suffixes[range.clone()],
                &self.positions[range],
            )
        })
    }

    /// The entry at an index below `len`.
    pub(super) fn nth(&self, n: usize) -> (Oid, u64) {
        let bucket = self.starts.partition_point(|&s| s <= n) - 1;
        let oid = Oid(self.prefixes[bucket] << 16 | u64::from(self.suffixes[n]));
        (oid, unpack(self.positions[n]))
    }

    /// Both in one; where they share an oid, `newer` holds.
    pub(super) fn merge(newer: &Self, older: &Self) -> Self {
        let mut out = Packer::with_capacity(newer.len() + older.len());
        let (mut new, mut old) = (newer.iter().peekable(), older.iter().peekable());
        loop {
            let entry = match (new.peek(), old.peek()) {
                (Some(n), Some(o)) if o.0 < n.0 => old.next(),
                (Some(n), Some(o)) => {
                    if n.0 == o.0 {
                        old.next();
                    }
                    new.next()
                }
                (Some(_), None) => new.next(),
                (None, _) => old.next(),
            };
            let Some((oid, pos)) = entry else { break };
            out.push(oid, pos);
        }
        out.finish()
    }

    /// The same run with a filter, to be laid over others.
    pub(super) fn with_filter(mut self) -> Self {
        let bits = (self.len() * FILTER_BITS).next_power_of_two().max(64);
        let mut filter = vec![0u64; bits / 64];
        for (oid, _) in self.iter() {
            let (slot, bit) = hash(oid, filter.len());
            filter[slot] |= bit;
        }
        self.filter = filter;
        self
    }

    fn may_hold(&self, oid: Oid) -> bool {
        if self.filter.is_empty() {
            return true;
        }
        let (slot, bit) = hash(oid, self.filter.len());
        self.filter[slot] & bit != 0
    }

    fn range(&self, bucket: usize) -> std::ops::Range<usize> {
        let end = self.starts.get(bucket + 1).map_or(self.len(), |&s| s);
        self.starts[bucket]..end
    }
}

fn split(oid: Oid) -> (u64, u16) {
    let [.., a, b] = oid.0.to_be_bytes();
    (oid.0 >> 16, u16::from_be_bytes([a, b]))
}

fn unpack(pos: [u8; 6]) -> u64 {
    let [a, b, c, d, e, f] = pos;
    u64::from_be_bytes([0, 0, a, b, c, d, e, f])
}

/// Word and bit of an oid in a filter of `words` words, a power of two.
fn hash(oid: Oid, words: usize) -> (usize, u64) {
    // Fibonacci hashing: neighbours are spread over the whole filter.
    let h = oid.0.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let slot = usize::try_from(h >> 32).unwrap_or(0) & (words - 1);
    (slot, 1 << (h >> 26 & 63))
}

/// Index of a prefix: prefixes mostly follow each other, so the first guess mostly holds.
fn find_guessed(prefixes: &[u64], prefix: u64) -> Option<usize> {
    let first = *prefixes.first()?;
    let guess = usize::try_from(prefix.checked_sub(first)?).unwrap_or(usize::MAX);
    if prefixes.get(guess) == Some(&prefix) {
        return Some(guess);
    }
    prefixes.binary_search(&prefix).ok()
}

/// Index of a suffix in a bucket of distinct, sorted ones.
fn find_suffix(bucket: &[u16], suffix: u16) -> Option<usize> {
    let s = usize::from(suffix);
    // At most s entries are smaller, and at most 65536 - n of the smaller ones are missing.
    let high = s.min(bucket.len().checked_sub(1)?);
    if bucket[high] == suffix {
        return Some(high);
    }
    let low = s.saturating_sub(BUCKET_MAX - bucket.len()).min(high);
    bucket[low..high]
        .binary_search(&suffix)
        .ok()
        .map(|i| low + i)
}

/// Builds a table from entries in increasing order of oid.
#[derive(Default)]
pub(super) struct Packer {
    table: Table,
}

impl Packer {
    pub(super) fn with_capacity(entries: usize) -> Self {
        let mut table = Table::default();
        table.suffixes.reserve_exact(entries);
        table.positions.reserve_exact(entries);
        Self { table }
    }

    /// Entries so far.
    pub(super) fn len(&self) -> usize {
        self.table.len()
    }

    /// Adds an entry; its oid is above all before it.
    pub(super) fn push(&mut self, oid: Oid, pos: u64) {
        let (prefix, suffix) = split(oid);
        let t = &mut self.table;
        if t.prefixes.last() != Some(&prefix) {
            debug_assert!(t.prefixes.last().is_none_or(|&p| p < prefix), "BUG: order");
            self.open_bucket(prefix);
        }
        let [_, _, pos @ ..] = pos.to_be_bytes();
        self.table.suffixes.push(suffix);
        self.table.positions.push(pos);
    }

    /// Adds a whole bucket as a saved index holds it: suffixes, then positions. `false` if it is out of order
    /// or names a position outside `first..end`.
    pub(super) fn push_bucket(&mut self, prefix: u64, bytes: &[u8], first: u64, end: u64) -> bool {
        let (suffixes, positions) = bytes.split_at(bytes.len() / 4);
        let (suffixes, _) = suffixes.as_chunks::<2>();
        let (positions, _) = positions.as_chunks::<6>();
        if self.table.prefixes.last().is_some_and(|&p| p >= prefix) {
            return false;
        }
        self.open_bucket(prefix);
        let from = self.table.len();
        let t = &mut self.table;
        t.suffixes
            .extend(suffixes.iter().map(|&s| u16::from_be_bytes(s)));
        t.positions.extend_from_slice(positions);
        t.suffixes[from..].is_sorted_by(|a, b| a < b)
            && positions.iter().all(|&p| (first..end).contains(&unpack(p)))
    }

    fn open_bucket(&mut self, prefix: u64) {
        self.table.prefixes.push(prefix);
        self.table.starts.push(self.table.suffixes.len());
    }

    pub(super) fn finish(mut self) -> Table {
        let t = &mut self.table;
        t.prefixes.shrink_to_fit();
        t.starts.shrink_to_fit();
        t.suffixes.shrink_to_fit();
        t.positions.shrink_to_fit();
        self.table
    }
}
