//! From the state of a record to what the object holds.

use super::{BigFile, Bucket, Entry, Expected, Inner, Node, Object, ObjectError, Tree};
use crate::base::{BlkSize, Oid};
use crate::wire::pickle::{GlobalId, Record, Value};
use crate::zodb::class::{Family, Hint, Kind};
use bytes::Bytes;

/// The state under way to an object.
pub(super) struct State<'a> {
    kind: Kind,
    record: &'a Record,
    /// Class met last in a reference, and what it says. Usually all references say the same.
    last: Option<(GlobalId, Option<Kind>)>,
}

type Outcome<T> = Result<T, ObjectError>;

impl<'a> State<'a> {
    pub(super) fn new(kind: Kind, record: &'a Record) -> Self {
        Self {
            kind,
            record,
            last: None,
        }
    }

    pub(super) fn object(mut self) -> Outcome<Object> {
        let state = self.record.state();
        Ok(match self.kind {
            Kind::BigFile => Object::BigFile(self.file(state)?),
            Kind::Blk0 => Object::Blk0(self.bytes(state)?),
            Kind::Data => Object::Data(self.bytes(state)?),
            Kind::Blk1 => Object::Blk1 {
                chunktab: self.reference(state)?.0,
            },
            Kind::Tree(family) => Object::Tree(Tree {
                family,
                node: self.tree(state, family)?,
            }),
            Kind::Bucket(family) => Object::Bucket(self.bucket(state, family)?),
        })
    }

    fn wrong<T>(&self, expected: Expected, found: Value) -> Outcome<T> {
        Err(ObjectError::State {
            kind: self.kind,
            expected,
            found: found.kind(),
        })
    }

    fn tuple(&self, value: Value, expected: Expected) -> Outcome<&'a [Value]> {
        match value {
            Value::Tuple(items) => Ok(self.record.tuple(items)),
            _ => self.wrong(expected, value),
        }
    }

    fn bytes(&self, value: Value) -> Outcome<Bytes> {
        match value {
            Value::Bytes(blob) => Ok(self.record.bytes(blob)),
            _ => self.wrong(Expected::Bytes, value),
        }
    }

    fn int(&self, value: Value) -> Outcome<i64> {
        match value {
            Value::Int(n) => Ok(n),
            _ => self.wrong(Expected::Int, value),
        }
    }

    fn reference(&mut self, value: Value) -> Outcome<(Oid, Option<Kind>)> {
        let Value::Ref(oid, class) = value else {
            return self.wrong(Expected::Ref, value);
        };
        let Some(id) = class else {
            return Ok((oid, None));
        };
        let kind = match self.last {
            Some((last, kind)) if last == id => kind,
            _ => Kind::of(self.record.global(id)),
        };
        self.last = Some((id, kind));
        Ok((oid, kind))
    }

    fn file(&mut self, value: Value) -> Outcome<BigFile> {
        let &[blksize, blktab] = self.tuple(value, Expected::FileState)? else {
            return self.wrong(Expected::FileState, value);
        };
        let found = self.int(blksize)?;
        let (blktab, _) = self.reference(blktab)?;
        match u64::try_from(found) {
            Ok(blksize @ 1..) => Ok(BigFile {
                blksize: BlkSize(blksize),
                blktab,
            }),
            _ => Err(ObjectError::BlkSize { found }),
        }
    }

    fn key(&self, value: Value, family: Family, before: Option<&i64>) -> Outcome<i64> {
        let (kind, key) = (self.kind, self.int(value)?);
        if !family.fits(key) {
            return Err(ObjectError::KeyRange { kind, key });
        }
        if before.is_some_and(|&before| before >= key) {
            return Err(ObjectError::Unsorted { kind, key });
        }
        Ok(key)
    }

    fn bucket(&mut self, value: Value, family: Family) -> Outcome<Bucket> {
        let items = match *self.tuple(value, Expected::BucketState)? {
            [items] => items,
            [items, next] => {
                self.reference(next)?;
                items
            }
            _ => return self.wrong(Expected::BucketState, value),
        };
        let pairs = self.tuple(items, Expected::Pairs)?;
        if pairs.len() % 2 != 0 {
            return self.wrong(Expected::Pairs, items);
        }
        let count = pairs.len() / 2;
        let mut keys = Vec::with_capacity(count);
        let mut entries = Vec::with_capacity(count);
        for pair in pairs.chunks_exact(2) {
            keys.push(self.key(pair[0], family, keys.last())?);
            let (oid, kind) = self.reference(pair[1])?;
            entries.push(Entry {
                oid,
                hint: Hint::of(kind),
            });
        }
        Ok(Bucket::new(family, keys, entries))
    }

    fn tree(&mut self, value: Value, family: Family) -> Outcome<Node> {
        if matches!(value, Value::None) {
            return Ok(Node::Empty);
        }
        match *self.tuple(value, Expected::TreeState)? {
            [children] => match *self.tuple(children, Expected::TreeState)? {
                [bucket] => Ok(Node::Inline(self.bucket(bucket, family)?)),
                _ => self.wrong(Expected::TreeState, value),
            },
            [children, first] => {
                self.reference(first)?;
                Ok(Node::Inner(self.inner(children, family)?))
            }
            _ => self.wrong(Expected::TreeState, value),
        }
    }

    fn inner(&mut self, value: Value, family: Family) -> Outcome<Inner> {
        let items = self.tuple(value, Expected::Children)?;
        if items.len() % 2 == 0 {
            return self.wrong(Expected::Children, value);
        }
        let mut separators = Vec::with_capacity(items.len() / 2);
        let mut children = Vec::with_capacity(items.len() / 2 + 1);
        let mut seen = (false, false);
        for (i, &item) in items.iter().enumerate() {
            if i % 2 == 1 {
                separators.push(self.key(item, family, separators.last())?);
                continue;
            }
            let (oid, kind) = self.reference(item)?;
            children.push(oid);
            seen.0 |= matches!(kind, Some(Kind::Tree(_)));
            seen.1 |= matches!(kind, Some(Kind::Bucket(_)));
        }
        if seen == (true, true) {
            return Err(ObjectError::Mixed { kind: self.kind });
        }
        Ok(Inner::new(separators, children))
    }
}
