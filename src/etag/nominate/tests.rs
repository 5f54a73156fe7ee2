//! Nominating: examples, then random runs against a twin that remembers every event and works all out anew each time.

#![allow(clippy::unwrap_used, reason = "tests")]
use super::*;

fn ms(n: u64) -> Moment {
    Moment::from_millis(n)
}

fn rules() -> Rules {
    Rules::default()
}

fn steady(rules: Rules) -> Nominate {
    let mut all = Nominate::new(rules, Some(7));
    assert_eq!(all.next(ms(0)), Task::Pass);
    all.pass_done(ms(0));
    all
}

fn note(all: &mut Nominate, at: u64, path: &str, mask: Mask) {
    let path = path.as_bytes();
    let pid = Some(1);
    all.note(ms(at), Sign { path, mask, pid });
}

fn look(task: Task) -> Vec<String> {
    let Task::Look(list) = task else {
        panic!("{task:?}")
    };
    let name = |n: &Nominee| {
        let path = String::from_utf8_lossy(&n.path).into_owned();
        if n.tree { path + "/" } else { path }
    };
    list.iter().map(name).collect()
}

#[test]
fn a_close_waits_half_a_second_and_a_write_five() {
    let mut all = steady(rules());
    note(
        &mut all,
        1000,
        "closed",
        Mask::CLOSE_WRITE.and(Mask::MODIFY),
    );
    note(&mut all, 1000, "open", Mask::MODIFY);
    assert_eq!(all.wake_at(), Some(ms(1500)));
    assert_eq!(all.next(ms(1499)), Task::Rest);
    assert_eq!(look(all.next(ms(1500))), ["closed"]);
    assert_eq!(all.wake_at(), Some(ms(6000)));
    // The close comes after all.
    note(&mut all, 2000, "open", Mask::CLOSE_WRITE);
    assert_eq!(look(all.next(ms(2500))), ["open"]);
    assert_eq!((all.next(ms(100_000)), all.waiting()), (Task::Rest, 0));
}

#[test]
fn who_never_stops_writing_is_looked_at_all_the_same() {
    let mut all = steady(rules());
    let mut seen = Vec::new();
    for at in (0..70_000).step_by(100) {
        note(&mut all, at, "log", Mask::MODIFY);
        if all.next(ms(at)) != Task::Rest {
            seen.push(at);
        }
    }
    assert_eq!(seen, [30_000, 60_100]);
}

#[test]
fn a_directory_takes_in_what_waits_below_it() {
    let mut all = steady(rules());
    for path in ["d/x", "d!", "d", "d/e/f", "dd/x", "c"] {
        note(&mut all, 0, path, Mask::CREATE);
    }
    note(&mut all, 1, "d", Mask::MOVED_TO.and(Mask::DIR));
    // The directory waits a tenth longer than what waits below it: all goes with it only if all of it is due.
    assert_eq!(all.wake_at(), Some(ms(500)));
    assert_eq!(look(all.next(ms(600))), ["c", "d/", "d!", "dd/x"]);
}

#[test]
fn own_attributes_nominate_nothing_and_own_writes_do() {
    let mut all = steady(rules());
    let own = |mask| Sign {
        path: b"f",
        mask,
        pid: Some(7),
    };
    all.note(ms(0), own(Mask::ATTRIB));
    assert_eq!((all.waiting(), all.tally().own), (0, 1));
    all.note(ms(0), own(Mask::ATTRIB.and(Mask::MODIFY)));
    note(&mut all, 0, "g", Mask::ATTRIB);
    assert_eq!(all.waiting(), 2);
}

#[test]
fn lost_events_bring_a_pass_and_what_comes_meanwhile_waits_for_its_end() {
    let mut all = steady(rules());
    note(&mut all, 0, "early", Mask::CREATE);
    note(&mut all, 10, "", Mask::OVERFLOW);
    note(&mut all, 11, "before the pass", Mask::CREATE);
    assert_eq!((all.waiting(), all.next(ms(12))), (0, Task::Pass));
    note(&mut all, 20, "meanwhile", Mask::CREATE);
    assert_eq!((all.next(ms(5000)), all.wake_at()), (Task::Rest, None));
    all.pass_done(ms(5000));
    assert_eq!(look(all.next(ms(5000))), ["meanwhile"]);
    assert_eq!(all.wake_at(), Some(ms(5000 + 3_600_000)));
    assert_eq!(all.next(ms(5000 + 3_600_000)), Task::Pass);
}

