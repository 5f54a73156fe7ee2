//! Lists of digests as `sha256sum` writes and reads them.
//!
//! `<hex>  <path>`; a path with a backslash, a line feed or a carriage return is escaped, and the line then begins with a backslash.
//! With zeros between lines nothing is escaped. Lists may also be of the other form, `SHA256 (<path>) = <hex>`, and have an asterisk before the path.

use crate::base::Digest;

/// Appends the line of one file.
pub fn push_line(out: &mut Vec<u8>, digest: &Digest, path: &[u8], zero: bool) {
    use std::io::Write as _;
    let escape = !zero && path.iter().any(|c| matches!(c, b'\\' | b'\n' | b'\r'));
    if escape {
        out.push(b'\\');
    }
    write!(out, "{digest}  ").expect("a vector takes all");
    if escape {
        escape_to(out, path);
    } else {
        out.extend_from_slice(path);
    }
    out.push(if zero { 0 } else { b'\n' });
}

/// A path on one line: backslash, line feed and carriage return are escaped.
pub fn escape_to(out: &mut Vec<u8>, path: &[u8]) {
    for &c in path {
        match c {
            b'\\' => out.extend_from_slice(b"\\\\"),
            b'\n' => out.extend_from_slice(b"\\n"),
            b'\r' => out.extend_from_slice(b"\\r"),
            c => out.push(c),
        }
    }
}

fn unescape(path: &[u8]) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(path.len());
    let mut rest = path.iter();
    while let Some(&c) = rest.next() {
        out.push(match c {
            b'\\' => match rest.next()? {
                b'\\' => b'\\',
                b'n' => b'\n',
                b'r' => b'\r',
                _ => return None,
            },
            c => c,
        });
    }
    Some(out)
}

/// A line that is not one of a list of digests.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {0} is not of the form `<64 hex digits>  <path>`")]
pub struct NotALine(pub usize);

/// Reads a list: paths with their digests, in order.
///
/// # Errors
/// The first line that is none.
pub fn parse(list: &[u8], zero: bool) -> Result<Vec<(Vec<u8>, Digest)>, NotALine> {
    let end = if zero { 0 } else { b'\n' };
    let mut out = Vec::new();
    for (n, line) in list.split(|&c| c == end).enumerate() {
        let line = if zero {
            line
        } else {
            line.strip_suffix(b"\r").unwrap_or(line)
        };
        if line.is_empty() || line.starts_with(b"#") {
            continue;
        }
        out.push(parse_line(line, zero).ok_or(NotALine(n + 1))?);
    }
    Ok(out)
}

fn parse_line(line: &[u8], zero: bool) -> Option<(Vec<u8>, Digest)> {
    let (escaped, line) = match line.strip_prefix(b"\\") {
        Some(line) if !zero => (true, line),
        _ => (false, line),
    };
    let (path, digest) = match line.strip_prefix(b"SHA256 (") {
        Some(rest) => {
            let at = rest.windows(4).rposition(|w| w == b") = ")?;
            (&rest[..at], Digest::parse(&rest[at + 4..])?)
        }
        None => {
            let (hex, rest) = line.split_at_checked(64)?;
            let path = rest.strip_prefix(b"  ").or(rest.strip_prefix(b" *"))?;
            (path, Digest::parse(hex)?)
        }
    };
    if path.is_empty() {
        return None;
    }
    let path = if escaped {
        unescape(path)?
    } else {
        path.to_vec()
    };
    Some((path, digest))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn lines_go_both_ways_whatever_the_name() {
        let digest = Digest([0x5a; 32]);
        let names: [&[u8]; 6] = [b"a", b"a b", b"\\", b"x\ny\rz", b"\xff\xfe", b"*star  "];
        for zero in [false, true] {
            let mut list = Vec::new();
            for name in names {
                push_line(&mut list, &digest, name, zero);
            }
            let read = parse(&list, zero).unwrap();
            let got: Vec<&[u8]> = read.iter().map(|(name, _)| name.as_slice()).collect();
            assert_eq!(got, names);
        }
        let mut line = Vec::new();
        push_line(&mut line, &digest, b"a\\b\n", false);
        let expected = format!("\\{}  a\\\\b\\n\n", "5a".repeat(32));
        assert_eq!(line, expected.as_bytes());
    }

    #[test]
    fn other_forms_are_read_and_others_refused() {
        let hex = "5A".repeat(32);
        let list = format!("# note\n\n{hex} *a\r\nSHA256 (b) = c) = {hex}\n");
        let names: Vec<_> = parse(list.as_bytes(), false).unwrap();
        assert_eq!(
            (names[0].0.as_slice(), names[1].0.as_slice()),
            (b"a".as_slice(), b"b) = c".as_slice())
        );
        for bad in [
            "x",
            &hex,
            &format!("{hex} a"),
            &format!("{hex}  "),
            &format!("\\{hex}  a\\q"),
        ] {
            assert_eq!(
                parse(format!("\n{bad}\n").as_bytes(), false),
                Err(NotALine(2)),
                "{bad}"
            );
        }
    }
}
