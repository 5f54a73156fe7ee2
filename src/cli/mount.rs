//! `zring mount`, and the same as helper of mount(8).
//!
//! The command starts a daemon, which is this binary with `-f`, and waits until the mount answers a statfs. The
//! daemon tells through a pipe that it serves, or why not. Only the command enters the mount, never the daemon.

use super::args::{Args, Parser, Usage};
use super::options::{self, OptionError, Options};
use super::progress::Progress;
use super::{Failure, Outcome, cover};
use crate::engine::daemon::{self, DaemonError, Ending};
use crate::engine::log::{Log, Style};
use crate::engine::start::{Choice, StartError};
use crate::kernel::mount::{self as kmount, MountError};
use crate::kernel::port::TransportKind;
use crate::kernel::{mountinfo, proc};
use crate::store::zurl::Zurl;
use anyhow::{Context, anyhow};
use lexopt::prelude::*;
use std::io::{self, Read, Write};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

const HELP: &str = "zring mount [-f] [-o options] ZURL MNT

Mounts the database ZURL (file:///path/Data.fs, zeo://host:port, neo://cluster@host:port, postgres://host/db,
demo:(BASE)/(CHANGES)) on the directory MNT and returns when the mount answers.
  -f, --foreground   stay in front and log to stderr
";

/// How long a fresh mount may take to answer, once the daemon says it serves.
const ANSWER: Duration = Duration::from_secs(30);

/// One request to mount.
#[derive(Debug, Default)]
struct Request {
    foreground: bool,
    /// Started by another `zring mount`, which waits for a word on stdout.
    daemon: bool,
    fake: bool,
    zurl: String,
    mountpoint: PathBuf,
    options: Options,
    /// The `-o` lists, for the daemon.
    lists: Vec<String>,
}

/// `zring mount ...`
pub(super) fn command(args: Args) -> Outcome {
    let Some(request) = parse(args.parser(), false)? else {
        print!("{HELP}\n{}", options::HELP);
        return Ok(());
    };
    perform(&request)
}

/// `mount.zring ZURL MNT [-sfnv] [-o options]`, as mount(8) calls its helpers.
pub(super) fn helper(args: Args) -> Outcome {
    let Some(request) = parse(args.parser(), true)? else {
        print!(
            "mount.zring ZURL MNT [-sfnv] [-o options]\n\n{}",
            options::HELP
        );
        return Ok(());
    };
    if request.fake {
        return Ok(());
    }
    perform(&request)
}

/// Mounts with default options, for the demonstration.
pub(super) fn mount(zurl: &str, mountpoint: &Path) -> Outcome {
    let (zurl, mountpoint) = (zurl.to_owned(), mountpoint.to_owned());
    perform(&Request {
        zurl,
        mountpoint,
        ..Request::default()
    })
}

fn parse(mut args: Parser, from_mount: bool) -> Result<Option<Request>, Failure> {
    let mut request = Request::default();
    let (mut places, mut sloppy) = (Vec::new(), false);
    let wrong = |error| Usage::Argument(error, "mount");
    while let Some(arg) = args.next().map_err(wrong)? {
        match arg {
            Short('h') | Long("help") => return Ok(None),
            Short('f') if from_mount => request.fake = true,
            Short('f') | Long("foreground") => request.foreground = true,
            Long("daemon") if !from_mount => request.daemon = true,
            Short('s') if from_mount => sloppy = true,
            Short('n' | 'v') if from_mount => {}
            Short('t') if from_mount => {
                args.value().map_err(wrong)?;
            }
            Short('o') => {
                request
                    .lists
                    .push(args.value().map_err(wrong)?.to_string_lossy().into_owned());
            }
            Value(value) => places.push(value),
            _ => return Err(wrong(arg.unexpected()).into()),
        }
    }
    let Ok([zurl, mountpoint]) = <[_; 2]>::try_from(places) else {
        let expected = "a database address and a directory";
        return Err(Usage::Count {
            expected,
            command: "mount",
        }
        .into());
    };
    // Each by itself: what -s tolerates must not take its neighbours along.
    let lists = std::mem::take(&mut request.lists);
    for option in lists.iter().flat_map(|list| list.split(',')) {
        match request.options.add(option, from_mount) {
            Ok(()) => request.lists.push(option.to_owned()),
            Err(OptionError::Unknown { .. }) if sloppy => {}
            Err(error) => return Err(Failure::new(2, error)),
        }
    }
    request.zurl = zurl.to_string_lossy().into_owned();
    request.mountpoint = mountpoint.into();
    Ok(Some(request))
}

fn perform(request: &Request) -> Outcome {
    let database = Zurl::parse(&request.zurl).map_err(|e| Failure::new(2, e))?;
    if request.daemon {
        return serve_in_background(request, database);
    }
    let Some(mountpoint) = clear_mountpoint(&request.mountpoint, &request.zurl)? else {
        return Ok(());
    };
    let log = request.options.log_file.as_deref().map(Path::new);
    cover::check(&mountpoint, &database, log)?;
    if request.foreground {
        let outcome = serve(request, database, mountpoint, |_| {});
        return outcome.map_err(|error| Failure::new(code_of(&error), error));
    }
    start_daemon(request, &mountpoint)
}

