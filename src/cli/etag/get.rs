//! `zring etag get`: the tag of single files, from the catalog of the nearest root above each.

use super::super::args::Args;
use super::EtagError;
use super::options::{Format, Options};
use super::output::{Output, tag_line};
use super::pass::open_root;
use crate::base::Algo;
use crate::engine::etag::root::{canonical, root_id};
use crate::engine::etag::{Found, Root, RootError, Summary, XattrUse, hash_one, imported};
use crate::etag::{State, Verdict, tag};
use crate::kernel::stat::{self, Freshness, Kind, Resolve, Stat};
use crate::store::catalog;
use crate::wire::catalog::{Record, flag};
use std::ffi::CString;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

/// What is known of a file.
struct Known {
    verdict: Verdict,
    stat: Option<Stat>,
    record: Option<Record>,
    errno: Option<i32>,
}

/// `zring etag get ...`
pub(super) fn command(args: Args) -> Result<u8, EtagError> {
    let Some(options) = Options::read("get", args)? else {
        return Ok(0);
    };
    let format = options.format.unwrap_or(Format::Text);
    let out = Arc::new(Output::new(format, true, options.zero, false, true));
    let mut code = 0;
    for path in &options.paths {
        let known = ask(path, &options)?;
        let fresh = known.verdict.state == State::Fresh;
        let tagged = known
            .record
            .filter(|r| fresh && r.flags & flag::BLAKE3 == 0);
        if known
            .record
            .is_some_and(|r| fresh && r.flags & flag::BLAKE3 != 0)
        {
            eprintln!(
                "zring: {}: its digest is BLAKE3, which is no ETag; --compute makes one",
                path.display()
            );
        }
        if tagged.is_none() {
            code = 3;
            if !options.quiet && !fresh {
                let why = known
                    .errno
                    .map(|e| format!(": {}", std::io::Error::from_raw_os_error(e)));
                eprintln!(
                    "zring: {}: {}{}",
                    path.display(),
                    known.verdict.state.name(),
                    why.unwrap_or_default()
                );
            }
        }
        let same = tagged.is_some_and(|r| {
            let list = options.if_none_match.as_deref();
            list.is_some_and(|list| tag::matches(list, &r.digest))
        });
        if same {
            continue;
        }
        let name = path.as_os_str().as_bytes();
        let found = Found {
            dir: b"",
            name,
            verdict: known.verdict,
            stat: known.stat.as_ref(),
            record: known.record.as_ref(),
            errno: known.errno,
        };
        match (format, tagged) {
            (Format::Text, Some(record)) => {
                out.write(&tag_line(&record.digest, name, options.zero))
            }
            (Format::Text, None) => {}
            _ => out.file(name, &found),
        }
    }
    let ended = match format {
        // One line per file and no more.
        Format::Json => out.flush(),
        _ => out.end(&Summary::default()),
    };
    ended.map_err(|source| EtagError::Io {
        what: "writing to stdout failed".to_owned(),
        source,
    })?;
    Ok(code)
}

fn ask(path: &Path, options: &Options) -> Result<Known, EtagError> {
    let mut known = match look(path, options)? {
        Ok(known) => known,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            return Err(RootError::Open {
                path: path.to_owned(),
                source: error,
            }
            .into());
        }
        Err(error) => Known {
            verdict: Verdict::new(State::Unreadable, None),
            stat: None,
            record: None,
            errno: Some(error.raw_os_error().unwrap_or(libc::EIO)),
        },
    };
    let usable = known.record.is_some_and(|r| r.flags & flag::BLAKE3 == 0);
    let hopeless = matches!(known.verdict.state, State::Skipped | State::Unreadable);
    if !options.compute || hopeless || known.verdict.state == State::Fresh && usable {
        return Ok(known);
    }
    let mut config = options.config.clone();
    config.algo = Algo::Sha256;
    match hash_one(path, &config) {
        Ok(Some((digest, stat))) => {
            known.verdict = Verdict::FRESH;
            known.stat = Some(stat);
            known.record = Some(Record {
                witness: stat.witness,
                digest,
                hashed_at: i64::try_from(now().nanos()).unwrap_or(i64::MAX),
                flags: 0,
            });
        }
        Ok(None) => known.verdict = Verdict::new(State::Racy, crate::etag::Reason::Changing),
        Err(error) => {
            known.verdict = Verdict::new(State::Unreadable, None);
            known.errno = Some(error.raw_os_error().unwrap_or(libc::EIO));
        }
    }
    Ok(known)
}

