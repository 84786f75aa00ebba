"""What independent readers see in a table of the lake. Prints one JSON object: reader -> facts.

read_lake.py TABLE_FOLDER
"""

import json
import sys

import deltalake
import duckdb
import polars
import pyarrow.compute as compute
import pyarrow.dataset as dataset

table = deltalake.DeltaTable(sys.argv[1])
files = table.file_uris()
TYPES = ("event_time", "seq", "cpu_percent", "agent_id")


def arrow_facts(rows):
    return {
        "rows": rows.num_rows,
        "seq": compute.sum(rows["seq"]).as_py(),
        "cpu": round(compute.sum(rows["cpu_percent"]).as_py(), 6),
        "nulls": rows["load_1"].null_count,
        "earliest": compute.min(rows["event_time"]).as_py().isoformat(),
        "types": {name: str(rows.schema.field(name).type) for name in TYPES},
        "days": sorted({str(day) for day in rows["dt"].to_pylist()}),
    }


def by_deltalake():
    return arrow_facts(table.to_pyarrow_table())


def by_pyarrow():
    """The Parquet files alone, the day from their folders."""
    return arrow_facts(dataset.dataset(files, format="parquet", partitioning=dataset.partitioning(flavor="hive"),
                                       partition_base_dir=sys.argv[1]).to_table())


def by_polars():
    rows = polars.read_delta(sys.argv[1])
    return {
        "rows": rows.height,
        "seq": rows["seq"].sum(),
        "cpu": round(rows["cpu_percent"].sum(), 6),
        "nulls": rows["load_1"].null_count(),
        "earliest": rows["event_time"].min().isoformat(),
        "types": {name: str(rows.schema[name]) for name in TYPES},
        "days": sorted({str(day) for day in rows["dt"].to_list()}),
    }


def by_duckdb():
    link = duckdb.connect()
    link.execute("SET TimeZone = 'UTC'")
    source = f"read_parquet({files!r}, hive_partitioning = true, union_by_name = true)"
    ask = lambda query: link.execute(query).fetchall()
    facts = ask(
        f"SELECT count(*), sum(seq)::BIGINT, round(sum(cpu_percent), 6), count(*) - count(load_1), min(event_time)"
        f" FROM {source}"
    )[0]
    types = dict(row[:2] for row in ask(f"DESCRIBE SELECT * FROM {source}"))
    return {
        "rows": facts[0],
        "seq": facts[1],
        "cpu": facts[2],
        "nulls": facts[3],
        "earliest": facts[4].isoformat(),
        "types": {name: types[name] for name in TYPES},
        "days": sorted(str(row[0]) for row in ask(f"SELECT DISTINCT dt FROM {source}")),
    }


READERS = {"deltalake": by_deltalake, "pyarrow": by_pyarrow, "polars": by_polars, "duckdb": by_duckdb}
print(json.dumps({name: read() for name, read in READERS.items()}))
