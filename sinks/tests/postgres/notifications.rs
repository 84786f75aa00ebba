//! The real notifier between a real database and a webhook that does as a test wants.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use runtime::health::{Health, State};
use runtime::shutdown::Shutdown;
use serde_json::Value;
use sinks::SinkError;
use sinks::notifier::{NotifierConfig, run, try_again};
use sqlx::AssertSqlSafe;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, TcpStream};

use crate::database::Database;
use crate::log::until;
use crate::mail::MailServer;

/// What status a message is answered with, by its text.
pub(crate) type Mood = fn(&str) -> u16;

/// Answers and remembers. It asks for no pause, so that some minutes of attempts pass in a second.
pub(crate) struct Receiver {
    address: String,
    mood: Arc<Mutex<Mood>>,
    /// Messages that it took.
    took: Arc<Mutex<Vec<Value>>>,
}

impl Receiver {
    pub(crate) async fn start(mood: Mood) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let (mood, took) = (Arc::new(Mutex::new(mood)), Arc::new(Mutex::new(Vec::new())));
        let receiver = Self { address, mood: Arc::clone(&mood), took: Arc::clone(&took) };
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(stream, Arc::clone(&mood), Arc::clone(&took)));
            }
        });
        receiver
    }

    fn becomes(&self, mood: Mood) {
        *self.mood.lock().unwrap() = mood;
    }

    pub(crate) fn took(&self) -> Vec<Value> {
        self.took.lock().unwrap().clone()
    }
}

async fn serve(stream: TcpStream, mood: Arc<Mutex<Mood>>, took: Arc<Mutex<Vec<Value>>>) {
    let mut stream = BufReader::new(stream);
    loop {
        let (mut length, mut line) = (0, String::new());
        loop {
            line.clear();
            if stream.read_line(&mut line).await.unwrap_or(0) == 0 {
                return;
            }
            let header = line.to_lowercase();
            if let Some(value) = header.strip_prefix("content-length:") {
                length = value.trim().parse().unwrap();
            }
            if header.trim().is_empty() {
                break;
            }
        }
        let mut body = vec![0; length];
        stream.read_exact(&mut body).await.unwrap();
        let message: Value = serde_json::from_slice(&body).unwrap();
        let status = mood.lock().unwrap()(message["text"].as_str().unwrap());
        if status == 200 {
            took.lock().unwrap().push(message);
        }
        let answer = format!("HTTP/1.1 {status} x\r\nRetry-After: 0\r\nContent-Length: 0\r\n\r\n");
        stream.get_mut().write_all(answer.as_bytes()).await.unwrap();
    }
}

/// A notifier with one channel, `hook`.
pub(crate) struct Running {
    health: Health,
    shutdown: Shutdown,
    task: tokio::task::JoinHandle<Result<(), SinkError>>,
}

pub(crate) fn config(database: &Database, receiver: &Receiver) -> NotifierConfig {
    configured(&format!(
        "url = \"{}\"\npoll = \"20ms\"\n[[webhook]]\nname = \"hook\"\nurl = \"http://{}/\"\n\
         pace = {{ digest_every = \"1s\" }}",
        database.url, receiver.address
    ))
}

fn configured(text: &str) -> NotifierConfig {
    runtime::config::load(text, "test", &|_| None).unwrap()
}

impl Running {
    fn start(database: &Database, receiver: &Receiver) -> Self {
        Self::with(config(database, receiver))
    }

    pub(crate) fn with(config: NotifierConfig) -> Self {
        let (health, shutdown) = (Health::new(), Shutdown::new());
        let running = run(config, health.clone(), shutdown.clone());
        Self { health, shutdown, task: tokio::spawn(running) }
    }

