//! The processes under fire: each lives until its next death, and at last until it is told to stop.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use tests::audit::read_outbox;
use tests::bench::part::Part;

use super::everything_has_arrived;
use super::plan::{Death, Form, Role, SLEEP};
use super::streams::Streams;
use crate::stage::{Load, NOT_CONFIRMED, Options, PATIENCE, Stage, Starter, blocking, until};

/// A named place must be passed so often within this time.
const REACHED_WITHIN: Duration = Duration::from_secs(150);
/// More events than any run makes.
const WITHOUT_END: u64 = 1 << 48;
const PACE: Duration = Duration::from_millis(20);

/// A death that happened.
#[derive(Clone, Debug)]
pub(super) struct Kill {
    role: &'static str,
    death: Death,
    lived: Duration,
}

impl Kill {
    fn died_at(&self, place: &str) -> bool {
        matches!(&self.death, Death::At(name, _) if *name == place)
    }
}

impl fmt::Display for Kill {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:<9} {:<34} lived {:>6.1} s", self.role, self.death.to_string(), self.lived.as_secs_f64())
    }
}

/// What the processes went through.
pub(super) struct Ordeal {
    pub(super) kills: Vec<Kill>,
    /// How many events each load made.
    pub(super) events: BTreeMap<&'static str, u64>,
    /// How long it lasted until all loads were made and confirmed.
    pub(super) under_fire: Duration,
}

/// What the threads share.
#[derive(Default)]
struct Orders {
    /// Deaths still to come.
    left: AtomicUsize,
    /// How many events each load has made at its end; it goes on until the last death.
    sent: Mutex<BTreeMap<&'static str, u64>>,
    /// The bridges stay dead while this is set.
    no_bridge: AtomicBool,
    /// All end.
    stop: AtomicBool,
    /// One failed: the others need not go on.
    failed: AtomicBool,
}

impl Orders {
    fn sent(&self) -> BTreeMap<&'static str, u64> {
        self.sent.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn has_sent(&self, load: &'static str, events: u64) {
        self.sent.lock().unwrap_or_else(PoisonError::into_inner).insert(load, events);
    }
}

/// All processes, each watched by a thread.
pub(super) struct Chaos {
    orders: Arc<Orders>,
    streams: Streams,
    watchers: Vec<(&'static str, JoinHandle<anyhow::Result<Vec<Kill>>>)>,
}

impl Chaos {
    /// Starts all.
    pub(super) fn start(stage: &Stage, form: &Form, streams: &Streams) -> anyhow::Result<Self> {
        let orders = Arc::new(Orders::default());
        orders.left.store(form.roles.iter().map(|role| role.deaths.len()).sum(), Ordering::SeqCst);
        let mut watchers = Vec::new();
        for role in form.roles.clone() {
            let start = Start::of(stage, &role, streams)?;
            let (name, orders) = (role.name, Arc::clone(&orders));
            let watcher = std::thread::Builder::new().name(name.into()).spawn(move || {
                let outcome = live(&role, &orders, &start);
                if outcome.is_err() {
                    orders.failed.store(true, Ordering::SeqCst);
                }
                outcome
            })?;
            watchers.push((name, watcher));
        }
        Ok(Self { orders, streams: streams.clone(), watchers })
    }

    /// Waits for the last death and for everything to arrive, then stops all.
    pub(super) async fn run(self, stage: &Stage, form: &Form) -> anyhow::Result<Ordeal> {
        let outcome = self.watch(stage, form).await;
        self.orders.stop.store(true, Ordering::SeqCst);
        let events = self.orders.sent();
        let mut kills = Vec::new();
        let mut failures = Vec::new();
        for (name, watcher) in self.watchers {
            match blocking(|| watcher.join()) {
                Ok(Ok(of_role)) => kills.extend(of_role),
                Ok(Err(error)) => failures.push(format!("{name}: {error:#}")),
                Err(_) => failures.push(format!("{name}: its watcher panicked")),
            }
        }
        ensure!(failures.is_empty(), "{}", failures.join("\n"));
        outcome.map(|under_fire| Ordeal { kills, events, under_fire })
    }

