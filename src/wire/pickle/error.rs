//! What can be wrong with a record, and at which byte.

/// Why a record cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PickleError {
    /// The record, or what it inflates to, is longer than allowed.
    #[error("record is longer than {max} bytes")]
    RecordTooLong {
        /// Bytes allowed.
        max: usize,
    },
    /// The zlib stream of a compressed record is damaged or cut.
    #[error("compressed record cannot be inflated")]
    Inflate,
    /// The record ends inside a pickle.
    #[error("record ends inside the pickle that byte {at} is part of")]
    Truncated {
        /// Where more bytes were wanted.
        at: usize,
    },
    /// Bytes follow the second pickle.
    #[error("record goes on at byte {at} after its two pickles")]
    Trailing {
        /// First byte too many.
        at: usize,
    },
    /// A protocol newer than any known.
    #[error("pickle protocol {proto} at byte {at} is unknown")]
    Protocol {
        /// The protocol named.
        proto: u8,
        /// Position of the opcode.
        at: usize,
    },
    /// An opcode that records do not use.
    #[error("opcode {op:#04x} at byte {at} is not accepted")]
    Opcode {
        /// The opcode.
        op: u8,
        /// Its position.
        at: usize,
    },
    /// An opcode wants more values, or another mark, than the stack has.
    #[error("opcode {op:#04x} at byte {at} finds too few values on the stack")]
    Underflow {
        /// The opcode.
        op: u8,
        /// Its position.
        at: usize,
    },
    /// STOP with more than one value, or an open mark.
    #[error("pickle that stops at byte {at} leaves more than one value")]
    Leftover {
        /// Position of STOP.
        at: usize,
    },
    /// The operand of an opcode, on the stack or behind it, has the wrong form.
    #[error("operand of opcode {op:#04x} at byte {at} is malformed")]
    Operand {
        /// The opcode.
        op: u8,
        /// Its position.
        at: usize,
    },
    /// A memo slot that nothing was put in.
    #[error("memo slot {slot} read at byte {at} is empty")]
    MemoEmpty {
        /// The slot.
        slot: usize,
        /// Position of the opcode.
        at: usize,
    },
    /// A memo slot beyond what a record of this length may fill.
    #[error("memo slot {slot} put at byte {at} is beyond the bound")]
    MemoFull {
        /// The slot.
        slot: usize,
        /// Position of the opcode.
        at: usize,
    },
    /// More open marks than allowed.
    #[error("marks are nested too deep at byte {at}")]
    MarkDepth {
        /// Position of the mark.
        at: usize,
    },
    /// More values than allowed on the stack, in containers, or among class names.
    #[error("record holds too many values, found at byte {at}")]
    TooMany {
        /// Position of the opcode that made the last one.
        at: usize,
    },
    /// A reference whose oid has not 8 bytes.
    #[error("reference at byte {at} has an oid that is not 8 bytes")]
    Oid {
        /// Position of the opcode.
        at: usize,
    },
}