/// Why a directory cannot be mounted on.
#[derive(Debug, thiserror::Error)]
enum PlaceError {
    #[error("mountpoint {0} does not exist: create it first (mkdir -p {0})")]
    Missing(String),
    #[error("mountpoint {0} is not a directory")]
    NotDir(String),
    #[error("mountpoint {0} may not be entered by this user")]
    Permission(String),
    #[error(
        "mountpoint {path} is busy: {source_name} ({fstype}) is mounted there; unmount it first or choose another directory"
    )]
    Busy {
        path: String,
        source_name: String,
        fstype: String,
    },
    #[error("mountpoint {0} cannot be used")]
    Other(String, #[source] io::Error),
}

/// How long the mount of a server that was killed may answer strangely.
const TAKEN_DOWN: Duration = Duration::from_secs(5);

/// The real path of a usable mountpoint. A dead mount of the same database is detached; `None` when a live one is there.
fn clear_mountpoint(given: &Path, zurl: &str) -> Result<Option<PathBuf>, Failure> {
    let shown = given.display().to_string();
    let path = real_path(given).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => PlaceError::Missing(shown.clone()),
        io::ErrorKind::PermissionDenied => PlaceError::Permission(shown.clone()),
        _ => PlaceError::Other(shown.clone(), error),
    })?;
    let began = Instant::now();
    while let Some(there) = mountinfo::topmost(&path) {
        if there.fstype == "autofs" {
            break; // a trigger: what it waits for is this mount
        }
        let ours = matches!(there.fstype.as_str(), "fuse.zring" | "fuse.wcfs");
        if !ours || there.source != zurl {
            let (source_name, fstype) = (there.source, there.fstype);
            return Err(PlaceError::Busy {
                path: shown,
                source_name,
                fstype,
            }
            .into());
        }
        match answers(&path, Duration::from_secs(5)) {
            Some(Ok(())) => {
                eprintln!("zring: {zurl} is mounted on {shown} already");
                return Ok(None);
            }
            Some(Err(libc::ENOTCONN | libc::ECONNABORTED)) => {
                kmount::unmount(&path, true)
                    .context("a dead mount of ours could not be detached")?;
            }
            // A server that has just been killed: its rings are still being taken down (kernel-note 0004).
            Some(Err(libc::ECANCELED)) if began.elapsed() < TAKEN_DOWN => {
                proc::pause(Duration::from_millis(20));
            }
            Some(Err(errno)) => {
                let error = io::Error::from_raw_os_error(errno);
                return Err(PlaceError::Other(shown, error).into());
            }
            None => {
                let error = anyhow!(
                    "{zurl} is mounted on {shown} but does not answer; `zring umount --lazy {shown}` ends it"
                );
                return Err(Failure::new(4, error));
            }
        }
    }
    match std::fs::metadata(&path) {
        Ok(meta) if meta.is_dir() => Ok(Some(path)),
        Ok(_) => Err(PlaceError::NotDir(shown).into()),
        Err(error) => Err(PlaceError::Other(shown, error).into()),
    }
}

/// The path without symbolic links. A dead mount does not answer for itself, but its parent does.
pub(super) fn real_path(given: &Path) -> io::Result<PathBuf> {
    match std::fs::canonicalize(given) {
        Err(error)
            if matches!(
                error.raw_os_error(),
                Some(libc::ENOTCONN | libc::ECONNABORTED | libc::ECANCELED)
            ) =>
        {
            let absolute = std::path::absolute(given)?;
            let name = absolute.file_name().ok_or(error)?;
            let parent = absolute.parent().unwrap_or(Path::new("/"));
            Ok(std::fs::canonicalize(parent)?.join(name))
        }
        path => path,
    }
}

/// Whether a mount answers a statfs; `None` when it does not within `limit`. A thread that hangs in it is left behind.
pub(super) fn answers(path: &Path, limit: Duration) -> Option<Result<(), i32>> {
    let (done, answer) = crossbeam_channel::bounded(1);
    let path = path.to_owned();
    let asked = proc::spawn("zring-ask", move || {
        let _ = done.send(kmount::statfs(&path));
    });
    asked.ok()?;
    answer.recv_timeout(limit).ok()
}

