//! `zring stop`: ends a server and its mount, in steps that each have their time, whatever hangs.
//!
//! ```text
//!   unmount --busy--> SIGTERM to the server --lives--> abort of the connection
//!      |                                                     |
//!      +-> the server ends <--SIGQUIT, SIGKILL if it does not+
//!             |
//!             +-> still mounted: SIGTERM, SIGKILL to who holds it --> unmount --> rmdir of a derived mountpoint
//! ```
//!
//! Clients are ended rather than left with a tree that nothing is behind of any more; `--lazy` leaves them. Who holds the mount is
//! named before anything is done about it.

use super::args::{self, Args, Usage};
use super::look::{self, PATIENCE, Seen};
use super::place::Target;
use super::status::{clients, servers, show_clients};
use super::{Failure, Outcome};
use crate::kernel::mountinfo::{self, Mounted};
use crate::kernel::pidfd::PidFd;
use crate::kernel::{mount as kmount, proc};
use anyhow::anyhow;
use lexopt::prelude::*;
use nix::errno::Errno;
use nix::sys::signal::Signal;
use std::time::{Duration, Instant};

const HELP: &str = "zring stop [--timeout D] [--lazy] ZURL|MNT

Ends the server of the database ZURL (it has a colon) at its usual place, or the one on the mountpoint MNT, and unmounts. A server
that does not end is ended by the kernel; after that, processes that hold the mount are sent SIGTERM, then SIGKILL. With --lazy they
are left alone, with errors for whatever they do there. All steps together may take about D [25s].
";

/// `zring stop ...`
pub(super) fn command(args: Args) -> Outcome {
    let (mut timeout, mut lazy, mut given) = (Duration::from_secs(25), false, Vec::new());
    let mut args = args.parser();
    let wrong = |error| Usage::Argument(error, "stop");
    while let Some(arg) = args.next().map_err(wrong)? {
        match arg {
            Short('h') | Long("help") => {
                print!("{HELP}");
                return Ok(());
            }
            Long("timeout") => {
                timeout = args::duration(&args.value().map_err(wrong)?.to_string_lossy())?;
            }
            Short('l' | 'z') | Long("lazy") => lazy = true,
            Value(value) => given.push(value.to_string_lossy().into_owned()),
            _ => return Err(wrong(arg.unexpected()).into()),
        }
    }
    let [given] = given.as_slice() else {
        let (expected, command) = ("a database address or a mountpoint", "stop");
        return Err(Usage::Count { expected, command }.into());
    };
    let target = Target::of(given)?;
    let is_derived = target.zurl.is_some();
    let path = target.path.clone();
    let outcome = Stop::new(target, timeout, lazy).and_then(|stop| stop.run());
    let nothing = matches!(&outcome, Err(Failure { code: 3, .. }));
    if is_derived && (outcome.is_ok() || nothing) {
        // Whatever made it will make it again.
        let _ = std::fs::remove_dir(&path);
    }
    outcome
}

/// One stop.
#[derive(Debug)]
struct Stop {
    target: Target,
    mount: Mounted,
    servers: Vec<PidFd>,
    lazy: bool,
    /// Time of one step.
    step: Duration,
    end: Instant,
}

impl Stop {
    fn new(target: Target, timeout: Duration, lazy: bool) -> Result<Self, Failure> {
        let shown = target.path.display();
        let mount = mountinfo::topmost(&target.path).filter(Mounted::is_ours);
        let Some(mount) = mount else {
            let error = anyhow!("nothing of zring is mounted on {shown}");
            return Err(Failure::new(3, error));
        };
        if let Some(zurl) = target.zurl.as_ref().filter(|zurl| **zurl != mount.source) {
            return Err(anyhow!("{shown} serves {}, not {zurl}", mount.source).into());
        }
        let own = proc::ids().0;
        if own != 0 && mount.owner != Some(own) {
            let error = anyhow!("the mount on {shown} belongs to another user");
            return Err(Failure::new(7, error));
        }
        let found = servers(&target.path)?;
        let servers = found.keys().filter_map(|&pid| PidFd::open(pid).ok());
        Ok(Self {
            servers: servers.collect(),
            target,
            mount,
            lazy,
            step: timeout / 5,
            end: Instant::now() + timeout,
        })
    }

