//! One spelling for addresses that mean the same database: the mountpoint of a database is named by it.
//!
//! An address is taken apart and put together again as Python 3.11's `urlsplit` and `urlunsplit` do, since clients in Python
//! do just that; in between each scheme has its rule. Nothing is opened by the result.

use std::fmt::Write;

/// An address whose scheme has no rule.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("can't normalize zurl with scheme {0:?}")]
pub struct UnknownScheme(Box<str>);

/// An address in its parts; a part that is missing is empty.
#[derive(Debug, Default)]
struct Parts {
    scheme: String,
    netloc: String,
    path: String,
    query: String,
    fragment: String,
}

/// The one spelling of `zurl`.
///
/// # Errors
/// The scheme is not one that clients know.
pub fn normalise(zurl: &str) -> Result<String, UnknownScheme> {
    let mut parts = split(zurl);
    match parts.scheme.as_str() {
        "file" | "zeo" | "demo" => {}
        "neo" | "neos" => normalise_neo(&mut parts),
        "zeos" => normalise_zeos(&mut parts),
        "postgres" | "postgresql" | "sqlite" => normalise_rel(&mut parts),
        _ => return Err(UnknownScheme(parts.scheme.into())),
    }
    Ok(join(&parts))
}

fn split(zurl: &str) -> Parts {
    let is_blank = |c: char| c <= ' ';
    let cleaned: String = zurl
        .trim_start_matches(is_blank)
        .chars()
        .filter(|c| !matches!(c, '\t' | '\r' | '\n'))
        .collect();
    let mut parts = Parts::default();
    let mut rest = cleaned.as_str();
    if let Some((scheme, tail)) = rest.split_once(':')
        && scheme.starts_with(|c: char| c.is_ascii_alphabetic())
        && scheme
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || "+-.".contains(c))
    {
        parts.scheme = scheme.to_ascii_lowercase();
        rest = tail;
    }
    if let Some(tail) = rest.strip_prefix("//") {
        let end = tail.find(['/', '?', '#']).unwrap_or(tail.len());
        parts.netloc = tail[..end].to_owned();
        rest = &tail[end..];
    }
    if let Some((head, fragment)) = rest.split_once('#') {
        parts.fragment = fragment.to_owned();
        rest = head;
    }
    if let Some((head, query)) = rest.split_once('?') {
        parts.query = query.to_owned();
        rest = head;
    }
    parts.path = rest.to_owned();
    parts
}

/// Of the schemes with a rule, `file` alone keeps the `//` of an empty authority.
fn join(parts: &Parts) -> String {
    let mut path = parts.path.clone();
    if !parts.netloc.is_empty() || (parts.scheme == "file" && !path.starts_with("//")) {
        let slash = if path.is_empty() || path.starts_with('/') {
            ""
        } else {
            "/"
        };
        path = format!("//{}{slash}{path}", parts.netloc);
    }
    let mut out = format!("{}:{path}", parts.scheme);
    for (mark, part) in [('?', &parts.query), ('#', &parts.fragment)] {
        if !part.is_empty() {
            out.push(mark);
            out.push_str(part);
        }
    }
    out
}

/// Who the client is says nothing about the database.
fn normalise_zeos(parts: &mut Parts) {
    const OF_CLIENT: [&str; 5] = ["ca", "cert", "key", "server_hostname", "check_hostname"];
    let is_kept = |item: &&str| {
        let name = item.split_once('=').map_or(*item, |(name, _)| name);
        !OF_CLIENT.contains(&name)
    };
    let kept: Vec<_> = parts.query.split('&').filter(is_kept).collect();
    parts.query = kept.join("&");
}

/// Who the client is, and how it goes about it, says nothing about the database.
fn normalise_rel(parts: &mut Parts) {
    const OF_DATABASE: [&str; 5] = ["data_dir", "host", "unix_socket", "keep_history", "port"];
    let mut kept: Vec<_> = parts.query.split('&').collect();
    kept.retain(|item| {
        let name = item.split_once('=').map_or(*item, |(name, _)| name);
        OF_DATABASE.contains(&name)
    });
    kept.sort_unstable();
    parts.query = kept.join("&");
    if parts.scheme == "postgresql" {
        parts.scheme = "postgres".to_owned();
    }
    if let Some((_, hosts)) = parts.netloc.rsplit_once('@') {
        parts.netloc = hosts.to_owned();
    }
    parts.netloc.make_ascii_lowercase();
}

