//! `varta lake`: what the lake holds, whether it is whole, compaction, and tables made anew from the topics.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use eventlog::kafka::KafkaLog;
use eventlog::registry::{HttpRegistry, SchemaRegistry};
use runtime::config::ByteSize;
use sinks::lake::info::{TableInfo, info};
use sinks::lake::optimize::{Optimizing, optimize};
use sinks::lake::rebuild::{Rebuilding, rebuild};
use sinks::lake::verify::verify;
use sinks::lake::{Covered, LakeConfig};

use crate::config::Config;
use crate::exit::Exit;

/// What `varta lake` can be told.
#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(clap::Subcommand)]
enum Command {
    /// Prove from the logs that offsets are covered without gap or overlap, and that files are whole. Exit code 3 when
    /// something is wrong.
    Verify {
        /// Do not read the files: only that each is there with its size.
        #[arg(long)]
        quick: bool,
    },
    /// Tables, rows, files, bytes, days and offsets.
    Info {
        /// A line for each day of each table.
        #[arg(long)]
        days: bool,
        /// Only offsets, as `rebuild --from-offsets` reads them: topic, partition, first offset, next offset.
        #[arg(long)]
        offsets: bool,
    },
    /// Merge small files by table and day, write checkpoints, remove files that nobody needs. Writers may run.
    Optimize {
        /// Only this table; may be given several times.
        #[arg(long = "table", value_name = "TABLE")]
        tables: Vec<String>,
        /// Size that files should have.
        #[arg(long, default_value = "128 MB")]
        target: ByteSize,
        /// How long files that are not needed any more are kept for readers of older versions; at least 24h.
        #[arg(long, default_value = "7d", value_parser = humantime::parse_duration)]
        retention: Duration,
    },
    /// Read the topics again into tables in another folder. It may be interrupted and started again.
    Rebuild {
        /// Folder or URL of the new tables.
        #[arg(long, value_name = "ROOT")]
        into: String,
        /// `oldest`, or a file of lines `TOPIC PARTITION OFFSET`; partitions that it does not name begin with the oldest.
        #[arg(long, value_name = "FILE")]
        from_offsets: PathBuf,
        /// Only this table; may be given several times.
        #[arg(long = "table", value_name = "TABLE")]
        tables: Vec<String>,
    },
}

/// Runs the command.
pub(crate) async fn lake(config: &Config, args: Args) -> anyhow::Result<Exit> {
    let lake = &config.sinks.lake;
    match args.command {
        Command::Verify { quick } => print_verified(config, lake, !quick).await,
        Command::Info { days, offsets } => {
            let tables = info(lake, &config.topic_names()).await?;
            if offsets {
                print_offsets(&tables);
            } else {
                print_info(&tables, days);
            }
            Ok(Exit::Done)
        }
        Command::Optimize { tables, target, retention } => {
            let how = Optimizing { tables, target: target.bytes(), retention };
            print_optimized(config, lake, &how).await
        }
        Command::Rebuild { into, from_offsets, tables } => {
            let from = read_offsets(&from_offsets)?;
            anyhow::ensure!(!is_same(&into, &lake.root), "{into} is the lake itself; name another folder");
            let dead_lettered = dead_lettered(config, lake).await;
            let what = Rebuilding { tables, from, dead_lettered };
            print_rebuilt(config, &LakeConfig { root: into, ..lake.clone() }, what).await
        }
    }
}

async fn print_verified(config: &Config, lake: &LakeConfig, hashes: bool) -> anyhow::Result<Exit> {
    let tables = verify(lake, &config.topic_names(), hashes).await?;
    println!("{:<20} {:>8} {:>12} {:>8} {:>10}", "table", "version", "rows", "files", "MiB");
    let mut problems = 0;
    for table in &tables {
        println!(
            "{:<20} {:>8} {:>12} {:>8} {:>10.1}",
            table.table,
            table.version,
            table.rows,
            table.files,
            mib(table.bytes)
        );
        problems += table.problems.len();
        for problem in &table.problems {
            println!("  WRONG: {problem}");
        }
    }
    if tables.is_empty() {
        println!("no table at {}", lake.root);
        return Ok(Exit::NotMet);
    }
    Ok(if problems == 0 { Exit::Done } else { Exit::NotMet })
}

fn print_info(tables: &[TableInfo], by_day: bool) {
    println!(
        "{:<20} {:>8} {:>7} {:>12} {:>7} {:>7} {:>10} {:>10}  days",
        "table", "version", "columns", "rows", "files", "small", "MiB", "bytes/row"
    );
    for table in tables {
        let all = table.total();
        let first = table.days.keys().next().map_or("", String::as_str);
        let last = table.days.keys().next_back().map_or("", String::as_str);
        println!(
            "{:<20} {:>8} {:>7} {:>12} {:>7} {:>7} {:>10.1} {:>10.1}  {} {first} … {last}",
            table.table,
            table.version,
            table.columns,
            all.rows,
            all.files,
            all.small,
            mib(all.bytes),
            all.bytes as f64 / all.rows.max(1) as f64,
            table.days.len(),
        );
        for (day, of) in table.days.iter().filter(|_| by_day) {
            println!(
                "  {day:<18} {:>8} {:>7} {:>12} {:>7} {:>7} {:>10.1}",
                "",
                "",
                of.rows,
                of.files,
                of.small,
                mib(of.bytes)
            );
        }
        print_covered(&table.covered, &table.covered_late);
    }
}

