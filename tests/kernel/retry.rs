//! A page fault whose page is gone when its READ has been answered is tried again, holding the address space of its process
//! (kernel-note 0017).
//!
//! One process faults, with further threads that change its address space when told: each in a place of its own, so that
//! nothing but the lock can keep it waiting. They speak by files of a directory outside the mount.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use memmap2::{Advice, Mmap};
use nix::errno::Errno;
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};

use crate::child::{Ended, Running, becomes_true, wait_until};
use crate::machine::Transport;
use crate::on_each_transport;
use crate::script::generations;
use crate::stage::{SOON, Stage, WHILE};

on_each_transport!(
    the_second_try_holds_the_address_space,
    a_signal_with_a_handler,
    a_signal_in_a_system_call,
    the_kernel_tells_of_one_signal,
    who_is_stopped_in_a_second_try,
    who_is_stopped_in_a_system_call,
    a_fault_that_reads_ahead,
);

const PAGE: u64 = 4096;
/// Bytes whose protection takes so long to change that a page is dropped meanwhile.
const CHURNED: usize = 256 << 20;

// ---- the process that faults ---------------------------------------------------------------------------------------

/// What other threads do to the address space.
const OPS: [&str; 5] = ["mmap", "munmap", "mprotect", "populate", "remap"];

static HANDLED: AtomicU32 = AtomicU32::new(0);

extern "C" fn count(_: libc::c_int) {
    HANDLED.fetch_add(1, Ordering::Relaxed);
}

/// Touches the page at `off` as `how` says, with a handler for SIGUSR1; says in `found` what came of it, and stays until `end`.
pub(crate) fn fault(map: &Mmap, dir: &str, off: u64, how: &str) -> io::Result<String> {
    if how != "read-ahead" {
        map.advise(Advice::Random)?;
    }
    let dir = Path::new(dir);
    let at = usize::try_from(off).unwrap();
    handle(Signal::SIGUSR1, SigHandler::Handler(count))?;
    // The runtime's handler would have the fault repeated.
    handle(Signal::SIGBUS, SigHandler::SigDfl)?;
    for op in OPS {
        let place = match op {
            "remap" => map[at..].as_ptr() as usize,
            _ => anonymous(0)?,
        };
        let (go, did) = (dir.join(format!("go-{op}")), dir.join(format!("did-{op}")));
        std::thread::spawn(move || {
            while !go.exists() {
                std::thread::sleep(Duration::from_millis(2));
            }
            std::fs::write(did, outcome(change(op, place))).unwrap();
        });
    }
    churn(dir)?;
    std::fs::write(dir.join("tid"), format!("{}\n", nix::unistd::gettid()))?;
    let found = match how {
        "read" | "read-ahead" => generations(&map[at..at + 4096], off),
        _ => {
            // Open for both: nobody else need have it open, and who does may wait for a fault to close it.
            let mut both = File::options();
            let mut pipe = both.read(true).write(true).open(dir.join("pipe"))?;
            outcome(pipe.write(&map[at..at + 8192]))
        }
    };
    std::fs::write(dir.join("found"), format!("{}\n", found.trim()))?;
    while !dir.join("end").exists() {
        std::thread::sleep(Duration::from_millis(2));
    }
    Ok(format!("handled {}", HANDLED.load(Ordering::Relaxed)))
}

fn outcome(result: io::Result<usize>) -> String {
    match result {
        Ok(n) => format!("{n}\n"),
        Err(e) => format!("errno {}\n", e.raw_os_error().unwrap_or(-1)),
    }
}

#[allow(unsafe_code, reason = "see its SAFETY comment")]
fn handle(signal: Signal, handler: SigHandler) -> io::Result<()> {
    let action = SigAction::new(handler, SaFlags::empty(), SigSet::empty());
    // SAFETY: the handler adds to an atomic, which a handler may.
    unsafe { sigaction(signal, &action) }?;
    Ok(())
}

