//! The command line of `zring etag`.

use super::super::args::{Args, Usage, duration, size};
use super::{EtagError, HELP};
use crate::base::Algo;
use crate::engine::etag::{Config, HashConfig, MetaEngine, XattrUse};
use crate::etag::Trust;
use crate::etag::pick::Exclude;
use crate::kernel::proc;
use crate::kernel::watch::Engine as WatchEngine;
use crate::store::catalog::place::Wanted;
use lexopt::prelude::*;
use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

/// What goes to stdout.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Format {
    Text,
    Json,
    Sums,
    None,
}

/// When progress is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Show {
    Auto,
    Always,
    Never,
}

/// All of it.
#[derive(Debug)]
pub(super) struct Options {
    pub(super) paths: Vec<PathBuf>,
    pub(super) state: PathBuf,
    pub(super) config: Config,
    pub(super) wanted: Wanted,
    pub(super) read_only: bool,
    pub(super) format: Option<Format>,
    pub(super) all: bool,
    pub(super) zero: bool,
    pub(super) show: Show,
    pub(super) show_every: Duration,
    pub(super) max_time: Option<Duration>,
    pub(super) quiet: bool,
    pub(super) verbose: bool,
    pub(super) bench: bool,
    pub(super) against: Option<PathBuf>,
    pub(super) compute: bool,
    pub(super) if_none_match: Option<String>,
    /// Of `watch`: a full pass this often, and by which engine of the kernel.
    pub(super) verify_every: Duration,
    pub(super) watch_by: Option<WatchEngine>,
    /// Of `trace-startup`.
    pub(super) trace_out: Option<PathBuf>,
    pub(super) witness: bool,
    pub(super) no_data_opens: bool,
}

fn default_state() -> PathBuf {
    let var = |name| std::env::var_os(name).filter(|v| !v.is_empty());
    let base = match (var("ZRING_STATE"), var("XDG_STATE_HOME"), var("HOME")) {
        (Some(dir), ..) => PathBuf::from(dir),
        _ if proc::ids().0 == 0 => PathBuf::from("/var/lib/zring"),
        (_, Some(dir), _) => PathBuf::from(dir).join("zring"),
        (.., Some(home)) => PathBuf::from(home).join(".local/state/zring"),
        _ => PathBuf::from("/var/lib/zring"),
    };
    base.join("etags")
}

impl Options {
    fn new() -> Self {
        Self {
            paths: Vec::new(),
            state: default_state(),
            config: Config {
                hash: HashConfig {
                    threads: proc::processors().min(4),
                    yields: true,
                    ..HashConfig::default()
                },
                ..Config::default()
            },
            wanted: Wanted::default(),
            read_only: false,
            format: None,
            all: false,
            zero: false,
            show: Show::Auto,
            show_every: Duration::from_secs(10),
            max_time: None,
            quiet: false,
            verbose: false,
            bench: false,
            against: None,
            compute: false,
            if_none_match: None,
            verify_every: Duration::from_secs(3600),
            watch_by: None,
            trace_out: None,
            witness: false,
            no_data_opens: false,
        }
    }

