//! TLS before a scripted node: what comes is handed on in the clear. TLS 1.2 alone, and both sides show certificates, as nodes do.

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig, ServerConnection};
use std::io::{self, ErrorKind, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// What nodes show, and whom they trust.
pub(crate) struct Tls(Arc<ServerConfig>);

impl Tls {
    /// From files in PEM.
    pub(crate) fn new(ca: &str, cert: &str, key: &str) -> Self {
        let certificates = |path| -> Vec<CertificateDer<'static>> {
            let all = CertificateDer::pem_file_iter(path).unwrap();
            all.map(Result::unwrap).collect()
        };
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(certificates(ca));
        let verifier = WebPkiClientVerifier::builder(Arc::new(roots)).build();
        let config = ServerConfig::builder_with_protocol_versions(&[&rustls::version::TLS12])
            .with_client_cert_verifier(verifier.unwrap())
            .with_single_cert(
                certificates(cert),
                PrivateKeyDer::from_pem_file(key).unwrap(),
            );
        Self(Arc::new(config.unwrap()))
    }

    /// Hands what comes to a port on to another one, until it is over.
    pub(super) fn serve(&self, listener: &TcpListener, to: u16, is_over: &Arc<AtomicBool>) {
        listener.set_nonblocking(true).unwrap();
        while !is_over.load(Ordering::SeqCst) {
            let Ok((client, _)) = listener.accept() else {
                std::thread::sleep(Duration::from_millis(2));
                continue;
            };
            let (config, is_over) = (Arc::clone(&self.0), Arc::clone(is_over));
            std::thread::spawn(move || {
                let _ = hand_on(config, client, to, &is_over);
            });
        }
    }
}

/// What a read gave: nothing for now is nothing.
fn now(read: io::Result<usize>) -> io::Result<Option<usize>> {
    match read {
        Ok(n) => Ok(Some(n)),
        Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(None),
        Err(error) => Err(error),
    }
}

fn hand_on(
    config: Arc<ServerConfig>,
    mut client: TcpStream,
    to: u16,
    is_over: &AtomicBool,
) -> io::Result<()> {
    let mut node = TcpStream::connect((Ipv4Addr::LOCALHOST, to))?;
    for stream in [&client, &node] {
        stream.set_nonblocking(true)?;
        stream.set_nodelay(true)?;
    }
    let mut tls = ServerConnection::new(config).map_err(io::Error::other)?;
    tls.set_buffer_limit(None);
    let mut buf = vec![0; 64 << 10];
    let (mut up, mut is_idle) = (Vec::new(), false);
    while !is_over.load(Ordering::SeqCst) {
        if std::mem::replace(&mut is_idle, true) {
            std::thread::sleep(Duration::from_micros(300));
        }
        if let Some(n) = now(tls.read_tls(&mut client))? {
            is_idle = false;
            let state = tls.process_new_packets();
            if n == 0 || state.is_err() {
                let _ = tls.write_tls(&mut client);
                return Ok(());
            }
        }
        while let Some(n) = now(tls.reader().read(&mut buf))?.filter(|n| *n > 0) {
            up.extend_from_slice(&buf[..n]);
        }
        if !up.is_empty()
            && let Some(n) = now(node.write(&up))?
        {
            is_idle = false;
            up.drain(..n);
        }
        if let Some(n) = now(node.read(&mut buf))? {
            is_idle = false;
            if n == 0 {
                return Ok(());
            }
            tls.writer().write_all(&buf[..n])?;
        }
        while tls.wants_write() && now(tls.write_tls(&mut client))?.is_some() {
            is_idle = false;
        }
    }
    Ok(())
}
