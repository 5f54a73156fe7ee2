//! The address of a database, as given on the command line or in a configuration.
//!
//! `file:///abs/path` or `file://relative`, with options behind `?` that concern a writer and are passed over.
//! The path is taken as it stands. Everything else is refused with a sentence that says what would be right.

use std::path::PathBuf;

/// The database that an address names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Zurl {
    /// A FileStorage.
    File(PathBuf),
}

/// Why an address is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ZurlError {
    /// No scheme.
    #[error("{0:?} is not a database address; did you mean file://{0} ?")]
    NoScheme(Box<str>),
    /// A scheme for which there is no store.
    #[error("{0}: databases are not supported yet; supported: file://<path to Data.fs>")]
    Scheme(Box<str>),
    /// No path.
    #[error("a file:// address needs a path: file:///dir/Data.fs")]
    NoPath,
    /// An option that means nothing.
    #[error("option {0:?} is unknown for file:// addresses")]
    Option(Box<str>),
}

/// Options of `file://` that say how a writer opens it, or configure the application: accepted, without effect.
const FILE_OPTIONS: [&str; 22] = [
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
const FILE_OPTION_PREFIXES: [&str; 3] = ["connection_", "blob_", "cache_"];

impl Zurl {
    /// Parses an address.
    pub fn parse(text: &str) -> Result<Self, ZurlError> {
        // demo:(...)/(...) has no slashes behind its scheme, but addresses inside.
        if text.starts_with("demo:") {
            return Err(ZurlError::Scheme("demo".into()));
        }
        let Some((scheme, rest)) = text.split_once("://") else {
            return Err(ZurlError::NoScheme(text.into()));
        };
        if !scheme.eq_ignore_ascii_case("file") {
            return Err(ZurlError::Scheme(scheme.into()));
        }
        let (path, query) = rest.split_once('?').unwrap_or((rest, ""));
        if path.is_empty() {
            return Err(ZurlError::NoPath);
        }
        for option in query.split('&').filter(|o| !o.is_empty()) {
            let name = option.split_once('=').map_or(option, |(name, _)| name);
            let known = FILE_OPTIONS.contains(&name)
                || FILE_OPTION_PREFIXES.iter().any(|p| name.starts_with(p));
            if !known {
                return Err(ZurlError::Option(name.into()));
            }
        }
        Ok(Self::File(path.into()))
    }
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
    fn everything_else_is_refused_with_advice() {
        for (text, message) in [
            ("/srv/Data.fs", "did you mean file:///srv/Data.fs ?"),
            (
                "zeo://localhost:9991",
                "zeo: databases are not supported yet",
            ),
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