/// Credentials only say that the scheme is `neos`; options of a client say nothing about the database; masters are a set.
fn normalise_neo(parts: &mut Parts) {
    const CREDENTIALS: [&str; 3] = ["ca", "cert", "key"];
    const OF_CLIENT: [&str; 4] = ["compress", "read-only", "logfile", "cache-size"];
    // A parameter without a value is none, as in Python's `parse_qs`.
    let mut query: Vec<(String, String)> = parts
        .query
        .split('&')
        .filter_map(|item| item.split_once('='))
        .filter(|(_, value)| !value.is_empty())
        .map(|(name, value)| (decoded(name), decoded(value)))
        .collect();
    if query.iter().any(|(k, _)| CREDENTIALS.contains(&k.as_str())) {
        parts.scheme = "neos".to_owned();
    }
    query.retain(|(k, _)| !CREDENTIALS.contains(&k.as_str()) && !OF_CLIENT.contains(&k.as_str()));
    query.sort_by(|a, b| a.0.cmp(&b.0)); // stable: values of one name keep their order
    let query: Vec<_> = query
        .iter()
        .map(|(name, value)| format!("{}={}", encoded(name), encoded(value)))
        .collect();
    parts.query = query.join("&");
    let (cluster, masters) = match parts.netloc.rsplit_once('@') {
        Some((cluster, masters)) => (format!("{cluster}@"), masters),
        None => (String::new(), parts.netloc.as_str()),
    };
    let mut masters: Vec<&str> = masters.split(',').collect();
    masters.sort_unstable();
    parts.netloc = format!("{cluster}{}", masters.join(","));
}

/// A form value to text.
pub(super) fn decoded(text: &str) -> String {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, tail)) = rest.split_first() {
        let hex = tail
            .get(..2)
            .filter(|two| first == b'%' && two.iter().all(u8::is_ascii_hexdigit))
            .and_then(|two| u8::from_str_radix(std::str::from_utf8(two).ok()?, 16).ok());
        out.push(match (hex, first) {
            (Some(byte), _) => byte,
            (None, b'+') => b' ',
            (None, byte) => byte,
        });
        rest = if hex.is_some() { &tail[2..] } else { tail };
    }
    String::from_utf8_lossy(&out).into_owned()
}

/// Text to a form value.
fn encoded(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b' ' => out.push('+'),
            b if b.is_ascii_alphanumeric() || b"_.-~".contains(&b) => out.push(char::from(b)),
            b => {
                let _ = write!(out, "%{b:02X}");
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_that_mean_the_same_are_spelled_the_same() {
        for (given, spelled) in [
            ("file:///var/lib/db/1.fs", "file:///var/lib/db/1.fs"),
            ("FILE:///var/lib/db/1.fs", "file:///var/lib/db/1.fs"),
            ("file://D/1.fs", "file://D/1.fs"),
            ("zeo://localhost:9001", "zeo://localhost:9001"),
            (
                "zeo://localhost:9001?storage=2",
                "zeo://localhost:9001?storage=2",
            ),
            ("zeo:///run/zeo.sock", "zeo:/run/zeo.sock"),
            (
                "demo:(file:///a/base.fs)/(file:///a/delta.fs)",
                "demo:(file:///a/base.fs)/(file:///a/delta.fs)",
            ),
            (
                "neos://cluster@def:2,abc:1?ca=zzz&cert=c&key=k",
                "neos://cluster@abc:1,def:2",
            ),
            (
                "zeos://h:1?ca=a&storage=2&key=b&cert=c&check_hostname=0",
                "zeos://h:1?storage=2",
            ),
            (
                "postgresql://me:secret@DB:5433/zodb?password_file=/x&keep_history=true",
                "postgres://db:5433/zodb?keep_history=true",
            ),
            (
                "postgres:///zodb?host=/run/pg",
                "postgres:/zodb?host=/run/pg",
            ),
            ("sqlite:///srv/db?cache_local_mb=1", "sqlite:/srv/db"),
            ("neo://cluster@abc:1?ca=x", "neos://cluster@abc:1"),
            ("neo://cluster@abc:1?ca=&cert=&key=", "neo://cluster@abc:1"),
            (
                "neo://cl@b:2,a:1?read-only=1&compress=1&logfile=/x&cache-size=10MB&foo=2&bar=1&foo=1",
                "neo://cl@a:1,b:2?bar=1&foo=2&foo=1",
            ),
            (
                "neo://c@b?x=a+b%20c&e=%C3%A9~_-.&y=/*",
                "neo://c@b?e=%C3%A9~_-.&x=a+b+c&y=%2F%2A",
            ),
        ] {
            assert_eq!(normalise(given).as_deref(), Ok(spelled), "{given}");
        }
    }

    #[test]
    fn corners_are_those_of_python_3_11() {
        for (given, spelled) in [
            ("file:/p", "file:///p"),
            ("file:p", "file:///p"),
            ("file:////p", "file://p"),
            ("file://h", "file://h"),
            ("file://", "file://"),
            ("file:?q", "file://?q"),
            ("file:///a?#", "file:///a"),
            ("  file:///x y\t", "file:///x y"),
            ("zeo:", "zeo:"),
            ("zeo:////x", "zeo://x"),
            ("zeo://h:1?storage=2#", "zeo://h:1?storage=2"),
            ("neo:c@b,a", "neo:c@b,a"),
            (
                "demo:(file:///a)/(file:///b?x=1#f)",
                "demo:(file:///a)/(file:///b?x=1#f)",
            ),
        ] {
            assert_eq!(normalise(given).as_deref(), Ok(spelled), "{given}");
        }
    }

    #[test]
    fn a_scheme_without_a_rule_is_refused() {
        for given in ["", "/var/lib/1.fs", "http://a", "1zeo://x", "mysql://h/db"] {
            let said = normalise(given).expect_err(given).to_string();
            assert!(
                said.starts_with("can't normalize zurl with scheme"),
                "{said}"
            );
        }
    }
}
