//! How fast hashing may go: bytes and files a second, and less of it at a time while the machine is under pressure.

use super::walk::locked;
use crate::kernel::proc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::{Duration, Instant};

/// What may be taken at once after a pause: a tenth of a second's, so that no second has more than a tenth too much. Threads that step back for
/// others are late by some of it now and then, and would lose what they may have.
const BURST: Duration = Duration::from_millis(100);
/// How often the pressure is looked at.
const LOOK: Duration = Duration::from_secs(1);
/// Files read at a time, per thread.
pub(super) const DEPTH: usize = 64;

/// So many of something a second: whoever takes is told when to.
#[derive(Debug)]
struct Bucket {
    each: f64,
    next: Mutex<Instant>,
}

impl Bucket {
    fn new(per_second: u64) -> Self {
        Self {
            each: 1.0 / per_second.max(1) as f64,
            next: Mutex::new(Instant::now()),
        }
    }

    /// Takes `n`; the moment from which they may be used.
    fn take(&self, n: u64) -> Instant {
        let mut next = locked(&self.next);
        let now = Instant::now();
        let earliest = now.checked_sub(BURST).unwrap_or(now);
        let begin = (*next).max(earliest);
        *next = begin + Duration::from_secs_f64(n as f64 * self.each);
        begin.max(now)
    }
}

/// All bounds of speed.
#[derive(Debug)]
pub(super) struct Throttle {
    bytes: Option<Bucket>,
    files: Option<Bucket>,
    depth: AtomicUsize,
    limit: f64,
    looked: Mutex<Instant>,
    latency: Mutex<Latency>,
}

/// Times of own reads, where the kernel does not tell its pressure.
#[derive(Debug, Default)]
struct Latency {
    calm: Option<Duration>,
    seen: Vec<Duration>,
}

impl Throttle {
    pub(super) fn new(bps: Option<u64>, files: Option<u64>, pressure: f64) -> Self {
        Self {
            bytes: bps.map(Bucket::new),
            files: files.map(Bucket::new),
            depth: AtomicUsize::new(DEPTH),
            limit: pressure,
            looked: Mutex::new(Instant::now()),
            latency: Mutex::default(),
        }
    }

    /// Takes bytes that are about to be read; when that may begin.
    pub(super) fn bytes(&self, n: u64) -> Option<Instant> {
        self.bytes.as_ref().map(|bucket| bucket.take(n))
    }

    /// Takes a file.
    pub(super) fn file(&self) -> Option<Instant> {
        self.files.as_ref().map(|bucket| bucket.take(1))
    }

    /// Files a thread may read at a time now.
    pub(super) fn depth(&self) -> usize {
        self.depth.load(Relaxed)
    }

    /// A read took so long.
    pub(super) fn took(&self, time: Duration) {
        let mut latency = locked(&self.latency);
        if latency.seen.len() < 4096 {
            latency.seen.push(time);
        }
    }

    /// Looks at the pressure, if a second went by since somebody did.
    pub(super) fn look(&self) {
        let now = Instant::now();
        {
            let mut looked = locked(&self.looked);
            if now.duration_since(*looked) < LOOK {
                return;
            }
            *looked = now;
        }
        let high = match pressure() {
            Some(share) => share > self.limit,
            None => self.is_slow(),
        };
        let depth = self.depth();
        let next = if high { depth / 2 } else { depth + 1 };
        self.depth.store(next.clamp(1, DEPTH), Relaxed);
        locked(&self.latency).seen.clear();
    }

    /// Whether own reads take far longer than they did at first.
    fn is_slow(&self) -> bool {
        let mut latency = locked(&self.latency);
        let latency = &mut *latency;
        latency.seen.sort_unstable();
        let Some(&late) = latency.seen.get(latency.seen.len() * 95 / 100) else {
            return false;
        };
        let calm = latency
            .calm
            .get_or_insert(latency.seen[latency.seen.len() / 2]);
        late > *calm * 4
    }
}

/// The higher of the pressures on disks and on processors, in percent of ten seconds.
fn pressure() -> Option<f64> {
    let of = |what: &str| some_avg10(&proc::pressure_text(what)?);
    match (of("io"), of("cpu")) {
        (Some(a), Some(b)) => Some(a.max(b)),
        (a, b) => a.or(b),
    }
}

fn some_avg10(text: &str) -> Option<f64> {
    let line = text.lines().find_map(|l| l.strip_prefix("some "))?;
    let word = line.split(' ').find_map(|w| w.strip_prefix("avg10="))?;
    word.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_gives_no_more_than_it_says() {
        let bucket = Bucket::new(1000);
        let began = Instant::now();
        let mut last = began;
        for _ in 0..100 {
            last = bucket.take(50);
        }
        // 99 takes of 50 before the last one: 4.95 s, less the burst.
        let took = last.duration_since(began).as_secs_f64();
        assert!((4.9..5.0).contains(&took), "{took}");
    }

    #[test]
    fn pressure_is_read_as_the_kernel_writes_it() {
        let text = "some avg10=12.34 avg60=1.00 avg300=0.10 total=5\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=0\n";
        assert_eq!(some_avg10(text), Some(12.34));
        assert_eq!(some_avg10("full avg10=1.00\n"), None);
    }

    #[test]
    fn reads_that_got_slow_are_pressure_where_nothing_else_tells() {
        let throttle = Throttle::new(None, None, 40.0);
        assert!(!throttle.is_slow());
        let fill = |ms| (0..100).for_each(|_| throttle.took(Duration::from_millis(ms)));
        fill(1);
        assert!(!throttle.is_slow());
        locked(&throttle.latency).seen.clear();
        fill(9);
        assert!(throttle.is_slow());
    }
}
