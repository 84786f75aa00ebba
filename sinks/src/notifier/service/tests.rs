//! Every service against a server that speaks its protocol, and against one that does not keep to it.

use std::time::{Duration, Instant};

use serde_json::Value;
use uuid::Uuid;

use super::{
    super::{
        compose::{Message, Space, compose},
        config::NotifierConfig,
        item::Severity,
        line::{
            Lines, SPECIFICATION,
            tests::{alert, start},
        },
    },
    Answer, Service,
    servers::{HttpServer, MailServer, Reaction, Smtp, SmtpTls},
};

const TIMEOUT: Duration = Duration::from_secs(2);
const TOKEN: &str = "12345:very-secret-token";
/// `\0u\0very-secret` in base64.
const CREDENTIALS: &str = "AHUAdmVyeS1zZWNyZXQ=";

fn message() -> Message {
    let lines = Lines::parse(SPECIFICATION, "+00:00").unwrap();
    let items = [start("алиса", "chrome.exe"), alert(7, "r", "a<b>&c", Severity::High)];
    compose(Uuid::from_u128(7), &items, Space { lines: 5, characters: 3500 }, &lines, 0)
}

fn config(text: &str) -> NotifierConfig {
    runtime::config::load(text, "test", &|_| None).unwrap()
}

fn telegram(server: &HttpServer) -> Service {
    let text = format!(
        "[[telegram]]\nname = \"t\"\ntoken = \"{TOKEN}\"\nchat = \"-42\"\napi = \"{}\"",
        server.url("")
    );
    Service::telegram(&config(&text).telegram[0], TIMEOUT).unwrap()
}

fn slack(server: &HttpServer) -> Service {
    let text = format!("[[slack]]\nname = \"s\"\nurl = \"{}\"", server.url("/services/T0/B0/very-secret"));
    Service::slack(&config(&text).slack[0], TIMEOUT).unwrap()
}

fn webhook(server: &HttpServer) -> Service {
    let text = format!(
        "[[webhook]]\nname = \"w\"\nurl = \"{}\"\ntoken = \"bearer-very-secret\"\nkey = \"very-secret-key\"",
        server.url("/hook?k=very-secret")
    );
    Service::webhook(&config(&text).webhook[0], TIMEOUT).unwrap()
}

fn mail(server: &MailServer, more: &str) -> Service {
    let text = format!(
        "[[email]]\nname = \"m\"\nhost = \"localhost\"\nport = {}\nfrom = \"Varta <varta@example.com>\"\n\
         to = [\"soc@example.com\", \"duty@example.com\"]\n{more}",
        server.port
    );
    Service::email(&config(&text).email[0], TIMEOUT).unwrap()
}

fn refused(answer: Answer) -> String {
    match answer {
        Answer::Refused(reason) => reason,
        other => panic!("not refused: {other:?}"),
    }
}

