//! Servers for tests, on a port of their own: as much of HTTP and SMTP as real clients need, and every way to fail.

use std::{
    collections::VecDeque,
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
    time::Duration,
};

use parking_lot::Mutex;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, BufReader},
    net::{TcpListener, TcpStream},
    task::JoinHandle,
};
use tokio_rustls::TlsAcceptor;

/// What a server does with a request.
#[derive(Debug, Clone)]
pub(super) enum Reaction {
    Answer {
        status: u16,
        headers: &'static str,
        body: String,
    },
    /// An answer that repeats the request's line and headers.
    Echo(u16),
    Hang,
    CutBeforeAnswer,
    CutInHeaders,
    /// An answer whose body never ends.
    Endless(u16),
}

impl Reaction {
    pub(super) fn answer(status: u16, body: &str) -> Self {
        Self::headers(status, "", body)
    }

    pub(super) fn headers(status: u16, headers: &'static str, body: &str) -> Self {
        Self::Answer { status, headers, body: body.to_owned() }
    }
}

#[derive(Debug, Clone)]
pub(super) struct Request {
    pub(super) line: String,
    headers: Vec<(String, String)>,
    pub(super) body: Vec<u8>,
}

impl Request {
    pub(super) fn header(&self, name: &str) -> &str {
        self.headers.iter().find(|(header, _)| header == name).map_or("", |(_, value)| value)
    }
}

type Shared<T> = Arc<Mutex<T>>;

/// Ends with the test.
struct Serving(JoinHandle<()>);

impl Drop for Serving {
    fn drop(&mut self) {
        self.0.abort();
    }
}

pub(super) struct HttpServer {
    address: String,
    requests: Shared<Vec<Request>>,
    _serving: Serving,
}

impl HttpServer {
    pub(super) async fn start(reactions: Vec<Reaction>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let requests = Shared::default();
        let (seen, reactions) = (Arc::clone(&requests), Arc::new(Mutex::new(VecDeque::from(reactions))));
        let serving = tokio::spawn(async move {
            let mut connections = tokio::task::JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                connections.spawn(serve(stream, Arc::clone(&seen), Arc::clone(&reactions)));
            }
        });
        Self { address, requests, _serving: Serving(serving) }
    }

    pub(super) fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    pub(super) fn requests(&self) -> Vec<Request> {
        self.requests.lock().clone()
    }
}

async fn serve(stream: TcpStream, seen: Shared<Vec<Request>>, reactions: Arc<Mutex<VecDeque<Reaction>>>) {
    let mut stream = BufReader::new(stream);
    while let Some(request) = read(&mut stream).await {
        let said = format!("{} {:?}", request.line, request.headers);
        seen.lock().push(request);
        let reaction = reactions.lock().pop_front().expect("a reaction for each request");
        match reaction {
            Reaction::Answer { status, headers, body } => {
                let head =
                    format!("HTTP/1.1 {status} x\r\n{headers}Content-Length: {}\r\n\r\n{body}", body.len());
                stream.get_mut().write_all(head.as_bytes()).await.unwrap();
            }
            Reaction::Echo(status) => {
                let answer = format!("HTTP/1.1 {status} x\r\nContent-Length: {}\r\n\r\n{said}", said.len());
                stream.get_mut().write_all(answer.as_bytes()).await.unwrap();
            }
            Reaction::Hang => std::future::pending().await,
            Reaction::CutBeforeAnswer => return,
            Reaction::CutInHeaders => {
                stream.get_mut().write_all(b"HTTP/1.1 200 OK\r\nContent-Le").await.unwrap();
                return;
            }
            Reaction::Endless(status) => {
                let head = format!("HTTP/1.1 {status} x\r\nContent-Length: 100000000000\r\n\r\n");
                stream.get_mut().write_all(head.as_bytes()).await.unwrap();
                while stream.get_mut().write_all(&[b'x'; 4096]).await.is_ok() {}
                return;
            }
        }
    }
}

