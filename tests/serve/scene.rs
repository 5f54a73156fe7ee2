//! A database that the test wrote, and servers of it: a copy of the binary under the name `wcfs`, as a package has it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use zring::base::BlkSize;
use zring::zodb::Family;
use zring::zodb::write::{self, Leaf};

use crate::base::Base;
use crate::child::{Ended, Running, becomes_true};
use crate::machine::{Transport, zring};
use crate::rig::{Mount, Rig, SHORT, zurl};

/// See the module. The mountpoint is there, nothing is mounted.
#[derive(Debug)]
pub(crate) struct Scene<'r> {
    pub(crate) rig: &'r Rig,
    pub(crate) base: Base,
    pub(crate) zurl: String,
    /// The binary.
    pub(crate) wcfs: PathBuf,
    pub(crate) at: PathBuf,
}

impl<'r> Scene<'r> {
    /// With a database named `Data.fs`.
    pub(crate) fn new(rig: &'r Rig) -> Self {
        Self::named(rig, "Data.fs")
    }

    /// One file of four blocks.
    pub(crate) fn named(rig: &'r Rig, name: &str) -> Self {
        let path = rig.path(name);
        let mut base = Base::create(&path);
        let file = base.file(8192, Leaf::Blk0);
        (0..4).for_each(|blk| base.set(file, blk, 1));
        base.commit();
        let package = rig.path("package");
        let wcfs = package.join("wcfs");
        if !wcfs.exists() {
            fs::create_dir(&package).unwrap();
            // A file by itself, not a link that leads to one.
            if fs::hard_link(zring(), &wcfs).is_err() {
                fs::copy(zring(), &wcfs).unwrap();
            }
        }
        let at = rig.path("mnt");
        fs::create_dir_all(&at).unwrap();
        Self {
            rig,
            base,
            zurl: zurl(&path),
            wcfs,
            at,
        }
    }

    /// A server's command line: these flags, the database, the mountpoint.
    pub(crate) fn command(&self, flags: &[&str]) -> Command {
        let mut c = self.rig.command(&self.wcfs);
        c.arg("-logtostderr").args(flags);
        c.arg(&self.zurl).arg(&self.at);
        c
    }

    /// A server that serves.
    pub(crate) fn up(&self, flags: &[&str]) -> Mount<'r> {
        let mut command = self.command(flags);
        self.rig
            .mount_by(&mut command, self.at.clone(), &self.zurl)
            .unwrap_or_else(|e| panic!("no mount: {e}"))
    }

    /// The same by a transport.
    pub(crate) fn up_by(&self, transport: Transport) -> Mount<'r> {
        self.up(&["-o", &format!("transport={}", transport.name())])
    }

    /// A server that does not come to serve.
    pub(crate) fn refused(&self, flags: &[&str]) -> Ended {
        let ended = self.rig.run(&mut self.command(flags), SHORT);
        assert_eq!(ended.code(), Some(2), "{ended}");
        ended
    }

    /// `zring <command> <target>`.
    pub(crate) fn zring(&self, words: &[&str]) -> Ended {
        let mut c = self.rig.zring();
        self.rig.run(c.args(words), SHORT * 2)
    }

    /// The mountpoint as an argument.
    pub(crate) fn mountpoint(&self) -> &str {
        self.at.to_str().unwrap()
    }

    /// What a shell says that works in the mount, with `$M` for the mountpoint.
    pub(crate) fn shell(&self, script: &str) -> Ended {
        self.rig.run(&mut self.shell_command(script), SHORT)
    }

    /// The same, left running.
    pub(crate) fn start_shell(&self, script: &str) -> Running {
        self.rig.start(&mut self.shell_command(script))
    }

    fn shell_command(&self, script: &str) -> Command {
        let mut c = self.rig.command("sh");
        c.args(["-c", script]).env("M", &self.at);
        c
    }

    /// A client that has the mount open in some way, and says so first.
    pub(crate) fn client(&self, holds: &str) -> Running {
        let client = self.start_shell(&format!("{holds}; echo in; exec sleep 1000"));
        assert!(
            becomes_true(SHORT, || client.out_so_far().contains("in")),
            "the client does not come in"
        );
        client
    }

    /// Another transaction makes of the big file another one; head is not waited for.
    pub(crate) fn change_epoch(&mut self) {
        let oid = self.base.files[0].oid;
        let table = self.base.fresh();
        self.base.put(table, write::small_tree(Family::Lo, &[]));
        self.base.put(oid, write::bigfile(BlkSize(4096), table));
        self.base.commit();
    }

    /// Clients find that the server is gone. Who comes while it is still going gets one of two errors of their own, the second
    /// over io_uring alone (kernel-note 0004).
    pub(crate) fn is_dead(&self) {
        let racing = ["connection abort", "Operation canceled"];
        let mut cat = self.shell("cat $M/.wcfs/zurl");
        let end = Instant::now() + Duration::from_secs(5);
        while Instant::now() < end && racing.iter().any(|text| cat.err.contains(text)) {
            cat = self.shell("cat $M/.wcfs/zurl");
        }
        let text = "Transport endpoint is not connected";
        assert!(!cat.is_good() && cat.err.contains(text), "{cat}");
    }

    /// No server is left, the mount is gone, and the database is as it was.
    pub(crate) fn is_clean(&self) -> bool {
        self.rig.mount_lines(&self.at).is_empty() && self.rig.processes().is_empty()
    }
}

/// Ends a client of a test.
pub(crate) fn end(client: Running) {
    client.signal(Signal::SIGKILL);
    let _ = client.wait(SHORT);
}

/// Whether a transport and mounts at all are to be had; said if not.
pub(crate) fn is_there(transport: Transport) -> bool {
    transport.is_there()
}

/// Names in a directory, in order.
pub(crate) fn names(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).unwrap().flatten();
    let mut names: Vec<String> = entries
        .map(|e| e.file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    names
}
