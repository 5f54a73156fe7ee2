//! Taste that a machine can check: layers, headers, names, lengths, and what the left column must not touch.
//!
//! Reads the tree as text. A rule that fails names each place; a reminder only prints. Where a rule is in the way of
//! something better, change the rule here and say why in the commit.

#![allow(clippy::unwrap_used, reason = "tests")]

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Who may use whom. The rooms of one level may use each other as long as no cycle comes of it.
const MAY_USE: &[(&str, &[&str])] = &[
    ("base", &[]),
    ("wire", &["base"]),
    ("zodb", &["base", "wire", "tail", "iso"]),
    ("tail", &["base", "wire", "zodb", "iso"]),
    ("iso", &["base", "wire", "zodb", "tail"]),
    ("fs", &["base", "wire", "zodb", "tail", "iso", "etag"]),
    ("etag", &["base", "wire", "zodb", "tail", "iso", "fs"]),
    ("kernel", &["base", "wire"]),
    ("store", &["base", "wire", "kernel"]),
    (
        "engine",
        &[
            "base", "wire", "zodb", "tail", "iso", "fs", "etag", "kernel", "store",
        ],
    ),
    (
        "cli",
        &[
            "base", "wire", "zodb", "tail", "iso", "fs", "etag", "kernel", "store", "engine",
        ],
    ),
];

/// The column that decides: same events, same actions (I8), hence no clock, thread, file or socket.
const LEFT: &[&str] = &["base", "wire", "zodb", "tail", "iso", "fs", "etag"];

/// What the left column must not name, and what takes its place.
const IMPURE: &[(&str, &str)] = &[
    ("std::thread", "threads belong to engine"),
    ("std::fs", "files are read by store and kernel"),
    ("std::net", "sockets belong to store"),
    ("std::process", "processes belong to kernel"),
    ("std::env", "settings come as arguments from cli"),
    ("Instant::now", "time is an argument"),
    ("SystemTime::now", "time is an argument"),
    ("thread::spawn", "threads belong to engine"),
    (
        "thread::sleep",
        "a wait is a deadline handed out as a value",
    ),
];

/// Files of `kernel` that may hold unsafe blocks.
const UNSAFE_IN: &[&str] = &[
    "ring", "queue", "port", "map", "proc", "pidfd", "dev", "mount", "file", "stat", "chain",
    "watch", "pages",
];

/// Names that say nothing.
const EMPTY_NAMES: &[&str] = &[
    "util", "utils", "common", "helper", "helpers", "manager", "misc",
];

/// Locks of what serves a mount, by file: who takes which is listed in `engine/shared.rs`. One more belongs there, and so does who waits for it.
const LOCKS: &[(&str, usize)] = &[
    ("src/engine/control/place.rs", 1),
    ("src/engine/daemon.rs", 1), // of a start that is stopped
    ("src/engine/notifier.rs", 2),
    ("src/engine/opens.rs", 1),
    ("src/engine/presence.rs", 1),
    ("src/engine/shared.rs", 5),
    ("src/engine/spare.rs", 1),
    ("src/engine/zhead.rs", 1),
    ("src/kernel/delay.rs", 1), // of etag
    ("src/kernel/guard.rs", 1), // of what is beside the daemon
];

const FILE_LINES_MAX: usize = 700;
const FN_LINES_REMIND: usize = 70;

/// One Rust file: as it stands, and with comments and literals blanked (same lines, same columns).
struct Source {
    /// Path from the top of the repository, with `/`.
    path: String,
    text: String,
    code: String,
}

impl Source {
    fn read(path: &Path) -> Self {
        let text = fs::read_to_string(path).unwrap();
        let path = path
            .strip_prefix(top())
            .unwrap()
            .to_str()
            .unwrap()
            .to_owned();
        Self {
            code: blank(&text),
            path,
            text,
        }
    }

    /// The room of a file under `src`; None for `lib.rs` and `main.rs`.
    fn room(&self) -> Option<&str> {
        let rest = self.path.strip_prefix("src/")?;
        match rest.split_once('/') {
            Some((room, _)) => Some(room),
            None => Some(rest.strip_suffix(".rs")?).filter(|r| !matches!(*r, "lib" | "main")),
        }
    }