    fn run(&self) -> Outcome {
        self.unmount_first()?;
        self.end_servers();
        if self.is_mounted() {
            self.end_clients()?;
        }
        self.unmount_last()?;
        let alive: Vec<i32> = self.alive().map(|server| server.pid).collect();
        if !alive.is_empty() {
            if let Ok(seen) = look::stacks(&alive, PATIENCE) {
                print!("{}", seen.text());
            }
            let error =
                anyhow!("it is unmounted, but the server {alive:?} does not even end of SIGKILL");
            return Err(Failure::new(6, error));
        }
        Ok(())
    }

    fn is_mounted(&self) -> bool {
        let there = mountinfo::mounts_at(&self.target.path);
        there.iter().any(|mount| mount.id == self.mount.id)
    }

    fn alive(&self) -> impl Iterator<Item = &PidFd> {
        self.servers
            .iter()
            .filter(|server| !server.wait(Duration::ZERO))
    }

    /// Waits for the servers' end for one step, or for what is left of the time; true when all have ended.
    fn wait(&self) -> bool {
        let least = Duration::from_millis(100);
        let left = self.end.saturating_duration_since(Instant::now());
        let end = Instant::now() + self.step.min(left).max(least);
        self.servers
            .iter()
            .all(|server| server.wait(end.saturating_duration_since(Instant::now())))
    }

    fn signal(&self, signal: Signal) {
        for server in self.alive() {
            let said = match server.signal(signal) {
                Ok(()) => String::new(),
                Err(errno) => format!(": {errno}"),
            };
            println!("{signal} to the server {}{said}", server.pid);
        }
    }

    fn unmount_first(&self) -> Outcome {
        let shown = self.target.path.display();
        match look::unmount(&self.target.path, false, PATIENCE)? {
            Seen::Said(_) => {
                println!("unmounted {shown}");
                return Ok(());
            }
            Seen::Refused(errno) => println!("{shown} cannot be unmounted yet: {errno}"),
            Seen::Late(..) => println!("{shown} cannot be unmounted yet: that does not end"),
        }
        let servers: Vec<i32> = self.servers.iter().map(|server| server.pid).collect();
        show_clients(&clients(&self.target.path, &servers)?);
        if self.lazy
            && matches!(
                look::unmount(&self.target.path, true, PATIENCE)?,
                Seen::Said(_)
            )
        {
            println!("detached {shown}");
        }
        self.signal(Signal::SIGTERM);
        self.wait();
        // Whoever waits for an answer gets an error; there is nothing to abort when the connection is gone.
        match kmount::abort_minor(self.mount.device.1) {
            Ok(()) => println!("aborted connection {}", self.mount.device.1),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => println!(
                "connection {} cannot be aborted: {error}",
                self.mount.device.1
            ),
        }
        Ok(())
    }

    fn end_servers(&self) {
        for signal in [Signal::SIGQUIT, Signal::SIGKILL] {
            if self.wait() {
                return;
            }
            self.signal(signal);
        }
        self.wait();
    }

    /// Ends who keeps the mount busy, but for what this very program has left behind.
    fn end_clients(&self) -> Outcome {
        let servers: Vec<i32> = self.servers.iter().map(|server| server.pid).collect();
        let found = clients(&self.target.path, &servers)?;
        show_clients(&found);
        let clients = found.keys().filter_map(|&pid| PidFd::open(pid).ok());
        let clients: Vec<PidFd> = clients.collect();
        for signal in [Signal::SIGTERM, Signal::SIGKILL] {
            let end = Instant::now() + self.step / 2;
            for client in clients.iter().filter(|client| !client.wait(Duration::ZERO)) {
                let said = client.signal(signal).err();
                let said = said.map_or(String::new(), |errno: Errno| format!(": {errno}"));
                let comm = found.get(&client.pid).map_or("", |found| &found.comm);
                println!("{signal} to process {} ({comm}){said}", client.pid);
            }
            for client in &clients {
                client.wait(end.saturating_duration_since(Instant::now()));
            }
        }
        Ok(())
    }

    fn unmount_last(&self) -> Outcome {
        if !self.is_mounted() {
            return Ok(());
        }
        let shown = self.target.path.display();
        match look::unmount(&self.target.path, self.lazy, PATIENCE)? {
            Seen::Said(_) => {
                println!("unmounted {shown}");
                Ok(())
            }
            Seen::Refused(errno) => Err(anyhow!("{shown} cannot be unmounted: {errno}").into()),
            Seen::Late(..) => {
                let error = anyhow!("{shown} cannot be unmounted: that does not end");
                Err(Failure::new(6, error))
            }
        }
    }
}
