//! What is printed, and kept as a record: where it was measured, the tables, what fell short.

use anyhow::{Context, Result};
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A report in Markdown, growing.
#[derive(Debug, Default)]
pub struct Report {
    text: String,
    /// Rows that missed their bar.
    missed: Vec<String>,
}

impl Report {
    /// Begins with where and when.
    pub fn begin(what: &str) -> Self {
        let mut report = Self::default();
        report.line(&format!(
            "# zring-bench {what}, {}",
            said("date", &["-u", "+%Y-%m-%d %H:%M"])
        ));
        report.line("");
        for (name, value) in place() {
            report.line(&format!("- {name}: {value}"));
        }
        report.line("");
        report
    }

    /// Adds a line; it is shown at once.
    pub fn line(&mut self, line: &str) {
        println!("{line}");
        self.text.push_str(line);
        self.text.push('\n');
    }

    /// Adds a table.
    pub fn table<const N: usize>(&mut self, head: [&str; N], rows: &[[String; N]]) {
        self.line(&format!("| {} |", head.join(" | ")));
        self.line(&format!("|{}", "---|".repeat(N)));
        for row in rows {
            self.line(&format!("| {} |", row.join(" | ")));
        }
        self.line("");
    }

    /// Notes a bar: what it says of a figure.
    pub fn judge(&mut self, what: &str, met: bool) -> String {
        if met {
            return "met".to_owned();
        }
        self.missed.push(what.to_owned());
        "**missed**".to_owned()
    }

    /// Says what fell short, and writes the record.
    pub fn end(mut self, dir: &Path, what: &str) -> Result<()> {
        match self.missed.len() {
            0 => self.line("Every bar was met."),
            n => self.line(&format!(
                "{n} bars were missed: {}.",
                self.missed.join("; ")
            )),
        }
        let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
        self.line(&format!("Load average at the end: {}", load.trim()));
        let path = free_name(dir, what);
        std::fs::write(&path, &self.text).with_context(|| path.display().to_string())?;
        eprintln!("written: {}", path.display());
        Ok(())
    }
}

/// `2026-01-31-all-1a2b3c4.md`, with a number behind it if there is one already.
fn free_name(dir: &Path, what: &str) -> PathBuf {
    let date = said("date", &["-u", "+%Y-%m-%d"]);
    let commit = said("git", &["rev-parse", "--short", "HEAD"]);
    let mut stem = format!("{date}-{what}");
    if !commit.is_empty() {
        let _ = write!(stem, "-{commit}");
    }
    let name = |n: u32| match n {
        1 => dir.join(format!("{stem}.md")),
        n => dir.join(format!("{stem}-{n}.md")),
    };
    (1..)
        .map(name)
        .find(|path| !path.exists())
        .expect("there is always one more number")
}

fn said(program: &str, args: &[&str]) -> String {
    let output = Command::new(program).args(args).output();
    output
        .map(|o| String::from_utf8_lossy(&o.stdout).trim().to_owned())
        .unwrap_or_default()
}

fn place() -> Vec<(&'static str, String)> {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let field = |text: String, name: &str| {
        let line = text.lines().find_map(|l| {
            l.strip_prefix(name)?
                .split_once(':')
                .map(|(_, v)| v.trim().to_owned())
        });
        line.unwrap_or_default()
    };
    let dirty = match said("git", &["status", "--porcelain", "--untracked-files=no"]).is_empty() {
        true => "",
        false => ", with local changes",
    };
    let cpus = std::thread::available_parallelism().map_or(0, |n| n.get());
    // What every step from one thread to another costs, where these are not on one CPU: kernel-note 0021.
    let wakeup = zring::kernel::wakeup::round_trip(1000);
    let wakeup = wakeup.ok().flatten().map_or_else(
        || "not known".to_owned(),
        |time| format!("{:.1} us there and back", time.as_secs_f64() * 1e6),
    );
    vec![
        (
            "commit",
            format!("{}{dirty}", said("git", &["rev-parse", "HEAD"])),
        ),
        ("kernel", said("uname", &["-sr"])),
        (
            "processor",
            format!("{cpus} x {}", field(read("/proc/cpuinfo"), "model name")),
        ),
        ("waking a thread on another CPU", wakeup),
        ("memory", field(read("/proc/meminfo"), "MemTotal")),
        ("compiler", said("rustc", &["--version"])),
        (
            "load average at the start",
            read("/proc/loadavg").trim().to_owned(),
        ),
    ]
}
