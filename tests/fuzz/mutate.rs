//! The mutator and the loop around it.
//!
//! Inputs are made from other inputs: bits flipped, bytes and lengths replaced, ranges cut, doubled, moved and
//! spliced, words of the format put in. Nothing is learnt from one input to the next, so that a run is told by
//! its seed and count alone.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::time::{Duration, Instant};

/// Longest input made.
const INPUT_BYTES_MAX: usize = 64 << 10;
/// Longest time for one input: far beyond what any takes, so that a busy machine does not fail the test.
const INPUT_TIME_MAX: Duration = Duration::from_secs(10);

/// A small generator (splitmix64): the same numbers for the same seed, everywhere.
pub(crate) struct Rng(u64);

impl Rng {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(crate) fn word(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `n`, 0 when there is none.
    pub(crate) fn below(&mut self, n: usize) -> usize {
        usize::try_from(self.word() % n.max(1) as u64).unwrap()
    }

    pub(crate) fn byte(&mut self) -> u8 {
        self.word().to_be_bytes()[0]
    }

    pub(crate) fn pick<'a, T>(&mut self, all: &'a [T]) -> &'a T {
        &all[self.below(all.len())]
    }

    /// A range within `len`, mostly short.
    fn range(&mut self, len: usize) -> std::ops::Range<usize> {
        let start = self.below(len + 1);
        let limit = if self.below(8) == 0 { len } else { 16 };
        let end = start + self.below((len - start).min(limit) + 1);
        start..end
    }
}

/// Changes an input in one to eight ways.
pub(crate) fn mutate(rng: &mut Rng, input: &mut Vec<u8>, others: &[Vec<u8>], words: &[&[u8]]) {
    for _ in 0..1 << rng.below(4) {
        step(rng, input, others, words);
        input.truncate(INPUT_BYTES_MAX);
    }
}

fn step(rng: &mut Rng, input: &mut Vec<u8>, others: &[Vec<u8>], words: &[&[u8]]) {
    let len = input.len();
    let at = rng.below(len);
    let odd = [0, 1, 2, 7, 8, 9, 0x7f, 0x80, 0xfe, 0xff];
    match rng.below(12) {
        0 if len > 0 => input[at] ^= 1 << rng.below(8),
        1 if len > 0 => input[at] = rng.byte(),
        2 if len > 0 => input[at] = *rng.pick(&odd),
        3 if len > 0 => input[at] = input[at].wrapping_add(1).wrapping_sub(2 * (rng.byte() & 1)),
        4 => drop(input.drain(rng.range(len))),
        5 => {
            let piece = input[rng.range(len)].to_vec();
            let times = if rng.below(20) == 0 {
                1 << rng.below(10)
            } else {
                1
            };
            input.splice(at..at, piece.repeat(times));
        }
        6 => input.truncate(at),
        7 => {
            let other = rng.pick(others);
            let piece = &other[rng.range(other.len())];
            input.splice(rng.range(len), piece.iter().copied());
        }
        8 => {
            let other = rng.pick(others);
            input.truncate(at);
            input.extend_from_slice(&other[rng.below(other.len())..]);
        }
        9 if len >= 8 => {
            // A length or an oid, either byte order.
            let number = match rng.below(4) {
                0 => rng.word() >> rng.below(64),
                1 => u64::MAX >> rng.below(64),
                2 => 1 << rng.below(64),
                _ => rng.below(300) as u64,
            };
            let width = 1 << rng.below(4);
            let at = rng.below(len - width + 1);
            match rng.below(2) {
                0 => input[at..at + width].copy_from_slice(&number.to_le_bytes()[..width]),
                _ => input[at..at + width].copy_from_slice(&number.to_be_bytes()[8 - width..]),
            }
        }
        _ => {
            let word = rng.pick(words);
            let range = if rng.below(2) == 0 {
                at..at
            } else {
                at..(at + word.len()).min(len)
            };
            input.splice(range, word.iter().copied());
        }
    }
}

/// How many inputs to make, and from which seed.
pub(crate) fn plan() -> (u64, u64) {
    let number = |name, default| {
        let text = std::env::var(name).ok();
        text.map_or(default, |text| text.parse().expect("a number"))
    };
    (number("ZRING_FUZZ", 20_000), number("ZRING_FUZZ_SEED", 1))
}

/// The corpus of a decoder, with what the caller adds.
pub(crate) fn corpus(decoder: &str, mut inputs: Vec<Vec<u8>>) -> Vec<Vec<u8>> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/fuzz/corpus")
        .join(decoder);
    let mut paths: Vec<_> = std::fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    paths.sort();
    inputs.extend(paths.iter().map(|path| std::fs::read(path).unwrap()));
    inputs
}

/// Runs a check on the corpus, then on inputs made from it. The check says whether the input was sound.
pub(crate) fn run(
    decoder: &str,
    inputs: &[Vec<u8>],
    words: &[&[u8]],
    check: impl Fn(&[u8]) -> bool,
) {
    let (count, seed) = plan();
    let mut rng = Rng::new(seed);
    let (mut sound, mut slowest) = (0u64, Duration::ZERO);
    let mut one = |input: &[u8]| {
        let start = Instant::now();
        let done = catch_unwind(AssertUnwindSafe(|| check(input)));
        slowest = slowest.max(start.elapsed());
        match done {
            Ok(fine) if slowest < INPUT_TIME_MAX => sound += u64::from(fine),
            _ => keep(decoder, seed, input),
        }
    };
    inputs.iter().for_each(|input| one(input));
    for _ in 0..count {
        let mut input = rng.pick(inputs).clone();
        mutate(&mut rng, &mut input, inputs, words);
        one(&input);
    }
    let corpus = inputs.len();
    println!(
        "{decoder}: seed {seed}, corpus {corpus}, {count} inputs, {sound} sound, slowest {slowest:?}"
    );
}

/// Ends the test with an input that failed.
fn keep(decoder: &str, seed: u64, input: &[u8]) -> ! {
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("fuzz-{decoder}-{seed}.bin"));
    std::fs::write(&path, input).unwrap();
    panic!(
        "{decoder} fails, seed {seed}, input in {}: {}",
        path.display(),
        input.escape_ascii()
    );
}

/// Peak memory of this process in bytes.
pub(crate) fn memory_peak() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:"))
        .unwrap();
    line.trim()
        .trim_end_matches(" kB")
        .parse::<usize>()
        .unwrap()
        << 10
}
