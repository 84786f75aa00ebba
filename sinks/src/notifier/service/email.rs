//! E-mail by SMTP: lettre speaks the protocol and writes the message, [`super::smtp_stream`] makes the connection.
//!
//! `Message-ID` is made of the message's id: a repetition has the same, and mail programs that look at it show it once.

use std::{sync::Arc, time::Duration};

use lettre::{
    Address, Message as Mail,
    message::{Mailbox, header::ContentType},
    transport::smtp::{
        Error,
        authentication::{Credentials, Mechanism},
        client::AsyncSmtpConnection,
        commands,
        extension::{ClientId, Extension, MailBodyParameter, MailParameter},
    },
};
use rustls::ClientConfig;

use super::{Answer, Missed, smtp_stream, words};
use crate::{
    SinkError,
    notifier::{compose::Message, config::EmailConfig, line},
};

pub(in super::super) struct Email {
    config: EmailConfig,
    tls: Option<Arc<ClientConfig>>,
    timeout: Duration,
    from: Mailbox,
    to: Vec<Mailbox>,
}

impl Email {
    pub(super) fn new(config: &EmailConfig, timeout: Duration) -> Result<Self, SinkError> {
        let mailbox = |text: &str| {
            text.parse::<Mailbox>()
                .map_err(|_| SinkError::Fatal(format!("notifier: {}: {text:?} is no address", config.name)))
        };
        Ok(Self {
            tls: smtp_stream::tls(config)?,
            timeout,
            from: mailbox(&config.from)?,
            to: config.to.iter().map(|to| mailbox(to)).collect::<Result<_, _>>()?,
            config: config.clone(),
        })
    }

    pub(super) async fn send(&self, message: &Message) -> Answer {
        let mail = match self.mail(message) {
            Ok(mail) => mail,
            Err(error) => return Answer::Refused(format!("cannot be written as mail: {error}")),
        };
        match tokio::time::timeout(self.timeout, self.deliver(&mail)).await {
            Ok(answer) => answer,
            Err(_) => Answer::later(format!("no answer within {:?}", self.timeout)),
        }
    }

    fn mail(&self, message: &Message) -> Result<Mail, lettre::error::Error> {
        let mut mail = Mail::builder()
            .from(self.from.clone())
            .subject(format!("[varta] {}", message.subject))
            .message_id(Some(format!("<{}@varta>", message.id)))
            .header(ContentType::TEXT_PLAIN);
        for to in &self.to {
            mail = mail.to(to.clone());
        }
        mail.body(message.text.clone())
    }

    async fn deliver(&self, mail: &Mail) -> Answer {
        let stream = match smtp_stream::open(&self.config, self.tls.as_ref()).await {
            Ok(stream) => stream,
            Err(error) => return Answer::later(self.blot(&error.to_string())),
        };
        let hello = ClientId::Domain(self.config.hello.clone());
        let mut connection = match AsyncSmtpConnection::connect_with_transport(stream, &hello).await {
            Ok(connection) => connection,
            Err(error) => return self.judge(&error),
        };
        if let (Some(user), Some(password)) = (&self.config.username, &self.config.password) {
            let credentials = Credentials::new(user.clone(), password.expose().to_owned());
            if let Err(error) = connection.auth(&[Mechanism::Plain, Mechanism::Login], &credentials).await {
                return self.judge(&error);
            }
        }
        match self.hand_over(&mut connection, mail).await {
            Ok(answer) => {
                // It has the mail, or will not; whether it says goodbye as well does not matter.
                let _ = connection.quit().await;
                answer
            }
            Err(error) => self.judge(&error),
        }
    }

    /// One transaction for whom the server takes it; lettre's own gives up at the first whom it does not, and one dead
    /// mailbox would keep everybody else from hearing anything.
    async fn hand_over(&self, connection: &mut AsyncSmtpConnection, mail: &Mail) -> Result<Answer, Error> {
        let (envelope, text) = (mail.envelope(), mail.formatted());
        let mut parameters = Vec::new();
        let is_ascii = |address: &Address| AsRef::<str>::as_ref(address).is_ascii();
        if !envelope.from().into_iter().chain(envelope.to()).all(is_ascii) {
            if !connection.server_info().supports_feature(Extension::SmtpUtfEight) {
                return Ok(Answer::Refused("the server takes no addresses outside ASCII".to_owned()));
            }
            parameters.push(MailParameter::SmtpUtfEight);
        }
        if !text.is_ascii() {
            if !connection.server_info().supports_feature(Extension::EightBitMime) {
                return Ok(Answer::Refused("the server takes no text outside ASCII".to_owned()));
            }
            parameters.push(MailParameter::Body(MailBodyParameter::EightBitMime));
        }
        connection.command(commands::Mail::new(envelope.from().cloned(), parameters)).await?;
        let (mut taken, mut missed) = (0, Vec::new());
        for to in envelope.to() {
            match connection.command(commands::Rcpt::new(to.clone(), Vec::new())).await {
                Ok(_) => taken += 1,
                Err(error) if error.is_transient() || error.is_permanent() => {
                    missed.push(Missed {
                        mailbox: to.to_string(),
                        reason: self.words(&error),
                        is_for_good: error.is_permanent(),
                    });
                }
                Err(error) => return Err(error),
            }
        }
        if taken == 0 {
            let is_for_good = missed.iter().all(|missed| missed.is_for_good);
            let reason = words(&missed);
            return Ok(if is_for_good { Answer::Refused(reason) } else { Answer::later(reason) });
        }
        connection.command(commands::Data).await?;
        connection.message(&text).await?;
        Ok(if missed.is_empty() { Answer::Taken } else { Answer::TakenInPart(missed) })
    }

    /// 4xx and everything about the connection is waited out, 5xx and what the server cannot do at all is not.
    fn judge(&self, error: &Error) -> Answer {
        let reason = self.words(error);
        if error.is_permanent() || error.is_client() {
            Answer::Refused(reason)
        } else {
            Answer::later(reason)
        }
    }

    fn words(&self, error: &Error) -> String {
        let mut reason = error.to_string();
        // lettre's own text does not always hold the server's words.
        if let Some(cause) = std::error::Error::source(error)
            && !reason.contains(&cause.to_string())
        {
            reason = format!("{reason}: {cause}");
        }
        self.blot(&reason)
    }

    fn blot(&self, text: &str) -> String {
        let text = match &self.config.password {
            Some(password) if !password.expose().is_empty() => text.replace(password.expose(), "***"),
            _ => text.to_owned(),
        };
        line::clean(&text, 300)
    }
}