/// Runs the daemon in front.
fn serve(
    request: &Request,
    database: Zurl,
    mountpoint: PathBuf,
    ready: impl FnOnce(daemon::Serving),
) -> Result<(), DaemonError> {
    let options = daemon::Options {
        zurl: request.zurl.clone(),
        database,
        mountpoint,
        transport: request.options.transport,
        pollers: request.options.pollers,
        max_record: request.options.max_record,
        rules: request.options.rules,
        read_ahead_kb: request.options.read_ahead_kb,
        access: request.options.access,
        group: request.options.group,
        flags: request.options.flags,
        debug: request.options.debug,
        on_epoch: request.options.on_epoch,
        subtype: "zring",
        trace: false,
        ending: Ending::Orderly,
    };
    let no_room = DaemonError::Resources;
    options.ending.block_signals().map_err(no_room)?;
    let log = Log::start(Style::Plain).map_err(no_room)?;
    let mut bar = Progress::new("reading the database");
    let auto = options.transport == Choice::Auto;
    daemon::run(
        &options,
        &log,
        &mut |done, total| bar.show(done, total),
        |serving, _| {
            if auto && serving.transport == TransportKind::Plain {
                eprintln!(
                    "zring: io_uring is not to be had here (sysctl kernel.io_uring_disabled): serving with transport plain"
                );
            }
            ready(serving);
        },
    )
}

/// First word of what the daemon tells the command, on its stdout.
const READY: &str = "ready";

/// The file that `log_file` names.
#[derive(Debug, thiserror::Error)]
#[error(
    "log_file={path} cannot be opened; name a file in a directory that is there and that this user may write to"
)]
struct LogError {
    path: String,
    source: io::Error,
}

/// Tells the command that waits why there is no mount.
fn refuse(code: u8, error: &anyhow::Error) -> ! {
    let _ = write!(io::stdout(), "{code} {error:#}");
    std::process::exit(1)
}

/// The daemon's side: stdout is the pipe to the command that waits.
fn serve_in_background(request: &Request, database: Zurl) -> Outcome {
    let named = request.options.log_file.as_deref();
    let log = proc::open_log(named).unwrap_or_else(|source| {
        let path = named.unwrap_or("/dev/null").to_owned();
        refuse(1, &anyhow!(LogError { path, source }))
    });
    // Until it serves, the command that waits is all that anybody can end.
    proc::end_with_parent(true);
    let outcome = serve(request, database, request.mountpoint.clone(), |serving| {
        proc::end_with_parent(false);
        let _ = writeln!(
            io::stdout(),
            "{READY} {} {}",
            serving.transport.name(),
            serving.workers
        );
        let _ = proc::let_go_of_terminal(&log);
    });
    outcome.map_err(|error| refuse(code_of(&error), &anyhow!(error)))
}

/// The command's side: starts the daemon, waits for its word, then for the mount itself.
fn start_daemon(request: &Request, mountpoint: &Path) -> Outcome {
    let binary = std::env::current_exe()
        .context("the path of this program is not known (is /proc mounted?)")?;
    let mut command = Command::new(binary);
    command.arg0("zring").args(["mount", "--daemon"]);
    // The command has read them; rw, which mount(8) adds by itself, is no error here.
    for option in request.lists.iter().filter(|&o| o != "rw" && !o.is_empty()) {
        command.args(["-o", option]);
    }
    command.arg("--").arg(&request.zurl).arg(mountpoint);
    // A root without /dev/null: a pipe whose other end goes is at its end too.
    let nothing = match Path::new("/dev/null").exists() {
        true => Stdio::null(),
        false => Stdio::piped(),
    };
    command.stdin(nothing).stdout(Stdio::piped());
    let mut child = command.spawn().context("the daemon cannot be started")?;
    let mut word = String::new();
    let mut pipe = child.stdout.take().expect("it is piped");
    pipe.read_to_string(&mut word)
        .context("the daemon's word cannot be read")?;
    let Some((first, rest)) = word.split_once(' ') else {
        let status = child.wait().context("the daemon is gone")?;
        return Err(
            match status.code().and_then(|code| u8::try_from(code).ok()) {
                // It was told to, before it served.
                Some(code) if code > 128 => Failure::new(code, anyhow!("stopped by a signal")),
                _ => anyhow!("the daemon ended without a word ({status})").into(),
            },
        );
    };
    if first != READY {
        let _ = child.wait();
        return Err(Failure::new(first.parse().unwrap_or(1), anyhow!("{rest}")));
    }
    match answers(mountpoint, ANSWER) {
        Some(Ok(())) => Ok(()),
        Some(Err(errno)) => {
            let error = io::Error::from_raw_os_error(errno);
            Err(anyhow!(error)
                .context("the mount was made, but does not answer")
                .into())
        }
        None => Err(Failure::new(
            6,
            anyhow!("the mount was made, but does not answer in time"),
        )),
    }
}

/// The exit code of a daemon that did not come to serve.
fn code_of(error: &DaemonError) -> u8 {
    use crate::store::any::AnyOpenError;
    use crate::store::file::OpenError;
    match error {
        DaemonError::Open(AnyOpenError::File(OpenError::Permission { .. }))
        | DaemonError::Start(StartError::Mount(MountError::DevicePermission)) => 7,
        DaemonError::Open(AnyOpenError::File(OpenError::Damaged { .. })) => 5,
        _ => 1,
    }
}
