"""Five questions that people ask a lake, answered by DuckDB and by Polars. Prints the time of each; fails if they differ.

ask_lake.py LAKE_FOLDER

The readers get the files that the table's log names; each question is asked three times and the fastest counts.
"""

import sys
import time
from datetime import timedelta

import deltalake
import duckdb
import polars as pl

ROOT = sys.argv[1]
TIMES = 3


class Table:
    def __init__(self, name):
        self.files = deltalake.DeltaTable(f"{ROOT}/{name}").file_uris()
        self.duck = f"read_parquet({self.files!r}, hive_partitioning = true, union_by_name = true)"

    def lazy(self):
        return pl.scan_parquet(self.files, hive_partitioning=True, missing_columns="insert")


link = duckdb.connect()
link.execute("SET TimeZone = 'UTC'")
metrics, samples, starts, raw = (Table(name) for name in ("host_metrics", "process_sample", "process_event", "raw"))
agent, first, last = link.execute(
    f"SELECT max(agent_id), min(event_time), max(event_time) FROM {metrics.duck}"
).fetchone()
middle = first + (last - first) / 2
day = middle.date().isoformat()
week = (middle - timedelta(days=3.5), middle + timedelta(days=3.5))
hour = (middle, middle + timedelta(hours=1))
program = link.execute(f"SELECT mode(name) FROM {starts.duck}").fetchone()[0]


def duck(query, *values):
    return [tuple(row) for row in link.execute(query, values).fetchall()]


def rows(frame):
    return frame.collect().rows()


QUESTIONS = {
    "load of one machine by hour over a week": (
        lambda: duck(
            f"SELECT date_trunc('hour', event_time) h, round(avg(cpu_percent), 4), max(cpu_percent) FROM {metrics.duck}"
            " WHERE agent_id = ? AND event_time BETWEEN ? AND ? AND cpu_percent IS NOT NULL GROUP BY h ORDER BY h",
            agent, *week,
        ),
        lambda: rows(
            metrics.lazy()
            .filter(pl.col("agent_id") == agent, pl.col("event_time").is_between(*week), pl.col("cpu_percent").is_not_null())
            .group_by(pl.col("event_time").dt.truncate("1h").alias("h"))
            .agg(pl.col("cpu_percent").mean().round(4).alias("mean"), pl.col("cpu_percent").max())
            .sort("h")
        ),
    ),
    "mean load of the fleet by day": (
        lambda: duck(
            f"SELECT dt::DATE d, count(cpu_percent), round(avg(cpu_percent), 4) FROM {metrics.duck} GROUP BY d ORDER BY d"
        ),
        lambda: rows(
            metrics.lazy()
            .group_by(pl.col("dt").cast(pl.Date).alias("d"))
            .agg(pl.col("cpu_percent").count().alias("n"), pl.col("cpu_percent").mean().round(4).alias("mean"))
            .sort("d")
        ),
    ),
    "programs by memory on one day": (
        lambda: duck(
            f"SELECT name, max(memory_bytes) m, count(*) n FROM {samples.duck} WHERE dt = '{day}'"
            " GROUP BY name ORDER BY m DESC, name LIMIT 10"
        ),
        lambda: rows(
            samples.lazy()
            .filter(pl.col("dt").cast(pl.String) == day)
            .group_by("name")
            .agg(pl.col("memory_bytes").max().alias("m"), pl.len().cast(pl.Int64).alias("n"))
            .sort(["m", "name"], descending=[True, False])
            .head(10)
        ),
    ),
    "machines that started one program": (
        lambda: duck(
            f"SELECT agent_id, count(*) n FROM {starts.duck} WHERE name = ? AND event_type = 'process_started'"
            " GROUP BY agent_id ORDER BY n DESC, agent_id LIMIT 20",
            program,
        ),
        lambda: rows(
            starts.lazy()
            .filter(pl.col("name") == program, pl.col("event_type") == "process_started")
            .group_by("agent_id")
            .agg(pl.len().cast(pl.Int64).alias("n"))
            .sort(["n", "agent_id"], descending=[True, False])
            .head(20)
        ),
    ),
    "everything of one machine in one hour": (
        lambda: duck(
            f"SELECT seq, event_type, body FROM {raw.duck} WHERE agent_id = ? AND event_time BETWEEN ? AND ?"
            " ORDER BY event_time, lane, seq",
            agent, *hour,
        ),
        lambda: rows(
            raw.lazy()
            .filter(pl.col("agent_id") == agent, pl.col("event_time").is_between(*hour))
            .sort(["event_time", "lane", "seq"])
            .select("seq", "event_type", "body")
        ),
    ),
}


def close(a, b):
    return len(a) == len(b) and all(
        abs(x - y) <= 0.001 if isinstance(x, float) else x == y for one, other in zip(a, b) for x, y in zip(one, other)
    )


def timed(ask):
    best = None
    for _ in range(TIMES):
        began = time.perf_counter()
        answer = ask()
        took = time.perf_counter() - began
        best = took if best is None else min(best, took)
    return answer, best * 1000


for question, (by_duckdb, by_polars) in QUESTIONS.items():
    (found, duck_ms), (same, polars_ms) = timed(by_duckdb), timed(by_polars)
    if not found or not close(found, same):
        sys.exit(f"{question}: DuckDB says {found[:3]} ({len(found)} rows), Polars {same[:3]} ({len(same)} rows)")
    print(f"  {question}: {len(found)} rows, DuckDB {duck_ms:.0f} ms, Polars {polars_ms:.0f} ms", flush=True)