    /// Reads the arguments of `verb`; None after help was printed.
    pub(super) fn read(verb: &'static str, args: Args) -> Result<Option<Self>, EtagError> {
        let mut out = Self::new();
        let mut globs = Vec::new();
        let mut args = args.parser();
        let wrong = |error| EtagError::from(Usage::Argument(error, "etag"));
        while let Some(arg) = args.next().map_err(wrong)? {
            let name = match &arg {
                Short('h') | Long("help") => {
                    print!("{HELP}");
                    return Ok(None);
                }
                Value(path) => {
                    out.paths.push(PathBuf::from(path));
                    continue;
                }
                Short('0') => "null".to_owned(),
                Short('q') => "quiet".to_owned(),
                Short('v') => "verbose".to_owned(),
                // A word that means a share of files elsewhere.
                Long("verify") if verb == "trace-startup" => "witness".to_owned(),
                Long(name) => (*name).to_owned(),
                Short(_) => return Err(wrong(arg.unexpected())),
            };
            if !allowed(verb, &name) || !out.switch(&name) {
                if !allowed(verb, &name) || !takes_value(&name) {
                    return Err(wrong(arg.unexpected()));
                }
                let value = args.value().map_err(wrong)?;
                out.set(&name, value, &mut globs)?;
            }
        }
        if out.paths.is_empty() {
            let expected = if verb == "get" { "a PATH" } else { "a ROOT" };
            return Err(Usage::Count {
                expected,
                command: "etag",
            }
            .into());
        }
        out.config.exclude =
            Exclude::new(&globs).map_err(|e| EtagError::Option(format!("--exclude: {e}")))?;
        if matches!(verb, "scan" | "watch" | "trace-startup") && out.read_only {
            return Err(EtagError::Option(format!(
                "{verb} writes: --read-only is for check, get and export"
            )));
        }
        Ok(Some(out))
    }

    fn switch(&mut self, name: &str) -> bool {
        let flag = match name {
            "cross-device" => &mut self.config.cross_device,
            "allow-fuse-self" => &mut self.config.allow_ours,
            "quick" => &mut self.config.quick,
            "accept-corrupt" => &mut self.config.accept_corrupt,
            "direct" => &mut self.config.hash.direct,
            "background" => &mut self.config.hash.background,
            "rebind" => &mut self.wanted.rebind,
            "read-only" => &mut self.read_only,
            "all" => &mut self.all,
            "null" => &mut self.zero,
            "quiet" => &mut self.quiet,
            "verbose" => &mut self.verbose,
            "bench" => &mut self.bench,
            "compute" => &mut self.compute,
            "witness" => &mut self.witness,
            "assert-no-data-opens" => &mut self.no_data_opens,
            _ => return false,
        };
        *flag = true;
        true
    }

    fn set(
        &mut self,
        name: &str,
        value: OsString,
        globs: &mut Vec<String>,
    ) -> Result<(), EtagError> {
        match name {
            "state" => self.state = PathBuf::from(value),
            "against" => self.against = Some(PathBuf::from(value)),
            "out" => self.trace_out = Some(PathBuf::from(value)),
            _ => {
                let text = value.into_string().map_err(|value| {
                    EtagError::Option(format!("--{name}: {} is no text", value.display()))
                })?;
                self.set_text(name, text, globs)?;
            }
        }
        Ok(())
    }

    fn set_text(
        &mut self,
        name: &str,
        text: String,
        globs: &mut Vec<String>,
    ) -> Result<(), EtagError> {
        let hash = &mut self.config.hash;
        match name {
            "exclude" => globs.push(text),
            "if-none-match" => self.if_none_match = Some(text),
            "trust" => self.config.trust = one_of(name, &text, Trust::by_name)?,
            "xattr" => {
                self.config.xattr = one_of(name, &text, |text| match text {
                    "off" => Some(XattrUse::Off),
                    "read" => Some(XattrUse::Read),
                    "write" => Some(XattrUse::Write),
                    _ => None,
                })?;
            }
            "algo" => {
                self.config.algo = one_of(name, &text, Algo::by_name)?;
                self.wanted.algo = Some(self.config.algo);
            }
            "meta-engine" => {
                self.config.meta = one_of(name, &text, |text| match text {
                    "threads" => Some(MetaEngine::Threads),
                    "uring" => Some(MetaEngine::Uring),
                    _ => None,
                })?;
            }
            "format" => {
                self.format = Some(one_of(name, &text, |text| match text {
                    "text" => Some(Format::Text),
                    "json" => Some(Format::Json),
                    "sha256sum" => Some(Format::Sums),
                    "none" => Some(Format::None),
                    _ => None,
                })?);
            }
            "progress" => {
                self.show = one_of(name, &text, |text| match text {
                    "auto" => Some(Show::Auto),
                    "always" => Some(Show::Always),
                    "never" => Some(Show::Never),
                    _ => None,
                })?;
            }
            "threads" => self.config.threads = number(name, &text, 1, 64)?,
            "hash-threads" => hash.threads = number(name, &text, 1, 64)?,
            "mem" => {
                hash.mem = usize::try_from(bytes(name, &text)?)
                    .unwrap_or(usize::MAX)
                    .max(1 << 20)
            }
            "bps" => hash.bps = Some(bytes(name, &text)?),
            "files-per-sec" => hash.files_per_sec = Some(bytes(name, &text)?),
            "pressure" => hash.pressure = real(name, &text, 100.0)?,
            "verify" => self.config.verify = real(name, &text, 1.0)?,
            "settle" => hash.settle = time(&text)?,
            "progress-interval" => self.show_every = time(&text)?.max(Duration::from_millis(10)),
            "max-time" => self.max_time = Some(time(&text)?),
            "verify-interval" => {
                self.verify_every = time(&text)?.max(Duration::from_millis(100));
            }
            "watch-by" => self.watch_by = Some(one_of(name, &text, WatchEngine::by_name)?),
            _ => unreachable!("names that take values are listed"),
        }
        Ok(())
    }
}

