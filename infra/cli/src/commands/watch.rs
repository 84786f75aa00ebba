//! `varta watch`: what flows, on one screen: events a second by family, alerts as they come, the last rows in
//! InfluxDB and PostgreSQL, where the lake is. It reads the topics and the stores itself; no part's own
//! counters are believed.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::Write as _;
use std::sync::Arc;
use std::time::{Duration, Instant};

use eventlog::batches::BatchDecoder;
use eventlog::kafka::KafkaLog;
use eventlog::registry::{HttpRegistry, SchemaRegistry};
use eventlog::{Consumer, Polled, Record};
use runtime::shutdown::{Shutdown, on_signals};
use schemas::family::Family;

use crate::config::Config;
use crate::exit::Exit;
use crate::onlooker::{self, Begin};
use crate::stores::{self, Stores};

/// What `varta watch` can be told.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Stop after so long with a summary; exit code 3 when a stage delivered nothing.
    #[arg(long = "for", value_parser = humantime::parse_duration)]
    run_for: Option<Duration>,
    /// How often to print.
    #[arg(long, default_value = "5s", value_parser = humantime::parse_duration)]
    every: Duration,
}

/// What was seen so far.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    /// Rows by topic.
    rows: BTreeMap<String, u64>,
    /// Alerts: time and text, the ones not yet shown.
    alerts: Vec<String>,
    /// Alerts in all.
    alerts_total: u64,
}

/// Prints until the time is up or Ctrl-C.
pub(crate) async fn watch(config: &Config, args: &Args) -> anyhow::Result<Exit> {
    let shutdown = Shutdown::new();
    on_signals(&shutdown);
    let log = KafkaLog::connect(&config.kafka)?;
    let registry: Arc<dyn SchemaRegistry> = Arc::new(HttpRegistry::new(&config.registry)?);
    let (batches, mut received) = tokio::sync::mpsc::channel::<Vec<Record>>(16);
    let names = topics(config);
    let reader = {
        let (log, names, shutdown) = (log.clone(), names.clone(), shutdown.clone());
        std::thread::Builder::new()
            .name("watch".into())
            .spawn(move || read(&log, &names, &batches, &shutdown))?
    };
    let mut decoder = BatchDecoder::new(registry);
    let mut stores = Stores::new(config);
    let started = Instant::now();
    let mut seen = Seen::default();
    let mut last = (Instant::now(), seen.rows.clone());
    let mut tick = tokio::time::interval(args.every);
    tick.tick().await;
    loop {
        tokio::select! {
            records = received.recv() => {
                let Some(records) = records else { break };
                take(&mut seen, &mut decoder, config, &records);
                for alert in seen.alerts.drain(..) {
                    println!("  ALERT {alert}");
                }
            }
            _ = tick.tick() => {
                let report = stores.look().await;
                print_screen(config, &seen, &last, &report);
                last = (Instant::now(), seen.rows.clone());
            }
            () = shutdown.wait() => break,
        }
        if args.run_for.is_some_and(|run_for| started.elapsed() >= run_for) {
            break;
        }
    }
    shutdown.request();
    drop(received);
    let outcome = reader.join().map_err(|_| anyhow::anyhow!("the reader of the topics panicked"))?;
    outcome?;
    let report = stores.look().await;
    Ok(summary(config, &seen, started.elapsed(), &report, args.run_for.is_some()))
}

fn topics(config: &Config) -> Vec<Arc<str>> {
    let topics = config.topic_names();
    let mut names = vec![topics.raw(), topics.alerts(), topics.features("1m"), topics.dlq(), topics.late()];
    names.extend(Family::ALL.iter().map(|family| topics.events(*family)));
    names
}

/// Reads from now on, outside of any lasting group.
fn read(
    log: &KafkaLog,
    names: &[Arc<str>],
    batches: &tokio::sync::mpsc::Sender<Vec<Record>>,
    shutdown: &Shutdown,
) -> anyhow::Result<()> {
    let names: Vec<&str> = names.iter().map(AsRef::as_ref).collect();
    let mut consumer = onlooker::consumer(log, "watch", &names)?;
    while !shutdown.is_requested() {
        match consumer.poll(2000, Duration::from_millis(100)) {
            Ok(Polled::Assigned(partitions)) => onlooker::begin(&mut consumer, partitions, Begin::Next)?,
            Ok(Polled::Records(records)) if !records.is_empty() => {
                if batches.blocking_send(records).is_err() {
                    return Ok(());
                }
            }
            Ok(_) => {}
            Err(error) if error.fate() == runtime::fate::Fate::Transient => {
                std::thread::sleep(Duration::from_millis(200));
            }
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

fn take(seen: &mut Seen, decoder: &mut BatchDecoder, config: &Config, records: &[Record]) {
    let alerts = config.topic_names().alerts();
    for record in records {
        *seen.rows.entry(record.topic.to_string()).or_default() += 1;
    }
    let of_alerts: Vec<Record> = records.iter().filter(|record| record.topic == alerts).cloned().collect();
    if of_alerts.is_empty() {
        return;
    }
    seen.alerts_total += of_alerts.len() as u64;
    match decoder.decode(&of_alerts) {
        Ok(decoded) => {
            for group in decoded.groups {
                seen.alerts.extend(stores::alert_lines(&group.batch));
            }
        }
        Err(error) => seen.alerts.push(format!("(cannot be decoded: {error})")),
    }
}

fn print_screen(
    config: &Config,
    seen: &Seen,
    last: &(Instant, BTreeMap<String, u64>),
    report: &stores::Report,
) {
    let mut out = std::io::stdout().lock();
    let seconds = last.0.elapsed().as_secs_f64().max(0.001);
    let prefix = format!("{}.", config.topics.prefix);
    let mut line = String::new();
    for (topic, rows) in &seen.rows {
        let before = last.1.get(topic).copied().unwrap_or(0);
        let rate = (rows - before) as f64 / seconds;
        let name = topic.strip_prefix(prefix.as_str()).unwrap_or(topic);
        let _ = write!(line, "  {name} {rate:.1}/s");
    }
    let now = chrono::Local::now().format("%H:%M:%S");
    let _ = writeln!(out, "{now}{}", if line.is_empty() { "  nothing has arrived yet".into() } else { line });
    for row in &report.lines {
        let _ = writeln!(out, "         {row}");
    }
    let _ = out.flush();
}

fn summary(config: &Config, seen: &Seen, took: Duration, report: &stores::Report, judged: bool) -> Exit {
    let topics = config.topic_names();
    let of = |topic: &str| seen.rows.get(topic).copied().unwrap_or(0);
    let events: u64 = Family::ALL.iter().map(|family| of(&topics.events(*family))).sum();
    println!("\nsummary of {:.0} s", took.as_secs_f64());
    let mut stages = vec![("bridge → raw", of(&topics.raw())), ("job → events", events)];
    stages.extend(report.stages.iter().map(|(name, rows)| (*name, *rows)));
    let mut idle = Vec::new();
    for (stage, rows) in &stages {
        println!("  {stage:<24} {rows:>10} rows");
        if *rows == 0 {
            idle.push(*stage);
        }
    }
    println!("  {:<24} {:>10}", "alerts", seen.alerts_total);
    println!("  {:<24} {:>10}", "dead letters", of(&topics.dlq()));
    println!("  {:<24} {:>10}", "late", of(&topics.late()));
    if judged && !idle.is_empty() {
        println!("nothing came out of: {}", idle.join(", "));
        return Exit::NotMet;
    }
    Exit::Done
}
