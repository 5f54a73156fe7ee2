//! Texts that cross the interface.

use super::isolation::Unknown;
use super::quota::Uid;
use crate::base::{Tid, tidtime::UnixTime};
use std::time::Duration;

/// Why a watch request is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// The history does not reach back to there.
    #[error("too far away back from head/at (@{head}); \u{3b4}t = {}", between(*.at, *.head))]
    TooFar {
        /// What was asked for.
        at: Tid,
        /// What `head/at` shows.
        head: Tid,
    },
    /// The watch is further on.
    #[error("going back in history is forbidden")]
    Back,
    /// The file was another one in between.
    #[error("file epoch detected @{rev} in between (at,head=@{head}]")]
    Epoch {
        /// When it became what it is.
        rev: Tid,
        /// The newest state.
        head: Tid,
    },
    /// Its user may not watch more files.
    #[error("user {} watches {max} files, and may not watch more", user.0)]
    Watches {
        /// Who.
        user: Uid,
        /// Its quota.
        max: usize,
    },
    /// Its user may not have more blocks pinned.
    #[error("user {} would have more than {max} blocks pinned", user.0)]
    Pinned {
        /// Who.
        user: Uid,
        /// Its quota.
        max: usize,
    },
    /// Nobody can tell.
    #[error(transparent)]
    Unknown(#[from] Unknown),
}

/// From one transaction to another.
fn between(at: Tid, head: Tid) -> String {
    let nanos = |time: UnixTime| i128::from(time.sec) * 1_000_000_000 + i128::from(time.nsec);
    let nanos = (nanos(head.time()) - nanos(at.time())).max(0);
    duration(Duration::from_nanos(
        u64::try_from(nanos).unwrap_or(u64::MAX),
    ))
}

/// A duration as Go writes it.
pub fn duration(time: Duration) -> String {
    let nanos = time.as_nanos();
    let unit = |unit: u128, digits: usize, name: &str| {
        let text = format!("{}.{:0digits$}", nanos / unit, nanos % unit);
        let text = text.trim_end_matches('0').trim_end_matches('.');
        format!("{text}{name}")
    };
    match nanos {
        0 => "0s".to_owned(),
        1..1_000 => format!("{nanos}ns"),
        1_000..1_000_000 => unit(1_000, 3, "\u{b5}s"),
        1_000_000..1_000_000_000 => unit(1_000_000, 6, "ms"),
        _ => {
            let (minutes, rest) = (time.as_secs() / 60, nanos % 60_000_000_000);
            let rest = format!("{}.{:09}", rest / 1_000_000_000, rest % 1_000_000_000);
            let seconds = rest.trim_end_matches('0').trim_end_matches('.');
            match (minutes / 60, minutes % 60) {
                (0, 0) => format!("{seconds}s"),
                (0, m) => format!("{m}m{seconds}s"),
                (h, m) => format!("{h}h{m}m{seconds}s"),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_as_go_writes_them() {
        let cases = [
            (0, "0s"),
            (7, "7ns"),
            (1_500, "1.5\u{b5}s"),
            (30_000_000, "30ms"),
            (30_000_000_000, "30s"),
            (61_500_000_000, "1m1.5s"),
            (3_600_000_000_000, "1h0m0s"),
            (90_061_000_000_007, "25h1m1.000000007s"),
        ];
        for (nanos, want) in cases {
            assert_eq!(duration(Duration::from_nanos(nanos)), want);
        }
    }
}
