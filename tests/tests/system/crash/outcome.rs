//! What a run leaves behind, without what may differ between two runs: sessions, numbers in lanes, arrival.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;

use anyhow::ensure;
use schemas::event::{Payload, event_type};
use schemas::family::Family;
use serde_json::Value;
use tests::audit::{Cell, Row, visit_lake, visit_topic};
use xxhash_rust::xxh3::xxh3_128;

use super::patience;
use super::streams::{Stream, Streams};
use crate::stage::{Load, Stage};

/// Families that the load is made of.
const FAMILIES: [Family; 5] = [
    Family::HostMetrics,
    Family::ProcessSample,
    Family::ProcessEvent,
    Family::UserActivity,
    Family::FileEvent,
];
/// Columns that tell of the run and not of the event.
const OF_THE_RUN: [&str; 6] = ["session", "seq", "received_at", "sent_at", "replayed", "dt_by_arrival"];
/// Rules whose alerts follow from the events alone. Others keep quiet for a while about what repeats, and which of
/// several events is the first depends on the order of arrival.
const COMPARED: [&str; 2] = ["suspicious-path", "cpu-sustained"];
const FEATURES_OF_THE_RUN: [&str; 5] =
    ["revision", "is_partial", "coverage", "reports_expected", "reports_received"];
const A_FEW: usize = 5;
const MINUTE: i64 = 60_000_000;
/// What may be open at the end: lateness, and the gap between two events of a lane.
const MAY_BE_OPEN: i64 = 10_000_000;

/// Stream and number of an event.
type Key = (usize, u64);
/// Event to what its payload hashes to, and how often it is there.
type Digest = HashMap<Key, (u128, u32)>;

/// One alert.
struct Told {
    /// `rule event` or `rule window`.
    key: String,
    /// What it says.
    line: String,
    /// Stream, and the end of the last window that it rests on; of alerts about windows.
    rests_on: Option<(usize, i64)>,
}

/// All that is compared.
pub(super) struct Outcome {
    /// Topics and tables by name.
    payloads: BTreeMap<String, Digest>,
    alerts: Vec<Told>,
    /// Messages of findings, of all rules, that are there more than once.
    twice: Vec<String>,
    /// Stream and window to its revisions.
    features: BTreeMap<(usize, i64), Vec<Row>>,
    /// Rows and points of the stores, as text, and how often each is there.
    stored: BTreeMap<String, BTreeMap<String, usize>>,
}

fn is_closed(window_start: i64, load: &Load) -> bool {
    let end = load.mix.base + load.events as i64 * load.mix.step;
    window_start + MINUTE + MAY_BE_OPEN <= end
}

fn closed_windows(streams: &Streams) -> usize {
    let of = |load: &Load| {
        let starts = (0..).map(|minute| load.mix.base + minute * MINUTE);
        starts.take_while(|start| is_closed(*start, load)).count()
    };
    streams.0.iter().map(|stream| of(&stream.load)).sum()
}

/// Stream and start of a window that must be closed at the end.
fn closed(row: &Row, streams: &Streams) -> Option<(usize, i64)> {
    let stream = streams.of_agent(row.text("agent_id")?)?;
    let start = row.long("window_start")?;
    is_closed(start, &streams.0[stream].load).then_some((stream, start))
}

