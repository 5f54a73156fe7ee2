//! `zring trace-startup`: the start of `zring etag watch`, up to the end of its first check, and all it asked of file systems.
//!
//! ```text
//!   config         the command line
//!   state-open     roots and their catalogs' directories
//!   catalog-load   catalogs, locked as for writing
//!   watch          trees are marked
//!   check          the check of each tree
//!   rings          a ring for each hash thread
//!   ready          a daemon would go on from here
//! ```
//!
//! Nothing is hashed and no catalog changed; one that is missing is made, as a start does.

use super::super::args::Args;
use super::EtagError;
use super::options::{Format, Options};
use super::pass::open_root;
use crate::engine::etag::trace::{Report, Trace};
use crate::engine::etag::{self as engine, Config, Pulse, Root, Summary};
use crate::etag::State;
use crate::etag::json::Object;
use crate::kernel::calls::{Class, Count};
use crate::kernel::chain::ReadRing;
use crate::kernel::opens::{OpenWatch, Opens};
use crate::kernel::proc;
use crate::kernel::watch::{Event, OpenLog, Watcher};
use crate::store::catalog::{self, Catalog};
use crate::wire::fsevent::Mask;
use std::fmt::Write as _;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

const SLOWEST: usize = 10;

/// What was opened below the roots, as the kernel tells it.
type Heard = Opens;

/// `zring trace-startup ...`
pub(super) fn command(args: Args) -> Result<u8, EtagError> {
    let Some(mut trace) = Trace::begin("config") else {
        unreachable!("BUG: one command, one trace");
    };
    let Some(options) = Options::read("trace-startup", args)? else {
        return Ok(0);
    };
    let mut witness = match options.witness {
        true => Some(Witness::listen(&options)?),
        false => None,
    };
    let (summary, started) = start(&options, &mut trace, &mut witness)?;
    let report = trace.end();
    drop(started);
    let heard = witness.map(|witness| witness.heard);
    if let Some(path) = &options.trace_out {
        write(&report, path)?;
    }
    let verdict = Verdict::of(&report, &summary, heard);
    match options.format.unwrap_or(Format::Text) {
        Format::Json => println!("{}", json(&report, &summary, &verdict)),
        Format::None => {}
        Format::Text | Format::Sums => print!("{}", text(&report, &summary, &verdict)),
    }
    for complaint in verdict.complaints() {
        eprintln!("zring: {complaint}");
    }
    let gates = options.no_data_opens && !verdict.gates_hold();
    Ok(u8::from(gates || verdict.disagrees()))
}

/// What a daemon would go on with.
struct Started {
    _rings: Vec<io::Result<ReadRing>>,
    _watchers: Vec<Watcher>,
    _catalogs: Vec<Box<dyn Catalog>>,
}

/// Does what a start does.
fn start(
    options: &Options,
    trace: &mut Trace,
    witness: &mut Option<Witness>,
) -> Result<(Summary, Started), EtagError> {
    // In no phase a directory is opened twice: read in between, the kernel tells of each open.
    let mut hear = || witness.as_mut().map_or(Ok(()), Witness::hear);
    trace.phase("state-open");
    let mut opened = Vec::new();
    for path in &options.paths {
        opened.push(open_root(path, options)?);
    }
    hear()?;
    trace.phase("catalog-load");
    let mut loaded: Vec<(Root, Config, Box<dyn Catalog>)> = Vec::new();
    for (mut root, dir) in opened {
        let catalog = catalog::open(&dir, &root.identity, options.wanted)?;
        root.probe_grain(&dir);
        let config = Config {
            algo: catalog.manifest().algo,
            ..options.config.clone()
        };
        loaded.push((root, config, catalog));
    }
    trace.phase("watch");
    let mut watchers = Vec::new();
    for (root, config, _) in &loaded {
        let watcher = Watcher::open(&root.canonical, config.cross_device, options.watch_by);
        watchers.push(watcher?);
    }
    hear()?;
    trace.phase("check");
    let mut sum = Summary::default();
    let mut config = options.config.clone();
    let mut catalogs = Vec::new();
    for (root, own, catalog) in loaded {
        let found = Some((catalog.manifest().clone(), catalog.runs()));
        config = own.clone();
        let one = engine::check(root, own, found, Arc::new(()), Pulse::new());
        super::pass::add(&mut sum, &super::pass::threads(one)?);
        catalogs.push(catalog);
    }
    hear()?;
    trace.phase("rings");
    // Where rings are forbidden a start goes on without.
    let rings = (0..config.hash.threads).map(|_| engine::ring_of(&config));
    let rings: Vec<_> = rings.collect();
    trace.phase("ready");
    let started = Started {
        _rings: rings,
        _watchers: watchers,
        _catalogs: catalogs,
    };
    Ok((sum, started))
}

