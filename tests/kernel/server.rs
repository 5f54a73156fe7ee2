//! The process that serves the scripted file system, and its commands.
//!
//! The test binary runs itself with `ZRING_KERNEL_SERVE` set; the test of this file then becomes the server. Commands
//! come as lines `<number> <command>` on stdin, answers go as `> <number> <answer>` to stdout, in any order: commands
//! that may wait in the kernel have a thread of their own. The end of stdin is the end of the mount.
//!
//! This process holds `/dev/fuse`: it never looks into its mount. It starts no other process but `fusermount3`, which
//! mounts and unmounts for an ordinary user.

use std::io::{BufRead, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::RecvTimeoutError;
use std::thread::Builder;
use std::time::{Duration, Instant};

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use zring::base::limit::POLLERS;
use zring::base::{NodeId, Unique};
use zring::engine::start::{Choice, start};
use zring::kernel::mount::{Connection, MountSpec};
use zring::kernel::notify::tell;
use zring::kernel::port::TransportKind;
use zring::wire::fuse::notify::{Head, RetrieveId, RetrieveLen};
use zring::wire::fuse::{abi, reply};

use crate::bent::{Bends, Gate};
use crate::raw;
use crate::script::{Actor, DATA, Script, fill, ms};

/// Set to make the test binary a server: `<mountpoint> <transport> [bend...]`.
pub(crate) const SERVE: &str = "ZRING_KERNEL_SERVE";

/// Not a test: the server, when asked for.
#[test]
fn role() {
    let Ok(how) = std::env::var(SERVE) else {
        return;
    };
    println!(); // the harness has begun a line
    if let Err(error) = serve(&how) {
        say(0, &format!("failed: {error}"));
    }
    std::process::exit(0);
}

pub(crate) fn say(id: u32, text: &str) {
    let mut out = std::io::stdout().lock();
    let _ = writeln!(out, "> {id} {text}");
    let _ = out.flush();
}

fn serve(how: &str) -> Result<(), Box<dyn std::error::Error>> {
    let mut words = how.split(' ');
    let mountpoint = words.next().unwrap_or_default();
    let transport = match words.next().unwrap_or_default() {
        "uring" => TransportKind::Uring,
        "dev" => TransportKind::Dev,
        _ => TransportKind::Plain,
    };
    let bends: Bends = words.collect();
    let spec = MountSpec {
        source: "script".into(),
        mountpoint: mountpoint.into(),
        subtype: "zscript".into(),
        allow_other: false,
        flags: Default::default(),
    };
    if bends.pinned {
        zring::kernel::proc::pin(0);
    }
    if bends.raw {
        return raw::serve(spec, &bends);
    }
    let script = Arc::<Script>::default();
    let actors = |count: usize| {
        (0..count)
            .map(|i| Actor::new(i, Arc::clone(&script)))
            .collect::<Vec<_>>()
    };
    let (connection, gate) = if bends.is_straight() {
        let running = start(spec, Choice::Force(transport), POLLERS, |_, _, seats| {
            script.take_seats(seats);
            Ok(actors(seats.len()))
        })?;
        (Arc::clone(&running.connection), Gate::default())
    } else {
        bends.start(spec, transport, |seats| {
            script.take_seats(seats);
            actors(seats.len())
        })?
    };
    let (major, minor) = connection.device.ok_or("the mount is not in mountinfo")?;
    let director = Director {
        script,
        connection,
        gate,
    };
    say(0, &format!("serving {major}:{minor}"));
    for line in std::io::stdin().lock().lines() {
        let line = line?;
        let (id, command) = line.split_once(' ').ok_or("a command has a number")?;
        let (id, command, director) = (id.parse()?, command.to_owned(), director.clone());
        if command == "quit" {
            break;
        }
        // Small, as memory may be short.
        let thread = Builder::new().stack_size(128 << 10);
        if let Err(error) = thread.spawn(move || say(id, &director.perform(&command))) {
            say(id, &format!("no thread: {error}"));
        }
    }
    // Whoever directs is gone or done: nobody may be left waiting.
    let _ = director.connection.abort();
    let _ = director.connection.unmount(true);
    Ok(())
}

/// So many KiB more of address space this process may have; 0 lifts that.
fn limit(kib: u64) -> String {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    let pages: u64 = statm.split(' ').next().unwrap().parse().unwrap();
    let (_, most) = getrlimit(Resource::RLIMIT_AS).unwrap();
    let soft = match kib {
        0 => most,
        _ => pages * 4096 + (kib << 10),
    };
    setrlimit(Resource::RLIMIT_AS, soft, most).unwrap();
    "limited".to_owned()
}

#[derive(Clone, Debug)]
struct Director {
    script: Arc<Script>,
    connection: Arc<Connection>,
    gate: Gate,
}

impl Director {
    fn perform(&self, command: &str) -> String {
        let words: Vec<&str> = command.split(' ').collect();
        let number = |i: usize| {
            words
                .get(i)
                .and_then(|w| w.parse::<u64>().ok())
                .unwrap_or(0)
        };
        let script = &self.script;
        match words[0] {
            "park" => {
                let len = if words.len() > 3 { number(3) } else { u64::MAX };
                script.park(words[1], number(2), len);
                "parking".to_owned()
            }
            "release" => script.release(),
            "answer" => script.answer(None),
            "refuse" => script.answer(i32::try_from(number(1)).ok()),
            "parked" => script.state().parked.to_string(),
            "counts" => script.counts(),
            "reads" => script.reads(),
            "bodies" => format!("{:?}", script.state().bodies.values().collect::<Vec<_>>()),
            "ports" => script.ports(),
            "reset" => {
                script.reset();
                "reset".to_owned()
            }
            "set" => self.set(words[1], number(2)),
            "register" => {
                self.gate.open();
                "registering".to_owned()
            }
            "inval" => self.tell(&Head::inval_inode(DATA, number(1), number(2)), &[]),
            "inval-attr" => self.tell(&Head::inval_attr(DATA), &[]),
            "inval-entry" => {
                let name = words[1].as_bytes();
                self.tell(&Head::inval_entry(NodeId::ROOT, name), &[name, b"\0"])
            }
            "store" => self.store(number(1), number(2)),
            "retrieve" => self.retrieve(number(1), number(2)).1,
            "retrieve-answer" => self.retrieve_answer(number(1), number(2)),
            "limit" => limit(number(1)),
            "umount" => self.unmount(false),
            "umount-lazy" => self.unmount(true),
            "abort" => format!("{:?}", self.connection.abort()),
            "gone" => script.wait_gone().to_string(),
            other => format!("unknown command {other}"),
        }
    }

    fn set(&self, what: &str, value: u64) -> String {
        let mut state = self.script.state();
        match what {
            "generation" => state.generation = value,
            "size" => state.size = value,
            "mtime" => state.mtime = value,
            "valid" => state.valid = value,
            "slow" => state.slow = Duration::from_millis(value),
            "open" => state.open = u32::try_from(value).unwrap(),
            _ => return "unknown".to_owned(),
        }
        "set".to_owned()
    }

    /// Writes one notification from this very thread, and says how long that took.
    fn tell(&self, head: &Head, data: &[&[u8]]) -> String {
        let began = Instant::now();
        match tell(&self.connection.fuse, head, data) {
            Ok(told) => format!("{told:?} {}", ms(began)),
            Err(error) => format!("{error} {}", ms(began)),
        }
    }

    fn store(&self, off: u64, len: u64) -> String {
        let mut data = vec![0; usize::try_from(len).unwrap()];
        fill(&mut data, self.script.state().generation, off);
        self.tell(&Head::store(DATA, off, data.len()), &[&data])
    }

    fn retrieve(&self, off: u64, len: u64) -> (RetrieveId, String) {
        static NEXT: AtomicU32 = AtomicU32::new(1);
        let id = RetrieveId(NEXT.fetch_add(1, Ordering::Relaxed));
        let payload = u32::try_from(zring::base::limit::PAYLOAD_BYTES).unwrap();
        let answer = self.script.expect_retrieve(id);
        let head = Head::retrieve(id, DATA, off, RetrieveLen::clamp(len, payload));
        let told = self.tell(&head, &[]);
        if !told.starts_with("Done") {
            return (id, told);
        }
        let answer = match answer.recv_timeout(Duration::from_secs(5)) {
            Ok(text) => text,
            Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {
                "no answer".to_owned()
            }
        };
        (id, answer)
    }

    /// Answers, by `/dev/fuse`, the message that brought the pages.
    fn retrieve_answer(&self, off: u64, len: u64) -> String {
        let (id, _) = self.retrieve(off, len);
        let header = reply::header(Unique(id.unique()), Ok(0));
        let written = (&self.connection.fuse).write(abi::bytes(&header));
        written.map_or_else(|error| error.to_string(), |n| n.to_string())
    }

    fn unmount(&self, lazy: bool) -> String {
        let began = Instant::now();
        let outcome = self.connection.unmount(lazy);
        format!("{outcome:?} {}", ms(began))
    }
}
