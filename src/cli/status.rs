//! `zring status`: is a server there, and does it answer?
//!
//! One `ok - ...` line for each check that passes, and at the first that does not one `fail - ...` line. What enters the mount or
//! may hang otherwise is done by processes that are left alone when their time is over ([`look`]); then it is shown where the
//! threads of the server and of its clients are.

use super::args::{Args, Usage};
use super::look::{self, PATIENCE, Seen};
use super::place::Target;
use super::{Failure, Outcome};
use crate::kernel::mountinfo::{self, Mounted};
use crate::kernel::process;
use anyhow::anyhow;
use nix::errno::Errno;
use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

const HELP: &str = "zring status ZURL|MNT

Tells whether a server is there and answers: of the database ZURL (it has a colon) at its usual place, or on the mountpoint MNT.
Exit codes: 0 it serves, 1 it serves something else, 3 nothing is there, 4 it answers, but head is EIO or does not follow the database,
6 it does not answer.
";

/// What a thread that is well needs to answer.
const ANSWER: Duration = Duration::from_millis(100);
/// What a READ waits for a server of the database at most, and some more.
const UPSTREAM: Duration = Duration::from_secs(40);

/// `zring status ...`
pub(super) fn command(args: Args) -> Outcome {
    let words = args.words();
    if words.iter().any(|w| w == "-h" || w == "--help") {
        print!("{HELP}");
        return Ok(());
    }
    let given = match words.as_slice() {
        [one] => one.to_string_lossy(),
        _ => {
            let (expected, command) = ("a database address or a mountpoint", "status");
            return Err(Usage::Count { expected, command }.into());
        }
    };
    let target = Target::of(&given)?;
    check(&target).inspect_err(|failure| println!("fail - {:#}", failure.error))
}

fn check(target: &Target) -> Outcome {
    let path = &target.path;
    let mount = entry(target)?;
    println!(
        "ok - mount entry: {} on {} ({}), connection {}",
        mount.source,
        path.display(),
        mount.fstype,
        mount.device.1
    );
    let servers = servers(path)?;
    let pids: Vec<i32> = servers.keys().copied().collect();
    match pids.as_slice() {
        [] => {
            let clients = clients(path, &pids)?;
            show_clients(&clients);
            let error = anyhow!(
                "server process: there is none: the mount on {} is dead",
                path.display()
            );
            return Err(Failure::new(3, error));
        }
        [pid] => println!(
            "ok - server process: {} ({}), {}",
            pid,
            servers[pid],
            process::state_of(*pid)
        ),
        more => return Err(anyhow!("server process: there are several: {more:?}").into()),
    }
    let stuck = |what: &str, left: Option<u32>| stuck(path, &pids, what, left);
    let device = format!("{}:{}", mount.device.0, mount.device.1);
    let got = match look::stat(path, PATIENCE)? {
        Seen::Said(said) => String::from_utf8_lossy(&said).into_owned(),
        Seen::Refused(errno) => return Err(refused("stat of the mountpoint", errno)),
        Seen::Late(_, left) => return Err(stuck("stat of the mountpoint", left)),
    };
    if got != device {
        return Err(anyhow!("stat of the mountpoint: device is {got}, not {device}").into());
    }
    println!("ok - stat of the mountpoint");
    match look::read(&path.join(".wcfs/zurl"), PATIENCE)? {
        Seen::Said(said) if said == mount.source.as_bytes() => {}
        Seen::Said(said) => {
            let said = String::from_utf8_lossy(&said).into_owned();
            return Err(anyhow!(".wcfs/zurl != zurl ({said} != {})", mount.source).into());
        }
        Seen::Refused(errno) => return Err(refused("read of .wcfs/zurl", errno)),
        Seen::Late(_, left) => return Err(stuck("read of .wcfs/zurl", left)),
    }
    println!("ok - read of .wcfs/zurl");
    let read = |name: &str| {
        let what = format!("read of .wcfs/{name}");
        match look::read(&path.join(".wcfs").join(name), PATIENCE)? {
            Seen::Said(said) => Ok(String::from_utf8_lossy(&said).into_owned()),
            Seen::Refused(errno) => Err(refused(&what, errno)),
            Seen::Late(_, left) => Err(stuck(&what, left)),
        }
    };
    read("stats")?;
    println!("ok - read of .wcfs/stats");
    // That asked control for a sign of life: whatever it has begun since is one.
    let (asked, mut stats) = (Instant::now(), String::new());
    let mut since = Duration::ZERO;
    while stat(&stats, "ControlBusy").is_some_and(|ms| ms >= since.as_millis()) || stats.is_empty()
    {
        if since > PATIENCE {
            return Err(stuck("control thread", None));
        }
        std::thread::sleep(ANSWER);
        since = asked.elapsed();
        stats = read("stats")?;
    }
    // It may wait for READs, and these for clients and servers.
    let pintimeout = read("pintimeout")?.trim().parse().unwrap_or(30.0);
    let pintimeout = Duration::try_from_secs_f64(pintimeout).unwrap_or(PATIENCE);
    let limit = (2 * pintimeout + UPSTREAM).as_millis();
    if stat(&stats, "NotifyBusy").is_some_and(|ms| ms > limit) {
        return Err(stuck("notifier thread", None));
    }
    println!("ok - control and notifier");
    if let Some(why) = standstill(&stats) {
        return Err(Failure::new(4, anyhow!("head: {why}")));
    }
    println!("ok - head");
    Ok(())
}

