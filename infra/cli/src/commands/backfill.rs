//! `varta process --from … --to … --out-prefix …`: the job once more over old records, into other topics.

use std::io::{IsTerminal as _, Write as _};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use eventlog::kafka::KafkaLog;
use eventlog::registry::{HttpRegistry, SchemaRegistry};
use processors::JobName;
use processors::backfill::{Backfill, Place, PlanError, RangeError, prepare};
use processors::engine::Span;
use runtime::health::Health;
use runtime::shutdown::{Shutdown, on_signals};

use crate::config::{self, Config};
use crate::exit::Exit;

/// What `varta process` can be told.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Which job, instead of the one configured: core, or the same in two, normalise and detect; or fleet, which judges
    /// what they found of many machines.
    #[arg(long, value_name = "JOB", conflicts_with = "out_prefix")]
    pub(crate) job: Option<JobName>,
    /// Run over old records instead of new ones, from here: `earliest`, a time such as 2026-01-02T03:04:05Z (at which
    /// records were appended), or an offset for each partition, 0:1200,1:1187. State is empty there: windows that
    /// began earlier lack rows.
    #[arg(long, value_name = "PLACE", requires = "out_prefix")]
    from: Option<Place>,
    /// Where to stop, of the same forms.
    #[arg(long, value_name = "PLACE", requires = "from", default_value = "latest")]
    to: Place,
    /// What the names of the topics written begin with; they are made. The same command goes on where it stopped.
    #[arg(long, value_name = "PREFIX", requires = "from")]
    out_prefix: Option<String>,
}

impl Args {
    /// What is to be run again, if that was asked for.
    pub(crate) fn backfill(self, config: &Config) -> Option<Backfill> {
        let (Some(from), Some(out_prefix)) = (self.from, self.out_prefix) else { return None };
        Some(Backfill { live: config.topic_names(), out_prefix, from, to: self.to })
    }
}

/// How often a person, and how often a log, is told how far it is.
const ON_TERMINAL: Duration = Duration::from_millis(500);
const IN_LOG: Duration = Duration::from_secs(10);

/// Runs it to its end; 3 when it was stopped before.
pub(crate) async fn backfill(config: Config, backfill: Backfill) -> anyhow::Result<Exit> {
    let _log = runtime::logging::init(&config.log).context("cannot open the log")?;
    if !config::is_prefix(&backfill.out_prefix) {
        eprintln!("--out-prefix {:?}: {}", backfill.out_prefix, config::PREFIX_RULE);
        return Ok(Exit::WrongConfiguration);
    }
    let shutdown = Shutdown::new();
    on_signals(&shutdown);
    let log = KafkaLog::connect(&config.kafka)?;
    let registry: Arc<dyn SchemaRegistry> = Arc::new(HttpRegistry::new(&config.registry)?);
    let process = config.process.clone();
    let (input, out_prefix) = (backfill.live.raw(), backfill.out_prefix.clone());
    let prepared =
        tokio::task::spawn_blocking(move || prepare(&log, &process, backfill, runtime::clock::now_us()));
    let prepared = match prepared.await? {
        Ok(prepared) => prepared,
        Err(PlanError::Log(error) | PlanError::Range(RangeError::Log(error))) => return Err(error.into()),
        Err(error) => {
            eprintln!("{error}");
            return Ok(Exit::WrongConfiguration);
        }
    };
    let spans = Arc::clone(prepared.spans());
    if prepared.is_resumed() {
        eprintln!("{out_prefix}: going on with what was begun");
    }
    let started = Instant::now();
    let run = prepared.run(
        config.process.clone(),
        registry,
        Health::default(),
        shutdown.clone(),
        runtime::clock::now_us,
    );
    tokio::pin!(run);
    let is_terminal = std::io::stderr().is_terminal();
    let mut tick = tokio::time::interval(if is_terminal { ON_TERMINAL } else { IN_LOG });
    tick.tick().await;
    let outcome = loop {
        tokio::select! {
            outcome = &mut run => break outcome,
            _ = tick.tick() => tell(&Progress::of(spans.current(), started.elapsed()), is_terminal),
        }
    };
    if is_terminal {
        eprint!("\r\x1b[2K");
    }
    outcome?;
    let progress = Progress::of(spans.input(), started.elapsed());
    for (partition, stretch) in spans.input().stretches() {
        println!("{input}-{partition}  {} … {}", stretch.from, stretch.to);
    }
    println!(
        "{out_prefix}: {} rows in {:.1} s, {:.0} rows/s",
        progress.handled,
        progress.elapsed.as_secs_f64(),
        progress.rate()
    );
    if spans.is_done() {
        println!("{out_prefix}: all {} offsets are done", progress.total);
        return Ok(Exit::Done);
    }
    let stopped = Progress::of(spans.current(), started.elapsed());
    println!("{out_prefix}: stopped at {:.1} %; the same command goes on from there", stopped.percent());
    Ok(Exit::NotMet)
}

