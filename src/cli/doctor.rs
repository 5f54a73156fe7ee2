//! `zring doctor` and `zring version`: what this binary is, and what the machine offers it.

use super::args::{Args, Usage};
use super::look::{self, Seen};
use super::{Failure, Outcome, status};
use crate::base::limit;
use crate::engine::start;
use crate::kernel::ring::Ring;
use crate::kernel::{mountinfo, proc, wakeup};
use crate::store::zurl::Zurl;
use lexopt::prelude::*;
use nix::errno::Errno;
use serde_json::json;
use std::path::{Path, PathBuf};
use std::time::Duration;

const HELP: &str = "zring doctor [MNT...]

Says what this machine offers, how the mounts MNT are, and what to do where that is too little.
Exit codes: 0 nothing is red, 1 something is.";

/// How good a finding is.
#[derive(Clone, Copy)]
enum Light {
    Green,
    Yellow,
    Red,
}

/// One line: what was found, and what to do about it.
struct Finding {
    light: Light,
    text: String,
    remedy: &'static str,
}

fn finding(light: Light, text: impl Into<String>, remedy: &'static str) -> Finding {
    Finding {
        light,
        text: text.into(),
        remedy,
    }
}

/// `zring doctor`
pub(super) fn command(args: Args) -> Outcome {
    let wrong = |error| Usage::Argument(error, "doctor");
    let mut args = args.parser();
    let mut mounts = Vec::new();
    while let Some(arg) = args.next().map_err(wrong)? {
        match arg {
            Short('h') | Long("help") => {
                println!("{HELP}");
                return Ok(());
            }
            Value(value) => mounts.push(PathBuf::from(value)),
            _ => return Err(wrong(arg.unexpected()).into()),
        }
    }
    let release = text_of("/proc/sys/kernel/osrelease");
    let limits = text_of("/proc/self/limits").unwrap_or_default();
    let cpus = proc::cpus_allowed().len();
    let mut findings = vec![
        kernel(release.as_deref(), cpus),
        device(),
        rings(),
        fuse_rings(),
        usual(),
        read_size(),
        abort(),
        helper(),
        files(&limits, cpus),
        locked(&limits),
    ];
    if let Some(took) = wakeup::round_trip(WAKE_UPS)? {
        findings.push(wake_up(took, text_of(HALT_POLL).as_deref()));
    }
    for mnt in &mounts {
        findings.push(mount(mnt)?);
    }
    let mut red = false;
    for Finding {
        light,
        text,
        remedy,
    } in findings
    {
        let mark = match light {
            Light::Green => "green ",
            Light::Yellow => "yellow",
            Light::Red => "red   ",
        };
        red |= matches!(light, Light::Red);
        let remedy = if remedy.is_empty() {
            String::new()
        } else {
            format!("  ->  {remedy}")
        };
        println!("{mark}  {text}{remedy}");
    }
    if red {
        Err(anyhow::anyhow!("something that zring needs is missing").into())
    } else {
        Ok(())
    }
}

fn mount(mnt: &Path) -> Result<Finding, Failure> {
    let shown = mnt.display();
    let path = look::mountpoint(mnt)?;
    let there = mountinfo::topmost(&path).filter(mountinfo::Mounted::is_ours);
    let Some(there) = there else {
        let text = format!("nothing of zring is mounted on {shown}");
        return Ok(finding(Light::Red, text, "zring mount"));
    };
    Ok(
        match look::read(&path.join(".wcfs/stats"), look::PATIENCE)? {
            Seen::Said(stats) => {
                let (source, fstype) = (&there.source, &there.fstype);
                let stats = String::from_utf8_lossy(&stats);
                let how = how_it_serves(&stats);
                let text = format!("{shown} serves {source} ({fstype}){how}");
                match status::standstill(&stats) {
                    Some(why) => finding(Light::Red, format!("{text}; head: {why}"), ""),
                    None => finding(Light::Green, text, ""),
                }
            }
            Seen::Refused(Errno::EACCES | Errno::EPERM) => finding(
                Light::Yellow,
                format!("{shown} belongs to another user"),
                "ask again as that user",
            ),
            Seen::Refused(_) => finding(
                Light::Red,
                format!("the daemon behind {shown} is gone"),
                "zring umount it, and mount again",
            ),
            Seen::Late(..) => finding(
                Light::Red,
                format!("{shown} does not answer"),
                "zring umount --lazy ends it",
            ),
        },
    )
}