    /// Answers how long the load lasted.
    async fn watch(&self, stage: &Stage, form: &Form) -> anyhow::Result<Duration> {
        let began = Instant::now();
        if form.long {
            self.servers_go_away(stage).await?;
        }
        let deaths: usize = form.roles.iter().map(|role| role.deaths.len()).max().unwrap_or(0);
        let time = REACHED_WITHIN * u32::try_from(deaths)?;
        until("the last kill, and the load made and confirmed", time, async || {
            Ok(self.has_failed() || self.orders.sent().len() == self.streams.0.len())
        })
        .await?;
        let under_fire = began.elapsed();
        if self.has_failed() {
            return Ok(under_fire); // the watchers say why
        }
        let streams = self.streams.again(&self.orders.sent(), 0);
        tokio::select! {
            outcome = everything_has_arrived(stage, &streams) => outcome?,
            () = self.failure() => {}
        }
        Ok(under_fire)
    }

    fn has_failed(&self) -> bool {
        self.orders.failed.load(Ordering::SeqCst)
    }

    async fn failure(&self) {
        while !self.has_failed() {
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }

    /// The broker dies with its queue full while the bridge is away; Kafka is stopped and started.
    async fn servers_go_away(&self, stage: &Stage) -> anyhow::Result<()> {
        let raw = stage.topics().raw();
        until("the load has begun", PATIENCE, async || {
            Ok(self.has_failed() || stage.records(&raw)?.len() > 10_000)
        })
        .await?;
        self.orders.no_bridge.store(true, Ordering::SeqCst);
        let dropped = dropped_by_broker(stage);
        tokio::time::timeout(PATIENCE, dropped).await.context("the broker's queue did not overflow")??;
        blocking(|| stage.stack.kill("mosquitto"))?;
        blocking(|| stage.stack.start("mosquitto"))?;
        self.orders.no_bridge.store(false, Ordering::SeqCst);
        let before = stage.records(&raw)?.len();
        until("the bridge goes on", PATIENCE, async || {
            Ok(self.has_failed() || stage.records(&raw)?.len() > before + 1_000)
        })
        .await?;
        blocking(|| stage.stack.restart_shared("kafka"))
    }
}

/// Waits until the broker says that it has dropped messages.
async fn dropped_by_broker(stage: &Stage) -> anyhow::Result<()> {
    use rumqttc::mqttbytes::QoS;
    use rumqttc::mqttbytes::v5::Packet;
    let broker = stage.stack.variables()?;
    let address = (broker.get("VARTA_MQTT_HOST")?, broker.get("VARTA_MQTT_PORT")?.parse::<u16>()?);
    let mut options = rumqttc::MqttOptions::new("soak-observer", address);
    options.set_credentials(broker.get("VARTA_MQTT_USER_BRIDGE")?, broker.get("VARTA_MQTT_PASSWORD_BRIDGE")?);
    let (client, mut events) = rumqttc::AsyncClient::builder(options).capacity(10).build();
    client.subscribe("$SYS/broker/publish/messages/dropped", QoS::AtMostOnce).await?;
    loop {
        if let rumqttc::Event::Incoming(Packet::Publish(publish)) = events.poll().await? {
            let dropped: u64 = std::str::from_utf8(&publish.payload)?.trim().parse()?;
            if dropped > 0 {
                return Ok(());
            }
        }
    }
}

/// How the process of a role is started.
struct Start {
    starter: Starter,
    load: Load,
    outbox: PathBuf,
}

impl Start {
    fn of(stage: &Stage, role: &Role, streams: &Streams) -> anyhow::Result<Self> {
        let options =
            Options { worker: role.name.to_owned(), bridge: role.name.to_owned(), ..Options::default() };
        let stream = streams.0.iter().find(|stream| stream.name == role.name);
        let starter = match stream {
            Some(stream) => stage.load_starter(stream.name, &stream.agent)?,
            None => stage.starter(role.name, role.command, &options)?,
        };
        let load = stream.or_else(|| streams.0.first()).context("there are streams")?.load;
        Ok(Self { starter, load, outbox: stage.outbox(role.name) })
    }

    /// With its next death, and with the events that the load is to make.
    fn start(&self, death: Option<&Death>, events: u64) -> anyhow::Result<Part> {
        let failpoint = match death {
            Some(Death::At(name, count)) => format!("{name}={count}"),
            Some(Death::After(_) | Death::Asleep) | None => String::new(),
        };
        self.starter.start(&Load { events, ..self.load }, &[("VARTA_FAILPOINT", failpoint)])
    }

