//! The engine `redb`: the same runs, as values of a B-tree by directory.
//!
//! A batch is one transaction, in which each run it touches is replaced. So there is no journal and nothing to put in order, and a
//! change of one file writes the run of its directory.

use super::manifest::Manifest;
use super::overlay::{Overlay, mark_imported};
use super::{Catalog, CatalogError, Snapshot, get, is_below};
use crate::kernel::calls::{self, Class, Count};
use crate::wire::catalog::{Batch, Origin, Record, Run, Sealed};
use ::redb::{Database, ReadOnlyTable, ReadableTable, TableDefinition};
use nix::fcntl::Flock;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;

const RUNS: TableDefinition<'_, &[u8], &[u8]> = TableDefinition::new("runs");
const SEQS: TableDefinition<'_, (u64, u64), u64> = TableDefinition::new("seqs");
/// Memory of the B-tree's cache: runs are read once per pass.
const CACHE_BYTES: usize = 16 << 20;

/// A catalog in a B-tree.
pub struct Pages {
    dir: PathBuf,
    manifest: Manifest,
    base: Database,
    _lock: Option<Flock<File>>,
}

impl std::fmt::Debug for Pages {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Pages({})", self.dir.display())
    }
}

fn name(dir: &Path) -> PathBuf {
    dir.join("catalog.redb")
}

fn failed<E: Into<::redb::Error>>(dir: &Path) -> impl FnOnce(E) -> CatalogError + '_ {
    move |source| match source.into() {
        ::redb::Error::DatabaseAlreadyOpen => CatalogError::Locked(dir.to_owned()),
        source => CatalogError::Pages {
            dir: dir.to_owned(),
            source: Box::new(source),
        },
    }
}

impl Pages {
    fn begin(dir: &Path) -> Result<Database, CatalogError> {
        let name = name(dir);
        calls::timed(
            Count::from(Class::State),
            || name.as_path(),
            || {
                let mut builder = Database::builder();
                builder.set_cache_size(CACHE_BYTES);
                builder.create(&name)
            },
        )
        .map_err(failed(dir))
    }

    /// Opens it for the writer that holds `lock`.
    pub(super) fn open(
        dir: &Path,
        manifest: Manifest,
        lock: Flock<File>,
    ) -> Result<Self, CatalogError> {
        let base = Self::begin(dir)?;
        let txn = base.begin_write().map_err(failed(dir))?;
        txn.open_table(RUNS).map_err(failed(dir))?;
        txn.open_table(SEQS).map_err(failed(dir))?;
        txn.commit().map_err(failed(dir))?;
        let mut pages = Self {
            dir: dir.to_owned(),
            manifest,
            base,
            _lock: Some(lock),
        };
        if pages.manifest.rebound {
            pages.mark()?;
        }
        Ok(pages)
    }

    /// A picture for a reader. The B-tree lets nobody else in meanwhile.
    pub(super) fn picture(
        dir: &Path,
        _manifest: &Manifest,
    ) -> Result<Arc<dyn Snapshot>, CatalogError> {
        let base = Self::begin(dir)?;
        let picture = PagesPicture::new(dir, &base, None)?;
        Ok(Arc::new(PagesPicture {
            _base: Some(base),
            ..picture
        }))
    }

    /// Marks all records as taken over.
    fn mark(&mut self) -> Result<(), CatalogError> {
        let picture = PagesPicture::new(&self.dir, &self.base, None)?;
        let txn = self.base.begin_write().map_err(failed(&self.dir))?;
        {
            let mut table = txn.open_table(RUNS).map_err(failed(&self.dir))?;
            let mut bytes = Vec::new();
            for run in 0..picture.len() {
                picture.load(run, &mut bytes)?;
                let path = &picture.paths[run];
                mark_imported(&mut bytes, path.len());
                table
                    .insert(&**path, bytes.as_slice())
                    .map_err(failed(&self.dir))?;
            }
        }
        txn.commit().map_err(failed(&self.dir))?;
        self.manifest.rebound = false;
        self.manifest.write(&self.dir)
    }

