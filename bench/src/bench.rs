//! What the measurements share: the databases, the mounts, one step of reading under a watchdog.

use crate::client;
use crate::data::{self, BLKSIZE, TAG0, TAG1};
use crate::rig::{Figures, Mounted, myself, output};
use anyhow::{Context, Result, ensure};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// How long one step may take.
pub const LIMIT: Duration = Duration::from_secs(120);
/// How long a mount is left alone before it is measured.
const SETTLE: Duration = Duration::from_millis(30);

/// What serves a mount.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum System {
    /// Zeros over a transport.
    Stub(&'static str),
    /// One pread of the database file per READ over a transport.
    Pread(&'static str),
    /// The daemon.
    Zring(&'static str),
    /// The `fuser` crate before our own rooms.
    Fuser,
}

/// A file of a database.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Target {
    /// Its name in the database.
    pub name: &'static str,
    /// Tag of its content.
    pub tag: u64,
    /// Bytes of content in each block; the rest is zeros.
    pub data: u64,
}

/// The large files.
pub const ZBLK0: Target = Target {
    name: "zblk0",
    tag: TAG0,
    data: BLKSIZE,
};
/// See `ZBLK0`.
pub const ZBLK1: Target = Target {
    name: "zblk1",
    tag: TAG1,
    data: BLKSIZE,
};

/// Where everything is.
#[derive(Debug)]
pub struct Bench {
    dir: PathBuf,
    /// How much is to be done.
    pub size: Size,
    /// Bytes that daemons made the disk read while they were measured.
    pub disk_bytes: u64,
}

/// How much is to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Size {
    /// Blocks of each large file.
    pub blocks: u64,
    /// Times everything is measured.
    pub rounds: usize,
    /// Objects of the database of small objects.
    pub objects: u64,
}

impl Size {
    /// Whether figures count; else the run only shows that all works.
    pub fn is_full(self) -> bool {
        self.rounds >= 5
    }
}

impl Bench {
    /// Data and mounts under `dir`.
    pub fn new(dir: &Path, size: Size) -> Result<Self> {
        std::fs::create_dir_all(dir)?;
        Ok(Self {
            dir: dir.canonicalize()?,
            size,
            disk_bytes: 0,
        })
    }

    /// A path under the directory.
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// The database of a name, made if it is not there, and read into the page cache.
    pub fn database(&self, kind: &str) -> Result<PathBuf> {
        let path = self.path(&format!("{kind}-{}.fs", self.stamp(kind)));
        if !data::names_path(&path).exists() {
            eprintln!("making {}", path.display());
            match kind {
                "blocks" => data::blocks(&path, self.size.blocks, self.size.blocks)?,
                "scale" => data::scale(&path)?,
                _ => data::index(&path, self.size.objects)?,
            }
            // So that the disk is quiet while we measure.
            std::fs::File::open(&path)?.sync_all()?;
        }
        // A kernel that reclaims ahead of need may take some of it again meanwhile.
        let mut missing = client::read_through(&path)?;
        for _ in 0..5 {
            if missing > 0 {
                missing = client::read_through(&path)?;
            }
        }
        ensure!(
            missing == 0,
            "{} does not fit the page cache: {missing} bytes were read from disk",
            path.display()
        );
        Ok(path)
    }

    fn stamp(&self, kind: &str) -> u64 {
        match kind {
            "blocks" => self.size.blocks,
            "scale" => 2, // the second layout
            _ => self.size.objects,
        }
    }

    /// The binary beside this one.
    pub fn zring(&self) -> Result<PathBuf> {
        let path = std::env::current_exe()?.with_file_name("zring");
        ensure!(
            path.exists(),
            "{} is missing: cargo build --release --workspace",
            path.display()
        );
        Ok(path)
    }

    /// Mounts a database.
    pub fn mount(&self, system: System, database: &Path) -> Result<Mounted> {
        self.mount_on("mnt", system, database)
    }

    /// The same on another directory.
    pub fn mount_on(&self, name: &str, system: System, database: &Path) -> Result<Mounted> {
        let at = self.path(name);
        std::fs::create_dir_all(&at)?;
        let mut command = myself()?;
        match system {
            System::Stub(transport) => command.arg("stub").arg(&at).arg(transport),
            System::Pread(transport) => command.arg("stub").arg(&at).arg(transport).arg(database),
            System::Fuser => command.arg("fuser").arg(database).arg(&at),
            System::Zring(transport) => {
                command = Command::new(self.zring()?);
                let address = format!("file://{}", database.display());
                command
                    .args([
                        "mount",
                        "-f",
                        "-o",
                        &format!("transport={transport},debug"),
                        "--",
                        &address,
                    ])
                    .arg(&at)
            }
        };
        command.env("RUST_BACKTRACE", "0");
        let mounted = Mounted::start(&mut command, &at)?;
        std::thread::sleep(SETTLE);
        Ok(mounted)
    }

    /// Where a file is in a mount, and what the reader is told to expect in it.
    fn file(
        &self,
        system: System,
        database: &Path,
        target: Target,
        at: &Path,
    ) -> Result<(PathBuf, Vec<String>)> {
        let oid = || data::oid_of(database, target.name);
        let path = match system {
            System::Stub(_) | System::Pread(_) => at.join("zero"),
            System::Zring(_) => at.join("head/bigfile").join(oid()?),
            System::Fuser => at.join(oid()?),
        };
        let known = !matches!(system, System::Stub(_) | System::Pread(_));
        let mut expect = vec!["--data".to_owned(), target.data.to_string()];
        if known {
            expect.extend(["--tag".to_owned(), target.tag.to_string()]);
        }
        if matches!(system, System::Pread(_)) {
            expect.push("--unchecked".to_owned());
        }
        Ok((path, expect))
    }

    /// Runs a reading program (see `client`) on a file of a mount.
    pub fn read(
        &mut self,
        (system, database, mounted): (System, &Path, &Mounted),
        target: Target,
        program: &[&str],
        seed: u64,
    ) -> Result<Figures> {
        let (path, expect) = self.file(system, database, target, mounted.path())?;
        let mut command = myself()?;
        command
            .arg("client")
            .arg(program[0])
            .arg(path)
            .args(&program[1..])
            .args(expect);
        command
            .args(["--seed", &seed.to_string()])
            .env("RUST_BACKTRACE", "0");
        let pid = mounted.pid().to_string();
        let before = client::disk_bytes(&pid)?;
        let text = output(&mut command, LIMIT, &[mounted])
            .with_context(|| format!("{system:?} {} {program:?}", target.name))?;
        self.disk_bytes += client::disk_bytes(&pid)?.saturating_sub(before);
        Ok(Figures::parse(&text))
    }

    /// The figures a daemon gives of itself.
    pub fn stats(&self, mounted: &Mounted) -> Result<Figures> {
        let mut command = myself()?;
        command
            .args(["client", "cat"])
            .arg(mounted.path().join(".wcfs/stats"));
        Ok(Figures::parse(&output(&mut command, LIMIT, &[mounted])?))
    }
}