    fn stem(&self) -> &str {
        Path::new(&self.path).file_stem().unwrap().to_str().unwrap()
    }

    /// The code without its unit tests, which stand last in a file or in files of their own.
    fn shipped(&self) -> &str {
        if self.path.contains("/tests/") || matches!(self.stem(), "tests" | "test") {
            return "";
        }
        let mut from = 0;
        while let Some(at) = self.code[from..].find("#[cfg(test)]") {
            let after = self.code[from + at + 12..].trim_start();
            // Further attributes may stand between.
            let next = after.lines().map(str::trim).find(|l| !l.starts_with("#["));
            if next.is_some_and(|l| l.starts_with("mod ") && l.ends_with('{')) {
                return &self.code[..from + at];
            }
            from += at + 12;
        }
        &self.code
    }
}

fn top() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn rust_files(dir: &str) -> Vec<Source> {
    fn walk(dir: &Path, out: &mut Vec<PathBuf>) {
        for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
            let path = entry.path();
            if path.is_dir() {
                walk(&path, out);
            } else if path.extension().is_some_and(|e| e == "rs") {
                out.push(path);
            }
        }
    }
    let mut paths = Vec::new();
    walk(&top().join(dir), &mut paths);
    paths.sort();
    paths.iter().map(|p| Source::read(p)).collect()
}

/// Blanks comments, strings and characters, so that what is left is code.
fn blank(text: &str) -> String {
    let b = text.as_bytes();
    let mut out = b.to_vec();
    let mut i = 0;
    while i < b.len() {
        let end = match b[i] {
            b'/' if b.get(i + 1) == Some(&b'/') => line_end(b, i),
            b'/' if b.get(i + 1) == Some(&b'*') => comment_end(b, i),
            b'"' => string_end(b, i),
            b'r' if !part_of_word(b, i) && raw_hashes(b, i).is_some() => raw_end(b, i),
            b'\'' => char_end(b, i),
            _ => i,
        };
        for c in &mut out[i..end] {
            if *c != b'\n' {
                *c = b' ';
            }
        }
        i = end.max(i + 1);
    }
    String::from_utf8(out).unwrap()
}

fn line_end(b: &[u8], i: usize) -> usize {
    b[i..]
        .iter()
        .position(|&c| c == b'\n')
        .map_or(b.len(), |n| i + n)
}

fn comment_end(b: &[u8], i: usize) -> usize {
    let (mut depth, mut j) = (0, i);
    while j < b.len() {
        if b[j..].starts_with(b"/*") {
            (depth, j) = (depth + 1, j + 2);
        } else if b[j..].starts_with(b"*/") {
            (depth, j) = (depth - 1, j + 2);
            if depth == 0 {
                return j;
            }
        } else {
            j += 1;
        }
    }
    b.len()
}

fn string_end(b: &[u8], i: usize) -> usize {
    let mut j = i + 1;
    while j < b.len() && b[j] != b'"' {
        j += if b[j] == b'\\' { 2 } else { 1 };
    }
    (j + 1).min(b.len())
}

fn part_of_word(b: &[u8], i: usize) -> bool {
    // `br"…"` is a raw string too.
    let i = if i > 0 && b[i - 1] == b'b' { i - 1 } else { i };
    i > 0 && (b[i - 1].is_ascii_alphanumeric() || b[i - 1] == b'_')
}

fn raw_hashes(b: &[u8], i: usize) -> Option<usize> {
    let n = b[i + 1..].iter().take_while(|&&c| c == b'#').count();
    (b.get(i + 1 + n) == Some(&b'"')).then_some(n)
}

fn raw_end(b: &[u8], i: usize) -> usize {
    let n = raw_hashes(b, i).unwrap();
    let close = [b"\"".as_slice(), &b"#".repeat(n)].concat();
    let body = i + n + 2;
    b[body..]
        .windows(close.len())
        .position(|w| w == close)
        .map_or(b.len(), |at| body + at + close.len())
}

/// A character literal, or `i` for a lifetime.
fn char_end(b: &[u8], i: usize) -> usize {
    if b.get(i + 1) == Some(&b'\\') {
        let close = b[i + 3..].iter().position(|&c| c == b'\'');
        return close.map_or(b.len(), |n| i + n + 4);
    }
    let len = match b.get(i + 1).copied().unwrap_or(0) {
        0xf0.. => 4,
        0xe0.. => 3,
        0xc0.. => 2,
        _ => 1,
    };
    if b.get(i + 1 + len) == Some(&b'\'') {
        i + len + 2
    } else {
        i
    }
}

