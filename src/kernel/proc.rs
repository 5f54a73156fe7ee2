//! What the machine is, threads and their cores, waking a thread.

use super::calls;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::unistd::Pid;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Starts a named thread.
///
/// # Errors
/// The system has no room for one.
#[allow(
    clippy::disallowed_methods,
    reason = "the one place that starts threads"
)]
pub fn spawn<T: Send + 'static>(
    name: &str,
    body: impl FnOnce() -> T + Send + 'static,
) -> io::Result<JoinHandle<T>> {
    std::thread::Builder::new()
        .name(name.to_owned())
        .stack_size(1 << 20)
        .spawn(body)
}

/// CPUs this process may run on, in order: one worker each.
pub fn cpus_allowed() -> Vec<usize> {
    let set = sched_getaffinity(Pid::from_raw(0)).unwrap_or_default();
    let cpus: Vec<_> = (0..CpuSet::count())
        .filter(|&cpu| set.is_set(cpu).unwrap_or(false))
        .collect();
    if cpus.is_empty() { vec![0] } else { cpus }
}

/// Processors worth of time this process may use: CPUs that are allowed, and no more than the quotas of its control group and of those above.
pub fn processors() -> usize {
    let allowed = cpus_allowed().len();
    let mut least = allowed;
    let mut group = control_group();
    while let Some(dir) = group {
        let text = calls::proc_text(&format!("{GROUPS}{}/cpu.max", dir.display()));
        least = text
            .and_then(|text| cpus_of(&text))
            .unwrap_or(least)
            .min(least);
        group = dir.parent().map(Path::to_owned);
    }
    least.max(1)
}

/// `max 100000`, or microseconds of each so many, rounded up to whole processors.
fn cpus_of(max: &str) -> Option<usize> {
    let (quota, period) = max.trim().split_once(' ')?;
    let quota: usize = quota.parse().ok()?;
    Some(quota.div_ceil(period.parse::<usize>().ok()?.max(1)))
}

const GROUPS: &str = "/sys/fs/cgroup";

/// The control group of this process, as a path from that of all.
fn control_group() -> Option<PathBuf> {
    let text = calls::proc_text("/proc/self/cgroup")?;
    let path = text.lines().find_map(|line| line.strip_prefix("0::"))?;
    Some(PathBuf::from(path))
}

/// Pressure on `io` or `cpu` as the kernel writes it: of the machine, or of the own control group where that alone is told.
pub fn pressure_text(what: &str) -> Option<String> {
    calls::proc_text(&format!("/proc/pressure/{what}")).or_else(|| {
        let group = control_group()?;
        calls::proc_text(&format!("{GROUPS}{}/{what}.pressure", group.display()))
    })
}

/// Keeps the calling thread on one CPU. Being refused costs speed, not correctness.
pub fn pin(cpu: usize) {
    let mut set = CpuSet::new();
    if set.set(cpu).is_ok() {
        let _ = sched_setaffinity(Pid::from_raw(0), &set);
    }
}

/// Queues the kernel has for FUSE over io_uring: one per *possible* CPU. `None` without /sys.
pub fn queues() -> Option<u16> {
    let text = std::fs::read_to_string("/sys/devices/system/cpu/possible").ok()?;
    let last = text.trim().rsplit(['-', ',']).next()?;
    last.parse::<u16>().ok()?.checked_add(1)
}

/// Wakes the worker that polls it, from any thread.
#[derive(Clone, Debug)]
pub struct Waker(Arc<EventFd>);

impl Waker {
    /// A new one.
    ///
    /// # Errors
    /// No descriptor left.
    pub fn new() -> io::Result<Self> {
        let flags = EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK;
        Ok(Self(Arc::new(EventFd::from_value_and_flags(0, flags)?)))
    }

    /// Wakes it now, or as soon as it waits.
    pub fn wake(&self) {
        // A full counter (EAGAIN) means that it has not looked yet, which is as good.
        while self.0.write(1) == Err(Errno::EINTR) {}
    }

    /// Takes note of all wake-ups so far.
    pub fn drain(&self) {
        let _ = self.0.read();
    }

