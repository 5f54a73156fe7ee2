//! One line per request, for traces and failed assertions.

use super::request::{Op, Request};
use std::fmt;

impl fmt::Display for Request<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "#{} n{} ", self.unique.0, self.node.0)?;
        match self.op {
            Op::Lookup { name } => write!(f, "LOOKUP {}", name.escape_ascii()),
            Op::Forget { nlookup } => write!(f, "FORGET {nlookup}"),
            Op::BatchForget { list } => write!(f, "BATCH_FORGET of {} nodes", list.len() / 16),
            Op::Getattr => f.write_str("GETATTR"),
            Op::Open { dir, flags } => write!(f, "OPEN{} {flags:#o}", if dir { "DIR" } else { "" }),
            Op::Release { dir, fh } => {
                write!(f, "RELEASE{} {}", if dir { "DIR" } else { "" }, fh.0)
            }
            Op::Read { fh, off, size, .. } => write!(f, "READ fh{} {off}+{size}", fh.0),
            Op::Readdir { off, size } => write!(f, "READDIR {off}+{size}"),
            Op::Write { fh, off, data } => write!(f, "WRITE fh{} {off}+{}", fh.0, data.len()),
            Op::Statfs => f.write_str("STATFS"),
            Op::Interrupt { target } => write!(f, "INTERRUPT #{}", target.0),
            Op::NotifyReply { off, data } => write!(f, "NOTIFY_REPLY {off}+{}", data.len()),
            Op::Init { offer } => {
                write!(f, "INIT {}.{} {:#x}", offer.major, offer.minor, offer.flags)
            }
            Op::Destroy => f.write_str("DESTROY"),
            Op::Other { opcode } => write!(f, "op {opcode}"),
        }
    }
}
