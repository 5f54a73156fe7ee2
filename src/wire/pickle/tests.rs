//! Examples by hand, records of every flavour, and hostile input.
#![allow(clippy::unwrap_used, reason = "tests")]

use super::*;
use crate::base::Oid;
use crate::base::limit::{PICKLE_LISTS_MAX, PICKLE_MARK_DEPTH_MAX};
use bytes::Bytes;

const CLASS: &[u8] = b"cm\nC\nq\x00.";

/// A record of class m.C with this state.
fn record(state: &[u8]) -> Result<Record, PickleError> {
    read_record(&Bytes::from([CLASS, state].concat()))
}

/// Text form of a value, to a depth: enough for examples, safe for anything.
fn show(record: &Record, value: Value, depth: usize) -> String {
    let all = |items: &[Value]| {
        let items = items.iter().take(9).map(|&v| show(record, v, depth - 1));
        items.collect::<Vec<_>>().join(" ")
    };
    match value {
        _ if depth == 0 => "..".into(),
        Value::Int(n) => n.to_string(),
        Value::Bool(b) => b.to_string(),
        Value::Float(x) => x.to_string(),
        Value::Bytes(blob) => format!("b'{}'", record.bytes(blob).escape_ascii()),
        Value::Text(span) => format!("{:?}", record.text(span)),
        Value::Tuple(items) => format!("({})", all(record.tuple(items))),
        Value::List(list) => format!("[{}]", all(record.list(list))),
        Value::Dict(list) => format!("{{{}}}", all(record.list(list))),
        Value::Global(id) => record.global(id).to_string(),
        Value::Ref(oid, class) => {
            let class = class.map_or("?".into(), |id| record.global(id).to_string());
            format!("@{:x}:{class}", oid.0)
        }
        Value::Inert(inert) => format!("{inert:?}"),
        Value::None | Value::BigInt(_) | Value::Opaque => format!("{:?}", value.kind()),
    }
}

fn shown(state: &[u8]) -> String {
    match record(state) {
        Ok(record) => show(&record, record.state(), 6),
        Err(error) => format!("{error:?}"),
    }
}

#[test]
fn scalars() {
    for (state, want) in [
        (&b"N."[..], "None"),
        (b"\x80\x03K\x07.", "7"),
        (b"M\x00\x20.", "8192"),
        (b"J\xff\xff\xff\xff.", "-1"),
        (b"I01\n.", "true"),
        (b"I00\n.", "false"),
        (b"I1\n.", "1"),
        (b"I-9223372036854775808\n.", "-9223372036854775808"),
        (b"I9223372036854775808\n.", "BigInt"),
        (b"L4294967296L\n.", "4294967296"),
        (b"\x8a\x00.", "0"),
        (b"\x8a\x01\xff.", "-1"),
        (b"\x8a\x05\x00\x00\x00\x00\x01.", "4294967296"),
        (b"\x8a\x09\xff\xff\xff\xff\xff\xff\xff\xff\x00.", "BigInt"),
        (
            b"\x8a\x09\xff\xff\xff\xff\xff\xff\xff\x7f\x00.",
            "9223372036854775807",
        ),
        (b"\x8a\x0a\xfe\xff\xff\xff\xff\xff\xff\xff\xff\xff.", "-2"),
        (b"\x8a\x09\xff\xff\xff\xff\xff\xff\xff\x7f\xff.", "BigInt"),
        (b"\x8b\x02\x00\x00\x00\x00\x80.", "-32768"),
        (b"G\x3f\xf8\x00\x00\x00\x00\x00\x00.", "1.5"),
        (b"\x88.", "true"),
        (b"C\x02ab.", "b'ab'"),
        (b"B\x02\x00\x00\x00ab.", "b'ab'"),
        (b"U\x02\xff\x00.", "b'\\xff\\x00'"),
        (b"T\x02\x00\x00\x00ab.", "b'ab'"),
        (b"\x8e\x02\x00\x00\x00\x00\x00\x00\x00ab.", "b'ab'"),
        (b"X\x02\x00\x00\x00\xc3\xa9.", "Some(\"\u{e9}\")"),
        (b"\x8c\x01\xff.", "None"),
        (b"\x95\x02\x00\x00\x00\x00\x00\x00\x00K\x01.", "1"),
        (b"K\x01K\x020.", "1"),
        (b"K\x01(K\x02K\x031.", "1"),
        (b"K\x01(0.", "1"),
    ] {
        assert_eq!(shown(state), want, "{}", state.escape_ascii());
    }
}

