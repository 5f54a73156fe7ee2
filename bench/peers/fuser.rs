//! The peer: our own store and zodb rooms behind the `fuser` crate, one READ at a time.
//!
//! What one would write in an afternoon: one thread, blocking reads of the database, tree nodes kept, the objects of the
//! block read last kept too (so that a sequential reader does not load a block once per READ). No store ahead, no
//! rings. The tree is flat: every file that `names` lists, under its oid.

use crate::data::{self, names_path};
use anyhow::{Context, Result};
use fuser::{
    Config, Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation, INodeNo,
    LockOwner, MountOption, OpenFlags, ReplyAttr, ReplyData, ReplyEntry, ReplyOpen, Request,
};
use rustc_hash::FxHashMap;
use std::ffi::OsStr;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, UNIX_EPOCH};
use zring::base::{BlkNo, Oid};
use zring::store::file::{FileOpts, FileStore, FileView};
use zring::zodb::{Ask, BigFile, Lookup, Object, Objects, Step, ZodbError, bigfile, decode, zblk};

const TTL: Duration = Duration::from_secs(1 << 20);
/// Tree nodes kept.
const NODES_MAX: usize = 200_000;

/// Mounts the files of `database` on `at`, until it is unmounted.
pub fn serve(database: &Path, at: &Path) -> Result<()> {
    let (_store, view) = FileStore::open(database, &FileOpts::default(), &mut |_, _| {})?;
    let names = std::fs::read_to_string(names_path(database))?;
    let mut known = Known::default();
    let mut files = Vec::new();
    for (name, _) in names.lines().filter_map(|line| line.split_once(' ')) {
        let hex = data::oid_of(database, name)?;
        let oid = Oid(u64::from_str_radix(&hex, 16).context("an oid")?);
        let file = known.answer(&view, |ask| bigfile::open(ask, oid))?;
        let size = known.answer(&view, |ask| bigfile::size(ask, &file))?;
        files.push(Served {
            name: hex,
            file,
            size,
        });
    }
    let mut config = Config::default();
    config.mount_options = vec![
        MountOption::RO,
        MountOption::FSName("fuser-peer".to_owned()),
    ];
    let peer = Peer {
        view,
        files,
        known: Mutex::new(known),
    };
    Ok(fuser::mount(peer, at, &config)?)
}

struct Served {
    name: String,
    file: BigFile,
    size: u64,
}

struct Peer {
    view: FileView,
    files: Vec<Served>,
    known: Mutex<Known>,
}

/// Objects at hand.
#[derive(Default)]
struct Known {
    nodes: FxHashMap<Oid, Object>,
    /// Of the block read last.
    data: FxHashMap<Oid, Object>,
    block: Option<Oid>,
}

impl Objects for Known {
    fn get(&self, oid: Oid) -> Lookup<'_> {
        let found = self.nodes.get(&oid).or_else(|| self.data.get(&oid));
        found.map_or(Lookup::Missing, Lookup::Here)
    }
}

impl Known {
    /// Loads until a question is answered.
    fn answer<T>(
        &mut self,
        view: &FileView,
        mut question: impl FnMut(&mut Ask<'_, Self>) -> Result<Step<T>, ZodbError>,
    ) -> Result<T> {
        let mut need = Vec::new();
        loop {
            let step = question(&mut Ask::new(self, &mut need))?;
            if let Step::Done(answer) = step {
                return Ok(answer);
            }
            let mut batch = view.batch(view.at(), need.drain(..));
            while let Some(read) = batch.next_read() {
                batch.complete(read.id, view.read(read.pos, read.len));
            }
            while let Some((oid, loaded)) = batch.next_done() {
                let object = decode(loaded?.data)
                    .ok()
                    .context("a record that does not decode")?;
                let data = matches!(
                    object,
                    Object::Blk0(_) | Object::Blk1 { .. } | Object::Data(_)
                );
                let kept = if data {
                    &mut self.data
                } else {
                    &mut self.nodes
                };
                kept.insert(oid, object);
            }
        }
    }

    fn read(&mut self, view: &FileView, file: &BigFile, off: u64, out: &mut [u8]) -> Result<()> {
        let (blksize, mut done) = (file.blksize, 0);
        if self.nodes.len() > NODES_MAX {
            self.nodes.clear();
        }
        while done < out.len() {
            let at = off + done as u64;
            let (blk, in_block) = (BlkNo(at / blksize.0), at % blksize.0);
            let len = usize::try_from(blksize.0 - in_block)?.min(out.len() - done);
            let target = &mut out[done..done + len];
            let place = self.answer(view, |ask| bigfile::locate(ask, file, blk))?;
            let oid = place.block.map(|entry| entry.oid);
            if self.block != oid {
                self.data.clear();
                self.block = oid;
            }
            match oid {
                None => target.fill(0),
                Some(oid) => {
                    self.answer(view, |ask| zblk::fill(ask, oid, blksize, in_block, target))?
                }
            }
            done += len;
        }
        Ok(())
    }
}

impl Peer {
    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn served(&self, ino: INodeNo) -> Option<&Served> {
        self.files
            .get(usize::try_from(u64::from(ino)).ok()?.checked_sub(2)?)
    }

    fn attr_of(&self, ino: INodeNo) -> Option<FileAttr> {
        let served = self.served(ino);
        if served.is_none() && ino != INodeNo::ROOT {
            return None;
        }
        let size = served.map_or(0, |s| s.size);
        Some(FileAttr {
            ino,
            size,
            blocks: size / 512,
            atime: UNIX_EPOCH,
            mtime: UNIX_EPOCH,
            ctime: UNIX_EPOCH,
            crtime: UNIX_EPOCH,
            kind: if served.is_some() {
                FileType::RegularFile
            } else {
                FileType::Directory
            },
            perm: if served.is_some() { 0o444 } else { 0o555 },
            nlink: 1,
            uid: 0,
            gid: 0,
            rdev: 0,
            blksize: 2 << 20,
            flags: 0,
        })
    }
}

impl Filesystem for Peer {
    fn lookup(&self, _: &Request, _: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let found = self.files.iter().position(|f| name == f.name.as_str());
        match found.and_then(|at| self.attr_of(INodeNo(at as u64 + 2))) {
            Some(attr) => reply.entry(&TTL, &attr, Generation(0)),
            None => reply.error(Errno::ENOENT),
        }
    }

    fn getattr(&self, _: &Request, ino: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        match self.attr_of(ino) {
            Some(attr) => reply.attr(&TTL, &attr),
            None => reply.error(Errno::ENOENT),
        }
    }

    fn open(&self, _: &Request, _: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        reply.opened(FileHandle(0), FopenFlags::FOPEN_KEEP_CACHE);
    }

    fn read(
        &self,
        _: &Request,
        ino: INodeNo,
        _: FileHandle,
        off: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let Some(served) = self.served(ino) else {
            return reply.error(Errno::EISDIR);
        };
        let len = u64::from(size).min(served.size.saturating_sub(off));
        let mut out = vec![0; usize::try_from(len).unwrap_or(0)];
        match self.known().read(&self.view, &served.file, off, &mut out) {
            Ok(()) => reply.data(&out),
            Err(error) => {
                eprintln!("error: {error:#}");
                reply.error(Errno::EIO);
            }
        }
    }
}
