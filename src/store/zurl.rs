//! The address of a database, as given on the command line or in a configuration.
//!
//! * `file:///abs/path` or `file://relative`; the path is taken as it stands.
//! * `zeos://host:port?ca=CA.pem&cert=OUR.pem&key=OUR.key`: the same by TLS. `server_hostname` is the name its certificate has to
//!   show when it is not the host's; `check_hostname=0` takes any name.
//! * `zeo://host:port?storage=NAME`, `zeo:///path/to/socket`. The port is 9991, the host `localhost` and the storage `1` where they
//!   are not said; a host that has colons stands in `[]`.
//!
//! Options behind `?` that concern a writer or the application are passed over. Everything else is refused with a sentence that
//! says what would be right. An address is no place for a password: it is seen in lists of processes and mounts.

use super::normal;
use super::zeo::{Address, Server, TlsFiles};
use std::path::PathBuf;

/// The database that an address names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Zurl {
    /// A FileStorage.
    File(PathBuf),
    /// A storage of a ZEO server.
    Zeo(Server),
}

/// Why an address is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ZurlError {
    /// No scheme.
    #[error("{0:?} is not a database address; did you mean file://{0} ?")]
    NoScheme(Box<str>),
    /// A scheme for which there is no store.
    #[error(
        "{0}: databases are not supported yet; supported: file://<path to Data.fs>, zeo://<host>:<port>"
    )]
    Scheme(Box<str>),
    /// No path.
    #[error("a file:// address needs a path: file:///dir/Data.fs")]
    NoPath,
    /// An option that means nothing.
    #[error("option {0:?} is unknown for {1}:// addresses")]
    Option(Box<str>, &'static str),
    /// A password.
    #[error(
        "a password in a database address is seen by everybody who lists processes or mounts, and ZEO servers take none: leave \
         it out (a bare user name is allowed)"
    )]
    Secret,
    /// Neither a host and a port, nor a path.
    #[error("{0:?} is not a server: zeo://host:port, zeo://[::1]:port or zeo:///path/to/socket")]
    Server(Box<str>),
    /// No certificates.
    #[error(
        "a zeos:// address needs ca=, cert= and key= with files in PEM: what the server's certificate is signed by, our own \
         certificate and its key"
    )]
    Files,
    /// Something behind a host and its port.
    #[error("a zeo:// address with a host has no path: {0:?}")]
    Path(Box<str>),
}

/// Options that say how a writer opens a database, or configure the application: accepted, without effect.
const OTHERS_OPTIONS: [&str; 28] = [
    "server_sync",
    "wait_for_server_on_startup",
    "min_disconnect_poll",
    "max_disconnect_poll",
    "disconnect_poll",
    "debug",
    "create",
    "read_only",
    "quota",
    "blobstorage_dir",
    "blobstorage_layout",
    "demostorage",
    "database_name",
    "wait",
    "wait_timeout",
    "cache_size",
    "client",
    "var",
    "name",
    "storage",
    "shared_blob_dir",
    "username",
    "password",
    "realm",
    "drop_cache_rather_verify",
    "pack_gc",
    "pack_keep_old",
    "packer",
];
/// Beginnings of further such options.
const OTHERS_OPTION_PREFIXES: [&str; 3] = ["connection_", "blob_", "cache_"];

/// Options of `zeos://`.
const TLS_OPTIONS: [&str; 5] = ["ca", "cert", "key", "server_hostname", "check_hostname"];
/// What a client that names no port means.
const ZEO_PORT: u16 = 9991;

impl Zurl {
    /// Parses an address.
    ///
    /// # Errors
    /// It names nothing that can be opened, or tells a secret.
    pub fn parse(text: &str) -> Result<Self, ZurlError> {
        Self::read(text, true)
    }

    /// The same for a server that takes the place of another: options that mean nothing are passed over, and so is a password,
    /// which is out already.
    ///
    /// # Errors
    /// It names nothing that can be opened.
    pub fn parse_loosely(text: &str) -> Result<Self, ZurlError> {
        Self::read(text, false)
    }