/// Identifiers with their position.
fn words(code: &str) -> impl Iterator<Item = (usize, &str)> {
    let mut at = 0;
    code.split(|c: char| !(c.is_alphanumeric() || c == '_'))
        .map(move |w| {
            let here = at;
            at += w.len();
            at += code[at..].chars().next().map_or(0, char::len_utf8);
            (here, w)
        })
        .filter(|(_, w)| !w.is_empty())
}

fn line_of(text: &str, at: usize) -> usize {
    text[..at].matches('\n').count() + 1
}

/// First names after `prefix`, with `prefix{a::b, c}` taken apart.
fn heads_after<'a>(code: &'a str, prefix: &str) -> Vec<(usize, &'a str)> {
    let mut out = Vec::new();
    for (at, _) in code.match_indices(prefix) {
        if code[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_' || c == ':') {
            continue;
        }
        let rest = &code[at + prefix.len()..];
        if let Some(group) = rest.trim_start().strip_prefix('{') {
            let mut depth = 0;
            let mut item = true;
            for (i, c) in group.char_indices() {
                match c {
                    '{' => depth += 1,
                    '}' if depth == 0 => break,
                    '}' => depth -= 1,
                    ',' if depth == 0 => item = true,
                    c if item && c.is_alphabetic() => {
                        item = false;
                        out.extend(words(&group[i..]).next().map(|(_, w)| (at, w)));
                    }
                    _ => {}
                }
            }
        } else {
            out.extend(words(rest).next().map(|(_, w)| (at, w)));
        }
    }
    out
}

/// Which rooms a file uses, with a place for each.
fn uses(s: &Source) -> Vec<(usize, &str)> {
    let known = |w: &str| MAY_USE.iter().any(|(r, _)| *r == w);
    let mut out = heads_after(&s.code, "crate::");
    out.retain(|(_, w)| known(w));
    // A way around: up to the crate by `super`.
    let up = if s.stem() == "mod" {
        "super::"
    } else {
        "super::super::"
    };
    let mut by_super = heads_after(&s.code, up);
    by_super.retain(|(_, w)| known(w) && Some(*w) != s.room());
    out.extend(by_super);
    out
}

fn verdict(rule: &str, bad: Vec<String>) {
    let mut list = String::new();
    for b in &bad {
        let _ = write!(list, "\n  {b}");
    }
    assert!(bad.is_empty(), "{rule}:{list}");
}

#[test]
fn the_scanner_sees_code_only() {
    let text = "let a = \"crate::engine // no\"; // crate::cli\nlet c = '\"'; let l: &'a str = r#\"x\"y\"#;\n/* a /* b */ c */ z";
    let code = blank(text);
    assert_eq!(code.len(), text.len());
    assert!(!code.contains("engine") && !code.contains("cli") && !code.contains('y'));
    assert!(code.contains("'a str") && code.ends_with('z') && !code.contains('b'));
    let names: Vec<&str> = heads_after(
        "use crate::{base::{Oid, Tid}, wire}; crate::zodb::x",
        "crate::",
    )
    .into_iter()
    .map(|(_, w)| w)
    .collect();
    assert_eq!(names, ["base", "wire", "zodb"]);
}

#[test]
fn rooms_use_only_what_lies_below() {
    let mut bad = Vec::new();
    for s in rust_files("src") {
        let Some(room) = s.room() else { continue };
        let Some((_, may)) = MAY_USE.iter().find(|(r, _)| *r == room) else {
            bad.push(format!("{}: a room that tidy does not know", s.path));
            continue;
        };
        for (at, used) in uses(&s) {
            if used != room && !may.contains(&used) {
                let line = line_of(&s.code, at);
                bad.push(format!("{}:{line}: {room} must not use {used}", s.path));
            }
        }
    }
    verdict("layers", bad);
}

