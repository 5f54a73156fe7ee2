//! The command line: arguments, messages for people, exit codes. The only room that prints for people.
//!
//! One binary; `mount.zring` and `mount.fuse.zring` are other names of it, for mount(8), and so is `wcfs`, for clients of the
//! server that it takes the place of. Exit codes: 0 good, 1 failed, 2 usage, 3 not mounted, 4 degraded but serving, 5 refused
//! for safety, 6 timed out, 7 permission, 128 and a signal that ended it; `serve` knows 0 and 2 alone, `etag` has its own.

mod args;
mod check;
mod cover;
mod demo;
mod doctor;
mod etag;
mod goflag;
mod look;
mod mount;
mod options;
mod place;
mod progress;
mod reader;
mod serve;
mod status;
mod stop;
mod tree;
mod umount;

use args::{Args, Usage};
use std::ffi::OsString;
use std::process::ExitCode;

const USAGE: &str = "\
zring: big files out of ZODB, through one exact page cache

  zring mount [-f] [-o options] ZURL MNT    mount the database ZURL (file:///path/Data.fs) on directory MNT
  zring umount [--timeout D] [--lazy] MNT   unmount
  zring serve [flags] ZURL [MNT]            serve as `wcfs` does, in front; `zring serve -h` lists its flags
  zring status ZURL|MNT                     whether a server is there and answers, and who hangs if it does not
  zring stop [--lazy] ZURL|MNT              end a server, its mount, and who keeps that busy
  zring demo [DIR]                          write a small database, mount it, read it, commit to it, unmount
  zring check [--deep] ZURL                 verify a database as zring sees it
  zring tree ZURL OID [--at TID] [--dot]    the block table of a big file; --diff TID1 TID2: what changed in it
  zring etag scan|check|get|export|watch    whether files of a tree changed, and their ETags; `zring etag --help`
  zring trace-startup [options] ROOT...     start up to the first pass, and report all that was opened
  zring doctor                              what this machine offers
  zring version [--json]

`zring mount --help` lists the options.
";

/// How a command ended badly.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) code: u8,
    pub(crate) error: anyhow::Error,
}

impl Failure {
    /// With an exit code other than 1.
    pub(crate) fn new(code: u8, error: impl Into<anyhow::Error>) -> Self {
        Self {
            code,
            error: error.into(),
        }
    }
}

impl<E: Into<anyhow::Error>> From<E> for Failure {
    fn from(error: E) -> Self {
        let error = error.into();
        let code = if error.is::<Usage>() { 2 } else { 1 };
        Self { code, error }
    }
}

/// What a command comes to.
pub(crate) type Outcome = Result<(), Failure>;

/// Runs the command that `argv` names.
pub fn run(argv: impl IntoIterator<Item = OsString>) -> ExitCode {
    let mut argv = argv.into_iter();
    let name = argv.next().unwrap_or_default();
    let name = std::path::Path::new(&name)
        .file_name()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned();
    let mut rest: Vec<OsString> = argv.collect();
    if name == "wcfs" {
        return serve::by_name(&name, Args::new(rest));
    }
    let outcome = match name.as_str() {
        "mount.zring" | "mount.fuse.zring" => mount::helper(Args::new(rest)),
        _ if rest.first().is_some_and(|word| word == "serve") => {
            rest.remove(0);
            return serve::command(Args::new(rest));
        }
        _ if rest.first().is_some_and(|word| word == "etag") => {
            rest.remove(0);
            return etag::command(Args::new(rest));
        }
        _ if rest.first().is_some_and(|word| word == "trace-startup") => {
            rest.remove(0);
            return etag::trace_startup(Args::new(rest));
        }
        _ => command(rest),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(Failure { code, error }) => {
            eprintln!("zring: {error:#}");
            ExitCode::from(code)
        }
    }
}

fn command(rest: Vec<OsString>) -> Outcome {
    let mut rest = rest.into_iter();
    let name = rest.next().unwrap_or_default();
    let args = Args::new(rest.collect());
    match name.to_str() {
        Some("mount") => mount::command(args),
        Some("umount" | "unmount") => umount::command(args),
        Some("status") => status::command(args),
        Some("stop") => stop::command(args),
        Some("look") => look::command(args),
        Some("demo") => demo::command(args),
        Some("check") => check::command(args),
        Some("tree") => tree::command(args),
        Some("doctor") => doctor::command(args),
        Some("version" | "--version" | "-V") => doctor::version(args),
        Some("help" | "--help" | "-h") => {
            print!("{USAGE}");
            Ok(())
        }
        Some("") => Err(Usage::NoCommand.into()),
        _ => Err(Usage::Command(name.to_string_lossy().into_owned()).into()),
    }
}