    /// What to poll.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// User and group this process acts as.
pub fn ids() -> (u32, u32) {
    (
        nix::unistd::geteuid().as_raw(),
        nix::unistd::getegid().as_raw(),
    )
}

/// Name of the user this process acts as.
pub fn user_name() -> Option<String> {
    let user = nix::unistd::User::from_uid(nix::unistd::geteuid());
    user.ok().flatten().map(|user| user.name)
}

/// The number of a group, by its name or itself.
pub fn group_id(name: &str) -> Option<u32> {
    let named = nix::unistd::Group::from_name(name).ok().flatten();
    let named = named.map(|group| group.gid.as_raw());
    named.or_else(|| name.parse().ok())
}

/// Whether a thread is on its way out, or gone: by its number, 0 for one that cannot be seen from here.
pub fn is_being_killed(tid: u32) -> bool {
    // Whatever ends a process ends its other threads by SIGKILL.
    let kill = 1u64 << (Signal::SIGKILL as u32 - 1);
    signals_of(tid).is_none_or(|(pending, _)| pending & kill != 0)
}

/// Whether a thread has a signal to act upon, is on its way out, or gone: see [`is_being_killed`].
pub fn is_signalled(tid: u32) -> bool {
    signals_of(tid).is_none_or(|(pending, deaf_to)| pending & !deaf_to != 0)
}

/// The signals that wait for a thread or its process, and those that it is deaf to; `None` if it has ended.
fn signals_of(tid: u32) -> Option<(u64, u64)> {
    let status = std::fs::read_to_string(format!("/proc/{tid}/status")).ok()?;
    let field = |name: &str| status.lines().find_map(|line| line.strip_prefix(name));
    let mask = |name| u64::from_str_radix(field(name)?.trim(), 16).ok();
    let has_ended = field("State:")?.trim_start().starts_with(['Z', 'X']);
    if has_ended {
        return None;
    }
    let pending = mask("SigPnd:")? | mask("ShdPnd:")?;
    Some((pending, mask("SigBlk:")? | mask("SigIgn:")?))
}

/// CPU that a thread runs on, or ran on last, by its number; `None` if it has ended or cannot be seen from here.
pub fn cpu_of(tid: u32) -> Option<usize> {
    let stat = calls::proc_text(&format!("/proc/{tid}/stat"))?;
    // The name may hold anything. What follows it begins with field 3; the CPU is field 39.
    let (_, fields) = stat.rsplit_once(')')?;
    fields.split_whitespace().nth(39 - 3)?.parse().ok()
}

/// Number of the calling thread, as `/proc` has it.
pub fn thread_id() -> i32 {
    nix::unistd::gettid().as_raw()
}

/// Has this process open as many files as it is allowed to, and tells how many: the usual limit is for programs that know no more.
pub fn raise_files() -> usize {
    let Ok((now, most)) = getrlimit(Resource::RLIMIT_NOFILE) else {
        return 0;
    };
    let raised = setrlimit(Resource::RLIMIT_NOFILE, most, most).is_ok();
    usize::try_from(if raised { most } else { now }).unwrap_or(usize::MAX)
}

/// Name of the calling thread.
pub fn thread_name() -> String {
    std::thread::current().name().unwrap_or("?").to_owned()
}

/// Processor time that all threads of this process have used.
pub fn cpu_time() -> Duration {
    use nix::sys::resource::{UsageWho, getrusage};
    let Ok(usage) = getrusage(UsageWho::RUSAGE_SELF) else {
        return Duration::ZERO;
    };
    let of = |t: nix::sys::time::TimeVal| {
        let micros = t.tv_sec() * 1_000_000 + t.tv_usec();
        Duration::from_micros(micros.try_into().unwrap_or_default())
    };
    of(usage.user_time()) + of(usage.system_time())
}

/// Has memory come in small pages from now on. Where somebody waits, or the process ends soon and touches little, clearing a large one costs more than it
/// saves: 0.4 to 9 ms each were measured on guests (kernel-note 0025). Being refused costs that.
pub fn small_pages() {
    let _ = nix::sys::prctl::set_thp_disable(true);
}

/// How often threads of this process gave up their processor to wait for something.
pub fn waits() -> u64 {
    use nix::sys::resource::{UsageWho, getrusage};
    let usage = getrusage(UsageWho::RUSAGE_SELF);
    let waits = usage.map_or(0, |usage| usage.voluntary_context_switches());
    waits.try_into().unwrap_or_default()
}

/// A moment as clocks on the wall show it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WallTime {
    /// Year, month from 1, day.
    pub date: (i32, i32, i32),
    /// Hour, minute, second.
    pub time: (i32, i32, i32),
    /// Microsecond.
    pub micros: u32,
}

