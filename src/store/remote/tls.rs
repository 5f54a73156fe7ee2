//! The stream of a server, in the clear or by TLS.
//!
//! Both sides show certificates: a ZEO server asks for one always. A deployed server often shows one that nobody signed but
//! itself, and the very same one is what clients are given to trust: it is accepted as it stands. Otherwise it has to be signed by
//! what is trusted, and be of the name that was asked for.
//!
//! A key that others may read is refused.

use super::dial::Address;
use crate::kernel::socket::Stream;
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{
    CertificateError, ClientConfig, ClientConnection, DigitallySignedStruct, RootCertStore,
    SignatureScheme,
};
use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Files in PEM, and what is asked of the server's name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsFiles {
    /// What the server's certificate is signed by, or is.
    pub ca: PathBuf,
    /// Our own certificate.
    pub cert: PathBuf,
    /// The key of it.
    pub key: PathBuf,
    /// The server's name, if it is not that of its address.
    pub name: Option<String>,
    /// Whether the server has to have that name.
    pub checks_name: bool,
}

/// Why TLS is not to be had.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file.
    #[error("{path} holds no certificate or key in PEM that can be used: {source}")]
    File {
        /// Which.
        path: String,
        /// What is wrong.
        source: rustls::pki_types::pem::Error,
    },
    /// A file with nothing in it.
    #[error("{0} holds no certificate")]
    Empty(String),
    /// A key that is no secret.
    #[error("the key {0} may be read by others than its owner: chmod 600 {0}")]
    Exposed(String),
    /// The other side does not say why, as a rule.
    #[error("the server closed the connection before it served: it may not accept our certificate")]
    Rejected,
    /// The name of the server.
    #[error("{0:?} is no name that a certificate could have: give one by server_hostname=")]
    Name(String),
    /// What they hold.
    #[error("the certificates cannot be used: {0}")]
    Certificates(#[from] rustls::Error),
    /// What is trusted.
    #[error("{path} cannot be trusted: {source}")]
    Roots {
        /// Which file.
        path: String,
        /// What is wrong.
        source: rustls::server::VerifierBuilderError,
    },
}

/// A stream in the clear, or what is spoken over one.
#[derive(Debug)]
pub(super) enum Wire {
    /// As it is.
    Plain(Stream),
    /// By TLS.
    Tls(Box<ClientConnection>, Stream),
}

/// Our side of a connection that is to be made.
pub(super) fn client(
    files: &TlsFiles,
    address: &Address,
) -> Result<Box<ClientConnection>, TlsError> {
    let provider = Arc::new(ring::default_provider());
    let trusted = certificates(&files.ca)?;
    let mut roots = RootCertStore::empty();
    // One that cannot sign others can still be the server's own.
    roots.add_parsable_certificates(trusted.iter().cloned());
    let chains = match roots.is_empty() {
        true => None,
        false => Some(chains(roots, &provider, &files.ca)?),
    };
    let verifier = Arc::new(Verifier {
        trusted,
        chains,
        checks_name: files.checks_name,
        provider: Arc::clone(&provider),
    });
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .dangerous()
        .with_custom_certificate_verifier(verifier)
        .with_client_auth_cert(certificates(&files.cert)?, key(&files.key)?)?;
    let name = match (&files.name, address) {
        (Some(name), _) => name.clone(),
        (None, Address::Tcp(host, _)) => host.clone(),
        (None, Address::Unix(_)) => "localhost".to_owned(),
    };
    let server = ServerName::try_from(name.clone()).map_err(|_| TlsError::Name(name))?;
    Ok(Box::new(ClientConnection::new(Arc::new(config), server)?))
}

fn chains(
    roots: RootCertStore,
    provider: &Arc<CryptoProvider>,
    path: &Path,
) -> Result<Arc<WebPkiServerVerifier>, TlsError> {
    WebPkiServerVerifier::builder_with_provider(Arc::new(roots), Arc::clone(provider))
        .build()
        .map_err(|source| TlsError::Roots {
            path: path.display().to_string(),
            source,
        })
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let shown = || path.display().to_string();
    let wrong = |source| TlsError::File {
        path: shown(),
        source,
    };
    let all = CertificateDer::pem_file_iter(path).map_err(wrong)?;
    let all = all.collect::<Result<Vec<_>, _>>().map_err(wrong)?;
    if all.is_empty() {
        return Err(TlsError::Empty(shown()));
    }
    Ok(all)
}

fn key(path: &Path) -> Result<PrivateKeyDer<'static>, TlsError> {
    let shown = || path.display().to_string();
    if std::fs::metadata(path).is_ok_and(|meta| meta.permissions().mode() & 0o077 != 0) {
        return Err(TlsError::Exposed(shown()));
    }
    PrivateKeyDer::from_pem_file(path).map_err(|source| TlsError::File {
        path: shown(),
        source,
    })
}

/// See the module.
#[derive(Debug)]
struct Verifier {
    trusted: Vec<CertificateDer<'static>>,
    chains: Option<Arc<WebPkiServerVerifier>>,
    checks_name: bool,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        // That it has the key too is shown by its signature, below.
        if self.trusted.iter().any(|trusted| trusted == end_entity) {
            return Ok(ServerCertVerified::assertion());
        }
        let Some(chains) = &self.chains else {
            return Err(CertificateError::UnknownIssuer.into());
        };
        let verified =
            chains.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now);
        match verified {
            // The name is looked at when all else is well.
            Err(rustls::Error::InvalidCertificate(
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
            )) if !self.checks_name => Ok(ServerCertVerified::assertion()),
            verified => verified,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, cert, dss, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, cert, dss, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        let algorithms = &self.provider.signature_verification_algorithms;
        algorithms.supported_schemes()
    }
}

impl Wire {
    /// Whether there is something of its own to be sent, beside what is given to it.
    pub(super) fn wants_write(&self) -> bool {
        match self {
            Self::Plain(_) => false,
            Self::Tls(tls, _) => tls.wants_write(),
        }
    }
}

impl AsFd for Wire {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Plain(stream) | Self::Tls(_, stream) => stream.as_fd(),
        }
    }
}

impl Read for Wire {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let (tls, stream) = match self {
            Self::Plain(stream) => return stream.read(buf),
            Self::Tls(tls, stream) => (tls, stream),
        };
        loop {
            match tls.reader().read(buf) {
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                // Cut off without a farewell: a frame that is missing tells the difference.
                Err(error) if error.kind() == ErrorKind::UnexpectedEof => return Ok(0),
                read => return read,
            }
            if tls.read_tls(stream)? == 0 {
                return Ok(0);
            }
            if let Err(error) = tls.process_new_packets() {
                // What is wrong is told to the other side, if it can be.
                let _ = tls.write_tls(stream);
                return Err(io::Error::new(ErrorKind::InvalidData, error));
            }
        }
    }
}

impl Write for Wire {
    /// At least a byte, or an error.
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        let tls = match self {
            Self::Plain(stream) => return stream.write(buf),
            Self::Tls(tls, _) => tls,
        };
        let taken = tls.writer().write(buf)?;
        match self.flush() {
            Err(error) if error.kind() != ErrorKind::WouldBlock => Err(error),
            _ if taken == 0 => Err(ErrorKind::WouldBlock.into()),
            _ => Ok(taken),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        if let Self::Tls(tls, stream) = self {
            while tls.wants_write() {
                tls.write_tls(stream)?;
            }
        }
        Ok(())
    }
}