    fn write(&self, batch: Sealed<'_>) -> Result<(), CatalogError> {
        let dir = &self.dir;
        let txn = self.base.begin_write().map_err(failed(dir))?;
        {
            let mut table = txn.open_table(RUNS).map_err(failed(dir))?;
            let mut overlay = Overlay::default();
            for op in batch.ops() {
                let below = |path: &[u8]| {
                    let range = table.range(path..).into_iter().flatten().flatten();
                    range
                        .map(|(key, _)| Box::<[u8]>::from(key.value()))
                        .take_while(|key| key.starts_with(path))
                        .filter(|key| is_below(key, path))
                        .collect()
                };
                overlay.apply(&op?, below);
            }
            let mut out = Vec::new();
            for (path, change) in overlay.dirs() {
                out.clear();
                let left = {
                    let old = table.get(path).map_err(failed(dir))?;
                    let base = old.as_ref().and_then(|old| Run::parse(old.value()).ok());
                    change.merge(path, base.as_ref(), &mut out)
                };
                if left {
                    calls::add(Count::BytesWritten, out.len());
                    table.insert(path, out.as_slice()).map_err(failed(dir))?;
                } else {
                    table.remove(path).map_err(failed(dir))?;
                }
            }
            let mut seqs = txn.open_table(SEQS).map_err(failed(dir))?;
            let origin = (batch.origin.node, batch.origin.epoch);
            seqs.insert(origin, batch.seq).map_err(failed(dir))?;
        }
        calls::add(Count::Sync, 1);
        txn.commit().map_err(failed(dir))
    }
}

impl Catalog for Pages {
    fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    fn runs(&self) -> Arc<dyn Snapshot> {
        match PagesPicture::new(&self.dir, &self.base, None) {
            Ok(picture) => Arc::new(picture),
            // What cannot be read is not known: files become new, which is work and nothing worse.
            Err(_) => Arc::new(PagesPicture::empty(&self.dir)),
        }
    }

    fn get(&self, path: &[u8]) -> Result<Option<Record>, CatalogError> {
        let (dir, _) = super::split(path);
        get(&PagesPicture::new(&self.dir, &self.base, Some(dir))?, path)
    }

    fn apply(&mut self, batch: &mut Batch, from: Origin, seq: u64) -> Result<(), CatalogError> {
        if seq <= self.seq_of(from) {
            return Ok(());
        }
        let (sealed, _) = Sealed::split(batch.seal(from, seq))?;
        self.write(sealed)
    }

    fn compact(&mut self, _must: bool) -> Result<(), CatalogError> {
        Ok(())
    }

    fn seq_of(&self, from: Origin) -> u64 {
        let seq = || {
            let txn = self.base.begin_read().ok()?;
            let table = txn.open_table(SEQS).ok()?;
            Some(table.get((from.node, from.epoch)).ok()??.value())
        };
        seq().unwrap_or(0)
    }
}

/// A read transaction and the directories in it.
struct PagesPicture {
    dir: PathBuf,
    table: Option<ReadOnlyTable<&'static [u8], &'static [u8]>>,
    paths: Vec<Box<[u8]>>,
    _base: Option<Database>,
}

impl PagesPicture {
    fn empty(dir: &Path) -> Self {
        Self {
            dir: dir.to_owned(),
            table: None,
            paths: Vec::new(),
            _base: None,
        }
    }

    /// Of all directories, or of one.
    fn new(dir: &Path, base: &Database, only: Option<&[u8]>) -> Result<Self, CatalogError> {
        let txn = base.begin_read().map_err(failed(dir))?;
        let table = match txn.open_table(RUNS) {
            Ok(table) => table,
            Err(::redb::TableError::TableDoesNotExist(_)) => return Ok(Self::empty(dir)),
            Err(error) => return Err(failed(dir)(error)),
        };
        let mut paths = Vec::new();
        match only {
            Some(path) => paths.push(path.into()),
            None => {
                for item in table.iter().map_err(failed(dir))? {
                    paths.push(item.map_err(failed(dir))?.0.value().into());
                }
            }
        }
        Ok(Self {
            dir: dir.to_owned(),
            table: Some(table),
            paths,
            _base: None,
        })
    }
}

impl Snapshot for PagesPicture {
    fn len(&self) -> usize {
        self.paths.len()
    }

    fn find(&self, dir: &[u8]) -> Option<usize> {
        self.paths.binary_search_by(|path| (**path).cmp(dir)).ok()
    }

    fn path(&self, run: usize) -> Vec<u8> {
        self.paths[run].to_vec()
    }

    fn load(&self, run: usize, out: &mut Vec<u8>) -> Result<(), CatalogError> {
        out.clear();
        let Some(table) = &self.table else {
            return Ok(());
        };
        let value = table.get(&*self.paths[run]).map_err(failed(&self.dir))?;
        if let Some(value) = value {
            out.extend_from_slice(value.value());
            calls::add(Count::BytesRead, out.len());
        }
        Ok(())
    }

    fn bytes(&self, _run: usize) -> u64 {
        0
    }

    fn damaged(&self) -> usize {
        0
    }
}
