//! From a mountpoint to a served connection: choose the transport, mount, shake hands, start the workers.
//!
//! ```text
//!   probe io_uring -> mount -> INIT -> one clone of /dev/fuse and one pinned thread per CPU
//!                                          \-> uring: entries for every possible CPU's queue
//! ```
//!
//! From the INIT reply until every queue has an entry, callers block in the kernel; whatever fails in
//! between aborts the connection, so that none hangs (kernel-note 0002).

use super::pollers::Pollers;
use super::worker::{self, End, Service};
use crate::base::limit;
use crate::kernel::dev::{self, Dev};
use crate::kernel::loads::{Loads, Pool};
use crate::kernel::mount::{self, Connection, MountError, MountSpec, Session};
use crate::kernel::port::{Port, TransportKind};
use crate::kernel::proc::{self, Waker};
use crate::kernel::ring::{Ring, RingError};
use std::fs::File;
use std::io;
use std::sync::Arc;
use std::thread::JoinHandle;

/// Which transport is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Choice {
    /// The fastest the kernel offers.
    Auto,
    /// This one, or an error that says why not.
    Force(TransportKind),
}

/// Why a mount is not served.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The mount itself.
    #[error(transparent)]
    Mount(#[from] MountError),
    /// `transport=uring`, but the kernel does not offer it.
    #[error(
        "the kernel does not offer FUSE over io_uring: it needs Linux 6.14 and, as root, `echo Y > /sys/module/fuse/parameters/enable_uring`; or mount with transport=dev"
    )]
    NoRings,
    /// `transport=uring` without /sys.
    #[error(
        "the number of possible CPUs is not known because /sys is not mounted; mount /sys, or mount with transport=dev"
    )]
    NoSys,
    /// io_uring was asked for and cannot be had.
    #[error("{0}; see the sysctl kernel.io_uring_disabled, or mount with transport=plain")]
    NoIoUring(#[from] RingError),
    /// A thread, a descriptor or memory is missing.
    #[error("cannot start the workers: {0}")]
    Workers(#[source] io::Error),
}

/// A worker's place, known before it runs.
#[derive(Clone, Debug)]
pub struct Seat {
    /// Its number, from 0.
    pub index: usize,
    /// Wakes it.
    pub waker: Waker,
}

/// A served connection.
#[derive(Debug)]
pub struct Running {
    /// The mount.
    pub connection: Arc<Connection>,
    /// What was agreed on.
    pub session: Session,
    /// The transport that was chosen.
    pub transport: TransportKind,
    /// Every worker's place.
    pub seats: Vec<Seat>,
    threads: Vec<JoinHandle<End>>,
}

impl Running {
    /// Waits until every worker has ended.
    ///
    /// # Errors
    /// The first failure of a worker.
    pub fn join(self) -> io::Result<()> {
        let mut result = Ok(());
        for thread in self.threads {
            match thread.join().expect("workers do not unwind") {
                End::Gone => {}
                End::Failed(error) => result = result.and(Err(error)),
            }
        }
        result
    }
}

/// The transport that a mount takes here unless told otherwise, as far as can be known without making one.
pub fn usual() -> TransportKind {
    let is_on = |text: String| text.trim() == "Y";
    let rings = std::fs::read_to_string("/sys/module/fuse/parameters/enable_uring");
    match choose(Choice::Auto) {
        Ok(TransportKind::Uring) if rings.is_ok_and(is_on) => TransportKind::Uring,
        Ok(TransportKind::Plain) => TransportKind::Plain,
        _ => TransportKind::Dev,
    }
}

/// The transport to try, and whether another may take its place.
fn choose(choice: Choice) -> Result<TransportKind, StartError> {
    let wanted = match choice {
        Choice::Auto => TransportKind::Uring,
        Choice::Force(kind) => kind,
    };
    if wanted == TransportKind::Plain {
        return Ok(wanted);
    }
    match (Ring::new(), choice) {
        (Ok(_), _) => {}
        (Err(_), Choice::Auto) => return Ok(TransportKind::Plain),
        (Err(error), _) => return Err(error.into()),
    }
    match (wanted, proc::queues(), choice) {
        (TransportKind::Uring, None, Choice::Auto) => Ok(TransportKind::Dev),
        (TransportKind::Uring, None, _) => Err(StartError::NoSys),
        _ => Ok(wanted),
    }
}

/// Mounts and serves. So many `pollers` at least look at `/dev/fuse`. `make` builds the service of each seat, on the calling thread; `seats` are all of them.
///
/// # Errors
/// Nothing is left mounted then.
pub fn start<S: Service + Send + 'static>(
    spec: MountSpec,
    choice: Choice,
    pollers: usize,
    make: impl FnOnce(&Arc<Connection>, &Session, &[Seat]) -> io::Result<Vec<S>>,
) -> Result<Running, StartError> {
    let mut transport = choose(choice)?;
    let connection = Arc::new(Connection::mount(spec)?);
    let outcome = (|| {
        let session = mount::handshake(&connection.fuse, transport == TransportKind::Uring)?;
        if transport == TransportKind::Uring && !session.rings {
            if choice != Choice::Auto {
                return Err(StartError::NoRings);
            }
            transport = TransportKind::Dev;
        }
        let crew = Crew::gather(transport, pollers, &connection).map_err(StartError::Workers)?;
        let seats = crew.seats.clone();
        let services = make(&connection, &session, &seats).map_err(StartError::Workers)?;
        let threads = crew.run(services).map_err(StartError::Workers)?;
        Ok(Running {
            connection: Arc::clone(&connection),
            session,
            transport,
            seats,
            threads,
        })
    })();
    if outcome.is_err() {
        // Whoever waits in the mount already gets an error, and nothing stays behind.
        let _ = connection.abort();
        let _ = connection.unmount(true);
    }
    outcome
}

