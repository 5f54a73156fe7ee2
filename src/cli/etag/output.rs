//! What `zring etag` prints on stdout.
//!
//! Text and JSON come as files are found; lists of digests, and whatever is exported, come at the end, sorted by path byte by byte, so that
//! identical trees give identical bytes. A tag is printed for fresh files alone.

use super::options::Format;
use crate::base::Digest;
use crate::engine::etag::{Found, Sink, Summary};
use crate::etag::json::Object;
use crate::etag::{State, sum, tag};
use crate::wire::catalog::flag;
use std::collections::BTreeMap;
use std::io::{self, BufWriter, Write};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError};

/// Stdout, as one pass fills it.
pub(super) struct Output {
    pub(super) format: Format,
    /// Fresh files too.
    pub(super) all: bool,
    pub(super) zero: bool,
    /// Only fresh ones, sorted.
    pub(super) exports: bool,
    pub(super) quiet: bool,
    out: Mutex<BufWriter<io::Stdout>>,
    sorted: Mutex<BTreeMap<Vec<u8>, Vec<u8>>>,
    /// Fresh files without a digest of the kind that is printed.
    pub(super) omitted: AtomicU64,
    broken: AtomicU64,
}

impl Output {
    pub(super) fn new(format: Format, all: bool, zero: bool, exports: bool, quiet: bool) -> Self {
        Self {
            format,
            all,
            zero,
            exports,
            quiet,
            out: Mutex::new(BufWriter::with_capacity(64 << 10, io::stdout())),
            sorted: Mutex::default(),
            omitted: AtomicU64::new(0),
            broken: AtomicU64::new(0),
        }
    }

    /// The output of one of several roots.
    pub(super) fn of(self: &std::sync::Arc<Self>, prefix: Vec<u8>) -> RootOutput {
        RootOutput {
            out: std::sync::Arc::clone(self),
            prefix,
        }
    }

    pub(super) fn write(&self, bytes: &[u8]) {
        let mut out = self.out.lock().unwrap_or_else(PoisonError::into_inner);
        if out.write_all(bytes).is_err() {
            // Who reads it is gone; what was found still counts.
            self.broken.fetch_add(1, Relaxed);
        }
    }

    fn keep(&self, path: &[u8], line: Vec<u8>) {
        let mut sorted = self.sorted.lock().unwrap_or_else(PoisonError::into_inner);
        sorted.insert(path.to_vec(), line);
    }

    /// Prints one file.
    pub(super) fn file(&self, path: &[u8], found: &Found<'_>) {
        let fresh = found.verdict.state == State::Fresh;
        if self.exports && !fresh || fresh && !self.wants_fresh() {
            return;
        }
        let mut line = Vec::new();
        match self.format {
            Format::None => return,
            Format::Sums => {
                if !fresh {
                    return;
                }
                match found.record.filter(|r| r.flags & flag::BLAKE3 == 0) {
                    Some(record) => sum::push_line(&mut line, &record.digest, path, self.zero),
                    None => {
                        self.omitted.fetch_add(1, Relaxed);
                        return;
                    }
                }
                return self.keep(path, line);
            }
            Format::Text => text_line(&mut line, found.verdict.state.name(), path, self.zero),
            Format::Json => {
                line.extend_from_slice(json_line(path, found).as_bytes());
                line.push(b'\n');
            }
        }
        match self.exports {
            true => self.keep(path, line),
            false => self.write(&line),
        }
    }

    pub(super) fn wants_fresh(&self) -> bool {
        self.all || self.exports || self.format == Format::Sums
    }

    /// What was printed is there for who reads it.
    pub(super) fn flush(&self) -> io::Result<()> {
        let mut out = self.out.lock().unwrap_or_else(PoisonError::into_inner);
        out.flush()?;
        match self.broken.load(Relaxed) {
            0 => Ok(()),
            _ => Err(io::ErrorKind::BrokenPipe.into()),
        }
    }

    /// All that is left, and the summary.
    pub(super) fn end(&self, summary: &Summary) -> io::Result<()> {
        let sorted =
            std::mem::take(&mut *self.sorted.lock().unwrap_or_else(PoisonError::into_inner));
        for line in sorted.values() {
            self.write(line);
        }
        if self.format == Format::Json {
            let object = Object::new().object("summary", summary_object(summary));
            self.write(format!("{}\n", object.end()).as_bytes());
        }
        if !self.quiet && self.format != Format::Json {
            eprintln!("{}", summary_line(summary));
        }
        self.flush()
    }
}

