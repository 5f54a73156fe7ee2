//! Whole runs of the isolation protocol, as text.
//!
//! Each `*.txt` beside this file is one: a line at the left margin is something that happens, the indented lines below it are what
//! came of it, in order. `ZRING_ACCEPT=1` writes what comes of it now; review that like code.
//!
//! ```text
//!   history TAIL HEAD | tail TID      what the history covers; head/at shows HEAD
//!   file F: BLK@TID,TID ...           blocks read through head, and when each changed; `size=N`, `epoch=TID`, `broken`; FIRST-LAST for BLK
//!   forgets F | loses F TID WHY       the history lets go of a file; or cannot tell any more what clients before TID see
//!   open L | close L                  a client opens or closes head/watch; `open L UID`: of a user other than the mount's owner
//!   L asks N | L signalled            it writes N requests that mean nothing; the caller of its last request is signalled
//!   L begins N F TID | L writes N     N requests for a file at once, of streams 101 and on; N bytes that are one line
//!   L skips N                         it reads N messages
//!   L other | strict                  a process that did not open it uses it; that is refused from now on
//!   L> TEXT                           it writes TEXT and a line feed (\n for more); `L>> TEXT` writes no line feed
//!   L reads [N]                       it reads, with room for N bytes; told when a message is there
//!   commit TID F: BLK,...             a transaction is published and shown; `publish`, then `show TID`: in two steps
//!   R reads F BLK,...                 a READ of head asks
//!   wait MS | dies L | deaf L | safe L  time; a client is gone; ignores SIGBUS; ignores both
//! ```

#![allow(clippy::unwrap_used, reason = "tests")]

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use zring::base::{BlkNo, Oid, Tid, Unique};
use zring::iso::{Action, Caller, Isolation, LinkId, Outside, Quota, Rules, Signal, Uid, Unknown};

const TIMEOUT: Duration = Duration::from_secs(6);

#[derive(Debug, Default)]
struct File {
    blocks: BTreeMap<BlkNo, BTreeSet<Tid>>,
    size: u64,
    epoch: Option<Tid>,
    is_broken: bool,
    is_forgotten: bool,
}

/// Those of users other than the owner are small and short.
fn rules() -> Rules {
    Rules {
        others: Quota {
            watches: 2,
            pinned: 3,
            timeout: Some(TIMEOUT / 2),
            ..Quota::default()
        },
        ..Rules::new(TIMEOUT)
    }
}

/// A client's process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Client {
    #[default]
    Alive,
    Deaf,
    Safe,
    Dead,
}

/// What isolation asks.
#[derive(Debug, Default)]
struct World {
    tail: Tid,
    head: Tid,
    is_publishing: bool,
    files: BTreeMap<Oid, File>,
    clients: BTreeMap<LinkId, Client>,
    said: Vec<String>,
}

impl World {
    fn rev(&self, oid: Oid, blk: BlkNo, at: Tid) -> Tid {
        let changes = self.files[&oid].blocks.get(&blk);
        let upto = changes.and_then(|changes| changes.range(..=at).next_back());
        upto.copied().unwrap_or(self.tail).max(self.tail)
    }
}

impl Outside for World {
    fn tail(&self) -> Tid {
        self.tail
    }

    fn head(&self) -> Option<Tid> {
        (!self.is_publishing).then_some(self.head)
    }

    fn watch(&mut self, oid: Oid, after: Option<Tid>) {
        let after = after.map_or("nothing".to_owned(), |at| format!("@{}", short(at)));
        self.said
            .push(format!("(READs of {:x} ask after {after})", oid.0));
    }

    fn knows(&mut self, oid: Oid) -> bool {
        self.files.get(&oid).is_some_and(|file| !file.is_forgotten)
    }

    fn is_complete(&mut self, _: Oid) -> bool {
        true
    }