/// A thread that has the address space for itself nearly always, from `go-churn` until `end-churn`.
#[allow(unsafe_code, reason = "see its SAFETY comments")]
fn churn(dir: &Path) -> io::Result<()> {
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
    let anywhere = std::ptr::null_mut();
    // SAFETY: a new mapping.
    let at = unsafe { libc::mmap(anywhere, CHURNED, libc::PROT_READ, flags, -1, 0) } as usize;
    // SAFETY: of the mapping just made; an advice that fails costs time only.
    unsafe { libc::madvise(at as *mut _, CHURNED, libc::MADV_NOHUGEPAGE) };
    // SAFETY: as above. Every page becomes that of zeros: a table of half a megabyte and no memory besides.
    unsafe { libc::madvise(at as *mut _, CHURNED, libc::MADV_POPULATE_READ) };
    let path = |name: &str| dir.join(format!("{name}-churn"));
    let (go, busy, end, did) = (path("go"), path("busy"), path("end"), path("did"));
    std::thread::spawn(move || {
        while !go.exists() {
            std::thread::sleep(Duration::from_millis(2));
        }
        std::fs::write(busy, "busy\n").unwrap();
        for protection in [libc::PROT_NONE, libc::PROT_READ].into_iter().cycle() {
            // SAFETY: of pages that nobody reads.
            unsafe { libc::mprotect(at as *mut _, CHURNED, protection) };
            if end.exists() {
                break;
            }
        }
        std::fs::write(did, "0\n").unwrap();
    });
    Ok(())
}

/// A page of zeros: at this address, in place of what is there, or anywhere.
#[allow(unsafe_code, reason = "see its SAFETY comment")]
fn anonymous(place: usize) -> io::Result<usize> {
    let fixed = if place == 0 { 0 } else { libc::MAP_FIXED };
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | fixed;
    let len = usize::try_from(PAGE).unwrap();
    // SAFETY: what is replaced is a page that `fault` made for this, or that of the file it reads bytes from, any bytes.
    let at = unsafe { libc::mmap(place as *mut _, len, libc::PROT_READ, flags, -1, 0) };
    match at {
        libc::MAP_FAILED => Err(io::Error::last_os_error()),
        at => Ok(at as usize),
    }
}

/// `populate` changes nothing: it needs the address space only to look something up in it.
#[allow(unsafe_code, reason = "see its SAFETY comments")]
fn change(op: &str, place: usize) -> io::Result<usize> {
    let (at, len) = (place as *mut _, usize::try_from(PAGE).unwrap());
    // SAFETY: of a page that `fault` made for this and nobody reads.
    let munmap = || unsafe { libc::munmap(at, len) };
    // SAFETY: as above.
    let mprotect = || unsafe { libc::mprotect(at, len, libc::PROT_NONE) };
    // SAFETY: as above.
    let populate = || unsafe { libc::madvise(at, len, libc::MADV_POPULATE_READ) };
    let done = match op {
        "munmap" => munmap(),
        "mprotect" => mprotect(),
        "populate" => populate(),
        _ => return anonymous(place).map(|_| 0),
    };
    Ok(Errno::result(done).map(|_| 0)?)
}

// ---- the test's side -----------------------------------------------------------------------------------------------

/// How a fault comes to its second try.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Way {
    /// Its page is dropped once it is filled, as by a commit.
    Dropped,
    /// Its READ is answered EIO, which a first try forgets.
    Refused,
}

const WAYS: [Way; 2] = [Way::Dropped, Way::Refused];

struct Fault<'s> {
    stage: &'s mut Stage,
    dir: PathBuf,
    off: u64,
    caller: Running,
    tid: u32,
}

