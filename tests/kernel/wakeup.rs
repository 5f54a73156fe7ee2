//! What it costs to wake a thread on another CPU, and what that depends on (kernel-note 0021).

use std::fs;
use std::time::Duration;

use zring::kernel::proc::cpus_allowed;
use zring::kernel::wakeup::round_trip;

use crate::machine::{lack, root_or_lack};

const HALT_POLL: &str = "/sys/module/haltpoll/parameters/guest_halt_poll_ns";

/// The setting is put back whatever comes.
struct PutBack(String);

impl Drop for PutBack {
    fn drop(&mut self) {
        let _ = fs::write(HALT_POLL, &self.0);
    }
}

#[test]
fn an_idle_cpu_that_halts_at_once_is_slow_to_wake() {
    if cpus_allowed().len() < 2 {
        assert_eq!(round_trip(100).unwrap(), None);
        return lack("what a wake-up on another CPU costs: there is one CPU only");
    }
    let before = cpus_allowed();
    let took = round_trip(400).unwrap().unwrap();
    println!("as this machine is set: {took:?} a round trip");
    assert!(took > Duration::ZERO && took < Duration::from_secs(1));
    assert_eq!(cpus_allowed(), before, "the caller may run where it could");
    let Ok(was) = fs::read_to_string(HALT_POLL) else {
        return lack(
            "idle CPUs that halt, or poll: no module haltpoll (this is no virtual machine)",
        );
    };
    if !root_or_lack("idle CPUs that halt, or poll") {
        return;
    }
    let _was = PutBack(was);
    // Other work keeps CPUs awake: the quickest of some.
    let best = |ns: &str| {
        fs::write(HALT_POLL, ns).unwrap();
        let tries = (0..5).map(|_| round_trip(400).unwrap().unwrap());
        tries.min().unwrap()
    };
    let (halts, polls) = (best("0"), best("200000"));
    println!("guest_halt_poll_ns = 0: {halts:?}, = 200000: {polls:?}");
    assert!(polls < halts * 2, "{polls:?} {halts:?}");
}
