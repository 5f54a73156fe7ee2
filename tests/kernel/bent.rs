//! Servers that are bent on purpose: another INIT reply, entries that are too short, too late or missing.
//!
//! The straight server starts as the daemon does. These are put together here from the same parts, with one of them
//! changed.

use std::io::{self, IoSlice, Read, Write};
use std::sync::{Arc, Condvar, Mutex};
use std::thread::{Builder, spawn};

use zring::base::limit;
use zring::engine::pollers::Pollers;
use zring::engine::start::Seat;
use zring::engine::worker;
use zring::kernel::dev::{self, Dev};
use zring::kernel::loads::{Loads, Pool};
use zring::kernel::mount::{Connection, MountSpec};
use zring::kernel::port::{Port, TransportKind};
use zring::kernel::proc::{self, Waker};
use zring::kernel::ring::Ring;
use zring::wire::fuse::abi::{self, init};
use zring::wire::fuse::reply::{self, Accept};
use zring::wire::fuse::request::{self, Offer, Op, Request};

use crate::script::Actor;

/// Flags that bends add to or take from.
const FLAGS: u64 = init::ASYNC_READ
    | init::BIG_WRITES
    | init::PARALLEL_DIROPS
    | init::ABORT_ERROR
    | init::MAX_PAGES
    | init::EXPLICIT_INVAL_DATA
    | init::INIT_EXT;
/// Pages are dropped when mtime or size changes, and reads revalidate.
const AUTO_INVAL_DATA: u64 = 1 << 12;

/// What is not as it should be.
#[derive(Clone, Debug, Default)]
pub(crate) struct Bends {
    /// `payload=N`: bytes of the payload buffers.
    payload: Option<usize>,
    /// `late=last` or `late=all`: these workers register at the command `register`.
    late: Option<Late>,
    /// `inval=none` or `inval=auto` instead of explicit.
    inval: Option<u64>,
    /// `readahead=N`: bytes asked for in INIT.
    readahead: Option<u32>,
    /// `workers=N`: workers, whatever CPUs there are; `dev` and `plain` only.
    workers: Option<usize>,
    /// `pollers=N`: how many of them look at `/dev/fuse` at least.
    pollers: Option<usize>,
    /// `pinned`: the whole server runs on CPU 0.
    pub(crate) pinned: bool,
    /// `raw`: entries by hand.
    pub(crate) raw: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Late {
    Last,
    All,
}

impl<'a> FromIterator<&'a str> for Bends {
    fn from_iter<I: IntoIterator<Item = &'a str>>(words: I) -> Self {
        let mut bends = Self::default();
        for word in words {
            match word.split_once('=') {
                None if word == "raw" => bends.raw = true,
                None if word == "pinned" => bends.pinned = true,
                Some(("payload", n)) => bends.payload = n.parse().ok(),
                Some(("workers", n)) => bends.workers = n.parse().ok(),
                Some(("pollers", n)) => bends.pollers = n.parse().ok(),
                Some(("late", "last")) => bends.late = Some(Late::Last),
                Some(("late", "all")) => bends.late = Some(Late::All),
                Some(("inval", "none")) => bends.inval = Some(0),
                Some(("inval", "auto")) => bends.inval = Some(AUTO_INVAL_DATA),
                Some(("readahead", n)) => bends.readahead = n.parse().ok(),
                _ => panic!("unknown bend {word}"),
            }
        }
        bends
    }
}

/// Holds back workers that register late.
#[derive(Clone, Debug, Default)]
pub(crate) struct Gate(Arc<(Mutex<bool>, Condvar)>);

impl Gate {
    pub(crate) fn open(&self) {
        *self.0.0.lock().unwrap() = true;
        self.0.1.notify_all();
    }

    fn pass(&self) {
        drop(
            self.0
                .1
                .wait_while(self.0.0.lock().unwrap(), |open| !*open)
                .unwrap(),
        );
    }
}

impl Bends {
    pub(crate) fn is_straight(&self) -> bool {
        self.payload.is_none()
            && self.late.is_none()
            && self.inval.is_none()
            && self.readahead.is_none()
            && self.workers.is_none()
    }

