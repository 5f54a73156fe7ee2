//! How a catalog is kept: a segment of runs, and a journal of what changed since.
//!
//! A check reads runs and nothing else; changes are appended and synced. When the journal has grown, a new generation is written beside
//! the old one: segment, empty journal, then the manifest that names it, each on the disk before the next. Whatever ends the program, or
//! fills the disk, one of the two generations holds.
//!
//! The journal ends at the first batch that is not whole: a writer cuts it there. What was behind it is work to be done again.

use super::manifest::{Manifest, sync_dir};
use super::overlay::{Overlay, mark_imported};
use super::seg::{Seg, SegWriter};
use super::{Catalog, CatalogError, Snapshot, get, is_below};
use crate::kernel::calls::{self, Class, Count};
use crate::wire::catalog::{Batch, Origin, Record, Run, Sealed};
use nix::fcntl::Flock;
use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

const JOURNAL_MAGIC: &[u8; 8] = b"ZrJ1\0\0\0\0";
/// A journal is put into a new generation when it is longer than this and a sixteenth of the runs, or in memory than [`OVERLAY_BYTES_MAX`].
const JOURNAL_BYTES: u64 = 1 << 20;
/// Changes kept in memory: 150000 files, far below what a scan may use.
const OVERLAY_BYTES_MAX: usize = 32 << 20;

/// A catalog of flat runs.
pub struct Runs {
    dir: PathBuf,
    manifest: Manifest,
    picture: Picture,
    journal: File,
    journal_len: u64,
    seqs: BTreeMap<Origin, u64>,
    _lock: Flock<File>,
}

impl std::fmt::Debug for Runs {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Runs({})", self.dir.display())
    }
}

/// A segment and the changes since.
#[derive(Clone, Debug, Default)]
struct Picture {
    seg: Option<Arc<Seg>>,
    overlay: Arc<Overlay>,
    /// Directories of changes that have no run, in order; made when a picture is given out.
    added: Vec<Box<[u8]>>,
}

fn seg_name(dir: &Path, generation: u64) -> PathBuf {
    dir.join(format!("seg-{generation}"))
}

fn journal_name(dir: &Path, generation: u64) -> PathBuf {
    dir.join(format!("journal-{generation}"))
}

/// What a journal holds, as far as it is whole.
struct Journal {
    overlay: Overlay,
    seqs: BTreeMap<Origin, u64>,
    len: u64,
}

fn read_journal(name: &Path, seg: Option<&Seg>) -> Result<Journal, CatalogError> {
    let bytes = calls::read_file(Class::State, name).map_err(CatalogError::io("reading", name))?;
    let mut journal = Journal {
        overlay: Overlay::default(),
        seqs: BTreeMap::new(),
        len: 0,
    };
    let Some(mut rest) = bytes.strip_prefix(JOURNAL_MAGIC) else {
        return Ok(journal);
    };
    while let Ok((batch, after)) = Sealed::split(rest) {
        let seq = journal.seqs.entry(batch.origin).or_default();
        if batch.seq > *seq {
            *seq = batch.seq;
            for op in batch.ops().flatten() {
                journal.overlay.apply(&op, |path| runs_below(seg, path));
            }
        }
        rest = after;
    }
    journal.len = (bytes.len() - rest.len()) as u64;
    Ok(journal)
}

fn runs_below(seg: Option<&Seg>, path: &[u8]) -> Vec<Box<[u8]>> {
    let Some(seg) = seg else { return Vec::new() };
    let from = seg.find(path).unwrap_or_else(|at| at);
    (from..seg.len())
        .map(|run| seg.path(run))
        .take_while(|dir| dir.starts_with(path))
        .filter(|dir| is_below(dir, path))
        .map(Into::into)
        .collect()
}

impl Runs {
    fn load(dir: &Path, manifest: &Manifest) -> Result<(Picture, Journal), CatalogError> {
        if manifest.generation == 0 {
            let journal = Journal {
                overlay: Overlay::default(),
                seqs: BTreeMap::new(),
                len: 0,
            };
            return Ok((Picture::default(), journal));
        }
        let seg = Arc::new(Seg::open(&seg_name(dir, manifest.generation))?);
        let name = journal_name(dir, manifest.generation);
        let mut journal = read_journal(&name, Some(&seg))?;
        let overlay = Arc::new(std::mem::take(&mut journal.overlay));
        let picture = Picture {
            seg: Some(seg),
            overlay,
            added: Vec::new(),
        };
        Ok((picture, journal))
    }

    /// A picture for a reader.
    pub(super) fn picture(
        dir: &Path,
        manifest: &Manifest,
    ) -> Result<Arc<dyn Snapshot>, CatalogError> {
        Ok(Arc::new(Self::load(dir, manifest)?.0.given_out()))
    }

