//! `zring tree`: what the block table of a big file looks like, and what a commit did to it.
//!
//! The text is that of [`crate::zodb::topology`]. A difference names nodes by oid and blocks by number:
//!
//! ```text
//! - 1f [0, 60) B0:2a,1:2b         a node as it was
//! + 1f [0, 60) B0:2a,1:2c,5:30    and as it is
//! #1 2b -> 2c                     another object holds the block
//! #5 + 30                         a block where there was a hole; `-` the other way round
//! #9 ~ 31                         the same object, changed: itself, or a node or chunk below it
//! ```

use super::args::{Args, Usage};
use super::reader::{self, Database, Reader};
use super::{Failure, Outcome};
use crate::base::limit::RECORD_BYTES_MAX;
use crate::base::{Oid, Tid};
use crate::store::any::AnyView;
use crate::zodb::btree::{Coverage, TreeRef};
use crate::zodb::topology::{Growing, Shape, Topology, TopologyNode};
use crate::zodb::{Entry, Family, Object, ZodbError};
use anyhow::{Context, anyhow};
use lexopt::ValueExt;
use lexopt::prelude::*;
use std::collections::{BTreeMap, HashSet};
use std::fmt;
use std::io::{self, BufWriter, Write};

const HELP: &str = "zring tree ZURL OID [--at TID] [--dot]
zring tree ZURL OID --diff TID1 TID2

Shows the block table of big file OID (or tree OID, or the chunk table of block OID) as of the last transaction, or of
TID: level by level, levels apart by `/`, nodes by `-`. T is an inner node with its separators, B a leaf with its keys
and the oids they lead to.

  --at TID           as of this transaction
  --dot              as a graph for graphviz: zring tree ... --dot | dot -Tsvg
  --diff TID1 TID2   nodes and blocks that differ between two transactions
  --max-record SIZE  largest object record accepted, as the option max_record of mounts [64M]
";

/// `zring tree ...`
pub(super) fn command(args: Args) -> Outcome {
    let (mut dot, mut at, mut diff, mut places) = (false, None, None, Vec::new());
    let mut max = RECORD_BYTES_MAX;
    let mut args = args.parser();
    let wrong = |error| Usage::Argument(error, "tree");
    while let Some(arg) = args.next().map_err(wrong)? {
        match arg {
            Short('h') | Long("help") => {
                print!("{HELP}");
                return Ok(());
            }
            Long("dot") => dot = true,
            Long("max-record") => max = reader::max_record(&mut args).map_err(wrong)?,
            Long("at") => at = Some(tid(&mut args).map_err(wrong)?),
            Long("diff") => {
                let first = tid(&mut args).map_err(wrong)?;
                diff = Some((first, tid(&mut args).map_err(wrong)?));
            }
            Value(value) => places.push(value),
            _ => return Err(wrong(arg.unexpected()).into()),
        }
    }
    let ([zurl, oid], true) = (places.as_slice(), diff.is_none() || (at.is_none() && !dot)) else {
        let (expected, command) = ("a database address and an oid", "tree");
        return Err(Usage::Count { expected, command }.into());
    };
    let oid = Oid::parse(oid.to_string_lossy().as_bytes());
    let oid = oid.ok_or_else(|| Failure::new(2, anyhow!("an oid has 16 hex digits")))?;
    let base = reader::open(&reader::parse(&zurl.to_string_lossy())?, max)?;
    let mut out = BufWriter::new(io::stdout().lock());
    let written = match diff {
        Some((one, two)) => {
            let (old, new) = (within(&base, one)?, within(&base, two)?);
            difference(&mut out, &base, oid, (old.min(new), old.max(new)))
        }
        None => {
            let at = within(&base, at.unwrap_or(base.view.at()))?;
            let topology = topology(&base, oid, at)?;
            let written = if dot {
                graph(&mut out, &topology)
            } else {
                writeln!(out, "{topology}")
            };
            written.map_err(Failure::from)
        }
    };
    match written.and_then(|()| out.flush().map_err(Failure::from)) {
        Err(failure) if is_closed(&failure) => Ok(()), // `zring tree ... | head`
        outcome => outcome,
    }
}

