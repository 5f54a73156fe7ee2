//! `zring check`: verifies a database as zring sees it. Read-only, beside any writer.
//!
//! Every transaction and record front to back; with `--deep` also what records mean: objects of big files are decoded,
//! and each big file's every block is checked as of the last transaction: as a READ of all of it would, but by what it consists of, as
//! a damaged file may claim blocks of any size.

use super::args::{Args, Usage};
use super::progress::Progress;
use super::reader::{self, Database, Reader};
use super::{Failure, Outcome};
use crate::base::limit::RECORD_BYTES_MAX;
use crate::base::{Oid, Tid};
use crate::store::LoadError;
use crate::store::any::AnyView;
use crate::store::demo::{self, Demo};
use crate::store::file::{FileOpts, FileStore, verify};
use crate::store::neo::{self, Cluster};
use crate::store::rel::{self, Rel};
use crate::store::remote::RemoteView;
use crate::store::zeo::{self, Server};
use crate::store::zurl::Zurl;
use crate::zodb::need::Step;
use crate::zodb::object::decode_within;
use crate::zodb::{Entry, Object, ZodbError, bigfile, btree, zblk};
use anyhow::anyhow;
use lexopt::prelude::*;
use std::collections::BTreeSet;
use std::path::Path;

const HELP: &str = "zring check [--deep] [--max-record SIZE] ZURL

Verifies the database ZURL as zring sees it, without writing.

  --deep             also decodes the objects of big files, and checks every block as of the last transaction
  --max-record SIZE  largest object record accepted, as the option max_record of mounts [64M]
";

/// Chunks of a block that are loaded at a time: what is in memory does not depend on how large a block claims to be.
const CHUNKS: usize = 16;

/// `zring check ...`
pub(super) fn command(args: Args) -> Outcome {
    let (mut deep, mut max, mut places) = (false, RECORD_BYTES_MAX, Vec::new());
    let mut args = args.parser();
    let wrong = |error| Usage::Argument(error, "check");
    while let Some(arg) = args.next().map_err(wrong)? {
        match arg {
            Short('h') | Long("help") => {
                print!("{HELP}");
                return Ok(());
            }
            Long("deep") => deep = true,
            Long("max-record") => max = reader::max_record(&mut args).map_err(wrong)?,
            Value(value) => places.push(value.to_string_lossy().into_owned()),
            _ => return Err(wrong(arg.unexpected()).into()),
        }
    }
    let [zurl] = places.as_slice() else {
        return Err(Usage::Count {
            expected: "one database address",
            command: "check",
        }
        .into());
    };
    let path = match reader::parse(zurl)? {
        Zurl::File(path) => path,
        Zurl::Zeo(server) => return of_server(&server, max, deep),
        Zurl::Rel(rel) => return of_rel(&rel, max, deep),
        Zurl::Neo(cluster) => return of_cluster(&cluster, max, deep),
        Zurl::Demo(demo) => return of_layers(zurl, &demo, max, deep),
    };
    let opts = FileOpts { max_record: max };
    let mut wrong = records(&path, opts, deep)?;
    if deep {
        wrong += files(&path, opts)?;
    }
    match wrong {
        0 => Ok(()),
        n => Err(anyhow!("{n} things are wrong with {zurl}").into()),
    }
}

/// Whether a server serves: its records are its own business.
fn of_server(server: &Server, max: usize, deep: bool) -> Outcome {
    let (store, view) = zeo::open(server, max, None)?;
    let root = root(&view).map_err(|error| error.context(server.address.to_string()))?;
    drop(store);
    let (address, storage, at) = (&server.address, &server.storage, view.at());
    println!("{address} serves storage {storage:?}: last transaction {at}, {root}");
    if deep {
        let text = "what a server stores is checked beside it: zring check --deep file://<path to Data.fs>";
        return Err(Failure::new(2, anyhow!("{text}")));
    }
    Ok(())
}

/// Whether a database of RelStorage can be read.
fn of_rel(rel: &Rel, max: usize, deep: bool) -> Outcome {
    let (store, view) = rel::open(rel, max, None)?;
    let root = root(&view).map_err(|error| error.context(rel.to_string()))?;
    drop(store);
    println!("{rel} is there: last transaction {}, {root}", view.at());
    if deep {
        let text = "what a database server stores is checked by its own tools";
        return Err(Failure::new(2, anyhow!("{text}")));
    }
    Ok(())
}

/// Whether a cluster serves.
fn of_cluster(cluster: &Cluster, max: usize, deep: bool) -> Outcome {
    let (store, view) = neo::open(cluster, max, None)?;
    let root = root(&view).map_err(|error| error.context(cluster.to_string()))?;
    drop(store);
    println!("{cluster} serves: last transaction {}, {root}", view.at());
    if deep {
        let text = "what storage nodes have is checked by neoctl, which compares replicas";
        return Err(Failure::new(2, anyhow!("{text}")));
    }
    Ok(())
}