    /// Waits for what health says of a component: `None`, that it is ready, or else words of what it waits for.
    pub(crate) async fn says(&self, component: &str, words: Option<&str>) {
        let deadline = Instant::now() + Duration::from_secs(20);
        loop {
            let states = self.health.snapshot();
            let is_so = match (states.get(component), words) {
                (Some(State::Ready), None) => true,
                (Some(State::Waiting(reason)), Some(words)) => reason.contains(words),
                _ => false,
            };
            if is_so {
                return;
            }
            assert!(Instant::now() < deadline, "{component}, {words:?}: {states:?}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    pub(crate) async fn stop(self) {
        self.shutdown.request();
        self.task.await.unwrap().unwrap();
    }
}

async fn execute(database: &Database, statements: &str) {
    let mut connection = database.connect().await;
    sqlx::raw_sql(AssertSqlSafe(statements.to_owned())).execute(&mut connection).await.unwrap();
}

/// Alerts that are to be told, by their messages.
pub(crate) async fn write(database: &Database, messages: &[&str]) {
    for message in messages {
        execute(
            database,
            &format!(
                "insert into notification_outbox (key, kind, change, severity_id, rule_id, title, agent_id, message, \
                 count, event_time) values (gen_random_uuid()::text, 'alert', 'new', 4, 'r', 'Title', 'a', \
                 '{message}', 1, now())"
            ),
        )
        .await;
    }
}

const STATES: &str = "select string_agg(concat_ws(' ', count, state), ', ' order by state) from \
                      (select state, count(*) as count from notification_messages group by state) s";

/// Whether everything that is open was tried often.
const TRIED: &str = "select (min(attempts) > 8)::text from notification_messages";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refusal_stays_in_health_until_something_is_taken() {
    let (database, receiver) = (Database::migrated().await, Receiver::start(|_| 422).await);
    let running = Running::start(&database, &receiver);
    write(&database, &["one"]).await;
    until(&database, STATES, "1 failed").await;
    let says = |text: &str| match &running.health.snapshot()["notifier.hook"] {
        State::Waiting(reason) => reason.contains(text),
        _ => false,
    };
    // Longer than the channel looks whether there is anything to tell.
    let watched = Instant::now();
    while watched.elapsed() < Duration::from_secs(3) {
        tokio::time::sleep(Duration::from_millis(50)).await;
        let is_new = watched.elapsed() < Duration::from_millis(500);
        assert!(is_new || says("422"), "{:?} after {:?}", running.health.snapshot(), watched.elapsed());
    }
    receiver.becomes(|_| 200);
    write(&database, &["two"]).await;
    until(&database, STATES, "1 failed, 1 sent").await;
    running.says("notifier.hook", None).await;
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_refused_is_told_again_in_one_digest() {
    let (database, receiver) = (Database::migrated().await, Receiver::start(|_| 200).await);
    let texts: Vec<String> = (0..30).map(|n| format!("alert {n}")).collect();
    write(&database, &texts.iter().map(String::as_str).collect::<Vec<_>>()).await;
    execute(
        &database,
        "insert into notification_channels (channel) values ('hook');
         update notification_outbox set routed_at = now();
         insert into notification_messages (id, channel, content, items, state, attempts, reason, done_at)
         select md5(id::text)::uuid, 'hook', '{}', 1, 'failed', 1, 'answers 401', now() from notification_outbox;
         insert into notification_deliveries (channel, outbox_id, severity_id, message_id)
         select 'hook', id, severity_id, md5(id::text)::uuid from notification_outbox",
    )
    .await;
    assert_eq!(try_again(&config(&database, &receiver), "hook").await.unwrap(), 30);
    write(&database, &["a new one"]).await;
    let running = Running::start(&database, &receiver);
    let told = "select count(*)::text from notification_deliveries d join notification_messages m \
                on m.id = d.message_id and m.state = 'sent'";
    until(&database, told, "31").await;
    running.stop().await;
    let totals: Vec<u64> = receiver.took().iter().map(|message| message["total"].as_u64().unwrap()).collect();
    assert_eq!(totals.iter().sum::<u64>(), 31);
    assert!(totals.len() <= 2, "{totals:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_message_that_is_never_taken_lets_others_pass_and_is_given_up() {
    let mood: Mood = |text| if text.contains("poison") { 500 } else { 200 };
    let (database, receiver) = (Database::migrated().await, Receiver::start(mood).await);
    let running = Running::start(&database, &receiver);
    write(&database, &["poison"]).await;
    until(&database, TRIED, "true").await;
    write(&database, &["a good one"]).await;
    until(&database, STATES, "1 failed, 1 sent").await;
    assert_eq!(receiver.took().len(), 1);
    let health = running.health.snapshot();
    assert!(
        matches!(&health["notifier.hook"], State::Waiting(why) if why.contains("not one: answers 500")),
        "{health:?}"
    );
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_service_that_is_away_loses_no_message_however_long() {
    let (database, receiver) = (Database::migrated().await, Receiver::start(|_| 500).await);
    let running = Running::start(&database, &receiver);
    for (count, text) in [("1 open", "one"), ("2 open", "two"), ("3 open", "three")] {
        write(&database, &[text]).await;
        until(&database, STATES, count).await;
        until(&database, TRIED, "true").await;
    }
    write(&database, &["four"]).await;
    until(&database, "select (min(attempts) > 12)::text from notification_messages", "true").await;
    until(&database, STATES, "3 open").await;
    receiver.becomes(|_| 200);
    until(&database, STATES, "4 sent").await;
    running.stop().await;
    let texts: Vec<String> = receiver.took().iter().map(|message| message["text"].to_string()).collect();
    assert_eq!(texts.len(), 4, "{texts:?}");
    for text in ["one", "two", "three", "four"] {
        assert!(texts.iter().any(|taken| taken.contains(&format!("Title: {text} "))), "{text} of {texts:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_clock_that_steps_back_silences_nobody() {
    let (database, receiver) = (Database::migrated().await, Receiver::start(|_| 500).await);
    let running = Running::start(&database, &receiver);
    write(&database, &["before"]).await;
    until(&database, STATES, "1 open").await;
    running.stop().await;
    // A day ahead a notifier died while it was sending, after others had spoken.
    execute(
        &database,
        "update notification_messages set lease = gen_random_uuid(), leased_until = now() + interval '1 day';
         update notification_channels set pace = jsonb_build_object(
             'sent', jsonb_build_array((extract(epoch from now()) * 1000000)::bigint + 86400000000),
             'full_at', (extract(epoch from now()) * 1000000)::bigint + 86400000000)",
    )
    .await;
    receiver.becomes(|_| 200);
    write(&database, &["after"]).await;
    let running = Running::start(&database, &receiver);
    until(&database, STATES, "2 sent").await;
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_that_is_old_is_deleted_and_what_nobody_is_to_tell_as_well() {
    let (database, receiver) = (Database::migrated().await, Receiver::start(|_| 500).await);
    execute(
        &database,
        "insert into notification_outbox (key, kind, change, severity_id, rule_id, title, agent_id, message, count,
             event_time, written_at, routed_at)
         select n::text, 'alert', 'new', 4, 'r', 'Title', 'a', '', 1, at, at, at
         from generate_series(1, 12000) n, (select now() - interval '60 days' as at) long_ago;
         insert into notification_deliveries (channel, outbox_id, severity_id)
         select case when key::int <= 10 then 'gone' else 'hook' end, id, 4 from notification_outbox
         where key::int <= 11",
    )
    .await;
    let running = Running::start(&database, &receiver);
    // What a channel still has to tell is kept.
    until(&database, "select string_agg(key, ',') from notification_outbox", "11").await;
    until(&database, "select string_agg(channel, ',') from notification_deliveries", "hook").await;
    running.stop().await;
}

const SPARES: &str = "select string_agg(concat_ws(' ', channel, count), ', ' order by channel) from \
                      (select channel, count(*) as count from notification_messages m \
                      where state = 'sent' group by channel) s";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_mailbox_that_is_busy_is_told_later_and_alone() {
    let busy: fn(&str) -> &'static str =
        |mailbox| if mailbox.starts_with("duty") { "450 mailbox busy" } else { "250 ok" };
    let (database, server) = (Database::migrated().await, MailServer::start(busy).await);
    let config = configured(&format!(
        "url = \"{}\"\npoll = \"20ms\"\n[[email]]\nname = \"mail\"\nhost = \"127.0.0.1\"\nport = {}\n\
         tls = \"none\"\nfrom = \"varta@example.com\"\nto = [\"Soc <soc@example.com>\", \"duty@example.com\"]\n\
         pace = {{ digest_every = \"1s\" }}",
        database.url, server.port
    ));
    let running = Running::with(config.clone());
    write(&database, &["the first"]).await;
    running.says("notifier.mail/duty@example.com", Some("450")).await;
    // Nobody else is held up, and nobody else has a problem.
    write(&database, &["the second"]).await;
    until(&database, SPARES, "mail 2").await;
    running.says("notifier.mail", None).await;
    running.stop().await;
    assert_eq!((server.texts("soc@example.com").len(), server.texts("duty@example.com").len()), (2, 0));

    // It is told by whoever is there when it takes mail again.
    let running = Running::with(config);
    running.says("notifier.mail/duty@example.com", Some("450")).await;
    server.becomes(|_| "250 ok");
    let waiting = "select count(*)::text from notification_deliveries d \
                   left join notification_messages m on m.id = d.message_id where m.state is distinct from 'sent'";
    until(&database, waiting, "0").await;
    running.says("notifier.mail/duty@example.com", None).await;
    running.stop().await;
    assert_eq!(server.texts("soc@example.com").len(), 2);
    let told = server.texts("duty@example.com").concat();
    for text in ["the first", "the second"] {
        let lines = told.lines().filter(|line| line.starts_with("[20") && line.contains(text));
        assert_eq!(lines.count(), 1, "{text} in {told}");
    }
}
