//! What is asked of PostgreSQL, and what its rows mean.

use super::core::{Look, Row, Txn};
use super::{Kept, Trouble};
use crate::base::limit::{REL_LOOK_OIDS_MAX, REL_LOOK_TXNS_MAX};
use crate::base::{Oid, Tid};
use crate::store::remote::loads::Key;
use bytes::Bytes;
use futures_util::TryStreamExt;
use std::pin::pin;
use tokio_postgres::types::{ToSql, Type};
use tokio_postgres::{Client, Statement};

/// Objects, each as of a state. A record that is too long is not sent. No look at `current_object`: it knows nothing of the past. The
/// subquery for what was not found has a limit and no EXISTS, which a planner may answer by reading the whole table once.
const LOAD_ALL: &str = "\
SELECT o.zoid, o.at, s.tid, octet_length(s.state), CASE WHEN octet_length(s.state) <= $3 THEN s.state END,
  CASE WHEN s.tid IS NULL THEN (SELECT true FROM object_state e WHERE e.zoid = o.zoid LIMIT 1) END
FROM unnest($1, $2) AS o (zoid, at) LEFT JOIN LATERAL (
  SELECT tid, state FROM object_state WHERE zoid = o.zoid AND tid <= o.at ORDER BY tid DESC LIMIT 1) s ON true";

/// The same where there are newest revisions alone: one that is newer than asked for is told, and not sent.
const LOAD_NEWEST: &str = "\
SELECT o.zoid, o.at, s.tid, octet_length(s.state),
  CASE WHEN octet_length(s.state) <= $3 AND s.tid <= o.at THEN s.state END, false
FROM unnest($1, $2) AS o (zoid, at) LEFT JOIN object_state s ON s.zoid = o.zoid";

/// Transactions from the one that head shows, each with its objects, in no order: one would lead a planner to an index by it. A
/// subquery per row is never turned into a join of all there is.
const LOOK_ALL: &str = "\
SELECT t.tid, t.packed,
  CASE WHEN t.tid > $1 THEN ARRAY(SELECT s.zoid FROM object_state s WHERE s.tid = t.tid LIMIT $2) END
FROM transaction t WHERE t.tid >= $1 ORDER BY t.tid LIMIT $3";

/// Objects of newer transactions.
const LOOK_NEWEST: &str =
    "SELECT tid, zoid FROM object_state WHERE tid > $1 ORDER BY tid DESC LIMIT $2";

const NEWEST_OF_ALL: &str = "SELECT tid FROM transaction ORDER BY tid DESC LIMIT 1";
const NEWEST: &str = "SELECT tid FROM object_state ORDER BY tid DESC LIMIT 1";

/// Which tables there are.
const TABLES: &str =
    "SELECT to_regclass('object_state') IS NOT NULL, to_regclass('current_object') IS NOT NULL";

fn number(value: i64) -> Result<u64, Trouble> {
    u64::try_from(value).map_err(|_| Trouble::Negative)
}