    /// Opens it for the writer that holds `lock`.
    pub(super) fn open(
        dir: &Path,
        mut manifest: Manifest,
        lock: Flock<File>,
    ) -> Result<Self, CatalogError> {
        if manifest.generation == 0 {
            let out = SegWriter::create(&seg_name(dir, 1))?;
            begin_generation(dir, 1, out, &BTreeMap::new())?;
            manifest.generation = 1;
            manifest.write(dir)?;
        }
        let (picture, read) = Self::load(dir, &manifest)?;
        let name = journal_name(dir, manifest.generation);
        let opening = CatalogError::io("opening", &name);
        let journal = calls::open(Class::State, &name, File::options().read(true).write(true))
            .map_err(opening)?;
        let mut runs = Self {
            dir: dir.to_owned(),
            manifest,
            picture,
            journal,
            journal_len: read.len.max(JOURNAL_MAGIC.len() as u64),
            seqs: read.seqs,
            _lock: lock,
        };
        if read.len == 0 {
            let mended = runs.journal.write_all_at(JOURNAL_MAGIC, 0);
            mended.map_err(CatalogError::io("writing", &name))?;
        }
        runs.cut();
        runs.sweep();
        if runs.manifest.rebound {
            runs.compact(true)?;
        }
        Ok(runs)
    }

    /// Cuts off what is not a whole batch. Should that fail, what is appended still begins where it is expected.
    fn cut(&self) {
        let _ = self.journal.set_len(self.journal_len);
    }

    /// Removes what other generations left.
    fn sweep(&self) {
        let current = [
            seg_name(&self.dir, self.manifest.generation),
            journal_name(&self.dir, self.manifest.generation),
        ];
        for entry in std::fs::read_dir(&self.dir).into_iter().flatten().flatten() {
            let name = entry.file_name();
            let name = name.to_string_lossy();
            let ours =
                name.starts_with("seg-") || name.starts_with("journal-") || name == "MANIFEST.new";
            if ours && !current.contains(&entry.path()) {
                let _ = std::fs::remove_file(entry.path());
            }
        }
    }

    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.journal.write_all_at(bytes, self.journal_len)?;
        calls::add(Count::BytesWritten, bytes.len());
        calls::timed(
            Count::Sync,
            || self.dir.as_path(),
            || self.journal.sync_data(),
        )?;
        self.journal_len += bytes.len() as u64;
        Ok(())
    }

    /// Writes all runs with their changes, in order.
    fn write_runs(&self, mut out: SegWriter) -> Result<SegWriter, CatalogError> {
        let picture = self.picture.clone().given_out();
        let mut order: Vec<usize> = (0..picture.len()).collect();
        order.sort_by(|&a, &b| picture.path_ref(a).cmp(picture.path_ref(b)));
        let mut bytes = Vec::new();
        for run in order {
            // A damaged run is dropped here for good.
            if picture.load(run, &mut bytes).is_err() || Run::parse(&bytes).is_err() {
                continue;
            }
            let path = picture.path_ref(run);
            if self.manifest.rebound {
                mark_imported(&mut bytes, path.len());
            }
            out.push(path, &bytes)?;
        }
        Ok(out)
    }

    fn next_generation(&mut self) -> Result<(), CatalogError> {
        let next = self.manifest.generation + 1;
        let out = self.write_runs(SegWriter::create(&seg_name(&self.dir, next))?)?;
        begin_generation(&self.dir, next, out, &self.seqs)?;
        let mut manifest = self.manifest.clone();
        manifest.generation = next;
        manifest.rebound = false;
        manifest.write(&self.dir)?;
        self.manifest = manifest;
        Ok(())
    }
}

/// Ends the segment of a generation and begins its journal, durably; no manifest names them yet. How far other nodes are goes along: as batches
/// of nothing. An own epoch is never continued in another generation.
fn begin_generation(
    dir: &Path,
    generation: u64,
    seg: SegWriter,
    seqs: &BTreeMap<Origin, u64>,
) -> Result<(), CatalogError> {
    seg.end()?;
    let mut begin = JOURNAL_MAGIC.to_vec();
    for (&origin, &seq) in seqs.iter().filter(|(origin, _)| origin.node != 0) {
        begin.extend_from_slice(Batch::new().seal(origin, seq));
    }
    let name = journal_name(dir, generation);
    let made = (|| {
        let mut options = File::options();
        let options = options.write(true).create(true).truncate(true);
        let file = calls::open(Class::State, &name, options)?;
        file.write_all_at(&begin, 0)?;
        calls::timed(Count::Sync, || name.as_path(), || file.sync_all())?;
        sync_dir(dir)
    })();
    made.map_err(CatalogError::io("writing", &name))
}