/// Waits for the stores behind the topics.
pub(super) async fn stores_have_caught_up(stage: &Stage, streams: &Streams) -> anyhow::Result<()> {
    let is_start = |load: &Load, n: u64| load.mix.event(n).event_type == event_type::PROCESS_STARTED;
    let of = |load: &Load| (0..load.events).filter(|n| is_start(load, *n)).count();
    let starts: usize = streams.0.iter().map(|stream| of(&stream.load)).sum();
    let windows = closed_windows(streams);
    stage
        .until("every closed window is a feature row", patience(streams), async || {
            let rows = stage.rows(&stage.topics().features("1m")).await?;
            let found: BTreeSet<_> = rows.iter().filter_map(|row| closed(row, streams)).collect();
            ensure!(found.len() >= windows, "{} of {windows}", found.len());
            Ok(true)
        })
        .await?;
    stage
        .until("Postgres has the program starts, features and alerts", patience(streams), async || {
            let stored = stage.postgres.count("program_starts").await?;
            ensure!(stored == starts, "{stored} of {starts} program starts");
            let stored = stage.postgres.count("features_1m").await?;
            ensure!(stored >= windows, "{stored} of {windows} windows");
            let told = stage.alerts().await?;
            // what lasts is told several times; the table has how it stands
            let alerts: BTreeSet<_> = told.iter().filter_map(|alert| alert.text("finding_uid")).collect();
            let stored = stage.postgres.count("alerts").await?;
            ensure!(stored == alerts.len(), "{stored} of {} alerts", alerts.len());
            Ok(true)
        })
        .await?;
    let made = streams.by_family();
    stage
        .until("InfluxDB has every event", patience(streams), async || {
            for family in FAMILIES {
                let made = made.get(&family).copied().unwrap_or(0);
                let stored: usize =
                    stage.influx.values(family.name(), numbered(family)).await?.values().sum();
                ensure!(stored == made, "{}: {stored} of {made}", family.name());
            }
            Ok(true)
        })
        .await
}

impl Outcome {
    /// Reads topics, lake and stores.
    pub(super) async fn read(stage: &Stage, streams: &Streams) -> anyhow::Result<Self> {
        let (servers, topics, mut schemas) = (stage.servers(), stage.topics(), stage.schemas());
        let mut payloads = BTreeMap::new();
        for family in FAMILIES {
            let mut digest = Digest::new();
            visit_topic(&servers, &topics.events(family), &mut schemas, |row| {
                note(&mut digest, streams, family, &row);
            })
            .await?;
            payloads.insert(format!("events.{}", family.name()), digest);
            let mut digest = Digest::new();
            visit_lake(&stage.lake().join(family.name()), |row| note(&mut digest, streams, family, &row))
                .await?;
            payloads.insert(format!("lake {}", family.name()), digest);
        }
        let mut alerts = Vec::new();
        let (mut messages, mut twice) = (BTreeSet::new(), Vec::new());
        for alert in stage.alerts().await? {
            let message = (alert.text("finding_uid").map(str::to_owned), alert.long("revision"));
            if !messages.insert(message.clone()) {
                twice.push(format!("{message:?}"));
            }
            alerts.extend(told(&alert, streams));
        }
        let mut features = BTreeMap::<(usize, i64), Vec<Row>>::new();
        for row in stage.rows(&topics.features("1m")).await? {
            if let Some(key) = closed(&row, streams) {
                features.entry(key).or_default().push(row);
            }
        }
        Ok(Self { payloads, alerts, twice, features, stored: stored(stage, streams).await? })
    }

    /// The first few of each kind of difference; none when the runs are equal and nothing is there twice.
    pub(super) fn differences(&self, calm: &Self) -> Vec<String> {
        let mut found = Vec::new();
        for (place, digest) in &self.payloads {
            let twin = match place.strip_prefix("lake ") {
                Some(family) => &calm.payloads[&format!("events.{family}")],
                None => &calm.payloads[place],
            };
            found.extend(of_digests(place, digest, twin));
        }
        for (place, digest) in calm.payloads.iter().filter(|(place, _)| place.starts_with("lake ")) {
            found.extend(of_digests(
                &format!("calm {place}"),
                digest,
                &calm.payloads[&place.replace("lake ", "events.")],
            ));
        }
        let (here, there) = (self.certain_alerts(calm), calm.certain_alerts(self));
        let keys: BTreeSet<_> = here.keys().chain(there.keys()).collect();
        let differing = keys.into_iter().filter(|key| {
            let (here, there) = (here.get(*key), there.get(*key));
            here != there || here.is_some_and(|lines| lines.len() != 1)
        });
        found.extend(
            differing
                .take(A_FEW)
                .map(|key| format!("alert {key}: disturbed {:?}, calm {:?}", here.get(key), there.get(key))),
        );
        for (run, twice) in [("disturbed", &self.twice), ("calm", &calm.twice)] {
            found.extend(
                twice.iter().take(A_FEW).map(|message| format!("{run}: alert {message} is there twice")),
            );
        }
        found.extend(self.of_features(calm));
        for (place, rows) in &self.stored {
            let calm = &calm.stored[place];
            let keys = rows.keys().chain(calm.keys()).filter(|key| rows.get(*key) != calm.get(*key));
            found.extend(keys.take(A_FEW).map(|key| {
                format!("{place}: {key}: disturbed {:?}, calm {:?}", rows.get(key), calm.get(key))
            }));
        }
        found
    }