fn takes_value(name: &str) -> bool {
    matches!(
        name,
        "state"
            | "trust"
            | "xattr"
            | "algo"
            | "exclude"
            | "threads"
            | "meta-engine"
            | "format"
            | "progress"
            | "progress-interval"
            | "max-time"
            | "bps"
            | "files-per-sec"
            | "mem"
            | "pressure"
            | "hash-threads"
            | "settle"
            | "verify"
            | "against"
            | "if-none-match"
            | "verify-interval"
            | "watch-by"
            | "out"
    )
}

fn allowed(verb: &str, name: &str) -> bool {
    match name {
        "bps" | "files-per-sec" | "mem" | "pressure" | "background" | "hash-threads" => {
            verb == "scan" || verb == "watch" || verb == "trace-startup"
        }
        "verify" | "accept-corrupt" | "bench" => verb == "scan",
        "settle" | "direct" => verb == "scan" || verb == "get" || verb == "watch",
        "verify-interval" => verb == "watch",
        "watch-by" => verb == "watch" || verb == "trace-startup",
        "out" | "witness" | "assert-no-data-opens" => verb == "trace-startup",
        "against" => verb == "check",
        "compute" | "if-none-match" => verb == "get",
        _ => true,
    }
}

fn one_of<T>(name: &str, text: &str, parse: impl Fn(&str) -> Option<T>) -> Result<T, EtagError> {
    parse(text).ok_or_else(|| {
        EtagError::Option(format!(
            "--{name} has no {text:?}; `zring etag --help` lists what there is"
        ))
    })
}

fn number(name: &str, text: &str, min: usize, max: usize) -> Result<usize, EtagError> {
    let value = text.parse().ok().filter(|n| (min..=max).contains(n));
    value.ok_or_else(|| {
        EtagError::Option(format!(
            "--{name} wants a number from {min} to {max}, not {text:?}"
        ))
    })
}

fn real(name: &str, text: &str, max: f64) -> Result<f64, EtagError> {
    let value = text.parse().ok().filter(|n| (0.0..=max).contains(n));
    value.ok_or_else(|| {
        EtagError::Option(format!(
            "--{name} wants a number from 0 to {max}, not {text:?}"
        ))
    })
}

fn bytes(name: &str, text: &str) -> Result<u64, EtagError> {
    let value = size(text).filter(|n| *n > 0);
    value.ok_or_else(|| {
        EtagError::Option(format!(
            "--{name} wants a number such as 4096, 512k or 64M, not {text:?}"
        ))
    })
}

fn time(text: &str) -> Result<Duration, EtagError> {
    if text == "0" {
        return Ok(Duration::ZERO);
    }
    Ok(duration(text)?)
}
