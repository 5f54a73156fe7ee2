//! `zring-bench`: the daemon's costs, against a stub on the same transports and against peers.
//!
//! `run` drives everything else (`bench/run` calls it); the other commands are its parts, each usable alone.

mod bench;
mod churn;
mod client;
mod commit;
mod content;
mod data;
mod etag;
mod etag_load;
#[path = "../peers/fuser.rs"]
mod fuser_peer;
mod inside;
mod moves;
mod pickle;
mod report;
mod rig;
mod scale;
mod speed;
mod stat;
mod stub;
mod tail;
mod tracked;
mod watch;
mod watcher;
mod zeo;

use anyhow::{Result, bail};
use bench::{Bench, Size};
use report::Report;
use std::path::{Path, PathBuf};

// As the daemon does: what is measured in this process should cost what it costs there.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const HELP: &str = "\
zring-bench run DIR all|quick|speed|scale|commit|watch|zeo|etag   everything; data and mounts under DIR
zring-bench zeo-read FILE BLK          a block of `zeo`, compared; how long reading took, in us
zring-bench gen blocks|scale|index FILE [N]    make a database
zring-bench stub MNT uring|dev|plain [FILE]    zeros, or the bytes of FILE, over a transport
zring-bench fuser DATABASE MNT         the peer
zring-bench inside DATABASE [SEED]     a cold ZBlk1 in this process, and the preads of its records
zring-bench inside-again DATABASE SECONDS      the same for a profiler
zring-bench positions DATABASE         where those records are
zring-bench open DATABASE              how long opening takes, and what the index weighs
zring-bench tail FILES BLOCKS HISTORY  the history by itself: what an advance costs
zring-bench tail-bytes BLOCKS STEP     what it weighs, when one of each STEP blocks is read
zring-bench moves MNT uring|dev|plain BLKSIZE BLOCKS STEP   what moving every STEPth block costs by itself
zring-bench churn FILE BLKSIZE BLOCKS DATA   a writer, directed by lines
zring-bench watcher MNT OID,...        clients of head/watch and a reader, directed by lines
zring-bench etag-tree DIR FILES        makes a tree of `etag` ahead of time, which takes longer than its measurements
zring-bench walk DIR                   lists and asks for attributes on all cores, and compares nothing
zring-bench client PROGRAM ...         read: touch, stride, fault, seq, direct, warm, cold, drop, cat, hold
";

fn main() -> Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = args.iter().map(String::as_str).collect();
    match words[..] {
        ["client", ..] => client::run(&args[1..]),
        ["stub", at, transport] => stub::serve(Path::new(at), transport, None),
        ["stub", at, transport, file] => {
            stub::serve(Path::new(at), transport, Some(Path::new(file)))
        }
        ["fuser", database, at] => fuser_peer::serve(Path::new(database), Path::new(at)),
        ["gen", "blocks", file] => data::blocks(Path::new(file), 1024, 1024),
        ["gen", "blocks", file, n] => data::blocks(Path::new(file), n.parse()?, n.parse()?),
        ["gen", "scale", file] => data::scale(Path::new(file)),
        ["gen", "index", file] => data::index(Path::new(file), 10_000_000),
        ["gen", "index", file, n] => data::index(Path::new(file), n.parse()?),
        ["inside", database] => inside::measure(Path::new(database), 1),
        ["inside", database, seed] => inside::measure(Path::new(database), seed.parse()?),
        ["inside-again", database, seconds] => inside::again(Path::new(database), seconds.parse()?),
        ["positions", database] => inside::positions(Path::new(database)),
        ["zeo-read", file, blk] => zeo::read(Path::new(file), blk.parse()?),
        ["open", database] => scale::open(Path::new(database)),
        ["tail", files, blocks, history] => {
            tail::advance(files.parse()?, blocks.parse()?, history.parse()?)
        }
        ["tail-bytes", blocks, step] => tail::weight(blocks.parse()?, step.parse()?),
        ["moves", at, transport, blksize, blocks, step] => {
            let blocks = (blocks.parse()?, step.parse()?);
            moves::measure(Path::new(at), transport, blksize.parse()?, blocks)
        }
        ["churn", file, blksize, blocks, data] => {
            let (blksize, blocks) = (blksize.parse()?, blocks.parse()?);
            churn::run(Path::new(file), blksize, blocks, data.parse()?)
        }
        ["watcher", at, oids] => watcher::run(Path::new(at), oids),
        ["walk", dir] => etag::walk(Path::new(dir)),
        ["etag-tree", dir, files] => etag::make(Path::new(dir), files.parse()?),
        ["run", dir, what] => run(Path::new(dir), what),
        _ => bail!("{HELP}"),
    }
}

/// The measurements. `ZRING_PYTHON` is a Python with ZODB; without it that row is left out, and says so.
fn run(dir: &Path, what: &str) -> Result<()> {
    let full = Size {
        blocks: 1024,
        rounds: 5,
        objects: 10_000_000,
    };
    let quick = Size {
        blocks: 256,
        rounds: 2,
        objects: 1_000_000,
    };
    let (size, speed, scale, commit, watch, zeo) = match what {
        part if part.ends_with("-quick")
            && etag::PARTS.contains(&part.trim_end_matches("-quick")) =>
        {
            (quick, false, false, false, false, false)
        }
        part if etag::PARTS.contains(&part) => (full, false, false, false, false, false),
        "etag" => (full, false, false, false, false, false),
        "etag-quick" => (quick, false, false, false, false, false),
        "all" => (full, true, true, true, true, true),
        "speed" => (full, true, false, false, false, false),
        "scale" => (full, false, true, false, false, false),
        "commit" => (full, false, false, true, false, false),
        "watch" => (full, false, false, false, true, false),
        "zeo" => (full, false, false, false, false, true),
        "quick" => (quick, true, true, true, true, true),
        _ => bail!(
            "run what? all, quick, speed, scale, commit, watch, zeo, etag, etag-quick or a part of etag"
        ),
    };
    let python = std::env::var_os("ZRING_PYTHON").map(PathBuf::from);
    let mut bench = Bench::new(dir, size)?;
    let mut report = Report::begin(what);
    if speed {
        speed::run(&mut bench, &mut report, python.as_deref())?;
    }
    if scale {
        scale::run(&mut bench, &mut report)?;
    }
    if commit {
        commit::run(&mut bench, &mut report)?;
    }
    if watch {
        watch::run(&mut bench, &mut report)?;
    }
    if zeo {
        zeo::run(&bench, &mut report, python.as_deref())?;
    }
    if matches!(what, "all" | "quick") || what.starts_with("etag") {
        let part = match what {
            "etag-quick" => "etag",
            part => part.trim_end_matches("-quick"),
        };
        etag::run(&mut bench, &mut report, part)?;
    }
    report.end(&Path::new(env!("CARGO_MANIFEST_DIR")).join("record"), what)
}
