//! Identifiers and their text forms.
//!
//! Holds one newtype per number with a meaning. `Oid` and `Tid` are the database's, `NodeId`, `Fh` and
//! `Unique` the kernel's, `BlkNo` and `BlkSize` those of a big file. Oid and Tid are written as exactly 16
//! lower-case hex digits; upper case is accepted when parsed, any other length is not.
//!
//! Does not hold the calendar inside a tid: that is `tidtime`.

use std::fmt;

/// Parses exactly 16 hex digits.
fn hex16(text: &[u8]) -> Option<u64> {
    if text.len() != 16 {
        return None;
    }
    text.iter().try_fold(0u64, |n, &c| {
        Some(n << 4 | u64::from((c as char).to_digit(16)?))
    })
}

macro_rules! id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
        #[repr(transparent)]
        pub struct $name(pub u64);

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}({:016x})", stringify!($name), self.0)
            }
        }
    };
}

id! {
    /// Object identifier in ZODB. 0 is the root object.
    Oid
}
id! {
    /// Transaction identifier: names a database state "as of, inclusive", and is a time stamp.
    Tid
}
id! {
    /// The kernel's handle of a node; 1 is the root. `st_ino` shows the same number.
    NodeId
}
id! {
    /// File handle as given in an OPEN reply.
    Fh
}
id! {
    /// The kernel's number of a request.
    Unique
}
id! {
    /// Number of a block inside a big file.
    BlkNo
}
id! {
    /// Bytes in a block of a big file; never 0.
    BlkSize
}

macro_rules! hex_text {
    ($name:ident) => {
        impl $name {
            /// From 16 hex digits, either case; `None` for anything else.
            pub fn parse(text: &[u8]) -> Option<Self> {
                hex16(text).map(Self)
            }

            /// From the 8 big-endian bytes of the database.
            pub fn from_bytes(bytes: [u8; 8]) -> Self {
                Self(u64::from_be_bytes(bytes))
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:016x}", self.0)
            }
        }
    };
}
hex_text!(Oid);
hex_text!(Tid);

impl Tid {
    /// Greatest tid a database can hold: SQL back ends keep tids in signed columns.
    pub const MAX: Self = Self(0x7fff_ffff_ffff_ffff);
    /// Before every transaction.
    pub const ZERO: Self = Self(0);
}

impl NodeId {
    /// Root of a mount.
    pub const ROOT: Self = Self(1);
}

impl fmt::Display for BlkNo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "#{}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_forms_round_trip_and_reject_everything_else() {
        let tid = Tid(0x0404_bfc5_fdad_fd00);
        assert_eq!(tid.to_string(), "0404bfc5fdadfd00");
        assert_eq!(Tid::parse(b"0404bfc5fdadfd00"), Some(tid));
        assert_eq!(Tid::parse(b"0404BFC5FDADFD00"), Some(tid));
        for bad in [
            &b""[..],
            b"0404bfc5fdadfd0",
            b"0404bfc5fdadfd000",
            b"0x04bfc5fdadfd00",
            b"+404bfc5fdadfd00",
        ] {
            assert_eq!(Oid::parse(bad), None, "{bad:?}");
        }
    }
}