#[test]
fn no_room_is_in_a_cycle() {
    let mut edges: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for s in rust_files("src") {
        let Some(room) = s.room() else { continue };
        let to = edges.entry(room.to_owned()).or_default();
        to.extend(uses(&s).into_iter().map(|(_, w)| w.to_owned()));
        to.remove(room);
    }
    // Rooms that use nothing left are taken away until none is; what stays uses each other in a circle.
    while let Some(leaf) = edges
        .iter()
        .find(|(_, to)| !to.iter().any(|t| edges.contains_key(t)))
        .map(|(room, _)| room.clone())
    {
        edges.remove(&leaf);
    }
    assert!(edges.is_empty(), "rooms in or above a cycle: {edges:?}");
}

#[test]
fn main_only_knows_cli() {
    let main = Source::read(&top().join("src/main.rs"));
    let bad = heads_after(&main.code, "zring::")
        .into_iter()
        .filter(|(_, w)| *w != "cli")
        .map(|(_, w)| format!("src/main.rs uses {w}"))
        .collect();
    verdict("main.rs holds the allocator and a call", bad);
}

#[test]
fn locks_are_known() {
    let serves = |s: &Source| {
        let room = s.room().unwrap_or_default();
        matches!(
            room,
            "base" | "wire" | "zodb" | "tail" | "iso" | "fs" | "kernel" | "engine"
        ) && !s.path.starts_with("src/engine/etag/")
    };
    let mut bad = Vec::new();
    for s in rust_files("src").iter().filter(|s| serves(s)) {
        // What makes one, or borrows one, has no field of it.
        let code = s.shipped();
        let fields = code.lines().filter(|line| {
            let kinds = ["Mutex<", "RwLock<", "Condvar"];
            let is_field = line.contains(": ") || line.contains("struct ");
            let is_other = line.contains("fn ") || line.contains('&') || line.contains("::");
            is_field && !is_other && kinds.iter().any(|kind| line.contains(kind))
        });
        let (found, known) = (
            fields.count(),
            LOCKS.iter().find(|(file, _)| *file == s.path),
        );
        if found != known.map_or(0, |(_, count)| *count) {
            bad.push(format!("{}: {found}", s.path));
        }
    }
    verdict("locks that nobody knows", bad);
}

#[test]
fn every_file_opens_with_a_header() {
    let bad = rust_files("src")
        .into_iter()
        .filter(|s| !s.text.starts_with("//!"))
        .map(|s| s.path)
        .collect();
    verdict("a file opens with //!", bad);
}

#[test]
fn the_left_column_is_pure() {
    let mut bad = Vec::new();
    for s in rust_files("src") {
        if !s.room().is_some_and(|r| LEFT.contains(&r)) {
            continue;
        }
        let shipped = s.shipped();
        for (name, instead) in IMPURE {
            for (at, _) in shipped.match_indices(name) {
                let line = line_of(shipped, at);
                bad.push(format!("{}:{line}: {name} ({instead})", s.path));
            }
        }
        let banned = |w: &str| {
            IMPURE
                .iter()
                .any(|(n, _)| n.strip_prefix("std::") == Some(w))
        };
        for (at, w) in heads_after(shipped, "std::") {
            // `use std::{fs, thread}` has no `std::fs` in it.
            if banned(w) && !shipped[at + 5..].starts_with(w) {
                bad.push(format!("{}:{}: std::{w}", s.path, line_of(shipped, at)));
            }
        }
    }
    verdict("the left column decides and does nothing", bad);
}

#[test]
fn unsafe_stays_at_the_edge() {
    let mut bad = Vec::new();
    for s in rust_files("src") {
        if s.room() == Some("kernel") && UNSAFE_IN.contains(&s.stem()) {
            continue;
        }
        for (at, w) in words(&s.code) {
            if w == "unsafe" {
                bad.push(format!("{}:{}", s.path, line_of(&s.code, at)));
            }
        }
    }
    verdict(
        "unsafe is allowed in kernel/{ring,queue,port,map,proc,pidfd,dev,mount,file,stat,chain,watch,pages}.rs",
        bad,
    );
}

#[test]
fn names_are_plain() {
    let mut bad = Vec::new();
    for s in rust_files("src").into_iter().chain(rust_files("tests")) {
        for part in s.path.trim_end_matches(".rs").split('/') {
            let plain = part
                .bytes()
                .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == b'_');
            if !plain {
                bad.push(format!("{}: not ASCII snake_case", s.path));
            }
            if EMPTY_NAMES.contains(&part) {
                bad.push(format!("{}: {part} says nothing", s.path));
            }
        }
    }
    verdict("names", bad);
}

