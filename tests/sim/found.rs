//! What runs found in `fs::history`, each as the order of events that it came from.

use std::collections::VecDeque;
use std::sync::Arc;
use zring::base::{BlkSize, NodeId, Oid, Tid};
use zring::fs::advance::{Change, Changed};
use zring::fs::cache::Kept;
use zring::fs::history::{self, Effect, Failed, History, Passing, Why};
use zring::fs::states::Known;
use zring::fs::track::Note;
use zring::tail::States;
use zring::zodb::need::{Absent, Lookup};
use zring::zodb::write;
use zring::zodb::{BigFile, decode};

const FILE: Oid = Oid(1);
const OLD: NodeId = NodeId(70);
const NEW: NodeId = NodeId(71);

/// A database with one file, whose table is another one at each state.
#[derive(Debug)]
struct Source {
    notes: Vec<VecDeque<Note>>,
    known: Known,
    fails: bool,
}

fn table(at: Tid) -> Oid {
    Oid(100 + at.0)
}

impl States for Source {
    fn get(&self, at: Tid, oid: Oid) -> Lookup<'_> {
        self.known.get(at, oid)
    }
}

impl history::Source for Source {
    type Error = ();

    fn next_note(&mut self, worker: usize) -> Option<Note> {
        self.notes[worker].pop_front()
    }

    fn known(&mut self) -> &mut Known {
        &mut self.known
    }

    fn head(&self) -> Tid {
        Tid(2)
    }

    fn load(&mut self, at: Tid, oid: Oid) -> Result<Kept<()>, ()> {
        if self.fails {
            return Err(());
        }
        Ok(match oid {
            FILE => {
                let record = write::bigfile(BlkSize(4096), table(at));
                Kept::Object(Arc::new(decode(record.into()).unwrap()), at)
            }
            _ => Kept::Absent(Absent::NoObject),
        })
    }
}

/// Head is 1; two workers.
fn history() -> History<Source> {
    let source = Source {
        notes: vec![VecDeque::new(); 2],
        known: Known::new(Tid(1), 9999),
        fails: false,
    };
    History::new(Tid(1), 2, source)
}

fn note(history: &mut History<Source>, worker: usize, note: Note) {
    history.source().notes[worker].push_back(note);
}

/// A node of the file, as of a state.
fn file(node: NodeId, at: u64) -> Note {
    let (blksize, blktab) = (BlkSize(4096), table(Tid(at)));
    let file = BigFile { blksize, blktab };
    let oid = FILE;
    Note::File { node, oid, file }
}

fn look(history: &mut History<Source>, number: u64) -> Result<Effect, Failed<()>> {
    let (tid, oids) = (Tid(number + 1), Some([FILE].into()));
    history.look(Passing { number, tid, oids })
}

fn whole(node: NodeId) -> [Change; 1] {
    let what = Changed::Whole;
    [Change { node, what }]
}

/// The kernel forgot a node and looked the name up again. The worker that told of the old one is heard after the one that told
/// of the new one: what changed of the file was dropped of the old node, or of none.
#[test]
fn a_node_that_is_told_of_late_does_not_replace_a_newer_one() {
    let mut history = history();
    note(&mut history, 0, file(NEW, 1));
    note(&mut history, 1, file(OLD, 1));
    history.take_notes();
    history.forgotten(&[OLD]);
    assert_eq!((history.node(FILE), history.oid(OLD)), (Some(NEW), None));
    assert_eq!(look(&mut history, 1).unwrap().changes, whole(NEW));
}

/// A file became another one, which is found when every worker has that state. Its node is that of the old state: the one that
/// was made of the new state stays, or its pages would be there when nobody drops them any more.
#[test]
fn an_epoch_that_is_found_late_names_the_node_of_the_old_state() {
    let mut history = history();
    assert!(look(&mut history, 1).unwrap().changes.is_empty());
    note(&mut history, 0, file(OLD, 1));
    for worker in [0, 1] {
        note(&mut history, worker, Note::Taken(1));
    }
    note(&mut history, 0, file(NEW, 2));
    let effect = history.pass().unwrap();
    assert_eq!(effect.changes, whole(OLD));
    let [lost] = &effect.lost[..] else {
        panic!("one file is lost, not {:?}", effect.lost)
    };
    assert!(matches!(lost.why, Why::Epoch) && lost.node == Some(OLD));
    assert_eq!(history.node(FILE), Some(NEW));
}

/// The database failed when every worker had the state. They know of nothing, and go on answering from what they know of the
/// file: its size, of which there is no note any more. The next transaction has to take that back, whatever it changes.
#[test]
fn what_is_found_lost_late_goes_with_the_next_state() {
    let mut history = history();
    assert!(look(&mut history, 1).unwrap().changes.is_empty());
    note(&mut history, 0, file(NEW, 1));
    for worker in [0, 1] {
        note(&mut history, worker, Note::Taken(1));
    }
    history.source().fails = true;
    let Err(Failed { effect, .. }) = history.pass() else {
        panic!("it cannot tell")
    };
    assert_eq!(effect.changes, whole(NEW));
    history.source().fails = false;
    assert!(
        history.has_astray(),
        "a state is published for it, if nothing else comes"
    );
    let (number, tid, oids) = (2, Tid(3), Some([].into()));
    let next = history.look(Passing { number, tid, oids }).unwrap();
    assert_eq!(next.changes, whole(NEW));
    assert_eq!(history.anew(), [NEW]);
    history.pass().unwrap();
    assert!(!history.has_astray());
}
