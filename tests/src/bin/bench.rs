//! `varta-bench`: what each part costs, as the process that users run, on real servers (`make bench`).
//!
//! Prints the machine, then a line for each part. Quote ratios and events per CPU-second rather than absolute times.
#![expect(clippy::print_stdout, reason = "a command line talks on its terminal")]

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use clap::{Parser, ValueEnum};
use eventlog::registry::{HttpRegistry, RegistryConfig, SchemaIds, register_all};
use schemas::record::RecordKind;
use schemas::topics::Topics;
use tests::audit::SchemaCache;
use tests::bench::fill::{Fill, Raw};
use tests::bench::live::Ready;
use tests::bench::part::Part;
use tests::bench::watermark::{Watermarks, wait_until};
use tests::bench::{Cost, agent, latency, publish};
use tests::load::Mix;
use tests::servers::{Servers, variable};

const GIVE_UP: Duration = Duration::from_mins(10);
/// Alerts of the first seconds are not counted: new agents, new windows.
const WARM_UP: Duration = Duration::from_secs(5);

/// Benchmarks of the parts.
#[derive(Parser)]
struct Args {
    /// Folder of the release programs.
    #[arg(long, default_value = "target/release")]
    programs: PathBuf,
    /// Which; all without it.
    #[arg(long, value_enum)]
    only: Vec<Bench>,
    /// Events for job and lake.
    #[arg(long, default_value_t = 2_000_000)]
    events: u64,
    /// Agents for job, lake and alerts, an event of each a second; no multiple of 2 or 5, so that each has all families.
    #[arg(long, default_value_t = 9_999)]
    agents: u64,
    /// Events a second under which alerts are timed; without it half of what the job has just done.
    #[arg(long)]
    alert_rate: Option<u64>,
    /// How long alerts are timed.
    #[arg(long, default_value_t = 30)]
    alert_seconds: u64,
    /// Events for the bridge, each way.
    #[arg(long, default_value_t = 300_000)]
    bridge_events: u64,
    /// How long the agent is watched.
    #[arg(long, default_value_t = 600)]
    agent_seconds: u64,
    /// How long latency is measured, at 1,000 events a second.
    #[arg(long, default_value_t = 60)]
    latency_seconds: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Bench {
    Bridge,
    Job,
    /// The job's alerts at half of its measured maximum.
    Alerts,
    Lake,
    Latency,
    Agent,
}

struct Bed {
    args: Args,
    servers: Servers,
    topics: Topics,
    folder: PathBuf,
    config: String,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    runtime::tls::install_crypto();
    let args = Args::parse();
    let folder = PathBuf::from(variable("VARTA_STACK_DIR")?).join("bench");
    fs_err::create_dir_all(&folder)?;
    let bed = Bed {
        servers: Servers::from_environment()?,
        topics: Topics::default(),
        config: "infra/config/varta.toml".into(),
        folder,
        args,
    };
    let wanted = |bench| bed.args.only.is_empty() || bed.args.only.contains(&bench);
    println!("{}", machine());
    println!(
        "profile release; 60 % host metrics, 20 % process samples, 15 % process events, 5 % rest; \
              half of the machines busy at any time"
    );
    bed.create_topics()?;
    if wanted(Bench::Job) || wanted(Bench::Lake) {
        println!("{}", bed.fill().await?);
    }
    let mut most = None;
    if wanted(Bench::Job) {
        let cost = bed.job()?;
        most = Some(cost.events as f64 / cost.wall.as_secs_f64());
        println!("{cost}");
    }
    if wanted(Bench::Alerts) {
        let half = most.map(|most| most as u64 / 2);
        let rate = bed.args.alert_rate.or(half).context("--only alerts needs --only job or --alert-rate")?;
        println!("{}", bed.alerts(rate).await?);
    }
    if wanted(Bench::Lake) {
        println!("{}", bed.lake()?);
    }
    if wanted(Bench::Bridge) {
        println!("{}", bed.bridge(1).await?);
        println!("{}", bed.bridge(100).await?);
    }
    if wanted(Bench::Latency) {
        println!("{}", bed.latency().await?);
    }
    if wanted(Bench::Agent) {
        println!("{}", bed.agent()?);
    }
    Ok(())
}

impl Bed {
    fn part(&self, name: &str, arguments: &[&str]) -> anyhow::Result<Part> {
        let program = self.args.programs.join("varta");
        let mut all = vec!["--config", self.config.as_str()];
        all.extend(arguments);
        Part::start(name, &program, &all, &self.environment(), &self.folder)
    }

    fn environment(&self) -> Vec<(&'static str, String)> {
        vec![("VARTA_RUN_DIR", self.folder.display().to_string())]
    }