impl<'s> Fault<'s> {
    /// In the first try: READ#1 is parked.
    fn begin(stage: &'s mut Stage, how: &str) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(1);
        let n = NEXT.fetch_add(1, Ordering::Relaxed);
        let (dir, off) = (
            stage.rig.path(&format!("fault-{n}")),
            u64::from(n % 60) << 20,
        );
        std::fs::create_dir(&dir).unwrap();
        nix::unistd::mkfifo(&dir.join("pipe"), nix::sys::stat::Mode::S_IRWXU).unwrap();
        stage.visit("stat {}/data");
        stage.ask("set generation 1");
        stage.ask("inval 0 0");
        stage.ask("reset");
        stage.ask(&format!("park READ {off} 8192"));
        let caller = stage.send(&format!("fault {{}}/data {} {off} {how}", dir.display()));
        let mut this = Self {
            stage,
            dir,
            off,
            caller,
            tid: 0,
        };
        this.tid = this.text("tid", SOON).expect("a thread").parse().unwrap();
        this
    }

    /// On to the second try: READ#2 is parked, and who had the address space before waits for it. False if it went another way.
    fn enter(&mut self, way: Way) -> bool {
        self.stage.await_parked(1);
        let dropped = (way == Way::Dropped).then(|| {
            self.go("churn");
            self.text("busy-churn", SOON).expect("a churning thread");
            let off = self.off;
            let dropped = self.stage.begin(&format!("inval {off} {PAGE}"));
            assert_eq!(dropped.within(WHILE / 4), None, "a drop waits for the READ");
            dropped
        });
        match way {
            Way::Dropped => self.answer(2),
            Way::Refused => self.refuse(libc::EIO),
        }
        let on = becomes_true(SOON, || {
            self.has_found() || self.is_over() || self.stage.ask("parked") == "1"
        });
        let parked = self.stage.ask("parked");
        assert!(on, "neither READ#2 nor an end: {parked} {}", self.state());
        if let Some(dropped) = dropped {
            assert!(dropped.soon().starts_with("Done"));
            std::fs::write(self.dir.join("end-churn"), "").unwrap();
            return !self.has_found() && self.text("did-churn", WHILE).is_none();
        }
        !self.has_found() && !self.is_over()
    }

    /// Killed by SIGBUS: its READ#1 was of a second try already, because its first found the page locked by the kernel's own work.
    fn is_over(&mut self) -> bool {
        !self.caller.is_running()
    }

    /// Faults until one is in its second try: dropping its page is a race.
    fn second(mut stage: &'s mut Stage, how: &str, way: Way) -> Self {
        for lost in 0..40 {
            let mut fault = Self::begin(stage, how);
            if fault.enter(way) {
                println!("{how}, {way:?}: in its second try after {lost} that were not");
                return fault;
            }
            stage = fault.leave();
        }
        panic!("{how}, {way:?}: no second try")
    }

    /// In a system call, in its second try, which begins with a signal pending.
    fn pending(mut stage: &'s mut Stage) -> Self {
        for lost in 0..40 {
            let mut fault = Self::begin(stage, "write");
            fault.stage.await_parked(1);
            fault.signal(Signal::SIGUSR1);
            assert!(fault.is_interrupted());
            fault.refuse(libc::EINTR);
            let parked = |fault: &mut Self| fault.stage.ask("parked") == "1";
            let goes_on = becomes_true(SOON, || parked(&mut fault) || fault.has_found());
            assert!(goes_on, "it neither tries again nor ends");
            if parked(&mut fault) {
                return fault;
            }
            let found = fault.found();
            println!("no second try, after {lost} before: {found:?}");
            stage = fault.leave();
        }
        panic!("no second try")
    }