/// What a mount found out when it began, as its `.wcfs/stats` has it.
fn how_it_serves(stats: &str) -> String {
    let transport = match status::stat(stats, "Transport") {
        Some(1) => ", transport plain",
        Some(2) => ", transport dev",
        Some(3) => ", transport uring",
        _ => "",
    };
    let pages = match status::stat(stats, "Retrieve") {
        Some(0) => "; nothing was read yet that shows whether the kernel gives back pages",
        Some(1) => "; old pages are asked back of the kernel",
        Some(2) => "; this kernel gives back pages that nobody filled, so old pages are not kept",
        _ => "",
    };
    format!("{transport}{pages}")
}

fn text_of(path: &str) -> Option<String> {
    Some(std::fs::read_to_string(path).ok()?.trim().to_owned())
}

/// By the text of `/proc/sys/kernel/osrelease`.
fn kernel(release: Option<&str>, cpus: usize) -> Finding {
    let number = |text: Option<&str>| {
        let digits = |text: &str| {
            text.find(|c: char| !c.is_ascii_digit())
                .unwrap_or(text.len())
        };
        text.and_then(|text| text[..digits(text)].parse::<u32>().ok())
    };
    let mut parts = release.unwrap_or_default().splitn(3, '.');
    let version = number(parts.next()).zip(number(parts.next()));
    let text = format!(
        "kernel {}, {cpus} CPUs to work on",
        release.unwrap_or("of unknown release")
    );
    match version {
        Some(version) if version < (2, 37) => finding(
            Light::Red,
            text,
            "pages can neither be stored nor asked for (Linux 2.6.36)",
        ),
        Some(version) if version < (5, 3) => finding(
            Light::Yellow,
            text,
            "Linux 5.2 keeps cached pages of a file whose size changes, Linux 5.3 lets clients of head/watch be known",
        ),
        Some(_) => finding(Light::Green, text, ""),
        None => finding(
            Light::Yellow,
            text,
            "Linux 5.3 or later is needed for all of it",
        ),
    }
}

fn device() -> Finding {
    let opened = std::fs::File::options()
        .read(true)
        .write(true)
        .open("/dev/fuse");
    match opened {
        Ok(_) => finding(Light::Green, "/dev/fuse can be opened", ""),
        Err(e) if e.kind() == std::io::ErrorKind::PermissionDenied => finding(
            Light::Red,
            "/dev/fuse may not be opened by this user",
            "chmod 0666 /dev/fuse",
        ),
        Err(_) => finding(Light::Red, "there is no /dev/fuse", "modprobe fuse"),
    }
}

fn rings() -> Finding {
    match Ring::new() {
        Ok(_) => finding(
            Light::Green,
            "io_uring is available (transports uring and dev)",
            "",
        ),
        Err(error) => finding(
            Light::Yellow,
            format!("{error}; only transport plain, which is slower"),
            "sysctl kernel.io_uring_disabled=0",
        ),
    }
}

fn fuse_rings() -> Finding {
    match text_of("/sys/module/fuse/parameters/enable_uring").as_deref() {
        Some("Y") => finding(
            Light::Green,
            "FUSE over io_uring is on (transport uring)",
            "",
        ),
        Some(_) => finding(
            Light::Yellow,
            "FUSE over io_uring is off (transport dev is used)",
            "echo Y > /sys/module/fuse/parameters/enable_uring",
        ),
        None => finding(
            Light::Yellow,
            "the kernel has no FUSE over io_uring (Linux 6.14)",
            "",
        ),
    }
}

fn read_size() -> Finding {
    let pages = text_of("/proc/sys/fs/fuse/max_pages_limit").and_then(|t| t.parse::<usize>().ok());
    let want = limit::PAYLOAD_BYTES / 4096;
    match pages {
        Some(n) if n < want => finding(
            Light::Yellow,
            format!("READs are limited to {n} pages"),
            "sysctl fs.fuse.max_pages_limit=256",
        ),
        _ => finding(
            Light::Green,
            format!("READs of up to {} KiB", limit::PAYLOAD_BYTES >> 10),
            "",
        ),
    }
}

fn abort() -> Finding {
    if Path::new("/sys/fs/fuse/connections")
        .read_dir()
        .is_ok_and(|mut d| d.next().is_some())
        || crate::kernel::mountinfo::topmost(Path::new("/sys/fs/fuse/connections")).is_some()
    {
        return finding(
            Light::Green,
            "a stuck mount can be aborted (fusectl is mounted)",
            "",
        );
    }
    finding(
        Light::Yellow,
        "fusectl is not mounted: a stuck mount could not be aborted",
        "mount -t fusectl fusectl /sys/fs/fuse/connections",
    )
}

