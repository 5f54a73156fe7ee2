//! Databases written by Python, as starting points.

use std::collections::BTreeMap;

/// A small database: the newest record of each object, and the oid of its one big file.
pub(crate) struct Sample {
    pub(crate) records: BTreeMap<u64, Vec<u8>>,
    pub(crate) file: u64,
}

/// All samples.
pub(crate) fn samples() -> Vec<Sample> {
    let files = [
        &include_bytes!("../data/records/py2-p1.bin")[..],
        include_bytes!("../data/records/py2-p2.bin"),
        include_bytes!("../data/records/py2-p3.bin"),
        include_bytes!("../data/records/py3-p1.bin"),
        include_bytes!("../data/records/py3-p2.bin"),
        include_bytes!("../data/records/py3-p3.bin"),
    ];
    files.map(sample).into()
}

fn sample(mut rest: &[u8]) -> Sample {
    let mut take = |len: usize| {
        let (head, tail) = rest.split_at(len);
        rest = tail;
        head
    };
    let mut records = BTreeMap::new();
    for _ in 0..u32::from_be_bytes(take(4).try_into().unwrap()) {
        let oid = u64::from_be_bytes(take(8).try_into().unwrap());
        let len = u32::from_be_bytes(take(4).try_into().unwrap());
        records.insert(oid, take(len as usize).to_vec());
    }
    Sample {
        records,
        file: u64::from_be_bytes(take(8).try_into().unwrap()),
    }
}

/// Some records of each sample, to start from: all classes are among them.
pub(crate) fn some_records() -> Vec<Vec<u8>> {
    let mut all = Vec::new();
    for sample in samples() {
        let mut records: Vec<_> = sample.records.into_values().collect();
        // By length: short ones are files and small nodes, long ones blocks and large nodes.
        records.sort_by_key(Vec::len);
        all.extend(records.into_iter().step_by(7));
    }
    all
}

/// What the format is made of.
pub(crate) const WORDS: &[&[u8]] = &[
    b".",
    b"(",
    b"t",
    b"0",
    b"1",
    b"2",
    b"N",
    b")",
    b"]",
    b"}",
    b"a",
    b"e",
    b"s",
    b"u",
    b"Q",
    b"R",
    b"b",
    b"o",
    b"\x81",
    b"\x92",
    b"\x93",
    b"\x94",
    b"\x85",
    b"\x86",
    b"\x87",
    b"\x88",
    b"\x89",
    b"\x80\x03",
    b"\x80\x05",
    b"q\x00",
    b"q\x01",
    b"q\xff",
    b"r\x00\x01\x00\x00",
    b"h\x00",
    b"h\x01",
    b"h\x02",
    b"j\x00\x00\x00\x00",
    b"j\xff\xff\xff\xff",
    b"K\x05",
    b"M\x00\x20",
    b"J\xff\xff\xff\xff",
    b"I12\n",
    b"I01\n",
    b"L9L\n",
    b"\x8a\x01\x07",
    b"\x8b\x00\x00\x00\x80",
    b"G\x7f\xf0\0\0\0\0\0\0",
    b"C\x02ab",
    b"U\x02ab",
    b"B\x02\0\0\0ab",
    b"T\x02\0\0\0ab",
    b"T\xff\xff\xff\xff",
    b"\x8e\x02\0\0\0\0\0\0\0ab",
    b"X\x01\0\0\0w",
    b"\x8c\x01m",
    b"\x8d\x01\0\0\0\0\0\0\0m",
    b"X\x02\0\0\0\xc3\xa9",
    b"\x95\x01\0\0\0\0\0\0\0",
    b"C\x08\0\0\0\0\0\0\0\x07",
    b".\x80\x03",
    b"cBTrees.LOBTree\nLOBTree\n",
    b"cBTrees.LOBTree\nLOBucket\n",
    b"cBTrees.IOBTree\nIOBTree\n",
    b"cwendelin.bigfile.file_zodb\nZBlk0\n",
    b"cwendelin.bigfile.file_zodb\nZBlk1\n",
    b"cwendelin.bigfile.file_zodb\nZData\n",
    b"cwendelin.bigfile.file_zodb\nZBigFile\n",
    b"c_codecs\nencode\n",
    b"X\x06\0\0\0latin1",
    b"cbuiltins\nbytes\n",
    b"iapp\nThing\n",
    b"C\x08\0\0\0\0\0\0\0\x07q\x01h\x00\x86q\x02Q",
    b".z",
];
