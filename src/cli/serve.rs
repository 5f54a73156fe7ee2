//! `zring serve`, and the same binary under the name `wcfs`: a server with the command line, the log and the ways of ending of the
//! server that it takes the place of.
//!
//! It stays in front. Its arguments and its name stay as they were given: that is how others know it.

use super::args::Args;
use super::goflag::{self, Flag, FlagError, Kind};
use super::options::Options;
use super::progress::Progress;
use super::{Failure, Outcome, cover, look, place};
use crate::engine::control::OnEpoch;
use crate::engine::daemon::{self, Ending};
use crate::engine::glog::{Glog, Places};
use crate::engine::log::{Level, Log, Style};
use crate::iso::Rules;
use crate::store::zurl::Zurl;
use crate::wire::quote::quoted;
use anyhow::Context;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

/// Flags of the server that this one takes the place of, and behind them its own.
const FLAGS: &[Flag] = &[
    (
        "alsologtostderr",
        Kind::Switch,
        "log to standard error as well as files",
    ),
    (
        "autoexit",
        Kind::Switch,
        "exit when no client is left: some time after the start or after the last close of .wcfs/zurl",
    ),
    ("debug", Kind::Switch, "make .wcfs/debug/zhead"),
    (
        "log_backtrace_at",
        Kind::Value("file:line"),
        "accepted, without effect",
    ),
    (
        "log_dir",
        Kind::Value("dir"),
        "write log files in this directory (default: the temporary one)",
    ),
    (
        "log_link",
        Kind::Value("dir"),
        "put links to the log files into this directory too",
    ),
    (
        "logbuflevel",
        Kind::Value("n"),
        "accepted, without effect: no line is held back",
    ),
    (
        "logtostderr",
        Kind::Switch,
        "log to standard error instead of files",
    ),
    (
        "pintimeout",
        Kind::Value("duration"),
        "clients have to answer pins within this (default 30s)",
    ),
    (
        "stderrthreshold",
        Kind::Value("level"),
        "lines of this level or above go to standard error too (default ERROR)",
    ),
    (
        "trace.fuse",
        Kind::Switch,
        "log every FUSE request and reply",
    ),
    (
        "v",
        Kind::Value("n"),
        "accepted: there is one level of detail",
    ),
    ("vmodule", Kind::Value("list"), "accepted, without effect"),
    (
        "autoexit.after",
        Kind::Value("duration"),
        "zring: how long -autoexit waits (default 1m0s)",
    ),
    (
        "o",
        Kind::Value("options"),
        "zring: options as of `zring mount -o`; transport, max_record, on_epoch; not read_ahead",
    ),
];

/// Exit status of a start that failed, and of a server that gave up.
const FAILED: u8 = 2;

/// Said on a kernel that drops a file's pages when its size changes.
const OLD_KERNEL: &str = "\
W: wcfs: this kernel cannot be told to leave cached pages alone (explicit data invalidation, Linux 5.2)
W: wcfs: every change of a file's size drops all of its page cache
W: wcfs: performance will be AWFUL
W: wcfs: please use a newer kernel
";

/// What the flags say.
#[derive(Debug)]
struct Settings {
    debug: bool,
    trace: bool,
    autoexit: bool,
    autoexit_after: Duration,
    pintimeout: Duration,
    options: Options,
    log: Places,
}

impl Settings {
    fn new(program: &str) -> Self {
        Self {
            debug: false,
            trace: false,
            autoexit: false,
            autoexit_after: Duration::from_secs(60),
            pintimeout: Duration::from_secs(30),
            options: Options {
                on_epoch: OnEpoch::Server,
                ..Options::default()
            },
            log: Places {
                program: program.to_owned(),
                to_stderr: false,
                also_to_stderr: false,
                threshold: Level::Error,
                dir: std::env::temp_dir(),
                link_dir: None,
            },
        }
    }

