//! The address of a database, as given on the command line or in a configuration.
//!
//! * `file:///abs/path` or `file://relative`; the path is taken as it stands.
//! * `zeos://host:port?ca=CA.pem&cert=OUR.pem&key=OUR.key`: the same by TLS. `server_hostname` is the name its certificate has to
//!   show when it is not the host's; `check_hostname=0` takes any name.
//! * `zeo://host:port?storage=NAME`, `zeo:///path/to/socket`. The port is 9991, the host `localhost` and the storage `1` where they
//!   are not said; a host that has colons stands in `[]`.
//!
//! * `postgres://user@host:port/db`, or `postgresql:`: a RelStorage database. The port is 5432; there may be several hosts, with commas
//!   between; `host=/dir` or `unix_socket=/dir` is the directory of a server's socket. `password_file` holds the password,
//!   `history_free=accept` takes a database that keeps newest revisions alone, `poll_interval` is the longest time between looks in s.
//! * `sqlite:///dir` or `sqlite://?data_dir=/dir`: the same in the file `main.sqlite3` of a directory.
//!
//! * `neo://CLUSTER@host:port,host:port`: a NEO cluster by its masters; `neos://`, or `ca`, `cert` and `key`, by TLS.
//!
//! * `demo:(BASE)/(CHANGES)`: two databases, each by its address, parentheses and all if it is such a pair itself. `#` and options may
//!   follow.
//!
//! Options behind `?` that concern a writer or the application are passed over. Everything else is refused with a sentence that
//! says what would be right. An address is no place for a password: it is seen in lists of processes and mounts.

mod cluster;
mod layers;

use super::demo::Demo;
use super::neo::Cluster;
use super::normal;
use super::rel::{Kept, Place, Postgres, Rel};
use super::remote::{Address, TlsFiles};
use super::zeo::Server;
use crate::base::limit::REL_LOOK_MAX_MS;
use std::path::PathBuf;
use std::time::Duration;

/// The database that an address names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Zurl {
    /// A FileStorage.
    File(PathBuf),
    /// A storage of a ZEO server.
    Zeo(Server),
    /// A database of RelStorage.
    Rel(Rel),
    /// A NEO cluster.
    Neo(Cluster),
    /// A database over another one.
    Demo(Box<Demo>),
}

/// Why an address is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ZurlError {
    /// No scheme.
    #[error("{0:?} is not a database address; did you mean file://{0} ?")]
    NoScheme(Box<str>),
    /// A scheme for which there is no store.
    #[error(
        "{0}: databases are not supported yet; supported: file://<path to Data.fs>, zeo://<host>:<port>, \
         neo://<cluster>@<host>:<port>, postgres://<host>/<database>, sqlite://<directory>, demo:(<base>)/(<changes>)"
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
        "a password in a database address is seen by everybody who lists processes or mounts: leave it out (a bare user name is \
         allowed). ZEO servers take none; for PostgreSQL, password_file=PATH names a file that holds it"
    )]
    Secret,
    /// Neither a host and a port, nor a path.
    #[error("{0:?} is not a server: zeo://host:port, zeo://[::1]:port or zeo:///path/to/socket")]
    Server(Box<str>),
    /// No two layers.
    #[error(
        "a demo: address has two others in parentheses, demo:(file:///base.fs)/(file:///changes.fs), not {0:?}"
    )]
    Layers(Box<str>),
    /// No certificates.
    #[error(
        "a zeos:// address needs ca=, cert= and key= with files in PEM: what the server's certificate is signed by, our own \
         certificate and its key"
    )]
    Files,
    /// No certificates of a cluster.
    #[error(
        "TLS to a NEO cluster needs ca=, cert= and key= with files in PEM, or $NEO_CA, $NEO_CERT and $NEO_KEY"
    )]
    NeoFiles,
    /// No cluster.
    #[error(
        "a neo:// address names a cluster and its masters, with ports and nothing behind them: neo://name@host:port,host:port, not {0:?}"
    )]
    Cluster(Box<str>),
    /// No database of a server.
    #[error(
        "a postgres:// address names a server and a database: postgres://user@host:port/db, not {0:?}"
    )]
    Database(Box<str>),
    /// No directory.
    #[error(
        "an sqlite:// address needs the directory of main.sqlite3: sqlite:///dir or sqlite://?data_dir=/dir"
    )]
    NoDir,
    /// An option that says what it cannot.
    #[error("option {0} cannot be {1:?}: {2}")]
    Value(&'static str, Box<str>, &'static str),
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

