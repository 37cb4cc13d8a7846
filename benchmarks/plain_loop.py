"""`python -m benchmarks.plain_loop URL ACCOUNT DSN FOLDER SINCE`: the yardstick, a loop written by hand.

It polls once from SINCE to now, into PostgreSQL and a folder of Parquet with one object per account and hour: HTTP
over one connection, orjson, rows in Python, COPY into a temporary table, INSERT … ON CONFLICT DO NOTHING, pyarrow.
Columns, keys and durability are those of the pipeline (commit; temporary file, fsync, rename). It has nothing else: no
cursor, no retries, no quarantine, no proof.
"""

import csv
import io
import os
import sys
from collections import defaultdict
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime
from itertools import chain
from pathlib import Path
from typing import Any

import orjson
import psycopg2
import pyarrow as pa
import pyarrow.parquet as pq
import requests

from pipelines.warehouse.statements import sections_of, statements_of
from sources.cloudflare_audit_logs.schema import EVENT_SCHEMA, PRIMARY_KEY

PAGE = 1_000
EVENTS_A_LOAD = 20_000
COLUMNS = EVENT_SCHEMA.names
INDEXES = ("timestamp", "actor", "resource", "failure", "month_event_id")


def main() -> None:
    """Polls once."""
    url, account_id, dsn, folder, since = sys.argv[1:]
    with closing(psycopg2.connect(dsn)) as connection, requests.Session() as session:
        with connection, connection.cursor() as cursor:
            # The pipeline's indexes, too, made before the first row, as the pipeline does on a small table.
            after_load = sections_of("after_load.sql", schema="public")
            indexes = [after_load[f"index {name}"] for name in INDEXES]
            for statement in [*statements_of("tables.sql", schema="public"), *chain.from_iterable(indexes)]:
                cursor.execute(statement)
        session.headers["Authorization"] = "Bearer simulated"
        rows: list[dict[str, Any]] = []
        for page in pages(session, url, account_id, since):
            rows += [row_of(event, account_id) for event in page]
            if len(rows) >= EVENTS_A_LOAD:
                load(connection, Path(folder), rows)
                rows = []
        load(connection, Path(folder), rows)


def pages(session: requests.Session, url: str, account_id: str, since: str) -> Iterator[list[dict[str, Any]]]:
    """Yields the events, page by page, oldest first."""
    params: dict[str, Any] = {
        "since": since,
        "before": f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%S.%f}Z",
        "direction": "asc",
    }
    params |= {"per_page": PAGE, "hide_user_logs": "false", "page": 0}
    while True:
        params["page"] += 1
        answer = session.get(f"{url}/accounts/{account_id}/audit_logs", params=params, timeout=30)
        answer.raise_for_status()
        result = orjson.loads(answer.content)["result"]
        yield result
        if len(result) < PAGE:
            return


def row_of(event: dict[str, Any], account_id: str) -> dict[str, Any]:
    """Returns the columns of an event."""
    action, actor = event.get("action", {}), event.get("actor", {})
    resource, metadata = event.get("resource", {}), event.get("metadata", {})
    return {
        "event_id": event["id"],
        "timestamp": datetime.fromisoformat(event["when"]),
        "account_id": account_id,
        "api_version": "v1",
        "action_type": action.get("type"),
        "action_result": "success" if action.get("result") else "failure",
        "actor_id": actor.get("id"),
        "actor_email": actor.get("email"),
        "actor_type": actor.get("type"),
        "actor_context": event.get("interface"),
        "ip_address": actor.get("ip"),
        "resource_type": resource.get("type"),
        "resource_id": resource.get("id"),
        "resource_product": None,
        "zone_id": metadata.get("zone_id"),
        "zone_name": metadata.get("zone_name"),
        "metadata": orjson.dumps(metadata).decode(),
        "raw_event": orjson.dumps(event).decode(),
        "ingestion_time": datetime.now(UTC),
    }


def load(connection: Any, folder: Path, rows: list[dict[str, Any]]) -> None:
    """Writes the rows in one transaction, and each hour's object."""
    with connection, connection.cursor() as cursor:
        cursor.execute("CREATE TEMPORARY TABLE stage (LIKE audit_logs) ON COMMIT DROP")
        text = io.StringIO()
        csv.writer(text).writerows(row.values() for row in rows)
        text.seek(0)
        cursor.copy_expert(f"COPY stage ({', '.join(COLUMNS)}) FROM STDIN (FORMAT csv)", text)
        cursor.execute("INSERT INTO audit_logs SELECT * FROM stage ON CONFLICT DO NOTHING")
    hours: dict[tuple[str, datetime], list[dict[str, Any]]] = defaultdict(list)
    for row in rows:
        hours[row["account_id"], row["timestamp"].replace(minute=0, second=0, microsecond=0)].append(row)
    for (account_id, hour), its_rows in hours.items():
        write_object(folder / f"account={account_id}/{hour:date=%Y-%m-%d/hour=%H}/events.parquet", its_rows)


def write_object(path: Path, rows: list[dict[str, Any]]) -> None:
    """Replaces the object by one that has the new rows as well, each row once."""
    table = pa.Table.from_pylist(rows, schema=EVENT_SCHEMA)
    if path.exists():
        table = pa.concat_tables([pq.ParquetFile(path).read(), table])
        keys = list(zip(*(table[name].to_pylist() for name in PRIMARY_KEY), strict=True))
        table = table.take(list({key: number for number, key in reversed(list(enumerate(keys)))}.values()))
    table = table.sort_by([("timestamp", "ascending"), ("event_id", "ascending")])
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    pq.write_table(table, partial, compression="zstd", compression_level=1)
    with partial.open("rb") as file:
        os.fsync(file.fileno())
    partial.replace(path)
    directory = os.open(path.parent, os.O_RDONLY)
    os.fsync(directory)
    os.close(directory)


if __name__ == "__main__":
    main()