impl WallTime {
    /// In the time zone of this process.
    pub fn of(at: SystemTime) -> Self {
        let since = at.duration_since(UNIX_EPOCH).unwrap_or_default();
        let seconds = since.as_secs().try_into().unwrap_or_default();
        let mut out = std::mem::MaybeUninit::<libc::tm>::zeroed();
        // SAFETY: both pointers are to live values of the right type; the second is written before the call returns.
        unsafe { libc::localtime_r(&raw const seconds, out.as_mut_ptr()) };
        // SAFETY: all zeros is a valid `tm`, which is what it is should the call have failed.
        let tm = unsafe { out.assume_init() };
        Self {
            date: (tm.tm_year + 1900, tm.tm_mon + 1, tm.tm_mday),
            time: (tm.tm_hour, tm.tm_min, tm.tm_sec),
            micros: since.subsec_micros(),
        }
    }
}

/// Has the calling thread step back for all others: nice, or (`idle`) only when nobody else wants the processor. Its reads wait for those
/// of others too. Being refused costs manners, not correctness.
pub fn step_back(idle: bool) {
    const IOPRIO_WHO_PROCESS: libc::c_int = 1;
    const IOPRIO_LOWEST: libc::c_int = 2 << 13 | 7;
    const IOPRIO_IDLE: libc::c_int = 3 << 13;
    let nice = || {
        // SAFETY: takes numbers alone; 0 is the calling thread.
        unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, 10) };
    };
    nice();
    if idle {
        // SAFETY: all zeros is a valid `sched_param`, and the one this policy wants.
        let param: libc::sched_param = unsafe { std::mem::zeroed() };
        // SAFETY: `param` is live for the call.
        unsafe { libc::sched_setscheduler(0, libc::SCHED_IDLE, &raw const param) };
    }
    let class = if idle { IOPRIO_IDLE } else { IOPRIO_LOWEST };
    // SAFETY: takes numbers alone.
    unsafe { libc::syscall(libc::SYS_ioprio_set, IOPRIO_WHO_PROCESS, 0, class) };
}

/// Lets some time pass.
#[allow(
    clippy::disallowed_methods,
    reason = "the caller has nothing to wait on"
)]
pub fn pause(time: std::time::Duration) {
    std::thread::sleep(time);
}

/// Name of this machine up to the first dot, and of the user this process acts as.
pub fn host_and_user() -> (String, String) {
    let host = nix::unistd::gethostname().unwrap_or_default();
    let host = host.to_string_lossy();
    let host = host.split('.').next().unwrap_or_default().to_owned();
    let uid = nix::unistd::geteuid();
    let user = nix::unistd::User::from_uid(uid).ok().flatten();
    (host, user.map_or_else(|| uid.to_string(), |user| user.name))
}

fn quit_signal() -> SigSet {
    [Signal::SIGQUIT].into_iter().collect()
}

/// Leaves SIGQUIT to [`wait_for_quit`], in this thread and those it starts. Other signals do what they always do.
///
/// # Errors
/// Never on Linux.
pub fn block_quit() -> io::Result<()> {
    Ok(quit_signal().thread_block()?)
}

/// Waits for SIGQUIT.
pub fn wait_for_quit() {
    while quit_signal().wait().is_err() {}
}

fn stop_signals() -> SigSet {
    [Signal::SIGTERM, Signal::SIGINT].into_iter().collect()
}

/// Leaves the stopping signals to [`wait_for_stop`], in this thread and those it starts.
///
/// # Errors
/// Never on Linux.
pub fn block_signals() -> io::Result<()> {
    Ok(stop_signals().thread_block()?)
}

/// Has SIGTERM come when the thread ends that started this process, until that is taken back.
pub fn end_with_parent(is_so: bool) {
    let signal = is_so.then_some(Signal::SIGTERM);
    let _ = nix::sys::prctl::set_pdeathsig(signal); // every signal there is may be named
}

