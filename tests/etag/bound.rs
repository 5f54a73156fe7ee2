//! Hashing keeps within what it was given: memory, and bytes a second.

use crate::scene::Scene;
use std::process::Stdio;
use std::time::{Duration, Instant};

fn rss_anon(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|l| l.strip_prefix("RssAnon:"));
    let kb = line.and_then(|l| l.split_whitespace().next()?.parse::<u64>().ok());
    kb.unwrap_or(0) << 10
}

#[test]
fn memory_and_rate_stay_within_what_was_given() {
    let scene = Scene::new("bound");
    let mut total = 0u64;
    for i in 0..4000usize {
        let len = match i % 400 {
            0 => 1 << 20,
            _ => 100 + i % 16000,
        };
        total += len as u64;
        scene.write(&format!("d{}/f{i}", i % 20), &"x".repeat(len));
    }
    scene.write("large", &"y".repeat(20 << 20));
    total += 20 << 20;
    let bps = 30u64 << 20;
    let mut command = scene.command(&[
        "scan",
        "-q",
        "--mem",
        "8M",
        "--bps",
        "30M",
        "--pressure",
        "100",
    ]);
    command
        .arg(&scene.tree)
        .stdout(Stdio::null())
        .stderr(Stdio::inherit());
    let began = Instant::now();
    let mut child = command.spawn().unwrap();
    let (mut first, mut most) = (None, 0);
    while child.try_wait().unwrap().is_none() {
        let rss = rss_anon(child.id());
        if rss > 0 {
            first.get_or_insert(rss);
        }
        most = most.max(rss);
        assert!(
            began.elapsed() < Duration::from_secs(60),
            "it takes far longer than the rate says"
        );
        std::thread::sleep(Duration::from_millis(5));
    }
    let took = began.elapsed().as_secs_f64();
    assert!(child.wait().unwrap().success());
    let rate = total as f64 / took;
    assert!(rate <= bps as f64 * 1.1, "{rate} bytes/s");
    assert!(
        rate >= bps as f64 * 0.5,
        "{rate} bytes/s of {bps}: the throttle wastes what is given"
    );
    let growth = most.saturating_sub(first.unwrap_or(0));
    assert!(growth <= (8 + 64) << 20, "{growth} bytes more");
    println!("{rate:.0} bytes/s of {bps}, {growth} bytes of memory");
    scene.etag(&["check", "-q"]).expect(0, &[]);
}
