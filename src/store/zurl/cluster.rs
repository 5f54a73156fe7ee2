//! `neo://CLUSTER@HOST:PORT,HOST:PORT?OPTIONS`, `neos://` by TLS.

use super::{Zurl, ZurlError, is_others, normal, server};
use crate::store::neo::Cluster;
use crate::store::remote::{Address, TlsFiles};

/// Options of a client that mean something to no reader; `_` and `-` are one.
const OTHERS: [&str; 7] = [
    "compress",
    "read_only",
    "logfile",
    "cache_size",
    "dynamic_master_list",
    "ignore_wrong_checksum",
    "max_reconnection_to_master",
];
/// Files of TLS, and where they are when the address does not say.
const FILES: [(&str, &str); 3] = [("ca", "NEO_CA"), ("cert", "NEO_CERT"), ("key", "NEO_KEY")];

/// What stands behind `neo://`, and its options.
///
/// # Errors
/// There is no name, no master, or not all that TLS needs.
pub(super) fn read(
    rest: &str,
    options: &[(&str, &str)],
    is_tls: bool,
    is_strict: bool,
) -> Result<Zurl, ZurlError> {
    let scheme = if is_tls { "neos" } else { "neo" };
    for &(name, _) in options {
        let plain = name.replace('-', "_");
        let is_file = FILES.iter().any(|(file, _)| *file == plain);
        if is_strict && plain == "password" {
            return Err(ZurlError::Secret);
        }
        if is_strict && !is_file && !OTHERS.contains(&&*plain) && !is_others(&plain) {
            return Err(ZurlError::Option(name.into(), scheme));
        }
    }
    let wrong = || ZurlError::Cluster(rest.into());
    let (name, masters) = rest.rsplit_once('@').ok_or_else(wrong)?;
    let masters = masters.strip_suffix('/').unwrap_or(masters);
    let is_plain = !masters.contains(['/', '#']) && !options.iter().any(|(_, v)| v.contains('#'));
    if name.is_empty() || !is_plain {
        return Err(wrong());
    }
    // There is no usual port.
    let master = |place: &str| match server(place, 0) {
        Some(Address::Tcp(_, 0)) | None => None,
        master => master,
    };
    let masters: Option<Vec<Address>> = masters.split(',').map(master).collect();
    Ok(Zurl::Neo(Cluster {
        name: normal::decoded(name),
        masters: masters.ok_or_else(wrong)?,
        tls: files(options, is_tls)?,
    }))
}

/// Any of the files in the address means TLS; those that it does not name are looked for in the environment.
fn files(options: &[(&str, &str)], is_tls: bool) -> Result<Option<TlsFiles>, ZurlError> {
    let said = FILES.map(|(file, _)| {
        let last = options
            .iter()
            .rev()
            .find(|(name, value)| *name == file && !value.is_empty());
        last.map(|(_, value)| normal::decoded(value))
    });
    if !is_tls && said.iter().all(Option::is_none) {
        return Ok(None);
    }
    let mut all = said.into_iter().zip(FILES).map(|(said, (_, variable))| {
        let kept = || std::env::var(variable).ok().filter(|path| !path.is_empty());
        said.or_else(kept).ok_or(ZurlError::NeoFiles)
    });
    let mut next = || all.next().unwrap_or(Err(ZurlError::NeoFiles));
    Ok(Some(TlsFiles {
        ca: next()?.into(),
        cert: next()?.into(),
        key: next()?.into(),
        name: None,
        // Nodes are known by who signed them; their certificates have no names of hosts.
        checks_name: false,
    }))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    fn cluster(text: &str) -> Cluster {
        match Zurl::parse(text) {
            Ok(Zurl::Neo(cluster)) => cluster,
            other => panic!("{text}: {other:?}"),
        }
    }

    #[test]
    fn a_cluster_has_a_name_and_masters() {
        let tcp = |host: &str, port| Address::Tcp(host.to_owned(), port);
        let two = cluster("neo://main@a:1,[::1]:2?compress=1&read-only=1&cache_size=3&wait=1");
        assert_eq!((&*two.name, two.tls), ("main", None));
        assert_eq!(two.masters, [tcp("a", 1), tcp("::1", 2)]);
        assert_eq!(cluster("NEO://a%40b%20c@h:1/").name, "a@b c");
        for scheme in ["neo", "neos"] {
            let text = format!("{scheme}://c@h:1?ca=/a&cert=/b%20c&key=/d");
            let files = cluster(&text).tls.unwrap();
            assert_eq!((&*files.ca, &*files.cert), ("/a".as_ref(), "/b c".as_ref()));
            assert!(!files.checks_name);
        }
        assert!(cluster("neo://c@h:1?ca=").tls.is_none());
        assert!(Zurl::parse_loosely("neo://c@h:1?odd=1").is_ok());
    }

    #[test]
    fn everything_else_is_refused_with_advice() {
        for (text, message) in [
            ("neo://h:1", "names a cluster and its masters"),
            ("neo://@h:1", "names a cluster and its masters"),
            ("neo://c@h", "names a cluster and its masters"),
            ("neo://c@", "names a cluster and its masters"),
            ("neo://c@h:1,", "names a cluster and its masters"),
            ("neo://c@h:1/db", "names a cluster and its masters"),
            ("neo://c@h:1#x", "names a cluster and its masters"),
            ("neo://c@h:1?odd=1", "\"odd\" is unknown for neo://"),
            ("neo://c@h:1?password=1", "a password in a database address"),
            ("neo://c@h:1?ca=/a", "needs ca=, cert= and key="),
        ] {
            let said = Zurl::parse(text).expect_err(text).to_string();
            assert!(said.contains(message), "{text}: {said}");
        }
    }
}
