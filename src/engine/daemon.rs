//! One mount from start to end: open the database, mount, serve, stop.
//!
//! ```text
//!   main: opens the database, mounts, waits for the workers
//!   zring-w<n>     serve           zring-control  moves head      zring-notify, -store, -keep  write notifications
//!   zring-signal   turns SIGTERM into an end: see [`Start`]                                   zring-log     writes lines
//!   zring-quit     tells where threads are               zring-autoexit   of a drop-in server: see [`Ending`]
//! ```

use super::control::{Control, OnEpoch, Place};
use super::log::Log;
use super::notes;
use super::notifier::{self, Inboxes};
use super::quit;
use super::serve::{FileService, Links};
use super::shared::{Mailbox, RINGS, Setup, Shared, ToControl, ToWorker};
use super::start::{self, Choice, StartError};
use crate::fs::attr::{Access, Owner};
use crate::iso::Rules;
use crate::kernel::mount::{Connection, MountFlags, MountSpec};
use crate::kernel::port::TransportKind;
use crate::kernel::proc::{self, Waker};
use crate::store::any::{AnyOpenError, AnyStore};
use crate::store::file::{IndexFault, Progress};
use crate::store::remote::Link;
use crate::store::zurl::Zurl;
use crate::wire::fuse::abi::init;
use crossbeam_channel::{Receiver, bounded, unbounded};
use std::io;
use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// What to serve, and how.
#[derive(Clone, Debug)]
pub struct Options {
    /// As given by the user.
    pub zurl: String,
    /// The database it names.
    pub database: Zurl,
    /// An absolute path without symbolic links.
    pub mountpoint: PathBuf,
    /// Which transport.
    pub transport: Choice,
    /// Largest record, bytes.
    pub max_record: usize,
    /// What is asked of clients of `head/watch`.
    pub rules: Rules,
    /// Readahead of the mount, KiB; the kernel's own when `None`.
    pub read_ahead_kb: Option<u32>,
    /// Workers that look at `/dev/fuse` at any time, at least.
    pub pollers: usize,
    /// Who may enter the mount.
    pub access: Access,
    /// The group that nodes belong to, if not the daemon's.
    pub group: Option<u32>,
    /// As mount(8) means them.
    pub flags: MountFlags,
    /// Make `.wcfs/debug`.
    pub debug: bool,
    /// What is done about a big file that is another one now.
    pub on_epoch: OnEpoch,
    /// Shown as the type of the mount, after `fuse.`.
    pub subtype: &'static str,
    /// Every request and reply is logged.
    pub trace: bool,
    /// How it ends.
    pub ending: Ending,
}

/// How a daemon ends, beside by an unmount from outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// SIGTERM and SIGINT unmount, SIGQUIT has it tell where it stands. A database that cannot be followed leaves EIO for head.
    Orderly,
    /// As a drop-in server: signals kill it and leave the dead mount, SIGQUIT with a word of where it stands; it dies of a
    /// database that cannot be followed.
    DropIn {
        /// Unmounts when no client has been there for so long.
        autoexit: Option<Duration>,
    },
}

impl Ending {
    /// Leaves the signals that this way of ending waits for to their thread: before any thread is started.
    ///
    /// # Errors
    /// Never on Linux.
    pub fn block_signals(self) -> io::Result<()> {
        match self {
            Self::Orderly => proc::block_signals().and_then(|()| proc::block_quit()),
            Self::DropIn { .. } => proc::block_quit(),
        }
    }
}

