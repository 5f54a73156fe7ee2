//! A tree, a state directory beside it, and the binary.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// A run that takes longer hangs.
const LIMIT: Duration = Duration::from_secs(120);

pub(crate) struct Scene {
    pub(crate) top: PathBuf,
    pub(crate) tree: PathBuf,
    pub(crate) state: PathBuf,
}

/// What a run came to.
#[derive(Debug)]
pub(crate) struct Ran {
    pub(crate) code: Option<i32>,
    pub(crate) out: Vec<u8>,
    pub(crate) err: String,
}

impl Ran {
    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.out).into_owned()
    }

    /// Lines of stdout, sorted.
    pub(crate) fn lines(&self) -> Vec<String> {
        let mut lines: Vec<String> = self.text().lines().map(str::to_owned).collect();
        lines.sort();
        lines
    }

    #[track_caller]
    pub(crate) fn expect(&self, code: i32, lines: &[&str]) {
        assert_eq!(
            (self.code, self.lines()),
            (Some(code), lines.iter().map(|l| (*l).to_owned()).collect()),
            "{self:?}"
        );
    }
}

impl Drop for Scene {
    fn drop(&mut self) {
        // Modes that a test took away are given back.
        let _ = Command::new("chmod")
            .args(["-R", "u+rwX"])
            .arg(&self.top)
            .stderr(Stdio::null())
            .status();
        let _ = std::fs::remove_dir_all(&self.top);
    }
}

impl Scene {
    pub(crate) fn new(name: &str) -> Self {
        Self::under(&std::env::temp_dir(), name)
    }

    pub(crate) fn under(place: &Path, name: &str) -> Self {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        let n = NEXT.fetch_add(1, Ordering::Relaxed);
        let top = place.join(format!("zring-etag-{name}-{}-{n}", std::process::id()));
        let (tree, state) = (top.join("tree"), top.join("state"));
        std::fs::create_dir_all(&tree).unwrap();
        let tree = tree.canonicalize().unwrap();
        Self { top, tree, state }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.tree.join(name)
    }

    pub(crate) fn write(&self, name: &str, content: &str) -> PathBuf {
        let path = self.path(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, content).unwrap();
        path
    }

    /// `zring etag` with the state directory of this scene.
    pub(crate) fn command<S: AsRef<OsStr>>(&self, args: &[S]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_zring"));
        command
            .arg("etag")
            .args(args)
            .arg("--state")
            .arg(&self.state);
        command.args(["--progress", "never"]).stdin(Stdio::null());
        command
    }

    /// Runs a verb over the tree.
    #[track_caller]
    pub(crate) fn etag(&self, args: &[&str]) -> Ran {
        let mut command = self.command(args);
        command.arg(&self.tree);
        run(command)
    }

    /// Runs it as somebody without rights.
    pub(crate) fn etag_as_nobody(&self, args: &[&str]) -> Ran {
        let copy = self.top.join("zring");
        if !copy.exists() {
            // Not by this process: a child that another test starts meanwhile would hold it open for writing, and nobody could run it.
            let mut cp = Command::new("cp");
            let copied = cp.arg(env!("CARGO_BIN_EXE_zring")).arg(&copy).status();
            assert!(copied.unwrap().success());
        }
        std::fs::create_dir_all(&self.state).unwrap();
        std::os::unix::fs::chown(&self.state, Some(65534), Some(65534)).unwrap();
        let mut command = Command::new(copy);
        command
            .arg("etag")
            .args(args)
            .arg("--state")
            .arg(&self.state)
            .arg(&self.tree);
        command
            .args(["--progress", "never"])
            .uid(65534)
            .gid(65534)
            .stdin(Stdio::null());
        run(command)
    }

    /// All regular files of the tree with their digests, by reading them.
    pub(crate) fn truth(&self) -> BTreeMap<Vec<u8>, String> {
        let mut out = BTreeMap::new();
        walk(&self.tree, &mut |path| {
            let name = path
                .strip_prefix(&self.tree)
                .unwrap()
                .as_os_str()
                .as_bytes()
                .to_vec();
            out.insert(name, digest(&std::fs::read(path).unwrap()));
        });
        out
    }

