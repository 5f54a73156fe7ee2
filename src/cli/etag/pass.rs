//! `zring etag scan`, `check` and `export`.

use super::super::args::Args;
use super::listed::{Listed, ListedRoot};
use super::options::{Format, Options};
use super::output::Output;
use super::show::{Watch, ended, take_signals};
use super::{EtagError, show};
use crate::engine::etag::{self as engine, Config, Pulse, Root, Sink, Summary};
use crate::etag::json::Object;
use crate::etag::{State, sum};
use crate::kernel::calls::{Class, Count, Counts, read_file};
use crate::kernel::opens::listeners;
use crate::kernel::proc::processors;
use crate::store::catalog;
use std::fmt::Write as _;
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

type Code = Result<u8, EtagError>;

/// A root and where its catalog is.
pub(super) fn open_root(path: &Path, options: &Options) -> Result<(Root, PathBuf), EtagError> {
    let root = Root::open(path, &options.config)?;
    let dir = options.state.join(&root.identity.root_id);
    let state = absolute(&options.state);
    if state.starts_with(&root.canonical) {
        return Err(EtagError::Option(format!(
            "the state directory {} is inside {}: name another one with --state",
            state.display(),
            root.path.display()
        )));
    }
    Ok((root, dir))
}

/// A path without links, as far as it is there.
fn absolute(path: &Path) -> PathBuf {
    let path = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    let mut there = path.as_path();
    loop {
        if let Ok(canonical) = there.canonicalize() {
            let rest = path.strip_prefix(there).unwrap_or(Path::new(""));
            return canonical.join(rest);
        }
        match there.parent() {
            Some(parent) => there = parent,
            None => return path,
        }
    }
}

pub(super) fn prefix(options: &Options, path: &Path) -> Vec<u8> {
    match options.paths.len() {
        1 => Vec::new(),
        _ => path.as_os_str().as_bytes().to_vec(),
    }
}

pub(super) fn add(sum: &mut Summary, one: &Summary) {
    sum.dirs += one.dirs;
    sum.files += one.files;
    for (a, b) in sum.states.iter_mut().zip(one.states) {
        *a += b;
    }
    sum.hashed += one.hashed;
    sum.hashed_bytes += one.hashed_bytes;
    sum.renamed += one.renamed;
    sum.bad_attrs += one.bad_attrs;
    sum.attrs_failed += one.attrs_failed;
    sum.damaged_runs += one.damaged_runs;
    sum.cancelled |= one.cancelled;
    sum.wall += one.wall;
    sum.check += one.check;
}

/// A root, what is known of it, and how it is looked at.
type Loaded = (Root, Config, Option<catalog::place::Opened>);

fn load(options: &Options, (mut root, dir): (Root, PathBuf)) -> Result<Loaded, EtagError> {
    let found = catalog::open_read_only(&dir, &root.identity, options.wanted, options.read_only)?;
    let mut config = options.config.clone();
    if let Some((manifest, _)) = &found {
        config.algo = manifest.algo;
        root.probe_grain(&dir);
    }
    Ok((root, config, found))
}

fn check_loaded(
    (root, config, found): Loaded,
    sink: Arc<dyn Sink>,
    pulse: &Arc<Pulse>,
) -> Result<Summary, EtagError> {
    threads(engine::check(root, config, found, sink, Arc::clone(pulse)))
}

/// Runs a check of one root.
fn check_root(
    options: &Options,
    path: &Path,
    sink: Arc<dyn Sink>,
    pulse: &Arc<Pulse>,
) -> Result<Summary, EtagError> {
    check_loaded(load(options, open_root(path, options)?)?, sink, pulse)
}

pub(super) fn threads<T>(done: std::io::Result<T>) -> Result<T, EtagError> {
    done.map_err(|source| EtagError::Io {
        what: "a thread cannot be started".to_owned(),
        source,
    })
}

/// Runs `each` root, with progress and signals; all of their summaries together.
fn all_roots(
    options: &Options,
    mut each: impl FnMut(&Path, &Arc<Pulse>) -> Result<Summary, EtagError>,
) -> Result<Summary, EtagError> {
    let pulse = Pulse::new();
    take_signals(&pulse);
    let before = Counts::now();
    let mut sum = Summary::default();
    for path in &options.paths {
        // Counters are of one root; the token is of all.
        let own = Pulse::new();
        let _watch = Watch::begin(options, &own);
        let _linked = show::link(&pulse, &own);
        let done = each(path, &own)?;
        add(&mut sum, &done);
        if ended().is_some() {
            break;
        }
    }
    if options.verbose {
        eprint!("{}", counted(&Counts::now().since(&before)));
    }
    Ok(sum)
}

