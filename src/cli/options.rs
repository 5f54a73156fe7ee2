//! Mount options: `-o key=value,flag,...`.

use super::args::{self, Usage};
use crate::base::limit;
use crate::engine::control::OnEpoch;
use crate::engine::start::Choice;
use crate::fs::attr::Access;
use crate::iso::Rules;
use crate::kernel::mount::MountFlags;
use crate::kernel::port::TransportKind;
use crate::kernel::proc;
use std::time::Duration;

pub(super) const HELP: &str = "\
options, after -o, separated by commas:
  transport=auto|uring|dev|plain  how requests reach the daemon [auto: the fastest the kernel offers]
  pollers=N                       by dev and plain: CPUs that wait for requests at once, at least; more when needed [4]
  read_ahead=SIZE                 readahead of the mount [128k; larger windows load neighbours too]
  max_record=SIZE                 largest object record accepted [64M]
  pintimeout=D                    acknowledgement deadline of watch clients, at least 1.5s [30s]
  access=owner|group=NAME|all     who may enter the mount; who is not of the group may not watch [owner]
  watch_per_uid=LINKS+WATCHES     what each user but the owner may have of head/watch [64+4096]
  pintimeout_others=D             what these users' clients are given to answer [pintimeout]
  watch_owner=any|strict          whether a link of head/watch may be used by other processes than its opener [any]
  on_epoch=file|server            when a big file was deleted or remade: EIO for its old node, or the mount ends [file]
  debug                           makes .wcfs/debug/zhead: a line for each transaction
  log_file=PATH                   where a daemon in the background writes its log [nowhere]
  ro noexec noatime               as mount(8); nosuid and nodev are always set
";

/// A client may be busy for so long without being at fault.
const PINTIMEOUT_MIN: Duration = Duration::from_millis(1500);

