//! `zring doctor` and `zring version`: what this binary is, and what the machine offers it.

use super::args::{Args, Usage};
use super::mount::{answers, real_path};
use super::{Failure, Outcome};
use crate::base::limit;
use crate::kernel::ring::Ring;
use crate::kernel::{mountinfo, proc};
use lexopt::prelude::*;
use std::path::{Path, PathBuf};
use std::time::Duration;

const HELP: &str = "zring doctor [MNT...]

Says what this machine offers, how the mounts MNT are, and what to do where that is too little.";

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
    let mut findings = vec![
        kernel(),
        device(),
        rings(),
        fuse_rings(),
        read_size(),
        abort(),
        helper(),
        memory(),
    ];
    findings.extend(mounts.iter().map(|mnt| mount(mnt)));
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
        Err(Failure::new(
            4,
            anyhow::anyhow!("something that zring needs is missing"),
        ))
    } else {
        Ok(())
    }
}

fn mount(mnt: &Path) -> Finding {
    let shown = mnt.display();
    let there = real_path(mnt)
        .ok()
        .and_then(|path| mountinfo::topmost(&path).map(|m| (path, m)));
    let Some((path, there)) = there.filter(|(_, m)| m.fstype.starts_with("fuse.")) else {
        return finding(
            Light::Red,
            format!("nothing of zring is mounted on {shown}"),
            "zring mount",
        );
    };
    match answers(&path, Duration::from_secs(5)) {
        Some(Ok(())) => finding(
            Light::Green,
            format!("{shown} serves {} ({})", there.source, there.fstype),
            "",
        ),
        Some(Err(_)) => finding(
            Light::Red,
            format!("the daemon behind {shown} is gone"),
            "zring umount it, and mount again",
        ),
        None => finding(
            Light::Red,
            format!("{shown} does not answer"),
            "zring umount --lazy ends it",
        ),
    }
}

fn text_of(path: &str) -> Option<String> {
    Some(std::fs::read_to_string(path).ok()?.trim().to_owned())
}

fn kernel() -> Finding {
    let release =
        text_of("/proc/sys/kernel/osrelease").unwrap_or_else(|| "of unknown release".into());
    finding(
        Light::Green,
        format!(
            "kernel {release}, {} CPUs to work on",
            proc::cpus_allowed().len()
        ),
        "",
    )
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

fn memory() -> Finding {
    let locked = text_of("/proc/self/limits").unwrap_or_default();
    let files = locked.lines().find(|l| l.starts_with("Max open files"));
    let soft = files
        .and_then(|l| l.split_whitespace().nth(3))
        .unwrap_or("unknown")
        .to_owned();
    finding(Light::Green, format!("open files: {soft}"), "")
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
    let io_uring = Ring::new().is_ok();
    let fuse_uring = text_of("/sys/module/fuse/parameters/enable_uring").as_deref() == Some("Y");
    if json {
        println!(
            "{{\"version\":\"{version}\",\"target\":\"{target}\",\"storages\":[\"file\"],\"io_uring\":{io_uring},\"fuse_uring\":{fuse_uring}}}"
        );
    } else {
        println!("zring {version} ({target})");
        println!("storages: file");
        println!(
            "kernel: io_uring {}, FUSE over io_uring {}",
            yes(io_uring),
            yes(fuse_uring)
        );
    }
    Ok(())
}

fn yes(yes: bool) -> &'static str {
    if yes { "yes" } else { "no" }
}