/// Looks a file up in the catalog of the nearest root above it that has one; nothing is opened but directories.
fn look(path: &Path, options: &Options) -> Result<std::io::Result<Known>, EtagError> {
    let canonical = match canonical(path, &options.config)? {
        Ok(canonical) => canonical,
        Err(error) => return Ok(Err(error)),
    };
    let now = now();
    let stat = match stat_of(&canonical) {
        Ok(stat) => stat,
        Err(error) => return Ok(Err(error)),
    };
    let mut known = Known {
        verdict: Verdict::new(State::New, None),
        stat: Some(stat),
        record: None,
        errno: None,
    };
    if stat.kind != Kind::File {
        known.verdict = Verdict::new(State::Skipped, crate::etag::Reason::Kind);
        return Ok(Ok(known));
    }
    for root in canonical.ancestors().skip(1) {
        let dir = options.state.join(root_id(root));
        if !catalog::exists(&dir)? {
            continue;
        }
        let (root, dir) = open_root(root, options)?;
        known.record = record(&root, &dir, &canonical, options)?;
        break;
    }
    if known.record.is_none() && options.config.xattr != XattrUse::Off {
        known.record = attribute(&canonical, &stat);
    }
    if let Some(record) = &known.record {
        let trust = options.config.trust;
        known.verdict = Verdict::of(trust, record, &stat.witness, stat.verity, now);
    }
    Ok(Ok(known))
}

fn record(
    root: &Root,
    dir: &Path,
    path: &Path,
    options: &Options,
) -> Result<Option<Record>, EtagError> {
    let opened = catalog::open_read_only(dir, &root.identity, options.wanted, options.read_only)?;
    let Some((manifest, snapshot)) = opened else {
        return Ok(None);
    };
    let name = path.strip_prefix(&root.canonical).unwrap_or(path);
    // A damaged run is no record.
    let mut record = catalog::get(&*snapshot, name.as_os_str().as_bytes())
        .ok()
        .flatten();
    if let Some(record) = &mut record
        && manifest.rebound
    {
        record.flags |= flag::IMPORTED;
    }
    Ok(record)
}

/// What a file's attribute says of it.
fn attribute(path: &Path, stat: &Stat) -> Option<Record> {
    let (dir, name) = within(path).ok()?;
    imported(dir.as_fd(), &name, stat).ok().flatten()
}

fn stat_of(path: &Path) -> std::io::Result<Stat> {
    let (dir, name) = within(path)?;
    stat::stat_at(dir.as_fd(), &name, Freshness::Usual)
}

/// The directory of a path, and its name there.
fn within(path: &Path) -> std::io::Result<(OwnedFd, CString)> {
    let dir = path.parent().unwrap_or(path);
    let dir = CString::new(dir.as_os_str().as_bytes())?;
    let name = match path.file_name() {
        Some(name) => CString::new(name.as_bytes())?,
        None => c".".to_owned(),
    };
    let fd = stat::open_dir(None, &dir, Resolve::root())?;
    Ok((fd, name))
}

#[allow(clippy::disallowed_methods, reason = "stamps are compared with it")]
fn now() -> crate::base::Stamp {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    let nanos = since.map_or(0, |since| since.as_nanos());
    crate::base::Stamp::from_nanos(i128::try_from(nanos).unwrap_or(i128::MAX))
}