    /// Alerts by key that must be equal in both runs. Rules judge complete windows: where either run ended before it
    /// knew that a window is complete, nothing that rests on this window or a later one can be compared.
    fn certain_alerts(&self, other: &Self) -> BTreeMap<&str, Vec<&str>> {
        let mut found = BTreeMap::<_, Vec<_>>::new();
        for alert in &self.alerts {
            let is_certain = alert.rests_on.is_none_or(|(stream, end)| {
                [self, other].iter().all(|run| run.first_partial(stream).is_none_or(|start| end <= start))
            });
            if is_certain {
                found.entry(alert.key.as_str()).or_default().push(alert.line.as_str());
            }
        }
        found
    }

    /// Start of the first window of a stream that was not known to be complete.
    fn first_partial(&self, stream: usize) -> Option<i64> {
        let of_stream = self.features.range((stream, i64::MIN)..=(stream, i64::MAX));
        let is_partial =
            |rows: &[Row]| last(rows).is_some_and(|row| row.cells["is_partial"] == Cell::Boolean(true));
        of_stream.filter(|(_, rows)| is_partial(rows)).map(|((_, start), _)| *start).next()
    }

    /// A comparison of nothing with nothing would be equal, too.
    pub(super) fn must_tell_something(&self, other: &Self, streams: &Streams) -> anyhow::Result<()> {
        let alerts = self.certain_alerts(other);
        for (index, stream) in streams.0.iter().enumerate() {
            let numbers: Vec<u64> =
                (0..stream.load.events).filter(|n| is_suspicious(&stream.load, *n)).collect();
            ensure!(numbers.len() > 3, "{} suspicious starts only", numbers.len());
            for n in &numbers {
                let key = format!("suspicious-path of {index}, event {n}");
                ensure!(alerts.contains_key(key.as_str()), "no alert: {key}");
            }
        }
        let sustained = alerts.keys().filter(|key| key.contains("window")).count();
        ensure!(sustained > 0, "no alert about a window");
        ensure!(self.features.len() > 10, "{} closed windows only", self.features.len());
        Ok(())
    }

    fn of_features(&self, calm: &Self) -> Vec<String> {
        let mut found = Vec::new();
        for (start, rows) in &self.features {
            let mut revisions: Vec<_> = rows.iter().map(|row| row.long("revision")).collect();
            revisions.sort_unstable();
            revisions.dedup();
            if revisions.len() != rows.len() {
                found.push(format!("window {start:?}: a revision twice: {rows:?}"));
            }
            match (last(rows), calm.features.get(start).and_then(|rows| last(rows))) {
                (Some(here), Some(there)) if are_close(here, there) => {}
                (here, there) => {
                    found.push(format!("window {start:?}:\n  disturbed {here:?}\n  calm      {there:?}"));
                }
            }
        }
        let missing = calm.features.keys().filter(|start| !self.features.contains_key(start));
        found.extend(missing.map(|start| format!("window {start:?} is missing")));
        found.truncate(A_FEW);
        found
    }
}

