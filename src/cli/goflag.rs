//! Command lines in the syntax of Go's `flag` package, which the clients of the drop-in server write.
//!
//! `-x` and `--x` are the same. A switch is `-x` or `-x=true`, never two words; anything else is `-x=V` or `-x V`. The first
//! word that is no flag ends them, and so does `--`. A flag given twice counts as given last.

use std::time::Duration;

/// How a flag takes its value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// True when it stands alone.
    Switch,
    /// With a value; what to call it in the list of flags.
    Value(&'static str),
}

/// One flag: its name, how it takes its value, what it does.
pub(super) type Flag = (&'static str, Kind, &'static str);

/// What is wrong with a command line, in Go's words.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum FlagError {
    #[error("help requested")]
    Help,
    #[error("bad flag syntax: {0}")]
    Syntax(String),
    #[error("flag provided but not defined: -{0}")]
    Undefined(String),
    #[error("flag needs an argument: -{0}")]
    NoValue(String),
    #[error("invalid boolean value {1:?} for -{0}: parse error")]
    Switch(String, String),
    #[error("invalid value {1:?} for flag -{0}: {2}")]
    Value(String, String, &'static str),
}

impl FlagError {
    /// A value that cannot be.
    pub(super) fn value(name: &str, value: &str, why: &'static str) -> Self {
        Self::Value(name.to_owned(), value.to_owned(), why)
    }
}

/// Gives each flag of `words` to `set`, a switch as `true` or `false`; what stands behind the flags is returned.
pub(super) fn parse(
    words: &[String],
    flags: &[Flag],
    mut set: impl FnMut(&str, &str) -> Result<(), FlagError>,
) -> Result<Vec<String>, FlagError> {
    let mut words = words.iter();
    while let Some(word) = words.as_slice().first() {
        if word.len() < 2 || !word.starts_with('-') {
            break;
        }
        words.next();
        let body = word.strip_prefix("--").unwrap_or(&word[1..]);
        if body.is_empty() {
            break; // the terminator
        }
        if body.starts_with(['-', '=']) {
            return Err(FlagError::Syntax(word.clone()));
        }
        let (name, value) = match body.split_once('=') {
            Some((name, value)) => (name, Some(value)),
            None => (body, None),
        };
        let Some((_, kind, _)) = flags.iter().find(|(known, ..)| *known == name) else {
            return Err(match name {
                "h" | "help" => FlagError::Help,
                _ => FlagError::Undefined(name.to_owned()),
            });
        };
        match (kind, value) {
            (Kind::Switch, value) => {
                let value = value.unwrap_or("true");
                let Some(on) = boolean(value) else {
                    return Err(FlagError::Switch(name.to_owned(), value.to_owned()));
                };
                set(name, if on { "true" } else { "false" })?;
            }
            (Kind::Value(_), Some(value)) => set(name, value)?,
            (Kind::Value(_), None) => match words.next() {
                Some(value) => set(name, value)?,
                None => return Err(FlagError::NoValue(name.to_owned())),
            },
        }
    }
    Ok(words.cloned().collect())
}

/// The list of flags, as `-h` shows it.
pub(super) fn list(flags: &[Flag]) -> String {
    flags
        .iter()
        .map(|(name, kind, text)| match kind {
            Kind::Switch => format!("  -{name}\n    \t{text}\n"),
            Kind::Value(what) => format!("  -{name} {what}\n    \t{text}\n"),
        })
        .collect()
}

fn boolean(text: &str) -> Option<bool> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Some(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Some(false),
        _ => None,
    }
}

/// Units of a duration, in nanoseconds; `ms` before `m` and `s`, so that the longest one counts.
const UNITS: [(&str, u64); 8] = [
    ("ns", 1),
    ("us", 1_000),
    ("\u{b5}s", 1_000),
    ("\u{3bc}s", 1_000),
    ("ms", 1_000_000),
    ("s", 1_000_000_000),
    ("m", 60_000_000_000),
    ("h", 3_600_000_000_000),
];

/// `30s`, `3.0s`, `500ms`, `1m30s`, `1h0m.5s`, `0`. What is below zero is none here.
pub(super) fn duration(text: &str) -> Option<Duration> {
    let mut rest = text.strip_prefix('+').unwrap_or(text);
    if rest == "0" {
        return Some(Duration::ZERO);
    }
    if rest.is_empty() {
        return None;
    }
    let mut total: u64 = 0;
    while !rest.is_empty() {
        let (whole, tail) = digits(rest);
        let (part, tail) = match tail.strip_prefix('.') {
            Some(tail) => digits(tail),
            None => ("", tail),
        };
        if whole.is_empty() && part.is_empty() {
            return None;
        }
        let (name, unit) = UNITS.iter().find(|(name, _)| tail.starts_with(name))?;
        let whole: u64 = if whole.is_empty() {
            0
        } else {
            whole.parse().ok()?
        };
        total = total.checked_add(whole.checked_mul(*unit)?)?;
        total = total.checked_add(fraction(part, *unit))?;
        rest = &tail[name.len()..];
    }
    // What does not fit into a signed number of nanoseconds is none there either.
    i64::try_from(total)
        .ok()
        .map(|_| Duration::from_nanos(total))
}