fn tell(progress: &Progress, is_terminal: bool) {
    if !is_terminal {
        let Progress { handled, total, .. } = progress;
        let (percent, rate) = (progress.percent(), progress.rate());
        tracing::info!(handled, total, percent, rate, "backfill");
        return;
    }
    let mut out = std::io::stderr().lock();
    let _ = write!(out, "\r\x1b[2K{progress}");
    let _ = out.flush();
}

/// How far it is.
struct Progress {
    handled: i64,
    done: i64,
    total: i64,
    elapsed: Duration,
}

impl Progress {
    fn of(span: &Span, elapsed: Duration) -> Self {
        Self { handled: span.handled(), done: span.done(), total: span.total(), elapsed }
    }

    /// Rows a second that this process handled.
    fn rate(&self) -> f64 {
        self.handled as f64 / self.elapsed.as_secs_f64().max(0.001)
    }

    fn percent(&self) -> f64 {
        if self.total == 0 { 100.0 } else { self.done as f64 * 100.0 / self.total as f64 }
    }

    /// What is left at this rate; nothing before the first rows.
    fn left(&self) -> Option<Duration> {
        let seconds = (self.total - self.done) as f64 / self.rate();
        Duration::try_from_secs_f64(seconds.ceil()).ok()
    }
}

impl std::fmt::Display for Progress {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let left =
            self.left().map_or_else(|| "?".to_owned(), |left| humantime::format_duration(left).to_string());
        write!(f, "{} rows  {:.0}/s  {:.1} %  {left} left", self.handled, self.rate(), self.percent())
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        args: Args,
    }

    fn parsed(line: &str) -> Result<Option<Backfill>, String> {
        let words = std::iter::once("process").chain(line.split_whitespace());
        let parsed = Line::try_parse_from(words).map_err(|error| error.to_string())?;
        Ok(parsed.args.backfill(&Config::default()))
    }

    #[test]
    fn a_backfill_has_a_beginning_and_a_prefix() {
        assert!(parsed("").unwrap().is_none());
        assert!(parsed("--job detect").unwrap().is_none());
        let asked = parsed("--from 0:5,1:7 --to 2026-01-02T03:04:05Z --out-prefix again").unwrap().unwrap();
        assert_eq!((asked.live.prefix(), asked.out_prefix.as_str()), ("varta", "again"));
        assert_eq!(
            (asked.from.to_string(), asked.to.to_string()),
            ("0:5,1:7".into(), "2026-01-02T03:04:05Z".into())
        );
        assert_eq!(parsed("--from earliest --out-prefix again").unwrap().unwrap().to, Place::Latest);
        for line in [
            "--from earliest",
            "--out-prefix again",
            "--to latest",
            "--from yesterday --out-prefix again",
            "--job detect --from earliest --out-prefix again",
            "--job nothing",
        ] {
            assert!(parsed(line).is_err(), "{line}");
        }
    }

    #[test]
    fn what_is_left_is_told_from_the_rate_of_this_run() {
        let elapsed = Duration::from_secs(10);
        let progress = Progress { handled: 1_000, done: 6_000, total: 8_000, elapsed };
        assert_eq!(progress.to_string(), "1000 rows  100/s  75.0 %  20s left");
        let nothing_yet = Progress { handled: 0, done: 0, total: 8_000, elapsed };
        assert_eq!(nothing_yet.to_string(), "0 rows  0/s  0.0 %  ? left");
        let empty = Progress { handled: 0, done: 0, total: 0, elapsed };
        assert!(empty.to_string().contains("100.0 %"), "{empty}");
    }
}
