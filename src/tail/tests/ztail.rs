//! Changed objects against a list of them.

use crate::base::{Oid, Tid};
use crate::tail::ZTail;
use crate::zodb::sample::Rng;

#[test]
fn answers_are_those_of_a_list() {
    let mut rng = Rng(1);
    for _ in 0..100 {
        let (mut ztail, mut list) = (ZTail::new(Tid(3)), Vec::<(Tid, Vec<Oid>)>::new());
        let (mut tail, mut head) = (3_u64, 3_u64);
        for _ in 0..40 {
            if rng.one_in(4) {
                let cut = (head + 2).saturating_sub(rng.below(20) as u64);
                ztail.forget(Tid(cut));
                tail = tail.max(cut.min(head));
                list.retain(|(tid, _)| tid.0 > tail);
            } else {
                head += 1 + rng.below(3) as u64;
                let oids: Vec<_> = (0..rng.below(6))
                    .map(|_| Oid(rng.below(9) as u64))
                    .collect();
                ztail.append(Tid(head), oids.clone().into());
                list.push((Tid(head), oids));
            }
            assert_eq!((ztail.tail(), ztail.head()), (Tid(tail), Tid(head)));
            let mut ends = [(); 2].map(|()| tail + rng.below(8) as u64);
            ends.sort_unstable();
            let [lo, hi] = ends.map(Tid);
            let within = list.iter().filter(|(tid, _)| lo < *tid && *tid <= hi);
            let slice = ztail.slice(lo, hi);
            assert!(slice.eq(within.clone().map(|(tid, oids)| (*tid, &oids[..]))));
            let before = list.iter().rev().find(|(tid, _)| *tid < hi);
            assert_eq!(ztail.before(hi), before.map_or(Tid(tail), |(tid, _)| *tid));
            for oid in (0..9).map(Oid) {
                let tids = within.clone().filter(|(_, oids)| oids.contains(&oid));
                let tids: Vec<_> = tids.map(|(tid, _)| *tid).collect();
                assert!(ztail.changes(oid, lo, hi).eq(tids.iter().copied()));
                let until = list.iter().rev().filter(|(tid, _)| *tid <= hi);
                let last = until
                    .filter(|(_, oids)| oids.contains(&oid))
                    .map(|(tid, _)| *tid);
                assert_eq!(ztail.last_change(oid, hi), last.max());
            }
        }
        ztail.forget(Tid(u64::MAX));
        assert_eq!(ztail.counts(), (0, 0));
    }
}

#[test]
fn many_transactions_come_and_go() {
    let mut ztail = ZTail::new(Tid(0));
    for tid in 1..=200_000u64 {
        let oids = [Oid(1), Oid(tid % 1000), Oid(1 << 32 | tid)];
        ztail.append(Tid(tid), oids.into());
        ztail.forget(Tid(tid.saturating_sub(100_000)));
    }
    assert_eq!(ztail.counts().0, 100_000);
    let last = ztail.last_change(Oid(1), Tid(150_000));
    assert_eq!(last, Some(Tid(150_000)));
    assert_eq!(ztail.last_change(Oid(7), Tid(150_000)), Some(Tid(149_007)));
    ztail.forget(Tid(200_000));
    assert_eq!(ztail.counts(), (0, 0));
}