#[test]
fn files_are_short() {
    let mut bad = Vec::new();
    for s in rust_files("src").into_iter().chain(rust_files("tests")) {
        let n = s.text.lines().count();
        if n > FILE_LINES_MAX {
            bad.push(format!("{}: {n} lines", s.path));
        }
    }
    verdict("a file has at most 700 lines", bad);
}

/// Prints only: a long function may be right, but somebody should have looked twice.
#[test]
fn functions_are_short() {
    for s in rust_files("src").into_iter().chain(rust_files("tests")) {
        for (at, name, lines) in functions(&s.code) {
            if lines > FN_LINES_REMIND {
                let line = line_of(&s.code, at);
                // Straight to stderr: the harness swallows what a passing test prints.
                let note = format!("reminder: {}:{line}: fn {name} has {lines} lines\n", s.path);
                let _ = std::io::stderr().write_all(note.as_bytes());
            }
        }
    }
}

/// Functions with a body: position, name, lines from `fn` to the closing brace.
fn functions(code: &str) -> Vec<(usize, &str, usize)> {
    let mut out = Vec::new();
    for (at, w) in words(code) {
        let rest = &code[at + w.len()..];
        let Some((_, name)) = words(rest).next().filter(|_| w == "fn") else {
            continue;
        };
        let Some(open) = rest
            .find(['{', ';'])
            .filter(|&i| rest.as_bytes()[i] == b'{')
        else {
            continue;
        };
        let mut depth = 0;
        let close = rest[open..].char_indices().find(|(_, c)| {
            depth += match c {
                '{' => 1,
                '}' => -1,
                _ => 0,
            };
            depth == 0
        });
        if let Some((end, _)) = close {
            out.push((at, name, rest[..open + end].matches('\n').count() + 1));
        }
    }
    out
}

/// Tracked text files of the repository; what is not a checkout has none.
fn tracked() -> Vec<(String, String)> {
    let out = Command::new("git")
        .args(["ls-files", "-z"])
        .current_dir(top())
        .output();
    let names = match out {
        Ok(o) if o.status.success() => String::from_utf8(o.stdout).unwrap(),
        _ => return Vec::new(),
    };
    names
        .split('\0')
        .filter(|n| !n.is_empty() && *n != "Cargo.lock")
        .filter_map(|n| Some((n.to_owned(), fs::read_to_string(top().join(n)).ok()?)))
        .collect()
}

#[test]
fn nothing_is_left_unfinished() {
    // Put together here, so that this file does not name them.
    let marks = [
        concat!("TO", "DO"),
        concat!("FIX", "ME"),
        concat!("todo", "!("),
        concat!("unimpl", "emented!("),
    ];
    let mut bad = Vec::new();
    for (path, text) in tracked() {
        let ours = ["src/", "tests/", "bench/", "kernel-notes/"];
        if !ours.iter().any(|d| path.starts_with(d)) {
            continue;
        }
        for (i, line) in text.lines().enumerate() {
            for mark in marks.iter().filter(|m| line.contains(**m)) {
                bad.push(format!("{path}:{}: {mark}", i + 1));
            }
        }
    }
    verdict("say it in an issue", bad);
}

#[test]
fn the_clone_stands_alone() {
    let outside = concat!("../sha", "red");
    let machine: Vec<String> = ["work", "farm", "root"].map(|d| format!("/{d}/")).to_vec();
    let mut bad = Vec::new();
    for (path, text) in tracked() {
        for (i, line) in text.lines().enumerate() {
            let place = format!("{path}:{}", i + 1);
            if line.contains(outside) {
                bad.push(format!("{place}: {outside}"));
            }
            for dir in &machine {
                let absolute = line.match_indices(dir.as_str()).any(|(at, _)| {
                    let part = |c: char| c.is_ascii_alphanumeric() || "_.$}".contains(c);
                    !line[..at].ends_with(part)
                });
                if absolute {
                    bad.push(format!("{place}: a path of one machine, {dir}"));
                }
            }
        }
    }
    verdict("the repository cites nothing outside itself", bad);
}
