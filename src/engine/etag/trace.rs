//! What a start did: its phases, what each asked of file systems, every open by itself.
//!
//! [`Trace::begin`] has the counting of `kernel::calls` tell it each open and each slow call; [`Trace::phase`] closes one phase and opens the next,
//! so phases follow each other without a gap. [`Trace::end`] gives the [`Report`], which can be written as a trace that Chrome and Perfetto
//! read ([`Report::chrome`]): a track for each thread, a span for each phase, one for the time in which a thread opened things, counters at
//! the end of each phase, and an instant for each open.
//!
//! One trace per process: counting cannot be told to stop telling.

use super::walk::locked;
use crate::base::limit::TRACE_CALLS_MAX;
use crate::kernel::calls::{self, Call, Class, Count, Counts};
use crate::kernel::proc;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// A call that was told of by itself.
#[derive(Clone, Debug)]
pub struct Told {
    /// Its kind.
    pub count: Count,
    /// Of what.
    pub path: PathBuf,
    /// Since the start.
    pub at: Duration,
    /// How long it took.
    pub took: Duration,
    /// The thread that made it.
    pub tid: i32,
}

/// What a phase did.
#[derive(Clone, Debug)]
pub struct Phase {
    /// Its name.
    pub name: &'static str,
    /// Since the start.
    pub at: Duration,
    /// How long it took.
    pub wall: Duration,
    /// Processor time of all threads.
    pub cpu: Duration,
    /// What it counted.
    pub counts: Counts,
}

#[derive(Debug, Default)]
struct Log {
    told: Vec<Told>,
    threads: BTreeMap<i32, String>,
    dropped: u64,
}

/// A trace under way.
#[derive(Debug)]
pub struct Trace {
    began: Instant,
    log: Arc<Mutex<Log>>,
    phases: Vec<Phase>,
    open: (&'static str, Duration, Duration, Counts),
}

impl Trace {
    /// Begins with a phase. None if another trace has begun before.
    pub fn begin(phase: &'static str) -> Option<Self> {
        let began = now();
        let log = Arc::<Mutex<Log>>::default();
        let to = Arc::clone(&log);
        let me = proc::thread_id();
        locked(&log).threads.insert(me, proc::thread_name());
        let tell = move |call: Call<'_>| {
            let mut log = locked(&to);
            if log.told.len() >= TRACE_CALLS_MAX {
                log.dropped += 1;
                return;
            }
            let tid = proc::thread_id();
            log.threads.entry(tid).or_insert_with(proc::thread_name);
            log.told.push(Told {
                count: call.count,
                path: calls::whole(call.path),
                at: call.began.saturating_duration_since(began),
                took: call.took,
                tid,
            });
        };
        calls::observe(Box::new(tell)).then(|| Self {
            began,
            log,
            phases: Vec::new(),
            open: (phase, Duration::ZERO, proc::cpu_time(), Counts::now()),
        })
    }

    /// Ends the phase that is open, and begins another.
    pub fn phase(&mut self, name: &'static str) {
        let (at, cpu, counts) = (self.began.elapsed(), proc::cpu_time(), Counts::now());
        let (open, began, cpu_before, counts_before) =
            std::mem::replace(&mut self.open, (name, at, cpu, counts));
        self.phases.push(Phase {
            name: open,
            at: began,
            wall: at - began,
            cpu: cpu.saturating_sub(cpu_before),
            counts: counts.since(&counts_before),
        });
    }

    /// Ends the last phase, and the trace.
    pub fn end(mut self) -> Report {
        self.phase("");
        let log = std::mem::take(&mut *locked(&self.log));
        Report {
            wall: self.began.elapsed(),
            main: proc::thread_id(),
            phases: self.phases,
            told: log.told,
            threads: log.threads,
            dropped: log.dropped,
        }
    }
}

#[allow(clippy::disallowed_methods, reason = "the clock of a trace")]
fn now() -> Instant {
    Instant::now()
}

/// What a start did.
#[derive(Clone, Debug)]
pub struct Report {
    /// From the first moment to the last.
    pub wall: Duration,
    /// Phases, in their order.
    pub phases: Vec<Phase>,
    /// Opens and slow calls, in the order in which they ended.
    pub told: Vec<Told>,
    /// Names of the threads that made them.
    pub threads: BTreeMap<i32, String>,
    /// Calls that were too many to be kept.
    pub dropped: u64,
    main: i32,
}

