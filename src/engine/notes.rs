//! What a worker tells the history, on its way to control: nothing is allocated for it, and nothing waits.
//!
//! Each READ of head leaves a note (I1). They go by a ring that is made once. Control is woken when it is half full, and is mostly much
//! faster; but while it is at a commit it takes none, and then the worker must neither wait nor lose one. What the ring has no room
//! for goes beside it, where it costs an allocation now and then:
//!
//! ```text
//!   worker --ring-----> control       while nothing lies beside it
//!          --beside---> control       from the first that found no room, until control has taken all of these
//! ```
//!
//! So what is in the ring is always older than what lies beside it, and notes are taken in the order in which they were made.
//! One worker sends; whoever is in control's place takes, one at a time ([`super::control::Place`]).

use crate::base::limit;
use crate::fs::track::Note;
use crossbeam_channel::{Receiver, Sender, bounded, unbounded};

const _: () = assert!(size_of::<Note>() <= 56, "64 bytes each, as the limits say");

/// A worker's end.
#[derive(Debug)]
pub struct Notes {
    ring: Sender<Note>,
    beside: Sender<Note>,
}

/// Control's end.
#[derive(Clone, Debug)]
pub struct Noted {
    ring: Receiver<Note>,
    beside: Receiver<Note>,
}

/// The way from one worker to control.
pub(super) fn channel() -> (Notes, Noted) {
    with_room(limit::NOTES_ROOM)
}

fn with_room(room: usize) -> (Notes, Noted) {
    let (ring, beside) = (bounded(room), unbounded());
    let notes = Notes {
        ring: ring.0,
        beside: beside.0,
    };
    let noted = Noted {
        ring: ring.1,
        beside: beside.1,
    };
    (notes, noted)
}

impl Notes {
    /// Sends one. At the end, when nobody takes them any more, it goes nowhere.
    pub(super) fn send(&self, note: Note) {
        let note = match self.beside.is_empty() {
            true => match self.ring.try_send(note) {
                Ok(()) => return,
                Err(error) => error.into_inner(),
            },
            false => note,
        };
        let _ = self.beside.send(note);
    }

    /// Notes that are not taken.
    pub(super) fn len(&self) -> usize {
        self.ring.len() + self.beside.len()
    }
}

impl Noted {
    /// Takes the oldest.
    pub(super) fn next(&self) -> Option<Note> {
        self.next_while(|| {})
    }

    /// The same; `happens` is what may happen once the ring was found empty.
    fn next_while(&self, happens: impl FnOnce()) -> Option<Note> {
        let from_ring = || self.ring.try_recv().ok();
        if let Some(note) = from_ring() {
            return Some(note);
        }
        happens();
        if self.beside.is_empty() {
            return None;
        }
        // The ring may have been filled since. It is not any more while something lies beside it.
        from_ring().or_else(|| self.beside.try_recv().ok())
    }

    /// Notes that are not taken.
    pub(super) fn len(&self) -> usize {
        self.ring.len() + self.beside.len()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "tests")]
    use super::*;

    fn number(note: Note) -> u64 {
        match note {
            Note::Taken(number) => number,
            other => unreachable!("nobody notes {other:?}"),
        }
    }

    #[test]
    fn what_the_ring_has_no_room_for_is_taken_after_it() {
        let (notes, noted) = with_room(3);
        (0..5).for_each(|n| notes.send(Note::Taken(n)));
        assert_eq!((notes.ring.len(), notes.len(), noted.len()), (3, 5, 5));
        let take = || noted.next().map(number);
        assert_eq!([take(), take()], [Some(0), Some(1)]);
        // There is room again, but older ones lie beside it.
        notes.send(Note::Taken(5));
        assert_eq!([take(), take(), take(), take()], [2, 3, 4, 5].map(Some));
        assert_eq!((take(), noted.len()), (None, 0));
        notes.send(Note::Taken(6));
        assert_eq!((notes.ring.len(), take()), (1, Some(6)));
    }

    #[test]
    fn a_ring_that_is_filled_while_it_is_looked_for_more_comes_first() {
        let (notes, noted) = with_room(2);
        let first = noted.next_while(|| (0..5).for_each(|n| notes.send(Note::Taken(n))));
        let rest = std::iter::from_fn(|| noted.next());
        let all: Vec<_> = first.into_iter().chain(rest).map(number).collect();
        assert_eq!(all, [0, 1, 2, 3, 4]);
    }

    /// A ring so small that it is full all the time, and one that takes now fast and now slowly.
    #[test]
    fn notes_are_taken_in_the_order_in_which_they_were_made() {
        const ALL: u64 = 300_000;
        for room in [1, 2, 7, 64] {
            let (notes, noted) = with_room(room);
            let sender = std::thread::spawn(move || {
                (0..ALL).for_each(|n| notes.send(Note::Taken(n)));
            });
            let mut next = 0;
            while next < ALL {
                match noted.next() {
                    Some(note) => {
                        assert_eq!(number(note), next, "room {room}");
                        next += 1;
                    }
                    None => std::thread::yield_now(),
                }
                if next % 1000 < 3 {
                    std::thread::yield_now();
                }
            }
            sender.join().unwrap();
            assert_eq!(noted.len(), 0);
        }
    }
}
