//! The thread of an SQLite database, which is a file of this machine: it looks and loads itself, one object after the other.
//!
//! A read takes microseconds, and a statement that is over holds nothing: writers are not kept from cleaning up behind themselves.

use super::core::{Core, Look, Row, Txn};
use super::{Kept, Trouble};
use crate::base::limit::{REL_LOOK_OIDS_MAX, REL_LOOK_TXNS_MAX};
use crate::base::{Oid, Tid};
use crate::kernel::proc;
use crate::kernel::socket;
use crate::store::remote::link::Ports;
use crate::store::remote::loads::Key;
use bytes::Bytes;
use rusqlite::types::ValueRef;
use rusqlite::{Connection, OpenFlags, OptionalExtension};
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// Between looks; each costs a read of shared memory when nothing happened.
const LOOK: Duration = Duration::from_millis(20);
/// How long another process may keep us from a read.
const BUSY: Duration = Duration::from_millis(2000);
/// Loads before orders and looks have their turn again.
const TURN_LOADS: usize = 256;

const LOAD_ALL: &str = "\
SELECT tid, length(state), CASE WHEN length(state) <= ?3 THEN state END FROM object_state
WHERE zoid = ?1 AND tid <= ?2 ORDER BY tid DESC LIMIT 1";
const LOAD_NEWEST: &str = "\
SELECT tid, length(state), CASE WHEN length(state) <= ?3 AND tid <= ?2 THEN state END FROM object_state WHERE zoid = ?1";
const EXISTS: &str = "SELECT 1 FROM object_state WHERE zoid = ?1 LIMIT 1";
const TXNS: &str = "SELECT tid, packed FROM \"transaction\" WHERE tid >= ?1 ORDER BY tid LIMIT ?2";
const OIDS: &str = "SELECT zoid FROM object_state WHERE tid = ?1 LIMIT ?2";
const OIDS_NEWEST: &str =
    "SELECT tid, zoid FROM object_state WHERE tid > ?1 ORDER BY tid DESC LIMIT ?2";
const NEWEST_OF_ALL: &str = "SELECT max(tid) FROM \"transaction\"";
const NEWEST: &str = "SELECT max(tid) FROM object_state";
const HAS_TABLE: &str = "SELECT count(*) FROM sqlite_master WHERE type = 'table' AND name = ?1";

/// Starts the thread.
///
/// # Errors
/// The system has no room for it.
pub(super) fn start(dir: PathBuf, wanted: Kept, ports: Ports, max_record: usize) -> io::Result<()> {
    proc::spawn("zring-rel", move || {
        let waker = ports.waker.clone();
        let mut core = Core::new(ports, max_record, 0);
        let path = dir.join("main.sqlite3");
        let (mut open, mut open_at) = (None, Instant::now());
        loop {
            let now = Instant::now();
            let timeout = match (&open, core.has_ended()) {
                (_, true) => None,
                (Some(_), _) => Some(LOOK),
                (None, _) => Some(open_at.saturating_duration_since(now)),
            };
            // With more to be done than one turn does, there is nothing to wait for.
            let timeout = match &open {
                Some(File { has_more: true, .. }) => Some(Duration::ZERO),
                _ => timeout,
            };
            let waited = socket::wait(&waker, &[], timeout);
            if waited.is_err() || !core.take_orders(Instant::now()) {
                return;
            }
            core.tick(Instant::now());
            if core.has_ended() || (open.is_none() && Instant::now() < open_at) {
                continue;
            }
            let worked = match open.take() {
                Some(file) => Ok(file),
                None => File::open(&path, wanted),
            };
            let worked = worked.and_then(|mut file| {
                file.turn(&mut core)?;
                Ok(file)
            });
            match worked {
                Ok(file) => open = Some(file),
                Err(trouble) => open_at = Instant::now() + core.lost(trouble),
            }
        }
    })?;
    Ok(())
}

/// The file, opened.
struct File {
    path: PathBuf,
    /// Which file it is: another one may take its name.
    number: (u64, u64),
    db: Connection,
    kept: Kept,
    /// Changes when another connection commits.
    version: Option<i64>,
    looked: Option<Instant>,
    has_more: bool,
}

fn number(value: i64) -> Result<u64, Trouble> {
    u64::try_from(value).map_err(|_| Trouble::Negative)
}