impl Report {
    /// Counted in all phases together.
    pub fn total(&self, count: Count) -> u64 {
        self.phases.iter().map(|p| p.counts.get(count)).sum()
    }

    /// Opens of one class.
    pub fn opens(&self, class: Class) -> u64 {
        self.total(class.into())
    }

    /// The calls that took longest.
    pub fn slowest(&self, n: usize) -> Vec<&Told> {
        let mut all: Vec<&Told> = self.told.iter().collect();
        all.sort_by_key(|told| std::cmp::Reverse(told.took));
        all.truncate(n);
        all
    }

    /// As a trace of Chrome's: times in microseconds, as it wants them.
    pub fn chrome(&self) -> Value {
        let pid = std::process::id();
        let us = |time: Duration| time.as_nanos() as f64 / 1000.0;
        let mut events = Vec::new();
        for (tid, name) in &self.threads {
            events.push(json!({"ph": "M", "name": "thread_name", "pid": pid, "tid": tid, "args": {"name": name}}));
        }
        for phase in &self.phases {
            let end = phase.at + phase.wall;
            events.push(json!({
                "ph": "X", "cat": "phase", "name": phase.name, "pid": pid, "tid": self.main,
                "ts": us(phase.at), "dur": us(phase.wall), "args": {"cpu_us": us(phase.cpu)},
            }));
            for (tid, from, to) in self.busy(phase) {
                events.push(json!({
                    "ph": "X", "cat": "thread", "name": phase.name, "pid": pid, "tid": tid,
                    "ts": us(from), "dur": us(to - from),
                }));
            }
            for (group, of) in COUNTERS {
                let mut args = serde_json::Map::new();
                for count in of {
                    let sum: u64 = self
                        .phases
                        .iter()
                        .filter(|p| p.at <= phase.at)
                        .map(|p| p.counts.get(*count))
                        .sum();
                    args.insert(count.name().to_owned(), sum.into());
                }
                events.push(json!({"ph": "C", "name": group, "pid": pid, "tid": self.main, "ts": us(end), "args": args}));
            }
        }
        for told in &self.told {
            let class = told.count.name();
            let path = told.path.to_string_lossy();
            events.push(match class.strip_prefix("opens.") {
                Some(class) => json!({
                    "ph": "i", "s": "t", "cat": "open", "name": format!("open {class}"), "pid": pid, "tid": told.tid,
                    "ts": us(told.at), "args": {"path": path, "class": class, "took_us": us(told.took)},
                }),
                None => json!({
                    "ph": "i", "s": "t", "cat": "slow", "name": class, "pid": pid, "tid": told.tid,
                    "ts": us(told.at), "args": {"path": path, "took_us": us(told.took)},
                }),
            });
        }
        json!({"traceEvents": events, "displayTimeUnit": "ns"})
    }

    /// Of each further thread, from when to when it made calls in a phase.
    fn busy(&self, phase: &Phase) -> Vec<(i32, Duration, Duration)> {
        let mut spans: BTreeMap<i32, (Duration, Duration)> = BTreeMap::new();
        let within = phase.at..phase.at + phase.wall;
        let others = self.told.iter().filter(|told| told.tid != self.main);
        for told in others.filter(|told| within.contains(&told.at)) {
            let (from, to) = (told.at, told.at + told.took);
            let span = spans.entry(told.tid).or_insert((from, to));
            *span = (span.0.min(from), span.1.max(to));
        }
        let spans = spans.into_iter();
        spans.map(|(tid, (from, to))| (tid, from, to)).collect()
    }
}

/// Counters by what belongs on one track.
const COUNTERS: [(&str, &[Count]); 5] = [
    (
        "opens",
        &[
            Count::OpenDirectory,
            Count::OpenState,
            Count::OpenConfig,
            Count::OpenProc,
            Count::OpenData,
        ],
    ),
    ("stats", &[Count::Stat, Count::List]),
    ("xattrs", &[Count::GetXattr, Count::SetXattr]),
    ("bytes", &[Count::BytesRead, Count::BytesWritten]),
    (
        "io_uring",
        &[
            Count::RingOpen,
            Count::RingRead,
            Count::RingClose,
            Count::RingSync,
            Count::RingStat,
        ],
    ),
];
