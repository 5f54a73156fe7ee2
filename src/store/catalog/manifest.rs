//! `MANIFEST`: what a catalog is of, and which generation holds.
//!
//! It is replaced by renaming a new one over it, which is what makes a generation current.

use super::CatalogError;
use crate::base::Algo;
use crate::kernel::calls::{self, Class, Count};
use serde_json::{Value, json};
use std::fs::File;
use std::io::Write;
use std::path::Path;

/// The format written here; others are left alone.
pub const FORMAT: u64 = 1;
const NAME: &str = "MANIFEST";
/// How catalogs are kept; one that is kept otherwise is left alone.
const ENGINE: &str = "runs";

/// What a catalog is of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// Of the canonical path of the root.
    pub root_id: String,
    /// That path, for people.
    pub root: String,
    /// UUID of the file system, where it is known.
    pub fs_uuid: Option<String>,
    /// Its type, for people.
    pub fs_type: String,
}

/// The manifest of a catalog.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Manifest {
    /// What it is of.
    pub identity: Identity,
    /// The digest of all its records.
    pub algo: Algo,
    /// Which files hold; 0 has none yet.
    pub generation: u64,
    /// Taken over from another root: nothing in it counts as compared with the bytes.
    pub rebound: bool,
}

impl Manifest {
    /// Reads the one in `dir`; None if there is none.
    ///
    /// # Errors
    /// It cannot be read or understood, or has another format.
    pub fn read(dir: &Path) -> Result<Option<Self>, CatalogError> {
        let path = dir.join(NAME);
        let text = match calls::read_file(Class::State, &path) {
            Ok(text) => text,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(CatalogError::io("reading", &path)(e)),
        };
        let bad = || CatalogError::Manifest(path.clone());
        let value: Value = serde_json::from_slice(&text).map_err(|_| bad())?;
        match value["format"].as_u64() {
            Some(FORMAT) if value["engine"] != ENGINE => Err(CatalogError::Engine {
                dir: dir.to_owned(),
                found: value["engine"].as_str().unwrap_or("?").to_owned(),
            }),
            Some(FORMAT) => Self::parse(&value).map(Some).ok_or_else(bad),
            Some(found) => Err(CatalogError::Format {
                dir: dir.to_owned(),
                found,
                known: FORMAT,
            }),
            None => Err(bad()),
        }
    }

    fn parse(value: &Value) -> Option<Self> {
        let text = |name: &str| value[name].as_str().map(str::to_owned);
        Some(Self {
            identity: Identity {
                root_id: text("root_id")?,
                root: text("root")?,
                fs_uuid: text("fs_uuid"),
                fs_type: text("fs_type")?,
            },
            algo: Algo::by_name(&text("algo")?)?,
            generation: value["generation"].as_u64()?,
            rebound: value["rebound"].as_bool().unwrap_or(false),
        })
    }

    /// Makes it the one of `dir`, durably.
    ///
    /// # Errors
    /// The disk is full, for one: the old one holds.
    pub fn write(&self, dir: &Path) -> Result<(), CatalogError> {
        let value = json!({
            "format": FORMAT,
            "root_id": self.identity.root_id,
            "root": self.identity.root,
            "fs_uuid": self.identity.fs_uuid,
            "fs_type": self.identity.fs_type,
            "algo": self.algo.name(),
            "engine": ENGINE,
            "generation": self.generation,
            "rebound": self.rebound,
        });
        let (path, new) = (dir.join(NAME), dir.join("MANIFEST.new"));
        let written = (|| {
            let mut options = File::options();
            let options = options.write(true).create(true).truncate(true);
            let mut file = calls::open(Class::State, &new, options)?;
            let text = format!("{value:#}\n");
            file.write_all(text.as_bytes())?;
            calls::add(Count::BytesWritten, text.len());
            calls::timed(Count::Sync, || new.as_path(), || file.sync_all())?;
            std::fs::rename(&new, &path)?;
            sync_dir(dir)
        })();
        written.map_err(|e| {
            let _ = std::fs::remove_file(&new);
            CatalogError::io("writing", &path)(e)
        })
    }
}

/// Makes the names in `dir` durable.
///
/// # Errors
/// What the system says.
pub fn sync_dir(dir: &Path) -> std::io::Result<()> {
    let file = calls::open_read(Class::State, dir)?;
    calls::timed(Count::Sync, || dir, || file.sync_all())
}