fn signed(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

fn file_number(path: &PathBuf) -> Result<(u64, u64), Trouble> {
    let meta = fs::metadata(path)?;
    Ok((meta.dev(), meta.ino()))
}

impl File {
    fn open(path: &PathBuf, wanted: Kept) -> Result<Self, Trouble> {
        let number = file_number(path)?;
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let db = Connection::open_with_flags(path, flags)?;
        db.busy_timeout(BUSY)?;
        let has = |name| db.query_row(HAS_TABLE, [name], |row| row.get::<_, i64>(0));
        let kept = match (has("object_state")? > 0, has("current_object")? > 0) {
            (true, true) => Kept::All,
            (true, false) => Kept::Newest,
            _ => return Err(Trouble::NoTables),
        };
        if kept == Kept::Newest && wanted == Kept::All {
            return Err(Trouble::HistoryFree);
        }
        Ok(Self {
            path: path.clone(),
            number,
            db,
            kept,
            version: None,
            looked: None,
            has_more: false,
        })
    }

    /// Looks if it is time, and loads what is wanted.
    fn turn(&mut self, core: &mut Core) -> Result<(), Trouble> {
        let now = Instant::now();
        if self.looked.is_none_or(|at| now >= at + LOOK) || core.is_holding() {
            self.look(core)?;
            self.looked = Some(now);
        }
        let batch = core.next_batch();
        for (n, &key) in batch.iter().enumerate() {
            let row = self.load(key, core.max_record())?;
            core.answered(key, row)?;
            if n % TURN_LOADS == TURN_LOADS - 1 {
                core.hand_out();
            }
        }
        self.has_more = !batch.is_empty();
        core.hand_out();
        core.tick(Instant::now());
        Ok(())
    }

    fn load(&self, (oid, at): Key, max: usize) -> Result<Row, Trouble> {
        let text = match self.kept {
            Kept::All => LOAD_ALL,
            Kept::Newest => LOAD_NEWEST,
        };
        let mut load = self.db.prepare_cached(text)?;
        let max = i64::try_from(max).unwrap_or(i64::MAX);
        let mut rows = load.query([signed(oid.0), signed(at.0), max])?;
        let Some(row) = rows.next()? else {
            if self.kept == Kept::Newest {
                return Ok(Row::None(false));
            }
            let mut exists = self.db.prepare_cached(EXISTS)?;
            return Ok(Row::None(exists.exists([signed(oid.0)])?));
        };
        let serial = Tid(number(row.get(0)?)?);
        let len: Option<i64> = row.get(1)?;
        Ok(match (len, row.get_ref(2)?) {
            _ if self.kept == Kept::Newest && serial > at => Row::Newer(serial),
            (None, _) => Row::Null(serial),
            (Some(_), ValueRef::Blob(data)) => Row::State(serial, Bytes::copy_from_slice(data)),
            (Some(len), _) => Row::Long(usize::try_from(len).unwrap_or(0)),
        })
    }

    fn newest(&self) -> Result<Tid, Trouble> {
        let text = match self.kept {
            Kept::All => NEWEST_OF_ALL,
            Kept::Newest => NEWEST,
        };
        let mut newest = self.db.prepare_cached(text)?;
        let tid: Option<Option<i64>> = newest.query_row([], |row| row.get(0)).optional()?;
        Ok(Tid(number(tid.flatten().unwrap_or(0))?))
    }

    fn look(&mut self, core: &mut Core) -> Result<(), Trouble> {
        if file_number(&self.path)? != self.number {
            return Err(Trouble::Replaced);
        }
        let mut pragma = self.db.prepare_cached("PRAGMA data_version")?;
        let version: i64 = pragma.query_row([], |row| row.get(0))?;
        drop(pragma);
        if self.version == Some(version) {
            return Ok(());
        }
        let Some(mut head) = core.head() else {
            core.opened(self.newest()?);
            self.version = Some(version);
            return Ok(());
        };
        loop {
            // All of a look is of one state.
            let look = {
                let txn = self.db.unchecked_transaction()?;
                let look = self.newer(head)?;
                txn.finish()?;
                look
            };
            let more = look.more;
            core.looked(Instant::now(), self.kept, look)?;
            if !more {
                // What came behind the look is another version, and looked at next time.
                self.version = Some(version);
                return Ok(());
            }
            head = core.head().expect("it is known since the first look");
        }
    }

    /// What is newer than head.
    fn newer(&self, head: Tid) -> Result<Look, Trouble> {
        let mut look = Look {
            has_head: false,
            newest: head,
            txns: Vec::new(),
            more: false,
        };
        match self.kept {
            Kept::All => self.newer_of_all(head, &mut look)?,
            Kept::Newest => self.newer_of_newest(head, &mut look)?,
        }
        if look.txns.is_empty() && !look.has_head {
            look.newest = self.newest()?;
        }
        Ok(look)
    }

    fn newer_of_all(&self, head: Tid, look: &mut Look) -> Result<(), Trouble> {
        let mut txns = self.db.prepare_cached(TXNS)?;
        let mut rows = txns.query([signed(head.0), REL_LOOK_TXNS_MAX as i64])?;
        let (mut seen, mut total) = (0, 0);
        while let Some(row) = rows.next()? {
            seen += 1;
            let (tid, packed) = (Tid(number(row.get(0)?)?), row.get(1)?);
            if tid == head {
                look.has_head = true;
                continue;
            }
            let oids = self.oids(tid)?;
            total += oids.len();
            if total > REL_LOOK_OIDS_MAX && !look.txns.is_empty() {
                look.more = true; // these come with the next look
                return Ok(());
            }
            let cut = oids.len() > REL_LOOK_OIDS_MAX;
            look.txns.push(Txn {
                tid,
                packed,
                oids,
                cut,
            });
        }
        look.more = seen == REL_LOOK_TXNS_MAX;
        Ok(())
    }

    fn oids(&self, tid: Tid) -> Result<Vec<Oid>, Trouble> {
        let mut oids = self.db.prepare_cached(OIDS)?;
        let max = REL_LOOK_OIDS_MAX as i64 + 1;
        let mut rows = oids.query([signed(tid.0), max])?;
        let mut found = Vec::new();
        while let Some(row) = rows.next()? {
            found.push(Oid(number(row.get(0)?)?));
        }
        found.sort_unstable();
        Ok(found)
    }

    /// All that is newer is one transaction: of an object that changed twice, nobody can tell when it did first.
    fn newer_of_newest(&self, head: Tid, look: &mut Look) -> Result<(), Trouble> {
        let mut newer = self.db.prepare_cached(OIDS_NEWEST)?;
        let max = REL_LOOK_OIDS_MAX as i64 + 1;
        let mut rows = newer.query([signed(head.0), max])?;
        let (mut last, mut oids) = (None, Vec::new());
        while let Some(row) = rows.next()? {
            last = last.or(Some(Tid(number(row.get(0)?)?)));
            oids.push(Oid(number(row.get(1)?)?));
        }
        oids.sort_unstable();
        if let Some(tid) = last {
            look.txns.push(Txn {
                tid,
                packed: false,
                cut: oids.len() > REL_LOOK_OIDS_MAX,
                oids,
            });
        }
        Ok(())
    }
}