    fn changes(&mut self, oid: Oid, at: Tid) -> Result<Vec<(BlkNo, Tid)>, Unknown> {
        let file = &self.files[&oid];
        if let Some(epoch) = file.epoch.filter(|&epoch| epoch > at) {
            return Err(Unknown::Epoch(epoch));
        }
        if file.is_broken {
            return Err(Unknown::Database("the disk\nis gone".to_owned()));
        }
        if file.is_forgotten {
            return Ok(Vec::new());
        }
        let changed = |set: &BTreeSet<Tid>| set.last().is_some_and(|&last| last > at);
        let blks = file.blocks.iter().filter(|(_, set)| changed(set));
        let blks: Vec<BlkNo> = blks.map(|(&blk, _)| blk).collect();
        let with_rev = |blk| (blk, self.rev(oid, blk, at));
        Ok(blks.into_iter().map(with_rev).collect())
    }

    fn revision(&mut self, oid: Oid, blk: BlkNo, at: Tid) -> Result<Option<Tid>, Unknown> {
        if self.files[&oid].is_broken {
            return Err(Unknown::Database("the disk is gone".to_owned()));
        }
        let last = self.rev(oid, blk, self.head);
        Ok((last > at).then(|| self.rev(oid, blk, at)))
    }

    fn size(&mut self, oid: Oid, _at: Tid) -> Result<u64, Unknown> {
        Ok(self.files[&oid].size)
    }

    fn has_ended(&mut self, link: LinkId) -> bool {
        self.clients[&link] == Client::Dead
    }

    fn is_alive(&mut self, link: LinkId) -> bool {
        self.clients[&link] != Client::Dead
    }

    fn signal(&mut self, link: LinkId, signal: Signal) -> Result<(), String> {
        let client = self.clients.get_mut(&link).unwrap();
        match (*client, signal) {
            (Client::Alive, _) | (Client::Deaf, Signal::Kill) => *client = Client::Dead,
            (Client::Dead, _) => return Err("no such process".to_owned()),
            (Client::Safe, _) | (Client::Deaf, Signal::Bus) => {}
        }
        Ok(())
    }
}

fn short(tid: Tid) -> String {
    format!("{:x}", tid.0)
}

fn tid(text: &str) -> Tid {
    Tid(u64::from_str_radix(text.trim_start_matches('@'), 16).unwrap())
}

fn oid(text: &str) -> Oid {
    Oid(u64::from_str_radix(text.trim_end_matches(':'), 16).unwrap())
}

fn blks(text: &str) -> Vec<BlkNo> {
    text.split(',').map(|n| BlkNo(n.parse().unwrap())).collect()
}

/// Runs a transcript.
struct Run {
    isolation: Isolation,
    world: World,
    links: BTreeMap<String, LinkId>,
    callers: BTreeMap<Unique, String>,
    now: Instant,
    out: String,
}

impl Run {
    #[allow(clippy::disallowed_methods, reason = "any instant will do")]
    fn new() -> Self {
        Self {
            isolation: Isolation::new(Tid::ZERO, rules()),
            world: World::default(),
            links: BTreeMap::new(),
            callers: BTreeMap::new(),
            now: Instant::now(),
            out: String::new(),
        }
    }

    fn caller(&mut self, name: &str) -> Caller {
        let unique = Unique(self.callers.len() as u64 + 1);
        self.callers.insert(unique, name.to_owned());
        let worker = 0;
        Caller { worker, unique }
    }

