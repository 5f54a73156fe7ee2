//! Ring entries by hand, one command at a time: what the kernel does with them when nobody helps (kernel-notes 0002,
//! 0011).
//!
//! The daemon's `Queues` register more entries and kick a queue that ran dry, which hides what is looked at here. So
//! this server has bare entries, and does with them what it is told: `register QUEUE`, `reap`, `commit ENTRY`. Every
//! request is answered ENOENT.

use std::io::BufRead;
use std::os::fd::AsRawFd;
use std::time::Duration;

use io_uring::squeue::Entry128;
use io_uring::{IoUring, opcode, types};
use zring::base::limit;
use zring::kernel::mount::{Connection, MountSpec};
use zring::kernel::proc;
use zring::kernel::ring::Ring;
use zring::wire::fuse::abi::{RingBlock, ring_cmd};

use crate::bent::Bends;
use crate::machine::Transport;
use crate::server::say;
use crate::stage::{SOON, Stage};

type Failure = Box<dyn std::error::Error>;

/// One entry. The kernel knows its buffers by address: they are leaked.
struct Entry {
    qid: u16,
    block: &'static mut [u8],
    payload: &'static mut [u8],
    iovecs: &'static [libc::iovec; 2],
}

impl Entry {
    fn new(qid: u16) -> Self {
        let block = vec![0u8; size_of::<RingBlock>()].leak();
        let payload = vec![0u8; limit::PAYLOAD_BYTES].leak();
        let iovecs = [&mut *block, &mut *payload].map(|buf| libc::iovec {
            iov_base: buf.as_mut_ptr().cast(),
            iov_len: buf.len(),
        });
        Self {
            qid,
            block,
            payload,
            iovecs: Box::leak(Box::new(iovecs)),
        }
    }

    fn word(&self, at: usize) -> u64 {
        u64::from_ne_bytes(self.block[at..at + 8].try_into().unwrap())
    }

    /// The name it was given: of a LOOKUP.
    fn name(&self) -> String {
        let end = self.payload.iter().position(|&c| c == 0).unwrap();
        String::from_utf8_lossy(&self.payload[..end]).into_owned()
    }
}

/// What the kernel is given for an entry; `iovecs` for a REGISTER.
#[allow(unsafe_code, reason = "see its SAFETY comment")]
fn command(cmd: u32, entry: &Entry, commit_id: u64, data: u64) -> Entry128 {
    let mut area = [0; 80];
    area[8..16].copy_from_slice(&commit_id.to_ne_bytes());
    area[16..18].copy_from_slice(&entry.qid.to_ne_bytes());
    let command = opcode::UringCmd80::new(types::Fixed(0), cmd).cmd(area);
    if cmd != ring_cmd::REGISTER {
        return command.build().user_data(data);
    }
    let iovecs = std::ptr::from_ref(entry.iovecs) as u64;
    let mut entry = command.addr(Some(iovecs)).build().user_data(data);
    let len_at = std::ptr::from_mut(&mut entry).cast::<u32>().wrapping_add(6);
    // SAFETY: an Entry128 is 128 bytes of plain data in the kernel's layout; byte 24 is `len`, without a setter.
    unsafe { len_at.write(2) };
    entry
}

struct Server {
    ring: Ring,
    entries: Vec<Entry>,
}

#[allow(unsafe_code, reason = "see its SAFETY comments")]
impl Server {
    fn register(&mut self, qid: u16) -> Result<usize, Failure> {
        let index = self.entries.len();
        let entry = Entry::new(qid);
        let data = u64::try_from(index)?;
        let command = command(ring_cmd::REGISTER, &entry, 0, data);
        // SAFETY: the memory of an entry is leaked, and looked at when it has completed.
        unsafe { self.ring.push(command) };
        self.entries.push(entry);
        self.ring.submit()?;
        Ok(index)
    }

    /// Completions within a while: the entry and the name it was given, or the errno.
    fn reap(&mut self) -> Result<String, Failure> {
        let mut done = Vec::new();
        self.ring.wait(Some(Duration::from_millis(300)))?;
        self.ring.reap(&mut done);
        let all = done.iter().map(|c| {
            let index = usize::try_from(c.data)?;
            match c.res {
                0 => Ok(format!("{index}:{}", self.entries[index].name())),
                errno => Ok(format!("{index}:{errno}")),
            }
        });
        Ok(all.collect::<Result<Vec<_>, Failure>>()?.join(" "))
    }

