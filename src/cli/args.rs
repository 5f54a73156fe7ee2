//! Arguments of one command, and what is wrong with them.

use std::ffi::OsString;
use std::time::Duration;

/// The arguments, read by the crate `lexopt`.
pub(super) type Parser = lexopt::Parser;

/// Not yet read arguments.
#[derive(Debug)]
pub(super) struct Args(Vec<OsString>);

impl Args {
    pub(super) fn new(args: Vec<OsString>) -> Self {
        Self(args)
    }

    /// As they stand.
    pub(super) fn words(self) -> Vec<OsString> {
        self.0
    }

    pub(super) fn parser(self) -> Parser {
        Parser::from_args(self.0)
    }
}

/// A command line that cannot be understood; each says what would be.
#[derive(Debug, thiserror::Error)]
pub(super) enum Usage {
    #[error("a command is missing: try `zring demo`, or `zring help` for all of them")]
    NoCommand,
    #[error("there is no command {0:?}; `zring help` lists them")]
    Command(String),
    #[error("{0}; `zring {1} --help` says what is expected")]
    Argument(lexopt::Error, &'static str),
    #[error("expected {expected}; `zring {command} --help` says more")]
    Count {
        expected: &'static str,
        command: &'static str,
    },
    #[error("{0:?} is not a duration; write 500ms, 30s, 5m or 1h")]
    Duration(String),
}

/// `500ms`, `30s`, `1.5s`, `5m`, `1h`.
pub(super) fn duration(text: &str) -> Result<Duration, Usage> {
    let units = [("ms", 0.001), ("s", 1.0), ("m", 60.0), ("h", 3600.0)];
    units
        .iter()
        .find_map(|(unit, seconds)| {
            let number: f64 = text.strip_suffix(unit)?.parse().ok()?;
            Duration::try_from_secs_f64(number * seconds).ok()
        })
        .ok_or_else(|| Usage::Duration(text.to_owned()))
}

/// `64M`, `512k`, `1G`, `4096`.
pub(super) fn size(text: &str) -> Option<u64> {
    let (digits, factor) = match text.strip_suffix(['k', 'K', 'm', 'M', 'g', 'G']) {
        None => (text, 1),
        Some(digits) => (
            digits,
            match text.as_bytes()[text.len() - 1].to_ascii_lowercase() {
                b'k' => 1 << 10,
                b'm' => 1 << 20,
                _ => 1 << 30,
            },
        ),
    };
    digits.parse::<u64>().ok()?.checked_mul(factor)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_and_sizes_are_read_with_their_units() {
        assert_eq!(duration("500ms").ok(), Some(Duration::from_millis(500)));
        assert_eq!(duration("1.5s").ok(), Some(Duration::from_millis(1500)));
        assert!(
            ["", "5", "-1s", "s", "1e999s", "NaNs"]
                .iter()
                .all(|t| duration(t).is_err())
        );
        assert_eq!(size("64M"), Some(64 << 20));
        assert_eq!(size("4096"), Some(4096));
        assert!(
            ["", "M", "-1", "1T", "99999999999G"]
                .iter()
                .all(|t| size(t).is_none())
        );
    }
}