/// Where findings go, in the form that is asked for, or the usual one.
fn output(options: &Options, usual: Format, all: bool, sorted: bool) -> (Format, Arc<Output>) {
    let format = options.format.unwrap_or(usual);
    let out = Output::new(format, all, options.zero, sorted, options.quiet);
    (format, Arc::new(out))
}

fn omitted(out: &Output, sum: &Summary) -> bool {
    let unsure = [
        State::Stale,
        State::New,
        State::Racy,
        State::Imported,
        State::Unreadable,
        State::Corrupt,
    ];
    unsure.iter().any(|state| sum.state(*state) > 0)
        || out.omitted.load(std::sync::atomic::Ordering::Relaxed) > 0
}

fn flush(out: &Output, sum: &Summary) -> Result<(), EtagError> {
    out.end(sum).map_err(|source| EtagError::Io {
        what: "writing to stdout failed".to_owned(),
        source,
    })
}

/// `zring etag check ...`
pub(super) fn check(args: Args) -> Code {
    let Some(options) = Options::read("check", args)? else {
        return Ok(0);
    };
    let (format, out) = output(&options, Format::Text, options.all, false);
    let list = match &options.against {
        Some(path) => Some(Arc::new(Listed::new(
            read_list(path, options.zero)?,
            Arc::clone(&out),
        ))),
        None => None,
    };
    let sum = all_roots(&options, |path, pulse| {
        let prefix = prefix(&options, path);
        let sink: Arc<dyn Sink> = match &list {
            Some(list) => Arc::new(ListedRoot {
                list: Arc::clone(list),
                prefix,
            }),
            None => Arc::new(out.of(prefix)),
        };
        check_root(&options, path, sink, pulse)
    })?;
    let listed = match (&list, ended()) {
        // What was not met may still come.
        (Some(list), None) => Some(list.end()),
        _ => None,
    };
    flush(&out, &sum)?;
    if let Some(code) = ended().or(listed) {
        return Ok(code);
    }
    let changed = [
        State::Stale,
        State::New,
        State::Gone,
        State::Racy,
        State::Imported,
        State::Corrupt,
    ];
    Ok(
        if sum.state(State::Unreadable) > 0 || format == Format::Sums && omitted(&out, &sum) {
            3
        } else {
            u8::from(changed.iter().any(|state| sum.state(*state) > 0))
        },
    )
}

fn read_list(path: &Path, zero: bool) -> Result<Vec<(Vec<u8>, crate::base::Digest)>, EtagError> {
    let read = if path == Path::new("-") {
        let mut list = Vec::new();
        std::io::stdin().read_to_end(&mut list).map(|_| list)
    } else {
        read_file(Class::Config, path)
    };
    let list = read.map_err(|e| EtagError::Option(format!("--against {}: {e}", path.display())))?;
    sum::parse(&list, zero)
        .map_err(|e| EtagError::Option(format!("--against {}: {e}", path.display())))
}

/// `zring etag export ...`
pub(super) fn export(args: Args) -> Code {
    let Some(options) = Options::read("export", args)? else {
        return Ok(0);
    };
    let (_, out) = output(&options, Format::Sums, true, true);
    let sum = all_roots(&options, |path, pulse| {
        check_root(
            &options,
            path,
            Arc::new(out.of(prefix(&options, path))),
            pulse,
        )
    })?;
    flush(&out, &sum)?;
    Ok(ended().unwrap_or(if omitted(&out, &sum) { 3 } else { 0 }))
}

/// `zring etag scan ...`
pub(super) fn scan(args: Args) -> Code {
    let Some(options) = Options::read("scan", args)? else {
        return Ok(0);
    };
    if options.bench {
        return bench(&options);
    }
    let (format, out) = output(&options, Format::Text, options.all, false);
    let mut failure = None;
    let sum = all_roots(&options, |path, pulse| {
        let sink = Arc::new(out.of(prefix(&options, path)));
        match scan_root(&options, path, sink, pulse) {
            // What was found is printed before the end.
            Err(EtagError::Scan(engine::ScanError::Catalog { source, summary })) => {
                let found = *summary;
                failure = Some(EtagError::Scan(engine::ScanError::Catalog {
                    source,
                    summary,
                }));
                Ok(found)
            }
            other => other,
        }
    })?;
    flush(&out, &sum)?;
    if let Some(failure) = failure {
        return Err(failure);
    }
    if let Some(code) = ended() {
        return Ok(code);
    }
    let unsure = [
        State::Unreadable,
        State::Racy,
        State::New,
        State::Stale,
        State::Imported,
    ];
    Ok(
        if unsure.iter().any(|state| sum.state(*state) > 0)
            || format == Format::Sums && omitted(&out, &sum)
        {
            3
        } else {
            u8::from(sum.state(State::Corrupt) > 0)
        },
    )
}

