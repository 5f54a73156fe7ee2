//! A request in our hands: a value that is answered once (I6).
//!
//! It says where the request lies, an entry of a ring's queue or a message of `/dev/fuse`; only the port it came from can
//! look into it. It is neither copied nor dropped: a caller would wait for ever.

/// A request that is ours until it is answered: neither copied nor dropped.
#[derive(Debug)]
#[must_use = "a held request has to be answered"]
pub struct Held {
    place: Place,
}

#[derive(Clone, Copy, Debug)]
pub(super) enum Place {
    Entry(u32),
    Message(u32),
}

impl Held {
    pub(super) fn entry(index: u32) -> Self {
        Self {
            place: Place::Entry(index),
        }
    }

    pub(super) fn message(index: u32) -> Self {
        Self {
            place: Place::Message(index),
        }
    }

    pub(super) fn place(&self) -> Place {
        self.place
    }

    pub(super) fn into_place(self) -> Place {
        let place = self.place;
        std::mem::forget(self);
        place
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        assert!(
            std::thread::panicking(),
            "BUG: a held request was dropped unanswered"
        );
    }
}
