//! Sizes of READs, and what raises them (kernel-note 0008).

use crate::machine::{Transport, root_or_lack};
use crate::stage::Stage;

/// The READs of one action on cold pages, as sizes in KiB in the order of their offsets.
fn reads(stage: &mut Stage, action: &str) -> String {
    stage.ask("inval 0 0");
    stage.ask("reset");
    stage.visit(action);
    stage.settle(); // the client did not wait for what was read ahead
    let mut reads: Vec<(u64, u64)> = stage
        .ask("reads")
        .split(' ')
        .filter_map(|r| r.split_once('+'))
        .map(|(off, size)| (off.parse().unwrap(), size.parse().unwrap()))
        .collect();
    reads.sort_unstable();
    let sizes: Vec<_> = reads
        .iter()
        .map(|(off, size)| format!("{}@{}", size >> 10, off >> 10))
        .collect();
    sizes.join(" ")
}

#[test]
fn init_lowers_readahead_and_the_bdi_raises_it() {
    for (bends, kb) in [("readahead=4194304", 128), ("readahead=65536", 64)] {
        let Some(stage) = Stage::up("readahead-init", Transport::Plain, bends) else {
            return;
        };
        assert_eq!(stage.read_ahead(), kb.to_string(), "{bends}");
    }
    let Some(stage) = Stage::up("readahead-bdi", Transport::Plain, "") else {
        return;
    };
    if root_or_lack("a raised readahead") {
        stage.read_ahead_kb(2048);
        assert_eq!(stage.read_ahead(), "2048");
    }
}

/// What a client does on cold pages, and the READs of it at readahead 128 KiB and 2 MiB, as `KiB@offset in KiB`.
const SIZES: [(&str, &str, &str); 8] = [
    ("gens {}/data 8388608 4096", "4@8192", "4@8192"),
    ("gens {}/data 8388608 4096 random", "4@8192", "4@8192"),
    (
        "gens {}/data 8388608 524288 random",
        "128@8192 128@8320 128@8448 128@8576",
        "512@8192",
    ),
    (
        "gens {}/data 8388608 2097152 direct",
        "1024@8192 1024@9216",
        "1024@8192 1024@9216",
    ),
    (
        "touch {}/data 8388608 4096",
        "128@8128",
        "1024@7168 1024@8192",
    ),
    ("touch {}/data 8388608 4096 random", "4@8192", "4@8192"),
    // The 2 MiB around the fault and as much ahead, whatever the readahead is.
    (
        "touch {}/data 8388608 4096 huge",
        "1024@8192 1024@9216 1024@10240 1024@11264",
        "1024@8192 1024@9216 1024@10240 1024@11264",
    ),
    (
        "gens {}/data 8388608 2097152 random",
        "128@8192 128@8320 128@8448 128@8576 128@8704 128@8832 128@8960 128@9088 \
         128@9216 128@9344 128@9472 128@9600 128@9728 128@9856 128@9984 128@10112",
        "1024@8192 1024@9216",
    ),
];

#[test]
fn sizes_of_reads() {
    if !root_or_lack("sizes of READs at other readaheads") {
        return;
    }
    let Some(mut stage) = Stage::up("readahead-sizes", Transport::Plain, "") else {
        return;
    };
    for (action, small, large) in SIZES {
        stage.read_ahead_kb(128);
        assert_eq!(reads(&mut stage, action), small, "{action}");
        stage.read_ahead_kb(2048);
        assert_eq!(reads(&mut stage, action), large, "{action}");
    }
}