/// `STATE<TAB>path`.
pub(super) fn text_line(out: &mut Vec<u8>, word: &str, path: &[u8], zero: bool) {
    out.extend_from_slice(word.as_bytes());
    out.push(b'\t');
    if zero {
        out.extend_from_slice(path);
        out.push(0);
    } else {
        sum::escape_to(out, path);
        out.push(b'\n');
    }
}

fn json_line(path: &[u8], found: &Found<'_>) -> String {
    let stat = found.stat.map(|s| s.witness);
    let witness = stat.or(found.record.map(|r| r.witness));
    let fresh = found.verdict.state == State::Fresh;
    let record = found.record;
    let digest = record.filter(|r| fresh && r.flags & flag::BLAKE3 == 0);
    let etag = digest.map(|r| tag::etag(&r.digest));
    Object::new()
        .path(path)
        .text("state", Some(found.verdict.state.name()))
        .text("reason", found.verdict.reason.map(|r| r.name()))
        .int("size", witness.map(|w| w.size.into()))
        .int("mtime_ns", witness.map(|w| w.mtime.nanos()))
        .int("ctime_ns", witness.map(|w| w.ctime.nanos()))
        .int("ino", witness.map(|w| w.ino.into()))
        .text("etag", etag.as_deref())
        .int("hashed_at_ns", record.map(|r| r.hashed_at.into()))
        .flag(
            "imported",
            record.is_some_and(|r| r.flags & flag::IMPORTED != 0),
        )
        .int("errno", found.errno.map(Into::into))
        .end()
}

fn summary_object(summary: &Summary) -> Object {
    let mut object = Object::new()
        .int("dirs", Some(summary.dirs.into()))
        .int("files", Some(summary.files.into()));
    for state in State::ALL {
        object = object.int(state.name(), Some(summary.state(state).into()));
    }
    object
        .int("hashed", Some(summary.hashed.into()))
        .int("hashed_bytes", Some(summary.hashed_bytes.into()))
        .int("renamed", Some(summary.renamed.into()))
        .int("bad_attributes", Some(summary.bad_attrs.into()))
        .int("attributes_failed", Some(summary.attrs_failed.into()))
        .int("damaged_runs", Some(summary.damaged_runs.into()))
        .flag("cancelled", summary.cancelled)
        .float("seconds", summary.wall.as_secs_f64())
        .float("check_seconds", summary.check.as_secs_f64())
}

fn summary_line(summary: &Summary) -> String {
    use std::fmt::Write as _;
    let mut line = format!("{} files in {} directories:", summary.files, summary.dirs);
    for state in State::ALL {
        if summary.state(state) > 0 || state == State::Fresh {
            let _ = write!(line, " {} {},", summary.state(state), state.name());
        }
    }
    line.pop();
    if summary.hashed > 0 {
        let _ = write!(
            line,
            "; {} hashed, {} MiB",
            summary.hashed,
            summary.hashed_bytes >> 20
        );
    }
    let more = [
        (summary.renamed, "renamed"),
        (summary.bad_attrs, "attributes ignored"),
        (summary.attrs_failed, "attributes not written"),
        (summary.damaged_runs, "damaged runs dropped"),
    ];
    for (n, what) in more.iter().filter(|(n, _)| *n > 0) {
        let _ = write!(line, "; {n} {what}");
    }
    let _ = write!(line, "; {:.3} s", summary.wall.as_secs_f64());
    if summary.cancelled {
        line.push_str("; ended early");
    }
    line
}

/// The output of one root: its paths have the root before them where several are given.
pub(super) struct RootOutput {
    out: std::sync::Arc<Output>,
    prefix: Vec<u8>,
}

/// A path as it is printed.
pub(super) fn printed(prefix: &[u8], found: &Found<'_>) -> Vec<u8> {
    let path = found.path();
    match (prefix.is_empty(), path.is_empty()) {
        (true, true) => b".".to_vec(),
        (true, false) => path,
        (false, true) => prefix.to_vec(),
        (false, false) => {
            let slash: &[u8] = if prefix.ends_with(b"/") { b"" } else { b"/" };
            [prefix, slash, &path].concat()
        }
    }
}

impl Sink for RootOutput {
    fn found(&self, found: &Found<'_>) {
        self.out.file(&printed(&self.prefix, found), found);
    }

    fn wants_fresh(&self) -> bool {
        self.out.wants_fresh()
    }

    fn warn(&self, warning: &str) {
        if !self.out.quiet {
            eprintln!("zring: {warning}");
        }
    }
}

/// A digest as a line of its own: the tag, and the path.
pub(super) fn tag_line(digest: &Digest, path: &[u8], zero: bool) -> Vec<u8> {
    let mut line = Vec::new();
    text_line(&mut line, &tag::etag(digest), path, zero);
    line
}
