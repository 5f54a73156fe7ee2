//! From records to objects.

use crate::{mutate, samples};
use bytes::Bytes;
use zring::zodb::object::decode_within;
use zring::zodb::{Bucket, Node, Object};

const MAX: usize = 1 << 20;

/// Holds what must be true of any object; whether it is one that zring reads.
fn check(input: &[u8]) -> bool {
    let object = match decode_within(Bytes::copy_from_slice(input), MAX) {
        Ok(object) => object,
        Err(error) => {
            assert!(error.to_string().len() < 500);
            return false;
        }
    };
    match &object {
        Object::BigFile(file) => assert!(file.blksize.0 > 0),
        Object::Bucket(bucket) => sorted(bucket),
        Object::Tree(tree) => match &tree.node {
            Node::Empty => {}
            Node::Inline(bucket) => sorted(bucket),
            Node::Inner(inner) => {
                assert_eq!(inner.children().len(), inner.separators().count() + 1);
                assert!(inner.separators().is_sorted_by(|a, b| a < b));
            }
        },
        Object::Blk0(data) | Object::Data(data) => assert!(data.len() <= MAX),
        Object::Blk1 { .. } => {}
        Object::Other(class) => {
            assert!(class.to_string().len() < 20_000);
            return false;
        }
    }
    // An entry of a node is at least three bytes of record and costs 24 at most.
    let record_len = if input.starts_with(b".z") {
        MAX
    } else {
        input.len()
    };
    assert!(object.cost() <= 24 * record_len + 500);
    true
}

fn sorted(bucket: &Bucket) {
    let keys: Vec<i64> = bucket.iter().map(|(key, _)| key).collect();
    assert!(keys.is_sorted_by(|a, b| a < b));
    assert!(keys.iter().all(|&key| bucket.family().fits(key)));
    assert_eq!(bucket.is_empty(), keys.is_empty());
    let ends = keys.first().zip(keys.last());
    assert_eq!(
        bucket.ends(),
        ends.map(|(&least, &greatest)| [least, greatest])
    );
}

#[test]
fn object() {
    let inputs = mutate::corpus("object", samples::some_records());
    mutate::run("object", &inputs, samples::WORDS, check);
}