    fn create_topics(&self) -> anyhow::Result<()> {
        let code = self.part("topics", &["topics"])?.wait()?;
        anyhow::ensure!(
            code == Some(0),
            "creating the topics failed; see {}/topics.log",
            self.folder.display()
        );
        Ok(())
    }

    fn load(events: u64, first: i64) -> Fill {
        let mix =
            Mix { base: 1_760_000_000_000_000 + first, step: 1000, suspicious_every: 1000, machines: 100 };
        Fill { mix, agents: 100, first_agent: 0, events }
    }

    /// An event of each agent a second, which ends about now.
    fn fleet(&self) -> Fill {
        let step = (1_000_000 / self.args.agents).max(1) as i64;
        let base = runtime::clock::now_us() - step * self.args.events as i64;
        let mix = Mix { base, step, suspicious_every: 1000, machines: self.args.agents };
        Fill { mix, agents: self.args.agents, first_agent: 0, events: self.args.events }
    }

    async fn ids(&self) -> anyhow::Result<SchemaIds> {
        let url = self.servers.registry.clone();
        let register = move || {
            let registry = HttpRegistry::new(&RegistryConfig { url, ..RegistryConfig::default() })?;
            Ok(register_all(&registry)?)
        };
        tokio::task::spawn_blocking(register).await?
    }

    /// Events a CPU-second of the bridge, `together` events in a message.
    async fn bridge(&self, together: usize) -> anyhow::Result<Cost> {
        let raw = self.topics.raw();
        let watermarks = Watermarks::connect(&self.servers.kafka, "varta-bench")?;
        let mut bridge = self.part("bridge", &["bridge"])?;
        let start = watermarks.end(&raw)?;
        // the first clock records say that it is connected to both sides
        wait_until("the bridge's first clock records", &mut bridge, GIVE_UP, || {
            Ok(watermarks.end(&raw)? > start)
        })?;
        let (before, cpu, started) = (watermarks.end(&raw)?, bridge.cpu()?, Instant::now());
        let events = self.args.bridge_events;
        let fill = Fill { agents: 8, ..Self::load(events, if together > 1 { 1 } else { 2 }) };
        let progress = Arc::new(publish::Progress::default());
        let publishing = tokio::spawn(publish::publish(fill, together, Arc::clone(&progress)));
        // the runtime goes on publishing on its other threads
        tokio::task::block_in_place(|| {
            wait_until("all events in varta.raw", &mut bridge, GIVE_UP, || {
                let arrived = watermarks.end(&raw)? - before;
                progress.has_arrived(arrived.unsigned_abs() / together as u64);
                Ok(arrived >= events as i64)
            })
        })?;
        publishing.await??;
        let cost = Cost {
            what: if together > 1 {
                format!("bridge, {together} events a message")
            } else {
                "bridge, one event a message".into()
            },
            events,
            cpu: bridge.cpu()?.saturating_sub(cpu),
            wall: started.elapsed(),
            peak_rss: bridge.rss()?.1,
        };
        bridge.stop(Duration::from_secs(30))?;
        Ok(cost)
    }

    async fn fill(&self) -> anyhow::Result<String> {
        let (fill, ids) = (self.fleet(), self.ids().await?);
        let (kafka, topic) = (self.servers.kafka.clone(), self.topics.raw());
        let took = tokio::task::spawn_blocking(move || {
            fill.raw(&kafka, &topic, &|kind: RecordKind| Ok(ids.id(kind)))
        })
        .await??;
        Ok(format!(
            "filled varta.raw with {} events of {} agents in {:.1} s",
            self.args.events,
            self.args.agents,
            took.as_secs_f64()
        ))
    }

    /// Events a CPU-second of the job, Kafka to Kafka, its start included.
    fn job(&self) -> anyhow::Result<Cost> {
        let raw = self.topics.raw();
        let watermarks = Watermarks::connect(&self.servers.kafka, "varta-core")?;
        let end = watermarks.end(&raw)?;
        let (before, started) = (watermarks.committed(&raw)?, Instant::now());
        let mut job = self.part("process", &["process"])?;
        wait_until("the job at the end of varta.raw", &mut job, GIVE_UP, || {
            Ok(watermarks.committed(&raw)? >= end)
        })?;
        let cost = Cost {
            what: "job core, Kafka to Kafka, exactly once".into(),
            events: (end - before).unsigned_abs(),
            cpu: job.cpu()?,
            wall: started.elapsed(),
            peak_rss: job.rss()?.1,
        };
        job.stop(Duration::from_secs(30))?;
        Ok(cost)
    }

