//! The reader of records.

use crate::{mutate, samples};
use bytes::Bytes;
use zring::wire::pickle::{
    Class, RAW_PREFIX_BYTES, Record, Value, plain, raw_bytes, read_class, read_record,
};

/// Holds what must be true of any record; whether it could be read.
fn check(input: &[u8]) -> bool {
    let bytes = Bytes::copy_from_slice(input);
    if let Ok(inflated) = plain(bytes.clone(), 1 << 20) {
        assert!(inflated.len() <= 1 << 20);
    }
    let class = read_class(&bytes);
    let record = read_record(&bytes);
    let raw = raw_bytes(&bytes[..bytes.len().min(RAW_PREFIX_BYTES)], bytes.len())
        .filter(|raw| raw.tail_is_valid(&bytes[raw.data_offset + raw.data_len..]));
    let Ok(record) = record else {
        assert!(
            raw.is_none(),
            "the short cut accepts what the machine refuses"
        );
        return false;
    };
    match class.expect("a record that can be read has a class that can be") {
        Class::Named(class) => assert_eq!(record.class(), Some(class)),
        Class::Unknown => assert_eq!(record.class(), None),
    }
    if let Some(raw) = raw {
        assert_eq!(record.class(), Some(raw.class));
        let Value::Bytes(blob) = record.state() else {
            panic!("{record:?}")
        };
        assert_eq!(record.bytes(blob), bytes[raw.data_offset..][..raw.data_len]);
    }
    assert!(format!("{record:?}").len() < 10_000);
    visit(&record);
    // What follows the second pickle is refused, and so is a record without its end.
    assert!(read_record(&bytes.slice(..bytes.len() - 1)).is_err());
    assert!(read_record(&Bytes::from([input, b"N"].concat())).is_err());
    true
}

/// Touches what the state refers to, as far as a budget lasts: sharing can make it endless.
fn visit(record: &Record) {
    let mut rest = vec![record.state()];
    for _ in 0..2000 {
        match rest.pop() {
            None => return,
            Some(Value::Tuple(items)) => rest.extend(record.tuple(items).iter().take(100)),
            Some(Value::List(list) | Value::Dict(list)) => {
                rest.extend(record.list(list).iter().take(100));
            }
            Some(Value::Bytes(blob)) => drop(record.bytes(blob)),
            Some(Value::Text(text)) => drop(record.text(text)),
            Some(Value::Global(id) | Value::Ref(_, Some(id))) => {
                drop(record.global(id).to_string())
            }
            Some(value) => drop(value.kind().to_string()),
        }
    }
}

#[test]
fn pickle() {
    let inputs = mutate::corpus("pickle", samples::some_records());
    mutate::run("pickle", &inputs, samples::WORDS, check);
}

/// Large records made to use as much memory as they can; each is refused or read within the bound.
#[test]
fn memory() {
    const LEN: usize = 48 << 20;
    let words: [(&[u8], &[u8]); 12] = [
        (b"N", b"\x85"),
        (b"N", b"2\x86"),
        (b"N", b"2"),
        (b"N", b"\x94"),
        (b"", b"]Na0"),
        (b"]", b"(NNNNNNNNe"),
        (b"", b"h\x00"),
        (b"", b"(ia\nb\n0"),
        (b"", b"ca\nb\n0"),
        (
            b"c_codecs\nencode\nq\x01X\x06\0\0\0latin1q\x02",
            b"h\x01h\x02h\x02\x86R0",
        ),
        (b"C\x08\0\0\0\0\0\0\0\x07h\x00\x86", b"2Q0"),
        (b"Nr\xff\xff\x3f\x00", b"2"),
    ];
    for (head, word) in words {
        let mut bytes = Vec::with_capacity(LEN + 100);
        bytes.extend_from_slice(b"cm\nC\nq\x00.");
        bytes.extend_from_slice(head);
        while bytes.len() < LEN {
            bytes.extend_from_slice(word);
        }
        bytes.push(b'.');
        drop(read_record(&Bytes::from(bytes)));
    }
    // The input; stack, memo, items and lists at their bounds, 16 MiB and three times 64 MiB.
    let peak = mutate::memory_peak();
    println!("peak {} MiB", peak >> 20);
    assert!(peak < 300 << 20, "peak {peak}");
}
