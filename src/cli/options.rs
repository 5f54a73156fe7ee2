//! Mount options: `-o key=value,flag,...`.

use super::args::{self, Usage};
use crate::base::limit;
use crate::engine::control::OnEpoch;
use crate::engine::start::Choice;
use crate::kernel::mount::MountFlags;
use crate::kernel::port::TransportKind;
use std::time::Duration;

pub(super) const HELP: &str = "\
options, after -o, separated by commas:
  transport=auto|uring|dev|plain  how requests reach the daemon [auto: the fastest the kernel offers]
  read_ahead=SIZE                 readahead of the mount [128k; larger windows load neighbours too]
  max_record=SIZE                 largest object record accepted [64M]
  pintimeout=D                    acknowledgement deadline of watch clients, at least 1.5s [30s]
  access=owner|all                who may enter the mount [owner]
  on_epoch=file|server            when a big file was deleted or remade: EIO for its old node, or the mount ends [file]
  debug                           makes .wcfs/debug/zhead: a line for each transaction
  log_file=PATH                   where a daemon in the background writes its log [nowhere]
  ro noexec noatime               as mount(8); nosuid and nodev are always set
";

/// What `-o` said.
#[derive(Clone, Debug)]
pub(super) struct Options {
    pub(super) transport: Choice,
    pub(super) read_ahead_kb: Option<u32>,
    pub(super) max_record: usize,
    pub(super) pintimeout: Duration,
    pub(super) allow_other: bool,
    pub(super) flags: MountFlags,
    pub(super) log_file: Option<String>,
    pub(super) debug: bool,
    pub(super) on_epoch: OnEpoch,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            transport: Choice::Auto,
            read_ahead_kb: None,
            max_record: limit::RECORD_BYTES_MAX,
            pintimeout: Duration::from_secs(30),
            allow_other: false,
            flags: MountFlags::default(),
            log_file: None,
            debug: false,
            on_epoch: OnEpoch::default(),
        }
    }
}

/// An option that cannot be granted.
#[derive(Debug, thiserror::Error)]
pub(super) enum OptionError {
    #[error("option rw is refused: the tree is read-only, databases are written through ZODB")]
    Rw,
    #[error("unknown mount option {given:?}{}", near(.nearest))]
    Unknown {
        given: String,
        nearest: Option<&'static str>,
    },
    #[error("mount option {key}={value}: expected {expected}")]
    Value {
        key: &'static str,
        value: String,
        expected: &'static str,
    },
}

fn near(name: &Option<&'static str>) -> String {
    name.map_or(String::new(), |name| format!("; did you mean {name}?"))
}

const KEYS: [&str; 9] = [
    "transport",
    "read_ahead",
    "max_record",
    "pintimeout",
    "access",
    "log_file",
    "on_epoch",
    "debug",
    "noexec",
];

impl Options {
    /// Adds the options of one `-o`. mount(8) always passes `rw` to its helpers unless told `ro`.
    pub(super) fn add(&mut self, list: &str, from_mount: bool) -> Result<(), OptionError> {
        list.split(',')
            .filter(|o| !o.is_empty())
            .try_for_each(|o| self.add_one(o, from_mount))
    }

    fn add_one(&mut self, option: &str, from_mount: bool) -> Result<(), OptionError> {
        let (key, value) = option.split_once('=').unwrap_or((option, ""));
        let refuse = |key, expected| {
            Err(OptionError::Value {
                key,
                value: value.to_owned(),
                expected,
            })
        };
        match key {
            "rw" if !from_mount => return Err(OptionError::Rw),
            "rw" | "nosuid" | "nodev" | "defaults" | "_netdev" | "nofail" | "auto" | "noauto"
            | "user" | "users" | "owner" | "comment" => {}
            _ if key.starts_with("x-") => {}
            "ro" => self.flags.ro = true,
            "noexec" => self.flags.noexec = true,
            "noatime" => self.flags.noatime = true,
            "transport" => {
                self.transport = match value {
                    "auto" => Choice::Auto,
                    "uring" => Choice::Force(TransportKind::Uring),
                    "dev" => Choice::Force(TransportKind::Dev),
                    "plain" => Choice::Force(TransportKind::Plain),
                    _ => return refuse("transport", "auto, uring, dev or plain"),
                }
            }
            "read_ahead" => match args::size(value).and_then(|n| u32::try_from(n >> 10).ok()) {
                Some(kb) => self.read_ahead_kb = Some(kb),
                None => return refuse("read_ahead", "a size such as 128k or 2M"),
            },
            "max_record" => match args::size(value).and_then(|n| usize::try_from(n).ok()) {
                Some(n) if (4096..=limit::RECORD_BYTES_CEILING).contains(&n) => self.max_record = n,
                _ => return refuse("max_record", "a size from 4k to 1G"),
            },
            "pintimeout" => match args::duration(value) {
                Ok(d) if d >= Duration::from_millis(1500) => self.pintimeout = d,
                Ok(_) | Err(Usage::Duration(_) | _) => {
                    return refuse("pintimeout", "a duration of at least 1.5s");
                }
            },
            "access" => match value {
                "owner" => self.allow_other = false,
                "all" => self.allow_other = true,
                _ => return refuse("access", "owner or all"),
            },
            "debug" => self.debug = true,
            "on_epoch" => match value {
                "file" => self.on_epoch = OnEpoch::File,
                "server" => self.on_epoch = OnEpoch::Server,
                _ => return refuse("on_epoch", "file or server"),
            },
            "log_file" if value.starts_with('/') => self.log_file = Some(value.to_owned()),
            "log_file" => return refuse("log_file", "an absolute path"),
            _ => {
                let nearest = KEYS.into_iter().min_by_key(|k| distance(k, key));
                let nearest = nearest.filter(|k| distance(k, key) <= 3);
                return Err(OptionError::Unknown {
                    given: key.to_owned(),
                    nearest,
                });
            }
        }
        Ok(())
    }
}

/// Letters to change, add or drop to make one word of the other.
fn distance(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.bytes().enumerate() {
        let mut corner = std::mem::replace(&mut row[0], i + 1);
        for (j, y) in b.bytes().enumerate() {
            let cost = corner + usize::from(x != y);
            corner = row[j + 1];
            row[j + 1] = cost.min(corner + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(list: &str) -> Result<Options, String> {
        let mut options = Options::default();
        options
            .add(list, false)
            .map_err(|e| e.to_string())
            .map(|()| options)
    }

    #[test]
    fn what_fstab_says_for_mount_is_taken_and_our_own_is_read() {
        let options =
            parse("_netdev,nofail,x-systemd.automount,noexec,transport=dev,max_record=1M");
        let options = options.expect("all known");
        assert_eq!(options.transport, Choice::Force(TransportKind::Dev));
        assert!(options.flags.noexec && options.max_record == 1 << 20);
        assert!(Options::default().add("rw,nosuid", true).is_ok());
    }

    #[test]
    fn a_refusal_says_what_would_do() {
        assert!(parse("rw").is_err_and(|e| e.contains("read-only")));
        assert!(parse("trasport=dev").is_err_and(|e| e.contains("did you mean transport?")));
        assert!(parse("transport=tcp").is_err_and(|e| e.contains("uring, dev or plain")));
        assert!(parse("pintimeout=1s").is_err_and(|e| e.contains("1.5s")));
    }
}