    fn line(&mut self, line: &str) {
        let words: Vec<&str> = line.split(' ').collect();
        let (isolation, world, now) = (&mut self.isolation, &mut self.world, self.now);
        match words[..] {
            ["history", tail, head] => {
                (world.tail, world.head) = (tid(tail), tid(head));
                isolation.shown(world.head, world, now);
            }
            ["file", name, ref blocks @ ..] => {
                let mut file = File::default();
                for block in blocks {
                    match block.split_once(['=', '@']) {
                        Some(("size", n)) => file.size = n.parse().unwrap(),
                        Some(("epoch", at)) => file.epoch = Some(tid(at)),
                        Some((blk, tids)) => {
                            let tids: BTreeSet<Tid> = tids.split(',').map(tid).collect();
                            let (first, last) = blk.split_once('-').unwrap_or((blk, blk));
                            let all = first.parse().unwrap()..=last.parse().unwrap();
                            file.blocks.extend(all.map(|n| (BlkNo(n), tids.clone())));
                        }
                        None => file.is_broken = true,
                    }
                }
                world.files.insert(oid(name), file);
            }
            ["tail", at] => world.tail = tid(at),
            ["forgets", name] => {
                world.files.get_mut(&oid(name)).unwrap().is_forgotten = true;
            }
            ["loses", name, before, ref why @ ..] => {
                let (oid, before) = (oid(name), tid(before));
                isolation.lose(Some(oid), before, &why.join(" "), world, now);
            }
            ["open", name, ref user @ ..] => {
                let user = user.first().map(|uid| Uid(uid.parse().unwrap()));
                let id = LinkId(self.links.len() as u64 + 1);
                self.links.insert(name.to_owned(), id);
                world.clients.insert(id, Client::Alive);
                isolation.open(id, user, now);
            }
            ["close", name] => isolation.closed(self.links[name], world, now),
            ["dies", name] => drop(world.clients.insert(self.links[name], Client::Dead)),
            ["deaf", name] => drop(world.clients.insert(self.links[name], Client::Deaf)),
            ["safe", name] => drop(world.clients.insert(self.links[name], Client::Safe)),
            ["wait", ms] => {
                let until = now + Duration::from_millis(ms.parse().unwrap());
                while let Some(at) = isolation.deadline(self.now).filter(|&at| at <= until) {
                    self.now = at.max(self.now);
                    isolation.tick(world, self.now);
                }
                self.now = until;
            }
            ["publish"] => world.is_publishing = true,
            ["commit", at, name, list] => {
                let changed = world.files.get_mut(&oid(name)).unwrap();
                for blk in blks(list) {
                    changed.blocks.entry(blk).or_default().insert(tid(at));
                }
                world.head = tid(at);
                if !world.is_publishing {
                    isolation.shown(tid(at), world, now);
                }
            }
            ["show"] => {
                world.is_publishing = false;
                isolation.shown(world.head, world, now);
            }
            ["strict"] => {
                let is_strict = true;
                let rules = Rules {
                    is_strict,
                    ..rules()
                };
                self.isolation = Isolation::new(self.world.head, rules);
            }
            [name, "asks", count] => self.write(name, &"1 x\n".repeat(count.parse().unwrap())),
            [name, "begins", count, file, at] => {
                let (file, at) = (oid(file), tid(at));
                let count: usize = count.parse().unwrap();
                let streams = (101..).step_by(2).take(count);
                let lines = streams.map(|n| format!("{n} watch {file} @{at}\n"));
                self.write(name, &lines.collect::<String>());
            }
            [name, "writes", count] => {
                self.write(name, &format!("{}\n", "x".repeat(count.parse().unwrap())));
            }
            [name, "skips", count] => {
                for _ in 0..count.parse().unwrap() {
                    let caller = self.caller(name);
                    self.isolation.read(self.links[name], caller, 4096);
                }
                let read = self.isolation.drain().count().to_string();
                assert_eq!(read, count);
            }
            [name, "signalled"] => {
                let mut of_it = self.callers.iter().filter(|(_, of)| *of == name);
                let unique = *of_it.next_back().unwrap().0;
                let worker = 0;
                self.isolation.interrupt(Caller { worker, unique });
            }
            [name, "other"] => {
                let caller = self.caller(name);
                let (isolation, world) = (&mut self.isolation, &mut self.world);
                if isolation.inherited(self.links[name], 77, world, now) {
                    isolation.refuse_use(caller, false);
                }
            }
            [name, "reads", file, list] => {
                let caller = self.caller(name);
                let (isolation, world) = (&mut self.isolation, &mut self.world);
                isolation.ask(caller, oid(file), blks(list), world, now);
            }
            [name, "reads", room] => {
                let caller = self.caller(name);
                self.isolation
                    .read(self.links[name], caller, room.parse().unwrap());
            }
            [name, "reads"] => {
                let caller = self.caller(name);
                self.isolation.read(self.links[name], caller, 4096);
            }
            [name, ..] => {
                let (link, arrow) = name.split_once('>').unwrap();
                let text = line.split_once(' ').map_or("", |(_, text)| text);
                let end = if arrow.is_empty() { "\n" } else { "" };
                let text = format!("{}{end}", text.replace("\\n", "\n"));
                self.write(link, &text);
            }
            [] => unreachable!("split gives one word at least"),
        }
        self.tell();
    }

