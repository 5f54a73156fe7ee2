//! A PostgreSQL server of a test's own: its data in a private directory, its socket there too, its user not root.
//!
//! Without the Debian package `postgresql` these tests say so and pass, unless `ZRING_STRICT` is 1.

use std::fs;
use std::io::Write;
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Who runs the server when we are root, which it does not want to be run by.
const NOBODY: u32 = 65534;
/// The one database there is.
pub(crate) const DATABASE: &str = "zodb";

/// A server, ended and removed when it is dropped.
#[derive(Debug)]
pub(crate) struct Postgres {
    bin: PathBuf,
    dir: PathBuf,
    pub(crate) port: u16,
    server: Option<Child>,
}

/// Where the programs of the newest version are.
fn programs() -> Option<PathBuf> {
    let versions = fs::read_dir("/usr/lib/postgresql").ok()?.flatten();
    let bins = versions.map(|version| version.path().join("bin"));
    bins.filter(|bin| bin.join("initdb").exists()).max()
}

impl Postgres {
    /// A server with an empty database, its files below `dir`, which does not exist yet; `None`, and said, where there is none to be had.
    pub(crate) fn start(dir: &Path) -> Option<Self> {
        let Some(bin) = programs() else {
            let text =
                "PostgreSQL: RelStorage is tested with SQLite alone (apt-get install postgresql)";
            println!("skipped: {text}");
            if let Ok(lacks) = std::env::var("ZRING_LACKS") {
                let file = fs::OpenOptions::new().append(true).open(lacks);
                writeln!(file.unwrap(), "{text}").unwrap();
            }
            return None;
        };
        fs::create_dir(dir).unwrap();
        let mut this = Self {
            bin,
            dir: dir.to_owned(),
            port: 5432,
            server: None,
        };
        if is_root() {
            chown(dir, Some(NOBODY), Some(NOBODY)).unwrap();
        }
        fs::set_permissions(dir, fs::Permissions::from_mode(0o755)).unwrap();
        let mut init = this.program("initdb");
        init.args(["-D", "data", "-U", "zring", "-A", "trust", "--no-sync"]);
        init.args(["--no-locale", "-E", "UTF8", "--no-instructions"]);
        let said = init.output().unwrap();
        let error = String::from_utf8_lossy(&said.stderr);
        assert!(said.status.success(), "initdb: {error}");
        this.again();
        this.sql("postgres", &format!("CREATE DATABASE {DATABASE}"));
        Some(this)
    }

    /// Takes TCP connections too, on a port of its own, from the next start on.
    #[allow(dead_code, reason = "not every test binary does")]
    pub(crate) fn listen(&mut self) {
        let free = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap();
        self.port = free.local_addr().unwrap().port();
    }

    fn program(&self, name: &str) -> Command {
        let mut command = Command::new(self.bin.join(name));
        command.current_dir(&self.dir).stdin(Stdio::null());
        if is_root() {
            command.uid(NOBODY).gid(NOBODY);
        }
        command
    }

    /// Starts it where it was.
    pub(crate) fn again(&mut self) {
        assert!(self.server.is_none());
        let (socket, port) = (self.dir.display().to_string(), self.port.to_string());
        let host = if self.port == 5432 { "" } else { "127.0.0.1" };
        let mut server = self.program("postgres");
        server.args(["-D", "data", "-F", "-k", &socket, "-p", &port, "-h", host]);
        server.args(["-c", "max_connections=30", "-c", "shared_buffers=64MB"]);
        let log = fs::File::create(self.dir.join("log")).unwrap();
        server.stdout(Stdio::null()).stderr(log);
        self.server = Some(server.spawn().unwrap());
        let give_up = Instant::now() + Duration::from_secs(30);
        while !self.is_up() {
            let log = fs::read_to_string(self.dir.join("log")).unwrap();
            assert!(
                Instant::now() < give_up,
                "the server does not come up: {log}"
            );
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn is_up(&self) -> bool {
        let mut psql = self.program("psql");
        let psql = psql.args(["-h", &self.socket(), "-p", &self.port.to_string()]);
        let psql = psql.args(["-U", "zring", "-d", "postgres", "-qc", "SELECT 1"]);
        let psql = psql.stdout(Stdio::null()).stderr(Stdio::null());
        psql.status().unwrap().success()
    }

    /// Directory of the socket.
    pub(crate) fn socket(&self) -> String {
        self.dir.display().to_string()
    }

    /// Ends it at once, as a crash does.
    pub(crate) fn kill(&mut self) {
        if let Some(mut server) = self.server.take() {
            let _ = server.kill();
            let _ = server.wait();
            // Its children end when they see that; a start before would be refused.
            let pid = self.dir.join("data/postmaster.pid");
            let give_up = Instant::now() + Duration::from_secs(20);
            while self.has_children() && Instant::now() < give_up {
                std::thread::sleep(Duration::from_millis(10));
            }
            let _ = fs::remove_file(pid);
        }
    }

    fn has_children(&self) -> bool {
        let data = self.dir.join("data");
        let processes = fs::read_dir("/proc").unwrap().flatten();
        let mut there =
            processes.filter_map(|process| fs::read_link(process.path().join("cwd")).ok());
        there.any(|cwd| cwd == data)
    }

    /// Stops or continues all of it.
    #[allow(dead_code, reason = "not every test binary does")]
    pub(crate) fn pids(&self) -> Vec<i32> {
        let data = self.dir.join("data");
        let processes = fs::read_dir("/proc").unwrap().flatten();
        let ours = processes.filter(|process| {
            fs::read_link(process.path().join("cwd")).is_ok_and(|cwd| cwd == data)
        });
        ours.filter_map(|p| p.file_name().to_str()?.parse().ok())
            .collect()
    }

    /// Runs a statement in a database.
    pub(crate) fn sql(&self, database: &str, text: &str) -> String {
        let mut psql = self.program("psql");
        psql.args(["-h", &self.socket(), "-p", &self.port.to_string()]);
        psql.args(["-U", "zring", "-d", database, "-qAtc", text]);
        let said = psql.output().unwrap();
        let error = String::from_utf8_lossy(&said.stderr);
        assert!(said.status.success(), "{text}: {error}");
        String::from_utf8(said.stdout).unwrap().trim().to_owned()
    }

    /// Where `make_zodb.py` writes.
    pub(crate) fn target(&self, database: &str) -> String {
        let (socket, port) = (self.socket(), self.port);
        format!("relpg:host='{socket}' port={port} user='zring' dbname='{database}'")
    }

    /// Where zring reads.
    pub(crate) fn zurl(&self, database: &str) -> String {
        let (socket, port) = (self.socket(), self.port);
        format!("postgres://zring@:{port}/{database}?host={socket}&poll_interval=0.2")
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        self.kill();
        let _ = fs::remove_dir_all(&self.dir);
    }
}

fn is_root() -> bool {
    nix::unistd::geteuid().is_root()
}
