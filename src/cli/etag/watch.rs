//! `zring etag watch`: a scan, and then the catalog is kept current until a signal comes.
//!
//! Each root has a thread that hears what changes and one that looks (`engine::etag::watch`); all end together. What is printed is what a
//! scan prints, as it is found: after the first pass, what is not fresh, what became so again, and what is gone.

use super::super::args::Args;
use super::EtagError;
use super::options::{Format, Options, Show};
use super::output::{Output, RootOutput};
use super::pass::{open_root, prefix};
use crate::engine::etag::watch::{self, Ended, Left, Opts, Said, Tree};
use crate::engine::etag::{
    self as engine, Config, Counter, Found, Pulse, ScanError, Sink, Summary,
};
use crate::etag::State;
use crate::etag::json::Object;
use crate::etag::nominate::{Nominee, Rules, Tally};
use crate::etag::scope::Scope;
use crate::kernel::proc::{self, StopFd, Waker};
use crate::store::catalog::{self, Catalog};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// `zring etag watch ...`
pub(super) fn command(args: Args) -> Result<u8, EtagError> {
    let Some(options) = Options::read("watch", args)? else {
        return Ok(0);
    };
    let format = options.format.unwrap_or(Format::Text);
    if format == Format::Sums {
        return Err(EtagError::Option(
            "--format sha256sum is a whole list: `zring etag export --read-only` gives it while this runs".to_owned(),
        ));
    }
    let system = |what: &str| {
        let what = what.to_owned();
        move |source| EtagError::Io { what, source }
    };
    let signals = StopFd::new().map_err(system("signals cannot be taken"))?;
    let out = Arc::new(Output::new(
        format,
        true,
        options.zero,
        false,
        options.quiet,
    ));
    let options = Arc::new(options);
    // Every root is opened, and its catalog locked, before any is looked at.
    let mut trees = Vec::new();
    for path in &options.paths {
        trees.push(Kept::open(path, &options, &out)?);
    }
    let stop = Waker::new().map_err(system("no descriptor is left"))?;
    let done = Waker::new().map_err(system("no descriptor is left"))?;
    let mut threads = Vec::new();
    for tree in trees {
        let (stop, done) = (stop.clone(), done.clone());
        let options = Arc::clone(&options);
        let thread = proc::spawn("zring-watch", move || {
            let name = tree.path.display().to_string();
            let opts = opts(&tree, &options);
            let mut said = |said| say(&options, &name, said);
            let ended = watch::run(&opts, tree, stop.fd(), &mut said);
            done.wake();
            ended
        });
        threads.push(thread.map_err(system("a thread cannot be started"))?);
    }
    let signal = wait(&signals, &done, options.max_time);
    stop.wake();
    let mut failure = None;
    for thread in threads {
        let ended = thread.join().expect("a panic ends the process");
        failure = failure.or(ended.err());
    }
    out.flush().map_err(system("writing to stdout failed"))?;
    match failure {
        Some(Ended::Watch(error)) => Err(error.into()),
        Some(Ended::Tree(error)) => Err(error),
        Some(Ended::System { call, source }) => Err(EtagError::Io {
            what: call.to_owned(),
            source,
        }),
        None => Ok(128 + signal.unwrap_or(15)),
    }
}

fn opts(tree: &Kept, options: &Options) -> Opts {
    let shows = match options.show {
        Show::Always => true,
        Show::Never => false,
        Show::Auto => !options.quiet,
    };
    Opts {
        cross: options.config.cross_device,
        engine: options.watch_by,
        rules: Rules {
            verify_every: options.verify_every,
            ..Rules::default()
        },
        progress_every: shows.then_some(options.show_every),
        ..Opts::new(tree.canonical.clone())
    }
}

/// Waits for a signal, for the end of a root, or for time to be over.
fn wait(signals: &StopFd, done: &Waker, limit: Option<Duration>) -> Option<u8> {
    let deadline = limit.map(|limit| Instant::now() + limit);
    loop {
        let left = deadline.map(|at| at.saturating_duration_since(Instant::now()));
        let timeout = left.map_or(PollTimeout::NONE, |left| {
            PollTimeout::try_from(left + Duration::from_micros(999)).unwrap_or(PollTimeout::MAX)
        });
        let mut fds = [
            PollFd::new(signals.fd(), PollFlags::POLLIN),
            PollFd::new(done.fd(), PollFlags::POLLIN),
        ];
        let _ = poll(&mut fds, timeout);
        let is_ready = |fd: &PollFd<'_>| fd.any() == Some(true);
        if is_ready(&fds[0]) {
            return signals.take();
        }
        if is_ready(&fds[1]) || left == Some(Duration::ZERO) {
            return None;
        }
    }
}

/// A root and its catalog, locked for as long as it is watched.
struct Kept {
    path: PathBuf,
    canonical: PathBuf,
    options: Arc<Options>,
    catalog: Option<Box<dyn Catalog>>,
    out: Arc<Output>,
    sink: Arc<KeptSink>,
}

