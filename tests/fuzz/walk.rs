//! Reading a file of a database in which some objects are not what they should be.
//!
//! Objects are mutated, exchanged for each other, taken away; references are turned to other objects. Then the
//! file is opened, measured, and read: each question must end, in an answer or in an error.

use crate::mutate::{self, Rng};
use crate::samples::{self, Sample};
use bytes::Bytes;
use std::collections::{BTreeMap, HashMap, HashSet};
use zring::base::{BlkNo, BlkSize, Oid};
use zring::zodb::{
    Absent, Ask, Lookup, Object, ObjectError, Objects, Step, ZodbError, bigfile, decode, zblk,
};

/// More rounds than objects would mean asking for the same one again.
const ROUNDS_MAX: usize = 300;

struct Db<'a> {
    base: &'a HashMap<Oid, Object>,
    /// Objects that differ from the base; `None` for those taken away.
    changed: HashMap<Oid, Option<Result<Object, ObjectError>>>,
    here: HashSet<Oid>,
}

impl Objects for Db<'_> {
    fn get(&self, oid: Oid) -> Lookup<'_> {
        if !self.here.contains(&oid) {
            return Lookup::Missing;
        }
        match self.changed.get(&oid) {
            Some(None) => Lookup::Absent(Absent::Deleted),
            Some(Some(Ok(object))) => Lookup::Here(object),
            Some(Some(Err(error))) => Lookup::Broken(error),
            None => self
                .base
                .get(&oid)
                .map_or(Lookup::Absent(Absent::NoObject), Lookup::Here),
        }
    }
}

impl Db<'_> {
    fn run<T>(
        &mut self,
        mut f: impl FnMut(&mut Ask<'_, Self>) -> Result<Step<T>, ZodbError>,
    ) -> Result<T, ZodbError> {
        let mut need = Vec::new();
        for _ in 0..ROUNDS_MAX {
            need.clear();
            match f(&mut Ask::new(self, &mut need)) {
                Ok(Step::Done(value)) => return Ok(value),
                Ok(Step::Need) => {
                    assert!(need.iter().any(|oid| !self.here.contains(oid)));
                    self.here.extend(&need);
                }
                Err(error) => {
                    assert!(error.to_string().len() < 20_000);
                    return Err(error);
                }
            }
        }
        panic!("asks without end");
    }

    /// Opens the file, measures it, reads some blocks; whether all went well.
    fn read(&mut self, rng: &mut Rng, file: Oid) -> Result<(), ZodbError> {
        let file = self.run(|ask| bigfile::open(ask, file))?;
        let size = self.run(|ask| bigfile::size(ask, &file));
        let mut all = size.clone().map(drop);
        let last = size.unwrap_or(20_000) / file.blksize.0.max(1);
        // Large sizes are the fs's to refuse; here they only must not break anything.
        let blksize = BlkSize(file.blksize.0.min(4096));
        for _ in 0..4 {
            let blk = if rng.below(20) == 0 {
                rng.word() >> 1
            } else {
                rng.word() % (last + 2)
            };
            let mut path = Vec::new();
            let place = self.run(|ask| bigfile::locate_path(ask, &file, BlkNo(blk), &mut path));
            let place = match place {
                Ok(place) => place,
                Err(error) => {
                    all = Err(error);
                    continue;
                }
            };
            assert!(path.len() <= 64 && place.cover.contains(i64::try_from(blk).unwrap()));
            let Some(block) = place.block else { continue };
            let width = usize::try_from(blksize.0).unwrap();
            let mut whole = vec![0xee; width];
            let done = self.run(|ask| zblk::fill(ask, block.oid, blksize, 0, &mut whole));
            let from = rng.below(width);
            let mut part = vec![0xee; rng.below(width - from + 1)];
            let len = part.len();
            let part_done =
                self.run(|ask| zblk::fill(ask, block.oid, blksize, from as u64, &mut part));
            match done {
                Ok(()) => {
                    part_done.expect("part of a sound block is sound");
                    assert_eq!(part, whole[from..from + len]);
                }
                Err(error) => all = Err(error),
            }
        }
        all
    }
}

/// Changes one object of a sample.
fn damage(rng: &mut Rng, sample: &Sample, oids: &[u64], others: &[Vec<u8>]) -> Option<Vec<u8>> {
    let mut record = sample.records[rng.pick(oids)].clone();
    match rng.below(8) {
        0 => return None,
        1 => {}
        2 | 3 => mutate::mutate(rng, &mut record, others, samples::WORDS),
        _ => {
            // Oids are short here: six zero bytes, then two that count.
            let places: Vec<usize> = record
                .windows(7)
                .enumerate()
                .filter(|(_, window)| window[0] == 8 && window[1..] == [0; 6])
                .map(|(at, _)| at + 1)
                .collect();
            for _ in 0..=rng.below(3) {
                if let Some(&at) = places.get(rng.below(places.len())) {
                    let oid = rng.pick(oids).to_be_bytes();
                    let end = record.len().min(at + 8);
                    record[at..end].copy_from_slice(&oid[..end - at]);
                }
            }
        }
    }
    Some(record)
}

#[test]
fn walk() {
    let (count, seed) = mutate::plan();
    let mut rng = Rng::new(seed);
    let others = mutate::corpus("object", samples::some_records());
    let samples = samples::samples();
    let bases: Vec<HashMap<Oid, Object>> = samples
        .iter()
        .map(|sample| {
            let decoded = sample.records.iter();
            decoded
                .map(|(&oid, record)| (Oid(oid), decode(record.clone().into()).unwrap()))
                .collect()
        })
        .collect();
    let (mut sound, mut kinds) = (0u64, BTreeMap::new());
    // An input here is a database and eight questions: a tenth as many as of records.
    for round in 0..count / 10 {
        let which = rng.below(samples.len());
        let (sample, base) = (&samples[which], &bases[which]);
        let oids: Vec<u64> = sample.records.keys().copied().collect();
        // Every second change goes to what holds the file together.
        let holds = |oid: &u64| !matches!(base[&Oid(*oid)], Object::Blk0(_) | Object::Data(_));
        let nodes: Vec<u64> = oids.iter().copied().filter(holds).collect();
        let mut db = Db {
            base,
            changed: HashMap::new(),
            here: HashSet::new(),
        };
        for _ in 0..1 << rng.below(5) {
            let from = if rng.below(2) == 0 { &nodes } else { &oids };
            let oid = Oid(*rng.pick(from));
            let new = damage(&mut rng, sample, &oids, &others);
            db.changed
                .insert(oid, new.map(|record| decode(Bytes::from(record))));
        }
        match db.read(&mut rng, Oid(sample.file)) {
            Ok(()) => sound += 1,
            Err(error) => {
                let name = format!("{error:?}")
                    .split([' ', '{'])
                    .next()
                    .unwrap()
                    .to_owned();
                *kinds.entry(name).or_insert(0u64) += 1;
            }
        }
        assert!(round < count);
    }
    println!(
        "walk: seed {seed}, {} databases, {sound} sound, {kinds:?}",
        count / 10
    );
}
