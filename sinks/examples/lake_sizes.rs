//! What events cost in the lake: bytes an event by family and by column, files, rows a CPU-second, peak memory.
//!
//! `cargo run --release -p sinks --example lake_sizes -- [AGENTS] [HOURS] [FOLDER]`
//!
//! Values are not random: this machine's processors, memory, disks, network and processes are recorded for some
//! seconds, and each agent replays what was recorded from a place of its own: levels from record to record, and what
//! grows or wanders by the recorded steps in another order, so that no two agents and no two hours are alike. Times
//! jitter as a scheduler's do; events travel together in messages, and a message takes 1 to 20 ms.
#![expect(clippy::print_stdout, reason = "an example talks on its terminal")]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "an example")]

#[path = "../src/testing.rs"]
#[allow(dead_code, unreachable_pub, reason = "shared with the tests of the library")]
mod testing;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::Arc;
use std::time::{Duration, Instant};

use eventlog::registry::{MemoryRegistry, SchemaRegistry};
use eventlog::{Appender as _, Log as _, NewRecord};
use parquet::file::reader::FileReader as _;
use runtime::health::Health;
use runtime::shutdown::Shutdown;
use schemas::family::Family;
use sinks::lake::optimize::{Optimizing, optimize};
use sinks::lake::{LakeConfig, info};
use testing::{NOW, World};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const SECOND: i64 = 1_000_000;
/// Each monitor is asked so often.
const INTERVAL: i64 = 10 * SECOND;
/// Records of the recording.
const RECORDS: usize = 400;

/// One look at this machine.
#[derive(Clone, Debug, Default)]
struct Look {
    cpu_percent: f64,
    load: [f64; 3],
    memory_used: i64,
    memory_total: i64,
    received: f64,
    sent: f64,
}

fn read(path: &str) -> String {
    fs_err::read_to_string(path).unwrap_or_default()
}

fn numbers(line: &str) -> Vec<i64> {
    line.split_whitespace().filter_map(|word| word.parse().ok()).collect()
}

fn record() -> (Vec<Look>, Vec<(String, String)>) {
    let step = Duration::from_millis(25);
    let cpu = || {
        let times = numbers(read("/proc/stat").lines().next().unwrap_or_default());
        (times.get(3).copied().unwrap_or_default(), times.iter().take(8).sum::<i64>())
    };
    let traffic = || {
        let text = read("/proc/net/dev");
        let all = text.lines().skip(2).map(|line| numbers(line.split_once(':').map_or("", |(_, rest)| rest)));
        all.fold((0, 0), |sum, of| {
            (sum.0 + of.first().copied().unwrap_or(0), sum.1 + of.get(8).copied().unwrap_or(0))
        })
    };
    let (mut looks, mut before) = (Vec::new(), (cpu(), traffic()));
    while looks.len() < RECORDS {
        std::thread::sleep(step);
        let now = (cpu(), traffic());
        let total = (now.0.1 - before.0.1).max(1) as f64;
        let busy = 100.0 * (1.0 - (now.0.0 - before.0.0) as f64 / total);
        let load: Vec<f64> =
            read("/proc/loadavg").split_whitespace().take(3).filter_map(|word| word.parse().ok()).collect();
        let memory = read("/proc/meminfo");
        let of = |name: &str| {
            let line = memory.lines().find(|line| line.starts_with(name)).unwrap_or_default();
            numbers(line).first().copied().unwrap_or_default() * 1024
        };
        looks.push(Look {
            cpu_percent: (busy.max(0.0) * 100.0).round() / 100.0,
            load: [load[0], load[1], load[2]],
            memory_used: of("MemTotal:") - of("MemAvailable:"),
            memory_total: of("MemTotal:"),
            received: ((now.1.0 - before.1.0) as f64 / step.as_secs_f64()).round(),
            sent: ((now.1.1 - before.1.1) as f64 / step.as_secs_f64()).round(),
        });
        before = now;
    }
    let mut processes = Vec::new();
    for entry in fs_err::read_dir("/proc").unwrap().filter_map(Result::ok) {
        let pid = entry.file_name().to_string_lossy().into_owned();
        let path = fs_err::read_link(format!("/proc/{pid}/exe"));
        let line = read(&format!("/proc/{pid}/cmdline")).replace('\0', " ");
        if let Ok(path) = path {
            processes.push((path.to_string_lossy().into_owned(), line.chars().take(200).collect()));
        }
    }
    (looks, processes)
}

/// Numbers that look like chance and are the same each time.
struct Dice(u64);

impl Dice {
    fn below(&mut self, limit: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((self.0 >> 33) as usize) % limit.max(1)
    }
}

/// A machine that replays the recording.
struct Agent {
    id: String,
    dice: Dice,
    memory: i64,
    disk: i64,
    load: [f64; 3],
    seq: i64,
}