/// Options of `postgres://` and `sqlite://`.
const REL_OPTIONS: [&str; 7] = [
    "data_dir",
    "host",
    "unix_socket",
    "user",
    "password_file",
    "history_free",
    "poll_interval",
];
/// Options of RelStorage in Python that mean nothing here; `cache_` and `blob_` are others' already.
const REL_OTHERS_OPTIONS: [&str; 9] = [
    "keep_history",
    "connect_timeout",
    "replica_timeout",
    "revert_when_stale",
    "commit_lock_timeout",
    "commit_lock_id",
    "create_schema",
    "driver",
    "application_name",
];
const POSTGRES_PORT: u16 = 5432;

/// Options of `zeos://`.
const TLS_OPTIONS: [&str; 5] = ["ca", "cert", "key", "server_hostname", "check_hostname"];
/// What a client that names no port means.
const ZEO_PORT: u16 = 9991;

impl Zurl {
    /// The schemes that there are stores for.
    pub const SCHEMES: [&str; 6] = ["file", "zeo", "zeos", "postgres", "postgresql", "sqlite"];

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

    /// Files and directories of this machine that are used by their path while the database is served.
    pub fn paths(&self) -> Vec<PathBuf> {
        let socket = |address: &Address| match address {
            Address::Unix(path) => Some(path.clone()),
            Address::Tcp(..) => None,
        };
        let shown = |tls: &Option<TlsFiles>| {
            let tls = tls.iter();
            tls.flat_map(|tls| [tls.ca.clone(), tls.cert.clone(), tls.key.clone()])
                .collect::<Vec<_>>()
        };
        match self {
            Self::File(path) => vec![path.clone()],
            Self::Zeo(server) => shown(&server.tls)
                .into_iter()
                .chain(socket(&server.address))
                .collect(),
            Self::Rel(rel) => match &rel.place {
                Place::Sqlite(dir) => vec![dir.join("main.sqlite3")],
                Place::Postgres(server) => {
                    let sockets = server.addresses.iter().filter_map(socket);
                    sockets.chain(server.password_file.clone()).collect()
                }
            },
            Self::Neo(cluster) => shown(&cluster.tls),
            Self::Demo(demo) => [demo.base.paths(), demo.changes.paths()].concat(),
        }
    }