/// What `-o` said.
#[derive(Clone, Debug)]
pub(super) struct Options {
    pub(super) transport: Choice,
    pub(super) pollers: usize,
    pub(super) read_ahead_kb: Option<u32>,
    pub(super) max_record: usize,
    pub(super) rules: Rules,
    pub(super) access: Access,
    /// The group of `access=group=NAME`.
    pub(super) group: Option<u32>,
    pub(super) flags: MountFlags,
    pub(super) log_file: Option<String>,
    pub(super) debug: bool,
    pub(super) on_epoch: OnEpoch,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            transport: Choice::Auto,
            pollers: limit::POLLERS,
            read_ahead_kb: None,
            max_record: limit::RECORD_BYTES_MAX,
            rules: Rules::new(Duration::from_secs(30)),
            access: Access::Owner,
            group: None,
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

const KEYS: [&str; 13] = [
    "transport",
    "pollers",
    "read_ahead",
    "max_record",
    "pintimeout",
    "access",
    "watch_per_uid",
    "watch_owner",
    "pintimeout_others",
    "log_file",
    "on_epoch",
    "debug",
    "noexec",
];

/// What `max_record` may be.
pub(super) const MAX_RECORD: &str = "a size from 4k to 1G";

/// Bytes that the largest record may have.
pub(super) fn max_record(text: &str) -> Option<usize> {
    let n = usize::try_from(args::size(text)?).ok()?;
    (4096..=limit::RECORD_BYTES_CEILING)
        .contains(&n)
        .then_some(n)
}

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
            "pollers" => match value.parse() {
                Ok(n) if n > 0 => self.pollers = n,
                _ => return refuse("pollers", "a number of CPUs from 1 on"),
            },
            "read_ahead" => match args::size(value).and_then(|n| u32::try_from(n >> 10).ok()) {
                Some(kb) => self.read_ahead_kb = Some(kb),
                None => return refuse("read_ahead", "a size such as 128k or 2M"),
            },
            "max_record" => match max_record(value) {
                Some(n) => self.max_record = n,
                None => return refuse("max_record", MAX_RECORD),
            },
            "pintimeout" => match args::duration(value) {
                Ok(d) if d >= PINTIMEOUT_MIN => self.rules.timeout = d,
                Ok(_) | Err(Usage::Duration(_) | _) => {
                    return refuse("pintimeout", "a duration of at least 1.5s");
                }
            },
            "pintimeout_others" => match args::duration(value) {
                Ok(d) if d >= PINTIMEOUT_MIN => self.rules.others.timeout = Some(d),
                Ok(_) | Err(Usage::Duration(_) | _) => {
                    return refuse("pintimeout_others", "a duration of at least 1.5s");
                }
            },
            "access" => {
                let group = value.strip_prefix("group=").map(proc::group_id);
                (self.access, self.group) = match (value, group) {
                    ("owner", _) => (Access::Owner, None),
                    ("all", _) => (Access::All, None),
                    (_, Some(Some(group))) => (Access::Group, Some(group)),
                    (_, Some(None)) => return refuse("access", "a group that this machine knows"),
                    _ => return refuse("access", "owner, group=NAME or all"),
                }
            }
            "watch_per_uid" => {
                let numbers = value.split_once('+');
                let parse = |text: &str| text.parse().ok().filter(|&n: &usize| n > 0);
                match numbers.and_then(|(links, watches)| parse(links).zip(parse(watches))) {
                    Some((links, watches)) => {
                        (self.rules.others.links, self.rules.others.watches) = (links, watches);
                    }
                    None => return refuse("watch_per_uid", "links and watches, such as 64+4096"),
                }
            }
            "watch_owner" => match value {
                "any" => self.rules.is_strict = false,
                "strict" => self.rules.is_strict = true,
                _ => return refuse("watch_owner", "any or strict"),
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

    /// Lists that nobody wrote, `ZRING_FUZZ` of them: what is taken is within its bounds.
    #[test]
    fn any_list_is_taken_or_refused() {
        let number = |name, or| std::env::var(name).map_or(or, |n| n.parse().expect("a number"));
        let (count, mut state) = (number("ZRING_FUZZ", 20_000), number("ZRING_FUZZ_SEED", 1));
        // splitmix64
        let mut below = |n: usize| {
            state = u64::wrapping_add(state, 0x9e37_79b9_7f4a_7c15);
            let z = (state ^ state >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            let z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
            usize::try_from((z ^ z >> 31) % n as u64).expect("below n")
        };
        const VALUES: [&str; 20] = [
            "=",
            ",",
            "+",
            "1",
            "64M",
            "-1",
            "1.5s",
            "1e999s",
            "NaNs",
            "99999999999999999999G",
            "all",
            "group=",
            "root",
            "/",
            "\n",
            "\u{e9}",
            "\0",
            "auto",
            "rw",
            "x-",
        ];
        let mut taken = 0;
        for _ in 0..count {
            let mut list = String::new();
            for _ in 0..1 + below(6) {
                match below(3) {
                    0 => list.push_str(VALUES[below(VALUES.len())]),
                    1 => list.push(char::from(u8::try_from(below(128)).expect("a byte"))),
                    _ => {
                        list.push_str(KEYS[below(KEYS.len())]);
                        list.push('=');
                        list.push_str(VALUES[below(VALUES.len())]);
                    }
                }
            }
            let mut options = Options::default();
            match options.add(&list, below(2) == 0) {
                Ok(()) => {
                    taken += 1;
                    assert!((4096..=limit::RECORD_BYTES_CEILING).contains(&options.max_record));
                    assert!(options.rules.timeout >= PINTIMEOUT_MIN, "{list}");
                }
                Err(error) => assert!(!error.to_string().is_empty()),
            }
        }
        println!("options: {taken} of {count} are taken");
        assert!(taken > count / 100, "{taken}");
    }

    #[test]
    fn a_refusal_says_what_would_do() {
        assert!(parse("rw").is_err_and(|e| e.contains("read-only")));
        assert!(parse("trasport=dev").is_err_and(|e| e.contains("did you mean transport?")));
        assert!(parse("transport=tcp").is_err_and(|e| e.contains("uring, dev or plain")));
        assert!(parse("pollers=0").is_err_and(|e| e.contains("from 1 on")));
        assert!(parse("pintimeout=1s").is_err_and(|e| e.contains("1.5s")));
        assert!(parse("access=none").is_err_and(|e| e.contains("group=NAME")));
        assert!(parse("access=group=no such").is_err_and(|e| e.contains("knows")));
        assert!(parse("watch_per_uid=0+1").is_err_and(|e| e.contains("64+4096")));
        assert!(parse("watch_owner=me").is_err_and(|e| e.contains("any or strict")));
    }

    #[test]
    fn who_may_enter_and_what_others_may_take() {
        let options =
            parse("access=group=0,watch_per_uid=2+3,pintimeout_others=2s,watch_owner=strict");
        let options = options.expect("all known");
        assert_eq!((options.access, options.group), (Access::Group, Some(0)));
        let others = options.rules.others;
        assert_eq!((others.links, others.watches), (2, 3));
        assert_eq!(others.timeout, Some(Duration::from_secs(2)));
        assert!(options.rules.is_strict);
        let options = parse("access=group=root,access=all").expect("the last counts");
        assert_eq!((options.access, options.group), (Access::All, None));
    }
}