    fn events_made(&self) -> anyhow::Result<u64> {
        read_outbox(&self.outbox)?.cursor.context("the load has made nothing")
    }
}

/// All lives of one process.
fn live(role: &Role, orders: &Orders, start: &Start) -> anyhow::Result<Vec<Kill>> {
    let mut kills = Vec::new();
    let is_load = role.command.is_empty();
    for death in &role.deaths {
        let lived = loop {
            wait_while(|| role.is_bridge() && orders.no_bridge.load(Ordering::SeqCst), orders)?;
            let mut life = start.start(Some(death), WITHOUT_END)?;
            if let Some(lived) = die(&mut life, death, orders, role)? {
                if let Death::At(place, _) = death {
                    let before = kills.iter().filter(|kill: &&Kill| kill.died_at(place)).count();
                    ensure!(life.deaths_at(place)? == before + 1, "something else killed it before {death}");
                }
                break lived;
            }
        };
        kills.push(Kill { role: role.name, death: death.clone(), lived });
        orders.left.fetch_sub(1, Ordering::SeqCst);
    }
    if is_load {
        last_life_of_a_load(role, orders, start)?;
        return Ok(kills);
    }
    let mut life = start.start(None, 0)?;
    while !orders.stop.load(Ordering::SeqCst) && !orders.failed.load(Ordering::SeqCst) {
        life.must_run()?;
        if role.is_bridge() && orders.no_bridge.load(Ordering::SeqCst) {
            life.kill()?;
            wait_while(|| orders.no_bridge.load(Ordering::SeqCst), orders)?;
            life = start.start(None, 0)?;
        }
        std::thread::sleep(PACE);
    }
    let code = life.stop(Duration::from_mins(1))?;
    ensure!(code == 0, "ended with code {code} when asked to stop");
    Ok(kills)
}

/// Goes on by instalments while others are still to die, so that they die under load.
fn last_life_of_a_load(role: &Role, orders: &Orders, start: &Start) -> anyhow::Result<()> {
    let mut events = start.events_made()? + start.load.events;
    loop {
        let mut life = start.start(None, events)?;
        while !life.has_ended()? {
            if orders.failed.load(Ordering::SeqCst) {
                return Ok(());
            }
            std::thread::sleep(PACE);
        }
        match life.wait()? {
            Some(0) if orders.left.load(Ordering::SeqCst) == 0 => {
                orders.has_sent(role.name, events);
                return Ok(());
            }
            Some(0) => events += start.load.events,
            // its broker or bridge was away while it drained: the next life sends the rest
            Some(NOT_CONFIRMED) => {}
            code => bail!("ended with {code:?}"),
        }
    }
}

/// Waits for the death; none if the bridges had to go before it.
fn die(life: &mut Part, death: &Death, orders: &Orders, role: &Role) -> anyhow::Result<Option<Duration>> {
    let started = Instant::now();
    let mut slept = 0;
    loop {
        if life.has_ended()? {
            match life.wait()? {
                None => return Ok(Some(started.elapsed())),
                Some(code) => bail!("ended with code {code} before {death}"),
            }
        }
        match death {
            Death::After(time) if started.elapsed() > *time => {
                life.kill()?;
                return Ok(Some(started.elapsed()));
            }
            Death::Asleep if slept < SLEEP.len() && started.elapsed() > SLEEP[slept] => {
                slept += 1;
                if slept == SLEEP.len() {
                    life.kill()?;
                    return Ok(Some(started.elapsed()));
                }
                life.suspend(slept == 1)?;
            }
            Death::At(..) if started.elapsed() > REACHED_WITHIN => {
                bail!("{death} was not reached within {REACHED_WITHIN:?}");
            }
            _ => {}
        }
        if role.is_bridge() && orders.no_bridge.load(Ordering::SeqCst) {
            life.kill()?;
            return Ok(None);
        }
        ensure!(!orders.failed.load(Ordering::SeqCst), "another process failed before {death}");
        std::thread::sleep(PACE);
    }
}

fn wait_while(condition: impl Fn() -> bool, orders: &Orders) -> anyhow::Result<()> {
    while condition() {
        ensure!(!orders.failed.load(Ordering::SeqCst), "another process failed");
        std::thread::sleep(PACE);
    }
    Ok(())
}