    /// What an export says, as paths and digests.
    pub(crate) fn exported(&self) -> BTreeMap<Vec<u8>, String> {
        let ran = self.etag(&["export", "-0", "-q"]);
        assert_eq!(ran.code, Some(0), "{ran:?}");
        let lines = ran.out.split(|&c| c == 0).filter(|l| !l.is_empty());
        lines
            .map(|line| {
                (
                    line[66..].to_vec(),
                    String::from_utf8(line[..64].to_vec()).unwrap(),
                )
            })
            .collect()
    }

    /// Whether the directory of the catalog has these files, by the beginnings of their names.
    pub(crate) fn catalog(&self) -> PathBuf {
        let mut dirs = std::fs::read_dir(&self.state).unwrap();
        let dir = dirs.next().expect("there is a catalog").unwrap().path();
        assert!(dirs.next().is_none(), "one root, one catalog");
        dir
    }
}

pub(crate) fn walk(dir: &Path, each: &mut dyn FnMut(&Path)) {
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        let kind = std::fs::symlink_metadata(&path).unwrap().file_type();
        if kind.is_dir() {
            walk(&path, each);
        } else if kind.is_file() {
            each(&path);
        }
    }
}

pub(crate) fn digest(bytes: &[u8]) -> String {
    use sha2::Digest as _;
    let hash = sha2::Sha256::digest(bytes);
    hash.iter().map(|b| format!("{b:02x}")).collect()
}

/// Runs to its end, or fails the test when it hangs.
#[track_caller]
pub(crate) fn run(mut command: Command) -> Ran {
    let child = command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let pid = nix::unistd::Pid::from_raw(i32::try_from(child.id()).unwrap());
    let (done, over) = std::sync::mpsc::channel::<()>();
    let watchdog = std::thread::spawn(move || {
        if over.recv_timeout(LIMIT) == Err(std::sync::mpsc::RecvTimeoutError::Timeout) {
            let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL);
        }
    });
    let Output {
        status,
        stdout,
        stderr,
    } = child.wait_with_output().unwrap();
    drop(done);
    watchdog.join().unwrap();
    Ran {
        code: status.code(),
        out: stdout,
        err: String::from_utf8_lossy(&stderr).into_owned(),
    }
}

pub(crate) fn lack(what: &str) {
    use std::io::Write as _;
    let _ = writeln!(std::io::stderr(), "LACKS {what}");
    if let Some(list) = std::env::var_os("ZRING_LACKS") {
        let file = std::fs::File::options()
            .append(true)
            .create(true)
            .open(list);
        let _ = file.and_then(|mut file| writeln!(file, "{what}"));
    }
}

pub(crate) fn is_root() -> bool {
    nix::unistd::geteuid().is_root()
}

/// Runs something in a mount namespace of its own, which ends with it; None where that is not allowed.
pub(crate) fn apart<T: Send + 'static>(body: impl FnOnce() -> T + Send + 'static) -> Option<T> {
    use nix::mount::{MsFlags, mount};
    std::thread::spawn(move || {
        let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNS).ok()?;
        mount(None::<&str>, "/", None::<&str>, private, None::<&str>).ok()?;
        Some(body())
    })
    .join()
    .unwrap()
}

pub(crate) fn wait_until(what: &str, mut is: impl FnMut() -> bool) {
    let began = Instant::now();
    while !is() {
        assert!(began.elapsed() < LIMIT, "waited in vain for {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// A small generator, the same numbers for the same seed.
pub(crate) struct Rng(pub(crate) u64);

impl Rng {
    pub(crate) fn seeded(salt: u64) -> Self {
        Self(number("ZRING_SEED", 1).wrapping_mul(1_000_003) + salt)
    }

    pub(crate) fn below(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        usize::try_from((z ^ (z >> 31)) % n.max(1) as u64).unwrap()
    }
}

pub(crate) fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |text| text.parse().expect("a number"))
}
