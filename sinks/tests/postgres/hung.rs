//! A database that takes connections and does not answer, or slowly: notifier and reports say so, can be stopped, and
//! when it answers again, with what was sent to it meanwhile, they go on; nothing is lost or told twice.

use std::time::{Duration, Instant};

use runtime::config::Secret;
use runtime::health::{Health, State};
use runtime::shutdown::Shutdown;
use sinks::postgres::PostgresConfig;
use sinks::reports::{Cadence, ReportsConfig, run};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

use crate::database::Database;
use crate::log::until;
use crate::notifications::{Receiver, Running, config, write};
use crate::reports::filled;

/// What becomes of bytes in either direction.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Mood {
    Open,
    /// Each piece after a pause.
    Slow(Duration),
    /// They are kept, and go on when the mood changes: as if the server were suspended and woken.
    Hung,
}

/// Between a client and the database.
struct Between {
    port: u16,
    mood: watch::Sender<Mood>,
}

impl Between {
    async fn start(database: &Database) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let (mood, moods) = watch::channel(Mood::Open);
        let server = authority(&database.url).to_owned();
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                tokio::spawn(pass(client, server.clone(), moods.clone()));
            }
        });
        Self { port, mood }
    }

    /// The database, by way of this.
    fn database(&self, of: &Database) -> Database {
        Database { url: of.url.replace(authority(&of.url), &format!("127.0.0.1:{}", self.port)) }
    }

    fn becomes(&self, mood: Mood) {
        self.mood.send_replace(mood);
    }
}

/// `host:port` of an URL.
fn authority(url: &str) -> &str {
    let rest = url.split("://").nth(1).unwrap();
    rest.split('/').next().unwrap().rsplit('@').next().unwrap()
}

async fn pass(client: TcpStream, server: String, moods: watch::Receiver<Mood>) {
    let server = TcpStream::connect(server).await.unwrap();
    let ((from_client, to_client), (from_server, to_server)) = (client.into_split(), server.into_split());
    // Whoever breaks off is not missed here.
    let _ =
        tokio::join!(onward(from_client, to_server, moods.clone()), onward(from_server, to_client, moods));
}

async fn onward(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    mut moods: watch::Receiver<Mood>,
) -> std::io::Result<()> {
    let mut piece = [0; 1024];
    loop {
        let read = from.read(&mut piece).await?;
        let mood = *moods.wait_for(|mood| *mood != Mood::Hung).await.map_err(std::io::Error::other)?;
        if let Mood::Slow(pause) = mood {
            tokio::time::sleep(pause).await;
        }
        if read == 0 {
            return to.shutdown().await;
        }
        to.write_all(&piece[..read]).await?;
    }
}

const TIMEOUT: Duration = Duration::from_millis(400);
/// Before each piece, when the database is slow.
const PAUSE: Duration = Duration::from_millis(5);
/// Longer than a stop waits for a statement, much shorter than a step is waited for.
const SOON: Duration = Duration::from_secs(2);

/// Items that are in messages which the receiver has.
const TOLD: &str = "select coalesce(sum(items), 0)::text from notification_messages where state = 'sent'";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_that_hangs_delays_what_people_are_told_and_loses_nothing() {
    let (database, receiver) = (Database::migrated().await, Receiver::start(|_| 200).await);
    let between = Between::start(&database).await;
    let mut config = config(&between.database(&database), &receiver);
    config.timeout = TIMEOUT;
    let running = Running::with(config.clone());
    write(&database, &["before"]).await;
    until(&database, TOLD, "1").await;

    between.becomes(Mood::Hung);
    let texts: Vec<String> = (0..30).map(|n| format!("meanwhile {n}")).collect();
    write(&database, &texts.iter().map(String::as_str).collect::<Vec<_>>()).await;
    for component in ["notifier", "notifier.hook"] {
        running.says(component, Some("no answer within")).await;
    }
    assert_eq!(receiver.took().len(), 1);
    let asked = Instant::now();
    running.stop().await;
    assert!(asked.elapsed() < SOON, "a stop took {:?}", asked.elapsed());

    // Another one, which has never seen it answer.
    let running = Running::with(config);
    for component in ["notifier", "notifier.hook"] {
        running.says(component, Some("no answer within 400ms")).await;
    }
    between.becomes(Mood::Open);
    until(&database, TOLD, "31").await;
    for component in ["notifier", "notifier.hook"] {
        running.says(component, None).await;
    }
    between.becomes(Mood::Slow(Duration::from_millis(15)));
    write(&database, &["slowly"]).await;
    until(&database, TOLD, "32").await;
    running.stop().await;
    let totals: Vec<u64> = receiver.took().iter().map(|message| message["total"].as_u64().unwrap()).collect();
    assert_eq!(totals.iter().sum::<u64>(), 32, "each once: {totals:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_that_hangs_delays_reports() {
    let (database, _connection) = filled().await;
    let between = Between::start(&database).await;
    let config = ReportsConfig {
        every: Duration::from_secs(1),
        period: Cadence::Day,
        look_back: Duration::from_hours(24 * 3650),
        ..ReportsConfig::default()
    };
    let url = Secret::new(between.database(&database).url.as_str());
    let postgres = PostgresConfig { url, timeout: TIMEOUT, ..PostgresConfig::default() };
    let (health, shutdown) = (Health::new(), Shutdown::new());
    let is = async |what: &str, of: fn(&State) -> bool| {
        let deadline = Instant::now() + Duration::from_secs(20);
        while !health.snapshot().get("reports").is_some_and(of) {
            assert!(Instant::now() < deadline, "{what}: {:?}", health.snapshot());
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    let waits: fn(&State) -> bool = |state| matches!(state, State::Waiting(why) if why.contains("no answer"));
    // It hangs from the beginning, then before a round has got anywhere, then in the midst of one.
    between.becomes(Mood::Hung);
    let task = tokio::spawn(run(config, postgres, health.clone(), shutdown.clone()));
    is("waits from the beginning", waits).await;
    for pieces in [6, 12] {
        between.becomes(Mood::Slow(PAUSE));
        tokio::time::sleep(pieces * PAUSE).await;
        between.becomes(Mood::Hung);
        tokio::time::sleep(5 * TIMEOUT).await;
    }
    for pieces in [0, 20] {
        between.becomes(Mood::Slow(PAUSE));
        is("goes on", |state| *state == State::Ready).await;
        tokio::time::sleep(pieces * PAUSE).await;
        between.becomes(Mood::Hung);
        is("waits", waits).await;
    }
    between.becomes(Mood::Open);
    until(&database, "select count(*)::text from reports", "9").await;
    is("goes on", |state| *state == State::Ready).await;
    between.becomes(Mood::Hung);
    tokio::time::sleep(Duration::from_secs(1)).await;
    let asked = Instant::now();
    shutdown.request();
    task.await.unwrap().unwrap();
    assert!(asked.elapsed() < SOON, "a stop took {:?}", asked.elapsed());
}
