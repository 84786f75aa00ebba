//! The connection to a mail server, up to the point from which lettre speaks.
//!
//! TLS is made here rather than by lettre: with the same rustls, provider and certificates as everything else.

use std::{
    io,
    net::SocketAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use lettre::transport::smtp::client::AsyncTokioStream;
use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, ServerName, pem::PemObject as _},
};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, ReadBuf},
    net::TcpStream,
};
use tokio_rustls::{TlsConnector, client::TlsStream};

use crate::{
    SinkError,
    notifier::config::{EmailConfig, MailTls},
};

/// Longest line of a server; RFC 5321 allows 512.
const LONGEST_LINE: usize = 1024;
/// Most lines of one answer.
const MOST_LINES: usize = 100;
/// What lettre is greeted with after STARTTLS, for the server has greeted already.
const GREETING: &[u8] = b"220 upgraded\r\n";

/// The TLS that a server is spoken to with; `None` without.
pub(super) fn tls(config: &EmailConfig) -> Result<Option<Arc<ClientConfig>>, SinkError> {
    if config.tls == MailTls::None {
        return Ok(None);
    }
    runtime::tls::install_crypto();
    let wrong =
        |error: &dyn std::fmt::Display| SinkError::Fatal(format!("notifier: {}: {error}", config.name));
    let mut roots = RootCertStore::empty();
    if let Some(path) = &config.ca {
        let pem = fs_err::read(path).map_err(|error| wrong(&error))?;
        for certificate in CertificateDer::pem_slice_iter(&pem) {
            roots.add(certificate.map_err(|error| wrong(&error))?).map_err(|error| wrong(&error))?;
        }
    } else {
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    }
    let client = ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
    Ok(Some(Arc::new(client)))
}

/// Connects, and upgrades before anything that matters is said.
pub(super) async fn open(
    config: &EmailConfig,
    tls: Option<&Arc<ClientConfig>>,
) -> io::Result<Box<dyn AsyncTokioStream>> {
    let mut stream = TcpStream::connect((config.host.as_str(), config.port)).await?;
    let Some(tls) = tls else {
        return Ok(Box::new(stream));
    };
    let greeting = if config.tls == MailTls::Starttls {
        starttls(&mut stream, &config.hello).await?;
        GREETING
    } else {
        b""
    };
    let name = ServerName::try_from(config.host.clone()).map_err(io::Error::other)?;
    let upgraded = TlsConnector::from(Arc::clone(tls)).connect(name, stream).await?;
    Ok(Box::new(Greeted { greeting, stream: upgraded }))
}

/// The part of the conversation before TLS. Lines are read byte by byte: what stands behind the answer to STARTTLS was not
/// protected, and must not be taken for something that was.
async fn starttls(stream: &mut TcpStream, hello: &str) -> io::Result<()> {
    answer(stream, "220").await?;
    stream.write_all(format!("EHLO {hello}\r\n").as_bytes()).await?;
    let can = answer(stream, "250").await?;
    if !can.iter().any(|line| line.eq_ignore_ascii_case("STARTTLS")) {
        return Err(io::Error::other("the server does not offer STARTTLS"));
    }
    stream.write_all(b"STARTTLS\r\n").await?;
    answer(stream, "220").await?;
    Ok(())
}

/// The texts of an answer's lines, if it has the code.
async fn answer(stream: &mut TcpStream, code: &str) -> io::Result<Vec<String>> {
    let mut texts = Vec::new();
    for _ in 0..MOST_LINES {
        let mut line = Vec::new();
        loop {
            match stream.read_u8().await? {
                b'\n' => break,
                byte if line.len() < LONGEST_LINE => line.push(byte),
                _ => return Err(io::Error::other("a line of the server has no end")),
            }
        }
        let line = String::from_utf8_lossy(&line).trim_end().to_owned();
        if !line.starts_with(code) {
            return Err(io::Error::other(format!("the server answers {line:?}")));
        }
        texts.push(line.get(4..).unwrap_or_default().to_owned());
        if line.as_bytes().get(3) != Some(&b'-') {
            return Ok(texts);
        }
    }
    Err(io::Error::other("an answer of the server has no end"))
}

/// A protected stream that begins with a greeting of ours.
#[derive(Debug)]
struct Greeted {
    greeting: &'static [u8],
    stream: TlsStream<TcpStream>,
}

impl AsyncTokioStream for Greeted {
    fn peer_addr(&self) -> io::Result<SocketAddr> {
        self.stream.get_ref().0.peer_addr()
    }
}

impl AsyncRead for Greeted {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.greeting.is_empty() {
            return Pin::new(&mut self.stream).poll_read(context, into);
        }
        let length = self.greeting.len().min(into.remaining());
        let (now, rest) = self.greeting.split_at(length);
        into.put_slice(now);
        self.greeting = rest;
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Greeted {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