    fn read(text: &str, is_strict: bool) -> Result<Self, ZurlError> {
        // No slashes behind its scheme, but addresses inside.
        if let Some((scheme, layers)) = text.split_once(':')
            && scheme.eq_ignore_ascii_case("demo")
        {
            return layers::read(layers, is_strict);
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
        let neo = ["neo", "neos"];
        if let Some(scheme) = neo.into_iter().find(|s| scheme.eq_ignore_ascii_case(s)) {
            let options: Vec<_> = options.collect();
            return cluster::read(rest, &options, scheme == "neos", is_strict);
        }
        let rel = ["postgres", "postgresql", "sqlite"];
        if let Some(scheme) = rel.into_iter().find(|s| scheme.eq_ignore_ascii_case(s)) {
            let options: Vec<_> = options.collect();
            return Ok(Self::Rel(read_rel(scheme, rest, &options, is_strict)?));
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
            _ => server(place, ZEO_PORT).ok_or_else(|| ZurlError::Server(place.into()))?,
        };
        Ok(Self::Zeo(Server {
            address,
            storage,
            tls,
        }))
    }
}

/// An address of RelStorage, taken apart.
fn read_rel(
    scheme: &'static str,
    rest: &str,
    options: &[(&str, &str)],
    is_strict: bool,
) -> Result<Rel, ZurlError> {
    let option = |wanted| {
        let said = |(name, value): &&(&str, &str)| *name == wanted && !value.is_empty();
        let found = options.iter().rev().find(said);
        found.map(|(_, value)| normal::decoded(value))
    };
    let is_known = |name: &str| {
        is_others(name) || REL_OPTIONS.contains(&name) || REL_OTHERS_OPTIONS.contains(&name)
    };
    let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
    let (user, hosts) = authority.rsplit_once('@').unwrap_or(("", authority));
    let (user, _) = match user.split_once(':') {
        Some(_) if is_strict => return Err(ZurlError::Secret),
        said => said.unwrap_or((user, "")),
    };
    let is_secret = |name: &str| ["password", "passwd", "dsn"].contains(&name);
    if is_strict && options.iter().any(|(name, _)| is_secret(name)) {
        return Err(ZurlError::Secret);
    }
    if let Some((name, _)) = options.iter().find(|(name, _)| !is_known(name))
        && is_strict
    {
        return Err(ZurlError::Option((*name).into(), scheme));
    }
    let kept = match option("history_free").as_deref() {
        None => Kept::All,
        Some("accept") => Kept::Newest,
        Some(other) => {
            let what = "history_free=accept is all there is";
            return Err(ZurlError::Value("history_free", other.into(), what));
        }
    };
    let look = match option("poll_interval") {
        None => Duration::from_millis(REL_LOOK_MAX_MS),
        Some(text) => match text.parse::<f64>() {
            Ok(s) if (0.01..=60.0).contains(&s) => Duration::from_secs_f64(s),
            _ => {
                let what = "it is a number of seconds from 0.01 to 60";
                return Err(ZurlError::Value("poll_interval", text.into(), what));
            }
        },
    };
    let place = if scheme == "sqlite" {
        // Python takes the option, whatever the path.
        let path = (!path.is_empty()).then(|| format!("/{path}"));
        let dir = option("data_dir").or(path).ok_or(ZurlError::NoDir)?;
        Place::Sqlite(dir.into())
    } else {
        let wrong = || ZurlError::Database(rest.into());
        let socket =
            option("unix_socket").or_else(|| option("host").filter(|h| h.starts_with('/')));
        let user = Some(normal::decoded(user)).filter(|user| !user.is_empty());
        let one = |place: &str| server(place, POSTGRES_PORT);
        let addresses: Option<Vec<Address>> = match &socket {
            Some(dir) => {
                let port = if hosts.is_empty() {
                    Some(POSTGRES_PORT)
                } else {
                    port_of(hosts)
                };
                port.map(|port| vec![Address::Unix(format!("{dir}/.s.PGSQL.{port}").into())])
            }
            None => hosts.split(',').map(one).collect(),
        };
        if path.is_empty() || path.contains('/') {
            return Err(wrong());
        }
        Place::Postgres(Postgres {
            addresses: addresses.ok_or_else(wrong)?,
            database: normal::decoded(path),
            user: user.or_else(|| option("user")),
            password_file: option("password_file").map(PathBuf::from),
        })
    };
    Ok(Rel { place, kept, look })
}

/// The port of an authority whose host does not matter.
fn port_of(hosts: &str) -> Option<u16> {
    match server(hosts, POSTGRES_PORT)? {
        Address::Tcp(_, port) => Some(port),
        Address::Unix(_) => None,
    }
}

fn is_others(name: &str) -> bool {
    OTHERS_OPTIONS.contains(&name) || OTHERS_OPTION_PREFIXES.iter().any(|p| name.starts_with(p))
}

/// `host`, `host:port`, `[::1]:port`, `:port`.
fn server(place: &str, default: u16) -> Option<Address> {
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
        "" => default,
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
    fn there_is_a_store_for_each_scheme_that_is_named() {
        for scheme in Zurl::SCHEMES {
            let address = Zurl::parse(&format!("{scheme}://"));
            assert!(!matches!(address, Err(ZurlError::Scheme(_))), "{scheme}");
        }
        assert!(matches!(Zurl::parse("mysql://"), Err(ZurlError::Scheme(_))));
    }

    #[test]
    fn files_of_this_machine_are_known() {
        for (zurl, paths) in [
            ("file:///a/Data.fs", &["/a/Data.fs"][..]),
            (
                "demo:(file:///a/b)/(sqlite:///c)",
                &["/a/b", "/c/main.sqlite3"],
            ),
            ("zeo:///s", &["/s"]),
            ("zeo://h:1", &[]),
            ("postgres://h/db?password_file=/p", &["/p"]),
        ] {
            let paths: Vec<PathBuf> = paths.iter().map(PathBuf::from).collect();
            assert_eq!(Zurl::parse(zurl).map(|zurl| zurl.paths()), Ok(paths));
        }
    }

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
    fn addresses_of_relstorage_name_a_database() {
        let tcp = |host: &str, port| Address::Tcp(host.to_owned(), port);
        let unix = |path: &str| Address::Unix(path.into());
        for (text, addresses, user, kept) in [
            ("postgres://db/zodb", vec![tcp("db", 5432)], None, Kept::All),
            (
                "postgresql://me@db:6000/zodb?keep_history=true&cache_local_mb=3",
                vec![tcp("db", 6000)],
                Some("me"),
                Kept::All,
            ),
            (
                "Postgres://a,b:1/zodb?history_free=accept",
                vec![tcp("a", 5432), tcp("b", 1)],
                None,
                Kept::Newest,
            ),
            (
                "postgres:///zodb?host=/run/pg&user=me",
                vec![unix("/run/pg/.s.PGSQL.5432")],
                Some("me"),
                Kept::All,
            ),
            (
                "postgres://:6001/zodb?unix_socket=/run/pg",
                vec![unix("/run/pg/.s.PGSQL.6001")],
                None,
                Kept::All,
            ),
        ] {
            let Ok(Zurl::Rel(rel)) = Zurl::parse(text) else {
                panic!("{text}")
            };
            let Place::Postgres(place) = rel.place else {
                panic!("{text}")
            };
            assert_eq!(place.addresses, addresses, "{text}");
            assert_eq!(
                (place.user.as_deref(), &*place.database, rel.kept),
                (user, "zodb", kept),
                "{text}"
            );
        }
        for text in ["sqlite:///srv/db", "sqlite://?data_dir=/srv/db"] {
            let Ok(Zurl::Rel(rel)) = Zurl::parse(text) else {
                panic!("{text}")
            };
            assert_eq!(rel.place, Place::Sqlite("/srv/db".into()));
        }
        let loosely = Zurl::parse_loosely("postgres://u:p@db/zodb?password=x");
        assert_eq!(loosely, Zurl::parse("postgres://u@db/zodb"));
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
            ("postgres://h", "names a server and a database"),
            ("postgres://h/a/b", "names a server and a database"),
            ("postgres://u:p@h/db", "a password in a database address"),
            ("postgres://h/db?password=x", "password_file=PATH names"),
            ("postgres://h/db?storage_x=1", "unknown for postgres://"),
            ("postgres://h/db?history_free=1", "history_free cannot be"),
            ("sqlite://", "needs the directory of main.sqlite3"),
            ("sqlite:///d?poll_interval=0", "poll_interval cannot be"),
            ("mysql://h/db", "supported: file://"),
            ("demo:(file://a)", "has two others in parentheses"),
            ("demo:file://a/file://b", "has two others in parentheses"),
            (
                "demo:(file://a)/(file://b)x",
                "has two others in parentheses",
            ),
            (
                "demo:(file://a)/((file://b)",
                "has two others in parentheses",
            ),
            ("demo:(file://a)/(ftp://b)", "ftp: databases are not"),
            ("demo:(file://a)/(zeo://u:p@h)", "a password in a database"),
            (
                "demo:(file://a)/(file://b)#odd=1",
                "\"odd\" is unknown for demo",
            ),
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
