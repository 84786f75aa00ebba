//! A mail server that does as a test wants, as far as a notifier needs one.

use std::sync::{Arc, Mutex};

use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, TcpStream};

/// How a recipient is answered.
type Mood = fn(&str) -> &'static str;

/// Recipients, and the text.
type Mail = (Vec<String>, String);

/// Takes mail without TLS, and remembers it.
pub(crate) struct MailServer {
    pub(crate) port: u16,
    mood: Arc<Mutex<Mood>>,
    took: Arc<Mutex<Vec<Mail>>>,
}

impl MailServer {
    pub(crate) async fn start(mood: Mood) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let (mood, took) = (Arc::new(Mutex::new(mood)), Arc::new(Mutex::new(Vec::new())));
        let server = Self { port, mood: Arc::clone(&mood), took: Arc::clone(&took) };
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                // A client that breaks off is not the server's failure.
                let (mood, took) = (Arc::clone(&mood), Arc::clone(&took));
                tokio::spawn(async move { converse(stream, &mood, &took).await.ok() });
            }
        });
        server
    }

    pub(crate) fn becomes(&self, mood: Mood) {
        *self.mood.lock().unwrap() = mood;
    }

    /// Texts that a mailbox has.
    pub(crate) fn texts(&self, mailbox: &str) -> Vec<String> {
        let took = self.took.lock().unwrap();
        let for_it = took.iter().filter(|(to, _)| to.iter().any(|to| to == mailbox));
        for_it.map(|(_, text)| text.clone()).collect()
    }
}

async fn converse(stream: TcpStream, mood: &Mutex<Mood>, took: &Mutex<Vec<Mail>>) -> std::io::Result<()> {
    let mut stream = BufReader::new(stream);
    stream.write_all(b"220 mail.example.com ESMTP\r\n").await?;
    let mut to = Vec::new();
    loop {
        let mut line = String::new();
        if stream.read_line(&mut line).await? == 0 {
            return Ok(());
        }
        let answer = match &line.trim_end()[..4] {
            "EHLO" => "250-mail.example.com\r\n250 8BITMIME",
            "RCPT" => {
                let mailbox = line["RCPT TO:".len()..].trim_matches(['<', '>', '\r', '\n']);
                let answer = (mood.lock().unwrap())(mailbox);
                if answer.starts_with('2') {
                    to.push(mailbox.to_owned());
                }
                answer
            }
            "DATA" => {
                stream.write_all(b"354 go ahead\r\n").await?;
                let mut text = String::new();
                while !text.ends_with("\r\n.\r\n") {
                    stream.read_line(&mut text).await?;
                }
                took.lock().unwrap().push((std::mem::take(&mut to), text));
                "250 queued"
            }
            _ => "250 ok",
        };
        stream.write_all(format!("{answer}\r\n").as_bytes()).await?;
    }
}