/// An event: family, JSON of its payload, type, time.
type Made = (Family, &'static str, String);

impl Agent {
    fn new(number: usize, looks: &[Look]) -> Self {
        let mut dice = Dice(number as u64 * 7919 + 1);
        let first = &looks[dice.below(looks.len())];
        let (memory, load) = (first.memory_used + number as i64 * 65_536, first.load);
        let id =
            uuid::Uuid::from_u64_pair((number as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15), 7).to_string();
        Self { id, dice, memory, disk: 40_000_000_000, load, seq: 0 }
    }

    /// What its monitors say at one time.
    fn look(&mut self, looks: &[Look], processes: &[(String, String)]) -> Vec<Made> {
        let at = self.dice.below(looks.len() - 1);
        let (look, next) = (&looks[at], &looks[at + 1]);
        self.memory = (self.memory + (next.memory_used - look.memory_used) / 4096 * 4096).max(0);
        self.disk += if self.dice.below(4) == 0 { 4096 * self.dice.below(50) as i64 } else { 0 };
        for (mine, weight) in self.load.iter_mut().zip([0.15, 0.03, 0.01]) {
            *mine = ((*mine + (look.load[0] - *mine) * weight) * 100.0).round() / 100.0;
        }
        let metric = Family::HostMetrics;
        let mut made = vec![
            (
                metric,
                "cpu_usage",
                format!(
                    r#"{{"cpu_percent":{},"cpu_count":8,"load_1":{},"load_5":{},"load_15":{},"interval_s":10.0,"samples":10}}"#,
                    look.cpu_percent, self.load[0], self.load[1], self.load[2]
                ),
            ),
            (
                metric,
                "mem_usage",
                format!(
                    r#"{{"mem_used_bytes":{},"mem_total_bytes":{},"swap_used_bytes":0,"swap_total_bytes":0,"interval_s":10.0,"samples":10}}"#,
                    self.memory, look.memory_total
                ),
            ),
            (
                metric,
                "disk_usage",
                format!(
                    r#"{{"disk":"/","disk_used_bytes":{},"disk_total_bytes":270000000000,"disk_read_bytes_per_s":0.0,"disk_write_bytes_per_s":{}.0,"interval_s":10.0}}"#,
                    self.disk,
                    4096 * self.dice.below(40)
                ),
            ),
            (
                metric,
                "net_usage",
                format!(
                    r#"{{"net_interface":"eth0","net_rx_bytes_per_s":{:.1},"net_tx_bytes_per_s":{:.1},"net_up":true,"interval_s":10.0}}"#,
                    look.received, look.sent
                ),
            ),
        ];
        // every minute the ten busiest programs, now and then one starts
        if self.dice.below(6) == 0 {
            for _ in 0..10 {
                let place = self.dice.below(processes.len());
                let name = processes[place].0.rsplit('/').next().unwrap_or_default().to_owned();
                let (cpu, memory) = (self.dice.below(400) as f64 / 100.0, 4096 * self.dice.below(50_000));
                made.push((Family::ProcessSample, "process_sample", format!(
                    r#"{{"pid":{},"name":{name:?},"cpu_percent":{cpu},"memory_bytes":{memory},"path":{:?}}}"#,
                    1000 + place, processes[place].0
                )));
            }
            let place = self.dice.below(processes.len());
            let (path, line) = &processes[place];
            made.push((
                Family::ProcessEvent,
                "process_started",
                format!(
                    r#"{{"pid":{},"parent_pid":1,"name":{:?},"path":{path:?},"command_line":{line:?}}}"#,
                    2000 + self.dice.below(30_000),
                    path.rsplit('/').next().unwrap_or_default()
                ),
            ));
        }
        made
    }
}

fn fill(world: &World, agents: usize, hours: i64) -> u64 {
    let (looks, processes) = record();
    let mut fleet: Vec<Agent> = (0..agents).map(|number| Agent::new(number, &looks)).collect();
    let appender = world.log.appender(Box::new(|_, outcome| assert!(outcome.is_ok()))).unwrap();
    let (mut sent, mut time, begin) = (0, NOW - hours * 3600 * SECOND, NOW);
    while time < begin {
        for (number, agent) in fleet.iter_mut().enumerate() {
            let mut at = time + number as i64 * 1009;
            let travel = 1000 + agent.dice.below(19_000) as i64;
            let made = agent.look(&looks, &processes);
            let sent_at = at + made.len() as i64 * 300 + agent.dice.below(400) as i64;
            for (family, kind, payload) in made {
                at += 20 + agent.dice.below(280) as i64;
                let mut json = String::new();
                let _ = write!(
                    json,
                    r#"{{"agent_id":"{}","session":{},"lane":"bulk","seq":{},"event_time":{at},"event_type":"{kind}","source":"{}/poll","host":"pc-{number}","payload":{payload}}}"#,
                    agent.id,
                    NOW - 40 * 24 * 3600 * SECOND,
                    agent.seq,
                    family.name()
                );
                agent.seq += 1;
                let value = world.event_at(&json, sent_at + travel, Some(sent_at));
                let record = NewRecord::keyed(&*world.topics.events(family), "key", value);
                appender.append(record.to_partition((number % 4) as i32), 0).unwrap();
                sent += 1;
            }
        }
        // the log's clock goes with the events, or all of them would be late
        world.log.set_time(time / 1000);
        time += INTERVAL + (sent as i64 % 997) * 10;
    }
    appender.flush(Duration::from_mins(1)).unwrap();
    sent
}

fn cpu() -> f64 {
    let stat = read("/proc/self/stat");
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    (fields[11].parse::<f64>().unwrap() + fields[12].parse::<f64>().unwrap()) / 100.0
}

fn peak_mib() -> u64 {
    let status = read("/proc/self/status");
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap_or_default();
    numbers(line).first().copied().unwrap_or_default() as u64 / 1024
}

/// Compressed bytes a row of each column over all files, the dearest first.
fn by_column(folder: &std::path::Path) -> Vec<(String, f64)> {
    let (mut columns, mut rows): (BTreeMap<String, i64>, i64) = (BTreeMap::new(), 0);
    for day in fs_err::read_dir(folder).unwrap().filter_map(Result::ok) {
        let Ok(files) = fs_err::read_dir(day.path()) else { continue };
        let files = files.filter_map(Result::ok).map(|file| file.path());
        for file in files.filter(|path| path.extension().is_some_and(|extension| extension == "parquet")) {
            let file = fs_err::File::open(file).unwrap().into_parts().0;
            let reader = parquet::file::reader::SerializedFileReader::new(file).unwrap();
            for group in reader.metadata().row_groups() {
                rows += group.num_rows();
                for column in group.columns() {
                    *columns.entry(column.column_path().string()).or_default() += column.compressed_size();
                }
            }
        }
    }
    let mut all: Vec<_> =
        columns.into_iter().map(|(name, bytes)| (name, bytes as f64 / rows.max(1) as f64)).collect();
    all.sort_by(|a, b| b.1.total_cmp(&a.1));
    all
}

#[tokio::main]
async fn main() {
    let mut arguments = std::env::args().skip(1);
    let mut number = |otherwise: usize| arguments.next().map_or(otherwise, |text| text.parse().unwrap());
    let (agents, hours) = (number(50), number(6) as i64);
    let temporary = tempfile::tempdir().unwrap();
    let folder = arguments.next().map_or_else(|| temporary.path().to_owned(), std::path::PathBuf::from);
    let world = World::new(4);
    let sent = fill(&world, agents, hours);
    let before = (cpu(), peak_mib());
    println!("{sent} events of {agents} agents in {hours} h; {} MiB hold them", before.1);

    let config = LakeConfig { root: folder.to_str().unwrap().to_owned(), ..LakeConfig::default() };
    let (shutdown, started) = (Shutdown::new(), Instant::now());
    let registry: Arc<dyn SchemaRegistry> = Arc::<MemoryRegistry>::clone(&world.registry);
    let (log, topics) = (world.log.handle(), world.topics.clone());
    let sink = sinks::lake::run(config.clone(), log, registry, topics, Health::new(), shutdown.clone());
    let sink = tokio::spawn(sink);
    // it has read everything when it hardly works any more
    loop {
        let earlier = cpu();
        tokio::time::sleep(Duration::from_secs(1)).await;
        if cpu() - earlier < 0.3 {
            break;
        }
    }
    shutdown.request();
    sink.await.unwrap().unwrap();
    let used = cpu() - before.0;
    println!(
        "written in {:.1} s: {:.0} thousand rows a CPU-second, peak {} MiB",
        started.elapsed().as_secs_f64(),
        sent as f64 / used / 1000.0,
        peak_mib()
    );
    show(&config, &world).await;
    let began = cpu();
    optimize(&config, &world.topics, &Optimizing::default()).await.unwrap();
    println!("optimised with {:.1} CPU-s", cpu() - began);
    show(&config, &world).await;
    for table in ["host_metrics", "process_sample", "process_event"] {
        let columns: Vec<String> = by_column(&folder.join(table))
            .into_iter()
            .take(14)
            .map(|(name, bytes)| format!("{name} {bytes:.2}"))
            .collect();
        println!("{table}: {}", columns.join(", "));
    }
}

async fn show(config: &LakeConfig, world: &World) {
    for table in info::info(config, &world.topics).await.unwrap() {
        let all = table.total();
        if all.rows > 0 {
            println!(
                "  {:<16} {:>9} rows, {:>4} files, {:>6.2} bytes an event",
                table.table,
                all.rows,
                all.files,
                all.bytes as f64 / all.rows as f64
            );
        }
    }
}
