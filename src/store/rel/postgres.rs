//! The thread of a PostgreSQL database: two connections, on which it never waits for one thing alone.
//!
//! ```text
//!   orders      Core takes what is wanted            until the end
//!   deadlines   Core lets those go who waited long   for ever
//!   serve       connect -> loads + looks -> lost -> pause -> connect ...
//! ```
//!
//! Loads have a connection of their own: a look does not wait behind their bytes. When either connection ends, both do.

use super::core::{Core, Row};
use super::guard::{Guard, Wire};
use super::query::{self, Looker};
use super::{Kept, Place, Postgres, Rel, Trouble};
use crate::base::limit::{
    ANSWER_MS, HANDSHAKE_MS, REL_LOOK_MIN_MS, REL_LOOK_OIDS_MAX, ZEO_FRAME_AROUND_BYTES,
};
use crate::kernel::proc::{self, Waker};
use crate::kernel::socket::Stream;
use crate::store::remote::Address;
use crate::store::remote::dial::connect;
use crate::store::remote::link::Ports;
use crate::store::remote::loads::Key;
use crate::wire::zeo::Refusal;
use futures_util::stream::FuturesUnordered;
use futures_util::{StreamExt, TryStreamExt};
use std::cell::RefCell;
use std::collections::BTreeSet;
use std::future::{Future, pending};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::pin::pin;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use tokio::io::unix::AsyncFd;
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio_postgres::types::ToSql;
use tokio_postgres::{Client, NoTls, Statement};

/// Nobody waits longer than this for deadlines to be looked at.
const TICK: Duration = Duration::from_secs(1);

/// What all of it works with.
struct Work {
    core: RefCell<Core>,
    place: Postgres,
    wanted: Kept,
    /// The longest time between looks.
    look_max: Duration,
    /// There may be something to be asked for.
    more: Notify,
    /// There is something to be looked at.
    look: Notify,
}

/// Something to be polled.
struct Eye(Waker);

impl AsFd for Eye {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.fd()
    }
}

impl AsRawFd for Eye {
    fn as_raw_fd(&self) -> RawFd {
        self.0.fd().as_raw_fd()
    }
}

/// Starts the thread.
///
/// # Errors
/// The system has no room for it.
pub(super) fn start(rel: Rel, ports: Ports, max_record: usize) -> io::Result<()> {
    let Place::Postgres(place) = rel.place else {
        unreachable!("BUG: not a PostgreSQL database");
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .enable_time()
        .build()?;
    proc::spawn("zring-rel", move || {
        let eye = Eye(ports.waker.clone());
        let work = Work {
            core: RefCell::new(Core::new(ports, max_record, seed())),
            place,
            wanted: rel.kept,
            look_max: rel.look,
            more: Notify::new(),
            look: Notify::new(),
        };
        let local = tokio::task::LocalSet::new();
        local.block_on(&runtime, work.run(eye));
        drop(local);
        // One that hangs in a resolver is not waited for.
        runtime.shutdown_background();
    })?;
    Ok(())
}

/// A number that another client hardly has.
fn seed() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    let nanos = since.map_or(0, |since| u64::from(since.subsec_nanos()));
    nanos ^ u64::from(std::process::id()).rotate_left(32)
}

/// Waits for an answer, and not for ever.
async fn within<T>(
    ms: u64,
    answer: impl Future<Output = Result<T, Trouble>>,
) -> Result<T, Trouble> {
    let limit = Duration::from_millis(ms);
    let answer = tokio::time::timeout(limit, answer).await;
    answer.unwrap_or(Err(Trouble::Silent))
}

impl Work {
    async fn run(&self, eye: Eye) {
        tokio::select! {
            () = self.orders(eye) => {}
            () = self.deadlines() => {}
            () = self.serve() => {}
        }
    }

