//! What memory costs that nobody had before (kernel-note 0025).

use crate::client::DO;
use crate::machine::lack;
use crate::rig::Rig;
use crate::stage::{SOON, said};

/// Pages that were touched, KiB.
const TOUCHED: u64 = 64 << 10;

#[test]
fn a_process_of_small_pages_gets_no_huge_one() {
    let enabled = std::fs::read_to_string("/sys/kernel/mm/transparent_hugepage/enabled");
    if enabled.is_err() || enabled.is_ok_and(|how| how.contains("[never]")) {
        return lack("what huge pages cost: this kernel gives none");
    }
    let rig = Rig::new("fresh", 60);
    let touch = |sizes: &str| {
        let mut c = rig.command(std::env::current_exe().unwrap());
        c.args(["--exact", "client::role", "--nocapture", "--test-threads=1"]);
        c.env(DO, format!("fresh {sizes}"));
        let said = said(&rig.run(&mut c, SOON));
        let numbers = said.split(' ').map(|n| n.parse::<u64>().unwrap());
        let numbers: Vec<_> = numbers.collect();
        let (slowest, all, huge) = (numbers[0], numbers[1], numbers[2]);
        println!("{sizes}: the slowest page {slowest} us, all {all} us, {huge} KiB in huge pages");
        huge
    };
    for _ in 0..3 {
        let (large, small) = (touch("large"), touch("small"));
        assert!(large > TOUCHED / 2, "memory is short: {large} KiB");
        assert_eq!(small, 0);
    }
}