#[test]
fn containers_references_and_calls() {
    for (state, want) in [
        (&b")."[..], "()"),
        (b"K\x01K\x02\x86\x85.", "((1 2))"),
        (b"(K\x01)K\x02t.", "(1 () 2)"),
        (b"]q\x01K\x01a(K\x02K\x03eh\x01\x86.", "([1 2 3] [1 2 3])"),
        (b"}K\x01Ns(K\x02NK\x03Nu.", "{1 None 2 None 3 None}"),
        (b"2.", "Underflow { op: 50, at: 8 }"),
        (b"K\x012\x86.", "(1 1)"),
        (b"K\x05\x94h\x01\x86.", "(5 5)"),
        (b"C\x08\0\0\0\0\0\0\0\x0bq\x01cmod\nK\n\x86Q.", "@b:mod.K"),
        (b"U\x08\0\0\0\0\0\0\0\x0bh\x00\x86Q.", "@b:m.C"),
        (b"C\x08\0\0\0\0\0\0\0\x0bQ.", "@b:?"),
        (b"X\x08\0\0\0\0\0\0\0\0\0\0\x0bQ.", "@b:?"),
        (
            b"C\x08\0\0\0\0\0\0\0\x0bX\x01\0\0\0mU\x01K\x86\x86Q.",
            "@b:m.K",
        ),
        (b"](X\x01\0\0\0wC\x08\0\0\0\0\0\0\0\x0b\x85eQ.", "Weak"),
        (
            b"](U\x01nC\x02dbC\x08\0\0\0\0\0\0\0\x0b\x86eQ.",
            "OtherDatabase",
        ),
        (b"]C\x08\0\0\0\0\0\0\0\x0baQ.", "Weak"),
        (b"K\x01Q.", "Odd"),
        (b"C\x07\0\0\0\0\0\0\0Q.", "Oid { at: 17 }"),
        (
            b"c_codecs\nencode\nX\x03\0\0\0a\xc3\xa9X\x06\0\0\0latin1\x86R.",
            "b'a\\xe9'",
        ),
        (
            b"c_codecs\nencode\nX\x03\0\0\0\xe2\x82\xacX\x06\0\0\0latin1\x86R.",
            "Opaque",
        ),
        (
            b"c_codecs\nencode\nX\x01\0\0\0aX\x05\0\0\0utf-8\x86R.",
            "Opaque",
        ),
        (b"c__builtin__\nbytes\n)R.", "b''"),
        (b"cbuiltins\nbytes\n)R.", "b''"),
        (b"cos\nsystem\nX\x02\0\0\0ls\x85R.", "Opaque"),
        (b"h\x00)\x81}b.", "Opaque"),
        (b"h\x00)}\x92.", "Opaque"),
        (b"(ios\nsystem\n.", "Opaque"),
        (b"(h\x00o.", "Opaque"),
        (b"h\x00)RK\x01a(K\x02eK\x01K\x02s.", "Opaque"),
        (b"X\x01\0\0\0mX\x01\0\0\0n\x93.", "m.n"),
    ] {
        assert_eq!(shown(state), want, "{}", state.escape_ascii());
    }
}