fn note(digest: &mut Digest, streams: &Streams, family: Family, row: &Row) {
    let stream = row.text("agent_id").and_then(|agent| streams.of_agent(agent));
    let (Some(stream), Some(number)) = (stream, number(family, row)) else { return };
    let hash = xxh3_128(row.line_without(&OF_THE_RUN).as_bytes());
    let entry = digest.entry((stream, number)).or_insert((hash, 0));
    entry.1 += 1;
    if entry.0 != hash {
        entry.0 = 0; // twice and not even the same: equal to nothing
    }
}

/// The column in which the mix carries its number.
fn numbered(family: Family) -> &'static str {
    match family {
        Family::HostMetrics => "samples",
        Family::ProcessSample => "snapshot_id",
        Family::ProcessEvent => "pid",
        Family::UserActivity => "mouse_events",
        _ => "size_bytes",
    }
}

fn number(family: Family, row: &Row) -> Option<u64> {
    u64::try_from(row.long(numbered(family))?).ok()
}

fn of_digests(place: &str, here: &Digest, there: &Digest) -> Vec<String> {
    let mut numbers: Vec<Key> = here.keys().chain(there.keys()).copied().collect();
    numbers.sort_unstable();
    numbers.dedup();
    let differing: Vec<String> = numbers
        .into_iter()
        .filter(|n| here.get(n) != there.get(n) || here.get(n).is_some_and(|(_, count)| *count != 1))
        .map(|n| {
            let what = |digest: &Digest| match digest.get(&n) {
                None => "missing".to_owned(),
                Some((hash, count)) => format!("{count} times, hash {hash:032x}"),
            };
            format!("{place}: event {n:?}: {}; calm: {}", what(here), what(there))
        })
        .collect();
    let more = differing.len().saturating_sub(A_FEW);
    let mut shown: Vec<String> = differing.into_iter().take(A_FEW).collect();
    if more > 0 {
        shown.push(format!("{place}: and {more} more"));
    }
    shown
}

/// What is compared of an alert; `None` where it is about the run itself.
fn told(alert: &Row, streams: &Streams) -> Option<Told> {
    let rule = alert.text("rule_id").filter(|rule| COMPARED.contains(rule))?;
    let stream = streams.of_agent(alert.text("agent_id")?)?;
    if alert.long("window_start").is_some() {
        let line = alert.line_without(&["finding_uid", "session", "seq", "evidence", "message", "lane"]);
        let (_, window) = closed(alert, streams)?;
        let end = alert.long("event_time")?;
        if !is_closed(end - MINUTE, &streams.0[stream].load) {
            // a condition that held to the end of the load ends with the agent's last report, at the time of the run
            return None;
        }
        let revision = alert.long("revision")?;
        return Some(Told {
            key: format!("{rule} of {stream}, window {window}, revision {revision}"),
            line,
            rests_on: Some((stream, end)),
        });
    }
    let mut evidence: Value = serde_json::from_str(alert.text("evidence")?).ok()?;
    let first = evidence.get_mut(0)?.as_object_mut()?;
    let number = first.get("pid")?.as_u64()?;
    for column in OF_THE_RUN {
        first.remove(column);
    }
    let line = alert.line_without(&["finding_uid", "session", "seq", "evidence"]);
    Some(Told {
        key: format!("{rule} of {stream}, event {number}"),
        line: format!("{line} {evidence}"),
        rests_on: None,
    })
}

fn is_suspicious(load: &Load, n: u64) -> bool {
    let made = load.mix.event(n);
    let Payload::ProcessEvent(process) = &made.payload else { return false };
    made.event_type == event_type::PROCESS_STARTED
        && process.path.as_ref().is_some_and(|path| path.contains("Temp"))
}

fn last(rows: &[Row]) -> Option<&Row> {
    rows.iter().max_by_key(|row| row.long("revision"))
}

