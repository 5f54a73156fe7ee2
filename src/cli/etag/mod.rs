//! `zring etag`: whether files of a tree changed, and their ETags, without opening them.
//!
//! `options` reads the command line, `pass` runs checks, scans and exports, `get` asks about single files, `output` is what goes to stdout,
//! `listed` compares with a list, `show` is progress on stderr.
//!
//! Exit codes are those of this command alone: 0 all fresh; 1 not so (`check`), or corrupt (`scan`); 2 usage; 3 something unreadable or, where
//! tags are wanted, not fresh; 4 the catalog cannot be used; 5 it is locked; 130 and 143 ended by a signal or `--max-time`.

mod get;
mod listed;
mod options;
mod output;
mod pass;
mod show;
mod trace;
mod watch;

use super::args::{Args, Usage};
use crate::engine::etag::RootError;
use crate::kernel::proc;
use crate::store::catalog::CatalogError;
use std::process::ExitCode;

const HELP: &str = "\
zring etag scan   [options] ROOT...   check, then hash what is not fresh; updates the catalog
zring etag check  [options] ROOT...   check alone: changes nothing, opens no file
zring etag get    [options] PATH...   the ETag of each file
zring etag export [options] ROOT...   the digests of all fresh files, sorted by path
zring etag watch  [options] ROOT...   scan, then stay and keep the catalog current
zring trace-startup [options] ROOT... start as watch does, up to its first pass, and report all that was opened

Any of them:
  --state DIR             where catalogs are kept [$ZRING_STATE/etags]; never inside a ROOT
  --trust LEVEL           what has to be equal: strict [default] all with ctime, mtime, or drp the mtime alone
  --xattr USE             user.drpetag: off, read [default] for new files, write after hashing
  --algo sha256|blake3    how files are hashed, at a root's first scan
  --exclude GLOB          leave out; with a slash a path from ROOT, else any name (repeatable)
  --cross-device          enter other file systems
  --allow-fuse-self       enter mounts of zring
  --threads N             threads that look [one per CPU]
  --meta-engine E         threads [default], or uring
  --quick                 do not list directories whose times did not move
  --rebind                take over a catalog of another root or file system; nothing in it counts as verified
  --read-only             look at the catalog while somebody else writes it (not scan)
  --format F              text, json, sha256sum, none
  --all                   print fresh files too
  -0, --null              names end with zeros, and are not escaped
  --progress WHEN         auto [default], always, never; --progress-interval D [10s] where stderr is no terminal
  --max-time D            end after so long, with what there is
  -q, -v                  say less; say how often what was asked of file systems

scan:
  --bps N, --files-per-sec N   at most so much a second          --mem N [64M]       buffers of all hash threads
  --pressure PERCENT [40]      read less at a time beyond it     --background        only when nobody else wants the CPU
  --hash-threads N             threads that hash [CPUs, at most 4]
  --settle D [35s]             files changed less than this ago are written out before they are read; 0 for never
  --direct                     read past the page cache (O_DIRECT), where a file system has such reads
  --verify FRACTION            read this share of the fresh files again; --accept-corrupt takes what is found
  --bench                      the pass over names and attributes alone, timed

watch, with the bounds of scan, and --direct:
  --verify-interval D [1h]     a pass over everything this often, whatever the kernel told
  --watch-by ENGINE            fanotify, fanotify-moves or inotify [the first that is to be had]

trace-startup:
  --out FILE                   a trace that Perfetto and Chrome open
  --verify                     have the kernel count opens too; a difference is exit 1
  --assert-no-data-opens       exit 1 if a file of a ROOT was opened, or directories more than twice

check:
  --against FILE          compare with a list as of sha256sum; - is stdin

get:
  --compute               hash what is not fresh; --direct as scan
  --if-none-match TAGS    say nothing where one of them is the tag

Exit: 0 all fresh; 1 check: something changed, scan: corrupt; 2 usage; 3 unreadable, or not fresh where tags are wanted;
4 catalog unusable; 5 catalog locked; 130, 143 cancelled.
";

/// How a command ends, when it is not told by what was found.
#[derive(Debug, thiserror::Error)]
enum EtagError {
    #[error(transparent)]
    Usage(#[from] Usage),
    #[error(transparent)]
    Root(#[from] RootError),
    #[error(transparent)]
    Catalog(#[from] CatalogError),
    #[error(transparent)]
    Scan(#[from] crate::engine::etag::ScanError),
    #[error("{what}")]
    Io {
        what: String,
        #[source]
        source: std::io::Error,
    },
    #[error(transparent)]
    Watch(#[from] crate::kernel::watch::WatchError),
    #[error("{0}")]
    Option(String),
}

impl EtagError {
    fn code(&self) -> u8 {
        use crate::engine::etag::ScanError;
        match self {
            Self::Usage(_) | Self::Root(_) | Self::Option(_) => 2,
            Self::Watch(_) => 1,
            Self::Catalog(CatalogError::Locked(_)) => 5,
            Self::Catalog(_) | Self::Scan(ScanError::Catalog { .. }) => 4,
            Self::Io { .. } | Self::Scan(ScanError::Thread(_) | ScanError::Waiting(_)) => 3,
        }
    }
}

/// `zring etag ...`
pub(super) fn command(args: Args) -> ExitCode {
    let mut words = args.words().into_iter();
    let verb = words.next().unwrap_or_default();
    let rest = Args::new(words.collect());
    proc::small_pages();
    let outcome = match verb.to_str() {
        Some("scan") => pass::scan(rest),
        Some("check") => pass::check(rest),
        Some("export") => pass::export(rest),
        Some("get") => get::command(rest),
        Some("watch") => watch::command(rest),
        Some("help" | "--help" | "-h") => {
            print!("{HELP}");
            Ok(0)
        }
        _ => Err(Usage::Count {
            expected: "scan, check, get, export or watch",
            command: "etag",
        }
        .into()),
    };
    exit(outcome)
}

/// `zring trace-startup ...`
pub(super) fn trace_startup(args: Args) -> ExitCode {
    exit(trace::command(args))
}

fn exit(outcome: Result<u8, EtagError>) -> ExitCode {
    match outcome {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            let code = error.code();
            eprintln!("zring: {:#}", anyhow::Error::from(error));
            ExitCode::from(code)
        }
    }
}
