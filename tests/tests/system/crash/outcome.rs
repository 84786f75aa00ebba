//! What a run leaves behind, without what may differ between two runs: sessions, numbers in lanes, arrival.

use std::collections::{BTreeMap, HashMap};
use std::fmt;

use anyhow::ensure;
use schemas::event::event_type;
use schemas::family::Family;
use serde_json::Value;
use tests::audit::{Cell, Row, visit_lake, visit_topic};
use xxhash_rust::xxh3::xxh3_128;

use super::patience;
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
const A_FEW: usize = 5;
const MINUTE: i64 = 60_000_000;
/// What may be open at the end: lateness, and the gap between two events of a lane.
const MAY_BE_OPEN: i64 = 10_000_000;

/// Event number to what its payload hashes to, and how often it is there.
type Digest = HashMap<u64, (u128, u32)>;

/// All that is compared.
pub(super) struct Outcome {
    /// Topics and tables by name.
    payloads: BTreeMap<String, Digest>,
    /// `rule event` or `rule window` to what it says and how often.
    alerts: BTreeMap<String, Vec<String>>,
    /// Window to its revisions.
    features: BTreeMap<i64, Vec<Row>>,
    /// Rows and points of the stores, as text, and how often each is there.
    stored: BTreeMap<String, BTreeMap<String, usize>>,
}

/// The numbers of each family's events.
pub(super) fn expected(load: &Load) -> BTreeMap<Family, Vec<u64>> {
    let mut numbers = BTreeMap::<Family, Vec<u64>>::new();
    for n in 0..load.events {
        numbers.entry(Family::of_event_type(load.mix.event(n).event_type)).or_default().push(n);
    }
    numbers
}

fn is_closed(window_start: i64, load: &Load) -> bool {
    let end = load.mix.base + load.events as i64 * load.mix.step;
    window_start + MINUTE + MAY_BE_OPEN <= end
}

/// Waits for the stores behind the topics.
pub(super) async fn stores_have_caught_up(stage: &Stage, load: &Load) -> anyhow::Result<()> {
    let starts = (0..load.events).filter(|n| load.mix.event(*n).event_type == event_type::PROCESS_STARTED).count();
    let windows = (0..).map(|minute| load.mix.base + minute * MINUTE).take_while(|start| is_closed(*start, load)).count();
    stage
        .until("every closed window is a feature row", patience(load), async || {
            let rows = stage.rows(&stage.topics().features("1m")).await?;
            let closed: std::collections::BTreeSet<i64> =
                rows.iter().filter_map(|row| row.long("window_start")).filter(|start| is_closed(*start, load)).collect();
            ensure!(closed.len() >= windows, "{} of {windows}", closed.len());
            Ok(true)
        })
        .await?;
    stage
        .until("Postgres has the program starts, features and alerts", patience(load), async || {
            let stored = stage.postgres.count("program_starts").await?;
            ensure!(stored == starts, "{stored} of {starts} program starts");
            let stored = stage.postgres.count("features_1m").await?;
            ensure!(stored >= windows, "{stored} of {windows} windows");
            let (stored, alerts) = (stage.postgres.count("alerts").await?, stage.records(&stage.topics().alerts())?.len());
            ensure!(stored == alerts, "{stored} of {alerts} alerts");
            Ok(true)
        })
        .await?;
    let metrics = expected(load).get(&Family::HostMetrics).map_or(0, Vec::len);
    stage
        .until("InfluxDB has every reading", patience(load), async || {
            let stored = stage.influx.values("host_metrics", "samples").await?.len();
            ensure!(stored == metrics, "{stored} of {metrics}");
            Ok(true)
        })
        .await
}

impl Outcome {
    /// Reads topics, lake and stores.
    pub(super) async fn read(stage: &Stage, load: &Load) -> anyhow::Result<Self> {
        let (servers, topics, mut schemas) = (stage.servers(), stage.topics(), stage.schemas());
        let mut payloads = BTreeMap::new();
        for family in FAMILIES {
            let mut digest = Digest::new();
            visit_topic(&servers, &topics.events(family), &mut schemas, |row| note(&mut digest, family, &row)).await?;
            payloads.insert(format!("events.{}", family.name()), digest);
            let mut digest = Digest::new();
            visit_lake(&stage.lake().join(family.name()), |row| note(&mut digest, family, &row)).await?;
            payloads.insert(format!("lake {}", family.name()), digest);
        }
        let mut alerts = BTreeMap::<String, Vec<String>>::new();
        for alert in stage.alerts().await? {
            if let Some((key, line)) = alert_line(&alert, load) {
                alerts.entry(key).or_default().push(line);
            }
        }
        let mut features = BTreeMap::<i64, Vec<Row>>::new();
        for row in stage.rows(&topics.features("1m")).await? {
            if let Some(start) = row.long("window_start").filter(|start| is_closed(*start, load)) {
                features.entry(start).or_default().push(row);
            }
        }
        Ok(Self { payloads, alerts, features, stored: stored(stage, load).await? })
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
            found.extend(of_digests(&format!("calm {place}"), digest, &calm.payloads[&place.replace("lake ", "events.")]));
        }
        let mut keys: Vec<_> = self.alerts.keys().chain(calm.alerts.keys()).collect();
        keys.sort();
        keys.dedup();
        let differing = keys.into_iter().filter(|key| {
            let (here, there) = (self.alerts.get(*key), calm.alerts.get(*key));
            here != there || here.is_some_and(|lines| lines.len() != 1)
        });
        found.extend(differing.take(A_FEW).map(|key| {
            format!("alert {key}: disturbed {:?}, calm {:?}", self.alerts.get(key), calm.alerts.get(key))
        }));
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

