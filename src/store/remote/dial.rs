//! Where a server is, and a stream to it.

use super::tls::{self, TlsError, TlsFiles, Wire};
use crate::kernel::socket::Stream;
use std::fmt;
use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::path::PathBuf;
use std::time::Duration;

/// For one address; a name may have several.
const CONNECT: Duration = Duration::from_secs(4);

/// Where a server listens.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Address {
    /// A name or number of a machine, and a port.
    Tcp(String, u16),
    /// A socket file.
    Unix(PathBuf),
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(host, port) if host.contains(':') => write!(f, "[{host}]:{port}"),
            Self::Tcp(host, port) => write!(f, "{host}:{port}"),
            Self::Unix(path) => write!(f, "{}", path.display()),
        }
    }
}

/// Why there is no stream.
#[derive(Debug, thiserror::Error)]
pub enum DialError {
    /// No address for a name.
    #[error("the name {host} cannot be resolved: {source}")]
    Resolve {
        /// As given.
        host: String,
        /// What the system said.
        source: io::Error,
    },
    /// Nobody answers there.
    #[error("cannot connect to {address}: {source}")]
    Connect {
        /// Where.
        address: String,
        /// What the system said.
        source: io::Error,
    },
    /// Certificates or keys.
    #[error(transparent)]
    Tls(#[from] TlsError),
}

/// Connects; blocks. Files of certificates are read each time: they are renewed while we run.
pub(super) fn dial(address: &Address, files: Option<&TlsFiles>) -> Result<Wire, DialError> {
    let Some(files) = files else {
        return Ok(Wire::Plain(connect(address)?));
    };
    let client = tls::client(files, address)?;
    Ok(Wire::Tls(client, connect(address)?))
}

/// Connects; blocks. The first address of a name that answers is taken.
pub(in crate::store) fn connect(address: &Address) -> Result<Stream, DialError> {
    let refused = |address: String| move |source| DialError::Connect { address, source };
    match address {
        Address::Unix(path) => Stream::unix(path).map_err(refused(address.to_string())),
        Address::Tcp(host, port) => {
            let resolved: io::Result<Vec<SocketAddr>> = (host.as_str(), *port)
                .to_socket_addrs()
                .map(Iterator::collect);
            let host = || host.clone();
            let unresolved = |source| DialError::Resolve {
                host: host(),
                source,
            };
            let mut last = None;
            for address in resolved.map_err(unresolved)? {
                match Stream::tcp(&address, CONNECT) {
                    Ok(stream) => return Ok(stream),
                    Err(error) => last = Some(refused(address.to_string())(error)),
                }
            }
            Err(last.unwrap_or_else(|| unresolved(io::ErrorKind::NotFound.into())))
        }
    }
}