    fn write(&mut self, name: &str, text: &str) {
        let caller = self.caller(name);
        let (isolation, world) = (&mut self.isolation, &mut self.world);
        isolation.write(self.links[name], caller, text.as_bytes(), world, self.now);
    }

    /// What came of it.
    fn tell(&mut self) {
        let said = std::mem::take(&mut self.world.said);
        for text in said {
            let _ = writeln!(self.out, "    {text}");
        }
        let actions: Vec<Action> = self.isolation.drain().collect();
        for action in actions {
            let name = |caller: &Caller| &self.callers[&caller.unique];
            let text = match &action {
                Action::Read(caller, Ok(bytes)) if bytes.is_empty() => {
                    format!("{} reads the end", name(caller))
                }
                Action::Read(caller, Ok(bytes)) => {
                    let text = String::from_utf8_lossy(bytes).replace('\n', "\\n");
                    let text = text.strip_suffix("\\n").unwrap_or(&text);
                    format!("{}< {text}", name(caller))
                }
                Action::Read(caller, Err(errno)) => format!("{}< {errno:?}", name(caller)),
                Action::Wrote(_, Ok(_)) => continue,
                Action::Wrote(caller, Err(errno)) => format!("{} wrote: {errno:?}", name(caller)),
                Action::Granted(caller, true) => format!("{} is answered", name(caller)),
                Action::Granted(caller, false) => format!("{} gets EIO", name(caller)),
                Action::Log(link, text) => format!("log {}: {text}", link.0),
                Action::Gone(link) => format!("link {} is gone", link.0),
                Action::Fail => "nobody may read any more".to_owned(),
            };
            let _ = writeln!(self.out, "    {text}");
        }
        let counts = self.isolation.counts();
        let _ = counts;
    }
}

#[test]
fn transcripts_are_what_happens() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/transcripts");
    let accept = std::env::var_os("ZRING_ACCEPT").is_some();
    let mut names: Vec<_> = fs::read_dir(&dir)
        .unwrap()
        .map(|e| e.unwrap().path())
        .collect();
    names.retain(|path| path.extension().is_some_and(|ext| ext == "txt"));
    names.sort();
    assert!(names.len() > 5, "there are transcripts");
    let mut failed = Vec::new();
    for path in names {
        let text = fs::read_to_string(&path).unwrap();
        let mut run = Run::new();
        for line in text.lines().filter(|line| !line.starts_with("    ")) {
            run.out.push_str(line);
            run.out.push('\n');
            if !line.is_empty() && !line.starts_with('#') {
                run.line(line);
            }
        }
        let counts = run.isolation.counts();
        let _ = writeln!(
            run.out,
            "    ({} links, {} watches, {} blocks pinned, {} pins sent, {} killed)",
            counts.links, counts.watches, counts.pinned, counts.pins, counts.kills
        );
        if accept {
            fs::write(&path, &run.out).unwrap();
        } else if run.out != text {
            println!("{}: now it is\n{}", path.display(), run.out);
            failed.push(path);
        }
    }
    assert!(failed.is_empty(), "{failed:?}");
}