fn helper() -> Finding {
    let dirs = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&dirs).any(|dir| dir.join("fusermount3").exists());
    match (found, proc::ids().0) {
        (true, _) => finding(
            Light::Green,
            "fusermount3 is installed: any user can mount",
            "",
        ),
        (false, 0) => finding(Light::Green, "root mounts without fusermount3", ""),
        (false, _) => finding(
            Light::Red,
            "only root can mount without fusermount3",
            "install the fuse3 package",
        ),
    }
}

/// The soft limit of a name in the text of `/proc/self/limits`; `u64::MAX` for none.
fn soft_limit(limits: &str, name: &str) -> Option<u64> {
    let line = limits.lines().find_map(|line| line.strip_prefix(name))?;
    match line.split_whitespace().next()? {
        "unlimited" => Some(u64::MAX),
        number => number.parse().ok(),
    }
}

fn shown(limit: Option<u64>) -> String {
    match limit {
        None => "unknown".to_owned(),
        Some(u64::MAX) => "unlimited".to_owned(),
        Some(limit) => limit.to_string(),
    }
}

/// Descriptors of a daemon without clients, but for those of each worker.
const FILES: u64 = 64;
/// Descriptors of each worker.
const WORKER_FILES: u64 = 8;

fn files(limits: &str, cpus: usize) -> Finding {
    let least = FILES + WORKER_FILES * cpus as u64;
    let soft = soft_limit(limits, "Max open files");
    let text = format!("open files: {}", shown(soft));
    let remedy = "ulimit -n 65536, or LimitNOFILE= of the unit: each open of head/watch takes one";
    match soft {
        Some(soft) if soft < least => finding(
            Light::Red,
            format!("{text}, and a daemon alone may need {least}"),
            remedy,
        ),
        Some(4096..) => finding(Light::Green, text, ""),
        _ => finding(Light::Yellow, text, remedy),
    }
}

/// Before Linux 5.12 the memory of rings counts as locked.
fn locked(limits: &str) -> Finding {
    let soft = soft_limit(limits, "Max locked memory");
    let unit = if soft.is_some_and(|soft| soft < u64::MAX) {
        " bytes"
    } else {
        ""
    };
    let text = format!("memory that may be locked: {}{unit}", shown(soft));
    match soft {
        Some(LOCKED_MIN..) => finding(Light::Green, text, ""),
        _ => finding(
            Light::Yellow,
            text,
            "ulimit -l 8192, or LimitMEMLOCK=8M of the unit: before Linux 5.12 rings count",
        ),
    }
}

/// Enough for the rings of 64 workers.
const LOCKED_MIN: u64 = 8 << 20;

/// Rounds of the measurement below.
const WAKE_UPS: usize = 400;
/// A round trip that takes longer makes each step of a request slow.
const WAKE_UP_SLOW: Duration = Duration::from_micros(20);
/// How long idle CPUs of a virtual machine look for work before they halt.
const HALT_POLL: &str = "/sys/module/haltpoll/parameters/guest_halt_poll_ns";

/// By the measured round trip between two CPUs, and the text of [`HALT_POLL`].
fn wake_up(took: Duration, halt_poll: Option<&str>) -> Finding {
    let us = took.as_secs_f64() * 1e6;
    let text = format!("a thread on another CPU is woken, and wakes back, in {us:.1} us");
    let is_off = halt_poll.is_some_and(|text| text.parse().is_ok_and(|ns: u64| ns < 200_000));
    match (took > WAKE_UP_SLOW, is_off) {
        (false, _) => finding(Light::Green, text, ""),
        (true, true) => finding(
            Light::Yellow,
            format!("{text}: idle CPUs halt at once"),
            "echo 200000 > /sys/module/haltpoll/parameters/guest_halt_poll_ns",
        ),
        (true, false) => finding(
            Light::Yellow,
            text,
            "other work may be in the way; else see how idle CPUs sleep (cpupower idle-info), on the host of a virtual machine too",
        ),
    }
}

fn usual() -> Finding {
    let transport = start::usual().name();
    finding(
        Light::Green,
        format!("a mount takes transport {transport} unless told otherwise"),
        "",
    )
}