#[test]
fn what_is_refused() {
    let at = CLASS.len();
    for (state, want) in [
        (&b""[..], PickleError::Truncated { at }),
        (b".", PickleError::Underflow { op: b'.', at }),
        (b"NN.", PickleError::Leftover { at: at + 2 }),
        (b"N(.", PickleError::Leftover { at: at + 2 }),
        (b"N.N", PickleError::Trailing { at: at + 2 }),
        (b"\x80\x06N.", PickleError::Protocol { proto: 6, at }),
        (b"\x82\x01.", PickleError::Opcode { op: 0x82, at }),
        (b"Pabc\n.", PickleError::Opcode { op: b'P', at }),
        (b"S'abc'\n.", PickleError::Opcode { op: b'S', at }),
        (b"\x97.", PickleError::Opcode { op: 0x97, at }),
        (b"g0\n.", PickleError::Opcode { op: b'g', at }),
        (b"h\x07.", PickleError::MemoEmpty { slot: 7, at }),
        (
            b"Nr\xff\xff\xff\xff.",
            PickleError::MemoFull {
                slot: 0xffff_ffff,
                at: at + 1,
            },
        ),
        (
            b"N(\x85.",
            PickleError::Underflow {
                op: 0x85,
                at: at + 2,
            },
        ),
        (
            b"Nt.",
            PickleError::Underflow {
                op: b't',
                at: at + 1,
            },
        ),
        (
            b"NNa.",
            PickleError::Operand {
                op: b'a',
                at: at + 2,
            },
        ),
        (
            b"}(Nu.",
            PickleError::Operand {
                op: b'u',
                at: at + 3,
            },
        ),
        (b"I12", PickleError::Truncated { at }),
        (b"I\n.", PickleError::Operand { op: b'I', at }),
        (b"I0x10\n.", PickleError::Operand { op: b'I', at }),
        (b"B\xff\xff\xff\xffab.", PickleError::Truncated { at }),
        (
            b"T\xff\xff\xff\xffab.",
            PickleError::Operand { op: b'T', at },
        ),
        (
            b"\x8e\xff\xff\xff\xff\xff\xff\xff\xff.",
            PickleError::Truncated { at },
        ),
        (
            b"\x95\xff\xff\xff\xff\xff\xff\xff\xffN.",
            PickleError::Truncated { at },
        ),
    ] {
        assert_eq!(record(state).unwrap_err(), want, "{}", state.escape_ascii());
    }
    let long = [&b"I"[..], &[b'1'; 1025], b"\n."].concat();
    assert_eq!(
        record(&long).unwrap_err(),
        PickleError::Operand { op: b'I', at }
    );
}

#[test]
fn class_forms() {
    for (class, want) in [
        (&b"cm\nC\n."[..], "m.C"),
        (b"\x80\x03cm\nC\nq\x00)\x86.", "m.C"),
        (b"cm\nC\nN\x86.", "m.C"),
        (b"X\x01\0\0\0mX\x01\0\0\0C\x86N\x86.", "m.C"),
        (b"(U\x01mU\x01Ct)\x86.", "m.C"),
        (b"\x8c\x01m\x8c\x01C\x93\x94.", "m.C"),
        (b"C\x08\0\0\0\0\0\0\0\x0bQ.", ""),
        (b"X\x01\0\0\0mX\x01\0\0\0C\x86.", ""),
        (b"N.", ""),
        (b"cm\nC\n)R.", ""),
    ] {
        let bytes = Bytes::from([class, b"N."].concat());
        let text = match read_class(&bytes).unwrap() {
            Class::Named(class) => class.to_string(),
            Class::Unknown => String::new(),
        };
        assert_eq!(text, want, "{}", class.escape_ascii());
        let whole = read_record(&bytes).unwrap();
        assert_eq!(
            whole
                .class()
                .map_or(String::new(), |class| class.to_string()),
            want
        );
    }
    assert!(read_class(b"").is_err() && read_class(b".z").is_err());
}

#[test]
fn the_memo_outlives_the_first_pickle() {
    assert_eq!(shown(b"h\x00."), "m.C");
}

#[test]
fn bytes_are_slices_of_the_record() {
    let bytes = Bytes::from([CLASS, b"C\x03abc."].concat());
    let record = read_record(&bytes).unwrap();
    let Value::Bytes(blob) = record.state() else {
        panic!("{record:?}")
    };
    let data = record.bytes(blob);
    let offset = data.as_ptr() as usize - bytes.as_ptr() as usize;
    assert_eq!((offset, &data[..]), (CLASS.len() + 2, &b"abc"[..]));
}