fn digits(text: &str) -> (&str, &str) {
    text.split_at(text.bytes().take_while(u8::is_ascii_digit).count())
}

/// `0.<part>` of a unit, cut to nanoseconds.
fn fraction(part: &str, unit: u64) -> u64 {
    let (mut sum, mut left) = (0, u128::from(unit) * 1_000_000_000_000_000_000);
    for digit in part.bytes().take(18) {
        left /= 10;
        sum += left * u128::from(digit - b'0');
    }
    u64::try_from(sum / 1_000_000_000_000_000_000).expect("less than the unit")
}

#[cfg(test)]
mod tests {
    use super::*;

    const FLAGS: &[Flag] = &[
        ("debug", Kind::Switch, "makes more"),
        ("pintimeout", Kind::Value("duration"), "waits"),
        ("v", Kind::Value("n"), "says more"),
        ("trace.fuse", Kind::Switch, "says all"),
    ];

    /// Flags as they were set, and what stands behind them.
    fn read(line: &str) -> Result<(String, String), String> {
        let words: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
        let mut said = Vec::new();
        let rest = parse(&words, FLAGS, |name, value| {
            said.push(format!("{name}={value}"));
            Ok(())
        });
        rest.map(|rest| (said.join(" "), rest.join(" ")))
            .map_err(|e| e.to_string())
    }

    #[test]
    fn e02_flags_are_read_as_go_reads_them() {
        let good = |line: &str, flags: &str, rest: &str| {
            assert_eq!(
                read(line),
                Ok((flags.to_owned(), rest.to_owned())),
                "{line}"
            );
        };
        good("", "", "");
        good("a b", "", "a b");
        good("-debug a b", "debug=true", "a b");
        good("--debug a", "debug=true", "a");
        good("-debug=false a", "debug=false", "a");
        good("-debug=T -debug=0 a", "debug=true debug=false", "a");
        // A switch never takes the next word.
        good("-debug false a", "debug=true", "false a");
        good("-pintimeout 3s -v=2 a", "pintimeout=3s v=2", "a");
        good("--pintimeout=1m30s a", "pintimeout=1m30s", "a");
        good("-pintimeout -debug a", "pintimeout=-debug", "a");
        good("-v= a", "v=", "a");
        good("-trace.fuse a", "trace.fuse=true", "a");
        // Flags end at the first other word, at `--`, and at `-`, which is a word.
        good("-v 1 a -debug", "v=1", "a -debug");
        good("-debug -- -v a", "debug=true", "-v a");
        good("- -debug", "", "- -debug");
        good("-v a=b=c x", "v=a=b=c", "x");
    }

    #[test]
    fn e02_what_cannot_be_read_is_refused_in_the_same_words() {
        let bad = |line: &str, text: &str| assert_eq!(read(line), Err(text.to_owned()), "{line}");
        bad("-nope a", "flag provided but not defined: -nope");
        bad("-Debug", "flag provided but not defined: -Debug");
        bad("---debug", "bad flag syntax: ---debug");
        bad("-=1", "bad flag syntax: -=1");
        bad("--=1", "bad flag syntax: --=1");
        bad("-v", "flag needs an argument: -v");
        bad(
            "-debug=maybe a",
            "invalid boolean value \"maybe\" for -debug: parse error",
        );
        bad("-h", "help requested");
        bad("-debug --help", "help requested");
    }

    #[test]
    fn e02_durations_are_read_as_go_writes_them() {
        let ms = |text: &str| duration(text).map(|d| d.as_nanos());
        for (text, nanos) in [
            ("0", 0),
            ("0s", 0),
            ("30s", 30_000_000_000),
            ("3.0s", 3_000_000_000),
            ("500ms", 500_000_000),
            ("1m30s", 90_000_000_000),
            ("1h15m30.918273645s", 4_530_918_273_645),
            ("+5s", 5_000_000_000),
            (".5s", 500_000_000),
            ("1.s", 1_000_000_000),
            ("10us", 10_000),
            ("10\u{b5}s", 10_000),
            ("10\u{3bc}s1ns", 10_001),
            ("0.3333333333333333333h", 1_200_000_000_000 - 1),
            ("9223372036854775807ns", 9_223_372_036_854_775_807),
        ] {
            assert_eq!(ms(text), Some(nanos), "{text}");
        }
        for text in [
            "",
            "3",
            "-",
            "s",
            ".s",
            "+",
            "1d",
            "1 s",
            "s1",
            "1m30",
            "-1s",
            "9223372036854775808ns",
            "99999999999999999999h",
            "3000000h",
        ] {
            assert_eq!(ms(text), None, "{text}");
        }
    }
}