    async fn orders(&self, eye: Eye) {
        #[allow(
            deprecated,
            reason = "the descriptor is the waker's, and open as long as that is held"
        )]
        let Ok(eye) = AsyncFd::new(eye) else {
            return; // the channel refuses all orders from now on
        };
        while let Ok(mut guard) = eye.readable().await {
            guard.clear_ready();
            eye.get_ref().0.drain();
            if !self.core.borrow_mut().take_orders(Instant::now()) {
                return;
            }
            self.more.notify_one();
        }
    }

    async fn deadlines(&self) {
        loop {
            let now = Instant::now();
            let next = self.core.borrow().timeout();
            let left = next.map_or(TICK, |at| at.saturating_duration_since(now));
            tokio::time::sleep(left.clamp(Duration::from_millis(1), TICK)).await;
            self.core.borrow_mut().tick(Instant::now());
        }
    }

    async fn serve(&self) {
        loop {
            let Err(trouble) = self.connection().await;
            let pause = self.core.borrow_mut().lost(trouble);
            if self.core.borrow().has_ended() {
                pending::<()>().await;
            }
            tokio::time::sleep(pause).await;
        }
    }

    /// One connection for loads and one for looks, until either ends.
    async fn connection(&self) -> Result<std::convert::Infallible, Trouble> {
        let mut tasks = JoinSet::new();
        let made = within(HANDSHAKE_MS, async {
            let (loads, address) = self.dial(&mut tasks).await?;
            let looks = self.dial_to(&address, &mut tasks).await?;
            let kept = query::kept(&looks).await?;
            if kept == Kept::Newest && self.wanted == Kept::All {
                return Err(Trouble::HistoryFree);
            }
            let load = query::load(&loads, kept).await?;
            let looker = Looker::new(&looks, kept).await?;
            Ok((loads, looks, kept, load, looker))
        });
        let (loads, looks, kept, load, looker) = made.await?;
        tokio::select! {
            ended = self.looks(&looks, kept, &looker) => ended,
            ended = self.loads(&loads, kept, &load) => ended,
        }
    }

    /// Connects to the first server that will have us; of several, to one that takes writers: others may lag behind.
    async fn dial(&self, tasks: &mut JoinSet<()>) -> Result<(Client, Address), Trouble> {
        let mut last = None;
        for address in &self.place.addresses {
            match self.dial_to(address, tasks).await {
                Ok(client) => {
                    if self.place.addresses.len() == 1 || !is_standby(&client).await? {
                        return Ok((client, address.clone()));
                    }
                }
                Err(trouble) => last = Some(trouble),
            }
        }
        Err(last.unwrap_or(Trouble::Standby))
    }

    async fn dial_to(&self, address: &Address, tasks: &mut JoinSet<()>) -> Result<Client, Trouble> {
        let config = self.place.config()?;
        let address = address.clone();
        let dialed = tokio::task::spawn_blocking(move || connect(&address)).await;
        let stream: Box<dyn Wire> = match dialed.expect("a panic aborts")? {
            Stream::Tcp(stream) => Box::new(tokio::net::TcpStream::from_std(stream)?),
            Stream::Unix(stream) => Box::new(tokio::net::UnixStream::from_std(stream)?),
        };
        // A row with a record, or the list of a transaction's objects.
        let longest = self.core.borrow().max_record().max(REL_LOOK_OIDS_MAX * 12);
        let stream = Guard::new(stream, longest + ZEO_FRAME_AROUND_BYTES);
        let (client, connection) = config.connect_raw(stream, NoTls).await?;
        tasks.spawn_local(async {
            // What is wrong with it is told to who asks.
            let _ = connection.await;
        });
        Ok(client)
    }
}

async fn is_standby(client: &Client) -> Result<bool, Trouble> {
    let row = client.query_one("SELECT pg_is_in_recovery()", &[]).await?;
    Ok(row.try_get(0)?)
}