#[test]
fn bombs_stay_small() {
    // Nesting: a million tuples in tuples.
    let deep = [&b"N"[..], &vec![0x85; 1_000_000], b"."].concat();
    let deep = record(&deep).unwrap();
    assert!(format!("{deep:?}").len() < 200);
    drop(deep);
    // Sharing: 2^10000 leaves.
    let mut dag = b"N".to_vec();
    (0..10_000).for_each(|_| dag.extend_from_slice(b"2\x86"));
    dag.push(b'.');
    let dag = record(&dag).unwrap();
    assert_eq!(dag.heap.items.len(), 20_000);
    // A list that holds itself.
    assert_eq!(shown(b"]q\x01h\x01a."), "[[[[[[..]]]]]]");
    // Marks, lists, stack, items.
    let marks = [vec![b'('; PICKLE_MARK_DEPTH_MAX + 1], b"N.".to_vec()].concat();
    let at = CLASS.len() + PICKLE_MARK_DEPTH_MAX;
    assert_eq!(record(&marks).unwrap_err(), PickleError::MarkDepth { at });
    let lists = [b"]0".repeat(PICKLE_LISTS_MAX + 1), b"N.".to_vec()].concat();
    assert!(matches!(record(&lists), Err(PickleError::TooMany { .. })));
    assert!(matches!(
        record(&vec![b'N'; 2 << 20]),
        Err(PickleError::TooMany { .. })
    ));
    let items = [b"N".to_vec(), vec![0x85; 5 << 20]].concat();
    assert!(matches!(record(&items), Err(PickleError::TooMany { .. })));
    let listed = [b"]".to_vec(), b"(NNNNNNNNe".repeat(600_000), b".".to_vec()].concat();
    assert!(matches!(record(&listed), Err(PickleError::TooMany { .. })));
    // One text encoded again and again.
    let mut encode = b"c_codecs\nencode\nq\x01X\x00\x10\x00\x00".to_vec();
    encode.extend_from_slice(&[b'a'; 4096]);
    encode.extend_from_slice(b"X\x06\0\0\0latin1\x86q\x02R0");
    (0..1000).for_each(|_| encode.extend_from_slice(b"h\x01h\x02R0"));
    assert!(matches!(record(&encode), Err(PickleError::TooMany { .. })));
}

/// Every record of the samples, all flavours.
fn samples() -> Vec<Bytes> {
    let mut records = Vec::new();
    for sample in [
        &include_bytes!("../../../tests/data/records/py2-p1.bin")[..],
        include_bytes!("../../../tests/data/records/py2-p2.bin"),
        include_bytes!("../../../tests/data/records/py2-p3.bin"),
        include_bytes!("../../../tests/data/records/py3-p1.bin"),
        include_bytes!("../../../tests/data/records/py3-p2.bin"),
        include_bytes!("../../../tests/data/records/py3-p3.bin"),
    ] {
        let word = |at: usize| u32::from_be_bytes(sample[at..at + 4].try_into().unwrap()) as usize;
        let mut at = 4;
        for _ in 0..word(0) {
            let len = word(at + 8);
            records.push(Bytes::from_static(&sample[at + 12..at + 12 + len]));
            at += 12 + len;
        }
    }
    records
}

/// What the short cut says, checked against the machine; whether it applied.
fn check_raw(bytes: &Bytes) -> bool {
    let prefix = &bytes[..bytes.len().min(RAW_PREFIX_BYTES)];
    let machine = read_record(bytes);
    if let Ok(Class::Named(class)) = read_class(bytes)
        && let Ok(record) = &machine
    {
        assert_eq!(Some(class), record.class());
    }
    let Some(raw) = raw_bytes(prefix, bytes.len()) else {
        return false;
    };
    let data_end = raw.data_offset + raw.data_len;
    if !raw.tail_is_valid(&bytes[data_end..]) {
        return false;
    }
    let record = machine.expect("the machine accepts what the short cut accepts");
    assert_eq!(record.class(), Some(raw.class));
    let Value::Bytes(blob) = record.state() else {
        panic!("{record:?}")
    };
    assert_eq!(record.bytes(blob), bytes[raw.data_offset..data_end]);
    true
}