    fn set(&mut self, name: &str, value: &str) -> Result<(), FlagError> {
        let wrong = || FlagError::value(name, value, "parse error");
        let time = || goflag::duration(value).ok_or_else(wrong);
        let on = value == "true";
        match name {
            "debug" => self.debug = on,
            "trace.fuse" => self.trace = on,
            "autoexit" => self.autoexit = on,
            "autoexit.after" => self.autoexit_after = time()?,
            "pintimeout" => self.pintimeout = time()?,
            "logtostderr" => self.log.to_stderr = on,
            "alsologtostderr" => self.log.also_to_stderr = on,
            "stderrthreshold" => self.log.threshold = Level::parse(value).ok_or_else(wrong)?,
            "log_dir" if value.is_empty() => self.log.dir = std::env::temp_dir(),
            "log_dir" => self.log.dir = value.into(),
            "log_link" => {
                self.log.link_dir = Some(PathBuf::from(value)).filter(|d| *d != Path::new(""))
            }
            "v" | "logbuflevel" => {
                value.parse::<i64>().map_err(|_| wrong())?;
            }
            "o" => {
                let refused = |why| FlagError::value(name, value, why);
                let unknown = |_| refused("see `zring mount --help`");
                self.options.add(value, false).map_err(unknown)?;
                // Clients count on neighbours of what they read not being loaded.
                if self.options.read_ahead_kb.is_some() {
                    return Err(refused("read_ahead is for `zring mount`"));
                }
            }
            _ => {} // vmodule, log_backtrace_at
        }
        Ok(())
    }
}

/// The binary under the name `wcfs`.
pub(super) fn by_name(program: &str, args: Args) -> ExitCode {
    let usage = format!("Usage of {program}: {program} [OPTIONS] zurl mntpt\n");
    run(program, &usage, 2, args)
}

/// `zring serve ...`
pub(super) fn command(args: Args) -> ExitCode {
    let usage = "Usage of zring serve: zring serve [OPTIONS] zurl [mntpt]\n";
    run("zring", usage, 1, args)
}

fn run(program: &str, usage: &str, least: usize, args: Args) -> ExitCode {
    let words = args.words().into_iter().map(|word| word.into_string());
    let Ok(words) = words.collect::<Result<Vec<_>, _>>() else {
        eprintln!("{program}: an argument is not UTF-8");
        return ExitCode::from(FAILED);
    };
    let mut settings = Settings::new(program);
    let places = goflag::parse(&words, FLAGS, |name, value| settings.set(name, value));
    let list = || eprint!("{usage}{}", goflag::list(FLAGS));
    let places = match places {
        Err(FlagError::Help) => {
            list();
            return ExitCode::SUCCESS;
        }
        Err(error) => {
            eprintln!("{error}");
            list();
            return ExitCode::from(2);
        }
        Ok(places) => places,
    };
    let (zurl, mountpoint) = match places.as_slice() {
        [zurl, mountpoint] => (zurl, Some(mountpoint.as_str())),
        [zurl] if least == 1 => (zurl, None),
        _ => {
            list();
            return ExitCode::from(2);
        }
    };
    match serve(settings, zurl, mountpoint) {
        Ok(()) => ExitCode::SUCCESS,
        Err(Logged) => ExitCode::from(FAILED),
    }
}

/// It went wrong, and the log says how.
struct Logged;

fn serve(settings: Settings, zurl: &str, mountpoint: Option<&str>) -> Result<(), Logged> {
    let autoexit = settings.autoexit.then_some(settings.autoexit_after);
    let ending = Ending::DropIn { autoexit };
    let glog = Glog::new(settings.log.clone());
    let log = ending
        .block_signals()
        .and_then(|()| Log::start(Style::Glog(glog)));
    let log = match log {
        Ok(log) => log,
        Err(error) => {
            eprintln!("no log can be written: {error}");
            return Err(Logged);
        }
    };
    let outcome = serve_logged(settings, zurl, mountpoint, ending, &log);
    if let Err(Failure { error, .. }) = &outcome {
        log.fatal(format!("{error:#}"));
    }
    log.flush();
    outcome.map_err(|_| Logged)
}