fn signed(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

/// What the tables keep.
pub(super) async fn kept(client: &Client) -> Result<Kept, Trouble> {
    let row = client.query_one(TABLES, &[]).await?;
    match (row.try_get(0)?, row.try_get(1)?) {
        (true, true) => Ok(Kept::All),
        (true, false) => Ok(Kept::Newest),
        _ => Err(Trouble::NoTables),
    }
}

/// The statement that loads.
pub(super) async fn load(client: &Client, kept: Kept) -> Result<Statement, Trouble> {
    let text = match kept {
        Kept::All => LOAD_ALL,
        Kept::Newest => LOAD_NEWEST,
    };
    let types = [Type::INT8_ARRAY, Type::INT8_ARRAY, Type::INT4];
    Ok(client.prepare_typed(text, &types).await?)
}

/// Objects as parameters of that.
pub(super) fn params(batch: &[Key]) -> (Vec<i64>, Vec<i64>) {
    let pairs = batch.iter();
    pairs.map(|(oid, at)| (signed(oid.0), signed(at.0))).unzip()
}

/// A row of it.
pub(super) fn row(row: &tokio_postgres::Row, kept: Kept) -> Result<(Key, Row), Trouble> {
    let oid = Oid(number(row.try_get(0)?)?);
    let at = Tid(number(row.try_get(1)?)?);
    let serial: Option<i64> = row.try_get(2)?;
    let Some(serial) = serial else {
        let exists: Option<bool> = row.try_get(5)?;
        return Ok(((oid, at), Row::None(exists.unwrap_or(false))));
    };
    let serial = Tid(number(serial)?);
    let len: Option<i32> = row.try_get(3)?;
    let data: Option<&[u8]> = row.try_get(4)?;
    let row = match (len, data) {
        _ if kept == Kept::Newest && serial > at => Row::Newer(serial),
        (None, _) => Row::Null(serial),
        (Some(_), Some(data)) => Row::State(serial, Bytes::copy_from_slice(data)),
        (Some(len), None) => Row::Long(usize::try_from(len).unwrap_or(0)),
    };
    Ok(((oid, at), row))
}

/// Looks at what there is.
#[derive(Debug)]
pub(super) struct Looker {
    kept: Kept,
    look: Statement,
    newest: Statement,
}

impl Looker {
    pub(super) async fn new(client: &Client, kept: Kept) -> Result<Self, Trouble> {
        let (look, types, newest) = match kept {
            Kept::All => (
                LOOK_ALL,
                &[Type::INT8, Type::INT8, Type::INT8][..],
                NEWEST_OF_ALL,
            ),
            Kept::Newest => (LOOK_NEWEST, &[Type::INT8, Type::INT8][..], NEWEST),
        };
        Ok(Self {
            kept,
            look: client.prepare_typed(look, types).await?,
            newest: client.prepare(newest).await?,
        })
    }

    /// The newest transaction.
    pub(super) async fn newest(&self, client: &Client) -> Result<Tid, Trouble> {
        let row = client.query_opt(&self.newest, &[]).await?;
        let tid = row.map_or(Ok(0), |row| row.try_get(0))?;
        Ok(Tid(number(tid)?))
    }

    /// What is newer than head.
    pub(super) async fn look(&self, client: &Client, head: Tid) -> Result<Look, Trouble> {
        let mut look = match self.kept {
            Kept::All => self.look_all(client, head).await?,
            Kept::Newest => self.look_newest(client, head).await?,
        };
        if look.txns.is_empty() && !look.has_head {
            look.newest = self.newest(client).await?;
        }
        Ok(look)
    }

    async fn look_all(&self, client: &Client, head: Tid) -> Result<Look, Trouble> {
        let (from, oids, txns) = (
            signed(head.0),
            REL_LOOK_OIDS_MAX as i64 + 1,
            REL_LOOK_TXNS_MAX as i64,
        );
        let params: [&(dyn ToSql + Sync); 3] = [&from, &oids, &txns];
        let rows = client.query_raw(&self.look, params).await?;
        let mut rows = pin!(rows);
        let mut look = Look {
            has_head: false,
            newest: head,
            txns: Vec::new(),
            more: false,
        };
        let (mut seen, mut total) = (0, 0);
        while let Some(row) = rows.try_next().await? {
            seen += 1;
            let tid = Tid(number(row.try_get(0)?)?);
            if tid == head {
                look.has_head = true;
                continue;
            }
            let oids: Option<Vec<i64>> = row.try_get(2)?;
            let oids = oids.unwrap_or_default().into_iter();
            let oids: Result<Vec<_>, _> = oids.map(|oid| Ok(Oid(number(oid)?))).collect();
            let mut oids: Vec<Oid> = oids.map_err(|error: Trouble| error)?;
            oids.sort_unstable();
            total += oids.len();
            if total > REL_LOOK_OIDS_MAX && !look.txns.is_empty() {
                look.more = true; // these come with the next look
                break;
            }
            look.txns.push(Txn {
                tid,
                packed: row.try_get(1)?,
                cut: oids.len() > REL_LOOK_OIDS_MAX,
                oids,
            });
        }
        look.more |= seen == REL_LOOK_TXNS_MAX;
        Ok(look)
    }

    /// All that is newer is one transaction: of an object that changed twice, nobody can tell when it did first.
    async fn look_newest(&self, client: &Client, head: Tid) -> Result<Look, Trouble> {
        let (from, oids) = (signed(head.0), REL_LOOK_OIDS_MAX as i64 + 1);
        let rows = client.query(&self.look, &[&from, &oids]).await?;
        let mut look = Look {
            has_head: false,
            newest: head,
            txns: Vec::new(),
            more: false,
        };
        if let Some(first) = rows.first() {
            let tid = Tid(number(first.try_get(0)?)?);
            let mut oids = Vec::with_capacity(rows.len());
            for row in &rows {
                oids.push(Oid(number(row.try_get(1)?)?));
            }
            oids.sort_unstable();
            look.txns.push(Txn {
                tid,
                packed: false,
                cut: oids.len() > REL_LOOK_OIDS_MAX,
                oids,
            });
        }
        Ok(look)
    }
}