#[test]
fn a_pass_that_lost_events_is_followed_by_another_after_as_long_a_rest() {
    let mut all = Nominate::new(rules(), None);
    assert_eq!(all.next(ms(0)), Task::Pass);
    note(&mut all, 1000, "", Mask::OVERFLOW);
    all.pass_done(ms(9000));
    assert_eq!(
        (all.next(ms(17_999)), all.wake_at()),
        (Task::Rest, Some(ms(18_000)))
    );
    assert_eq!(all.next(ms(18_000)), Task::Pass);
    all.pass_done(ms(18_001));
    assert_eq!(all.tally().passes, 2);
}

#[test]
fn what_waits_is_bounded() {
    let few = Rules {
        paths_max: 3,
        bytes_max: 10,
        ..rules()
    };
    let mut all = steady(few);
    for path in ["a", "b", "c", "a"] {
        note(&mut all, 0, path, Mask::CREATE);
    }
    assert_eq!(all.waiting(), 3);
    note(&mut all, 0, "d", Mask::CREATE);
    assert_eq!((all.next(ms(0)), all.tally().full), (Task::Pass, 1));
    all.pass_done(ms(0));
    note(&mut all, 0, "123456", Mask::CREATE);
    note(&mut all, 0, "12345", Mask::CREATE);
    assert_eq!(all.next(ms(0)), Task::Pass);
}

#[test]
fn the_root_itself_is_the_whole() {
    let mut all = steady(rules());
    note(&mut all, 0, "", Mask::DELETE_SELF.and(Mask::DIR));
    assert_eq!(all.next(ms(0)), Task::Pass);
}

/// The rules in their plainest form: all events are kept, and what is due is worked out from all of them.
struct Twin {
    rules: Rules,
    events: Vec<(Moment, String, bool, Duration)>,
    dirty: Option<Moment>,
    passing: Option<(Moment, bool)>,
    verify_at: Moment,
}

impl Twin {
    fn due(&self, path: &str) -> (Moment, bool) {
        let of: Vec<_> = self.events.iter().filter(|e| e.1 == path).collect();
        let (first, last) = (of[0], of[of.len() - 1]);
        // Each event moves the moment on, within what the first allows.
        let due = (last.0 + last.3).min(first.0 + self.rules.longest.max(first.3));
        // A look begins with a tenth of a second.
        let tenths = due.as_millis().div_ceil(100);
        let due = ms(u64::try_from(tenths).unwrap() * 100);
        (due, of.iter().any(|e| e.2))
    }

    fn paths(&self) -> BTreeSet<String> {
        self.events.iter().map(|e| e.1.clone()).collect()
    }

    fn lose(&mut self, now: Moment) {
        self.events.clear();
        match (&mut self.passing, self.dirty) {
            (Some((_, lost)), _) => *lost = true,
            (None, None) => self.dirty = Some(now),
            (None, Some(_)) => {}
        }
    }

    fn note(&mut self, now: Moment, sign: Sign<'_>) {
        let has = |mask| sign.mask.any(mask);
        let is_note = [Mask::ATTRIB, Mask::ATTRIB.and(Mask::DIR)].contains(&sign.mask);
        if sign.pid == Some(7) && is_note {
            return;
        }
        if has(Mask::OVERFLOW) || sign.path.is_empty() && has(Mask::DIR) {
            return self.lose(now);
        }
        if self.dirty.is_some() {
            return;
        }
        let path = String::from_utf8(sign.path.to_vec()).unwrap();
        let writing = has(Mask::MODIFY) && !has(Mask::CLOSE_WRITE);
        let wait = if writing {
            self.rules.writing
        } else {
            self.rules.settled
        };
        let mut paths = self.paths();
        if !paths.contains(&path) {
            paths.insert(path.clone());
            let bytes: usize = paths.iter().map(String::len).sum();
            if paths.len() > self.rules.paths_max || bytes > self.rules.bytes_max {
                return self.lose(now);
            }
        }
        self.events.push((now, path, has(Mask::DIR), wait));
    }

    fn next(&mut self, now: Moment) -> Task {
        if self.passing.is_some() {
            return Task::Rest;
        }
        let wanted = self.dirty.map_or(self.verify_at, |at| at);
        if now >= wanted {
            self.events.clear();
            self.dirty = None;
            self.passing = Some((now, false));
            return Task::Pass;
        }
        if self.dirty.is_some() {
            return Task::Rest;
        }
        let due: Vec<(String, bool)> = self
            .paths()
            .into_iter()
            .filter(|path| self.due(path).0 <= now)
            .map(|path| (path.clone(), self.due(&path).1))
            .collect();
        self.events.retain(|e| !due.iter().any(|d| d.0 == e.1));
        let under = |path: &str| {
            due.iter()
                .any(|(dir, tree)| *tree && path.starts_with(&format!("{dir}/")))
        };
        let mut list: Vec<Nominee> = due
            .iter()
            .filter(|(path, _)| !under(path))
            .map(|(path, tree)| Nominee {
                path: path.clone().into_bytes(),
                tree: *tree,
            })
            .collect();
        list.sort_by_key(|n| {
            n.path
                .iter()
                .map(|&c| if c == b'/' { 0 } else { c })
                .collect::<Vec<u8>>()
        });
        if list.is_empty() {
            Task::Rest
        } else {
            Task::Look(list)
        }
    }