    fn leave(self) -> &'s mut Stage {
        std::fs::write(self.dir.join("end"), "").unwrap();
        self.stage.ask("release");
        let end = self.caller.wait(SOON);
        assert!(end.is_good() || end.signal() == Some(libc::SIGBUS), "{end}");
        self.stage
    }

    /// Answers what is parked, as of a generation; what comes next is parked again.
    fn answer(&mut self, generation: u32) {
        self.stage.ask(&format!("set generation {generation}"));
        assert_eq!(self.stage.ask("answer"), "1");
    }

    fn refuse(&mut self, errno: i32) {
        assert_eq!(self.stage.ask(&format!("refuse {errno}")), "1");
    }

    /// A file of the process, once it is whole.
    fn text(&self, name: &str, limit: Duration) -> Option<String> {
        wait_until(limit, || {
            let text = std::fs::read_to_string(self.dir.join(name)).ok()?;
            text.strip_suffix('\n').map(str::to_owned)
        })
    }

    /// What user code got, if it did soon.
    fn found(&self) -> Option<String> {
        self.text("found", SOON)
    }

    fn has_found(&self) -> bool {
        self.dir.join("found").exists()
    }

    fn go(&self, op: &str) {
        std::fs::write(self.dir.join(format!("go-{op}")), "").unwrap();
    }

    /// Has a thread do something to the address space; whether it is done, while the fault goes on.
    fn can(&self, op: &str) -> bool {
        self.go(op);
        let did = self.text(&format!("did-{op}"), WHILE);
        assert!(did.as_deref().is_none_or(|d| d == "0"), "{op}: {did:?}");
        did.is_some()
    }

    fn has_done(&self, op: &str) -> bool {
        self.text(&format!("did-{op}"), SOON).as_deref() == Some("0")
    }

    /// A signal to the faulting thread itself.
    #[allow(unsafe_code, reason = "see its SAFETY comment")]
    fn signal(&self, signal: Signal) {
        let (pid, tid) = (self.caller.pid().as_raw(), self.tid);
        // SAFETY: numbers only.
        let sent = unsafe { libc::syscall(libc::SYS_tgkill, pid, tid, signal as i32) };
        assert_eq!(sent, 0);
    }

    fn interrupts(&mut self) -> u64 {
        self.stage.count("", "INTERRUPT")
    }

    fn is_interrupted(&mut self) -> bool {
        becomes_true(SOON, || self.interrupts() > 0)
    }

    fn of_thread(&self, name: &str) -> String {
        let pid = self.caller.pid();
        std::fs::read_to_string(format!("/proc/{pid}/task/{}/{name}", self.tid)).unwrap_or_default()
    }

    fn state(&self) -> char {
        let status = self.of_thread("status");
        let state = status.lines().find_map(|l| l.strip_prefix("State:\t"));
        state.and_then(|s| s.chars().next()).unwrap_or('-')
    }

    fn becomes(&self, state: char) -> bool {
        becomes_true(SOON, || self.state() == state)
    }

    /// The system call it is in, -1 for none.
    fn call(&self) -> String {
        let text = self.of_thread("syscall");
        text.split(' ').next().unwrap_or_default().trim().to_owned()
    }

    /// Whose pages are in the pipe.
    fn drain(&self) -> String {
        let mut options = File::options();
        options.read(true).custom_flags(libc::O_NONBLOCK);
        let mut pipe = options.open(self.dir.join("pipe")).unwrap();
        let mut bytes = Vec::new();
        let _ = pipe.read_to_end(&mut bytes); // EAGAIN at its end
        generations(&bytes, self.off)
    }

    /// Ends it: nothing is parked from here on.
    fn end(self) -> Ended {
        std::fs::write(self.dir.join("end"), "").unwrap();
        self.stage.ask("release");
        self.caller.wait(SOON)
    }

    fn ends_with_handled(self, n: u32) {
        let ended = self.end().good();
        assert!(ended.out.contains(&format!("handled {n}")), "{ended}");
    }
}

/// A file of /proc that is read through the address space of a process; whether that ends in a while.
fn cmdline_is_read(pid: nix::unistd::Pid) -> bool {
    let (tell, told) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let _ = std::fs::read(format!("/proc/{pid}/cmdline"));
        let _ = tell.send(());
    });
    told.recv_timeout(WHILE).is_ok()
}