    fn read(text: &str, is_strict: bool) -> Result<Self, ZurlError> {
        // demo:(...)/(...) has no slashes behind its scheme, but addresses inside.
        if text.starts_with("demo:") {
            return Err(ZurlError::Scheme("demo".into()));
        }
        let Some((scheme, rest)) = text.split_once("://") else {
            return Err(ZurlError::NoScheme(text.into()));
        };
        let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
        let options = query.split('&').filter(|o| !o.is_empty());
        let options = options.map(|option| option.split_once('=').unwrap_or((option, "")));
        let is_tls = scheme.eq_ignore_ascii_case("zeos");
        let check = |scheme| {
            let is_known = |name: &str| is_others(name) || is_tls && TLS_OPTIONS.contains(&name);
            let unknown = options.clone().find(|(name, _)| !is_known(name));
            match unknown {
                Some((name, _)) if is_strict => Err(ZurlError::Option(name.into(), scheme)),
                _ => Ok(()),
            }
        };
        if scheme.eq_ignore_ascii_case("file") {
            if rest.is_empty() {
                return Err(ZurlError::NoPath);
            }
            check("file")?;
            return Ok(Self::File(rest.into()));
        }
        if !scheme.eq_ignore_ascii_case("zeo") && !is_tls {
            return Err(ZurlError::Scheme(scheme.into()));
        }
        check(if is_tls { "zeos" } else { "zeo" })?;
        let (user, place) = match rest.split_once('/') {
            Some((authority, _)) => authority.rsplit_once('@').unwrap_or(("", authority)),
            None => rest.rsplit_once('@').unwrap_or(("", rest)),
        };
        let tells = options.clone().any(|(name, _)| name == "password") || user.contains(':');
        if is_strict && tells {
            return Err(ZurlError::Secret);
        }
        let option = |wanted| {
            let said = |(name, value): &(&str, &str)| *name == wanted && !value.is_empty();
            let found = options.clone().rev().find(said);
            found.map(|(_, value)| normal::decoded(value))
        };
        let storage = option("storage").unwrap_or_else(|| "1".to_owned());
        let tls = match (option("ca"), option("cert"), option("key")) {
            _ if !is_tls => None,
            (Some(ca), Some(cert), Some(key)) => Some(TlsFiles {
                ca: ca.into(),
                cert: cert.into(),
                key: key.into(),
                name: option("server_hostname"),
                checks_name: option("check_hostname").is_none_or(|yes| yes != "0"),
            }),
            _ => return Err(ZurlError::Files),
        };
        let address = match rest.split_once('/') {
            Some(("", path)) if !path.is_empty() => Address::Unix(format!("/{path}").into()),
            Some((_, path)) if !path.is_empty() => return Err(ZurlError::Path(path.into())),
            _ => server(place).ok_or_else(|| ZurlError::Server(place.into()))?,
        };
        Ok(Self::Zeo(Server {
            address,
            storage,
            tls,
        }))
    }
}

fn is_others(name: &str) -> bool {
    OTHERS_OPTIONS.contains(&name) || OTHERS_OPTION_PREFIXES.iter().any(|p| name.starts_with(p))
}