    fn pass_done(&mut self, now: Moment) {
        let (began, lost) = self.passing.take().unwrap();
        if lost {
            self.events.clear();
            self.dirty = Some(now + (now - began).max(self.rules.between));
        } else {
            self.verify_at = now + self.rules.verify_every;
        }
    }
}

/// `splitmix64`.
struct Rng(u64);

impl Rng {
    fn below(&mut self, n: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % n
    }
}

fn run(seed: u64) -> [u64; 3] {
    let mut rng = Rng(seed);
    let rules = Rules {
        paths_max: 4 + usize::try_from(rng.below(12)).unwrap(),
        bytes_max: 20 + usize::try_from(rng.below(60)).unwrap(),
        verify_every: ms(20_000 + rng.below(100_000)),
        ..Rules::default()
    };
    let mut all = Nominate::new(rules, Some(7));
    let mut twin = Twin {
        rules,
        events: Vec::new(),
        dirty: Some(ms(0)),
        passing: None,
        verify_at: ms(0),
    };
    let names = [
        "",
        "a",
        "a/b",
        "a/b/c",
        "a/c",
        "a!",
        "ab",
        "b",
        "b/a",
        "long-name/of-it",
    ];
    let kinds = [
        Mask::MODIFY,
        Mask::CLOSE_WRITE,
        Mask::MODIFY.and(Mask::CLOSE_WRITE),
        Mask::CREATE,
        Mask::ATTRIB,
        Mask::MOVED_TO,
    ];
    let mut now = 0;
    let mut done = [0; 3];
    for step in 0..400 {
        now += [0, 1, 100, 500, 3000, 6000][usize::try_from(rng.below(6)).unwrap()];
        let at = ms(now);
        match rng.below(10) {
            0..=5 => {
                let mut mask = kinds[usize::try_from(rng.below(6)).unwrap()];
                if rng.below(6) == 0 {
                    mask = mask.and(Mask::DIR);
                }
                if rng.below(60) == 0 {
                    mask = Mask::OVERFLOW;
                }
                let path = names[usize::try_from(rng.below(10)).unwrap()];
                let path = if mask.any(Mask::OVERFLOW) { "" } else { path };
                let pid = [None, Some(1), Some(7)][usize::try_from(rng.below(3)).unwrap()];
                let path = path.as_bytes();
                let sign = Sign { path, mask, pid };
                all.note(at, sign);
                twin.note(at, sign);
            }
            6..=8 => {
                let task = all.next(at);
                assert_eq!(task, twin.next(at), "seed {seed}, step {step}");
                match task {
                    Task::Pass => done[0] += 1,
                    Task::Look(list) => done[1] += list.len() as u64,
                    Task::Rest => done[2] += 1,
                }
            }
            _ if twin.passing.is_some() => {
                all.pass_done(at);
                twin.pass_done(at);
            }
            _ => {}
        }
        assert_eq!(
            all.waiting(),
            twin.paths().len(),
            "seed {seed}, step {step}"
        );
        // Nothing is due before it says so, and something is at that moment.
        if let Some(wake) = all.wake_at().filter(|wake| *wake > at) {
            assert!(twin.passing.is_none());
            let soonest = twin.paths().iter().map(|path| twin.due(path).0).min();
            let expected = twin
                .dirty
                .unwrap_or(twin.verify_at.min(soonest.unwrap_or(Moment::MAX)));
            assert_eq!(wake, expected, "seed {seed}, step {step}");
        }
    }
    done
}

#[test]
fn any_run_is_as_the_plain_rules_say() {
    let from = std::env::var("ZRING_SEED")
        .ok()
        .and_then(|text| text.parse().ok());
    let from: u64 = from.unwrap_or(1);
    let mut done = [0; 3];
    for seed in from..from + 500 {
        for (sum, n) in done.iter_mut().zip(run(seed)) {
            *sum += n;
        }
    }
    println!("passes, nominees, rests: {done:?} from seed {from}");
    assert!(done.iter().all(|&n| n > 1000));
}