/// Why a mount that answers is not well, and what to do, by its `.wcfs/stats`.
pub(super) fn standstill(stats: &str) -> Option<String> {
    let is = |name| stat(stats, name).unwrap_or(0);
    if is("Failed") > 0 {
        let why = "the database could not be followed any more, and everything under it is EIO";
        return Some(format!("{why}; see the log, then unmount and mount again"));
    }
    if is("Troubled") > 0 {
        let why = "the database cannot be followed just now; it is tried again, see the log";
        return Some(why.to_owned());
    }
    let pos = is("TailFault");
    (pos > 0).then(|| {
        format!(
            "the database goes on at position {pos} with what is no transaction, and is served up to there; a ZODB writer \
             that opens it puts it right"
        )
    })
}

/// A value of `.wcfs/stats`; other servers do not have all of them.
pub(super) fn stat(stats: &str, name: &str) -> Option<u128> {
    let value = |line: &str| {
        line.split_once("\t: ")
            .filter(|(n, _)| *n == name)?
            .1
            .parse()
            .ok()
    };
    stats.lines().find_map(value)
}

/// The mount of a target.
fn entry(target: &Target) -> Result<Mounted, Failure> {
    let shown = target.path.display();
    let Some(mount) = mountinfo::topmost(&target.path) else {
        let error = anyhow!("mount entry: nothing is mounted on {shown}");
        return Err(Failure::new(3, error));
    };
    if !mount.is_ours() {
        let error = anyhow!(
            "mount entry: on {shown} is {} ({})",
            mount.source,
            mount.fstype
        );
        return Err(Failure::new(3, error));
    }
    match &target.zurl {
        Some(zurl) if *zurl != mount.source => {
            Err(anyhow!("mount entry: {shown} serves {}, not {zurl}", mount.source).into())
        }
        _ => Ok(mount),
    }
}

fn refused(what: &str, errno: Errno) -> Failure {
    let code = match errno {
        Errno::ENOTCONN | Errno::ECONNABORTED => 3,
        Errno::EACCES | Errno::EPERM => 7,
        _ => 1,
    };
    Failure::new(code, anyhow!("{what}: {errno}"))
}

/// A look did not end: shows who waits where.
fn stuck(path: &Path, servers: &[i32], what: &str, left: Option<u32>) -> Failure {
    let clients = clients(path, servers).unwrap_or_default();
    show_clients(&clients);
    let mut pids = servers.to_vec();
    pids.extend(clients.keys());
    pids.extend(left.and_then(|pid| i32::try_from(pid).ok()));
    if let Ok(seen) = look::stacks(&pids, PATIENCE) {
        print!("{}", seen.text());
    }
    let limit = PATIENCE.as_secs();
    let behind = left.map_or(String::new(), |pid| {
        format!("; process {pid}, which asked, is left behind in an uninterruptible wait")
    });
    Failure::new(6, anyhow!("{what}: no answer within {limit} s{behind}"))
}

/// Servers of a mount: their numbers and names.
pub(super) fn servers(path: &Path) -> Result<BTreeMap<i32, String>, Failure> {
    let text = look::servers(path, PATIENCE)?.text();
    Ok(text
        .lines()
        .filter_map(|line| {
            let mut fields = line.split('\t');
            Some((fields.next()?.parse().ok()?, fields.next()?.to_owned()))
        })
        .collect())
}

/// A process that holds a mount.
#[derive(Clone, Debug, Default)]
pub(super) struct Client {
    /// Its name.
    pub(super) comm: String,
    holds: Vec<String>,
}

/// Who holds a mount, the servers and what we have left behind aside.
pub(super) fn clients(path: &Path, servers: &[i32]) -> Result<BTreeMap<i32, Client>, Failure> {
    let text = look::holders(path, 2 * PATIENCE)?.text();
    let mut clients: BTreeMap<i32, Client> = BTreeMap::new();
    for line in text.lines() {
        let fields: Vec<&str> = line.split('\t').collect();
        let [pid, comm, what] = fields.as_slice() else {
            continue;
        };
        let Ok(pid) = pid.parse() else { continue };
        if servers.contains(&pid) {
            continue;
        }
        let client = clients.entry(pid).or_default();
        client.comm = (*comm).to_owned();
        client.holds.push((*what).to_owned());
    }
    Ok(clients)
}

/// One line for each.
pub(super) fn show_clients(clients: &BTreeMap<i32, Client>) {
    for (pid, Client { comm, holds }) in clients {
        let (shown, more) = holds.split_at(holds.len().min(8));
        let more = match more.len() {
            0 => String::new(),
            n => format!(" and {n} more"),
        };
        println!("held by process {pid} ({comm}): {}{more}", shown.join(", "));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn why_a_mount_that_answers_is_not_well() {
        let stats = |failed, troubled, fault| {
            let all = format!("Failed\t: {failed}\nTroubled\t: {troubled}\nTailFault\t: {fault}\n");
            standstill(&all).unwrap_or_default()
        };
        assert_eq!(
            (standstill("pin\t: 3\n"), stats(0, 0, 0)),
            (None, String::new())
        );
        assert!(stats(1, 1, 7).contains("EIO") && stats(0, 1, 7).contains("tried again"));
        assert!(stats(0, 0, 7).contains("at position 7"));
    }
}