    fn of_features(&self, calm: &Self) -> Vec<String> {
        let mut found = Vec::new();
        for (start, rows) in &self.features {
            let mut revisions: Vec<_> = rows.iter().map(|row| row.long("revision")).collect();
            revisions.sort_unstable();
            revisions.dedup();
            if revisions.len() != rows.len() {
                found.push(format!("window {start}: a revision twice: {rows:?}"));
            }
            match (last(rows), calm.features.get(start).and_then(|rows| last(rows))) {
                (Some(here), Some(there)) if are_close(here, there) => {}
                (here, there) => found.push(format!("window {start}:\n  disturbed {here:?}\n  calm      {there:?}")),
            }
        }
        let missing = calm.features.keys().filter(|start| !self.features.contains_key(start));
        found.extend(missing.map(|start| format!("window {start} is missing")));
        found.truncate(A_FEW);
        found
    }
}

fn note(digest: &mut Digest, family: Family, row: &Row) {
    let Some(number) = number(family, row) else { return };
    let hash = xxh3_128(row.line_without(&OF_THE_RUN).as_bytes());
    let entry = digest.entry(number).or_insert((hash, 0));
    entry.1 += 1;
    if entry.0 != hash {
        entry.0 = 0; // twice and not even the same: equal to nothing
    }
}

/// The column in which the mix carries its number.
fn number(family: Family, row: &Row) -> Option<u64> {
    let column = match family {
        Family::HostMetrics => "samples",
        Family::ProcessSample => "snapshot_id",
        Family::ProcessEvent => "pid",
        Family::UserActivity => "mouse_events",
        _ => "size_bytes",
    };
    u64::try_from(row.long(column)?).ok()
}

fn of_digests(place: &str, here: &Digest, there: &Digest) -> Vec<String> {
    let mut numbers: Vec<u64> = here.keys().chain(there.keys()).copied().collect();
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
            format!("{place}: event {n}: {}; calm: {}", what(here), what(there))
        })
        .collect();
    let more = differing.len().saturating_sub(A_FEW);
    let mut shown: Vec<String> = differing.into_iter().take(A_FEW).collect();
    if more > 0 {
        shown.push(format!("{place}: and {more} more"));
    }
    shown
}

/// What an alert is about, and what it says; `None` where it is about the run itself.
fn alert_line(alert: &Row, load: &Load) -> Option<(String, String)> {
    let rule = alert.text("rule_id")?;
    if let Some(window) = alert.long("window_start") {
        let line = alert.line_without(&["finding_uid", "session", "seq", "evidence", "message", "lane"]);
        return is_closed(window, load).then(|| (format!("{rule} window {window}"), line));
    }
    let mut evidence: Value = serde_json::from_str(alert.text("evidence")?).ok()?;
    let first = evidence.get_mut(0)?.as_object_mut()?;
    let number = first.get("pid")?.as_u64()?;
    OF_THE_RUN.iter().for_each(|column| drop(first.remove(*column)));
    let line = alert.line_without(&["finding_uid", "session", "seq", "evidence"]);
    Some((format!("{rule} event {number}"), format!("{line} {evidence}")))
}

fn last(rows: &[Row]) -> Option<&Row> {
    rows.iter().max_by_key(|row| row.long("revision"))
}

/// Counts equal, floats within what another order of adding may change; revision and partial tell of the run.
fn are_close(here: &Row, there: &Row) -> bool {
    let columns = |row: &Row| -> Vec<String> {
        row.cells.keys().filter(|name| !["revision", "is_partial"].contains(&name.as_str())).cloned().collect()
    };
    columns(here) == columns(there)
        && columns(here).iter().all(|name| match (&here.cells[name], &there.cells[name]) {
            (Cell::Double(here), Cell::Double(there)) => (here - there).abs() <= 1e-9 * here.abs().max(1.0),
            (here, there) => here == there,
        })
}

async fn stored(stage: &Stage, load: &Load) -> anyhow::Result<BTreeMap<String, BTreeMap<String, usize>>> {
    let mut stored = BTreeMap::new();
    let tables = [
        (
            "postgres program_starts",
            "SELECT concat_ws(' ', \"timestamp\", username, process_name, agent_id) FROM program_starts".to_owned(),
        ),
        (
            "postgres features_1m",
            format!(
                "SELECT concat_ws(' ', agent_id, window_start, samples, cpu_samples, cpu_min, cpu_max, mem_used_max_bytes, \
                 round(cpu_mean::numeric, 6)) FROM features_1m WHERE window_end < to_timestamp({})",
                (load.mix.base + load.events as i64 * load.mix.step - MAY_BE_OPEN) / 1_000_000
            ),
        ),
    ];
    for (place, query) in tables {
        stored.insert(place.to_owned(), counted(stage.postgres.texts(&query).await?));
    }
    for (measurement, field) in [
        ("host_metrics", "samples"),
        ("process_sample", "snapshot_id"),
        ("process_event", "pid"),
        ("user_activity", "mouse_events"),
        ("file_event", "size_bytes"),
    ] {
        stored.insert(format!("influx {measurement}"), stage.influx.values(measurement, field).await?);
    }
    Ok(stored)
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
            self.payloads.iter().filter(|(place, _)| place.starts_with(begin)).map(|(_, digest)| digest.len()).sum()
        };
        write!(
            f,
            "{} events on topics, {} in the lake, {} alerts, {} closed windows, {} program starts",
            of("events."),
            of("lake "),
            self.alerts.len(),
            self.features.len(),
            self.stored.get("postgres program_starts").map_or(0, BTreeMap::len),
        )
    }
}