fn print_covered(covered: &Covered, late: &Covered) {
    for ((topic, partition), (from, to)) in covered {
        let late = late.get(&(topic.clone(), *partition)).map(|(_, end)| *end).filter(|end| end < to);
        let late = late.map_or_else(String::new, |end| format!(", late rows {from}..{end}"));
        println!("  {topic}-{partition}: offsets {from}..{to}{late}");
    }
}

fn print_offsets(tables: &[TableInfo]) {
    for ((topic, partition), (from, to)) in tables.iter().flat_map(|table| &table.covered) {
        println!("{topic} {partition} {from} {to}");
    }
}

async fn print_optimized(config: &Config, lake: &LakeConfig, how: &Optimizing) -> anyhow::Result<Exit> {
    let tables = optimize(lake, &config.topic_names(), how).await?;
    println!(
        "{:<20} {:>8} {:>8} {:>10} {:>10} {:>8} {:>16}",
        "table", "files", "now", "MiB", "now", "given up", "removed files"
    );
    let failed = tables.iter().filter(|table| table.failed.is_some()).count();
    for table in tables {
        if let Some(why) = &table.failed {
            println!("{:<20} FAILED: {why}", table.table);
            continue;
        }
        println!(
            "{:<20} {:>8} {:>8} {:>10.1} {:>10.1} {:>8} {:>16}",
            table.table,
            table.before.0,
            table.after.0,
            mib(table.before.1),
            mib(table.after.1),
            table.given_up,
            table.vacuumed.0,
        );
    }
    Ok(if failed == 0 { Exit::Done } else { Exit::NotMet })
}

/// How far the lake as it is covers each partition. Where it cannot be read nothing counts as dead-lettered: a letter
/// too many is recognised by its origin, one too few is lost.
async fn dead_lettered(config: &Config, lake: &LakeConfig) -> BTreeMap<(String, i32), i64> {
    match info(lake, &config.topic_names()).await {
        Ok(tables) => {
            let covered = tables.into_iter().flat_map(|table| table.covered);
            covered.map(|(of, (_, to))| (of, to)).collect()
        }
        Err(error) => {
            eprintln!("the lake at {} cannot be read: {error}; all poison is dead-lettered again", lake.root);
            BTreeMap::new()
        }
    }
}

async fn print_rebuilt(config: &Config, lake: &LakeConfig, what: Rebuilding) -> anyhow::Result<Exit> {
    let log = KafkaLog::connect(&config.kafka)?;
    let registry: Arc<dyn SchemaRegistry> = Arc::new(HttpRegistry::new(&config.registry)?);
    let rebuilt = rebuild(lake.clone(), log, registry, &config.topic_names(), what).await?;
    for part in rebuilt {
        println!("{:<20} {}-{}: offsets {}..{}", part.table, part.of.0, part.of.1, part.from, part.to);
    }
    print_verified(config, lake, true).await
}

/// Lines of topic, partition and offset; what follows is ignored.
fn read_offsets(file: &Path) -> anyhow::Result<BTreeMap<(String, i32), i64>> {
    if file == Path::new("oldest") {
        return Ok(BTreeMap::new());
    }
    let text = fs_err::read_to_string(file)?;
    let mut offsets = BTreeMap::new();
    for (number, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
        let at = || format!("{}:{}: expected TOPIC PARTITION OFFSET", file.display(), number + 1);
        let mut words = line.split_whitespace();
        let topic = words.next().with_context(at)?.to_owned();
        let partition: i32 = words.next().with_context(at)?.parse().with_context(at)?;
        let offset: i64 = words.next().with_context(at)?.parse().with_context(at)?;
        anyhow::ensure!(offsets.insert((topic, partition), offset).is_none(), "{}: named twice", at());
    }
    Ok(offsets)
}

fn is_same(one: &str, other: &str) -> bool {
    let local = |root: &str| {
        let path =
            reqwest::Url::parse(root).ok().filter(|url| url.scheme() == "file")?.to_file_path().ok()?;
        path.to_str().map(str::to_owned)
    };
    let real = |root: &str| {
        let root = local(root).unwrap_or_else(|| root.to_owned());
        fs_err::canonicalize(&root).unwrap_or_else(|_| PathBuf::from(root.trim_end_matches('/')))
    };
    one.trim_end_matches('/') == other.trim_end_matches('/') || real(one) == real(other)
}

fn mib(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn offsets_are_read_and_a_wrong_line_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("offsets");
        fs_err::write(&file, "varta.raw 0 17 99\n\nvarta.raw 1 0\n").unwrap();
        let read = read_offsets(&file).unwrap();
        assert_eq!(read.get(&("varta.raw".to_owned(), 0)), Some(&17));
        assert_eq!(read.len(), 2);
        for wrong in ["varta.raw", "varta.raw x 1", "varta.raw 0 1\nvarta.raw 0 2"] {
            fs_err::write(&file, wrong).unwrap();
            let error = format!("{:#}", read_offsets(&file).unwrap_err());
            assert!(error.contains("offsets:"), "{error}");
        }
        assert!(read_offsets(Path::new("oldest")).unwrap().is_empty());
    }

    #[test]
    fn the_lake_itself_is_recognised() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().to_str().unwrap();
        assert!(is_same(&format!("{root}/"), root));
        assert!(is_same(
            &format!("{root}/../{}", folder.path().file_name().unwrap().to_str().unwrap()),
            root
        ));
        assert!(is_same(&format!("file://{root}"), root));
        assert!(is_same(&format!("file://{root}/"), &format!("{root}/")));
        assert!(is_same("file:///not/there", "/not/there/"));
        assert!(!is_same(&format!("file://{root}/other"), root));
        assert!(!is_same("s3://bucket/lake", root));
    }
}
