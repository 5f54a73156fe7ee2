//! What this machine has, and the kernel settings that tests change and put back.
//!
//! Holds the lock between tests that need io_uring and tests that forbid it to the whole machine.

use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Mutex, OnceLock};

use nix::fcntl::{Flock, FlockArg};

const ENABLE_URING: &str = "/sys/module/fuse/parameters/enable_uring";
const IO_URING_DISABLED: &str = "/proc/sys/kernel/io_uring_disabled";
const DEV_FUSE: &str = "/dev/fuse";

/// The three ways in which requests come out of the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Transport {
    Uring,
    Dev,
    Plain,
}

impl Transport {
    pub(crate) const ALL: [Self; 3] = [Self::Uring, Self::Dev, Self::Plain];

    /// The value of `-o transport=`.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Uring => "uring",
            Self::Dev => "dev",
            Self::Plain => "plain",
        }
    }

    /// Whether tests can use it here; says so when not.
    pub(crate) fn is_there(self) -> bool {
        let here = Facts::get();
        let why = match self {
            _ if !here.device => "mounts: there is no /dev/fuse",
            _ if !here.may_mount => {
                "mounts: not root, and no fusermount3 with a /dev/fuse open to all"
            }
            Self::Plain => return true,
            _ if here.io_uring_disabled == "2" => {
                "transports uring and dev: kernel.io_uring_disabled is 2"
            }
            Self::Dev => return true,
            Self::Uring if here.enable_uring == "Y" => return true,
            Self::Uring if here.enable_uring.is_empty() => {
                "transport uring: this kernel has no FUSE over io_uring"
            }
            Self::Uring => "transport uring: /sys/module/fuse/parameters/enable_uring is N",
        };
        lack(why);
        false
    }
}

/// The machine as it was at the first question: later a test may just have a setting changed.
#[derive(Debug)]
struct Facts {
    device: bool,
    may_mount: bool,
    io_uring_disabled: String,
    enable_uring: String,
}

impl Facts {
    fn get() -> &'static Self {
        static FACTS: OnceLock<Facts> = OnceLock::new();
        FACTS.get_or_init(|| {
            let _steady = MachineLock::shared();
            Self {
                device: Path::new(DEV_FUSE).exists(),
                may_mount: may_mount(),
                io_uring_disabled: setting(IO_URING_DISABLED),
                enable_uring: setting(ENABLE_URING),
            }
        })
    }
}

fn may_mount() -> bool {
    let open_to_all =
        || fs::metadata(DEV_FUSE).is_ok_and(|m| m.permissions().mode() & 0o006 == 0o006);
    is_root() || (on_path("fusermount3") && open_to_all())
}

/// Says once what cannot be tested here. Straight to stderr: the harness swallows what a passing test prints.
pub(crate) fn lack(what: &str) {
    static SAID: Mutex<BTreeSet<String>> = Mutex::new(BTreeSet::new());
    if !SAID.lock().unwrap().insert(what.to_owned()) {
        return;
    }
    let _ = std::io::stderr().write_all(format!("NOT TESTED: {what}\n").as_bytes());
    if let Some(list) = std::env::var_os("ZRING_LACKS")
        && let Ok(mut f) = OpenOptions::new().append(true).create(true).open(list)
    {
        let _ = writeln!(f, "{what}");
    }
}

pub(crate) fn is_root() -> bool {
    nix::unistd::geteuid().is_root()
}

/// For tests that cannot do without root.
pub(crate) fn root_or_lack(what: &str) -> bool {
    if !is_root() {
        lack(&format!("{what}: needs root"));
    }
    is_root()
}

/// Whether a program is on PATH.
pub(crate) fn on_path(program: &str) -> bool {
    std::env::var_os("PATH")
        .is_some_and(|p| std::env::split_paths(&p).any(|dir| dir.join(program).exists()))
}

/// An unsigned number from the environment.
pub(crate) fn number(name: &str, default: u64) -> u64 {
    match std::env::var(name) {
        Ok(text) => text
            .parse()
            .unwrap_or_else(|_| panic!("{name}={text} is not a number")),
        Err(_) => default,
    }
}

/// The binary under test.
pub(crate) fn zring() -> PathBuf {
    std::env::var_os("ZRING_BIN").map_or_else(|| env!("CARGO_BIN_EXE_zring").into(), PathBuf::from)
}