/// Looks.
impl Work {
    async fn looks(
        &self,
        client: &Client,
        kept: Kept,
        looker: &Looker,
    ) -> Result<std::convert::Infallible, Trouble> {
        let shortest = Duration::from_millis(REL_LOOK_MIN_MS).min(self.look_max);
        let mut wait = shortest;
        loop {
            let head = self.core.borrow().head();
            let found = match head {
                None => {
                    let newest = within(ANSWER_MS, looker.newest(client)).await?;
                    self.core.borrow_mut().opened(newest);
                    0
                }
                Some(head) => {
                    let look = within(ANSWER_MS, looker.look(client, head)).await?;
                    let more = look.more;
                    let now = Instant::now();
                    let found = self.core.borrow_mut().looked(now, kept, look)?;
                    if more {
                        continue;
                    }
                    found
                }
            };
            self.more.notify_one();
            self.core.borrow_mut().tick(Instant::now());
            let is_busy = found > 0 || self.core.borrow().is_holding();
            wait = match is_busy {
                true => shortest,
                false => (wait * 3 / 2).min(self.look_max),
            };
            tokio::select! {
                () = tokio::time::sleep(wait) => {}
                () = self.look.notified() => {}
            }
        }
    }
}

/// Loads.
impl Work {
    async fn loads(
        &self,
        client: &Client,
        kept: Kept,
        load: &Statement,
    ) -> Result<std::convert::Infallible, Trouble> {
        let mut under_way = FuturesUnordered::new();
        loop {
            loop {
                let batch = self.core.borrow_mut().next_batch();
                if batch.is_empty() {
                    break;
                }
                under_way.push(self.fetch(client, kept, load, batch));
            }
            tokio::select! {
                () = self.more.notified() => {}
                Some(fetched) = under_way.next() => fetched?,
            }
        }
    }

    /// Asks for these in one query. If the server refuses that, the fault is one object's: they are asked for one by one.
    async fn fetch(
        &self,
        client: &Client,
        kept: Kept,
        load: &Statement,
        batch: Vec<Key>,
    ) -> Result<(), Trouble> {
        let mut left: BTreeSet<Key> = batch.into_iter().collect();
        let all: Vec<Key> = left.iter().copied().collect();
        let fetched = self.fetch_all(client, kept, load, &all, &mut left).await;
        let refused = match fetched {
            Ok(()) if left.is_empty() => return Ok(()),
            Ok(()) => return Err(Trouble::Rows),
            Err(trouble) => refusal(trouble)?,
        };
        let one_by_one: Vec<Key> = left.iter().copied().collect();
        if let [key] = one_by_one[..] {
            return self.core.borrow_mut().answered(key, Row::Refused(refused));
        }
        for key in one_by_one {
            match self.fetch_all(client, kept, load, &[key], &mut left).await {
                Ok(()) => {}
                Err(trouble) => {
                    let row = Row::Refused(refusal(trouble)?);
                    self.core.borrow_mut().answered(key, row)?;
                }
            }
        }
        self.core.borrow_mut().hand_out();
        Ok(())
    }

    /// The rows of one query.
    async fn fetch_all(
        &self,
        client: &Client,
        kept: Kept,
        load: &Statement,
        batch: &[Key],
        left: &mut BTreeSet<Key>,
    ) -> Result<(), Trouble> {
        let (oids, ats) = query::params(batch);
        let max = i32::try_from(self.core.borrow().max_record()).unwrap_or(i32::MAX);
        let params: [&(dyn ToSql + Sync); 3] = [&oids, &ats, &max];
        let rows = within(ANSWER_MS, async {
            Ok(client.query_raw(load, params).await?)
        });
        let rows = rows.await?;
        let mut rows = pin!(rows);
        // Time is for each row anew: who sends nothing for so long, or a row so slowly, is of no use.
        while let Some(row) = within(ANSWER_MS, async { Ok(rows.try_next().await?) }).await? {
            let (key, row) = query::row(&row, kept)?;
            if !left.remove(&key) {
                return Err(Trouble::Rows);
            }
            if matches!(row, Row::Newer(_)) {
                self.look.notify_one();
            }
            self.core.borrow_mut().answered(key, row)?;
        }
        self.core.borrow_mut().hand_out();
        Ok(())
    }
}

/// What the server says of a query, if the connection goes on.
fn refusal(trouble: Trouble) -> Result<Refusal, Trouble> {
    let Trouble::Postgres(error) = &trouble else {
        return Err(trouble);
    };
    match error.as_db_error() {
        Some(db) if db.severity() == "ERROR" => Ok(Refusal {
            class: format!("SQLSTATE {}", db.code().code()).into(),
            text: db.message().into(),
        }),
        _ => Err(trouble),
    }
}