    /// Answers ENOENT and asks for the next.
    fn commit(&mut self, index: usize) -> Result<(), Failure> {
        let entry = &mut self.entries[index];
        let (unique, commit_id) = (entry.word(8), entry.word(264));
        entry.block[..4].copy_from_slice(&16u32.to_ne_bytes());
        entry.block[4..8].copy_from_slice(&(-libc::ENOENT).to_ne_bytes());
        entry.block[8..16].copy_from_slice(&unique.to_ne_bytes());
        let data = u64::try_from(index)?;
        let command = command(ring_cmd::COMMIT_AND_FETCH, entry, commit_id, data);
        // SAFETY: as in `register`.
        unsafe { self.ring.push(command) };
        Ok(self.ring.submit()?)
    }
}

/// What comes of a command on a ring of 64-byte entries.
#[allow(unsafe_code, reason = "see its SAFETY comment")]
fn on_small_entries(connection: &Connection) -> Result<i32, Failure> {
    let mut ring = IoUring::new(4)?;
    let fd = types::Fd(connection.fuse.as_raw_fd());
    let entry = opcode::UringCmd16::new(fd, ring_cmd::REGISTER).build();
    // SAFETY: the command names no buffer.
    unsafe { ring.submission().push(&entry) }?;
    ring.submit_and_wait(1)?;
    let done = ring.completion().next().ok_or("no completion")?;
    Ok(done.result())
}

/// The server, in place of the scripted one. Has entries for every queue but answers nothing by itself.
pub(crate) fn serve(spec: MountSpec, bends: &Bends) -> Result<(), Failure> {
    let connection = Connection::mount(spec)?;
    let ring = Ring::new()?;
    let entries = Vec::new();
    let mut server = Server { ring, entries };
    server
        .ring
        .register_file(std::os::fd::AsFd::as_fd(&connection.fuse))?;
    server.register(0)?;
    let early = server.reap()?;
    bends.shake_hands(&connection, true)?;
    let small = on_small_entries(&connection)?;
    server.entries.clear();
    for qid in 0..proc::queues().ok_or("no /sys")? {
        server.register(qid)?;
    }
    let (major, minor) = connection.device.ok_or("the mount is not in mountinfo")?;
    say(0, &format!("serving {major}:{minor}"));
    for line in std::io::stdin().lock().lines() {
        let line = line?;
        let words: Vec<&str> = line.split(' ').collect();
        let (id, number) = (words[0].parse()?, words.get(2));
        let answer = match (words[1], number) {
            ("early", _) => format!("before INIT {early}, 64-byte entry {small}"),
            ("register", Some(qid)) => server.register(qid.parse()?)?.to_string(),
            ("reap", _) => server.reap()?,
            ("commit", Some(index)) => {
                server.commit(index.parse()?)?;
                "committed".to_owned()
            }
            _ => break,
        };
        say(id, &answer);
    }
    let _ = connection.abort();
    let _ = connection.unmount(true);
    Ok(())
}

/// A client on CPU 0 that looks for a name.
fn caller(stage: &Stage, name: &str, waiting: usize) -> crate::child::Running {
    let client = stage.send(&format!("pin 0 ; stat {{}}/{name}"));
    stage.await_waiting(waiting);
    client
}

#[test]
fn entries_that_come_too_early_or_too_small() {
    let Some(mut stage) = Stage::up("raw-early", Transport::Uring, "raw") else {
        return;
    };
    let found = stage.ask("early");
    assert_eq!(found, "before INIT 0:-11, 64-byte entry -22");
}

#[test]
fn a_late_entry_does_not_fetch_what_waits() {
    let Some(mut stage) = Stage::up("raw-late", Transport::Uring, "raw") else {
        return;
    };
    // Queue 0 has one entry. The first caller takes it, the others wait in the kernel.
    let mut clients = vec![caller(&stage, "a", 1)];
    assert_eq!(stage.ask("reap"), "0:a");
    clients.push(caller(&stage, "b", 2));
    clients.push(caller(&stage, "c", 3));
    assert_eq!(stage.ask("reap"), "");

    // A new entry is free, and stays free.
    let new = stage.ask("register 0");
    assert_eq!(stage.ask("reap"), "", "a REGISTER fetched what waits");
    // Who comes now takes it, past those who wait.
    clients.push(caller(&stage, "d", 4));
    assert_eq!(stage.ask("reap"), format!("{new}:d"));
    // Each commit fetches one of them, whichever entry it is of.
    stage.ask(&format!("commit {new}"));
    assert_eq!(stage.ask("reap"), format!("{new}:b"));
    stage.ask("commit 0");
    assert_eq!(stage.ask("reap"), "0:c");
    stage.ask("commit 0");
    stage.ask(&format!("commit {new}"));
    assert_eq!(stage.ask("reap"), "");
    for client in clients {
        let ended = client.wait(SOON).good();
        assert!(ended.out.contains("errno 2"), "{ended}");
    }
}