/// Notes what has to be looked at again, on its way to stdout.
struct KeptSink {
    out: RootOutput,
    /// Whether fresh files are printed that were so before.
    all: bool,
    racy: Mutex<Vec<Nominee>>,
}

impl Sink for KeptSink {
    fn found(&self, found: &Found<'_>) {
        if found.verdict.state == State::Racy {
            let mut racy = self.racy.lock().unwrap_or_else(PoisonError::into_inner);
            let (path, tree) = (found.path(), false);
            racy.push(Nominee { path, tree });
        }
        self.out.found(found);
    }

    fn wants_fresh(&self) -> bool {
        self.all
    }

    fn wants_hashed(&self) -> bool {
        true
    }

    fn warn(&self, warning: &str) {
        self.out.warn(warning);
    }
}

impl Kept {
    fn open(path: &Path, options: &Arc<Options>, out: &Arc<Output>) -> Result<Self, EtagError> {
        let (root, dir) = open_root(path, options)?;
        let catalog = catalog::open(&dir, &root.identity, options.wanted)?;
        Ok(Self {
            path: path.to_owned(),
            canonical: root.canonical,
            options: Arc::clone(options),
            catalog: Some(catalog),
            out: Arc::clone(out),
            sink: Arc::new(KeptSink {
                out: out.of(prefix(options, path)),
                all: options.all,
                racy: Mutex::default(),
            }),
        })
    }

    fn scan(
        &mut self,
        scope: Option<Scope>,
        pulse: &Arc<Pulse>,
    ) -> Result<(Summary, Left), EtagError> {
        // Opened anew: a root that went away, or is another one now, is found out here.
        let (mut root, dir) = open_root(&self.path, &self.options)?;
        if root.canonical != self.canonical {
            return Err(EtagError::Option(format!(
                "{} leads to another directory now",
                self.path.display()
            )));
        }
        let catalog = self.catalog.take().expect("given back by the last scan");
        root.probe_grain(&dir);
        let config = Config {
            algo: catalog.manifest().algo,
            scope: scope.map(Arc::new),
            ..self.options.config.clone()
        };
        let sink: Arc<dyn Sink> = Arc::clone(&self.sink) as Arc<dyn Sink>;
        let scanned = engine::scan(root, config, catalog, sink, Arc::clone(pulse));
        let (summary, catalog) = scanned.map_err(|error: ScanError| EtagError::Scan(error))?;
        self.catalog = Some(catalog);
        let mut racy = self
            .sink
            .racy
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let again = std::mem::take(&mut *racy);
        let _ = self.out.flush(); // who reads it may be gone, and the catalog is kept all the same
        Ok((summary, Left { again }))
    }
}

impl Tree for Kept {
    type Error = EtagError;

    fn pass(&mut self, pulse: &Arc<Pulse>) -> Result<Left, EtagError> {
        let (summary, left) = self.scan(None, pulse)?;
        let _ = self.out.end(&summary); // who reads it may be gone
        Ok(left)
    }

    fn look(&mut self, nominees: &[Nominee], pulse: &Arc<Pulse>) -> Result<Left, EtagError> {
        Ok(self.scan(Some(Scope::of(nominees)), pulse)?.1)
    }
}

fn say(options: &Options, root: &str, said: Said) {
    match said {
        Said::Marked { engine, watches } if !options.quiet => {
            eprintln!(
                "zring: {root} is watched by {}, {watches} marks",
                engine.name()
            );
        }
        Said::Unwatched { dirs, limit } => {
            let limit = limit.map_or_else(String::new, |n| {
                format!(" (fs.inotify.max_user_watches is {n})")
            });
            eprintln!(
                "zring: {root}: no room for more watches{limit}: {} directories, and what is below them, are looked at once a minute",
                dirs.len()
            );
        }
        Said::Progress {
            tally,
            waiting,
            busy,
        } => eprintln!("{}", progress(root, &tally, waiting, busy.as_deref())),
        Said::Marked { .. } | Said::PassDone(_) | Said::LookDone(_) => {}
    }
}

fn progress(root: &str, tally: &Tally, waiting: usize, busy: Option<&Pulse>) -> String {
    let count = |n: u64| Some(i128::from(n));
    let mut inside = Object::new()
        .path(root.as_bytes())
        .int("events", count(tally.events))
        .int("own", count(tally.own))
        .int("lost", count(tally.lost + tally.full))
        .int("passes", count(tally.passes))
        .int("waiting", i128::try_from(waiting).ok())
        .flag("busy", busy.is_some());
    if let Some(pulse) = busy {
        inside = inside
            .int("files", count(pulse.get(Counter::Files)))
            .int("hashed", count(pulse.get(Counter::Hashed)))
            .int("queued", count(pulse.get(Counter::Queued)));
    }
    Object::new().object("progress", inside).end()
}
