//! msgpack for scripted nodes: written apart from the codec of zring, so that a mistake is not made twice alike.

use std::io::{self, Read};

/// A value.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Value {
    Nil,
    Bool(bool),
    Int(i64),
    Float(f64),
    Bin(Vec<u8>),
    Array(Vec<Self>),
    Ext(u8, u8),
    /// Nobody looks into one.
    Map,
}

fn bytes<const N: usize>(from: &mut impl Read) -> io::Result<[u8; N]> {
    let mut out = [0; N];
    from.read_exact(&mut out)?;
    Ok(out)
}

fn number(from: &mut impl Read, width: u32) -> io::Result<u64> {
    let mut n = 0;
    for _ in 0..width {
        let [byte] = bytes(from)?;
        n = n << 8 | u64::from(byte);
    }
    Ok(n)
}

fn bin(from: &mut impl Read, len: u64) -> io::Result<Value> {
    let mut out = vec![0; usize::try_from(len).unwrap()];
    from.read_exact(&mut out)?;
    Ok(Value::Bin(out))
}

fn array(from: &mut impl Read, len: u64) -> io::Result<Value> {
    let items = (0..len).map(|_| read(from));
    Ok(Value::Array(items.collect::<io::Result<_>>()?))
}

/// Reads one value; blocks.
pub(crate) fn read(from: &mut impl Read) -> io::Result<Value> {
    let [mark] = bytes(from)?;
    let low = |mask: u8| u64::from(mark & mask);
    Ok(match mark {
        0..=0x7f => Value::Int(i64::from(mark)),
        0x80..=0x8f => {
            for _ in 0..2 * low(15) {
                read(from)?;
            }
            Value::Map
        }
        0x90..=0x9f => array(from, low(15))?,
        0xa0..=0xbf => bin(from, low(31))?,
        0xc0 => Value::Nil,
        0xc2 => Value::Bool(false),
        0xc3 => Value::Bool(true),
        0xc4 => {
            let len = number(from, 1)?;
            bin(from, len)?
        }
        0xcb => Value::Float(f64::from_be_bytes(bytes(from)?)),
        0xcc => Value::Int(number(from, 1)?.cast_signed()),
        0xcd => Value::Int(number(from, 2)?.cast_signed()),
        0xce => Value::Int(number(from, 4)?.cast_signed()),
        0xd2 => Value::Int(i64::from(i32::from_be_bytes(bytes(from)?))),
        0xd4 => {
            let [kind, value] = bytes(from)?;
            Value::Ext(kind, value)
        }
        0xe0..=0xff => Value::Int(i64::from(mark.cast_signed())),
        _ => return Err(io::Error::other(format!("mark {mark:#x}"))),
    })
}

/// Appends a value.
pub(crate) fn write(value: &Value, out: &mut Vec<u8>) {
    match value {
        Value::Nil => out.push(0xc0),
        Value::Bool(yes) => out.push(0xc2 + u8::from(*yes)),
        Value::Int(n @ 0..=0x7f) => out.push(u8::try_from(*n).unwrap()),
        Value::Int(n @ 0..=0xffff) => {
            out.push(0xcd);
            out.extend(u16::try_from(*n).unwrap().to_be_bytes());
        }
        Value::Int(n) => {
            out.push(0xd2);
            out.extend(i32::try_from(*n).unwrap().to_be_bytes());
        }
        Value::Float(f) => {
            out.push(0xcb);
            out.extend(f.to_be_bytes());
        }
        Value::Bin(data) => {
            let len = data.len();
            match u8::try_from(len) {
                Ok(len) => out.extend([0xc4, len]),
                Err(_) => {
                    out.push(0xc6);
                    out.extend(u32::try_from(len).unwrap().to_be_bytes());
                }
            }
            out.extend(data);
        }
        Value::Array(items) => {
            match u8::try_from(items.len()) {
                Ok(len) if len < 16 => out.push(0x90 | len),
                _ => {
                    out.push(0xdd);
                    out.extend(u32::try_from(items.len()).unwrap().to_be_bytes());
                }
            }
            items.iter().for_each(|item| write(item, out));
        }
        Value::Ext(kind, value) => out.extend([0xd4, *kind, *value]),
        Value::Map => out.push(0x80),
    }
}

impl Value {
    pub(crate) fn id(n: u64) -> Self {
        Self::Bin(n.to_be_bytes().to_vec())
    }

    pub(crate) fn text(text: &str) -> Self {
        Self::Bin(text.as_bytes().to_vec())
    }

    pub(crate) fn items(&self) -> &[Self] {
        match self {
            Self::Array(items) => items,
            other => panic!("no array: {other:?}"),
        }
    }

    pub(crate) fn int(&self) -> i64 {
        match self {
            Self::Int(n) => *n,
            other => panic!("no number: {other:?}"),
        }
    }

    /// 8 bytes, or nothing.
    pub(crate) fn as_id(&self) -> Option<u64> {
        match self {
            Self::Bin(data) => Some(u64::from_be_bytes(data.as_slice().try_into().unwrap())),
            Self::Nil => None,
            other => panic!("no id: {other:?}"),
        }
    }
}