/// A file of `tests/tools`.
pub(crate) fn tool(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/tools")
        .join(name)
}

/// A Python that has ZODB; None, and said, when there is none.
pub(crate) fn python() -> Option<&'static Path> {
    static FOUND: OnceLock<Option<PathBuf>> = OnceLock::new();
    let found = FOUND.get_or_init(|| {
        let private = Path::new(env!("CARGO_TARGET_TMPDIR"))
            .with_file_name("py")
            .join("bin/python");
        let named = std::env::var_os("ZRING_PYTHON").map(PathBuf::from);
        [named, Some(private), Some("python3".into())]
            .into_iter()
            .flatten()
            .find(|p| has_zodb(p))
    });
    if found.is_none() {
        let full = std::env::var("ZRING_TESTS_FULL").is_ok_and(|v| v == "1");
        assert!(
            !full,
            "ZRING_TESTS_FULL=1, but no Python with ZODB: run tests/run"
        );
        lack(
            "anything that needs a database: no Python with ZODB (set ZRING_PYTHON or use tests/run)",
        );
    }
    found.as_deref()
}

fn has_zodb(python: &Path) -> bool {
    Command::new(python)
        .args(["-c", "import ZODB, BTrees.LOBTree, zodbpickle"])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|s| s.success())
}

fn setting(path: &str) -> String {
    fs::read_to_string(path).map_or_else(|_| String::new(), |t| t.trim().to_owned())
}

/// Held by each test: shared where io_uring must be as it is, exclusive where a test changes the machine.
#[derive(Debug)]
pub(crate) struct MachineLock {
    _file: Flock<File>,
}

impl MachineLock {
    pub(crate) fn shared() -> Self {
        Self::take(FlockArg::LockShared)
    }

    pub(crate) fn exclusive() -> Self {
        Self::take(FlockArg::LockExclusive)
    }

    fn take(how: FlockArg) -> Self {
        let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join("machine.lock");
        fs::create_dir_all(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let file = File::create(path).unwrap();
        Self {
            _file: Flock::lock(file, how).unwrap(),
        }
    }
}

/// A kernel setting that is changed for one test. Keeps every other test away until it is put back.
#[derive(Debug)]
pub(crate) struct Changed {
    path: &'static str,
    was: String,
    /// After the field above is used in `drop`, the others may go on.
    _alone: MachineLock,
}

impl Changed {
    /// `kernel.io_uring_disabled = 2`: nobody gets a new ring.
    pub(crate) fn no_io_uring() -> Option<Self> {
        Self::set(IO_URING_DISABLED, "2")
    }

    /// `enable_uring = N`: new mounts get no FUSE rings.
    pub(crate) fn no_fuse_rings() -> Option<Self> {
        Self::set(ENABLE_URING, "N")
    }

    /// `kernel.io_uring_disabled = 1`: only for those with a capability or in a group.
    pub(crate) fn io_uring_is_for_root() -> bool {
        Facts::get().io_uring_disabled == "1"
    }

    fn set(path: &'static str, value: &str) -> Option<Self> {
        if !is_root() || !Path::new(path).exists() {
            lack(&format!(
                "behaviour with {path} = {value}: cannot be set here"
            ));
            return None;
        }
        let alone = MachineLock::exclusive();
        let was = setting(path);
        fs::write(path, value).unwrap();
        Some(Self {
            path,
            was,
            _alone: alone,
        })
    }
}

impl Drop for Changed {
    fn drop(&mut self) {
        if let Err(e) = fs::write(self.path, &self.was) {
            lack(&format!(
                "{} could not be put back to {}: {e}",
                self.path, self.was
            ));
        }
    }
}

/// `/dev/fuse` open to all, as distributions have it, for the time of a test.
#[derive(Debug)]
pub(crate) struct DevFuseForAll {
    was: fs::Permissions,
    _alone: MachineLock,
}

impl DevFuseForAll {
    pub(crate) fn open() -> Self {
        let alone = MachineLock::exclusive();
        let was = fs::metadata(DEV_FUSE).unwrap().permissions();
        fs::set_permissions(DEV_FUSE, fs::Permissions::from_mode(0o666)).unwrap();
        Self { was, _alone: alone }
    }
}

impl Drop for DevFuseForAll {
    fn drop(&mut self) {
        let _ = fs::set_permissions(DEV_FUSE, self.was.clone());
    }
}