/// Everything the threads need before the first of them runs.
struct Crew {
    transport: TransportKind,
    cpus: Vec<usize>,
    seats: Vec<Seat>,
    clones: Vec<File>,
    pool: Option<Pool>,
    connection: Arc<Connection>,
    pollers: Arc<Pollers>,
}

impl Crew {
    fn gather(
        transport: TransportKind,
        pollers: usize,
        connection: &Arc<Connection>,
    ) -> io::Result<Self> {
        let cpus = proc::cpus_allowed();
        let seats = (0..cpus.len())
            .map(|index| {
                Ok(Seat {
                    index,
                    waker: Waker::new()?,
                })
            })
            .collect::<io::Result<Vec<_>>>()?;
        let clones = cpus
            .iter()
            .map(|_| dev::clone(&connection.fuse))
            .collect::<io::Result<Vec<_>>>()?;
        let pool = (transport == TransportKind::Plain)
            .then(Pool::new)
            .transpose()?;
        let wakers = seats.iter().map(|seat: &Seat| seat.waker.clone());
        let workers = cpus.iter().copied().zip(wakers).collect();
        let pollers = Pollers::new(workers, pollers, transport == TransportKind::Uring);
        let (connection, pollers) = (Arc::clone(connection), Arc::new(pollers));
        Ok(Self {
            transport,
            cpus,
            seats,
            clones,
            pool,
            connection,
            pollers,
        })
    }

    fn run<S: Service + Send + 'static>(
        self,
        services: Vec<S>,
    ) -> io::Result<Vec<JoinHandle<End>>> {
        let mut threads = Vec::new();
        let pollers = Arc::clone(&self.pollers);
        let places = self.seats.iter().zip(self.clones).zip(services);
        for ((seat, clone), mut service) in places {
            let (connection, pollers) = (Arc::clone(&self.connection), Arc::clone(&self.pollers));
            let (transport, pool) = (self.transport, self.pool.clone());
            let (cpu, index, waker) = (self.cpus[seat.index], seat.index, seat.waker.clone());
            let qids = queues_of(index, &self.cpus);
            let body = move || {
                proc::pin(cpu);
                let dev = Dev::new(clone);
                let made = make_port(transport, pool, dev, waker).and_then(|mut port| {
                    if transport == TransportKind::Uring {
                        let own = u16::try_from(cpu).map_err(io::Error::other)?;
                        port.register_queues(&connection.fuse, own, &qids, limit::PAYLOAD_BYTES)?;
                    }
                    Ok(port)
                });
                let end = match made {
                    Ok(port) => worker::run(index, port, &mut service, &pollers),
                    Err(error) => End::Failed(error),
                };
                pollers.end();
                if matches!(end, End::Failed(_)) {
                    // Callers would wait for this worker's queues for ever.
                    let _ = connection.abort();
                }
                end
            };
            threads.push(proc::spawn(&format!("zring-w{index}"), body)?);
        }
        if pollers.wants_balance() {
            threads.push(proc::spawn("zring-pollers", move || {
                pollers.balance(proc::cpu_of);
                End::Gone
            })?);
        }
        Ok(threads)
    }
}

fn make_port(
    transport: TransportKind,
    pool: Option<Pool>,
    dev: Dev,
    waker: Waker,
) -> io::Result<Port> {
    if let Some(pool) = pool {
        return Ok(Port::plain(Loads::new(pool, waker.clone()), dev, waker));
    }
    debug_assert!(transport != TransportKind::Plain);
    Ok(Port::on_ring(
        Ring::new().map_err(io::Error::other)?,
        dev,
        waker,
    ))
}

/// The queues of a worker: that of its own CPU, and a fair share of those of CPUs that no worker runs on.
fn queues_of(index: usize, cpus: &[usize]) -> Vec<u16> {
    let owner = |qid: usize| {
        cpus.iter()
            .position(|&c| c == qid)
            .unwrap_or(qid % cpus.len())
    };
    (0..proc::queues().unwrap_or(0))
        .filter(|&qid| owner(usize::from(qid)) == index)
        .collect()
}