fn is_closed(failure: &Failure) -> bool {
    let error = failure.error.downcast_ref::<io::Error>();
    error.is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
}

fn tid(args: &mut lexopt::Parser) -> Result<Tid, lexopt::Error> {
    args.value()?
        .parse_with(|text| Tid::parse(text.as_bytes()).ok_or("a tid has 16 hex digits"))
}

fn within(base: &Database, at: Tid) -> Result<Tid, Failure> {
    let last = base.view.at();
    if at > last {
        return Err(anyhow!("{at} is beyond the last transaction, {last}").into());
    }
    Ok(at)
}

/// The tree that an oid stands for.
fn tree_of(reader: &mut Reader<'_>, oid: Oid) -> Option<TreeRef> {
    match &*reader.object(oid)? {
        Object::BigFile(file) => Some(file.tree()),
        Object::Tree(tree) => Some(TreeRef {
            root: oid,
            family: tree.family,
        }),
        Object::Blk1 { chunktab } => Some(TreeRef {
            root: *chunktab,
            family: Family::Io,
        }),
        _ => None,
    }
}

fn grow(reader: &mut Reader<'_>, tree: TreeRef) -> Result<Topology, ZodbError> {
    let mut growing = Growing::new(tree);
    reader.run(|ask| growing.step(ask))
}

fn topology(base: &Database, oid: Oid, at: Tid) -> Result<Topology, Failure> {
    let mut reader = base.reader(at);
    let tree = tree_of(&mut reader, oid)
        .with_context(|| format!("{oid} @{at} is no big file, tree or block in chunks"))?;
    Ok(grow(&mut reader, tree)?)
}

fn graph(out: &mut impl Write, topology: &Topology) -> io::Result<()> {
    writeln!(out, "digraph {{\n  node [shape=box, fontname=monospace];")?;
    let (mut first, mut id) = (0, 0);
    for level in &topology.levels {
        let mut child = first + level.len();
        first = child;
        for node in level {
            let oid = Hex(node.oid);
            let name = if node.within { "within " } else { "" };
            writeln!(out, "  n{id} [label=\"{name}{oid}\\n{node}\"];")?;
            if let Shape::Inner(separators) = &node.shape {
                for _ in 0..=separators.len() {
                    writeln!(out, "  n{id} -> n{child};")?;
                    child += 1;
                }
            }
            id += 1;
        }
    }
    writeln!(out, "}}")
}