fn is_partial(rows: &[Row]) -> bool {
    last(rows).is_some_and(|row| row.cells["is_partial"] == Cell::Boolean(true))
}

/// Counts equal, floats within what another order of adding may change. Revision and partial tell of the run, and so
/// does coverage: how often an agent reports is known from when it said so.
fn are_close(here: &Row, there: &Row) -> bool {
    let columns = |row: &Row| -> Vec<String> {
        row.cells.keys().filter(|name| !FEATURES_OF_THE_RUN.contains(&name.as_str())).cloned().collect()
    };
    columns(here) == columns(there)
        && columns(here).iter().all(|name| match (&here.cells[name], &there.cells[name]) {
            (Cell::Double(here), Cell::Double(there)) => (here - there).abs() <= 1e-9 * here.abs().max(1.0),
            (here, there) => here == there,
        })
}

async fn stored(
    stage: &Stage,
    streams: &Streams,
) -> anyhow::Result<BTreeMap<String, BTreeMap<String, usize>>> {
    let mut stored = BTreeMap::new();
    let tables = [
        (
            "postgres program_starts",
            "SELECT concat_ws(' ', \"timestamp\", username, process_name, agent_id) FROM program_starts"
                .to_owned(),
        ),
        (
            "postgres features_1m",
            format!(
                "SELECT concat_ws(' ', agent_id, window_start, samples, cpu_samples, cpu_min, cpu_max, mem_used_max_bytes, \
                 round(cpu_mean::numeric, 6)) FROM features_1m WHERE {}",
                streams.0.iter().map(closed_in_sql).collect::<Vec<_>>().join(" OR ")
            ),
        ),
    ];
    for (place, query) in tables {
        stored.insert(place.to_owned(), counted(stage.postgres.texts(&query).await?));
    }
    for family in FAMILIES {
        let points = stage.influx.values(family.name(), numbered(family)).await?;
        stored.insert(format!("influx {}", family.name()), points);
    }
    Ok(stored)
}

fn closed_in_sql(stream: &Stream) -> String {
    let load = &stream.load;
    let end = (load.mix.base + load.events as i64 * load.mix.step - MAY_BE_OPEN) / 1_000_000;
    format!("(agent_id = '{}' AND window_end <= to_timestamp({end}))", stream.agent.agent_id)
}

fn counted(rows: Vec<String>) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    for row in rows {
        *counts.entry(row).or_default() += 1;
    }
    counts
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let of = |begin: &str| -> usize {
            self.payloads
                .iter()
                .filter(|(place, _)| place.starts_with(begin))
                .map(|(_, digest)| digest.len())
                .sum()
        };
        write!(
            f,
            "{} events on topics, {} in the lake, {} alerts, {} closed windows ({} not known to be complete), {} program \
             starts",
            of("events."),
            of("lake "),
            self.alerts.len(),
            self.features.len(),
            self.features.values().filter(|rows| is_partial(rows)).count(),
            self.stored.get("postgres program_starts").map_or(0, BTreeMap::len),
        )
    }
}

#[test]
fn each_kind_of_difference_between_runs_is_seen() {
    let (one, two) = ((0, 1), (0, 2));
    let calm: Digest = [(one, (7, 1)), (two, (8, 1))].into();
    assert!(of_digests("x", &calm, &calm).is_empty());
    for broken in [
        Digest::from([(one, (7, 1))]),
        Digest::from([(one, (7, 1)), (two, (8, 2))]),
        Digest::from([(one, (7, 1)), (two, (9, 1))]),
        Digest::from([(one, (7, 1)), (two, (8, 1)), ((1, 1), (1, 1))]),
    ] {
        assert_eq!(of_digests("x", &broken, &calm).len(), 1, "{broken:?}");
    }
    let twice: Digest = [(one, (7, 2))].into();
    assert_eq!(of_digests("x", &twice, &twice).len(), 1, "twice in both runs is still twice");
}