    /// Event time to readable alert, with the job alone at so many events a second, each written to Kafka when it
    /// happens.
    async fn alerts(&self, rate: u64) -> anyhow::Result<String> {
        let raw = self.topics.raw();
        let mut job = self.part("process", &["process"])?;
        let watermarks = Watermarks::connect(&self.servers.kafka, "varta-core")?;
        let end = watermarks.end(&raw)?;
        wait_until("the job at the end of varta.raw", &mut job, GIVE_UP, || {
            Ok(watermarks.committed(&raw)? >= end)
        })?;
        let (ids, warm_up) = (self.ids().await?, WARM_UP.as_secs());
        let step = (1_000_000 / rate).max(1) as i64;
        let events = rate * (warm_up + self.args.alert_seconds);
        // the records are made meanwhile, with some room
        let base = runtime::clock::now_us() + (events as i64 * 20).max(5_000_000);
        // twenty alerts a second, from agents that nobody knows yet
        let suspicious_every = (rate * 15 / 100 / 20).max(1);
        let mix = Mix { base, step, suspicious_every, machines: self.args.agents };
        let fill = Fill { mix, agents: self.args.agents, first_agent: 100_000, events };
        let stop = Arc::new(AtomicBool::new(false));
        let reader = {
            let (kafka, topic, stop) = (self.servers.kafka.clone(), self.topics.alerts(), Arc::clone(&stop));
            std::thread::spawn(move || latency::read_alerts(&kafka, &topic, &stop))
        };
        let kafka = self.servers.kafka.clone();
        let feeding = tokio::task::spawn_blocking(move || {
            let ready = Ready::make(&fill, &|kind: RecordKind| Ok(ids.id(kind)))?;
            let spare = fill.mix.base - runtime::clock::now_us();
            anyhow::ensure!(spare > 0, "making the load took {} ms too long", -spare / 1000);
            // records wait for company as long as the bridge's
            ready.feed(&Raw::connect(&kafka, &raw, "5")?)
        });
        let fed = feeding.await??;
        std::thread::sleep(Duration::from_secs(2));
        stop.store(true, Ordering::Relaxed);
        let read = reader.join().map_err(|_| anyhow::anyhow!("the reader of alerts panicked"))??;
        let mut schemas = SchemaCache::new(&self.servers.registry);
        let from = base + i64::try_from(WARM_UP.as_micros())?;
        let judged =
            latency::judge(&read, &mut schemas, latency::RULE, from).await?.context("no alert arrived")?;
        job.stop(Duration::from_secs(30))?;
        Ok(format!(
            "latency, event in Kafka to readable alert, job alone, {rate} events/s of {} agents ({} of {} were written \
             late), {judged}",
            self.args.agents, fed.late, fed.events
        ))
    }

    /// Rows a CPU-second of the lake sink over raw and all families, its start included.
    fn lake(&self) -> anyhow::Result<Cost> {
        let started = Instant::now();
        let mut lake = self.part("lake", &["sink", "lake"])?;
        let folder = self.folder.join("lake").join("raw").join("_delta_log");
        // the last commit is made when the sink has gone quiet for longer than its commit age
        let mut last = (0, Instant::now());
        wait_until("the lake to go quiet", &mut lake, GIVE_UP, || {
            let commits = fs_err::read_dir(&folder).map_or(0, Iterator::count);
            if commits != last.0 {
                last = (commits, Instant::now());
            }
            Ok(commits > 0 && last.1.elapsed() > Duration::from_secs(25))
        })?;
        let cost = Cost {
            what: "lake, raw and all families".into(),
            events: rows_in_lake(&self.folder.join("lake"))?,
            cpu: lake.cpu()?,
            wall: started.elapsed(),
            peak_rss: lake.rss()?.1,
        };
        lake.stop(Duration::from_mins(1))?;
        Ok(cost)
    }