/// `zring version [--json]`
pub(super) fn version(args: Args) -> Outcome {
    let mut json = false;
    let mut args = args.parser();
    while let Some(arg) = args.next().map_err(|e| Usage::Argument(e, "version"))? {
        match arg {
            Long("json") => json = true,
            _ => return Err(Usage::Argument(arg.unexpected(), "version").into()),
        }
    }
    let version = env!("CARGO_PKG_VERSION");
    let target = format!(
        "{}-linux-{}",
        std::env::consts::ARCH,
        if cfg!(target_env = "musl") {
            "musl"
        } else {
            "gnu"
        }
    );
    let kernel = text_of("/proc/sys/kernel/osrelease");
    let io_uring = Ring::new().is_ok();
    let fuse_uring = text_of("/sys/module/fuse/parameters/enable_uring").as_deref() == Some("Y");
    // Of a build that was told: see README, "The static binary".
    let commit = option_env!("ZRING_COMMIT");
    if json {
        let all = json!({
            "version": version,
            "commit": commit,
            "target": target,
            "features": FEATURES,
            "storages": Zurl::SCHEMES,
            "kernel": kernel,
            "io_uring": io_uring,
            "fuse_uring": fuse_uring,
        });
        println!("{all}");
    } else {
        let commit = commit.map_or(String::new(), |commit| format!(", commit {commit}"));
        println!("zring {version} ({target}{commit})");
        println!("storages: {}", Zurl::SCHEMES.join(" "));
        println!("features: {}", FEATURES.join(" "));
        println!(
            "kernel: {}, io_uring {}, FUSE over io_uring {}",
            kernel.as_deref().unwrap_or("unknown"),
            yes(io_uring),
            yes(fuse_uring)
        );
    }
    Ok(())
}

/// What this build can do that another might not.
const FEATURES: &[&str] = &[
    "watch",
    "tls",
    "etag",
    #[cfg(not(target_env = "musl"))]
    "follow-by-ring",
    #[cfg(debug_assertions)]
    "assertions",
];

fn yes(yes: bool) -> &'static str {
    if yes { "yes" } else { "no" }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The light of a finding, and whether it says what to do.
    fn light(finding: &Finding) -> (char, bool) {
        let letter = match finding.light {
            Light::Green => 'g',
            Light::Yellow => 'y',
            Light::Red => 'r',
        };
        (letter, !finding.remedy.is_empty())
    }

    const GOOD: (char, bool) = ('g', false);
    const SO_SO: (char, bool) = ('y', true);
    const BAD: (char, bool) = ('r', true);

    #[test]
    fn kernels() {
        for (release, want) in [
            (Some("6.18.5"), GOOD),
            (Some("5.3.0-rc1+"), GOOD),
            (Some("10.0"), GOOD),
            (Some("5.2.21"), SO_SO),
            (Some("4.19.0-27-amd64"), SO_SO),
            (Some("2.6.32-754.el6.x86_64"), BAD),
            (Some("custom"), SO_SO),
            (None, SO_SO),
        ] {
            let found = kernel(release, 2);
            assert_eq!(light(&found), want, "{release:?}");
            assert!(found.text.contains(release.unwrap_or("unknown")));
        }
    }

    #[test]
    fn limits() {
        let text = |files: &str, locked: &str| {
            format!(
                "Limit                     Soft Limit           Hard Limit           Units     \n\
                 Max locked memory         {locked}              8388608              bytes     \n\
                 Max open files            {files}                 1048576              files     \n"
            )
        };
        for (files_soft, want) in [
            ("64", BAD),
            ("1024", SO_SO),
            ("65536", GOOD),
            ("unlimited", GOOD),
        ] {
            let found = files(&text(files_soft, "0"), 2);
            assert_eq!(light(&found), want, "{files_soft}");
            assert!(found.text.contains(files_soft));
        }
        for (locked_soft, want) in [("65536", SO_SO), ("8388608", GOOD), ("unlimited", GOOD)] {
            let found = locked(&text("1", locked_soft));
            assert_eq!(light(&found), want, "{locked_soft}");
            assert!(found.text.contains(locked_soft));
        }
        assert_eq!(light(&files("", 2)), SO_SO);
        assert_eq!(light(&locked("")), SO_SO);
    }

    #[test]
    fn wake_ups() {
        let us = Duration::from_micros;
        assert_eq!(light(&wake_up(us(6), Some("0"))), GOOD);
        let slow = wake_up(us(50), Some("0"));
        assert_eq!(light(&slow), SO_SO);
        assert!(slow.text.contains("50.0 us") && slow.remedy.contains(HALT_POLL));
        for told in [None, Some("200000")] {
            let slow = wake_up(us(50), told);
            assert_eq!(light(&slow), SO_SO);
            assert!(!slow.remedy.contains("echo"), "nothing to be changed there");
        }
    }

    #[test]
    fn how_a_mount_serves() {
        let stats = |transport, retrieve| {
            format!("pin\t: 3\nTransport\t: {transport}\nRetrieve\t: {retrieve}\n")
        };
        let text = how_it_serves(&stats(3, 1));
        assert_eq!(
            text,
            ", transport uring; old pages are asked back of the kernel"
        );
        assert!(how_it_serves(&stats(1, 2)).starts_with(", transport plain; this kernel"));
        assert_eq!(how_it_serves("pin\t: 3\n"), "");
    }
}
