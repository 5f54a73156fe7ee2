//! The one table from refusals to errno.
//!
//! | refusal | errno |
//! |---|---|
//! | a name that is not of the directory's form; no such big file in this view | EINVAL |
//! | an unknown name where names are few | ENOENT |
//! | the database cannot be read, is damaged, or holds what cannot be served | EIO |

use super::name::NameError;
use crate::zodb::ZodbError;

/// Of a name.
pub fn of_name(error: NameError) -> i32 {
    match error {
        NameError::Invalid => libc::EINVAL,
        NameError::Absent => libc::ENOENT,
        NameError::NotDir => libc::ENOTDIR,
    }
}

/// Of a big file that is being looked up.
pub fn of_lookup(error: &ZodbError) -> i32 {
    match error {
        ZodbError::NoObject { .. }
        | ZodbError::NotYetCreated { .. }
        | ZodbError::Deleted { .. }
        | ZodbError::NotBigFile { .. } => libc::EINVAL,
        ZodbError::Corrupt { .. }
        | ZodbError::Dangling { .. }
        | ZodbError::WrongClass { .. }
        | ZodbError::Tree { .. }
        | ZodbError::LongBlock { .. }
        | ZodbError::Chunk { .. }
        | ZodbError::NegativeBlocks { .. }
        | ZodbError::TooBig { .. } => libc::EIO,
    }
}

/// Of a big file that is known already: whatever is wrong with it now is the database's fault.
pub fn of_access(error: &ZodbError) -> i32 {
    match of_lookup(error) {
        libc::EINVAL => libc::EIO,
        errno => errno,
    }
}