fn difference(
    out: &mut impl Write,
    base: &Database,
    oid: Oid,
    (old_at, new_at): (Tid, Tid),
) -> Outcome {
    let (mut old, mut new) = (base.reader(old_at), base.reader(new_at));
    let trees = (tree_of(&mut old, oid), tree_of(&mut new, oid));
    if trees == (None, None) {
        return Err(anyhow!("{oid} is no big file, tree or block in chunks, neither time").into());
    }
    let whole = |reader: &mut Reader<'_>, tree: Option<TreeRef>| match tree {
        Some(tree) => grow(reader, tree),
        None => Ok(Topology::default()),
    };
    let was = whole(&mut old, trees.0)?;
    let is = whole(&mut new, trees.1)?;
    // Of a file, what its transactions say; of a server, what made each object.
    let changed = match &base.view {
        AnyView::File(view) => {
            let mut changed = HashSet::new();
            for past in view.history(old_at, new_at) {
                changed.extend(past?.oids.iter().copied());
            }
            Some(changed)
        }
        AnyView::Remote(_) => None,
    };
    let changed = |new: &mut Reader<'_>, oid: Oid| match &changed {
        Some(changed) => changed.contains(&oid),
        None => new.serial(oid).is_none_or(|serial| serial > old_at),
    };
    writeln!(out, "{oid} @{old_at} -> @{new_at}")?;
    if let (Some(Object::BigFile(a)), Some(Object::BigFile(b))) =
        (old.object(oid).as_deref(), new.object(oid).as_deref())
        && a != b
    {
        let (a, b) = (a.blksize.0, b.blksize.0);
        writeln!(out, "another file: block size {a} -> {b}")?;
    }
    nodes(out, &was, &is)?;
    let (was, is): (BTreeMap<_, _>, BTreeMap<_, _>) =
        (was.entries().collect(), is.entries().collect());
    let keys: std::collections::BTreeSet<i64> = was.keys().chain(is.keys()).copied().collect();
    for key in keys {
        match (was.get(&key), is.get(&key)) {
            (Some(a), None) => writeln!(out, "#{key} - {}", Hex(a.oid))?,
            (None, Some(b)) => writeln!(out, "#{key} + {}", Hex(b.oid))?,
            (Some(a), Some(b)) if a.oid != b.oid => {
                writeln!(out, "#{key} {} -> {}", Hex(a.oid), Hex(b.oid))?;
            }
            (Some(a), Some(_)) => {
                if data_changed((&mut old, &mut new), *a, &changed)? {
                    writeln!(out, "#{key} ~ {}", Hex(a.oid))?;
                }
            }
            (None, None) => {}
        }
    }
    Ok(())
}

fn nodes(out: &mut impl Write, was: &Topology, is: &Topology) -> io::Result<()> {
    fn by_oid(topology: &Topology) -> BTreeMap<(Oid, bool), &TopologyNode> {
        let nodes = topology.nodes();
        nodes.map(|node| ((node.oid, node.within), node)).collect()
    }
    let (was, is) = (by_oid(was), by_oid(is));
    let keys: std::collections::BTreeSet<_> = was.keys().chain(is.keys()).copied().collect();
    for key in keys {
        let (a, b) = (was.get(&key), is.get(&key));
        if a == b {
            continue;
        }
        for (sign, node) in [('-', a), ('+', b)] {
            if let Some(node) = node {
                let (oid, cover) = (Hex(node.oid), Keys(node.cover));
                writeln!(out, "{sign} {oid} {cover} {node}")?;
            }
        }
    }
    Ok(())
}

/// Whether what a block consists of changed, its object being the same.
fn data_changed<'a>(
    (old, new): (&mut Reader<'a>, &mut Reader<'a>),
    entry: Entry,
    changed: &impl Fn(&mut Reader<'_>, Oid) -> bool,
) -> Result<bool, ZodbError> {
    if changed(new, entry.oid) {
        return Ok(true);
    }
    for is_old in [true, false] {
        let reader = if is_old { &mut *old } else { &mut *new };
        let Some(Object::Blk1 { chunktab }) = reader.object(entry.oid).as_deref().cloned() else {
            continue;
        };
        let family = Family::Io;
        let chunks = grow(
            reader,
            TreeRef {
                root: chunktab,
                family,
            },
        )?;
        let mut nodes = chunks.nodes().map(|node| node.oid);
        let mut entries = chunks.entries().map(|(_, chunk)| chunk.oid);
        if nodes.any(|oid| changed(new, oid)) || entries.any(|oid| changed(new, oid)) {
            return Ok(true);
        }
        new.drop_data();
    }
    Ok(false)
}

/// An oid without leading zeros.
struct Hex(Oid);

impl fmt::Display for Hex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:x}", self.0.0)
    }
}

/// `[1, 60)`; an end that is not there is left out.
struct Keys(Coverage);

impl fmt::Display for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Coverage { lo: i64::MIN, .. } => f.write_str("[, ")?,
            Coverage { lo, .. } => write!(f, "[{lo}, ")?,
        }
        match self.0.hi {
            Some(hi) => write!(f, "{hi})"),
            None => f.write_str(")"),
        }
    }
}