    /// Event time to readable alert at 1,000 events a second through everything.
    async fn latency(&self) -> anyhow::Result<String> {
        let mut up = self.part("up", &["up"])?;
        let watermarks = Watermarks::connect(&self.servers.kafka, "varta-core")?;
        let raw = self.topics.raw();
        let before = watermarks.end(&raw)?;
        // the second round of clock records is written by a bridge that is connected and has subscribed: what is sent
        // before a first subscription is nobody's, and comes again only after the agent's patience
        let rounds = 2 * i64::from(watermarks.partitions(&raw)?);
        wait_until("clock records and the job at the end of varta.raw", &mut up, GIVE_UP, || {
            let end = watermarks.end(&raw)?;
            Ok(end >= before + rounds && watermarks.committed(&raw)? >= end - 20)
        })?;
        let stop = Arc::new(AtomicBool::new(false));
        let reader = {
            let (kafka, topic, stop) = (self.servers.kafka.clone(), self.topics.alerts(), Arc::clone(&stop));
            std::thread::spawn(move || latency::read_alerts(&kafka, &topic, &stop))
        };
        let config = self.folder.join("load.toml");
        fs_err::write(&config, load_config(&self.folder.join("load")))?;
        let events = (1000 * self.args.latency_seconds).to_string();
        let program = self.args.programs.join("varta-load");
        let path = config.display().to_string();
        let arguments =
            ["--config", &path, "--events", &events, "--rate", "1000", "--live", "--suspicious-every", "15"];
        let (cpu, began) = (up.cpu()?, Instant::now());
        let from = runtime::clock::now_us() + 2_000_000;
        let mut load = Part::start("load", &program, &arguments, &[], &self.folder)?;
        let ended = Instant::now() + Duration::from_secs(self.args.latency_seconds + 60);
        while !load.has_ended()? && Instant::now() < ended {
            up.must_run()?;
            std::thread::sleep(Duration::from_millis(100));
        }
        let busy = up.cpu()?.saturating_sub(cpu).as_secs_f64() / began.elapsed().as_secs_f64();
        std::thread::sleep(Duration::from_secs(2));
        stop.store(true, Ordering::Relaxed);
        let read = reader.join().map_err(|_| anyhow::anyhow!("the reader of alerts panicked"))??;
        let mut schemas = SchemaCache::new(&self.servers.registry);
        let judged =
            latency::judge(&read, &mut schemas, latency::RULE, from).await?.context("no alert arrived")?;
        up.stop(Duration::from_mins(1))?;
        Ok(format!(
            "latency, event at the agent to readable alert, 1,000 events/s; bridge, job and sinks in one process used \
             {:.0} % of a core; {judged}",
            100.0 * busy,
        ))
    }

    fn agent(&self) -> anyhow::Result<String> {
        let program = self.args.programs.join("varta-agent");
        let arguments = ["--config", "infra/config/agent.run.toml"];
        let mut running = Part::start("agent", &program, &arguments, &self.environment(), &self.folder)?;
        std::thread::sleep(Duration::from_secs(5));
        let measured = agent::measure(&mut running, Duration::from_secs(self.args.agent_seconds))?;
        let processes = fs_err::read_dir("/proc")?
            .filter_map(Result::ok)
            .filter(|entry| entry.file_name().to_string_lossy().parse::<u32>().is_ok())
            .count();
        running.stop(Duration::from_secs(30))?;
        let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
        Ok(format!(
            "agent, {:.0} s beside {processes} processes: {:.2} % of a core, {:.1} MiB resident, {:.1} MiB at most",
            measured.time.as_secs_f64(),
            100.0 * measured.cpu.as_secs_f64() / measured.time.as_secs_f64(),
            mib(measured.rss),
            mib(measured.peak_rss),
        ))
    }
}

/// Rows that the Delta logs of all tables name.
fn rows_in_lake(root: &std::path::Path) -> anyhow::Result<u64> {
    let mut rows = 0;
    for table in fs_err::read_dir(root)? {
        let Ok(entries) = fs_err::read_dir(table?.path().join("_delta_log")) else { continue };
        for entry in entries {
            let path = entry?.path();
            if path.extension().is_none_or(|extension| extension != "json") {
                continue;
            }
            for line in fs_err::read_to_string(path)?.lines() {
                let action: serde_json::Value = serde_json::from_str(line)?;
                let Some(statistics) = action["add"]["stats"].as_str() else { continue };
                let statistics: serde_json::Value = serde_json::from_str(statistics)?;
                rows += statistics["numRecords"].as_u64().context("a file has rows")?;
            }
        }
    }
    Ok(rows)
}

fn load_config(state: &std::path::Path) -> String {
    format!(
        "state_dir = \"{}\"\nagent_id = \"{}\"\n[mqtt]\nhost = \"${{VARTA_MQTT_HOST}}\"\nport = \"${{VARTA_MQTT_PORT}}\"\n\
         username = \"${{VARTA_MQTT_USER_AGENT}}\"\npassword = \"${{VARTA_MQTT_PASSWORD_AGENT}}\"\n",
        state.display(),
        tests::bench::fill::agent_id(999)
    )
}

fn machine() -> String {
    let cpu = fs_err::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpu
        .lines()
        .find_map(|line| line.strip_prefix("model name"))
        .map_or("unknown processor", |rest| rest.trim_start_matches([' ', '\t', ':']))
        .to_owned();
    let cores = std::thread::available_parallelism().map_or(0, std::num::NonZero::get);
    let memory = fs_err::read_to_string("/proc/meminfo").unwrap_or_default();
    let kib: u64 = memory
        .lines()
        .find_map(|line| line.strip_prefix("MemTotal:"))
        .and_then(|rest| rest.trim().trim_end_matches(" kB").parse().ok())
        .unwrap_or(0);
    format!("{cores} cores, {model}, {} GiB", kib / (1 << 20))
}