fn the_second_try_holds_the_address_space(transport: Transport) {
    let Some(mut stage) = Stage::up("retry", transport, "") else {
        return;
    };
    // In the first try nothing is held. Who has the page mapped anew meanwhile reads what is there now.
    let mut fault = Fault::begin(&mut stage, "read");
    fault.stage.await_parked(1);
    for op in OPS {
        assert!(fault.can(op), "{op} waits for a first try");
    }
    fault.answer(1);
    assert_eq!(fault.found().as_deref(), Some("badx1"), "zeros");
    assert_eq!(fault.stage.count("", "READ"), 1);
    fault.ends_with_handled(0);

    for way in WAYS {
        for op in ["mmap", "munmap", "mprotect", "remap"] {
            let mut fault = Fault::second(&mut stage, "read", way);
            assert_eq!((fault.state(), fault.call().as_str()), ('S', "-1"));
            // It is shared with who looks only, as long as nobody wants to change it.
            let is_shared = way == Way::Refused;
            // Somebody else may want to change it just then: a thread of the process that only begins, the kernel for its own work.
            let mut left = if is_shared { 5 } else { 0 };
            while left > 0 && !cmdline_is_read(fault.caller.pid()) {
                left -= 1;
                fault = Fault::second(fault.leave(), "read", way);
            }
            assert_eq!(cmdline_is_read(fault.caller.pid()), is_shared, "{way:?}");
            assert_eq!(fault.can("populate"), is_shared, "{way:?}");
            assert!(!fault.can(op), "{way:?}: {op} passes a second try");
            assert!(!cmdline_is_read(fault.caller.pid()), "{way:?}: past {op}");
            assert!(!fault.has_found());
            fault.answer(3);
            assert!(fault.has_done(op), "{way:?}: {op}");
            let found = fault.found().unwrap();
            // Mapped anew before or after the page is looked at.
            let allowed = found == "3x1" || op == "remap" && found == "badx1";
            assert!(allowed, "{way:?} {op}: {found}");
            fault.ends_with_handled(0);
        }
    }
}

/// EINTR begins a first try anew, and is SIGBUS in the second.
fn a_signal_with_a_handler(transport: Transport) {
    let Some(mut stage) = Stage::up("retry-signal", transport, "") else {
        return;
    };
    // The first try: an answer of bytes, then one of EINTR. The handler waits for either.
    for errno in [0, libc::EINTR, libc::EIO] {
        let mut fault = Fault::begin(&mut stage, "read");
        fault.stage.await_parked(1);
        fault.signal(Signal::SIGUSR1);
        assert!(fault.is_interrupted());
        if errno == 0 {
            fault.answer(2);
        } else {
            fault.refuse(errno);
            fault.stage.await_parked(1);
            assert!(fault.can("mmap"), "READ#2 after {errno} is of a second try");
            fault.answer(2);
        }
        assert_eq!(fault.found().as_deref(), Some("2x1"));
        assert_eq!(fault.interrupts(), 1);
        fault.ends_with_handled(1);
    }
    for way in WAYS {
        let mut fault = Fault::second(&mut stage, "read", way);
        fault.signal(Signal::SIGUSR1);
        assert!(fault.is_interrupted());
        assert!(!fault.can("mmap"), "{way:?}: not a second try");
        fault.answer(2);
        assert_eq!(fault.found().as_deref(), Some("2x1"));
        fault.ends_with_handled(1);

        let mut fault = Fault::second(&mut stage, "read", way);
        fault.signal(Signal::SIGUSR1);
        assert!(fault.is_interrupted());
        fault.refuse(libc::EINTR);
        assert_eq!(fault.end().signal(), Some(libc::SIGBUS), "{way:?}");
    }
}

/// In a system call a signal does not keep the first try from going over to the second, whose READ begins with the signal pending.
fn a_signal_in_a_system_call(transport: Transport) {
    let Some(mut stage) = Stage::up("retry-pending", transport, "") else {
        return;
    };
    for killed in [false, true, false, true] {
        let mut fault = Fault::pending(&mut stage);
        assert!(!fault.can("mmap"), "not a second try");
        // Told on /dev/fuse; on a ring it is lost, unless the request was delivered before its caller looked.
        let interrupts = fault.interrupts();
        println!("{transport:?}: {interrupts} INTERRUPTs of 2 READs");
        assert!(interrupts == 2 || transport == Transport::Uring);
        if killed {
            fault.caller.signal(Signal::SIGKILL);
            std::thread::sleep(WHILE);
            assert_eq!(fault.interrupts(), interrupts);
            assert!(fault.caller.is_running());
            fault.answer(2);
            assert_eq!(fault.end().signal(), Some(libc::SIGKILL));
            continue;
        }
        fault.refuse(libc::EINTR);
        assert_eq!(fault.found().as_deref(), Some("errno 14"));
        assert_eq!(fault.drain(), "");
        fault.ends_with_handled(1);
    }
}

