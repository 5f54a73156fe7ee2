//! ZEO, the protocol of ZODB's own server: frames, calls, and what comes back.
//!
//! ```text
//!   frame    = length u32 BE, payload                   both directions
//!   server  -> greeting      payload is `Z5` or `M5`: a letter of encoding, and a version
//!   client  -> choice        the same form
//!   then     = tuple of four: msgid, flag, method, args
//!
//!   call          n > 0   False  name       tuple
//!   reply         n       0      `.reply`   result
//!   error         n       2      `.reply`   (class name, tuple or dict)
//!   push          0       True   name       tuple
//!   keep-alive    -1      0      `.reply`   None
//! ```
//!
//! `Z` is pickle, `M` msgpack. Version 5 is spoken by ZEO 5 and 6; older ones are told from it and refused.
//!
//! What a reply means depends on the call it answers: [`Answer`] has a method for each. A server may be hostile: a length is
//! compared with a bound before anything is reserved, and memory is taken as bytes arrive. Nothing in a pickle is resolved.
//!
//! Read `frame` (bytes to payloads), `message` (what a payload says), `call` (what is sent); `tree` is what both encodings
//! decode to, `msgpack` one of them.

mod call;
mod frame;
mod message;
mod msgpack;
mod tree;

pub use call::{Arg, Call, encode};
pub use frame::{Frame, FrameError, Frames, LENGTH_BYTES, SKIPPED_HEAD_BYTES};
pub use message::{
    Answer, History, Message, Push, Refusal, Request, Revision, Stored, Word, number_of,
};

use crate::wire::pickle::PickleError;

/// How payloads are encoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Encoding {
    /// `Z`
    Pickle,
    /// `M`
    Msgpack,
}

/// The only version there is.
const VERSION: &[u8] = b"5";

impl Encoding {
    fn letter(self) -> u8 {
        match self {
            Self::Pickle => b'Z',
            Self::Msgpack => b'M',
        }
    }

    /// What a server announces.
    ///
    /// # Errors
    /// It is no ZEO server, or one of another version.
    pub fn of_greeting(payload: &[u8]) -> Result<Self, ZeoError> {
        match payload.split_first() {
            Some((b'Z', VERSION)) => Ok(Self::Pickle),
            Some((b'M', VERSION)) => Ok(Self::Msgpack),
            Some((b'Z' | b'M', version))
                if (1..=8).contains(&version.len()) && version.iter().all(u8::is_ascii_digit) =>
            {
                Err(ZeoError::Version(
                    String::from_utf8_lossy(version).into_owned(),
                ))
            }
            _ => Err(ZeoError::NotZeo),
        }
    }

    /// The frame of a greeting, or of the choice that answers it.
    pub fn greeting(self) -> Vec<u8> {
        let mut out = vec![0, 0, 0, 2, self.letter()];
        out.extend_from_slice(VERSION);
        out
    }
}

/// Why a payload cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ZeoError {
    /// The first words are of something else.
    #[error("the server does not greet as a ZEO server does")]
    NotZeo,
    /// A server older or newer than those that are known.
    #[error(
        "the server speaks version {0} of the ZEO protocol; version 5 is needed (ZEO 5 and later)"
    )]
    Version(String),
    /// A pickle that is none.
    #[error("a message cannot be read: {0}")]
    Pickle(#[from] PickleError),
    /// A msgpack value that is cut, of an unknown kind, or nested too deep.
    #[error("a message cannot be read: msgpack, byte {at}")]
    Msgpack {
        /// Position.
        at: usize,
    },
    /// A message with more values than allowed.
    #[error("a message holds too many values")]
    TooMany,
    /// Not a tuple of four with a number, a flag and a name.
    #[error("a message is not of the form (number, flag, name, arguments)")]
    Form,
    /// The arguments of a push are not what its name promises.
    #[error("the arguments of {0} have another form")]
    Push(&'static str),
    /// A result that its call does not have.
    #[error("the result of {0} has another form")]
    Result(&'static str),
}
