//! What `/proc` tells of processes that have to do with a mount: who serves it, who holds it, where their threads are.
//!
//! Nothing here enters the mount. But to read the mappings or the arguments of a process takes a lock of its memory, and a
//! process that hangs in a page fault may keep that lock: such a look may never end. So what may hang is asked last and by a
//! thread of its own, and the whole is run in a process that can be left alone.

use super::mountinfo::Mounted;
use super::proc;
use std::fs;
use std::path::Path;
use std::sync::mpsc;
use std::time::Duration;

/// How long the mappings of one process may take to be read.
const MAPPINGS: Duration = Duration::from_millis(300);

/// A process that has a FUSE connection open.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Server {
    /// Its number.
    pub pid: i32,
    /// Its name.
    pub comm: String,
    /// Descriptors of `/dev/fuse`.
    pub fds: usize,
}

/// Names that a server goes by.
const NAMES: [&str; 3] = ["wcfs", "zring", "mount.zring"];

/// The processes that serve the connection whose device has this minor number. Who else has a descriptor of it, a service
/// manager that keeps it safe, is none. Kernels that do not say which connection a descriptor is of leave the arguments to go
/// by: the last two are `tail`, the database and the mountpoint.
pub fn servers(minor: u32, tail: &[&str; 2]) -> Vec<Server> {
    let of = |pid: i32| {
        let mut fds = 0;
        let mut known = None;
        for (fd, target) in links(pid) {
            if target != "/dev/fuse" {
                continue;
            }
            let info = fs::read_to_string(format!("/proc/{pid}/fdinfo/{fd}")).unwrap_or_default();
            let connection = field(&info, "fuse_connection:").and_then(|n| n.parse().ok());
            if connection.is_none_or(|n: u32| n == minor) {
                fds += 1;
            }
            known = known.or(connection.map(|_| ()));
        }
        let by_arguments = || {
            let words = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            is_told(&String::from_utf8_lossy(&words), tail)
        };
        let comm = comm(pid);
        let is_named = || NAMES.contains(&comm.as_str()) || is_this_program(pid);
        (fds > 0 && is_named() && (known.is_some() || by_arguments())).then_some(Server {
            pid,
            comm,
            fds,
        })
    };
    pids().filter_map(of).collect()
}

/// Whether a process was told to serve `tail`: a derived mountpoint is not among the arguments.
fn is_told(cmdline: &str, tail: &[&str; 2]) -> bool {
    let words: Vec<&str> = cmdline.trim_end_matches('\0').split('\0').collect();
    words.ends_with(tail) || words.ends_with(&tail[..1])
}

fn is_this_program(pid: i32) -> bool {
    let exe = |pid: &str| fs::read_link(format!("/proc/{pid}/exe")).ok();
    exe(&pid.to_string()).is_some_and(|theirs| exe("self") == Some(theirs))
}

/// Tells of each process that holds the mount: its number, its name, and by what. Mappings come last.
pub fn holders(mounts: &[Mounted], mut tell: impl FnMut(i32, &str, &str)) {
    let Some(first) = mounts.first() else { return };
    let inside =
        |link: &str| Path::new(link.trim_end_matches(" (deleted)")).starts_with(&first.path);
    for pid in pids() {
        for what in ["cwd", "root", "exe"] {
            let link = fs::read_link(format!("/proc/{pid}/{what}")).unwrap_or_default();
            if inside(&link.to_string_lossy()) {
                tell(pid, &comm(pid), what);
            }
        }
        for (fd, _) in links(pid) {
            let info = fs::read_to_string(format!("/proc/{pid}/fdinfo/{fd}")).unwrap_or_default();
            let id = field(&info, "mnt_id:").and_then(|id| id.parse::<u32>().ok());
            if id.is_some_and(|id| mounts.iter().any(|mount| mount.id == id)) {
                tell(pid, &comm(pid), &format!("fd {fd}"));
            }
        }
    }
    let (major, minor) = first.device;
    let device = format!(" {major:02x}:{minor:02x} ");
    for pid in pids() {
        match mappings(pid) {
            Some(text) => {
                if text.lines().any(|line| line.contains(&device)) {
                    tell(pid, &comm(pid), "mapping");
                }
            }
            None => tell(pid, &comm(pid), "mappings cannot be read: it is stuck"),
        }
    }
}

