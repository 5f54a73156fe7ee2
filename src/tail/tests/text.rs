//! Trees as text, level by level: `T3/B1:a,2:b-B3:c`.
//!
//! A node is `T` with its separators or `B` with its keys and what they lead to, a letter for a block. What follows `@`
//! says which node it is; without it, that follows from level and place. A lone bucket below the root is part of it,
//! unless it is named so. `-` is no tree at all.

use super::model::{BLOCK, Kind, Model, State};
use crate::base::Oid;
use std::collections::BTreeMap;

/// The block with this letter.
pub(super) fn block(letter: char) -> Oid {
    Oid(BLOCK + u64::from(letter) - u64::from('a'))
}

/// The tree with this root that a text describes.
pub(super) fn tree(root: Oid, text: &str) -> State {
    if text == "-" {
        return State::of(root, None);
    }
    let levels: Vec<Vec<&str>> = text
        .split('/')
        .map(|level| level.split('-').collect())
        .collect();
    if let [_, leaves] = &levels[..]
        && let [leaf] = leaves[..]
        && !leaf.contains('@')
    {
        let kind = Kind::Leaf(entries(leaf));
        return State::of(root, Some(Model { oid: root, kind }));
    }
    let mut taken = vec![0; levels.len() + 1];
    let model = build(root, &levels, 0, &mut taken);
    let counts = levels.iter().map(Vec::len);
    assert!(counts.eq(taken[..levels.len()].iter().copied()), "{text}");
    State::of(root, Some(model))
}

fn entries(leaf: &str) -> BTreeMap<i64, u64> {
    let items = leaf.strip_prefix('B').unwrap().split([',', ':']);
    let items: Vec<&str> = items.filter(|item| !item.is_empty()).collect();
    let entry = |item: &[&str]| {
        let key = match item[0] {
            "max" => i64::MAX,
            key => key.parse().unwrap(),
        };
        (key, block(item[1].chars().next().unwrap()).0)
    };
    items.chunks(2).map(entry).collect()
}

fn build(root: Oid, levels: &[Vec<&str>], level: usize, taken: &mut [usize]) -> Model {
    let place = taken[level];
    taken[level] += 1;
    let text = levels[level][place];
    let (text, name) = match text.split_once('@') {
        Some((text, name)) => (text, name.parse().unwrap()),
        None => (text, 100 * level + place),
    };
    let oid = Oid(root.0 + name as u64);
    let Some(keys) = text.strip_prefix('T') else {
        let kind = Kind::Leaf(entries(text));
        return Model { oid, kind };
    };
    let keys = keys.split(',').filter(|key| !key.is_empty());
    let keys: Vec<i64> = keys.map(|key| key.parse().unwrap()).collect();
    let children = (0..=keys.len()).map(|_| build(root, levels, level + 1, taken));
    let kind = Kind::Inner(keys.clone(), children.collect());
    Model { oid, kind }
}