/// Why a mount is not made.
#[derive(Debug, thiserror::Error)]
pub enum DaemonError {
    /// The database.
    #[error(transparent)]
    Open(#[from] AnyOpenError),
    /// The mount.
    #[error(transparent)]
    Start(#[from] StartError),
    /// A thread or a descriptor.
    #[error("the system has no room for the daemon: {0}")]
    Resources(#[source] io::Error),
}

/// What is known once the mount is there.
#[derive(Clone, Copy, Debug)]
pub struct Serving {
    /// The transport that was chosen.
    pub transport: TransportKind,
    /// Worker threads.
    pub workers: usize,
    /// Whether the kernel keeps the pages of a file whose size changes (Linux 5.2).
    pub keeps_pages: bool,
}

/// The protocol minor of Linux 6.18, which can be asked to let go of nodes.
const PRUNES: u32 = 45;

/// Serves until the mount ends. `ready` is called when requests are answered, with what all threads share. The caller has blocked the signals of
/// [`Ending::block_signals`] before it started the log.
///
/// # Errors
/// The mount was not made, or its workers failed.
pub fn run(
    options: &Options,
    log: &Log,
    progress: &mut Progress<'_>,
    ready: impl FnOnce(Serving, &Arc<Shared>),
) -> Result<(), DaemonError> {
    // Before any memory is taken that somebody waits for.
    proc::small_pages();
    let files = proc::raise_files();
    let start = Arc::new(Start::default());
    let (made, stop) = bounded(1);
    if options.ending == Ending::Orderly {
        let (start, log) = (Arc::clone(&start), log.clone());
        proc::spawn("zring-signal", move || start.end_on_signal(&log, &stop))
            .map_err(DaemonError::Resources)?;
    }
    let control_waker = Waker::new().map_err(DaemonError::Resources)?;
    let for_news = Some(control_waker.clone());
    let (store, view) = AnyStore::open(&options.database, options.max_record, for_news, progress)?;
    let link = store.link().cloned();
    let at = view.at();
    if let Some(fault) = store
        .index_fault()
        .filter(|&fault| fault != IndexFault::Absent)
    {
        log.info(format!(
            "the saved index was not used and the database was scanned: {fault}"
        ));
    }
    let (to_control, control_inbox) = unbounded();
    let control = Mailbox::new(to_control, control_waker.clone());
    let (notifier, advance) = unbounded();
    let (keeper, keeps_inbox) = unbounded();
    let place = Place::default();

    let spec = MountSpec {
        source: options.zurl.clone(),
        mountpoint: options.mountpoint.clone(),
        subtype: options.subtype.to_owned(),
        allow_other: options.access != Access::Owner,
        flags: options.flags,
    };
    start.mounts();
    let mut parts = None;
    let running = start::start(
        spec,
        options.transport,
        options.pollers,
        |connection, session, seats| {
            // Before the first reader is answered.
            if let Some(kb) = options.read_ahead_kb
                && let Err(error) = connection.set_read_ahead_kb(kb)
            {
                log.warning(format!("readahead stays the kernel's: {error}"));
            }
            let shared = Arc::new(Shared::new(Setup {
                at,
                workers: seats.len(),
                zurl: options.zurl.clone(),
                pintimeout: format!("{:.1}", options.rules.timeout.as_secs_f64()),
                owner: owner(options),
                user_links: options.rules.others.links,
                files,
                max_record: options.max_record,
                debug: options.debug,
                prunes: session.minor >= PRUNES,
                trace: options.trace,
                is_drop_in: options.ending != Ending::Orderly,
                upstream: link.clone(),
                log: log.clone(),
            }));
            let (senders, inboxes): (Vec<_>, Vec<_>) = seats
                .iter()
                .map(|seat| {
                    let (sender, inbox) = unbounded();
                    (Mailbox::new(sender, seat.waker.clone()), inbox)
                })
                .unzip();
            let (noters, notes): (Vec<_>, Vec<_>) = seats.iter().map(|_| notes::channel()).unzip();
            let services = inboxes
                .into_iter()
                .zip(noters)
                .enumerate()
                .map(|(index, (inbox, notes))| {
                    let links = Links {
                        inbox,
                        workers: senders.clone(),
                        control: control.clone(),
                        notes,
                        keeper: keeper.clone(),
                        place: place.clone(),
                        connection: Arc::clone(connection),
                    };
                    FileService::new(index, Arc::clone(&shared), links, view.clone())
                })
                .collect();
            let inboxes = Inboxes {
                advance,
                keeps: keeps_inbox,
            };
            let told = (control.clone(), place.clone());
            notifier::start(connection, &shared, inboxes, told)?;
            parts = Some((shared, senders, notes));
            Ok(services)
        },
    )?;
    drop(view);
    let minor = running.connection.device.map(|(_, minor)| minor);
    if let Err(error) = running.connection.guard.start(minor) {
        log.warning(format!(
            "no process can be started that ends what outlives this one: {error}"
        ));
    }
    let (shared, workers, notes) = parts.expect("start calls it once");
    let transport = match running.transport {
        TransportKind::Plain => 1,
        TransportKind::Dev => 2,
        TransportKind::Uring => RINGS,
    };
    shared.transport.store(transport, Ordering::Relaxed);
    let parked = workers.clone();
    let control_thread = Control {
        store,
        shared: Arc::clone(&shared),
        connection: Arc::clone(&running.connection),
        workers,
        notifier,
        keeper,
        notes,
        inbox: control_inbox,
        mailbox: control.clone(),
        place,
        waker: control_waker,
        rings: running.transport != TransportKind::Plain,
        on_epoch: options.on_epoch,
        rules: options.rules,
    }
    .start(at)
    .map_err(DaemonError::Resources)?;
    let ending = (Arc::clone(&running.connection), Arc::clone(&shared));
    watch_for_end(options.ending, &ending).map_err(DaemonError::Resources)?;
    let _ = made.send((ending.0, ending.1, parked)); // a drop-in server has nobody who waits for it
    let serving = Serving {
        transport: running.transport,
        workers: running.seats.len(),
        keeps_pages: running.session.flags & init::EXPLICIT_INVAL_DATA != 0,
    };
    ready(serving, &shared);
    let outcome = running.join();
    link.iter().for_each(Link::close);
    control.send(ToControl::Stop);
    let _ = control_thread.join();
    drop(control);
    if let Err(error) = &outcome {
        log.error(format!("a worker ended: {error}"));
    }
    log.flush();
    outcome.map_err(DaemonError::Resources)
}

/// What a stop needs.
type Parts = (Arc<Connection>, Arc<Shared>, Vec<Mailbox<ToWorker>>);

/// How far a start is.
///
/// ```text
///   Opening --mounts--> Mounting --the parts are told--> Serving
///      | a signal: the process ends at once     | a signal: stopped in order
///                          | a signal: waits for what comes of it, a moment, so that no dead mount is left
/// ```
#[derive(Debug, Default)]
struct Start {
    /// Something may be mounted.
    is_mounting: Mutex<bool>,
}

impl Start {
    fn mounts(&self) {
        *self.is_mounting.lock().expect("a panic aborts") = true;
    }

    /// Building an index may take minutes, and a server may be waited for: nobody waits for that who wants an end.
    fn end_on_signal(&self, log: &Log, made: &Receiver<Parts>) {
        let code = proc::wait_for_stop_code();
        let is_mounting = self.is_mounting.lock().expect("a panic aborts");
        if !*is_mounting {
            log.warning("stopped by a signal before anything was mounted");
            log.flush();
            std::process::exit(code.into()); // the lock is held: nothing is mounted meanwhile
        }
        drop(is_mounting);
        if let Ok((connection, shared, workers)) = made.recv() {
            stop(&connection, &shared, &workers);
        }
    }
}

/// Starts the threads that tell where the daemon is, and end it.
fn watch_for_end(
    ending: Ending,
    (connection, shared): &(Arc<Connection>, Arc<Shared>),
) -> io::Result<()> {
    let (connection, shared) = (Arc::clone(connection), Arc::clone(shared));
    match ending {
        Ending::Orderly => {
            proc::spawn("zring-quit", move || quit::tell(&shared))?;
        }
        Ending::DropIn { autoexit } => {
            let quitting = Arc::clone(&shared);
            proc::spawn("zring-quit", move || quit::end(&quitting))?;
            if let Some(after) = autoexit {
                proc::spawn("zring-autoexit", move || {
                    exit_when_alone(&connection, &shared, after);
                })?;
            }
        }
    }
    Ok(())
}

/// Unmounts when no client has been there for `after`. A mount that is busy all the same stays, and is looked at again.
fn exit_when_alone(connection: &Connection, shared: &Shared, after: Duration) {
    let often = (after / 10).clamp(Duration::from_millis(20), Duration::from_secs(1));
    let mut was_busy = false;
    loop {
        std::thread::sleep(often);
        if shared.presence.alone().is_none_or(|alone| alone < after) {
            continue;
        }
        match connection.unmount(false) {
            Ok(()) => {
                shared.log.info("autoexit: no client is left");
                return;
            }
            Err(_) if !connection.is_mounted() => return,
            Err(errno) if !was_busy => {
                let text = format!("autoexit: no client is left, but the mount stays: {errno}");
                shared.log.warning(text);
                was_busy = true;
            }
            Err(_) => {}
        }
    }
}

/// Nodes belong to whom the daemon runs as.
fn owner(options: &Options) -> Owner {
    let (uid, gid) = proc::ids();
    Owner {
        uid,
        gid: options.group.unwrap_or(gid),
        access: options.access,
    }
}

/// How long a busy mount may stay.
const BUSY: Duration = Duration::from_secs(5);
/// How long a detached mount may stay busy before its callers get an error.
const DETACHED: Duration = Duration::from_secs(2);

/// How long a connection that was aborted may take to end.
const ABORTED: Duration = Duration::from_secs(2);

/// The first SIGTERM or SIGINT unmounts in order, a second one at once. The bound from signal to exit is 10 s.
fn stop(connection: &Connection, shared: &Shared, workers: &[Mailbox<ToWorker>]) {
    shared.stopping.store(true, Ordering::SeqCst);
    // Whoever waits for a server gets an error now, and can let go of the mount.
    shared.upstream.iter().for_each(Link::close);
    workers
        .iter()
        .for_each(|worker| worker.send(ToWorker::Shown));
    shared.log.info("stopping");
    let began = Instant::now();
    let mut detached = false;
    loop {
        let elapsed = began.elapsed();
        if !detached && connection.unmount(elapsed > BUSY).is_ok() {
            detached = true;
        }
        if elapsed > BUSY + DETACHED || proc::wait_for_stop(Some(Duration::from_millis(50))) {
            let aborted = connection.abort();
            let _ = connection.unmount(true);
            // The process has ended before, unless there is no control file, or something hangs.
            proc::pause(ABORTED);
            let why = match aborted {
                Ok(()) => "was aborted, and does not end".to_owned(),
                Err(error) => format!("cannot be aborted ({error})"),
            };
            shared
                .log
                .error(format!("the connection {why}: the daemon ends by itself"));
            shared.log.flush();
            std::process::exit(1); // the kernel ends the connection with its last descriptor
        }
    }
}