/// Who was signalled, and is killed then: the second signal is not told.
fn the_kernel_tells_of_one_signal(transport: Transport) {
    let Some(mut stage) = Stage::up("retry-killed", transport, "") else {
        return;
    };
    for way in [None].into_iter().chain(WAYS.map(Some)) {
        for first in [Signal::SIGUSR1, Signal::SIGKILL] {
            let mut fault = match way {
                Some(way) => Fault::second(&mut stage, "read", way),
                None => Fault::begin(&mut stage, "read"),
            };
            fault.stage.await_parked(1);
            fault.signal(first);
            assert!(fault.is_interrupted());
            fault.signal(Signal::SIGKILL);
            fault.caller.signal(Signal::SIGKILL);
            std::thread::sleep(WHILE);
            assert_eq!(fault.interrupts(), 1, "{way:?} {first}");
            assert!(fault.caller.is_running(), "{way:?} {first}");
            assert_eq!(fault.state(), 'D', "{way:?} {first}");
            // /proc tells of the SIGKILL.
            let tid = fault.tid;
            assert!(zring::kernel::proc::is_being_killed(tid), "{way:?} {first}");
            fault.answer(2);
            assert_eq!(fault.end().signal(), Some(libc::SIGKILL), "{way:?} {first}");
        }
    }
}

/// Between the answer and the next instruction it stops. So what READ#2 brought can be taken back, and read anew by a first try.
fn who_is_stopped_in_a_second_try(transport: Transport) {
    let Some(mut stage) = Stage::up("retry-stop", transport, "") else {
        return;
    };
    for way in WAYS.into_iter().flat_map(|way| [way; 4]) {
        let mut fault = Fault::second(&mut stage, "read", way);
        assert!(!fault.can("mmap"), "{way:?}: not a second try");
        fault.caller.signal(Signal::SIGSTOP);
        assert!(fault.is_interrupted());
        assert_eq!(fault.call(), "-1");
        std::thread::sleep(WHILE / 8);
        assert_ne!(fault.state(), 'T', "{way:?}: stopped before the answer");
        fault.answer(3);
        assert!(fault.becomes('T'), "{way:?}: {}", fault.state());
        // The lock is free: who waited for it has it, and stops too.
        assert!(cmdline_is_read(fault.caller.pid()));
        std::thread::sleep(WHILE / 4);
        assert!(!fault.has_found(), "{way:?}: looked at by user code");
        let off = fault.off;
        let told = fault.stage.ask(&format!("inval {off} {PAGE}"));
        assert!(told.starts_with("Done"), "{told}");
        assert_eq!(fault.stage.count("", "READ"), 2);

        fault.caller.signal(Signal::SIGCONT);
        fault.stage.await_parked(1);
        assert_eq!(fault.stage.count("", "READ"), 3);
        assert!(fault.has_done("mmap"), "{way:?}");
        assert!(fault.can("mprotect"), "{way:?}: READ#3 is of a second try");
        assert_eq!(fault.call(), "-1");
        fault.answer(4);
        assert_eq!(fault.found().as_deref(), Some("4x1"), "{way:?}");
        fault.ends_with_handled(0);
    }
    // In the first try it stops too, before a second one; EINTR would do as well as bytes.
    for errno in [0, libc::EINTR] {
        let mut fault = Fault::begin(&mut stage, "read");
        fault.stage.await_parked(1);
        fault.caller.signal(Signal::SIGSTOP);
        assert!(fault.is_interrupted());
        match errno {
            0 => fault.answer(2),
            errno => fault.refuse(errno),
        }
        assert!(fault.becomes('T'));
        let off = fault.off;
        fault.stage.ask(&format!("inval {off} {PAGE}"));
        assert!(!fault.has_found());
        fault.caller.signal(Signal::SIGCONT);
        fault.stage.await_parked(1);
        assert!(fault.can("mmap"), "READ#2 is of a second try");
        fault.answer(3);
        assert_eq!(fault.found().as_deref(), Some("3x1"));
        fault.ends_with_handled(0);
    }
}