/// Whether both layers can be read, and are one database.
fn of_layers(zurl: &str, demo: &Demo, max: usize, deep: bool) -> Outcome {
    let (store, view) = demo::open(demo, max, None, &mut |_, _| {})?;
    let root = root(&view).map_err(|error| error.context(zurl.to_owned()))?;
    drop(store);
    println!("{zurl} is there: last transaction {}, {root}", view.at());
    if deep {
        let text = "layers are checked each by its own address";
        return Err(Failure::new(2, anyhow!("{text}")));
    }
    Ok(())
}

/// What the root object of a server is.
fn root(view: &RemoteView) -> anyhow::Result<String> {
    let is_empty = view.at() == Tid::ZERO;
    match view.load(Oid(0), view.at()) {
        Ok(root) => Ok(format!("the root object is of {}", root.serial)),
        Err(LoadError::NoObject | LoadError::NotYet) if is_empty => Ok("it is empty".to_owned()),
        Err(error) => Err(anyhow!("root object: {error}")),
    }
}

/// All transactions and records; returns how many things are wrong.
fn records(path: &Path, opts: FileOpts, deep: bool) -> Result<u64, Failure> {
    let mut bar = Progress::new("checking");
    let mut undecoded = 0u64;
    let mut object = |oid: Oid, tid: Tid, data: bytes::Bytes| {
        if let Err(error) = decode_within(data, opts.max_record) {
            undecoded += 1;
            println!("object {oid} @{tid}: {error}");
        }
    };
    let object: Option<&mut crate::store::file::OnObject<'_>> =
        if deep { Some(&mut object) } else { None };
    let report = verify(path, &opts, object, &mut |done, all| bar.show(done, all))?;
    drop(bar);
    for finding in &report.findings {
        println!("position {}: {}", finding.pos, finding.what);
    }
    if report.findings_dropped > 0 {
        println!("and {} more", report.findings_dropped);
    }
    println!(
        "{} transactions, {} records of {} objects, {} MiB; last transaction {}, tail {:?}",
        report.txns,
        report.records,
        report.objects,
        report.data_bytes >> 20,
        report.last,
        report.tail
    );
    Ok(undecoded + u64::from(!report.is_sound()) * (report.findings.len() as u64).max(1))
}

/// Every block of every big file as of the last transaction; returns how many files are wrong.
fn files(path: &Path, opts: FileOpts) -> Result<u64, Failure> {
    let (_, view) = FileStore::open(path, &opts, &mut |_, _| {})?;
    let (at, max) = (view.at(), opts.max_record);
    let view = AnyView::File(view);
    let base = Database { view, max };
    let mut names = BTreeSet::new();
    let mut note = |oid: Oid, _: Tid, data: bytes::Bytes| {
        if matches!(decode_within(data, max), Ok(Object::BigFile(_))) {
            names.insert(oid);
        }
    };
    verify(path, &opts, Some(&mut note), &mut |_, _| {})?;
    let (mut wrong, mut blocks) = (0, 0);
    for &oid in &names {
        match blocks_of(&mut base.reader(at), oid) {
            Ok(n) => blocks += n,
            Err(ZodbError::Deleted { .. }) => {}
            Err(error) => {
                wrong += 1;
                println!("big file {oid}: {error}");
            }
        }
    }
    println!("{} big files, {blocks} blocks checked", names.len());
    Ok(wrong)
}

/// Every block of one file; returns how many there are.
fn blocks_of(reader: &mut Reader<'_>, oid: Oid) -> Result<u64, ZodbError> {
    let file = reader.run(|ask| bigfile::open(ask, oid))?;
    reader.run(|ask| bigfile::size(ask, &file))?;
    let mut entries = Vec::new();
    reader.run(|ask| {
        entries.clear();
        btree::range(ask, file.tree(), 0, i64::MAX, &mut |_, _, entry| {
            entries.push(entry);
            Ok(Step::Done(()))
        })
    })?;
    let (blksize, mut chunks) = (file.blksize, Vec::new());
    for &Entry { oid, .. } in &entries {
        reader.run(|ask| zblk::chunks(ask, oid, blksize, &mut chunks))?;
        // Each time the last of those before is among them, so that it is seen where that one ends.
        for first in (0..chunks.len()).step_by(CHUNKS - 1) {
            let some = &chunks[first..chunks.len().min(first + CHUNKS)];
            reader.run(|ask| zblk::check(ask, oid, blksize, some))?;
            reader.drop_data();
        }
        reader.drop_data();
    }
    Ok(entries.len() as u64)
}