/// `/proc/<pid>/maps`, or `None` when that takes too long.
fn mappings(pid: i32) -> Option<String> {
    let (done, answer) = mpsc::channel();
    let asked = proc::spawn("zring-maps", move || {
        let text = fs::read_to_string(format!("/proc/{pid}/maps")).unwrap_or_default();
        let _ = done.send(text);
    });
    match asked {
        Ok(_) => answer.recv_timeout(MAPPINGS).ok(),
        Err(_) => Some(String::new()),
    }
}

/// Each thread of a process: its number, name and state, where it sleeps, and its stack in the kernel where that may be seen.
pub fn stacks(pid: i32) -> String {
    let mut out = String::new();
    for tid in numbers(Path::new(&format!("/proc/{pid}/task"))) {
        let read = |name: &str| {
            let text = fs::read_to_string(format!("/proc/{pid}/task/{tid}/{name}"));
            text.unwrap_or_default().trim_end().to_owned()
        };
        let (name, wchan) = (read("comm"), read("wchan"));
        let asleep = if wchan.is_empty() || wchan == "0" {
            String::new()
        } else {
            format!(" in {wchan}")
        };
        out += &format!("  thread {tid} {name}: {}{asleep}\n", state(&read("stat")));
        for line in read("stack").lines() {
            out += &format!("    {line}\n");
        }
    }
    out
}

/// What a process is doing, as one letter and its meaning.
pub fn state_of(pid: i32) -> String {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    state(&stat)
}

/// Whether a process is gone, or only its end is left to be seen: its first thread has ended.
pub fn is_ending(pid: i32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let letter = stat
        .rsplit_once(") ")
        .and_then(|(_, rest)| rest.chars().next());
    matches!(letter, None | Some('Z' | 'X'))
}

/// The state in a line of `stat`: behind the name, which may hold anything.
fn state(stat: &str) -> String {
    let letter = stat
        .rsplit_once(") ")
        .and_then(|(_, rest)| rest.chars().next());
    let meaning = match letter {
        Some('R') => "running",
        Some('S') => "sleeping",
        Some('D') => "in an uninterruptible wait",
        Some('T') => "stopped by a signal",
        Some('t') => "stopped by a debugger",
        Some('Z') => "ended, not yet collected",
        Some('X') | None => "gone",
        Some(_) => "idle",
    };
    format!("{} ({meaning})", letter.unwrap_or('X'))
}

/// The name of a process.
pub fn comm(pid: i32) -> String {
    let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
    name.trim_end_matches('\n').to_owned()
}

fn field<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    text.lines()
        .find_map(|line| line.strip_prefix(name))
        .map(str::trim)
}

/// Descriptors of a process and where they lead.
fn links(pid: i32) -> impl Iterator<Item = (i32, String)> {
    numbers(Path::new(&format!("/proc/{pid}/fd")))
        .into_iter()
        .filter_map(move |fd| {
            let link = fs::read_link(format!("/proc/{pid}/fd/{fd}")).ok()?;
            Some((fd, link.to_string_lossy().into_owned()))
        })
}

/// All processes but this one.
fn pids() -> impl Iterator<Item = i32> {
    let own = nix::unistd::getpid().as_raw();
    numbers(Path::new("/proc"))
        .into_iter()
        .filter(move |&pid| pid != own)
}

/// Names in a directory that are numbers, in order.
fn numbers(dir: &Path) -> Vec<i32> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    let mut all: Vec<i32> = entries
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .collect();
    all.sort_unstable();
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_state_is_read_behind_the_name() {
        assert_eq!(
            state("7 (a) T (b)) D 1 2"),
            "D (in an uninterruptible wait)"
        );
        assert_eq!(state("7 (x) T 1"), "T (stopped by a signal)");
        assert_eq!(state(""), "X (gone)");
    }

    #[test]
    fn a_server_is_known_by_its_last_arguments() {
        let tail = ["file:///a b", "/mnt"];
        assert!(is_told("wcfs\0-debug\0file:///a b\0/mnt\0", &tail));
        assert!(is_told("zring\0serve\0file:///a b\0", &tail));
        assert!(!is_told("wcfs\0file:///a b\0/mnt2\0", &tail));
        assert!(!is_told("cat\0/mnt\0", &tail));
        assert!(!is_told("", &tail));
    }

    #[test]
    fn the_threads_of_a_process_are_listed() {
        let own = nix::unistd::getpid().as_raw();
        let text = stacks(own);
        assert!(text.contains(&format!("thread {own} ")), "{text}");
    }
}