fn later(answer: Answer) -> (String, Option<Duration>) {
    match answer {
        Answer::Later { reason, retry_after } => (reason, retry_after),
        other => panic!("not later: {other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn telegram_gets_what_its_api_asks_for() {
    let server =
        HttpServer::start(vec![Reaction::answer(200, r#"{"ok":true,"result":{"message_id":1}}"#)]).await;
    assert_eq!(telegram(&server).send(&message()).await, Answer::Taken);
    let request = server.requests().remove(0);
    assert_eq!(request.line, format!("POST /bot{TOKEN}/sendMessage HTTP/1.1"));
    let body: Value = serde_json::from_slice(&request.body).unwrap();
    assert_eq!(body["chat_id"], -42);
    assert_eq!(body["text"], message().text);
    assert!(message().text.contains("Пользователь алиса запустил chrome.exe"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn telegrams_answers_are_understood() {
    let flood = r#"{"ok":false,"error_code":429,"description":"Too Many Requests: retry after 17","parameters":{"retry_after":17}}"#;
    let unknown = r#"{"ok":false,"error_code":400,"description":"Bad Request: chat not found"}"#;
    let server = HttpServer::start(vec![
        Reaction::answer(429, flood),
        Reaction::answer(400, unknown),
        Reaction::answer(401, r#"{"ok":false,"error_code":401,"description":"Unauthorized"}"#),
        Reaction::answer(403, r#"{"ok":false,"description":"Forbidden: bot was blocked by the user"}"#),
        Reaction::answer(500, "<html>oops</html>"),
        Reaction::answer(200, "<html>please log in to this network</html>"),
        Reaction::answer(302, ""),
    ])
    .await;
    let service = telegram(&server);
    let (reason, retry_after) = later(service.send(&message()).await);
    assert_eq!(retry_after, Some(Duration::from_secs(17)));
    assert!(reason.contains("Too Many Requests"), "{reason}");
    assert!(refused(service.send(&message()).await).contains("chat not found"));
    assert!(refused(service.send(&message()).await).contains("401"));
    assert!(refused(service.send(&message()).await).contains("blocked"));
    assert!(later(service.send(&message()).await).0.contains("500"));
    later(service.send(&message()).await);
    assert!(refused(service.send(&message()).await).contains("302"), "redirects are not followed");
    assert_eq!(server.requests().len(), 7);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn slack_gets_escaped_text_and_its_pause_is_kept() {
    let server = HttpServer::start(vec![
        Reaction::answer(200, "ok"),
        Reaction::headers(429, "Retry-After: 30\r\n", "rate_limited"),
        Reaction::answer(403, "action_prohibited"),
        Reaction::answer(503, ""),
        Reaction::answer(200, "<html>please log in to this network</html>"),
        Reaction::answer(200, "ok\n"),
    ])
    .await;
    let service = slack(&server);
    assert_eq!(service.send(&message()).await, Answer::Taken);
    let request = server.requests().remove(0);
    assert_eq!(request.line, "POST /services/T0/B0/very-secret HTTP/1.1");
    let body: Value = serde_json::from_slice(&request.body).unwrap();
    assert!(body["text"].as_str().unwrap().contains("a&lt;b&gt;&amp;c"), "{body}");
    assert_eq!(later(service.send(&message()).await).1, Some(Duration::from_secs(30)));
    assert_eq!(body["mrkdwn"], false, "a name such as *x* is no emphasis");
    assert!(refused(service.send(&message()).await).contains("action_prohibited"));
    later(service.send(&message()).await);
    later(service.send(&message()).await);
    assert_eq!(service.send(&message()).await, Answer::Taken);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_webhook_that_repeats_what_it_got_tells_nobody_else() {
    let server = HttpServer::start(vec![Reaction::answer(422, "no alice here"), Reaction::Echo(422)]).await;
    let text = format!("[[webhook]]\nname = \"w\"\nurl = \"{}\"", server.url("/hooks/very-secret/x"));
    let service = Service::webhook(&config(&text).webhook[0], TIMEOUT).unwrap();
    for _ in 0..2 {
        assert_eq!(refused(service.send(&message()).await), "answers 422");
    }
    // Neither does what fails before there is an answer.
    let text =
        "[[webhook]]\nname = \"w\"\nurl = \"http://very-secret:pw@nowhere.invalid/hooks/very-secret/x\"";
    let service = Service::webhook(&config(text).webhook[0], TIMEOUT).unwrap();
    let (reason, _) = later(service.send(&message()).await);
    assert!(!reason.contains("very-secret"), "{reason}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_webhook_gets_the_same_bytes_and_key_each_time_and_can_check_them() {
    let server = HttpServer::start(vec![Reaction::answer(500, "no"), Reaction::answer(204, "")]).await;
    let service = webhook(&server);
    later(service.send(&message()).await);
    assert_eq!(service.send(&message()).await, Answer::Taken);
    let requests = server.requests();
    let (first, second) = (&requests[0], &requests[1]);
    assert_eq!(first.body, second.body);
    for request in [first, second] {
        assert_eq!(request.header("idempotency-key"), Uuid::from_u128(7).to_string());
        assert_eq!(request.header("authorization"), "Bearer bearer-very-secret");
    }
    let check = std::process::Command::new("python3")
        .args([
            "-c",
            "import hmac,hashlib,sys;print('sha256='+hmac.new(b'very-secret-key',sys.stdin.buffer.read(),hashlib.sha256).hexdigest())",
        ])
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .and_then(|mut child| {
            use std::io::Write as _;
            child.stdin.take().unwrap().write_all(&first.body)?;
            child.wait_with_output()
        })
        .unwrap();
    assert_eq!(String::from_utf8_lossy(&check.stdout).trim(), first.header("x-varta-signature"));
    let body: Value = serde_json::from_slice(&first.body).unwrap();
    assert_eq!((body["total"].as_u64(), body["items"][1]["rule_id"].as_str()), (Some(2), Some("r")));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_hangs_cuts_or_never_ends_holds_nobody_up_and_no_secret_is_told() {
    type Make = fn(&HttpServer) -> Service;
    for (name, make) in [("telegram", telegram as Make), ("slack", slack), ("webhook", webhook)] {
        let server = HttpServer::start(vec![
            Reaction::Hang,
            Reaction::CutBeforeAnswer,
            Reaction::CutInHeaders,
            Reaction::Endless(503),
            Reaction::Echo(503),
        ])
        .await;
        let service = make(&server);
        for reaction in 0..5 {
            let began = Instant::now();
            let (reason, _) = later(service.send(&message()).await);
            assert!(began.elapsed() < TIMEOUT + Duration::from_secs(2), "{name} {reaction}");
            assert!(!reason.contains("very-secret") && reason.len() < 1000, "{name} {reaction}: {reason}");
        }
        drop(server);
        let nobody = later(service.send(&message()).await).0;
        assert!(!nobody.contains("very-secret") && nobody.to_lowercase().contains("connect"), "{nobody}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_mail_server_takes_a_whole_mail() {
    let server = MailServer::start(Smtp::default(), SmtpTls::None).await;
    assert_eq!(mail(&server, "tls = \"none\"").send(&message()).await, Answer::Taken);
    let taken = server.mails().remove(0);
    assert_eq!(taken.from, "<varta@example.com>");
    assert_eq!(taken.to, ["<soc@example.com>", "<duty@example.com>"]);
    assert!(
        taken.text.contains("Message-ID: <00000000-0000-0000-0000-000000000007@varta>"),
        "{}",
        taken.text
    );
    let parsed = std::process::Command::new("python3")
        .args([
            "-c",
            "import email,email.policy,sys;m=email.message_from_bytes(sys.stdin.buffer.read(),policy=email.policy.default);\
             print(m['subject']);print(m['to']);print(m.get_content())",
        ])
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .env("PYTHONIOENCODING", "utf-8")
        .spawn()
        .and_then(|mut child| {
            use std::io::Write as _;
            child.stdin.take().unwrap().write_all(taken.text.as_bytes())?;
            child.wait_with_output()
        })
        .unwrap();
    let parsed = String::from_utf8_lossy(&parsed.stdout).into_owned();
    assert!(parsed.contains("[varta] 2 notifications, the worst high"), "{parsed}");
    assert!(parsed.contains("Пользователь алиса запустил chrome.exe"), "{parsed}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_mail_servers_no_is_for_now_or_for_good() {
    let cases = [
        (Smtp { greeting: "421 busy", ..Smtp::default() }, true),
        (Smtp { recipient: "450 mailbox busy", ..Smtp::default() }, true),
        (Smtp { content: "451 try again", ..Smtp::default() }, true),
        (Smtp { recipient: "550 no such user very-secret", ..Smtp::default() }, false),
        (Smtp { content: "554 this is spam", ..Smtp::default() }, false),
        (Smtp { cuts_after_data: true, ..Smtp::default() }, true),
        (Smtp { hangs: true, ..Smtp::default() }, true),
        (Smtp { greeting: "\u{7}not smtp at all", ..Smtp::default() }, true),
    ];
    for (number, (smtp, for_now)) in cases.into_iter().enumerate() {
        let server = MailServer::start(smtp, SmtpTls::None).await;
        let began = Instant::now();
        let answer = mail(&server, "tls = \"none\"").send(&message()).await;
        assert!(began.elapsed() < TIMEOUT + Duration::from_secs(2), "case {number}");
        match answer {
            Answer::Later { .. } => assert!(for_now, "case {number}: {answer:?}"),
            Answer::Refused(_) => assert!(!for_now, "case {number}: {answer:?}"),
            Answer::Taken | Answer::TakenInPart(_) => panic!("case {number} was taken"),
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_dead_mailbox_keeps_nobody_else_from_hearing() {
    for no in ["550 no such user very-secret", "450 mailbox busy"] {
        for odd in ["<soc@example.com>", "<duty@example.com>"] {
            let server = MailServer::start(Smtp { odd: (odd, no), ..Smtp::default() }, SmtpTls::None).await;
            let answer = mail(&server, "tls = \"none\"").send(&message()).await;
            let Answer::TakenInPart(missed) = answer else { panic!("{no} to {odd}: {answer:?}") };
            let [missed] = missed.as_slice() else { panic!("{no} to {odd}: {missed:?}") };
            assert_eq!(missed.mailbox, odd.trim_matches(['<', '>']));
            assert!(missed.reason.contains(&no[..3]), "{missed:?}");
            assert_eq!(missed.is_for_good, no.starts_with('5'), "{missed:?}");
            let mails = server.mails();
            assert_eq!((mails.len(), mails[0].to.len()), (1, 1));
            assert_ne!(mails[0].to[0], odd);
        }
    }
    // Nobody is left: for now if it is so for anybody, for else he would never hear.
    let smtp =
        Smtp { recipient: "550 no", odd: ("<soc@example.com>", "450 mailbox busy"), ..Smtp::default() };
    let server = MailServer::start(smtp, SmtpTls::None).await;
    let (reason, _) = later(mail(&server, "tls = \"none\"").send(&message()).await);
    assert!(reason.contains("soc@") && reason.contains("duty@") && server.mails().is_empty(), "{reason}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mail_goes_by_tls_of_both_kinds_and_the_password_only_there() {
    for (kind, tls) in [("implicit", SmtpTls::Implicit), ("starttls", SmtpTls::Starttls)] {
        let server = MailServer::start(Smtp { auth: "235 welcome", ..Smtp::default() }, tls).await;
        let more = format!(
            "tls = \"{kind}\"\nca = \"{}\"\nusername = \"u\"\npassword = \"very-secret\"",
            server.certificate().display()
        );
        assert_eq!(mail(&server, &more).send(&message()).await, Answer::Taken, "{kind}");
        assert_eq!(server.mails().len(), 1);
        assert_eq!(server.credentials(), [(CREDENTIALS.to_owned(), true)], "{kind}");
        // A certificate that nobody vouches for is not spoken to.
        let (reason, _) = later(mail(&server, &format!("tls = \"{kind}\"")).send(&message()).await);
        assert!(reason.to_lowercase().contains("certificate"), "{kind}: {reason}");
        // A wrong password is a person's business, and is not repeated.
        let strict = MailServer::start(Smtp { auth: "535 no: very-secret", ..Smtp::default() }, tls).await;
        let more = more.replace(
            &server.certificate().display().to_string(),
            &strict.certificate().display().to_string(),
        );
        let reason = refused(mail(&strict, &more).send(&message()).await);
        assert!(reason.contains("535") && !reason.contains("very-secret"), "{reason}");
    }
    // Who does not offer STARTTLS gets nothing.
    let plain = MailServer::start(Smtp::default(), SmtpTls::None).await;
    let (reason, _) = later(mail(&plain, "tls = \"starttls\"").send(&message()).await);
    assert!(reason.contains("STARTTLS") && plain.mails().is_empty(), "{reason}");
}