/// Waits for a stopping signal; the exit status of who is ended by it.
pub fn wait_for_stop_code() -> u8 {
    loop {
        if let Ok(signal) = stop_signals().wait() {
            return u8::try_from(128 + signal as i32).unwrap_or(u8::MAX);
        }
    }
}

/// Waits for a stopping signal, at most `limit`; false when none came.
pub fn wait_for_stop(limit: Option<Duration>) -> bool {
    let Some(limit) = limit else {
        while stop_signals().wait().is_err() {}
        return true;
    };
    let flags = SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK;
    let Ok(fd) = SignalFd::with_flags(&stop_signals(), flags) else {
        return false;
    };
    let timeout = PollTimeout::try_from(limit).unwrap_or(PollTimeout::MAX);
    let _ = poll(&mut [PollFd::new(fd.as_fd(), PollFlags::POLLIN)], timeout);
    matches!(fd.read_signal(), Ok(Some(_)))
}

/// The stopping signals as a descriptor, for who waits for other things too.
#[derive(Debug)]
pub struct StopFd(SignalFd);

impl StopFd {
    /// Leaves the stopping signals to it, in this thread and those it starts.
    ///
    /// # Errors
    /// No descriptor left.
    pub fn new() -> io::Result<Self> {
        block_signals()?;
        let flags = SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK;
        Ok(Self(SignalFd::with_flags(&stop_signals(), flags)?))
    }

    /// Readable when one came.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }

    /// Number of the next one that came.
    pub fn take(&self) -> Option<u8> {
        let info = self.0.read_signal().ok().flatten()?;
        u8::try_from(info.ssi_signo).ok()
    }
}

/// The file that a daemon in the background writes its lines to; a deaf one without a name.
///
/// # Errors
/// It cannot be opened to write at its end.
pub fn open_log(named: Option<&str>) -> io::Result<File> {
    let mut options = File::options();
    options.append(true).create(named.is_some());
    // A pipe that nobody reads is refused instead of waited for, and a terminal stays that of others.
    options.custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY);
    match (options.open(named.unwrap_or("/dev/null")), named) {
        // A root without it: lines go to a pipe that nobody reads.
        (Err(_), None) => io::pipe().map(|(_, deaf)| OwnedFd::from(deaf).into()),
        (log, _) => log,
    }
}

/// Becomes a session of its own with nothing open to the terminal; stderr goes to `log`.
///
/// # Errors
/// Never on Linux.
pub fn let_go_of_terminal(log: &File) -> io::Result<()> {
    let _ = nix::unistd::setsid(); // refused to a group leader, which is its own session already
    let null = File::options().write(true).open("/dev/null");
    // So that the reader of stdout sees its end, whatever becomes of the rest.
    nix::unistd::dup2_stdout(null.as_ref().unwrap_or(log))?;
    Ok(nix::unistd::dup2_stderr(log)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quotas_are_rounded_up_to_whole_processors() {
        let all = ["max 100000", "50000 100000", "250000 100000\n", "x", ""];
        assert_eq!(all.map(cpus_of), [None, Some(1), Some(3), None, None]);
        assert!((1..=cpus_allowed().len()).contains(&processors()));
    }

    #[test]
    fn a_log_that_cannot_be_written_is_refused_at_once() {
        let dir = std::env::temp_dir().join(format!("zring-log-{}", std::process::id()));
        std::fs::create_dir_all(&dir).expect("a temporary directory");
        let open = |name: &str| open_log(dir.join(name).to_str());
        nix::unistd::mkfifo(&dir.join("pipe"), nix::sys::stat::Mode::S_IRWXU).expect("a pipe");
        for name in ["no/such/directory", "", "pipe"] {
            assert!(open(name).is_err(), "{name:?}");
        }
        assert!(open("log").is_ok() && open("log").is_ok() && open_log(None).is_ok());
        std::fs::remove_dir_all(&dir).expect("ours");
    }

    #[test]
    fn wall_time_has_all_its_parts() {
        // The 2nd of January of 2001 is that in every time zone at noon of UTC, but for the far side of the date line.
        let at = UNIX_EPOCH + Duration::from_micros(978_436_800_000_000 + 123_456);
        let wall = WallTime::of(at);
        assert_eq!((wall.date.0, wall.date.1, wall.micros), (2001, 1, 123_456));
        assert!((1..=3).contains(&wall.date.2) && (0..24).contains(&wall.time.0));
    }
}