#[test]
fn the_short_cut_agrees_with_the_machine() {
    let (mut applied, mut all) = (0, 0);
    for bytes in samples() {
        let record = read_record(&bytes).unwrap();
        assert!(
            matches!(read_class(&bytes), Ok(Class::Named(class)) if Some(class) == record.class())
        );
        applied += usize::from(check_raw(&bytes));
        all += usize::from(matches!(record.state(), Value::Bytes(blob) if !blob.made));
    }
    assert!(applied == all && applied > 500, "{applied} of {all}");
    // Every form the short cut may take, whole and cut, and with each byte of the frame replaced.
    let puts = [
        &b""[..],
        b"q\x00",
        b"q\x05",
        b"r\x01\0\0\0",
        b"r\xff\xff\0\0",
        b"\x94",
    ];
    let datas = [
        &b"C\x03abc"[..],
        b"U\x00",
        b"B\x01\0\0\0a",
        b"T\x01\0\0\0a",
        b"\x8e\x01\0\0\0\0\0\0\0a",
    ];
    for proto in [&b""[..], b"\x80\x02", b"\x80\x06"] {
        for (put, last) in puts.iter().flat_map(|&a| puts.iter().map(move |&b| (a, b))) {
            for data in datas {
                let parts = [proto, b"cm\nC\n", put, b".", proto, data, last, b"."];
                let whole = Bytes::from(parts.concat());
                check_raw(&whole);
                (0..whole.len()).for_each(|len| assert!(!check_raw(&whole.slice(..len))));
                for at in 0..whole.len() {
                    for byte in [0, 1, b'.', b'q', b'N', 0x80, 0x94, 0xff] {
                        let mut bytes = whole.to_vec();
                        bytes[at] = byte;
                        check_raw(&bytes.into());
                    }
                }
            }
        }
    }
}

#[test]
fn every_cut_of_a_record_is_an_error() {
    for bytes in samples().into_iter().step_by(7) {
        for len in 0..bytes.len() {
            assert!(read_record(&bytes.slice(..len)).is_err());
        }
    }
}

#[test]
fn reference_classes_beside_oids() {
    let record = record(b"C\x08\0\0\0\0\0\0\0\x0bh\x00\x86Q.").unwrap();
    assert!(matches!(record.state(), Value::Ref(Oid(11), Some(_))));
    assert_eq!(record.state().kind().to_string(), "a reference");
}

#[test]
fn references_in_one_go_come_to_the_same() {
    // The same opcodes, except that a BINGET the machine would take together with what surrounds it is written
    // wide. Long enough that every one-byte slot is within the bound.
    let head = [
        b"cm\nC\nq\x00.".to_vec(),
        b"X\x00\x02\x00\x00".to_vec(),
        vec![b'a'; 512],
    ]
    .concat();
    let mut seed = 1u64;
    let mut pick = |n: u64| {
        seed = seed
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        u8::try_from((seed >> 33) % n).unwrap()
    };
    let mut sound = 0;
    for _ in 0..40_000 {
        let (mut short, mut wide) = (head.clone(), head.clone());
        for _ in 0..3 {
            let mut both = |bytes: &[u8]| {
                short.extend_from_slice(bytes);
                wide.extend_from_slice(bytes);
            };
            both(if pick(8) == 0 {
                b"C\x07\0\0\0\0\0\0"
            } else {
                b"C\x08\0\0\0\0\0\0\0"
            });
            both(&[pick(9)]);
            if pick(3) > 0 {
                both(&[b'q', pick(4)]);
            }
            let slot = if pick(8) == 0 { pick(5) } else { 0 };
            short.extend_from_slice(&[b'h', slot]);
            wide.extend_from_slice(&[b'j', slot, 0, 0, 0]);
            let mut both = |bytes: &[u8]| {
                short.extend_from_slice(bytes);
                wide.extend_from_slice(bytes);
            };
            both(if pick(9) == 0 { b"\x85" } else { b"\x86" });
            if pick(3) > 0 {
                both(&[b'q', pick(4)]);
            }
            both(if pick(9) == 0 { b"N" } else { b"Q" });
            if pick(4) == 0 {
                both(&[b'h', pick(4)]);
            }
        }
        // One tuple of whatever is there, under the text that came first.
        let [short, wide] = [short, wide].map(|mut bytes| {
            let text = bytes.split_off(CLASS.len());
            read_record(&Bytes::from([&bytes[..], b"(", &text, b"t."].concat()))
        });
        match (short, wide) {
            (Ok(short), Ok(wide)) => {
                sound += 1;
                assert_eq!(show(&short, short.state(), 6), show(&wide, wide.state(), 6));
                assert_eq!(short.heap.items.len(), wide.heap.items.len());
            }
            (Err(short), Err(wide)) => {
                assert_eq!(
                    std::mem::discriminant(&short),
                    std::mem::discriminant(&wide)
                );
            }
            (short, wide) => panic!("{short:?} {wide:?}"),
        }
    }
    assert!(sound > 10_000, "{sound}");
}