fn scan_root(
    options: &Options,
    path: &Path,
    sink: Arc<dyn Sink>,
    pulse: &Arc<Pulse>,
) -> Result<Summary, EtagError> {
    let (mut root, dir) = open_root(path, options)?;
    let catalog = catalog::open(&dir, &root.identity, options.wanted)?;
    root.probe_grain(&dir);
    let config = Config {
        algo: catalog.manifest().algo,
        ..options.config.clone()
    };
    let (summary, _catalog) = engine::scan(root, config, catalog, sink, Arc::clone(pulse))?;
    Ok(summary)
}

/// `zring etag scan --bench`: the pass over names and attributes alone, timed, and the facts that reports from the field are compared by.
fn bench(options: &Options) -> Code {
    for path in &options.paths {
        let one = Timed::run(options, path)?;
        match options.format {
            Some(Format::Json) => println!("{}", one.json(path).end()),
            Some(Format::None) => {}
            _ => print!("{}", one.text(path)),
        }
    }
    Ok(0)
}

/// A check, timed.
struct Timed {
    host: String,
    monitors: Vec<String>,
    phases: [(&'static str, f64); 3],
    sum: Summary,
    counts: Counts,
}

impl Timed {
    fn run(options: &Options, path: &Path) -> Result<Self, EtagError> {
        let (before, began) = (Counts::now(), Instant::now());
        let opened = open_root(path, options)?;
        let host = format!("{} on {}", opened.0.identity.fs_type, kernel());
        let open = began.elapsed();
        let known = load(options, opened)?;
        let load = began.elapsed();
        let sum = check_loaded(known, Arc::new(()), &Pulse::new())?;
        let all = began.elapsed();
        let phases = [
            ("state-open", open.as_secs_f64()),
            ("catalog-load", (load - open).as_secs_f64()),
            ("check", (all - load).as_secs_f64()),
        ];
        let counts = Counts::now().since(&before);
        Ok(Self {
            host,
            monitors: listeners(),
            phases,
            sum,
            counts,
        })
    }

    /// Seconds, and files at least one.
    fn whole(&self) -> (f64, f64) {
        let seconds = self.phases.iter().map(|(_, seconds)| seconds).sum();
        (seconds, self.sum.files.max(1) as f64)
    }

    fn json(&self, path: &Path) -> Object {
        let (seconds, files) = self.whole();
        let monitors = self.monitors.iter();
        let mut object = Object::new()
            .path(path.as_os_str().as_bytes())
            .text("host", Some(&self.host))
            .int("cpus", i128::try_from(processors()).ok())
            .list(
                "monitors",
                monitors.map(|name| Object::new().text("name", Some(name))),
            )
            .int("files", Some(self.sum.files.into()))
            .int("dirs", Some(self.sum.dirs.into()))
            .float("seconds", seconds)
            .float("files_per_s", files / seconds)
            .float("ns_per_file", seconds * 1e9 / files);
        for (phase, seconds) in self.phases {
            object = object.float(&format!("{phase}_s"), seconds);
        }
        for count in Count::ALL {
            object = object.int(count.name(), Some(self.counts.get(count).into()));
        }
        object
    }

    fn text(&self, path: &Path) -> String {
        let (seconds, files) = self.whole();
        let mut out = format!(
            "{}: {}, {} CPUs; told of opens: {}\n{} files in {} directories, {seconds:.3} s, {:.0} files/s, {:.0} ns/file\n",
            path.display(),
            self.host,
            processors(),
            match self.monitors.is_empty() {
                true => "nobody that can be seen".to_owned(),
                false => self.monitors.join(", "),
            },
            self.sum.files,
            self.sum.dirs,
            files / seconds,
            seconds * 1e9 / files
        );
        for (phase, seconds) in self.phases {
            let _ = writeln!(out, "{phase:>16} {:.3} ms", seconds * 1e3);
        }
        out + &counted(&self.counts)
    }
}

/// What was counted, a line each.
fn counted(counts: &Counts) -> String {
    let seen = Count::ALL.into_iter().filter(|c| counts.get(*c) > 0);
    seen.map(|count| format!("{:>16} {}\n", count.name(), counts.get(count)))
        .collect()
}

fn kernel() -> String {
    nix::sys::utsname::uname().map_or_else(
        |_| "an unknown kernel".to_owned(),
        |name| format!("Linux {}", name.release().to_string_lossy()),
    )
}
