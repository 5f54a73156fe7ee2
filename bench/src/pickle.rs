//! Object records as Python 3 writes them (protocol 3): what decoding costs depends on every opcode.
//!
//! The pickler of Python numbers whatever it memoises, also what it never uses again; so do we.

/// A class, by module and name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Class(pub &'static str, pub &'static str);

/// The classes of big files.
pub mod class {
    use super::Class;
    pub const ROOT: Class = Class("persistent.mapping", "PersistentMapping");
    pub const BIGFILE: Class = Class("wendelin.bigfile.file_zodb", "ZBigFile");
    pub const BLK0: Class = Class("wendelin.bigfile.file_zodb", "ZBlk0");
    pub const BLK1: Class = Class("wendelin.bigfile.file_zodb", "ZBlk1");
    pub const DATA: Class = Class("wendelin.bigfile.file_zodb", "ZData");
    pub const LO_TREE: Class = Class("BTrees.LOBTree", "LOBTree");
    pub const LO_BUCKET: Class = Class("BTrees.LOBTree", "LOBucket");
    pub const IO_TREE: Class = Class("BTrees.IOBTree", "IOBTree");
    pub const IO_BUCKET: Class = Class("BTrees.IOBTree", "IOBucket");
}

/// A record being written: two pickles with one memo.
#[derive(Debug)]
pub struct Record {
    out: Vec<u8>,
    memo: u32,
    classes: Vec<(Class, u32)>,
}

impl Record {
    /// Begins the record of an object of `class`.
    pub fn new(class: Class) -> Self {
        let mut record = Self {
            out: b"\x80\x03".to_vec(),
            memo: 0,
            classes: Vec::new(),
        };
        record.class(class);
        record.out.extend_from_slice(b".\x80\x03");
        record
    }

    /// The same for a large state.
    pub fn with_room(class: Class, bytes: usize) -> Self {
        let mut record = Self::new(class);
        record.out.reserve_exact(bytes + 16);
        record
    }

    fn memoise(&mut self) -> u32 {
        let slot = self.memo;
        match u8::try_from(slot) {
            Ok(slot) => self.out.extend_from_slice(&[b'q', slot]),
            Err(_) => {
                self.out.push(b'r');
                self.out.extend_from_slice(&slot.to_le_bytes());
            }
        }
        self.memo += 1;
        slot
    }

    fn class(&mut self, class: Class) {
        if let Some(&(_, slot)) = self.classes.iter().find(|(c, _)| *c == class) {
            match u8::try_from(slot) {
                Ok(slot) => self.out.extend_from_slice(&[b'h', slot]),
                Err(_) => {
                    self.out.push(b'j');
                    self.out.extend_from_slice(&slot.to_le_bytes());
                }
            }
            return;
        }
        self.out
            .extend_from_slice(format!("c{}\n{}\n", class.0, class.1).as_bytes());
        let slot = self.memoise();
        self.classes.push((class, slot));
    }

    /// `None`
    pub fn none(&mut self) {
        self.out.push(b'N');
    }

    /// An integer that is not negative.
    pub fn int(&mut self, n: u64) {
        match (u8::try_from(n), u16::try_from(n), u32::try_from(n)) {
            (Ok(n), _, _) => self.out.extend_from_slice(&[b'K', n]),
            (_, Ok(n), _) => {
                self.out.push(b'M');
                self.out.extend_from_slice(&n.to_le_bytes());
            }
            (_, _, Ok(n)) if i32::try_from(n).is_ok() => {
                self.out.push(b'J');
                self.out.extend_from_slice(&n.to_le_bytes());
            }
            _ => {
                self.out.extend_from_slice(&[0x8a, 8]);
                self.out.extend_from_slice(&n.to_le_bytes());
            }
        }
    }

    /// Bytes.
    pub fn bytes(&mut self, data: &[u8]) {
        match u8::try_from(data.len()) {
            Ok(len) => self.out.extend_from_slice(&[b'C', len]),
            Err(_) => {
                let len = u32::try_from(data.len()).expect("a block has fewer bytes");
                self.out.push(b'B');
                self.out.extend_from_slice(&len.to_le_bytes());
            }
        }
        self.out.extend_from_slice(data);
        self.memoise();
    }

    /// Text of less than 256 bytes.
    pub fn text(&mut self, text: &str) {
        let len = u32::try_from(text.len()).expect("a name is short");
        self.out.push(b'X');
        self.out.extend_from_slice(&len.to_le_bytes());
        self.out.extend_from_slice(text.as_bytes());
        self.memoise();
    }

    /// A reference to another object.
    pub fn reference(&mut self, oid: u64, class: Class) {
        self.bytes(&oid.to_be_bytes());
        self.class(class);
        self.out.push(0x86);
        self.memoise();
        self.out.push(b'Q');
    }

    /// Begins a tuple of more than three.
    pub fn mark(&mut self) {
        self.out.push(b'(');
    }

    /// Ends it.
    pub fn tuple_from_mark(&mut self) {
        self.out.push(b't');
        self.memoise();
    }

    /// A tuple of the last `n`, 1 to 3.
    pub fn tuple(&mut self, n: u8) {
        debug_assert!((1..=3).contains(&n));
        self.out.push(0x84 + n);
        self.memoise();
    }

    /// An empty dictionary.
    pub fn dict(&mut self) {
        self.out.push(b'}');
        self.memoise();
    }

    /// Puts the last two, key and value, into the dictionary before them.
    pub fn set_item(&mut self) {
        self.out.push(b's');
    }

    /// The record.
    pub fn finish(mut self) -> Vec<u8> {
        self.out.push(b'.');
        self.out
    }
}
