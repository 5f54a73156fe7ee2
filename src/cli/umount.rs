//! `zring umount`: waits for a busy mount a while, then says what to do, or detaches it.

use super::args::{self, Args, Usage};
use super::mount::real_path;
use super::{Failure, Outcome};
use crate::kernel::{mount as kmount, mountinfo};
use anyhow::anyhow;
use lexopt::prelude::*;
use nix::errno::Errno;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

const HELP: &str = "zring umount [--timeout D] [--lazy] MNT

Unmounts MNT. A busy mount is waited for, at most D [5s], then detached: it is gone from sight, and its daemon ends with
its last user; whoever still waits for it 2 s later gets an error. --lazy detaches it at once.
";

/// How long a detached mount may stay busy before its callers get an error.
const DETACHED: Duration = Duration::from_secs(2);
const AGAIN: Duration = Duration::from_millis(50);

/// `zring umount ...`
pub(super) fn command(args: Args) -> Outcome {
    let (mut timeout, mut lazy, mut places) = (Duration::from_secs(5), false, Vec::new());
    let mut args = args.parser();
    let wrong = |error| Usage::Argument(error, "umount");
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
            Value(value) => places.push(PathBuf::from(value)),
            _ => return Err(wrong(arg.unexpected()).into()),
        }
    }
    let [given] = places.as_slice() else {
        return Err(Usage::Count {
            expected: "one directory",
            command: "umount",
        }
        .into());
    };
    unmount(given, timeout, lazy)
}

/// Unmounts a mount of ours.
pub(super) fn unmount(given: &Path, timeout: Duration, lazy: bool) -> Outcome {
    let shown = given.display();
    let path = real_path(given)?;
    let not_mounted = || Failure::new(3, anyhow!("nothing of zring is mounted on {shown}"));
    let there = mountinfo::topmost(&path).ok_or_else(not_mounted)?;
    if !matches!(there.fstype.as_str(), "fuse.zring" | "fuse.wcfs") {
        return Err(not_mounted());
    }
    let began = Instant::now();
    let mut detached;
    loop {
        detached = lazy || began.elapsed() >= timeout;
        match kmount::unmount(&path, detached) {
            Ok(()) => break,
            Err(Errno::EBUSY) => std::thread::sleep(AGAIN),
            Err(errno @ Errno::EPERM) => {
                let error = anyhow!("{shown}: {errno}: it belongs to another user");
                return Err(Failure::new(7, error));
            }
            Err(errno) => return Err(anyhow!("{shown}: {errno}").into()),
        }
    }
    let began = Instant::now();
    // Its connection has the mount's minor number, and goes with the last user.
    let control = format!("/sys/fs/fuse/connections/{}", there.device.1);
    while detached && Path::new(&control).exists() {
        if began.elapsed() > DETACHED {
            return Ok(kmount::abort_minor(there.device.1)?);
        }
        std::thread::sleep(AGAIN);
    }
    Ok(())
}