    /// Mounts and serves as `engine::start` does, but for the bends.
    pub(crate) fn start(
        &self,
        spec: MountSpec,
        transport: TransportKind,
        make: impl FnOnce(&[Seat]) -> Vec<Actor>,
    ) -> Result<(Arc<Connection>, Gate), Box<dyn std::error::Error>> {
        let connection = Arc::new(Connection::mount(spec)?);
        self.shake_hands(&connection, transport == TransportKind::Uring)?;
        let cpus = proc::cpus_allowed();
        let workers = self.workers.unwrap_or(cpus.len());
        let cpus: Vec<_> = (0..workers).map(|index| cpus[index % cpus.len()]).collect();
        let seats = (0..workers)
            .map(|index| {
                let waker = Waker::new()?;
                Ok(Seat { index, waker })
            })
            .collect::<io::Result<Vec<_>>>()?;
        let gate = Gate::default();
        let wakers = seats.iter().map(|seat: &Seat| seat.waker.clone());
        let least = self.pollers.unwrap_or(workers);
        let places = cpus.iter().copied().zip(wakers).collect();
        let pollers = Pollers::new(places, least, transport == TransportKind::Uring);
        let pollers = Arc::new(pollers);
        if pollers.wants_balance() {
            let pollers = Arc::clone(&pollers);
            spawn(move || pollers.balance(proc::cpu_of));
        }
        let pool = Pool::new()?;
        for (seat, mut actor) in seats.iter().cloned().zip(make(&seats)) {
            let (connection, gate, bends) = (Arc::clone(&connection), gate.clone(), self.clone());
            let (pollers, pool) = (Arc::clone(&pollers), pool.clone());
            let dev = Dev::new(dev::clone(&connection.fuse)?);
            let cpu = cpus[seat.index];
            let thread = Builder::new().name(format!("zring-w{}", seat.index));
            thread.spawn(move || {
                proc::pin(cpu);
                let Seat { index, waker } = seat;
                if transport == TransportKind::Plain {
                    let port = Port::plain(Loads::new(pool, waker.clone()), dev, waker);
                    return worker::run(index, port, &mut actor, &pollers);
                }
                let mut port = Port::on_ring(Ring::new().unwrap(), dev, waker);
                if transport == TransportKind::Uring {
                    let late = match bends.late {
                        None => false,
                        Some(Late::Last) => index == workers - 1,
                        Some(Late::All) => true,
                    };
                    if late {
                        gate.pass();
                    }
                    let own = u16::try_from(cpu).unwrap();
                    let payload = bends.payload.unwrap_or(limit::PAYLOAD_BYTES);
                    let qids = queues_of(index, workers);
                    port.register_queues(&connection.fuse, own, &qids, payload)
                        .unwrap();
                }
                worker::run(index, port, &mut actor, &pollers)
            })?;
        }
        Ok((connection, gate))
    }

    pub(crate) fn shake_hands(&self, connection: &Connection, rings: bool) -> io::Result<()> {
        let mut message = vec![0; limit::PAYLOAD_BYTES + 4096];
        let len = (&connection.fuse).read(&mut message)?;
        let request = request::split(&message[..len]).and_then(Request::parse);
        let Ok(Request {
            unique,
            op: Op::Init { offer },
            ..
        }) = request
        else {
            return Err(io::ErrorKind::InvalidData.into());
        };
        let accept = self.accept(offer, rings);
        let mut body = [0; abi::INIT_OUT_LEN];
        let len = reply::init(&mut body, &accept);
        let header = reply::header(unique, Ok(len));
        let parts = [
            IoSlice::new(abi::bytes(&header)),
            IoSlice::new(&body[..len]),
        ];
        (&connection.fuse).write_vectored(&parts).map(drop)
    }

    fn accept(&self, offer: Offer, rings: bool) -> Accept {
        let inval = self.inval.unwrap_or(init::EXPLICIT_INVAL_DATA);
        let flags = FLAGS & !init::EXPLICIT_INVAL_DATA | inval;
        let flags = flags | if rings { init::OVER_IO_URING } else { 0 };
        Accept {
            minor: offer.minor.min(45),
            max_readahead: self.readahead.unwrap_or(offer.max_readahead),
            flags: flags & offer.flags,
            max_write: u32::try_from(limit::PAYLOAD_BYTES).unwrap(),
            max_pages: u16::try_from(limit::PAYLOAD_BYTES / 4096).unwrap(),
            max_background: limit::BACKGROUND_MAX,
        }
    }
}

/// A fair share of all queues.
fn queues_of(index: usize, workers: usize) -> Vec<u16> {
    (0..proc::queues().unwrap())
        .filter(|&qid| usize::from(qid) % workers == index)
        .collect()
}
