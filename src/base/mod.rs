//! Words of the domain: identifiers, revisions, bounds. Standard library only.
//!
//! Every other room speaks in these types; no bare `u64` crosses a room.

pub mod blkmap;
pub mod id;
pub mod keymap;
pub mod limit;
pub mod rev;
pub mod span;
pub mod tidtime;
pub mod witness;

pub use id::{BlkNo, BlkSize, Fh, NodeId, Oid, Tid, Unique};
pub use rev::Rev;
pub use witness::{Algo, Digest, Stamp, Witness};