async fn read(stream: &mut BufReader<TcpStream>) -> Option<Request> {
    let mut line = String::new();
    if stream.read_line(&mut line).await.ok()? == 0 {
        return None;
    }
    let mut headers = Vec::new();
    loop {
        let mut header = String::new();
        stream.read_line(&mut header).await.ok()?;
        let Some((name, value)) = header.trim_end().split_once(": ") else { break };
        headers.push((name.to_lowercase(), value.to_owned()));
    }
    let mut request = Request { line: line.trim_end().to_owned(), headers, body: Vec::new() };
    request.body = vec![0; request.header("content-length").parse().unwrap_or(0)];
    stream.read_exact(&mut request.body).await.ok()?;
    Some(request)
}

/// How a mail server answers; the codes of RFC 5321 unless a test wants others.
#[derive(Debug, Clone, Copy)]
pub(super) struct Smtp {
    pub(super) greeting: &'static str,
    pub(super) auth: &'static str,
    pub(super) recipient: &'static str,
    /// Somebody who is answered otherwise than all, and how.
    pub(super) odd: (&'static str, &'static str),
    pub(super) content: &'static str,
    pub(super) cuts_after_data: bool,
    pub(super) hangs: bool,
}

impl Default for Smtp {
    fn default() -> Self {
        Self {
            greeting: "220 mail.example.com ESMTP",
            auth: "503 not here",
            recipient: "250 ok",
            odd: ("", ""),
            content: "250 queued",
            cuts_after_data: false,
            hangs: false,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum SmtpTls {
    None,
    Implicit,
    Starttls,
}

#[derive(Debug, Clone, Default)]
pub(super) struct Mail {
    pub(super) from: String,
    pub(super) to: Vec<String>,
    pub(super) text: String,
}

#[derive(Default)]
struct Taken {
    mails: Vec<Mail>,
    /// What was said in AUTH PLAIN, in base64, and whether under TLS.
    credentials: Vec<(String, bool)>,
}

pub(super) struct MailServer {
    pub(super) port: u16,
    taken: Shared<Taken>,
    folder: tempfile::TempDir,
    _serving: Serving,
}

impl MailServer {
    pub(super) async fn start(smtp: Smtp, tls: SmtpTls) -> Self {
        runtime::tls::install_crypto();
        let folder = tempfile::tempdir().unwrap();
        let acceptor = (tls != SmtpTls::None).then(|| acceptor(folder.path()));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let taken = Shared::<Taken>::default();
        let shared = Arc::clone(&taken);
        let serving = tokio::spawn(async move {
            let mut connections = tokio::task::JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let (shared, acceptor) = (Arc::clone(&shared), acceptor.clone());
                connections.spawn(async move {
                    // A client that breaks off is not the server's failure.
                    let _ = converse(stream, smtp, tls, acceptor, shared).await;
                });
            }
        });
        Self { port, taken, folder, _serving: Serving(serving) }
    }

    pub(super) fn mails(&self) -> Vec<Mail> {
        self.taken.lock().mails.clone()
    }

    pub(super) fn credentials(&self) -> Vec<(String, bool)> {
        self.taken.lock().credentials.clone()
    }

    pub(super) fn certificate(&self) -> PathBuf {
        self.folder.path().join("certificate.pem")
    }
}

/// A certificate for `localhost` that signs itself.
fn acceptor(folder: &Path) -> TlsAcceptor {
    let made = Command::new("openssl")
        .current_dir(folder)
        .args(
            "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=localhost"
                .split(' '),
        )
        .args("-addext subjectAltName=DNS:localhost -addext basicConstraints=critical,CA:FALSE".split(' '))
        .args("-keyout key.pem -out certificate.pem".split(' '))
        .output()
        .expect("openssl is needed");
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let chain =
        CertificateDer::pem_file_iter(folder.join("certificate.pem")).unwrap().map(Result::unwrap).collect();
    let key = PrivateKeyDer::from_pem_file(folder.join("key.pem")).unwrap();
    let config = rustls::ServerConfig::builder().with_no_client_auth().with_single_cert(chain, key).unwrap();
    TlsAcceptor::from(Arc::new(config))
}

async fn converse(
    mut stream: TcpStream,
    smtp: Smtp,
    tls: SmtpTls,
    acceptor: Option<TlsAcceptor>,
    taken: Shared<Taken>,
) -> std::io::Result<()> {
    match (tls, acceptor) {
        (SmtpTls::Implicit, Some(acceptor)) => {
            let stream = acceptor.accept(stream).await?;
            session(stream, smtp, true, true, &taken).await
        }
        (SmtpTls::Starttls, Some(acceptor)) => {
            stream.write_all(b"220 mail.example.com ESMTP\r\n").await?;
            let mut stream = BufReader::new(stream);
            let mut line = String::new();
            stream.read_line(&mut line).await?;
            assert!(line.starts_with("EHLO "), "{line}");
            stream.get_mut().write_all(b"250-mail.example.com\r\n250-PIPELINING\r\n250 STARTTLS\r\n").await?;
            line.clear();
            stream.read_line(&mut line).await?;
            assert_eq!(line, "STARTTLS\r\n", "nothing else is said before TLS");
            stream.get_mut().write_all(b"220 go ahead\r\n").await?;
            assert!(stream.buffer().is_empty());
            let stream = acceptor.accept(stream.into_inner()).await?;
            // A real server says nothing after the handshake.
            session(stream, smtp, true, false, &taken).await
        }
        _ => session(stream, smtp, false, true, &taken).await,
    }
}

async fn session<S: AsyncRead + AsyncWrite + Unpin>(
    stream: S,
    smtp: Smtp,
    is_protected: bool,
    greets: bool,
    taken: &Shared<Taken>,
) -> std::io::Result<()> {
    let mut stream = BufReader::new(stream);
    if smtp.hangs {
        std::future::pending::<()>().await;
    }
    if greets {
        say(&mut stream, smtp.greeting).await?;
    }
    let mut mail = Mail::default();
    loop {
        let mut line = String::new();
        if stream.read_line(&mut line).await? == 0 {
            return Ok(());
        }
        let line = line.trim_end();
        let answer = match line.split([' ', ':']).next().unwrap_or_default() {
            "EHLO" if is_protected => "250-mail.example.com\r\n250-8BITMIME\r\n250 AUTH PLAIN LOGIN",
            "EHLO" => "250-mail.example.com\r\n250 8BITMIME",
            "AUTH" => {
                let said = line.strip_prefix("AUTH PLAIN ").unwrap_or_default();
                taken.lock().credentials.push((said.to_owned(), is_protected));
                smtp.auth
            }
            "MAIL" => {
                mail.from = line["MAIL FROM:".len()..].split(' ').next().unwrap_or_default().to_owned();
                "250 ok"
            }
            "RCPT" => {
                let to = &line["RCPT TO:".len()..];
                let answer = if to == smtp.odd.0 { smtp.odd.1 } else { smtp.recipient };
                if answer.starts_with('2') {
                    mail.to.push(to.to_owned());
                }
                answer
            }
            "DATA" => {
                say(&mut stream, "354 go ahead").await?;
                loop {
                    let mut line = String::new();
                    stream.read_line(&mut line).await?;
                    if line == ".\r\n" {
                        break;
                    }
                    mail.text += line.strip_prefix('.').unwrap_or(&line);
                }
                if smtp.cuts_after_data {
                    return Ok(());
                }
                if smtp.content.starts_with('2') {
                    taken.lock().mails.push(std::mem::take(&mut mail));
                }
                smtp.content
            }
            "QUIT" => {
                say(&mut stream, "221 bye").await?;
                // Those who close at once sometimes reset what is still on its way.
                tokio::time::sleep(Duration::from_millis(10)).await;
                return Ok(());
            }
            _ => "500 what?",
        };
        say(&mut stream, answer).await?;
    }
}

async fn say<S: AsyncWrite + Unpin>(stream: &mut S, text: &str) -> std::io::Result<()> {
    stream.write_all(format!("{text}\r\n").as_bytes()).await?;
    stream.flush().await
}