/// What the kernel tells of opens below the roots: by fanotify, or by inotify to those who may not use that.
struct Witness {
    logs: Vec<OpenLog>,
    /// Read all the time: their queue is short.
    listener: Option<Listener>,
    heard: Heard,
}

/// Reads what watches tell.
struct Listener {
    heard: Arc<Mutex<Heard>>,
    watches: Arc<Vec<OpenWatch>>,
    over: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Listener {
    fn start(roots: &[PathBuf]) -> Result<Self, EtagError> {
        let watches: io::Result<Vec<_>> = roots.iter().map(|root| OpenWatch::open(root)).collect();
        let watches = Arc::new(watches.map_err(|source| EtagError::Io {
            what: "watching what is opened".to_owned(),
            source,
        })?);
        let (heard, over) = (Arc::<Mutex<Heard>>::default(), Arc::<AtomicBool>::default());
        let (all, to, told) = (Arc::clone(&watches), Arc::clone(&heard), Arc::clone(&over));
        let thread = super::pass::threads(proc::spawn("zring-witness", move || {
            while !told.load(Ordering::Relaxed) {
                listen(&all, &to);
                proc::pause(Duration::from_micros(500));
            }
        }))?;
        Ok(Self {
            heard,
            watches,
            over,
            thread: Some(thread),
        })
    }

    fn now(&self) -> Heard {
        listen(&self.watches, &self.heard);
        *self.heard.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn listen(watches: &[OpenWatch], heard: &Mutex<Heard>) {
    let mut heard = heard.lock().unwrap_or_else(PoisonError::into_inner);
    for watch in watches {
        if watch.read(&mut heard).is_err() {
            heard.lost = true;
        }
    }
}

impl Witness {
    fn listen(options: &Options) -> Result<Self, EtagError> {
        let canonical = |path: &PathBuf| path.canonicalize().unwrap_or_else(|_| path.clone());
        let roots: Vec<PathBuf> = options.paths.iter().map(canonical).collect();
        let logs: Result<Vec<_>, _> = roots.iter().map(|root| OpenLog::open(root)).collect();
        let listener = match &logs {
            Ok(_) => None,
            Err(_) => Some(Listener::start(&roots)?),
        };
        Ok(Self {
            logs: logs.unwrap_or_default(),
            listener,
            heard: Heard::default(),
        })
    }

    fn hear(&mut self) -> Result<(), EtagError> {
        if let Some(listener) = &self.listener {
            self.heard = listener.now();
            return Ok(());
        }
        let own = std::process::id().cast_signed();
        let failed = |source| EtagError::Io {
            what: "reading what was opened".to_owned(),
            source,
        };
        let mut events: Vec<Event> = Vec::new();
        for log in &mut self.logs {
            while log.read(&mut events).map_err(failed)? {}
        }
        for event in events {
            self.heard.lost |= event.mask.any(Mask::OVERFLOW);
            if event.pid != Some(own) || !event.mask.any(Mask::OPEN) {
                continue;
            }
            match event.mask.any(Mask::DIR) {
                true => self.heard.directories += 1,
                false => self.heard.files += 1,
            }
        }
        Ok(())
    }
}

/// What is held against what.
struct Verdict {
    data: u64,
    directory: u64,
    dirs: u64,
    heard: Option<Heard>,
}

impl Verdict {
    fn of(report: &Report, summary: &Summary, heard: Option<Heard>) -> Self {
        Self {
            data: report.opens(Class::Data),
            directory: report.opens(Class::Directory),
            dirs: summary.dirs,
            heard,
        }
    }

    fn gates_hold(&self) -> bool {
        self.data == 0 && self.directory <= 2 * self.dirs
    }

    fn disagrees(&self) -> bool {
        self.heard.is_some_and(|heard| {
            heard.lost || heard.files != self.data || heard.directories != self.directory
        })
    }

    fn complaints(&self) -> Vec<String> {
        let mut out = Vec::new();
        if self.data > 0 {
            out.push(format!("{} files of the roots were opened", self.data));
        }
        if self.directory > 2 * self.dirs {
            out.push(format!(
                "directories were opened {} times, and there are {}",
                self.directory, self.dirs
            ));
        }
        if let Some(heard) = self.heard.filter(|_| self.disagrees()) {
            let lost = if heard.lost { ", and missed some" } else { "" };
            out.push(format!(
                "counted {} opens of directories and {} of files, but the kernel tells of {} and {}{lost}",
                self.directory, self.data, heard.directories, heard.files
            ));
        }
        out
    }
}

fn write(report: &Report, path: &Path) -> Result<(), EtagError> {
    let mut text = report.chrome().to_string();
    text.push('\n');
    std::fs::write(path, text).map_err(|source: io::Error| EtagError::Io {
        what: format!("writing {}", path.display()),
        source,
    })
}

fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}

fn text(report: &Report, summary: &Summary, verdict: &Verdict) -> String {
    let mut out = String::new();
    let _ = writeln!(
        out,
        "{:<13}{:>10}{:>10}{:>8}{:>8}{:>8}{:>8}{:>8}{:>10}{:>12}",
        "phase", "wall ms", "cpu ms", "dir", "state", "config", "proc", "data", "stats", "bytes"
    );
    for phase in &report.phases {
        let opens = |class| phase.counts.opens(class);
        let _ = writeln!(
            out,
            "{:<13}{:>10.3}{:>10.3}{:>8}{:>8}{:>8}{:>8}{:>8}{:>10}{:>12}",
            phase.name,
            ms(phase.wall),
            ms(phase.cpu),
            opens(Class::Directory),
            opens(Class::State),
            opens(Class::Config),
            opens(Class::Proc),
            opens(Class::Data),
            phase.counts.get(Count::Stat),
            phase.counts.get(Count::BytesRead) + phase.counts.get(Count::BytesWritten),
        );
    }
    let _ = writeln!(
        out,
        "ready after {:.3} ms: {} files in {} directories, {} fresh; opened {} files and {} directories",
        ms(report.wall),
        summary.files,
        summary.dirs,
        summary.state(State::Fresh),
        verdict.data,
        verdict.directory
    );
    if let Some(heard) = verdict.heard {
        let _ = writeln!(
            out,
            "the kernel tells of {} files and {} directories",
            heard.files, heard.directories
        );
    }
    let _ = writeln!(out, "slowest:");
    for told in report.slowest(SLOWEST) {
        let path = told.path.display();
        let _ = writeln!(
            out,
            "{:>10.3} ms  {:<16} {path}",
            ms(told.took),
            told.count.name()
        );
    }
    out
}

fn json(report: &Report, summary: &Summary, verdict: &Verdict) -> String {
    let counts = |of: &dyn Fn(Count) -> u64| {
        Count::ALL.into_iter().fold(Object::new(), |object, count| {
            object.int(count.name(), Some(of(count).into()))
        })
    };
    let mut phases = Object::new();
    for phase in &report.phases {
        let one = Object::new()
            .float("wall_ms", ms(phase.wall))
            .float("cpu_ms", ms(phase.cpu))
            .object("counts", counts(&|count| phase.counts.get(count)));
        phases = phases.object(phase.name, one);
    }
    let slowest = report.slowest(SLOWEST).into_iter().map(|told| {
        use std::os::unix::ffi::OsStrExt;
        Object::new()
            .path(told.path.as_os_str().as_bytes())
            .text("call", Some(told.count.name()))
            .float("ms", ms(told.took))
    });
    let mut out = Object::new()
        .float("wall_ms", ms(report.wall))
        .object("phases", phases)
        .object("counts", counts(&|count| report.total(count)))
        .int("files", Some(summary.files.into()))
        .int("dirs", Some(summary.dirs.into()))
        .int("fresh", Some(summary.state(State::Fresh).into()))
        .flag("gates_hold", verdict.gates_hold())
        .list("slowest", slowest);
    if let Some(heard) = verdict.heard {
        let heard = Object::new()
            .int("directories", Some(heard.directories.into()))
            .int("files", Some(heard.files.into()))
            .flag("lost", heard.lost)
            .flag("agrees", !verdict.disagrees());
        out = out.object("heard", heard);
    }
    out.end()
}
