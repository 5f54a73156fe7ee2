//! Where a database is, and who we are to it.

use super::Trouble;
use crate::kernel::proc;
use crate::store::remote::Address;
use std::fmt;
use std::fs::File;
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// A longer one is no password.
const PASSWORD_BYTES_MAX: u64 = 4096;

/// Which databases are wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kept {
    /// Such as keep all revisions.
    All,
    /// Also such as keep the newest alone.
    Newest,
}

/// A database, and how it is looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rel {
    /// Where it is.
    pub place: Place,
    /// What it has to keep.
    pub kept: Kept,
    /// The longest time between looks.
    pub look: Duration,
}

/// Where the tables are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// A server.
    Postgres(Postgres),
    /// The directory of `main.sqlite3`.
    Sqlite(PathBuf),
}

/// A database of a PostgreSQL server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Postgres {
    /// Where its servers are: the first that answers, and takes writers if there are several, is taken.
    pub addresses: Vec<Address>,
    /// Name of the database.
    pub database: String,
    /// Who we are; as the process is called, when not said.
    pub user: Option<String>,
    /// Holds the password, and nobody else reads it.
    pub password_file: Option<PathBuf>,
}

impl fmt::Display for Rel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.place {
            Place::Sqlite(dir) => write!(f, "{}", dir.display()),
            Place::Postgres(postgres) => {
                for (n, address) in postgres.addresses.iter().enumerate() {
                    write!(f, "{}{address}", if n == 0 { "" } else { "," })?;
                }
                write!(f, " database {:?}", postgres.database)
            }
        }
    }
}

impl Postgres {
    /// What a connection says first. The password is read each time: it may be another one while we run.
    pub(super) fn config(&self) -> Result<tokio_postgres::Config, Trouble> {
        let mut config = tokio_postgres::Config::new();
        config.dbname(&self.database).application_name("zring");
        config.options("-c default_transaction_read_only=on");
        let user = self.user.clone().or_else(proc::user_name);
        config.user(user.unwrap_or_else(|| "zring".to_owned()));
        if let Some(path) = &self.password_file {
            config.password(password(path)?);
        }
        Ok(config)
    }
}

fn password(path: &Path) -> Result<String, Trouble> {
    let shown = || path.display().to_string();
    let failed = |source| Trouble::Password {
        path: shown(),
        source,
    };
    let file = File::open(path).map_err(failed)?;
    let mode = file.metadata().map_err(failed)?.mode();
    if mode & 0o077 != 0 {
        return Err(Trouble::Exposed(shown()));
    }
    let mut text = String::new();
    let read = file.take(PASSWORD_BYTES_MAX).read_to_string(&mut text);
    read.map_err(failed)?;
    Ok(text.trim_end_matches(['\r', '\n']).to_owned())
}