fn serve_logged(
    settings: Settings,
    zurl: &str,
    mountpoint: Option<&str>,
    ending: Ending,
    log: &Log,
) -> Outcome {
    let path = match mountpoint {
        Some(given) => look::mountpoint(Path::new(given))?,
        None => place::derive(zurl)?,
    };
    let shown = mountpoint.map_or_else(|| path.to_string_lossy().into_owned(), str::to_owned);
    log.info(format!("start {} {}", quoted(&shown), quoted(zurl)));
    log.info(format!("(built with zring {})", env!("CARGO_PKG_VERSION")));
    if has_secret(zurl) {
        log.warning("the database address holds a password, which everybody can see: it is an argument and the mount's source");
    }
    let database = Zurl::parse_loosely(zurl)?;
    let _claim = place::claim(&path, zurl)?;
    let logs = settings.log.files();
    cover::check(&path, &database, logs.iter().map(PathBuf::as_path))?;
    let options = daemon::Options {
        zurl: zurl.to_owned(),
        database,
        mountpoint: path,
        transport: settings.options.transport,
        pollers: settings.options.pollers,
        max_record: settings.options.max_record,
        rules: Rules {
            timeout: settings.pintimeout,
            ..settings.options.rules
        },
        read_ahead_kb: None,
        access: settings.options.access,
        group: settings.options.group,
        flags: settings.options.flags,
        debug: settings.debug || settings.options.debug,
        on_epoch: settings.options.on_epoch,
        subtype: "wcfs",
        trace: settings.trace,
        ending,
    };
    let mut bar = Progress::new("reading the database");
    daemon::run(
        &options,
        log,
        &mut |done, total| bar.show(done, total),
        |serving, _| {
            if !serving.keeps_pages {
                eprint!("{OLD_KERNEL}");
            }
        },
    )
    .with_context(|| format!("serve {}", quoted(zurl)))?;
    log.info(format!("stop {} {}", quoted(&shown), quoted(zurl)));
    Ok(())
}

/// Whether an address tells a password.
fn has_secret(zurl: &str) -> bool {
    let authority = zurl.split_once("://").map_or("", |(_, rest)| rest);
    let authority = authority.split(['/', '?']).next().unwrap_or_default();
    let user = authority.rsplit_once('@').map_or("", |(user, _)| user);
    user.contains(':') || zurl.contains("password=")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(line: &str) -> Result<Settings, String> {
        let words: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
        let mut settings = Settings::new("wcfs");
        goflag::parse(&words, FLAGS, |name, value| settings.set(name, value))
            .map(|_| settings)
            .map_err(|e| e.to_string())
    }

    #[test]
    fn e02_every_flag_of_the_server_it_replaces_is_taken() {
        let line = "-debug -autoexit -pintimeout 3.0s -trace.fuse -logtostderr -alsologtostderr -v 2 -v=1 \
                    -stderrthreshold WARNING -vmodule a=1 -log_dir /x -log_backtrace_at f:1 -log_link /y -logbuflevel 0 \
                    --debug=false -pintimeout=1m30s";
        let settings = settings(line).expect("all known");
        assert!(!settings.debug && settings.autoexit && settings.trace);
        assert_eq!(settings.pintimeout, Duration::from_secs(90));
        assert!(settings.log.to_stderr && settings.log.also_to_stderr);
        assert_eq!(settings.log.threshold, Level::Warning);
        assert_eq!(settings.log.dir, Path::new("/x"));
        assert_eq!(settings.options.on_epoch, OnEpoch::Server);
    }

    #[test]
    fn e02_values_that_cannot_be_are_refused() {
        for (line, text) in [
            (
                "-pintimeout soon",
                "invalid value \"soon\" for flag -pintimeout: parse error",
            ),
            ("-v x", "invalid value \"x\" for flag -v: parse error"),
            (
                "-stderrthreshold LOUD",
                "invalid value \"LOUD\" for flag -stderrthreshold: parse error",
            ),
            (
                "-o transport=tcp",
                "invalid value \"transport=tcp\" for flag -o: see `zring mount --help`",
            ),
            (
                "-o transport=dev,read_ahead=1M",
                "invalid value \"transport=dev,read_ahead=1M\" for flag -o: read_ahead is for `zring mount`",
            ),
        ] {
            assert_eq!(settings(line).err().as_deref(), Some(text), "{line}");
        }
    }

    #[test]
    fn a_password_in_an_address_is_noticed() {
        assert!(has_secret("zeo://u:p@h:1"));
        assert!(has_secret("file:///x?password=y"));
        assert!(!has_secret("zeo://h:1/@x:y"));
        assert!(!has_secret("neos://c@h:1?ca=x"));
    }
}