impl Catalog for Runs {
    fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    fn place(&self) -> &Path {
        &self.dir
    }

    fn runs(&self) -> Arc<dyn Snapshot> {
        Arc::new(self.picture.clone().given_out())
    }

    fn get(&self, path: &[u8]) -> Result<Option<Record>, CatalogError> {
        get(&self.picture.clone().given_out(), path)
    }

    fn apply(&mut self, batch: &mut Batch, from: Origin, seq: u64) -> Result<(), CatalogError> {
        if seq <= self.seq_of(from) {
            return Ok(());
        }
        let bytes = batch.seal(from, seq);
        if let Err(error) = self.append(bytes) {
            self.cut();
            return Err(CatalogError::io(
                "writing",
                &journal_name(&self.dir, self.manifest.generation),
            )(error));
        }
        let (sealed, _) = Sealed::split(bytes)?;
        let seg = self.picture.seg.clone();
        let overlay = Arc::make_mut(&mut self.picture.overlay);
        for op in sealed.ops() {
            overlay.apply(&op?, |path| runs_below(seg.as_deref(), path));
        }
        self.seqs.insert(from, seq);
        self.compact(false)
    }

    fn compact(&mut self, must: bool) -> Result<(), CatalogError> {
        let runs = self.picture.seg.as_ref().map_or(0, |seg| seg.bytes());
        let due = self.journal_len > JOURNAL_BYTES.max(runs / 16)
            || self.picture.overlay.bytes() > OVERLAY_BYTES_MAX;
        if !due && !must {
            return Ok(());
        }
        let old = self.manifest.generation;
        if let Err(error) = self.next_generation() {
            // The manifest still names the old generation, unless its rename went through unnoticed: then both are there.
            if Manifest::read(&self.dir).is_ok_and(|m| m.is_some_and(|m| m.generation == old)) {
                let _ = std::fs::remove_file(seg_name(&self.dir, old + 1));
                let _ = std::fs::remove_file(journal_name(&self.dir, old + 1));
            }
            return Err(error);
        }
        let (picture, read) = Self::load(&self.dir, &self.manifest)?;
        let name = journal_name(&self.dir, self.manifest.generation);
        let opening = CatalogError::io("opening", &name);
        self.journal = calls::open(Class::State, &name, File::options().read(true).write(true))
            .map_err(opening)?;
        self.journal_len = read.len;
        self.picture = picture;
        self.sweep();
        Ok(())
    }

    fn seq_of(&self, from: Origin) -> u64 {
        self.seqs.get(&from).copied().unwrap_or(0)
    }
}

impl Picture {
    fn given_out(mut self) -> Self {
        let seg = self.seg.as_deref();
        self.added = self
            .overlay
            .dirs()
            .map(|(dir, _)| dir)
            .filter(|dir| seg.is_none_or(|seg| seg.find(dir).is_err()))
            .map(Into::into)
            .collect();
        self
    }

    fn old(&self) -> usize {
        self.seg.as_ref().map_or(0, |seg| seg.len())
    }

    fn path_ref(&self, run: usize) -> &[u8] {
        match &self.seg {
            Some(seg) if run < seg.len() => seg.path(run),
            _ => &self.added[run - self.old()],
        }
    }
}

impl Snapshot for Picture {
    fn len(&self) -> usize {
        self.old() + self.added.len()
    }

    fn find(&self, dir: &[u8]) -> Option<usize> {
        if let Some(Ok(run)) = self.seg.as_ref().map(|seg| seg.find(dir)) {
            return Some(run);
        }
        let added = self.added.binary_search_by(|path| (**path).cmp(dir)).ok()?;
        Some(self.old() + added)
    }

    fn path(&self, run: usize) -> Vec<u8> {
        self.path_ref(run).to_vec()
    }

    fn load(&self, run: usize, out: &mut Vec<u8>) -> Result<(), CatalogError> {
        let path = self.path_ref(run);
        out.clear();
        if let Some(seg) = self.seg.as_ref().filter(|seg| run < seg.len()) {
            seg.load(run, out)?;
        }
        let Some(change) = self.overlay.of(path) else {
            return Ok(());
        };
        let base = std::mem::take(out);
        let parsed = Run::parse(&base).ok();
        change.merge(path, parsed.as_ref(), out);
        Ok(())
    }

    fn bytes(&self, run: usize) -> u64 {
        let seg = self.seg.as_ref().filter(|seg| run < seg.len());
        seg.map_or(0, |seg| seg.bytes_of(run))
    }

    fn damaged(&self) -> usize {
        usize::from(self.seg.as_ref().is_some_and(|seg| seg.damaged))
    }
}