/// A fault that reads ahead waits for the lock of its page and not for its READ: no INTERRUPT tells of a signal, and who is killed ends.
fn a_fault_that_reads_ahead(transport: Transport) {
    let Some(mut stage) = Stage::up("retry-ahead", transport, "") else {
        return;
    };
    let mut fault = Fault::second(&mut stage, "read-ahead", Way::Dropped);
    println!("READs {}", fault.stage.ask("reads"));
    assert!(!fault.can("mmap"));
    assert!(!fault.has_found());
    fault.caller.signal(Signal::SIGSTOP);
    std::thread::sleep(WHILE);
    assert_eq!(fault.interrupts(), 0);
    println!("stopped, not answered: {} {}", fault.state(), fault.call());
    fault.answer(3);
    assert!(fault.becomes('T'), "{}", fault.state());
    std::thread::sleep(WHILE / 4);
    assert!(!fault.has_found());
    let told = fault.stage.ask("inval 0 0");
    assert!(told.starts_with("Done"), "{told}");
    fault.caller.signal(Signal::SIGCONT);
    fault.stage.await_parked(1);
    assert!(fault.has_done("mmap"));
    assert!(fault.can("mprotect"));
    fault.answer(4);
    assert_eq!(fault.found().as_deref(), Some("4x1"));
    fault.ends_with_handled(0);

    let mut fault = Fault::second(&mut stage, "read-ahead", Way::Dropped);
    fault.signal(Signal::SIGUSR1);
    assert!(!fault.can("mmap"));
    assert_eq!(fault.interrupts(), 0);
    fault.caller.signal(Signal::SIGKILL);
    let ended = becomes_true(SOON, || !fault.caller.is_running());
    assert!(ended, "waits for its READ");
    assert_eq!(fault.stage.ask("parked"), "1");
    assert_eq!(fault.end().signal(), Some(libc::SIGKILL));
}

/// write(2) from the mapping: the kernel copies on before it stops, and what it has copied cannot be taken back.
fn who_is_stopped_in_a_system_call(transport: Transport) {
    let Some(mut stage) = Stage::up("retry-call", transport, "") else {
        return;
    };
    for way in WAYS {
        let mut fault = Fault::second(&mut stage, "write", way);
        assert!(!fault.can("mmap"), "{way:?}: not a second try");
        assert_eq!(fault.call(), libc::SYS_write.to_string());
        fault.caller.signal(Signal::SIGSTOP);
        assert!(fault.is_interrupted());
        fault.answer(3);
        // It does not stop, but goes on to the next page.
        fault.stage.await_parked(1);
        let reads = fault.stage.ask("reads");
        let (first, second) = (fault.off, fault.off + PAGE);
        assert_eq!(reads, format!("{first}+4096 {first}+4096 {second}+4096"));
        assert_ne!(fault.state(), 'T');
        let told = fault.stage.ask(&format!("inval {first} {PAGE}"));
        assert!(told.starts_with("Done"), "{told}");
        fault.answer(4);
        assert!(fault.becomes('T'), "{way:?}: {}", fault.state());
        assert_eq!(fault.drain(), "3x1 4x1", "{way:?}");
        fault.caller.signal(Signal::SIGCONT);
        assert_eq!(fault.found().as_deref(), Some("8192"), "{way:?}");
        assert_eq!(fault.stage.count("", "READ"), 3);
        fault.ends_with_handled(0);
    }
}