/// `host`, `host:port`, `[::1]:port`, `:port`.
fn server(place: &str) -> Option<Address> {
    let (host, port) = match place.strip_prefix('[') {
        Some(rest) => {
            let (host, port) = rest.split_once(']')?;
            (
                host,
                port.strip_prefix(':').or(port.is_empty().then_some("")),
            )
        }
        None => match place.split_once(':') {
            Some((host, port)) if !port.contains([':', ',']) => (host, Some(port)),
            Some(_) => return None,
            None => (place, Some("")),
        },
    };
    let port = match port? {
        "" => ZEO_PORT,
        port => port.parse().ok().filter(|&port| port != 0)?,
    };
    let host = if host.is_empty() { "localhost" } else { host };
    let is_plain = |c: char| !c.is_whitespace() && !"[]@,/".contains(c);
    (host.chars().all(is_plain)).then(|| Address::Tcp(host.to_owned(), port))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn file_addresses_give_their_path_as_it_stands() {
        for (text, path) in [
            ("file:///srv/Data.fs", "/srv/Data.fs"),
            ("file://Data.fs", "Data.fs"),
            ("file://./a b%20/Data.fs", "./a b%20/Data.fs"),
            ("FILE:///x", "/x"),
            (
                "file:///x?create=1&read_only&wait_timeout=3&connection_pool_size=9",
                "/x",
            ),
            ("file:///x?", "/x"),
        ] {
            assert_eq!(Zurl::parse(text), Ok(Zurl::File(path.into())), "{text}");
        }
    }

    #[test]
    fn zeo_addresses_name_a_server_and_its_storage() {
        let tcp = |host: &str, port| Address::Tcp(host.to_owned(), port);
        for (text, address, storage) in [
            ("zeo://db:8100", tcp("db", 8100), "1"),
            ("zeo://db", tcp("db", 9991), "1"),
            ("zeo://db:", tcp("db", 9991), "1"),
            ("zeo://db/", tcp("db", 9991), "1"),
            ("zeo://:8100?storage=main", tcp("localhost", 8100), "main"),
            ("ZEO://[::1]:8100", tcp("::1", 8100), "1"),
            ("zeo://[::1]", tcp("::1", 9991), "1"),
            ("zeo://reader@db:8100", tcp("db", 8100), "1"),
            (
                "zeo://db:1?storage=a%20b&wait=1&cache_size=9",
                tcp("db", 1),
                "a b",
            ),
            ("zeo://db:1?storage=", tcp("db", 1), "1"),
            (
                "zeo:///run/zeo.sock?storage=x",
                Address::Unix("/run/zeo.sock".into()),
                "x",
            ),
        ] {
            let storage = storage.to_owned();
            let server = Server {
                address,
                storage,
                tls: None,
            };
            assert_eq!(Zurl::parse(text), Ok(Zurl::Zeo(server)), "{text}");
        }
        let text = "zeos://db:1?ca=/a&cert=b%20c&key=/d&check_hostname=0&server_hostname=x";
        let Ok(Zurl::Zeo(Server {
            tls: Some(files), ..
        })) = Zurl::parse(text)
        else {
            panic!("{text}")
        };
        assert_eq!((&*files.ca, &*files.cert), ("/a".as_ref(), "b c".as_ref()));
        assert_eq!(
            (files.name.as_deref(), files.checks_name),
            (Some("x"), false)
        );
        let loosely = Zurl::parse_loosely("zeo://u:p@db:1?new_option=3");
        assert_eq!(loosely, Zurl::parse("zeo://db:1"));
        assert_eq!(
            Zurl::parse_loosely("file:///x?creat=1"),
            Ok(Zurl::File("/x".into()))
        );
    }

    #[test]
    fn everything_else_is_refused_with_advice() {
        for (text, message) in [
            ("/srv/Data.fs", "did you mean file:///srv/Data.fs ?"),
            ("zeo://h:1,g:2", "\"h:1,g:2\" is not a server"),
            ("zeo://h:x", "is not a server"),
            ("zeo://::1", "is not a server"),
            ("zeo://[::1", "is not a server"),
            ("zeo://h:0", "is not a server"),
            ("zeo://h:1/db", "has no path: \"db\""),
            ("zeo://h:1?storages=2", "\"storages\" is unknown for zeo://"),
            ("zeos://h:1?ca=/a&cert=/b", "needs ca=, cert= and key="),
            ("zeo://h:1?ca=/a", "\"ca\" is unknown for zeo://"),
            ("zeo://u:p@h:1", "a password in a database address"),
            ("zeo://h:1?password=x", "a password in a database address"),
            ("neos://c@h:1", "supported: file://"),
            ("demo:(file://a)/(file://b)", "demo: databases are not"),
            ("file://", "needs a path"),
            ("file://?create=1", "needs a path"),
            ("file:///x?creat=1", "option \"creat\" is unknown"),
            ("", "is not a database address"),
        ] {
            let said = Zurl::parse(text).expect_err(text).to_string();
            assert!(said.contains(message), "{text}: {said}");
        }
    }
}
