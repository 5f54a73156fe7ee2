//! What is mounted where, from `/proc/self/mountinfo`: never by asking the mount.

use std::path::{Path, PathBuf};

/// One mount.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mounted {
    /// Number of the mount, as `/proc/<pid>/fdinfo` names it.
    pub id: u32,
    /// Major and minor number of its device; the minor names the FUSE connection.
    pub device: (u32, u32),
    /// Where.
    pub path: PathBuf,
    /// File system type, subtype included.
    pub fstype: String,
    /// Its source.
    pub source: String,
    /// User that a FUSE mount belongs to.
    pub owner: Option<u32>,
}

impl Mounted {
    /// Whether a server of big files made it, this one or another.
    pub fn is_ours(&self) -> bool {
        matches!(self.fstype.as_str(), "fuse.zring" | "fuse.wcfs")
    }
}

/// All mounts of this namespace, in the order they were made.
pub fn all() -> Vec<Mounted> {
    let text = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    text.lines().filter_map(parse).collect()
}

/// All mounts on `path`, the topmost last.
pub fn mounts_at(path: &Path) -> Vec<Mounted> {
    all().into_iter().filter(|m| m.path == path).collect()
}

/// What one sees at `path`, if something is mounted there.
pub fn topmost(path: &Path) -> Option<Mounted> {
    mounts_at(path).pop()
}

/// `36 35 98:0 /root /path options - type source superoptions`, with optional fields before the dash.
fn parse(line: &str) -> Option<Mounted> {
    let (left, right) = line.split_once(" - ")?;
    let mut left = left.split(' ');
    let id = left.next()?.parse().ok()?;
    let (major, minor) = left.nth(1)?.split_once(':')?;
    let path = unescape(left.nth(1)?);
    let mut right = right.split(' ');
    Some(Mounted {
        id,
        device: (major.parse().ok()?, minor.parse().ok()?),
        path: PathBuf::from(path),
        fstype: unescape(right.next()?),
        source: unescape(right.next()?),
        owner: right
            .next()
            .unwrap_or_default()
            .split(',')
            .find_map(|option| option.strip_prefix("user_id=")?.parse().ok()),
    })
}

/// Blank, tab, line feed and backslash are written as three octal digits.
fn unescape(field: &str) -> String {
    let mut out = Vec::with_capacity(field.len());
    let mut rest = field.as_bytes();
    while let Some((&first, tail)) = rest.split_first() {
        let octal = tail
            .get(..3)
            .filter(|_| first == b'\\')
            .and_then(|digits| u8::from_str_radix(std::str::from_utf8(digits).ok()?, 8).ok());
        out.push(octal.unwrap_or(first));
        rest = if octal.is_some() { &tail[3..] } else { tail };
    }
    String::from_utf8_lossy(&out).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_with_optional_fields_and_blanks_is_read() {
        let line =
            r"66 28 0:52 / /mnt/a\040b rw,nosuid shared:5 - fuse.zring file:///x\134y rw,user_id=0";
        let expected = Mounted {
            id: 66,
            device: (0, 52),
            path: PathBuf::from("/mnt/a b"),
            fstype: "fuse.zring".to_owned(),
            source: r"file:///x\y".to_owned(),
            owner: Some(0),
        };
        assert_eq!(parse(line), Some(expected));
        assert_eq!(parse("garbage"), None);
    }

    #[test]
    fn d16_what_the_kernel_escaped_is_compared_as_it_was_given() {
        let line = r"7 1 0:9 / /m rw - fuse.wcfs file:///a\040b\011c\012d\134e\043f rw";
        let source = parse(line).map(|m| m.source);
        assert_eq!(source.as_deref(), Some("file:///a b\tc\nd\\e#f"));
    }
}
